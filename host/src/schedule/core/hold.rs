//! What operators do to keys, and what a restart brings back.

use super::lane::{Deferred, Lane, Phase, Until, Waiting};
use super::{KeyScheduler, Throttle};
use crate::event::{Key, Position};

/// A waiting event as the state store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The event.
    pub position: Position,
    /// Its key.
    pub key: Option<Key>,
    /// The attempt to come, from 1.
    pub attempt: u32,
    /// Log time of the first attempt; none: there was none.
    pub first_ms: Option<u64>,
    /// What it waits for.
    pub until: Until,
}

/// What is known of a key that is not simply live, or of a waiting unkeyed event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyView {
    /// The key.
    pub key: Option<Key>,
    /// An operator holds it.
    pub held: bool,
    /// Its waiting event and the attempt to come.
    pub waiting: Option<(Position, u32)>,
    /// What that waits for.
    pub until: Option<Until>,
    /// Its events that are not in memory.
    pub deferred: Option<Deferred>,
    /// Whether a taker owns it right now.
    pub running: bool,
    /// The limit that holds it back, where it is ready otherwise.
    pub throttle: Option<Throttle>,
}

impl<T> KeyScheduler<T> {
    /// Holds a key: a delivery that runs goes on, but none is started. Says whether that is new.
    pub fn hold(&mut self, key: &Key) -> bool {
        let id = self.find_or_open(key);
        let Some(lane) = self.lanes.get_mut(id) else { return false };
        if std::mem::replace(&mut lane.held, true) {
            return false;
        }
        let keep = usize::from(lane.is_running() && lane.waiting.is_none());
        self.unplace(id);
        self.shed(id, keep);
        self.place(id);
        true
    }

    /// Ends a hold, and a park: the key goes on with what stands behind its dead letter. Says
    /// whether there was any.
    pub fn release(&mut self, key: &Key) -> bool {
        let Some((id, lane)) = self.lane_of(key) else { return false };
        let held = std::mem::take(&mut lane.held);
        let parked = is_parked(lane);
        if parked {
            lane.redriven_to = Position(u64::MAX);
            self.complete(id);
        }
        self.place(id);
        held || parked
    }

    /// Makes the dead letter that parks a key ready again, to be followed by what stands behind it.
    /// Its attempts go on counting, its time starts afresh. Says whether the key was parked.
    pub fn redrive(&mut self, key: &Key) -> bool {
        let Some((id, lane)) = self.lane_of(key) else { return false };
        let Some(waiting) = &mut lane.waiting else { return false };
        if waiting.until != Until::Parked {
            return false;
        }
        waiting.until = Until::Now;
        waiting.first_ms = None;
        lane.redriven_to = Position(u64::MAX);
        self.place(id);
        true
    }

    /// Brings back an event that waited when the host stopped, before anything is offered. What
    /// stands behind it is searched for up to what is [`scanned`](Self::scanned) when it is done,
    /// whether or not [`restore_deferred`](Self::restore_deferred) tells of it. Says whether it is
    /// new: a key has one waiting event.
    pub fn restore_waiting(&mut self, restored: Restored) -> bool {
        let Restored { position, key, attempt, first_ms, until } = restored;
        if self.open.contains(&position) {
            return false;
        }
        let id = match &key {
            Some(key) => self.find_or_open(key),
            None => self.open_lane(None),
        };
        let Some(lane) = self.lanes.get_mut(id) else { return false };
        if lane.waiting.is_some() || lane.is_running() {
            return false;
        }
        lane.restored = key.is_some();
        self.unplace(id);
        self.shed(id, 0);
        if let Some(lane) = self.lanes.get_mut(id) {
            lane.waiting = Some(Waiting { position, attempt: attempt.max(1), first_ms, until });
        }
        self.open.insert(position);
        self.restored_max = self.restored_max.max(position);
        self.place(id);
        true
    }

    /// Brings back the deferred events of a key, before anything is offered.
    pub fn restore_deferred(&mut self, key: &Key, deferred: Deferred) {
        let id = self.find_or_open(key);
        self.unplace(id);
        self.shed(id, 0);
        self.defer_range(id, deferred.first, deferred.last.max(deferred.first), deferred.count);
        self.place(id);
    }

    /// What is known of a key; none: nothing of it is incomplete.
    #[must_use]
    pub fn look(&self, key: &Key) -> Option<KeyView> {
        self.find(key).and_then(|id| self.lanes.get(id)).map(|lane| self.view(lane))
    }

    /// Every key and unkeyed event that waits or has deferred events, in no order.
    pub fn waiting(&self) -> impl Iterator<Item = KeyView> {
        self.lanes.iter().filter(|(_, lane)| lane.defers()).map(|(_, lane)| self.view(lane))
    }

    /// Positions of the events in memory or waiting, ascending.
    pub fn open(&self) -> impl Iterator<Item = Position> {
        self.open.iter().copied()
    }

    fn lane_of(&mut self, key: &Key) -> Option<(usize, &mut Lane)> {
        let id = self.find(key)?;
        self.lanes.get_mut(id).map(|lane| (id, lane))
    }
}

/// A dead letter that runs again is parked no more.
fn is_parked(lane: &Lane) -> bool {
    let parked = lane.waiting.is_some_and(|waiting| waiting.until == Until::Parked);
    parked && lane.phase == Phase::Resting
}

impl<T> KeyScheduler<T> {
    fn view(&self, lane: &Lane) -> KeyView {
        KeyView {
            key: lane.key.clone(),
            held: lane.held,
            waiting: lane.waiting.map(|waiting| (waiting.position, waiting.attempt)),
            until: lane.waiting.map(|waiting| waiting.until),
            deferred: lane.deferred,
            running: lane.is_running(),
            throttle: self.throttle(lane),
        }
    }
}
