//! When values of a plugin that have ended may be removed: once no delivery to come is of a time at
//! which they were still there.
//!
//! How far a plugin is, is not a function of the log, so the answer is recorded: the fold removes
//! what a [`Control::Expire`] says, the same live and at a restart.
//!
//! What must not break: what counts for the answer is what the scheduler knew of keys that wait for a
//! person, and the fold passes over those that wait as the log has it. So both have to say the same: from
//! before such a key is let go on in the log until the scheduler knows of it, nothing is recorded here.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Runner;
use crate::event::Position;
use crate::log::record::{Control, ControlRecord};

/// Places remembered between what was read and what is done with.
const MARKS_MAX: usize = 64;
/// Log time between two removals of one plugin.
const EVERY_MS: u64 = 2000;

/// Acts that let keys go on, on their way from the log to the scheduler.
#[derive(Debug, Default)]
pub(super) struct Acts {
    /// How many. Locked while a removal is decided on and put into its lane, so that no act is recorded
    /// in between.
    under_way: Mutex<usize>,
}

/// An act of an operator that is to be recorded, and then told to the scheduler; over when dropped.
#[derive(Debug)]
#[must_use = "it is over when dropped"]
pub struct ActUnderWay<'a>(&'a Acts);

impl Acts {
    fn under_way(&self) -> MutexGuard<'_, usize> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ActUnderWay<'_> {
    fn drop(&mut self) {
        *self.0.under_way() -= 1;
    }
}

/// How far a plugin has come in log time.
#[derive(Debug, Default)]
pub(super) struct Horizon {
    /// Positions that were read, with their log times, ascending.
    marks: VecDeque<(Position, u64)>,
    /// The last of them that everything was done with, and its log time.
    reached: (Position, u64),
    recorded_ms: u64,
}

impl Horizon {
    /// Notes a position that was read, with its log time.
    pub(super) fn read(&mut self, position: Position, recorded_ms: u64) {
        if self.marks.len() >= MARKS_MAX {
            let mut keep = false;
            self.marks.retain(|_| {
                keep = !keep;
                !keep
            });
        }
        self.marks.push_back((position, recorded_ms));
    }

    /// Log time that no delivery to come is before, where everything up to `seen` is done with; none: a
    /// key is back that had waited for a person, and has yet to come to where it was once.
    fn reached(&mut self, seen: Position) -> Option<u64> {
        while let Some(mark) = self.marks.pop_front_if(|(position, _)| *position <= seen) {
            self.reached = mark;
        }
        let (position, ms) = self.reached;
        (position <= seen).then_some(ms)
    }

    /// The time up to which values are to be removed now, if any are.
    fn due(&mut self, seen: Position, next_end_ms: Option<u64>) -> Option<u64> {
        let reached_ms = self.reached(seen)?;
        let waited = reached_ms >= self.recorded_ms.saturating_add(EVERY_MS);
        if !waited || next_end_ms.is_none_or(|end| end > reached_ms) {
            return None;
        }
        self.recorded_ms = reached_ms;
        Some(reached_ms)
    }
}

impl Runner {
    /// To be held from before an act is recorded that lets keys go on, until the scheduler knows of it.
    pub fn begin_act(&self) -> ActUnderWay<'_> {
        *self.acts.under_way() += 1;
        ActUnderWay(&self.acts)
    }

    /// Has values removed that ended, where that is due.
    pub(super) fn expire(&self, horizon: &mut Horizon) {
        let acts = self.acts.under_way();
        if *acts > 0 {
            return;
        }
        let next_end_ms = self.bus.values().next_end_ms(self.instance, self.generation);
        let Some(until_ms) = horizon.due(self.cursor().seen, next_end_ms) else { return };
        let (instance, generation) = (self.instance, self.generation);
        let control = Control::Expire { instance, generation, until_ms };
        // Nobody waits for it: what is not removed now is next time.
        drop(self.bus.control(&[ControlRecord { actor: "host".into(), control }]));
        drop(acts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_ends_before_what_is_still_to_be_delivered() {
        let mut horizon = Horizon::default();
        horizon.read(Position(10), 5000);
        horizon.read(Position(20), 9000);
        assert_eq!(horizon.due(Position(9), Some(1)), None);
        assert_eq!(horizon.due(Position(19), Some(5001)), None);
        assert_eq!(horizon.due(Position(19), Some(5000)), Some(5000));
        assert_eq!(horizon.due(Position(20), None), None);
        assert_eq!(horizon.due(Position(20), Some(5500)), Some(9000));
        // A place that is taken back, for a dead letter that runs again, changes nothing.
        assert_eq!(horizon.due(Position(3), Some(5500)), None);
    }

    #[test]
    fn nothing_ends_before_what_a_key_that_is_back_still_has_to_deliver() {
        let mut horizon = Horizon::default();
        horizon.read(Position(10), 5000);
        horizon.read(Position(20), 9000);
        assert_eq!(horizon.due(Position(20), None), None, "nothing has an end");
        // A dead letter runs again, and leaves a value that had an end in its time.
        assert_eq!(horizon.due(Position(3), Some(4000)), None);
        horizon.read(Position(30), 20_000);
        assert_eq!(horizon.due(Position(19), Some(4000)), None);
        assert_eq!(horizon.due(Position(20), Some(4000)), Some(9000));
    }

    #[test]
    fn removals_keep_a_distance() {
        let mut horizon = Horizon::default();
        horizon.read(Position(1), 3000);
        assert_eq!(horizon.due(Position(1), Some(1)), Some(3000));
        horizon.read(Position(2), 4999);
        assert_eq!(horizon.due(Position(2), Some(1)), None);
        horizon.read(Position(3), 5000);
        assert_eq!(horizon.due(Position(3), Some(1)), Some(5000));
    }

    #[test]
    fn few_places_are_remembered_however_far_a_plugin_lags() {
        let mut horizon = Horizon::default();
        for position in 1..=100_000 {
            horizon.read(Position(position), position * 10);
        }
        assert!(horizon.marks.len() <= MARKS_MAX);
        let reached_ms = horizon.reached(Position(50_000));
        assert!(reached_ms.is_some_and(|reached_ms| reached_ms <= 500_000));
        assert_eq!(horizon.reached(Position(100_000)), Some(1_000_000));
    }
}
