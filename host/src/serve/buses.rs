//! Opens the buses of a host: logs, checkpoints, and the folds that keep their state.
//!
//! Rule: a bus serves once its fold has come as far as its log. Keys of its checkpoint may still be on
//! their way into memory then: who asks for one waits.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Sender;
use uuid::Uuid;

use super::ServeError;
use super::files;
use super::start::{at, create_dir, ms};
use crate::bus::Bus;
use crate::bus::memory::{MemoryOptions, Order, Overflow};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::event::CommitNumber;
use crate::limits::STATE_HOT_BYTES_MAX;
use crate::log::disk::{Disk, LockError};
use crate::log::{CheckRest, ClockGap, Log, LogOptions, OpenError, Opened};
use crate::state::checkpoint::{ChainStart, CheckpointPolicy, Checkpoints, Fill, FillError};
use crate::state::cold::Cold;
use crate::state::evict::Evictor;
use crate::state::{Ledger, Values};

/// Deliveries go on until one in so many bytes is free of those that stop publishers.
const EFFECTS_SHARE_OF_FREE: u64 = 4;
/// How long to wait for a lock that another process holds.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(2);
/// How often to try it.
const LOCK_POLL: Duration = Duration::from_millis(20);

/// A bus whose state is still to be brought up to its log.
pub(super) struct OpenBus {
    pub(super) bus: Arc<Bus>,
    /// Of a durable bus.
    pub(super) durable: Option<OpenDurable>,
}

/// What is known of a durable bus once it is open.
pub(super) struct OpenDurable {
    pub(super) opened: Opened,
    checkpoints: Checkpoints,
    /// How long its newest checkpoint took.
    checkpoint_took: Duration,
    /// The commit that it stands for.
    checkpoint_at: CommitNumber,
    keys: Keys,
}

/// The keys of a checkpoint.
enum Keys {
    /// There are none, or they are being read.
    Coming(Option<JoinHandle<()>>),
    /// They are still to be read.
    Later(Fill),
}

/// Opens all buses into `open`, the default one first; this process may have so many `files` open.
///
/// # Errors
/// A log or a checkpoint cannot be used. What was opened until then is there, to be closed.
pub(super) fn open_buses(
    config: &Config,
    files: Option<u64>,
    disk: &Arc<dyn Disk>,
    clock: &Arc<dyn Clock>,
    failed: &Sender<ServeError>,
    open: &mut Vec<OpenBus>,
) -> Result<(), ServeError> {
    let index_files_max = files::index_files_max(files, config.buses.len());
    for (name, bus) in &config.buses {
        let opened = match bus {
            config::Bus::Durable(options) => {
                open_durable((config, name, options), index_files_max, disk, clock, failed)?
            }
            config::Bus::Memory(options) => {
                let bus = Arc::new(Bus::memory(name, memory_options(options), Arc::clone(clock)));
                OpenBus { bus, durable: None }
            }
        };
        open.push(opened);
    }
    // The default bus first; the others keep their order.
    open.sort_by_key(|open| **open.bus.name() != *crate::plugin::DEFAULT_BUS);
    Ok(())
}

fn open_durable(
    (config, name, bus): (&Config, &str, &config::DurableBus),
    index_files_max: usize,
    disk: &Arc<dyn Disk>,
    clock: &Arc<dyn Clock>,
    failed: &Sender<ServeError>,
) -> Result<OpenBus, ServeError> {
    let dir = config.data.join("buses").join(name);
    let state = dir.join("state");
    create_dir(&state)?;
    let options = LogOptions {
        segment_bytes: bus.segment.bytes(),
        dedup_window_ms: bus.dedup.ms(),
        dedup_max: usize::try_from(bus.dedup_max).unwrap_or(usize::MAX),
        index_files_max,
        check_rest: CheckRest::WhenTold,
        clock_gap: if config.accept_clock { ClockGap::Accept } else { ClockGap::Refuse },
        watermark_ingest_bytes: bus.keep_free.bytes(),
        watermark_effects_bytes: bus.keep_free.bytes() / EFFECTS_SHARE_OF_FREE,
        ..LogOptions::default()
    };
    let load = |log_id, last_commit| {
        let mut loaded = load(bus, disk, &dir, log_id, last_commit)?;
        // There is something to fold, which may need the keys: the start has nothing better to do.
        if loaded.at < last_commit {
            loaded.keys.fill(name, failed)?;
        }
        Ok::<_, ServeError>(loaded)
    };
    let (opened, loaded) = open_log(disk, &dir, options, clock, load)?;
    let mut loaded = loaded?;
    while let Some(diverged) = loaded.diverged(&opened.log) {
        loaded.keys.give_up(&loaded.values);
        loaded.checkpoints.set_aside_diverged(diverged)?;
        loaded = load(opened.log_id, opened.last_commit)?;
    }
    let Loaded { checkpoints, ledger, values, at: checkpoint_at, took, keys, .. } = loaded;
    if let Some(cut) = &opened.cut {
        tracing::warn!(
            bus = name, file = %cut.path.display(), offset = cut.offset, bytes = cut.bytes,
            kept = %cut.kept.display(), "a torn tail was cut off and kept aside"
        );
    }
    let fold = (ledger, values, checkpoint_at);
    let bus = Bus::durable(name, opened.log.clone(), fold, &state).map_err(at(&state))?;
    let checkpoint_took = took;
    let durable = OpenDurable { opened, checkpoints, checkpoint_took, checkpoint_at, keys };
    Ok(OpenBus { bus: Arc::new(bus), durable: Some(durable) })
}

/// The state of a bus as its newest checkpoint has it.
struct Loaded {
    checkpoints: Checkpoints,
    ledger: Ledger,
    values: Arc<Values>,
    /// The commit that it stands for.
    at: CommitNumber,
    /// What the log is to have behind that.
    chain: ChainStart,
    /// How long it took to prove that it is whole.
    took: Duration,
    keys: Keys,
}

impl Loaded {
    /// The commit of a checkpoint that was made of another history of the log: one of the two is a copy that
    /// went on from the same beginning.
    fn diverged(&self, log: &Log) -> Option<CommitNumber> {
        if self.at == CommitNumber(0) {
            return None;
        }
        match log.chain_behind(self.at) {
            Ok(chain) => (!self.chain.fits(&chain)).then_some(self.at),
            // What cannot be read there is told by who checks the log.
            Err(error) => {
                tracing::warn!(commit = %self.at, %error, "a checkpoint is not compared with its log");
                None
            }
        }
    }
}

/// Finds the newest checkpoint of a log; its lock is to be held.
fn load(
    bus: &config::DurableBus,
    disk: &Arc<dyn Disk>,
    dir: &Path,
    log_id: Uuid,
    last_commit: CommitNumber,
) -> Result<Loaded, ServeError> {
    let began = Instant::now();
    let cold = Cold::create(&dir.join("state").join("sled"))?;
    let values = Arc::new(Values::new(Some(cold), STATE_HOT_BYTES_MAX));
    let checkpoints = dir.join(crate::state::checkpoint::DIR);
    let checkpoints = Checkpoints::open(Arc::clone(disk), &checkpoints, log_id)
        .map_err(at(&checkpoints))?
        .with_policy(CheckpointPolicy {
            every_bytes: bus.checkpoint_every.bytes(),
            ..CheckpointPolicy::default()
        });
    let (ledger, at, chain, keys) = match checkpoints.find(&values, last_commit)? {
        Some((ledger, at, fill)) => (ledger, at.commit, fill.chain(), Keys::Later(fill)),
        None => (Ledger::default(), CommitNumber(0), ChainStart::default(), Keys::Coming(None)),
    };
    Ok(Loaded { checkpoints, ledger, values, at, chain, took: began.elapsed(), keys })
}

/// Opens a log; one that is locked is tried again for a moment: whoever restarts a host that was
/// killed should not have to wait until the system has taken the old process apart.
fn open_log<T: Send>(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    options: LogOptions,
    clock: &Arc<dyn Clock>,
    beside: impl Fn(Uuid, CommitNumber) -> T + Sync,
) -> Result<(Opened, T), OpenError> {
    let begun = Instant::now();
    loop {
        let disk = Arc::clone(disk);
        match Log::open_beside(disk, dir, options, Arc::clone(clock), &beside) {
            Err(OpenError::Lock(LockError::Held { .. })) if begun.elapsed() < LOCK_WAIT_MAX => {
                std::thread::sleep(LOCK_POLL);
            }
            opened => return opened,
        }
    }
}

fn memory_options(options: &config::MemoryBus) -> MemoryOptions {
    MemoryOptions {
        capacity: usize::try_from(options.capacity).unwrap_or(usize::MAX),
        overflow: match options.overflow {
            config::Overflow::Reject => Overflow::Reject,
            config::Overflow::DropOldest => Overflow::DropOldest,
        },
        order: match options.order {
            config::Order::Key => Order::Key,
            config::Order::None => Order::None,
        },
    }
}

/// Starts what keeps the state of durable buses, and waits until it has caught up with their logs.
/// That is never where a fold fails: `failed` tells.
///
/// # Errors
/// The system gives no thread.
pub(super) async fn start_folds(
    open: Vec<OpenBus>,
    failed: &Sender<ServeError>,
) -> Result<(Vec<JoinHandle<()>>, Vec<Evictor>), ServeError> {
    let (mut threads, mut evictors) = (Vec::new(), Vec::new());
    for OpenBus { bus, durable } in open {
        let Some(durable) = durable else { continue };
        let evictor = Evictor::start(Arc::clone(bus.values()), bus.name());
        evictors.push(evictor.map_err(at(Path::new("threads")))?);
        let OpenDurable { opened, checkpoints, checkpoint_took, checkpoint_at, mut keys } = durable;
        keys.fill(bus.name(), failed)?;
        threads.extend(keys.thread());
        let began = Instant::now();
        threads.push(fold(&bus, &opened.log, checkpoints, failed).await?);
        let times = opened.times;
        tracing::info!(
            bus = %bus.name(),
            stopped_in_order = opened.clean,
            events = opened.last_position.0,
            recover_ms = ms(times.recover),
            begin_ms = ms(times.begin),
            index_ms = ms(times.index),
            heads_ms = ms(times.heads),
            checkpoint_ms = ms(checkpoint_took),
            folded_commits = opened.last_commit.0.saturating_sub(checkpoint_at.0),
            fold_ms = ms(began.elapsed()),
            "opened"
        );
    }
    Ok((threads, evictors))
}

impl Keys {
    /// Has them read, where they are not yet.
    fn fill(&mut self, bus: &str, failed: &Sender<ServeError>) -> Result<(), ServeError> {
        *self = match std::mem::replace(self, Self::Coming(None)) {
            Self::Later(fill) => Self::Coming(Some(fill_behind(fill, bus, failed)?)),
            coming @ Self::Coming(_) => coming,
        };
        Ok(())
    }

    /// Has nobody read them any more.
    fn give_up(self, values: &Values) {
        values.stop_filling();
        if let Some(thread) = self.thread() {
            // What it had to say, it has told.
            let _ = thread.join();
        }
    }

    /// Who reads them.
    fn thread(self) -> Option<JoinHandle<()>> {
        match self {
            Self::Coming(thread) => thread,
            Self::Later(_) => None,
        }
    }
}

/// Starts the thread that brings keyed state back from a checkpoint while the start goes on.
fn fill_behind(
    fill: Fill,
    bus: &str,
    failed: &Sender<ServeError>,
) -> Result<JoinHandle<()>, ServeError> {
    let guard = StateGuard { bus: bus.to_owned(), failed: failed.clone() };
    let thread = std::thread::Builder::new().name(format!("fill-{bus}"));
    let thread = thread.spawn(move || match fill.run() {
        Ok(filled) => {
            tracing::info!(bus = guard.bus, keys = filled.keys, ms = ms(filled.took), "state read");
        }
        Err(FillError::Stopped) => {}
        Err(error @ FillError::Unreadable { .. }) => guard.tell(&error),
    });
    thread.map_err(at(Path::new("threads")))
}

/// What a thread that brings or keeps the state of a bus tells of its end, and of its panic: nobody else
/// does, and others wait for it.
struct StateGuard {
    bus: String,
    failed: Sender<ServeError>,
}

impl StateGuard {
    fn tell(&self, why: &impl ToString) {
        let (bus, why) = (self.bus.clone(), why.to_string());
        // Full: another failure is being dealt with already.
        let _ = self.failed.try_send(ServeError::StateFailed { bus, why });
    }
}

impl Drop for StateGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell(&"the thread that keeps its state panicked");
        }
    }
}

/// Starts the thread that folds a durable bus, and waits until it has caught up with the log.
async fn fold(
    bus: &Arc<Bus>,
    log: &Log,
    checkpoints: Checkpoints,
    failed: &Sender<ServeError>,
) -> Result<JoinHandle<()>, ServeError> {
    let durable = log.durable();
    let runtime = tokio::runtime::Handle::current();
    let name = format!("fold-{}", bus.name());
    let guard = StateGuard { bus: bus.name().to_string(), failed: failed.clone() };
    let folded = Arc::clone(bus);
    let thread = move || {
        if let Err(error) = folded.apply_durable(&runtime, &checkpoints) {
            guard.tell(&error);
        }
    };
    let thread = std::thread::Builder::new().name(name).spawn(thread);
    let thread = thread.map_err(at(Path::new("thread")))?;
    let (watched, failure) = (bus.name().to_string(), failed.clone());
    let log_failed = log.failed();
    tokio::spawn(async move {
        let why = log_failed.await.to_string();
        let _ = failure.try_send(ServeError::LogFailed { bus: watched, why });
    });
    bus.until_applied(durable).await;
    Ok(thread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_of_what_keeps_the_state_is_told() {
        let (failed, mut failures) = tokio::sync::mpsc::channel(1);
        let guard = StateGuard { bus: "main".to_owned(), failed };
        let thread = std::thread::spawn(move || {
            let _guard = guard;
            panic!("a defect");
        });
        assert!(thread.join().is_err());
        let failure = failures.recv().await.unwrap().to_string();
        assert!(failure.starts_with("bus `main`: the thread"), "{failure}");
    }
}
