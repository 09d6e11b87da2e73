//! Decides which event of one plugin runs next: keys, not partitions.
//!
//! Pure and synchronous: it is told what was read, what was taken and what came of it, and answers
//! with what may run. What must not break: events of one key run one at a time in the order of
//! their positions; every event offered stays *open* until a taker finishes it; and a key that
//! waits is one entry, whatever stands behind it.
//!
//! A key is in one of these situations:
//!
//! * *live*: its events are in memory, the first one ready or running;
//! * *waiting*: its first event failed or an operator holds it. Nothing of it is in memory; later
//!   events are *deferred*, kept as (first, last, count) alone;
//! * *draining*: it waits no longer, but has deferred events. The driver finds them again through
//!   the index, in chunks; events offered meanwhile are deferred too, until a chunk reaches the last.
//!
//! A key that waits for a person (parked or held) stands *aside*: it may do so for months, so its
//! events do not hold back [`Cursor::seen`], from which a restart reads on.
//!
//! A key that is none of these is not known here. Unkeyed events share nothing with each other.

mod drain;
mod fifo;
mod hold;
mod lane;
mod marks;
#[cfg(test)]
mod model;
mod pace;
mod place;
mod quota;
#[cfg(test)]
mod tests;
mod types;

use std::collections::{BTreeSet, HashMap, VecDeque};

use hashbrown::{DefaultHashBuilder, HashSet, HashTable};
use slab::Slab;

pub use self::drain::{Drain, Refill};
use self::fifo::Nodes;
pub use self::hold::{KeyView, Restored};
pub use self::lane::{Deferred, Until};
use self::lane::{Lane, Phase, Reopened, Waiting};
use self::marks::Marks;
pub use self::marks::Settled;
pub use self::place::DRAIN_CHUNK;
use self::quota::Queues;
pub use self::quota::{Quota, Quotas, Throttle};
pub use self::types::{Assignment, Bounds, Cursor, Entry, Finish, Finished, Offer, Pace, Ticket};
use crate::event::{Key, Position};

/// The scheduler of one plugin. `T` is what an event carries.
#[derive(Debug)]
pub struct KeyScheduler<T> {
    bounds: Bounds,
    lanes: Slab<Lane>,
    by_key: HashTable<usize>,
    hasher: DefaultHashBuilder,
    nodes: Nodes<T>,
    ready: VecDeque<usize>,
    delayed: BTreeSet<(u64, usize)>,
    /// Lanes that want a drain; entries whose stamp is out of date are skipped.
    drains: VecDeque<(usize, u64)>,
    drains_wanted: usize,
    /// Where the incomplete events of the lanes are that do not stand aside.
    here: Marks,
    /// The same, of those that do.
    aside: Marks,
    /// Keys that stood aside and do not any more; see [`settled`](Self::settled).
    back: HashSet<Key>,
    /// Lanes that stand aside and of which something else is deferred than was told.
    recounted: HashSet<usize>,
    /// The furthest `seen` given out with keys that are back.
    settled: Position,
    /// Dead letters that are to run again though their key went on, by lane.
    again: HashMap<usize, Reopened>,
    in_flight: usize,
    in_flight_bytes: usize,
    /// Places kept for drains under way.
    reserved: usize,
    waiting: usize,
    /// How many of those wait for a limit, and for nothing else.
    throttled: usize,
    /// Limits, and what stands in line for them; none: there are no limits.
    queues: Option<Queues>,
    running: usize,
    deferred_events: u64,
    scanned: Position,
    offered: Position,
    /// What was restored ahead of `scanned`: done with or not, it is not to be offered again.
    restored: BTreeSet<Position>,
    /// Last stamp given out. Never starts over, so that what is late is known for it.
    stamp: u64,
    paused: bool,
    pace: Pace,
}

impl<T> KeyScheduler<T> {
    /// An empty scheduler.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        let in_flight_count_max = bounds.in_flight_count_max.max(1);
        Self {
            bounds: Bounds { in_flight_count_max, ..bounds },
            lanes: Slab::new(),
            by_key: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            nodes: Nodes::new(),
            ready: VecDeque::new(),
            delayed: BTreeSet::new(),
            drains: VecDeque::new(),
            drains_wanted: 0,
            here: Marks::default(),
            aside: Marks::default(),
            back: HashSet::new(),
            recounted: HashSet::new(),
            settled: Position(0),
            again: HashMap::new(),
            in_flight: 0,
            in_flight_bytes: 0,
            reserved: 0,
            waiting: 0,
            throttled: 0,
            queues: None,
            running: 0,
            deferred_events: 0,
            scanned: Position(0),
            offered: Position(0),
            restored: BTreeSet::new(),
            stamp: 0,
            paused: false,
            pace: Pace::Free,
        }
    }

    /// Takes the next event in the order of positions.
    ///
    /// # Errors
    /// Gives the entry back where there is no room for it: offer it again, before any other, once
    /// [`has_room`](Self::has_room). Events of keys that wait or drain need no room.
    pub fn offer(&mut self, entry: Entry<T>) -> Result<Offer, Entry<T>> {
        let position = entry.position;
        if position <= self.offered || self.restored.contains(&position) {
            return Ok(Offer::Known);
        }
        let known = entry.key.as_ref().and_then(|key| self.find(key));
        let offer = match known {
            Some(id) if self.lanes.get(id).is_some_and(Lane::defers) => {
                self.defer(id, position);
                Offer::Deferred
            }
            _ if !self.has_room() => return Err(entry),
            Some(id) => {
                self.push(id, position, entry.weight, entry.item);
                Offer::Queued
            }
            None => {
                let id = self.open_lane(entry.key);
                self.push(id, position, entry.weight, entry.item);
                self.place(id);
                Offer::Ready
            }
        };
        self.offered = position;
        Ok(offer)
    }

    /// Whether [`offer`](Self::offer) takes an event of a key that is not known. While keys want to
    /// drain a quarter of the bounds is theirs, so that new events cannot starve them.
    #[must_use]
    pub const fn has_room(&self) -> bool {
        self.room() > 0
    }

    /// How many events [`offer`](Self::offer) would take now, their bytes aside.
    #[must_use]
    pub const fn room(&self) -> usize {
        let Bounds { in_flight_count_max: mut count, in_flight_bytes_max: mut bytes, .. } =
            self.bounds;
        if self.drains_wanted > 0 {
            count -= count.div_ceil(4);
            bytes -= bytes / 4;
        }
        if self.in_flight_bytes >= bytes && self.in_flight > 0 {
            return 0;
        }
        count.saturating_sub(self.in_flight + self.reserved)
    }

    /// Whether a quarter of the bounds is free for new events: enough to hand over a batch.
    #[must_use]
    pub const fn is_roomy(&self) -> bool {
        let Bounds { in_flight_count_max: count, in_flight_bytes_max: bytes, .. } = self.bounds;
        let few = self.in_flight == 0 || self.in_flight_bytes <= bytes - bytes / 4;
        few && self.has_room() && self.room() >= count / 4
    }

    /// Notes that everything up to `position` was offered, or is not for this plugin.
    pub fn scanned(&mut self, position: Position) {
        self.scanned = self.scanned.max(position);
        self.offered = self.offered.max(position);
        while self.restored.first().is_some_and(|restored| *restored <= self.scanned) {
            self.restored.pop_first();
        }
    }

    /// Hands out the event that has been ready longest, or as [`Pace`] says; none while paused.
    pub fn take(&mut self) -> Option<Assignment<T>> {
        let id = self.next_ready()?;
        self.begun(id);
        self.stamp += 1;
        let stamp = self.stamp;
        let lane = self.lanes.get_mut(id)?;
        lane.phase = Phase::Running(stamp);
        self.running += 1;
        let (position, attempt, first_ms, item) = match lane.waiting {
            Some(waiting) => (waiting.position, waiting.attempt, waiting.first_ms, None),
            None => {
                let head = self.nodes.front_mut(lane.queue)?;
                (head.position, 1, None, head.item.take())
            }
        };
        let again = lane.waiting.is_some_and(|waiting| waiting.again);
        Some(Assignment {
            ticket: Ticket { lane: id, stamp },
            position,
            key: lane.key.clone(),
            attempt,
            first_ms,
            redriven: again || position <= lane.redriven_to,
            again,
            item,
        })
    }

    /// Gives a taken event back: its key is free again, or waits.
    pub fn finish(&mut self, ticket: Ticket, finish: Finish) -> Finished {
        let id = ticket.lane;
        let Some(lane) = self.lanes.get_mut(id) else { return Finished::Stale };
        if lane.phase != Phase::Running(ticket.stamp) {
            return Finished::Stale;
        }
        let (keyed, waited) = (lane.key.is_some(), lane.counted);
        lane.phase = Phase::Resting;
        self.running -= 1;
        self.ended(id);
        let Some(lane) = self.lanes.get_mut(id) else { return Finished::Stale };
        match finish {
            Finish::Done => self.complete(id),
            Finish::Park if !keyed => self.complete(id),
            Finish::Park => self.wait(id, None, Until::Parked),
            Finish::RetryAt { at_ms, first_ms } => {
                self.wait(id, Some(first_ms), Until::Due(at_ms));
            }
            Finish::Return => {
                if let Some(waiting) = &mut lane.waiting {
                    waiting.until = Until::Now;
                }
            }
        }
        let (waits, held) =
            self.lanes.get(id).map_or((false, false), |lane| (lane.waits(), lane.held));
        if held {
            self.shed(id, 0);
        }
        self.place(id);
        match (waits, self.is_over() && !waited) {
            (false, _) => Finished::Released,
            (true, false) => Finished::Waits,
            (true, true) => Finished::WaitsOver,
        }
    }

    /// Takes back an event that was taken and not begun: the same attempt is ready again at once, before
    /// all others.
    pub fn give_back(&mut self, assignment: Assignment<T>) {
        let Assignment { ticket, position, item, .. } = assignment;
        if let Some(lane) = self.lanes.get(ticket.lane)
            && lane.phase == Phase::Running(ticket.stamp)
            && lane.waiting.is_none()
            && let Some(head) = self.nodes.front_mut(lane.queue)
            && head.position == position
        {
            head.item = item;
        }
        self.finish(ticket, Finish::Return);
        if self.ready.back() == Some(&ticket.lane) {
            self.ready.rotate_right(1);
        }
    }

    /// The bounds in force.
    #[must_use]
    pub const fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Whether more lanes wait than `waiting_max`, those that do for a limit aside.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.waiting > self.bounds.waiting_max.saturating_add(self.throttled)
    }

    /// Makes ready what is due at `now_ms` of the log clock, and says how much that was.
    pub fn due(&mut self, now_ms: u64) -> usize {
        self.fill(now_ms);
        let mut count = 0;
        while let Some(&(at_ms, id)) = self.delayed.first()
            && at_ms <= now_ms
        {
            self.unplace(id);
            if let Some(Lane { waiting: Some(waiting), .. }) = self.lanes.get_mut(id) {
                waiting.until = Until::Now;
            }
            self.place(id);
            count += 1;
        }
        count
    }

    /// Log time at which the next waiting event is due, or a limit lets something go on.
    #[must_use]
    pub fn next_due_ms(&self) -> Option<u64> {
        let delayed = self.delayed.first().map(|&(at_ms, _)| at_ms);
        delayed.into_iter().chain(self.gate_opens_ms()).min()
    }

    /// How far the plugin is.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        let upto = |first: Option<Position>| {
            first.map_or(self.scanned, |first| self.scanned.min(before(first)))
        };
        let seen = upto(self.here.first());
        let deferred = self.here.deferred() + self.aside.deferred();
        Cursor {
            scanned: self.scanned,
            low: seen.min(upto(self.aside.first())),
            seen,
            in_flight: self.in_flight,
            in_flight_bytes: self.in_flight_bytes,
            running: self.running,
            ready: self.ready.len() + self.queued(),
            waiting: self.waiting,
            throttled: self.throttled,
            retrying: self.delayed.len(),
            deferred,
            // A backlog of which nobody knows since a restart how much it is: one at least, until it is searched.
            deferred_events: self.deferred_events.max(deferred as u64),
            draining: self.drains_wanted + self.reserved > 0,
        }
    }

    /// Replaces the bounds; what is over them already stays.
    pub fn set_bounds(&mut self, bounds: Bounds) {
        let in_flight_count_max = bounds.in_flight_count_max.max(1);
        self.bounds = Bounds { in_flight_count_max, ..bounds };
    }

    /// Forgets every event, key and position; all tickets and drains out there become stale. Whether
    /// it is paused, and its limits, stay.
    pub fn drop_all(&mut self) {
        let Self { stamp, paused, pace, .. } = *self;
        let queues = self.queues.take().map(Queues::emptied);
        *self = Self { stamp, paused, pace, queues, ..Self::new(self.bounds) };
    }

    /// The event that a taker gave back, or had, becomes the waiting entry of its lane.
    fn wait(&mut self, id: usize, first_ms: Option<u64>, until: Until) {
        let Some(lane) = self.lanes.get_mut(id) else { return };
        if let Some(waiting) = &mut lane.waiting {
            *waiting = Waiting { attempt: waiting.attempt + 1, first_ms, until, ..*waiting };
        } else if let Some(head) = self.nodes.pop(&mut lane.queue) {
            self.in_flight -= 1;
            self.in_flight_bytes -= head.weight;
            let position = head.position;
            lane.waiting = Some(Waiting { position, attempt: 2, first_ms, until, again: false });
        }
        self.shed(id, 0);
    }
}

/// The bound just below a position. It need not be the position of an event.
const fn before(position: Position) -> Position {
    Position(position.0.saturating_sub(1))
}
