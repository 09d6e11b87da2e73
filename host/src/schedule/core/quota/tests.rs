//! Limits against a world with a simulated clock: what begins when, in which order.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{Quota, Quotas};
use crate::event::{Key, Position};
use crate::schedule::core::{Bounds, Entry, Finish, KeyScheduler, Pace, Ticket};

struct World {
    /// The key of each event; its position is its index + 1.
    log: Vec<Option<String>>,
    fed: usize,
    sched: KeyScheduler<()>,
    now_ms: u64,
    /// Ticket, position, end.
    running: Vec<(Ticket, u64, u64)>,
    /// When each event began.
    begun: BTreeMap<u64, u64>,
    done: Vec<u64>,
    in_flight_max: usize,
}

fn quota(rate: u32, concurrency: u32) -> Quota {
    Quota { rate, concurrency }
}

impl World {
    fn new(log: Vec<Option<String>>, in_flight_max: usize, quotas: &Quotas) -> Self {
        let bounds = Bounds {
            in_flight_count_max: in_flight_max,
            in_flight_bytes_max: usize::MAX,
            waiting_max: 1000,
        };
        let mut sched = KeyScheduler::new(bounds);
        sched.set_quotas(quotas, 0);
        let (running, begun, done) = (Vec::new(), BTreeMap::new(), Vec::new());
        Self { log, fed: 0, sched, now_ms: 0, running, begun, done, in_flight_max }
    }

    fn entry(&self, index: usize) -> Entry<()> {
        let key = self.log[index].as_deref().map(|key| Key::new(key).unwrap());
        Entry { position: Position(index as u64 + 1), key, weight: 1, item: () }
    }

    fn feed(&mut self) {
        while self.fed < self.log.len() && self.sched.offer(self.entry(self.fed)).is_ok() {
            self.fed += 1;
        }
        self.sched.scanned(Position(self.fed as u64));
        while let Some(drain) = self.sched.next_drain() {
            let from = usize::try_from(drain.from.0).unwrap() - 1;
            let to = usize::try_from(drain.to.0).unwrap();
            let of_key = |index: &usize| {
                let position = *index as u64 + 1;
                self.log[*index].as_deref() == Some(drain.key.as_str())
                    && !self.done.contains(&position)
            };
            let all: Vec<usize> = (from..to).filter(of_key).collect();
            let found: Vec<usize> = all.iter().copied().take(drain.limit).collect();
            let reached = if found.len() == all.len() { to } else { found[found.len() - 1] + 1 };
            let entries: Vec<_> = found.iter().map(|index| self.entry(*index)).collect();
            self.sched.refill(&drain, entries, Position(reached as u64));
        }
        assert!(self.sched.cursor().in_flight <= self.in_flight_max);
    }

    /// One moment: what is over ends, what may begin begins on `workers`, each for `took_ms`.
    fn step(&mut self, workers: usize, took_ms: u64, fuel: u64) {
        self.sched.due(self.now_ms);
        let over: Vec<_> = self.running.extract_if(.., |(.., end)| *end <= self.now_ms).collect();
        for (ticket, position, _) in over {
            self.sched.spend(fuel);
            self.sched.finish(ticket, Finish::Done);
            self.done.push(position);
        }
        self.feed();
        while self.running.len() < workers {
            let takeable = self.sched.takeable();
            let Some(taken) = self.sched.take() else {
                assert_eq!(takeable, 0);
                break;
            };
            assert!(takeable > 0);
            self.begun.insert(taken.position.0, self.now_ms);
            self.running.push((taken.ticket, taken.position.0, self.now_ms + took_ms));
            self.feed();
        }
    }

    fn is_over(&self) -> bool {
        self.done.len() == self.log.len()
    }

    fn of(&self, prefix: &str) -> impl Iterator<Item = u64> {
        self.log.iter().enumerate().filter_map(move |(index, key)| {
            let fits = key.as_deref().unwrap_or("").starts_with(prefix);
            fits.then_some(index as u64 + 1)
        })
    }

    /// That what began of some events kept a rate, over every window.
    fn check_rate(&self, positions: impl Iterator<Item = u64>, rate: u32) {
        let mut begun: Vec<u64> =
            positions.filter_map(|position| self.begun.get(&position).copied()).collect();
        begun.sort_unstable();
        let (rate, burst) = (u64::from(rate), u64::from((rate / 10).max(1)));
        for (first, from) in begun.iter().enumerate() {
            for (last, to) in begun.iter().enumerate().skip(first) {
                let most = burst + (to - from) * rate / 1000 + 1;
                assert!((last - first + 1) as u64 <= most, "{from} to {to} ms: over {rate}/s");
            }
        }
    }

    fn running_of(&self, prefix: &str) -> usize {
        let fits = |position: &u64| {
            let key = self.log[usize::try_from(*position).unwrap() - 1].as_deref();
            key.unwrap_or("").starts_with(prefix)
        };
        self.running.iter().filter(|(_, position, _)| fits(position)).count()
    }

    fn check_order(&self) {
        let mut last: BTreeMap<&str, u64> = BTreeMap::new();
        for position in &self.done {
            let index = usize::try_from(*position).unwrap() - 1;
            let Some(key) = self.log[index].as_deref() else { continue };
            let before = last.insert(key, *position);
            assert!(before.is_none_or(|before| before < *position), "`{key}` is out of order");
        }
    }
}

#[test]
fn a_throttled_prefix_holds_back_only_its_own_keys_and_takes_no_memory() {
    let eu = (0..2000).map(|n| Some(format!("eu/{}", n % 50)));
    let us = (0..500).map(|n| Some(format!("us/{}", n % 5)));
    let prefixes = vec![("eu/".into(), quota(10, 0))];
    let quotas = Quotas { prefixes, ..Quotas::default() };
    let mut world = World::new(eu.chain(us).collect(), 16, &quotas);
    while world.of("us/").any(|position| !world.begun.contains_key(&position)) {
        world.step(4, 0, 0);
        assert_eq!(world.now_ms, 0, "other keys waited");
        if world.running.iter().all(|(.., end)| *end > 0) {
            break;
        }
    }
    world.step(4, 0, 0);
    let cursor = world.sched.cursor();
    assert_eq!((world.fed, cursor.in_flight), (2500, 0));
    assert_eq!((cursor.waiting, cursor.throttled), (50, 50));
    assert!(cursor.deferred_events > 1900);
    let (throttle, keys) = world.sched.throttled().next().unwrap();
    assert_eq!((throttle.limit, keys), ("limits.prefixes.rate", 50));
    assert_eq!(throttle.prefix.as_deref(), Some("eu/"));
    let key = Key::new("eu/7").unwrap();
    assert_eq!(world.sched.look(&key).unwrap().throttle, Some(throttle));
}

#[test]
fn a_throttled_key_does_not_count_as_one_that_waits_too_long() {
    let log = (0..50).map(|n| Some(format!("eu/{n}"))).collect();
    let prefixes = vec![("eu/".into(), quota(1, 0))];
    let mut world = World::new(log, 100, &Quotas { prefixes, ..Quotas::default() });
    world.sched.set_bounds(Bounds { waiting_max: 3, ..world.sched.bounds() });
    world.step(1, 0, 0);
    let cursor = world.sched.cursor();
    assert_eq!((cursor.throttled, cursor.in_flight), (3, 47));
    assert!(!world.sched.is_over());
}

#[test]
fn the_longest_prefix_counts() {
    let log = ["eu/x", "eu/x", "eu/vip/y", "eu/vip/y"].map(|key| Some(key.to_owned()));
    let prefixes = vec![("eu/".into(), quota(1, 0)), ("eu/vip/".into(), quota(1000, 0))];
    let mut world = World::new(log.to_vec(), 16, &Quotas { prefixes, ..Quotas::default() });
    world.step(4, 0, 0);
    world.step(4, 0, 0);
    assert_eq!(world.begun.keys().copied().collect::<Vec<_>>(), [1, 3, 4]);
}

#[test]
fn fuel_that_was_overdrawn_is_waited_for_by_all_keys() {
    let log = vec![Some("a".to_owned()), Some("b".to_owned()), None];
    let quotas = Quotas { fuel_per_second: 1000, ..Quotas::default() };
    let mut world = World::new(log, 16, &quotas);
    world.step(1, 0, 1100);
    world.step(1, 0, 1100);
    assert_eq!(world.begun.len(), 1);
    let (throttle, held_back) = world.sched.gate().unwrap();
    assert_eq!((throttle.limit, held_back), ("limits.fuel-per-second", 2));
    assert_eq!(world.sched.next_due_ms(), Some(1001));
    world.now_ms = 1000;
    world.step(1, 0, 1100);
    assert_eq!(world.begun.len(), 1);
    world.now_ms = 1001;
    world.step(1, 0, 1100);
    assert_eq!(world.begun.len(), 2);
}

#[test]
fn new_limits_hold_at_once_and_lifted_ones_let_everything_go() {
    let log = (0..40).map(|n| Some(format!("eu/{}", n % 8))).collect();
    let prefixes = vec![("eu/".into(), quota(1, 0))];
    let quotas = Quotas { prefixes, ..Quotas::default() };
    let mut world = World::new(log, 16, &quotas);
    world.step(4, 0, 0);
    world.step(4, 0, 0);
    assert_eq!(world.begun.len(), 1);
    // The same limit again is no new burst.
    world.sched.set_quotas(&quotas, 0);
    world.step(4, 0, 0);
    assert_eq!(world.begun.len(), 1);
    world.sched.set_quotas(&Quotas::default(), 0);
    for _ in 0..100 {
        world.step(4, 0, 0);
    }
    assert!(world.is_over());
    world.check_order();
}

#[test]
fn limits_are_kept_when_everything_else_is_dropped() {
    let log = (0..4).map(|n| Some(format!("eu/{n}"))).collect();
    let all = quota(0, 1);
    let mut world = World::new(log, 16, &Quotas { all, ..Quotas::default() });
    world.step(4, 5, 0);
    assert_eq!(world.running.len(), 1);
    world.sched.drop_all();
    (world.fed, world.running) = (0, Vec::new());
    world.step(4, 5, 0);
    assert_eq!(world.running.len(), 1);
    assert_eq!(world.sched.gate().unwrap().0.limit, "limits.concurrency");
}

fn keys() -> impl Strategy<Value = Option<String>> {
    prop_oneof![
        1 => Just(None),
        3 => (0..4_u8).prop_map(|n| Some(format!("eu/{n}"))),
        3 => (0..4_u8).prop_map(|n| Some(format!("us/{n}"))),
        1 => (0..2_u8).prop_map(|n| Some(format!("x{n}"))),
    ]
}

fn quotas() -> impl Strategy<Value = Quota> {
    (prop_oneof![Just(0), 1..200_u32], prop_oneof![Just(0), 1..4_u32])
        .prop_map(|(rate, concurrency)| quota(rate, concurrency))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn rates_and_concurrency_hold_over_any_window_and_keys_keep_their_order(
        log in prop::collection::vec(keys(), 1..120),
        in_flight_max in 1_usize..20,
        (all, eu, us) in (quotas(), quotas(), quotas()),
        (workers, took_ms, step_ms) in (1_usize..6, 0_u64..40, 1_u64..60),
        fuel_per_second in prop_oneof![Just(0), 1000..50_000_u64],
    ) {
        let prefixes = vec![("eu/".into(), eu), ("us/".into(), us)];
        let quotas = Quotas { fuel_per_second, all, prefixes };
        let mut world = World::new(log, in_flight_max, &quotas);
        while !world.is_over() {
            world.step(workers, took_ms, 100);
            for (prefix, quota) in [("", all), ("eu/", eu), ("us/", us)] {
                let most = usize::try_from(quota.concurrency).unwrap();
                prop_assert!(most == 0 || world.running_of(prefix) <= most);
            }
            // Something always comes next.
            let end = world.running.iter().map(|(.., end)| *end).min();
            let next = end.into_iter().chain(world.sched.next_due_ms()).min();
            let next = next.map_or(world.now_ms, |next| next.max(world.now_ms));
            prop_assert!(next > world.now_ms || world.sched.takeable() > 0 || world.is_over()
                || !world.running.is_empty(), "stuck: {:?}", world.sched);
            world.now_ms = next.max(world.now_ms + step_ms % 7);
        }
        world.check_order();
        for (prefix, quota) in [("", all), ("eu/", eu), ("us/", us)] {
            if quota.rate > 0 {
                world.check_rate(world.of(prefix), quota.rate);
            }
        }
        let cursor = world.sched.cursor();
        prop_assert_eq!((cursor.in_flight, cursor.waiting, cursor.throttled), (0, 0, 0));
        prop_assert_eq!((cursor.deferred_events, world.sched.lanes.len()), (0, 0));
    }
}

#[test]
fn a_broken_plugin_is_probed_within_its_limits() {
    let quotas = Quotas { prefixes: vec![("a".into(), quota(0, 1))], ..Quotas::default() };
    let log = (0..6).map(|key| Some(format!("a{key}"))).collect();
    let mut world = World::new(log, 100, &quotas);
    world.feed();
    world.sched.set_pace(Pace::Still);
    assert_eq!((world.sched.takeable(), world.sched.take()), (0, None));
    assert_eq!(world.sched.next_due_ms(), None);
    world.sched.set_pace(Pace::Probe);
    for _ in 0..3 {
        assert_eq!(world.sched.takeable(), 1);
        let ticket = world.sched.take().unwrap().ticket;
        assert_eq!((world.sched.takeable(), world.sched.take()), (0, None), "one at a time");
        world.sched.finish(ticket, Finish::Done);
    }
    world.sched.drop_all();
    world.sched.set_pace(Pace::Free);
    assert_eq!((world.sched.takeable(), world.sched.is_limited()), (0, true));
}
