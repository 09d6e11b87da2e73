//! The time up to each item, looked at when the item comes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::clock::Clock;
use super::stats::{Panes, Stats, Window};
use super::{Detector, Taken, check_panes, lateness_ms, length_ms};
use crate::Error;

/// For every item the windows that hold it and end with an item: the one that ends with it, and,
/// where it comes after younger ones, those that end with them.
///
/// Times are counted in whole steps: a step of 1 s and a span of 5 minutes make windows of exactly
/// 300 seconds, the last of which is the second of the item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trailing {
    span_ms: u64,
    step_ms: u64,
    lateness_ms: u64,
}

/// What [`Trailing`] remembers of a key: a record for each step that has items.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TrailingState {
    clock: Clock,
    panes: Panes,
}

impl Trailing {
    /// Windows of this span, a multiple of the step.
    ///
    /// # Errors
    /// [`Error::Invalid`] where it is not, for a step of nothing, or where span and lateness have over
    /// [`super::PANES_MAX`] steps.
    pub fn new(span: Duration, step: Duration, lateness: Duration) -> Result<Self, Error> {
        let (span_ms, step_ms) = (length_ms("a span", span)?, length_ms("a step", step)?);
        let lateness_ms = lateness_ms(lateness);
        check_panes(span_ms, step_ms, lateness_ms)?;
        Ok(Self { span_ms, step_ms, lateness_ms })
    }

    /// An alarm for windows that fulfil a condition.
    pub fn alarm<C: Fn(&Stats) -> bool>(self, condition: C) -> Alarm<C> {
        Alarm { trailing: self, condition }
    }
}

impl Detector for Trailing {
    type State = TrailingState;
    type Item = f64;
    type Found = Window;

    fn take(
        &self,
        state: &mut TrailingState,
        time_ms: u64,
        now_ms: u64,
        item: f64,
    ) -> Taken<Window> {
        if !state.clock.take(time_ms, now_ms, self.lateness_ms) {
            return Taken::late();
        }
        let pane_ms = time_ms - time_ms % self.step_ms;
        state.panes.add(pane_ms, item);
        let ends = state.panes.starts();
        let with_item =
            ends.filter(|last| (pane_ms..pane_ms.saturating_add(self.span_ms)).contains(last));
        let windows = with_item.map(|last_ms| {
            let end_ms = last_ms.saturating_add(self.step_ms);
            let start_ms = end_ms.saturating_sub(self.span_ms);
            Window { start_ms, end_ms, stats: state.panes.merged(start_ms, end_ms) }
        });
        let found = windows.collect();
        // No item that is not late can share a window with these.
        let mark_ms = state.clock.mark_ms();
        let first_end_ms = (mark_ms - mark_ms % self.step_ms).saturating_add(self.step_ms);
        state.panes.drop_before(first_end_ms.saturating_sub(self.span_ms));
        Taken::found(found)
    }

    fn pass(&self, state: &mut TrailingState, now_ms: u64) -> Vec<Window> {
        state.clock.pass(now_ms, self.lateness_ms);
        Vec::new()
    }

    fn due_ms(&self, _: &TrailingState) -> Option<u64> {
        None
    }
}

/// Windows of a [`Trailing`] that fulfil a condition, one an *episode*: a window that overlaps with one
/// that was found before is not found again. Where an item makes several windows fulfil it, the
/// earliest counts.
#[derive(Debug, Clone, Copy)]
pub struct Alarm<C> {
    trailing: Trailing,
    condition: C,
}

/// What an [`Alarm`] remembers of a key.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AlarmState {
    trailing: TrailingState,
    /// Where windows that were found end, as long as others may overlap with them.
    ends_ms: Vec<u64>,
}

impl<C: Fn(&Stats) -> bool> Detector for Alarm<C> {
    type State = AlarmState;
    type Item = f64;
    type Found = Window;

    fn take(&self, state: &mut AlarmState, time_ms: u64, now_ms: u64, item: f64) -> Taken<Window> {
        let mut taken = self.trailing.take(&mut state.trailing, time_ms, now_ms, item);
        let span_ms = self.trailing.span_ms;
        let news = |window: &Window| {
            (self.condition)(&window.stats)
                && state.ends_ms.iter().all(|end_ms| end_ms.abs_diff(window.end_ms) >= span_ms)
        };
        // All windows of one item overlap in it.
        taken.found = taken.found.into_iter().find(news).into_iter().collect();
        let mark_ms = state.trailing.clock.mark_ms();
        state.ends_ms.retain(|end_ms| end_ms.saturating_add(span_ms) > mark_ms);
        state.ends_ms.extend(taken.found.iter().map(|window| window.end_ms));
        taken
    }

    fn pass(&self, state: &mut AlarmState, now_ms: u64) -> Vec<Window> {
        self.trailing.pass(&mut state.trailing, now_ms)
    }

    fn due_ms(&self, _: &AlarmState) -> Option<u64> {
        None
    }
}
