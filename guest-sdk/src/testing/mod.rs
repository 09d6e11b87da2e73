//! Runs handlers natively, without a host: `handle(event) -> effects`.
//!
//! A [`Host`] keeps state per key between deliveries, as the real one does. Time, chance and ids are
//! deterministic: the same test gives the same effects every time. Malformed arguments and exceeded
//! budgets are refused by the same rules as in the real host; fuel, memory and time are not limited.

mod answer;
pub(crate) mod fake;
mod input;
mod record;
mod timers;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use answer::{answered, given_up};
pub use input::{Ask, Input, event, request};
pub use record::{Called, Effects, Emitted, TimerChange, Verdict};

use crate::{Answer, Event, Failure, Lifted, Outcome, Request, json};
use fake::{Access, Delivery, Stored};

const NOW_MS_START: u64 = 1_700_000_000_000;
const EMITS_MAX: usize = 1000;
const OUTPUT_BYTES_MAX: usize = 512 * 1024;
const DEPTH_MAX: usize = 64;
const FIRES_MAX: usize = 1000;

/// A host in memory, for one plugin.
#[derive(Debug, Clone)]
pub struct Host {
    config: BTreeMap<String, String>,
    state: BTreeMap<String, BTreeMap<String, Stored>>,
    sequences: BTreeMap<String, u64>,
    timers: timers::Pending,
    position: u64,
    now_ms: u64,
    attempt: u32,
    redriven: bool,
    emits_max: usize,
    output_bytes_max: usize,
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// A host with no state and no configuration, at 2023-11-14T22:13:20Z.
    #[must_use]
    pub fn new() -> Self {
        Self {
            config: BTreeMap::new(),
            state: BTreeMap::new(),
            sequences: BTreeMap::new(),
            timers: timers::Pending::default(),
            position: 0,
            now_ms: NOW_MS_START,
            attempt: 1,
            redriven: false,
            emits_max: EMITS_MAX,
            output_bytes_max: OUTPUT_BYTES_MAX,
        }
    }

    /// With a string of `[config]`.
    #[must_use]
    pub fn with_config(mut self, name: &str, value: &str) -> Self {
        self.config.insert(name.to_owned(), value.to_owned());
        self
    }

    /// With a value of the plugin's state, as JSON.
    ///
    /// # Panics
    /// Where the value has no JSON form.
    #[must_use]
    pub fn with_state<T: Serialize + ?Sized>(mut self, key: &str, name: &str, value: &T) -> Self {
        let value =
            json::write(value, || format!("state `{name}`")).expect("a value with a JSON form");
        let stored = Stored { value, expires_ms: None };
        self.state.entry(key.to_owned()).or_default().insert(name.to_owned(), stored);
        self
    }

    /// With other budgets than the defaults of the manifest: `limits.emits` (1000) and
    /// `limits.output` (512 KiB), in bytes.
    #[must_use]
    pub fn with_limits(mut self, emits: usize, output_bytes: usize) -> Self {
        (self.emits_max, self.output_bytes_max) = (emits, output_bytes);
        self
    }

    /// Lets time pass before the next delivery. Timers that become due wait for
    /// [`fire`](Self::fire).
    pub fn advance(&mut self, by: Duration) {
        self.now_ms += u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
    }

    /// What the next deliveries see as their attempt number, and whether they are redriven.
    pub fn set_attempt(&mut self, attempt: u32, redriven: bool) {
        (self.attempt, self.redriven) = (attempt, redriven);
    }

    /// Delivers one event. Its effects are kept where it succeeds, and dropped where it fails.
    #[must_use = "a failure is only seen in the effects: end with `.expect_ok()`"]
    pub fn deliver(
        &mut self,
        handler: impl Fn(&Event) -> Outcome,
        input: impl Into<Input>,
    ) -> Effects {
        let (event, attributes) = self.append(input.into());
        let access = Access::Effects;
        let (result, delivery) =
            self.run(event.key.clone(), event.position, attributes, access, || handler(&event));
        self.settle(event.key.as_deref(), result, delivery).1
    }

    /// Delivers one event, then what it emitted, then what that emitted, in order: a choreography
    /// of one plugin that subscribes to its own events. The effects of each delivery in turn.
    ///
    /// # Panics
    /// Where an event would have more than 64 causes: the plugin goes in circles.
    pub fn cascade(
        &mut self,
        handler: impl Fn(&Event) -> Outcome,
        input: impl Into<Input>,
    ) -> Vec<Effects> {
        let mut waiting = std::collections::VecDeque::from([(0, input.into())]);
        let mut all = Vec::new();
        while let Some((depth, input)) = waiting.pop_front() {
            assert!(depth <= DEPTH_MAX, "the plugin goes in circles: depth over {DEPTH_MAX}");
            let effects = self.deliver(&handler, input);
            waiting.extend(effects.emitted.iter().map(|emitted| (depth + 1, emitted.into())));
            all.push(effects);
        }
        all
    }

    /// Runs one command. Its effects are kept where it succeeds, and dropped where it fails.
    ///
    /// # Errors
    /// What the command fails with, beside its (empty) effects.
    pub fn execute(
        &mut self,
        command: impl Fn(&Request) -> Answer,
        ask: impl Into<Ask>,
    ) -> (Answer, Effects) {
        let request = ask.into().request;
        self.position += 1;
        self.now_ms += 1;
        let (answer, delivery) =
            self.run(request.key.clone(), self.position, Vec::new(), Access::Effects, || {
                command(&request)
            });
        let (answer, effects) = self.settle(request.key.as_deref(), answer, delivery);
        (answer, effects)
    }

    /// Asks one question.
    ///
    /// # Errors
    /// What the query fails with.
    pub fn read(&mut self, query: impl Fn(&Request) -> Answer, ask: impl Into<Ask>) -> Answer {
        let request = ask.into().request;
        self.run(request.key.clone(), self.position, Vec::new(), Access::Keys, || query(&request)).0
    }

    /// Lifts one event.
    ///
    /// # Errors
    /// What the upcaster fails with.
    pub fn upcast(
        &mut self,
        lift: impl Fn(&Event, u32) -> Result<Lifted, Failure>,
        input: impl Into<Input>,
        version: u32,
    ) -> Result<Lifted, Failure> {
        let (event, attributes) = self.append(input.into());
        self.run(None, event.position, attributes, Access::Nothing, || lift(&event, version)).0
    }

    /// A value of the plugin's state, read as JSON.
    ///
    /// # Panics
    /// Where the value is there, but not a `T`.
    #[must_use]
    pub fn state<T: DeserializeOwned>(&self, key: &str, name: &str) -> Option<T> {
        let value = self.state_bytes(key, name)?;
        Some(json::read(value, || format!("state `{name}` of `{key}`")).expect("a value that fits"))
    }

    /// A value of the plugin's state as bytes.
    #[must_use]
    pub fn state_bytes(&self, key: &str, name: &str) -> Option<&[u8]> {
        let stored = self.state.get(key)?.get(name)?;
        stored.is_there(self.now_ms).then_some(&stored.value)
    }

    /// Delivers every timer that is due as a `tidegate.timer` event, the earliest first, also those
    /// that become due because another fired; returns the effects of each. A timer whose delivery
    /// fails is gone, as after the last attempt.
    ///
    /// # Panics
    /// Where more than 1000 timers fire: one sets another that is due at once.
    pub fn fire(&mut self, handler: impl Fn(&Event) -> Outcome) -> Vec<Effects> {
        let mut all = Vec::new();
        while let Some(fired) = self.timers.take_due(self.now_ms) {
            assert!(all.len() < FIRES_MAX, "over {FIRES_MAX} timers fire at one time");
            all.push(self.deliver(&handler, fired));
        }
        all
    }

    /// The pending timers of a key: name and due time in milliseconds since the Unix epoch,
    /// ascending by name.
    #[must_use]
    pub fn timers(&self, key: &str) -> Vec<(String, u64)> {
        self.timers.of(key)
    }

    fn append(&mut self, input: Input) -> (Event, Vec<(String, String)>) {
        self.position += 1;
        self.now_ms += 1;
        let sequence = match &input.key {
            None => 0,
            // What only this plugin gets is not counted.
            Some(_) if input.kind.starts_with("tidegate.") => 0,
            Some(key) => {
                let last = self.sequences.entry(key.clone()).or_default();
                *last += 1;
                *last
            }
        };
        let event = Event {
            id: input.id.unwrap_or_else(|| format!("test-{}", self.position)),
            source: input.source,
            kind: input.kind,
            key: input.key,
            position: self.position,
            sequence,
            time_ms: input.time_ms,
            recorded_ms: self.now_ms,
            content_type: input.content_type,
            data: input.data,
        };
        (event, input.attributes)
    }

    fn run<T>(
        &self,
        key: Option<String>,
        position: u64,
        attributes: Vec<(String, String)>,
        access: Access,
        call: impl FnOnce() -> T,
    ) -> (T, Delivery) {
        let delivery = Delivery {
            key,
            position,
            attributes,
            access,
            now_ms: self.now_ms,
            attempt: self.attempt,
            redriven: self.redriven,
            config: self.config.clone(),
            state: self.state.clone(),
            emits_max: self.emits_max,
            output_bytes_max: self.output_bytes_max,
            ..Delivery::default()
        };
        fake::during(delivery, call)
    }

    fn settle<T>(
        &mut self,
        key: Option<&str>,
        result: Result<T, Failure>,
        delivery: Delivery,
    ) -> (Result<T, Failure>, Effects) {
        let effects = record::effects(&result, delivery);
        if effects.outcome == Verdict::Ok
            && let Some(key) = key
        {
            let names = self.state.entry(key.to_owned()).or_default();
            for (name, written) in &effects.writes {
                match written {
                    Some(stored) => names.insert(name.clone(), stored.clone()),
                    None => names.remove(name),
                };
            }
            self.timers.change(key, &effects.timers);
        }
        (result, effects)
    }
}

#[cfg(test)]
mod tests;
