//! The plugins of a host: what stands in the folder, what the logs know, and the runners that put
//! the two together.
//!
//! Each plugin has a turn of its own: what changes it (a new module, a pause, a rollback) happens
//! one after the other, while other plugins go on.

mod before;
mod diff;
mod grants;
mod install;
mod keys;
mod operate;
mod refusal;
mod requests;
mod rewind;
mod shadow;
mod upcast;
mod view;
mod waits;

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::host::{HostError, Readiness};
use crate::api::view::{PluginState, ReloadResult, ReloadView, SkippedView, Timestamp};
use crate::bus::Bus;
use crate::bus::notes::{Notes, PluginLog};
use crate::bus::runner::{Runner, WantedPause};
use crate::clock::Clock;
use crate::config::Config;
use crate::event::InstanceId;
use crate::limits::REPLAYS_MAX;
use crate::metrics::Metrics;
use crate::plugin::{Change, Source, Watcher};
use crate::schedule::pool::GuestPool;
use crate::wasm::{Module, Sandbox};

use super::ModuleStore;
use super::queries::Queries;

/// Modules of one plugin's history that are shown.
const HISTORY_KEPT: usize = 32;
/// Pauses that wait to be recorded.
const PAUSES_MAX: usize = 256;

/// What plugins are run with.
pub struct Means {
    /// Every bus, the default one first.
    pub buses: Vec<Arc<Bus>>,
    /// Compiles and checks modules.
    pub sandbox: Arc<Sandbox>,
    /// Runs guests.
    pub pool: Arc<GuestPool>,
    /// Keeps modules.
    pub modules: Arc<ModuleStore>,
    /// The operator's word.
    pub config: Arc<Config>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Where deliveries are noted.
    pub notes: Notes,
    /// Wall time of what happens outside a log.
    pub clock: Arc<dyn Clock>,
    /// Deliveries of one plugin at the same time, where its manifest says nothing.
    pub workers: usize,
}

/// See the module.
pub struct Plugins {
    means: Means,
    entries: Mutex<BTreeMap<String, Entry>>,
    skipped: Mutex<BTreeMap<String, SkippedView>>,
    /// Whether the whole folder was seen, or never will be.
    scanned: watch::Sender<bool>,
    ready: AtomicBool,
    /// Held while an instance id is allocated and recorded.
    registering: tokio::sync::Mutex<()>,
    /// Held while a module that lifts events is checked against others and put to work.
    upcasting: tokio::sync::Mutex<()>,
    /// See [`upcast::Before`].
    upcasters_first: Arc<watch::Sender<usize>>,
    /// Until the folder was seen.
    unscanned: Mutex<Option<upcast::Before>>,
    pauses: mpsc::Sender<WantedPause>,
    /// Places for replays of past deliveries.
    replays: Arc<Semaphore>,
    replays_begun: AtomicU64,
    tasks: TaskTracker,
    closing: AtomicBool,
}

/// One plugin.
struct Entry {
    state: PluginState,
    /// Why it is in this state, where there is something to say.
    reason: Option<String>,
    /// What stands in the folder.
    source: Option<Arc<Source>>,
    /// What stands in the folder, where that cannot even be read.
    broken: Option<PathBuf>,
    /// It served before the host began, and nothing has taken its place yet.
    served_before: bool,
    /// Counts changes of `source`: a load that is no longer the newest is not installed.
    change: u64,
    /// Somebody said that it is a new plugin, whatever it looks like.
    taken_as_new: bool,
    /// What stands in the folder was refused, as somebody else lifts what it would.
    is_lifted_by_other: bool,
    runner: Option<Arc<Runner>>,
    /// The one that was stopped for a rewind: queries read its state until the next one is there.
    left: Option<Arc<Runner>>,
    /// The version that did well beside the one that serves.
    passed: Option<shadow::Passed>,
    module: Option<Arc<Module>>,
    history: VecDeque<ReloadView>,
    last_error: Option<(u64, String)>,
    log: Arc<PluginLog>,
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Made with the first query.
    queries: Option<Arc<Queries>>,
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            state: PluginState::Compiling,
            reason: None,
            source: None,
            broken: None,
            served_before: false,
            change: 0,
            taken_as_new: false,
            is_lifted_by_other: false,
            runner: None,
            left: None,
            passed: None,
            module: None,
            history: VecDeque::new(),
            last_error: None,
            log: Arc::default(),
            turn: Arc::default(),
            queries: None,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is under these locks is replaced as a whole: a panic leaves nothing half-done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Plugins {
    /// No plugins yet, but those the logs know as removed until their file is found. Needs a tokio
    /// runtime.
    #[must_use]
    pub fn new(means: Means) -> Arc<Self> {
        let (pauses, wanted) = mpsc::channel(PAUSES_MAX);
        let upcasters_first = Arc::new(watch::channel(0).0);
        let plugins = Arc::new(Self {
            means,
            entries: Mutex::default(),
            skipped: Mutex::default(),
            scanned: watch::channel(false).0,
            ready: AtomicBool::new(false),
            registering: tokio::sync::Mutex::default(),
            upcasting: tokio::sync::Mutex::default(),
            unscanned: Mutex::new(Some(upcast::Before::new(&upcasters_first))),
            upcasters_first,
            pauses,
            replays: Arc::new(Semaphore::new(REPLAYS_MAX)),
            replays_begun: AtomicU64::new(0),
            tasks: TaskTracker::new(),
            closing: AtomicBool::new(false),
        });
        plugins.remember();
        plugins.tasks.spawn(Arc::clone(&plugins).record_pauses(wanted));
        plugins
    }

    /// An entry for every plugin that some log knows.
    fn remember(&self) {
        let mut entries = lock(&self.entries);
        for bus in &self.means.buses {
            Self::expect_upcasters(bus);
            for instance in bus.ledger().instances() {
                let entry = entries.entry(instance.name.clone()).or_default();
                // Whether its file is there shows when the folder was seen.
                entry.state = PluginState::Compiling;
                entry.reason = Some("the plugins folder is being read".to_owned());
                entry.served_before |= instance.active().is_some();
                entry.history = instance
                    .activations
                    .iter()
                    .rev()
                    .take(HISTORY_KEPT)
                    .map(|activation| ReloadView {
                        digest: activation.module.to_string(),
                        at: Timestamp(activation.at_ms),
                        result: ReloadResult::Ok,
                        error: None,
                        shadow: None,
                    })
                    .collect();
            }
        }
    }

    /// Takes changes of the plugins folder until `stop`.
    pub async fn follow(self: Arc<Self>, mut watcher: Watcher, stop: CancellationToken) {
        // A renamed file is recognised by what is *not* there any more: new names wait until the
        // whole folder was seen.
        let mut unseen = Vec::new();
        loop {
            let change = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                change = watcher.next() => change,
            };
            let Some(change) = change else { return };
            match change {
                Change::Present(source) if self.is_unheard_of(&source.name) => unseen.push(source),
                Change::Present(source) => self.present(*source),
                Change::Broken { name, path, why } => self.broken(name, path, why),
                Change::Removed { name } => self.removed(&name),
                Change::SecondSource { name, path, holder } => {
                    let holder = holder.display();
                    self.skip(&path, format!("`{name}` is the plugin in `{holder}` already"));
                }
                Change::Skipped { path, why } => self.skip(&path, why),
                Change::Cleared { path } => {
                    lock(&self.skipped).remove(&path.display().to_string());
                }
                Change::ScanEnd => {
                    unseen.drain(..).for_each(|source| self.present(*source));
                    self.settle_absent();
                    self.scanned.send_replace(true);
                    self.settle_upcasters();
                    lock(&self.unscanned).take();
                }
            }
        }
    }

    /// Once the folder was seen: plugins of which nothing stands in it are gone.
    fn settle_absent(&self) {
        for entry in lock(&self.entries).values_mut().filter(|entry| entry.path().is_none()) {
            entry.state = PluginState::Removed;
            entry.reason = Some("its file is not in the plugins folder".to_owned());
        }
    }

    /// Waits until the folder was seen: before, nothing follows from a file that is not there.
    async fn after_scan(&self) -> Result<(), HostError> {
        // The sender lives as long as `self`.
        let _ = self.scanned.subscribe().wait_for(|scanned| *scanned).await;
        match self.closing.load(Ordering::SeqCst) {
            true => Err(HostError::ShuttingDown),
            false => Ok(()),
        }
    }

    /// Why something that takes a runner is not done where there is none. At a stop they end before requests do.
    fn not_running(&self, name: &str) -> HostError {
        match self.closing.load(Ordering::SeqCst) {
            true => HostError::ShuttingDown,
            false => HostError::Conflict(format!(
                "plugin `{name}` does not run: put its file back first"
            )),
        }
    }

    fn is_unheard_of(&self, name: &str) -> bool {
        !*self.scanned.borrow() && !lock(&self.entries).contains_key(name)
    }

    fn skip(&self, path: &Path, why: String) {
        let path = path.display().to_string();
        tracing::warn!(path, why, "skipped");
        lock(&self.skipped).insert(path.clone(), SkippedView { path, reason: why });
    }

    fn present(self: &Arc<Self>, source: Source) {
        let name = source.name.clone();
        let lifts = !source.manifest.upcast.is_empty();
        let before = lifts.then(|| upcast::Before::new(&self.upcasters_first));
        let change = {
            let mut entries = lock(&self.entries);
            let entry = entries.entry(name.clone()).or_default();
            if entry.runner.is_none() {
                entry.state = PluginState::Compiling;
                entry.reason = None;
            }
            entry.source = Some(Arc::new(source));
            entry.broken = None;
            entry.is_lifted_by_other = false;
            entry.change += 1;
            entry.change
        };
        let plugins = Arc::clone(self);
        self.tasks.spawn(async move {
            plugins.install_change(&name, change).await;
            drop(before);
        });
    }

    fn removed(self: &Arc<Self>, name: &str) {
        let change = {
            let mut entries = lock(&self.entries);
            let Some(entry) = entries.get_mut(name) else { return };
            entry.source = None;
            entry.broken = None;
            entry.change += 1;
            entry.change
        };
        let (plugins, name) = (Arc::clone(self), name.to_owned());
        self.tasks.spawn(async move { plugins.take_away(&name, change).await });
    }

    async fn take_away(self: &Arc<Self>, name: &str, change: u64) {
        let Some(turn) = self.turn(name) else { return };
        {
            let _turn = turn.lock().await;
            {
                let mut entries = lock(&self.entries);
                let newest = entries.get_mut(name).filter(|entry| entry.change == change);
                let Some(entry) = newest else { return };
                entry.state = PluginState::Removed;
                entry.reason = Some("its file was removed; its state is kept".to_owned());
                entry.taken_as_new = false;
                entry.served_before = false;
            }
            if let Some((bus, instance)) = self.registered(name) {
                bus.upcasters().leave(instance);
            }
            if self.stop_runner(name).await {
                tracing::info!(plugin = name, "removed; its state is kept");
            }
            if self.registered(name).is_none() {
                // The log never heard of it: nothing is left to show, unless a file came meanwhile.
                let mut entries = lock(&self.entries);
                if entries.get(name).is_some_and(|entry| entry.change == change) {
                    entries.remove(name);
                }
            }
        }
        self.release_waiting();
    }

    fn turn(&self, name: &str) -> Option<Arc<tokio::sync::Mutex<()>>> {
        lock(&self.entries).get(name).map(|entry| Arc::clone(&entry.turn))
    }

    /// The bus that has registered a name, with the identity there; of several, where it runs or ran last.
    pub(super) fn registered(&self, name: &str) -> Option<(Arc<Bus>, InstanceId)> {
        self.binding(name, lock(&self.entries).get(name))
    }

    /// What `/readyz` says: never waits, and never goes back to waiting.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        if self.ready.load(Ordering::SeqCst) {
            return Readiness::default();
        }
        if !*self.scanned.borrow() {
            return Readiness { waiting_for: vec!["the plugins folder to be read".to_owned()] };
        }
        let waiting_for: Vec<String> = lock(&self.entries)
            .iter()
            .filter(|(_, entry)| entry.state == PluginState::Compiling)
            .map(|(name, _)| format!("plugin `{name}` to be compiled"))
            .collect();
        if waiting_for.is_empty() {
            self.ready.store(true, Ordering::SeqCst);
        }
        Readiness { waiting_for }
    }

    /// The log of a plugin. One that a start has not come to yet is waited for.
    ///
    /// # Errors
    /// There is no such plugin, or the host stops.
    pub async fn log_of(&self, name: &str) -> Result<Arc<PluginLog>, HostError> {
        if self.is_unheard_of(name) {
            self.after_scan().await?;
        }
        lock(&self.entries)
            .get(name)
            .map(|entry| Arc::clone(&entry.log))
            .ok_or_else(|| HostError::NotFound(format!("plugin `{name}`")))
    }

    /// Where every delivery is noted.
    #[must_use]
    pub fn notes(&self) -> &Notes {
        &self.means.notes
    }

    /// Stops every runner: deliveries in progress end, nothing new begins.
    pub async fn stop(&self) {
        self.closing.store(true, Ordering::SeqCst);
        self.scanned.send_replace(true);
        let runners: Vec<_> =
            lock(&self.entries).values_mut().filter_map(|entry| entry.runner.take()).collect();
        futures_util::future::join_all(runners.iter().map(|runner| runner.stop())).await;
    }
}

impl Entry {
    /// Why it does not run, where it does not.
    fn why(&self) -> Option<&str> {
        let compiles = self.state == PluginState::Compiling;
        self.reason.as_deref().or_else(|| compiles.then_some("it is being compiled"))
    }

    fn remember(&mut self, reload: ReloadView) {
        self.history.push_front(reload);
        self.history.truncate(HISTORY_KEPT);
    }
}
