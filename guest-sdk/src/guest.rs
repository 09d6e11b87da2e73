//! The wasm side of the host: imports, exports, and the types between. Only on wasm32.

use std::sync::Once;
use std::time::Duration;

pub use crate::bindings::commander::exports::tidegate::plugin::command::Guest as CommandGuest;
pub use crate::bindings::imports::tidegate::plugin::types;
pub use crate::bindings::reactor::exports::tidegate::plugin::handler::Guest as HandlerGuest;
pub use crate::bindings::reader::exports::tidegate::plugin::query::Guest as QueryGuest;
pub use crate::bindings::upgrader::exports::tidegate::plugin::upcaster::{
    Guest as UpcasterGuest, Lifted,
};
pub use crate::bindings::{commander, reactor, reader, upgrader};

use crate::bindings::imports::tidegate::plugin::{bus, calls, context, keys, state, timers};
use crate::calls::Call;
use crate::{Answer, Emit, Error, Event, Failure, Level, Outcome, Request};

/// What an exported `handler` does.
pub fn handle(event: types::Event, handler: fn(&Event) -> Outcome) -> Result<(), types::Failure> {
    report_panics();
    handler(&event.into()).map_err(Into::into)
}

/// What an exported `command` or `query` does.
pub fn answer(
    request: types::Request,
    responder: fn(&Request) -> Answer,
) -> Result<types::Response, types::Failure> {
    report_panics();
    match responder(&request.into()) {
        Ok(crate::Response { content_type, data, attributes }) => {
            Ok(types::Response { content_type, data, attributes })
        }
        Err(failure) => Err(failure.into()),
    }
}

/// What an exported `upcaster` does.
pub fn upcast(
    event: types::Event,
    version: u32,
    lift: fn(&Event, u32) -> Result<crate::Lifted, Failure>,
) -> Result<Lifted, String> {
    report_panics();
    match lift(&event.into(), version) {
        Ok(crate::Lifted { version, content_type, data }) => {
            Ok(Lifted { version, content_type, data })
        }
        Err(Failure::Retry { reason, .. } | Failure::Reject { reason }) => Err(reason),
    }
}

/// A panic is a trap, which only says `unreachable`: its words go to the log before.
fn report_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|info| log(Level::Error, &info.to_string())));
    });
}

impl From<types::Event> for Event {
    fn from(event: types::Event) -> Self {
        Self {
            id: event.id,
            source: event.source,
            kind: event.type_,
            key: event.key,
            position: event.position,
            sequence: event.sequence,
            time_ms: event.time_ms,
            recorded_ms: event.recorded_ms,
            content_type: event.content_type,
            data: event.data,
        }
    }
}

impl From<types::Request> for Request {
    fn from(request: types::Request) -> Self {
        Self {
            operation: request.operation,
            key: request.key,
            principal: request.principal,
            content_type: request.content_type,
            data: request.data,
            attributes: request.attributes,
        }
    }
}

impl From<Failure> for types::Failure {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Retry { reason, after } => {
                Self::Retry(types::RetryRequest { reason, after_ms: after.map(ms) })
            }
            Failure::Reject { reason } => Self::Reject(reason),
        }
    }
}

impl From<types::EffectError> for Error {
    fn from(error: types::EffectError) -> Self {
        match error {
            types::EffectError::Exceeded(budget) => Self::Exceeded(budget),
            types::EffectError::Invalid(why) => Self::Invalid(why),
            types::EffectError::Unkeyed => Self::Unkeyed,
            types::EffectError::Denied(grant) => Self::Denied(grant),
            types::EffectError::ReadOnly => Self::ReadOnly,
            types::EffectError::Other(code) => Self::Other(code),
        }
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn emit(draft: Emit) -> Result<String, Error> {
    let Emit { kind, key, bus, content_type, data, attributes } = draft;
    let draft = types::Draft { type_: kind, key, bus, content_type, data, attributes };
    Ok(bus::emit(&draft)?)
}

pub(crate) fn state_get(name: &str) -> Option<Vec<u8>> {
    state::get(name)
}

pub(crate) fn state_set(name: &str, value: Vec<u8>, ttl: Option<Duration>) -> Result<(), Error> {
    Ok(state::set(name, &value, ttl.map(ms))?)
}

pub(crate) fn state_delete(name: &str) -> Result<(), Error> {
    Ok(state::delete(name)?)
}

pub(crate) fn state_list(prefix: &str, after: Option<&str>, limit: u32) -> Vec<String> {
    state::list(prefix, after, limit)
}

pub(crate) fn keys_list(prefix: &str, after: Option<&str>, limit: u32) -> Vec<String> {
    keys::list(prefix, after, limit)
}

pub(crate) fn keys_get(key: &str, name: &str) -> Option<Vec<u8>> {
    keys::get(key, name)
}

pub(crate) fn timer_set(name: &str, due_ms: u64, data: &[u8]) -> Result<(), Error> {
    Ok(timers::set(name, due_ms, data)?)
}

pub(crate) fn timer_cancel(name: &str) -> Result<(), Error> {
    Ok(timers::cancel(name)?)
}

pub(crate) fn call_send(call: Call) -> Result<String, Error> {
    let Call { name, method, url, headers, body, timeout_ms } = call;
    Ok(calls::send(&calls::Outgoing { name, method, url, headers, body, timeout_ms })?)
}

pub(crate) fn attribute(name: &str) -> Option<String> {
    context::attribute(name)
}

pub(crate) fn attributes() -> Vec<(String, String)> {
    context::attributes()
}

pub(crate) fn now_ms() -> u64 {
    context::now_ms()
}

pub(crate) fn attempt() -> u32 {
    context::attempt()
}

pub(crate) fn redriven() -> bool {
    context::redriven()
}

pub(crate) fn random_u64() -> u64 {
    context::random_u64()
}

pub(crate) fn config(name: &str) -> Option<String> {
    context::config(name)
}

pub(crate) fn log(level: Level, message: &str) {
    let level = match level {
        Level::Trace => context::Level::Trace,
        Level::Debug => context::Level::Debug,
        Level::Info => context::Level::Info,
        Level::Warn => context::Level::Warn,
        Level::Error => context::Level::Error,
    };
    context::log(level, message);
}
