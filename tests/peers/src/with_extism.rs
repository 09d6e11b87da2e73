//! extism: the same work for each call, through its kernel and its own kind of plugin.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use extism::{Manifest, Plugin, Wasm};

use crate::side::{Run, Side};
use crate::{EVENT_BYTES, Plan};

const CALLS: u32 = 100_000;

/// Takes its input, adds one to a variable, and gives the input back as output.
const GUEST: &str = r#"(module
  (import "extism:host/env" "input_length" (func $input_length (result i64)))
  (import "extism:host/env" "input_load_u64" (func $input_load_u64 (param i64) (result i64)))
  (import "extism:host/env" "alloc" (func $alloc (param i64) (result i64)))
  (import "extism:host/env" "load_u64" (func $load_u64 (param i64) (result i64)))
  (import "extism:host/env" "store_u64" (func $store_u64 (param i64 i64)))
  (import "extism:host/env" "store_u8" (func $store_u8 (param i64 i32)))
  (import "extism:host/env" "output_set" (func $output_set (param i64 i64)))
  (import "extism:host/env" "var_get" (func $var_get (param i64) (result i64)))
  (import "extism:host/env" "var_set" (func $var_set (param i64 i64)))
  (memory (export "memory") 1)
  (func (export "handle") (result i32)
    (local $len i64) (local $at i64) (local $name i64) (local $value i64) (local $out i64)
    (local $next i64)
    (local.set $len (call $input_length))
    (loop $in
      (i64.store (i32.wrap_i64 (local.get $at)) (call $input_load_u64 (local.get $at)))
      (local.set $at (i64.add (local.get $at) (i64.const 8)))
      (br_if $in (i64.lt_u (local.get $at) (local.get $len))))
    (local.set $name (call $alloc (i64.const 1)))
    (call $store_u8 (local.get $name) (i32.const 110))
    (local.set $value (call $var_get (local.get $name)))
    (local.set $next (i64.const 1))
    (if (i64.ne (local.get $value) (i64.const 0))
      (then (local.set $next (i64.add (call $load_u64 (local.get $value)) (i64.const 1)))))
    ;; A name is used up by whoever it is handed to.
    (local.set $name (call $alloc (i64.const 1)))
    (call $store_u8 (local.get $name) (i32.const 110))
    (local.set $value (call $alloc (i64.const 8)))
    (call $store_u64 (local.get $value) (local.get $next))
    (call $var_set (local.get $name) (local.get $value))
    (local.set $out (call $alloc (local.get $len)))
    (local.set $at (i64.const 0))
    (loop $back
      (call $store_u64 (i64.add (local.get $out) (local.get $at))
        (i64.load (i32.wrap_i64 (local.get $at))))
      (local.set $at (i64.add (local.get $at) (i64.const 8)))
      (br_if $back (i64.lt_u (local.get $at) (local.get $len))))
    (call $output_set (local.get $out) (local.get $len))
    (i32.const 0)))"#;

/// One side.
pub fn sides() -> Vec<Side> {
    vec![Side { name: "extism".to_owned(), run: Box::new(run) }]
}

fn run(_plan: &Plan) -> Result<Run> {
    let manifest = Manifest::new([Wasm::data(GUEST.as_bytes())]);
    let mut plugin = Plugin::new(&manifest, [], false)?;
    // Whole words, as the guest takes them.
    let input = vec![b'a'; EVENT_BYTES.next_multiple_of(8)];
    let mut call = |calls: u32| -> Result<Duration> {
        let began = Instant::now();
        for _ in 0..calls {
            let output: &[u8] = plugin.call("handle", &input[..])?;
            anyhow::ensure!(output.len() == input.len(), "not what was given");
        }
        Ok(began.elapsed())
    };
    call(CALLS / 10).context("extism")?;
    // One thread that never waits: wall time is processor time, but for what others take.
    let took = call(CALLS)?;
    Ok(Run { call_us: Some(took.as_secs_f64() * 1e6 / f64::from(CALLS)), ..Run::default() })
}
