//! One bus on a simulated disk, one plugin whose handler lists what it was handed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::clock::TurnedClock;
use super::handlers::invocation;

use crate::bus::Bus;
use crate::bus::deliver::{self, Deliverer};
use crate::bus::notes::{Notes, PluginLog};
use crate::bus::operate::{self, Act, Acted};
use crate::bus::runner::{Parts, Runner, Version};
use crate::bus::{private, timers};
use crate::clock::Clock;
use crate::command;
use crate::effects::{Draft, Effects, Outcome, Response, StateWrite, TimerChange, ends_at};
use crate::event::{
    CommitNumber, Digest, Event, Generation, InstanceId, Key, KeyVariant, NewEvent, Position,
};
use crate::log::disk::sim::{Crash, SimDisk};
use crate::log::record::{Control, ControlRecord};
use crate::log::{AppendError, Appended, Linger, Log, LogOptions, Publish};
use crate::metrics::Metrics;
use crate::plugin::Manifest;
use crate::schedule::pool::GuestPool;
use crate::schedule::retry::RetryPolicy;
use crate::state::{Checkpoints, DeadLetter, Instance, KeyState, Ledger, Owner, Values};
use crate::wasm::{Delivery, GuestLimits, Invocation, Invoker, Slot};

pub(super) const PLUGIN: InstanceId = InstanceId(1);
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// What the handler does with whom; shared by all worlds of a test.
#[derive(Default)]
pub(super) struct Script {
    /// Events that trap.
    pub(super) broken: Mutex<BTreeSet<String>>,
    /// Events that are rejected.
    pub(super) rejected: Mutex<BTreeSet<String>>,
    /// Events whose first attempt asks to be tried again half an hour later.
    pub(super) put_off: Mutex<BTreeSet<String>>,
    /// Events that never end.
    pub(super) endless: Mutex<BTreeSet<String>>,
    /// What the handler adds to what it lists: that of another module.
    pub(super) mark: Mutex<String>,
    /// Changes of timers that an event makes.
    pub(super) timers: Mutex<BTreeMap<String, Vec<TimerChange>>>,
    /// Every delivery: event, attempt, redriven.
    pub(super) handed: watch::Sender<Vec<(String, u32, bool)>>,
}

impl Script {
    pub(super) fn breaks(&self, ids: &[&str]) {
        *self.broken.lock().unwrap() = ids.iter().map(|id| (*id).to_owned()).collect();
    }

    pub(super) fn sets(&self, id: &str, name: &str, due_ms: u64) {
        let data = Bytes::from(format!("set by {id}"));
        self.changes(id, TimerChange::Set { name: name.into(), due_ms, data });
    }

    pub(super) fn cancels(&self, id: &str, name: &str) {
        self.changes(id, TimerChange::Cancel { name: name.into() });
    }

    fn changes(&self, id: &str, change: TimerChange) {
        self.timers.lock().unwrap().entry(id.to_owned()).or_default().push(change);
    }

    pub(super) fn deliveries(&self, id: &str) -> Vec<(u32, bool)> {
        let of = |(other, attempt, redriven): &(String, u32, bool)| {
            (other == id).then_some((*attempt, *redriven))
        };
        self.handed.borrow().iter().filter_map(of).collect()
    }
}

/// What a delivery is listed as: the id of an event, the body of a command, `@name` of a timer.
fn listed(event: &Event) -> String {
    let body = || String::from_utf8(event.data.to_vec()).unwrap();
    if let (Some(name), true) = (event.attribute("timername"), &*event.kind == private::TIMER) {
        return format!("@{name}");
    }
    command::name(event).map_or_else(|| event.id.to_string(), |_| body())
}

/// Adds the event to the list of its key, and emits one event. Commands are answered with the list.
/// What `ttl` adds ends at once.
fn handle(delivery: &Delivery<'_>, mark: &str, timers: Vec<TimerChange>) -> Effects {
    let id = listed(delivery.event);
    let list = delivery.state.get("ids").map(|ids| String::from_utf8(ids.to_vec()).unwrap());
    let list = list.map_or_else(|| format!("{id}{mark}"), |list| format!("{list} {id}{mark}"));
    let response = command::name(delivery.event)
        .map(|_| Response { data: list.clone().into(), ..Response::default() });
    let expires_ms = id.contains("ttl").then(|| ends_at(delivery.event.recorded_ms + 1));
    let write =
        StateWrite { name: "ids".into(), value: Some(list.into_bytes().into()), expires_ms };
    let draft = Draft {
        id: delivery.seed.event_id(delivery.event.position, 0),
        kind: "thing.handled".into(),
        key: delivery.event.key.clone(),
        bus: None,
        content_type: "text/plain".into(),
        data: Bytes::from(id),
        attributes: Vec::new(),
    };
    let state = if delivery.event.key.is_some() { vec![write] } else { Vec::new() };
    Effects { emits: vec![draft], state, response, timers, ..Effects::default() }
}

impl Script {
    fn run(&self, delivery: &Delivery<'_>) -> Box<Invocation> {
        let id = listed(delivery.event);
        let timers = self.timers.lock().unwrap().get(&id).cloned().unwrap_or_default();
        let outcome = if self.broken.lock().unwrap().contains(&id) {
            Outcome::Trap { reason: "unreachable".to_owned() }
        } else if self.rejected.lock().unwrap().contains(&id) {
            Outcome::Reject { reason: format!("no {id}") }
        } else if delivery.attempt == 1 && self.put_off.lock().unwrap().contains(&id) {
            Outcome::Retry { reason: "later".to_owned(), after_ms: Some(30 * 60 * 1000) }
        } else {
            Outcome::Ok
        };
        // Decided before it is told: who waits for that may change what follows for later deliveries.
        self.hand(&id, delivery);
        let effects = if outcome == Outcome::Ok {
            handle(delivery, &self.mark.lock().unwrap(), timers)
        } else {
            Effects::default()
        };
        invocation(outcome, effects)
    }

    fn hand(&self, id: &str, delivery: &Delivery<'_>) {
        let handed = (id.to_owned(), delivery.attempt, delivery.redriven);
        self.handed.send_modify(|all| all.push(handed));
    }

    fn is_endless(&self, delivery: &Delivery<'_>) -> bool {
        self.endless.lock().unwrap().contains(&listed(delivery.event))
    }
}

impl Invoker for Script {
    fn invoke<'a>(
        &'a self,
        _: &'a mut Slot,
        delivery: Delivery<'a>,
    ) -> BoxFuture<'a, Box<Invocation>> {
        async move {
            if self.is_endless(&delivery) {
                self.hand(&listed(delivery.event), &delivery);
                std::future::pending::<()>().await;
            }
            self.run(&delivery)
        }
        .boxed()
    }

    fn invoke_through<'a>(
        &self,
        _: &mut Slot,
        delivery: Delivery<'a>,
    ) -> Result<Box<Invocation>, Delivery<'a>> {
        if self.is_endless(&delivery) { Err(delivery) } else { Ok(self.run(&delivery)) }
    }
}

pub(super) struct World {
    pub(super) disk: SimDisk,
    pub(super) bus: Arc<Bus>,
    pub(super) runner: Arc<Runner>,
    pub(super) script: Arc<Script>,
    pub(super) clock: Arc<TurnedClock>,
    dir: TempDir,
    pub(super) pool: Arc<GuestPool>,
    _timers: DropGuard,
}

/// How a world comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    /// By folding the whole log.
    Log,
    /// From the state as a checkpoint would keep it.
    Checkpoint,
}

type Fold = (Ledger, Arc<Values>, CommitNumber);

impl World {
    pub(super) async fn new() -> Self {
        let script = Arc::default();
        let dir = tempfile::tempdir().unwrap();
        Self::open(SimDisk::new(), Arc::default(), script, dir, None, "").await
    }

    /// With further lines of the manifest.
    pub(super) async fn with(manifest: &str) -> Self {
        let script = Arc::default();
        let dir = tempfile::tempdir().unwrap();
        Self::open(SimDisk::new(), Arc::default(), script, dir, None, manifest).await
    }

    pub(super) async fn open(
        disk: SimDisk,
        clock: Arc<TurnedClock>,
        script: Arc<Script>,
        dir: TempDir,
        fold: Option<Fold>,
        manifest: &str,
    ) -> Self {
        // Syncs take no time here, so nothing would be waited for.
        let linger = Linger::For(Duration::from_millis(1));
        let options = LogOptions { segment_bytes: 256 * 1024, linger, ..LogOptions::default() };
        let path = Path::new("data/buses/main");
        let of_log = Arc::clone(&clock) as Arc<dyn Clock>;
        let opened = Log::open(Arc::new(disk.clone()), path, options, of_log).unwrap();
        let log = opened.log;
        let fold = fold.unwrap_or_else(|| (Ledger::default(), Arc::default(), CommitNumber(0)));
        let bus = Arc::new(Bus::durable("main", log.clone(), fold, dir.path()).unwrap());
        let (folding, runtime) = (Arc::clone(&bus), tokio::runtime::Handle::current());
        let checkpoints = checkpoints(&disk, &log);
        std::thread::spawn(move || folding.apply_durable(&runtime, &checkpoints));
        bus.until_applied(log.durable()).await;
        if bus.ledger().instance(PLUGIN).is_none() {
            let (name, after) = ("lister".to_owned(), Position(0));
            let control = Control::Register { instance: PLUGIN, name, after };
            let record = ControlRecord { actor: "test".into(), control };
            let committed = bus.control(&[record]).done().await.unwrap();
            bus.until_applied(committed.commit).await;
        }
        let pool = Arc::new(GuestPool::new(2, &tokio::runtime::Handle::current()).unwrap());
        let runner = start(&bus, &script, &pool, manifest).await;
        let stop = CancellationToken::new();
        tokio::spawn(timers::run(Arc::clone(&bus), stop.clone()));
        Self { disk, bus, runner, script, clock, dir, pool, _timers: stop.drop_guard() }
    }

    /// The same after a crash right now. What ran is left alone: it must not matter.
    pub(super) async fn crash(&self, crash: Crash, from: From) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(self.dir.path().join("slots"), dir.path().join("slots")).unwrap();
        if from == From::Checkpoint {
            // Deliveries do not wait for the fold: it may still be at what was delivered.
            self.bus.until_applied(self.bus.log().unwrap().durable()).await;
        }
        let fold = (from == From::Checkpoint).then(|| self.checkpoint());
        let (script, clock) = (Arc::clone(&self.script), Arc::clone(&self.clock));
        Self::open(self.disk.crash(crash), clock, script, dir, fold, "").await
    }

    /// A world on another disk, with the same script.
    pub(super) async fn on(&self, disk: SimDisk) -> Self {
        let (script, dir) = (Arc::clone(&self.script), tempfile::tempdir().unwrap());
        Self::open(disk, Arc::clone(&self.clock), script, dir, None, "").await
    }

    /// Only while nothing is being applied.
    fn checkpoint(&self) -> Fold {
        let bytes = rmp_serde::to_vec_named(&*self.bus.ledger()).unwrap();
        let ledger = rmp_serde::from_slice(&bytes).unwrap();
        let values = Arc::new(Values::default());
        let plugin = self.plugin();
        for generation in BTreeSet::from([plugin.serving(), plugin.generation]) {
            for (key, ids) in self.lists(generation) {
                let owner = (PLUGIN, generation, key.as_str());
                let value = Some(ids.into_bytes().into());
                let write = StateWrite { name: "ids".into(), value, expires_ms: None };
                values.apply(owner, Position(0), [write]).unwrap();
            }
        }
        values.timers().restore(self.bus.values().timers().rows(None, usize::MAX));
        (ledger, values, *self.bus.applied().borrow())
    }

    /// What each key that the log knows lists.
    fn lists(&self, generation: Generation) -> BTreeMap<String, String> {
        let keys = ('a'..='z').map(|key| key.to_string()).chain((0..1000).map(|n| format!("k{n}")));
        let lists = keys.map(|key| (key.clone(), self.ids_of(generation, &key)));
        lists.filter(|(_, ids)| !ids.is_empty()).collect()
    }

    pub(super) async fn publish(&self, ids: &[&str]) {
        self.publishing(ids).await.unwrap().unwrap();
    }

    /// Publishes meanwhile.
    pub(super) fn publishing(
        &self,
        ids: &[&str],
    ) -> JoinHandle<Result<Vec<Appended>, AppendError>> {
        let batch = ids.iter().map(|id| Publish { event: event(id), expected: None }).collect();
        let bus = Arc::clone(&self.bus);
        tokio::spawn(async move { bus.publish(batch).await })
    }

    /// Waits until something is true of what is applied.
    pub(super) async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let mut applied = self.bus.applied();
        let so = tokio::time::timeout(PATIENCE, applied.wait_for(|_| is_so(self))).await;
        assert!(so.is_ok(), "never: {what}; {:?} {:?}", self.lists(Generation(0)), self.plugin());
    }

    /// Waits until an event was handed to the handler.
    pub(super) async fn until_handed(&self, id: &str) {
        self.until_handed_times(id, 1).await;
    }

    /// Waits until an event was handed to the handler so often, here or before a crash.
    pub(super) async fn until_handed_times(&self, id: &str, times: usize) {
        let mut handed = self.script.handed.subscribe();
        let seen =
            handed.wait_for(|all| all.iter().filter(|(other, ..)| other == id).count() >= times);
        tokio::time::timeout(PATIENCE, seen).await.unwrap().unwrap();
    }

    /// Waits until each key lists these ids, in this order.
    pub(super) async fn until_listed(&self, keys: &[(&str, &str)]) {
        for (key, ids) in keys {
            self.until(&format!("{key}: {ids}"), |world| world.ids(key) == *ids).await;
        }
    }

    /// What people see of a key.
    pub(super) fn ids(&self, key: &str) -> String {
        self.ids_of(self.plugin().serving(), key)
    }

    pub(super) fn ids_of(&self, generation: Generation, key: &str) -> String {
        let key = Key::new(key).unwrap();
        let owner = Owner { instance: PLUGIN, generation, key };
        let value = self.bus.values().get(&owner, "ids", 0).unwrap();
        value.map_or_else(String::new, |value| String::from_utf8(value.bytes.to_vec()).unwrap())
    }

    /// Rewinds to just after a position, as the host does. `mark`: of the module from then on.
    pub(super) async fn rewind(self, after: u64, mark: &str) -> Self {
        self.runner.stop().await;
        *self.script.mark.lock().unwrap() = mark.to_owned();
        let (instance, after, cursor) = (PLUGIN, Position(after), self.runner.cursor());
        let generation = Generation(self.plugin().generation.0 + 1);
        let (until, done) = (self.bus.last_position(), self.plugin().done(cursor.low));
        let control = Control::Rewind { instance, generation, after, until, done };
        let record = ControlRecord { actor: "ops".into(), control };
        let committed = self.bus.control(&[record]).done().await.unwrap();
        self.bus.until_applied(committed.commit).await;
        self.run().await
    }

    /// Puts a runner to work, once the state that it begins with is there.
    async fn run(self) -> Self {
        let runner = start(&self.bus, &self.script, &self.pool, "").await;
        Self { runner, ..self }
    }

    /// Waits until the last rewind is over.
    pub(super) async fn until_rebuilt(&self) {
        self.until("rebuilt", |world| world.plugin().rebuilding().is_none()).await;
    }

    pub(super) fn plugin(&self) -> Instance {
        self.bus.ledger().instance(PLUGIN).unwrap().clone()
    }

    pub(super) fn key_state(&self, key: &str) -> Option<KeyState> {
        self.plugin().keys.get(&Key::new(key).unwrap()).cloned()
    }

    pub(super) fn is_parked(&self, key: &str) -> bool {
        self.key_state(key).is_some_and(|state| state.parked.is_some())
    }

    pub(super) fn letters(&self) -> Vec<DeadLetter> {
        self.bus.ledger().dead_letters().cloned().collect()
    }

    pub(super) async fn act(&self, numbers: &[u64], act: Act) -> Acted {
        let runner = Some(&*self.runner);
        operate::act(&self.bus, PLUGIN, runner, numbers, &act, "ops").await.unwrap()
    }

    pub(super) async fn redrive_all(&self) -> Acted {
        let numbers: Vec<u64> = self.letters().iter().map(|letter| letter.id).collect();
        self.act(&numbers, Act::Redrive).await
    }

    pub(super) async fn hold(&self, key: &str) {
        let key = Key::new(key).unwrap();
        operate::hold(&self.runner, &key, "why not", "ops").await.unwrap();
    }

    pub(super) async fn release(&self, key: &str) {
        let (key, runner) = (Key::new(key).unwrap(), Some(&*self.runner));
        operate::release(&self.bus, PLUGIN, runner, &key, "ops").await.unwrap();
    }

    /// How often the log holds an emitted event for each input.
    pub(super) async fn emitted(&self) -> BTreeMap<String, usize> {
        let mut emitted = BTreeMap::new();
        let mut source = self.bus.read_after(Position(0));
        let mut seen = Position(0);
        while seen < self.bus.last_position() {
            for event in source.next().await.unwrap().events().unwrap() {
                seen = event.position;
                if event.emitter.is_some() {
                    let input = String::from_utf8(event.data.to_vec()).unwrap();
                    *emitted.entry(input).or_default() += 1;
                }
            }
        }
        emitted
    }

    /// Each of these inputs has had its effects once, and no other.
    pub(super) async fn assert_once(&self, ids: &[&str]) {
        let emitted = self.emitted().await;
        let once: BTreeMap<String, usize> = ids.iter().map(|id| ((*id).to_owned(), 1)).collect();
        assert_eq!(emitted, once);
    }

    pub(super) async fn stop(self) {
        self.runner.stop().await;
        self.bus.log().unwrap().close().await.unwrap();
        self.pool.shutdown();
    }
}

pub(super) fn checkpoints(disk: &SimDisk, log: &Log) -> Checkpoints {
    let dir = Path::new("data/buses/main/checkpoints");
    Checkpoints::open(Arc::new(disk.clone()), dir, log.id()).unwrap()
}

/// `a1` is the first event of key `a`; `-1` has no key.
/// The first event of each of `count` keys.
pub(super) fn events(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("k{n}.0")).collect()
}

pub(super) fn texts(ids: &[String]) -> Vec<&str> {
    ids.iter().map(String::as_str).collect()
}

fn event(id: &str) -> NewEvent {
    let key = id.split('.').next().unwrap().trim_end_matches(|c: char| c.is_ascii_digit());
    let key = match id.split_once('.') {
        Some((key, _)) => Key::new(key).ok(),
        None => Key::new(key).ok().filter(|key| key.as_str() != "-"),
    };
    NewEvent {
        id: id.into(),
        source: "/test".into(),
        kind: "thing.happened".into(),
        key_variant: if key.is_some() { KeyVariant::PartitionKey } else { KeyVariant::None },
        key,
        ..NewEvent::default()
    }
}

pub(super) async fn start(
    bus: &Arc<Bus>,
    script: &Arc<Script>,
    pool: &GuestPool,
    manifest: &str,
) -> Arc<Runner> {
    let parts = parts(bus, script, pool, manifest);
    let plugin = bus.ledger().instance(PLUGIN).unwrap().clone();
    if let Some(rewound) = plugin.rebuilding().filter(|rewound| !rewound.carried) {
        let from = plugin.generation_after(rewound.after);
        let state = bus.state_after(PLUGIN, from, rewound.after).await.unwrap();
        bus.carry_over(&parts.version.deliverer, state).await.unwrap();
    }
    let workers = usize::try_from(parts.version.manifest.run.workers).unwrap();
    Runner::start(parts, if workers == 0 { 4 } else { workers })
}

pub(super) fn parts(
    bus: &Arc<Bus>,
    script: &Arc<Script>,
    pool: &GuestPool,
    manifest: &str,
) -> Parts {
    let manifest = Arc::new(Manifest::parse("lister", manifest).unwrap());
    let generation = bus.ledger().instance(PLUGIN).unwrap().generation;
    let deliverer = Deliverer {
        instance: PLUGIN,
        generation,
        environment: Digest::default(),
        bus: Arc::clone(bus.name()),
        source: deliver::source(bus.name(), "lister"),
    };
    let version = Version {
        invoker: Arc::clone(script) as Arc<dyn Invoker>,
        digest: Digest::default(),
        limits: Arc::new(GuestLimits { output_bytes_max: 16 * 1024, ..GuestLimits::default() }),
        outside: None,
        state: manifest.limits.state_quota(),
        config: Arc::default(),
        retry: RetryPolicy { backoff_ms: 1, ..RetryPolicy::default() },
        deliverer,
        manifest: Arc::clone(&manifest),
    };
    Parts {
        bus: Arc::clone(bus),
        name: "lister".into(),
        instance: PLUGIN,
        generation,
        subscriptions: vec![(Position(0), Arc::new(manifest.subscribe.clone()))],
        version: Arc::new(version),
        paused: false,
        tenant: pool.tenant("lister"),
        log: Arc::<PluginLog>::default(),
        notes: Notes::default(),
        metrics: Metrics::default().plugin("lister"),
        pauses: mpsc::channel(8).0,
    }
}
