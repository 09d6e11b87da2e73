//! Tells people when the machine's clock has run away from the time of a log, and when it is back.
//!
//! Log time goes on without it, so nothing else would: timers, windows and the times of events are
//! then not what a clock on the wall says.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Bus;
use crate::log::clock::ClockAlarm;

/// How often clock and log are compared.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What there is to tell.
#[derive(Debug, PartialEq, Eq)]
enum News {
    Alarm(ClockAlarm),
    Over,
}

/// Watches the log of a bus until told to stop; a memory bus has none.
pub async fn watch(bus: Arc<Bus>, stop: CancellationToken) {
    let Some(log) = bus.log() else { return };
    let mut alarmed = false;
    loop {
        let alarm = log.clock_alarm();
        match news(alarmed, alarm) {
            Some(News::Alarm(alarm)) => tracing::warn!(bus = %bus.name(), "{alarm}"),
            Some(News::Over) => {
                tracing::warn!(bus = %bus.name(), "the clock is that of the log again");
            }
            None => {}
        }
        alarmed = alarm.is_some();
        if stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_none() {
            return;
        }
    }
}

/// The beginning of an alarm and its end, not what lies between.
fn news(alarmed: bool, alarm: Option<ClockAlarm>) -> Option<News> {
    match (alarmed, alarm) {
        (false, Some(alarm)) => Some(News::Alarm(alarm)),
        (true, None) => Some(News::Over),
        (false, None) | (true, Some(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_is_told_when_it_begins_and_when_it_ends() {
        let alarm = |wall_ms| ClockAlarm { log_ms: 86_400_000, wall_ms };
        let (ahead, further) = (alarm(90_000_000), alarm(91_000_000));
        assert_eq!(news(false, None), None);
        assert_eq!(news(false, Some(ahead)), Some(News::Alarm(ahead)));
        assert_eq!(news(true, Some(further)), None);
        assert_eq!(news(true, None), Some(News::Over));
        let said = ahead.to_string();
        assert!(said.contains("1970-01-02T01:00:00.000Z, 3600 s ahead of the log"), "{said}");
        let said = alarm(0).to_string();
        assert!(said.contains("1970-01-01T00:00:00.000Z, 86400 s behind the log"), "{said}");
    }
}
