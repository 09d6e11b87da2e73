//! The event that a handler takes.

use serde::Deserialize;

use crate::{Error, json};

/// One CloudEvents 1.0 event, as it stands in the log. Its further attributes:
/// [`attribute`](crate::attribute).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub(crate) id: String,
    pub(crate) source: String,
    pub(crate) kind: String,
    pub(crate) key: Option<String>,
    pub(crate) position: u64,
    pub(crate) sequence: u64,
    pub(crate) time_ms: Option<u64>,
    pub(crate) recorded_ms: u64,
    pub(crate) content_type: String,
    pub(crate) data: Vec<u8>,
}

impl Event {
    /// What happened, in the past tense: `order.created`. (CloudEvents `type`.)
    #[doc(alias = "type")]
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// What orders events: those of one key come one at a time, in order. None: unkeyed.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// The payload, read as JSON. It may borrow from the event.
    ///
    /// A handler of the form `fn(&Event, T)` gets this as its second argument.
    ///
    /// # Errors
    /// [`Error::Decode`] where it is not a `T`; with `?` that is a reject.
    pub fn data<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Error> {
        json::read(&self.data, || match self.content_type.as_str() {
            "" | "application/json" => format!("data of `{}`", self.kind),
            other => format!("data of `{}` ({other})", self.kind),
        })
    }

    /// The payload as it came.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.data
    }

    /// Media type of the payload; empty: none.
    #[must_use]
    pub fn content_type(&self) -> &str {
        &self.content_type
    }

    /// Unique together with [`source`](Self::source).
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Who says it: a URI reference.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Number in the log of its bus: increasing, not necessarily dense.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Number within its key, from 1; 0: unkeyed or private.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// When it happened, as its source says, in milliseconds since the Unix epoch, 0 for all that is
    /// before it; none: not said.
    #[must_use]
    pub fn time_ms(&self) -> Option<u64> {
        self.time_ms
    }

    /// When the log took it, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn recorded_ms(&self) -> u64 {
        self.recorded_ms
    }
}
