//! N times A, then B.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::reorder::{Reorder, Step};
use super::{Detector, Taken, lateness_ms};
use crate::Error;

/// A number of [`Step::First`] in a row, all within a span, and then [`Step::Then`], at most so long
/// after the last of them.
///
/// In a row: a `Then` in between, whether it is part of a match or not, begins the count anew. Items
/// are taken by their times; of the same time, as they come. They are judged once no other can come
/// before them, that is `lateness` after the newest: at once where it is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence {
    times: usize,
    span_ms: u64,
    then_ms: u64,
    lateness_ms: u64,
}

/// What a [`Sequence`] remembers of a key.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SequenceState {
    order: Reorder,
    /// The last `First`s since the last `Then`, as many as are needed.
    firsts: Vec<u64>,
    /// The latest of them that are within the span: first and last.
    group: Option<(u64, u64)>,
}

/// A sequence that was found; times in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Match {
    /// The first of the latest group.
    pub first_ms: u64,
    /// The last of it.
    pub last_ms: u64,
    /// What followed.
    pub then_ms: u64,
}

/// `First`s that a sequence may ask for.
const TIMES_MAX: usize = 1000;

impl Sequence {
    /// `times` times `First` within `span` (of the first and the last), then `Then` within `then` of
    /// the last.
    ///
    /// # Errors
    /// [`Error::Invalid`] for `times` that are not 1 to 1000.
    pub fn new(
        times: usize,
        span: Duration,
        then: Duration,
        lateness: Duration,
    ) -> Result<Self, Error> {
        if !(1..=TIMES_MAX).contains(&times) {
            let why = format!("a sequence has 1 to {TIMES_MAX} times its first, found {times}");
            return Err(Error::Invalid(why));
        }
        let (span_ms, then_ms) = (lateness_ms(span), lateness_ms(then));
        Ok(Self { times, span_ms, then_ms, lateness_ms: lateness_ms(lateness) })
    }

    /// `First`, then `Then` within `then` of it.
    ///
    /// # Errors
    /// None today.
    pub fn pair(then: Duration, lateness: Duration) -> Result<Self, Error> {
        Self::new(1, Duration::ZERO, then, lateness)
    }

    fn judge(&self, state: &mut SequenceState, settled: Vec<(u64, Step)>) -> Vec<Match> {
        settled.into_iter().filter_map(|(time_ms, step)| self.step(state, time_ms, step)).collect()
    }

    fn step(&self, state: &mut SequenceState, time_ms: u64, step: Step) -> Option<Match> {
        if step == Step::First {
            state.firsts.push(time_ms);
            let surplus = state.firsts.len().saturating_sub(self.times);
            state.firsts.drain(..surplus);
            let first_ms = *state.firsts.first()?;
            if state.firsts.len() == self.times && time_ms - first_ms <= self.span_ms {
                state.group = Some((first_ms, time_ms));
            }
            return None;
        }
        state.firsts.clear();
        let (first_ms, last_ms) = state.group.take()?;
        let follows = time_ms - last_ms <= self.then_ms;
        follows.then_some(Match { first_ms, last_ms, then_ms: time_ms })
    }
}

impl Detector for Sequence {
    type State = SequenceState;
    type Item = Step;
    type Found = Match;

    fn take(
        &self,
        state: &mut SequenceState,
        time_ms: u64,
        now_ms: u64,
        item: Step,
    ) -> Taken<Match> {
        match state.order.take(time_ms, now_ms, self.lateness_ms, item) {
            Some(settled) => Taken::found(self.judge(state, settled)),
            None => Taken::late(),
        }
    }

    fn pass(&self, state: &mut SequenceState, now_ms: u64) -> Vec<Match> {
        let settled = state.order.pass(now_ms, self.lateness_ms);
        self.judge(state, settled)
    }

    fn due_ms(&self, state: &SequenceState) -> Option<u64> {
        state.order.due_ms(self.lateness_ms)
    }

    fn has_more(&self, state: &SequenceState) -> bool {
        state.order.has_more()
    }
}
