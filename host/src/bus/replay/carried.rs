//! The state of every key on the way through the past: what the deliveries seen so far have
//! recorded, never what a replay came to.
//!
//! Bounded in memory: what is too much goes to a store of the replay's own, which ends with it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::bus::Bus;
use crate::bus::past::{Moment, PastError};
use crate::effects::StateWrite;
use crate::event::{CommitNumber, Position};
use crate::limits::REPLAY_STATE_BYTES_MAX;
use crate::state::cold::{Cold, ColdError, KeyValues};
use crate::state::{Evictor, Owner, Value, Values, page};
use crate::wasm::StateView;

/// A name that no guest can write: it marks a key whose state was looked up.
const MARK: &str = "\u{1}";

/// Why the state before a delivery is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum CarryError {
    /// The log, or the past of a memory bus.
    #[error(transparent)]
    Past(#[from] PastError),
    /// The replay's own store.
    #[error(transparent)]
    Store(#[from] ColdError),
    /// Its thread.
    #[error("the replay's store: {0}")]
    Thread(#[from] std::io::Error),
}

/// See the module.
pub(super) struct Carried {
    values: Arc<Values>,
    /// None only while it is dropped.
    evictor: Option<Evictor>,
    folder: PathBuf,
    /// Whether keys had no state before the first delivery that is replayed.
    from_start: bool,
}

/// What one delivery saw.
pub(in crate::bus) struct Seen(KeyValues);

impl Carried {
    /// Nothing yet. `folder` is made, and removed at the end.
    pub(super) fn new(folder: &Path, from_start: bool) -> Result<Self, CarryError> {
        let values = Values::new(Some(Cold::create(folder)?), REPLAY_STATE_BYTES_MAX);
        let values = Arc::new(values);
        let evictor = Some(Evictor::start(Arc::clone(&values), "replay")?);
        Ok(Self { values, evictor, folder: folder.to_owned(), from_start })
    }

    /// What the delivery that ended in `commit` saw, at the log time of its input.
    pub(super) async fn before(
        &self,
        bus: &Bus,
        owner: &Owner,
        commit: CommitNumber,
        input_ms: u64,
    ) -> Result<Seen, CarryError> {
        self.values.room().await;
        if !self.from_start && self.values.get(owner, MARK, 0)?.is_none() {
            let past = bus.past(owner, Moment::Before { commit, input_ms }).await?;
            let mark = write(MARK.into(), Value { bytes: Bytes::new(), expires_ms: None });
            let known = past.into_values().map(|(name, value)| write(name, value));
            self.apply(owner, Position(0), known.chain([mark]))?;
        }
        let mut values = self.values.all(owner, input_ms)?;
        values.retain(|(name, _)| &**name != MARK);
        Ok(Seen(values))
    }

    /// Takes what a delivery recorded that is not replayed. Of a key that was not looked up yet that is
    /// found in the log then.
    pub(super) fn pass(
        &self,
        owner: &Owner,
        position: Position,
        writes: impl Iterator<Item = StateWrite>,
    ) -> Result<(), CarryError> {
        if self.from_start || self.values.get(owner, MARK, 0)?.is_some() {
            self.apply(owner, position, writes)?;
        }
        Ok(())
    }

    /// Takes what a delivery recorded.
    pub(super) fn apply(
        &self,
        owner: &Owner,
        position: Position,
        writes: impl Iterator<Item = StateWrite>,
    ) -> Result<(), ColdError> {
        let owner = (owner.instance, owner.generation, owner.key.as_str());
        self.values.apply(owner, position, writes)
    }
}

fn write(name: Arc<str>, value: Value) -> StateWrite {
    StateWrite { name, value: Some(value.bytes), expires_ms: value.expires_ms }
}

impl Drop for Carried {
    fn drop(&mut self) {
        self.evictor = None;
        // What cannot be removed now is when the next replay wants the folder.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Seen {
    pub(in crate::bus) fn nothing() -> Self {
        Self(KeyValues::new())
    }

    /// These values, ascending by name.
    pub(in crate::bus) const fn of(values: KeyValues) -> Self {
        Self(values)
    }
}

impl StateView for Seen {
    fn get(&self, name: &str) -> Option<Vec<u8>> {
        let found = self.0.binary_search_by(|(known, _)| (**known).cmp(name)).ok()?;
        self.0.get(found).map(|(_, value)| value.bytes.to_vec())
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
        page(self.0.iter().map(|(name, _)| &**name), prefix, after, limit)
    }
}
