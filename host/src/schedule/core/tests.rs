use super::*;
use crate::event::Key;

mod aside;

/// What a step of a table does, and what the scheduler must say to it.
#[derive(Debug)]
enum Step {
    /// Offers a position of a key (`-`: unkeyed).
    Offer(u64, &'static str, Offer),
    /// The same, and there is no room.
    Full(u64, &'static str),
    Scanned(u64),
    /// Takes this position at this attempt, and whether the item is still there.
    Take(u64, u32, Item),
    TakeNothing,
    Finish(u64, Finish, Finished),
    Due(u64, usize),
    /// The next drain is of this key, from and to these positions.
    Drain(&'static str, u64, u64),
    NoDrain,
    /// Answers the oldest drain with these positions.
    Refill(&'static [u64], u64, Refill),
    Hold(&'static str),
    Release(&'static str),
    Redrive(&'static str),
    Low(u64),
    /// Up to where nothing is incomplete but of keys that stand aside, and how many came back.
    Settled(u64, usize),
    /// Runs a dead letter of a key again that does not park it.
    Reopen(u64, &'static str),
    /// Takes this position, and whether it is redriven.
    TakeRedriven(u64, bool),
    /// In flight, waiting, deferred keys, deferred events.
    Counts(usize, usize, usize, u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Item {
    Here,
    InLog,
}

use Step::{
    Counts, Drain as DrainIs, Due, Finish as End, Full, Hold, Low, NoDrain, Redrive, Release,
    Scanned, Take, TakeNothing,
};

const RETRY: Finish = Finish::RetryAt { at_ms: 50, first_ms: 7 };

fn key(name: &str) -> Option<Key> {
    (name != "-").then(|| Key::new(name).unwrap())
}

fn entry(position: u64, name: &str) -> Entry<u64> {
    Entry { position: Position(position), key: key(name), weight: 1, item: position }
}

fn bounds(in_flight_count_max: usize) -> Bounds {
    Bounds { in_flight_count_max, in_flight_bytes_max: 1 << 20, waiting_max: 2 }
}

fn check(in_flight: usize, steps: &[Step]) {
    let mut sched = KeyScheduler::new(bounds(in_flight));
    let mut tickets = std::collections::BTreeMap::new();
    let mut drains = VecDeque::new();
    for (number, step) in steps.iter().enumerate() {
        let told = format!("step {number}: {step:?}");
        match *step {
            Step::Offer(position, name, offer) => {
                assert_eq!(sched.offer(entry(position, name)), Ok(offer), "{told}");
            }
            Full(position, name) => {
                assert_eq!(
                    sched.offer(entry(position, name)),
                    Err(entry(position, name)),
                    "{told}"
                );
            }
            Scanned(position) => sched.scanned(Position(position)),
            Take(position, attempt, item) => {
                let taken = sched.take().expect(&told);
                let found = if taken.item.is_some() { Item::Here } else { Item::InLog };
                let got = (taken.position.0, taken.attempt, found);
                assert_eq!(got, (position, attempt, item), "{told}");
                tickets.insert(position, taken.ticket);
            }
            TakeNothing => assert_eq!(sched.take(), None, "{told}"),
            End(position, finish, finished) => {
                assert_eq!(sched.finish(tickets[&position], finish), finished, "{told}");
            }
            Due(now_ms, count) => assert_eq!(sched.due(now_ms), count, "{told}"),
            DrainIs(name, from, to) => {
                let drain = sched.next_drain().expect(&told);
                let got = (drain.key.as_str(), drain.from.0, drain.to.0);
                assert_eq!(got, (name, from, to), "{told}");
                drains.push_back(drain);
            }
            NoDrain => assert_eq!(sched.next_drain(), None, "{told}"),
            Step::Refill(positions, reached, refill) => {
                let drain = drains.pop_front().expect(&told);
                let entries = positions.iter().map(|p| entry(*p, drain.key.as_str()));
                let got = sched.refill(&drain, entries, Position(reached));
                assert_eq!(got, refill, "{told}");
            }
            Hold(name) => assert!(sched.hold(&key(name).unwrap()), "{told}"),
            Release(name) => assert!(sched.release(&key(name).unwrap()), "{told}"),
            Redrive(name) => assert!(sched.redrive(&key(name).unwrap()), "{told}"),
            Step::Settled(seen, back) => {
                let settled = sched.settled();
                assert_eq!((settled.seen.0, settled.back.len()), (seen, back), "{told}");
            }
            Step::Reopen(position, name) => {
                let key = key(name);
                assert!(sched.reopen(Position(position), key.as_ref(), 3), "{told}");
            }
            Step::TakeRedriven(position, redriven) => {
                let taken = sched.take().expect(&told);
                assert_eq!((taken.position.0, taken.redriven), (position, redriven), "{told}");
                tickets.insert(position, taken.ticket);
            }
            Low(position) => assert_eq!(sched.cursor().low.0, position, "{told}"),
            Counts(in_flight, waiting, deferred, events) => {
                let cursor = sched.cursor();
                let got =
                    (cursor.in_flight, cursor.waiting, cursor.deferred, cursor.deferred_events);
                assert_eq!(got, (in_flight, waiting, deferred, events), "{told}");
            }
        }
    }
}

#[test]
fn events_of_one_key_run_one_at_a_time_in_order() {
    check(
        9,
        &[
            Step::Offer(1, "a", Offer::Ready),
            Step::Offer(2, "a", Offer::Queued),
            Step::Offer(3, "b", Offer::Ready),
            Take(1, 1, Item::Here),
            Take(3, 1, Item::Here),
            TakeNothing,
            End(1, Finish::Done, Finished::Released),
            Take(2, 1, Item::Here),
            End(1, Finish::Done, Finished::Stale),
            End(2, Finish::Done, Finished::Released),
            End(3, Finish::Done, Finished::Released),
            Counts(0, 0, 0, 0),
        ],
    );
}

#[test]
fn unkeyed_events_do_not_wait_for_each_other() {
    check(
        9,
        &[
            Step::Offer(1, "-", Offer::Ready),
            Step::Offer(2, "-", Offer::Ready),
            Take(1, 1, Item::Here),
            Take(2, 1, Item::Here),
            End(1, RETRY, Finished::Waits),
            End(2, Finish::Park, Finished::Released),
            Counts(0, 1, 0, 0),
            Due(50, 1),
            Take(1, 2, Item::InLog),
            End(1, Finish::Done, Finished::Released),
            Counts(0, 0, 0, 0),
        ],
    );
}

#[test]
fn a_waiting_key_is_one_entry_outside_the_bounds() {
    check(
        2,
        &[
            Step::Offer(1, "a", Offer::Ready),
            Step::Offer(2, "a", Offer::Queued),
            Full(3, "a"),
            Take(1, 1, Item::Here),
            End(1, RETRY, Finished::Waits),
            Counts(0, 1, 1, 1),
            Step::Offer(3, "a", Offer::Deferred),
            Step::Offer(5, "a", Offer::Deferred),
            Step::Offer(6, "b", Offer::Ready),
            Scanned(8),
            Counts(1, 1, 1, 3),
            NoDrain,
            Low(0),
        ],
    );
}

#[test]
fn a_key_is_live_again_only_when_its_drain_reached_the_last_deferred_event() {
    check(
        8,
        &[
            Step::Offer(1, "a", Offer::Ready),
            Take(1, 1, Item::Here),
            End(1, RETRY, Finished::Waits),
            Step::Offer(2, "a", Offer::Deferred),
            Step::Offer(4, "a", Offer::Deferred),
            Scanned(4),
            Due(49, 0),
            Due(50, 1),
            Low(0),
            Take(1, 2, Item::InLog),
            End(1, Finish::Done, Finished::Released),
            Low(1),
            DrainIs("a", 2, 4),
            NoDrain,
            Step::Offer(5, "a", Offer::Deferred),
            Step::Refill(&[2, 4], 4, Refill::Taken(2)),
            Step::Offer(6, "a", Offer::Deferred),
            Scanned(6),
            DrainIs("a", 5, 6),
            Step::Refill(&[5, 6], 6, Refill::Taken(2)),
            Step::Offer(7, "a", Offer::Queued),
            Counts(5, 0, 0, 0),
            Take(2, 1, Item::Here),
            End(2, Finish::Done, Finished::Released),
            Take(4, 1, Item::Here),
            Low(3),
        ],
    );
}

#[test]
fn an_event_that_fails_while_its_key_drains_makes_the_drain_stale() {
    check(
        8,
        &[
            Step::Offer(1, "a", Offer::Ready),
            Step::Offer(2, "a", Offer::Queued),
            Step::Offer(3, "a", Offer::Queued),
            Take(1, 1, Item::Here),
            End(1, RETRY, Finished::Waits),
            Due(50, 1),
            Take(1, 2, Item::InLog),
            End(1, Finish::Done, Finished::Released),
            DrainIs("a", 2, 3),
            Step::Refill(&[2], 2, Refill::Taken(1)),
            DrainIs("a", 3, 3),
            Take(2, 1, Item::Here),
            End(2, RETRY, Finished::Waits),
            Step::Refill(&[3], 3, Refill::Stale),
            Counts(0, 1, 1, 1),
            Due(50, 1),
            Take(2, 2, Item::InLog),
            End(2, Finish::Done, Finished::Released),
            DrainIs("a", 3, 3),
            Step::Refill(&[], 3, Refill::Taken(0)),
            Counts(0, 0, 0, 0),
        ],
    );
}

#[test]
fn parked_key_holds_back_only_itself_and_a_redrive_goes_on_in_order() {
    check(
        8,
        &[
            Step::Offer(1, "a", Offer::Ready),
            Step::Offer(2, "a", Offer::Queued),
            Step::Offer(3, "b", Offer::Ready),
            Take(1, 1, Item::Here),
            End(1, Finish::Park, Finished::Waits),
            Due(u64::MAX, 0),
            Take(3, 1, Item::Here),
            End(3, Finish::Done, Finished::Released),
            TakeNothing,
            NoDrain,
            Redrive("a"),
            Take(1, 2, Item::InLog),
            End(1, Finish::Done, Finished::Released),
            DrainIs("a", 2, 2),
            Step::Refill(&[2], 2, Refill::Taken(1)),
            Take(2, 1, Item::Here),
        ],
    );
}

#[test]
fn released_key_leaves_its_dead_letter_behind() {
    check(
        8,
        &[
            Step::Offer(1, "a", Offer::Ready),
            Take(1, 1, Item::Here),
            End(1, Finish::Park, Finished::Waits),
            Step::Offer(2, "a", Offer::Deferred),
            Release("a"),
            TakeNothing,
            DrainIs("a", 2, 2),
            Step::Refill(&[2], 2, Refill::Taken(1)),
            Take(2, 1, Item::Here),
            End(2, Finish::Done, Finished::Released),
            Counts(0, 0, 0, 0),
        ],
    );
}

#[test]
fn held_key_starts_nothing_though_its_running_delivery_goes_on() {
    check(
        8,
        &[
            Step::Offer(1, "a", Offer::Ready),
            Step::Offer(2, "a", Offer::Queued),
            Take(1, 1, Item::Here),
            Hold("a"),
            Counts(1, 1, 1, 1),
            End(1, Finish::Done, Finished::Waits),
            TakeNothing,
            NoDrain,
            Hold("new"),
            Step::Offer(3, "new", Offer::Deferred),
            Release("new"),
            DrainIs("new", 3, 3),
            Release("a"),
            DrainIs("a", 2, 2),
        ],
    );
}

#[test]
fn more_waiting_keys_than_allowed_ask_for_a_pause() {
    let mut steps = Vec::new();
    for (position, name) in [(1, "a"), (2, "b"), (3, "-"), (4, "c")] {
        let over = if position > 2 { Finished::WaitsOver } else { Finished::Waits };
        steps.push(Step::Offer(position, name, Offer::Ready));
        steps.push(Take(position, 1, Item::Here));
        steps.push(End(position, RETRY, over));
    }
    check(8, &steps);
}

#[test]
fn a_delivery_that_did_not_run_keeps_its_attempt_and_its_turn_before_its_key() {
    check(
        8,
        &[
            Step::Offer(1, "a", Offer::Ready),
            Step::Offer(2, "a", Offer::Queued),
            Take(1, 1, Item::Here),
            End(1, Finish::Return, Finished::Released),
            Take(1, 1, Item::InLog),
            End(1, RETRY, Finished::Waits),
            Due(50, 1),
            Take(1, 2, Item::InLog),
            End(1, Finish::Return, Finished::Waits),
            Take(1, 2, Item::InLog),
        ],
    );
}

#[test]
fn draining_keys_get_room_though_new_events_would_fill_it() {
    check(
        1,
        &[
            Step::Offer(1, "a", Offer::Ready),
            Take(1, 1, Item::Here),
            End(1, RETRY, Finished::Waits),
            Step::Offer(2, "a", Offer::Deferred),
            Due(50, 1),
            Take(1, 2, Item::InLog),
            End(1, Finish::Done, Finished::Released),
            Full(3, "b"),
            DrainIs("a", 2, 2),
            Full(3, "b"),
            Step::Refill(&[2], 2, Refill::Taken(1)),
            Full(3, "b"),
            Take(2, 1, Item::Here),
            End(2, Finish::Done, Finished::Released),
            Step::Offer(3, "b", Offer::Ready),
        ],
    );
}

/// Answered one at a time with as much as there is room for, each would have frames read for itself.
#[test]
fn a_drain_asks_for_little_where_others_want_some() {
    let mut sched = KeyScheduler::new(bounds(4096));
    let keys = ["a", "b", "c"].map(|name| key(name).unwrap());
    for key in &keys {
        assert!(sched.hold(key));
    }
    for (position, name) in [(1, "a"), (2, "b"), (3, "a"), (4, "c"), (5, "c")] {
        assert!(sched.offer(entry(position, name)).is_ok());
    }
    for key in &keys {
        assert!(sched.release(key));
    }
    let limits = [(); 3].map(|()| sched.next_drain().map(|drain| (drain.from.0, drain.limit)));
    assert_eq!(limits, [Some((1, 16)), Some((2, 1)), Some((4, 256))]);
}

#[test]
fn a_slow_key_gives_its_memory_up() {
    let mut sched = KeyScheduler::new(bounds(4));
    for position in 1..=4 {
        let entry = Entry { position: Position(position), key: key("a"), weight: 1, item: () };
        assert!(sched.offer(entry).is_ok());
    }
    let ticket = sched.take().unwrap().ticket;
    let mark = sched.mark();
    assert!(!sched.has_room());
    assert_eq!(sched.shed_slow(mark - 1), 0, "it has not been running for long");
    assert_eq!(sched.shed_slow(mark), 3);
    assert_eq!(sched.room(), 3);
    assert_eq!(sched.next_drain(), None, "its delivery still runs");
    assert_eq!(sched.finish(ticket, Finish::Done), Finished::Released);
    let drain = sched.next_drain().unwrap();
    assert_eq!((drain.from.0, drain.to.0), (2, 4));
}

#[test]
fn bytes_bound_memory_but_one_large_event_always_passes() {
    let in_flight_bytes_max = 10;
    let mut sched = KeyScheduler::new(Bounds { in_flight_bytes_max, ..bounds(100) });
    let entry =
        |position, weight| Entry { position: Position(position), key: None, weight, item: () };
    assert!(sched.offer(entry(1, 1000)).is_ok());
    assert!(sched.offer(entry(2, 1)).is_err());
    let ticket = sched.take().unwrap().ticket;
    sched.finish(ticket, Finish::Done);
    for position in 2..=11 {
        assert!(sched.offer(entry(position, 1)).is_ok());
    }
    assert!(sched.offer(entry(12, 1)).is_err());
}

#[test]
fn dropping_everything_makes_tickets_and_drains_stale_and_keeps_the_pause() {
    let mut sched = KeyScheduler::new(bounds(8));
    let entry =
        |position| Entry { position: Position(position), key: key("a"), weight: 1, item: () };
    assert_eq!(sched.offer(entry(1)), Ok(Offer::Ready));
    let old = sched.take().unwrap().ticket;
    sched.pause();
    sched.drop_all();
    assert_eq!(sched.offer(entry(1)), Ok(Offer::Ready));
    assert_eq!(sched.take(), None);
    sched.resume();
    assert!(sched.take().is_some());
    assert_eq!(sched.finish(old, Finish::Done), Finished::Stale);
}
