//! Tells people when the machine's clock has run away from the time of a log, and when it is back; and
//! has a log follow one that is ahead, where they say so.
//!
//! Log time goes on without it, so nothing else would: timers, windows and the times of events are
//! then not what a clock on the wall says.
//!
//! Rule: log time is stepped by who asked for it, by name, and never back.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Bus;
use crate::clock::Moment;
use crate::log::AppendError;
use crate::log::clock::ClockAlarm;
use crate::log::record::{Control, ControlRecord};

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

/// How far log time went at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockStep {
    /// Log time before it, milliseconds since the Unix epoch.
    pub before_ms: u64,
    /// Log time after it.
    pub after_ms: u64,
}

/// Why a log does not follow the clock.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// A memory bus has no log.
    #[error("bus `{bus}` is a memory bus: its time is that of the clock")]
    NoLog {
        /// The bus.
        bus: Arc<str>,
    },
    /// Log time never goes back.
    #[error(
        "the clock says {wall}, which is behind the log, whose time goes on from {log}: there is \
         nothing to follow"
    )]
    Behind {
        /// Log time.
        log: Moment,
        /// Wall time.
        wall: Moment,
    },
    /// The log takes nothing.
    #[error(transparent)]
    Append(#[from] AppendError),
}

impl Bus {
    /// Has the log follow a wall clock that is ahead, by as much as that is, and has everything that waits
    /// for log time look at it again. Dropped, it may be recorded and not done: the next one does it.
    ///
    /// # Errors
    /// See [`FollowError`]; nothing has changed then.
    pub async fn follow_clock(&self, actor: &str) -> Result<ClockStep, FollowError> {
        let log = self.log().ok_or_else(|| FollowError::NoLog { bus: Arc::clone(&self.name) })?;
        // In this order: both go on meanwhile.
        let (from_ms, to_ms) = (log.now_ms(), log.wall_ms());
        if to_ms < from_ms {
            return Err(FollowError::Behind { log: Moment(from_ms), wall: Moment(to_ms) });
        }
        let control = Control::FollowClock { from_ms, to_ms };
        self.control_asked(&[ControlRecord { actor: actor.into(), control }]).done().await?;
        let step = ClockStep { before_ms: log.now_ms(), after_ms: log.follow_wall_clock() };
        tracing::warn!(
            bus = %self.name, actor, before = %Moment(step.before_ms), after = %Moment(step.after_ms),
            "the log follows the clock"
        );
        self.values.timers().wake();
        self.outlets.wake();
        self.clock_steps.send_replace(());
        Ok(step)
    }

    /// Changes with every step of the log's clock.
    pub(super) fn clock_steps(&self) -> watch::Receiver<()> {
        self.clock_steps.subscribe()
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
        assert!(said.ends_with("`tidegate buses follow-clock BUS`"), "{said}");
        let said = alarm(0).to_string();
        assert!(said.contains("1970-01-01T00:00:00.000Z, 86400 s behind the log"), "{said}");
    }
}
