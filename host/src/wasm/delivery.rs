//! What goes into an invocation and what comes out of it: plain data and the two views of state.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::Slot;
use super::outside::Outside;
use super::seed::Seed;
use crate::command;
use crate::effects::{Effects, Outcome};
use crate::event::{Event, Key};
use crate::limits;
use crate::log::record::LogLine;
use crate::plugin::grants::{GrantName, HostPattern};
use crate::plugin::{Instance as InstancePolicy, Manifest};

/// Effects of a kind, and lines of a log, that the memory of an invocation has room for at most, where it is
/// used again.
const KEPT_MAX: usize = 16;

/// Runs deliveries. A seam, so that schedulers are tested without WebAssembly; [`super::Module`]
/// is the real one.
pub trait Invoker: Send + Sync + 'static {
    /// Hands one event to the plugin, under every limit of the delivery: a command to its `command`,
    /// anything else to its `handler`.
    ///
    /// Needs a tokio runtime with time in context. Cancel safe: a dropped future leaves nothing
    /// behind, and the slot empty.
    fn invoke<'a>(
        &'a self,
        slot: &'a mut Slot,
        delivery: Delivery<'a>,
    ) -> BoxFuture<'a, Box<Invocation>>;

    /// As [`Invoker::invoke`], where that needs no waiting: without the cost of a future.
    ///
    /// # Errors
    /// The delivery, where it may have to wait. Nothing of it has happened: [`Invoker::invoke`] it.
    fn invoke_through<'a>(
        &self,
        slot: &mut Slot,
        delivery: Delivery<'a>,
    ) -> Result<Box<Invocation>, Delivery<'a>> {
        let _ = slot;
        Err(delivery)
    }

    /// Whether a delivery may wait for an answer of the outside, which no record has.
    fn asks_outside(&self) -> bool {
        false
    }

    /// Lifts the event of a delivery from a schema version to the next; a trap where the plugin is
    /// no upcaster. As [`Invoker::invoke`] otherwise.
    fn upcast<'a>(
        &'a self,
        slot: &'a mut Slot,
        delivery: Delivery<'a>,
        version: u32,
    ) -> BoxFuture<'a, Upcast> {
        let _ = (slot, delivery, version);
        let reason = "the module does not export `upcaster`".to_owned();
        let invocation = Box::new(Invocation::unrun(Outcome::Trap { reason }));
        Box::pin(std::future::ready(Upcast { invocation, lifted: None }))
    }
}

/// What an upcaster made of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upcast {
    /// How it went; an event that the guest refuses to lift is a `reject`.
    pub invocation: Box<Invocation>,
    /// The next shape, where the outcome is ok.
    pub lifted: Option<Lifted>,
}

/// One event being handed to one plugin. What belongs to others is borrowed: all of it is counted by
/// every thread that runs guests, and most deliveries need no share of their own.
#[derive(Clone)]
pub struct Delivery<'a> {
    /// The input.
    pub event: &'a Arc<Event>,
    /// Number of this attempt, from 1.
    pub attempt: u32,
    /// Whether the input comes from a redriven dead letter.
    pub redriven: bool,
    /// What deterministic ids and randomness are made from.
    pub seed: Seed,
    /// `[config]` of the manifest. A reused instance is given up where this changes.
    pub config: &'a Arc<BTreeMap<String, String>>,
    /// Budgets and grants.
    pub limits: &'a Arc<GuestLimits>,
    /// State of the input's key; never asked where the event is unkeyed.
    pub state: Arc<dyn StateView>,
    /// Who sends what the guest asks outside and waits for; none: nobody does.
    pub outside: Option<&'a Arc<dyn Outside>>,
}

impl Delivery<'_> {
    /// What `command.execute` is asked, where the input carries a command.
    #[must_use]
    pub fn command(&self) -> Option<Request> {
        let event = self.event;
        Some(Request {
            operation: command::name(event)?.to_owned(),
            key: event.key.clone(),
            principal: event.principal.as_ref().to_owned(),
            content_type: event.content_type.as_ref().to_owned(),
            data: event.data.clone(),
            attributes: command::parameters(event),
        })
    }
}

/// A question from outside: reads, writes nothing.
#[derive(Clone)]
pub struct Question {
    /// What is asked.
    pub request: Request,
    /// Log time it is answered at, milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// See [`Delivery::seed`].
    pub seed: Seed,
    /// `[config]` of the manifest.
    pub config: Arc<BTreeMap<String, String>>,
    /// Budgets and grants.
    pub limits: Arc<GuestLimits>,
    /// Durable state of the request's key; never asked where it has none.
    pub state: Arc<dyn StateView>,
    /// Durable state across keys.
    pub keys: Arc<dyn KeysView>,
}

/// A command or a question, as a guest sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What to do, chosen by the plugin.
    pub operation: String,
    /// The key whose state it sees.
    pub key: Option<Key>,
    /// Who asks, as authenticated; empty: nobody in particular.
    pub principal: String,
    /// Media type of `data`; empty: none.
    pub content_type: String,
    /// The body.
    pub data: Bytes,
    /// Parameters.
    pub attributes: Vec<(String, String)>,
}

/// Budgets and grants of one plugin, from its manifest. The defaults are those of a bare module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestLimits {
    /// Fuel of one delivery.
    pub fuel: u64,
    /// Bytes of linear memory and tables together.
    pub memory_bytes: usize,
    /// Wall time of one delivery.
    pub timeout: Duration,
    /// Events emitted by one delivery.
    pub emits_max: u32,
    /// Bytes of emitted events, state, calls, timers and response of one delivery together.
    pub output_bytes_max: usize,
    /// Whether an instance serves more than one delivery.
    pub reuse: bool,
    /// Deliveries after which an instance is replaced.
    pub recycle_after: u32,
    /// Names of the other buses an event may be emitted to.
    pub buses: Arc<[String]>,
    /// `grants.http`, as far as the operator allows it.
    pub http: Arc<[HostPattern]>,
    /// `grants.secrets`, likewise.
    pub secrets: Arc<[GrantName]>,
    /// `grants.env`, likewise, with the values. An instance keeps those it began with.
    pub env: Arc<[(String, String)]>,
    /// Pending timers of the plugin; 0: its bus keeps none, as a memory bus does.
    pub timers_max: usize,
}

impl Default for GuestLimits {
    fn default() -> Self {
        Self {
            fuel: 50_000_000,
            memory_bytes: 64 * 1024 * 1024,
            timeout: Duration::from_secs(2),
            emits_max: 1000,
            output_bytes_max: 512 * 1024,
            reuse: true,
            recycle_after: 100_000,
            buses: Arc::default(),
            http: Arc::default(),
            secrets: Arc::default(),
            env: Arc::default(),
            timers_max: limits::TIMERS_PENDING_DEFAULT,
        }
    }
}

impl GuestLimits {
    /// What a resolved manifest allows, with the names of the buses there are, and the granted
    /// environment variables as they are now.
    #[must_use]
    pub fn of(manifest: &Manifest, buses: Arc<[String]>) -> Self {
        Self {
            fuel: manifest.limits.fuel,
            memory_bytes: manifest.limits.memory.as_usize(),
            timeout: manifest.limits.timeout.duration(),
            emits_max: manifest.limits.emits,
            output_bytes_max: manifest.limits.output.as_usize(),
            reuse: manifest.run.instance == InstancePolicy::Reuse,
            recycle_after: manifest.run.recycle_after,
            buses,
            http: manifest.grants.http.as_slice().into(),
            secrets: manifest.grants.secrets.as_slice().into(),
            env: manifest.grants.variables().into(),
            timers_max: usize::try_from(manifest.limits.timers).unwrap_or(usize::MAX),
        }
    }
}

/// State of one plugin and key, as the delivery may see it.
pub trait StateView: Send + Sync {
    /// A copy of the value of a name, if any.
    fn get(&self, name: &str) -> Option<Vec<u8>>;
    /// Names with `prefix`, ascending, after `after`; at most `limit`.
    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String>;
    /// All names with copies of their values, ascending; none: they have more than `bytes_max` bytes. In one
    /// go, since each page of a listing is a look at all names.
    fn all(&self, bytes_max: usize) -> Option<Vec<(String, Vec<u8>)>> {
        let (mut all, mut bytes) = (Vec::new(), 0_usize);
        for name in self.list("", None, usize::MAX) {
            let Some(value) = self.get(&name) else { continue };
            bytes += name.len() + value.len();
            if bytes > bytes_max {
                return None;
            }
            all.push((name, value));
        }
        Some(all)
    }
    /// Makes room for a name with `new` bytes (with its value; 0: it is removed) in place of `own`
    /// bytes that the delivery wrote under it before, or else of what stands there.
    ///
    /// # Errors
    /// The key of the manifest whose limit leaves no room.
    fn grow(&self, name: &str, own: Option<usize>, new: usize) -> Result<(), &'static str> {
        let _ = (name, own, new);
        Ok(())
    }

    /// Gives back the room that was made: the delivery runs once more, from its start.
    fn start_over(&self) {}

    /// Pending timers of the plugin besides the one of this name under the key of the delivery, as
    /// far as its deliveries are applied.
    fn other_timers(&self, name: &str) -> usize {
        let _ = name;
        0
    }
}

/// Durable state of one plugin across its keys, for questions.
pub trait KeysView: Send + Sync {
    /// Keys with `prefix` that have state, ascending, after `after`; at most `limit`.
    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String>;
    /// A copy of the value of a name under a key, if any.
    fn get(&self, key: &str, name: &str) -> Option<Vec<u8>>;
}

/// No state at all.
impl StateView for () {
    fn get(&self, _name: &str) -> Option<Vec<u8>> {
        None
    }

    fn list(&self, _prefix: &str, _after: Option<&str>, _limit: usize) -> Vec<String> {
        Vec::new()
    }
}

/// How a delivery went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// How it ended.
    pub outcome: Outcome,
    /// What it wants to record; empty unless the outcome is `ok`.
    pub effects: Effects,
    /// Fuel it used; all of the budget where it was stopped by the clock.
    pub fuel: u64,
    /// Time it took, instantiation included.
    pub wall: Duration,
    /// Bytes of linear memory and tables its instance has reached.
    pub memory_bytes: usize,
    /// What the guest logged.
    pub logs: Vec<LogLine>,
    /// The guest's call stack where it was stopped, innermost first; empty where there is none.
    pub backtrace: String,
}

impl Invocation {
    /// Makes it one of nothing, as a delivery begins. False: it holds on to more memory than most need, and
    /// is better let go.
    pub(super) fn clear(&mut self) -> bool {
        // By name, so that a field that is added is not forgotten here.
        let Self { outcome, effects, fuel, wall, memory_bytes, logs, backtrace } = self;
        (*outcome, *fuel, *wall, *memory_bytes) = (Outcome::Ok, 0, Duration::ZERO, 0);
        let Effects { emits, state, timers, calls, response } = effects;
        emits.clear();
        state.clear();
        timers.clear();
        calls.clear();
        *response = None;
        logs.clear();
        backtrace.clear();
        let effects = [emits.capacity(), state.capacity(), timers.capacity(), calls.capacity()];
        let mut kept = effects.into_iter().chain([logs.capacity()]);
        kept.all(|kept| kept <= KEPT_MAX) && backtrace.capacity() == 0
    }

    /// A delivery that ended before its guest was entered.
    #[must_use]
    pub fn unrun(outcome: Outcome) -> Self {
        Self {
            outcome,
            effects: Effects::default(),
            fuel: 0,
            wall: Duration::ZERO,
            memory_bytes: 0,
            logs: Vec::new(),
            backtrace: String::new(),
        }
    }
}

impl Default for Invocation {
    fn default() -> Self {
        Self::unrun(Outcome::Ok)
    }
}

/// The next shape of an old event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lifted {
    /// Schema version of `data`.
    pub version: u32,
    /// Media type of `data`; empty: none.
    pub content_type: String,
    /// The payload.
    pub data: Bytes,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effects::{Response, StateWrite};

    #[test]
    fn an_invocation_that_is_cleared_is_one_of_nothing_and_a_large_one_is_let_go() {
        let state = StateWrite { name: "n".into(), value: None, expires_ms: None };
        let reason = "no".to_owned();
        let done = || Invocation {
            effects: Effects {
                state: vec![state.clone(); KEPT_MAX],
                response: Some(Response::default()),
                ..Effects::default()
            },
            fuel: 1,
            wall: Duration::from_secs(1),
            memory_bytes: 1,
            logs: vec![LogLine { level: "info".to_owned(), message: "hm".to_owned() }],
            ..Invocation::unrun(Outcome::Reject { reason: reason.clone() })
        };
        let mut small = done();
        assert!(small.clear());
        assert_eq!(small, Invocation::default());
        let mut large = done();
        large.effects.state.push(state.clone());
        assert!(!large.clear());
        let mut traced = Invocation { backtrace: "0: f".to_owned(), ..done() };
        assert!(!traced.clear());
    }
}
