//! The handler that the oracle judges by: it counts. The same rules as `fixtures/witness-guest`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tidegate::effects::{Draft, Effects, Outcome, StateWrite, TimerChange};
use tidegate::event::Event;
use tidegate::wasm::{Delivery, Invocation, Invoker, Slot};

use crate::oracle::{COUNTED, FIRED};

/// See the module. Shared by all hosts of a run.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    /// Whether events that say so work now.
    pub(crate) fixed: AtomicBool,
}

fn value(delivery: &Delivery<'_>, name: &str) -> u64 {
    let bytes = delivery.state.get(name).unwrap_or_default();
    std::str::from_utf8(&bytes).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn write(name: &str, value: u64) -> StateWrite {
    let value = Some(value.to_string().into_bytes().into());
    StateWrite { name: name.into(), value, expires_ms: None }
}

fn emit(delivery: &Delivery<'_>, kind: &str, data: &Value) -> Draft {
    Draft {
        id: delivery.seed.event_id(delivery.event.position, 0),
        kind: kind.into(),
        key: delivery.event.key.clone(),
        bus: None,
        content_type: "application/json".into(),
        data: Bytes::from(data.to_string()),
        attributes: Vec::new(),
    }
}

fn timers(event: &Event, data: &Value) -> Vec<TimerChange> {
    let list = |name: &str| data[name].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| Arc::from(value.as_str().unwrap_or_default());
    let set = list("set").into_iter().map(|set| TimerChange::Set {
        name: text(&set["name"]),
        due_ms: event.recorded_ms + set["after_ms"].as_u64().unwrap_or_default(),
        data: Bytes::new(),
    });
    let cancel = list("cancel").into_iter().map(|name| TimerChange::Cancel { name: text(&name) });
    set.chain(cancel).collect()
}

impl Witness {
    fn handle(&self, delivery: &Delivery<'_>) -> (Outcome, Effects) {
        let event = &delivery.event;
        if let Some(name) = event.attribute("timername") {
            let fired = value(delivery, "fired") + 1;
            let emits = vec![emit(delivery, FIRED, &json!({ "name": name }))];
            let state = vec![write("fired", fired)];
            return (Outcome::Ok, Effects { emits, state, ..Effects::default() });
        }
        let data: Value = serde_json::from_slice(&event.data).unwrap_or_default();
        let reason = || "asked to".to_owned();
        let is_fixed = self.fixed.load(Ordering::SeqCst);
        let outcome = match data["fail"].as_str() {
            Some("once") if delivery.attempt == 1 => {
                Outcome::Retry { reason: reason(), after_ms: Some(1) }
            }
            Some("broken") if !is_fixed => Outcome::Trap { reason: reason() },
            Some("reject") if !is_fixed => Outcome::Reject { reason: reason() },
            _ => Outcome::Ok,
        };
        if outcome != Outcome::Ok {
            return (outcome, Effects::default());
        }
        let count = value(delivery, "count") + 1;
        let counted = emit(delivery, COUNTED, &json!({ "count": count, "input": &*event.id }));
        let effects = Effects {
            emits: vec![counted],
            state: vec![write("count", count)],
            timers: timers(event, &data),
            ..Effects::default()
        };
        (Outcome::Ok, effects)
    }
}

impl Invoker for Witness {
    fn invoke<'a>(
        &'a self,
        _: &'a mut Slot,
        delivery: Delivery<'a>,
    ) -> BoxFuture<'a, Box<Invocation>> {
        async move {
            let (outcome, effects) = self.handle(&delivery);
            Box::new(Invocation { effects, fuel: 1, ..Invocation::unrun(outcome) })
        }
        .boxed()
    }
}
