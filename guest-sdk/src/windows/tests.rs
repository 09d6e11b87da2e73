use std::time::Duration;

use serde_json::Value;

use super::{
    Absence, Absent, Detector, HELD_MAX, Match, Sequence, Sessions, Step, Trailing, Window,
    Windows, fired, take,
};
use crate::testing::{Effects, Host, event};
use crate::{Error, Event, Outcome, emit};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Start, end, count and sum.
fn flat(windows: &[Window]) -> Vec<(u64, u64, u64, f64)> {
    windows.iter().map(|w| (w.start_ms, w.end_ms, w.stats.count(), w.stats.sum())).collect()
}

/// What a detector finds in items that are recorded at their own time.
fn found<D: Detector>(
    detector: &D,
    items: impl IntoIterator<Item = (u64, D::Item)>,
) -> Vec<D::Found> {
    let mut state = D::State::default();
    let all = items
        .into_iter()
        .flat_map(|(at, item)| detector.take(&mut state, at, at.max(1), item).found);
    all.collect()
}

#[test]
fn tumbling_window_is_reported_once_the_newest_item_is_past_it_and_the_lateness() {
    let windows = Windows::tumbling(ms(10), ms(3)).unwrap();
    let mut state = Default::default();
    let mut take = |time, value| {
        let taken = windows.take(&mut state, time, 100, value);
        (taken.late, flat(&taken.found))
    };
    assert_eq!(take(5, 1.0), (false, vec![]));
    assert_eq!(take(12, 2.0), (false, vec![]));
    assert_eq!(take(9, 3.0), (false, vec![]));
    assert_eq!(take(13, 4.0), (false, vec![(0, 10, 2, 4.0)]));
    assert_eq!(take(9, 5.0), (true, vec![]));
    assert_eq!(take(10, 6.0), (false, vec![]));
    assert_eq!(take(100, 7.0), (false, vec![(10, 20, 3, 12.0)]));
}

#[test]
fn sliding_windows_share_their_steps() {
    let windows = Windows::sliding(ms(20), ms(10), ms(0)).unwrap();
    let found = found(&windows, [(15, 1.0), (25, 2.0), (1000, 0.0)]);
    assert_eq!(flat(&found), [(0, 20, 1, 1.0), (10, 30, 2, 3.0), (20, 40, 1, 2.0)]);
}

/// What is left of what was found, by so many.
fn rest<D: Detector>(detector: &D, state: &mut D::State) -> Vec<Vec<D::Found>> {
    std::iter::from_fn(|| detector.has_more(state).then(|| detector.pass(state, 0))).collect()
}

fn lens<T>(parts: &[Vec<T>]) -> Vec<usize> {
    parts.iter().map(Vec::len).collect()
}

#[test]
fn sessions_that_end_at_once_are_reported_by_and_by() {
    let sessions = Sessions::new(ms(1), ms(999)).unwrap().at_most(200);
    let mut state = Default::default();
    for at in 0..500 {
        assert!(sessions.take(&mut state, 2 * at, 1, 1.0).found.is_empty());
    }
    let mut parts = vec![sessions.take(&mut state, 5000, 1, 1.0).found];
    // Not late, so in none of them.
    parts.push(sessions.take(&mut state, 4001, 1, 1.0).found);
    parts.extend(rest(&sessions, &mut state));
    assert_eq!(lens(&parts), [200, 200, 100]);
    let all: Vec<_> = (0..500).map(|at| (2 * at, 2 * at, 1, 1.0)).collect();
    assert_eq!(flat(&parts.concat()), all);
    assert_eq!(sessions.due_ms(&state), Some(3));
}

#[test]
fn absences_that_are_found_at_once_are_reported_by_and_by() {
    let absence = Absence::new(ms(0), ms(10_000));
    let mut state = Default::default();
    for at in 0..600 {
        assert!(absence.take(&mut state, at, 1, Step::First).found.is_empty());
    }
    let mut parts = vec![absence.take(&mut state, 50_000, 1, Step::First).found];
    parts.extend(rest(&absence, &mut state));
    assert_eq!(lens(&parts), [249, 249, 102]);
    let all: Vec<_> = (0..600).map(|at| Absent { since_ms: at, until_ms: at }).collect();
    assert_eq!(parts.concat(), all);
}

/// Each item ends a thousand windows, and one is asked for.
#[test]
fn windows_that_are_left_do_not_pile_up_where_items_keep_coming() {
    let windows = Windows::sliding(ms(1000), ms(1), ms(0)).unwrap().at_most(1);
    let (mut state, mut ends, mut most) = (Default::default(), Vec::new(), 0);
    for at in 0..2100 {
        let found = windows.take(&mut state, at * 2000, 1, f64::MIN).found;
        most = most.max(found.len());
        ends.extend(found.iter().map(|window| window.end_ms));
        assert!(at % 100 != 0 || serde_json::to_vec(&state).unwrap().len() < 256 * 1024);
    }
    assert_eq!(most, 1000);
    let all = (0..).flat_map(|at| (1..=1000).map(move |n| at * 2000 + n));
    assert!(all.take(ends.len()).eq(ends), "in order, each once");
}

/// Half a minute is far more than it takes where an item costs what the panes do, and far less than where
/// it costs each window of each pane.
#[test]
fn windows_of_as_many_steps_as_there_may_be_take_items_quickly() {
    let began = std::time::Instant::now();
    let windows = Windows::sliding(ms(500), ms(1), ms(500)).unwrap().at_most(usize::MAX);
    let items = (0..10_000).map(|at| (at, 1.0)).chain([(1_000_000, 1.0)]);
    let found = found(&windows, items);
    assert_eq!(found.len(), 10_499);
    assert_eq!(found[5000].stats.count(), 500);
    assert!(began.elapsed() < Duration::from_secs(30), "it took {:?}", began.elapsed());
}

#[test]
fn stats_know_mean_least_and_greatest_and_leave_out_what_is_no_number() {
    let windows = Windows::tumbling(ms(10), ms(0)).unwrap();
    let values = [(1, 4.0), (2, -2.0), (3, f64::NAN), (4, 7.0), (10, 0.0)];
    let stats = found(&windows, values)[0].stats;
    assert_eq!((stats.count(), stats.average(), stats.min(), stats.max()), (3, 3.0, -2.0, 7.0));
    let mut huge = super::Stats::default();
    huge.add(f64::MAX);
    huge.add(f64::MAX);
    assert_eq!(huge.sum(), f64::MAX);
}

#[test]
fn trailing_windows_end_with_every_item_that_they_hold() {
    let trailing = Trailing::new(ms(10), ms(1), ms(20)).unwrap();
    let mut state = Default::default();
    let mut take = |time, value| flat(&trailing.take(&mut state, time, 1, value).found);
    assert_eq!(take(100, 1.0), [(91, 101, 1, 1.0)]);
    assert_eq!(take(109, 2.0), [(100, 110, 2, 3.0)]);
    assert_eq!(take(110, 4.0), [(101, 111, 2, 6.0)]);
    let late_one = [(96, 106, 2, 9.0), (100, 110, 3, 11.0), (101, 111, 3, 14.0)];
    assert_eq!(take(105, 8.0), late_one);
}

#[test]
fn alarm_is_raised_once_for_windows_that_overlap() {
    let alarm = Trailing::new(ms(10), ms(1), ms(0)).unwrap().alarm(|stats| stats.sum() > 5.0);
    let items = [(0, 3.0), (9, 3.0), (10, 9.0), (18, 9.0), (19, 9.0), (40, 5.0)];
    let ends: Vec<_> = found(&alarm, items).iter().map(|window| window.end_ms).collect();
    assert_eq!(ends, [10, 20]);
}

#[test]
fn sessions_end_with_a_gap_and_an_item_between_two_joins_them() {
    let sessions = Sessions::new(ms(5), ms(20)).unwrap();
    let items = [(10, 1.0), (20, 2.0), (15, 4.0), (26, 8.0), (52, 0.0), (80, 0.0)];
    assert_eq!(
        flat(&found(&sessions, items)),
        [(10, 20, 3, 7.0), (26, 26, 1, 8.0), (52, 52, 1, 0.0)]
    );
}

#[test]
fn sequence_is_judged_by_time_whatever_the_order_of_arrival() {
    let sequence = Sequence::new(3, ms(10), ms(5), ms(20)).unwrap();
    let (a, b) = (Step::First, Step::Then);
    let matched = |items: &[(u64, Step)]| {
        let flush = [(1000, Step::First)];
        found(&sequence, items.iter().copied().chain(flush))
    };
    let one = vec![Match { first_ms: 2, last_ms: 12, then_ms: 17 }];
    assert_eq!(matched(&[(17, b), (12, a), (2, a), (7, a), (0, a)]), one);
    assert_eq!(matched(&[(1, a), (7, a), (12, a), (17, b)]), []);
    assert_eq!(matched(&[(2, a), (7, a), (12, a), (18, b)]), []);
    assert_eq!(matched(&[(2, a), (7, a), (8, b), (12, a), (13, b)]), []);
    assert_eq!(matched(&[(2, a), (7, a), (12, a), (17, b), (17, b)]), one);
    // An older group counts as long as it is not too old.
    let older = vec![Match { first_ms: 2, last_ms: 6, then_ms: 11 }];
    assert_eq!(matched(&[(2, a), (3, a), (6, a), (11, b)]), older);
    let pair = Sequence::pair(ms(5), ms(0)).unwrap();
    assert_eq!(found(&pair, [(1, a), (6, b), (7, b), (8, a), (14, b)]).len(), 1);
}

#[test]
fn absence_ends_with_what_comes_in_time() {
    let absence = Absence::new(ms(10), ms(0));
    let (a, b) = (Step::First, Step::Then);
    let absent = |since_ms| Absent { since_ms, until_ms: since_ms + 10 };
    assert_eq!(found(&absence, [(1, a), (11, b), (50, b)]), []);
    assert_eq!(found(&absence, [(1, a), (12, b), (50, b)]), [absent(1)]);
    assert_eq!(found(&absence, [(1, a), (5, a), (12, a), (40, b)]), [absent(1), absent(12)]);
}

#[test]
fn one_item_too_many_settles_the_oldest() {
    let sequence = Sequence::pair(ms(5), ms(1_000_000)).unwrap();
    let mut state = Default::default();
    for n in 0..HELD_MAX as u64 {
        assert!(!sequence.take(&mut state, 10 + n, 1, Step::First).late);
    }
    let next = sequence.take(&mut state, 5000, 1, Step::Then);
    assert!(!next.late && next.found.is_empty());
    assert!(sequence.take(&mut state, 9, 1, Step::First).late);
    assert!(!sequence.take(&mut state, 10, 1, Step::First).late);
}

#[test]
fn lengths_that_make_no_sense_are_refused() {
    let day = ms(86_400_000);
    for refused in [
        Windows::tumbling(ms(0), ms(0)).err(),
        Windows::sliding(ms(10), ms(3), ms(0)).err(),
        Windows::sliding(day, ms(1000), ms(0)).err(),
        Trailing::new(ms(10), ms(0), ms(0)).err(),
        Trailing::new(ms(10), ms(1), day).err(),
        Sessions::new(ms(0), ms(0)).err(),
        Sequence::new(0, ms(1), ms(1), ms(0)).err(),
    ] {
        assert!(matches!(refused, Some(Error::Invalid(_))), "{refused:?}");
    }
}

fn means(event: &Event) -> Outcome {
    let windows = Windows::tumbling(ms(10_000), ms(1000))?;
    let found = match event.kind() {
        "t.measured" => {
            let taken = take("means", &windows, event, event.data()?)?;
            if taken.late {
                emit("t.late").empty()?;
            }
            taken.found
        }
        _ => fired("means", &windows, event)?,
    };
    for window in found {
        emit("t.averaged").json(&(window.start_ms, window.stats.average()))?;
    }
    Ok(())
}

fn slides(event: &Event) -> Outcome {
    let windows = Windows::sliding(ms(1000), ms(2), ms(1001))?;
    let found = match event.kind() {
        "t.measured" => {
            let taken = take("slides", &windows, event, 1.0)?;
            if taken.late {
                emit("t.late").empty()?;
            }
            taken.found
        }
        _ => fired("slides", &windows, event)?,
    };
    for window in found {
        emit("t.slid").json(&(window.end_ms, window.stats.count()))?;
    }
    Ok(())
}

#[test]
fn windows_that_end_at_once_are_reported_by_deliveries_that_follow_at_once() {
    let mut host = Host::new();
    let at = |time_ms| event("t.measured").key("s").time_ms(time_ms);
    let mut slid: Vec<(u64, u64)> = Vec::new();
    let mut see = |effects: Effects| {
        let emitted = effects.expect_ok().emitted;
        slid.extend(
            emitted.iter().filter(|one| one.kind == "t.slid").map(|one| one.json::<(u64, u64)>()),
        );
        emitted.len()
    };
    for time_ms in (0..=2000).step_by(2) {
        assert!(see(host.deliver(slides, at(time_ms))) <= 1);
    }
    // 1,001 are over, one more than a delivery may emit.
    assert_eq!(see(host.deliver(slides, at(9000))), 250);
    // What is late does not depend on what is left.
    assert_eq!(see(host.deliver(slides, at(7998))), 1);
    assert_eq!(see(host.deliver(slides, at(8900))), 250);
    // The timer is given up, and the next item sets it again.
    assert_eq!(host.fire(|_: &Event| Err(crate::reject("broken"))).len(), 1);
    assert!(host.timers("s").is_empty());
    assert_eq!(see(host.deliver(slides, at(8900))), 250);
    let fired: Vec<_> = host.fire(slides).into_iter().map(&mut see).collect();
    assert_eq!(fired, [250, 1]);
    // The same for those that time ends.
    host.advance(ms(2000));
    let fired: Vec<_> = host.fire(slides).into_iter().map(&mut see).collect();
    assert_eq!(fired, [250, 250, 50]);
    assert!(host.timers("s").is_empty());
    let items: Vec<u64> = (0..=2000).step_by(2).chain([8900, 8900, 9000]).collect();
    let count =
        |end: u64| items.iter().filter(|at| (end.saturating_sub(1000)..end).contains(at)).count();
    let ends = (2..=3000).step_by(2).chain((8902..=10_000).step_by(2));
    assert!(ends.map(|end| (end, count(end) as u64)).eq(slid), "in order, each once");
}

#[test]
fn timer_stands_in_for_items_that_do_not_come() {
    let mut host = Host::new();
    let measured = |time_ms, value: f64| event("t.measured").key("s").time_ms(time_ms).json(&value);
    host.deliver(means, measured(1000, 4.0)).expect_ok();
    let now_ms = host.timers("s")[0].1 - 10_000;
    // Later items of the window do not move the timer.
    host.advance(ms(3000));
    assert!(host.deliver(means, measured(3000, 6.0)).expect_ok().timers.is_empty());
    host.advance(ms(7000));
    let first = host.fire(means);
    assert_eq!((first.len(), first[0].emitted.len(), first[0].timers.len()), (1, 0, 1));
    assert_eq!(host.timers("s"), [("means".to_owned(), now_ms + 3000 + 1 + 8000)]);
    host.advance(ms(1000));
    let second = host.fire(means);
    assert_eq!(second[0].emitted[0].json::<(u64, f64)>(), (0, 5.0));
    assert!(host.timers("s").is_empty());
    let late = host.deliver(means, measured(9000, 1.0)).expect_ok();
    assert_eq!((late.kinds(), late.state.len()), (vec!["t.late"], 0));
    let kept: Value = host.state("s", "means").unwrap();
    assert_eq!(kept["state"]["panes"], Value::Array(Vec::new()));
}

#[test]
fn timer_of_a_window_that_has_gone_makes_nothing_late() {
    let mut host = Host::new();
    let measured = |time_ms, value: f64| event("t.measured").key("s").time_ms(time_ms).json(&value);
    host.deliver(means, measured(1000, 4.0)).expect_ok();
    host.advance(ms(9000));
    let judged = host.deliver(means, measured(15_000, 6.0)).expect_ok();
    assert_eq!((judged.kinds(), judged.timers.len()), (vec!["t.averaged"], 0));
    host.advance(ms(2000));
    let stale = host.fire(means);
    assert_eq!((stale.len(), stale[0].emitted.len(), stale[0].timers.len()), (1, 0, 1));
    // As old as may be.
    assert!(host.deliver(means, measured(14_000, 8.0)).expect_ok().kinds().is_empty());
    host.advance(ms(10_000));
    assert_eq!(host.fire(means)[0].emitted[0].json::<(u64, f64)>(), (10_000, 7.0));
}

#[test]
fn timer_is_cancelled_where_nothing_is_waited_for() {
    let watch = |event: &Event| -> Outcome {
        let absence = Absence::new(ms(900_000), ms(0));
        let absent = match event.kind() {
            "order.created" => take("payment", &absence, event, Step::First)?.found,
            "payment.taken" => take("payment", &absence, event, Step::Then)?.found,
            _ => fired("payment", &absence, event)?,
        };
        for _ in absent {
            emit("order.unpaid").empty()?;
        }
        Ok(())
    };
    let mut host = Host::new();
    for key in ["paid", "unpaid"] {
        host.deliver(watch, event("order.created").key(key)).expect_ok();
    }
    host.deliver(watch, event("payment.taken").key("paid")).expect_ok();
    assert!(host.timers("paid").is_empty());
    host.advance(ms(900_001));
    let fired = host.fire(watch);
    assert_eq!(fired.len(), 1);
    assert_eq!(fired[0].emitted[0].key.as_deref(), Some("unpaid"));
}

#[test]
fn events_without_a_key_and_other_timers_are_none_of_a_detectors_business() {
    let unkeyed = |event: &Event| {
        let windows = Windows::tumbling(ms(10), ms(0))?;
        assert_eq!(take("w", &windows, event, 1.0), Err(Error::Unkeyed));
        Ok(())
    };
    Host::new().deliver(unkeyed, event("t.measured")).expect_ok();
    let other = event("tidegate.timer").key("s").attribute("timername", "other");
    assert!(Host::new().deliver(means, other).expect_ok().state.is_empty());
}

#[test]
fn timer_whose_delivery_was_given_up_is_set_again_by_the_next_item() {
    let mut host = Host::new();
    let measured = |time_ms, value: f64| event("t.measured").key("s").time_ms(time_ms).json(&value);
    host.deliver(means, measured(1000, 4.0)).expect_ok();
    host.advance(ms(20_000));
    assert_eq!(host.fire(|_: &Event| Err(crate::reject("broken"))).len(), 1);
    assert!(host.timers("s").is_empty());
    host.deliver(means, measured(1000, 6.0)).expect_ok();
    assert_eq!(host.fire(means)[0].emitted[0].json::<(u64, f64)>(), (0, 5.0));
}
