//! The host as its API sees it: buses and plugins behind one face.
//!
//! Nothing here decides: it finds the bus or plugin that is meant, asks it, and shows the answer.

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

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::broadcast::error::RecvError;

use crate::api::filter::{EventFilter, Point};
use crate::api::host::{
    Answer, Answered, Appended, CommandRequest, Cursor, DeadLetter, DeadLetterFilter,
    DeadLetterSelection, DiffRequest, EventPage, EventStream, Follow, HostApi, HostError, Publish,
    PublishError, QueryRequest, Readiness, RequestError, StateEntry,
};
use crate::api::view::{
    ActedView, BusKind, BusView, DeadLetterView, DeliveryView, DiffView, KeyView, LogLineView,
    PluginView, PluginsView, StatusView, TimersView, Timestamp, TreeView, TypeView,
};
use crate::bus::Bus;
use crate::bus::operate::Act;
use crate::event::{Digest, Event, Key, Position};
use crate::log::AppendError;
use crate::metrics::{BusMetrics, Metrics};
use crate::plugin::Start;
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
                // The log takes its course where a publisher goes away, and so does the count.
                let counters = counters.clone();
                log.on_ingested(move |events, took| counters.appended(events, took));
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

    /// The bus that has registered this plugin, and what its ledger says of it.
    fn registered<T>(
        &self,
        name: &str,
        look: impl Fn(&Arc<Bus>, &Instance) -> T,
    ) -> Result<T, HostError> {
        self.buses
            .iter()
            .find_map(|(bus, _)| bus.ledger().named(name).map(|instance| look(bus, instance)))
            .ok_or_else(|| HostError::NotFound(format!("plugin `{name}`")))
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
            // Nothing was waited for, so it is counted wherever it was taken.
            metrics.appended(appended.len() as u64, begun.elapsed());
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

    fn types_of(&self, bus: &Bus, only: Option<&str>) -> Vec<TypeView> {
        let mut types = views::types(bus, only);
        self.plugins.add_subscribers(bus.name(), only, &mut types);
        types.into_values().collect()
    }
}

fn publish_error(error: AppendError) -> PublishError {
    match error {
        AppendError::IdConflict { index, position } => PublishError::IdConflict { index, position },
        AppendError::SequenceConflict { index, expected, actual } => {
            PublishError::SequenceConflict { index, expected, actual }
        }
        AppendError::QueueFull { .. } => PublishError::QueueFull,
        AppendError::StorageFull { .. } => PublishError::StorageFull,
        AppendError::ShuttingDown => PublishError::ShuttingDown,
        AppendError::ReadOnly(why) => PublishError::ReadOnly(why.to_string()),
        AppendError::Encode(why) => PublishError::Internal(why.to_string()),
        AppendError::Read(why) => PublishError::Internal(why),
    }
}

impl HostApi for Host {
    fn publish<'a>(
        &'a self,
        bus: Option<&'a str>,
        batch: Vec<Publish>,
    ) -> Answer<'a, Vec<Appended>, PublishError> {
        self.publish_on(bus, batch).boxed()
    }

    fn bus_kind(&self, bus: Option<&str>) -> Option<BusKind> {
        self.bus(bus).ok().map(|(bus, _)| views::bus_kind(bus))
    }

    fn event<'a>(
        &'a self,
        bus: Option<&'a str>,
        position: Position,
    ) -> Answer<'a, Option<Arc<Event>>> {
        async move { self.bus(bus)?.0.event(position).await.map_err(events::read_error) }.boxed()
    }

    fn events<'a>(
        &'a self,
        bus: Option<&'a str>,
        filter: &'a EventFilter,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Answer<'a, EventPage> {
        async move {
            let bus = &self.bus(bus)?.0;
            events::page(bus, self.about.epoch, filter, cursor, limit).await
        }
        .boxed()
    }

    fn tree<'a>(&'a self, bus: Option<&'a str>, position: Position) -> Answer<'a, TreeView> {
        async move { events::tree(&self.bus(bus)?.0, position).await }.boxed()
    }

    fn stream<'a>(
        &'a self,
        bus: Option<&'a str>,
        filter: EventFilter,
        cursor: Option<Cursor>,
    ) -> Answer<'a, EventStream> {
        async move {
            let bus = Arc::clone(&self.bus(bus)?.0);
            events::follow(bus, self.about.epoch, filter, cursor).await
        }
        .boxed()
    }

    fn types<'a>(
        &'a self,
        bus: Option<&'a str>,
        only: Option<&'a str>,
    ) -> Answer<'a, Vec<TypeView>> {
        async move { Ok(self.types_of(&self.bus(bus)?.0, only)) }.boxed()
    }

    fn buses(&self) -> Answer<'_, Vec<BusView>> {
        async { Ok(self.bus_views()) }.boxed()
    }

    fn plugins(&self) -> Answer<'_, PluginsView> {
        async { Ok(self.plugins.view()) }.boxed()
    }

    fn plugin<'a>(&'a self, name: &'a str) -> Answer<'a, PluginView> {
        async move { self.plugins.view_of(name) }.boxed()
    }

    fn pause<'a>(
        &'a self,
        name: &'a str,
        reason: &'a str,
        actor: &'a str,
    ) -> Answer<'a, PluginView> {
        async move {
            self.plugins.pause(name, reason, actor).await?;
            self.plugins.view_of(name)
        }
        .boxed()
    }

    fn resume<'a>(&'a self, name: &'a str, actor: &'a str) -> Answer<'a, PluginView> {
        async move {
            self.plugins.resume(name, actor).await?;
            self.plugins.view_of(name)
        }
        .boxed()
    }

    fn rollback<'a>(
        &'a self,
        name: &'a str,
        module: Option<Digest>,
        actor: &'a str,
    ) -> Answer<'a, PluginView> {
        async move {
            self.plugins.rollback(name, module, actor).await?;
            self.plugins.view_of(name)
        }
        .boxed()
    }

    fn rewind<'a>(&'a self, name: &'a str, to: Start, actor: &'a str) -> Answer<'a, PluginView> {
        async move {
            self.plugins.rewind(name, &to, actor).await?;
            self.plugins.view_of(name)
        }
        .boxed()
    }

    fn rename<'a>(
        &'a self,
        name: &'a str,
        new_name: &'a str,
        actor: &'a str,
    ) -> Answer<'a, PluginView> {
        async move {
            self.plugins.rename(name, new_name, actor).await?;
            self.plugins.view_of(new_name)
        }
        .boxed()
    }

    fn diff<'a>(
        &'a self,
        name: &'a str,
        request: DiffRequest,
    ) -> Answer<'a, BoxFuture<'static, DiffView>> {
        async move { Ok(self.plugins.diff(name, request).await?.boxed()) }.boxed()
    }

    fn forget<'a>(&'a self, name: &'a str, actor: &'a str) -> Answer<'a, ()> {
        async move {
            self.plugins.forget(name, actor).await?;
            self.metrics.forget(name);
            Ok(())
        }
        .boxed()
    }

    fn logs<'a>(
        &'a self,
        name: &'a str,
        recent: usize,
        follow: Follow,
    ) -> Answer<'a, BoxStream<'static, LogLineView>> {
        async move {
            let (kept, new) = self.plugins.log_of(name)?.follow(recent);
            let kept = stream::iter(kept).map(|line| views::log_line(&line));
            if follow == Follow::Kept {
                return Ok(kept.boxed());
            }
            let new = stream::unfold(new, |mut new| async {
                loop {
                    match new.recv().await {
                        Ok(line) => return Some((views::log_line(&line), new)),
                        Err(RecvError::Lagged(_)) => {}
                        Err(RecvError::Closed) => return None,
                    }
                }
            });
            Ok(kept.chain(new).boxed())
        }
        .boxed()
    }

    fn state_get<'a>(
        &'a self,
        plugin: &'a str,
        key: &'a Key,
        name: &'a str,
        at: Option<Point>,
    ) -> Answer<'a, Option<StateEntry>> {
        async move { Ok(self.state_entries(plugin, key, at, &|n: &str| n == name, 1).await?.pop()) }
            .boxed()
    }

    fn state_list<'a>(
        &'a self,
        plugin: &'a str,
        key: &'a Key,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
        at: Option<Point>,
    ) -> Answer<'a, Vec<StateEntry>> {
        let wanted =
            move |name: &str| name.starts_with(prefix) && after.is_none_or(|after| name > after);
        async move { self.state_entries(plugin, key, at, &wanted, limit).await }.boxed()
    }

    fn command<'a>(
        &'a self,
        plugin: &'a str,
        request: CommandRequest,
    ) -> Answer<'a, Answered, RequestError> {
        self.plugins.command(plugin, request).boxed()
    }

    fn query<'a>(
        &'a self,
        plugin: &'a str,
        query: QueryRequest,
    ) -> Answer<'a, Answered, RequestError> {
        self.plugins.query(plugin, query).boxed()
    }

    fn dead_letters<'a>(&'a self, filter: &'a DeadLetterFilter) -> Answer<'a, Vec<DeadLetterView>> {
        self.list_dead_letters(filter).boxed()
    }

    fn dead_letter_delivery<'a>(&'a self, id: &'a str) -> Answer<'a, Option<DeliveryView>> {
        self.read_delivery(id).boxed()
    }

    fn dead_letter<'a>(&'a self, id: &'a str) -> Answer<'a, Option<DeadLetter>> {
        self.read_dead_letter(id).boxed()
    }

    fn redrive<'a>(
        &'a self,
        which: &'a DeadLetterSelection,
        actor: &'a str,
    ) -> Answer<'a, ActedView> {
        async move { self.act(which, &Act::Redrive, actor).await }.boxed()
    }

    fn discard<'a>(
        &'a self,
        which: &'a DeadLetterSelection,
        reason: &'a str,
        actor: &'a str,
    ) -> Answer<'a, ActedView> {
        async move { self.act(which, &Act::Discard(reason.to_owned()), actor).await }.boxed()
    }

    fn timers<'a>(
        &'a self,
        plugin: &'a str,
        key: Option<&'a Key>,
        after: Option<&'a str>,
        limit: usize,
    ) -> Answer<'a, TimersView> {
        self.list_timers(plugin, key, after, limit).boxed()
    }

    fn key<'a>(&'a self, plugin: &'a str, key: &'a Key) -> Answer<'a, KeyView> {
        self.show_key(plugin, key).boxed()
    }

    fn hold<'a>(
        &'a self,
        plugin: &'a str,
        key: &'a Key,
        reason: &'a str,
        actor: &'a str,
    ) -> Answer<'a, KeyView> {
        async move {
            self.plugins.hold(plugin, key, reason, actor).await?;
            self.show_key(plugin, key).await
        }
        .boxed()
    }

    fn release<'a>(&'a self, plugin: &'a str, key: &'a Key, actor: &'a str) -> Answer<'a, KeyView> {
        async move {
            self.plugins.release(plugin, key, actor).await?;
            self.show_key(plugin, key).await
        }
        .boxed()
    }

    fn status(&self) -> Answer<'_, StatusView> {
        async { Ok(self.status_now()) }.boxed()
    }

    fn ready(&self) -> Readiness {
        self.plugins.readiness()
    }

    fn metrics(&self) -> String {
        let buses = self.buses.iter();
        let standing = crate::metrics::Standing {
            buses: buses.map(|(bus, _)| (bus.name().to_string(), bus.last_position().0)).collect(),
            plugins: self.plugins.standing(),
        };
        self.metrics.encode(&standing)
    }
}
