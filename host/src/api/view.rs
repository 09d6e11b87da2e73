//! What the API shows of the host, as JSON: shared by the server, which writes it, and the client
//! commands, which read it.
//!
//! Members are only ever added. Times are RFC 3339 in UTC. An absent member is not known, or does
//! not apply.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use utoipa::ToSchema;

/// A moment, held in milliseconds since the Unix epoch, shown as RFC 3339 in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
#[derive(ToSchema)]
#[schema(value_type = String, format = DateTime, example = "2026-01-31T08:00:00.250Z")]
pub struct Timestamp(pub u64);

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = i128::from(self.0) * 1_000_000;
        let text = OffsetDateTime::from_unix_timestamp_nanos(nanos)
            .ok()
            .and_then(|moment| moment.format(&Rfc3339).ok());
        match text {
            Some(text) => f.pad(&text),
            // Past the year 9999, which only a broken clock gets to.
            None => write!(f, "{} ms", self.0),
        }
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

/// What a plugin is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PluginState {
    /// Its first module is being compiled and checked.
    Compiling,
    /// It gets deliveries.
    Live,
    /// It gets none until it is resumed.
    Paused,
    /// No module of it could be taken.
    Refused,
    /// It looks like a renamed one, and waits for somebody to say.
    Waiting,
    /// Its file is gone; its state is kept.
    Removed,
}

impl PluginState {
    /// The wire name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Compiling => "compiling",
            Self::Live => "live",
            Self::Paused => "paused",
            Self::Refused => "refused",
            Self::Waiting => "waiting",
            Self::Removed => "removed",
        }
    }
}

/// How a reload went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReloadResult {
    /// The module serves.
    Ok,
    /// It was not taken; what served before goes on.
    Refused,
}

/// One module that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReloadView {
    /// BLAKE3 of the module, 64 hex digits.
    pub digest: String,
    /// When.
    pub at: Timestamp,
    /// How it went.
    pub result: ReloadResult,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Which events a plugin gets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SubscriptionView {
    /// The bus.
    pub bus: String,
    /// Type patterns; none: every ingested event.
    pub types: Vec<String>,
    /// Source patterns; none: every source.
    pub sources: Vec<String>,
    /// Attributes that must have a value.
    #[serde(rename = "where")]
    pub conditions: BTreeMap<String, String>,
    /// Whether it gets what it emitted itself.
    pub own: bool,
    /// Where it starts, as written.
    pub start: String,
}

/// The module that serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModuleView {
    /// BLAKE3 of the module, 64 hex digits.
    pub digest: String,
    /// `component`, `core` or `stdio`.
    pub kind: String,
    /// Bytes of the module.
    pub size_bytes: u64,
    /// Milliseconds the compiler took; 0: it came from the cache.
    pub compile_ms: u64,
    /// `handler`, `command`, `query`, `upcaster`.
    pub exports: Vec<String>,
    /// Whether it is pinned by a rollback until the file changes.
    pub pinned: bool,
}

/// Something that went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorAtView {
    /// When.
    pub at: Timestamp,
    /// What.
    pub message: String,
}

/// One plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PluginView {
    /// Its name: that of its file.
    pub name: String,
    /// What it is doing.
    pub state: PluginState,
    /// Why it is paused, refused, waiting or removed, and what to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// From its manifest.
    #[serde(default)]
    pub description: String,
    /// Its file or folder, relative to the plugins folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The module that serves; absent: none ever did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<ModuleView>,
    /// Its number in the log; absent: it has none as yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<u32>,
    /// How often its state was rebuilt.
    pub generation: u32,
    /// Which events it gets.
    pub subscription: SubscriptionView,
    /// Every event up to this position is done with.
    pub completed_position: u64,
    /// Events of its bus after the position it has read up to.
    pub lag_events: u64,
    /// Deliveries in progress.
    pub in_flight: u64,
    /// Keys, and unkeyed events, that wait for a retry.
    pub waiting: u64,
    /// Keys parked behind a dead letter.
    #[serde(default)]
    pub parked_keys: u64,
    /// Deliveries since the host started, by outcome.
    pub deliveries: BTreeMap<String, u64>,
    /// Dead letters that stand.
    pub dead_letters: u64,
    /// The last thing that went wrong: a refused module or a failed delivery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<ErrorAtView>,
    /// Modules that were tried, newest first; bounded.
    #[serde(default)]
    pub history: Vec<ReloadView>,
    /// The manifest as it was resolved, as TOML. Only when one plugin is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
}

/// A file in the plugins folder that is not a plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SkippedView {
    /// Where it is.
    pub path: String,
    /// Why it is not taken.
    pub reason: String,
}

/// Every plugin.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PluginsView {
    /// Ascending by name.
    pub plugins: Vec<PluginView>,
    /// Files that were skipped.
    #[serde(default)]
    pub skipped: Vec<SkippedView>,
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
