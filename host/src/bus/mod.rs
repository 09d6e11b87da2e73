//! What a bus is: one log, the fold of it, and the two kinds.
//!
//! Everything above this module (runners, forwarders, the host) speaks to a [`Bus`] and does not
//! ask which kind it is, but where the kinds promise different things.

mod append;
pub mod apply;
pub mod carry;
pub mod clocks;
pub mod commands;
pub mod deliver;
mod filled;
pub mod forward;
pub mod memory;
pub mod notes;
pub mod operate;
pub mod outlets;
pub mod past;
pub mod private;
pub mod progress;
pub mod replay;
pub mod runner;
pub mod source;
pub mod subscribed;
pub mod timers;
pub mod upcast;

use std::collections::HashMap;
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::clock::Clock;
use crate::event::{CommitNumber, Event, InstanceId, Key, KeySequence, Position};
use crate::log::{Log, ReadError};
use crate::state::slots::{Slots, Suspect};
use crate::state::{Ledger, Values};

pub use self::append::{Committed, Outbox, Permit, Ticket};
use self::memory::{MemoryLog, MemoryOptions};
use self::outlets::Outlets;
use self::progress::Progress;
use self::source::EventSource;
use self::upcast::Upcasters;

/// One bus. Cheap to share behind an [`Arc`].
pub struct Bus {
    name: Arc<str>,
    store: Store,
    ledger: Mutex<Ledger>,
    values: Arc<Values>,
    applied: watch::Sender<CommitNumber>,
    progress: Mutex<HashMap<InstanceId, Arc<Progress>>>,
    slots: Option<Slots>,
    suspects: Vec<Suspect>,
    outlets: Outlets,
    desk: commands::Desk,
    /// Cancelled once nothing is delivered any more: who waits for a plugin waits in vain.
    closing: CancellationToken,
    /// The last commit and position in the ledger and the values; kept under the ledger's lock.
    folded: Mutex<(CommitNumber, Position)>,
    upcasters: Upcasters,
    /// Changes with every step of the log's clock.
    clock_steps: watch::Sender<()>,
}

/// Where the events of a bus stand.
enum Store {
    Durable(Log),
    Memory { log: Arc<MemoryLog>, id: Uuid },
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bus").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Bus {
    /// A bus over an open log whose fold up to `applied` is given. The caller starts
    /// [`Bus::apply_durable`].
    ///
    /// # Errors
    /// The file of worker slots under `state_dir` cannot be opened.
    pub fn durable(
        name: &str,
        log: Log,
        (ledger, values, applied): (Ledger, Arc<Values>, CommitNumber),
        state_dir: &Path,
    ) -> std::io::Result<Self> {
        let (slots, suspects) = Slots::open(&state_dir.join("slots"), log.last_position())?;
        // What was folded before may be all there is.
        let whole = log.durable() <= applied;
        let position = if whole { log.last_position() } else { Position(0) };
        let store = Store::Durable(log);
        let slots = Some(slots);
        let bus = Self { slots, suspects, ..Self::new(name, store, ledger, values, applied) };
        bus.note_folded(applied, position);
        Ok(bus)
    }

    /// A memory bus.
    #[must_use]
    pub fn memory(name: &str, options: MemoryOptions, clock: Arc<dyn Clock>) -> Self {
        let log = Arc::new(MemoryLog::new(options, clock));
        let store = Store::Memory { log, id: Uuid::new_v4() };
        Self::new(name, store, Ledger::default(), Arc::default(), CommitNumber(0))
    }

    fn new(
        name: &str,
        store: Store,
        ledger: Ledger,
        values: Arc<Values>,
        applied: CommitNumber,
    ) -> Self {
        Self {
            name: name.into(),
            store,
            ledger: Mutex::new(ledger),
            values,
            applied: watch::channel(applied).0,
            progress: Mutex::default(),
            slots: None,
            suspects: Vec::new(),
            outlets: Outlets::default(),
            desk: commands::Desk::default(),
            closing: CancellationToken::new(),
            folded: Mutex::new((applied, Position(0))),
            upcasters: Upcasters::default(),
            clock_steps: watch::Sender::default(),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Identity of its log: seeds the ids of emitted events.
    #[must_use]
    pub fn log_id(&self) -> Uuid {
        match &self.store {
            Store::Durable(log) => log.id(),
            Store::Memory { id, .. } => *id,
        }
    }

    /// The durable log; none on a memory bus.
    #[must_use]
    pub fn log(&self) -> Option<&Log> {
        match &self.store {
            Store::Durable(log) => Some(log),
            Store::Memory { .. } => None,
        }
    }

    /// The ring of a memory bus; none on a durable one.
    #[must_use]
    pub fn ring(&self) -> Option<&MemoryLog> {
        match &self.store {
            Store::Durable(_) => None,
            Store::Memory { log, .. } => Some(log),
        }
    }

    /// Who the plugins are and how far each has come. Hold it shortly: the fold waits for it.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keyed state.
    #[must_use]
    pub fn values(&self) -> &Arc<Values> {
        &self.values
    }

    /// The last commit whose effects are in [`Bus::ledger`] and [`Bus::values`].
    #[must_use]
    pub fn applied(&self) -> watch::Receiver<CommitNumber> {
        self.applied.subscribe()
    }

    /// The last commit and position of what is in [`Bus::ledger`] and [`Bus::values`]: of both at
    /// once for who holds the ledger's lock.
    #[must_use]
    pub fn folded(&self) -> (CommitNumber, Position) {
        match &self.store {
            Store::Durable(_) => *self.folded.lock().unwrap_or_else(PoisonError::into_inner),
            Store::Memory { .. } => (*self.applied.borrow(), self.last_position()),
        }
    }

    fn note_folded(&self, commit: CommitNumber, position: Position) {
        *self.folded.lock().unwrap_or_else(PoisonError::into_inner) = (commit, position);
    }

    /// Notes of running deliveries; none on a memory bus.
    #[must_use]
    pub fn slots(&self) -> Option<&Slots> {
        self.slots.as_ref()
    }

    /// Who lifts its old events.
    #[must_use]
    pub fn upcasters(&self) -> &Upcasters {
        &self.upcasters
    }

    /// Deliveries that were in progress when the host last ended uncleanly.
    #[must_use]
    pub fn suspects(&self) -> &[Suspect] {
        &self.suspects
    }

    /// The start is over: whoever comes after it suspects what this host was delivering. One that does not come
    /// so far leaves to the next what it was told itself.
    pub fn started(&self) {
        if let Some(slots) = &self.slots {
            slots.forget_past();
        }
    }

    /// The log clock, milliseconds since the Unix epoch.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        match &self.store {
            Store::Durable(log) => log.now_ms(),
            Store::Memory { log, .. } => log.now_ms(),
        }
    }

    /// The last position that readers may see.
    #[must_use]
    pub fn last_position(&self) -> Position {
        match &self.store {
            Store::Durable(log) => log.last_position(),
            Store::Memory { log, .. } => *log.last().borrow(),
        }
    }

    /// Events after a position, then those to come.
    #[must_use]
    pub fn read_after(&self, position: Position) -> EventSource {
        match &self.store {
            Store::Durable(log) => EventSource::durable(log, position),
            Store::Memory { log, .. } => EventSource::memory(log, position),
        }
    }

    /// As [`Bus::read_after`], for deliveries: events come as soon as they are numbered. Nothing that somebody
    /// sees may rest on one that is not durable yet.
    pub(super) fn deliver_after(&self, position: Position) -> EventSource {
        match &self.store {
            Store::Durable(log) => EventSource::numbered(log, position),
            Store::Memory { log, .. } => EventSource::memory(log, position),
        }
    }

    /// Waits until a position that was numbered is durable; at once on a memory bus. Cancel safe.
    ///
    /// # Errors
    /// [`ReadError::Closed`]: it never will be.
    pub(super) async fn until_durable(&self, position: Position) -> Result<(), ReadError> {
        match &self.store {
            Store::Durable(log) => log.until_durable(position).await,
            Store::Memory { .. } => Ok(()),
        }
    }

    /// The event at a position.
    ///
    /// # Errors
    /// The log cannot be read there.
    pub async fn event(&self, position: Position) -> Result<Option<Arc<Event>>, ReadError> {
        match &self.store {
            Store::Durable(log) => log.event(position).await,
            Store::Memory { log, .. } => Ok(log.event(position)),
        }
    }

    /// The events at ascending positions that are there; cheaper than one by one.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn events(&self, positions: Vec<Position>) -> Result<Vec<Arc<Event>>, ReadError> {
        match &self.store {
            Store::Durable(log) => log.events(positions).await,
            Store::Memory { log, .. } => {
                Ok(positions.into_iter().filter_map(|position| log.event(position)).collect())
            }
        }
    }

    /// The last position that the log took before a time, milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn position_before(&self, ms: u64) -> Result<Position, ReadError> {
        match &self.store {
            Store::Durable(log) => log.position_before(ms).await,
            Store::Memory { log, .. } => Ok(log.position_before(ms)),
        }
    }

    /// Positions of a key at or after `from`, ascending, at most `limit`.
    ///
    /// # Errors
    /// The index cannot be read.
    pub async fn key_positions(
        &self,
        key: &Key,
        from: Position,
        limit: usize,
    ) -> Result<Vec<Position>, ReadError> {
        match &self.store {
            Store::Durable(log) => log.key_positions(key, from, limit).await,
            Store::Memory { log, .. } => Ok(log.key_positions(key, from, limit)),
        }
    }

    /// The last sequence of a key; 0: it has none.
    #[must_use]
    pub fn head(&self, key: &Key) -> KeySequence {
        match &self.store {
            Store::Durable(log) => log.head(key).map_or(KeySequence(0), |(sequence, _)| sequence),
            Store::Memory { log, .. } => log.head(key),
        }
    }

    /// How far a plugin of this bus is known to have come; made at first use, kept for good.
    pub fn progress(&self, instance: InstanceId) -> Arc<Progress> {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(progress.entry(instance).or_default())
    }

    /// Lets go of who waits for a command to be answered or an event to be completed. To be called once nothing
    /// is delivered any more, and what is durable is applied: the answers that are there are told by then.
    pub fn stop_answering(&self) {
        self.closing.cancel();
    }

    /// Waits until the commit is folded into [`Bus::ledger`].
    pub fn until_applied(&self, commit: CommitNumber) -> impl Future<Output = ()> + use<> {
        let mut applied = self.applied.subscribe();
        async move {
            // An error means that the bus is gone: then there is nothing left to wait for.
            let _ = applied.wait_for(|applied| *applied >= commit).await;
        }
    }
}

#[cfg(test)]
mod tests;
