//! Guests that use what the host offers of WASI against it: key-value stores, messages, clocks, chance.

use super::guest::{Guest, at, expect, forever, repeat};
use super::rows::{Ends, LARGE, NAMED, Row, Tried};

const IMPORTS: &str = r#"
  (import "wasi:keyvalue/store@0.2.0-draft2" "open" (func $open (param i32 i32 i32)))
  (import "wasi:keyvalue/store@0.2.0-draft2" "[method]bucket.get"
    (func $kv_get (param i32 i32 i32 i32)))
  (import "wasi:keyvalue/store@0.2.0-draft2" "[method]bucket.set"
    (func $kv_set (param i32 i32 i32 i32 i32 i32)))
  (import "wasi:keyvalue/store@0.2.0-draft2" "[method]bucket.list-keys"
    (func $kv_list (param i32 i32 i32 i32 i32)))
  (import "wasi:keyvalue/store@0.2.0-draft2" "[resource-drop]bucket" (func $kv_drop (param i32)))
  (import "wasi:keyvalue/batch@0.2.0-draft2" "get-many"
    (func $get_many (param i32 i32 i32 i32)))
  (import "wasi:keyvalue/batch@0.2.0-draft2" "set-many"
    (func $set_many (param i32 i32 i32 i32)))
  (import "wasi:keyvalue/atomics@0.2.0-draft2" "increment"
    (func $increment (param i32 i32 i32 i64 i32)))
  (import "wasi:messaging/types@0.2.0-draft" "[static]client.connect"
    (func $connect (param i32 i32 i32)))
  (import "wasi:messaging/types@0.2.0-draft" "[constructor]message"
    (func $message (param i32 i32) (result i32)))
  (import "wasi:messaging/types@0.2.0-draft" "[method]message.add-metadata"
    (func $add (param i32 i32 i32 i32 i32)))
  (import "wasi:messaging/producer@0.2.0-draft" "send"
    (func $give (param i32 i32 i32 i32 i32)))
  (import "wasi:clocks/wall-clock@0.2.0" "now" (func $wall (param i32)))
  (import "wasi:random/random@0.2.0" "get-random-bytes" (func $chance (param i64 i32)))"#;

/// Opens a bucket: its handle is in `$n`.
const OPEN: &str = "(call $open (i32.const 3040) (i32.const 4) (i32.const 2300))
    (local.set $n (i32.load (i32.const 2304)))";
/// Connects a client, likewise.
const CONNECT: &str = "(call $connect (i32.const 3040) (i32.const 4) (i32.const 2300))
    (local.set $n (i32.load (i32.const 2304)))";
const AGAIN: &str = "(global.set $top (i32.const 65536))";
/// A text as large as the memory has room for beside the rest.
const GIANT: (i64, i64) = (65_536, 12_000_000);

fn row(name: &str, body: &str, ends: Ends) -> Row {
    let guest = Guest { body, imports: IMPORTS, ..Guest::default() };
    Row::new(name, guest.drafts_handler(), ends).endless()
}

/// Lists of `count` items of `words` words each, all alike, at the start of what is large.
fn list(count: u32, words: &[i64]) -> String {
    let size = words.len() * 4;
    let stores: Vec<String> = words
        .iter()
        .enumerate()
        .map(|(n, word)| {
            let at = 65_536 - size + n * 4;
            format!(
                "(i32.store offset={at} (i32.mul (local.get $i) (i32.const {size}))
                   (i32.const {word}))"
            )
        })
        .collect();
    format!("{LARGE} {}", repeat(count, &stores.join(" ")))
}

/// Key-value stores.
pub(super) fn stores() -> Vec<Row> {
    let trap = Ends::Dead("trap", "");
    let output = Ends::Dead("output", "");
    let giant = at(GIANT.0, GIANT.1);
    let name = at(3040, 4);
    let fill = "(memory.fill (i32.const 65536) (i32.const 97) (i32.const 12000000))";
    let refused = expect("(i32.load8_u (i32.const 2300))", 1);
    let set = |key: &str, value: &str| {
        format!("(call $kv_set (local.get $n) {key} {value} (i32.const 2300))")
    };
    let many = |call: &str, count: u32| {
        format!(
            "(call {call} (local.get $n) (i32.const 65536) (i32.const {count}) (i32.const 2300))"
        )
    };
    let stored = format!("{LARGE} {}", set(&name, &at(65_536, 400_000)));
    vec![
        row("kv-giant-value", &format!("{OPEN} {LARGE} {fill} {}", set(&name, &giant)), output),
        row(
            "kv-giant-key",
            &format!("{OPEN} {LARGE} {fill} {} {refused}", set(&giant, &name)),
            Ends::Done,
        ),
        row(
            "kv-giant-bucket",
            &format!("{LARGE} {fill} (call $open {giant} (i32.const 2300)) {refused}"),
            Ends::Done,
        ),
        row(
            "kv-giant-batch",
            &format!(
                "{} {OPEN} {} {refused}",
                list(700_000, &[0, 0, 0, 0]),
                many("$set_many", 700_000)
            ),
            trap,
        ),
        row(
            "kv-batch-of-large-values",
            &format!(
                "{OPEN} {stored} {} {} {refused}",
                list(10_000, &[3040, 4]),
                many("$get_many", 10_000)
            ),
            Ends::Done,
        ),
        row(
            "kv-batch-of-giant-keys",
            &format!("{} {OPEN} {}", list(1000, &[65_536, 1_000_000]), many("$get_many", 1000)),
            trap,
        ),
        row("kv-batch-beyond", &format!("{OPEN} {}", many("$get_many", 0x0fff_ffff)), trap),
    ]
}

/// Key-value stores that are used as they should not be.
pub(super) fn misuse() -> Vec<Row> {
    let trap = Ends::Dead("trap", "");
    let name = at(3040, 4);
    let set = |key: &str, value: &str| {
        format!("(call $kv_set (local.get $n) {key} {value} (i32.const 2300))")
    };
    let get = |key: &str| format!("(call $kv_get (local.get $n) {key} (i32.const 2300))");
    vec![
        row("kv-no-such-handle", &format!("(local.set $n (i32.const 77)) {}", get(&name)), trap),
        row(
            "kv-dropped-twice",
            &format!("{OPEN} (call $kv_drop (local.get $n)) (call $kv_drop (local.get $n))"),
            trap,
        ),
        row("kv-handles", &forever(OPEN), trap),
        row(
            "kv-flood",
            &format!("{OPEN} {}", forever(&get(&name))),
            Ends::Dead("output", "host calls"),
        ),
        row(
            "kv-increments",
            &format!(
                "{OPEN} {}",
                forever(&format!(
                    "(call $increment (local.get $n) {name} (i64.const 1) (i32.const 2304))"
                ))
            ),
            Ends::Dead("timeout", ""),
        )
        .timeout("500ms"),
        row(
            "kv-set-flood",
            &format!(
                "{OPEN} {}",
                repeat(20_000, &format!("{NAMED} {}", set(&at(2400, 3), &at(0, 1))))
            ),
            Ends::Dead("output", ""),
        ),
        row(
            "kv-cursor-beyond",
            &format!(
                "{OPEN} (call $kv_list (local.get $n) (i32.const 1) (i32.const -8) (i32.const 99)
                   (i32.const 2300))"
            ),
            trap,
        ),
    ]
}

/// Messages.
pub(super) fn messages() -> Vec<Row> {
    let trap = Ends::Dead("trap", "");
    let kind = at(3000, 9);
    let made = "(call $message (i32.const 0) (i32.const 4))";
    let give = |topic: &str, message: &str| {
        format!("(call $give (local.get $n) {topic} {message} (i32.const 2300))")
    };
    // Another name each time.
    let add = format!(
        "{NAMED} (call $add (local.get $n) (i32.const 2400) (i32.const 3) (i32.const 0) (i32.const 0))"
    );
    vec![
        row(
            "message-giant",
            &format!("{LARGE} (drop (call $message {}))", at(GIANT.0, GIANT.1)),
            Ends::Dead("memory", ""),
        ),
        row(
            "message-flood",
            &format!("{CONNECT} {}", repeat(5000, &give(&kind, made))),
            Ends::Dead("output", "limits.emits"),
        ),
        row("message-hoard", &forever("(drop (call $message (i32.const 0) (i32.const 4)))"), trap),
        row(
            "message-metadata",
            &format!(
                "(local.set $n (call $message (i32.const 0) (i32.const 4))) {}",
                repeat(700_000, &add)
            ),
            Ends::Dead("timeout", ""),
        )
        .timeout("500ms"),
        row(
            "message-no-such-client",
            &format!("(local.set $n (i32.const 99)) {}", give(&kind, made)),
            trap,
        ),
        row(
            "message-sent-twice",
            &format!(
                "{CONNECT} (local.set $i {made}) {} {}",
                give(&kind, "(local.get $i)"),
                give(&kind, "(local.get $i)")
            ),
            trap,
        ),
        row(
            "message-forged",
            &format!(
                "{CONNECT} {} {}",
                give(&at(3020, 15), made),
                expect("(i32.load8_u (i32.const 2300))", 1)
            ),
            Ends::Done,
        ),
    ]
}

/// Calls that are not counted, as they are WASI's own: the clock ends them.
pub(super) fn uncounted() -> Vec<Row> {
    let timeout = Ends::Dead("timeout", "");
    let chance = "(call $chance (i64.const 1000000) (i32.const 2300))";
    vec![
        row("wasi-clock-flood", &forever("(call $wall (i32.const 2304))"), timeout)
            .timeout("300ms"),
        row("wasi-random-flood", &forever(&format!("{AGAIN} {chance}")), timeout).timeout("300ms"),
        row(
            "wasi-random-giant",
            "(call $chance (i64.const -1) (i32.const 2300))",
            Ends::Dead("trap", ""),
        ),
    ]
}

/// Commands and queries that go beyond what they are for.
pub(super) fn requests() -> Vec<Row> {
    let set = format!(
        "(call $set {} {} (i32.const 0) (i64.const 0) (i32.const 2300)) {}",
        at(3040, 4),
        at(0, 4),
        expect("(i32.load8_u (i32.const 2300))", 1)
    );
    let fill = forever("(drop (call $now))");
    let of = |body| Guest { body, ..Guest::default() };
    vec![
        Row::new("query-writes", of(&set).query(), Ends::Answer(200, "")).tried(Tried::Query),
        Row::new("query-floods", of(&fill).query(), Ends::Answer(500, "output"))
            .tried(Tried::Query)
            .endless(),
        Row::new("command-floods", of(&fill).command(), Ends::Answer(500, "output"))
            .tried(Tried::Command)
            .endless(),
    ]
}
