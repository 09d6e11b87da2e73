//! The state of every key on the way through the past: what the deliveries seen so far have
//! recorded, never what a replay came to.
//!
//! Bounded in memory: what is too much goes to a store of the replay's own, which ends with it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ecow::{EcoBytes, EcoString};

use crate::bus::Bus;
use crate::bus::past::{Moment, PastError};
use crate::effects::StateWrite;
use crate::event::{CommitNumber, Position};
use crate::limits::{COLD_FREE_BYTES_MIN, REPLAY_STATE_BYTES_MAX};
use crate::state::cold::{Cold, ColdError, KeyValues};
use crate::state::{Evictor, Owner, Value, Values, page};
use crate::wasm::StateView;

/// Bounds of a plugin and of its keys: how full they were is what no record says.
const STATE_BOUNDS: [&str; 3] = ["limits.state", KEYS_BOUND, "limits.state-per-key"];
const KEYS_BOUND: &str = "limits.keys";
const TIMERS_BOUND: &str = "limits.timers";

/// How often a replay that waits for room looks whether there can be any.
const ROOM_LOOK: Duration = Duration::from_secs(1);

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
    /// The disk.
    #[error(
        "the replay's store: its state does not fit into memory, and the disk has not the \
         {COLD_FREE_BYTES_MIN} bytes of room that it needs"
    )]
    NoRoom,
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

/// What one delivery saw. There is room for all that it wants to keep, unless a bound is said to be full.
#[derive(Default)]
pub(in crate::bus) struct Seen {
    values: KeyValues,
    full: Option<&'static str>,
    wants_state: AtomicBool,
    wants_timers: AtomicBool,
}

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
        while tokio::time::timeout(ROOM_LOOK, self.values.room()).await.is_err() {
            if self.values.lacks_room() {
                return Err(CarryError::NoRoom);
            }
        }
        if !self.from_start && self.values.get(owner, MARK, 0)?.is_none() {
            let past = bus.past(owner, Moment::Before { commit, input_ms }).await?;
            let mark = write(MARK.into(), Value { bytes: EcoBytes::new(), expires_ms: None });
            let known = past.into_values().map(|(name, value)| write(name, value));
            self.apply(owner, Position(0), known.chain([mark]))?;
        }
        let mut values = self.values.all(owner, input_ms)?;
        values.retain(|(name, _)| &**name != MARK);
        Ok(Seen::of(values))
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

fn write(name: EcoString, value: Value) -> StateWrite {
    StateWrite { name, value: Some(value.bytes), expires_ms: value.expires_ms }
}

impl Drop for Carried {
    /// On a thread of its own: the store may have much to write before it is closed.
    fn drop(&mut self) {
        let (evictor, folder) = (self.evictor.take(), std::mem::take(&mut self.folder));
        let values = std::mem::take(&mut self.values);
        let end = move || {
            drop((evictor, values));
            // What cannot be removed now is when another start makes the folder.
            let _ = std::fs::remove_dir_all(&folder);
        };
        // Without a thread, what it would have had is dropped here.
        let _ = std::thread::Builder::new().name("replay-end".to_owned()).spawn(end);
    }
}

impl Seen {
    /// These values, ascending by name.
    pub(in crate::bus) fn of(values: KeyValues) -> Self {
        Self { values, ..Self::default() }
    }

    /// The same, once for each bound under which room was asked for here: as if that were full.
    pub(super) fn without_room(&self) -> impl Iterator<Item = Self> {
        let wants = |wants: &AtomicBool| wants.load(Ordering::Relaxed);
        let state = STATE_BOUNDS.into_iter().filter(move |_| wants(&self.wants_state));
        let timers = [TIMERS_BOUND].into_iter().filter(move |_| wants(&self.wants_timers));
        state.chain(timers).map(|full| Self { full: Some(full), ..Self::of(self.values.clone()) })
    }

    fn find(&self, name: &str) -> Option<&Value> {
        let found = self.values.binary_search_by(|(known, _)| (**known).cmp(name)).ok()?;
        self.values.get(found).map(|(_, value)| value)
    }
}

impl StateView for Seen {
    fn get(&self, name: &str) -> Option<Vec<u8>> {
        self.find(name).map(|value| value.bytes.to_vec())
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
        page(self.values.iter().map(|(name, _)| &**name), prefix, after, limit)
    }

    fn grow(&self, name: &str, own: Option<usize>, new: usize) -> Result<(), &'static str> {
        let stands = || self.find(name).map_or(0, |value| name.len() + value.bytes.len());
        if new <= own.unwrap_or_else(stands) {
            return Ok(());
        }
        self.wants_state.store(true, Ordering::Relaxed);
        // A key that has state is among those that are counted.
        let fills = |bound: &&str| *bound != KEYS_BOUND || self.values.is_empty();
        let full = self.full.filter(|bound| STATE_BOUNDS.contains(bound)).filter(fills);
        full.map_or(Ok(()), Err)
    }

    fn other_timers(&self, _name: &str) -> usize {
        self.wants_timers.store(true, Ordering::Relaxed);
        if self.full == Some(TIMERS_BOUND) { isize::MAX.unsigned_abs() } else { 0 }
    }
}
