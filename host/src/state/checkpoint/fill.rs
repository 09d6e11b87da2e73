//! Brings the keys of a checkpoint that was proven into memory, behind the start of a host.
//!
//! Rule: nobody sees a key before all of them are there and the file was found to be what was proven.
//! Where the disk fails meanwhile nobody gets any, and the host ends.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ecow::EcoString;

use super::format::{CHUNK_HEADER_BYTES, ChainStart, Cursor, FormatError, Kind, VALUE_BYTES_MIN};
use super::read::{Chunk, Expected, Refused, damaged, each_chunk};
use crate::log::disk::DiskFile;
use crate::state::cold::KeyValues;
use crate::state::values::{Owner, Values};

/// Names that are shared between keys while reading: a plugin uses few.
const NAMES_SHARED_MAX: usize = 1024;

/// Keyed state that is still to be read from a checkpoint: whoever asks for a key waits for it.
/// Dropping it without having run it turns them away.
#[derive(Debug)]
pub struct Fill {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) path: PathBuf,
    pub(super) expected: Expected,
    pub(super) keys: u64,
    pub(super) chain: ChainStart,
    pub(super) values: Arc<Values>,
}

/// What was filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filled {
    /// Keys with state.
    pub keys: u64,
    /// Time it took.
    pub took: Duration,
}

/// Why keys of a checkpoint are not there.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    /// It was told to stop: see [`Values::stop_filling`].
    #[error("it was told to stop")]
    Stopped,
    /// The file was whole a moment before.
    #[error("checkpoint `{}` cannot be read a second time: {why}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

impl Fill {
    /// What the log is to have behind the checkpoint's commit.
    #[must_use]
    pub const fn chain(&self) -> ChainStart {
        self.chain
    }

    /// Reads all keys, then lets in whoever waits. Blocks.
    ///
    /// # Errors
    /// See [`FillError`]: nobody is let in, and whoever waits is told so once this is dropped.
    pub fn run(&self) -> Result<Filled, FillError> {
        let began = Instant::now();
        let gate = self.values.shards.gate();
        let goes_on = || gate.is_waited_for();
        let filled = fill(&*self.file, self.expected, (&self.values, self.keys), goes_on);
        let filled = filled.map_err(|refused| FillError::Unreadable {
            path: self.path.clone(),
            why: refused.to_string(),
        })?;
        if filled.is_none() || !gate.open() {
            return Err(FillError::Stopped);
        }
        Ok(Filled { keys: self.keys, took: began.elapsed() })
    }
}

impl Drop for Fill {
    fn drop(&mut self) {
        self.values.stop_filling();
    }
}

/// Reads all `keys` of a checkpoint that was proven into `values`, which have none; on an error they may
/// have some. None: `goes_on`, which is asked now and then, said no.
pub(super) fn fill(
    file: &dyn DiskFile,
    expected: Expected,
    (values, keys): (&Values, u64),
    goes_on: impl Fn() -> bool,
) -> Result<Option<()>, Refused> {
    values.reserve(usize::try_from(keys).unwrap_or_default());
    let decode = |chunks: &mut dyn Iterator<Item = Chunk>| {
        Decoder::new(values).all(&mut chunks.take_while(|_| goes_on()))
    };
    each_chunk(file, expected, decode).map(|(ended, _)| ended)
}

/// What was decoded so far.
struct Decoder<'a> {
    values: &'a Values,
    /// A key whose next row goes on with it.
    open: Option<(Owner, KeyValues)>,
    names: HashSet<EcoString>,
}

impl<'a> Decoder<'a> {
    fn new(values: &'a Values) -> Self {
        Self { values, open: None, names: HashSet::new() }
    }

    /// Decodes what comes, up to the last chunk; none: that did not come.
    fn all(mut self, chunks: &mut dyn Iterator<Item = Chunk>) -> Result<Option<()>, Refused> {
        for Chunk { kind, content, start } in chunks {
            match kind {
                Kind::Ledger | Kind::Timers => {}
                Kind::Values => self.chunk(&content, start)?,
                Kind::End => return Ok(Some(())),
            }
        }
        Ok(None)
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

    /// Reads a row; gives the key if that was its last one. What a row must be was proven.
    fn row(&mut self, from: &mut Cursor<'_>) -> Result<Option<(Owner, KeyValues)>, FormatError> {
        let row = from.row()?;
        let (owner, mut all) = match self.open.take() {
            Some(open) => open,
            // As much room as it needs, and no more: a list that grows begins with room for four.
            None => {
                let most = from.rest.len() / VALUE_BYTES_MIN;
                (row.owner()?, KeyValues::with_capacity(most.min(row.values as usize)))
            }
        };
        for _ in 0..row.values {
            let value = from.value()?;
            all.push((self.name(value.name), value.value()));
        }
        if row.goes_on {
            self.open = Some((owner, all));
            return Ok(None);
        }
        Ok(Some((owner, all)))
    }

    fn name(&mut self, name: &str) -> EcoString {
        if name.len() <= EcoString::INLINE_LIMIT {
            return name.into();
        }
        if let Some(known) = self.names.get(name) {
            return known.clone();
        }
        let new = EcoString::from(name);
        if self.names.len() < NAMES_SHARED_MAX {
            self.names.insert(new.clone());
        }
        new
    }
}
