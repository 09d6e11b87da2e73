//! What served before the host began, where what stands in the folder now is not taken: it goes on,
//! from the log and the kept modules, as it would have without a stop.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::install::{Candidate, for_exports};
use super::refusal::Refusal;
use super::{Entry, Plugins, lock, upcast};
use crate::api::view::PluginState;
use crate::bus::Bus;
use crate::event::Digest;
use crate::plugin::Manifest;

impl Plugins {
    /// Notes that what stands in the folder under a name cannot even be read.
    pub(super) fn broken(self: &Arc<Self>, name: String, path: PathBuf, why: String) {
        lock(&self.entries).entry(name.clone()).or_default().broken = Some(path);
        self.refuse(&name, None, why);
        let before = self.is_to_lift(&name).then(|| upcast::Before::new(&self.upcasters_first));
        let plugins = Arc::clone(self);
        self.tasks.spawn(async move {
            let Some(turn) = plugins.turn(&name) else { return };
            let _turn = turn.lock().await;
            plugins.go_on_as_before(&name).await;
            drop(before);
        });
    }

    /// Puts the version to work that served last, if nothing of the plugin has since the host began. To
    /// be called in the plugin's turn, after a refusal.
    pub(super) async fn go_on_as_before(self: &Arc<Self>, name: &str) {
        if lock(&self.entries).get(name).is_some_and(|entry| entry.served_before) {
            match self.activate_last(name).await {
                Ok(module) => {
                    tracing::info!(plugin = name, %module, "what served before the start goes on");
                    return;
                }
                Err(Refusal { why, .. }) => self.stay_refused(name, &why),
            }
        }
        self.upcaster_refused(name);
    }

    /// Puts the version to work that served last, for a candidate that is to run beside it before it
    /// serves: a start is no way around its trial.
    ///
    /// # Errors
    /// What served cannot go on, so that there is nothing to compare with.
    pub(super) async fn go_on_for_trial(
        self: &Arc<Self>,
        candidate: &Candidate,
    ) -> Result<(), Refusal> {
        let Candidate { name, module, manifest, bus, .. } = candidate;
        let is_first = lock(&self.entries).get(name).is_some_and(|entry| entry.served_before);
        if manifest.run.shadow == 0 || !is_first {
            return Ok(());
        }
        let served_here =
            self.last_served(name).is_some_and(|(last, ..)| last.name() == bus.name());
        let environment = manifest.environment(module.digest);
        let served = bus.ledger().named(name).and_then(|known| Some(known.active()?.environment));
        if !served_here || served.is_none_or(|served| served == environment) {
            return Ok(());
        }
        let gone_on = self.activate_last(name).await;
        let refused = |Refusal { why, may_pass }| Refusal {
            why: format!(
                "`run.shadow` compares with what served before, which cannot go on: {why}"
            ),
            may_pass,
        };
        gone_on.map(drop).map_err(refused)
    }

    async fn activate_last(self: &Arc<Self>, name: &str) -> Result<Digest, Refusal> {
        if let Some(bus) = self.bus_left_alone(name) {
            let why = format!("it may have run on the bus `{bus}` since, which has a log");
            return Err(why.into());
        }
        let (bus, module, manifest) =
            self.last_served(name).ok_or_else(|| "the log does not know it".to_owned())?;
        let manifest = Manifest::parse("the log", &manifest).map_err(|error| error.to_string())?;
        let manifest = self.means.config.resolve(name, &manifest);
        let manifest = Arc::new(manifest.map_err(|error| error.to_string())?);
        let wasm = self.kept_module(module).await?;
        let loaded = self.load(name, wasm).await?;
        // What lifts in its place is being loaded until this is over: it would wait for itself.
        if manifest.upcast.is_empty() && !self.is_file_to_lift(name) {
            self.after_upcasters().await;
        }
        let manifest = for_exports(&manifest, loaded.exports);
        let (name, actor) = (name.to_owned(), "host".into());
        self.activate(Candidate { name, module: loaded, manifest, bus, actor }).await?;
        Ok(module)
    }

    /// The bus that the plugin's file is for, where that is not configured and has a log: what stands
    /// there of the plugin is not known.
    fn bus_left_alone(&self, name: &str) -> Option<String> {
        let source = lock(&self.entries).get(name)?.source.clone()?;
        let bus = source.manifest.subscribe.bus();
        let log = self.means.config.data.join("buses").join(bus).join("log");
        let is_left = self.bus(bus).is_err() && log.is_dir();
        is_left.then(|| bus.to_owned())
    }

    /// The bus that a plugin served on last, its module there and its manifest.
    pub(super) fn last_served(&self, name: &str) -> Option<(Arc<Bus>, Digest, Arc<str>)> {
        let of = |bus: &Arc<Bus>| {
            let ledger = bus.ledger();
            let active = ledger.named(name)?.active()?;
            Some((active.at_ms, (Arc::clone(bus), active.module, Arc::clone(&active.manifest))))
        };
        let served = self.means.buses.iter().filter_map(of);
        served.max_by_key(|(at_ms, _)| *at_ms).map(|(_, served)| served)
    }

    /// Whether events wait for what this plugin had undertaken to lift.
    fn is_to_lift(&self, name: &str) -> bool {
        let mut loading = self.means.buses.iter().flat_map(|bus| bus.upcasters().loading());
        loading.any(|(_, loading)| *loading == *name)
    }

    fn is_file_to_lift(&self, name: &str) -> bool {
        let entries = lock(&self.entries);
        let source = entries.get(name).and_then(|entry| entry.source.as_ref());
        source.is_some_and(|source| !source.manifest.upcast.is_empty())
    }

    /// That it served before is still so: what comes next for it has a trial to pass, too.
    fn stay_refused(&self, name: &str, why: &str) {
        tracing::warn!(plugin = name, why, "what served before the start cannot go on");
        if let Some(entry) = lock(&self.entries).get_mut(name) {
            entry.state = PluginState::Refused;
            let refused = entry.reason.take().unwrap_or_default();
            let reason = format!("{refused}; what served before the start cannot go on: {why}");
            entry.reason = Some(reason);
        }
    }
}

impl Entry {
    /// Whether what served before the host began may go on in the place of what cannot be read.
    pub(super) const fn may_go_on(&self) -> bool {
        self.broken.is_some() && self.served_before
    }

    /// What stands in the folder for it.
    pub(super) fn path(&self) -> Option<&Path> {
        self.source.as_ref().map(|source| &*source.path).or(self.broken.as_deref())
    }
}
