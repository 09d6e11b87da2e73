//! When values of a plugin that have ended may be removed: once no delivery to come is of a time at
//! which they were still there.
//!
//! How far a plugin is, is not a function of the log, so the answer is recorded: the fold removes
//! what a [`Control::Expire`] says, the same live and at a restart.

use std::collections::VecDeque;

use super::Runner;
use crate::event::Position;
use crate::log::record::{Control, ControlRecord};

/// Places remembered between what was read and what is done with.
const MARKS_MAX: usize = 64;
/// Log time between two removals of one plugin.
const EVERY_MS: u64 = 2000;

/// How far a plugin has come in log time.
#[derive(Debug, Default)]
pub(super) struct Horizon {
    /// Positions that were read, with their log times, ascending.
    marks: VecDeque<(Position, u64)>,
    reached_ms: u64,
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

    /// Log time that no delivery to come is before, where everything up to `seen` is done with.
    fn reached(&mut self, seen: Position) -> u64 {
        while let Some((_, ms)) = self.marks.pop_front_if(|(position, _)| *position <= seen) {
            self.reached_ms = ms;
        }
        self.reached_ms
    }

    /// The time up to which values are to be removed now, if any are.
    fn due(&mut self, seen: Position, next_end_ms: Option<u64>) -> Option<u64> {
        let reached_ms = self.reached(seen);
        let waited = reached_ms >= self.recorded_ms.saturating_add(EVERY_MS);
        if !waited || next_end_ms.is_none_or(|end| end > reached_ms) {
            return None;
        }
        self.recorded_ms = reached_ms;
        Some(reached_ms)
    }
}

impl Runner {
    /// Has values removed that ended, where that is due.
    pub(super) fn expire(&self, horizon: &mut Horizon) {
        let next_end_ms = self.bus.values().next_end_ms(self.instance, self.generation);
        let Some(until_ms) = horizon.due(self.cursor().seen, next_end_ms) else { return };
        let (instance, generation) = (self.instance, self.generation);
        let control = Control::Expire { instance, generation, until_ms };
        // Nobody waits for it: what is not removed now is next time.
        drop(self.bus.control(&[ControlRecord { actor: "host".into(), control }]));
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
        assert!(reached_ms <= 500_000);
        assert_eq!(horizon.reached(Position(100_000)), 1_000_000);
    }
}
