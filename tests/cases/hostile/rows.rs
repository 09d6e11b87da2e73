//! The table of hostile guests: what each does, and what it comes to.

use super::guest::{Guest, at, command, emit, expect, forever, repeat};
use crate::harness::fixture;

/// Bytes of linear memory that a row may use, where it does not say otherwise.
const MEMORY_MIB: u64 = 16;

/// A guest that is a danger, its limits, and its end.
pub(super) struct Row {
    pub(super) name: String,
    pub(super) module: Vec<u8>,
    pub(super) memory_mib: u64,
    fuel: u64,
    timeout: &'static str,
    /// Further lines of the manifest, which begin in `[subscribe]`.
    more: &'static str,
    pub(super) tried: Tried,
    pub(super) ends: Ends,
}

/// How a row is given its chance.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tried {
    /// By events.
    Event,
    /// By a command.
    Command,
    /// By a query.
    Query,
    /// By an event for another plugin, which it is to lift.
    Lift,
}

/// What a row comes to.
#[derive(Clone, Copy)]
pub(super) enum Ends {
    /// Never runs: refused, with one of these words.
    Refused(&'static [&'static str]),
    /// Dead letters with this outcome, and these words in the reason.
    Dead(&'static str, &'static str),
    /// Ok: what it tried was denied, or bounded, and it went on.
    Done,
    /// An answer with this status and code.
    Answer(u16, &'static str),
}

impl Row {
    pub(super) fn new(name: impl Into<String>, module: Vec<u8>, ends: Ends) -> Self {
        Self {
            name: name.into(),
            module,
            memory_mib: MEMORY_MIB,
            fuel: 50_000_000,
            timeout: "60s",
            more: "",
            tried: Tried::Event,
            ends,
        }
    }

    fn memory(self, memory_mib: u64) -> Self {
        Self { memory_mib, ..self }
    }

    pub(super) fn endless(self) -> Self {
        Self { fuel: 1_000_000_000_000, ..self }
    }

    pub(super) fn timeout(self, timeout: &'static str) -> Self {
        Self { timeout, ..self }
    }

    /// What comes after the first type of the subscription.
    fn more(self, more: &'static str) -> Self {
        Self { more, ..self }
    }

    pub(super) fn tried(self, tried: Tried) -> Self {
        Self { tried, ..self }
    }

    pub(super) fn manifest(&self) -> String {
        let Self { name, memory_mib, fuel, timeout, more, .. } = self;
        let more = if more.is_empty() { "]" } else { more };
        let limits = format!(
            "[limits]\nmemory = \"{memory_mib}MiB\"\nfuel = {fuel}\ntimeout = \"{timeout}\"\n\
             [run]\nworkers = 2\n[retry]\nbackoff = \"10ms\"\nbackoff-max = \"50ms\"\n\
             give-up-after = \"200ms\"\n"
        );
        match self.tried {
            Tried::Lift => format!("[upcast]\n\"lift.{name}\" = [1]\n{limits}"),
            _ => format!("[subscribe]\ntypes = [\"try.{name}\"{more}\n{limits}"),
        }
    }
}

pub(super) fn handler(name: &str, body: &str, ends: Ends) -> Row {
    Row::new(name, Guest { body, ..Guest::default() }.handler(), ends)
}

pub(super) fn guest(name: &str, guest: &Guest<'_>, ends: Ends) -> Row {
    Row::new(name, guest.handler(), ends)
}

/// Grows its memory to 200 pages, once: an instance may serve again.
pub(super) const LARGE: &str = "(if (i32.lt_u (memory.size) (i32.const 200))
    (then (drop (memory.grow (i32.sub (i32.const 200) (memory.size))))))";

/// Guests that compute too long or too deep.
pub(super) fn time() -> Vec<Row> {
    let spin = forever("");
    let start = format!("(func $spin {spin}) (start $spin)");
    let deep = "(func $deeper (call $deeper) (call $deeper))";
    let wide = "(type $f (func (param i64 i64 i64 i64) (result i64))) (table 1 funcref)
        (elem (i32.const 0) $wide)
        (func $wide (type $f) (i64.add (call_indirect (type $f) (i64.add (local.get 0)
          (local.get 1)) (local.get 2) (local.get 3) (local.get 0) (i32.const 0)) (local.get 1)))";
    let call_wide = "(drop (call $wide (i64.const 1) (i64.const 2) (i64.const 3) (i64.const 4)))";
    // As much as there is, again and again: one instruction that costs the host much.
    let fill = format!(
        "{LARGE} {}",
        forever("(memory.fill (i32.const 65536) (i32.const 7) (i32.const 13000000))")
    );
    let sleeps = "(call $block (call $later (i64.const 3600000000000)))";
    vec![
        handler("loop", &spin, Ends::Dead("fuel", "")),
        handler("spin", &spin, Ends::Dead("timeout", "")).endless().timeout("200ms"),
        guest("start-loop", &Guest { more: &start, ..Guest::default() }, Ends::Dead("fuel", "")),
        guest(
            "start-trap",
            &Guest { more: "(func $no unreachable) (start $no)", ..Guest::default() },
            Ends::Dead("trap", "unreachable"),
        ),
        guest(
            "start-calls-host",
            &Guest { more: "(func $no (drop (call $now))) (start $no)", ..Guest::default() },
            Ends::Done,
        ),
        guest(
            "recursion",
            &Guest { body: "(call $deeper)", more: deep, ..Guest::default() },
            Ends::Dead("trap", "stack"),
        ),
        guest(
            "recursion-through-a-table",
            &Guest { body: call_wide, more: wide, ..Guest::default() },
            Ends::Dead("trap", "stack"),
        ),
        handler("fill", &fill, Ends::Dead("timeout", "")).endless().timeout("300ms"),
        Row::new("sleep-in-the-host", wasi(sleeps), Ends::Dead("timeout", "")).timeout("300ms"),
        handler("trap", "unreachable", Ends::Dead("trap", "unreachable")),
        handler("divide", "(drop (i32.div_s (i32.const 1) (local.get $i)))", DIVIDED),
        Row::new("atomic-wait", ATOMIC_WAIT.to_vec(), Ends::Refused(&["threads"])),
    ]
}

const DIVIDED: Ends = Ends::Dead("trap", "divide by zero");

/// Sleeps on a cell of its memory that nobody will ever notify.
const ATOMIC_WAIT: &[u8] =
    br#"(module (memory (export "memory") 1 1 shared) (func (export "_start")
    (drop (memory.atomic.wait32 (i32.const 0) (i32.const 0) (i64.const -1)))))"#;

/// A handler with WASI 0.2 beside it.
fn wasi(body: &str) -> Vec<u8> {
    const IMPORTS: &str = r#"
      (import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration"
        (func $later (param i64) (result i32)))
      (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))
      (import "wasi:io/poll@0.2.0" "[resource-drop]pollable" (func $drop (param i32)))
      (import "wasi:sockets/instance-network@0.2.0" "instance-network"
        (func $network (result i32)))
      (import "wasi:sockets/ip-name-lookup@0.2.0" "resolve-addresses"
        (func $resolve (param i32 i32 i32 i32)))"#;
    Guest { body, imports: IMPORTS, ..Guest::default() }.wasi_handler()
}

/// Guests that want more memory, of their own or of the host.
pub(super) fn memory() -> Vec<Row> {
    let memory = Ends::Dead("memory", "");
    let grow = forever("(drop (memory.grow (i32.const 16)))");
    let table = forever("(drop (table.grow $t (ref.null func) (i32.const 10000)))");
    let start = format!("(func $grow {grow}) (start $grow)");
    let handles = forever("(drop (call $later (i64.const 1)))");
    let dropped = repeat(20_000, "(call $drop (call $later (i64.const 1)))");
    // The largest value there can be, read back again and again: the host lowers it each time.
    let read_back = format!(
        "{LARGE}
         (call $set {} {} (i32.const 0) (i64.const 0) (i32.const 2300)) {} {}",
        at(3040, 4),
        at(65_536, 400_000),
        expect("(i32.load8_u (i32.const 2300))", 0),
        repeat(
            300,
            &format!(
                "(global.set $top (i32.const 65536)) (call $get {} (i32.const 2300))",
                at(3040, 4)
            )
        ),
    );
    // A thousand names, listed over and over: each listing is a thousand small allocations.
    let tiny = format!(
        "{} {}",
        repeat(
            1000,
            &format!(
                "{NAMED} (call $set {} {} (i32.const 0) (i64.const 0) (i32.const 2300))",
                at(2400, 3),
                at(0, 1)
            )
        ),
        repeat(
            200,
            "(global.set $top (i32.const 65536))
             (call $list (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
               (i32.const -1) (i32.const 2300))"
        ),
    );
    vec![
        handler("memory-bomb", &grow, memory),
        guest("start-memory-bomb", &Guest { more: &start, ..Guest::default() }, memory),
        guest(
            "table-bomb",
            &Guest { body: &table, more: "(table $t 1 funcref)", ..Guest::default() },
            memory,
        ),
        guest(
            "large-minimum",
            &Guest { memory: "(memory (export \"memory\") 4000)", ..Guest::default() },
            memory,
        ),
        guest(
            "largest-minimum",
            &Guest { memory: "(memory (export \"memory\") 65536)", ..Guest::default() },
            memory,
        ),
        guest(
            "large-table",
            &Guest { more: "(table 10000000 funcref)", ..Guest::default() },
            Ends::Refused(&["table"]),
        ),
        guest(
            "many-memories",
            &Guest { more: "(memory 1) (memory 1)", ..Guest::default() },
            Ends::Refused(&["memories"]),
        ),
        Row::new("handles", wasi(&handles), Ends::Dead("trap", "")).endless(),
        Row::new("handles-given-back", wasi(&dropped), Ends::Done).endless(),
        handler("large-value-read-back", &read_back, Ends::Done).endless(),
        handler("tiny-allocations", &tiny, Ends::Done).endless(),
    ]
}

/// A name of three letters at 2400, another for each `$i`.
pub(super) const NAMED: &str = "
    (i32.store8 (i32.const 2400) (i32.add (i32.const 32) (i32.rem_u (local.get $i)
      (i32.const 90))))
    (i32.store8 (i32.const 2401) (i32.add (i32.const 32) (i32.rem_u (i32.div_u (local.get $i)
      (i32.const 90)) (i32.const 90))))
    (i32.store8 (i32.const 2402) (i32.add (i32.const 32) (i32.div_u (local.get $i)
      (i32.const 8100))))";

/// Guests that flood the host.
pub(super) fn floods() -> Vec<Row> {
    let kind = &at(3000, 9);
    let none = &at(0, 0);
    let output = |what| Ends::Dead("output", what);
    let emits = repeat(1_000_000, &emit(kind, "", &at(0, 4), none));
    let giant = format!(
        "(if (i32.lt_u (memory.size) (i32.const 1700)) (then (drop (memory.grow (i32.const 1700))))) {}",
        emit(kind, "", &at(0, 104_857_600), none)
    );
    let states = repeat(
        20_000,
        &format!(
            "{NAMED} (call $set {} {} (i32.const 0) (i64.const 0) (i32.const 2300))",
            at(2400, 3),
            at(0, 1)
        ),
    );
    let timers = repeat(
        100_000,
        &format!("(call $timer {} (i64.const 4000000000000) {none} (i32.const 2300))", at(3040, 4)),
    );
    let send = format!(
        "(call $send {} {} {} {none} {none} (i32.const 1000) (i32.const 2300))",
        at(3040, 4),
        at(3100, 4),
        at(3080, 19)
    );
    let denied = format!(
        "{send} {} {}",
        expect("(i32.load8_u (i32.const 2300))", 1),
        expect("(i32.load8_u (i32.const 2304))", 3)
    );
    let logs = format!(
        "{LARGE}
         (memory.fill (i32.const 65536) (i32.const 97) (i32.const 13000000)) {}",
        repeat(1000, &format!("(call $log (i32.const 4) {})", at(65_536, 13_000_000)))
    );
    let reason = format!(
        "{LARGE}
        (memory.fill (i32.const 65536) (i32.const 97) (i32.const 13000000))
        (i32.store8 (i32.const 2048) (i32.const 1)) (i32.store8 (i32.const 2056) (i32.const 1))
        (i32.store (i32.const 2064) (i32.const 65536))
        (i32.store (i32.const 2068) (i32.const 13000000))"
    );
    vec![
        handler("a-million-emits", &emits, output("limits.emits")).endless(),
        handler("a-giant-emit", &giant, output("limits.output")).memory(128).endless(),
        handler("host-calls", &forever("(drop (call $now))"), output("host calls")).endless(),
        handler("state-flood", &states, output("10000 state writes")).endless(),
        handler("timers-flood", &timers, output("10000 timer changes")).endless(),
        handler("calls-not-granted", &denied, Ends::Done),
        handler("calls-flood", &repeat(100_000, &send), output("10000 calls"))
            .endless()
            .more("]\nstart = \"latest\"\n[grants]\nhttp = [\"127.0.0.1:9\"]\n"),
        handler("logs-flood", &logs, Ends::Done).endless(),
        handler("a-giant-reason", &reason, Ends::Dead("reject", "aaaaaaaa")),
        handler("an-echo", &emit(kind, "", none, none), Ends::Dead("depth", ""))
            .more(", \"evil.done\"]\nown = true"),
    ]
}

/// Guests that reach for what nobody has granted.
pub(super) fn denied() -> Vec<Row> {
    let lookup = format!(
        "(call $resolve (call $network) {} (i32.const 2300)) {} {}",
        at(3040, 4),
        expect("(i32.load8_u (i32.const 2300))", 1),
        // `permanent-resolver-failure`
        expect("(i32.load8_u (i32.const 2304))", 20)
    );
    let nothing = format!(
        "{} {} {} {} {}",
        // Neither preopened folders, nor paths, nor sockets, nor variables.
        expect("(call $prestat (i32.const 3) (i32.const 64))", 8),
        expect(OPEN, 8),
        expect("(call $accept (i32.const 3) (i32.const 0) (i32.const 64))", 8),
        expect("(call $environ (i32.const 64) (i32.const 68))", 0),
        expect("(i32.load (i32.const 64))", 0),
    );
    let clocks = format!(
        "(drop (call $clock (i32.const 1) (i64.const 1) (i32.const 64)))
         (local.set $at (i64.load (i32.const 64)))
         {} (drop (call $clock (i32.const 1) (i64.const 1) (i32.const 64)))
         (if (i64.ne (local.get $at) (i64.load (i32.const 64))) (then unreachable))",
        repeat(100_000, "")
    );
    // What the host does not have is no reason for it to write a line each time it is asked for.
    let accepts =
        repeat(10_000, "(drop (call $accept (i32.const 3) (i32.const 0) (i32.const 64)))");
    vec![
        Row::new("name-lookup", wasi(&lookup), Ends::Done),
        Row::new("files-sockets-environment", command(&nothing, ""), Ends::Done),
        Row::new("clocks", command(&clocks, ""), Ends::Done),
        Row::new("log-of-the-host", command(&accepts, ""), Ends::Done).endless(),
        Row::new("wasi-http", fixture("asking-guest"), Ends::Refused(&["grants.http"])),
        Row::new("no-such-import", NO_SUCH_IMPORT.to_vec(), Ends::Refused(&["launch_missiles"])),
    ]
}

/// Programs that wait, and that print what makes no sense.
pub(super) fn stdio() -> Vec<Row> {
    let sleep = "(i32.store8 (i32.const 80) (i32.const 0)) (i32.store (i32.const 88) (i32.const 1))
        (i64.store (i32.const 96) (i64.const 3600000000000))
        (drop (call $poll (i32.const 72) (i32.const 256) (i32.const 1) (i32.const 512)))";
    // Clocks by the hundred thousand, each a thing that the host has to keep.
    let polls = format!(
        "{LARGE} {} (drop (call $poll (i32.const 4096) (i32.const 0) (i32.const 200000)
           (i32.const 0)))",
        repeat(
            200_000,
            "(i32.store offset=4112 (i32.mul (i32.sub (local.get $i) (i32.const 1))
               (i32.const 48)) (i32.const 1))"
        )
    );
    let print = |file: u32, len: u32| {
        format!("(call $print (i32.const {file}) (i32.const 1024) (i32.const {len}))")
    };
    let said = |text: &str| format!("(data (i32.const 1024) \"{text}\\0a\")");
    let says = |name, text: &str, ends| {
        let len = u32::try_from(text.replace("\\22", "\"").replace("\\ff", "?").len() + 1).unwrap();
        Row::new(name, command(&print(1, len), &said(text)), ends)
    };
    let nested = format!("{{\\22emit\\22:{}", "[".repeat(60_000));
    let random = repeat(10_000, "(drop (call $random (i32.const 4096) (i32.const 1000000)))");
    let trap = Ends::Dead("trap", "");
    vec![
        Row::new("stdio-sleep", command(sleep, ""), Ends::Dead("timeout", "")).timeout("300ms"),
        Row::new("stdio-polls", command(&polls, ""), Ends::Dead("trap", "")).endless(),
        Row::new("stdio-loop", command(&forever(""), ""), Ends::Dead("fuel", "")),
        Row::new(
            "stdout-flood",
            command(&forever(&print(1, 60_000)), ""),
            Ends::Dead("output", ""),
        )
        .endless(),
        Row::new("stderr-flood", command(&repeat(10_000, &print(2, 60_000)), ""), Ends::Done)
            .endless(),
        Row::new("random-flood", command(&random, ""), Ends::Dead("timeout", ""))
            .endless()
            .timeout("500ms"),
        Row::new(
            "stdio-exit",
            command("(call $exit (i32.const 3))", ""),
            Ends::Dead("trap", "code 3"),
        ),
        says("stdio-garbage", "neither JSON nor anything", trap),
        says("stdio-not-utf-8", "\\ff\\ff", trap),
        says("stdio-nested", &nested, trap),
        says("stdio-forged", "{\\22emit\\22:{\\22type\\22:\\22tidegate.x\\22}}", trap),
        says("stdio-no-such-line", "{\\22launch\\22:1}", trap),
    ]
}

const OPEN: &str = "(call $open (i32.const 3) (i32.const 0) (i32.const 1024) (i32.const 4)
    (i32.const 0) (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 64))";
const NO_SUCH_IMPORT: &[u8] = br#"(module
    (import "wasi_snapshot_preview1" "launch_missiles" (func))
    (memory (export "memory") 1) (func (export "_start")))"#;
