//! Upcasters: who lifts which events, from the log, the folder and the loaded modules.
//!
//! What a plugin has undertaken to lift stands in its activation, and so holds over restarts: until
//! its module is loaded again, the events concerned wait.

use std::sync::Arc;

use super::install::Candidate;
use super::{Entry, Plugins, lock};
use crate::bus::Bus;
use crate::bus::upcast::{Kinds, Upcaster};
use crate::event::InstanceId;
use crate::plugin::{Manifest, Source};
use crate::state::Instance;
use crate::wasm::{Exports, GuestLimits};

/// Counts what must be known before deliveries begin: the folder as it was found at start, and
/// upcasters that are being loaded. Dropped once that is known.
pub(super) struct Before(Arc<tokio::sync::watch::Sender<usize>>);

impl Before {
    pub(super) fn new(count: &Arc<tokio::sync::watch::Sender<usize>>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(Arc::clone(count))
    }
}

impl Drop for Before {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl Plugins {
    /// Waits until no upcaster is being loaded: what follows it is handed the newest forms.
    pub(super) async fn after_upcasters(&self) {
        // The sender lives as long as `self`.
        let _ = self.upcasters_first.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Tells a bus what its plugins had undertaken when its log was last written.
    pub(super) fn expect_upcasters(bus: &Bus) {
        for instance in bus.ledger().instances() {
            bus.upcasters().expect(instance.id, &instance.name, lifted_by(instance));
        }
    }

    /// Once the folder was seen: no module will come for plugins that are not in it.
    pub(super) fn settle_upcasters(&self) {
        for bus in &self.means.buses {
            for (instance, name) in bus.upcasters().loading() {
                let entries = lock(&self.entries);
                let entry = entries.get(&*name);
                match entry.and_then(|entry| entry.source.as_ref()) {
                    None if entry.is_some_and(Entry::may_go_on) => {}
                    Some(source) if source.manifest.subscribe.bus() == &**bus.name() => {}
                    Some(_) => bus.upcasters().withdraw(instance),
                    None => bus.upcasters().leave(instance),
                }
            }
        }
    }

    /// Notes that what stands in the folder under a name cannot be loaded. One that lifts already
    /// goes on.
    pub(super) fn upcaster_refused(&self, name: &str) {
        for bus in &self.means.buses {
            let mut loading = bus.upcasters().loading().into_iter();
            if let Some((instance, _)) = loading.find(|(_, loading)| **loading == *name) {
                bus.upcasters().leave(instance);
            }
        }
    }

    /// Ends what a plugin lifted on a bus that it has left.
    pub(super) fn withdraw_upcasts(&self, bus: &str, name: &str) {
        let Some(bus) = self.means.buses.iter().find(|known| **known.name() == *bus) else {
            return;
        };
        let instance = bus.ledger().named(name).map(|known| known.id);
        if let Some(instance) = instance {
            bus.upcasters().withdraw(instance);
        }
    }

    /// Whether a candidate may lift what it says. The caller holds `upcasting` until it serves.
    ///
    /// # Errors
    /// Why not, in words.
    pub(super) fn check_upcasts(candidate: &Candidate) -> Result<(), String> {
        let kinds = &candidate.manifest.upcast;
        check_exports(candidate.module.exports, kinds)?;
        let instance = candidate.bus.ledger().named(&candidate.name).map(|known| known.id);
        candidate.bus.upcasters().conflict(instance, kinds).map_or(Ok(()), Err)
    }

    /// As [`Self::check_upcasts`]. One that is refused because another lifts that is tried again once
    /// nobody does.
    pub(super) fn may_lift(&self, candidate: &Candidate) -> Result<(), String> {
        let Candidate { name, manifest, module, bus, .. } = candidate;
        check_exports(module.exports, &manifest.upcast)?;
        let instance = bus.ledger().named(name).map(|known| known.id);
        let conflict = bus.upcasters().conflict(instance, &manifest.upcast);
        lock(&self.entries).entry(name.clone()).or_default().is_lifted_by_other =
            conflict.is_some();
        conflict.map_or(Ok(()), Err)
    }

    /// Files that were refused because another lifted what they would, and that nobody lifts any more.
    pub(super) fn free_to_lift(&self) -> Vec<String> {
        let is_free = |name: &str, source: &Source| {
            let manifest = &source.manifest;
            let mut buses = self.means.buses.iter();
            buses.find(|bus| **bus.name() == *manifest.subscribe.bus()).is_some_and(|bus| {
                let instance = bus.ledger().named(name).map(|known| known.id);
                bus.upcasters().conflict(instance, &manifest.upcast).is_none()
            })
        };
        let entries = lock(&self.entries);
        let refused = entries.iter().filter(|(_, entry)| entry.is_lifted_by_other);
        refused
            .filter(|(name, entry)| entry.source.as_deref().is_some_and(|s| is_free(name, s)))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Lets an activated candidate lift what it says.
    pub(super) fn serve_upcasts(&self, candidate: &Candidate, instance: InstanceId) {
        let Candidate { name, manifest, module, bus, .. } = candidate;
        let buses = self.means.buses.iter().map(|bus| bus.name().to_string()).collect();
        let log = lock(&self.entries).entry(name.clone()).or_default().log.clone();
        bus.upcasters().serve(Upcaster {
            instance,
            name: name.as_str().into(),
            kinds: manifest.upcast.clone(),
            invoker: Arc::clone(module) as Arc<dyn crate::wasm::Invoker>,
            limits: Arc::new(GuestLimits::of(manifest, buses)),
            config: Arc::new(manifest.config.clone()),
            log_id: bus.log_id(),
            log,
            idle: Default::default(),
        });
    }
}

/// What a manifest lists must be what the module can do, and the other way round where it can do
/// nothing else.
fn check_exports(exports: Exports, kinds: &Kinds) -> Result<(), String> {
    if !kinds.is_empty() && !exports.upcaster {
        return Err("`[upcast]` lists event types, but the module exports no `upcaster`".to_owned());
    }
    let alone = Exports { upcaster: true, ..Exports::default() };
    if kinds.is_empty() && exports == alone {
        return Err("the module exports `upcaster` alone, and `[upcast]` lists nothing that it \
                    could lift: write the types and versions, as in `\"order.created\" = [1]`"
            .to_owned());
    }
    Ok(())
}

/// What a plugin lifts, by the manifest that serves.
fn lifted_by(instance: &Instance) -> Kinds {
    let Some(active) = instance.active() else { return Kinds::new() };
    // A manifest that is not understood is warned of where its subscription is read.
    Manifest::parse("the log", &active.manifest).map(|manifest| manifest.upcast).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_and_its_module_must_agree_on_lifting() {
        let listed: Kinds = [("a.b".to_owned(), vec![1])].into();
        let (none, upcaster) =
            (Exports::default(), Exports { upcaster: true, ..Exports::default() });
        let both = Exports { handler: true, ..upcaster };
        assert!(check_exports(none, &listed).unwrap_err().contains("exports no `upcaster`"));
        assert!(check_exports(upcaster, &Kinds::new()).unwrap_err().contains("lists nothing"));
        assert!(check_exports(both, &Kinds::new()).is_ok());
        assert!(check_exports(upcaster, &listed).is_ok());
    }
}
