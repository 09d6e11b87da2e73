//! Modules for tests, written here as text, and what is delivered to them.

use std::sync::Arc;

use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::{Resolve, UnresolvedPackageGroup};

use super::context::{Access, Context};
use super::delivery::{Delivery, GuestLimits, StateView};
use super::seed::Seed;
use crate::event::{CommitNumber, Event, Key, KeySequence, NewEvent, Position};

/// A component that exports a handler and imports `context`. The type of its handler is wrong: it
/// is loaded, and refused when linked.
pub(crate) const COMPONENT: &str = r#"(component
  (import "tidegate:plugin/context@0.1.0" (instance (export "now-ms" (func (result u64)))))
  (core module $m (memory 2 4) (func (export "f")))
  (core instance $i (instantiate $m))
  (func $f (canon lift (core func $i "f")))
  (instance $h (export "handle" (func $f)))
  (export "tidegate:plugin/handler@0.1.0" (instance $h)))"#;

/// A WASI command that ends at once.
pub(crate) const STDIO: &str = r#"(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start") (call $exit (i32.const 0))))"#;

/// A component with one more import.
pub(crate) fn importing(import: &str) -> String {
    let import = format!(r#"(component (import "{import}" (instance))"#);
    COMPONENT.replacen("(component", &import, 1)
}

/// The binary form of a text.
pub(crate) fn binary(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

/// A core module that exports a handler, and imports `context`. `more` goes into the module.
pub(crate) fn untyped_core(more: &str) -> Vec<u8> {
    let text = format!(
        r##"(module
          (import "tidegate:plugin/context@0.1.0" "now-ms" (func (result i64)))
          {more}
          (memory (export "memory") 1)
          (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 1024)
          (func (export "tidegate:plugin/handler@0.1.0#handle") (param i32) (result i32)
            i32.const 2048))"##
    );
    binary(&text)
}

/// The same with the component types of world `reactor`, as wit-bindgen leaves them behind.
pub(crate) fn typed_core(more: &str) -> Vec<u8> {
    let mut module = untyped_core(more);
    let plugin = include_str!("../../../wit/plugin.wit");
    let mut resolve = Resolve::default();
    let group = UnresolvedPackageGroup::parse("plugin.wit", plugin).unwrap();
    let package = resolve.push_group(group).unwrap();
    let world = resolve.select_world(&[package], Some("reactor")).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    module
}

/// An empty event at position 7.
pub(super) fn event(key: Option<&str>) -> Arc<Event> {
    Arc::new(Event {
        position: Position(7),
        sequence: KeySequence(1),
        recorded_ms: 1000,
        commit: CommitNumber(1),
        body: NewEvent { key: key.map(|key| Key::new(key).unwrap()), ..NewEvent::default() },
    })
}

/// What a guest may know of an empty event at position 7, on its first delivery.
pub(super) fn context(
    key: Option<&str>,
    limits: GuestLimits,
    state: Arc<dyn StateView>,
    access: Access,
) -> Context {
    let delivery = Delivery {
        event: &event(key),
        attempt: 1,
        redriven: false,
        seed: Seed::default(),
        config: &Arc::default(),
        limits: &Arc::new(limits),
        state,
        outside: None,
    };
    Context::of_delivery(delivery, access)
}
