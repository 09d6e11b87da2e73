//! What operators ask of plugins. Every one of it is a record in the log before it is done, and is
//! done whether or not who asked still waits: in the middle of it a plugin may stand still.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::install::{Candidate, for_exports};
use super::rewind::needs_rewind;
use super::{Entry, Plugins, lock};
use crate::api::host::HostError;
use crate::api::view::PluginState;
use crate::bus::Bus;
use crate::bus::runner::{Runner, WantedPause};
use crate::event::{Digest, InstanceId};
use crate::log::record::{Control, ControlRecord};
use crate::plugin::Manifest;
use crate::plugin::identity::{Binding, Refusal};

pub(super) fn unknown(name: &str) -> HostError {
    HostError::NotFound(format!("plugin `{name}`"))
}

impl Plugins {
    /// The bus and the identity that a log has for a name.
    ///
    /// # Errors
    /// There is no such plugin, or what stands in the folder under that name is in no log.
    pub(in crate::host) fn identified(
        &self,
        name: &str,
    ) -> Result<(Arc<Bus>, InstanceId), HostError> {
        self.registered(name).ok_or_else(|| self.unidentified(name))
    }

    fn unidentified(&self, name: &str) -> HostError {
        let entries = lock(&self.entries);
        let Some(entry) = entries.get(name) else { return unknown(name) };
        let why = entry.why().map(|why| format!(": {why}")).unwrap_or_default();
        HostError::Conflict(format!("no bus knows plugin `{name}` yet{why}"))
    }

    fn refused(&self, refusal: Refusal) -> HostError {
        match refusal {
            Refusal::Unknown { name } => self.unidentified(&name),
            other => HostError::Conflict(other.to_string()),
        }
    }

    /// Records something about a registered plugin, and waits until it is folded.
    pub(super) async fn record(
        &self,
        bus: &Bus,
        actor: &str,
        control: Control,
    ) -> Result<(), HostError> {
        let record = ControlRecord { actor: actor.into(), control };
        let committed = bus.control_asked(&[record]).done().await?;
        bus.until_applied(committed.commit).await;
        Ok(())
    }

    /// Refuses where a file stands under the name, also one that is refused and for another bus.
    fn check_gone(&self, name: &str, todo: &'static str) -> Result<(), HostError> {
        let path = lock(&self.entries).get(name).and_then(Entry::path).map(ToOwned::to_owned);
        let there = |path| Refusal::FileThere { name: name.to_owned(), path, todo };
        path.map_or(Ok(()), |path| Err(self.refused(there(path))))
    }

    /// Stops what still runs of a plugin whose file is gone: what comes of that may wait for this turn.
    /// Its entry goes with the name, and would leave a runner behind that nobody stops.
    async fn stop_gone(&self, name: &str) {
        if self.stop_runner(name).await {
            tracing::info!(plugin = name, "removed; its state is kept");
        }
    }

    /// Nothing is known any more under a name. A file that came back meanwhile is a plugin of its own:
    /// whoever is to install it waits for this turn.
    fn drop_entry(&self, name: &str) {
        let mut entries = lock(&self.entries);
        let Some(known) = entries.remove(name).filter(|known| known.path().is_some()) else {
            return;
        };
        let is_broken = known.broken.is_some();
        let Entry { source, broken, change, turn, log, .. } = known;
        let mut back = Entry { source, broken, change, turn, log, ..Entry::default() };
        if is_broken {
            (back.state, back.reason) = (PluginState::Refused, known.reason);
            back.last_error = known.last_error;
        }
        entries.insert(name.to_owned(), back);
    }

    fn runner(&self, name: &str) -> Option<Arc<Runner>> {
        lock(&self.entries).get(name).and_then(|entry| entry.runner.clone())
    }

    fn state(&self, name: &str) -> Result<PluginState, HostError> {
        lock(&self.entries).get(name).map(|entry| entry.state).ok_or_else(|| unknown(name))
    }

    pub(super) fn set_state(&self, name: &str, state: PluginState, reason: Option<String>) {
        if let Some(entry) = lock(&self.entries).get_mut(name) {
            entry.state = state;
            entry.reason = reason;
        }
    }

    /// Stops deliveries of a plugin.
    ///
    /// # Errors
    /// There is no such plugin, or the log takes nothing: it goes on, or stands still, as before.
    pub async fn pause(
        self: &Arc<Self>,
        name: &str,
        reason: &str,
        actor: &str,
    ) -> Result<(), HostError> {
        let reason = reason.to_owned();
        let (plugins, name, actor) = (Arc::clone(self), name.to_owned(), actor.to_owned());
        self.to_the_end(async move { plugins.pause_now(&name, &reason, &actor).await }).await
    }

    async fn pause_now(&self, name: &str, reason: &str, actor: &str) -> Result<(), HostError> {
        let turn = self.turn(name).ok_or_else(|| unknown(name))?;
        let _turn = turn.lock().await;
        let (bus, instance) = self.identified(name)?;
        let control = Control::Pause { instance, reason: reason.to_owned() };
        self.record(&bus, actor, control).await?;
        if let Some(runner) = self.runner(name) {
            runner.pause();
            self.set_state(name, PluginState::Paused, Some(reason.to_owned()));
        }
        Ok(())
    }

    /// Lets deliveries of a plugin go on; takes a waiting one as new.
    ///
    /// # Errors
    /// There is no such plugin, or the log takes nothing.
    pub async fn resume(self: &Arc<Self>, name: &str, actor: &str) -> Result<(), HostError> {
        let (plugins, name, actor) = (Arc::clone(self), name.to_owned(), actor.to_owned());
        self.to_the_end(async move { plugins.resume_now(&name, &actor).await }).await
    }

    async fn resume_now(self: &Arc<Self>, name: &str, actor: &str) -> Result<(), HostError> {
        if self.state(name)? == PluginState::Waiting {
            return self.take_as_new(name).await;
        }
        let turn = self.turn(name).ok_or_else(|| unknown(name))?;
        let _turn = turn.lock().await;
        let (bus, instance) = self.identified(name)?;
        self.record(&bus, actor, Control::Resume { instance }).await?;
        if let Some(runner) = self.runner(name) {
            runner.resume();
            self.set_state(name, PluginState::Live, None);
        }
        Ok(())
    }

    async fn take_as_new(self: &Arc<Self>, name: &str) -> Result<(), HostError> {
        let change = {
            let mut entries = lock(&self.entries);
            let entry = entries.get_mut(name).ok_or_else(|| unknown(name))?;
            entry.taken_as_new = true;
            entry.state = PluginState::Compiling;
            entry.reason = None;
            entry.change
        };
        self.install_change(name, change).await;
        Ok(())
    }

    /// Goes back to an earlier module, until the file changes. `module: None`: the one that served
    /// before the present one.
    ///
    /// # Errors
    /// There is no such plugin, it does not run, or there is nothing to go back to.
    pub async fn rollback(
        self: &Arc<Self>,
        name: &str,
        module: Option<Digest>,
        actor: &str,
    ) -> Result<(), HostError> {
        self.after_scan().await?;
        let (plugins, name, actor) = (Arc::clone(self), name.to_owned(), actor.to_owned());
        self.to_the_end(async move { plugins.rollback_now(&name, module, &actor).await }).await
    }

    async fn rollback_now(
        self: &Arc<Self>,
        name: &str,
        module: Option<Digest>,
        actor: &str,
    ) -> Result<(), HostError> {
        let turn = self.turn(name).ok_or_else(|| unknown(name))?;
        let _turn = turn.lock().await;
        let (bus, instance) = self.identified(name)?;
        let runner = self.runner(name).ok_or_else(|| self.not_running(name))?;
        let history = served(&bus, instance);
        let binding = Binding::new(bus.name(), name);
        let (_, digest) = self
            .known()
            .rollback(&binding, module, &history)
            .map_err(|refusal| self.refused(refusal))?;
        let wasm = self.kept_module(digest).await.map_err(HostError::Conflict)?;
        let module =
            self.load(name, wasm).await.map_err(|refusal| HostError::Conflict(refusal.why))?;
        let manifest = for_exports(&self.manifest(name, &runner)?, module.exports);
        let candidate =
            Candidate { name: name.to_owned(), module, manifest, bus, actor: actor.into() };
        Self::check_grants(&candidate).map_err(HostError::Conflict)?;
        Self::check_upcasts(&candidate).map_err(HostError::Conflict)?;
        let control = Control::Rollback { instance, module: digest };
        self.record(&candidate.bus, actor, control).await?;
        self.activate(candidate).await.map_err(|refusal| HostError::Internal(refusal.why))?;
        Ok(())
    }

    /// The manifest in the folder, as it is resolved. Where that is gone, or could not take over what the
    /// plugin has, the one that serves: going back is no way around a refusal.
    fn manifest(&self, name: &str, runner: &Runner) -> Result<Arc<Manifest>, HostError> {
        let serving = || Ok(Arc::clone(&runner.version().manifest));
        let source = lock(&self.entries).get(name).and_then(|entry| entry.source.clone());
        let Some(source) = source else { return serving() };
        let manifest = self.means.config.resolve(name, &source.manifest);
        let manifest = manifest.map_err(|error| HostError::Conflict(error.to_string()))?;
        let bus = runner.bus();
        let other_state = needs_rewind(name, bus.ledger().named(name), &manifest).is_some();
        if other_state || manifest.subscribe.bus() != &**bus.name() {
            return serving();
        }
        Ok(Arc::new(manifest))
    }

    /// Binds the instance of a removed plugin to the name of a waiting file, also those on buses that it was
    /// on before.
    ///
    /// # Errors
    /// One of them is not there, or not in that state.
    pub async fn rename(
        self: &Arc<Self>,
        old: &str,
        new: &str,
        actor: &str,
    ) -> Result<(), HostError> {
        self.after_scan().await?;
        let (plugins, old, actor) = (Arc::clone(self), old.to_owned(), actor.to_owned());
        let new = new.to_owned();
        self.to_the_end(async move { plugins.rename_now(&old, &new, &actor).await }).await
    }

    async fn rename_now(
        self: &Arc<Self>,
        old: &str,
        new: &str,
        actor: &str,
    ) -> Result<(), HostError> {
        let mut turns = Vec::new();
        // Whoever wants more than one takes them in the order of the names.
        for name in BTreeSet::from([old, new]) {
            if let Some(turn) = self.turn(name) {
                turns.push(turn.lock_owned().await);
            }
        }
        let change = self.rename_in_turn(old, new, actor).await?;
        drop(turns);
        self.install_change(new, change).await;
        Ok(())
    }

    /// Records the new name. Gives the change of the files that is to be installed under it.
    async fn rename_in_turn(&self, old: &str, new: &str, actor: &str) -> Result<u64, HostError> {
        self.check_gone(old, "rename the file first")?;
        let instances = self.known().rename(old, new).map_err(|refusal| self.refused(refusal))?;
        let change = lock(&self.entries)
            .get(new)
            .filter(|entry| entry.source.is_some())
            .map(|entry| entry.change)
            .ok_or_else(|| {
                HostError::Conflict(format!("there is no file for `{new}` in the plugins folder"))
            })?;
        self.stop_gone(old).await;
        for (bus, instance) in instances {
            let bus = self.bus(&bus).map_err(HostError::Internal)?;
            self.record(&bus, actor, Control::Rename { instance, name: new.to_owned() }).await?;
        }
        self.drop_entry(old);
        self.set_state(new, PluginState::Compiling, None);
        Ok(change)
    }

    /// Removes a plugin whose file is gone, with its state, also from buses that it was on before.
    ///
    /// # Errors
    /// There is no such plugin, or its file is there.
    pub async fn forget(self: &Arc<Self>, name: &str, actor: &str) -> Result<(), HostError> {
        self.after_scan().await?;
        let (plugins, name, actor) = (Arc::clone(self), name.to_owned(), actor.to_owned());
        self.to_the_end(async move { plugins.forget_now(&name, &actor).await }).await
    }

    async fn forget_now(self: &Arc<Self>, name: &str, actor: &str) -> Result<(), HostError> {
        let turn = self.turn(name).ok_or_else(|| unknown(name))?;
        let _turn = turn.lock().await;
        self.check_gone(name, "remove it first")?;
        let instances = self.known().forget(name).map_err(|refusal| self.refused(refusal))?;
        self.stop_gone(name).await;
        for (bus, instance) in instances {
            let bus = self.bus(&bus).map_err(HostError::Internal)?;
            self.record(&bus, actor, Control::Forget { instance }).await?;
            bus.upcasters().withdraw(instance);
        }
        self.drop_entry(name);
        self.release_waiting();
        Ok(())
    }

    /// Records the pauses that runners ask for, each in its plugin's turn.
    pub(super) async fn record_pauses(self: Arc<Self>, mut wanted: mpsc::Receiver<WantedPause>) {
        while let Some(wanted) = wanted.recv().await {
            // A turn may take as long as a compile: the pauses of others do not wait for it.
            self.tasks.spawn(Arc::clone(&self).record_pause(wanted));
        }
    }

    async fn record_pause(
        self: Arc<Self>,
        WantedPause { plugin, bus, instance, reason }: WantedPause,
    ) {
        let is_it = |runner: &Runner| runner.instance() == instance && *runner.bus().name() == bus;
        if !self.runner(&plugin).is_some_and(|runner| is_it(&runner)) {
            return;
        }
        tracing::warn!(plugin = &*plugin, reason, "paused");
        if let Err(error) = self.pause(&plugin, &reason, "host").await {
            tracing::error!(plugin = &*plugin, %error, "the pause is not recorded");
            // It stands still all the same, until somebody resumes it or the host starts again.
            self.set_state(&plugin, PluginState::Paused, Some(reason));
        }
    }
}

/// The modules that served, the present one last.
fn served(bus: &Bus, instance: InstanceId) -> Vec<Digest> {
    let ledger = bus.ledger();
    let activations = ledger.instance(instance).map(|instance| instance.activations.as_slice());
    activations.unwrap_or_default().iter().map(|activation| activation.module).collect()
}
