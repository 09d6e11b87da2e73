//! Keys that wait for a person, and dead letters that run again.

use super::*;

#[test]
fn a_key_that_waits_for_a_person_does_not_hold_back_what_has_been_seen() {
    check(
        8,
        &[
            Step::Offer(1, "a", Offer::Ready),
            Step::Offer(2, "b", Offer::Ready),
            Step::Offer(3, "a", Offer::Queued),
            Scanned(5),
            Take(1, 1, Item::Here),
            Take(2, 1, Item::Here),
            End(2, Finish::Done, Finished::Released),
            Step::Settled(0, 0),
            End(1, Finish::Park, Finished::Waits),
            Step::Settled(5, 0),
            Low(0),
            Redrive("a"),
            // It is back, but what it has to catch up with is below what was told.
            Step::Settled(0, 0),
            Step::TakeRedriven(1, true),
            End(1, Finish::Done, Finished::Released),
            DrainIs("a", 3, 3),
            Step::Refill(&[3], 3, Refill::Taken(1)),
            Step::TakeRedriven(3, true),
            Step::Settled(2, 0),
            End(3, Finish::Done, Finished::Released),
            Step::Settled(5, 1),
            Step::Settled(5, 0),
            Low(5),
        ],
    );
}

#[test]
fn what_was_restored_and_is_done_with_is_not_taken_again() {
    let mut sched = KeyScheduler::new(bounds(8));
    let restored = Restored {
        position: Position(3),
        key: key("a"),
        attempt: 2,
        first_ms: None,
        until: Until::Now,
    };
    assert!(sched.restore_waiting(restored));
    let ticket = sched.take().unwrap().ticket;
    assert_eq!(sched.finish(ticket, Finish::Done), Finished::Released);
    // The feeder comes by only now.
    assert_eq!(sched.offer(entry(3, "a")), Ok(Offer::Known));
    assert_eq!(sched.offer(entry(4, "a")), Ok(Offer::Ready));
    sched.scanned(Position(4));
    assert!(sched.restored.is_empty());
}

#[test]
fn what_runs_again_after_a_start_keeps_its_turn() {
    let mut sched = KeyScheduler::<u64>::new(bounds(8));
    sched.start_after(Position(9));
    for (position, name) in [(1, "a"), (2, "b"), (3, "c")] {
        let (position, until) = (Position(position), Until::Now);
        let restored = Restored { position, key: key(name), attempt: 2, first_ms: None, until };
        assert!(sched.restore_waiting(restored));
    }
    // In no order.
    for (from, name) in [(2, "b"), (1, "a"), (3, "c")] {
        sched.restore_backlog(&key(name).unwrap(), Position(from), true, None);
    }
    let taken = std::iter::from_fn(|| sched.take());
    let taken: Vec<_> = taken.map(|taken| (taken.position.0, taken.redriven)).collect();
    assert_eq!(taken, [(1, true), (2, true), (3, true)]);
}

#[test]
fn a_backlog_that_is_still_to_be_searched_after_a_start_counts() {
    let mut sched = KeyScheduler::<u64>::new(bounds(8));
    sched.start_after(Position(9));
    for name in ["a", "b", "c"] {
        sched.restore_backlog(&key(name).unwrap(), Position(1), true, None);
    }
    for left in (0..3).rev() {
        let drain = sched.next_drain().unwrap();
        assert_eq!(sched.cursor().deferred_events, left + 1);
        assert_eq!(sched.refill(&drain, [], drain.to), Refill::Taken(0));
        assert_eq!(sched.cursor().deferred_events, left);
    }
}

#[test]
fn a_key_that_is_parked_again_is_not_back() {
    check(
        8,
        &[
            Step::Offer(1, "a", Offer::Ready),
            Scanned(1),
            Take(1, 1, Item::Here),
            End(1, Finish::Park, Finished::Waits),
            Redrive("a"),
            Take(1, 2, Item::InLog),
            End(1, Finish::Park, Finished::Waits),
            Step::Settled(1, 0),
            Release("a"),
            Step::Settled(1, 1),
        ],
    );
}

#[test]
fn a_dead_letter_whose_key_went_on_runs_alone_in_front() {
    check(
        8,
        &[
            Scanned(4),
            Step::Offer(5, "a", Offer::Ready),
            Step::Offer(6, "a", Offer::Queued),
            Take(5, 1, Item::Here),
            Step::Reopen(2, "a"),
            Step::Reopen(3, "a"),
            TakeNothing,
            End(5, Finish::Done, Finished::Released),
            Step::TakeRedriven(2, true),
            TakeNothing,
            End(2, Finish::Done, Finished::Released),
            Step::TakeRedriven(3, true),
            End(3, Finish::Done, Finished::Released),
            DrainIs("a", 6, 6),
            Step::Refill(&[6], 6, Refill::Taken(1)),
            Step::TakeRedriven(6, false),
            End(6, Finish::Done, Finished::Released),
            Step::Reopen(4, "-"),
            Step::TakeRedriven(4, true),
            End(4, Finish::Park, Finished::Released),
            Counts(0, 0, 0, 0),
        ],
    );
}

#[test]
fn a_dead_letter_that_runs_again_waits_for_a_key_that_waits_for_a_person() {
    check(
        8,
        &[
            Scanned(4),
            Step::Offer(5, "a", Offer::Ready),
            Take(5, 1, Item::Here),
            End(5, Finish::Park, Finished::Waits),
            Step::Reopen(2, "a"),
            TakeNothing,
            Release("a"),
            Step::TakeRedriven(2, true),
            Hold("a"),
            End(2, RETRY, Finished::Waits),
            Due(100, 0),
            Release("a"),
            Due(100, 1),
            Take(2, 4, Item::InLog),
            End(2, Finish::Done, Finished::Released),
            Counts(0, 0, 0, 0),
        ],
    );
}

/// The one that parked its key once went first, and where it failed again the others were stuck.
#[test]
fn dead_letters_of_a_key_run_again_in_order() {
    check(
        8,
        &[
            Scanned(4),
            Step::Offer(5, "a", Offer::Ready),
            Step::Offer(6, "a", Offer::Queued),
            Take(5, 1, Item::Here),
            End(5, Finish::Park, Finished::Waits),
            Step::Reopen(3, "a"),
            Step::Reopen(2, "a"),
            TakeNothing,
            Redrive("a"),
            Take(2, 3, Item::InLog),
            End(2, RETRY, Finished::Waits),
            Due(100, 1),
            Take(2, 4, Item::InLog),
            Hold("a"),
            End(2, Finish::Done, Finished::Waits),
            TakeNothing,
            Release("a"),
            Step::TakeRedriven(3, true),
            End(3, Finish::Done, Finished::Waits),
            Take(5, 2, Item::InLog),
            End(5, Finish::Park, Finished::Waits),
            Step::Reopen(4, "a"),
            TakeNothing,
            Redrive("a"),
            Step::TakeRedriven(4, true),
            End(4, Finish::Done, Finished::Waits),
            Take(5, 3, Item::InLog),
            End(5, RETRY, Finished::Waits),
            // Nor does it matter which was asked for first.
            Step::Reopen(1, "a"),
            Step::TakeRedriven(1, true),
            End(1, Finish::Done, Finished::Waits),
            Due(100, 1),
            Take(5, 4, Item::InLog),
            End(5, Finish::Done, Finished::Released),
            DrainIs("a", 6, 6),
            Step::Refill(&[6], 6, Refill::Taken(1)),
            Step::TakeRedriven(6, true),
            End(6, Finish::Done, Finished::Released),
            Counts(0, 0, 0, 0),
        ],
    );
}

#[test]
fn probes_run_one_at_a_time_and_of_keys_that_were_not_tried_where_there_are_some() {
    let mut sched = KeyScheduler::new(bounds(100));
    for position in 1..=40 {
        assert_eq!(sched.offer(entry(position, &format!("k{position}"))), Ok(Offer::Ready));
    }
    for _ in 0..20 {
        let ticket = sched.take().unwrap().ticket;
        let finish = Finish::RetryAt { at_ms: 5, first_ms: 1 };
        sched.finish(ticket, finish);
    }
    sched.set_pace(Pace::Still);
    assert_eq!(sched.due(10), 20);
    assert_eq!((sched.takeable(), sched.take()), (0, None));
    sched.set_pace(Pace::Probe);
    let mut probed = Vec::new();
    for _ in 0..10 {
        assert_eq!(sched.takeable(), 1);
        let assignment = sched.take().unwrap();
        assert_eq!((sched.takeable(), sched.take()), (0, None), "one at a time");
        probed.push((assignment.position.0, assignment.attempt));
        assert_eq!(sched.finish(assignment.ticket, Finish::Done), Finished::Released);
    }
    let new = probed.iter().filter(|(_, attempt)| *attempt == 1).count();
    assert!(new >= 8, "{probed:?}");
    assert!(!probed.is_sorted(), "picked here and there: {probed:?}");
    sched.set_pace(Pace::Free);
    assert_eq!(sched.takeable(), 30);
}
