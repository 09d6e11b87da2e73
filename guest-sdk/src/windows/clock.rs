//! How far time has come for the source of a key's items.

use serde::{Deserialize, Serialize};

/// The newest item, when it was recorded, and the mark: what is older than the mark is late.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Clock {
    newest_ms: u64,
    seen_ms: u64,
    mark_ms: u64,
}

impl Clock {
    /// Takes note of an item; false: it is late.
    pub(super) fn take(&mut self, time_ms: u64, now_ms: u64, lateness_ms: u64) -> bool {
        if time_ms < self.mark_ms {
            return false;
        }
        if time_ms > self.newest_ms || self.seen_ms == 0 {
            (self.newest_ms, self.seen_ms) = (time_ms, now_ms);
        }
        self.mark_ms = self.mark_ms.max(self.newest_ms.saturating_sub(lateness_ms));
        true
    }

    /// Time has passed until `now_ms` for the source as well.
    pub(super) fn pass(&mut self, now_ms: u64, lateness_ms: u64) {
        if self.seen_ms > 0 {
            let passed_ms = now_ms.saturating_sub(self.seen_ms);
            let time_ms = self.newest_ms.saturating_add(passed_ms);
            self.mark_ms = self.mark_ms.max(time_ms.saturating_sub(lateness_ms));
        }
    }

    /// Times before this are late.
    pub(super) fn mark_ms(&self) -> u64 {
        self.mark_ms
    }

    /// Moves the mark to this time, if it is not there yet.
    pub(super) fn settle(&mut self, time_ms: u64) {
        self.mark_ms = self.mark_ms.max(time_ms);
    }

    /// When [`pass`](Self::pass) would bring the mark to this time, by log time.
    pub(super) fn reaches_ms(&self, mark_ms: u64, lateness_ms: u64) -> u64 {
        let ahead_ms = mark_ms.saturating_add(lateness_ms).saturating_sub(self.newest_ms);
        self.seen_ms.saturating_add(ahead_ms)
    }
}
