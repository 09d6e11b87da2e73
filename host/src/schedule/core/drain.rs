//! Deferred events come back: asked for in chunks, oldest first, never more than there is room for.

use super::lane::{DrainState, Lane, Phase};
use super::place::DRAIN_CHUNK;
use super::{Entry, KeyScheduler, before};
use crate::event::{Key, Position};

/// Events that a drain asks for where other keys want some, too, so that several are answered at a time; and
/// that of a slow key: it would not use more before the memory is wanted.
const DRAIN_CHUNK_SMALL: usize = 16;

/// A request to find deferred events of one key again. To be answered by
/// [`KeyScheduler::refill`], in whatever order requests of different keys are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    /// The key.
    pub key: Key,
    /// The first position to look at.
    pub from: Position,
    /// The last position to look at.
    pub to: Position,
    /// Events to bring at most; room is kept for that many.
    pub limit: usize,
    lane: usize,
    stamp: u64,
}

/// What became of a refill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refill {
    /// This many events were taken.
    Taken(usize),
    /// The key waits again, or everything was dropped: nothing was taken.
    Stale,
}

impl<T> KeyScheduler<T> {
    /// The next key whose deferred events are wanted, where there is room for some.
    pub fn next_drain(&mut self) -> Option<Drain> {
        loop {
            let count_max = self.bounds.in_flight_count_max;
            let room = count_max.saturating_sub(self.in_flight + self.reserved);
            let bytes_full =
                self.in_flight > 0 && self.in_flight_bytes >= self.bounds.in_flight_bytes_max;
            if room == 0 || bytes_full {
                return None;
            }
            let (id, stamp) = self.drains.pop_front()?;
            let Some(lane) = self.lanes.get_mut(id) else { continue };
            if lane.drain != DrainState::Wanted(stamp) {
                continue;
            }
            self.drains_wanted -= 1;
            lane.drain = DrainState::Idle;
            let (Some(deferred), Some(key)) = (lane.deferred, lane.key.clone()) else { continue };
            let chunk = match lane.slow || self.drains_wanted > 0 {
                _ if deferred.first == deferred.last => 1,
                true => DRAIN_CHUNK_SMALL,
                false => DRAIN_CHUNK,
            };
            let group = lane.group;
            let useful = self.drain_limit(group);
            let limit = chunk.min(room).min(count_max.div_ceil(4)).min(useful);
            let Some(lane) = self.lanes.get_mut(id) else { continue };
            lane.drain = DrainState::Asked { stamp, limit };
            self.reserved += limit;
            return Some(Drain {
                key,
                from: deferred.first,
                to: deferred.last,
                limit,
                lane: id,
                stamp,
            });
        }
    }

    /// Whether [`next_drain`](Self::next_drain) is likely to have an answer.
    #[must_use]
    pub const fn wants_drain(&self) -> bool {
        let room = self.bounds.in_flight_count_max > self.in_flight + self.reserved;
        let bytes = self.in_flight == 0 || self.in_flight_bytes < self.bounds.in_flight_bytes_max;
        self.drains_wanted > 0 && room && bytes
    }

    /// Takes the events that a drain found, in the order of positions, without those that are not
    /// for the plugin or complete. `reached` is the position up to which nothing was left out: `to`
    /// where the drain found all. What finds no room, and what follows it, stays deferred.
    ///
    /// A drain that failed is answered with no events and a `reached` before `from`; it will be
    /// asked for again at once, so the driver is the one to wait.
    pub fn refill(
        &mut self,
        drain: &Drain,
        entries: impl IntoIterator<Item = Entry<T>>,
        reached: Position,
    ) -> Refill {
        let id = drain.lane;
        let Some(lane) = self.lanes.get(id) else { return Refill::Stale };
        if lane.drain != (DrainState::Asked { stamp: drain.stamp, limit: drain.limit }) {
            return Refill::Stale;
        }
        self.cancel_drain(id);
        let reached = reached.min(drain.to);
        let mut done = before(drain.from);
        let mut taken = 0;
        let mut left = None;
        for entry in entries {
            if entry.position <= done || entry.position > reached {
                continue;
            }
            if !self.admits() {
                left = Some(before(entry.position));
                break;
            }
            done = entry.position;
            self.push(id, entry.position, entry.weight, entry.item);
            taken += 1;
        }
        self.advance(id, left.unwrap_or(reached), taken as u64);
        self.place(id);
        Refill::Taken(taken)
    }

    /// Whether one event more is within the bounds; the quarter kept for drains included.
    const fn admits(&self) -> bool {
        let count = self.in_flight + self.reserved < self.bounds.in_flight_count_max;
        let bytes = self.in_flight == 0 || self.in_flight_bytes < self.bounds.in_flight_bytes_max;
        count && bytes
    }

    /// A moment to give to [`shed_slow`](Self::shed_slow) later.
    #[must_use]
    pub const fn mark(&self) -> u64 {
        self.stamp
    }

    /// Defers what stands behind deliveries that have been running since `mark` without end, and
    /// says how much room that made. For when the bounds stay exhausted: slow keys must not keep
    /// other keys out of memory. Linear in the keys known.
    pub fn shed_slow(&mut self, mark: u64) -> usize {
        let is_slow = |lane: &Lane| {
            let since = matches!(lane.phase, Phase::Running(stamp) if stamp <= mark);
            since && lane.waiting.is_none() && lane.queue.len() > 1
        };
        let slow = self.lanes.iter().filter(|(_, lane)| is_slow(lane)).map(|(id, _)| id);
        let slow: Vec<usize> = slow.collect();
        let before = self.in_flight;
        for id in slow {
            self.shed(id, 1);
            if let Some(lane) = self.lanes.get_mut(id) {
                lane.slow = true;
            }
        }
        before - self.in_flight
    }
}
