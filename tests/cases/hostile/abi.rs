//! Guests that break the rules of how guest and host speak, in a delivery or in what they answer.

use super::guest::{Guest, at, emit, expect, forever};
use super::rows::{Ends, LARGE, Row, Tried, guest, handler};

/// Guests that break the rules of how guest and host speak.
pub(super) fn deliveries() -> Vec<Row> {
    let kind = &at(3000, 9);
    let (data, none) = (&at(0, 4), &at(0, 0));
    let trap = Ends::Dead("trap", "");
    let invalid = format!(
        "{} {}",
        expect("(i32.load8_u (i32.const 2200))", 1),
        expect("(i32.load8_u (i32.const 2204))", 1)
    );
    let refused = |call: String| format!("{call} {invalid}");
    let emit_of = |kind: &str, data: &str, attributes: &str| emit(kind, "", data, attributes);
    let realloc = |body| Guest { realloc: body, body: CALL_BACK, ..Guest::default() };
    let after = |body| Guest { after: body, ..Guest::default() };
    vec![
        handler("not-utf-8", &emit_of(&at(3060, 3), data, none), trap),
        handler("a-pointer-beyond", &emit_of(kind, &at(0x7fff_0000, 4), none), trap),
        handler("a-length-beyond", &emit_of(kind, &at(0, 0x7fff_ffff), none), trap),
        handler("pointer-and-length-overflow", &emit_of(kind, &at(-16, 32), none), trap),
        handler("a-length-of-all-ones", &emit_of(kind, &at(1, -1), none), trap),
        handler("an-unaligned-list", &emit_of(kind, data, &at(4001, 1)), trap),
        handler("a-list-beyond", &emit_of(kind, data, &at(4000, 0x0fff_ffff)), trap),
        handler("a-list-whose-size-overflows", &emit_of(kind, data, &at(0, 0x1000_0001)), trap),
        handler("a-list-of-garbage", &emit_of(kind, data, &at(3000, 4)), trap),
        handler("no-such-level", &format!("(call $log (i32.const 77) {data})"), trap),
        handler(
            "neither-some-nor-none",
            &emit(kind, &format!("(i32.const 2) {none}"), data, none),
            trap,
        ),
        handler("a-return-beyond", "(return (i32.const -8))", trap),
        handler("an-unaligned-return", "(return (i32.const 2049))", trap),
        handler("neither-ok-nor-error", "(i32.store8 (i32.const 2048) (i32.const 7))", trap),
        handler(
            "no-such-failure",
            "(i32.store8 (i32.const 2048) (i32.const 1)) (i32.store8 (i32.const 2056) (i32.const 9))",
            trap,
        ),
        handler("a-reason-beyond", REASON_BEYOND, trap),
        handler("a-forged-type", &refused(emit_of(&at(3020, 15), data, none)), Ends::Done),
        handler("an-empty-type", &refused(emit_of(none, data, none)), Ends::Done),
        handler("a-giant-type", &refused(emit_of(&at(70_000, 60_000), data, none)), Ends::Done),
        handler(
            "no-such-bus",
            &refused(emit(kind, &format!("(i32.const 1) {}", at(3070, 7)), data, none)),
            Ends::Done,
        ),
        guest("trap-in-realloc", &realloc("unreachable"), trap),
        guest("realloc-beyond", &realloc("(i32.const -16)"), trap),
        guest("realloc-unaligned", &realloc("(i32.const 70001)"), trap),
        guest(
            "realloc-loops",
            &realloc("(loop $on (br $on)) (i32.const 0)"),
            Ends::Dead("fuel", ""),
        ),
        guest("realloc-calls-back", &realloc("(drop (call $now)) (i32.const 70000)"), trap),
        guest("realloc-calls-itself-in", &realloc(REENTERS), trap),
        guest("trap-after-return", &after("unreachable"), trap),
        guest("loop-after-return", &after("(loop $on (br $on))"), Ends::Dead("fuel", "")),
        guest("call-after-return", &after("(drop (call $now))"), trap),
    ]
}

/// Makes the host allocate in the guest.
const CALL_BACK: &str = "(call $attribute (i32.const 3040) (i32.const 4) (i32.const 2300))
     (call $emit (i32.const 3000) (i32.const 9) (i32.const 0) (i32.const 0) (i32.const 0)
       (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
       (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 2200))";
/// A `cabi_realloc` that emits, while the host is busy answering the emit before.
const REENTERS: &str = "(call $emit (i32.const 3000) (i32.const 9) (i32.const 0) (i32.const 0)
    (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
    (i32.const 0) (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 2200)) (i32.const 70000)";
const REASON_BEYOND: &str =
    "(i32.store8 (i32.const 2048) (i32.const 1)) (i32.store8 (i32.const 2056) (i32.const 1))
     (i32.store (i32.const 2064) (i32.const -100)) (i32.store (i32.const 2068) (i32.const 50))";

/// Hostile answers to commands and queries, and hostile lifting.
pub(super) fn answers() -> Vec<Row> {
    let spin = forever("");
    let of = |body| Guest { body, ..Guest::default() };
    let giant = &format!(
        "{LARGE} (i32.store (i32.const 2064) (i32.const 65536))
         (i32.store (i32.const 2068) (i32.const 13000000))"
    );
    let beyond = "(i32.store (i32.const 2064) (i32.const -64))
        (i32.store (i32.const 2068) (i32.const 128))";
    let garbage = "(i32.store8 (i32.const 2048) (i32.const 9))";
    let type_of_garbage = "(i32.store (i32.const 2056) (i32.const 3060))
        (i32.store (i32.const 2060) (i32.const 3))";
    let mut rows = Vec::new();
    for (name, body, code) in [
        ("loop", spin.as_str(), "fuel"),
        ("giant", giant, "output"),
        ("beyond", beyond, "trap"),
        ("garbage", garbage, "trap"),
        ("not-utf-8", type_of_garbage, "trap"),
        ("bomb", "(loop $on (drop (memory.grow (i32.const 16))) (br $on))", "memory"),
    ] {
        let ends = Ends::Answer(500, code);
        let (command, query) = (of(body).command(), of(body).query());
        rows.push(Row::new(format!("command-{name}"), command, ends).tried(Tried::Command));
        rows.push(Row::new(format!("query-{name}"), query, ends).tried(Tried::Query));
    }
    let same_version = "(i32.store (i32.const 2052) (i32.const 1))";
    let giant_lift = &format!(
        "{LARGE} (i32.store (i32.const 2052) (i32.const 2))
         (i32.store (i32.const 2064) (i32.const 65536))
         (i32.store (i32.const 2068) (i32.const 13000000))"
    );
    let beyond_lift = "(i32.store (i32.const 2052) (i32.const 2))
        (i32.store (i32.const 2064) (i32.const -64)) (i32.store (i32.const 2068) (i32.const 128))";
    let lift = |name, body, words| {
        Row::new(name, of(body).upcaster(), Ends::Dead("trap", words)).tried(Tried::Lift)
    };
    rows.extend([
        lift("lift-loop", &spin, "fuel"),
        lift("lift-nowhere", same_version, "version 1 is not above 1"),
        lift("lift-giant", giant_lift, "13000000 bytes"),
        lift("lift-beyond", beyond_lift, ""),
        lift("lift-garbage", garbage, ""),
        lift("lift-trap", "unreachable", "unreachable"),
    ]);
    rows
}
