//! Guests as text: core modules that speak the canonical ABI by hand, because hostile guests do what
//! no compiler would write.

use crate::harness::encode_with;

/// All that a guest may import.
const IMPORTS: &str = r#"
  (import "tidegate:plugin/bus@0.1.0" "emit" (func $emit
    (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "tidegate:plugin/state@0.1.0" "get" (func $get (param i32 i32 i32)))
  (import "tidegate:plugin/state@0.1.0" "set" (func $set (param i32 i32 i32 i32 i32 i64 i32)))
  (import "tidegate:plugin/state@0.1.0" "list" (func $list (param i32 i32 i32 i32 i32 i32 i32)))
  (import "tidegate:plugin/timers@0.1.0" "set" (func $timer (param i32 i32 i64 i32 i32 i32)))
  (import "tidegate:plugin/calls@0.1.0" "send" (func $send
    (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "tidegate:plugin/context@0.1.0" "now-ms" (func $now (result i64)))
  (import "tidegate:plugin/context@0.1.0" "attribute" (func $attribute (param i32 i32 i32)))
  (import "tidegate:plugin/context@0.1.0" "log" (func $log (param i32 i32 i32)))
"#;

/// Texts: where they start and how long they are is what the rows count on.
const TEXTS: &str = r#"
  (data (i32.const 3000) "evil.done")          ;; 9 bytes, a type
  (data (i32.const 3020) "tidegate.forged")    ;; 15 bytes, a type of the host
  (data (i32.const 3040) "name")               ;; 4 bytes, a name
  (data (i32.const 3060) "\ff\fe\fd")          ;; 3 bytes, not UTF-8
  (data (i32.const 3070) "nowhere")            ;; 7 bytes, a bus that is not there
  (data (i32.const 3080) "http://127.0.0.1:9/") ;; 19 bytes, where nobody listens
  (data (i32.const 3100) "POST")               ;; 4 bytes
"#;

/// An allocator that starts over after each call.
const REALLOC: &str = r#"
    (local.set $at (i32.and
      (i32.add (global.get $top) (i32.sub (local.get 2) (i32.const 1)))
      (i32.sub (i32.const 0) (local.get 2))))
    (global.set $top (i32.add (local.get $at) (local.get 3)))
    (block $enough (loop $more
      (br_if $enough (i32.le_u (global.get $top) (i32.mul (memory.size) (i32.const 65536))))
      (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable))
      (br $more)))
    (local.get $at)"#;

/// What a guest is put together from. The body of its export has the locals `$i` and `$n`, scratch
/// space from 2200 to 2900, and its zeroed result area, which is returned, at 2048.
pub(super) struct Guest<'a> {
    pub(super) body: &'a str,
    /// Further fields of the module.
    pub(super) more: &'a str,
    pub(super) memory: &'a str,
    /// The body of `cabi_realloc`.
    pub(super) realloc: &'a str,
    /// What runs after a return.
    pub(super) after: &'a str,
    /// Further imports, before all others.
    pub(super) imports: &'a str,
}

impl Default for Guest<'_> {
    fn default() -> Self {
        Self {
            body: "",
            more: "",
            memory: "(memory (export \"memory\") 2)",
            realloc: REALLOC,
            after: "",
            imports: "",
        }
    }
}

impl Guest<'_> {
    /// A handler; `$event` points at what it is given.
    pub(super) fn handler(&self) -> Vec<u8> {
        self.exporting("handler@0.1.0#handle", "(param $event i32)", "reactor")
    }

    /// A command; `$data` and `$data-len` are the body of the request.
    pub(super) fn command(&self) -> Vec<u8> {
        self.exporting("command@0.1.0#execute", REQUEST, "commander")
    }

    /// A query, likewise.
    pub(super) fn query(&self) -> Vec<u8> {
        self.exporting("query@0.1.0#read", REQUEST, "reader")
    }

    /// An upcaster; `$event` points at event and version.
    pub(super) fn upcaster(&self) -> Vec<u8> {
        self.exporting("upcaster@0.1.0#upcast", "(param $event i32)", "upgrader")
    }

    /// A handler that also imports from WASI 0.2.
    pub(super) fn wasi_handler(&self) -> Vec<u8> {
        self.exporting("handler@0.1.0#handle", "(param $event i32)", "hostile")
    }

    /// A handler that also imports drafts of WASI.
    pub(super) fn drafts_handler(&self) -> Vec<u8> {
        self.exporting("handler@0.1.0#handle", "(param $event i32)", "drafts")
    }

    fn exporting(&self, export: &str, parameters: &str, world: &str) -> Vec<u8> {
        let Self { body, more, memory, realloc, after, imports } = self;
        let text = format!(
            r#"(module $guest {imports} {IMPORTS} {memory} {TEXTS} {more}
            (global $top (mut i32) (i32.const 65536))
            (func $realloc (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
              (local $at i32) {realloc})
            (func $run (export "tidegate:plugin/{export}") {parameters} (result i32)
              (local $i i32) (local $n i32)
              (memory.fill (i32.const 2048) (i32.const 0) (i32.const 40))
              {body}
              (i32.const 2048))
            (func (export "cabi_post_tidegate:plugin/{export}") (param i32)
              (global.set $top (i32.const 65536)) {after}))"#
        );
        let drafts = [
            include_str!("../../../wit/wasi/keyvalue-draft2.wit"),
            include_str!("../../../wit/wasi/messaging.wit"),
        ];
        encode_with(&text, &[WASI, &drafts.map(nested).concat()].concat(), world)
    }
}

const REQUEST: &str = "(param $operation i32) (param i32) (param i32) (param i32) (param i32)
    (param i32) (param i32) (param i32) (param i32) (param $data i32) (param $data-len i32)
    (param i32) (param i32)";

/// A package of its own file as one among others.
fn nested(file: &str) -> String {
    let at = file.find("\npackage ").map_or(0, |at| at + 1);
    let (_, package) = file.split_at(at);
    let (name, rest) = package.split_once(';').expect("it names a package");
    format!("{name} {{{rest}}}\n")
}

/// Enough of WASI 0.2 to reach for what nobody has granted.
const WASI: &str = r"
world hostile {
  include reactor;
  import wasi:clocks/monotonic-clock@0.2.0;
  import wasi:io/poll@0.2.0;
  import wasi:sockets/instance-network@0.2.0;
  import wasi:sockets/ip-name-lookup@0.2.0;
}
world drafts {
  include reactor;
  import wasi:keyvalue/store@0.2.0-draft2;
  import wasi:keyvalue/atomics@0.2.0-draft2;
  import wasi:keyvalue/batch@0.2.0-draft2;
  import wasi:messaging/types@0.2.0-draft;
  import wasi:messaging/producer@0.2.0-draft;
  import wasi:clocks/wall-clock@0.2.0;
  import wasi:random/random@0.2.0;
}
package wasi:random@0.2.0 {
  interface random { get-random-bytes: func(len: u64) -> list<u8>; }
}
package wasi:io@0.2.0 {
  interface poll { resource pollable { ready: func() -> bool; block: func(); } }
}
package wasi:clocks@0.2.0 {
  interface monotonic-clock {
    use wasi:io/poll@0.2.0.{pollable};
    subscribe-duration: func(when: u64) -> pollable;
  }
  interface wall-clock {
    record datetime { seconds: u64, nanoseconds: u32 }
    now: func() -> datetime;
  }
}
package wasi:sockets@0.2.0 {
  interface network {
    resource network;
    enum error-code {
      unknown, access-denied, not-supported, invalid-argument, out-of-memory, timeout,
      concurrency-conflict, not-in-progress, would-block, invalid-state, new-socket-limit,
      address-not-bindable, address-in-use, remote-unreachable, connection-refused,
      connection-reset, connection-aborted, datagram-too-large, name-unresolvable,
      temporary-resolver-failure, permanent-resolver-failure,
    }
  }
  interface instance-network {
    use network.{network};
    instance-network: func() -> network;
  }
  interface ip-name-lookup {
    use network.{network, error-code};
    resource resolve-address-stream;
    resolve-addresses: func(network: borrow<network>, name: string)
      -> result<resolve-address-stream, error-code>;
  }
}
";

/// A WASI command that runs `body`; `more` are further fields. `$print` writes memory to a file.
pub(super) fn command(body: &str, more: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
        (import "wasi_snapshot_preview1" "fd_write"
          (func $write (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "poll_oneoff"
          (func $poll (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "clock_time_get"
          (func $clock (param i32 i64 i32) (result i32)))
        (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "path_open"
          (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_prestat_get"
          (func $prestat (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "environ_sizes_get"
          (func $environ (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "sock_accept"
          (func $accept (param i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 16)
        {more}
        (func $print (param $fd i32) (param $at i32) (param $len i32)
          (i32.store (i32.const 0) (local.get $at))
          (i32.store (i32.const 4) (local.get $len))
          (drop (call $write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
        (func $run (export "_start") (local $i i32) (local $at i64) {body}))"#
    );
    wat::parse_str(text).unwrap_or_else(|error| panic!("{error}"))
}

/// `body`, `times` times.
pub(super) fn repeat(times: u32, body: &str) -> String {
    format!(
        "(local.set $i (i32.const {times}))
         (loop $again {body}
           (br_if $again (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))"
    )
}

/// `body`, again and again.
pub(super) fn forever(body: &str) -> String {
    format!("(loop $forever {body} (br $forever))")
}

/// A trap unless the value is as expected.
pub(super) fn expect(value: &str, expected: i32) -> String {
    format!("(if (i32.ne {value} (i32.const {expected})) (then unreachable))")
}

/// One emit of the type at `kind`; `data` and `attributes` are pointer and length, `bus` is an option.
pub(super) fn emit(kind: &str, bus: &str, data: &str, attributes: &str) -> String {
    let none = "(i32.const 0) (i32.const 0) (i32.const 0)";
    let content_type = "(i32.const 0) (i32.const 0)";
    let bus = if bus.is_empty() { none } else { bus };
    format!("(call $emit {kind} {none} {bus} {content_type} {data} {attributes} (i32.const 2200))")
}

/// Two constants: pointer and length.
pub(super) fn at(pointer: i64, len: i64) -> String {
    format!("(i32.const {pointer}) (i32.const {len})")
}
