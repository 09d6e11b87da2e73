//! What an attempt at a call means: an answer, another attempt at some time, or giving up. Pure.

use crate::limits::{CALL_ATTEMPTS_MIN, CALL_RETRY_AFTER_MS_MAX};
use crate::schedule::retry::{RetryPolicy, backoff_ms};

/// Why there is no answer. The words are those of the attribute `callerror`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The host is not granted (any more), or its address is not.
    Denied,
    /// The host has no address.
    Dns,
    /// No connection came about, or it broke.
    Connect,
    /// It took longer than `timeout-ms`.
    Timeout,
    /// The server is not who it should be.
    Tls,
    /// What came back is not HTTP, or too much of it.
    Protocol,
    /// A secret cannot be filled in.
    Secret,
    /// The request cannot be sent as it is.
    Invalid,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The server answered.
    Status {
        status: u16,
        /// `Retry-After`, in milliseconds from now.
        retry_after_ms: Option<u64>,
    },
    /// It did not.
    Fault(Fault),
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The plugin gets it: an answer, or the last of several faults.
    Answer,
    /// Another attempt, not before this log time in milliseconds.
    RetryAt(u64),
    /// The plugin is told that it was given up.
    GiveUp,
}

impl Fault {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
            Self::Protocol => "protocol",
            Self::Secret => "secret",
            Self::Invalid => "invalid",
        }
    }

    /// Whether it may go away by itself, or by an operator's hand.
    const fn may_pass(self) -> bool {
        !matches!(self, Self::Denied | Self::Invalid)
    }
}

impl Ended {
    /// Whether trying again may help.
    pub(super) const fn may_pass(self) -> bool {
        match self {
            Self::Status { status, .. } => matches!(status, 429 | 502 | 503 | 504),
            Self::Fault(fault) => fault.may_pass(),
        }
    }
}

/// Decides after attempt number `attempt` (from 1, of this run of the host) at a call recorded at
/// `opened_ms` ended at log time `now_ms`. `jitter` is uniformly random over all of `u64`.
///
/// Backoff and the time after which it is given up are those of `[retry]`; that time counts from the
/// commit that recorded the call, so that calls that waited in line behind a failing one do not take
/// as long each. After a restart, or long in line, there are a few attempts all the same.
pub(super) fn next(
    policy: &RetryPolicy,
    attempt: u32,
    opened_ms: u64,
    now_ms: u64,
    ended: Ended,
    jitter: u64,
) -> Step {
    if !ended.may_pass() {
        return match ended {
            Ended::Status { .. } => Step::Answer,
            Ended::Fault(_) => Step::GiveUp,
        };
    }
    let deadline_ms = opened_ms.saturating_add(policy.give_up_after_ms);
    if now_ms >= deadline_ms && attempt >= CALL_ATTEMPTS_MIN {
        return Step::GiveUp;
    }
    let wait_ms = backoff_ms(policy, attempt, jitter);
    let asked_ms = match ended {
        Ended::Status { retry_after_ms, .. } => retry_after_ms.unwrap_or_default(),
        Ended::Fault(_) => 0,
    };
    let due_ms = now_ms.saturating_add(wait_ms.max(asked_ms.min(CALL_RETRY_AFTER_MS_MAX)));
    // The last attempt is moved forward to the moment of giving up rather than left out.
    if now_ms < deadline_ms {
        Step::RetryAt(due_ms.min(deadline_ms))
    } else {
        Step::RetryAt(due_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy = RetryPolicy {
        attempts_fault: 2,
        backoff_ms: 100,
        backoff_max_ms: 1000,
        give_up_after_ms: 10_000,
    };
    const MOST: u64 = u64::MAX;

    fn status(status: u16, retry_after_ms: Option<u64>) -> Ended {
        Ended::Status { status, retry_after_ms }
    }

    /// (attempt, milliseconds since the commit, end) -> step, times likewise.
    fn check(cases: &[(u32, u64, Ended, Step)]) {
        for (attempt, elapsed_ms, ended, expected) in cases {
            let got = next(&POLICY, *attempt, 1000, 1000 + elapsed_ms, *ended, MOST);
            let expected = match expected {
                Step::RetryAt(ms) => Step::RetryAt(1000 + ms),
                other => *other,
            };
            assert_eq!(got, expected, "attempt {attempt} at {elapsed_ms}: {ended:?}");
        }
    }

    #[test]
    fn what_a_server_means_is_an_answer_and_what_may_pass_is_tried_again() {
        for code in [200, 204, 301, 302, 400, 401, 404, 409, 500, 501] {
            check(&[(1, 0, status(code, None), Step::Answer)]);
        }
        for code in [429, 502, 503, 504] {
            check(&[(1, 0, status(code, None), Step::RetryAt(100))]);
        }
        for fault in [Fault::Dns, Fault::Connect, Fault::Timeout, Fault::Tls, Fault::Secret] {
            check(&[(2, 0, Ended::Fault(fault), Step::RetryAt(200))]);
        }
        check(&[(1, 0, Ended::Fault(Fault::Denied), Step::GiveUp)]);
        check(&[(1, 0, Ended::Fault(Fault::Invalid), Step::GiveUp)]);
    }

    #[test]
    fn what_a_server_asks_for_is_waited_within_the_time_there_is() {
        check(&[
            (1, 0, status(503, Some(4000)), Step::RetryAt(4000)),
            (1, 0, status(503, Some(10)), Step::RetryAt(100)),
            (1, 0, status(429, Some(60_000)), Step::RetryAt(10_000)),
        ]);
    }

    #[test]
    fn it_is_given_up_in_time_but_not_without_some_attempts() {
        let fault = Ended::Fault(Fault::Connect);
        check(&[
            (9, 9_990, fault, Step::RetryAt(10_000)),
            (9, 10_000, fault, Step::GiveUp),
            (1, 50_000, fault, Step::RetryAt(50_100)),
            (2, 50_000, status(503, None), Step::RetryAt(50_200)),
            (3, 50_000, status(503, None), Step::GiveUp),
        ]);
    }
}
