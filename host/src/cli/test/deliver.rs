//! Deliveries without a log: positions count from 1, state lives in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use crate::api::view::{DeliveryView, NoInput};
use crate::bus::upcast::{Kinds, Upcaster, Upcasters, version_of};
use crate::clock::{Clock, SystemClock};
use crate::effects::{Outcome, StateWrite};
use crate::event::{CommitNumber, Event, InstanceId, Key, KeySequence, NewEvent, Position};
use crate::plugin::Manifest;
use crate::wasm::{Delivery, GuestLimits, Invocation, Module, Seed, Slot, StateView};

/// A module with the state it has built up so far.
pub(super) struct Bench {
    module: Arc<Module>,
    slot: Slot,
    limits: Arc<GuestLimits>,
    config: Arc<BTreeMap<String, String>>,
    /// The module itself, where it lifts events.
    upcasters: Upcasters,
    kinds: Kinds,
    keys: HashMap<Key, KeyState>,
    clock: SystemClock,
    position: u64,
    recorded_ms: u64,
}

/// One event and how its delivery went.
pub(super) struct Delivered {
    pub(super) event: Arc<Event>,
    /// What the module itself made of it first.
    pub(super) lifted: Option<Arc<Event>>,
    pub(super) invocation: Invocation,
}

impl Delivered {
    pub(super) fn is_ok(&self) -> bool {
        self.invocation.outcome == Outcome::Ok
    }
}

#[derive(Default)]
struct KeyState {
    sequence: u64,
    values: Arc<Values>,
}

/// Values with the log time at which they are gone.
#[derive(Clone, Default)]
struct Values(BTreeMap<Arc<str>, (Bytes, Option<u64>)>);

/// State as it is at one log time.
struct View {
    values: Arc<Values>,
    now_ms: u64,
}

impl StateView for View {
    fn get(&self, name: &str) -> Option<Bytes> {
        let (value, expires_ms) = self.values.0.get(name)?;
        expires_ms.is_none_or(|expires_ms| expires_ms > self.now_ms).then(|| value.clone())
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
        let names = self.values.0.keys();
        let names =
            names.filter(|name| name.starts_with(prefix) && after.is_none_or(|a| ***name > *a));
        names.filter(|name| self.get(name).is_some()).take(limit).map(|n| n.to_string()).collect()
    }
}

impl Bench {
    /// Every grant the manifest asks for is given: nothing is sent anyway.
    pub(super) fn new(module: Arc<Module>, manifest: &Manifest) -> Self {
        Self {
            module,
            slot: Slot::default(),
            limits: Arc::new(GuestLimits::of(manifest, Arc::default())),
            config: Arc::new(manifest.config.clone()),
            upcasters: Upcasters::default(),
            kinds: manifest.upcast.clone(),
            keys: HashMap::new(),
            clock: SystemClock::new(),
            position: 0,
            recorded_ms: 0,
        }
    }

    /// Delivers one event; its state writes are seen by the next one of its key.
    pub(super) async fn deliver(&mut self, body: NewEvent) -> Delivered {
        self.position += 1;
        // The time of the event where it has one, so that a run can be repeated; never backwards.
        let time_ms = body.time.as_ref().map_or_else(|| self.clock.wall_ms(), |time| time.ms);
        self.recorded_ms = self.recorded_ms.max(time_ms);
        let (sequence, values) = match &body.key {
            Some(key) => {
                let state = self.keys.entry(key.clone()).or_default();
                state.sequence += 1;
                (state.sequence, Arc::clone(&state.values))
            }
            None => (0, Arc::default()),
        };
        let event = Arc::new(Event {
            position: Position(self.position),
            sequence: KeySequence(sequence),
            recorded_ms: self.recorded_ms,
            commit: CommitNumber(self.position),
            body,
        });
        self.run(event, values, (1, false)).await
    }

    /// Delivers what a host gave up, as it was.
    pub(super) async fn redeliver(&mut self, dead: &DeliveryView) -> Result<Delivered, NoInput> {
        let mut values = Values::default();
        for seen in &dead.state {
            let end = seen.expires.map(|at| at.0);
            values.0.insert(seen.name.as_str().into(), (seen.value()?, end));
        }
        let event = Arc::new(dead.input.event()?);
        Ok(self.run(event, Arc::new(values), (dead.attempt, dead.redriven)).await)
    }

    async fn run(
        &mut self,
        event: Arc<Event>,
        values: Arc<Values>,
        attempt: (u32, bool),
    ) -> Delivered {
        let shape = self.lift(&event).await;
        let lifted = shape.as_ref().ok().filter(|shape| !Arc::ptr_eq(shape, &event)).cloned();
        let invocation = match shape {
            Ok(shape) if self.module.exports.handler => self.invoke(&shape, values, attempt).await,
            Ok(_) => Invocation::unrun(Outcome::Ok),
            Err(failed) => *failed,
        };
        if let Some(state) = event.key.as_ref().and_then(|key| self.keys.get_mut(key)) {
            state.apply(&invocation.effects.state);
        }
        Delivered { event, lifted, invocation }
    }

    /// As a host with this one upcaster would. Where the manifest lists nothing for the type, one
    /// that does nothing else is tried from the version of the event.
    async fn lift(&mut self, event: &Arc<Event>) -> Result<Arc<Event>, Box<Invocation>> {
        let exports = self.module.exports;
        if !exports.upcaster {
            return Ok(Arc::clone(event));
        }
        let mut kinds = self.kinds.clone();
        if !exports.handler && !kinds.contains_key(&*event.kind) {
            kinds.insert(event.kind.to_string(), vec![version_of(event)]);
        }
        self.upcasters.serve(Upcaster {
            instance: InstanceId(1),
            name: "this module".into(),
            kinds,
            invoker: Arc::clone(&self.module) as Arc<dyn crate::wasm::Invoker>,
            limits: Arc::clone(&self.limits),
            config: Arc::clone(&self.config),
            log_id: Uuid::nil(),
            log: Arc::default(),
            idle: Default::default(),
        });
        self.upcasters.lift(event).await
    }

    async fn invoke(
        &mut self,
        event: &Arc<Event>,
        values: Arc<Values>,
        (attempt, redriven): (u32, bool),
    ) -> Invocation {
        let delivery = Delivery {
            event: Arc::clone(event),
            attempt,
            redriven,
            // Fixed, so that ids and random numbers are the same in every run.
            seed: Seed { log_id: Uuid::nil(), instance: InstanceId(1), ..Seed::default() },
            config: Arc::clone(&self.config),
            limits: Arc::clone(&self.limits),
            state: Arc::new(View { values, now_ms: event.recorded_ms }),
            outside: None,
        };
        crate::wasm::Invoker::invoke(&*self.module, &mut self.slot, delivery).await
    }
}

impl KeyState {
    fn apply(&mut self, writes: &[StateWrite]) {
        if writes.is_empty() {
            return;
        }
        let values = Arc::make_mut(&mut self.values);
        for write in writes {
            match &write.value {
                Some(value) => {
                    values.0.insert(Arc::clone(&write.name), (value.clone(), write.expires_ms))
                }
                None => values.0.remove(&write.name),
            };
        }
    }
}
