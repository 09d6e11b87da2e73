//! All key heads at a commit, in one file written at a clean stop, so that a clean start need not
//! gather them from every segment's index.
//!
//! Derived, like an index: it is used only if the log holds exactly what it was made from, and
//! gathering the heads anew gives the same. Identities are not in it: the index files have them in a
//! form that is as fast to read.

use std::path::{Path, PathBuf};

use super::IndexError;
use super::page::{CONTENT_BYTES, PAGE_BYTES, PageReader, PageSalt, ReadAt};
use super::row::{Row, u16_at, u64_at};
use super::sections::explain;
use crate::event::{CommitNumber, KeyHash, KeySequence, Position};
use crate::log::heads::{Head, Heads};

const MAGIC: [u8; 8] = *b"TIDEHED\0";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 80;
/// Rows read at once.
const ROWS_AT_ONCE: u64 = 4096;

/// The end of the log that a snapshot of its key heads stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadsMark {
    /// The log.
    pub log_id: [u8; 16],
    /// The last commit in it.
    pub commit: CommitNumber,
    /// Hash chain after the last frame, which is a seal.
    pub chain: [u8; 32],
}

/// A snapshot file that fits its log, not yet read.
pub(super) struct HeadsFile {
    path: PathBuf,
    source: Box<dyn ReadAt + Send + Sync>,
    file_bytes: u64,
    salt: PageSalt,
    count: u64,
}

impl Row for (KeyHash, Head) {
    const BYTES: usize = 32;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.0.to_le_bytes());
        out.extend_from_slice(&self.1.sequence.0.to_le_bytes());
        out.extend_from_slice(&self.1.position.0.to_le_bytes());
    }

    fn read(bytes: &[u8]) -> Self {
        let (low, high) = (u64_at(bytes, 0), u64_at(bytes, 8));
        let key = KeyHash(u128::from(low) | (u128::from(high) << 64));
        let sequence = KeySequence(u64_at(bytes, 16));
        (key, Head { sequence, position: Position(u64_at(bytes, 24)) })
    }
}

fn salt(mark: &HeadsMark) -> PageSalt {
    PageSalt::new(b"tidegate heads", &mark.log_id, mark.commit.0)
}

/// The bytes of a snapshot of all heads.
pub(super) fn encode(mark: &HeadsMark, heads: &Heads) -> Vec<u8> {
    let mut rows = Vec::with_capacity(heads.len() * <(KeyHash, Head)>::BYTES);
    let mut count = 0_u64;
    heads.for_each(|key, head| {
        (key, head).write(&mut rows);
        count += 1;
    });
    let mut content = Vec::with_capacity(HEADER_BYTES + rows.len());
    content.extend_from_slice(&MAGIC);
    content.extend_from_slice(&VERSION.to_le_bytes());
    content.extend_from_slice(&[0; 6]);
    content.extend_from_slice(&mark.log_id);
    content.extend_from_slice(&mark.commit.0.to_le_bytes());
    content.extend_from_slice(&mark.chain);
    content.extend_from_slice(&count.to_le_bytes());
    content.extend_from_slice(&rows);
    salt(mark).seal(&content)
}

impl HeadsFile {
    /// Opens a snapshot; none: it stands for another log or another end of it.
    pub(super) fn from_source(
        path: &Path,
        source: Box<dyn ReadAt + Send + Sync>,
        file_bytes: u64,
        mark: &HeadsMark,
    ) -> Result<Option<Self>, IndexError> {
        let damaged = |offset, why| IndexError::Damaged { path: path.to_owned(), offset, why };
        if file_bytes == 0 || !file_bytes.is_multiple_of(PAGE_BYTES as u64) {
            return Err(damaged(file_bytes, "the length is not a multiple of the page"));
        }
        // Before the checksum, which is salted with the mark: another mark is no damage.
        let mut raw = [0; HEADER_BYTES];
        let read = source.read_at(0, &mut raw);
        read.map_err(|source| IndexError::Io { path: path.to_owned(), source })?;
        if !raw.starts_with(&MAGIC) {
            return Err(damaged(0, "the file does not start as a snapshot of key heads"));
        }
        let found = u16_at(&raw, 8);
        if found != VERSION {
            return Err(IndexError::Version { path: path.to_owned(), found, supported: VERSION });
        }
        let commit = CommitNumber(u64_at(&raw, 32));
        let fits = raw.get(16..32) == Some(&mark.log_id[..])
            && commit == mark.commit
            && raw.get(40..72) == Some(&mark.chain[..]);
        if !fits {
            return Ok(None);
        }
        let salt = salt(mark);
        let mut pages = PageReader::new(&*source, salt, file_bytes);
        let mut header = Vec::with_capacity(HEADER_BYTES);
        pages.read(0..HEADER_BYTES as u64, &mut header).map_err(|e| explain(path, e))?;
        let count = u64_at(&header, 72);
        let content_bytes = file_bytes / PAGE_BYTES as u64 * CONTENT_BYTES as u64;
        let rows_bytes = count.checked_mul(<(KeyHash, Head)>::BYTES as u64);
        if rows_bytes.is_none_or(|bytes| bytes > content_bytes - HEADER_BYTES as u64) {
            return Err(damaged(0, "the heads lie outside the file"));
        }
        Ok(Some(Self { path: path.to_owned(), source, file_bytes, salt, count }))
    }

    /// Puts all heads into a table.
    pub(super) fn load(&self, heads: &Heads) -> Result<(), IndexError> {
        heads.reserve(usize::try_from(self.count).unwrap_or_default());
        let width = <(KeyHash, Head)>::BYTES as u64;
        let mut pages = PageReader::new(&*self.source, self.salt, self.file_bytes).sequential();
        heads.refill(|take| {
            let (mut content, mut at) = (Vec::new(), 0);
            while at < self.count {
                let end = self.count.min(at + ROWS_AT_ONCE);
                content.clear();
                let start = HEADER_BYTES as u64;
                let range = start + at * width..start + end * width;
                pages.read(range, &mut content).map_err(|e| explain(&self.path, e))?;
                for row in content.chunks_exact(<(KeyHash, Head)>::BYTES) {
                    let (key, head) = Row::read(row);
                    take(key, head);
                }
                at = end;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: HeadsMark = HeadsMark { log_id: [9; 16], commit: CommitNumber(77), chain: [5; 32] };

    fn heads(count: u64) -> Heads {
        let heads = Heads::new();
        for n in 1..=count {
            let head = Head { sequence: KeySequence(n * 2), position: Position(n) };
            heads.advance(KeyHash::of(&format!("key-{n}")), head);
        }
        heads
    }

    fn open(bytes: &[u8], mark: &HeadsMark) -> Result<Option<HeadsFile>, IndexError> {
        let source = Box::new(bytes.to_vec());
        HeadsFile::from_source(Path::new("heads"), source, bytes.len() as u64, mark)
    }

    #[test]
    fn heads_come_back_as_they_were() {
        for count in [0, 1, 10_000] {
            let before = heads(count);
            let after = Heads::new();
            open(&encode(&MARK, &before), &MARK).unwrap().unwrap().load(&after).unwrap();
            assert_eq!(after.len(), before.len());
            before.for_each(|key, head| assert_eq!(after.get(key), Some(head)));
        }
    }

    #[test]
    fn a_snapshot_of_another_end_is_not_taken() {
        let bytes = encode(&MARK, &heads(3));
        let others = [
            HeadsMark { log_id: [8; 16], ..MARK },
            HeadsMark { commit: CommitNumber(78), ..MARK },
            HeadsMark { chain: [6; 32], ..MARK },
        ];
        for other in others {
            assert!(open(&bytes, &other).unwrap().is_none());
        }
    }

    #[test]
    fn no_flipped_byte_is_taken_for_a_head() {
        let bytes = encode(&MARK, &heads(200));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            let found = match open(&damaged, &MARK) {
                Ok(Some(file)) => file.load(&Heads::new()),
                Ok(None) => continue,
                Err(error) => Err(error),
            };
            let is_found =
                matches!(found, Err(IndexError::Damaged { .. } | IndexError::Version { .. }));
            assert!(is_found, "byte {at}");
        }
    }
}
