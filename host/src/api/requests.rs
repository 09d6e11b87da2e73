//! Commands and queries between HTTP and the host: what is asked, what comes back, what goes wrong.

use std::sync::Arc;

use bytes::Bytes;

use super::errors::{Answer, ApiError, Code};
use crate::effects::OutcomeKind;
use crate::event::{CommitNumber, Key, KeySequence, Position};

/// A command, as it was sent and checked.
pub type CommandRequest = crate::command::Command;

/// A question, as it was sent and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryRequest {
    /// What is asked, chosen by the plugin: 1 to 255 bytes, no control characters.
    pub path: String,
    /// The key whose state it sees; none: a question across keys.
    pub key: Option<Key>,
    /// Who asks, as authenticated; empty: nobody in particular.
    pub principal: Arc<str>,
    /// Media type of `data`; empty: none.
    pub content_type: String,
    /// The body.
    pub data: Bytes,
    /// Parameters, ascending by name.
    pub parameters: Vec<(String, String)>,
    /// The plugin is to have completed the event at this position before.
    pub wait: Option<Position>,
}

/// The answer of a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// Media type of `data`; empty: none.
    pub content_type: Arc<str>,
    /// The body.
    pub data: Bytes,
    /// Parameters of the answer, ascending by name.
    pub attributes: Vec<(Arc<str>, Arc<str>)>,
    /// Of a command: the commit that holds its effects. Of a query: the commit it was answered at.
    pub commit: CommitNumber,
    /// Of a command: the last position that came of it. Of a query: the plugin has completed
    /// everything up to here.
    pub position: Position,
    /// Of a command: number of the last event it emitted for its key. Of a query: that of the key.
    pub sequence: Option<KeySequence>,
    /// Whether the command had been sent before, and this is the answer it got.
    pub repeated: bool,
}

/// Why a plugin did not answer. Nothing of it is recorded, but that it failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// There is no such plugin, or it does not take such requests.
    #[error("{0}")]
    NotFound(String),
    /// It does not go with how things stand.
    #[error("{0}")]
    Conflict(String),
    /// The key would not get to a command soon.
    #[error("{0}")]
    KeyUnavailable(String),
    /// The `Idempotency-Key` came with another request.
    #[error("{message}")]
    IdempotencyConflict {
        /// What is wrong, for people.
        message: String,
        /// Where the other one stands; 0: on its way into the log.
        position: Position,
    },
    /// The key was not at the expected sequence; nothing was executed.
    #[error("the key is at sequence {actual}, not {expected}")]
    SequenceConflict {
        /// What the client expected.
        expected: KeySequence,
        /// What was.
        actual: KeySequence,
    },
    /// The plugin ran, and failed.
    #[error("{}", failure(*outcome, reason))]
    Failed {
        /// How.
        outcome: OutcomeKind,
        /// Why, for people.
        reason: String,
    },
    /// What a command with an `Idempotency-Key` came to: whoever sends it again gets the same.
    #[error("{error}")]
    Recorded {
        /// How it failed.
        error: Box<RequestError>,
        /// Whether it had been sent before.
        repeated: bool,
    },
    /// As many requests are under way as may be.
    #[error("{0}")]
    Busy(String),
    /// The command is in the log, and has not run in time.
    #[error("{message}")]
    AnswerTimeout {
        /// What to do, for people.
        message: String,
        /// Where it stands.
        position: Position,
    },
    /// The plugin has not come to the position in time.
    #[error("the plugin has not completed position {position} in time")]
    WaitTimeout {
        /// The position.
        position: Position,
    },
    /// Free space is under the watermark.
    #[error("the disk is too full to append")]
    StorageFull,
    /// The log is poisoned.
    #[error("the log takes no more events: {0}")]
    ReadOnly(String),
    /// The host is draining.
    #[error("the host is shutting down")]
    ShuttingDown,
    /// The same, and the command is in the log.
    #[error("{message}")]
    Stopped {
        /// What to do, for people.
        message: String,
        /// Where it stands.
        position: Position,
    },
    /// A broken invariant, or damage found while reading.
    #[error("{0}")]
    Internal(String),
}

fn failure(outcome: OutcomeKind, reason: &str) -> String {
    match outcome {
        OutcomeKind::Reject => reason.to_owned(),
        outcome if reason.is_empty() => format!("the plugin failed: {}", outcome.name()),
        outcome => format!("the plugin failed: {}: {reason}", outcome.name()),
    }
}

impl RequestError {
    /// What it is counted as.
    #[must_use]
    pub fn outcome(&self) -> &'static str {
        self.code().name()
    }

    fn code(&self) -> Code {
        match self {
            Self::NotFound(_) => Code::NotFound,
            Self::Conflict(_) => Code::Conflict,
            Self::KeyUnavailable(_) => Code::KeyUnavailable,
            Self::IdempotencyConflict { .. } => Code::IdempotencyConflict,
            Self::SequenceConflict { .. } => Code::SequenceConflict,
            Self::Failed { outcome: OutcomeKind::Reject, .. } => Code::Rejected,
            Self::Failed { outcome: OutcomeKind::Retry, .. } => Code::Retry,
            Self::Failed { outcome, .. } => Code::Failed(*outcome),
            Self::Recorded { error, .. } => error.code(),
            Self::Busy(_) => Code::QueueFull,
            Self::AnswerTimeout { .. } => Code::AnswerTimeout,
            Self::WaitTimeout { .. } => Code::WaitTimeout,
            Self::StorageFull => Code::StorageFull,
            Self::ReadOnly(_) => Code::ReadOnly,
            Self::ShuttingDown | Self::Stopped { .. } => Code::ShuttingDown,
            Self::Internal(_) => Code::Internal,
        }
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        if let RequestError::Recorded { error, repeated } = error {
            let answer = if repeated { Answer::Repeated } else { Answer::Recorded };
            return Self { answer, ..Self::from(*error) };
        }
        let mut api = Self::new(error.code(), error.to_string());
        match error {
            RequestError::IdempotencyConflict { position, .. } => {
                api.detail.field = Some("Idempotency-Key".to_owned());
                api.detail.position = (position.0 != 0).then_some(position.0);
            }
            RequestError::SequenceConflict { expected, actual } => {
                api.detail.field = Some("Tidegate-Expected-Sequence".to_owned());
                api.detail.expected = Some(expected.0);
                api.detail.actual = Some(actual.0);
            }
            RequestError::AnswerTimeout { position, .. }
            | RequestError::Stopped { position, .. } => {
                api.detail.position = (position.0 != 0).then_some(position.0);
            }
            RequestError::WaitTimeout { position } => {
                api.detail.field = Some("wait".to_owned());
                api.detail.position = Some(position.0);
            }
            _ => {}
        }
        api
    }
}
