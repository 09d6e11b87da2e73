//! Windows that stand at fixed places of time: side by side, or sliding over each other.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::clock::Clock;
use super::stats::{Panes, Window};
use super::{Detector, FOUND_MAX, Taken, check_panes, lateness_ms, length_ms};
use crate::Error;

/// Panes beyond which as many windows are reported as an item can end, whatever was asked for. Without
/// any left to report there are half as many.
const BEHIND_PANES_MAX: usize = 2000;

/// Tumbling and sliding windows: each is reported once, when it is over; empty ones are not.
///
/// They begin at multiples of their step since the Unix epoch and hold the times from their start up
/// to, but not including, their end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    size_ms: u64,
    step_ms: u64,
    lateness_ms: u64,
    found_max: usize,
}

/// What [`Windows`] remember of a key: a record for each step that has items.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WindowsState {
    clock: Clock,
    panes: Panes,
    /// What ends after this and by the mark is left to report; none: nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reported_ms: Option<u64>,
}

impl Windows {
    /// Windows of this size, side by side.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a size of nothing, or a lateness of over [`super::PANES_MAX`] sizes.
    pub fn tumbling(size: Duration, lateness: Duration) -> Result<Self, Error> {
        Self::sliding(size, size, lateness)
    }

    /// Windows of this size, one beginning every `step`. The size is a multiple of the step.
    ///
    /// # Errors
    /// [`Error::Invalid`] where it is not, for a step of nothing, or where size and lateness have over
    /// [`super::PANES_MAX`] steps.
    pub fn sliding(size: Duration, step: Duration, lateness: Duration) -> Result<Self, Error> {
        let (size_ms, step_ms) = (length_ms("a window", size)?, length_ms("a step", step)?);
        let lateness_ms = lateness_ms(lateness);
        check_panes(size_ms, step_ms, lateness_ms)?;
        Ok(Self { size_ms, step_ms, lateness_ms, found_max: FOUND_MAX })
    }

    /// Reports so many windows at a time, at least 1; [`FOUND_MAX`] unless said otherwise.
    ///
    /// Items that come without a pause and end more than that each make an exception once the windows of
    /// a thousand of them are left: then as many are reported as an item can end, the size in steps.
    #[must_use]
    pub fn at_most(self, windows: usize) -> Self {
        Self { found_max: windows.max(1), ..self }
    }

    /// In the long run no fewer than items add, or the state would grow until it is refused.
    fn found_max(&self, state: &WindowsState) -> usize {
        if state.panes.len() <= BEHIND_PANES_MAX {
            return self.found_max;
        }
        let steps = usize::try_from(self.size_ms / self.step_ms).unwrap_or(usize::MAX);
        self.found_max.max(steps)
    }

    /// Reports what ends after `before_ms` and by the mark, and forgets what no window needs any more.
    fn close(&self, state: &mut WindowsState, before_ms: u64) -> Vec<Window> {
        let mark_ms = state.clock.mark_ms();
        let before_ms = state.reported_ms.take().unwrap_or(before_ms);
        // Windows end only at steps.
        if before_ms / self.step_ms == mark_ms / self.step_ms {
            return Vec::new();
        }
        let found_max = self.found_max(state);
        let mut ends = self.ends(state, before_ms, mark_ms, found_max.saturating_add(1));
        if ends.len() > found_max {
            ends.truncate(found_max);
            state.reported_ms = ends.last().copied();
        }
        let found = (ends.into_iter())
            .map(|end_ms| {
                let start_ms = end_ms.saturating_sub(self.size_ms);
                Window { start_ms, end_ms, stats: state.panes.merged(start_ms, end_ms) }
            })
            .collect();
        // The last window of a pane that begins at `start` ends at `start + size`.
        let reported_ms = state.reported_ms.unwrap_or(mark_ms);
        state.panes.drop_before((reported_ms + 1).saturating_sub(self.size_ms));
        found
    }

    /// Where windows with items end after `before_ms` and by the mark, ascending, the first so many. Each
    /// is looked at once, or a window of many steps would cost the product of its panes and its steps with
    /// every item.
    fn ends(&self, state: &WindowsState, before_ms: u64, mark_ms: u64, most: usize) -> Vec<u64> {
        let mut ends = Vec::new();
        let mut next_ms = (before_ms - before_ms % self.step_ms).checked_add(self.step_ms);
        for start_ms in state.panes.starts() {
            // A pane is in the windows that end with it and with the panes up to a size later.
            let first_ms = start_ms.saturating_add(self.step_ms);
            let last_ms = start_ms.saturating_add(self.size_ms).min(mark_ms);
            next_ms = next_ms.map(|end_ms| end_ms.max(first_ms));
            while let Some(end_ms) = next_ms.filter(|end_ms| *end_ms <= last_ms) {
                if ends.len() == most {
                    return ends;
                }
                ends.push(end_ms);
                next_ms = end_ms.checked_add(self.step_ms);
            }
        }
        ends
    }
}

impl Detector for Windows {
    type State = WindowsState;
    type Item = f64;
    type Found = Window;

    fn take(
        &self,
        state: &mut WindowsState,
        time_ms: u64,
        now_ms: u64,
        item: f64,
    ) -> Taken<Window> {
        let before_ms = state.clock.mark_ms();
        if !state.clock.take(time_ms, now_ms, self.lateness_ms) {
            return Taken::late();
        }
        state.panes.add(time_ms - time_ms % self.step_ms, item);
        Taken::found(self.close(state, before_ms))
    }

    fn pass(&self, state: &mut WindowsState, now_ms: u64) -> Vec<Window> {
        let before_ms = state.clock.mark_ms();
        state.clock.pass(now_ms, self.lateness_ms);
        self.close(state, before_ms)
    }

    fn due_ms(&self, state: &WindowsState) -> Option<u64> {
        let mark_ms = state.clock.mark_ms();
        let next = |start_ms: u64| {
            // The first window of the pane that ends after the mark.
            let past_ms = (mark_ms + 1).saturating_sub(start_ms).max(1);
            start_ms.saturating_add(past_ms.div_ceil(self.step_ms).saturating_mul(self.step_ms))
        };
        let end_ms = state.panes.starts().map(next).min()?;
        Some(state.clock.reaches_ms(end_ms, self.lateness_ms))
    }

    fn has_more(&self, state: &WindowsState) -> bool {
        state.reported_ms.is_some()
    }
}
