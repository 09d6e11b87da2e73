//! What a delivery leaves behind.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::fake::{Delivery, Stored};
use crate::{Failure, Level, json};

/// How a delivery ended, with the names of the real host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The effects are recorded.
    Ok,
    /// It is to be tried again.
    Retry {
        /// Why.
        reason: String,
        /// How long to wait; none: the backoff of the manifest.
        after: Option<Duration>,
    },
    /// It is never going to work.
    Reject {
        /// Why.
        reason: String,
    },
    /// The handler returned `Ok`, but had exceeded a budget.
    Output {
        /// Its manifest key: `limits.emits`.
        budget: String,
    },
}

/// What one delivery leaves behind. All but the log is empty where it failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effects {
    /// How it ended.
    pub outcome: Verdict,
    /// Events, in the order of the calls.
    pub emitted: Vec<Emitted>,
    /// The last write of each name; none: removed.
    pub state: BTreeMap<String, Option<Vec<u8>>>,
    /// Timers set and cancelled, in the order of the calls.
    pub timers: Vec<TimerChange>,
    /// Requests to the outside, in the order of the calls.
    pub calls: Vec<Called>,
    /// What the handler logged.
    pub logs: Vec<(Level, String)>,
    pub(super) writes: BTreeMap<String, Option<Stored>>,
}

/// An event that was emitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emitted {
    /// Deterministic.
    pub id: String,
    /// Its type.
    pub kind: String,
    /// Its key: where the handler gave none, that of the input.
    pub key: Option<String>,
    /// Another bus it goes to.
    pub bus: Option<String>,
    /// Media type of `data`; empty: none.
    pub content_type: String,
    /// The payload.
    pub data: Vec<u8>,
    /// Further attributes, ascending by name.
    pub attributes: Vec<(String, String)>,
}

/// A timer that was set or cancelled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimerChange {
    /// Set or replaced.
    Set {
        /// Its name.
        name: String,
        /// When it fires, in milliseconds since the Unix epoch.
        due_ms: u64,
        /// What it hands back.
        data: Vec<u8>,
    },
    /// Cancelled, if there.
    Cancel {
        /// Its name.
        name: String,
    },
}

/// A request to the outside that was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Called {
    /// Its idempotency key: what the handler got for it.
    pub id: String,
    /// The key of the input: the answer comes back on it.
    pub key: Option<String>,
    /// Comes back with the answer.
    pub name: String,
    /// `GET`, `POST`, ...
    pub method: String,
    /// Absolute.
    pub url: String,
    /// Headers, secrets not filled in.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// Milliseconds for one attempt.
    pub timeout_ms: u32,
}

impl Effects {
    /// Itself, where the delivery succeeded.
    ///
    /// # Panics
    /// Where it failed, with its reason and its log.
    #[track_caller]
    #[allow(
        clippy::must_use_candidate,
        reason = "to see that it succeeded can be all a test wants"
    )]
    pub fn expect_ok(self) -> Self {
        assert_eq!(self.outcome, Verdict::Ok, "the delivery failed; its log: {:#?}", self.logs);
        self
    }

    /// The types of the emitted events, in order.
    #[must_use]
    pub fn kinds(&self) -> Vec<&str> {
        self.emitted.iter().map(|emitted| emitted.kind.as_str()).collect()
    }
}

impl Emitted {
    /// The payload, read as JSON.
    ///
    /// # Panics
    /// Where it is not a `T`.
    #[track_caller]
    #[must_use]
    pub fn json<T: DeserializeOwned>(&self) -> T {
        json::read(&self.data, || format!("data of `{}`", self.kind)).expect("data that fits")
    }
}

/// The effects of a delivery that ended like this.
pub(super) fn effects<T>(result: &Result<T, Failure>, delivery: Delivery) -> Effects {
    let outcome = match (result, delivery.exceeded) {
        (Ok(_), None) => Verdict::Ok,
        (Ok(_), Some(budget)) => Verdict::Output { budget: budget.to_owned() },
        (Err(Failure::Retry { reason, after }), _) => {
            Verdict::Retry { reason: reason.clone(), after: *after }
        }
        (Err(Failure::Reject { reason }), _) => Verdict::Reject { reason: reason.clone() },
    };
    let mut effects = Effects {
        outcome,
        emitted: Vec::new(),
        state: BTreeMap::new(),
        timers: Vec::new(),
        calls: Vec::new(),
        logs: delivery.logs,
        writes: BTreeMap::new(),
    };
    if effects.outcome == Verdict::Ok {
        effects.emitted = delivery.emitted;
        effects.timers = delivery.timers;
        effects.calls = delivery.calls;
        effects.writes = delivery.writes;
        effects.state = (effects.writes.iter())
            .map(|(name, stored)| (name.clone(), stored.as_ref().map(|s| s.value.clone())))
            .collect();
    }
    effects
}
