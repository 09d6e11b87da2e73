//! Windows and patterns against plain models: keep every item that is not late, look at all of them.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use tidegate_sdk::windows::{
    Absence, Absent, Detector, Match, Sequence, Sessions, Step, Taken, Trailing, Window, Windows,
};

/// What happens to a detector, some log time after what happened before.
#[derive(Debug, Clone, Copy)]
enum Act {
    /// An item this much before or after the log time.
    Item { after_ms: u64, skew_ms: i64, value: i32, step: Step },
    /// Nothing but time.
    Pass { after_ms: u64 },
    /// The timer for what is left to report.
    Rest,
}

/// An item that is not late.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Item {
    time_ms: u64,
    value: f64,
    step: Step,
}

/// Later than anything that can happen before.
const END_MS: u64 = 1_000_000;

fn act() -> impl Strategy<Value = Act> {
    // Coarse, so that many times are equal.
    let skew = prop_oneof![Just(0_i64), -12_i64..4, -60_i64..30];
    let step = prop_oneof![3 => Just(Step::First), 1 => Just(Step::Then)];
    prop_oneof![
        8 => (0_u64..8, skew, -9..100_i32, step).prop_map(|(after_ms, skew_ms, value, step)| {
            Act::Item { after_ms, skew_ms, value, step }
        }),
        1 => (0_u64..60).prop_map(|after_ms| Act::Pass { after_ms }),
        1 => Just(Act::Rest),
    ]
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    prop::collection::vec(act(), 0..80)
}

/// How many are reported at a time.
fn most() -> impl Strategy<Value = usize> {
    prop_oneof![1_usize..4, Just(1000)]
}

/// Plays acts to a detector and, item by item, to `see`, with what came of it and everything that was
/// not late so far. At the end time passes for good. Returns all that was found and all items.
fn play<D: Detector>(
    detector: &D,
    lateness_ms: u64,
    acts: &[Act],
    item_of: impl Fn(Item) -> D::Item,
    mut see: impl FnMut(&Taken<D::Found>, &[Item]),
) -> (Vec<D::Found>, Vec<Item>)
where
    D::Found: Clone,
{
    let mut state = D::State::default();
    let (mut items, mut found): (Vec<Item>, Vec<D::Found>) = (Vec::new(), Vec::new());
    let (mut now_ms, mut mark_ms, mut newest) = (1000_u64, 0_u64, None::<(u64, u64)>);
    for act in acts {
        match *act {
            Act::Item { after_ms, skew_ms, value, step } => {
                now_ms += after_ms;
                let time_ms = now_ms.saturating_add_signed(skew_ms);
                let item = Item { time_ms, value: value.into(), step };
                let taken = detector.take(&mut state, time_ms, now_ms, item_of(item));
                assert_eq!(taken.late, time_ms < mark_ms);
                if taken.late {
                    assert!(taken.found.is_empty());
                    continue;
                }
                items.push(item);
                if newest.is_none_or(|(newest_ms, _)| time_ms > newest_ms) {
                    newest = Some((time_ms, now_ms));
                }
                mark_ms = mark_ms.max(newest.unwrap().0.saturating_sub(lateness_ms));
                see(&taken, &items);
                found.extend(taken.found);
            }
            Act::Pass { after_ms } => {
                now_ms += after_ms;
                found.extend(detector.pass(&mut state, now_ms));
                if let Some((newest_ms, seen_ms)) = newest {
                    let time_ms = newest_ms + (now_ms - seen_ms);
                    mark_ms = mark_ms.max(time_ms.saturating_sub(lateness_ms));
                }
            }
            Act::Rest => found.extend(detector.pass(&mut state, 0)),
        }
        // A timer at this time, and not before, finds or settles something.
        let mut early = clone(&state);
        rest(detector, &mut early);
        if let Some(due_ms) = detector.due_ms(&early) {
            let nothing = detector.pass(&mut early, due_ms - 1);
            assert!(nothing.is_empty(), "found before it was due");
            assert_eq!(detector.due_ms(&early), Some(due_ms));
            detector.pass(&mut early, due_ms);
            rest(detector, &mut early);
            let due = detector.due_ms(&early);
            assert!(due.is_none_or(|again_ms| again_ms > due_ms), "due for ever");
        }
    }
    found.extend(detector.pass(&mut state, now_ms + END_MS));
    found.extend(rest(detector, &mut state));
    assert_eq!(detector.due_ms(&state), None);
    (found, items)
}

/// Everything that is left to report.
fn rest<D: Detector>(detector: &D, state: &mut D::State) -> Vec<D::Found> {
    let mut found = Vec::new();
    while detector.has_more(state) {
        let some = detector.pass(state, 0);
        assert!(!some.is_empty(), "nothing of what is left is reported");
        found.extend(some);
    }
    found
}

/// A copy, through the JSON that it is stored as.
fn clone<S: serde::Serialize + serde::de::DeserializeOwned>(state: &S) -> S {
    serde_json::from_str(&serde_json::to_string(state).unwrap()).unwrap()
}

/// Start, end, count, sum, least, greatest.
type Flat = (u64, u64, u64, f64, f64, f64);

fn flat(window: &Window) -> Flat {
    let Window { start_ms, end_ms, stats } = *window;
    (start_ms, end_ms, stats.count(), stats.sum(), stats.min(), stats.max())
}

fn window_of<'a>(start_ms: u64, end_ms: u64, items: impl Iterator<Item = &'a Item>) -> Flat {
    let values: Vec<f64> = items.map(|item| item.value).collect();
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (start_ms, end_ms, values.len() as u64, values.iter().sum(), least, greatest)
}

fn sorted(items: &[Item]) -> Vec<Item> {
    let mut sorted = items.to_vec();
    sorted.sort_by_key(|item| item.time_ms);
    sorted
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_window_with_items_is_reported_once_with_all_that_was_not_late(
        acts in acts(), step_ms in 1_u64..12, steps in 1_u64..5, lateness_ms in 0_u64..40,
        most in most(),
    ) {
        let size_ms = step_ms * steps;
        let windows = Windows::sliding(ms(size_ms), ms(step_ms), ms(lateness_ms)).unwrap();
        let windows = windows.at_most(most);
        let (found, items) = play(&windows, lateness_ms, &acts, |item| item.value, |taken, _| {
            assert!(taken.found.len() <= most);
        });
        let mut by_end: BTreeMap<u64, Vec<&Item>> = BTreeMap::new();
        for item in &items {
            let first_end = (item.time_ms / step_ms + 1) * step_ms;
            for n in 0..steps {
                by_end.entry(first_end + n * step_ms).or_default().push(item);
            }
        }
        let expected: Vec<Flat> = by_end.into_iter()
            .map(|(end, items)| window_of(end.saturating_sub(size_ms), end, items.into_iter()))
            .collect();
        prop_assert_eq!(found.iter().map(flat).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn trailing_windows_hold_all_of_their_span(
        acts in acts(), step_ms in 1_u64..5, steps in 1_u64..9, lateness_ms in 0_u64..40,
    ) {
        let span_ms = step_ms * steps;
        let trailing = Trailing::new(ms(span_ms), ms(step_ms), ms(lateness_ms)).unwrap();
        play(&trailing, lateness_ms, &acts, |item| item.value, |taken, items| {
            let pane = |item: &Item| item.time_ms / step_ms * step_ms;
            let new = pane(items.last().unwrap());
            let mut lasts: Vec<u64> =
                items.iter().map(pane).filter(|last| (new..new + span_ms).contains(last)).collect();
            lasts.sort_unstable();
            lasts.dedup();
            let expected: Vec<Flat> = lasts.into_iter().map(|last| {
                let end = last + step_ms;
                let start = end.saturating_sub(span_ms);
                let within = items.iter().filter(|item| (start..end).contains(&item.time_ms));
                window_of(start, end, within)
            }).collect();
            assert_eq!(taken.found.iter().map(flat).collect::<Vec<_>>(), expected);
        });
    }

    #[test]
    fn alarms_never_overlap_and_none_is_left_out(
        acts in acts(), span_ms in 1_u64..30, limit in 0..200_i32, lateness_ms in 0_u64..40,
    ) {
        let trailing = Trailing::new(ms(span_ms), ms(1), ms(lateness_ms)).unwrap();
        let alarm = trailing.alarm(|stats| stats.sum() > limit.into());
        let mut before: Vec<u64> = Vec::new();
        play(&alarm, lateness_ms, &acts, |item| item.value, |taken, items| {
            let new = items.last().unwrap().time_ms;
            let mut lasts: Vec<u64> = items.iter().map(|item| item.time_ms).collect();
            lasts.sort_unstable();
            let raised = lasts.into_iter().find(|&last| {
                let sum: f64 = items.iter()
                    .filter(|item| item.time_ms <= last && item.time_ms + span_ms > last)
                    .map(|item| item.value).sum();
                (new..new + span_ms).contains(&last)
                    && sum > limit.into()
                    && before.iter().all(|other| other.abs_diff(last) >= span_ms)
            });
            before.extend(raised);
            let found: Vec<u64> = taken.found.iter().map(|window| window.end_ms - 1).collect();
            assert_eq!(found, raised.into_iter().collect::<Vec<_>>());
        });
    }

    #[test]
    fn sessions_are_the_runs_without_a_gap(
        acts in acts(), gap_ms in 1_u64..20, lateness_ms in 0_u64..40, most in most(),
    ) {
        let sessions = Sessions::new(ms(gap_ms), ms(lateness_ms)).unwrap().at_most(most);
        let (found, items) = play(&sessions, lateness_ms, &acts, |item| item.value, |taken, _| {
            assert!(taken.found.len() <= most);
        });
        let items = sorted(&items);
        let runs = items.chunk_by(|a, b| b.time_ms - a.time_ms <= gap_ms);
        let expected: Vec<Flat> = runs
            .map(|run| window_of(run[0].time_ms, run[run.len() - 1].time_ms, run.iter()))
            .collect();
        prop_assert_eq!(found.iter().map(flat).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn sequences_are_those_of_the_sorted_items(
        acts in acts(), times in 1_usize..4, span_ms in 0_u64..20, then_ms in 0_u64..20,
        lateness_ms in 0_u64..40,
    ) {
        let sequence = Sequence::new(times, ms(span_ms), ms(then_ms), ms(lateness_ms)).unwrap();
        let (found, items) = play(&sequence, lateness_ms, &acts, |item| item.step, |_, _| {});
        let items = sorted(&items);
        let mut expected = Vec::new();
        for run in items.split_inclusive(|item| item.step == Step::Then) {
            let (Some(then), firsts) = (run.last(), &run[..run.len() - 1]) else { continue };
            if then.step != Step::Then {
                continue;
            }
            let group = firsts.windows(times)
                .rfind(|group| group[times - 1].time_ms - group[0].time_ms <= span_ms);
            if let Some(group) = group && then.time_ms - group[times - 1].time_ms <= then_ms {
                let (first_ms, last_ms) = (group[0].time_ms, group[times - 1].time_ms);
                expected.push(Match { first_ms, last_ms, then_ms: then.time_ms });
            }
        }
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn absences_are_those_of_the_sorted_items(
        acts in acts(), within_ms in 0_u64..30, lateness_ms in 0_u64..40,
    ) {
        let absence = Absence::new(ms(within_ms), ms(lateness_ms));
        let (found, items) = play(&absence, lateness_ms, &acts, |item| item.step, |_, _| {});
        let items = sorted(&items);
        let mut expected = Vec::new();
        let mut at = 0;
        while at < items.len() {
            if items[at].step == Step::Then {
                at += 1;
                continue;
            }
            let until_ms = items[at].time_ms + within_ms;
            let answer = items[at..].iter().position(|item| {
                item.step == Step::Then || item.time_ms > until_ms
            });
            match answer {
                Some(n) if items[at + n].time_ms <= until_ms => at += n + 1,
                other => {
                    expected.push(Absent { since_ms: items[at].time_ms, until_ms });
                    at = other.map_or(items.len(), |n| at + n);
                }
            }
        }
        prop_assert_eq!(found, expected);
    }
}
