//! Deliveries without a log: positions count from 1, state and timers live in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use super::memory::{Memory, Pending, Values, View};
use crate::api::view::{DeliveryView, NoInput};
use crate::bus::deliver::Deliverer;
use crate::bus::private::{self, Content};
use crate::bus::timers::{DUE_ATTRIBUTE, FireId, NAME_ATTRIBUTE};
use crate::bus::upcast::{Kinds, Upcaster, Upcasters, version_of};
use crate::command::Command;
use crate::effects::{Outcome, ends_at};
use crate::event::{
    CommitNumber, Digest, Event, Generation, InstanceId, Key, KeySequence, KeyVariant, NewEvent,
    Position,
};
use crate::plugin::Manifest;
use crate::state::Value;
use crate::wasm::{
    Delivery, Exports, GuestLimits, Invocation, Module, Question, Request, Seed, Slot,
};

/// A module with the state it has built up so far.
pub(super) struct Bench {
    module: Arc<Module>,
    slot: Slot,
    limits: Arc<GuestLimits>,
    config: Arc<BTreeMap<String, String>>,
    /// The module itself, where it lifts events.
    upcasters: Upcasters,
    kinds: Kinds,
    memory: Memory,
    position: u64,
    /// Log time, milliseconds since the Unix epoch; 0: nothing has said what time it is.
    recorded_ms: u64,
}

/// Log time where nothing says what time it is: 2024-01-01T00:00:00Z. Never the clock's, so that a run can be
/// repeated.
pub(super) const BEGIN_MS: u64 = 1_704_067_200_000;

/// A command or a question.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) name: String,
    pub(super) key: Option<Key>,
    pub(super) content_type: String,
    pub(super) data: Bytes,
    pub(super) parameters: Vec<(String, String)>,
}

/// The answer to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) call: String,
    pub(super) key: Option<Key>,
    /// HTTP status; 0: there was no answer.
    pub(super) status: u16,
    /// Why there was none, as in `callerror`; empty: there was one.
    pub(super) error: String,
    pub(super) content_type: String,
    pub(super) data: Bytes,
}

/// One delivery, or one question, and how it went.
pub(super) struct Delivered {
    /// What was delivered; of a question, only its key and type say something.
    pub(super) event: Arc<Event>,
    /// What the module itself made of it first.
    pub(super) lifted: Option<Arc<Event>>,
    pub(super) invocation: Box<Invocation>,
}

/// `type` of what stands for a question, which is no event.
pub(super) const QUERY: &str = "tidegate.query";
/// The attribute of it that says what is asked.
const QUERY_PATH: &str = "tidegatequery";

impl Delivered {
    pub(super) fn is_ok(&self) -> bool {
        self.invocation.outcome == Outcome::Ok
    }

    /// What it was, for people: its type, or `command deposit`.
    pub(super) fn title(&self) -> String {
        let event = &self.event;
        let attribute = |name| event.attribute(name).unwrap_or_default();
        match &*event.kind {
            private::COMMAND => {
                format!("command {}", crate::command::name(event).unwrap_or_default())
            }
            private::TIMER => format!("timer {}", attribute(NAME_ATTRIBUTE)),
            private::RESPONSE => format!("response {}", attribute("callname")),
            QUERY => format!("query {}", attribute(QUERY_PATH)),
            kind => kind.to_owned(),
        }
    }
}

impl Bench {
    /// Every grant the manifest asks for is given: nothing is sent anyway. `config` replaces values
    /// of the manifest's. Log time begins at `recorded_ms`; 0: with the first event.
    pub(super) fn new(
        module: Arc<Module>,
        manifest: &Manifest,
        config: &BTreeMap<String, String>,
        recorded_ms: u64,
    ) -> Self {
        let mut values = manifest.config.clone();
        values.extend(config.iter().map(|(name, value)| (name.clone(), value.clone())));
        Self {
            module,
            slot: Slot::default(),
            limits: Arc::new(GuestLimits::of(manifest, Arc::default())),
            config: Arc::new(values),
            upcasters: Upcasters::default(),
            kinds: manifest.upcast.clone(),
            memory: Memory::default(),
            position: 0,
            recorded_ms,
        }
    }

    pub(super) fn exports(&self) -> Exports {
        self.module.exports
    }

    pub(super) fn memory(&mut self) -> &mut Memory {
        &mut self.memory
    }

    /// State of a key as the last delivery left it.
    pub(super) fn state(&self, key: Option<&Key>) -> BTreeMap<String, Bytes> {
        let values = self.memory.values(key);
        let values = values.at(self.recorded_ms);
        values.map(|(name, value)| (name.to_string(), Bytes::copy_from_slice(value))).collect()
    }

    /// Log time of an event, milliseconds since the Unix epoch: its own, or that of the event before, and
    /// never backwards.
    pub(super) fn time_of(&self, body: &NewEvent) -> u64 {
        match &body.time {
            Some(time) => self.recorded_ms.max(time.ms),
            None if self.recorded_ms == 0 => BEGIN_MS,
            None => self.recorded_ms,
        }
    }

    /// Delivers one event; what it writes is seen by the next one of its key.
    pub(super) async fn deliver(&mut self, body: NewEvent) -> Delivered {
        self.recorded_ms = self.time_of(&body);
        let sequence = body.key.as_ref().map_or(0, |key| self.memory.count(key));
        let event = self.place(body, sequence);
        let values = self.memory.values(event.key.as_ref());
        let delivered = self.run(event, values, (1, false)).await;
        self.take_in(&delivered);
        delivered
    }

    /// Fires the next timer that is due by then, if any is.
    pub(super) async fn fire_due(&mut self, by_ms: u64) -> Option<Delivered> {
        let timer = self.memory.take_due(by_ms)?;
        Some(self.fire_taken(timer).await)
    }

    /// Fires a timer now: it is as late as it says. None: no such timer is pending.
    pub(super) async fn fire(&mut self, key: &Key, name: &str) -> Option<Delivered> {
        let timer = self.memory.take_timer(key, name)?;
        Some(self.fire_taken(timer).await)
    }

    async fn fire_taken(&mut self, timer: Pending) -> Delivered {
        self.recorded_ms = self.recorded_ms.max(timer.due_ms);
        let id = FireId { generation: Generation(0), set: timer.set };
        self.deliver_private(Content {
            kind: private::TIMER,
            id: id.to_string().into(),
            key: Some(timer.key),
            content_type: Arc::default(),
            data: timer.data,
            attributes: vec![
                (DUE_ATTRIBUTE.into(), timer.due_ms.to_string().into()),
                (NAME_ATTRIBUTE.into(), timer.name),
            ],
        })
        .await
    }

    /// Hands over the answer to a call.
    pub(super) async fn respond(&mut self, answer: Answer) -> Delivered {
        let mut attributes: Vec<(Arc<str>, Arc<str>)> = vec![
            ("callattempts".into(), "1".into()),
            ("callname".into(), answer.call.into()),
            ("callstatus".into(), answer.status.to_string().into()),
        ];
        if !answer.error.is_empty() {
            attributes.push(("callerror".into(), answer.error.into()));
        }
        attributes.sort();
        self.deliver_private(Content {
            kind: private::RESPONSE,
            id: format!("response-{}", self.position + 1).into(),
            key: answer.key,
            content_type: answer.content_type.into(),
            data: answer.data,
            attributes,
        })
        .await
    }

    /// Has the module carry out a command; one without a key has the empty state.
    pub(super) async fn command(&mut self, key: Key, ask: Ask) -> Delivered {
        let command = Command {
            name: ask.name,
            key,
            principal: Arc::default(),
            content_type: ask.content_type,
            data: ask.data,
            parameters: ask.parameters,
            expected: None,
            idempotency_key: None,
        };
        let id = format!("command-{}", self.position + 1);
        self.deliver_private(command.content(id.into())).await
    }

    async fn deliver_private(&mut self, content: Content) -> Delivered {
        let to = Deliverer {
            instance: InstanceId(1),
            generation: Generation(0),
            environment: Digest::default(),
            bus: "main".into(),
            source: "/tidegate/main/test".into(),
        };
        let body = private::event(&to, content);
        self.recorded_ms = self.time_of(&body);
        let event = self.place(body, 0);
        let values = self.memory.values(event.key.as_ref());
        let invocation = self.invoke(&event, values, (1, false)).await;
        let delivered = Delivered { event, lifted: None, invocation };
        self.take_in(&delivered);
        delivered
    }

    /// Asks the module a question.
    pub(super) async fn query(&mut self, ask: Ask) -> Delivered {
        let stands_for = NewEvent {
            kind: QUERY.into(),
            key: ask.key.clone(),
            key_variant: ask.key.as_ref().map_or(KeyVariant::None, |_| KeyVariant::PartitionKey),
            attributes: vec![(QUERY_PATH.into(), ask.name.as_str().into())],
            ..NewEvent::default()
        };
        let values = self.memory.values(ask.key.as_ref());
        let question = Question {
            request: Request {
                operation: ask.name,
                key: ask.key,
                principal: String::new(),
                content_type: ask.content_type,
                data: ask.data,
                attributes: ask.parameters,
            },
            now_ms: self.recorded_ms,
            seed: seed(),
            config: Arc::clone(&self.config),
            limits: Arc::clone(&self.limits),
            state: Arc::new(View { values, now_ms: self.recorded_ms }),
            keys: Arc::new(self.memory.across(self.recorded_ms)),
        };
        let invocation = self.module.read(&mut self.slot, question).await;
        let event = Arc::new(Event {
            position: Position(self.position),
            sequence: KeySequence(0),
            recorded_ms: self.recorded_ms,
            commit: CommitNumber(self.position),
            body: stands_for,
        });
        Delivered { event, lifted: None, invocation }
    }

    /// Delivers what a host gave up, as it was.
    pub(super) async fn redeliver(&mut self, dead: &DeliveryView) -> Result<Delivered, NoInput> {
        let mut values = Values::default();
        for seen in &dead.state {
            let expires_ms = seen.expires.map(|at| ends_at(at.0));
            let value = Value { bytes: (&*seen.value()?).into(), expires_ms };
            values.0.insert(seen.name.as_str().into(), value);
        }
        let event = Arc::new(dead.input.event()?);
        Ok(self.run(event, Arc::new(values), (dead.attempt, dead.redriven)).await)
    }

    fn place(&mut self, body: NewEvent, sequence: u64) -> Arc<Event> {
        self.position += 1;
        Arc::new(Event {
            position: Position(self.position),
            sequence: KeySequence(sequence),
            recorded_ms: self.recorded_ms,
            commit: CommitNumber(self.position),
            body,
        })
    }

    /// What is recorded of a delivery, as far as the next ones see it.
    fn take_in(&mut self, delivered: &Delivered) {
        let (event, effects) = (&delivered.event, &delivered.invocation.effects);
        if let Some(key) = &event.key {
            self.memory.write(key, &effects.state);
            self.memory.change_timers(key, event.position.0, &effects.timers);
        }
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
            Ok(_) => Box::default(),
            Err(failed) => failed,
        };
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
    ) -> Box<Invocation> {
        let delivery = Delivery {
            event,
            attempt,
            redriven,
            seed: seed(),
            config: &self.config,
            limits: &self.limits,
            state: Arc::new(View { values, now_ms: event.recorded_ms }),
            outside: None,
        };
        crate::wasm::Invoker::invoke(&*self.module, &mut self.slot, delivery).await
    }
}

/// Fixed, so that ids and random numbers are the same in every run.
fn seed() -> Seed {
    Seed { log_id: Uuid::nil(), instance: InstanceId(1), ..Seed::default() }
}
