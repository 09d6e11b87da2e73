//! Guests that do harm, or try to.

use super::guests::{self, BROKEN, FORGED, HAPPENED, emit, handler, handler_with_memory, repeat};
use super::*;
use crate::wasm::refusal::Refusal;

const FOREVER: &str = "(loop $forever (br $forever))";

/// Sees a guest misbehave, behave, and misbehave again: the second time it meets the same limits.
async fn check(plugin: &mut Plugin, expected: OutcomeKind) -> Invocation {
    let first = plugin.deliver("!").await;
    assert_eq!(first.outcome.kind(), expected, "{:?} {}", first.outcome, first.backtrace);
    assert!(first.effects.is_empty());
    assert_ok(&plugin.deliver(".").await);
    let second = plugin.deliver("!").await;
    assert_eq!(second.outcome, first.outcome);
    if expected == OutcomeKind::Timeout {
        assert!(second.wall >= plugin.limits.timeout, "on an instance that has served before");
    }
    assert_ok(&plugin.deliver(".").await);
    first
}

/// As [`check`], and the instance is given up.
async fn check_stopped(plugin: &mut Plugin, expected: OutcomeKind) -> Invocation {
    assert_eq!(plugin.deliver("!").await.outcome.kind(), expected);
    assert!(!plugin.has_instance());
    check(plugin, expected).await
}

#[tokio::test]
async fn a_trap_comes_with_its_backtrace() {
    let inner = "(func $deep_inside unreachable)";
    let mut plugin = Plugin::load(handler("(call $deep_inside)", inner)).await;
    let trapped = check_stopped(&mut plugin, OutcomeKind::Trap).await;
    assert!(trapped.outcome.reason().contains("unreachable"), "{:?}", trapped.outcome);
    let frames: Vec<&str> = trapped.backtrace.lines().collect();
    assert!(frames[0].contains("guest!deep_inside"), "{frames:?}");
    assert!(frames[1].contains("handle"), "{frames:?}");
}

#[tokio::test]
async fn a_trap_has_the_last_error_that_its_guest_logged_as_its_reason() {
    // At 3100: two lines, with more after them.
    let words = "(data (i32.const 3100) \"boom\\n  at add (index.js:3)\\n  at handle\")";
    let log = |level: u32, length: u32| {
        format!("(call $log (i32.const {level}) (i32.const 3100) (i32.const {length}))")
    };
    let (info, error) = (2, 4);
    for (said, reason) in [
        (log(error, 37), "boom at add (index.js:3)"),
        (format!("{} {}", log(error, 4), log(info, 37)), "boom"),
        (log(info, 37), "wasm trap: wasm `unreachable` instruction executed"),
        (log(error, 0), "wasm trap: wasm `unreachable` instruction executed"),
    ] {
        let mut plugin = Plugin::load(handler(&format!("{said} unreachable"), words)).await;
        let trapped = check_stopped(&mut plugin, OutcomeKind::Trap).await;
        assert_eq!(trapped.outcome.reason(), reason);
    }
    // What traps otherwise says so itself.
    let misplaced = format!("{} (drop (i32.load (i32.const -4)))", log(error, 4));
    let mut plugin = Plugin::load(handler(&misplaced, words)).await;
    let trapped = check_stopped(&mut plugin, OutcomeKind::Trap).await;
    assert!(trapped.outcome.reason().contains("out of bounds"), "{:?}", trapped.outcome);
}

#[tokio::test]
async fn a_loop_runs_out_of_fuel() {
    let mut plugin = Plugin::load(handler(FOREVER, "")).await;
    let stopped = check_stopped(&mut plugin, OutcomeKind::Fuel).await;
    assert_eq!(stopped.fuel, plugin.limits.fuel);
    assert!(stopped.backtrace.contains("handle"));
}

#[tokio::test]
async fn a_loop_in_start_runs_out_of_fuel() {
    let start = format!("(func $spin {FOREVER}) (start $spin)");
    let mut plugin = Plugin::load(handler("", &start)).await;
    for _ in 0..2 {
        let stopped = plugin.deliver(".").await;
        assert_eq!((stopped.outcome, stopped.fuel), (Outcome::Fuel, plugin.limits.fuel));
        assert!(!plugin.has_instance());
    }
}

#[tokio::test]
async fn a_loop_with_endless_fuel_meets_the_clock() {
    let mut plugin = Plugin::load(handler(FOREVER, "")).await;
    plugin.limits.fuel = u64::MAX;
    plugin.limits.timeout = Duration::from_millis(40);
    let stopped = check_stopped(&mut plugin, OutcomeKind::Timeout).await;
    assert!(stopped.wall >= plugin.limits.timeout);
    // 8 a nanosecond, by the ticks that found it computing: the first may come at once.
    let burnt = |time: Duration| u64::try_from(time.as_micros()).unwrap() * 8000;
    let bounds = burnt(EPOCH_TICK)..=burnt(stopped.wall + EPOCH_TICK);
    assert!(bounds.contains(&stopped.fuel), "{} in {:?}", stopped.fuel, stopped.wall);
    assert!(stopped.backtrace.contains("handle"), "where it spun");
}

#[tokio::test]
async fn the_clock_starts_anew_for_each_delivery_of_an_instance() {
    let mut plugins =
        [Plugin::load(handler(FOREVER, "")).await, Plugin::load(handler(FOREVER, "")).await];
    for plugin in &mut plugins {
        plugin.limits.fuel = u64::MAX;
        plugin.limits.timeout = Duration::from_millis(40);
    }
    let [plugin, other] = &mut plugins;
    assert_ok(&plugin.deliver(".").await);
    // Lasts until the deadline of the delivery above is past.
    assert_eq!(other.deliver("!").await.outcome, Outcome::Timeout);
    assert!(plugin.has_instance());
    let stopped = plugin.deliver("!").await;
    assert_eq!(stopped.outcome, Outcome::Timeout);
    assert!(stopped.wall >= plugin.limits.timeout);
}

#[tokio::test]
async fn a_loop_lets_others_run() {
    let mut plugin = Plugin::load(handler(FOREVER, "")).await;
    plugin.limits.fuel = u64::MAX;
    // Far longer than three turns take however busy the machine is: what ends the race is the order
    // of the two, not the time. A guest that does not yield runs into it, and fails the test.
    plugin.limits.timeout = Duration::from_secs(60);
    let others = async {
        let mut turns = 0;
        loop {
            tokio::task::yield_now().await;
            turns += 1;
            if turns == 3 {
                return;
            }
        }
    };
    // On the one thread of this runtime, the other future can end first only if the guest yields.
    tokio::select! {
        biased;
        stopped = plugin.deliver("!") => panic!("{:?}", stopped.outcome),
        () = others => {}
    }
}

#[tokio::test]
async fn a_guest_that_computes_for_long_runs_again_where_it_can_yield() {
    let emit_and_compute = emit(HAPPENED, "(i32.const 8)") + &repeat(200_000_000, "");
    let mut plugin = Plugin::load(handler(&emit_and_compute, "")).await;
    plugin.limits.fuel = u64::MAX;
    let first = plugin.deliver(".").await;
    assert_ok(&first);
    assert_eq!(plugin.slot.yielding(), 0);
    let long = plugin.deliver("!").await;
    assert_ok(&long);
    assert_eq!(long.effects.emits.len(), 1, "nothing of the run that was stopped is left");
    assert_eq!(plugin.slot.served(), 1, "nor its instance");
    assert!(plugin.slot.yielding() > 0);
    assert_ok(&plugin.deliver(".").await);
}

#[tokio::test]
async fn growing_memory_without_end_is_stopped() {
    let grow = "(loop $more (drop (memory.grow (i32.const 16))) (br $more))";
    let mut plugin = Plugin::load(handler(grow, "")).await;
    let stopped = check_stopped(&mut plugin, OutcomeKind::Memory).await;
    assert!(stopped.memory_bytes <= plugin.limits.memory_bytes);
    assert!(stopped.memory_bytes > plugin.limits.memory_bytes / 2);
}

#[tokio::test]
async fn the_guests_own_maximum_is_not_an_offence() {
    let grow = "(if (i32.ne (memory.grow (i32.const 9)) (i32.const -1)) (then unreachable))";
    let memory = "(memory (export \"memory\") 2 4)";
    let mut plugin = Plugin::load(handler_with_memory(grow, "", memory)).await;
    assert_ok(&plugin.deliver("!").await);
}

#[tokio::test]
async fn growing_a_table_without_end_is_stopped() {
    let grow = "(loop $more
        (drop (table.grow $t (ref.null func) (i32.const 10000))) (br $more))";
    let mut plugin = Plugin::load(handler(grow, "(table $t 1 funcref)")).await;
    check_stopped(&mut plugin, OutcomeKind::Memory).await;
}

#[tokio::test]
async fn a_minimum_memory_above_the_limit_is_stopped_before_the_guest_runs() {
    let memory = "(memory (export \"memory\") 2000)";
    let mut plugin = Plugin::load(handler_with_memory("", "", memory)).await;
    for _ in 0..2 {
        let stopped = plugin.deliver(".").await;
        assert_eq!(stopped.outcome, Outcome::Memory);
        assert!(!plugin.has_instance());
    }
    plugin.limits.memory_bytes = 256 * 1024 * 1024;
    assert_ok(&plugin.deliver(".").await);
    plugin.limits.memory_bytes = 64 * 1024 * 1024;
    assert_eq!(plugin.deliver(".").await.outcome, Outcome::Memory, "a lower limit holds at once");
}

#[tokio::test]
async fn endless_recursion_traps() {
    let recurse = "(func $down (call $down) (call $down))";
    let mut plugin = Plugin::load(handler("(call $down)", recurse)).await;
    let stopped = check_stopped(&mut plugin, OutcomeKind::Trap).await;
    assert!(stopped.outcome.reason().contains("stack"), "{:?}", stopped.outcome);
}

#[tokio::test]
async fn a_million_emits_are_output() {
    let body = repeat(1_000_000, &emit(HAPPENED, "(i32.const 4)"));
    let mut plugin = Plugin::load(handler(&body, "")).await;
    plugin.limits.fuel = u64::MAX;
    let stopped = plugin.deliver("!").await;
    let emits = Outcome::Output { budget: "limits.emits".to_owned() };
    assert_eq!(stopped.outcome, emits);
    assert!(stopped.effects.is_empty());
    assert!(plugin.has_instance(), "it returned in order");
    assert_ok(&plugin.deliver(".").await);
}

#[tokio::test]
async fn one_emit_over_the_budget_is_output_and_the_last_within_is_ok() {
    let body = repeat(3, &emit(HAPPENED, "(i32.const 4)"));
    let mut plugin = Plugin::load(handler(&body, "")).await;
    plugin.limits.emits_max = 3;
    let done = plugin.deliver("!").await;
    assert_ok(&done);
    assert_eq!(done.effects.emits.len(), 3);
    plugin.limits.emits_max = 2;
    check(&mut plugin, OutcomeKind::Output).await;
}

#[tokio::test]
async fn an_emit_of_a_hundred_mebibytes_is_output() {
    let grow = "(drop (memory.grow (i32.const 1700)))";
    let body = format!("{grow} {}", emit(HAPPENED, "(i32.const 104857600)"));
    let mut plugin = Plugin::load(handler(&body, "")).await;
    plugin.limits.memory_bytes = 256 * 1024 * 1024;
    let stopped = check(&mut plugin, OutcomeKind::Output).await;
    assert_eq!(stopped.outcome.reason(), "`limits.output` was exceeded");
}

#[tokio::test]
async fn a_returned_failure_stands_after_an_exceeded_budget() {
    let body = format!(
        "{} (i32.store8 (i32.const 2048) (i32.const 1)) (i32.store8 (i32.const 2056) (i32.const 1))",
        repeat(2, &emit(HAPPENED, "(i32.const 4)"))
    );
    let mut plugin = Plugin::load(handler(&body, "")).await;
    plugin.limits.emits_max = 1;
    check(&mut plugin, OutcomeKind::Reject).await;
}

#[tokio::test]
async fn a_flood_of_host_calls_is_stopped() {
    let flood = "(loop $more (drop (call $now)) (br $more))";
    let mut plugin = Plugin::load(handler(flood, "")).await;
    plugin.limits.fuel = u64::MAX;
    check_stopped(&mut plugin, OutcomeKind::Output).await;
}

#[tokio::test]
async fn an_emit_too_deep_is_depth() {
    let body = emit(HAPPENED, "(i32.const 4)");
    let mut plugin = Plugin::load(handler(&body, "")).await;
    plugin.depth = crate::limits::DEPTH_MAX - 1;
    assert_ok(&plugin.deliver("!").await);
    plugin.depth = crate::limits::DEPTH_MAX;
    check(&mut plugin, OutcomeKind::Depth).await;
}

#[tokio::test]
async fn a_forged_type_is_refused_and_the_guest_goes_on() {
    // Traps unless the answer is the error `invalid`.
    let body = format!(
        "{} (if (i32.ne (i32.load8_u (i32.const 2200)) (i32.const 1)) (then unreachable))
         (if (i32.ne (i32.load8_u (i32.const 2204)) (i32.const 1)) (then unreachable))",
        emit(FORGED, "(i32.const 4)")
    );
    let mut plugin = Plugin::load(handler(&body, "")).await;
    let done = plugin.deliver("!").await;
    assert_ok(&done);
    assert!(done.effects.is_empty());
}

#[tokio::test]
async fn malformed_strings_and_lists_trap() {
    let beyond = "(call $log (i32.const 0) (i32.const 0) (i32.const 0x7fffffff))";
    let attributes = |len: &str| {
        emit(HAPPENED, "(i32.const 4)").replace(
            "(i32.const 0) (i32.const 0)\n           (i32.const 2200)",
            &format!("(i32.const 0) {len} (i32.const 2200)"),
        )
    };
    let bodies = [
        emit(BROKEN, "(i32.const 4)"),
        emit(HAPPENED, "(i32.const -1)"),
        beyond.to_owned(),
        "(call $log (i32.const 77) (i32.const 0) (i32.const 1))".to_owned(),
        attributes("(i32.const 0x0fffffff)"),
    ];
    for body in bodies {
        let mut plugin = Plugin::load(handler(&body, "")).await;
        check_stopped(&mut plugin, OutcomeKind::Trap).await;
    }
}

#[tokio::test]
async fn a_list_of_many_large_strings_costs_the_host_nothing() {
    // 65 attributes, then 64 that share 60 KiB of memory: refused before a byte is copied.
    let fill = "(loop $fill
        (i32.store (i32.add (i32.const 70000) (i32.mul (local.get $i) (i32.const 4)))
          (select (i32.const 61440) (i32.const 4000) (i32.and (local.get $i) (i32.const 1))))
        (br_if $fill (i32.lt_u
          (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 300))))";
    for count in [64, 65, 3000] {
        let call = emit(HAPPENED, "(i32.const 4)").replace(
            "(i32.const 0) (i32.const 0)\n           (i32.const 2200)",
            &format!("(i32.const 70000) (i32.const {count}) (i32.const 2200)"),
        );
        let refused =
            "(if (i32.ne (i32.load8_u (i32.const 2204)) (i32.const 1)) (then unreachable))";
        let mut plugin = Plugin::load(handler(&format!("{fill} {call} {refused}"), "")).await;
        let done = plugin.deliver("!").await;
        assert_ok(&done);
        assert!(done.effects.is_empty());
    }
}

#[tokio::test]
async fn a_giant_reason_is_cut() {
    let body = "(i32.store8 (i32.const 2048) (i32.const 1))
        (i32.store8 (i32.const 2056) (i32.const 1))
        (memory.fill (i32.const 70000) (i32.const 97) (i32.const 50000))
        (i32.store (i32.const 2064) (i32.const 70000))
        (i32.store (i32.const 2068) (i32.const 50000))";
    let mut plugin = Plugin::load(handler(body, "")).await;
    let reason = plugin.deliver("!").await.outcome.reason();
    assert_eq!(reason.len(), crate::limits::REASON_BYTES_MAX);
}

#[tokio::test]
async fn logs_are_bounded() {
    let body = repeat(1000, "(call $log (i32.const 4) (i32.const 3000) (i32.const 60000))");
    let mut plugin = Plugin::load(handler(&body, "")).await;
    plugin.limits.fuel = u64::MAX;
    // The text is zeros after the first bytes, which is UTF-8, except for one fixture in between.
    let stopped = plugin.deliver("!").await;
    assert_eq!(stopped.outcome.kind(), OutcomeKind::Trap, "not UTF-8");
    let body = repeat(1000, "(call $log (i32.const 4) (i32.const 4000) (i32.const 60000))");
    let mut plugin = Plugin::load(handler(&body, "")).await;
    let done = plugin.deliver("!").await;
    assert_ok(&done);
    assert_eq!(done.logs.len(), crate::limits::LOG_LINES_MAX);
    let line = done.logs.first().unwrap();
    assert_eq!((line.level.as_str(), line.message.len()), ("error", 8 * 1024));
}

#[tokio::test]
async fn a_plugin_that_is_stopped_disturbs_no_other() {
    let mut good = Plugin::load(guests::counter()).await;
    let mut bad = Plugin::load(handler(FOREVER, "")).await;
    for _ in 0..3 {
        let (stopped, done) = tokio::join!(bad.deliver("!"), good.deliver("."));
        assert_eq!(stopped.outcome, Outcome::Fuel);
        assert_ok(&done);
    }
}

#[tokio::test]
async fn a_name_that_stands_for_far_more_text_stays_as_it_is_in_a_backtrace() {
    // Four templates, each of forty of the one before: ten megabytes once demangled.
    let reference =
        |number: usize| if number == 0 { "S_".to_owned() } else { format!("S{}_", number - 1) };
    let mut name = "_Z1f1A".to_owned();
    for (level, letter) in ["B", "C", "D", "E"].into_iter().enumerate() {
        name.push_str(&format!("1{letter}I{}E", reference(2 * level).repeat(40)));
    }
    let inner = format!("(func ${name} unreachable)");
    let mut plugin = Plugin::load(handler(&format!("(call ${name})"), &inner)).await;
    let trapped = check_stopped(&mut plugin, OutcomeKind::Trap).await;
    let frames: Vec<&str> = trapped.backtrace.lines().collect();
    assert!(frames[0].ends_with(&format!("guest!{name}")), "{frames:?}");
    assert!(frames[1].contains("handle"), "{frames:?}");
}

#[tokio::test]
async fn a_name_that_would_fill_the_memory_at_each_trap_is_refused() {
    let limit = crate::limits::FUNCTION_NAME_BYTES_MAX;
    let named = |bytes: usize| {
        let down = format!("(func $down (@name \"{}\") (call $down))", "x".repeat(bytes));
        handler("(call $down)", &down)
    };
    let mut plugin = Plugin::load(named(limit)).await;
    let trapped = check_stopped(&mut plugin, OutcomeKind::Trap).await;
    assert!(trapped.backtrace.len() <= crate::limits::BACKTRACE_BYTES_MAX);
    let refused = sandbox().load("long", named(limit + 1).into()).await.unwrap_err();
    let LoadError::Refused(Refusal::FunctionName { bytes, .. }) = refused else {
        panic!("{refused}");
    };
    assert_eq!(bytes, limit + 1);
}
