//! The log of a memory bus: a ring of recent events in RAM. It promises order per key and nothing
//! about restarts.

mod apply;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::clock::Clock;
use crate::event::{
    CommitNumber, Event, InstanceId, Key, KeyHash, KeySequence, KeyVariant, NewEvent, Position,
};
use crate::limits::ANSWERS_OVER_MAX;

/// What happens to a publish when every event in the ring is still needed by some plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// It is refused as `queue_full`.
    Reject,
    /// The oldest events are dropped, whoever still needed them.
    DropOldest,
}

/// Whether events of one key are delivered in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// As on a durable bus.
    Key,
    /// All events are unkeyed: no order, no state.
    None,
}

/// How a memory bus is set up.
#[derive(Debug, Clone, Copy)]
pub struct MemoryOptions {
    /// Events the ring holds.
    pub capacity: usize,
    /// What happens when it is full.
    pub overflow: Overflow,
    /// Whether keys have order.
    pub order: Order,
}

/// Why a bus that rejects takes no events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The ring is full of events that are still needed.
    #[error("the memory bus is full: {capacity} events wait for their deliveries")]
    Full {
        /// Events the ring holds.
        capacity: usize,
    },
    /// They would not fit an empty ring.
    #[error("{count} events at a time are too many for a memory bus that holds {capacity}")]
    TooMany {
        /// Events the ring holds.
        capacity: usize,
        /// Events that were to be appended.
        count: usize,
    },
}

/// Whether events may go beyond what the ring of a bus that rejects holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// They may not.
    Nothing,
    /// The answer to a call may: deliveries can wait for it, and what makes room are their ends.
    Answer {
        /// The plugin that called.
        to: InstanceId,
        /// Its deliveries wait until a call is answered.
        is_awaited: bool,
    },
}

/// Reports the position at or below which a consumer needs nothing any more.
pub type LowMark = Box<dyn Fn() -> Position + Send + Sync>;

/// See the module.
pub struct MemoryLog {
    options: MemoryOptions,
    clock: Arc<dyn Clock>,
    ring: Mutex<Ring>,
    last: watch::Sender<Position>,
}

#[derive(Default)]
struct Ring {
    /// Ascending by position, without gaps.
    events: VecDeque<Arc<Event>>,
    last: u64,
    heads: HashMap<KeyHash, u64>,
    consumers: HashMap<InstanceId, LowMark>,
    dropped: u64,
}

impl std::fmt::Debug for MemoryLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryLog").field("options", &self.options).finish_non_exhaustive()
    }
}

impl MemoryLog {
    /// An empty ring.
    #[must_use]
    pub fn new(options: MemoryOptions, clock: Arc<dyn Clock>) -> Self {
        let (last, _) = watch::channel(Position(0));
        Self { options, clock, ring: Mutex::default(), last }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends events, all or none, and wakes the readers. Of more than the ring holds, a bus that drops
    /// keeps the newest.
    ///
    /// # Errors
    /// [`Refusal`], on a bus that rejects.
    pub fn append(&self, events: Vec<NewEvent>, over: Over) -> Result<Vec<Arc<Event>>, Refusal> {
        let recorded_ms = self.clock.wall_ms();
        let mut ring = self.ring();
        self.make_room(&mut ring, events.len(), over)?;
        let mut appended = Vec::with_capacity(events.len());
        for mut body in events {
            if self.options.order == Order::None {
                unkey(&mut body);
            }
            ring.last += 1;
            let sequence = match &body.key {
                Some(key) if body.addressee.is_none() => {
                    let head = ring.heads.entry(key.hash128()).or_default();
                    *head += 1;
                    KeySequence(*head)
                }
                _ => KeySequence(0),
            };
            let position = Position(ring.last);
            let commit = CommitNumber(ring.last);
            let event = Arc::new(Event { position, sequence, recorded_ms, commit, body });
            let drops = self.options.overflow == Overflow::DropOldest;
            if drops && ring.events.len() >= self.options.capacity {
                // Of this batch, which alone is more than there is room for.
                ring.events.pop_front();
            }
            ring.events.push_back(Arc::clone(&event));
            appended.push(event);
        }
        let last = Position(ring.last);
        drop(ring);
        // Whoever appended after that may have said so already.
        self.last.send_modify(|known| *known = last.max(*known));
        Ok(appended)
    }

    fn make_room(&self, ring: &mut Ring, more: usize, over: Over) -> Result<(), Refusal> {
        let capacity = self.options.capacity;
        if more > self.batch_max() {
            return Err(Refusal::TooMany { capacity, count: more });
        }
        let excess = (ring.events.len() + more).saturating_sub(capacity);
        if excess == 0 {
            return Ok(());
        }
        // Without consumers nothing is needed; the ring then keeps the newest for whoever comes.
        let needed = ring.consumers.values().map(|low| low()).min();
        let free = ring
            .events
            .iter()
            .take(excess)
            .take_while(|event| needed.is_none_or(|low| event.position <= low))
            .count();
        if free < excess && needed.is_some() {
            if self.options.overflow == Overflow::Reject {
                if !ring.takes_over(excess - free, over) {
                    return Err(Refusal::Full { capacity });
                }
                ring.events.drain(..free);
                return Ok(());
            }
            ring.dropped += (excess - free) as u64;
        }
        let held = ring.events.len();
        ring.events.drain(..excess.min(held));
        Ok(())
    }

    /// Wall time in milliseconds since the Unix epoch: a memory bus has no clock of its own.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.clock.wall_ms()
    }

    /// Events the ring holds.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.options.capacity
    }

    /// Events that can be appended at a time.
    #[must_use]
    pub fn batch_max(&self) -> usize {
        match self.options.overflow {
            Overflow::Reject => self.options.capacity,
            Overflow::DropOldest => usize::MAX,
        }
    }

    /// Adds a consumer: events above its low mark are kept for it.
    pub fn add_consumer(&self, instance: InstanceId, low: LowMark) {
        self.ring().consumers.insert(instance, low);
    }

    /// Removes a consumer.
    pub fn remove_consumer(&self, instance: InstanceId) {
        self.ring().consumers.remove(&instance);
    }

    /// The last position; changes with every append.
    #[must_use]
    pub fn last(&self) -> watch::Receiver<Position> {
        self.last.subscribe()
    }

    /// Events dropped because the ring was full.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.ring().dropped
    }

    /// Events after a position, oldest first, at most `limit`.
    #[must_use]
    pub fn after(&self, position: Position, limit: usize) -> Vec<Arc<Event>> {
        let ring = self.ring();
        let start = ring.events.partition_point(|event| event.position <= position);
        ring.events.iter().skip(start).take(limit).cloned().collect()
    }

    /// The event at a position, while the ring holds it.
    #[must_use]
    pub fn event(&self, position: Position) -> Option<Arc<Event>> {
        let ring = self.ring();
        let at = ring.events.partition_point(|event| event.position < position);
        ring.events.get(at).filter(|event| event.position == position).cloned()
    }

    /// Positions of a key at or after `from`, ascending, at most `limit`.
    #[must_use]
    pub fn key_positions(&self, key: &Key, from: Position, limit: usize) -> Vec<Position> {
        let ring = self.ring();
        let start = ring.events.partition_point(|event| event.position < from);
        ring.events
            .iter()
            .skip(start)
            .filter(|event| event.key.as_ref() == Some(key))
            .map(|event| event.position)
            .take(limit)
            .collect()
    }

    /// The last position taken before a time; the one before the oldest event still held, where
    /// that is younger.
    #[must_use]
    pub fn position_before(&self, ms: u64) -> Position {
        let ring = self.ring();
        let at = ring.events.partition_point(|event| event.recorded_ms < ms);
        match ring.events.get(at) {
            Some(event) => Position(event.position.0.saturating_sub(1)),
            None => Position(ring.last),
        }
    }

    /// The last sequence of a key.
    #[must_use]
    pub fn head(&self, key: &Key) -> KeySequence {
        KeySequence(self.ring().heads.get(&key.hash128()).copied().unwrap_or_default())
    }
}

impl Ring {
    /// Whether the ring takes events that put it so many above its capacity.
    ///
    /// Where a plugin itself keeps the ring full, and waits for answers to go on, none of them can be
    /// refused: nothing would ever move again. Others wait for whoever keeps it full.
    fn takes_over(&self, above: usize, over: Over) -> bool {
        let Over::Answer { to, is_awaited } = over else { return false };
        let keeps_full = |own| self.consumers.values().all(|low| own <= low());
        let own = || self.consumers.get(&to).map(|low| low());
        above <= ANSWERS_OVER_MAX || (is_awaited && own().is_some_and(keeps_full))
    }
}

/// Takes the key off an event; the attribute it came from stays.
fn unkey(body: &mut NewEvent) {
    let Some(key) = body.key.take() else { return };
    let name = match std::mem::take(&mut body.key_variant) {
        KeyVariant::Subject => "subject",
        KeyVariant::PartitionKey | KeyVariant::None => "partitionkey",
    };
    body.attributes.push((name.into(), key.as_str().into()));
    body.attributes.sort();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    fn log(capacity: usize, overflow: Overflow) -> MemoryLog {
        let options = MemoryOptions { capacity, overflow, order: Order::Key };
        MemoryLog::new(options, Arc::new(SystemClock::new()))
    }

    fn events(keys: &[&str]) -> Vec<NewEvent> {
        keys.iter().map(|key| NewEvent { key: Key::new(key).ok(), ..NewEvent::default() }).collect()
    }

    #[test]
    fn sequences_count_within_their_key() {
        let log = log(8, Overflow::Reject);
        let appended = log.append(events(&["a", "b", "a"]), Over::Nothing).unwrap();
        let numbers: Vec<_> = appended.iter().map(|e| (e.position.0, e.sequence.0)).collect();
        assert_eq!(numbers, [(1, 1), (2, 1), (3, 2)]);
    }

    #[test]
    fn a_full_ring_rejects_while_a_consumer_needs_its_oldest_event() {
        let log = log(2, Overflow::Reject);
        log.add_consumer(InstanceId(1), Box::new(|| Position(0)));
        log.append(events(&["a", "b"]), Over::Nothing).unwrap();
        assert_eq!(log.append(events(&["c"]), Over::Nothing), Err(Refusal::Full { capacity: 2 }));
        log.add_consumer(InstanceId(1), Box::new(|| Position(1)));
        log.append(events(&["c"]), Over::Nothing).unwrap();
        assert_eq!(log.event(Position(1)), None);
        assert!(log.event(Position(2)).is_some());
    }

    #[test]
    fn answers_go_beyond_a_full_ring_up_to_a_bound_and_further_only_where_it_waits_for_them() {
        let log = log(2, Overflow::Reject);
        let answer = |is_awaited| {
            let over = Over::Answer { to: InstanceId(1), is_awaited };
            log.append(events(&["a"]), over).map(|appended| appended[0].position.0)
        };
        log.add_consumer(InstanceId(1), Box::new(|| Position(1)));
        log.add_consumer(InstanceId(2), Box::new(|| Position(0)));
        log.append(events(&["a", "b"]), Over::Nothing).unwrap();
        let full = Refusal::Full { capacity: 2 };
        for n in 1..=ANSWERS_OVER_MAX {
            assert_eq!(answer(false), Ok(2 + n as u64));
        }
        assert_eq!(log.append(events(&["c"]), Over::Nothing), Err(full));
        assert_eq!(answer(false), Err(full));
        assert_eq!(answer(true), Err(full), "another one keeps it full");
        log.add_consumer(InstanceId(2), Box::new(|| Position(1)));
        assert_eq!(answer(false), Ok(3 + ANSWERS_OVER_MAX as u64), "a place was free");
        assert_eq!(log.event(Position(1)), None);
        assert_eq!(answer(false), Err(full));
        assert_eq!(answer(true), Ok(4 + ANSWERS_OVER_MAX as u64), "it could never go on");
        assert!(log.event(Position(2)).is_some(), "nothing is dropped that is needed");
    }

    #[test]
    fn a_ring_that_drops_counts_what_it_dropped() {
        let log = log(2, Overflow::DropOldest);
        log.add_consumer(InstanceId(1), Box::new(|| Position(0)));
        log.append(events(&["a", "b"]), Over::Nothing).unwrap();
        log.append(events(&["c"]), Over::Nothing).unwrap();
        assert_eq!(log.dropped(), 1);
        let left: Vec<_> = log.after(Position(0), 10).iter().map(|e| e.position.0).collect();
        assert_eq!(left, [2, 3]);
    }

    #[test]
    fn what_no_ring_could_hold_is_not_called_full() {
        let log = log(2, Overflow::Reject);
        let too_many = Refusal::TooMany { capacity: 2, count: 3 };
        assert_eq!(
            log.append(events(&["a", "b", "c"]), Over::Nothing),
            Err(too_many),
            "though it is empty"
        );
        assert_eq!(log.append(events(&["a", "b"]), Over::Nothing).unwrap().len(), 2);
    }

    #[test]
    fn of_a_batch_larger_than_the_ring_the_newest_stay() {
        for consumers in [0, 1] {
            let log = log(2, Overflow::DropOldest);
            if consumers > 0 {
                log.add_consumer(InstanceId(1), Box::new(|| Position(0)));
            }
            log.append(events(&["a"]), Over::Nothing).unwrap();
            let appended = log.append(events(&["b", "c", "b", "d"]), Over::Nothing).unwrap();
            let numbers: Vec<_> = appended.iter().map(|e| (e.position.0, e.sequence.0)).collect();
            assert_eq!(numbers, [(2, 1), (3, 1), (4, 2), (5, 1)]);
            let left: Vec<_> = log.after(Position(0), 10).iter().map(|e| e.position.0).collect();
            assert_eq!(left, [4, 5]);
            assert_eq!(log.dropped(), 3 * consumers, "nobody is there who needs them");
        }
    }

    #[test]
    fn without_order_an_event_has_no_key_but_keeps_its_attribute() {
        let options = MemoryOptions { capacity: 8, overflow: Overflow::Reject, order: Order::None };
        let log = MemoryLog::new(options, Arc::new(SystemClock::new()));
        let appended = log.append(events(&["a"]), Over::Nothing).unwrap();
        assert_eq!(appended[0].key, None);
        assert_eq!(appended[0].attribute("partitionkey"), Some("a"));
    }

    #[test]
    fn a_key_is_found_again_by_position() {
        let log = log(8, Overflow::Reject);
        log.append(events(&["a", "b", "a", "a"]), Over::Nothing).unwrap();
        let key = Key::new("a").unwrap();
        assert_eq!(log.key_positions(&key, Position(2), 10), [Position(3), Position(4)]);
    }
}
