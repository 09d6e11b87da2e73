//! One plugin at work on one bus: a feeder that reads, workers that deliver, a drain that catches
//! up keys which waited.
//!
//! Which delivery is next is the scheduler's decision, what happens after a failure the retry
//! policy's; this file performs them.

mod breaker;
mod command;
mod expire;
mod feed;
mod fires;
mod keys;
mod prepare;
mod rebuild;
mod restore;
mod seen;
mod shadow;
mod work;
mod worker;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::breaker::Broken;
use self::breaker::Guard;
pub use self::expire::ActUnderWay;
use self::expire::Acts;
pub use self::keys::{Deferred, Letter};
use self::restore::Before;
pub use self::seen::Snapshot;
use self::shadow::Shadow;
pub use self::shadow::{Tally, Trial};
use super::Bus;
use super::deliver::Deliverer;
use super::notes::{Line, Notes, PluginLog};
use super::progress::Progress;
use super::subscribed;
pub use super::subscribed::Subscriptions;
use crate::event::{Digest, Event, Generation, InstanceId, Position};
use crate::log::AppendError;
use crate::metrics::PluginMetrics;
use crate::plugin::Subscription;
use crate::plugin::manifest::Manifest;
use crate::schedule::core::{Cursor, Quota, Quotas};
use crate::schedule::driver::PluginQueue;
use crate::schedule::pool::Tenant;
use crate::schedule::retry::RetryPolicy;
use crate::state::StateQuota;
use crate::wasm::{GuestLimits, Invoker, Outside};

/// A module with its manifest: what one delivery attempt is pinned to.
#[derive(Clone)]
pub struct Version {
    /// The module.
    pub invoker: Arc<dyn Invoker>,
    /// Its digest.
    pub digest: Digest,
    /// The manifest, resolved against the operator's configuration; it subscribes to nothing where
    /// the module could not handle an event.
    pub manifest: Arc<Manifest>,
    /// What each delivery may use.
    pub limits: Arc<GuestLimits>,
    /// Who sends what it asks outside and waits for; none: it may not, or cannot.
    pub outside: Option<Arc<dyn Outside>>,
    /// How much state it may keep.
    pub state: StateQuota,
    /// `[config]` of the manifest.
    pub config: Arc<BTreeMap<String, String>>,
    /// What happens after a failure.
    pub retry: RetryPolicy,
    /// Who commits.
    pub deliverer: Deliverer,
}

/// A runner stands still, and wants that to be recorded.
#[derive(Debug)]
pub struct WantedPause {
    /// The plugin.
    pub plugin: Arc<str>,
    /// Its bus. Others count their instances as well.
    pub bus: Arc<str>,
    /// Its identity there.
    pub instance: InstanceId,
    /// Why, for people.
    pub reason: String,
}

/// What a runner is made of.
pub struct Parts {
    /// The bus.
    pub bus: Arc<Bus>,
    /// The plugin's name.
    pub name: Arc<str>,
    /// Its identity.
    pub instance: InstanceId,
    /// Its generation.
    pub generation: Generation,
    /// Subscriptions, oldest first; at least one.
    pub subscriptions: Subscriptions,
    /// What serves.
    pub version: Arc<Version>,
    /// Whether it starts paused.
    pub paused: bool,
    /// Where its CPU time is accounted.
    pub tenant: Tenant,
    /// Its log.
    pub log: Arc<PluginLog>,
    /// Where deliveries are noted.
    pub notes: Notes,
    /// Its counters.
    pub metrics: PluginMetrics,
    /// Told that a plugin must be paused, with the reason.
    pub pauses: mpsc::Sender<WantedPause>,
}

/// A plugin at work. Ends its tasks in [`Runner::stop`].
pub struct Runner {
    pub(super) bus: Arc<Bus>,
    pub(super) name: Arc<str>,
    pub(super) instance: InstanceId,
    pub(super) generation: Generation,
    /// The last position up to which somebody was told that all is completed.
    pub(super) shown: AtomicU64,
    pub(super) queue: PluginQueue<Arc<Event>>,
    pub(super) version: ArcSwap<Version>,
    /// What runs beside it, to be compared.
    shadow: ArcSwapOption<Shadow>,
    pub(super) subscriptions: ArcSwap<Subscriptions>,
    before: Before,
    guard: Guard,
    acts: Acts,
    pub(super) progress: Arc<Progress>,
    rebuilt: rebuild::Rebuilt,
    pub(super) log: Arc<PluginLog>,
    pub(super) notes: Notes,
    pub(super) metrics: PluginMetrics,
    pub(super) pauses: mpsc::Sender<WantedPause>,
    pub(super) stop: CancellationToken,
    swaps: mpsc::Sender<Swap>,
    tasks: TaskTracker,
    deliveries: [AtomicU64; 9],
    last_failure: Mutex<Option<(u64, String)>>,
}

/// What an activation does to the module that a rollback has pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    /// It stays, unless another module is activated.
    Stays,
    /// It ends: the file has changed since the rollback.
    Ends,
}

/// A new version on its way in.
pub(super) struct Swap {
    pub(super) version: Arc<Version>,
    pub(super) subscription: Arc<Subscription>,
    pub(super) actor: Arc<str>,
    pub(super) pin: Pin,
    pub(super) done: oneshot::Sender<Result<(), AppendError>>,
}

impl Runner {
    /// Starts feeder, drain and workers.
    #[must_use]
    pub fn start(parts: Parts, workers: usize) -> Arc<Self> {
        let (swaps, incoming) = mpsc::channel(1);
        let past = restore::look_back(&parts.bus, parts.instance);
        let seen = past.seen;
        let clock = Arc::clone(&parts.bus);
        let queue =
            PluginQueue::new(bounds(&parts.version.manifest), Arc::new(move || clock.now_ms()));
        if parts.paused {
            queue.pause();
        }
        let quotas = quotas(&parts.version.manifest);
        let now_ms = parts.bus.now_ms();
        let before = queue.with(|core| {
            core.set_quotas(&quotas, now_ms);
            past.restore(core)
        });
        let runner = Arc::new(Self {
            progress: parts.bus.progress(parts.instance),
            rebuilt: rebuild::Rebuilt::of(&parts.bus, parts.instance),
            bus: parts.bus,
            name: parts.name,
            instance: parts.instance,
            generation: parts.generation,
            shown: AtomicU64::new(0),
            queue,
            guard: Guard::new(&parts.version),
            acts: Acts::default(),
            version: ArcSwap::new(parts.version),
            shadow: ArcSwapOption::empty(),
            subscriptions: ArcSwap::from_pointee(parts.subscriptions),
            before,
            log: parts.log,
            notes: parts.notes,
            metrics: parts.metrics,
            pauses: parts.pauses,
            stop: CancellationToken::new(),
            swaps,
            tasks: TaskTracker::new(),
            deliveries: Default::default(),
            last_failure: Mutex::default(),
        });
        runner.tasks.spawn(Arc::clone(&runner).feed(seen, incoming));
        runner.tasks.spawn(Arc::clone(&runner).drain());
        runner.tasks.spawn(Arc::clone(&runner).probe(runner.bus.clock_steps()));
        for _ in 0..workers {
            let worker = runner.tasks.track_future(Arc::clone(&runner).work());
            drop(parts.tenant.spawn(worker));
        }
        runner.bus.outlets().attach(&runner);
        if let Some(ring) = runner.bus.ring() {
            let consumer = Arc::downgrade(&runner);
            let low = move || consumer.upgrade().map_or(Position(u64::MAX), |r| r.cursor().low);
            ring.add_consumer(runner.instance, Box::new(low));
        }
        runner
    }

    /// Puts a new version in place: later attempts run on it, and its subscription holds for the
    /// positions that were not read yet. Resolves once that stands in the log.
    ///
    /// # Errors
    /// The log failed or is closed, or the runner was stopped.
    pub async fn swap(
        &self,
        version: Arc<Version>,
        subscription: Arc<Subscription>,
        actor: Arc<str>,
        pin: Pin,
    ) -> Result<(), AppendError> {
        let (done, swapped) = oneshot::channel();
        let swap = Swap { version, subscription, actor, pin, done };
        if self.swaps.send(swap).await.is_err() {
            return Err(AppendError::ShuttingDown);
        }
        swapped.await.unwrap_or(Err(AppendError::ShuttingDown))
    }

    /// Stops reading and delivering. A delivery in progress goes on until its guest returns or
    /// `limits.timeout` passes, and is committed; this returns once its commit is durable.
    pub async fn stop(&self) {
        self.bus.outlets().detach(self.instance);
        self.stop.cancel();
        self.queue.close();
        self.tasks.close();
        self.tasks.wait().await;
        self.progress.conclude(self.queue.with(|core| core.settled()));
        self.until_folded().await;
        if let Some(ring) = self.bus.ring() {
            ring.remove_consumer(self.instance);
        }
    }

    /// Waits until the ledger knows of every delivery that ended here: who runs the plugin next looks
    /// back on it, and would deliver again what it does not know.
    async fn until_folded(&self) {
        let Some(log) = self.bus.log() else { return };
        let mut applied = self.bus.applied();
        let folded =
            async { while self.progress.outstanding() > 0 && applied.changed().await.is_ok() {} };
        tokio::select! {
            () = folded => {}
            _ = log.failed() => {}
        }
    }

    /// No more deliveries are begun until [`Runner::resume`].
    pub fn pause(&self) {
        self.queue.pause();
    }

    /// Deliveries go on, also where the breaker stopped them.
    pub fn resume(&self) {
        self.close_breaker();
        self.queue.resume();
        self.bus.outlets().wake();
    }

    /// Whether no deliveries are begun at present.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.queue.with(|core| core.is_paused())
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Its counters.
    #[must_use]
    pub fn metrics(&self) -> &PluginMetrics {
        &self.metrics
    }

    /// How far it has come, as far as that is durable.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.queue.cursor().within(self.bus.last_position())
    }

    /// Deliveries in progress: those that run, and those whose effects nobody can see yet because
    /// they are not durable and folded.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        let running = self.queue.cursor().in_flight as u64;
        // A memory bus folds at once, and may drop a completion where it is full.
        let ends = self.bus.log().map_or(0, |_| self.progress.outstanding());
        running.saturating_add(ends)
    }

    /// What serves.
    #[must_use]
    pub fn version(&self) -> Arc<Version> {
        self.version.load_full()
    }

    /// The bus it works on.
    #[must_use]
    pub fn bus(&self) -> &Arc<Bus> {
        &self.bus
    }

    /// Its identity.
    #[must_use]
    pub fn instance(&self) -> InstanceId {
        self.instance
    }

    /// Its generation.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Attempts since it was started, by code of their outcome.
    #[must_use]
    pub fn deliveries(&self) -> [u64; 9] {
        std::array::from_fn(|code| {
            self.deliveries.get(code).map_or(0, |count| count.load(Ordering::Relaxed))
        })
    }

    /// Log time and words of the last failed attempt.
    #[must_use]
    pub fn last_failure(&self) -> Option<(u64, String)> {
        self.last_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether an event is this plugin's, by the subscription in force at its position.
    pub(super) fn wants(&self, subscriptions: &Subscriptions, event: &Event) -> bool {
        subscribed::wants(subscriptions, self.instance, event)
    }

    /// A line in the plugin's log that the host, not the guest, has to say.
    pub(crate) fn say(&self, level: &str, message: String) {
        self.log.push(Line {
            at_ms: self.bus.now_ms(),
            level: level.to_owned(),
            message,
            position: None,
            key: None,
            attempt: None,
        });
    }

    pub(super) fn note_failure(&self, at_ms: u64, words: String) {
        *self.last_failure.lock().unwrap_or_else(PoisonError::into_inner) = Some((at_ms, words));
    }
}

fn count(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// What the manifest says of how much of it may go on.
pub(super) fn quotas(manifest: &Manifest) -> Quotas {
    let limits = &manifest.limits;
    let of = |rate, concurrency| Quota { rate, concurrency };
    let prefixes = limits.prefixes.iter();
    Quotas {
        fuel_per_second: limits.fuel_per_second,
        all: of(limits.rate, limits.concurrency),
        prefixes: prefixes
            .map(|limit| (limit.prefix.as_str().into(), of(limit.rate, limit.concurrency)))
            .collect(),
    }
}

/// What the manifest says of how much of it may be in memory, and wait.
pub(super) fn bounds(manifest: &Manifest) -> crate::schedule::core::Bounds {
    crate::schedule::core::Bounds {
        in_flight_count_max: count(manifest.run.in_flight),
        in_flight_bytes_max: crate::limits::IN_FLIGHT_BYTES_MAX,
        waiting_max: count(manifest.run.waiting_max),
    }
}
