//! Reads a checkpoint back into a ledger and values.
//!
//! Rule: values are filled in as they are read, and believed only when the hash at the end of the
//! file was right. Who gets an error empties them.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use uuid::Uuid;

use super::format::{
    CHUNK_HEADER_BYTES, ChunkHeader, Counts, Cursor, FormatError, HASH_BYTES, HEADER_BYTES, Header,
    Kind, RowHeader, TIMER_BYTES,
};
use crate::event::CommitNumber;
use crate::log::disk::{DiskFile, read_up_to};
use crate::state::cold::KeyValues;
use crate::state::ledger::{At, Ledger};
use crate::state::values::{Owner, Values};

/// Names that are shared between keys while reading: a plugin uses few.
const NAMES_SHARED_MAX: usize = 1024;

/// Why a checkpoint is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("it is damaged at byte {offset}: {why}")]
    Damaged { offset: u64, why: String },
    #[error("it belongs to the log {0}")]
    Foreign(Uuid),
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

/// Reads a whole file; `values` are to be empty, and hold what it says afterwards.
pub(super) fn read(
    file: &dyn DiskFile,
    expected: Expected,
    values: &Values,
) -> Result<(Ledger, At), Refused> {
    let mut reader = Reader::new(file)?;
    let header = reader.header(expected)?;
    let mut ledger = Vec::new();
    let mut restored =
        Restored { values, open: None, names: HashSet::new(), counts: Counts::default() };
    loop {
        let start = reader.offset;
        let (kind, content) = reader.chunk(header.salt())?;
        match kind {
            Kind::Ledger => ledger.extend_from_slice(&content),
            Kind::Values => restored.chunk(&content, start)?,
            Kind::Timers => restored.timers(&content, start)?,
            Kind::End => {
                let counts = Counts::decode(&content).map_err(|error| damaged(start, error))?;
                if restored.open.is_some() || counts != restored.counts(ledger.len()) {
                    let why = FormatError::Damaged("it holds something else than it says");
                    return Err(damaged(start, why));
                }
                break;
            }
        }
    }
    reader.finish()?;
    Ok((decode_ledger(&ledger)?, header.at))
}

/// The ledger of the content of its chunks.
pub(super) fn decode_ledger(content: &[u8]) -> Result<Ledger, Refused> {
    rmp_serde::from_slice(content).map_err(|error| Refused::Damaged {
        offset: HEADER_BYTES as u64,
        why: format!("its ledger does not decode: {error}"),
    })
}

fn damaged(offset: u64, error: FormatError) -> Refused {
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
            return Err(Refused::Foreign(header.log_id));
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

/// What was filled in so far.
struct Restored<'a> {
    values: &'a Values,
    /// A key whose next row goes on with it.
    open: Option<(Owner, KeyValues)>,
    names: HashSet<Arc<str>>,
    counts: Counts,
}

impl Restored<'_> {
    fn counts(&self, ledger_bytes: usize) -> Counts {
        Counts { ledger_bytes: ledger_bytes as u64, ..self.counts }
    }

    fn timers(&mut self, content: &[u8], start: u64) -> Result<(), Refused> {
        let mut from = Cursor { rest: content };
        let mut rows = Vec::with_capacity(content.len() / TIMER_BYTES);
        while !from.rest.is_empty() {
            rows.push(from.timer().map_err(|error| damaged(start, error))?);
        }
        self.counts.timers += rows.len() as u64;
        self.values.timers().restore(rows);
        Ok(())
    }

    fn chunk(&mut self, content: &[u8], start: u64) -> Result<(), Refused> {
        let mut from = Cursor { rest: content };
        let mut whole = Vec::new();
        while !from.rest.is_empty() {
            let offset = start + (CHUNK_HEADER_BYTES + content.len() - from.rest.len()) as u64;
            whole.extend(self.row(&mut from).map_err(|error| damaged(offset, error))?);
        }
        self.values.restore(whole);
        Ok(())
    }

    /// Reads a row; gives the key if that was its last one.
    fn row(&mut self, from: &mut Cursor<'_>) -> Result<Option<(Owner, KeyValues)>, FormatError> {
        let RowHeader { owner, values, goes_on } = from.row()?;
        let mut all = match self.open.take() {
            Some((open, all)) if open == owner => all,
            Some(_) => return Err(FormatError::Damaged("a key is cut off")),
            None => KeyValues::new(),
        };
        for _ in 0..values {
            let (name, value) = from.value()?;
            if all.last().is_some_and(|(last, _)| **last >= *name) {
                return Err(FormatError::Damaged("names are not in order"));
            }
            self.counts.values += 1;
            self.counts.value_bytes += value.bytes.len() as u64;
            all.push((self.name(name), value));
        }
        if goes_on {
            self.open = Some((owner, all));
            return Ok(None);
        }
        self.counts.keys += 1;
        Ok(Some((owner, all)))
    }

    fn name(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return Arc::clone(known);
        }
        let new: Arc<str> = name.into();
        if self.names.len() < NAMES_SHARED_MAX {
            self.names.insert(Arc::clone(&new));
        }
        new
    }
}
