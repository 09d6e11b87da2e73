//! How plugins are shown.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{Entry, Plugins, lock, waits};
use crate::api::host::HostError;
use crate::api::view::{
    ErrorAtView, ModuleView, PluginState, PluginView, PluginsView, RewindView, SubscriptionView,
    Timestamp, TypeView,
};
use crate::bus::Bus;
use crate::bus::runner::Broken;
use crate::effects::OutcomeKind;
use crate::event::{InstanceId, Position};
use crate::metrics::PluginStanding;
use crate::plugin::Manifest;
use crate::state::rewind::Rewound;
use crate::wasm::Module;

impl Plugins {
    /// Every plugin, ascending by name, and the files that are not one.
    #[must_use]
    pub fn view(&self) -> PluginsView {
        let entries = lock(&self.entries);
        let plugins = entries.iter().map(|(name, entry)| self.show(name, entry)).collect();
        drop(entries);
        let skipped = lock(&self.skipped).values().cloned().collect();
        PluginsView { plugins, skipped }
    }

    /// One plugin, with its manifest.
    ///
    /// # Errors
    /// There is no such plugin.
    pub fn view_of(&self, name: &str) -> Result<PluginView, HostError> {
        let entries = lock(&self.entries);
        let entry =
            entries.get(name).ok_or_else(|| HostError::NotFound(format!("plugin `{name}`")))?;
        let manifest = entry.runner.as_ref().map(|runner| runner.version().manifest.to_toml());
        Ok(PluginView { manifest, ..self.show(name, entry) })
    }

    fn show(&self, name: &str, entry: &Entry) -> PluginView {
        let registered = self.binding(name, Some(entry));
        let runner = entry.runner.as_ref();
        let version = runner.map(|runner| runner.version());
        let cursor = runner.map(|runner| runner.cursor());
        let mut view = PluginView {
            name: name.to_owned(),
            state: entry.state,
            reason: entry.reason.clone().or_else(|| runner.and_then(|runner| runner.trial())),
            description: String::new(),
            file: entry.source.as_ref().map(|source| self.relative(&source.path)),
            module: entry.module.as_deref().map(|module| show_module(module, false)),
            instance: registered.as_ref().map(|(_, instance)| instance.0),
            generation: 0,
            rewind: None,
            subscription: SubscriptionView::default(),
            completed_position: 0,
            lag_events: 0,
            in_flight: runner.map_or(0, |runner| runner.in_flight()),
            waiting: 0,
            deferred_events: 0,
            queued: 0,
            retrying: 0,
            throttled: Vec::new(),
            state_bytes: 0,
            state_keys: 0,
            parked_keys: 0,
            timers: 0,
            held_keys: 0,
            deliveries: runner.map(|runner| by_outcome(runner.deliveries())).unwrap_or_default(),
            dead_letters: 0,
            open_calls: 0,
            last_error: last_error(entry),
            history: entry.history.iter().cloned().collect(),
            manifest: None,
        };
        if let Some(runner) = runner {
            waits::add(&mut view, runner);
        }
        if let (PluginState::Live, Some(broken)) = (entry.state, runner.and_then(|r| r.broken())) {
            view.state = PluginState::Paused;
            view.reason = Some(show_broken(&broken));
        }
        let serving = version.as_ref().map(|version| &*version.manifest);
        let manifest = serving.or(entry.source.as_ref().map(|source| &source.manifest));
        if let Some(manifest) = manifest {
            view.description.clone_from(&manifest.description);
            view.subscription = subscription(manifest);
        }
        view.open_calls = self.open_calls(name);
        let Some((bus, id)) = registered else { return view };
        let ledger = bus.ledger();
        let Some(instance) = ledger.instance(id) else { return view };
        view.generation = instance.generation.0;
        let seen = cursor.as_ref().map_or(instance.seen, |cursor| cursor.seen);
        view.rewind = instance.rebuilding().map(|rewound| show_rewind(rewound, seen));
        let usage = bus.values().usage(id, instance.serving());
        (view.state_bytes, view.state_keys) = (usage.bytes, usage.keys);
        view.completed_position = cursor.as_ref().map_or(instance.low, |cursor| cursor.low).0;
        let scanned = cursor.as_ref().map_or(instance.low, |cursor| cursor.scanned);
        let unread = bus.last_position().0.saturating_sub(scanned.0);
        view.lag_events = unread.saturating_add(view.queued);
        view.timers = bus.values().timers().count(id) as u64;
        view.parked_keys = instance.parked_keys() as u64;
        view.held_keys = instance.held_keys() as u64;
        view.dead_letters = instance.letters.len() as u64;
        if let Some(module) = &mut view.module {
            module.pinned = instance.pinned.is_some();
        }
        view
    }

    /// Calls that are not answered, also those that were made on a bus that the plugin has left.
    fn open_calls(&self, name: &str) -> u64 {
        let open = |bus: &Arc<Bus>| {
            let ledger = bus.ledger();
            ledger.named(name).map_or(0, |instance| ledger.calls().count(instance.id) as u64)
        };
        self.means.buses.iter().map(open).sum()
    }

    fn relative(&self, path: &Path) -> String {
        path.strip_prefix(&self.means.config.plugins).unwrap_or(path).display().to_string()
    }

    /// As [`Plugins::registered`], for who holds the lock on the entries.
    pub(super) fn binding(
        &self,
        name: &str,
        entry: Option<&Entry>,
    ) -> Option<(Arc<Bus>, InstanceId)> {
        if let Some(runner) = entry.and_then(|entry| entry.runner.as_ref()) {
            return Some((Arc::clone(runner.bus()), runner.instance()));
        }
        let known = |bus: &Arc<Bus>| {
            let ledger = bus.ledger();
            let instance = ledger.named(name)?;
            let is_here = entry.is_some_and(|entry| entry.is_on(bus.name()));
            let served = instance.active().map(|active| active.at_ms);
            Some(((is_here, served), (Arc::clone(bus), instance.id)))
        };
        let known = self.means.buses.iter().filter_map(known);
        known.max_by_key(|(rank, _)| *rank).map(|(_, known)| known)
    }

    /// The plugins that run on a bus, ascending.
    #[must_use]
    pub fn names_on(&self, bus: &str) -> Vec<String> {
        lock(&self.entries)
            .iter()
            .filter(|(_, entry)| {
                entry.runner.as_ref().is_some_and(|runner| **runner.bus().name() == *bus)
            })
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Adds to `types` who gets them, and the types that plugins name though none was seen.
    pub fn add_subscribers(
        &self,
        bus: &str,
        only: Option<&str>,
        types: &mut BTreeMap<String, TypeView>,
    ) {
        for (name, entry) in lock(&self.entries).iter() {
            let Some(runner) = entry.runner.as_ref().filter(|r| **r.bus().name() == *bus) else {
                continue;
            };
            let subscribe = &runner.version().manifest.subscribe;
            let named = subscribe.types.iter().map(|pattern| pattern.as_str());
            for kind in named.filter(|kind| !kind.contains('*')) {
                if only.is_none_or(|only| only == kind) {
                    types.entry(kind.to_owned()).or_insert_with(|| TypeView {
                        kind: kind.to_owned(),
                        count: 0,
                        last_seen: None,
                        emitted_only: false,
                        subscribers: Vec::new(),
                    });
                }
            }
            // Without `types`, a subscription is to what comes from outside.
            let wants = |view: &TypeView| {
                subscribe.wants_type(&view.kind)
                    && !(view.emitted_only && subscribe.types.is_empty())
            };
            for view in types.values_mut().filter(|view| wants(view)) {
                view.subscribers.push(name.clone());
            }
        }
    }

    /// How plugins stand, for the gauges.
    #[must_use]
    pub fn standing(&self) -> Vec<PluginStanding> {
        let view = self.view();
        view.plugins
            .into_iter()
            .map(|plugin| PluginStanding {
                oldest_dead_letter: self.oldest_dead_letter(&plugin.name),
                is_broken: self.is_broken(&plugin.name),
                held_keys: plugin.held_keys,
                deferred_events: plugin.deferred_events,
                name: plugin.name,
                lag_events: plugin.lag_events,
                parked_keys: plugin.parked_keys,
                timers: plugin.timers,
                dead_letters: plugin.dead_letters,
                state_bytes: plugin.state_bytes,
                state_keys: plugin.state_keys,
                calls_open: plugin.open_calls,
            })
            .collect()
    }

    fn is_broken(&self, name: &str) -> bool {
        let entries = lock(&self.entries);
        let runner = entries.get(name).and_then(|entry| entry.runner.as_ref());
        runner.is_some_and(|runner| runner.broken().is_some())
    }

    fn oldest_dead_letter(&self, name: &str) -> Option<Duration> {
        let (bus, id) = self.registered(name)?;
        let ledger = bus.ledger();
        let numbers = ledger.instance(id)?.letters.values();
        let oldest = ledger.dead_letter(*numbers.min()?)?.at.time_ms;
        Some(Duration::from_millis(bus.now_ms().saturating_sub(oldest)))
    }
}

/// In words, when and why the breaker stopped a plugin.
fn show_broken(broken: &Broken) -> String {
    let Broken { probe_ms, failed, seen, policy } = broken;
    let next = match probe_ms {
        Some(at_ms) => format!("it is tried again at {}", Timestamp(*at_ms)),
        None => "it is being tried, one delivery at a time".to_owned(),
    };
    format!(
        "{failed} of {seen} keys failed, over the {} % of `retry.breaker`: {next}. A new module or \
         `tidegate plugins resume` lets it go on at once",
        policy.percent
    )
}

fn show_rewind(rewound: &Rewound, seen: Position) -> RewindView {
    RewindView {
        after: rewound.after.0,
        until: rewound.until.0,
        position: seen.0,
        serves: rewound.from.0,
    }
}

fn by_outcome(counts: [u64; 9]) -> BTreeMap<String, u64> {
    OutcomeKind::ALL
        .into_iter()
        .zip(counts)
        .filter(|(_, count)| *count > 0)
        .map(|(kind, count)| (kind.name().to_owned(), count))
        .collect()
}

fn last_error(entry: &Entry) -> Option<ErrorAtView> {
    let failed = entry.runner.as_ref().and_then(|runner| runner.last_failure());
    let newest = failed.into_iter().chain(entry.last_error.clone()).max_by_key(|(at, _)| *at)?;
    Some(ErrorAtView { at: Timestamp(newest.0), message: newest.1 })
}

fn show_module(module: &Module, pinned: bool) -> ModuleView {
    let exports = [
        ("handler", module.exports.handler),
        ("command", module.exports.command),
        ("query", module.exports.query),
        ("upcaster", module.exports.upcaster),
    ];
    ModuleView {
        digest: module.digest.to_string(),
        kind: module.kind.name().to_owned(),
        size_bytes: module.size_bytes as u64,
        compile_ms: if module.from_cache {
            0
        } else {
            u64::try_from(module.compile.as_millis()).unwrap_or(u64::MAX)
        },
        exports: exports.into_iter().filter(|(_, there)| *there).map(|(n, _)| n.into()).collect(),
        pinned,
    }
}

fn subscription(manifest: &Manifest) -> SubscriptionView {
    let subscribe = &manifest.subscribe;
    SubscriptionView {
        bus: subscribe.bus().to_owned(),
        types: subscribe.types.iter().map(|pattern| pattern.as_str().to_owned()).collect(),
        sources: subscribe.sources.iter().map(|pattern| pattern.as_str().to_owned()).collect(),
        conditions: subscribe.attributes.clone(),
        own: subscribe.own,
        start: subscribe.start().to_string(),
    }
}
