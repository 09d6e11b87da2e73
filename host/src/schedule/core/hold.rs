//! What operators do to keys, and what a restart brings back.

use super::lane::{Again, Deferred, Lane, Phase, Reopened, Until, Waiting};
use super::place::after;
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
    /// There may be more of them than counted: it has been waiting since before a restart.
    pub unknown: bool,
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

    /// Ends a park, not a hold: the dead letter is done with, and the key goes on with what stands
    /// behind it. Says whether it was parked.
    pub fn give_up(&mut self, key: &Key) -> bool {
        let Some((id, lane)) = self.lane_of(key) else { return false };
        let parked = is_parked(lane);
        if parked {
            lane.redriven_to = Position(u64::MAX);
            self.complete(id);
            self.place(id);
        }
        parked
    }

    /// Runs a dead letter again that does not park its key: alone, before what the key has in
    /// memory and before events of later positions that are tried again, but not while the key
    /// waits for a person. Says whether it was not under way already.
    pub fn reopen(&mut self, position: Position, key: Option<&Key>, attempt: u32) -> bool {
        if self.is_open(position) {
            return false;
        }
        let id = match key {
            Some(key) => self.find_or_open(key),
            None => self.open_lane(None),
        };
        let Some(lane) = self.lanes.get_mut(id) else { return false };
        lane.again = true;
        self.again.entry(id).or_default().insert(Again { position, attempt });
        self.mark_open(id, position);
        if position > self.scanned {
            self.restored.insert(position);
        }
        self.unplace(id);
        self.place(id);
        true
    }

    /// Lets the next dead letter of a lane at rest run again, in front of everything but what comes
    /// before it in the log.
    pub(super) fn call_again(&mut self, id: usize) {
        let Some(lane) = self.lanes.get_mut(id).filter(|lane| lane.again) else { return };
        if lane.held || lane.phase != Phase::Resting {
            return;
        }
        let Some(reopened) = self.again.get_mut(&id) else { return };
        let next = reopened.pop_before(lane.waiting.as_ref());
        let Some(Again { position, attempt }) = next else { return };
        reopened.behind = lane.waiting.take();
        let until = Until::Now;
        lane.waiting = Some(Waiting { position, attempt, first_ms: None, until, again: true });
        self.shed(id, 0);
        self.forget_reopened(id);
    }

    /// Has the waiting event again that a dead letter went before, now that this is over.
    pub(super) fn step_back(&mut self, id: usize) {
        let Some(lane) = self.lanes.get_mut(id).filter(|lane| lane.again) else { return };
        lane.waiting = self.again.get_mut(&id).and_then(|reopened| reopened.behind.take());
        self.forget_reopened(id);
    }

    fn forget_reopened(&mut self, id: usize) {
        if self.again.get(&id).is_some_and(Reopened::is_empty) {
            self.again.remove(&id);
            if let Some(lane) = self.lanes.get_mut(id) {
                lane.again = false;
            }
        }
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
    /// stands behind it is searched for up to what is [`scanned`](Self::scanned) when it is done. Says whether
    /// it is new: a key has one waiting event.
    pub fn restore_waiting(&mut self, restored: Restored) -> bool {
        let Restored { position, key, attempt, first_ms, until } = restored;
        if self.is_open(position) {
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
        // Events of a key end in order: none before this one is incomplete.
        self.advance(id, position, 0);
        if let Some(lane) = self.lanes.get_mut(id) {
            lane.uncounted = lane.restored && position < self.scanned;
            let attempt = attempt.max(1);
            lane.waiting = Some(Waiting { position, attempt, first_ms, until, again: false });
        }
        self.mark_open(id, position);
        if position > self.scanned {
            self.restored.insert(position);
        }
        self.place(id);
        true
    }

    /// Brings back a key that was parked or held once, before anything is offered and after its
    /// waiting event: what it has from `from` on, up to what is scanned, is to be searched.
    /// `redriven`: it stood behind a dead letter. `counted`: up to where it was counted what it has, and
    /// how much that is.
    pub fn restore_backlog(
        &mut self,
        key: &Key,
        from: Position,
        redriven: bool,
        counted: Option<(Position, u64)>,
    ) {
        let id = self.find_or_open(key);
        let Some(lane) = self.lanes.get_mut(id) else { return };
        if redriven {
            lane.redriven_to = Position(u64::MAX);
        }
        let aside = lane.stands_aside();
        let waiting = lane.waiting.map(|waiting| waiting.position);
        // A waiting event is followed by a search anyway, and its lane has its place.
        if waiting.is_none() && from <= self.scanned {
            self.defer_range(id, from, self.scanned, 0);
        }
        let first = waiting.map_or(from, after);
        if let Some((last, count)) = counted.filter(|(last, _)| first <= *last) {
            self.defer_range(id, first, last, count);
        }
        if let Some(lane) = self.lanes.get_mut(id) {
            // What comes after is counted as it is offered.
            lane.uncounted = counted.is_none() && first <= self.scanned;
        }
        if !aside {
            self.back.insert(key.clone());
        }
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
            unknown: lane.uncounted,
            running: lane.is_running(),
            throttle: self.throttle(lane),
        }
    }
}
