//! What goes into a bus: events that are published, ends of deliveries, control records.

use crate::effects::{Effects, Outcome, StateWrite};
use crate::event::{CommitNumber, Event, InstanceId, KeySequence, NewEvent, Position};
use crate::log::record::{ControlRecord, DeliveryCommit};
use crate::log::{AppendError, Appended, CommitTicket, EffectsPermit, Log, OUTBOX_BYTES, Publish};
use crate::wasm::Invocation;

use super::deliver::{self, Deliverer};
use super::memory::MemoryLog;
use super::{Bus, Store};

/// Room in a bus for the effects of one delivery.
pub enum Permit {
    /// Bytes of the effects lane.
    Durable(EffectsPermit),
    /// A memory bus has nothing to reserve.
    Memory,
}

/// Where one worker puts the ends of its deliveries: see [`log::Outbox`](crate::log::Outbox).
pub enum Outbox {
    /// On their way to the writer of a log.
    Durable(crate::log::Outbox),
    /// A memory bus takes each at once.
    Memory,
}

impl Outbox {
    /// Hands over what is in it. Of its room `bytes` at most stay, for a delivery that is under way; 0: none.
    pub fn hand_over(&self, bytes: usize) {
        if let Self::Durable(outbox) = self {
            outbox.hand_over(bytes);
        }
    }

    /// Hands over what is in it, and keeps room for the effects of a delivery of `bytes` that comes next,
    /// where that can be had at once and nobody waits for it.
    pub fn hand_over_for(&self, bytes: usize) {
        if let Self::Durable(outbox) = self {
            outbox.hand_over_for(bytes.saturating_add(OUTBOX_BYTES));
        }
    }

    /// Hands over what is in it, and gives the room to a commit that somebody waits for.
    #[must_use]
    pub fn permit(&self) -> Permit {
        match self {
            Self::Durable(outbox) => Permit::Durable(outbox.take_room()),
            Self::Memory => Permit::Memory,
        }
    }
}

/// A commit that no crash takes back; on a memory bus, that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// Its number.
    pub commit: CommitNumber,
    /// Position of its first event, where it has one.
    pub first_position: Option<Position>,
    /// Its log time, milliseconds since the Unix epoch.
    pub recorded_ms: u64,
}

/// A commit on its way. May be dropped freely.
pub enum Ticket {
    /// Resolves once it is durable.
    Durable(CommitTicket),
    /// Done already.
    Memory(Result<Committed, AppendError>),
}

impl Ticket {
    /// Waits until the commit is durable.
    ///
    /// # Errors
    /// The log failed or is closed: the commit may or may not be found at the next start.
    pub async fn done(self) -> Result<Committed, AppendError> {
        match self {
            Self::Durable(ticket) => {
                let committed = ticket.await?;
                Ok(Committed {
                    commit: committed.commit,
                    first_position: committed.first_position,
                    recorded_ms: committed.recorded_ms,
                })
            }
            Self::Memory(result) => result,
        }
    }
}

impl Bus {
    /// Appends published events, all or none.
    ///
    /// # Errors
    /// A condition does not hold, or the bus takes nothing at present. Nothing was appended.
    pub async fn publish(&self, batch: Vec<Publish>) -> Result<Vec<Appended>, AppendError> {
        match &self.store {
            Store::Durable(log) => log.ingest(batch).await,
            Store::Memory { log, .. } => {
                check_expected(log, &batch)?;
                let events = batch.into_iter().map(|publish| publish.event).collect();
                let appended = self.append_memory(log, events)?;
                Ok(appended
                    .iter()
                    .map(|event| Appended {
                        position: event.position,
                        sequence: event.sequence,
                        duplicate: false,
                    })
                    .collect())
            }
        }
    }

    /// Waits for room for the effects of one delivery of `bytes` at most.
    ///
    /// # Errors
    /// The log failed or is closed.
    pub async fn reserve(&self, instance: InstanceId, bytes: usize) -> Result<Permit, AppendError> {
        match &self.store {
            Store::Durable(log) => log.reserve(instance, bytes).await.map(Permit::Durable),
            Store::Memory { .. } => Ok(Permit::Memory),
        }
    }

    /// Commits a delivery. Returns at once; commits of one instance keep their order. `written` gets the
    /// state it writes, before anybody else can see it; not where a memory bus drops it.
    pub fn commit(
        &self,
        permit: Permit,
        commit: DeliveryCommit,
        written: impl FnOnce(Vec<StateWrite>),
    ) -> Ticket {
        match (&self.store, permit) {
            (Store::Durable(log), Permit::Durable(permit)) => {
                written(commit.state.clone());
                Ticket::Durable(log.commit(permit, &commit))
            }
            (Store::Durable(_), Permit::Memory) => Ticket::Memory(Err(AppendError::ShuttingDown)),
            (Store::Memory { log, .. }, _) => {
                Ticket::Memory(self.commit_memory(log, commit, written))
            }
        }
    }

    /// What a commit cannot hold is an exceeded budget like any other, and so is what its bus cannot.
    /// `input`: as it stands in the log.
    pub(super) fn only_recordable(
        &self,
        by: &Deliverer,
        input: &Event,
        invocation: &mut Invocation,
    ) {
        let emits_max = self.ring().map_or(usize::MAX, MemoryLog::batch_max);
        let budget = if invocation.effects.emits.len() > emits_max {
            format!("capacity = {emits_max} of the memory bus")
        } else if !deliver::fits(by, input, &invocation.effects) {
            deliver::COMMIT_BUDGET.to_owned()
        } else {
            return;
        };
        invocation.outcome = Outcome::Output { budget };
        invocation.effects = Effects::default();
    }

    /// Where a worker puts the ends of its deliveries.
    #[must_use]
    pub fn outbox(&self) -> Outbox {
        self.log().map_or(Outbox::Memory, |log| Outbox::Durable(log.outbox()))
    }

    /// Makes sure that an outbox has room for the effects of one delivery of `bytes` at most; what is in it
    /// is handed over before that takes waiting. Cancel safe: what was handed over stays so, and only
    /// the place in line is lost.
    ///
    /// # Errors
    /// The log failed or is closed.
    pub async fn reserve_in(
        &self,
        outbox: &Outbox,
        (instance, bytes): (InstanceId, usize),
    ) -> Result<(), AppendError> {
        let (Some(log), Outbox::Durable(outbox)) = (self.log(), outbox) else { return Ok(()) };
        if !outbox.has_room(bytes) {
            outbox.hand_over(0);
            outbox.put(log.reserve(instance, bytes.saturating_add(OUTBOX_BYTES)).await?);
        }
        Ok(())
    }

    /// Commits a delivery where nobody waits for the end of it. `written` gets the state it writes, before
    /// anybody else can see it; not where it cannot be recorded, or a memory bus drops it.
    pub fn commit_untold(
        &self,
        outbox: &Outbox,
        commit: DeliveryCommit,
        written: impl FnOnce(Vec<StateWrite>),
    ) {
        let Outbox::Durable(outbox) = outbox else {
            drop(self.commit(Permit::Memory, commit, written));
            return;
        };
        match outbox.push(&commit) {
            Ok(()) => written(commit.state),
            Err(error) => {
                let position = commit.completion.position;
                tracing::error!(bus = %self.name, %position, %error, "effects cannot be recorded");
            }
        }
    }

    /// Records that a delivery is to be tried again, where nobody waits for that: in the room that is
    /// reserved for its end, so that attempts are bounded by the lane as ends are.
    pub fn control_untold(&self, outbox: &Outbox, record: &ControlRecord) {
        let Outbox::Durable(outbox) = outbox else {
            drop(self.control(std::slice::from_ref(record)));
            return;
        };
        if let Err(error) = outbox.push_control(record) {
            tracing::error!(bus = %self.name, %error, "an attempt cannot be recorded");
        }
    }

    /// Records what changes how the bus runs.
    pub fn control(&self, records: &[ControlRecord]) -> Ticket {
        match &self.store {
            Store::Durable(log) => Ticket::Durable(log.control(records)),
            Store::Memory { log, .. } => Ticket::Memory(Ok(self.control_memory(log, records))),
        }
    }

    /// As [`Bus::control`], for what a person asks for: refused at once where it would have to wait for
    /// space on the disk.
    pub fn control_asked(&self, records: &[ControlRecord]) -> Ticket {
        match self.log().map(Log::check_room) {
            Some(Err(full)) => Ticket::Memory(Err(full)),
            _ => self.control(records),
        }
    }

    /// Appends events of another bus together with the mark of how far they go.
    pub fn forward(&self, events: Vec<NewEvent>, mark: &ControlRecord) -> Ticket {
        match &self.store {
            Store::Durable(log) => Ticket::Durable(log.forward(&events, mark)),
            Store::Memory { log, .. } => Ticket::Memory(
                self.append_memory(log, events)
                    .map(|_| self.control_memory(log, std::slice::from_ref(mark))),
            ),
        }
    }

    /// Appends private events of plugins, in one commit: see [`private`](super::private). The caller bounds how many
    /// are under way.
    pub fn append_private(&self, events: Vec<NewEvent>) -> Ticket {
        match &self.store {
            Store::Durable(log) => Ticket::Durable(log.private(&events)),
            Store::Memory { log, .. } => {
                let appended = self.append_memory(log, events);
                Ticket::Memory(appended.map(|appended| {
                    self.now_committed(log, appended.first().map(|event| event.position))
                }))
            }
        }
    }
}

fn check_expected(log: &MemoryLog, batch: &[Publish]) -> Result<(), AppendError> {
    for (index, publish) in batch.iter().enumerate() {
        let (Some(expected), Some(key)) = (publish.expected, &publish.event.key) else { continue };
        let before = batch.iter().take(index).filter(|p| p.event.key.as_ref() == Some(key)).count();
        let actual = KeySequence(log.head(key).0 + before as u64);
        if actual != expected {
            return Err(AppendError::SequenceConflict { index, expected, actual });
        }
    }
    Ok(())
}
