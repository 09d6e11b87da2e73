//! Five failed logins within a minute, then one that succeeds: `login.suspected`.
//!
//! Teaches: a pattern. Precisely:
//!
//! * The key is the user. A login's time is the event's `time`; without one, when the log took it.
//! * Logins are looked at by their times, those of the same time in the order they came.
//! * The failures are in a row: any success begins the count anew. Five of them are at most 60 seconds
//!   from the first to the last, and the success comes at most 60 seconds after that last one. Where more
//!   than five failed, the latest five that are close enough count.
//! * A login more than 5 seconds older than the newest of the user is late: it is left out. A success is
//!   judged 5 seconds after it, by the next login of the user or by a timer: until then a failure may
//!   come that belongs before it.
//!
//! All numbers are strings of `[config]`. The state is the last five failures, and what waits for its
//! place in the order.

use std::time::Duration;

use serde::Serialize;
use tidegate_sdk::windows::{self, Match, Sequence, Step};
use tidegate_sdk::{Error, Event, Outcome, config_as, emit, handlers, info};

const FAILURES_DEFAULT: usize = 5;
const SPAN_SECONDS_DEFAULT: u64 = 60;
const SUCCESS_SECONDS_DEFAULT: u64 = 60;
const LATENESS_SECONDS_DEFAULT: u64 = 5;

#[derive(Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
struct Suspicion {
    /// Time of the first of the failures, in milliseconds since the Unix epoch.
    first_failure_ms: u64,
    last_failure_ms: u64,
    success_ms: u64,
}

handlers! {
    "login.failed" => failed,
    "login.succeeded" => succeeded,
    "tidegate.timer" => fired,
}

fn failed(event: &Event) -> Outcome {
    login(event, Step::First)
}

fn succeeded(event: &Event) -> Outcome {
    login(event, Step::Then)
}

fn fired(event: &Event) -> Outcome {
    alert(windows::fired("logins", &pattern()?, event)?)
}

fn login(event: &Event, step: Step) -> Outcome {
    let taken = windows::take("logins", &pattern()?, event, step)?;
    if taken.late {
        info!("`{}` came too late to count", event.kind());
    }
    alert(taken.found)
}

fn alert(found: Vec<Match>) -> Outcome {
    for Match { first_ms, last_ms, then_ms } in found {
        emit("login.suspected").json(&Suspicion {
            first_failure_ms: first_ms,
            last_failure_ms: last_ms,
            success_ms: then_ms,
        })?;
    }
    Ok(())
}

fn pattern() -> Result<Sequence, Error> {
    let seconds = |name, default| -> Result<Duration, Error> {
        Ok(Duration::from_secs(config_as(name)?.unwrap_or(default)))
    };
    Sequence::new(
        config_as("failures")?.unwrap_or(FAILURES_DEFAULT),
        seconds("span-seconds", SPAN_SECONDS_DEFAULT)?,
        seconds("success-seconds", SUCCESS_SECONDS_DEFAULT)?,
        seconds("lateness-seconds", LATENESS_SECONDS_DEFAULT)?,
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidegate_sdk::testing::{Host, Input, event};

    use super::{Suspicion, handle};

    /// The alerts of logins at these seconds: `-` failed, `+` succeeded.
    fn alerts(host: &mut Host, logins: &[(u64, char)]) -> Vec<Suspicion> {
        let mut alerts = Vec::new();
        for (second, how) in logins {
            let kind = if *how == '-' { "login.failed" } else { "login.succeeded" };
            let login = event(kind).key("ada").time_ms(second * 1000);
            let effects = host.deliver(handle, login).expect_ok();
            alerts.extend(effects.emitted.iter().map(|alert| alert.json::<Suspicion>()));
        }
        alerts
    }

    fn suspicion(first: u64, last: u64, success: u64) -> Suspicion {
        let (first_failure_ms, last_failure_ms) = (first * 1000, last * 1000);
        Suspicion { first_failure_ms, last_failure_ms, success_ms: success * 1000 }
    }

    #[test]
    fn five_failures_within_a_minute_then_success() {
        let logins = [(0, '-'), (15, '-'), (30, '-'), (45, '-'), (60, '-'), (120, '+'), (125, '-')];
        assert_eq!(alerts(&mut Host::new(), &logins), [suspicion(0, 60, 120)]);
        let slow = [(0, '-'), (15, '-'), (30, '-'), (45, '-'), (61, '-'), (70, '+'), (99, '-')];
        assert_eq!(alerts(&mut Host::new(), &slow), []);
        let patient = [(0, '-'), (1, '-'), (2, '-'), (3, '-'), (4, '-'), (65, '+'), (99, '-')];
        assert_eq!(alerts(&mut Host::new(), &patient), []);
    }

    #[test]
    fn a_success_in_between_begins_anew() {
        let logins =
            [(0, '-'), (1, '-'), (2, '-'), (3, '+'), (4, '-'), (5, '-'), (6, '+'), (20, '-')];
        assert_eq!(alerts(&mut Host::new(), &logins), []);
    }

    #[test]
    fn order_of_arrival_does_not_matter_within_the_lateness() {
        let logins = [(4, '+'), (3, '-'), (1, '-'), (2, '-'), (0, '-'), (3, '-'), (9, '-')];
        assert_eq!(alerts(&mut Host::new(), &logins), [suspicion(0, 3, 4)]);
        let mut host = Host::new().with_config("lateness-seconds", "0");
        assert_eq!(alerts(&mut host, &logins), []);
    }

    #[test]
    fn timer_judges_where_no_login_follows() {
        let mut host = Host::new().with_config("failures", "1");
        assert_eq!(alerts(&mut host, &[(1, '-'), (2, '+')]), []);
        host.advance(Duration::from_secs(5));
        let alerts: Vec<_> =
            host.fire(handle).into_iter().flat_map(|fired| fired.emitted).collect();
        assert_eq!(alerts[0].json::<Suspicion>(), suspicion(1, 1, 2));
    }

    #[test]
    fn sample_is_counted() {
        let sample = Input::cloud_event(include_str!("../events/login-failed.json"));
        let effects = Host::new().deliver(handle, sample).expect_ok();
        assert!(effects.emitted.is_empty() && effects.state.contains_key("logins"));
    }
}
