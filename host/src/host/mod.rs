//! The host as its API sees it: buses and plugins behind one face.
//!
//! Nothing here decides: it finds the bus or plugin that is meant, asks it, and shows the answer.

mod answers;
pub(crate) mod commands;
mod events;
mod keys;
mod modules;
pub mod plugins;
pub(crate) mod queries;
mod state;
mod timers;
mod views;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::api::host::{Appended, HostError, Publish, PublishError};
use crate::api::view::{BusView, ClockView, PluginsView, StatusView, Timestamp, TypeView};
use crate::bus::Bus;
use crate::bus::clocks::FollowError;
use crate::event::Key;
use crate::log::AppendError;
use crate::metrics::{BusMetrics, Metrics};
use crate::state::{Instance, Owner};

use self::plugins::Plugins;

pub use self::modules::ModuleStore;

/// How often readiness is looked at by who waits for it.
const READY_POLL: std::time::Duration = std::time::Duration::from_millis(20);

/// What is the same as long as the host runs.
#[derive(Debug)]
pub struct About {
    /// Version of the host.
    pub version: &'static str,
    /// The data folder, absolute.
    pub data: PathBuf,
    /// The plugins folder, absolute.
    pub plugins: PathBuf,
    /// Wall time of the start, milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// Epoch of the default bus: how often a host has started on it.
    pub epoch: u32,
}

/// See the module.
pub struct Host {
    about: About,
    /// The default bus first.
    buses: Vec<(Arc<Bus>, BusMetrics)>,
    plugins: Arc<Plugins>,
    metrics: Arc<Metrics>,
    draining: AtomicBool,
}

impl Host {
    /// Puts the parts together. `buses`: the default one first.
    #[must_use]
    pub fn new(
        about: About,
        buses: &[Arc<Bus>],
        plugins: Arc<Plugins>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let counted = |bus: &Arc<Bus>| {
            let counters = metrics.bus(bus.name());
            if let Some(log) = bus.log() {
                // The log takes its course where a publisher goes away, and so does this.
                let counters = counters.clone();
                log.on_ingested(move |took| counters.published(took));
            }
            (Arc::clone(bus), counters)
        };
        let buses = buses.iter().map(counted).collect();
        Self { about, buses, plugins, metrics, draining: AtomicBool::new(false) }
    }

    /// What is the same as long as the host runs.
    #[must_use]
    pub fn about(&self) -> &About {
        &self.about
    }

    /// What tells positions of one bus from those it gave before. A memory bus gives the same ones again in
    /// each start, and counts no starts.
    fn epoch_of(&self, bus: &Bus) -> u32 {
        if bus.log().is_some() { self.about.epoch } else { self.epoch_of_start() }
    }

    /// What tells this start of the host from others: its time. Never 0.
    fn epoch_of_start(&self) -> u32 {
        let low_bits = self.about.started_ms % u64::from(u32::MAX);
        u32::try_from(low_bits).unwrap_or_default().saturating_add(1)
    }

    /// Every plugin, ascending by name.
    #[must_use]
    pub fn plugins_now(&self) -> PluginsView {
        self.plugins.view()
    }

    /// Waits until every plugin found at start is live or refused, and says how many there are.
    pub async fn readied(&self) -> usize {
        while !self.plugins.readiness().waiting_for.is_empty() {
            tokio::time::sleep(READY_POLL).await;
        }
        self.plugins.view().plugins.len()
    }

    /// From now on nothing is taken in any more.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    fn bus(&self, name: Option<&str>) -> Result<&(Arc<Bus>, BusMetrics), HostError> {
        match name {
            None => self.buses.first(),
            Some(name) => self.buses.iter().find(|(bus, _)| **bus.name() == *name),
        }
        .ok_or_else(|| HostError::NotFound(format!("bus `{}`", name.unwrap_or_default())))
    }

    /// The bus that has registered this plugin, and what its ledger says of it; of several, where it runs.
    fn registered<T>(
        &self,
        name: &str,
        look: impl FnOnce(&Arc<Bus>, &Instance) -> T,
    ) -> Result<T, HostError> {
        let (bus, id) = self.plugins.identified(name)?;
        let found = bus.ledger().instance(id).map(|instance| look(&bus, instance));
        found.ok_or_else(|| HostError::NotFound(format!("plugin `{name}`")))
    }

    fn owner(&self, plugin: &str, key: &Key) -> Result<(Arc<Bus>, Owner), HostError> {
        self.registered(plugin, |bus, instance| {
            let owner =
                Owner { instance: instance.id, generation: instance.serving(), key: key.clone() };
            (Arc::clone(bus), owner)
        })
    }

    async fn publish_on(
        &self,
        bus: Option<&str>,
        batch: Vec<Publish>,
    ) -> Result<Vec<Appended>, PublishError> {
        let (bus, metrics) =
            self.bus(bus).map_err(|_| PublishError::NoBus(bus.unwrap_or_default().to_owned()))?;
        if self.is_draining() {
            return Err(PublishError::ShuttingDown);
        }
        let begun = Instant::now();
        let appended = bus.publish(batch).await.map_err(publish_error)?;
        if bus.log().is_none() {
            // Nothing was waited for: its publisher is still there.
            metrics.published(begun.elapsed());
        }
        Ok(appended)
    }

    fn status_now(&self) -> StatusView {
        let PluginsView { mut plugins, skipped } = self.plugins.view();
        for plugin in &mut plugins {
            plugin.history.clear();
        }
        let waiting_for = self.plugins.readiness().waiting_for;
        StatusView {
            version: self.about.version.to_owned(),
            ready: waiting_for.is_empty(),
            waiting_for,
            draining: self.is_draining(),
            started: Timestamp(self.about.started_ms),
            data: self.about.data.display().to_string(),
            plugins_folder: self.about.plugins.display().to_string(),
            buses: self.bus_views(),
            plugins,
            skipped,
        }
    }

    fn bus_views(&self) -> Vec<BusView> {
        let draining = self.is_draining();
        self.buses
            .iter()
            .enumerate()
            .map(|(index, (bus, _))| {
                views::bus(bus, index == 0, draining, self.plugins.names_on(bus.name()))
            })
            .collect()
    }

    async fn follow_clock_of(&self, bus: &str, actor: &str) -> Result<ClockView, HostError> {
        let bus = &self.bus(Some(bus))?.0;
        let step = bus.follow_clock(actor).await.map_err(follow_error)?;
        Ok(ClockView {
            bus: bus.name().to_string(),
            before: Timestamp(step.before_ms),
            after: Timestamp(step.after_ms),
        })
    }

    fn types_of(&self, bus: &Bus, only: Option<&str>) -> Vec<TypeView> {
        let mut types = views::types(bus, only);
        self.plugins.add_subscribers(bus.name(), only, &mut types);
        types.into_values().collect()
    }
}

fn follow_error(error: FollowError) -> HostError {
    match error {
        FollowError::NoLog { .. } | FollowError::Behind { .. } => {
            HostError::Conflict(error.to_string())
        }
        FollowError::Append(error) => error.into(),
    }
}

impl From<AppendError> for HostError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::ShuttingDown => Self::ShuttingDown,
            AppendError::StorageFull { .. } => Self::StorageFull,
            other => Self::ReadOnly(other.to_string()),
        }
    }
}

fn publish_error(error: AppendError) -> PublishError {
    match error {
        AppendError::IdConflict { index, position } => PublishError::IdConflict { index, position },
        AppendError::SequenceConflict { index, expected, actual } => {
            PublishError::SequenceConflict { index, expected, actual }
        }
        AppendError::QueueFull { .. } => PublishError::QueueFull,
        AppendError::TooMany { limit, actual } => {
            PublishError::TooMany { limit: limit as u64, actual: actual as u64 }
        }
        AppendError::StorageFull { .. } => PublishError::StorageFull,
        AppendError::ShuttingDown => PublishError::ShuttingDown,
        AppendError::ReadOnly(why) => PublishError::ReadOnly(why.to_string()),
        AppendError::Encode(why) => PublishError::Internal(why.to_string()),
        AppendError::Read(why) => PublishError::Internal(why),
    }
}
