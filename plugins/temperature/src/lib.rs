//! The average of a sensor over 5 minutes is above 30: `temperature.exceeded`.
//!
//! Teaches: tumbling windows, and the timer that closes them. Precisely:
//!
//! * The key is the sensor. A measurement's time is the event's `time`; without one, when the log took
//!   it.
//! * Windows are 5 minutes side by side, beginning at multiples of 5 minutes since the Unix epoch. A
//!   measurement at the very end of one belongs to the next.
//! * A window is judged once, when a measurement of the sensor is at least 60 seconds past its end; or
//!   by a timer, where none comes for that long. Its average is that of all its measurements that were
//!   not late; it is an alert if it is *above* the limit.
//! * A measurement more than 60 seconds older than the newest of the sensor is late: it is left out.
//!
//! All three numbers are strings of `[config]`. The state is one record for each window not judged yet,
//! never the measurements.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidegate_sdk::windows::{self, Window, Windows};
use tidegate_sdk::{Error, Event, Outcome, config_as, debug, emit, handlers};

const LIMIT_DEFAULT: f64 = 30.0;
const WINDOW_SECONDS_DEFAULT: u64 = 300;
const LATENESS_SECONDS_DEFAULT: u64 = 60;

#[derive(Deserialize)]
struct Measured {
    celsius: f64,
}

#[derive(Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(Deserialize))]
struct Exceeded {
    /// First time of the window, in milliseconds since the Unix epoch.
    from_ms: u64,
    /// First time after it.
    to_ms: u64,
    measurements: u64,
    average: f64,
    max: f64,
}

handlers! {
    "temperature.measured" => measured,
    "tidegate.timer" => fired,
}

fn measured(event: &Event, data: Measured) -> Outcome {
    let taken = windows::take("averages", &windows()?, event, data.celsius)?;
    if taken.late {
        debug!("a measurement of {} came too late to count", data.celsius);
    }
    judge(taken.found)
}

fn fired(event: &Event) -> Outcome {
    judge(windows::fired("averages", &windows()?, event)?)
}

fn judge(over: Vec<Window>) -> Outcome {
    let limit = config_as("limit")?.unwrap_or(LIMIT_DEFAULT);
    for Window { start_ms: from_ms, end_ms: to_ms, stats } in over {
        let average = stats.average();
        if average > limit {
            let (measurements, max) = (stats.count(), stats.max());
            let exceeded = Exceeded { from_ms, to_ms, measurements, average, max };
            emit("temperature.exceeded").json(&exceeded)?;
        }
    }
    Ok(())
}

fn windows() -> Result<Windows, Error> {
    let size = config_as("window-seconds")?.unwrap_or(WINDOW_SECONDS_DEFAULT);
    let lateness = config_as("lateness-seconds")?.unwrap_or(LATENESS_SECONDS_DEFAULT);
    Windows::tumbling(Duration::from_secs(size), Duration::from_secs(lateness))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;
    use tidegate_sdk::testing::{Host, Input, event};

    use super::{Exceeded, handle};

    fn alerts(host: &mut Host, measurements: &[(u64, f64)]) -> Vec<Exceeded> {
        let mut alerts = Vec::new();
        for (second, celsius) in measurements {
            let measured = event("temperature.measured").key("s").time_ms(second * 1000);
            let effects = host.deliver(handle, measured.json(&json!({ "celsius": celsius })));
            alerts.extend(effects.expect_ok().emitted.iter().map(|alert| alert.json::<Exceeded>()));
        }
        alerts
    }

    #[test]
    fn hot_window_is_told_once_the_lateness_is_over() {
        let mut host = Host::new();
        let hot = [(0, 40.0), (299, 21.0), (300, 50.0), (359, 50.0), (299, 32.0)];
        assert_eq!(alerts(&mut host, &hot), []);
        let exceeded =
            Exceeded { from_ms: 0, to_ms: 300_000, measurements: 3, average: 31.0, max: 40.0 };
        assert_eq!(alerts(&mut host, &[(360, 50.0), (299, 90.0)]), [exceeded]);
    }

    #[test]
    fn average_at_the_limit_is_no_alert() {
        let mut host = Host::new();
        assert_eq!(alerts(&mut host, &[(0, 29.0), (1, 31.0), (1000, 0.0)]), []);
    }

    #[test]
    fn sensor_that_falls_silent_is_judged_by_the_timer() {
        let mut host = Host::new();
        assert_eq!(alerts(&mut host, &[(200, 31.0)]), []);
        host.advance(Duration::from_secs(100 + 59));
        assert!(host.fire(handle).is_empty());
        host.advance(Duration::from_secs(1));
        let fired = host.fire(handle);
        assert_eq!(fired[0].kinds(), ["temperature.exceeded"]);
        assert!(host.timers("s").is_empty());
    }

    #[test]
    fn sample_waits_for_its_window() {
        let sample = Input::cloud_event(include_str!("../events/temperature-measured.json"));
        let effects = Host::new().deliver(handle, sample).expect_ok();
        assert_eq!((effects.emitted.len(), effects.timers.len()), (0, 1));
    }
}
