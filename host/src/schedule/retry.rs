//! What a failed delivery gets next: another attempt at some time, or the dead letters.
//!
//! Pure: time and randomness are handed in, so that the decision can be tabled and repeated.

use crate::effects::{Outcome, OutcomeKind};
use crate::limits::{RETRY_AFTER_MS_MAX, RETRY_AFTER_MS_MIN};

/// `[retry]` of the manifest, as far as it decides about attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts for outcomes that the same input brings about again; at least 1.
    pub attempts_fault: u32,
    /// Most that the first retry waits, in milliseconds; doubles with every attempt.
    pub backoff_ms: u64,
    /// Most that any retry waits unless the guest says so, in milliseconds.
    pub backoff_max_ms: u64,
    /// Milliseconds from the first attempt after which `retry` and `timeout` are given up.
    pub give_up_after_ms: u64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts_fault: 2,
            backoff_ms: 100,
            backoff_max_ms: 30_000,
            give_up_after_ms: 15 * 60 * 1000,
        }
    }
}

/// What is to be done with a delivery after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is over, and well.
    Done,
    /// Another attempt, not before this log time in milliseconds.
    RetryAt(u64),
    /// A dead letter.
    GiveUp,
}

/// Decides after attempt number `attempt` (from 1) ended with `outcome` at log time `now_ms`, the
/// first one having begun at `first_ms`. `jitter` is uniformly random over all of `u64`.
///
/// Full jitter, after "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015): the wait is
/// uniform between 1 ms and the backoff, so that keys that failed together come back apart. The last
/// attempt is moved forward to the moment of giving up rather than left out. A delay that the guest
/// asked for is honoured from 10 ms up to 30 days, also past that moment: what fails after it is given up.
#[must_use]
pub fn next(
    policy: &RetryPolicy,
    attempt: u32,
    first_ms: u64,
    now_ms: u64,
    outcome: &Outcome,
    jitter: u64,
) -> Step {
    let backoff = || now_ms.saturating_add(backoff_ms(policy, attempt, jitter));
    let deadline_ms = first_ms.saturating_add(policy.give_up_after_ms);
    match outcome.kind() {
        OutcomeKind::Ok => Step::Done,
        OutcomeKind::Reject => Step::GiveUp,
        kind if kind.is_deterministic() => {
            if attempt < policy.attempts_fault {
                Step::RetryAt(backoff())
            } else {
                Step::GiveUp
            }
        }
        _ if now_ms >= deadline_ms => Step::GiveUp,
        _ => match outcome {
            Outcome::Retry { after_ms: Some(after_ms), .. } => {
                // Every attempt is a commit: a guest in a hurry must not fill the log with them.
                let wait_ms = (*after_ms).clamp(RETRY_AFTER_MS_MIN, RETRY_AFTER_MS_MAX);
                Step::RetryAt(now_ms.saturating_add(wait_ms))
            }
            _ => Step::RetryAt(backoff().min(deadline_ms)),
        },
    }
}

/// Uniform between 1 and `backoff * 2^(attempt - 1)`, at most `backoff_max`.
pub(crate) fn backoff_ms(policy: &RetryPolicy, attempt: u32, jitter: u64) -> u64 {
    let doublings = attempt.saturating_sub(1).min(63);
    let most = policy.backoff_ms.saturating_mul(1 << doublings).min(policy.backoff_max_ms);
    let scaled = (u128::from(jitter) * u128::from(most.saturating_add(1))) >> 64;
    u64::try_from(scaled).unwrap_or(most).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy = RetryPolicy {
        attempts_fault: 3,
        backoff_ms: 100,
        backoff_max_ms: 1000,
        give_up_after_ms: 10_000,
    };
    const LEAST: u64 = 0;
    const MOST: u64 = u64::MAX;

    fn retry(after_ms: Option<u64>) -> Outcome {
        Outcome::Retry { reason: String::new(), after_ms }
    }

    fn trap() -> Outcome {
        Outcome::Trap { reason: String::new() }
    }

    /// (attempt, outcome, now relative to the first attempt, jitter) -> step, times likewise.
    fn check(cases: &[(u32, Outcome, u64, u64, Step)]) {
        let first_ms = 1_000_000;
        for (attempt, outcome, elapsed_ms, jitter, step) in cases {
            let got = next(&POLICY, *attempt, first_ms, first_ms + elapsed_ms, outcome, *jitter);
            let expected = match step {
                Step::RetryAt(ms) => Step::RetryAt(first_ms + ms),
                other => *other,
            };
            assert_eq!(got, expected, "attempt {attempt} {outcome:?} after {elapsed_ms} ms");
        }
    }

    #[test]
    fn ok_is_done_and_reject_is_given_up_at_once() {
        let reject = Outcome::Reject { reason: String::new() };
        check(&[(1, Outcome::Ok, 0, MOST, Step::Done), (1, reject, 0, MOST, Step::GiveUp)]);
    }

    #[test]
    fn deterministic_outcomes_get_few_attempts_whatever_the_time() {
        let output = Outcome::Output { budget: "limits.emits".to_owned() };
        for fault in [trap(), Outcome::Fuel, Outcome::Memory, output, Outcome::Depth] {
            check(&[
                (1, fault.clone(), 0, MOST, Step::RetryAt(100)),
                (2, fault.clone(), 50_000, MOST, Step::RetryAt(50_200)),
                (3, fault.clone(), 0, MOST, Step::GiveUp),
                (9, fault, 0, MOST, Step::GiveUp),
            ]);
        }
    }

    #[test]
    fn retry_and_timeout_back_off_exponentially_to_a_bound() {
        for outcome in [retry(None), Outcome::Timeout] {
            check(&[
                (1, outcome.clone(), 0, MOST, Step::RetryAt(100)),
                (2, outcome.clone(), 100, MOST, Step::RetryAt(300)),
                (4, outcome.clone(), 1000, MOST, Step::RetryAt(1800)),
                (5, outcome.clone(), 2000, MOST, Step::RetryAt(3000)),
                (u32::MAX, outcome, 2000, MOST, Step::RetryAt(3000)),
            ]);
        }
    }

    #[test]
    fn jitter_spreads_over_the_whole_backoff_but_never_spins() {
        check(&[
            (1, retry(None), 0, LEAST, Step::RetryAt(1)),
            (1, retry(None), 0, MOST / 2, Step::RetryAt(50)),
            (5, retry(None), 0, MOST / 4, Step::RetryAt(250)),
        ]);
        let still = RetryPolicy { backoff_ms: 0, ..POLICY };
        assert_eq!(next(&still, 1, 5, 5, &Outcome::Timeout, MOST), Step::RetryAt(6));
    }

    #[test]
    fn the_last_attempt_is_at_the_moment_of_giving_up() {
        check(&[
            (8, retry(None), 9_999, MOST, Step::RetryAt(10_000)),
            (9, retry(None), 10_000, MOST, Step::GiveUp),
            (9, Outcome::Timeout, 10_001, LEAST, Step::GiveUp),
        ]);
    }

    #[test]
    fn a_delay_the_guest_asks_for_is_honoured_from_10_ms_to_30_days() {
        check(&[
            (1, retry(Some(0)), 0, MOST, Step::RetryAt(10)),
            (1, retry(Some(30)), 0, MOST, Step::RetryAt(30)),
            (1, retry(Some(60_000)), 0, MOST, Step::RetryAt(60_000)),
            (1, retry(Some(u64::MAX)), 0, MOST, Step::RetryAt(RETRY_AFTER_MS_MAX)),
            (2, retry(Some(5)), 60_000, MOST, Step::GiveUp),
        ]);
    }

    #[test]
    fn extreme_values_saturate() {
        let forever = RetryPolicy {
            attempts_fault: u32::MAX,
            backoff_ms: u64::MAX,
            backoff_max_ms: u64::MAX,
            give_up_after_ms: u64::MAX,
        };
        for jitter in [LEAST, MOST] {
            let step = next(&forever, u32::MAX, u64::MAX - 1, u64::MAX - 1, &retry(None), jitter);
            assert_eq!(step, Step::RetryAt(u64::MAX));
        }
    }
}
