//! Running past deliveries of a plugin again, as operators and pipelines ask for it.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use super::install::Candidate;
use super::operate::unknown;
use super::{Plugins, lock};
use crate::api::host::{DiffOn, DiffRequest, HostError};
use crate::api::view::{ChangeView, DiffView, DifferenceView};
use crate::bus::Bus;
use crate::bus::replay::{self, Change, Judged, On, Plan, Verdict};
use crate::bus::runner::Version;
use crate::event::{Digest, Generation, InstanceId, Position};
use crate::limits::{GUEST_TIMEOUT_MAX, REPLAY_TASKS_MAX};
use crate::plugin::Manifest;
use crate::schedule::pool::Share;
use crate::state::Activation;
use crate::wasm::GuestLimits;

/// A replay runs beside everything else, so its guests get more wall time than `limits.timeout`.
const TIMEOUT_FACTOR: u32 = 10;

/// What the log knows of the plugin.
struct Known {
    name: String,
    bus: Arc<Bus>,
    instance: InstanceId,
    generation: Generation,
    /// The rewind that began this generation went back to just after it: what was delivered before is of
    /// an earlier one.
    after: Position,
    activations: Vec<Activation>,
}

impl Plugins {
    /// Begins a replay: what it comes to is told by the future. Dropping that ends the replay.
    ///
    /// # Errors
    /// There is no such plugin, the range or module makes no sense, or enough replays run.
    pub async fn diff(
        self: &Arc<Self>,
        name: &str,
        request: DiffRequest,
    ) -> Result<impl Future<Output = DiffView> + Send + 'static + use<>, HostError> {
        let known = self.known_of(name)?;
        let last = known.bus.last_position();
        let first = Position(known.after.0.saturating_add(1));
        let from = request.from.unwrap_or(first).max(first);
        let to = request.to.unwrap_or(last);
        let invalid =
            |field: &str, why: String| HostError::Invalid { field: field.to_owned(), why };
        if to > last {
            return Err(invalid("to", format!("lies ahead: the last event is at position {last}")));
        }
        if to <= known.after && to > Position(0) {
            let why = format!(
                "is before {first}: a rewind has carried over what came of the events before, and only \
                 deliveries from there on can be compared"
            );
            return Err(invalid("to", why));
        }
        if from > to && to > Position(0) {
            return Err(invalid("from", format!("is after `to`, which is {to}")));
        }
        let permit = Arc::clone(&self.replays).try_acquire_owned().map_err(|_| {
            HostError::Conflict("enough replays run already: try again later".to_owned())
        })?;
        let (on, module) = self.on(&known, request.on).await?;
        let number = self.replays_begun.fetch_add(1, Ordering::Relaxed);
        let scratch = self.means.config.data.join("cache").join("replay").join(number.to_string());
        let plan = Plan {
            subscriptions: self.subscriptions_of(&known),
            bus: known.bus,
            instance: known.instance,
            generation: known.generation,
            from,
            to,
            on,
            tenant: self.means.pool.tenant_with(name, Share::Low),
            tasks_max: REPLAY_TASKS_MAX.min(self.means.workers.max(1)),
            scratch,
        };
        let view = DiffView {
            plugin: name.to_owned(),
            module: module.map(|digest| digest.to_string()),
            from: from.0,
            to: to.0,
            ..DiffView::default()
        };
        Ok(report(plan, view, request.differences_max, permit))
    }

    fn known_of(&self, name: &str) -> Result<Known, HostError> {
        let (bus, instance) = self.identified(name)?;
        if bus.log().is_none() {
            let why = format!("the bus `{}` is in memory, and keeps no past", bus.name());
            return Err(HostError::Conflict(why));
        }
        let (generation, after, activations) = {
            let ledger = bus.ledger();
            let plugin = ledger.instance(instance).ok_or_else(|| unknown(name))?;
            let after = plugin.rewound().map_or(Position(0), |rewound| rewound.after);
            (plugin.generation, after, plugin.activations.clone())
        };
        Ok(Known { name: name.to_owned(), bus, instance, generation, after, activations })
    }

    fn subscriptions_of(&self, known: &Known) -> crate::bus::runner::Subscriptions {
        let manifests = known.activations.iter().filter_map(|activation| {
            let manifest = Manifest::parse("the log", &activation.manifest).ok()?;
            Some((activation.after, Arc::new(manifest.subscribe)))
        });
        manifests.collect()
    }

    /// What the deliveries run on, and the digest of the module where it is one for all.
    async fn on(&self, known: &Known, on: DiffOn) -> Result<(On, Option<Digest>), HostError> {
        let wasm = match on {
            DiffOn::Recorded => return Ok((On::Recorded(self.recorded(known).await), None)),
            DiffOn::Given(wasm) => Some(wasm),
            DiffOn::Kept(digest) => {
                Some(self.kept_module(digest).await.map_err(HostError::Conflict)?)
            }
            DiffOn::Serving => None,
        };
        let serving = lock(&self.entries).get(&known.name).and_then(|entry| entry.runner.clone());
        let serving = serving.map(|runner| runner.version());
        let (manifest, kept) = match (&serving, known.activations.last()) {
            (Some(version), _) => (Arc::clone(&version.manifest), None),
            (None, Some(last)) => {
                let manifest = Manifest::parse("the log", &last.manifest);
                let manifest = manifest.map_err(|error| HostError::Conflict(error.to_string()))?;
                (Arc::new(manifest), Some(last.module))
            }
            (None, None) => {
                let why = format!("no module of `{}` ever served", known.name);
                return Err(HostError::Conflict(why));
            }
        };
        let wasm = match (wasm, kept) {
            (Some(wasm), _) => wasm,
            (None, Some(digest)) => self.kept_module(digest).await.map_err(HostError::Conflict)?,
            (None, None) => {
                let version = serving.ok_or(HostError::ShuttingDown)?;
                return Ok((On::One(Arc::new(unhurried(&version))), Some(version.digest)));
            }
        };
        let version = self.version_of(known, wasm, manifest).await.map_err(|why| {
            HostError::Invalid { field: "module".to_owned(), why: format!("is refused: {why}") }
        })?;
        let digest = version.digest;
        Ok((On::One(Arc::new(version)), Some(digest)))
    }

    /// Every version that served, by its environment; those that are not kept are left out.
    async fn recorded(&self, known: &Known) -> HashMap<Digest, Arc<Version>> {
        let mut versions = HashMap::new();
        for activation in &known.activations {
            if versions.contains_key(&activation.environment) {
                continue;
            }
            let version = async {
                let manifest = Manifest::parse("the log", &activation.manifest);
                let manifest = manifest.map_err(|error| error.to_string())?;
                let wasm = self.kept_module(activation.module).await?;
                self.version_of(known, wasm, Arc::new(manifest)).await
            };
            match version.await {
                Ok(version) => {
                    versions.insert(activation.environment, Arc::new(version));
                }
                Err(why) => {
                    let module = activation.module.short();
                    tracing::warn!(plugin = known.name, %module, why, "cannot be run again");
                }
            }
        }
        versions
    }

    async fn version_of(
        &self,
        known: &Known,
        wasm: bytes::Bytes,
        manifest: Arc<Manifest>,
    ) -> Result<Version, String> {
        let module =
            self.means.sandbox.load(&known.name, wasm).await.map_err(|error| error.to_string())?;
        let candidate = Candidate {
            name: known.name.clone(),
            module,
            manifest,
            bus: Arc::clone(&known.bus),
            actor: "host".into(),
        };
        Ok(unhurried(&self.version(&candidate, known.instance, known.generation)))
    }
}

/// The same version with more wall time.
pub(super) fn unhurried(version: &Version) -> Version {
    let limits = GuestLimits {
        timeout: (version.limits.timeout * TIMEOUT_FACTOR)
            .min(Duration::from_millis(GUEST_TIMEOUT_MAX.ms())),
        ..GuestLimits::clone(&version.limits)
    };
    Version { limits: Arc::new(limits), ..version.clone() }
}

async fn report(
    plan: Plan,
    mut view: DiffView,
    differences_max: usize,
    permit: OwnedSemaphorePermit,
) -> DiffView {
    let result = replay::run(&plan, |judged| count(&mut view, judged, differences_max)).await;
    drop(permit);
    view.failed = result.err().map(|error| error.to_string());
    view
}

fn count(view: &mut DiffView, judged: Judged, differences_max: usize) {
    match judged.verdict {
        Verdict::Equal => view.equal += 1,
        Verdict::PassedOver => view.passed_over += 1,
        Verdict::NotReplayable(obstacle) => {
            view.not_replayable += 1;
            *view.obstacles.entry(obstacle.to_string()).or_default() += 1;
        }
        Verdict::Different(changes) => {
            view.different += 1;
            if view.differences.len() < differences_max {
                view.differences.push(DifferenceView {
                    position: judged.position.0,
                    key: judged.key.map(|key| key.to_string()),
                    changes: changes.into_iter().map(show_change).collect(),
                });
            }
        }
    }
}

/// A change, as the API shows it.
pub(super) fn show_change(change: Change) -> ChangeView {
    let Change { what, before, after } = change;
    ChangeView { what, before, after }
}
