//! Plugins, as the API shows them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Timestamp;

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
    /// How it did beside the one before, where `run.shadow` asked for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<String>,
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

/// A limit that is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ThrottleView {
    /// Its key in the manifest: `limits.rate`.
    pub limit: String,
    /// The prefix of the keys it holds back; absent: all of the plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Keys, and unkeyed events, that it holds back.
    pub keys: u64,
}

/// Something that went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorAtView {
    /// When.
    pub at: Timestamp,
    /// What.
    pub message: String,
}

/// A rewind under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RewindView {
    /// Events after this position are delivered again.
    pub after: u64,
    /// Up to this one. Later events wait.
    pub until: u64,
    /// How far it has come.
    pub position: u64,
    /// The generation that is seen meanwhile.
    pub serves: u32,
}

/// One plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PluginView {
    /// Its name: that of its file.
    pub name: String,
    /// What it is doing.
    pub state: PluginState,
    /// Why it is paused, refused, waiting or removed, and what to do about it; or how a new version
    /// does beside the one that serves.
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
    /// The rewind that is under way; queries see the state before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewind: Option<RewindView>,
    /// Which events it gets.
    pub subscription: SubscriptionView,
    /// Every event up to this position is done with.
    pub completed_position: u64,
    /// Events of its bus after the position it has read up to, and those in memory whose turn has not
    /// come. What stands behind a key that waits is in `waiting` and `deferred_events`.
    pub lag_events: u64,
    /// Events in memory: deliveries in progress, and those whose turn has not come.
    pub in_flight: u64,
    /// Keys, and unkeyed events, that wait: for a retry, a limit, or a person.
    pub waiting: u64,
    /// Events that stand behind them outside memory, about.
    #[serde(default)]
    pub deferred_events: u64,
    /// Events in memory whose turn has not come.
    #[serde(default)]
    pub queued: u64,
    /// Keys, and unkeyed events, that wait for the time of their next attempt.
    #[serde(default)]
    pub retrying: u64,
    /// Limits that hold something back right now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub throttled: Vec<ThrottleView>,
    /// Keys parked behind a dead letter.
    #[serde(default)]
    pub parked_keys: u64,
    /// Timers that are pending.
    #[serde(default)]
    pub timers: u64,
    /// Keys held by an operator.
    #[serde(default)]
    pub held_keys: u64,
    /// Bytes of its keyed state: names and values.
    #[serde(default)]
    pub state_bytes: u64,
    /// Keys with state.
    #[serde(default)]
    pub state_keys: u64,
    /// Deliveries since the host started, by outcome.
    pub deliveries: BTreeMap<String, u64>,
    /// Dead letters that stand.
    pub dead_letters: u64,
    /// Outgoing calls that are not answered, also of buses that it was on before.
    #[serde(default)]
    pub open_calls: u64,
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
