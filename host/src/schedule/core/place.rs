//! The moves that keep lanes, queues and counts in step. Every public operation ends in `place`.

use std::hash::BuildHasher;

use super::fifo::Queued;
use super::lane::{Deferred, DrainState, Lane, Phase};
use super::{KeyScheduler, before};
use crate::event::{Key, Position};

/// Deferred events one drain asks for, so that a long backlog does not crowd out other keys.
pub const DRAIN_CHUNK: usize = 256;

impl<T> KeyScheduler<T> {
    pub(super) fn find(&self, key: &Key) -> Option<usize> {
        let hash = self.hasher.hash_one(key.hash128());
        let same =
            |id: &usize| self.lanes.get(*id).is_some_and(|lane| lane.key.as_ref() == Some(key));
        self.by_key.find(hash, same).copied()
    }

    pub(super) fn find_or_open(&mut self, key: &Key) -> usize {
        self.find(key).unwrap_or_else(|| self.open_lane(Some(key.clone())))
    }

    /// A new lane, at rest; the key must not have one.
    pub(super) fn open_lane(&mut self, key: Option<Key>) -> usize {
        let hash = key.as_ref().map(|key| self.hasher.hash_one(key.hash128()));
        let group = self.group_of(key.as_ref());
        let id = self.lanes.insert(Lane { group, ..Lane::new(key) });
        if let Some(hash) = hash {
            let (lanes, hasher) = (&self.lanes, &self.hasher);
            self.by_key.insert_unique(hash, id, |&other| {
                let key = lanes.get(other).and_then(|lane| lane.key.as_ref());
                key.map_or(0, |key| hasher.hash_one(key.hash128()))
            });
        }
        id
    }

    fn close_lane(&mut self, id: usize) {
        let Some(key) = self.lanes.try_remove(id).and_then(|lane| lane.key) else { return };
        let hash = self.hasher.hash_one(key.hash128());
        if let Ok(found) = self.by_key.find_entry(hash, |&other| other == id) {
            found.remove();
        }
    }

    /// Puts an event at the end of what the lane has in memory.
    pub(super) fn push(&mut self, id: usize, position: Position, weight: usize, item: T) {
        let Some(lane) = self.lanes.get_mut(id) else { return };
        self.nodes.push(&mut lane.queue, Queued { position, weight, item: Some(item) });
        self.mark_open(id, position);
        self.in_flight += 1;
        self.in_flight_bytes += weight;
    }

    /// The first event of the lane is over.
    pub(super) fn complete(&mut self, id: usize) {
        let Some(lane) = self.lanes.get_mut(id) else { return };
        if let Some(waiting) = lane.waiting.take() {
            let searched = !waiting.again && std::mem::take(&mut lane.restored);
            lane.uncounted &= waiting.again || waiting.position < self.scanned;
            self.unmark_open(id, waiting.position);
            self.step_back(id);
            if searched && waiting.position < self.scanned {
                self.defer_range(id, after(waiting.position), self.scanned, 0);
            }
        } else if let Some(head) = self.nodes.pop(&mut lane.queue) {
            self.unmark_open(id, head.position);
            self.in_flight -= 1;
            self.in_flight_bytes -= head.weight;
        }
    }

    /// Notes one event of the lane that is not kept in memory.
    pub(super) fn defer(&mut self, id: usize, position: Position) {
        let seen = self.lanes.get(id).and_then(|lane| lane.deferred);
        let new = seen.is_none_or(|deferred| deferred.last < position);
        self.defer_range(id, position, position, u64::from(new));
    }

    /// Widens what is deferred of the lane.
    pub(super) fn defer_range(&mut self, id: usize, first: Position, last: Position, count: u64) {
        let Some(lane) = self.lanes.get_mut(id) else { return };
        let old = lane.deferred;
        let new = match old {
            None => Deferred { first, last, count },
            Some(old) => Deferred {
                first: old.first.min(first),
                last: old.last.max(last),
                count: old.count + count,
            },
        };
        lane.deferred = Some(new);
        if lane.aside {
            self.recounted.insert(id);
        }
        self.deferred_events += count;
        if old.map(|old| old.first) != Some(new.first) {
            if let Some(old) = old {
                self.unmark_behind(id, old.first);
            }
            self.mark_behind(id, new.first);
        }
    }

    /// Drops from memory all events of the lane but the first `keep`, and any drain under way.
    pub(super) fn shed(&mut self, id: usize, keep: usize) {
        self.cancel_drain(id);
        let Some(lane) = self.lanes.get_mut(id) else { return };
        let mut queue = std::mem::replace(&mut lane.queue, super::fifo::Fifo::EMPTY);
        let aside = lane.aside;
        let mut range: Option<(Position, Position, u64)> = None;
        let mut kept = 0;
        while let Some(queued) = self.nodes.pop(&mut queue) {
            if kept < keep {
                kept += 1;
                self.nodes.push(&mut lane.queue, queued);
                continue;
            }
            let position = queued.position;
            if aside { &mut self.aside } else { &mut self.here }.forget(position);
            self.in_flight -= 1;
            self.in_flight_bytes -= queued.weight;
            let (first, _, count) = range.unwrap_or((position, position, 0));
            range = Some((first, position, count + 1));
        }
        if let Some((first, last, count)) = range {
            self.defer_range(id, first, last, count);
        }
    }

    /// Everything deferred of the lane up to `reached` is in memory, or known to be complete.
    pub(super) fn advance(&mut self, id: usize, reached: Position, found: u64) {
        let Some(lane) = self.lanes.get_mut(id) else { return };
        let Some(deferred) = lane.deferred else { return };
        if reached < deferred.first {
            return;
        }
        let live = reached >= deferred.last;
        let gone = if live { deferred.count } else { found.min(deferred.count) };
        self.deferred_events -= gone;
        let first = after(reached);
        if live {
            lane.deferred = None;
            lane.slow = false;
            lane.uncounted = false;
            lane.redriven_to = lane.redriven_to.min(deferred.last);
        } else {
            lane.deferred = Some(Deferred { first, count: deferred.count - gone, ..deferred });
        }
        self.unmark_behind(id, deferred.first);
        if !live {
            self.mark_behind(id, first);
        }
    }

    /// A drain that is wanted or under way counts no more.
    pub(super) fn cancel_drain(&mut self, id: usize) {
        let Some(lane) = self.lanes.get_mut(id) else { return };
        match std::mem::replace(&mut lane.drain, DrainState::Idle) {
            DrainState::Idle => {}
            DrainState::Wanted(_) => self.drains_wanted -= 1,
            DrainState::Asked { limit, .. } => self.reserved -= limit,
        }
    }

    /// Takes a lane out of the queue it is in. Linear in what is ready: for what people do.
    pub(super) fn unplace(&mut self, id: usize) {
        let Some(lane) = self.lanes.get_mut(id) else { return };
        match lane.phase {
            Phase::Running(_) | Phase::Resting => return,
            Phase::Ready => self.ready.retain(|&other| other != id),
            Phase::Limited => {
                let group = lane.group;
                self.leave_queue(id, group);
            }
            Phase::Delayed(at_ms) => {
                self.delayed.remove(&(at_ms, id));
            }
        }
        if let Some(lane) = self.lanes.get_mut(id) {
            lane.phase = Phase::Resting;
        }
    }

    /// Puts a lane where it belongs, once nothing of it is out of date but its place.
    pub(super) fn place(&mut self, id: usize) {
        self.call_again(id);
        self.settle_aside(id);
        self.stand_back(id);
        let Some(lane) = self.lanes.get_mut(id) else { return };
        let waits = lane.waits();
        if waits != lane.counted {
            lane.counted = waits;
            self.waiting = if waits { self.waiting + 1 } else { self.waiting - 1 };
        }
        let drains = !waits && lane.deferred.is_some() && lane.drain == DrainState::Idle;
        if drains && lane.queue.len() < lane.drain_below(DRAIN_CHUNK) {
            self.stamp += 1;
            lane.drain = DrainState::Wanted(self.stamp);
            self.drains.push_back((id, self.stamp));
            self.drains_wanted += 1;
        }
        if lane.phase != Phase::Resting {
            return;
        }
        match lane.rests_as() {
            None => self.close_lane(id),
            Some(phase) => {
                let phase = lane.limited(phase);
                lane.phase = phase;
                match (phase, lane.group) {
                    (Phase::Limited, Some(group)) => self.queue_up(id, group),
                    (Phase::Ready, _) => self.ready.push_back(id),
                    (Phase::Delayed(at_ms), _) => {
                        self.delayed.insert((at_ms, id));
                    }
                    (Phase::Running(_) | Phase::Resting | Phase::Limited, _) => {}
                }
            }
        }
    }
}

/// The bound just above a position. It need not be the position of an event.
pub(super) const fn after(position: Position) -> Position {
    Position(position.0.saturating_add(1))
}

const _: () = assert!(before(after(Position(7))).0 == 7);
