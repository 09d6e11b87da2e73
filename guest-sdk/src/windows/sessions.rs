//! Runs of items without a gap.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::clock::Clock;
use super::stats::{Stats, Window};
use super::{Detector, FOUND_MAX, Taken, lateness_ms, length_ms};
use crate::Error;

/// Sessions: items that are at most `gap` apart belong together. Each session is reported once, when
/// it is over; its window goes from its first item to its last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sessions {
    gap_ms: u64,
    lateness_ms: u64,
    found_max: usize,
}

/// What [`Sessions`] remember of a key: a record for each session that is not reported.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SessionsState {
    clock: Clock,
    /// First item, last item, all items; ascending, more than a gap apart.
    open: Vec<(u64, u64, Stats)>,
}

impl Sessions {
    /// Sessions that end where no item comes for longer than `gap`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a gap of nothing, or a lateness of over [`super::PANES_MAX`] gaps.
    pub fn new(gap: Duration, lateness: Duration) -> Result<Self, Error> {
        let (gap_ms, lateness_ms) = (length_ms("a gap", gap)?, lateness_ms(lateness));
        super::check_panes(gap_ms, gap_ms, lateness_ms)?;
        Ok(Self { gap_ms, lateness_ms, found_max: FOUND_MAX })
    }

    /// Reports so many sessions at a time, at least 1; [`FOUND_MAX`] unless said otherwise.
    #[must_use]
    pub fn at_most(self, sessions: usize) -> Self {
        Self { found_max: sessions.max(1), ..self }
    }

    fn is_over(&self, state: &SessionsState, last_ms: u64) -> bool {
        last_ms.saturating_add(self.gap_ms) < state.clock.mark_ms()
    }

    fn close(&self, state: &mut SessionsState) -> Vec<Window> {
        // Those that end first begin first.
        let over = state.open.partition_point(|(_, last_ms, _)| self.is_over(state, *last_ms));
        let closed = state.open.drain(..over.min(self.found_max));
        closed.map(|(start_ms, end_ms, stats)| Window { start_ms, end_ms, stats }).collect()
    }
}

impl Detector for Sessions {
    type State = SessionsState;
    type Item = f64;
    type Found = Window;

    fn take(
        &self,
        state: &mut SessionsState,
        time_ms: u64,
        now_ms: u64,
        item: f64,
    ) -> Taken<Window> {
        if !state.clock.take(time_ms, now_ms, self.lateness_ms) {
            return Taken::late();
        }
        let (earliest_ms, latest_ms) =
            (time_ms.saturating_sub(self.gap_ms), time_ms.saturating_add(self.gap_ms));
        let from = state.open.partition_point(|(_, last_ms, _)| *last_ms < earliest_ms);
        let to = state.open.partition_point(|(first_ms, _, _)| *first_ms <= latest_ms);
        let mut joined = (time_ms, time_ms, Stats::default());
        // An item between two sessions makes one of them.
        for (first_ms, last_ms, stats) in state.open.drain(from..to.max(from)) {
            joined.0 = joined.0.min(first_ms);
            joined.1 = joined.1.max(last_ms);
            joined.2.merge(&stats);
        }
        joined.2.add(item);
        state.open.insert(from, joined);
        Taken::found(self.close(state))
    }

    fn pass(&self, state: &mut SessionsState, now_ms: u64) -> Vec<Window> {
        state.clock.pass(now_ms, self.lateness_ms);
        self.close(state)
    }

    fn due_ms(&self, state: &SessionsState) -> Option<u64> {
        let (_, last_ms, _) = state.open.first()?;
        let over_ms = last_ms.saturating_add(self.gap_ms).saturating_add(1);
        Some(state.clock.reaches_ms(over_ms, self.lateness_ms))
    }

    fn has_more(&self, state: &SessionsState) -> bool {
        state.open.first().is_some_and(|(_, last_ms, _)| self.is_over(state, *last_ms))
    }
}
