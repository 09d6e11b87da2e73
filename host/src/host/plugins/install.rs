//! From a module in the folder to a runner: settle who it is, compile, check, register, swap.

use std::sync::Arc;
use std::time::Instant;

use super::refusal::Refusal;
use super::rewind::needs_rewind;
use super::{Entry, Plugins, lock};
use crate::api::view::{PluginState, ReloadResult, ReloadView, Timestamp};
use crate::bus::Bus;
use crate::bus::deliver::{self, Deliverer};
use crate::bus::runner::{Parts, Pin, Runner, Version};
use crate::bus::subscribed;
use crate::event::{Digest, Generation, InstanceId, Position};
use crate::log::record::{Control, ControlRecord};
use crate::plugin::identity::{Binding, Decision, Plugins as Known, Registered};
use crate::plugin::{Change, Manifest, Source, Start};
use crate::schedule::retry::RetryPolicy;
use crate::wasm::{Exports, GuestLimits, Module};

/// A module that was loaded, and what it is to serve as.
pub(super) struct Candidate {
    pub(super) name: String,
    pub(super) module: Arc<Module>,
    pub(super) manifest: Arc<Manifest>,
    pub(super) bus: Arc<Bus>,
    pub(super) actor: Arc<str>,
}

impl Plugins {
    /// Installs what stands in the folder under this name, unless it has changed again since.
    pub(super) async fn install_change(self: &Arc<Self>, name: &str, change: u64) {
        self.install(name, change, false).await;
    }

    /// As [`Self::install_change`]; `is_again`: what stands there was refused before.
    pub(super) async fn install(self: &Arc<Self>, name: &str, change: u64, is_again: bool) {
        let Some(turn) = self.turn(name) else { return };
        {
            let _turn = turn.lock().await;
            let source = {
                let entries = lock(&self.entries);
                let newest = entries.get(name).filter(|entry| entry.change == change);
                newest.and_then(|entry| entry.source.clone())
            };
            let Some(source) = source else { return };
            let began = Instant::now();
            match self.try_install(&source, change).await {
                Ok(shown) => {
                    let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                    tracing::info!(plugin = name, ms, "{shown}");
                }
                Err(refusal) => {
                    if is_again {
                        self.drop_refusal(name, source.digest);
                    }
                    self.refuse(name, Some(source.digest), refusal.why);
                    self.go_on_as_before(name).await;
                    if refusal.may_pass {
                        self.install_later(name, change, began.elapsed());
                    }
                }
            }
        }
        self.release_waiting();
    }

    async fn try_install(
        self: &Arc<Self>,
        source: &Arc<Source>,
        change_number: u64,
    ) -> Result<String, Refusal> {
        let name = &source.name;
        self.end_trial(name);
        let manifest = self.means.config.resolve(name, &source.manifest);
        let manifest = Arc::new(manifest.map_err(|error| error.to_string())?);
        let bus = self.bus(manifest.subscribe.bus())?;
        let change = Change::Present(Box::new(Source::clone(source)));
        let (mut shown, mut left) = (String::new(), Vec::new());
        for decision in self.known().decide(&change, Some(&manifest)) {
            let pin = match decision {
                Decision::Unpin { .. } => Pin::Ends,
                _ => Pin::Stays,
            };
            let module = match decision {
                // It goes on there until nothing speaks against what comes next.
                Decision::Remove { bus, .. } => {
                    left.push(bus);
                    continue;
                }
                Decision::Waiting { old_name, .. } if !self.is_taken_as_new(name) => {
                    self.leave(name, &left).await;
                    return Ok(self.wait_for_word(name, &old_name));
                }
                Decision::Register(_) | Decision::Waiting { .. } => source.digest,
                Decision::Reload { module, .. }
                | Decision::Unpin { module, .. }
                | Decision::Keep { module, .. } => module,
                _ => continue,
            };
            let wasm = if module == source.digest {
                source.wasm.clone()
            } else {
                self.kept_module(module).await?
            };
            let module = self.load(name, wasm).await?;
            for warning in manifest.warnings() {
                tracing::warn!(plugin = name, "{warning}");
            }
            for (grant, asked) in self.means.config.withheld(name, &source.manifest) {
                tracing::warn!(
                    plugin = name,
                    grant,
                    asked,
                    "asked for, and not allowed by the operator"
                );
            }
            let (manifest, bus) = (for_exports(&manifest, module.exports), Arc::clone(&bus));
            let actor = "host".into();
            let candidate = Candidate { name: name.clone(), module, manifest, bus, actor };
            let other = {
                let ledger = candidate.bus.ledger();
                needs_rewind(name, ledger.named(name), &candidate.manifest)
            };
            other.map_or(Ok(()), Err)?;
            Self::check_grants(&candidate)?;
            if candidate.manifest.upcast.is_empty() {
                self.after_upcasters().await;
            }
            if !left.is_empty() {
                self.may_lift(&candidate)?;
                start_of(&candidate).await?;
                self.leave(name, &left).await;
            }
            self.go_on_for_trial(&candidate).await?;
            shown = match self.try_beside(&candidate, change_number)? {
                Some(shown) => shown,
                None => self.activate_with(candidate, pin).await?,
            };
        }
        Ok(shown)
    }

    /// Stops a plugin on buses that its file is not for any more.
    async fn leave(&self, name: &str, buses: &[String]) {
        for bus in buses {
            self.withdraw_upcasts(bus, name);
            self.stop_runner(name).await;
            self.set_state(name, PluginState::Compiling, None);
            tracing::info!(plugin = name, bus, "left the bus; its state there is kept");
        }
    }

    pub(super) fn bus(&self, name: &str) -> Result<Arc<Bus>, String> {
        let found = self.means.buses.iter().find(|bus| **bus.name() == *name);
        found.map(Arc::clone).ok_or_else(|| format!("there is no bus `{name}`"))
    }

    /// What decisions depend on: what the logs know, and which files are there.
    pub(super) fn known(&self) -> Known {
        let entries = lock(&self.entries);
        let mut known = Known::default();
        for bus in &self.means.buses {
            for instance in bus.ledger().instances() {
                let here = entries.get(&instance.name).filter(|entry| entry.is_on(bus.name()));
                let path = here.and_then(Entry::path).map(ToOwned::to_owned);
                let registered = Registered {
                    instance: instance.id,
                    file: instance.file,
                    environment: instance.active().map(|active| active.environment),
                    pinned: instance.pinned,
                    paused: instance.paused.is_some(),
                    path,
                };
                known.registered.insert(Binding::new(bus.name(), &instance.name), registered);
            }
        }
        for (name, entry) in entries.iter().filter(|(_, e)| e.state == PluginState::Waiting) {
            if let Some(source) = &entry.source {
                let binding = Binding::new(source.manifest.subscribe.bus(), name);
                known.waiting.insert(binding, source.digest);
            }
        }
        known
    }

    fn is_taken_as_new(&self, name: &str) -> bool {
        lock(&self.entries).get(name).is_some_and(|entry| entry.taken_as_new)
    }

    fn wait_for_word(&self, name: &str, old: &str) -> String {
        let reason = format!(
            "its module is that of the removed plugin `{old}`: `tidegate plugins rename {old} {name}` \
             goes on with its state, `tidegate plugins resume {name}` starts a new plugin"
        );
        let mut entries = lock(&self.entries);
        let entry = entries.entry(name.to_owned()).or_default();
        entry.state = PluginState::Waiting;
        entry.reason = Some(reason.clone());
        format!("waiting: {reason}")
    }

    /// Takes files that need not wait any more: as new plugins, or as upcasters of what nobody lifts now.
    pub(super) fn release_waiting(self: &Arc<Self>) {
        let released = self.known().released().into_iter().map(|binding| binding.name);
        for name in released.chain(self.free_to_lift()) {
            let change = {
                let mut entries = lock(&self.entries);
                let Some(entry) = entries.get_mut(&name) else { continue };
                entry.is_lifted_by_other = false;
                if entry.runner.is_none() {
                    entry.state = PluginState::Compiling;
                    entry.reason = None;
                }
                entry.change
            };
            let plugins = Arc::clone(self);
            self.tasks.spawn(async move {
                Box::pin(plugins.install_change(&name, change)).await;
            });
        }
    }

    /// Stops the runner of a plugin, if it has one.
    pub(super) async fn stop_runner(&self, name: &str) -> bool {
        let runner = lock(&self.entries).get_mut(name).and_then(|entry| {
            entry.left = None;
            entry.runner.take()
        });
        let Some(runner) = runner else { return false };
        runner.stop().await;
        true
    }

    pub(super) async fn kept_module(&self, digest: Digest) -> Result<bytes::Bytes, String> {
        let modules = Arc::clone(&self.means.modules);
        let loaded = tokio::task::spawn_blocking(move || modules.load(digest)).await;
        loaded
            .map_err(|error| error.to_string())?
            .map_err(|error| format!("module {} is not to be had: {error}", digest.short()))
    }

    pub(super) async fn load(
        &self,
        name: &str,
        wasm: bytes::Bytes,
    ) -> Result<Arc<Module>, Refusal> {
        let module = self.means.sandbox.load(name, wasm.clone()).await?;
        if module.exports == Exports::default() {
            let why = "exports none of `handler`, `command`, `query` and `upcaster`: there is \
                       nothing that could be asked of it";
            return Err(why.to_owned().into());
        }
        let (modules, digest) = (Arc::clone(&self.means.modules), module.digest);
        tokio::task::spawn_blocking(move || modules.keep(digest, &wasm))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| Refusal::passing(format!("the module cannot be kept: {error}")))?;
        Ok(module)
    }

    /// Puts a loaded module to work. Returns what happened, for people.
    pub(super) async fn activate(
        self: &Arc<Self>,
        candidate: Candidate,
    ) -> Result<String, Refusal> {
        self.activate_with(candidate, Pin::Stays).await
    }

    async fn activate_with(
        self: &Arc<Self>,
        candidate: Candidate,
        pin: Pin,
    ) -> Result<String, Refusal> {
        if self.closing.load(std::sync::atomic::Ordering::SeqCst) {
            return Err("the host is shutting down".to_owned().into());
        }
        let _upcasting = match candidate.manifest.upcast.is_empty() {
            true => None,
            false => Some(self.upcasting.lock().await),
        };
        Self::check_grants(&candidate)?;
        self.may_lift(&candidate)?;
        let running = lock(&self.entries).get(&candidate.name).and_then(|e| e.runner.clone());
        let (runner, shown) = match running {
            Some(runner) => {
                let (instance, generation) = (runner.instance(), runner.generation());
                let version = Arc::new(self.version(&candidate, instance, generation));
                let subscription = Arc::new(candidate.manifest.subscribe.clone());
                let before = runner.version().digest;
                runner.end_trial();
                runner.swap(version, subscription, Arc::clone(&candidate.actor), pin).await?;
                (runner, format!("{} -> {}", before.short(), candidate.module.digest.short()))
            }
            None => (self.start(&candidate, pin).await?, "started".to_owned()),
        };
        self.serve_upcasts(&candidate, runner.instance());
        self.means.metrics.reloaded(&candidate.name, "ok");
        let paused = self.paused(&candidate.bus, runner.instance());
        let mut entries = lock(&self.entries);
        let entry = entries.entry(candidate.name.clone()).or_default();
        entry.serve(runner, &candidate.module, paused, self.means.clock.wall_ms());
        Ok(shown)
    }

    fn paused(&self, bus: &Bus, instance: InstanceId) -> Option<String> {
        bus.ledger().instance(instance).and_then(|instance| instance.paused.clone())
    }

    /// Registers the plugin where it is new, and starts its runner.
    async fn start(
        self: &Arc<Self>,
        candidate: &Candidate,
        pin: Pin,
    ) -> Result<Arc<Runner>, Refusal> {
        let Candidate { name, manifest, bus, .. } = candidate;
        let instance = {
            // One at a time: the next id is what the applied log says.
            let _registering = self.registering.lock().await;
            self.register(candidate, pin).await?
        };
        self.carry_over(candidate, instance).await?;
        let known = bus.ledger().instance(instance).map(|known| {
            (known.generation, known.paused.is_some(), subscribed::of(known, manifest))
        });
        let Some((generation, paused, subscriptions)) = known else {
            return Err("its registration is not in the log".to_owned().into());
        };
        let workers = match usize::try_from(manifest.run.workers) {
            Ok(0) | Err(_) => self.means.workers,
            Ok(workers) => workers,
        };
        let parts = Parts {
            bus: Arc::clone(bus),
            name: name.as_str().into(),
            instance,
            generation,
            subscriptions,
            version: Arc::new(self.version(candidate, instance, generation)),
            paused,
            tenant: self.means.pool.tenant(name),
            log: lock(&self.entries).entry(name.clone()).or_default().log.clone(),
            notes: self.means.notes.clone(),
            metrics: self.means.metrics.plugin(name),
            pauses: self.pauses.clone(),
        };
        Ok(Runner::start(parts, workers))
    }

    async fn register(&self, candidate: &Candidate, pin: Pin) -> Result<InstanceId, Refusal> {
        let Candidate { name, manifest, module, bus, actor } = candidate;
        let environment = manifest.environment(module.digest);
        let record = |control| ControlRecord { actor: Arc::clone(actor), control };
        let known = bus.ledger().named(name).map(|known| {
            let active = known.active().map(|active| active.environment);
            (known.id, known.generation, active)
        });
        let activate = |instance, generation, after| {
            record(Control::Activate {
                instance,
                generation,
                module: module.digest,
                environment,
                manifest: manifest.to_toml(),
                after,
                unpins: pin == Pin::Ends,
            })
        };
        // Where it ran last must be told from the logs, also once its file is gone.
        let last = self.last_served(name);
        let is_back = last.is_some_and(|(last, ..)| last.name() != bus.name());
        let (instance, records) = match known {
            Some((instance, _, Some(active)))
                if active == environment && !is_back && pin == Pin::Stays =>
            {
                return Ok(instance);
            }
            // What changed while it did not run holds for what comes from now on.
            Some((instance, generation, _)) => {
                (instance, vec![activate(instance, generation, bus.last_position())])
            }
            None => {
                let instance = bus.ledger().next_instance();
                let after = start_of(candidate).await?;
                let register = Control::Register { instance, name: name.clone(), after };
                (instance, vec![record(register), activate(instance, Generation(0), after)])
            }
        };
        let committed = bus.control_asked(&records).done().await?;
        bus.until_applied(committed.commit).await;
        Ok(instance)
    }

    fn bus_names(&self) -> Arc<[String]> {
        self.means.buses.iter().map(|bus| bus.name().to_string()).collect()
    }

    pub(super) fn version(
        &self,
        candidate: &Candidate,
        instance: InstanceId,
        generation: Generation,
    ) -> Version {
        let Candidate { name, manifest, module, bus, .. } = candidate;
        let mut limits = GuestLimits::of(manifest, self.bus_names());
        if bus.log().is_none() {
            limits.timers_max = 0;
        }
        Version {
            invoker: Arc::clone(module) as Arc<dyn crate::wasm::Invoker>,
            digest: module.digest,
            limits: Arc::new(limits),
            outside: self.outside(candidate),
            state: manifest.limits.state_quota(),
            config: Arc::new(manifest.config.clone()),
            retry: RetryPolicy {
                attempts_fault: manifest.retry.attempts_fault,
                backoff_ms: manifest.retry.backoff.ms(),
                backoff_max_ms: manifest.retry.backoff_max.ms(),
                give_up_after_ms: manifest.retry.give_up_after.ms(),
            },
            deliverer: Deliverer {
                instance,
                generation,
                environment: manifest.environment(module.digest),
                bus: Arc::clone(bus.name()),
                source: deliver::source(bus.name(), name),
            },
            manifest: Arc::clone(manifest),
        }
    }
}

impl Entry {
    /// Whether its files, or else its runner, are for this bus.
    pub(super) fn is_on(&self, bus: &str) -> bool {
        match (&self.runner, &self.source) {
            (Some(runner), _) => **runner.bus().name() == *bus,
            (None, Some(source)) => source.manifest.subscribe.bus() == bus,
            (None, None) => false,
        }
    }

    fn serve(
        &mut self,
        runner: Arc<Runner>,
        module: &Arc<Module>,
        paused: Option<String>,
        at_ms: u64,
    ) {
        let passed = self.passed.take();
        self.served_before = false;
        self.state = if paused.is_some() { PluginState::Paused } else { PluginState::Live };
        self.reason = paused;
        self.runner = Some(runner);
        self.left = None;
        let digest = module.digest.to_string();
        let again = self.history.front().is_some_and(|last| {
            last.digest == digest && last.result == ReloadResult::Ok && self.module.is_none()
        });
        self.module = Some(Arc::clone(module));
        if !again {
            let (at, result) = (Timestamp(at_ms), ReloadResult::Ok);
            let shadow = passed.map(|passed| passed.words);
            self.remember(ReloadView { digest, at, result, error: None, shadow });
        }
    }
}

/// The manifest as it holds for a module: one without a handler gets no events but the host's own,
/// and what stands in the log says so.
pub(super) fn for_exports(manifest: &Arc<Manifest>, exports: Exports) -> Arc<Manifest> {
    if exports.handler {
        return Arc::clone(manifest);
    }
    let mut deaf = Manifest::clone(manifest);
    // No public event has a type like this: they are refused at ingest, and of guests.
    deaf.subscribe.types = "tidegate.**".parse().into_iter().collect();
    Arc::new(deaf)
}

/// The position after which a new plugin begins.
async fn start_of(Candidate { manifest, module, bus, .. }: &Candidate) -> Result<Position, String> {
    // What nobody handles need not be read.
    let start = match module.exports.handler {
        true => manifest.subscribe.start(),
        false => &Start::Latest,
    };
    match start {
        Start::Earliest => Ok(Position(0)),
        Start::Latest => Ok(bus.last_position()),
        Start::Position(position) => Ok(Position(position.0.saturating_sub(1))),
        Start::Time { ms, text } if *ms > bus.now_ms() => Err(format!(
            "`subscribe.start` is \"{text}\", which lies ahead: begin at an earlier time, at a position, or \
             with \"latest\" once it has come"
        )),
        Start::Time { ms, .. } => bus.position_before(*ms).await.map_err(|error| error.to_string()),
    }
}
