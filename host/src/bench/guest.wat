;; A handler by hand, against the core ABI of `wit/plugin.wit`: counts the events of each key as
;; eight bytes under `n`, and emits one event with the payload of the input.
;;
;; Rule: nothing outlives a call but code and constants, so that the memory the host lowers its
;; arguments into starts at the same place every time.
(module
  (import "tidegate:plugin/state@0.1.0" "get" (func $get (param i32 i32 i32)))
  (import "tidegate:plugin/state@0.1.0" "set"
    (func $set (param i32 i32 i32 i32 i32 i64 i32)))
  (import "tidegate:plugin/bus@0.1.0" "emit"
    (func $emit (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
  (memory (export "memory") 1)
  ;; 16: name of the value; 32: the value; 64: type of the emitted event; 128: what imports return;
  ;; 256: what the handler returns; from 1024 on: what the host lowers.
  (data (i32.const 16) "n")
  (data (i32.const 64) "bench.counted")
  (global $top (mut i32) (i32.const 1024))
  (func (export "cabi_realloc")
    (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32)
    (local $at i32) (local $end i32)
    (local.set $at
      (i32.and
        (i32.add (global.get $top) (i32.sub (local.get $align) (i32.const 1)))
        (i32.sub (i32.const 0) (local.get $align))))
    (local.set $end (i32.add (local.get $at) (local.get $size)))
    (block $fits
      (br_if $fits
        (i32.le_u (local.get $end) (i32.shl (memory.size) (i32.const 16))))
      (br_if $fits
        (i32.ne (i32.const -1)
          (memory.grow
            (i32.add (i32.const 1) (i32.shr_u (local.get $size) (i32.const 16))))))
      unreachable)
    (global.set $top (local.get $end))
    (local.get $at))
  (func (export "tidegate:plugin/handler@0.1.0#handle") (param $event i32) (result i32)
    (call $get (i32.const 16) (i32.const 1) (i32.const 128))
    (i64.store (i32.const 32) (i64.const 1))
    (if (i32.load8_u (i32.const 128))
      (then
        (i64.store (i32.const 32)
          (i64.add (i64.const 1) (i64.load align=1 (i32.load (i32.const 132)))))))
    (call $set
      (i32.const 16) (i32.const 1) (i32.const 32) (i32.const 8)
      (i32.const 0) (i64.const 0) (i32.const 128))
    (call $emit
      (i32.const 64) (i32.const 13)
      ;; The key of the input, the bus of the input.
      (i32.const 0) (i32.const 0) (i32.const 0)
      (i32.const 0) (i32.const 0) (i32.const 0)
      (i32.load offset=80 (local.get $event)) (i32.load offset=84 (local.get $event))
      (i32.load offset=88 (local.get $event)) (i32.load offset=92 (local.get $event))
      (i32.const 1024) (i32.const 0)
      (i32.const 128))
    ;; A refused emit ends the delivery.
    (if (i32.load8_u (i32.const 128)) (then unreachable))
    (global.set $top (i32.const 1024))
    (i32.store8 (i32.const 256) (i32.const 0))
    (i32.const 256)))
