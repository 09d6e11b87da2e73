//! What a memory bus does at once where a durable one waits for its log, and the fold for that.
//!
//! Rule: the ledger and the values change by the same methods as in the fold.

use std::sync::Arc;

use super::{MemoryLog, Over, Refusal};
use crate::bus::apply::apply_to_values;
use crate::bus::{Bus, Committed, private};
use crate::effects::StateWrite;
use crate::event::{
    Addressee, CommitNumber, Event, Generation, InstanceId, Key, NewEvent, Position,
};
use crate::log::AppendError;
use crate::log::record::{Completion, ControlRecord, DeliveryCommit};
use crate::state::At;
use crate::state::ledger::{Completed, Origin};

impl Bus {
    /// Takes events on a memory bus.
    pub(in crate::bus) fn append_memory(
        &self,
        log: &MemoryLog,
        events: Vec<NewEvent>,
    ) -> Result<Vec<Arc<Event>>, AppendError> {
        let over = self.over(&events);
        let appended = log.append(events, over).map_err(|refusal| match refusal {
            Refusal::Full { capacity } => AppendError::QueueFull { limit: capacity },
            Refusal::TooMany { capacity, count } => {
                AppendError::TooMany { limit: capacity, actual: count }
            }
        })?;
        let mut ledger = self.ledger();
        let mut closed = 0;
        for event in &appended {
            match &event.addressee {
                Some(Addressee::Plugin(instance)) if *event.kind == *private::RESPONSE => {
                    closed += usize::from(ledger.apply_response(*instance, &event.id));
                }
                Some(Addressee::Plugin(_)) => {}
                Some(Addressee::Bus(bus)) => ledger.apply_outbound(bus, event.position),
                None => {
                    let from = Origin::of(event.emitter, event.origin.is_some());
                    ledger.apply_event(&event.kind, from, event.recorded_ms);
                }
            }
        }
        drop(ledger);
        self.outlets.folded(0, closed);
        Ok(appended)
    }

    /// How far events may go beyond the ring: an answer, as its plugin may wait for it.
    fn over(&self, events: &[NewEvent]) -> Over {
        match events {
            [NewEvent { kind, addressee: Some(Addressee::Plugin(to)), .. }]
                if **kind == *private::RESPONSE =>
            {
                Over::Answer { to: *to, is_awaited: !self.has_calls_room(*to) }
            }
            _ => Over::Nothing,
        }
    }

    /// Takes the effects of a delivery on a memory bus: at once, as there is no disk to wait for. `written`
    /// gets the state it writes, before anybody else can see it.
    ///
    /// Events that the ring has no room for are dropped with all other effects, and the delivery is over:
    /// one that came again could wait for room that only its own end makes.
    pub(in crate::bus) fn commit_memory(
        &self,
        log: &MemoryLog,
        commit: DeliveryCommit,
        written: impl FnOnce(Vec<StateWrite>),
    ) -> Result<Committed, AppendError> {
        let done = commit.completion;
        let first_position = match self.emit_in_memory(log, commit.emits) {
            Ok(first_position) => first_position,
            Err(error) => {
                let Completion { instance, generation, position, .. } = done;
                tracing::warn!(
                    bus = %self.name, %instance, %position, %error, "the effects of a delivery were dropped"
                );
                self.ledger().apply_dropped(instance, generation, position);
                // It was counted as on its way.
                self.count(&[instance]);
                return Err(error);
            }
        };
        let committed = self.now_committed(log, first_position);
        if let (Some(key), false) = (&done.key, commit.state.is_empty()) {
            written(commit.state.clone());
            let owner = (done.instance, done.generation, key.as_str());
            // A memory bus has no cold store that could fail.
            let applied = self.values.apply(owner, done.position, commit.state);
            debug_assert!(applied.is_ok());
        }
        self.ledger().apply_completion(
            At { commit: committed.commit, time_ms: committed.recorded_ms },
            &Completed {
                instance: done.instance,
                generation: done.generation,
                position: done.position,
                key: done.key.as_ref().map(Key::as_str),
                attempt: done.attempt,
                outcome: done.outcome,
                dead: commit.dead_letter.as_ref(),
            },
        );
        self.open_in_memory(&done, commit.calls);
        self.count(&[done.instance]);
        Ok(committed)
    }

    /// Takes that the ring dropped an event before it was delivered.
    pub(in crate::bus) fn end_dropped(
        &self,
        instance: InstanceId,
        generation: Generation,
        position: Position,
    ) {
        self.ledger().apply_dropped(instance, generation, position);
        // No commit says how far the plugin is, where all that is left of it was dropped.
        self.count(&[]);
    }

    fn emit_in_memory(
        &self,
        log: &MemoryLog,
        emits: Vec<NewEvent>,
    ) -> Result<Option<Position>, AppendError> {
        if emits.is_empty() {
            return Ok(None);
        }
        let appended = self.append_memory(log, emits)?;
        Ok(appended.first().map(|event| event.position))
    }

    pub(in crate::bus) fn control_memory(
        &self,
        log: &MemoryLog,
        records: &[ControlRecord],
    ) -> Committed {
        let committed = self.now_committed(log, None);
        let at = At { commit: committed.commit, time_ms: committed.recorded_ms };
        let mut ledger = self.ledger();
        for record in records {
            // A memory bus has no cold store that could fail.
            let applied = apply_to_values(&ledger, &self.values, &record.control);
            debug_assert!(applied.is_ok());
            ledger.apply_control(at, record);
        }
        committed
    }

    /// A memory bus has no commits to number: the last position stands in for them.
    pub(in crate::bus) fn now_committed(
        &self,
        log: &MemoryLog,
        first_position: Option<Position>,
    ) -> Committed {
        let commit = CommitNumber(log.last().borrow().0);
        // Others do the same meanwhile, and may have read a later position and be done already.
        self.applied.send_modify(|applied| *applied = commit.max(*applied));
        Committed { commit, first_position, recorded_ms: log.now_ms() }
    }
}
