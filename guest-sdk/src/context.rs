//! What a delivery may know. Replaying the same attempt gives the same answers.

use std::fmt;
use std::str::FromStr;

use crate::{Error, host};

/// How much a log line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Every step.
    Trace,
    /// For whoever looks for a mistake.
    Debug,
    /// Worth knowing.
    Info,
    /// Something is odd.
    Warn,
    /// Something went wrong.
    Error,
}

/// One further CloudEvents attribute of the input: `attribute("correlationid")`. Fetched from the
/// host when asked for.
#[must_use]
pub fn attribute(name: &str) -> Option<String> {
    host::attribute(name)
}

/// All further CloudEvents attributes of the input, ascending by name.
#[must_use]
pub fn attributes() -> Vec<(String, String)> {
    host::attributes()
}

/// The input's `recorded_ms`: milliseconds since the Unix epoch. It stands still during a delivery.
#[must_use]
pub fn now_ms() -> u64 {
    host::now_ms()
}

/// Number of this attempt, from 1.
#[must_use]
pub fn attempt() -> u32 {
    host::attempt()
}

/// Whether the input comes from a redriven dead letter.
#[must_use]
pub fn redriven() -> bool {
    host::redriven()
}

/// The next of a sequence seeded by the delivery. Not for secrets.
#[must_use]
pub fn random_u64() -> u64 {
    host::random_u64()
}

/// A string of `[config]` in the manifest.
#[must_use]
pub fn config(name: &str) -> Option<String> {
    host::config(name)
}

/// A string of `[config]`, read as a `T`.
///
/// # Errors
/// [`Error::Invalid`] where it is there, but not a `T`.
pub fn config_as<T: FromStr>(name: &str) -> Result<Option<T>, Error>
where
    T::Err: fmt::Display,
{
    let Some(text) = host::config(name) else { return Ok(None) };
    let read = text.parse().map_err(|why| {
        Error::Invalid(format!("`config.{name}` is `{text}`, which does not fit: {why}"))
    });
    read.map(Some)
}

/// Writes one line to the log of the plugin: `tidegate plugins logs NAME`. 8 KiB are kept, also
/// when the delivery fails. The macros [`info!`](crate::info) and its siblings format.
pub fn log(level: Level, message: &str) {
    host::log(level, message);
}

/// Writes a line for every step to the log of the plugin.
#[macro_export]
macro_rules! trace {
    ($($part:tt)+) => { $crate::log($crate::Level::Trace, &::std::format!($($part)+)) };
}

/// Writes a line for whoever looks for a mistake to the log of the plugin.
#[macro_export]
macro_rules! debug {
    ($($part:tt)+) => { $crate::log($crate::Level::Debug, &::std::format!($($part)+)) };
}

/// Writes a line worth knowing to the log of the plugin.
#[macro_export]
macro_rules! info {
    ($($part:tt)+) => { $crate::log($crate::Level::Info, &::std::format!($($part)+)) };
}

/// Writes a line about something odd to the log of the plugin.
#[macro_export]
macro_rules! warn {
    ($($part:tt)+) => { $crate::log($crate::Level::Warn, &::std::format!($($part)+)) };
}

/// Writes a line about something that went wrong to the log of the plugin.
#[macro_export]
macro_rules! error {
    ($($part:tt)+) => { $crate::log($crate::Level::Error, &::std::format!($($part)+)) };
}
