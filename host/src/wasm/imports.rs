//! The functions a component may import: arguments are read in place, checked, and buffered in the
//! [`Session`](super::session::Session). None of them waits for anything.

use std::sync::Arc;

use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, LinkerInstance, WasmList, WasmStr};

use super::bindings::tidegate::plugin::context::Level;
use super::bindings::tidegate::plugin::types::EffectError;
use super::bindings::{AttributesArg, DraftArg, OutgoingArg};
use super::check::{self, Text};
use super::context::{CallIn, Denial, DraftIn};
use super::store::StoreData;
use crate::effects::{Draft, OutgoingCall};
use crate::event::SCHEMA_VERSION;

type Store<'a> = StoreContextMut<'a, StoreData>;
/// What a host function hands to wasmtime: the tuple of its results, or a trap.
type Returned<T> = wasmtime::Result<(T,)>;
type Effect<T> = Result<T, EffectError>;

/// Links everything in `plugin-imports`.
pub(super) fn add_to_linker(linker: &mut Linker<StoreData>) -> wasmtime::Result<()> {
    let mut bus = linker.instance("tidegate:plugin/bus@0.1.0")?;
    bus.func_wrap("emit", emit)?;
    add_state(&mut linker.instance("tidegate:plugin/state@0.1.0")?)?;
    let mut keys = linker.instance("tidegate:plugin/keys@0.1.0")?;
    keys.func_wrap("list", keys_list)?;
    keys.func_wrap("get", keys_get)?;
    let mut timers = linker.instance("tidegate:plugin/timers@0.1.0")?;
    timers.func_wrap("set", timers_set)?;
    timers.func_wrap("cancel", timers_cancel)?;
    let mut calls = linker.instance("tidegate:plugin/calls@0.1.0")?;
    calls.func_wrap("send", calls_send)?;
    add_context(&mut linker.instance("tidegate:plugin/context@0.1.0")?)?;
    // An interface of types alone: a component may still name it as an import.
    linker.instance("tidegate:plugin/types@0.1.0")?;
    Ok(())
}

fn add_state(state: &mut LinkerInstance<'_, StoreData>) -> wasmtime::Result<()> {
    state.func_wrap("get", state_get)?;
    state.func_wrap("set", state_set)?;
    state.func_wrap("delete", state_delete)?;
    state.func_wrap("list", state_list)
}

fn add_context(context: &mut LinkerInstance<'_, StoreData>) -> wasmtime::Result<()> {
    context.func_wrap("attributes", context_attributes)?;
    context.func_wrap("attribute", context_attribute)?;
    context.func_wrap("now-ms", |mut store: Store<'_>, ()| {
        called(&mut store)?;
        Ok((store.data().session()?.context.now_ms,))
    })?;
    context.func_wrap("attempt", |mut store: Store<'_>, ()| {
        called(&mut store)?;
        Ok((store.data().session()?.context.attempt,))
    })?;
    context.func_wrap("redriven", |mut store: Store<'_>, ()| {
        called(&mut store)?;
        Ok((store.data().session()?.context.redriven,))
    })?;
    context.func_wrap("random-u64", |mut store: Store<'_>, ()| {
        called(&mut store)?;
        Ok((store.data_mut().session_mut()?.random(),))
    })?;
    context.func_wrap("config", context_config)?;
    context.func_wrap("log", context_log)
}

fn emit(mut store: Store<'_>, (arg,): (DraftArg,)) -> Returned<Effect<Text>> {
    called(&mut store)?;
    let draft = draft_emit(&mut store, &arg)?;
    Ok((store.data_mut().session_mut()?.emit(draft).map_err(EffectError::from),))
}

fn draft_emit(store: &mut Store<'_>, arg: &DraftArg) -> wasmtime::Result<Result<Draft, Denial>> {
    let attributes = match pairs(store, &arg.attributes)? {
        Ok(attributes) => attributes,
        Err(denial) => return Ok(Err(denial)),
    };
    let store = &*store;
    let (kind, content_type) = (arg.kind.to_str(store)?, arg.content_type.to_str(store)?);
    let key = arg.key.as_ref().map(|key| key.to_str(store)).transpose()?;
    let bus = arg.bus.as_ref().map(|bus| bus.to_str(store)).transpose()?;
    Ok(store.data().session()?.draft_emit(DraftIn {
        kind: &kind,
        key: key.as_deref(),
        bus: bus.as_deref(),
        content_type: &content_type,
        data: arg.data.as_le_slice(store),
        attributes,
    }))
}

fn state_get(mut store: Store<'_>, (name,): (WasmStr,)) -> Returned<Option<Vec<u8>>> {
    called(&mut store)?;
    let name = name.to_str(&store)?;
    Ok((store.data().session()?.state(&name),))
}

fn state_set(
    mut store: Store<'_>,
    (name, value, ttl_ms): (WasmStr, WasmList<u8>, Option<u64>),
) -> Returned<Effect<()>> {
    called(&mut store)?;
    let write = {
        let name = name.to_str(&store)?;
        let value = value.as_le_slice(&store);
        store.data().session()?.draft_write(&name, Some(value), ttl_ms)
    };
    Ok((store.data_mut().session_mut()?.write(write).map_err(EffectError::from),))
}

fn state_delete(mut store: Store<'_>, (name,): (WasmStr,)) -> Returned<Effect<()>> {
    called(&mut store)?;
    let write = {
        let name = name.to_str(&store)?;
        store.data().session()?.draft_write(&name, None, None)
    };
    Ok((store.data_mut().session_mut()?.write(write).map_err(EffectError::from),))
}

fn state_list(
    mut store: Store<'_>,
    (prefix, after, limit): (WasmStr, Option<WasmStr>, u32),
) -> Returned<Vec<String>> {
    called(&mut store)?;
    let prefix = prefix.to_str(&store)?;
    let after = after.as_ref().map(|after| after.to_str(&store)).transpose()?;
    Ok((store.data().session()?.state_names(&prefix, after.as_deref(), limit),))
}

fn keys_list(
    mut store: Store<'_>,
    (prefix, after, limit): (WasmStr, Option<WasmStr>, u32),
) -> Returned<Vec<String>> {
    called(&mut store)?;
    let prefix = prefix.to_str(&store)?;
    let after = after.as_ref().map(|after| after.to_str(&store)).transpose()?;
    Ok((store.data().session()?.keys(&prefix, after.as_deref(), limit),))
}

fn keys_get(mut store: Store<'_>, (key, name): (WasmStr, WasmStr)) -> Returned<Option<Vec<u8>>> {
    called(&mut store)?;
    let (key, name) = (key.to_str(&store)?, name.to_str(&store)?);
    Ok((store.data().session()?.value_of(&key, &name),))
}

fn timers_set(
    mut store: Store<'_>,
    (name, due_ms, data): (WasmStr, u64, WasmList<u8>),
) -> Returned<Effect<()>> {
    called(&mut store)?;
    let change = {
        let name = name.to_str(&store)?;
        store.data().session()?.draft_timer(&name, due_ms, data.as_le_slice(&store))
    };
    Ok((store.data_mut().session_mut()?.change_timer(change).map_err(EffectError::from),))
}

fn timers_cancel(mut store: Store<'_>, (name,): (WasmStr,)) -> Returned<Effect<()>> {
    called(&mut store)?;
    let change = {
        let name = name.to_str(&store)?;
        store.data().session()?.draft_cancel(&name)
    };
    Ok((store.data_mut().session_mut()?.change_timer(change).map_err(EffectError::from),))
}

fn calls_send(mut store: Store<'_>, (arg,): (OutgoingArg,)) -> Returned<Effect<Text>> {
    called(&mut store)?;
    let call = draft_call(&mut store, &arg)?;
    Ok((store.data_mut().session_mut()?.call(call).map_err(EffectError::from),))
}

fn draft_call(
    store: &mut Store<'_>,
    arg: &OutgoingArg,
) -> wasmtime::Result<Result<OutgoingCall, Denial>> {
    let headers = match pairs(store, &arg.headers)? {
        Ok(headers) => headers,
        Err(denial) => return Ok(Err(denial)),
    };
    let store = &*store;
    let (name, method) = (arg.name.to_str(store)?, arg.method.to_str(store)?);
    Ok(store.data().session()?.draft_call(CallIn {
        name: &name,
        method: &method,
        url: &arg.url.to_str(store)?,
        headers,
        body: arg.body.as_le_slice(store),
        timeout_ms: arg.timeout_ms,
    }))
}

fn context_attributes(mut store: Store<'_>, (): ()) -> Returned<Vec<(Arc<str>, Arc<str>)>> {
    called(&mut store)?;
    let event = store.data().session()?.context.event.as_ref();
    let Some(event) = event else { return Ok((Vec::new(),)) };
    let mut attributes = event.attributes.clone();
    if let Some(version) = event.schema_version_text() {
        let at = attributes.partition_point(|(name, _)| **name < *SCHEMA_VERSION);
        attributes.insert(at, (SCHEMA_VERSION.into(), version.into()));
    }
    Ok((attributes,))
}

fn context_attribute(mut store: Store<'_>, (name,): (WasmStr,)) -> Returned<Option<Arc<str>>> {
    called(&mut store)?;
    let name = name.to_str(&store)?;
    let event = store.data().session()?.context.event.as_ref();
    if name == SCHEMA_VERSION {
        let version = event.and_then(|event| event.schema_version_text());
        return Ok((version.map(Into::into),));
    }
    let found = event.and_then(|event| event.attributes.iter().find(|(own, _)| **own == name));
    Ok((found.map(|(_, value)| value.clone()),))
}

fn context_config(mut store: Store<'_>, (name,): (WasmStr,)) -> Returned<Option<String>> {
    called(&mut store)?;
    let name = name.to_str(&store)?;
    Ok((store.data().session()?.context.config.get(&*name).cloned(),))
}

fn context_log(mut store: Store<'_>, (level, message): (Level, WasmStr)) -> wasmtime::Result<()> {
    called(&mut store)?;
    let message =
        check::cut(&message.to_str(&store)?, crate::limits::LOG_LINE_BYTES_MAX).to_owned();
    let level = match level {
        Level::Trace => "trace",
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "error",
    };
    store.data_mut().session_mut()?.log(level, &message);
    Ok(())
}

/// Counts a call into the host. The first line of every function here.
fn called(store: &mut Store<'_>) -> wasmtime::Result<()> {
    Ok(store.data_mut().session_mut()?.host_call()?)
}

/// Copies names and values, once there are not too many and not too large.
fn pairs(
    store: &mut Store<'_>,
    list: &AttributesArg,
) -> wasmtime::Result<Result<Vec<(Text, Text)>, Denial>> {
    if let Err(why) = check::attribute_count(list.len()) {
        return Ok(Err(Denial::Invalid(why)));
    }
    let mut pairs = Vec::with_capacity(list.len());
    let mut bytes = 0;
    for index in 0..list.len() {
        let Some(pair) = list.get(&mut *store, index) else { break };
        let (name, value) = pair?;
        let (name, value) = (name.to_str(&*store)?, value.to_str(&*store)?);
        bytes += name.len() + value.len();
        let bytes_max = crate::limits::ATTRIBUTES_BYTES_MAX;
        if let Err(why) = check::bytes("all attributes together", bytes, bytes_max) {
            return Ok(Err(Denial::Invalid(why)));
        }
        pairs.push((Text::from(&*name), Text::from(&*value)));
    }
    Ok(Ok(pairs))
}
