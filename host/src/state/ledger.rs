//! Who the plugins of a bus are and how far each has come: everything the log says but for the
//! keyed values themselves.
//!
//! `apply` methods are total: whatever a record says, the worst it can do is to be ignored and
//! counted, so that one odd record never makes a log unopenable.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::calls::{OpenCall, OpenCalls};
use super::commands::Commands;
use super::instance::{Activation, Instance};
use super::letters::{DeadLetter, DeadLetters};
use crate::effects::OutcomeKind;
use crate::event::{CommitNumber, Digest, Generation, InstanceId, Position};
use crate::log::record::{Control, ControlRecord, DeadLetterRecord};
use crate::schedule::core::Settled;

/// Where in the log a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct At {
    /// The commit.
    pub commit: CommitNumber,
    /// Its log time in milliseconds since the Unix epoch.
    pub time_ms: u64,
}

/// A completion, as the ledger takes it.
#[derive(Debug, Clone, Copy)]
pub struct Completed<'a> {
    /// The plugin.
    pub instance: InstanceId,
    /// Its generation.
    pub generation: Generation,
    /// The input event.
    pub position: Position,
    /// Its key.
    pub key: Option<&'a str>,
    /// The attempt that ended it.
    pub attempt: u32,
    /// How it ended.
    pub outcome: OutcomeKind,
    /// Set where it was given up.
    pub dead: Option<&'a DeadLetterRecord>,
}

/// See the module.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Ledger {
    instances: BTreeMap<InstanceId, Instance>,
    names: HashMap<String, InstanceId>,
    last_instance: u32,
    dead_letters: DeadLetters,
    /// By source bus: the last position taken from there.
    forwarded: HashMap<String, Position>,
    /// By the hash of a source log's id: the bus it was of, and the last position taken from there.
    #[serde(default)]
    forwarded_logs: HashMap<Digest, (String, Position)>,
    /// By target bus: the last position meant for there.
    outbound: HashMap<String, Position>,
    /// By event type.
    types: HashMap<String, TypeCount>,
    /// Commands that are not to run again. Shared while a checkpoint is written.
    #[serde(default)]
    commands: Arc<Commands>,
    /// Records that made no sense where they stood.
    ignored: u64,
    /// Calls that are not answered.
    #[serde(default)]
    calls: OpenCalls,
}

/// How often a type was seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeCount {
    /// Public events of it.
    pub count: u64,
    /// How many of them came from outside.
    #[serde(default)]
    pub ingested: u64,
    /// Log time of the last one.
    pub last_ms: u64,
}

/// Where a public event came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It was published.
    Outside,
    /// A plugin emitted it, here or on another bus.
    Plugin,
}

impl Origin {
    /// Of an event with this emitter, or forwarded from another bus.
    #[must_use]
    pub fn of(emitter: Option<InstanceId>, forwarded: bool) -> Self {
        if emitter.is_some() || forwarded { Self::Plugin } else { Self::Outside }
    }
}

/// Types counted of one bus: who invents a type per event gets no count for the later ones.
const TYPES_MAX: usize = 10_000;

impl Ledger {
    /// The plugin with this identity.
    #[must_use]
    pub fn instance(&self, id: InstanceId) -> Option<&Instance> {
        self.instances.get(&id)
    }

    /// The plugin bound to this name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Instance> {
        self.names.get(name).and_then(|id| self.instances.get(id))
    }

    pub(super) fn instance_mut(&mut self, id: InstanceId) -> Option<&mut Instance> {
        self.instances.get_mut(&id)
    }

    /// Gives no identity up to this one again.
    pub(super) fn keep_identities(&mut self, last: InstanceId) {
        self.last_instance = self.last_instance.max(last.0);
    }

    pub(super) const fn ignore(&mut self, records: u64) {
        self.ignored += records;
    }

    /// All plugins that were registered and not forgotten, by identity.
    pub fn instances(&self) -> impl Iterator<Item = &Instance> {
        self.instances.values()
    }

    /// An identity that no plugin of this log ever had, if it is registered before the next call.
    #[must_use]
    pub fn next_instance(&self) -> InstanceId {
        InstanceId(self.last_instance.saturating_add(1))
    }

    /// Dead letters that were neither redriven nor discarded, oldest first.
    pub fn dead_letters(&self) -> impl DoubleEndedIterator<Item = &DeadLetter> {
        self.dead_letters.iter()
    }

    /// One dead letter.
    #[must_use]
    pub fn dead_letter(&self, id: u64) -> Option<&DeadLetter> {
        self.dead_letters.get(id)
    }

    /// The dead letter of this input.
    #[must_use]
    pub fn dead_letter_of(&self, id: InstanceId, position: Position) -> Option<&DeadLetter> {
        self.dead_letters.of(self.instances.get(&id)?, position)
    }

    /// The last position of `bus`, which has this log, whose emitted events arrived here: the log counts,
    /// whatever its bus was called then.
    #[must_use]
    pub fn forwarded(&self, bus: &str, log: &Digest) -> Position {
        if let Some((_, position)) = self.forwarded_logs.get(log) {
            return *position;
        }
        // What arrived under this name was of another log.
        if self.forwarded_logs.values().any(|(of, _)| of == bus) {
            return Position(0);
        }
        self.forwarded.get(bus).copied().unwrap_or_default()
    }

    /// The last position here that is meant for `bus`.
    #[must_use]
    pub fn outbound(&self, bus: &str) -> Position {
        self.outbound.get(bus).copied().unwrap_or_default()
    }

    /// Records that made no sense where they stood, and were ignored.
    #[must_use]
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    /// Calls that are not answered.
    #[must_use]
    pub fn calls(&self) -> &OpenCalls {
        &self.calls
    }

    /// Takes the calls that a delivery recorded, after its completion; gives how many are open now
    /// that were not before. Those of a plugin that is gone, or of a generation it has left, are not
    /// sent.
    pub fn apply_calls(&mut self, calls: Vec<OpenCall>) -> usize {
        let before = self.calls.len();
        for call in calls {
            let known = self.instances.get(&call.instance);
            if known.is_some_and(|instance| instance.generation == call.generation) {
                self.calls.open(call);
            } else {
                self.ignored += 1;
            }
        }
        self.calls.len() - before
    }

    /// Takes a response, by the id of its event; true: its call was open.
    pub fn apply_response(&mut self, instance: InstanceId, id: &str) -> bool {
        self.calls.answered(instance, id)
    }

    /// Commands that are not to run again.
    #[must_use]
    pub fn commands(&self) -> &Commands {
        &self.commands
    }

    /// The same, to take what the log says of them.
    pub fn commands_mut(&mut self) -> &mut Commands {
        Arc::make_mut(&mut self.commands)
    }

    /// Event types seen, in no order.
    pub fn types(&self) -> impl Iterator<Item = (&str, TypeCount)> {
        self.types.iter().map(|(kind, count)| (kind.as_str(), *count))
    }

    /// Takes a public event.
    pub fn apply_event(&mut self, kind: &str, from: Origin, recorded_ms: u64) {
        let count = |seen: &mut TypeCount| {
            seen.count += 1;
            seen.ingested += u64::from(from == Origin::Outside);
            seen.last_ms = recorded_ms;
        };
        if let Some(seen) = self.types.get_mut(kind) {
            count(seen);
        } else if self.types.len() < TYPES_MAX {
            count(self.types.entry(kind.to_owned()).or_default());
        }
    }

    /// Takes an event that is on its way to another bus.
    pub fn apply_outbound(&mut self, bus: &str, position: Position) {
        if let Some(last) = self.outbound.get_mut(bus) {
            *last = position;
        } else {
            self.outbound.insert(bus.to_owned(), position);
        }
    }

    /// Takes the end of a delivery.
    pub fn apply_completion(&mut self, at: At, done: &Completed<'_>) {
        let Some(instance) = self.instances.get_mut(&done.instance) else {
            self.ignored += 1;
            return;
        };
        if instance.generation != done.generation && !planted!(AcceptsOldGeneration) {
            self.ignored += 1;
            return;
        }
        if let Some(key) = done.key {
            instance.go_on(key, done.position);
        }
        let tried = instance.end(done.position);
        if let Some(count) = instance.outcomes.get_mut(done.outcome as usize) {
            *count += if planted!(AppliesTwice) { 2 } else { 1 };
        }
        match done.dead {
            None => {
                instance.given_up.remove(done.position.0);
                self.dead_letters.remove(instance, done.position);
            }
            Some(_) if planted!(ForgetsDeadLetters) => {}
            Some(dead) => {
                self.dead_letters.put(instance, at, done, dead, tried);
            }
        }
    }

    /// Takes that a memory bus dropped a delivery, its event or what came of it: it is over, and a dead
    /// letter that ran again stays one.
    pub fn apply_dropped(&mut self, id: InstanceId, generation: Generation, position: Position) {
        match self.instances.get_mut(&id) {
            Some(instance) if instance.generation == generation => {
                instance.end(position);
            }
            _ => self.ignored += 1,
        }
    }

    /// Takes a control record.
    pub fn apply_control(&mut self, at: At, record: &ControlRecord) {
        match &record.control {
            Control::Register { instance, name, after } => self.register(*instance, name, *after),
            Control::Rename { instance, name } => self.rename(*instance, name),
            Control::Forget { instance } => self.forget(*instance),
            Control::Forwarded { bus, position, log } => self.forward(bus, *position, *log),
            Control::Lost { instances, over, .. } => self.lose(*instances, over),
            Control::Epoch { .. }
            | Control::Checkpoint { .. }
            | Control::Erase { .. }
            | Control::Expire { .. }
            | Control::FollowClock { .. }
            | Control::Archive { .. } => {}
            control => self.apply_to_instance(at, &record.actor, control),
        }
    }

    fn forward(&mut self, bus: &str, position: Position, log: Option<Digest>) {
        self.forwarded.insert(bus.to_owned(), position);
        if let Some(log) = log {
            self.forwarded_logs.insert(log, (bus.to_owned(), position));
            return;
        }
        // A host before went on with it.
        for (_, taken) in self.forwarded_logs.values_mut().filter(|(of, _)| of == bus) {
            *taken = position;
        }
    }

    fn apply_to_instance(&mut self, at: At, actor: &Arc<str>, control: &Control) {
        let id = match control {
            Control::Activate { instance, .. }
            | Control::Pause { instance, .. }
            | Control::Resume { instance }
            | Control::Rewind { instance, .. }
            | Control::Carried { instance, .. }
            | Control::Rebuilt { instance, .. }
            | Control::Rollback { instance, .. }
            | Control::Park { instance, .. }
            | Control::Hold { instance, .. }
            | Control::Release { instance, .. }
            | Control::Redrive { instance, .. }
            | Control::Discard { instance, .. } => *instance,
            Control::Attempt(attempt) => attempt.instance,
            _ => return,
        };
        let Some(plugin) = self.instances.get_mut(&id) else {
            self.ignored += 1;
            return;
        };
        match control {
            Control::Activate {
                generation, module, environment, manifest, after, unpins, ..
            } => {
                if *unpins || plugin.pinned != Some(*module) {
                    plugin.pinned = None;
                    plugin.file = Some(*module);
                }
                plugin.activate(Activation {
                    after: *after,
                    module: *module,
                    environment: *environment,
                    manifest: manifest.as_str().into(),
                    at_ms: at.time_ms,
                    generation: *generation,
                });
            }
            Control::Pause { reason, .. } => plugin.paused = Some(reason.clone()),
            Control::Resume { .. } => plugin.paused = None,
            Control::Rollback { module, .. } => plugin.pinned = Some(*module),
            Control::Rewind { generation, after, until, done, .. } => {
                if plugin.begin(*generation, (*after, *until), *done) {
                    self.dead_letters.remove_after(plugin, *after);
                } else {
                    self.ignored += 1;
                }
            }
            Control::Carried { .. } | Control::Rebuilt { .. } => {
                self.ignored += u64::from(!plugin.apply_to_rewind(at, control));
            }
            Control::Attempt(attempt) => plugin.failed(at, attempt),
            Control::Redrive { position, .. } => {
                let letter = self.dead_letters.of(plugin, *position);
                let done = letter.is_some_and(|dead| plugin.redrive(dead.key.as_ref(), *position));
                self.ignored += u64::from(!done);
            }
            Control::Discard { position, .. } => {
                let letter = self.dead_letters.of(plugin, *position);
                if letter.is_some_and(|dead| plugin.discard(dead.key.as_ref(), *position)) {
                    plugin.given_up.remove(position.0);
                    self.dead_letters.remove(plugin, *position);
                } else {
                    self.ignored += 1;
                }
            }
            control => self.ignored += u64::from(!plugin.apply_to_key(at, actor, control)),
        }
    }

    fn register(&mut self, id: InstanceId, name: &str, after: Position) {
        if self.instances.contains_key(&id) || self.names.contains_key(name) {
            self.ignored += 1;
            return;
        }
        self.last_instance = self.last_instance.max(id.0);
        self.names.insert(name.to_owned(), id);
        self.instances.insert(id, Instance::new(id, name, after));
    }

    fn rename(&mut self, id: InstanceId, name: &str) {
        let taken = self.names.get(name).is_some_and(|holder| *holder != id);
        let Some(plugin) = self.instances.get_mut(&id).filter(|_| !taken) else {
            self.ignored += 1;
            return;
        };
        self.names.remove(&plugin.name);
        name.clone_into(&mut plugin.name);
        self.names.insert(name.to_owned(), id);
    }

    fn forget(&mut self, id: InstanceId) {
        let Some(plugin) = self.instances.remove(&id) else {
            self.ignored += 1;
            return;
        };
        self.names.remove(&plugin.name);
        self.dead_letters.forget(id);
        self.calls.forget(id);
        self.commands_mut().forget(id);
    }

    /// Notes how far a plugin has durably come. Not a record of its own: the schedulers know it, and
    /// a checkpoint keeps it, so that a restart need not look at those events again.
    pub fn settle(&mut self, id: InstanceId, settled: &Settled) {
        let Some(plugin) = self.instances.get_mut(&id) else { return };
        if settled.low > plugin.low {
            plugin.completed.remove_range(..=settled.low.0);
            plugin.low = settled.low;
        }
        for (key, deferred) in &settled.deferred {
            plugin.count_behind(key, *deferred);
        }
        plugin.seen_up_to(settled.seen.max(plugin.low), &settled.back);
    }
}

#[cfg(test)]
mod tests;
