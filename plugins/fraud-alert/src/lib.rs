//! More than 10,000 within 5 minutes from one account: one `fraud.suspected`.
//!
//! Teaches: a trailing window over event time. Precisely:
//!
//! * The key is the account. A payment's time is the event's `time`, in whole seconds; without one, when
//!   the log took it.
//! * For every payment, the windows are looked at that hold it and end with the second of a payment:
//!   the second of the payment itself and, where newer ones are there already, theirs. A window is 300
//!   seconds, its last one included. It is over the limit if its payments sum up to *more* than it.
//! * **One alert**: a window that shares a second with one that was alerted before is not alerted again.
//!   So a burst is one alert, however many payments it has, and the next alert is for 300 seconds that
//!   have none in common with it. Where one payment puts several windows over the limit, the earliest
//!   counts.
//! * A payment more than 60 seconds older than the newest of the account is late: it is left out.
//!
//! The alert is raised at once, with the payment that put the window over the limit. All three numbers
//! are strings of `[config]`. The state is one record for each second that has payments.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidegate_sdk::windows::{self, Trailing, Window};
use tidegate_sdk::{Error, Event, Outcome, config_as, emit, handlers, info, reject};

const LIMIT_DEFAULT: f64 = 10_000.0;
const SPAN_SECONDS_DEFAULT: u64 = 300;
const LATENESS_SECONDS_DEFAULT: u64 = 60;

#[derive(Deserialize)]
struct Payment {
    amount: f64,
}

#[derive(Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(Deserialize))]
struct Suspicion {
    /// First time of the window, in milliseconds since the Unix epoch.
    from_ms: u64,
    /// First time after it.
    to_ms: u64,
    payments: u64,
    sum: f64,
}

handlers! { "payment.made" => made }

fn made(event: &Event, payment: Payment) -> Outcome {
    if payment.amount < 0.0 {
        return Err(reject(format!("a payment of {}: an amount is not negative", payment.amount)));
    }
    let limit = config_as("limit")?.unwrap_or(LIMIT_DEFAULT);
    let alarm = trailing()?.alarm(|stats| stats.sum() > limit);
    let taken = windows::take("payments", &alarm, event, payment.amount)?;
    if taken.late {
        info!("a payment of {} came too late to count", payment.amount);
    }
    for Window { start_ms: from_ms, end_ms: to_ms, stats } in taken.found {
        let (payments, sum) = (stats.count(), stats.sum());
        emit("fraud.suspected").json(&Suspicion { from_ms, to_ms, payments, sum })?;
    }
    Ok(())
}

fn trailing() -> Result<Trailing, Error> {
    let span = config_as("span-seconds")?.unwrap_or(SPAN_SECONDS_DEFAULT);
    let lateness = config_as("lateness-seconds")?.unwrap_or(LATENESS_SECONDS_DEFAULT);
    let seconds = Duration::from_secs;
    Trailing::new(seconds(span), seconds(1), seconds(lateness))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tidegate_sdk::testing::{Host, Input, Verdict, event};

    use super::{Suspicion, handle};

    /// The alerts of payments at these seconds.
    fn alerts(host: &mut Host, payments: &[(u64, f64)]) -> Vec<Suspicion> {
        let mut alerts = Vec::new();
        for (second, amount) in payments {
            let payment = event("payment.made").key("a").time_ms(second * 1000 + 7);
            let effects = host.deliver(handle, payment.json(&json!({ "amount": amount })));
            alerts
                .extend(effects.expect_ok().emitted.iter().map(|alert| alert.json::<Suspicion>()));
        }
        alerts
    }

    fn suspicion(last_second: u64, payments: u64, sum: f64) -> Suspicion {
        let to_ms = (last_second + 1) * 1000;
        Suspicion { from_ms: to_ms - 300_000, to_ms, payments, sum }
    }

    #[test]
    fn more_than_the_limit_within_the_span_is_an_alert() {
        let mut host = Host::new();
        assert_eq!(alerts(&mut host, &[(1000, 6000.0), (1299, 4000.0)]), []);
        assert_eq!(alerts(&mut host, &[(1299, 0.5)]), [suspicion(1299, 3, 10_000.5)]);
        assert_eq!(alerts(&mut Host::new(), &[(1000, 6000.0), (1300, 6000.0)]), []);
    }

    #[test]
    fn a_burst_is_one_alert_and_the_next_has_no_second_in_common_with_it() {
        let mut host = Host::new();
        let burst: Vec<_> = (1000..1300).map(|second| (second, 11_000.0)).collect();
        assert_eq!(alerts(&mut host, &burst), [suspicion(1000, 1, 11_000.0)]);
        let sum = 300.0 * 11_000.0;
        assert_eq!(alerts(&mut host, &[(1300, 11_000.0)]), [suspicion(1300, 300, sum)]);
    }

    #[test]
    fn payments_out_of_order_count_until_they_are_late() {
        let mut host = Host::new();
        assert_eq!(alerts(&mut host, &[(1000, 6000.0), (1290, 1000.0)]), []);
        assert_eq!(alerts(&mut host, &[(1230, 4000.0)]), [suspicion(1290, 3, 11_000.0)]);
        assert_eq!(alerts(&mut Host::new(), &[(1290, 6000.0), (1229, 6000.0)]), []);
    }

    #[test]
    fn numbers_are_configurable_and_senseless_ones_are_said() {
        let mut host = Host::new().with_config("limit", "5").with_config("span-seconds", "1");
        assert_eq!(alerts(&mut host, &[(1000, 5.0), (1001, 5.0), (1001, 1.0)]).len(), 1);
        let mut host = Host::new().with_config("span-seconds", "0");
        let payment = event("payment.made").key("a").json(&json!({ "amount": 1 }));
        assert!(matches!(host.deliver(handle, payment).outcome, Verdict::Reject { .. }));
        let back = event("payment.made").key("a").json(&json!({ "amount": -1 }));
        assert!(matches!(Host::new().deliver(handle, back).outcome, Verdict::Reject { .. }));
    }

    #[test]
    fn sample_is_an_alert() {
        let sample = Input::cloud_event(include_str!("../events/payment-made.json"));
        assert_eq!(Host::new().deliver(handle, sample).expect_ok().kinds(), ["fraud.suspected"]);
    }
}
