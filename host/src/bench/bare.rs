//! The same component under wasmtime alone: no limits, no checks, imports that do next to nothing.
//! What the host adds to a call is measured against it.

#![allow(
    unsafe_code,
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    reason = "generated code; the unsafe parts are wasmtime's own"
)]

use std::collections::BTreeMap;

use wasmtime::component::{Component, HasSelf, Linker};
use wasmtime::{Config, Engine, Store};

use crate::event::Event;
use crate::wasm::StateView;
use crate::wasm::encode::encode;

use super::guest::Plugin;
use super::kept::Kept;
use super::{BenchError, cpu};

wasmtime::component::bindgen!({
    path: "../wit/plugin.wit",
    world: "everything",
    ownership: Borrowing { duplicate_if_necessary: true },
});

use exports::tidegate::plugin::handler;
use tidegate::plugin::types::{self, Draft, EffectError};
use tidegate::plugin::{bus, calls, context, keys, state, timers};

/// Whether instructions are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fuel {
    On,
    Off,
}

/// One instance.
pub(super) struct Bare {
    store: Store<Effects>,
    guest: handler::Guest,
    /// Of one call; none: instructions are not counted.
    fuel: Option<u64>,
}

/// What a guest is answered from.
#[derive(Default)]
struct Effects {
    state: Kept,
    config: BTreeMap<String, String>,
    written: Vec<u8>,
    emitted: Vec<Draft>,
}

impl bus::Host for Effects {
    fn emit(&mut self, event: Draft) -> Result<String, EffectError> {
        self.emitted.push(event);
        Ok("00000000-0000-5000-8000-000000000000".to_owned())
    }
}

impl state::Host for Effects {
    fn get(&mut self, name: String) -> Option<Vec<u8>> {
        self.state.get(&name)
    }

    fn set(&mut self, _: String, value: Vec<u8>, _: Option<u64>) -> Result<(), EffectError> {
        self.written = value;
        Ok(())
    }

    fn delete(&mut self, _name: String) -> Result<(), EffectError> {
        Ok(())
    }

    fn list(&mut self, prefix: String, after: Option<String>, limit: u32) -> Vec<String> {
        self.state.list(&prefix, after.as_deref(), usize::try_from(limit).unwrap_or(usize::MAX))
    }
}

impl keys::Host for Effects {
    fn list(&mut self, _prefix: String, _after: Option<String>, _limit: u32) -> Vec<String> {
        Vec::new()
    }

    fn get(&mut self, _key: String, _name: String) -> Option<Vec<u8>> {
        None
    }
}

impl timers::Host for Effects {
    fn set(&mut self, _name: String, _due_ms: u64, _data: Vec<u8>) -> Result<(), EffectError> {
        Ok(())
    }

    fn cancel(&mut self, _name: String) -> Result<(), EffectError> {
        Ok(())
    }
}

impl calls::Host for Effects {
    fn send(&mut self, _request: calls::Outgoing) -> Result<String, EffectError> {
        Ok(String::new())
    }
}

impl context::Host for Effects {
    fn attributes(&mut self) -> Vec<(String, String)> {
        Vec::new()
    }

    fn attribute(&mut self, _name: String) -> Option<String> {
        None
    }

    fn now_ms(&mut self) -> u64 {
        0
    }

    fn attempt(&mut self) -> u32 {
        1
    }

    fn redriven(&mut self) -> bool {
        false
    }

    fn random_u64(&mut self) -> u64 {
        4
    }

    fn config(&mut self, name: String) -> Option<String> {
        self.config.get(&name).cloned()
    }

    fn log(&mut self, _level: context::Level, _message: String) {}
}

impl types::Host for Effects {}

fn failed(error: &wasmtime::Error) -> BenchError {
    BenchError::Bare { why: format!("{error:#}") }
}

impl Bare {
    /// Loads a component, or a typed core module, to be called with this state; none: it is something
    /// else, or needs more than `tidegate:plugin`.
    pub(super) fn load(
        plugin: &Plugin,
        fuel: Fuel,
        state: &Kept,
    ) -> Result<Option<Self>, BenchError> {
        let wasm = &plugin.wasm;
        let wasm = wat::Parser::new().parse_bytes(None, wasm).map_or(wasm.into(), |wasm| wasm);
        let component = match wasmparser::Parser::is_component(&wasm) {
            true => wasm.into_owned(),
            false => match encode(&wasm) {
                Ok(component) => component,
                Err(_) => return Ok(None),
            },
        };
        let mut config = Config::new();
        config.consume_fuel(fuel == Fuel::On).concurrency_support(false);
        let engine = Engine::new(&config).map_err(|error| failed(&error))?;
        let component = Component::new(&engine, component).map_err(|error| failed(&error))?;
        let linker = linker(&engine).map_err(|error| failed(&error))?;
        let Ok(pre) = linker.instantiate_pre(&component) else { return Ok(None) };
        let Ok(indices) = handler::GuestIndices::new(&pre) else { return Ok(None) };
        let (state, config) = (state.clone(), plugin.manifest.config.clone());
        let mut store = Store::new(&engine, Effects { state, config, ..Effects::default() });
        let fuel = (fuel == Fuel::On).then(|| plugin.limits().fuel);
        if let Some(fuel) = fuel {
            store.set_fuel(fuel).map_err(|error| failed(&error))?;
        }
        let instance = pre.instantiate(&mut store).map_err(|error| failed(&error))?;
        let guest = indices.load(&mut store, &instance).map_err(|error| failed(&error))?;
        Ok(Some(Self { store, guest, fuel }))
    }

    /// Processor time of one call, microseconds.
    #[allow(clippy::cast_precision_loss, reason = "a mean needs no more digits")]
    pub(super) fn us(&mut self, event: &Event, calls: u64) -> Result<f64, BenchError> {
        let begun = cpu::thread();
        for _ in 0..calls {
            if let Some(fuel) = self.fuel {
                self.store.set_fuel(fuel).map_err(|error| failed(&error))?;
            }
            let event = types::Event {
                id: &event.id,
                source: &event.source,
                type_: &event.kind,
                key: event.key.as_ref().map(AsRef::as_ref),
                position: event.position.0,
                sequence: event.sequence.0,
                time_ms: None,
                recorded_ms: event.recorded_ms,
                content_type: &event.content_type,
                data: &event.data,
            };
            let returned = self.guest.call_handle(&mut self.store, event);
            // A failure of the guest's own is an answer as good as any.
            let _ = returned.map_err(|error| failed(&error))?;
            self.store.data_mut().emitted.clear();
        }
        let spent = cpu::thread().saturating_sub(begun);
        Ok(spent.as_secs_f64() * 1e6 / calls.max(1) as f64)
    }
}

fn linker(engine: &Engine) -> wasmtime::Result<Linker<Effects>> {
    let mut linker = Linker::new(engine);
    let data: fn(&mut Effects) -> &mut Effects = |effects| effects;
    bus::add_to_linker::<_, HasSelf<_>>(&mut linker, data)?;
    state::add_to_linker::<_, HasSelf<_>>(&mut linker, data)?;
    keys::add_to_linker::<_, HasSelf<_>>(&mut linker, data)?;
    timers::add_to_linker::<_, HasSelf<_>>(&mut linker, data)?;
    calls::add_to_linker::<_, HasSelf<_>>(&mut linker, data)?;
    context::add_to_linker::<_, HasSelf<_>>(&mut linker, data)?;
    types::add_to_linker::<_, HasSelf<_>>(&mut linker, data)?;
    Ok(linker)
}
