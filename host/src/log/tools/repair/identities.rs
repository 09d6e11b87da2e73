//! Plugins whose registration, or what followed on it, is lost: brought back from the newest
//! checkpoint, or from what else names them.
//!
//! Without it a plugin would be registered anew, under another identity, and make everything that it
//! ever did again.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use crate::event::{CommitNumber, Digest, Generation, InstanceId, Position};
use crate::log::codec::{CompletionRef, EventRef};
use crate::log::disk::Disk;
use crate::log::record::Control;
use crate::state::checkpoint;
use crate::state::{At, Instance, Ledger};

/// What is left of who the plugins are.
#[derive(Debug, Default)]
pub(super) struct Identities {
    /// The highest identity.
    pub(super) last: InstanceId,
    registered: BTreeSet<InstanceId>,
    /// What each is registered to begin after, where its registration is left.
    after: BTreeMap<InstanceId, Position>,
    /// Names that a plugin that is left has, or had.
    taken: HashSet<String>,
    forgotten: BTreeSet<InstanceId>,
    activated: HashSet<(InstanceId, Generation, Digest, Position)>,
    rewound: HashSet<(InstanceId, Generation)>,
    rebuilt: HashSet<(InstanceId, Generation)>,
    /// Names by what plugins emitted.
    named: BTreeMap<InstanceId, String>,
    /// The first input of each.
    first: BTreeMap<InstanceId, Position>,
}

/// What can be brought back.
#[derive(Debug, Default)]
pub(super) struct Restored {
    pub(super) controls: Vec<Control>,
    /// Plugins registered again, with their names.
    pub(super) plugins: Vec<(InstanceId, String)>,
    /// Plugins of which nothing tells the name.
    pub(super) unknown: Vec<InstanceId>,
}

impl Identities {
    pub(super) fn control(&mut self, control: &Control) {
        match control {
            Control::Register { instance, name, after } => {
                self.last = self.last.max(*instance);
                self.registered.insert(*instance);
                self.after.insert(*instance, *after);
                self.taken.insert(name.clone());
            }
            Control::Rename { name, .. } => {
                self.taken.insert(name.clone());
            }
            Control::Lost { instances, .. } => self.last = self.last.max(*instances),
            Control::Forget { instance } => {
                self.forgotten.insert(*instance);
            }
            Control::Activate { instance, generation, module, after, .. } => {
                self.last = self.last.max(*instance);
                self.activated.insert((*instance, *generation, *module, *after));
            }
            Control::Rewind { instance, generation, .. } => {
                self.rewound.insert((*instance, *generation));
            }
            Control::Rebuilt { instance, generation } => {
                self.rebuilt.insert((*instance, *generation));
            }
            _ => {}
        }
    }

    /// Whether an event at a position comes before everything that a plugin gets.
    pub(super) fn is_before(&self, instance: InstanceId, position: Position) -> bool {
        self.after.get(&instance).is_some_and(|after| position <= *after)
    }

    pub(super) fn completion(&mut self, done: &CompletionRef<'_>) {
        self.last = self.last.max(done.instance);
        let first = self.first.entry(done.instance).or_insert(done.position);
        *first = done.position.min(*first);
    }

    pub(super) fn event(&mut self, event: &EventRef<'_>) {
        let Some(emitter) = event.emitter else { return };
        self.last = self.last.max(emitter);
        let name = event.source.rsplit('/').next().unwrap_or_default();
        if event.source.starts_with("/tidegate/") && !name.is_empty() {
            self.named.insert(emitter, name.to_owned());
        }
    }

    /// The records that bring back what is lost, where commits from `from` on are. No checkpoint of the
    /// commits `foreign` is asked.
    pub(super) fn restore(
        &mut self,
        disk: &dyn Disk,
        dir: &Path,
        log_id: [u8; 16],
        (from, foreign): (u64, &[CommitNumber]),
    ) -> Restored {
        let mut restored = Restored::default();
        let log_id = uuid::Uuid::from_bytes(log_id);
        let dir = dir.join(checkpoint::DIR);
        let newest = checkpoint::newest_ledger(disk, &dir, log_id, foreign);
        if let Some((ledger, At { commit, .. })) = newest
            && commit.0 >= from
        {
            self.by_ledger(&ledger, &mut restored);
        }
        self.by_traces(&mut restored);
        restored
    }

    fn by_ledger(&mut self, ledger: &Ledger, restored: &mut Restored) {
        self.last = self.last.max(InstanceId(ledger.next_instance().0.saturating_sub(1)));
        for plugin in ledger.instances() {
            if !self.registered.contains(&plugin.id) && self.is_free(plugin.id, &plugin.name) {
                let after = plugin.activations.first().map_or(Position(0), |first| first.after);
                // The first one may be lost itself, or not kept: what was delivered says that the
                // plugin was there before.
                let first = self.first.get(&plugin.id).map(|input| input.0.saturating_sub(1));
                let after = first.map_or(after, |first| after.min(Position(first)));
                self.register(plugin.id, plugin.name.clone(), after, restored);
            }
            self.activations(plugin, restored);
            self.rewinds(plugin, restored);
        }
    }

    fn activations(&self, plugin: &Instance, restored: &mut Restored) {
        for known in &plugin.activations {
            let id = (plugin.id, known.generation, known.module, known.after);
            if !self.activated.contains(&id) {
                restored.controls.push(Control::Activate {
                    instance: plugin.id,
                    generation: known.generation,
                    module: known.module,
                    environment: known.environment,
                    manifest: known.manifest.to_string(),
                    after: known.after,
                    // A rollback that it ended may be left in the log.
                    unpins: plugin.pinned.is_none(),
                });
            }
        }
    }

    fn rewinds(&self, plugin: &Instance, restored: &mut Restored) {
        let instance = plugin.id;
        for known in &plugin.rewinds {
            let generation = known.generation;
            if self.rewound.contains(&(instance, generation)) {
                continue;
            }
            let (after, until) = (known.after, known.until);
            restored.controls.push(Control::Rewind {
                instance,
                generation,
                after,
                until,
                done: until,
            });
            if known.carried {
                restored.controls.push(Control::Carried { instance, generation });
            }
            if known.serves_ms.is_some() && !self.rebuilt.contains(&(instance, generation)) {
                restored.controls.push(Control::Rebuilt { instance, generation });
            }
        }
    }

    /// Without a checkpoint: what plugins emitted has their names.
    fn by_traces(&mut self, restored: &mut Restored) {
        let seen: BTreeSet<InstanceId> =
            self.first.keys().chain(self.named.keys()).copied().collect();
        for instance in seen {
            if self.registered.contains(&instance) || self.forgotten.contains(&instance) {
                continue;
            }
            match self.named.get(&instance).cloned() {
                Some(name) if self.is_free(instance, &name) => {
                    let first = self.first.get(&instance).map_or(0, |first| first.0);
                    let after = Position(first.saturating_sub(1));
                    self.register(instance, name, after, restored);
                }
                _ => restored.unknown.push(instance),
            }
        }
    }

    fn is_free(&self, instance: InstanceId, name: &str) -> bool {
        !self.taken.contains(name) && !self.forgotten.contains(&instance)
    }

    fn register(
        &mut self,
        instance: InstanceId,
        name: String,
        after: Position,
        restored: &mut Restored,
    ) {
        self.registered.insert(instance);
        self.taken.insert(name.clone());
        restored.plugins.push((instance, name.clone()));
        let record = Control::Register { instance, name, after };
        // A registration comes before whatever else there is of the plugin.
        restored.controls.push(record);
    }
}
