//! Guests for tests, as text: core modules that speak the canonical ABI by hand, because hostile
//! guests do what no compiler would write.
//!
//! Each behaves where the event's data starts with `.`, and misbehaves where it starts with `!`.

use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::{Resolve, UnresolvedPackageGroup};

/// Memory, an allocator that starts over after each call, and all imports.
const PRELUDE: &str = r#"
  (import "tidegate:plugin/bus@0.1.0" "emit" (func $emit
    (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "tidegate:plugin/state@0.1.0" "get" (func $get (param i32 i32 i32)))
  (import "tidegate:plugin/state@0.1.0" "set" (func $set (param i32 i32 i32 i32 i32 i64 i32)))
  (import "tidegate:plugin/state@0.1.0" "delete" (func $delete (param i32 i32 i32)))
  (import "tidegate:plugin/state@0.1.0" "list" (func $list (param i32 i32 i32 i32 i32 i32 i32)))
  (import "tidegate:plugin/keys@0.1.0" "list" (func $keys (param i32 i32 i32 i32 i32 i32 i32)))
  (import "tidegate:plugin/keys@0.1.0" "get" (func $value (param i32 i32 i32 i32 i32)))
  (import "tidegate:plugin/timers@0.1.0" "set" (func $timer (param i32 i32 i64 i32 i32 i32)))
  (import "tidegate:plugin/timers@0.1.0" "cancel" (func $cancel (param i32 i32 i32)))
  (import "tidegate:plugin/calls@0.1.0" "send" (func $send
    (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "tidegate:plugin/context@0.1.0" "attributes" (func $attributes (param i32)))
  (import "tidegate:plugin/context@0.1.0" "attribute" (func $attribute (param i32 i32 i32)))
  (import "tidegate:plugin/context@0.1.0" "now-ms" (func $now (result i64)))
  (import "tidegate:plugin/context@0.1.0" "attempt" (func $attempt (result i32)))
  (import "tidegate:plugin/context@0.1.0" "redriven" (func $redriven (result i32)))
  (import "tidegate:plugin/context@0.1.0" "random-u64" (func $random (result i64)))
  (import "tidegate:plugin/context@0.1.0" "config" (func $config (param i32 i32 i32)))
  (import "tidegate:plugin/context@0.1.0" "log" (func $log (param i32 i32 i32)))
  (global $top (mut i32) (i32.const 65536))
  (func $alloc (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and
      (i32.add (global.get $top) (i32.sub (local.get 2) (i32.const 1)))
      (i32.sub (i32.const 0) (local.get 2))))
    (global.set $top (i32.add (local.get $at) (local.get 3)))
    (block $enough (loop $more
      (br_if $enough (i32.le_u (global.get $top) (i32.mul (memory.size) (i32.const 65536))))
      (drop (memory.grow (i32.const 1)))
      (br $more)))
    (local.get $at))
  ;; Texts: where they start and how long they are is what the guests below count on.
  (data (i32.const 3000) "thing.happened")  ;; 14 bytes, a type
  (data (i32.const 3020) "tidegate.forged") ;; 15 bytes
  (data (i32.const 3040) "count")           ;; 5 bytes, a name
  (data (i32.const 3060) "\ff\fe\fd")       ;; not UTF-8
  (data (i32.const 3080) "not today")       ;; 9 bytes, a reason
"#;

/// A component of a world of `wit/plugin.wit`, around a core module.
pub(super) fn encode(world: &str, text: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let wit = include_str!("../../../../wit/plugin.wit");
    let group = UnresolvedPackageGroup::parse("plugin.wit", wit).unwrap();
    let package = resolve.push_group(group).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    let mut module = wat::parse_str(text).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    module
}

/// A handler that runs `bad` where it is told to, and else returns ok. `more` are further fields.
/// The result area is at 2048, scratch space at 2200.
pub(super) fn handler(bad: &str, more: &str) -> Vec<u8> {
    handler_with_memory(bad, more, "(memory (export \"memory\") 2)")
}

pub(super) fn handler_with_memory(bad: &str, more: &str, memory: &str) -> Vec<u8> {
    let text = format!(
        r#"(module $guest {PRELUDE} {memory} {more}
        (func $handle (export "tidegate:plugin/handler@0.1.0#handle")
          (param $event i32) (result i32) (local $i i32)
          (memory.fill (i32.const 2048) (i32.const 0) (i32.const 40))
          (if (i32.eq (i32.const 33)
                (i32.load8_u (i32.load offset=88 (local.get $event))))
            (then {bad}))
          (i32.const 2048))
        (func (export "cabi_post_tidegate:plugin/handler@0.1.0#handle") (param i32)
          (global.set $top (i32.const 65536))))"#
    );
    encode("reactor", &text)
}

/// One emit of the type at `kind`, with `bytes` bytes of data from 0 on.
pub(super) fn emit(kind: (u32, u32), bytes: &str) -> String {
    let (at, len) = kind;
    format!(
        "(call $emit (i32.const {at}) (i32.const {len})
           (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
           (i32.const 0) (i32.const 0) (i32.const 0) {bytes} (i32.const 0) (i32.const 0)
           (i32.const 2200))"
    )
}

/// The type `thing.happened`.
pub(super) const HAPPENED: (u32, u32) = (3000, 14);
/// The type `tidegate.forged`.
pub(super) const FORGED: (u32, u32) = (3020, 15);
/// Bytes that are no UTF-8.
pub(super) const BROKEN: (u32, u32) = (3060, 3);

/// `body`, `times` times.
pub(super) fn repeat(times: u32, body: &str) -> String {
    format!(
        "(local.set $i (i32.const {times}))
         (loop $again {body}
           (br_if $again (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))"
    )
}

/// A handler that sets `count` to its old value with one more byte, emits the event's data and
/// returns ok; where it is told to, it then rejects.
pub(super) fn counter() -> Vec<u8> {
    let text = format!(
        r#"(module $guest {PRELUDE} (memory (export "memory") 2)
        (func (export "tidegate:plugin/handler@0.1.0#handle")
          (param $event i32) (result i32) (local $at i32) (local $len i32)
          (memory.fill (i32.const 2048) (i32.const 0) (i32.const 40))
          (call $get (i32.const 3040) (i32.const 5) (i32.const 2200))
          (if (i32.load8_u (i32.const 2200)) (then
            (local.set $len (i32.load (i32.const 2208)))))
          (local.set $at (call $alloc (i32.const 0) (i32.const 0) (i32.const 1)
            (i32.add (local.get $len) (i32.const 1))))
          (memory.copy (local.get $at) (i32.load (i32.const 2204)) (local.get $len))
          (i32.store8 (i32.add (local.get $at) (local.get $len)) (i32.const 120))
          (call $set (i32.const 3040) (i32.const 5)
            (local.get $at) (i32.add (local.get $len) (i32.const 1))
            (i32.const 0) (i64.const 0) (i32.const 2300))
          (call $emit (i32.const 3000) (i32.const 14)
            (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
            (i32.const 0) (i32.const 0)
            (i32.load offset=88 (local.get $event)) (i32.load offset=92 (local.get $event))
            (i32.const 0) (i32.const 0) (i32.const 2200))
          ;; Logs the id it was given, to be compared with the effects.
          (call $log (i32.const 2) (i32.load (i32.const 2204)) (i32.load (i32.const 2208)))
          (if (i32.eq (i32.const 33)
                (i32.load8_u (i32.load offset=88 (local.get $event))))
            (then
              (i32.store8 (i32.const 2048) (i32.const 1))
              (i32.store8 (i32.const 2056) (i32.const 1))
              (i32.store (i32.const 2064) (i32.const 3080))
              (i32.store (i32.const 2068) (i32.const 9))))
          (i32.const 2048))
        (func (export "cabi_post_tidegate:plugin/handler@0.1.0#handle") (param i32)
          (global.set $top (i32.const 65536))))"#
    );
    encode("reactor", &text)
}

/// A service: its command sets `count` and answers with the body of the request, its query answers
/// with the value of `count` after trying to set it, and its handler does nothing.
pub(super) fn service() -> Vec<u8> {
    let answer = "(i32.store (i32.const 2064) (local.get $at))
                  (i32.store (i32.const 2068) (local.get $len)) (i32.const 2048)";
    let request = "(param $op i32) (param $op_len i32) (param $keyed i32) (param $key i32)
        (param $key_len i32) (param $who i32) (param $who_len i32) (param $type i32)
        (param $type_len i32) (param $at i32) (param $len i32) (param $attributes i32)
        (param $attributes_len i32) (result i32)";
    let text = format!(
        r#"(module $guest {PRELUDE} (memory (export "memory") 2)
        (func (export "tidegate:plugin/handler@0.1.0#handle") (param i32) (result i32)
          (memory.fill (i32.const 2048) (i32.const 0) (i32.const 40)) (i32.const 2048))
        (func (export "tidegate:plugin/command@0.1.0#execute") {request}
          (memory.fill (i32.const 2048) (i32.const 0) (i32.const 40))
          (call $set (i32.const 3040) (i32.const 5) (local.get $at) (local.get $len)
            (i32.const 0) (i64.const 0) (i32.const 2300))
          {answer})
        (func (export "tidegate:plugin/query@0.1.0#read") {request}
          (memory.fill (i32.const 2048) (i32.const 0) (i32.const 40))
          (call $set (i32.const 3040) (i32.const 5) (local.get $at) (local.get $len)
            (i32.const 0) (i64.const 0) (i32.const 2300))
          ;; `read-only` is case 4 of the error.
          (if (i32.ne (i32.load8_u (i32.const 2304)) (i32.const 4)) (then unreachable))
          (call $value (local.get $key) (local.get $key_len) (i32.const 3040) (i32.const 5)
            (i32.const 2200))
          (local.set $at (i32.load (i32.const 2204)))
          (local.set $len (i32.load (i32.const 2208)))
          {answer}))"#
    );
    encode("service", &text)
}

/// An upcaster that answers with a fixed version and the data it was given.
pub(super) fn upcaster(version: u32) -> Vec<u8> {
    let text = format!(
        r#"(module $guest {PRELUDE} (memory (export "memory") 2)
        (func (export "tidegate:plugin/upcaster@0.1.0#upcast") (param $arguments i32) (result i32)
          (memory.fill (i32.const 2048) (i32.const 0) (i32.const 40))
          (i32.store (i32.const 2052) (i32.const {version}))
          (i32.store (i32.const 2064) (i32.load offset=88 (local.get $arguments)))
          (i32.store (i32.const 2068) (i32.load offset=92 (local.get $arguments)))
          (i32.const 2048)))"#
    );
    encode("upgrader", &text)
}

/// A WASI command that prints `out` to standard output and `err` to standard error, then runs
/// `end`.
pub(super) fn command(out: &str, err: &str, end: &str) -> Vec<u8> {
    let escape =
        |text: &str| -> String { text.bytes().map(|byte| format!("\\{byte:02x}")).collect() };
    let text = format!(
        r#"(module
        (import "wasi_snapshot_preview1" "fd_write"
          (func $write (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_read"
          (func $read (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (import "wasi_snapshot_preview1" "poll_oneoff"
          (func $poll (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "clock_time_get"
          (func $clock (param i32 i64 i32) (result i32)))
        (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "environ_sizes_get"
          (func $environ (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "environ_get"
          (func $variables (param i32 i32) (result i32)))
        (memory (export "memory") 4)
        (data (i32.const 1024) "{out}")
        (data (i32.const 32768) "{err}")
        (func $print (param $fd i32) (param $at i32) (param $len i32)
          (i32.store (i32.const 0) (local.get $at))
          (i32.store (i32.const 4) (local.get $len))
          (drop (call $write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
        (func (export "_start") (local $i i32)
          (if (i32.const {out_len}) (then
            (call $print (i32.const 1) (i32.const 1024) (i32.const {out_len}))))
          (if (i32.const {err_len}) (then
            (call $print (i32.const 2) (i32.const 32768) (i32.const {err_len}))))
          {end}))"#,
        out = escape(out),
        err = escape(err),
        out_len = out.len(),
        err_len = err.len(),
    );
    wat::parse_str(text).unwrap()
}

/// A handler as a toolchain with a WASI libc leaves it: prints to standard output a word, the
/// environment if there is any, and eight random bytes as letters.
pub(super) fn wasi_handler() -> Vec<u8> {
    let text = r#"(module $guest
        (import "wasi_snapshot_preview1" "fd_write"
          (func $write (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "environ_sizes_get"
          (func $environ (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "environ_get"
          (func $variables (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "path_open"
          (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
        (memory (export "memory") 16)
        (global $top (mut i32) (i32.const 131072))
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
          (local $at i32)
          (local.set $at (i32.and
            (i32.add (global.get $top) (i32.sub (local.get 2) (i32.const 1)))
            (i32.sub (i32.const 0) (local.get 2))))
          (global.set $top (i32.add (local.get $at) (local.get 3)))
          (local.get $at))
        (data (i32.const 3000) "printed\0a")
        (func $print (param $at i32) (param $len i32)
          (i32.store (i32.const 0) (local.get $at))
          (i32.store (i32.const 4) (local.get $len))
          (if (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))
            (then unreachable)))
        (func (export "tidegate:plugin/handler@0.1.0#handle")
          (param $event i32) (result i32) (local $i i32)
          (memory.fill (i32.const 2048) (i32.const 0) (i32.const 40))
          (call $print (i32.const 3000) (i32.const 8))
          (drop (call $environ (i32.const 16) (i32.const 20)))
          (if (i32.load (i32.const 16)) (then
            (drop (call $variables (i32.const 4000) (i32.const 5000)))
            (call $print (i32.const 5000) (i32.load (i32.const 20)))
            (call $print (i32.const 3007) (i32.const 1))))
          ;; Nothing is open that a path could start from.
          (if (i32.eqz (call $open (i32.const 3) (i32.const 0) (i32.const 3000) (i32.const 7)
                (i32.const 0) (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 24)))
            (then unreachable))
          (drop (call $random (i32.const 200) (i32.const 8)))
          (loop $letters
            (i32.store8 offset=200 (local.get $i) (i32.add (i32.const 97)
              (i32.and (i32.load8_u offset=200 (local.get $i)) (i32.const 15))))
            (br_if $letters (i32.lt_u
              (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 8))))
          (call $print (i32.const 200) (i32.const 8))
          (if (i32.eq (i32.const 33)
                (i32.load8_u (i32.load offset=88 (local.get $event)))) (then unreachable))
          (i32.const 2048)))"#;
    encode("reactor", text)
}
