//! Whether deliveries are begun, and of which ready key the next one is.

use super::{KeyScheduler, Pace};

/// Keys that are looked at for one whose event has not been tried.
const LOOKED_AT_MAX: u64 = 8;

impl<T> KeyScheduler<T> {
    /// How many events [`take`](Self::take) would hand out now.
    #[must_use]
    pub fn takeable(&self) -> usize {
        match self.pace {
            _ if self.paused => 0,
            Pace::Free => self.count_takeable(),
            Pace::Probe => usize::from(self.running == 0 && self.count_takeable() > 0),
            Pace::Still => 0,
        }
    }

    /// Hands out nothing until [`resume`](Self::resume); what is taken already goes on.
    pub const fn pause(&mut self) {
        self.paused = true;
    }

    /// The end of [`pause`](Self::pause).
    pub const fn resume(&mut self) {
        self.paused = false;
    }

    /// Whether it is paused.
    #[must_use]
    pub const fn is_paused(&self) -> bool {
        self.paused
    }

    /// Begins deliveries at another pace; what is taken already goes on.
    pub const fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
    }

    /// The lane whose turn it is. Lanes owe each other no order.
    pub(super) fn next_ready(&mut self) -> Option<usize> {
        if self.takeable() == 0 {
            return None;
        }
        if self.pace == Pace::Probe && !self.ready.is_empty() {
            self.ready.swap(0, self.pick());
        }
        self.next_lane()
    }

    /// Where in the ready queue some key stands; one whose event failed before would tell less.
    fn pick(&self) -> usize {
        let count = self.ready.len() as u64;
        let somewhere = |look: u64| {
            // The stamp moves on with every lease; its multiples are spread evenly.
            let spread = (self.stamp ^ (look << 48)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
            usize::try_from(spread % count.max(1)).unwrap_or(0)
        };
        let is_new = |at: &usize| {
            let lane = self.ready.get(*at).and_then(|id| self.lanes.get(*id));
            lane.is_some_and(|lane| lane.waiting.is_none_or(|waiting| waiting.attempt == 1))
        };
        (0..LOOKED_AT_MAX).map(somewhere).find(is_new).unwrap_or_else(|| somewhere(0))
    }
}
