//! Proves that a checkpoint is whole and says what it should, before anything uses it. The ledger and the
//! timers are taken along; keys and values are only looked at, without a copy: `fill.rs` brings them
//! into memory later.
//!
//! Rule: what was proven can be filled in, unless the disk fails.

use hashbrown::HashMap;

use super::format::{
    CHUNK_HEADER_BYTES, ChainStart, Counts, Cursor, FormatError, Kind, RowHeader, TIMER_BYTES,
};
use super::read::{Chunk, Expected, Refused, damaged, decode_ledger, each_chunk, gone};
use crate::log::disk::DiskFile;
use crate::state::account::{Usage, Whose, counted};
use crate::state::ledger::{At, Ledger};
use crate::state::values::{Owner, Values};

/// What is known of a checkpoint that is whole.
#[derive(Debug)]
pub(super) struct Proven {
    pub(super) ledger: Ledger,
    pub(super) at: At,
    pub(super) chain: ChainStart,
    /// Keys with state.
    pub(super) keys: u64,
}

/// Reads a whole file. `values`, which are to be empty, have its timers afterwards, and know how much each
/// plugin has; on an error, perhaps some of them.
pub(super) fn prove(
    file: &dyn DiskFile,
    expected: Expected,
    values: &Values,
) -> Result<Proven, Refused> {
    let (looked, header) = each_chunk(file, expected, |chunks| Looked::new(values).all(chunks))?;
    let Looked { ledger, used, counts, .. } = looked.ok_or_else(gone)?;
    let ledger = decode_ledger(&ledger)?;
    values.accounts.expect(used);
    Ok(Proven { ledger, at: header.at, chain: header.chain, keys: counts.keys })
}

/// What was seen so far.
struct Looked<'a> {
    values: &'a Values,
    /// As it is encoded.
    ledger: Vec<u8>,
    used: HashMap<Whose, Usage>,
    /// A key whose next row goes on with it.
    open: Option<Open>,
    counts: Counts,
}

struct Open {
    owner: Owner,
    /// The name that came last.
    name: Option<String>,
}

impl<'a> Looked<'a> {
    fn new(values: &'a Values) -> Self {
        let (ledger, used) = (Vec::new(), HashMap::new());
        Self { values, ledger, used, open: None, counts: Counts::default() }
    }

    /// Looks at what comes; gives all of it where the last chunk came.
    fn all(mut self, chunks: &mut dyn Iterator<Item = Chunk>) -> Result<Option<Self>, Refused> {
        for Chunk { kind, content, start } in chunks {
            match kind {
                Kind::Ledger => self.ledger.extend_from_slice(&content),
                Kind::Values => self.rows(&content, start)?,
                Kind::Timers => self.timers(&content, start)?,
                Kind::End => {
                    let said = Counts::decode(&content).map_err(|error| damaged(start, error))?;
                    self.counts.ledger_bytes = self.ledger.len() as u64;
                    if self.open.is_some() || said != self.counts {
                        let why = FormatError::Damaged("it holds something else than it says");
                        return Err(damaged(start, why));
                    }
                    return Ok(Some(self));
                }
            }
        }
        Ok(None)
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

    fn rows(&mut self, content: &[u8], start: u64) -> Result<(), Refused> {
        let mut from = Cursor { rest: content };
        while !from.rest.is_empty() {
            let offset = start + (CHUNK_HEADER_BYTES + content.len() - from.rest.len()) as u64;
            self.row(&mut from).map_err(|error| damaged(offset, error))?;
        }
        Ok(())
    }

    fn row(&mut self, from: &mut Cursor<'_>) -> Result<(), FormatError> {
        let row = from.row()?;
        row.check_key()?;
        let open = self.open.take();
        if open.as_ref().is_some_and(|open| !row.is_of(&open.owner)) {
            return Err(FormatError::Damaged("a key is cut off"));
        }
        let mut last = open.as_ref().and_then(|open| open.name.as_deref());
        let (whose, before) = ((row.instance, row.generation), last.is_some());
        let mut bytes = 0;
        for _ in 0..row.values {
            let value = from.value()?;
            if last.is_some_and(|last| last >= value.name) {
                return Err(FormatError::Damaged("names are not in order"));
            }
            self.counts.values += 1;
            self.counts.value_bytes += value.bytes.len() as u64;
            bytes += counted(value.name, value.bytes);
            last = Some(value.name);
        }
        let used = self.used.entry(whose).or_default();
        used.bytes += bytes as u64;
        used.keys += u64::from(last.is_some() && !before);
        if row.goes_on {
            self.open = Some(go_on(&row, last)?);
        } else {
            self.counts.keys += 1;
        }
        Ok(())
    }
}

fn go_on(row: &RowHeader<'_>, last: Option<&str>) -> Result<Open, FormatError> {
    Ok(Open { owner: row.owner()?, name: last.map(str::to_owned) })
}
