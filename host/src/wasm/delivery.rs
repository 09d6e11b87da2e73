//! What goes into an invocation and what comes out of it: plain data and the two views of state.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use futures_util::future::BoxFuture;
use sha1::{Digest, Sha1};
use uuid::Uuid;

use super::Slot;
use super::outside::Outside;
use crate::command;
use crate::effects::{Effects, Outcome};
use crate::event::{Event, Generation, InstanceId, Key, Position};
use crate::limits;
use crate::log::record::LogLine;
use crate::plugin::grants::{GrantName, HostPattern};
use crate::plugin::{Instance as InstancePolicy, Manifest};

/// Bytes of the name of an id, less its suffix: log, instance, generation, position, index.
const NAME_BYTES: usize = 16 + 4 + 4 + 8 + 8 + 4;

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

/// What makes ids and randomness of a delivery its own, and the same when it runs again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seed {
    /// Id of the log.
    pub log_id: Uuid,
    /// The plugin.
    pub instance: InstanceId,
    /// Its generation.
    pub generation: Generation,
    /// Log time of the input, milliseconds; 0: there is none. Where an older copy of a log goes on, it
    /// gives positions again, and others remember the ids of what came of them before.
    pub recorded_ms: u64,
}

impl Seed {
    /// Id of the event emitted as number `index` (from 0) for the input at `position`: a UUIDv5 in
    /// the namespace of the log id, over instance (4 bytes), generation (4), position (8), log time
    /// (8) and index (4), little endian.
    #[must_use]
    pub fn event_id(&self, position: Position, index: u32) -> Arc<str> {
        self.uuid(position, index, b"")
    }

    /// Idempotency key of the call sent as number `index`: as [`Seed::event_id`], followed by the
    /// four bytes `call`.
    #[must_use]
    pub fn call_id(&self, position: Position, index: u32) -> Arc<str> {
        self.uuid(position, index, b"call")
    }

    /// Idempotency key of the direct request sent as number `index`: as [`Seed::event_id`], followed
    /// by the six bytes `direct` and a digest of the request. An attempt that asks the same again
    /// says so, one that asks something else does not.
    #[must_use]
    pub fn direct_id(&self, position: Position, index: u32, digest: &[u8; 32]) -> Arc<str> {
        let mut suffix = [0_u8; 38];
        for (slot, byte) in suffix.iter_mut().zip(b"direct".iter().chain(digest)) {
            *slot = *byte;
        }
        self.uuid(position, index, &suffix)
    }

    /// The random number that call `call` (from 0) of an attempt answers with.
    #[must_use]
    pub fn random(&self, position: Position, attempt: u32, call: u32) -> u64 {
        let mut hasher = self.hasher(position, attempt);
        hasher.update(&call.to_le_bytes());
        let mut first = [0_u8; 8];
        hasher.finalize_xof().fill(&mut first);
        u64::from_le_bytes(first)
    }

    /// An endless stream of bytes of an attempt's own, for guests that ask WASI for randomness.
    pub(super) fn random_bytes(&self, position: Position, attempt: u32) -> blake3::OutputReader {
        let mut hasher = self.hasher(position, attempt);
        hasher.update(b"wasi");
        hasher.finalize_xof()
    }

    fn hasher(&self, position: Position, attempt: u32) -> blake3::Hasher {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"tidegate random v1");
        hasher.update(self.log_id.as_bytes());
        hasher.update(&self.instance.0.to_le_bytes());
        hasher.update(&self.generation.0.to_le_bytes());
        hasher.update(&position.0.to_le_bytes());
        hasher.update(&attempt.to_le_bytes());
        hasher
    }

    fn uuid(&self, position: Position, index: u32, suffix: &[u8]) -> Arc<str> {
        let mut name = [0; NAME_BYTES];
        let mut rest = &mut name[..];
        rest.put_slice(self.log_id.as_bytes());
        rest.put_u32_le(self.instance.0);
        rest.put_u32_le(self.generation.0);
        rest.put_u64_le(position.0);
        rest.put_u64_le(self.recorded_ms);
        rest.put_u32_le(index);
        // As `Uuid::new_v5`, with a hash that uses what the processor has for it.
        let digest: [u8; 20] =
            Sha1::new().chain_update(name).chain_update(suffix).finalize().into();
        let (&bytes, _) = digest.split_first_chunk().expect("sixteen of twenty bytes");
        let mut id = uuid::Builder::from_sha1_bytes(bytes).into_uuid();
        if planted!(RandomEmitIds) {
            id = Uuid::new_v4();
        }
        Arc::from(&*id.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_by_every_field_and_are_stable() {
        let seed = Seed { log_id: Uuid::from_u128(7), ..Seed::default() };
        let id = seed.event_id(Position(3), 0);
        assert_eq!(id, seed.event_id(Position(3), 0));
        let others = [
            seed.event_id(Position(3), 1),
            seed.event_id(Position(4), 0),
            seed.call_id(Position(3), 0),
            Seed { log_id: Uuid::from_u128(8), ..seed }.event_id(Position(3), 0),
            Seed { instance: InstanceId(1), ..seed }.event_id(Position(3), 0),
            Seed { generation: Generation(1), ..seed }.event_id(Position(3), 0),
            Seed { recorded_ms: 1, ..seed }.event_id(Position(3), 0),
        ];
        assert!(others.iter().all(|other| *other != id));
        // Written down: a host that computes another id would emit everything twice after an
        // upgrade.
        assert_eq!(&*id, "0162ecb4-ffe4-57f4-8bc8-7d7eefb604ca");
        let name = [&[0; 8][..], &3_u64.to_le_bytes(), &[0; 12], b"call"].concat();
        let named = Uuid::new_v5(&seed.log_id, &name);
        assert_eq!(*seed.call_id(Position(3), 0), *named.to_string());
    }

    #[test]
    fn randomness_differs_by_attempt_and_call() {
        let seed = Seed::default();
        let first = seed.random(Position(1), 1, 0);
        assert_eq!(first, seed.random(Position(1), 1, 0));
        assert_ne!(first, seed.random(Position(1), 2, 0));
        assert_ne!(first, seed.random(Position(1), 1, 1));
        assert_ne!(first, seed.random(Position(2), 1, 0));
    }
}
