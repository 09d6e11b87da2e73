//! Items in the order of their times, though they come in another.

use serde::{Deserialize, Serialize};

use super::FOUND_MAX;
use super::clock::Clock;

/// Items that wait at a time because others may come before them.
pub const HELD_MAX: usize = 1000;

/// Items that are given out at a time: each can end one absence, and the mark can end one more.
const SETTLED_MAX: usize = FOUND_MAX - 1;

/// What an event is for a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// What it begins with: A.
    First,
    /// What follows, or should: B.
    Then,
}

/// Gives items out by time; those of the same time in the order they came.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Reorder {
    clock: Clock,
    held: Vec<(u64, Step)>,
}

impl Reorder {
    /// Takes an item; none: it is late. Gives the items before which no other can come any more; of many
    /// the first, see [`has_more`](Self::has_more).
    pub(super) fn take(
        &mut self,
        time_ms: u64,
        now_ms: u64,
        lateness_ms: u64,
        step: Step,
    ) -> Option<Vec<(u64, Step)>> {
        if !self.clock.take(time_ms, now_ms, lateness_ms) {
            return None;
        }
        let at = self.held.partition_point(|(held_ms, _)| *held_ms <= time_ms);
        self.held.insert(at, (time_ms, step));
        if self.held.len() > HELD_MAX
            && let Some((oldest_ms, _)) = self.held.first()
        {
            self.clock.settle(*oldest_ms);
        }
        Some(self.settled())
    }

    /// The same for time that passes without an item.
    pub(super) fn pass(&mut self, now_ms: u64, lateness_ms: u64) -> Vec<(u64, Step)> {
        self.clock.pass(now_ms, lateness_ms);
        self.settled()
    }

    /// Whether there are more of them.
    pub(super) fn has_more(&self) -> bool {
        self.held.first().is_some_and(|(time_ms, _)| *time_ms <= self.clock.mark_ms())
    }

    /// Nothing before this time comes any more, and everything before it has been given out but for
    /// what is more than goes out at a time.
    pub(super) fn mark_ms(&self) -> u64 {
        self.clock.mark_ms()
    }

    /// When the first of what waits is given out where nothing more comes, by log time.
    pub(super) fn due_ms(&self, lateness_ms: u64) -> Option<u64> {
        let (time_ms, _) = self.held.first()?;
        Some(self.reaches_ms(*time_ms, lateness_ms))
    }

    /// When the mark reaches this time where nothing more comes, by log time.
    pub(super) fn reaches_ms(&self, mark_ms: u64, lateness_ms: u64) -> u64 {
        self.clock.reaches_ms(mark_ms, lateness_ms)
    }

    fn settled(&mut self) -> Vec<(u64, Step)> {
        let mark_ms = self.clock.mark_ms();
        let settled = self.held.partition_point(|(time_ms, _)| *time_ms <= mark_ms);
        self.held.drain(..settled.min(SETTLED_MAX)).collect()
    }
}
