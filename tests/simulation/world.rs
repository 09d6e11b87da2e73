//! A durable bus with one plugin on a simulated disk: the real log, fold, checkpoints, scheduler,
//! runner and timers; the handler is written here, HTTP and WebAssembly are left out.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tidegate::bus::deliver::{self, Deliverer};
use tidegate::bus::notes::{Notes, PluginLog};
use tidegate::bus::operate::{self, Act};
use tidegate::bus::runner::{Parts, Runner, Version};
use tidegate::bus::{Bus, timers};
use tidegate::clock::{Clock, SystemClock};
use tidegate::effects::{OutcomeKind, StateWrite};
use tidegate::event::{
    CommitNumber, Digest, Generation, InstanceId, Key, KeyVariant, NewEvent, Position,
};
use tidegate::log::disk::Disk;
use tidegate::log::disk::sim::{Crash, SimDisk};
use tidegate::log::record::{Completion, Control, ControlRecord, DeliveryCommit, Mode};
use tidegate::log::tools::{self, DumpRange};
use tidegate::log::{AppendError, Linger, Log, LogOptions, OpenError, Publish};
use tidegate::metrics::Metrics;
use tidegate::plugin::Manifest;
use tidegate::schedule::pool::GuestPool;
use tidegate::schedule::retry::RetryPolicy;
use tidegate::state::{CheckpointError, CheckpointPolicy, Checkpoints, Ledger, Owner, Values};
use tidegate::wasm::{GuestLimits, Invoker};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::witness::Witness;
use crate::oracle::{Counting, History, Shown};

pub(crate) const PLUGIN: InstanceId = InstanceId(1);
pub(crate) const COUNTING: [Counting; 1] = [Counting { instance: PLUGIN.0, kinds: "step." }];
const DATA: &str = "data";
const BUS: &str = "data/buses/main";
/// How long anything may take that is no more than some deliveries.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often it is looked whether a host has come to rest.
const LOOK_EVERY: Duration = Duration::from_micros(300);
/// Looks after which a host on a full disk counts as one that waits for space.
const FULL_LOOKS: u32 = 100;

/// Whether a disk has no space left.
pub(crate) fn is_full(disk: &SimDisk) -> bool {
    disk.free_bytes(Path::new(DATA)).is_ok_and(|free| free == 0)
}

/// The machine's clock, and what a test adds to it.
#[derive(Default)]
pub(crate) struct Turned {
    system: SystemClock,
    passed_ms: AtomicU64,
}

impl Turned {
    pub(crate) fn pass(&self, ms: u64) {
        self.passed_ms.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for Turned {
    fn wall_ms(&self) -> u64 {
        self.system.wall_ms() + self.passed_ms.load(Ordering::SeqCst)
    }

    fn monotonic(&self) -> Duration {
        self.system.monotonic() + Duration::from_millis(self.passed_ms.load(Ordering::SeqCst))
    }
}

/// Why a host did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Log(#[from] OpenError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// Why a client cannot go on with a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gone {
    /// Its log takes nothing, or not now.
    Refuses,
    /// It never comes to rest.
    Restless,
}

/// What outlives a host but for its disk.
pub(crate) struct Place {
    pub(crate) witness: Arc<Witness>,
    pub(crate) clock: Arc<Turned>,
    pub(crate) options: LogOptions,
    pub(crate) checkpoints: CheckpointPolicy,
    /// The notes of running deliveries: a mapped file, which is not behind the seam.
    slots: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            witness: Arc::default(),
            clock: Arc::default(),
            options: LogOptions {
                segment_bytes: 24 * 1024,
                watermark_ingest_bytes: 40_000,
                watermark_effects_bytes: 20_000,
                // Syncs take no time here, so nothing would be waited for.
                linger: Linger::For(Duration::from_millis(1)),
                ..LogOptions::default()
            },
            checkpoints: CheckpointPolicy { every_bytes: 6 * 1024, every_commits: 1_000_000 },
            slots: tempfile::tempdir().unwrap(),
        }
    }
}

/// A running host.
pub(crate) struct World {
    pub(crate) disk: SimDisk,
    pub(crate) bus: Arc<Bus>,
    pub(crate) log: Log,
    pub(crate) log_id: Uuid,
    runner: Arc<Runner>,
    witness: Arc<Witness>,
    clock: Arc<Turned>,
    stop: CancellationToken,
    fold: Option<JoinHandle<()>>,
    slots: TempDir,
}

fn pool() -> &'static GuestPool {
    static POOL: OnceLock<GuestPool> = OnceLock::new();
    POOL.get_or_init(|| GuestPool::new(2, super::runtime().handle()).unwrap())
}

fn event(event: &Value) -> NewEvent {
    let text = |name: &str| event[name].as_str().unwrap_or_default();
    let key = event["partitionkey"].as_str().map(|key| Key::new(key).unwrap());
    NewEvent {
        id: text("id").into(),
        source: text("source").into(),
        kind: text("type").into(),
        key_variant: if key.is_some() { KeyVariant::PartitionKey } else { KeyVariant::None },
        key,
        content_type: "application/json".into(),
        data: event["data"].to_string().into(),
        ..NewEvent::default()
    }
}

/// Opens the log and its newest checkpoint, and folds: what every start does before it serves.
pub(crate) fn open_bus(
    disk: &SimDisk,
    place: &Place,
) -> Result<(Bus, Checkpoints, TempDir), StartError> {
    let clock = Arc::clone(&place.clock) as Arc<dyn Clock>;
    let opened = Log::open(Arc::new(disk.clone()), Path::new(BUS), place.options, clock)?;
    let log = opened.log;
    let dir = Path::new(BUS).join("checkpoints");
    let checkpoints = Checkpoints::open(Arc::new(disk.clone()), &dir, log.id())?;
    let checkpoints = checkpoints.with_policy(place.checkpoints);
    let values = Arc::new(Values::default());
    let (ledger, applied) = match checkpoints.newest(&values, opened.last_commit)? {
        Some((ledger, at)) => (ledger, at.commit),
        None => (Ledger::default(), CommitNumber(0)),
    };
    let slots = tempfile::tempdir()?;
    let kept = place.slots.path().join("slots");
    if kept.exists() {
        std::fs::copy(&kept, slots.path().join("slots"))?;
    }
    let bus = Bus::durable("main", log, (ledger, values, applied), slots.path())?;
    Ok((bus, checkpoints, slots))
}

impl World {
    /// Starts a host on a disk.
    pub(crate) async fn open(disk: &SimDisk, place: &Place) -> Result<Self, StartError> {
        let (bus, checkpoints, slots) = open_bus(disk, place)?;
        let (log, bus) = (bus_log(&bus), Arc::new(bus));
        let (folding, runtime) = (Arc::clone(&bus), tokio::runtime::Handle::current());
        let fold = std::thread::spawn(move || drop(folding.apply_durable(&runtime, &checkpoints)));
        bus.until_applied(log.durable()).await;
        if bus.ledger().instance(PLUGIN).is_none() {
            let (name, after) = ("witness".to_owned(), Position(0));
            let control = Control::Register { instance: PLUGIN, name, after };
            record(&bus, control).await?;
        }
        let runner = run(&bus, &place.witness);
        let stop = CancellationToken::new();
        tokio::spawn(timers::run(Arc::clone(&bus), stop.clone()));
        Ok(Self {
            disk: disk.clone(),
            log_id: log.id(),
            bus,
            log,
            runner,
            witness: Arc::clone(&place.witness),
            clock: Arc::clone(&place.clock),
            stop,
            fold: Some(fold),
            slots,
        })
    }

    /// Publishes a batch; positions in its order.
    pub(crate) async fn publish(&self, events: &[Value]) -> Result<Vec<u64>, AppendError> {
        let batch = events.iter().map(|one| Publish { event: event(one), expected: None });
        let answers = self.bus.publish(batch.collect()).await?;
        Ok(answers.into_iter().map(|answer| answer.position.0).collect())
    }

    /// Lets time pass.
    pub(crate) fn pass(&self, ms: u64) {
        self.clock.pass(ms);
        self.bus.values().timers().wake();
    }

    /// Waits until there is nothing to do but what waits for a person or for its time.
    pub(crate) async fn rest(&self) -> Result<(), Gone> {
        let rest = async {
            let mut stands = 0;
            while !self.is_at_rest() {
                // What waits for space comes to no rest.
                stands += u32::from(is_full(&self.disk));
                if stands > FULL_LOOKS {
                    return Err(Gone::Refuses);
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
            Ok(())
        };
        tokio::select! {
            rested = tokio::time::timeout(PATIENCE, rest) => rested.unwrap_or(Err(Gone::Restless)),
            _ = self.log.failed() => Err(Gone::Refuses),
        }
    }

    fn is_at_rest(&self) -> bool {
        let cursor = self.runner.cursor();
        let is_idle = cursor.in_flight == 0
            && cursor.running == 0
            && cursor.ready == 0
            && cursor.retrying == 0
            && !cursor.draining
            && cursor.scanned == self.bus.last_position();
        let timers = self.bus.values().timers();
        let is_due = timers.next_due_ms().is_some_and(|due_ms| due_ms <= self.bus.now_ms());
        is_idle
            && !is_due
            && self.bus.progress(PLUGIN).outstanding() == 0
            && *self.bus.applied().borrow() == self.log.durable()
            // Looked at again: what was folded in between may have made work.
            && self.runner.cursor().scanned == self.bus.last_position()
            && !self.is_rebuilding()
    }

    fn is_rebuilding(&self) -> bool {
        self.bus.ledger().instance(PLUGIN).is_some_and(|plugin| plugin.rebuilding().is_some())
    }

    /// Lets what failed run again, now that it works.
    pub(crate) async fn redrive_all(&self) -> Result<u64, AppendError> {
        let letters: Vec<u64> = self.bus.ledger().dead_letters().map(|letter| letter.id).collect();
        if letters.is_empty() {
            return Ok(0);
        }
        let runner = Some(&*self.runner);
        let acted =
            operate::act(&self.bus, PLUGIN, runner, &letters, &Act::Redrive, "test").await?;
        Ok(acted.count)
    }

    /// Begins a generation at the first event, as the host does it.
    pub(crate) async fn rewind(&mut self) -> Result<(), AppendError> {
        self.runner.stop().await;
        let plugin = self.bus.ledger().instance(PLUGIN).cloned().expect("registered");
        let generation = Generation(plugin.generation.0 + 1);
        let (until, done) = (self.bus.last_position(), self.runner.cursor().low);
        let after = Position(0);
        let control = Control::Rewind { instance: PLUGIN, generation, after, until, done };
        record(&self.bus, control).await?;
        self.runner = run(&self.bus, &self.witness);
        Ok(())
    }

    /// The end of a delivery of the generation before comes late: it must be of no consequence.
    pub(crate) async fn late(&self) -> Result<(), AppendError> {
        let generation = self.runner.generation().0 - 1;
        let key = Key::new("k0").expect("it is one");
        let permit = self.bus.reserve(PLUGIN, 1000).await?;
        let value = Some(b"4711".into());
        let completion = Completion {
            instance: PLUGIN,
            generation: Generation(generation),
            position: Position(1),
            key: Some(key),
            environment: Digest::default(),
            attempt: 1,
            mode: Mode::Live,
            outcome: OutcomeKind::Ok,
            fuel: 0,
            response: None,
        };
        let commit = DeliveryCommit {
            completion,
            emits: Vec::new(),
            state: vec![StateWrite { name: "late".into(), value, expires_ms: None }],
            timers: Vec::new(),
            calls: Vec::new(),
            dead_letter: None,
            park: false,
        };
        self.bus.progress(PLUGIN).submit();
        self.bus.commit(permit, commit, drop).done().await.map(drop)
    }

    /// Leaves the notes of what was running to the next host.
    pub(crate) fn keep_slots(&self, place: &Place) {
        let from = self.slots.path().join("slots");
        std::fs::copy(from, place.slots.path().join("slots")).unwrap();
    }

    /// The log as `log dump` shows it, up to what is durable.
    pub(crate) fn history(&self) -> History {
        history(&self.disk).up_to(self.log.durable().0)
    }

    /// What the host says of itself.
    pub(crate) fn shown(&self) -> Shown {
        let plugin = self.bus.ledger().instance(PLUGIN).cloned().expect("registered");
        let mut shown = Shown { log_time_ms: self.bus.now_ms(), ..Shown::default() };
        let keys: std::collections::BTreeSet<Key> = history(&self.disk)
            .events()
            .filter_map(|event| Key::new(event.key.as_deref()?).ok())
            .collect();
        for key in keys {
            let text = key.as_str().to_owned();
            let owner = Owner { instance: PLUGIN, generation: plugin.serving(), key };
            for (name, value) in self.bus.values().all(&owner, 0).unwrap() {
                let place = (PLUGIN.0, text.clone(), name.to_string());
                shown.state.insert(place, String::from_utf8(value.bytes.to_vec()).unwrap());
            }
        }
        let ledger = self.bus.ledger();
        let letters = ledger.dead_letters();
        shown.dead_letters = letters.map(|one| (one.instance.0, one.position.0)).collect();
        shown.ended.insert(PLUGIN.0, plugin.outcomes.iter().sum());
        shown.timers.insert(PLUGIN.0, self.bus.values().timers().count(PLUGIN) as u64);
        shown
    }

    /// Stops in order; true: the log was sealed.
    pub(crate) async fn stop(mut self) -> bool {
        self.stop.cancel();
        // As a host does it: what cannot be recorded, for want of space, is left to the next.
        let patience = if is_full(&self.disk) { LOOK_EVERY * FULL_LOOKS } else { PATIENCE };
        let _ = tokio::time::timeout(patience, self.runner.stop()).await;
        let is_sealed = self.log.close().await.is_ok();
        self.join_fold().await;
        is_sealed
    }

    /// Takes apart what is left of a host that counts as crashed.
    pub(crate) async fn bury(self) {
        self.stop.cancel();
        // Nothing that it still does can matter: its disk is not looked at any more.
        let _ = tokio::time::timeout(Duration::from_secs(5), self.stop()).await;
    }

    async fn join_fold(&mut self) {
        if let Some(fold) = self.fold.take() {
            let _ = tokio::task::spawn_blocking(move || fold.join()).await;
        }
    }
}

fn bus_log(bus: &Bus) -> Log {
    bus.log().cloned().expect("it is durable")
}

async fn record(bus: &Bus, control: Control) -> Result<(), AppendError> {
    let record = ControlRecord { actor: "test".into(), control };
    let committed = bus.control(&[record]).done().await?;
    bus.until_applied(committed.commit).await;
    Ok(())
}

/// The log of a disk that may be in use, as `log dump` shows it.
pub(crate) fn history(disk: &SimDisk) -> History {
    // A copy: nobody has that one open.
    let copy = disk.crash(Crash::ProcessDies);
    let mut dump = Vec::new();
    let dumped = tools::dump(&copy, Path::new(DATA), Some("main"), DumpRange::default(), &mut dump);
    match dumped {
        Ok(_) | Err(tools::ToolError::NoLog { .. }) => {}
        Err(error) => panic!("{error}"),
    }
    History::read(&String::from_utf8(dump).unwrap())
}

fn run(bus: &Arc<Bus>, witness: &Arc<Witness>) -> Arc<Runner> {
    let manifest = "[subscribe]\ntypes = [\"step.*\"]\n";
    let manifest = Arc::new(Manifest::parse("witness", manifest).unwrap());
    let generation = bus.ledger().instance(PLUGIN).expect("registered").generation;
    let deliverer = Deliverer {
        instance: PLUGIN,
        generation,
        environment: Digest::default(),
        bus: Arc::clone(bus.name()),
        source: deliver::source(bus.name(), "witness"),
    };
    let version = Version {
        invoker: Arc::clone(witness) as Arc<dyn Invoker>,
        digest: Digest::default(),
        limits: Arc::new(GuestLimits { output_bytes_max: 16 * 1024, ..GuestLimits::default() }),
        outside: None,
        state: manifest.limits.state_quota(),
        config: Arc::default(),
        retry: RetryPolicy { backoff_ms: 1, ..RetryPolicy::default() },
        deliverer,
        manifest: Arc::clone(&manifest),
    };
    let parts = Parts {
        bus: Arc::clone(bus),
        name: "witness".into(),
        instance: PLUGIN,
        generation,
        subscriptions: vec![(Position(0), Arc::new(manifest.subscribe.clone()))],
        version: Arc::new(version),
        paused: false,
        tenant: pool().tenant("witness"),
        log: Arc::<PluginLog>::default(),
        notes: Notes::default(),
        metrics: Metrics::default().plugin("witness"),
        pauses: mpsc::channel(8).0,
    };
    Runner::start(parts, 4)
}
