//! Windows and patterns: what the events of a key say together, by the time they happened.
//!
//! | detector | finds |
//! |---|---|
//! | [`Windows`] | count, sum, average, least and greatest of every tumbling or sliding window, once it is over |
//! | [`Trailing`], [`Alarm`] | the same of the time up to each item, at once; an alarm, once an episode |
//! | [`Sessions`] | the same of runs of items without a gap |
//! | [`Sequence`] | n times A, then B |
//! | [`Absence`] | A, and no B within a time |
//!
//! A detector keeps its state under a name of the key, and its timer under the same name:
//!
//! ```
//! use std::time::Duration;
//! use serde::Deserialize;
//! use tidegate_sdk::windows::{self, Window, Windows};
//! use tidegate_sdk::{Error, Event, Outcome, emit, handlers};
//!
//! handlers! { "temperature.measured" => measured, "tidegate.timer" => fired }
//!
//! #[derive(Deserialize)]
//! struct Measured { celsius: f64 }
//!
//! fn five_minutes() -> Result<Windows, Error> {
//!     Windows::tumbling(Duration::from_secs(300), Duration::from_secs(60))
//! }
//!
//! fn measured(event: &Event, data: Measured) -> Outcome {
//!     report(windows::take("means", &five_minutes()?, event, data.celsius)?.found)
//! }
//!
//! fn fired(event: &Event) -> Outcome {
//!     report(windows::fired("means", &five_minutes()?, event)?)
//! }
//!
//! fn report(found: Vec<Window>) -> Outcome {
//!     for window in found {
//!         emit("temperature.averaged").json(&window.stats.average())?;
//!     }
//!     Ok(())
//! }
//! # use tidegate_sdk::testing::{event, Host};
//! # use serde_json::json;
//! # let mut host = Host::new();
//! # for (time_ms, celsius) in [(0, 20), (299_999, 30)] {
//! #     let measured = event("temperature.measured").key("s").time_ms(time_ms);
//! #     host.deliver(handle, measured.json(&json!({ "celsius": celsius }))).expect_ok();
//! # }
//! # host.advance(Duration::from_secs(61));
//! # assert_eq!(host.fire(handle)[0].emitted[0].json::<f64>(), 25.0);
//! ```
//!
//! # Time
//!
//! The time of an item is its event's `time`, or when the log took it where there is none. Events may
//! come late and out of order, but an item that is more than `lateness` older than the newest of its
//! key is *late*: it is left out ([`Taken`] says so). What was found is never taken back.
//! Therefore a window is reported once the newest item is `lateness` past its end: then whatever
//! could still belong to it would be late.
//!
//! Where no more items come, a timer stands in for them: it takes the time since the newest item was
//! recorded for time that has passed for its source as well. With `lateness` zero an item in order is
//! never late, and nothing waits longer than it must.
//!
//! An item from the future makes everything before it late: do not trust times of strangers.
//!
//! # Much at once
//!
//! One item, or one timer, can end a thousand windows, and what a delivery may emit is bounded
//! (`limits.emits` of the manifest). Therefore a delivery reports [`FOUND_MAX`] of them, or what
//! [`Windows::at_most`] and [`Sessions::at_most`] say, those that end first. The rest follows with the
//! next deliveries of the key; the timer is set to fire at once for it, so that none has to come. What
//! is late, and what a window holds, is the same as if all had been reported.
//!
//! # State
//!
//! Windows keep one small record for each pane of time that has items, not the items; their number is
//! bounded by [`PANES_MAX`]. Patterns keep the items that may still change places with others, for
//! `lateness`, at most [`HELD_MAX`]; one more, and the oldest counts as settled.

mod absence;
mod clock;
mod reorder;
mod sequence;
mod sessions;
mod stats;
mod trailing;
mod tumbling;

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use absence::{Absence, AbsenceState, Absent};
pub use reorder::{HELD_MAX, Step};
pub use sequence::{Match, Sequence, SequenceState};
pub use sessions::{Sessions, SessionsState};
pub use stats::{Stats, Window};
pub use trailing::{Alarm, AlarmState, Trailing, TrailingState};
pub use tumbling::{Windows, WindowsState};

use crate::{Error, Event, attribute, now_ms, state, timers};

/// Panes that a window may have open at a time, by its size, step and lateness.
pub const PANES_MAX: u64 = 1000;

/// What a delivery reports, unless a detector says otherwise: a quarter of what it may emit by default.
pub const FOUND_MAX: usize = 250;

/// Finds something in the items of a key. Pure: it knows no host.
///
/// Times are in milliseconds since the Unix epoch; `now_ms` is log time and never goes back.
pub trait Detector {
    /// What it remembers of a key.
    type State: Default + Serialize + DeserializeOwned;
    /// What it takes.
    type Item;
    /// What it finds.
    type Found;

    /// Takes an item that happened at `time_ms` and was recorded at `now_ms`.
    fn take(
        &self,
        state: &mut Self::State,
        time_ms: u64,
        now_ms: u64,
        item: Self::Item,
    ) -> Taken<Self::Found>;

    /// Lets time pass until `now_ms` without an item; where it has passed already, as at 0, only
    /// reports what is left.
    fn pass(&self, state: &mut Self::State, now_ms: u64) -> Vec<Self::Found>;

    /// When [`pass`](Self::pass) would find something, or forget something, by log time; none: never.
    /// Asked where nothing is left.
    fn due_ms(&self, state: &Self::State) -> Option<u64>;

    /// Whether something is left to report that was too much for one time.
    fn has_more(&self, _: &Self::State) -> bool {
        false
    }
}

/// What came of an item.
#[derive(Debug, Clone, PartialEq)]
pub struct Taken<F> {
    /// Whether it was late, so that nothing came of it.
    pub late: bool,
    /// What was found and not reported before, in the order of time; not all of it where it is much.
    pub found: Vec<F>,
}

impl<F> Taken<F> {
    fn late() -> Self {
        Self { late: true, found: Vec::new() }
    }

    fn found(found: Vec<F>) -> Self {
        Self { late: false, found }
    }
}

/// The state of a detector and when its timer fires, as stored under its name.
#[derive(Default, Serialize, Deserialize)]
struct Kept<S> {
    state: S,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timer_ms: Option<u64>,
}

/// Hands an item, which is what an event says, to the detector of this name.
///
/// # Errors
/// [`Error::Unkeyed`] for an event without a key; [`Error::Decode`] where the name holds something
/// else; what [`state::set`] and [`timers::set_at`] refuse.
pub fn take<D: Detector>(
    name: &str,
    detector: &D,
    event: &Event,
    item: D::Item,
) -> Result<Taken<D::Found>, Error> {
    if event.key().is_none() {
        return Err(Error::Unkeyed);
    }
    let mut kept: Kept<D::State> = state::get(name)?.unwrap_or_default();
    let time_ms = event.time_ms().unwrap_or(event.recorded_ms());
    let taken = detector.take(&mut kept.state, time_ms, now_ms(), item);
    if !taken.late {
        keep(name, detector, event, kept)?;
    }
    Ok(taken)
}

/// Hands a timer that fired to the detector of this name; other timers are left alone.
///
/// # Errors
/// As [`take`].
pub fn fired<D: Detector>(name: &str, detector: &D, event: &Event) -> Result<Vec<D::Found>, Error> {
    if event.kind() != timers::FIRED || attribute("timername").as_deref() != Some(name) {
        return Ok(Vec::new());
    }
    let Some(mut kept) = state::get::<Kept<D::State>>(name)? else { return Ok(Vec::new()) };
    kept.timer_ms = None;
    // One that was set for what is left, or for a window that has gone since, tells nothing of the
    // time that has passed.
    let found = if detector.has_more(&kept.state) {
        detector.pass(&mut kept.state, 0)
    } else if detector.due_ms(&kept.state).is_some_and(|due_ms| due_ms <= now_ms()) {
        detector.pass(&mut kept.state, now_ms())
    } else {
        Vec::new()
    };
    keep(name, detector, event, kept)?;
    Ok(found)
}

/// Stores the state. A timer that fires too early is left to fire and set again then, or every item
/// of a busy key would move it. One that should have fired by now may have been given up: it is set
/// again, which replaces it where it is there still.
fn keep<D: Detector>(
    name: &str,
    detector: &D,
    event: &Event,
    mut kept: Kept<D::State>,
) -> Result<(), Error> {
    let has_more = detector.has_more(&kept.state);
    let due_ms = if has_more { Some(now_ms()) } else { detector.due_ms(&kept.state) };
    match (due_ms, kept.timer_ms.filter(|set_ms| *set_ms > now_ms())) {
        (Some(due_ms), set) if set.is_none_or(|set_ms| due_ms < set_ms) => {
            // A rewind tells timers of the same time apart by what they hand back.
            timers::set_at(name, due_ms, event.position().to_string().as_bytes())?;
            kept.timer_ms = Some(due_ms);
        }
        (None, Some(_)) => {
            timers::cancel(name)?;
            kept.timer_ms = None;
        }
        _ => {}
    }
    state::set(name, &kept)
}

/// A length of time in milliseconds, at least 1.
fn length_ms(what: &str, length: Duration) -> Result<u64, Error> {
    match u64::try_from(length.as_millis()) {
        Ok(ms) if ms > 0 => Ok(ms),
        _ => Err(Error::Invalid(format!("{what} must be at least 1 ms, found {length:?}"))),
    }
}

/// Lateness in milliseconds; beyond what times can be, all there are.
fn lateness_ms(lateness: Duration) -> u64 {
    u64::try_from(lateness.as_millis()).unwrap_or(u64::MAX)
}

/// That panes of `step_ms` divide `span_ms`, and that not too many are open at a time.
fn check_panes(span_ms: u64, step_ms: u64, lateness_ms: u64) -> Result<(), Error> {
    if !span_ms.is_multiple_of(step_ms) {
        return Err(Error::Invalid(format!(
            "a window of {span_ms} ms does not have whole steps of {step_ms} ms"
        )));
    }
    let panes = span_ms.saturating_add(lateness_ms) / step_ms;
    if panes > PANES_MAX {
        return Err(Error::Invalid(format!(
            "a window of {span_ms} ms and a lateness of {lateness_ms} ms have {panes} steps of \
             {step_ms} ms; at most {PANES_MAX} are allowed"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
