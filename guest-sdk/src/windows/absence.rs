//! A, and no B within a time.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::reorder::{Reorder, Step};
use super::{Detector, Taken, lateness_ms};

/// A [`Step::First`] that no [`Step::Then`] follows within a time: "no payment within 15 minutes".
///
/// One wait at a time: a `First` while one waits changes nothing, and the next `Then` ends the wait.
/// Items are taken by their times; of the same time, as they come. The absence is found `lateness`
/// after the deadline, by the next item of the key or by the timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Absence {
    within_ms: u64,
    lateness_ms: u64,
}

/// What an [`Absence`] remembers of a key.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AbsenceState {
    order: Reorder,
    /// The `First` that waits.
    since_ms: Option<u64>,
}

/// An absence that was found; times in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Absent {
    /// When the `First` happened.
    pub since_ms: u64,
    /// The last time at which a `Then` would have done.
    pub until_ms: u64,
}

impl Absence {
    /// No `Then` within this time after a `First`; one exactly at its end is within.
    #[must_use]
    pub fn new(within: Duration, lateness: Duration) -> Self {
        Self { within_ms: lateness_ms(within), lateness_ms: lateness_ms(lateness) }
    }

    fn judge(&self, state: &mut AbsenceState, settled: Vec<(u64, Step)>) -> Vec<Absent> {
        let mut found = Vec::new();
        for (time_ms, step) in settled {
            found.extend(self.expire(state, time_ms));
            match step {
                Step::First => state.since_ms = state.since_ms.or(Some(time_ms)),
                Step::Then => state.since_ms = None,
            }
        }
        if !state.order.has_more() {
            found.extend(self.expire(state, state.order.mark_ms()));
        }
        found
    }

    /// What is absent where no `Then` before `time_ms` comes any more.
    fn expire(&self, state: &mut AbsenceState, time_ms: u64) -> Option<Absent> {
        let since_ms = state.since_ms?;
        let until_ms = since_ms.saturating_add(self.within_ms);
        if time_ms <= until_ms {
            return None;
        }
        state.since_ms = None;
        Some(Absent { since_ms, until_ms })
    }
}

impl Detector for Absence {
    type State = AbsenceState;
    type Item = Step;
    type Found = Absent;

    fn take(
        &self,
        state: &mut AbsenceState,
        time_ms: u64,
        now_ms: u64,
        item: Step,
    ) -> Taken<Absent> {
        match state.order.take(time_ms, now_ms, self.lateness_ms, item) {
            Some(settled) => Taken::found(self.judge(state, settled)),
            None => Taken::late(),
        }
    }

    fn pass(&self, state: &mut AbsenceState, now_ms: u64) -> Vec<Absent> {
        let settled = state.order.pass(now_ms, self.lateness_ms);
        self.judge(state, settled)
    }

    fn due_ms(&self, state: &AbsenceState) -> Option<u64> {
        let next_ms = state.order.due_ms(self.lateness_ms);
        let over_ms = state.since_ms.map(|since_ms| {
            let over_ms = since_ms.saturating_add(self.within_ms).saturating_add(1);
            state.order.reaches_ms(over_ms, self.lateness_ms)
        });
        next_ms.into_iter().chain(over_ms).min()
    }

    fn has_more(&self, state: &AbsenceState) -> bool {
        state.order.has_more()
    }
}
