//! What the API shows of the host, as JSON: shared by the server, which writes it, and the client
//! commands, which read it.
//!
//! Members are only ever added. Times are RFC 3339 in UTC. An absent member is not known, or does
//! not apply.

mod delivery;
mod diff;
mod key;
mod plugin;
mod state;
mod timers;

use std::fmt;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use utoipa::ToSchema;

use crate::clock::Moment;

pub use delivery::{DeliveryView, InputView, NoInput, SeenValueView};
pub use diff::{ChangeView, DiffView, DifferenceView};
pub use key::{ActedView, AttemptView, KeyState, KeyView, LeftView};
pub use plugin::{
    ErrorAtView, ModuleView, PluginState, PluginView, PluginsView, ReloadResult, ReloadView,
    RewindView, SkippedView, SubscriptionView, ThrottleView,
};
pub use state::{StateValueView, StateView};
pub use timers::{TimerView, TimersView};

/// A moment, held in milliseconds since the Unix epoch, shown as RFC 3339 in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
#[derive(ToSchema)]
#[schema(value_type = String, format = DateTime, example = "2026-01-31T08:00:00.250Z")]
pub struct Timestamp(pub u64);

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Moment(self.0).fmt(f)
    }
}

impl From<Timestamp> for String {
    fn from(moment: Timestamp) -> Self {
        moment.to_string()
    }
}

impl TryFrom<String> for Timestamp {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        // As what no calendar has is shown: a timer may be set for any millisecond there is.
        if let Some(ms) = text.strip_suffix(" ms").and_then(|ms| ms.parse().ok()) {
            return Ok(Self(ms));
        }
        let moment = OffsetDateTime::parse(&text, &Rfc3339)
            .map_err(|why| format!("`{text}` is not an RFC 3339 time: {why}"))?;
        let ms = moment.unix_timestamp_nanos() / 1_000_000;
        u64::try_from(ms).map(Self).map_err(|_| format!("`{text}` is before 1970"))
    }
}

/// Where one published event stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AppendedView {
    /// As published.
    pub source: String,
    /// As published.
    pub id: String,
    /// Number in its bus: of the first event with this source and id.
    pub position: u64,
    /// Number within its key; 0: unkeyed.
    pub sequence: u64,
    /// Whether it had been there already.
    pub duplicate: bool,
}

/// What a bus is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum BusKind {
    /// Its events stand in a log on disk.
    Durable,
    /// Its events stand in memory.
    Memory,
}

impl BusKind {
    /// What an event is once its publisher has the answer.
    #[must_use]
    pub const fn published(self) -> &'static str {
        match self {
            Self::Durable => "durable",
            Self::Memory => "taken",
        }
    }
}

/// Whether a bus takes events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BusState {
    /// It does.
    Open,
    /// Free space is under the watermark.
    StorageFull,
    /// Its log failed.
    ReadOnly,
    /// The host shuts down.
    Draining,
}

/// The log of a durable bus.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogView {
    /// Identity of the log.
    pub id: String,
    /// How often a host has started on it.
    pub epoch: u32,
    /// The last durable commit.
    pub last_commit: u64,
    /// Segment files.
    pub segments: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Bytes free on that disk.
    pub free_bytes: u64,
    /// Microseconds the last group took to become durable.
    pub last_append_us: u64,
    /// Ids that are known for deduplication.
    pub dedup_ids: u64,
    /// Since when ids are known without a gap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedup_since: Option<Timestamp>,
    /// The machine's clock ran away from the time of the log, which goes on without it: in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_alarm: Option<String>,
}

/// One bus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BusView {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: BusKind,
    /// Whether events go here where no bus is named.
    pub default: bool,
    /// Whether it takes events.
    pub state: BusState,
    /// The last durable event; 0: none.
    pub last_position: u64,
    /// Events taken since the host started: published, emitted and forwarded.
    pub appended: u64,
    /// Plugins that subscribe to it.
    pub plugins: Vec<String>,
    /// Of a durable bus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogView>,
    /// Events a memory bus holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u64>,
}

/// The log of a bus has followed the clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClockView {
    /// The bus.
    pub bus: String,
    /// Log time before.
    pub before: Timestamp,
    /// Log time after: that of the clock.
    pub after: Timestamp,
}

/// The whole host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StatusView {
    /// Version of the host.
    pub version: String,
    /// Whether every plugin found at start is live or refused.
    pub ready: bool,
    /// What is still waited for.
    #[serde(default)]
    pub waiting_for: Vec<String>,
    /// Whether it shuts down.
    pub draining: bool,
    /// When it started.
    pub started: Timestamp,
    /// Absolute path of the data folder.
    pub data: String,
    /// Absolute path of the plugins folder.
    pub plugins_folder: String,
    /// The default bus first.
    pub buses: Vec<BusView>,
    /// Ascending by name, without `history`.
    pub plugins: Vec<PluginView>,
    /// Files in the plugins folder that were skipped.
    #[serde(default)]
    pub skipped: Vec<SkippedView>,
}

/// One event type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TypeView {
    /// The type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Events of it in the log.
    pub count: u64,
    /// When the log took the last one; absent: none as yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
    /// Whether every one of them was emitted by a plugin.
    #[serde(default)]
    pub emitted_only: bool,
    /// Plugins that get it.
    pub subscribers: Vec<String>,
}

/// One log line of a plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogLineView {
    /// When.
    pub at: Timestamp,
    /// `trace`, `debug`, `info`, `warn` or `error`.
    pub level: String,
    /// The text, as the guest gave it: not to be trusted.
    pub message: String,
    /// The input event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
    /// Its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
}

/// A delivery that was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterView {
    /// Names it in commands; opaque.
    pub id: String,
    /// The plugin.
    pub plugin: String,
    /// The bus of the event.
    pub bus: String,
    /// The event.
    pub position: u64,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its source.
    pub source: String,
    /// Its id.
    pub event_id: String,
    /// Its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// How the last attempt ended.
    pub outcome: String,
    /// Why, for people.
    pub reason: String,
    /// How often it was tried.
    pub attempts: u32,
    /// The first attempt.
    pub first_attempt: Timestamp,
    /// When it was given up.
    pub given_up: Timestamp,
    /// BLAKE3 of the module that failed, 64 hex digits.
    pub module: String,
    /// Whether its key waits behind it.
    #[serde(default)]
    pub parked: bool,
    /// Whether it runs again, and has not ended as yet.
    #[serde(default)]
    pub redriving: bool,
    /// The last attempts, oldest first, at most 10. Only when one dead letter is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tried: Vec<AttemptView>,
    /// The state of its key that the delivery saw. Only when one dead letter is asked
    /// for; at most 100 values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub state: Vec<StateValueView>,
    /// The guest's call stack, innermost first. Only when one dead letter is asked for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub backtrace: String,
    /// What the guest logged in the last attempt. Only when one dead letter is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logs: Vec<LogLineView>,
}

/// One event in a tree of causes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TreeEventView {
    /// The bus it stands on.
    pub bus: String,
    /// Its position there.
    pub position: u64,
    /// Position of the event of this tree that caused it; absent: it is the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<u64>,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its source.
    pub source: String,
    /// Its id.
    pub id: String,
    /// Its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Number within its key; 0: unkeyed or private.
    pub sequence: u64,
    /// The plugin that emitted it; absent: it came from outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emitter: Option<String>,
    /// When the log took it.
    pub recorded: Timestamp,
}

/// The causes and consequences of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TreeView {
    /// The event that was asked for.
    pub position: u64,
    /// The root first, then ascending by position; a cause stands before what it caused.
    pub events: Vec<TreeEventView>,
    /// Whether there are more than are listed.
    pub truncated: bool,
}

/// Every bus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BusesView {
    /// The default one first.
    pub buses: Vec<BusView>,
}

/// Event types of a bus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TypesView {
    /// Ascending.
    pub types: Vec<TypeView>,
}

/// Some dead letters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeadLettersView {
    /// Oldest first.
    pub dead_letters: Vec<DeadLetterView>,
    /// `cursor` of the next page; absent: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}
