//! Durable timers of this plugin and the key of the input.
//!
//! A timer fires as an event of type `tidegate.timer` on its key, with the attributes `timername` and
//! `timerdue` (milliseconds since the Unix epoch) and the data given here; it reaches the plugin whatever
//! its subscription says. One that was replaced or cancelled meanwhile never does. A memory bus has no
//! timers: there setting and cancelling are [`Error::Invalid`].

use std::time::Duration;

use crate::{Error, host, now_ms};

/// The type of the events that timers fire as.
pub const FIRED: &str = "tidegate.timer";

/// Sets or replaces a timer that fires this long after the input's `recorded_ms`. `data`: at most
/// 64 KiB.
///
/// # Errors
/// [`Error::Exceeded`], [`Error::Invalid`], [`Error::Unkeyed`], [`Error::ReadOnly`].
pub fn set_after(name: &str, after: Duration, data: &[u8]) -> Result<(), Error> {
    let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
    host::timer_set(name, now_ms().saturating_add(after_ms), data)
}

/// Sets or replaces a timer that fires at this time, in milliseconds since the Unix epoch; in the
/// past: at once.
///
/// # Errors
/// As [`set_after`].
pub fn set_at(name: &str, due_ms: u64, data: &[u8]) -> Result<(), Error> {
    host::timer_set(name, due_ms, data)
}

/// Cancels a timer, if there.
///
/// # Errors
/// [`Error::Invalid`], [`Error::Unkeyed`], [`Error::ReadOnly`].
pub fn cancel(name: &str) -> Result<(), Error> {
    host::timer_cancel(name)
}
