//! Lifting old events to their present shape, before a handler sees them.
//!
//! A plugin whose module exports `upcaster` says in `[upcast]` which versions of which types it
//! lifts, for every plugin of its bus. The stored event never changes: what is lifted is the copy
//! that a delivery is handed. A lift is pure and leads to a higher version, so that what one plugin
//! was handed another can be handed too, and every chain ends.
//!
//! The rule that must not break: an event that somebody has undertaken to lift is never handed over
//! in its old shape. Where its upcaster is not there, the delivery waits or fails.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use uuid::Uuid;

use super::notes::{Line, PluginLog};
use crate::effects::Outcome;
use crate::event::{Event, InstanceId, NewEvent, Position};
use crate::limits::{UPCAST_CACHE_BYTES_MAX, UPCAST_CACHE_EVENTS_MAX, UPCAST_STEPS_MAX};
use crate::wasm::{Delivery, GuestLimits, Invocation, Invoker, Lifted, Seed, Slot};

/// Versions by type: `[upcast]` of a manifest.
pub type Kinds = BTreeMap<String, Vec<u32>>;

/// Warm instances kept of one upcaster.
const IDLE_MAX: usize = 8;

/// A module that lifts events.
pub struct Upcaster {
    /// The plugin it belongs to.
    pub instance: InstanceId,
    /// Its name.
    pub name: Arc<str>,
    /// What it lifts.
    pub kinds: Kinds,
    /// The module.
    pub invoker: Arc<dyn Invoker>,
    /// What each lift may use.
    pub limits: Arc<GuestLimits>,
    /// `[config]` of its manifest.
    pub config: Arc<BTreeMap<String, String>>,
    /// Id of the log: seeds what looks random to it.
    pub log_id: Uuid,
    /// Where its log lines go.
    pub log: Arc<PluginLog>,
    /// Instances that may serve again.
    pub idle: Idle,
}

/// Warm instances of one upcaster.
#[derive(Default)]
pub struct Idle(Mutex<Vec<Slot>>);

/// All upcasters of one bus.
pub struct Upcasters {
    claims: Mutex<BTreeMap<InstanceId, Claim>>,
    lifts: ArcSwap<Lifts>,
    changed: watch::Sender<()>,
}

/// What one plugin has undertaken to lift.
#[derive(Clone)]
struct Claim {
    name: Arc<str>,
    kinds: Kinds,
    presence: Presence,
}

/// Whether the module of a claim is there.
#[derive(Clone)]
enum Presence {
    /// The host has just started: it may still come.
    Loading,
    /// Its file is gone, or was refused.
    Absent,
    Here(Arc<Upcaster>),
}

/// What all claims together come to; replaced as a whole.
#[derive(Default)]
struct Lifts {
    /// By type and version.
    by: HashMap<String, BTreeMap<u32, (Arc<str>, Presence)>>,
    cache: Mutex<Cache>,
}

/// Events lifted a moment ago: several plugins get the same one.
#[derive(Default)]
struct Cache {
    lifted: HashMap<Position, Arc<Event>>,
    oldest: VecDeque<Position>,
    bytes: usize,
}

/// Where the next step of an event leads.
enum Step {
    /// It is in its newest shape.
    Newest,
    /// The host has not loaded its upcaster yet.
    Wait,
    /// Its upcaster is not there.
    Absent(Arc<str>),
    Lift(Arc<Upcaster>),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is under these locks is replaced or pushed as a whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The version an event is taken for: one that says none is of the first.
#[must_use]
pub fn version_of(event: &NewEvent) -> u32 {
    event.schema_version.max(1)
}

impl Default for Upcasters {
    fn default() -> Self {
        Self { claims: Mutex::default(), lifts: ArcSwap::default(), changed: watch::channel(()).0 }
    }
}

impl Upcasters {
    /// Notes what a plugin lifted when the log was last written: its events wait for it.
    pub fn expect(&self, instance: InstanceId, name: &str, kinds: Kinds) {
        self.claim(instance, Claim { name: name.into(), kinds, presence: Presence::Loading });
    }

    /// Lets a module lift; what the same plugin lifted before it lifts no longer.
    pub fn serve(&self, upcaster: Upcaster) {
        let (name, kinds) = (Arc::clone(&upcaster.name), upcaster.kinds.clone());
        let instance = upcaster.instance;
        self.claim(instance, Claim { name, kinds, presence: Presence::Here(Arc::new(upcaster)) });
    }

    fn claim(&self, instance: InstanceId, claim: Claim) {
        let mut claims = lock(&self.claims);
        if claim.kinds.is_empty() {
            if claims.remove(&instance).is_none() {
                return;
            }
        } else {
            claims.insert(instance, claim);
        }
        self.publish(&claims);
    }

    /// Notes that the module of a plugin is not there: what it has undertaken is not done by
    /// anybody. Nothing happens where it lifts nothing.
    pub fn leave(&self, instance: InstanceId) {
        let mut claims = lock(&self.claims);
        let Some(claim) = claims.get_mut(&instance) else { return };
        claim.presence = Presence::Absent;
        self.publish(&claims);
    }

    /// Ends what a plugin has undertaken.
    pub fn withdraw(&self, instance: InstanceId) {
        let mut claims = lock(&self.claims);
        if claims.remove(&instance).is_some() {
            self.publish(&claims);
        }
    }

    /// Plugins whose module was not seen since the host started.
    #[must_use]
    pub fn loading(&self) -> Vec<(InstanceId, Arc<str>)> {
        let claims = lock(&self.claims);
        let loading =
            claims.iter().filter(|(_, claim)| matches!(claim.presence, Presence::Loading));
        loading.map(|(instance, claim)| (*instance, Arc::clone(&claim.name))).collect()
    }

    /// Why `kinds` cannot be what a plugin lifts, in words: somebody else lifts one of them.
    #[must_use]
    pub fn conflict(&self, instance: Option<InstanceId>, kinds: &Kinds) -> Option<String> {
        let claims = lock(&self.claims);
        let others = claims.iter().filter(|(holder, _)| Some(**holder) != instance);
        others.flat_map(|(_, claim)| claim.kinds.iter().map(|kind| (&claim.name, kind))).find_map(
            |(name, (kind, theirs))| {
                let version = theirs.iter().find(|version| {
                    kinds.get(kind).is_some_and(|wanted| wanted.contains(version))
                })?;
                Some(format!(
                    "`upcast.\"{kind}\"` has version {version}, which `{name}` lifts already: take \
                     it out of one of them, or `tidegate plugins forget {name}` where that is gone"
                ))
            },
        )
    }

    fn publish(&self, claims: &BTreeMap<InstanceId, Claim>) {
        let mut by: HashMap<String, BTreeMap<u32, _>> = HashMap::new();
        for claim in claims.values() {
            for (kind, versions) in &claim.kinds {
                let lifts = by.entry(kind.clone()).or_default();
                lifts.extend(
                    versions.iter().map(|version| {
                        (*version, (Arc::clone(&claim.name), claim.presence.clone()))
                    }),
                );
            }
        }
        self.lifts.store(Arc::new(Lifts { by, cache: Mutex::default() }));
        self.changed.send_replace(());
    }

    /// The newest form of an event: itself where nobody lifts it. Waits for upcasters that the
    /// host is still loading.
    ///
    /// Cancel safe: nothing is lost.
    ///
    /// # Errors
    /// How the delivery fails; the words name the upcaster.
    pub async fn lift(&self, event: &Arc<Event>) -> Result<Arc<Event>, Box<Invocation>> {
        if !self.lifts.load().concerns(event) {
            return Ok(Arc::clone(event));
        }
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            let lifts = self.lifts.load_full();
            match lifts.lift(event).await? {
                Some(lifted) => return Ok(lifted),
                // An error means that the bus is gone, and the host with it.
                None => drop(changed.changed().await),
            }
        }
    }
}

impl Lifts {
    fn concerns(&self, event: &Event) -> bool {
        !self.by.is_empty() && self.by.contains_key(&*event.kind)
    }

    /// None: an upcaster of the chain may still come.
    async fn lift(&self, event: &Arc<Event>) -> Result<Option<Arc<Event>>, Box<Invocation>> {
        if let Some(lifted) = lock(&self.cache).lifted.get(&event.position) {
            return Ok(Some(Arc::clone(lifted)));
        }
        let mut shape = Arc::clone(event);
        for _ in 0..UPCAST_STEPS_MAX {
            match self.step(&shape) {
                Step::Newest => {
                    if !Arc::ptr_eq(&shape, event) {
                        lock(&self.cache).keep(&shape);
                    }
                    return Ok(Some(shape));
                }
                Step::Wait => return Ok(None),
                Step::Absent(name) => return Err(Box::new(absent(&name, &shape))),
                Step::Lift(upcaster) => shape = upcaster.lift(&shape).await?,
            }
        }
        let reason = format!(
            "`{}` was lifted {UPCAST_STEPS_MAX} times, to version {}, and is not in its newest \
             shape yet",
            event.kind, shape.schema_version
        );
        Err(Box::new(Invocation::unrun(Outcome::Trap { reason })))
    }

    fn step(&self, event: &Event) -> Step {
        let versions = self.by.get(&*event.kind);
        match versions.and_then(|versions| versions.get(&version_of(event))) {
            None => Step::Newest,
            Some((_, Presence::Loading)) => Step::Wait,
            Some((name, Presence::Absent)) => Step::Absent(Arc::clone(name)),
            Some((_, Presence::Here(upcaster))) => Step::Lift(Arc::clone(upcaster)),
        }
    }
}

impl Upcaster {
    /// One step.
    async fn lift(&self, event: &Arc<Event>) -> Result<Arc<Event>, Box<Invocation>> {
        let version = version_of(event);
        let delivery = Delivery {
            event,
            attempt: 1,
            redriven: false,
            // Without generation and attempt: the same event is always lifted to the same.
            seed: Seed { log_id: self.log_id, instance: self.instance, ..Seed::default() },
            config: &self.config,
            limits: &self.limits,
            state: Arc::new(()),
            outside: None,
        };
        let mut slot = lock(&self.idle.0).pop().unwrap_or_default();
        let upcast = self.invoker.upcast(&mut slot, delivery, version).await;
        self.put_back(slot);
        self.keep_logs(event, &upcast.invocation);
        match upcast.lifted {
            Some(lifted) if upcast.invocation.outcome == Outcome::Ok => {
                Ok(Arc::new(reshaped(event, lifted)))
            }
            _ => Err(self.failed(event, upcast.invocation)),
        }
    }

    fn put_back(&self, slot: Slot) {
        let mut idle = lock(&self.idle.0);
        if idle.len() < IDLE_MAX {
            idle.push(slot);
        }
    }

    fn keep_logs(&self, event: &Event, invocation: &Invocation) {
        for line in &invocation.logs {
            self.log.push(Line {
                at_ms: event.recorded_ms,
                level: line.level.clone(),
                message: line.message.clone(),
                position: Some(event.position),
                key: event.key.as_ref().map(ToString::to_string),
                attempt: None,
            });
        }
    }

    /// How a delivery fails whose event could not be lifted. Not as a `reject`: that is the verdict
    /// of the handler itself, and its key would go on.
    fn failed(&self, event: &Event, mut invocation: Box<Invocation>) -> Box<Invocation> {
        let outcome = &invocation.outcome;
        let why = match outcome.reason() {
            why if why.is_empty() => outcome.kind().name().to_owned(),
            why => why,
        };
        let (name, kind, version) = (&self.name, &event.kind, version_of(event));
        let reason = format!("upcaster `{name}` cannot lift `{kind}` version {version}: {why}");
        invocation.outcome = match outcome {
            Outcome::Timeout | Outcome::Retry { .. } => Outcome::Retry { reason, after_ms: None },
            _ => Outcome::Trap { reason },
        };
        invocation
    }
}

/// The event with other data.
#[must_use]
pub fn reshaped(event: &Event, lifted: Lifted) -> Event {
    let body = NewEvent {
        content_type: lifted.content_type.into(),
        data: lifted.data,
        schema_version: lifted.version,
        ..event.body.clone()
    };
    Event { body, ..*event }
}

fn absent(name: &str, event: &Event) -> Invocation {
    let (kind, version) = (&event.kind, version_of(event));
    let reason = format!(
        "upcaster `{name}` does not run, and `{kind}` version {version} is to be lifted: put its \
         file back, or `tidegate plugins forget {name}` hands such events over as they are"
    );
    Invocation::unrun(Outcome::Retry { reason, after_ms: None })
}

impl Cache {
    fn keep(&mut self, event: &Arc<Event>) {
        if self.lifted.insert(event.position, Arc::clone(event)).is_some() {
            return;
        }
        self.oldest.push_back(event.position);
        self.bytes = self.bytes.saturating_add(event.weight());
        while self.oldest.len() > UPCAST_CACHE_EVENTS_MAX || self.bytes > UPCAST_CACHE_BYTES_MAX {
            let Some(oldest) = self.oldest.pop_front() else { return };
            if let Some(gone) = self.lifted.remove(&oldest) {
                self.bytes = self.bytes.saturating_sub(gone.weight());
            }
        }
    }
}

#[cfg(test)]
mod tests;
