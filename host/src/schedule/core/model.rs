//! Random interleavings of everything one can do to a scheduler, against a naive model: a list of
//! events with what became of each.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{
    Assignment, Bounds, Drain, Entry, Finish, Finished, KeyScheduler, Refill, Restored, Ticket,
    Until,
};
use crate::event::{Key, Position};

/// One event of the model's log. Its position is its index + 1.
#[derive(Debug, Clone)]
struct Logged {
    key: Option<u8>,
    weight: usize,
    /// Whether it is for the plugin.
    matches: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    Due(u64),
    Parked,
    /// Due, redriven or given back; not finished yet.
    Free,
}

struct World {
    log: Vec<Logged>,
    bounds: Bounds,
    weight_max: usize,
    sched: KeyScheduler<u64>,
    /// The feeder is past this position.
    fed: u64,
    scanned: u64,
    done: BTreeSet<u64>,
    failures: BTreeMap<u64, u32>,
    waits: BTreeMap<u64, Wait>,
    returned: BTreeSet<u64>,
    redriven: BTreeSet<u64>,
    held: BTreeSet<u8>,
    owned: Vec<(Ticket, u64)>,
    stale: Vec<Ticket>,
    drains: Vec<Drain>,
    now_ms: u64,
    mark: u64,
}

fn key(name: u8) -> Key {
    Key::new(&format!("k{name}")).unwrap()
}

impl World {
    fn new(log: Vec<Logged>, bounds: Bounds) -> Self {
        let weight_max = log.iter().map(|event| event.weight).max().unwrap_or(0);
        Self {
            log,
            bounds,
            weight_max,
            sched: KeyScheduler::new(bounds),
            fed: 0,
            scanned: 0,
            done: BTreeSet::new(),
            failures: BTreeMap::new(),
            waits: BTreeMap::new(),
            returned: BTreeSet::new(),
            redriven: BTreeSet::new(),
            held: BTreeSet::new(),
            owned: Vec::new(),
            stale: Vec::new(),
            drains: Vec::new(),
            now_ms: 1000,
            mark: 0,
        }
    }

    fn at(&self, position: u64) -> &Logged {
        &self.log[usize::try_from(position).unwrap() - 1]
    }

    fn is_open(&self, position: u64) -> bool {
        self.at(position).matches && !self.done.contains(&position)
    }

    fn open_of(&self, name: u8, from: u64, to: u64) -> Vec<u64> {
        let of_key = |p: &u64| self.at(*p).key == Some(name) && self.is_open(*p);
        (from..=to).filter(of_key).collect()
    }

    fn entry(&self, position: u64) -> Entry<u64> {
        let event = self.at(position);
        Entry {
            position: Position(position),
            key: event.key.map(key),
            weight: event.weight,
            item: position,
        }
    }

    fn offer(&mut self, most: usize) {
        for _ in 0..most {
            let position = self.fed + 1;
            if position > self.log.len() as u64 {
                return;
            }
            if self.is_open(position) {
                let had_room = self.sched.has_room();
                if let Err(entry) = self.sched.offer(self.entry(position)) {
                    assert!(!had_room, "an event was refused though there was room");
                    assert_eq!(entry.item, position);
                    return;
                }
            }
            self.fed = position;
        }
    }

    fn scan(&mut self) {
        self.scanned = self.fed;
        self.sched.scanned(Position(self.fed));
    }

    fn take(&mut self) -> bool {
        let takeable = self.sched.takeable();
        let Some(taken) = self.sched.take() else {
            assert_eq!(takeable, 0);
            return false;
        };
        assert!(!self.sched.is_paused());
        self.check_taken(&taken);
        self.owned.push((taken.ticket, taken.position.0));
        true
    }

    fn check_taken(&self, taken: &Assignment<u64>) {
        let position = taken.position.0;
        let event = self.at(position);
        assert!(self.is_open(position), "{position} is not for the plugin, or complete");
        assert!(position <= self.fed || self.waits.contains_key(&position));
        assert!(self.owned.iter().all(|(_, p)| *p != position), "{position} has two owners");
        assert_eq!(taken.key, event.key.map(key));
        if let Some(name) = event.key {
            assert!(!self.held.contains(&name), "a held key was handed out");
            assert_eq!(self.open_of(name, 1, position), [position], "out of order");
            let owns = |(_, p): &(Ticket, u64)| self.at(*p).key == Some(name);
            assert!(!self.owned.iter().any(owns), "a key has two owners");
        }
        let failures = self.failures.get(&position).copied().unwrap_or(0);
        assert_eq!(taken.attempt, failures + 1);
        match self.waits.get(&position) {
            None => {
                let known = taken.item == Some(position);
                assert!(known || self.returned.contains(&position));
            }
            Some(Wait::Free) => assert_eq!(taken.item, None),
            Some(Wait::Due(at_ms)) => {
                assert!(*at_ms <= self.now_ms, "{position} is early");
                assert_eq!(taken.item, None);
            }
            Some(Wait::Parked) => panic!("parked {position} was handed out"),
        }
        assert!(taken.redriven || !self.redriven.contains(&position));
    }

    fn finish(&mut self, index: usize, how: u8) {
        if self.owned.is_empty() {
            return;
        }
        let (ticket, position) = self.owned.swap_remove(index % self.owned.len());
        let (finish, wait) = match how % 8 {
            0..4 => (Finish::Done, None),
            4 | 5 => {
                let at_ms = self.now_ms + u64::from(how);
                (Finish::RetryAt { at_ms, first_ms: 1 }, Some(Wait::Due(at_ms)))
            }
            6 => (Finish::Park, Some(Wait::Parked)),
            _ => (Finish::Return, None),
        };
        let parks = self.at(position).key.is_some();
        let waited = self.waits_at(position);
        let got = self.sched.finish(ticket, finish);
        assert_ne!(got, Finished::Stale);
        match (finish, wait) {
            (Finish::Return, _) => {
                self.returned.insert(position);
                self.waits.entry(position).and_modify(|wait| *wait = Wait::Free);
            }
            (Finish::Park, Some(wait)) if parks => self.fail(position, wait),
            (Finish::RetryAt { .. }, Some(wait)) => self.fail(position, wait),
            _ => {
                self.done.insert(position);
                self.waits.remove(&position);
            }
        }
        let over = !waited && self.waiting() > self.bounds.waiting_max;
        let expected = match (self.waits_at(position), over) {
            (false, _) => Finished::Released,
            (true, false) => Finished::Waits,
            (true, true) => Finished::WaitsOver,
        };
        assert_eq!(got, expected);
        assert_eq!(self.sched.finish(ticket, Finish::Done), Finished::Stale);
    }

    fn waits_at(&self, position: u64) -> bool {
        self.waits.contains_key(&position)
            || self.at(position).key.is_some_and(|name| self.held.contains(&name))
    }

    fn fail(&mut self, position: u64, wait: Wait) {
        *self.failures.entry(position).or_default() += 1;
        self.waits.insert(position, wait);
    }

    fn waiting(&self) -> usize {
        let keys = self.waits.keys().filter_map(|p| self.at(*p).key);
        let keys: BTreeSet<u8> = keys.chain(self.held.iter().copied()).collect();
        keys.len() + self.waits.keys().filter(|p| self.at(**p).key.is_none()).count()
    }

    fn ask_drain(&mut self) -> bool {
        let wanted = self.sched.wants_drain();
        let Some(drain) = self.sched.next_drain() else {
            assert!(!wanted, "a drain is wanted but not asked for");
            return false;
        };
        assert!(drain.limit > 0 && drain.from <= drain.to);
        self.drains.push(drain);
        true
    }

    /// Answers a drain as a driver would: all of a chunk, a part, more than asked for, or nothing.
    fn answer_drain(&mut self, index: usize, how: u8) {
        if self.drains.is_empty() {
            return;
        }
        let drain = self.drains.swap_remove(index % self.drains.len());
        let name: u8 = drain.key.as_str()[1..].parse().unwrap();
        let owned: BTreeSet<u64> = self.owned.iter().map(|(_, p)| *p).collect();
        // A driver may read on past what it was asked for: that is not to count.
        let end = if how % 6 == 5 { self.log.len() as u64 } else { drain.to.0 };
        let found = self.open_of(name, drain.from.0, end);
        let limit = match how % 6 {
            0 => 0,
            1 => 1,
            2 => drain.limit + 3,
            _ => drain.limit,
        };
        let chunk: Vec<u64> = found.iter().copied().take(limit).collect();
        let reached = match chunk.last() {
            _ if chunk.len() == found.len() && limit > 0 => Position(end),
            Some(last) => Position(*last),
            None => Position(drain.from.0 - 1),
        };
        let entries: Vec<_> = chunk.iter().map(|p| self.entry(*p)).collect();
        if let Refill::Taken(taken) = self.sched.refill(&drain, entries, reached) {
            assert!(taken <= chunk.len());
            assert!(chunk.iter().take(taken).all(|p| !owned.contains(p)));
        }
        assert_eq!(self.sched.refill(&drain, [], drain.to), Refill::Stale);
    }

    fn hold(&mut self, name: u8) {
        assert_eq!(self.sched.hold(&key(name)), self.held.insert(name));
    }

    fn parked(&self, name: u8) -> Option<u64> {
        let parked = |(p, wait): (&u64, &Wait)| {
            (self.at(*p).key == Some(name) && *wait == Wait::Parked).then_some(*p)
        };
        self.waits.iter().find_map(parked)
    }

    fn release(&mut self, name: u8) {
        let parked = self.parked(name);
        let had = self.held.remove(&name) || parked.is_some();
        assert_eq!(self.sched.release(&key(name)), had);
        if let Some(position) = parked {
            self.waits.remove(&position);
            self.done.insert(position);
        }
    }

    fn redrive(&mut self, name: u8) {
        let parked = self.parked(name);
        assert_eq!(self.sched.redrive(&key(name)), parked.is_some());
        if let Some(position) = parked {
            self.waits.insert(position, Wait::Free);
            self.redriven.insert(position);
        }
    }

    /// The same, but for keys that are parked or held.
    fn seen(&self) -> u64 {
        let aside = |p: &u64| {
            let key = self.at(*p).key;
            key.is_some_and(|name| self.held.contains(&name) || self.parked(name).is_some())
        };
        let first = (1..=self.scanned).find(|p| self.is_open(*p) && !aside(p));
        first.map_or(self.scanned, |first| first - 1)
    }

    /// The highest position at and below which nothing is open.
    fn low(&self) -> u64 {
        (1..=self.scanned).find(|p| self.is_open(*p)).map_or(self.scanned, |first| first - 1)
    }

    fn forget_memory(&mut self) {
        self.stale.extend(self.owned.drain(..).map(|(ticket, _)| ticket));
        self.returned.clear();
        self.redriven.clear();
        self.sched.drop_all();
        for name in self.held.clone() {
            assert!(self.sched.hold(&key(name)));
        }
    }

    fn restored(&self, position: u64) -> Restored {
        let wait = self.waits.get(&position).copied();
        Restored {
            position: Position(position),
            key: self.at(position).key.map(key),
            attempt: self.failures.get(&position).copied().unwrap_or(0) + 1,
            first_ms: wait.map(|_| 1),
            until: match wait {
                Some(Wait::Due(at_ms)) => Until::Due(at_ms),
                Some(Wait::Parked) => Until::Parked,
                Some(Wait::Free) | None => Until::Now,
            },
        }
    }

    /// Starts over with the waiting entries alone and reads everything after `low` again.
    fn restart_from_low(&mut self) {
        let low = self.low();
        self.forget_memory();
        for position in self.waits.keys().copied().collect::<Vec<_>>() {
            assert!(self.sched.restore_waiting(self.restored(position)));
        }
        (self.fed, self.scanned) = (low, low);
        self.sched.scanned(Position(low));
    }

    /// Starts over with everything that was incomplete, and reads on where it was.
    fn restart_from_scanned(&mut self) {
        self.forget_memory();
        self.fed = self.scanned;
        self.sched.scanned(Position(self.scanned));
        let known = |p: &u64| *p <= self.scanned || self.waits.contains_key(p);
        let all = 1..=self.log.len() as u64;
        let open: Vec<u64> = all.filter(|p| known(p) && self.is_open(*p)).collect();
        let mut seen = BTreeSet::new();
        for position in open {
            let name = self.at(position).key;
            if name.is_some_and(|name| !seen.insert(name)) {
                continue;
            }
            assert!(self.sched.restore_waiting(self.restored(position)));
            self.waits.entry(position).or_insert(Wait::Free);
        }
    }

    fn step(&mut self, op: u8, arg: u8) {
        let index = usize::from(arg);
        match op % 32 {
            0..6 => self.offer(index % 16),
            6 | 7 => self.scan(),
            8..13 => {
                self.take();
            }
            13..18 => self.finish(index, arg / 4),
            18 => {
                self.now_ms += u64::from(arg);
                self.sched.due(self.now_ms);
            }
            19 | 20 => {
                self.ask_drain();
            }
            21..24 => self.answer_drain(index, arg / 7),
            24 => self.sched.pause(),
            25 | 26 => self.sched.resume(),
            27 => self.hold(arg % 4),
            28 => self.release(arg % 4),
            29 => self.redrive(arg % 4),
            30 if arg < 85 => self.mark = self.sched.mark(),
            30 => {
                self.sched.shed_slow(self.mark);
            }
            _ if arg < 20 => self.restart_from_low(),
            _ if arg < 40 => self.restart_from_scanned(),
            _ => {
                for ticket in &self.stale {
                    assert_eq!(self.sched.finish(*ticket, Finish::Done), Finished::Stale);
                }
            }
        }
    }

    fn check(&self) {
        let cursor = self.sched.cursor();
        assert_eq!(cursor.scanned.0, self.scanned);
        assert!(cursor.low.0 <= self.low(), "{cursor:?} is past what is complete");
        assert!(cursor.seen.0 <= self.seen(), "{cursor:?} has seen too much");
        assert!(cursor.seen >= cursor.low, "{cursor:?}");
        if cursor.deferred == 0 {
            assert_eq!(cursor.low.0, self.low(), "{cursor:?}");
            assert_eq!(cursor.seen.0, self.seen(), "{cursor:?}");
        }
        assert!(cursor.in_flight <= self.bounds.in_flight_count_max, "{cursor:?}");
        let most = self.bounds.in_flight_bytes_max + self.weight_max;
        assert!(cursor.in_flight_bytes <= most, "{cursor:?}");
        assert_eq!(cursor.waiting, self.waiting());
        assert_eq!(cursor.running, self.owned.len());
        for (_, lane) in self.sched.lanes.iter().filter(|(_, lane)| lane.waits()) {
            let running = usize::from(lane.is_running() && lane.waiting.is_none());
            assert_eq!(lane.queue.len(), running, "a waiting key has events in memory");
        }
        assert!(cursor.deferred > 0 || cursor.deferred_events == 0, "{cursor:?}");
    }

    /// With everything let go, everything gets done.
    fn quiesce(&mut self) {
        self.sched.resume();
        for name in self.held.clone() {
            self.held.remove(&name);
            self.sched.release(&key(name));
            let parked = self.parked(name);
            self.done.extend(parked);
            self.waits.retain(|p, _| Some(*p) != parked);
        }
        for name in 0..4 {
            self.redrive(name);
        }
        for _ in 0..10 * self.log.len() + 10 {
            self.now_ms += 1000;
            self.sched.due(self.now_ms);
            self.offer(usize::MAX);
            self.scan();
            while self.take() {}
            while !self.owned.is_empty() {
                self.finish(0, 0);
            }
            while self.ask_drain() {}
            while !self.drains.is_empty() {
                self.answer_drain(0, 4);
            }
            self.check();
        }
        let end = self.log.len() as u64;
        assert!((1..=end).all(|p| !self.is_open(p)), "events were lost: {:?}", self.sched);
        let cursor = self.sched.cursor();
        assert_eq!((cursor.low.0, cursor.scanned.0), (end, end));
        assert_eq!((cursor.in_flight, cursor.in_flight_bytes, cursor.waiting), (0, 0, 0));
        assert_eq!((cursor.deferred, cursor.deferred_events, cursor.running), (0, 0, 0));
        assert_eq!(self.sched.lanes.len() + self.sched.by_key.len() + self.sched.reserved, 0);
    }
}

fn logged() -> impl Strategy<Value = Logged> {
    let keys = prop_oneof![1 => Just(None), 4 => (0_u8..4).prop_map(Some)];
    (keys, 1_usize..20, prop::bool::weighted(0.9)).prop_map(|(key, weight, matches)| Logged {
        key,
        weight,
        matches,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_interleaving_keeps_order_and_loses_nothing(
        log in prop::collection::vec(logged(), 1..80),
        (count, bytes, waiting_max) in (1_usize..12, 10_usize..150, 0_usize..5),
        ops in prop::collection::vec((any::<u8>(), any::<u8>()), 0..400),
    ) {
        let bounds =
            Bounds { in_flight_count_max: count, in_flight_bytes_max: bytes, waiting_max };
        let mut world = World::new(log, bounds);
        for (op, arg) in ops {
            world.step(op, arg);
            world.check();
        }
        world.quiesce();
    }
}
