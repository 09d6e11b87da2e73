//! Keys and what was done to dead letters, as the API shows them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Timestamp;

/// How a key stands with a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// Its events are delivered as they come.
    #[default]
    Live,
    /// Its first event is tried again later, or a limit is reached; the later ones wait.
    Waiting,
    /// Its events wait behind a dead letter, until that is redriven or discarded.
    Parked,
    /// Its events wait because an operator said so.
    Held,
}

impl KeyState {
    /// The wire name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Waiting => "waiting",
            Self::Parked => "parked",
            Self::Held => "held",
        }
    }
}

/// One key of one plugin.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyView {
    /// The plugin.
    pub plugin: String,
    /// The key.
    pub key: String,
    /// How it stands.
    pub state: KeyState,
    /// Since when it is parked or held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Why it is parked or held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Who holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// The dead letter that it is parked behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<String>,
    /// The event that waits first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
    /// Number of its next attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// When that is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<Timestamp>,
    /// Events that stand behind it, outside memory.
    pub deferred: u64,
    /// Whether there may be more than `deferred`.
    #[serde(default)]
    pub deferred_more: bool,
    /// Whether an event of it is being delivered right now.
    #[serde(default)]
    pub running: bool,
}

/// One attempt that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AttemptView {
    /// Its number, from 1.
    pub attempt: u32,
    /// When it ended.
    pub at: Timestamp,
    /// How.
    pub outcome: String,
}

/// A dead letter that was left as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeftView {
    /// Its id.
    pub id: String,
    /// Why.
    pub reason: String,
}

/// What was done to dead letters. It is durable.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ActedView {
    /// How many it was done to.
    pub count: u64,
    /// How many were left as they are.
    pub left: u64,
    /// The first of these, at most 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<LeftView>,
}
