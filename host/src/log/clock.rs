//! Log time: one clock a bus, monotone whatever the wall clock does.
//!
//! It is advanced by the monotonic clock and drawn towards the wall clock slowly. Where the two are
//! too far apart it is not drawn at all: that raises an alarm, and is followed on command only.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::{Clock, Moment};
use crate::limits::CLOCK_STEP_MS_MAX;

/// One part in this many of the time that passes is gained or lost on the way to wall time.
const SLEW_PARTS: u64 = 10;

/// Milliseconds since the Unix epoch as the log counts them.
pub struct LogClock {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// The last answer.
    answer_ms: AtomicU64,
    /// The monotonic time, in microseconds, before which it stays the answer. Written after it and read
    /// before it, so that nobody takes an older one for it.
    stays_us: AtomicU64,
}

#[derive(Debug)]
struct State {
    log_us: u64,
    at: Duration,
    alarm: Option<ClockAlarm>,
}

/// Wall time is too far from log time to be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockAlarm {
    /// Log time, milliseconds since the Unix epoch.
    pub log_ms: u64,
    /// Wall time, milliseconds since the Unix epoch.
    pub wall_ms: u64,
}

impl fmt::Display for ClockAlarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { log_ms, wall_ms } = *self;
        let seconds = wall_ms.abs_diff(log_ms) / 1000;
        let (how, remedy) = if wall_ms > log_ms {
            ("ahead of", "set the clock, or follow it: `tidegate buses follow-clock BUS`")
        } else {
            ("behind", "set the clock")
        };
        let (wall, log) = (Moment(wall_ms), Moment(log_ms));
        write!(
            f,
            "the clock says {wall}, {seconds} s {how} the log, whose time goes on from {log}; {remedy}"
        )
    }
}

impl std::fmt::Debug for LogClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogClock").field("state", &self.state).finish_non_exhaustive()
    }
}

impl LogClock {
    /// Starts at wall time, but not before `last_ms`, the last log time there was.
    #[must_use]
    pub fn start(clock: Arc<dyn Clock>, last_ms: u64) -> Self {
        let log_us = clock.wall_ms().max(last_ms).saturating_mul(1000);
        let at = clock.monotonic();
        Self {
            clock,
            state: Mutex::new(State { log_us, at, alarm: None }),
            answer_ms: AtomicU64::new(0),
            stays_us: AtomicU64::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Log time. Never less than any answer before.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        // Every delivery asks, and most of them in the same millisecond as the one before.
        if micros(self.clock.monotonic()) < self.stays_us.load(Ordering::Acquire) {
            return self.answer_ms.load(Ordering::Acquire);
        }
        let mut state = self.state();
        let now = self.clock.monotonic();
        let passed_us = micros(now.saturating_sub(state.at));
        state.at = now;
        let wall_us = self.clock.wall_ms().saturating_mul(1000);
        let plain_us = state.log_us.saturating_add(passed_us);
        let apart_us = wall_us.abs_diff(plain_us);
        if apart_us > CLOCK_STEP_MS_MAX.saturating_mul(1000) {
            state.alarm = Some(ClockAlarm { log_ms: plain_us / 1000, wall_ms: wall_us / 1000 });
            state.log_us = plain_us;
        } else {
            state.alarm = None;
            let step_us = apart_us.min(passed_us / SLEW_PARTS);
            state.log_us = if wall_us > plain_us {
                plain_us.saturating_add(step_us)
            } else {
                plain_us.saturating_sub(step_us)
            };
        }
        let answer_ms = state.log_us / 1000;
        self.answer_ms.store(answer_ms, Ordering::Release);
        // Drawn forwards, the rest of the millisecond passes faster.
        let left_us = (1000 - state.log_us % 1000) * SLEW_PARTS / (SLEW_PARTS + 1);
        self.stays_us.store(micros(now).saturating_add(left_us), Ordering::Release);
        answer_ms
    }

    /// Whether wall time ran away, as of about the last [`Self::now_ms`].
    #[must_use]
    pub fn alarm(&self) -> Option<ClockAlarm> {
        self.state().alarm
    }

    /// What the wall clock says, milliseconds since the Unix epoch.
    #[must_use]
    pub fn wall_ms(&self) -> u64 {
        self.clock.wall_ms()
    }

    /// Follows a wall clock that ran ahead, at once, and answers with the log time that is then; one that
    /// fell behind is waited for by nobody: log time goes on from where it is.
    pub fn follow_wall(&self) -> u64 {
        let mut state = self.state();
        let wall_us = self.clock.wall_ms().saturating_mul(1000);
        if wall_us > state.log_us {
            state.log_us = wall_us;
            state.at = self.clock.monotonic();
            self.stays_us.store(0, Ordering::Release);
        }
        drop(state);
        self.now_ms()
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[derive(Default)]
    struct Hand {
        wall_ms: AtomicU64,
        monotonic_us: AtomicU64,
    }

    impl Clock for Hand {
        fn wall_ms(&self) -> u64 {
            self.wall_ms.load(Ordering::Relaxed)
        }
        fn monotonic(&self) -> Duration {
            Duration::from_micros(self.monotonic_us.load(Ordering::Relaxed))
        }
    }

    fn at(wall_ms: u64, last_ms: u64) -> (Arc<Hand>, LogClock) {
        let hand = Arc::new(Hand::default());
        hand.wall_ms.store(wall_ms, Ordering::Relaxed);
        (hand.clone(), LogClock::start(hand, last_ms))
    }

    fn pass(hand: &Hand, ms: u64) {
        hand.wall_ms.fetch_add(ms, Ordering::Relaxed);
        hand.monotonic_us.fetch_add(ms * 1000, Ordering::Relaxed);
    }

    #[test]
    fn it_starts_no_earlier_than_the_log_ended() {
        assert_eq!(at(5_000, 9_000).1.now_ms(), 9_000);
        assert_eq!(at(9_000, 5_000).1.now_ms(), 9_000);
    }

    #[test]
    fn a_small_step_is_drawn_in_slowly() {
        let (hand, clock) = at(100_000, 0);
        hand.wall_ms.fetch_add(500, Ordering::Relaxed);
        pass(&hand, 1000);
        assert_eq!(clock.now_ms(), 101_100);
        pass(&hand, 10_000);
        assert_eq!(clock.now_ms(), 111_500, "caught up");
        hand.wall_ms.fetch_sub(500, Ordering::Relaxed);
        pass(&hand, 1000);
        assert_eq!(clock.now_ms(), 112_400);
    }

    #[test]
    fn a_large_step_raises_an_alarm_and_is_followed_on_command() {
        let (hand, clock) = at(100_000, 0);
        hand.wall_ms.fetch_add(3_600_000, Ordering::Relaxed);
        pass(&hand, 1000);
        assert_eq!(clock.now_ms(), 101_000);
        assert!(clock.alarm().is_some());
        assert_eq!(clock.follow_wall(), 3_701_000);
        assert_eq!(clock.now_ms(), 3_701_000);
        assert_eq!(clock.alarm(), None);
    }

    #[test]
    fn a_wall_clock_that_is_behind_is_not_followed_and_no_time_is_lost() {
        let (hand, clock) = at(10_000_000, 0);
        hand.wall_ms.fetch_sub(3_600_000, Ordering::Relaxed);
        pass(&hand, 1000);
        assert_eq!(clock.follow_wall(), 10_001_000);
        assert!(clock.alarm().is_some());
    }

    #[test]
    fn an_answer_stays_no_longer_than_its_millisecond() {
        let (hand, clock) = at(100_000, 0);
        for passed_us in (0..200_000).step_by(70) {
            hand.monotonic_us.store(passed_us, Ordering::Relaxed);
            hand.wall_ms.store(100_000 + passed_us / 1000, Ordering::Relaxed);
            let late = (100_000 + passed_us / 1000).abs_diff(clock.now_ms());
            assert!(late <= 1, "{late} ms at {passed_us} us");
        }
    }

    #[test]
    fn it_never_goes_back() {
        let (hand, clock) = at(10_000_000, 0);
        let mut random = fastrand::Rng::with_seed(7);
        let mut last = 0;
        for _ in 0..10_000 {
            hand.wall_ms.store(random.u64(0..20_000_000), Ordering::Relaxed);
            hand.monotonic_us.fetch_add(random.u64(0..50_000), Ordering::Relaxed);
            if random.u8(0..100) == 0 {
                clock.follow_wall();
            }
            let now = clock.now_ms();
            assert!(now >= last);
            last = now;
        }
    }
}
