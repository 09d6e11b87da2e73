//! What a delivery wants to record, and how it ended: plain data between the sandbox, the log and
//! the scheduler.

use std::num::NonZeroU64;
use std::sync::Arc;

use bytes::Bytes;
use ecow::{EcoBytes, EcoString};
use serde::{Deserialize, Serialize};

use crate::event::Key;

/// Everything a guest asked for during one delivery. Committed as a whole or dropped as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effects {
    /// Events to append, in the order of the calls.
    pub emits: Vec<Draft>,
    /// Last write of each name, in the order of first writes.
    pub state: Vec<StateWrite>,
    /// Timers set and cancelled, in the order of the calls.
    pub timers: Vec<TimerChange>,
    /// Requests to the outside, in the order of the calls.
    pub calls: Vec<OutgoingCall>,
    /// Answer to a command.
    pub response: Option<Response>,
}

impl Effects {
    /// Whether nothing is to be recorded but the completion itself.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.emits.is_empty()
            && self.state.is_empty()
            && self.timers.is_empty()
            && self.calls.is_empty()
            && self.response.is_none()
    }
}

/// An event to be emitted; the host adds source, times, causation, correlation and trace context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// Deterministic: the same when the delivery runs again.
    pub id: Arc<str>,
    /// CloudEvents `type`.
    pub kind: Arc<str>,
    /// The key; resolved: the key of the input where the guest gave none.
    pub key: Option<Key>,
    /// Another bus to emit to; none: the bus of the input.
    pub bus: Option<Arc<str>>,
    /// Media type of `data`; empty: none.
    pub content_type: Arc<str>,
    /// The payload.
    pub data: Bytes,
    /// Further attributes, ascending by name.
    pub attributes: Vec<(Arc<str>, Arc<str>)>,
}

/// One state write of the plugin and key of the delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateWrite {
    /// 1 to 255 bytes, no control characters.
    pub name: EcoString,
    /// The new value; none: removed.
    pub value: Option<EcoBytes>,
    /// Log time at which the value is gone, in milliseconds since the Unix epoch; none: it stays.
    pub expires_ms: Option<NonZeroU64>,
}

impl StateWrite {
    /// Bytes of its name and its value.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.name.len() + self.value.as_ref().map_or(0, EcoBytes::len)
    }

    /// The value that stands after it at log time `now_ms`; none: it was removed, or its end has come.
    #[must_use]
    pub fn value_at(&self, now_ms: u64) -> Option<&EcoBytes> {
        self.value.as_ref().filter(|_| self.expires_ms.is_none_or(|end| now_ms < end.get()))
    }
}

/// The end of a value at a log time. One at time 0 ends a millisecond later: in the past as well.
#[must_use]
pub fn ends_at(ms: u64) -> NonZeroU64 {
    NonZeroU64::new(ms).unwrap_or(NonZeroU64::MIN)
}

/// A timer set or cancelled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimerChange {
    /// Sets or replaces a timer.
    Set {
        /// Its name within plugin and key.
        name: Arc<str>,
        /// Absolute log time, milliseconds since the Unix epoch.
        due_ms: u64,
        /// Handed back when it fires.
        data: Bytes,
    },
    /// Cancels a timer, if there.
    Cancel {
        /// Its name within plugin and key.
        name: Arc<str>,
    },
}

/// A request to the outside, sent once the delivery is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutgoingCall {
    /// Sent as `Idempotency-Key`: the same when the delivery runs again.
    pub idempotency_key: Arc<str>,
    /// Comes back with the answer.
    pub name: Arc<str>,
    /// `GET`, `POST`, ...
    pub method: Arc<str>,
    /// Absolute URL on a granted host.
    pub url: Arc<str>,
    /// Headers; `{secret:NAME}` in a value is filled in when the call is sent.
    pub headers: Vec<(Arc<str>, Arc<str>)>,
    /// The body.
    pub body: Bytes,
    /// Milliseconds for one attempt.
    pub timeout_ms: u32,
}

/// The answer to a command or a query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Response {
    /// Media type of `data`; empty: none.
    pub content_type: Arc<str>,
    /// The body.
    pub data: Bytes,
    /// Parameters of the answer.
    pub attributes: Vec<(Arc<str>, Arc<str>)>,
}

/// How a delivery ended. The wire names are those of metrics, dead letters and the CLI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The effects are recorded.
    Ok,
    /// The guest asked to be tried again.
    Retry {
        /// Why, for people.
        reason: String,
        /// Milliseconds to wait; none: the backoff of the manifest.
        after_ms: Option<u64>,
    },
    /// The guest's verdict: never going to work.
    Reject {
        /// Why, for people.
        reason: String,
    },
    /// The guest aborted.
    Trap {
        /// What wasmtime says of it.
        reason: String,
    },
    /// `limits.fuel` ran out.
    Fuel,
    /// `limits.timeout` passed.
    Timeout,
    /// The guest wanted more than `limits.memory`.
    Memory,
    /// An output budget was exceeded though the guest returned ok.
    Output {
        /// The manifest key of the budget: `limits.emits`.
        budget: String,
    },
    /// The emitted events would be caused too deeply.
    Depth,
}

/// The kind of an [`Outcome`], without its details.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum OutcomeKind {
    /// See [`Outcome::Ok`].
    Ok = 0,
    /// See [`Outcome::Retry`].
    Retry = 1,
    /// See [`Outcome::Reject`].
    Reject = 2,
    /// See [`Outcome::Trap`].
    Trap = 3,
    /// See [`Outcome::Fuel`].
    Fuel = 4,
    /// See [`Outcome::Timeout`].
    Timeout = 5,
    /// See [`Outcome::Memory`].
    Memory = 6,
    /// See [`Outcome::Output`].
    Output = 7,
    /// See [`Outcome::Depth`].
    Depth = 8,
}

impl OutcomeKind {
    /// Every kind, in the order of their codes.
    pub const ALL: [Self; 9] = [
        Self::Ok,
        Self::Retry,
        Self::Reject,
        Self::Trap,
        Self::Fuel,
        Self::Timeout,
        Self::Memory,
        Self::Output,
        Self::Depth,
    ];

    /// The wire name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Retry => "retry",
            Self::Reject => "reject",
            Self::Trap => "trap",
            Self::Fuel => "fuel",
            Self::Timeout => "timeout",
            Self::Memory => "memory",
            Self::Output => "output",
            Self::Depth => "depth",
        }
    }

    /// The kind with this code, as it stands in the log.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// Whether running the same module on the same input again ends the same way.
    #[must_use]
    pub const fn is_deterministic(self) -> bool {
        matches!(self, Self::Trap | Self::Fuel | Self::Memory | Self::Output | Self::Depth)
    }
}

impl Outcome {
    /// The kind.
    #[must_use]
    pub const fn kind(&self) -> OutcomeKind {
        match self {
            Self::Ok => OutcomeKind::Ok,
            Self::Retry { .. } => OutcomeKind::Retry,
            Self::Reject { .. } => OutcomeKind::Reject,
            Self::Trap { .. } => OutcomeKind::Trap,
            Self::Fuel => OutcomeKind::Fuel,
            Self::Timeout => OutcomeKind::Timeout,
            Self::Memory => OutcomeKind::Memory,
            Self::Output { .. } => OutcomeKind::Output,
            Self::Depth => OutcomeKind::Depth,
        }
    }

    /// What a person wants to know beside the kind; may be empty.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::Ok => String::new(),
            Self::Retry { reason, .. } | Self::Reject { reason } | Self::Trap { reason } => {
                reason.clone()
            }
            Self::Fuel => "`limits.fuel` ran out".to_owned(),
            Self::Timeout => "`limits.timeout` passed".to_owned(),
            Self::Memory => "`limits.memory` was exceeded".to_owned(),
            Self::Output { budget } => format!("`{budget}` was exceeded"),
            Self::Depth => format!("emitted at a depth over {}", crate::limits::DEPTH_MAX),
        }
    }
}
