//! Reads a checkpoint back into a ledger and values.
//!
//! Rule: values are filled in as they are read, and believed only when the hash at the end of the
//! file was right. Who gets an error empties them.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use uuid::Uuid;

use super::format::{
    CHUNK_HEADER_BYTES, ChunkHeader, Counts, Cursor, END_BYTES, FormatError, HASH_BYTES,
    HEADER_BYTES, Header, Kind, ROW_BYTES_MIN, RowHeader, TIMER_BYTES,
};
use crate::event::CommitNumber;
use crate::log::disk::{DiskFile, read_up_to};
use crate::state::cold::KeyValues;
use crate::state::ledger::{At, Ledger};
use crate::state::values::{Owner, Values};

/// Names that are shared between keys while reading: a plugin uses few.
const NAMES_SHARED_MAX: usize = 1024;
/// Chunks that may be on their way from thread to thread.
const CHUNKS_AHEAD_MAX: usize = 4;

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

/// Reads a whole file; `values` are to be empty, and hold what it says afterwards. One thread reads and
/// checks, this one decodes, one fills the values.
pub(super) fn read(
    file: &dyn DiskFile,
    expected: Expected,
    values: &Values,
) -> Result<(Ledger, At), Refused> {
    let mut reader = Reader::new(file)?;
    let header = reader.header(expected)?;
    values.reserve(reader.keys_hint());
    std::thread::scope(|scope| {
        let (chunks, coming) = sync_channel(CHUNKS_AHEAD_MAX);
        let (whole, decoded) = sync_channel(CHUNKS_AHEAD_MAX);
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let reading = thread("checkpoint-read")
            .spawn_scoped(scope, move || reader.hand_over(header.salt(), &chunks))?;
        let filling = thread("checkpoint-fill")
            .spawn_scoped(scope, move || decoded.iter().for_each(|keys| values.restore(keys)))?;
        let ledger = Restored::new(values, whole).all(&coming);
        // Who still reads ends when nobody takes what it hands over.
        drop(coming);
        let read = reading.join().unwrap_or_else(|_| Err(gone().into()));
        filling.join().map_err(|_| gone())?;
        // Without its last chunk, the reader knows why.
        let Some(ledger) = ledger? else {
            return read.and_then(|()| Err(gone().into()));
        };
        read?;
        Ok((decode_ledger(&ledger)?, header.at))
    })
}

fn gone() -> io::Error {
    io::Error::other("a thread that reads the checkpoint ended")
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

    /// How many keys it seems to hold: what its end says, unproven, within what there is room for.
    fn keys_hint(&self) -> usize {
        let end = self.len.saturating_sub((END_BYTES + HASH_BYTES) as u64);
        let most = self.len / ROW_BYTES_MIN;
        let said = read_up_to(self.file, end, END_BYTES)
            .ok()
            .and_then(|bytes| Counts::decode(bytes.get(CHUNK_HEADER_BYTES..)?).ok());
        let keys = said.map_or(0, |counts| counts.keys).min(most);
        usize::try_from(keys).unwrap_or_default()
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
struct Chunk {
    kind: Kind,
    content: Vec<u8>,
    start: u64,
}

/// What was decoded so far.
struct Restored<'a> {
    values: &'a Values,
    /// Takes keys that are whole.
    whole: SyncSender<Vec<(Owner, KeyValues)>>,
    /// A key whose next row goes on with it.
    open: Option<(Owner, KeyValues)>,
    names: HashSet<Arc<str>>,
    counts: Counts,
}

impl<'a> Restored<'a> {
    fn new(values: &'a Values, whole: SyncSender<Vec<(Owner, KeyValues)>>) -> Self {
        Self { values, whole, open: None, names: HashSet::new(), counts: Counts::default() }
    }

    /// Decodes what comes; gives the ledger in bytes, none where the last chunk did not come.
    fn all(mut self, coming: &Receiver<Chunk>) -> Result<Option<Vec<u8>>, Refused> {
        let mut ledger = Vec::new();
        for Chunk { kind, content, start } in coming {
            match kind {
                Kind::Ledger => ledger.extend_from_slice(&content),
                Kind::Values => self.chunk(&content, start)?,
                Kind::Timers => self.timers(&content, start)?,
                Kind::End => {
                    let counts = Counts::decode(&content).map_err(|error| damaged(start, error))?;
                    if self.open.is_some() || counts != self.counts(ledger.len()) {
                        let why = FormatError::Damaged("it holds something else than it says");
                        return Err(damaged(start, why));
                    }
                    return Ok(Some(ledger));
                }
            }
        }
        Ok(None)
    }

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
        // Only a panic ends who fills them, and that is found out.
        let _ = self.whole.send(whole);
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
