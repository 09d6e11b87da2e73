//! Whether a plugin fails at so many keys that it is the plugin, or what it depends on: then it
//! stands still and is probed, instead of every key being parked that it touches.
//!
//! Pure: time is handed in. What must not break: keys that fail on their own (one that fails without
//! end, one in a hundred) never stop the others. So keys are counted, not attempts; only the first
//! attempt at an event counts, because those that failed come again and those that went well do not;
//! and some keys in a row that fail are forgiven by the probes, and with more patience from then on.
//!
//! After the circuit breaker of M. Nygard, "Release It!" (2nd edition, 2018, chapter 5).

use hashbrown::HashMap;

/// Keys that must have failed before anything is concluded.
const KEYS_FAILED_MIN: usize = 20;
/// That grows by this factor with each time that the probes found the plugin well.
const PATIENCE_FACTOR: usize = 4;
/// How often it does.
const PATIENCE_MAX: u32 = 5;
/// Keys remembered of each half of the window; past it every other key is left out.
const KEYS_MAX: usize = 2048;
/// Probes after which it is clear how the plugin is.
const PROBES: u32 = 16;
/// How long a plugin first stands still; doubles each time that the probes fail.
const WAIT_MS_MIN: u64 = 100;
/// The longest.
const WAIT_MS_MAX: u64 = 30_000;

/// When a plugin fails broadly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// Percent of the keys that must fail, 1 to 100.
    pub percent: u8,
    /// Within this time, in milliseconds.
    pub window_ms: u64,
}

/// How a plugin stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Deliveries are made.
    Closed,
    /// None are, until this log time in milliseconds.
    Open(u64),
    /// They are made one at a time, to see how they go.
    Probing {
        /// Those that went well.
        well: u32,
        /// Those that failed.
        failed: u32,
    },
}

/// An attempt that ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// A hash of its key; for events without one, of the event.
    pub key: u64,
    /// Whether it was the first at this event.
    pub first: bool,
    /// Whether it failed. A reject is a verdict, not a failure.
    pub failed: bool,
}

/// The breaker of one plugin.
#[derive(Debug)]
pub struct Breaker {
    policy: BreakerPolicy,
    phase: Phase,
    /// Keys seen in this half of the window, and whether they failed; the half before.
    now: Half,
    before: Half,
    /// Only keys whose hash ends in so many zero bits are remembered.
    sampled_bits: u32,
    /// Times in a row that the probes failed.
    relapses: u32,
    /// Times that the probes went well, with no whole window in between that had no need of them.
    patience: u32,
    closed_at_ms: u64,
    /// Keys that failed of those seen when it opened.
    share: (usize, usize),
}

#[derive(Debug, Default)]
struct Half {
    since_ms: u64,
    keys: HashMap<u64, bool>,
    failed: usize,
}

impl Half {
    fn note(&mut self, key: u64, failed: bool) {
        let known = self.keys.entry(key).or_insert(false);
        if failed && !std::mem::replace(known, true) {
            self.failed += 1;
        }
    }

    fn thin_out(&mut self, bits: u32) {
        self.keys.retain(|key, _| is_sampled(*key, bits));
        self.failed = self.keys.values().filter(|failed| **failed).count();
    }
}

const fn is_sampled(key: u64, bits: u32) -> bool {
    key.trailing_zeros() >= bits
}

impl Breaker {
    /// A closed one.
    #[must_use]
    pub fn new(policy: BreakerPolicy) -> Self {
        Self {
            policy,
            phase: Phase::Closed,
            now: Half::default(),
            before: Half::default(),
            sampled_bits: 0,
            relapses: 0,
            patience: 0,
            closed_at_ms: 0,
            share: (0, 0),
        }
    }

    /// How the plugin stands.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// Keys that failed, of those seen, when it opened.
    #[must_use]
    pub const fn share(&self) -> (usize, usize) {
        self.share
    }

    /// Whether probes have failed since.
    #[must_use]
    pub const fn has_relapsed(&self) -> bool {
        self.relapses > 0
    }

    /// Whether attempts that go well need to be told: not while nothing has failed for a while.
    #[must_use]
    pub fn is_watching(&self) -> bool {
        self.phase != Phase::Closed || self.now.failed + self.before.failed > 0
    }

    /// Takes the end of an attempt. Says whether the phase changed.
    pub fn note(&mut self, ended: Ended, now_ms: u64) -> bool {
        match self.phase {
            Phase::Closed => self.watch(ended, now_ms),
            // It was begun before.
            Phase::Open(_) => false,
            Phase::Probing { well, failed } => {
                let (well, failed) = match ended.failed {
                    true => (well, failed + 1),
                    false => (well + 1, failed),
                };
                self.phase = Phase::Probing { well, failed };
                self.judge(well, failed, now_ms)
            }
        }
    }

    /// Begins to probe once it is time. Says whether it did.
    pub fn probe(&mut self, now_ms: u64) -> bool {
        let due = matches!(self.phase, Phase::Open(until_ms) if until_ms <= now_ms);
        if due {
            self.phase = Phase::Probing { well: 0, failed: 0 };
        }
        due
    }

    /// Forgets all that went wrong: there is another module, or somebody says so.
    pub fn reset(&mut self, policy: BreakerPolicy) {
        *self = Self::new(policy);
    }

    /// When a delivery is to be tried again that would be given up if the plugin were well.
    #[must_use]
    pub fn put_off(&self, now_ms: u64) -> Option<u64> {
        match self.phase {
            Phase::Closed => None,
            Phase::Open(until_ms) => Some(until_ms.max(now_ms.saturating_add(1))),
            Phase::Probing { .. } => Some(now_ms.saturating_add(self.wait_ms())),
        }
    }

    fn watch(&mut self, ended: Ended, now_ms: u64) -> bool {
        if !ended.first || !is_sampled(ended.key, self.sampled_bits) {
            return false;
        }
        self.turn(now_ms);
        self.now.note(ended.key, ended.failed);
        if self.now.keys.len() > KEYS_MAX {
            self.sampled_bits += 1;
            self.now.thin_out(self.sampled_bits);
            self.before.thin_out(self.sampled_bits);
        }
        ended.failed && self.fails_broadly() && {
            self.share = self.counted();
            self.open(now_ms);
            true
        }
    }

    /// Goes on to the next half of the window.
    fn turn(&mut self, now_ms: u64) {
        let half_ms = (self.policy.window_ms / 2).max(1);
        let age_ms = now_ms.saturating_sub(self.now.since_ms);
        if age_ms < half_ms {
            return;
        }
        let half = Half { since_ms: now_ms, ..Half::default() };
        self.before = std::mem::replace(&mut self.now, half);
        if age_ms >= 2 * half_ms {
            self.before = Half::default();
        }
        if now_ms.saturating_sub(self.closed_at_ms) >= self.policy.window_ms {
            self.patience = 0;
        }
        if self.before.keys.len() < KEYS_MAX / 8 {
            // There are fewer keys by now: all of them count again.
            self.sampled_bits = 0;
        }
    }

    fn counted(&self) -> (usize, usize) {
        let failed = self.now.failed + self.before.failed;
        (
            failed << self.sampled_bits,
            (self.now.keys.len() + self.before.keys.len()) << self.sampled_bits,
        )
    }

    fn fails_broadly(&self) -> bool {
        let (failed, seen) = self.counted();
        let least = KEYS_FAILED_MIN * PATIENCE_FACTOR.pow(self.patience);
        failed >= least && failed * 100 >= usize::from(self.policy.percent) * seen
    }

    /// Ends the probes as soon as those that are left cannot change what they say.
    fn judge(&mut self, well: u32, failed: u32, now_ms: u64) -> bool {
        let bad = (PROBES * u32::from(self.policy.percent)).div_ceil(100).max(1);
        if failed >= bad {
            self.relapses += 1;
            self.open(now_ms);
        } else if well > PROBES - bad {
            let patience = (self.patience + 1).min(PATIENCE_MAX);
            *self = Self { patience, closed_at_ms: now_ms, ..Self::new(self.policy) };
        } else {
            return false;
        }
        true
    }

    fn open(&mut self, now_ms: u64) {
        self.phase = Phase::Open(now_ms.saturating_add(self.wait_ms()));
    }

    fn wait_ms(&self) -> u64 {
        (WAIT_MS_MIN << self.relapses.min(16)).min(WAIT_MS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: BreakerPolicy = BreakerPolicy { percent: 50, window_ms: 60_000 };

    fn first(key: u64, failed: bool) -> Ended {
        // As a hash would be.
        let key = key.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
        Ended { key, first: true, failed }
    }

    /// One event of each key in a row, a millisecond apart, as long as deliveries are made.
    fn deliver(breaker: &mut Breaker, from: u64, to: u64, fails: impl Fn(u64) -> bool) -> u64 {
        (from..to).find(|key| breaker.note(first(*key, fails(*key)), *key)).unwrap_or(to)
    }

    #[test]
    fn a_plugin_that_fails_at_every_key_is_stopped_after_few() {
        let mut breaker = Breaker::new(POLICY);
        assert_eq!(deliver(&mut breaker, 0, 1000, |_| true), 19);
        assert_eq!(breaker.phase(), Phase::Open(19 + WAIT_MS_MIN));
        assert_eq!(breaker.share(), (20, 20));
    }

    #[test]
    fn one_key_in_a_hundred_stops_nothing_however_many_there_are() {
        let mut breaker = Breaker::new(POLICY);
        assert_eq!(deliver(&mut breaker, 0, 200_000, |key| key % 100 == 7), 200_000);
        assert!(breaker.now.keys.len() + breaker.before.keys.len() <= 2 * KEYS_MAX + 1);
    }

    #[test]
    fn a_third_of_the_keys_is_not_broad_and_two_thirds_are() {
        let mut breaker = Breaker::new(POLICY);
        assert_eq!(deliver(&mut breaker, 0, 100_000, |key| key % 3 == 0), 100_000);
        let mut breaker = Breaker::new(POLICY);
        assert!(deliver(&mut breaker, 0, 100_000, |key| key % 3 != 0) < 100);
    }

    #[test]
    fn one_key_that_fails_without_end_stops_nothing() {
        let mut breaker = Breaker::new(POLICY);
        for ms in 0..100_000 {
            assert!(!breaker.note(first(1, true), ms));
        }
    }

    #[test]
    fn keys_that_only_come_again_and_fail_say_nothing_new() {
        let mut breaker = Breaker::new(POLICY);
        deliver(&mut breaker, 0, 10_000, |key| key % 100 == 0);
        for ms in 10_000..300_000 {
            let again = Ended { first: false, ..first(ms % 100 * 100, true) };
            assert!(!breaker.note(again, ms));
        }
    }

    #[test]
    fn what_was_long_ago_does_not_count() {
        let mut breaker = Breaker::new(POLICY);
        for key in 0..1000 {
            // Two a second: no window has twenty.
            assert!(!breaker.note(first(key, true), key * 7000));
        }
    }

    #[test]
    fn nothing_is_to_be_told_while_nothing_fails() {
        let mut breaker = Breaker::new(POLICY);
        assert!(!breaker.is_watching());
        breaker.note(first(1, true), 10);
        assert!(breaker.is_watching());
        breaker.note(first(2, false), 61_000);
        breaker.note(first(2, false), 92_000);
        assert!(!breaker.is_watching());
    }

    #[test]
    fn probes_that_fail_double_the_wait_and_probes_that_go_well_close() {
        let mut breaker = Breaker::new(POLICY);
        let mut now_ms = deliver(&mut breaker, 0, 1000, |_| true);
        for round in 0..12 {
            let Phase::Open(until_ms) = breaker.phase() else { panic!("{:?}", breaker.phase()) };
            assert_eq!(until_ms - now_ms, (WAIT_MS_MIN << round).min(WAIT_MS_MAX));
            assert!(!breaker.probe(until_ms - 1));
            assert_eq!(breaker.put_off(until_ms - 1), Some(until_ms));
            assert!(breaker.probe(until_ms));
            now_ms = until_ms;
            let mut probes = 1;
            while !breaker.note(first(probes, true), now_ms) {
                probes += 1;
            }
            assert_eq!(probes, 8);
        }
        let Phase::Open(until_ms) = breaker.phase() else { panic!("{:?}", breaker.phase()) };
        breaker.probe(until_ms);
        let closed = (0..).find(|key| breaker.note(first(*key, false), until_ms));
        assert_eq!((closed, breaker.phase()), (Some(8), Phase::Closed));
        assert_eq!(breaker.put_off(until_ms), None);
    }

    #[test]
    fn many_bad_keys_in_a_row_cost_few_pauses() {
        let mut breaker = Breaker::new(POLICY);
        let (mut at, mut pauses) = (0, 0);
        while at < 2000 {
            at = deliver(&mut breaker, at, 2000, |_| true) + 1;
            if let Phase::Open(until_ms) = breaker.phase() {
                pauses += 1;
                breaker.probe(until_ms);
                // Keys picked at random go well.
                while !breaker.note(first(at + 1_000_000, false), until_ms) {}
            }
        }
        assert_eq!(pauses, 4, "after 20, 80, 320 and 1280");
    }

    #[test]
    fn another_module_starts_afresh() {
        let mut breaker = Breaker::new(POLICY);
        deliver(&mut breaker, 0, 1000, |_| true);
        breaker.reset(POLICY);
        assert_eq!(breaker.phase(), Phase::Closed);
        assert!(!breaker.is_watching());
    }
}
