//! Reads a checkpoint chunk by chunk, and checks that its bytes are what was written.
//!
//! Rule: what came in chunks is believed only when the hash at the end of the file was right.

use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};

use uuid::Uuid;

use super::format::{
    CHUNK_HEADER_BYTES, ChunkHeader, FormatError, HASH_BYTES, HEADER_BYTES, Header, Kind,
};
use crate::event::CommitNumber;
use crate::log::disk::{DiskFile, read_up_to};
use crate::state::ledger::Ledger;

/// Chunks that may be on their way from thread to thread.
const CHUNKS_AHEAD_MAX: usize = 4;

/// Why a checkpoint is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("it is damaged at byte {offset}: {why}")]
    Damaged { offset: u64, why: String },
    #[error("it belongs to another log")]
    Foreign,
    #[error("it was made of another history of the log, which has another commit {0}")]
    Diverged(CommitNumber),
    #[error("the log ends before it, with commit {0}")]
    Ahead(CommitNumber),
    #[error("it has a format that this host does not read: {0}")]
    Newer(FormatError),
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// Which checkpoint a file should hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected {
    pub(super) log_id: Uuid,
    pub(super) commit: CommitNumber,
}

/// Reads a file to its end: one thread reads and checks the sums, this one takes what is in the chunks.
/// `take` says what it came to at the last one; none: it does not want any more.
pub(super) fn each_chunk<T>(
    file: &dyn DiskFile,
    expected: Expected,
    take: impl FnOnce(&mut dyn Iterator<Item = Chunk>) -> Result<Option<T>, Refused>,
) -> Result<(Option<T>, Header), Refused> {
    let mut reader = Reader::new(file)?;
    let header = reader.header(expected)?;
    std::thread::scope(|scope| {
        let (chunks, coming) = sync_channel(CHUNKS_AHEAD_MAX);
        let reading = std::thread::Builder::new()
            .name("checkpoint-read".to_owned())
            .spawn_scoped(scope, move || reader.hand_over(header.salt(), &chunks))?;
        let taken = take(&mut coming.iter());
        // Who still reads ends when nobody takes what it hands over.
        drop(coming);
        let read = reading.join().unwrap_or_else(|_| Err(gone().into()));
        let taken = taken?;
        read?;
        Ok((taken, header))
    })
}

pub(super) fn gone() -> io::Error {
    io::Error::other("a thread that reads the checkpoint ended")
}

/// The ledger of the content of its chunks.
pub(super) fn decode_ledger(content: &[u8]) -> Result<Ledger, Refused> {
    rmp_serde::from_slice(content).map_err(|error| Refused::Damaged {
        offset: HEADER_BYTES as u64,
        why: format!("its ledger does not decode: {error}"),
    })
}

pub(super) fn damaged(offset: u64, error: FormatError) -> Refused {
    match error {
        FormatError::Version(_) => Refused::Newer(error),
        FormatError::Damaged(why) => Refused::Damaged { offset, why: why.to_owned() },
    }
}

pub(super) struct Reader<'a> {
    file: &'a dyn DiskFile,
    len: u64,
    offset: u64,
    hasher: blake3::Hasher,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a dyn DiskFile) -> io::Result<Self> {
        Ok(Self { file, len: file.len()?, offset: 0, hasher: blake3::Hasher::new() })
    }

    /// The header, which everything begins with, if it is of the checkpoint that it should be.
    pub(super) fn header(&mut self, expected: Expected) -> Result<Header, Refused> {
        let header = self.take(HEADER_BYTES)?;
        let header = Header::decode(&header).map_err(|error| damaged(0, error))?;
        if header.log_id != expected.log_id {
            return Err(Refused::Foreign);
        }
        if header.at.commit != expected.commit {
            return Err(damaged(0, FormatError::Damaged("its name says another commit")));
        }
        Ok(header)
    }

    fn left(&self) -> u64 {
        self.len.saturating_sub(self.offset)
    }

    /// The next bytes, which the file is known to have unless `len` is a few.
    fn next(&mut self, len: usize) -> Result<Vec<u8>, Refused> {
        let bytes = read_up_to(self.file, self.offset, len)?;
        if bytes.len() < len {
            return Err(damaged(self.offset, FormatError::Damaged("it ends too early")));
        }
        self.offset += len as u64;
        Ok(bytes)
    }

    pub(super) fn take(&mut self, len: usize) -> Result<Vec<u8>, Refused> {
        let bytes = self.next(len)?;
        self.hasher.update(&bytes);
        Ok(bytes)
    }

    pub(super) fn chunk(&mut self, salt: u32) -> Result<(Kind, Vec<u8>), Refused> {
        let start = self.offset;
        let at_start = |error| damaged(start, error);
        let header = self.take(CHUNK_HEADER_BYTES)?;
        let header = ChunkHeader::decode(&header, self.left()).map_err(at_start)?;
        let content = self.take(header.bytes)?;
        header.check(salt, &content).map_err(at_start)?;
        Ok((header.kind, content))
    }

    /// Hands over the chunks one by one, until one is the last or nobody takes them; then the hash
    /// must be right.
    fn hand_over(mut self, salt: u32, to: &SyncSender<Chunk>) -> Result<(), Refused> {
        loop {
            let start = self.offset;
            let (kind, content) = self.chunk(salt)?;
            if to.send(Chunk { kind, content, start }).is_err() {
                return Ok(());
            }
            if kind == Kind::End {
                return self.finish();
            }
        }
    }

    pub(super) fn finish(mut self) -> Result<(), Refused> {
        let hash = self.hasher.finalize();
        let start = self.offset;
        if self.next(HASH_BYTES)? != hash.as_bytes() {
            return Err(damaged(start, FormatError::Damaged("its hash is wrong")));
        }
        if self.left() > 0 {
            return Err(damaged(self.offset, FormatError::Damaged("something follows its end")));
        }
        Ok(())
    }
}

/// A chunk, its checksum right, and where it starts.
pub(super) struct Chunk {
    pub(super) kind: Kind,
    pub(super) content: Vec<u8>,
    pub(super) start: u64,
}
