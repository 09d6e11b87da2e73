//! What a guest may know, what it may hand over, and why that is refused: the vocabulary of a
//! [`Session`](super::session::Session).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::bindings::tidegate::plugin::types::EffectError;
use super::check::Text;
use super::delivery::{Delivery, GuestLimits, KeysView, Question, StateView};
use super::outside::Outside;
use super::seed::Seed;
use crate::effects::Outcome;
use crate::event::{Event, Key, Position};
use crate::limits;

/// Whether the guest may ask for effects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// As a handler or a command.
    Write,
    /// As a question or an upcaster.
    Read,
}

/// What the guest may know.
pub(super) struct Context {
    pub(super) event: Option<Arc<Event>>,
    /// The key of a question. That of a delivery is its event's.
    asked: Option<Key>,
    pub(super) now_ms: u64,
    pub(super) attempt: u32,
    pub(super) redriven: bool,
    pub(super) access: Access,
    pub(super) seed: Seed,
    pub(super) config: Arc<BTreeMap<String, String>>,
    pub(super) limits: Arc<GuestLimits>,
    state: Option<Arc<dyn StateView>>,
    pub(super) keys: Option<Arc<dyn KeysView>>,
    pub(super) outside: Option<Arc<dyn Outside>>,
}

impl Context {
    pub(super) fn of_delivery(delivery: Delivery<'_>, access: Access) -> Self {
        let Delivery { event, attempt, redriven, seed, config, limits, state, outside } = delivery;
        Self {
            event: Some(Arc::clone(event)),
            asked: None,
            now_ms: event.recorded_ms,
            attempt,
            redriven,
            access,
            seed,
            config: Arc::clone(config),
            limits: Arc::clone(limits),
            state: Some(state),
            keys: None,
            // What answers differently each time makes no state and lifts no event.
            outside: outside.filter(|_| access == Access::Write).cloned(),
        }
    }

    /// What the next delivery of the same plugin may know, who may write. The parts that it has in common
    /// with the one before are not counted again.
    pub(super) fn turn_to(&mut self, delivery: Delivery<'_>) {
        let Delivery { event, attempt, redriven, seed, config, limits, state, outside } = delivery;
        if !Arc::ptr_eq(&self.config, config) {
            self.config = Arc::clone(config);
        }
        if !Arc::ptr_eq(&self.limits, limits) {
            self.limits = Arc::clone(limits);
        }
        self.event = Some(Arc::clone(event));
        self.asked = None;
        self.now_ms = event.recorded_ms;
        (self.attempt, self.redriven, self.access) = (attempt, redriven, Access::Write);
        self.seed = seed;
        self.state = Some(state);
        self.keys = None;
        self.outside = outside.cloned();
    }

    /// Lets go of everything that is not its plugin's. Gives the view of the state.
    pub(super) fn let_go(&mut self) -> Option<Arc<dyn StateView>> {
        (self.event, self.asked, self.keys, self.outside) = (None, None, None, None);
        self.state.take()
    }

    /// The request is handed to the guest separately.
    pub(super) fn of_question(question: Question) -> Self {
        let Question { request, now_ms, seed, config, limits, state, keys } = question;
        Self {
            event: None,
            asked: request.key,
            now_ms,
            attempt: 1,
            redriven: false,
            access: Access::Read,
            seed,
            config,
            limits,
            state: Some(state),
            keys: Some(keys),
            outside: None,
        }
    }

    /// The key whose state is at hand.
    pub(super) fn key(&self) -> Option<&Key> {
        self.event.as_ref().map_or(self.asked.as_ref(), |event| event.key.as_ref())
    }

    /// The state of that key.
    pub(super) fn state(&self) -> &dyn StateView {
        self.state.as_deref().unwrap_or(&())
    }

    pub(super) fn position(&self) -> Position {
        self.event.as_ref().map_or(Position(0), |event| event.position)
    }
}

/// Why an effect was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Denial {
    /// A budget is used up.
    Exceeded(Exceeded),
    /// A malformed argument.
    Invalid(String),
    /// The input has no key.
    Unkeyed,
    /// Not granted; the manifest key.
    Denied(&'static str),
    /// No effects here.
    ReadOnly,
}

impl std::fmt::Display for Denial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exceeded(Exceeded::Depth) => f.write_str("emitted too deeply"),
            Self::Exceeded(exceeded) => write!(f, "`{}` was exceeded", exceeded.budget()),
            Self::Invalid(why) => f.write_str(why),
            Self::Unkeyed => f.write_str("the event has no key, so no state"),
            Self::Denied(grant) => write!(f, "not granted: `{grant}`"),
            Self::ReadOnly => f.write_str("nothing can be written here"),
        }
    }
}

/// Which bound a delivery went over: what its `ok` turns into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exceeded {
    /// An output budget; its manifest key.
    Output(&'static str),
    /// [`limits::EFFECTS_MAX`]; the kind of effects.
    Number(&'static str),
    /// The chain of causes is too long.
    Depth,
}

impl Exceeded {
    pub(super) const CALLS: Self = Self::Number("calls");
    pub(super) const EMITS: Self = Self::Output("limits.emits");
    pub(super) const OUTPUT: Self = Self::Output("limits.output");
    pub(super) const STATE_WRITES: Self = Self::Number("state writes");
    pub(super) const TIMERS: Self = Self::Output("limits.timers");
    pub(super) const TIMER_CHANGES: Self = Self::Number("timer changes");

    /// What becomes of a returned ok.
    pub(super) fn outcome(self) -> Outcome {
        match self {
            Self::Output(_) | Self::Number(_) => Outcome::Output { budget: self.budget() },
            Self::Depth => Outcome::Depth,
        }
    }

    /// What a guest and people are told that it is.
    fn budget(self) -> String {
        match self {
            Self::Output(budget) => budget.to_owned(),
            Self::Number(of) => format!("{} {of}", limits::EFFECTS_MAX),
            Self::Depth => "depth".to_owned(),
        }
    }
}

impl From<String> for Denial {
    fn from(why: String) -> Self {
        Self::Invalid(why)
    }
}

impl From<Denial> for EffectError {
    fn from(refusal: Denial) -> Self {
        match refusal {
            Denial::Exceeded(exceeded) => Self::Exceeded(exceeded.budget()),
            Denial::Invalid(why) => Self::Invalid(why),
            Denial::Unkeyed => Self::Unkeyed,
            Denial::Denied(grant) => Self::Denied(grant.to_owned()),
            Denial::ReadOnly => Self::ReadOnly,
        }
    }
}

/// The arguments of an emit, wherever they stand.
pub(super) struct DraftIn<'a> {
    pub(super) kind: &'a str,
    pub(super) key: Option<&'a str>,
    pub(super) bus: Option<&'a str>,
    pub(super) content_type: &'a str,
    pub(super) data: &'a [u8],
    pub(super) attributes: Vec<(Text, Text)>,
}

/// The arguments of a call, wherever they stand.
pub(super) struct CallIn<'a> {
    pub(super) name: &'a str,
    pub(super) method: &'a str,
    pub(super) url: &'a str,
    pub(super) headers: Vec<(Text, Text)>,
    pub(super) body: &'a [u8],
    pub(super) timeout_ms: u32,
}
