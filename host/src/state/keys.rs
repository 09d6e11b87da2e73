//! Keys that are parked or held: which, why, since when, and up to where each has come.
//!
//! What must not break: an event that is not completed lies above [`Instance::seen`], or its key is
//! in [`Instance::keys`], or it is a dead letter in [`Instance::redriving`]. So a restart that reads
//! on from `seen` and looks through the backlog of these keys misses nothing.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::instance::{AttemptState, Instance};
use super::ledger::At;
use super::letters::Tried;
use crate::event::{Key, Position};
use crate::log::record::{AttemptRecord, Control};
use crate::schedule::core::Deferred;

/// Completed positions are put in their shortest form every 2 to this many positions.
const OPTIMISED_BITS: u32 = 16;

/// A key that waits for a person, or did and is catching up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyState {
    /// No event of the key before this position is incomplete, as far as that is known.
    pub from: Position,
    /// The dead letter that parks it.
    #[serde(default)]
    pub parked: Option<Parked>,
    /// Who holds it.
    #[serde(default)]
    pub held: Option<Held>,
    /// Whether it catches up with what stood behind a dead letter.
    #[serde(default)]
    pub redriven: bool,
    /// What stands behind it while it waits; none: nothing, or nobody knows.
    #[serde(default)]
    pub backlog: Option<Backlog>,
}

/// Events that a key which waits holds back, for people: what is delivered does not rest on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backlog {
    /// The last that is counted.
    pub last: Position,
    /// How many, about.
    pub count: u64,
}

/// A key waits behind a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parked {
    /// The dead letter's input.
    pub position: Position,
    /// Log time since when.
    pub since_ms: u64,
}

/// A key waits because somebody said so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Who.
    pub actor: Arc<str>,
    /// Why.
    pub reason: String,
    /// Log time since when.
    pub since_ms: u64,
}

impl KeyState {
    /// Whether it waits for a person.
    #[must_use]
    pub const fn waits(&self) -> bool {
        self.parked.is_some() || self.held.is_some()
    }
}

impl Instance {
    /// Keys parked behind a dead letter.
    #[must_use]
    pub fn parked_keys(&self) -> usize {
        self.keys.values().filter(|key| key.parked.is_some()).count()
    }

    /// Keys held by an operator.
    #[must_use]
    pub fn held_keys(&self) -> usize {
        self.keys.values().filter(|key| key.held.is_some()).count()
    }

    /// Whether the dead letter of this input parks its key.
    #[must_use]
    pub fn is_parked_by(&self, key: Option<&Key>, position: Position) -> bool {
        let parked = key.and_then(|key| self.keys.get(key)).and_then(|key| key.parked);
        parked.is_some_and(|parked| parked.position == position)
    }

    /// Takes what was done to a key, or to a dead letter. Says whether it made sense.
    pub(super) fn apply_to_key(&mut self, at: At, actor: &Arc<str>, control: &Control) -> bool {
        match control {
            Control::Park { key, position, .. } => self.park(at, key, *position),
            Control::Hold { key, reason, .. } => {
                let (actor, reason) = (Arc::clone(actor), reason.clone());
                let from = after(self.low);
                let key = self.keys.entry(key.clone()).or_insert_with(|| KeyState::new(from));
                key.stand_aside();
                key.held = Some(Held { actor, reason, since_ms: at.time_ms });
                true
            }
            Control::Release { key, .. } => self.release(key),
            _ => true,
        }
    }

    /// The delivery of `position` is not over, whatever its completion in the same commit says.
    fn park(&mut self, at: At, key: &Key, position: Position) -> bool {
        if position <= self.low {
            return false;
        }
        self.completed.remove(position.0);
        let key = self.keys.entry(key.clone()).or_insert_with(|| KeyState::new(position));
        key.stand_aside();
        key.from = position;
        key.parked = Some(Parked { position, since_ms: at.time_ms });
        true
    }

    fn release(&mut self, key: &Key) -> bool {
        let Some(state) = self.keys.get_mut(key) else { return false };
        let waited = state.waits();
        state.held = None;
        if let Some(parked) = state.parked.take() {
            state.redriven = true;
            state.from = after(parked.position);
            self.complete(parked.position);
        }
        waited
    }

    /// Lets a dead letter run again. Says whether it did not already.
    pub(super) fn redrive(&mut self, key: Option<&Key>, position: Position) -> bool {
        if let Some(state) = self.parked_by(key, position) {
            state.parked = None;
            state.redriven = true;
        }
        self.redriving.insert(position)
    }

    /// Gives up a dead letter for good. None that runs again: its delivery may be on its way.
    pub(super) fn discard(&mut self, key: Option<&Key>, position: Position) -> bool {
        if self.redriving.contains(&position) {
            return false;
        }
        if let Some(state) = self.parked_by(key, position) {
            state.parked = None;
            state.redriven = true;
            state.from = after(position);
            self.complete(position);
        }
        true
    }

    fn parked_by(&mut self, key: Option<&Key>, position: Position) -> Option<&mut KeyState> {
        let state = self.keys.get_mut(key?)?;
        state.parked.is_some_and(|parked| parked.position == position).then_some(state)
    }

    pub(super) fn complete(&mut self, position: Position) {
        if position > self.low {
            self.completed.insert(position.0);
        }
    }

    /// A delivery is over. Gives the last of its attempts that failed.
    pub(super) fn end(&mut self, position: Position) -> Vec<Tried> {
        self.complete(position);
        self.redriving.remove(&position);
        self.attempts.remove(&position).map(|attempts| attempts.tried).unwrap_or_default()
    }

    /// A key that waited has come past a position.
    pub(super) fn go_on(&mut self, key: &str, position: Position) {
        if let Some(state) = self.keys.get_mut(key) {
            state.from = state.from.max(after(position));
        }
    }

    /// Takes an attempt that is to be repeated.
    pub(super) fn failed(&mut self, at: At, attempt: &AttemptRecord) {
        let state = self.attempts.entry(attempt.position).or_insert_with(|| AttemptState {
            key: attempt.key.clone(),
            attempts: 0,
            first_ms: attempt.first_ms,
            due_ms: 0,
            tried: Vec::new(),
        });
        state.attempts = attempt.attempt;
        state.due_ms = attempt.due_ms;
        Tried { attempt: attempt.attempt, at_ms: at.time_ms, outcome: attempt.outcome }
            .note(&mut state.tried);
    }

    /// Everything after a position is to be delivered anew; keys that are held stay so.
    pub(super) fn rewind(&mut self, position: Position) {
        (self.low, self.seen) = (position, position);
        self.completed.clear();
        self.attempts.clear();
        self.redriving.clear();
        self.keys.retain(|_, key| key.held.is_some());
        for key in self.keys.values_mut() {
            *key = KeyState { held: key.held.take(), ..KeyState::new(after(position)) };
        }
    }

    /// Notes what stands behind a key that waits.
    pub(super) fn count_behind(&mut self, key: &Key, Deferred { last, count, .. }: Deferred) {
        if let Some(state) = self.keys.get_mut(key) {
            state.backlog = Some(Backlog { last, count });
        }
    }

    /// Notes how far the plugin has read, and which keys have caught up with that.
    pub(super) fn seen_up_to(&mut self, seen: Position, back: &[Key]) {
        if seen < self.seen {
            // Keys may still have to catch up with what was noted before.
            return;
        }
        if seen.0 >> OPTIMISED_BITS != self.seen.0 >> OPTIMISED_BITS {
            // Behind a key that waits for long this is mostly one run.
            self.completed.optimize();
        }
        self.seen = seen;
        for key in back {
            if self.keys.get(key).is_some_and(|key| !key.waits()) {
                self.keys.remove(key);
            }
        }
    }
}

impl KeyState {
    const fn new(from: Position) -> Self {
        Self { from, parked: None, held: None, redriven: false, backlog: None }
    }

    /// It is about to wait: what was counted before it went on the last time is not behind it now.
    fn stand_aside(&mut self) {
        if !self.waits() {
            self.backlog = None;
        }
    }
}

/// The bound just above a position. It need not be the position of an event.
const fn after(position: Position) -> Position {
    Position(position.0.saturating_add(1))
}
