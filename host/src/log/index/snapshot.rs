//! All key heads at a commit, in one file written at a clean stop, so that a clean start need not
//! gather them from every segment's index.
//!
//! Derived, like an index: it is used only if the log holds exactly what it was made from, and
//! gathering the heads anew gives the same. Identities are not in it: the index files have them in a
//! form that is as fast to read.

use std::path::Path;

use super::IndexError;
use super::page::PageSalt;
use super::row::{Row, u64_at};
use super::sections::PagedFile;
use crate::event::{CommitNumber, KeyHash, KeySequence, Position};
use crate::log::disk::Disk;
use crate::log::heads::{Head, Heads};

const MAGIC: [u8; 8] = *b"TIDEHED\0";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 80;

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
#[derive(Debug)]
pub struct HeadsFile {
    file: PagedFile,
    mark: HeadsMark,
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

fn encode(mark: &HeadsMark, heads: &Heads) -> Vec<u8> {
    // With room for what the checksums of the pages take.
    let rows_bytes = heads.len() * <(KeyHash, Head)>::BYTES;
    let mut content = Vec::with_capacity(HEADER_BYTES + rows_bytes + rows_bytes / 512);
    content.extend_from_slice(&MAGIC);
    content.extend_from_slice(&VERSION.to_le_bytes());
    content.extend_from_slice(&[0; 6]);
    content.extend_from_slice(&mark.log_id);
    content.extend_from_slice(&mark.commit.0.to_le_bytes());
    content.extend_from_slice(&mark.chain);
    let count_at = content.len();
    content.extend_from_slice(&[0; 8]);
    let mut count = 0_u64;
    heads.for_each(|key, head| {
        (key, head).write(&mut content);
        count += 1;
    });
    if let Some(place) = content.get_mut(count_at..HEADER_BYTES) {
        place.copy_from_slice(&count.to_le_bytes());
    }
    salt(mark).seal(content)
}

impl HeadsFile {
    /// Opens a snapshot; none: it is not there, or stands for another log or another end of it.
    ///
    /// # Errors
    /// It cannot be read, is damaged, or was written by a newer host: the heads are to be gathered
    /// from the segments' indexes then.
    pub fn open(
        disk: &dyn Disk,
        path: &Path,
        mark: &HeadsMark,
    ) -> Result<Option<Self>, IndexError> {
        let Some(file) = PagedFile::open(disk, path, salt(mark), &MAGIC, VERSION)? else {
            return Ok(None);
        };
        // Before the checksum, which is salted with the mark: another mark is no damage.
        let raw = file.raw_start(HEADER_BYTES)?;
        let fits = raw.get(16..32) == Some(&mark.log_id[..])
            && u64_at(&raw, 32) == mark.commit.0
            && raw.get(40..72) == Some(&mark.chain[..]);
        if !fits {
            return Ok(None);
        }
        let header = file.content(&mut file.pages()?, 0..HEADER_BYTES as u64)?;
        let count = u64_at(&header, 72);
        let rows_bytes = count.checked_mul(<(KeyHash, Head)>::BYTES as u64);
        if rows_bytes.is_none_or(|bytes| bytes > file.content_bytes() - HEADER_BYTES as u64) {
            return Err(file.malformed(0));
        }
        Ok(Some(Self { file, mark: *mark, count }))
    }

    /// Opens a snapshot of this log whose mark `fits`; none: it is not there, or stands for something
    /// else.
    ///
    /// # Errors
    /// As [`HeadsFile::open`].
    pub fn find(
        disk: &dyn Disk,
        path: &Path,
        log_id: &[u8; 16],
        fits: impl FnOnce(&HeadsMark) -> bool,
    ) -> Result<Option<Self>, IndexError> {
        let unknown = HeadsMark { log_id: *log_id, commit: CommitNumber(0), chain: [0; 32] };
        let Some(file) = PagedFile::open(disk, path, salt(&unknown), &MAGIC, VERSION)? else {
            return Ok(None);
        };
        let raw = file.raw_start(HEADER_BYTES)?;
        let chain = raw.get(40..72).and_then(|chain| chain.first_chunk());
        let Some(chain) = chain else { return Ok(None) };
        let mark = HeadsMark { commit: CommitNumber(u64_at(&raw, 32)), chain: *chain, ..unknown };
        if fits(&mark) { Self::open(disk, path, &mark) } else { Ok(None) }
    }

    /// The log that a snapshot says it is of; none: there is none, or it says nothing. It is to be opened
    /// as such before it is believed.
    #[must_use]
    pub fn log_id(disk: &dyn Disk, path: &Path) -> Option<[u8; 16]> {
        let mark = HeadsMark { log_id: [0; 16], commit: CommitNumber(0), chain: [0; 32] };
        PagedFile::open(disk, path, salt(&mark), &MAGIC, VERSION).ok()??.raw_log_id()
    }

    /// What it stands for.
    #[must_use]
    pub const fn mark(&self) -> &HeadsMark {
        &self.mark
    }

    /// The commit that a snapshot of this log stands for, and the last position of a head in it; none:
    /// it is not there, of another log, or damaged.
    pub fn end(
        disk: &dyn Disk,
        path: &Path,
        log_id: &[u8; 16],
    ) -> Option<(CommitNumber, Position)> {
        let file = Self::find(disk, path, log_id, |_| true).ok()??;
        let mut last = Position(0);
        let read = file.file.for_each(HEADER_BYTES as u64, file.count, |row: (KeyHash, Head)| {
            last = last.max(row.1.position);
            Ok(())
        });
        read.ok().map(|()| (file.mark.commit, last))
    }

    /// The bytes of a snapshot file of all heads.
    #[must_use]
    pub fn encode(mark: &HeadsMark, heads: &Heads) -> Vec<u8> {
        encode(mark, heads)
    }

    /// Puts all heads into a table.
    ///
    /// # Errors
    /// It cannot be read or is damaged; heads may be missing then.
    pub fn load(&self, heads: &Heads) -> Result<(), IndexError> {
        heads.reserve(usize::try_from(self.count).unwrap_or_default());
        heads.refill(|take| {
            self.file.for_each(HEADER_BYTES as u64, self.count, |(key, head)| {
                take(key, head);
                Ok(())
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::disk::sim::SimDisk;

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
        let (disk, path) = (SimDisk::new(), Path::new("heads"));
        disk.create_new(path).unwrap().write_at(bytes, 0).unwrap();
        HeadsFile::open(&disk, path, mark)
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
