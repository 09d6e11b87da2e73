//! Rewinds: a plugin's events once more, for a new state, on the module that stands in the folder.

use std::sync::Arc;

use super::install::{Candidate, for_exports};
use super::operate::unknown;
use super::{Plugins, lock};
use crate::api::host::HostError;
use crate::bus::Bus;
use crate::bus::carry::CarryError;
use crate::bus::deliver::{self, Deliverer};
use crate::event::{Generation, InstanceId, Position};
use crate::log::record::{Control, ControlRecord};
use crate::plugin::{Manifest, Start};
use crate::schedule::core::Cursor;
use crate::state::Instance;

impl Plugins {
    /// Rebuilds the state of a plugin from a point on: its events after it are delivered again to
    /// what stands in the folder, emits and calls left out. Queries see the state as it was until
    /// that has come to where the log ends now. Returns once the rewind is recorded and begun.
    ///
    /// # Errors
    /// There is no such plugin, its file is gone or refused, its bus has no log, events before the
    /// point are still to be delivered, or the state of then is not to be had.
    pub async fn rewind(
        self: &Arc<Self>,
        name: &str,
        to: &Start,
        actor: &str,
    ) -> Result<(), HostError> {
        self.after_scan().await?;
        let (plugins, name, actor) = (Arc::clone(self), name.to_owned(), actor.to_owned());
        let to = to.clone();
        self.to_the_end(async move { plugins.rewind_now(&name, &to, &actor).await }).await
    }

    async fn rewind_now(
        self: &Arc<Self>,
        name: &str,
        to: &Start,
        actor: &str,
    ) -> Result<(), HostError> {
        let turn = self.turn(name).ok_or_else(|| unknown(name))?;
        let _turn = turn.lock().await;
        let (bus, instance) = self.identified(name)?;
        if bus.log().is_none() {
            let bus = bus.name();
            let why = format!("the bus `{bus}` is in memory: it has no past to go back to");
            return Err(HostError::Conflict(why));
        }
        let after = point(&bus, to).await?;
        let candidate = self.candidate(name, &bus, actor).await?;
        Self::check_grants(&candidate).map_err(HostError::Conflict)?;
        Self::check_rebuilds(&candidate).map_err(HostError::Conflict)?;
        Self::check_upcasts(&candidate).map_err(HostError::Conflict)?;
        check_past(&bus, instance, after).await.map_err(HostError::Conflict)?;
        self.end_trial(name);
        let before = self.serving_candidate(name, &bus);
        let cursor = self.stop_for_rewind(name).await;
        let begun = self.begin_rewind(&candidate, instance, (after, cursor)).await;
        let goes_on = if begun.is_ok() { Some(candidate) } else { before };
        if let Some(candidate) = goes_on {
            self.activate(candidate).await.map_err(|refusal| HostError::Conflict(refusal.why))?;
        }
        begun
    }

    /// What stands in the folder, or the module that a rollback has pinned, ready to be put to work.
    async fn candidate(
        &self,
        name: &str,
        bus: &Arc<Bus>,
        actor: &str,
    ) -> Result<Candidate, HostError> {
        let source = lock(&self.entries).get(name).and_then(|entry| entry.source.clone());
        let Some(source) = source else {
            let why = format!("the file of plugin `{name}` is gone: put it back first");
            return Err(HostError::Conflict(why));
        };
        let (here, wanted) = (bus.name(), source.manifest.subscribe.bus());
        if wanted != &**here {
            let why =
                format!("plugin `{name}` is on the bus `{here}`, and its file is for `{wanted}`");
            return Err(HostError::Conflict(why));
        }
        let manifest = self.means.config.resolve(name, &source.manifest);
        let manifest = manifest.map_err(|error| HostError::Conflict(error.to_string()))?;
        let pinned = bus.ledger().named(name).and_then(|known| known.pinned);
        let wasm = match pinned {
            Some(digest) => self.kept_module(digest).await.map_err(HostError::Conflict)?,
            None => source.wasm.clone(),
        };
        let module =
            self.load(name, wasm).await.map_err(|refusal| HostError::Conflict(refusal.why))?;
        let manifest = for_exports(&Arc::new(manifest), module.exports);
        let (name, bus, actor) = (name.to_owned(), Arc::clone(bus), actor.into());
        Ok(Candidate { name, module, manifest, bus, actor })
    }

    /// What serves now, to go on with where there is no rewind.
    fn serving_candidate(&self, name: &str, bus: &Arc<Bus>) -> Option<Candidate> {
        let entries = lock(&self.entries);
        let entry = entries.get(name)?;
        let (runner, module) = (entry.runner.as_ref()?, entry.module.clone()?);
        Some(Candidate {
            name: name.to_owned(),
            module,
            manifest: Arc::clone(&runner.version().manifest),
            bus: Arc::clone(bus),
            actor: "host".into(),
        })
    }

    /// Stops the runner, and says how far it has come.
    async fn stop_for_rewind(&self, name: &str) -> Option<Cursor> {
        let runner = lock(&self.entries).get_mut(name).and_then(|entry| {
            let runner = entry.runner.take()?;
            entry.left = Some(Arc::clone(&runner));
            Some(runner)
        })?;
        runner.stop().await;
        Some(runner.cursor())
    }

    /// Records the rewind with what is to serve from it on. Nothing delivers meanwhile.
    async fn begin_rewind(
        &self,
        candidate: &Candidate,
        instance: InstanceId,
        (after, cursor): (Position, Option<Cursor>),
    ) -> Result<(), HostError> {
        let Candidate { manifest, module, bus, actor, .. } = candidate;
        let (generation, done) = {
            let ledger = bus.ledger();
            let known = ledger.instance(instance).ok_or_else(|| unknown(&candidate.name))?;
            let place = cursor.map_or((known.seen, known.low), |cursor| (cursor.seen, cursor.low));
            let (seen, low) = place;
            can_rewind(known, after, seen).map_err(HostError::Conflict)?;
            (Generation(known.generation.0.saturating_add(1)), known.done(low))
        };
        let record = |control| ControlRecord { actor: Arc::clone(actor), control };
        let until = bus.last_position();
        let records = [
            record(Control::Rewind { instance, generation, after, until, done }),
            record(Control::Activate {
                instance,
                generation,
                module: module.digest,
                environment: manifest.environment(module.digest),
                manifest: manifest.to_toml(),
                after,
                unpins: false,
            }),
        ];
        let committed = bus.control_asked(&records).done().await?;
        bus.until_applied(committed.commit).await;
        let name = &candidate.name;
        tracing::info!(plugin = name, %after, %until, "rewound: its state is being rebuilt");
        Ok(())
    }

    /// Carries the state over that a rewind begins with, where that was not done yet.
    ///
    /// # Errors
    /// Why not, in words.
    pub(super) async fn carry_over(
        &self,
        candidate: &Candidate,
        instance: InstanceId,
    ) -> Result<(), String> {
        let Candidate { name, manifest, module, bus, .. } = candidate;
        let begun = bus.ledger().instance(instance).and_then(to_carry);
        let Some((from, generation, after)) = begun else { return Ok(()) };
        let to = Deliverer {
            instance,
            generation,
            environment: manifest.environment(module.digest),
            bus: Arc::clone(bus.name()),
            source: deliver::source(bus.name(), name),
        };
        let carried = async {
            let state = bus.state_after(instance, from, after).await?;
            bus.carry_over(&to, state).await
        };
        carried.await.map_err(|error: CarryError| no_rewind(after, &error))
    }
}

/// Whether nothing at or before a position is still to be delivered. `seen`: how far the plugin has come.
fn can_rewind(known: &Instance, after: Position, seen: Position) -> Result<(), String> {
    let why = known.cannot_rewind(after, seen).filter(|_| after > Position(0));
    let name = &known.name;
    let refused = |why| format!("plugin `{name}` cannot go back to just after {after}: {why}");
    why.map_or(Ok(()), |why| Err(refused(why)))
}

/// Whether the state that a rewind to just after a position begins with can be carried over. Known only
/// once the log is read, so before anything is stopped. What runs again at or before the position could
/// change the answer until then.
async fn check_past(bus: &Bus, instance: InstanceId, after: Position) -> Result<(), String> {
    let from = match bus.ledger().instance(instance) {
        Some(known) => {
            // How far it has come is asked once it stands still.
            can_rewind(known, after, after)?;
            Some(known.generation_after(after))
        }
        None => None,
    };
    let Some(from) = from.filter(|_| after > Position(0)) else { return Ok(()) };
    let state = bus.state_after(instance, from, after).await;
    state.map(drop).map_err(|error| no_rewind(after, &error))
}

fn no_rewind(after: Position, error: &CarryError) -> String {
    format!("the rewind to just after {after}: {error}")
}

/// From which generation, to which, up to where.
fn to_carry(plugin: &Instance) -> Option<(Generation, Generation, Position)> {
    let rewound = plugin.rebuilding().filter(|rewound| !rewound.carried)?;
    Some((plugin.generation_after(rewound.after), rewound.generation, rewound.after))
}

/// The position just before the first event that is delivered again.
async fn point(bus: &Bus, to: &Start) -> Result<Position, HostError> {
    let last = bus.last_position();
    match to {
        Start::Earliest => Ok(Position(0)),
        Start::Latest => Ok(last),
        Start::Position(position) if position.0 > last.0.saturating_add(1) => {
            let why = format!("lies ahead: the last event is at position {last}");
            Err(HostError::Invalid { field: "to".to_owned(), why })
        }
        Start::Position(position) => Ok(Position(position.0.saturating_sub(1))),
        Start::Time { ms, .. } if *ms > bus.now_ms() => {
            let why = "lies ahead of the log's clock".to_owned();
            Err(HostError::Invalid { field: "to".to_owned(), why })
        }
        Start::Time { ms, .. } => {
            bus.position_before(*ms).await.map_err(crate::host::events::read_error)
        }
    }
}

/// Why a manifest cannot take over the state of the one that serves, in words.
pub(super) fn needs_rewind(name: &str, known: Option<&Instance>, new: &Manifest) -> Option<String> {
    let active = known.and_then(Instance::active)?;
    let old = Manifest::parse("the log", &active.manifest).ok()?.run.state_version;
    let new = new.run.state_version;
    (old != new).then(|| {
        format!(
            "`run.state-version` is {new}, and the state of the plugin is of version {old}: \
             `tidegate plugins rewind {name}` rebuilds it, on this module"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Digest;
    use crate::state::Ledger;
    use crate::state::ledger::At;

    fn known(manifest: &str) -> Ledger {
        let mut ledger = Ledger::default();
        let instance = InstanceId(1);
        let at = At { commit: crate::event::CommitNumber(1), time_ms: 1 };
        let mut apply = |control| {
            ledger.apply_control(at, &ControlRecord { actor: "test".into(), control });
        };
        apply(Control::Register { instance, name: "sums".into(), after: Position(0) });
        apply(Control::Activate {
            instance,
            generation: Generation(0),
            module: Digest::default(),
            environment: Digest::default(),
            manifest: manifest.to_owned(),
            after: Position(0),
            unpins: false,
        });
        ledger
    }

    #[test]
    fn state_of_another_version_needs_a_rewind() {
        let ledger = known("[run]\nstate-version = 2\n");
        let ask = |text: &str| {
            let manifest = Manifest::parse("sums.toml", text).unwrap();
            needs_rewind("sums", ledger.named("sums"), &manifest)
        };
        assert_eq!(ask("[run]\nstate-version = 2\n"), None);
        let words = ask("").unwrap();
        assert!(words.contains("is 1") && words.contains("plugins rewind sums"), "{words}");
        assert_eq!(needs_rewind("sums", None, &Manifest::default()), None);
    }
}
