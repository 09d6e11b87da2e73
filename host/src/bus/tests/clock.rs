//! The machine's clock, and what a test adds to it.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::{Clock, SystemClock};

#[derive(Default)]
pub(super) struct TurnedClock {
    system: SystemClock,
    wall_ms: AtomicI64,
    passed_ms: AtomicU64,
}

impl TurnedClock {
    /// Time passes, more of it than did.
    pub(super) fn pass(&self, ms: u64) {
        self.passed_ms.fetch_add(ms, Ordering::SeqCst);
    }

    /// Somebody sets the wall clock.
    pub(super) fn jump(&self, ms: i64) {
        self.wall_ms.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for TurnedClock {
    fn wall_ms(&self) -> u64 {
        let passed_ms = self.passed_ms.load(Ordering::SeqCst);
        let wall_ms = self.system.wall_ms().saturating_add(passed_ms);
        wall_ms.saturating_add_signed(self.wall_ms.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        self.system.monotonic() + Duration::from_millis(self.passed_ms.load(Ordering::SeqCst))
    }
}
