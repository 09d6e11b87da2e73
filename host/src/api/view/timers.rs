//! Pending timers, as the API shows them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Timestamp;

/// A timer that was set and neither cancelled, replaced nor served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TimerView {
    /// The key it belongs to.
    pub key: String,
    /// Its name.
    pub name: String,
    /// Log time before which it does not fire.
    pub due: Timestamp,
    /// Position of the event it fired as, whose delivery is not over yet; absent: it did not fire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fired: Option<u64>,
    /// Bytes that are handed back when it fires.
    pub bytes: u64,
}

/// Pending timers of a plugin.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TimersView {
    /// The next one due first.
    pub timers: Vec<TimerView>,
    /// `after` of the next page; absent: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_due_when_no_calendar_goes_is_read_as_it_is_written() {
        for due in [0, 1_769_846_400_250, 253_402_300_800_000, u64::MAX] {
            let (key, name) = ("k".to_owned(), "n".to_owned());
            let timer = TimerView { key, name, due: Timestamp(due), bytes: 0, fired: None };
            let text = serde_json::to_string(&timer).unwrap();
            assert_eq!(serde_json::from_str::<TimerView>(&text).unwrap(), timer, "{text}");
        }
    }
}
