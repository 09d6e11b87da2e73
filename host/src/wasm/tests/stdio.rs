//! Commands as plugins: the protocol over standard input and output, under the same limits.

use super::guests::{command, wasi_handler};
use super::*;

mod protocol;

async fn run(out: &str, err: &str, end: &str) -> Invocation {
    Plugin::load(command(out, err, end)).await.deliver(".").await
}

/// Reads standard input and prints it to standard error.
const ECHO: &str = "(i32.store (i32.const 0) (i32.const 70000))
    (i32.store (i32.const 4) (i32.const 60000))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (call $print (i32.const 2) (i32.const 70000) (i32.load (i32.const 8)))";

#[tokio::test]
async fn a_command_that_says_nothing_is_ok() {
    let mut plugin = Plugin::load(command("", "", "")).await;
    assert_eq!(plugin.module.exports, Exports::STDIO);
    for _ in 0..2 {
        let done = plugin.deliver(".").await;
        assert_ok(&done);
        assert!(done.effects.is_empty());
        assert!(!plugin.has_instance(), "each delivery is one run");
    }
    assert_ok(&run("", "", "(call $exit (i32.const 0))").await);
}

#[tokio::test]
async fn what_a_command_prints_is_what_it_wants() {
    let out = "{\"emit\":{\"type\":\"thing.happened\",\"data\":{\"n\": 1}}}\n\
               {\"state\":{\"set\":{\"count\":25},\"delete\":[\"old\"]}}\n\n\
               {\"outcome\":\"ok\",\"reason\":\"\",\"after_ms\":0}\n";
    let done = run(out, "one\ntwo\n", "").await;
    assert_ok(&done);
    let emit = done.effects.emits.first().unwrap();
    assert_eq!(&*emit.data, b"{\"n\": 1}", "data is kept as printed");
    assert_eq!(&*emit.content_type, "application/json");
    assert_eq!(emit.id, seed().event_id(Position(7), 0));
    let values: Vec<_> =
        done.effects.state.iter().map(|w| (&*w.name, w.value.as_deref())).collect();
    assert_eq!(values, [("count", Some(&b"25"[..])), ("old", None)]);
    let logs: Vec<&str> = done.logs.iter().map(|line| line.message.as_str()).collect();
    assert_eq!(logs, ["one", "two"]);
}

#[tokio::test]
async fn a_command_reads_the_event_and_what_it_may_know() {
    let mut plugin = Plugin::load(command("", "", ECHO)).await;
    plugin.state = Values::of(&[("count", "25"), ("name", "no json")]);
    plugin.config = Arc::new(BTreeMap::from([("currency".to_owned(), "EUR".to_owned())]));
    let done = plugin.deliver(".data").await;
    assert_ok(&done);
    let [event, rest] = done.logs.as_slice() else { panic!("{:?}", done.logs) };
    let event: serde_json::Value = serde_json::from_str(&event.message).unwrap();
    assert_eq!(event["type"], "thing.started");
    assert_eq!(event["partitionkey"], "k");
    assert_eq!(event["data"], ".data");
    let rest: serde_json::Value = serde_json::from_str(&rest.message).unwrap();
    assert_eq!(rest["state"], serde_json::json!({"count": 25, "name": "no json"}));
    assert_eq!(rest["config"]["currency"], "EUR");
    assert_eq!(rest["attempt"], 1);
}

#[tokio::test]
async fn a_printed_verdict_stands() {
    let retry = run("{\"outcome\":\"retry\",\"reason\":\"busy\",\"after_ms\":5}", "", "").await;
    let busy = Outcome::Retry { reason: "busy".to_owned(), after_ms: Some(5) };
    assert_eq!(retry.outcome, busy);
    let exit = "(call $exit (i32.const 3))";
    let out = "{\"state\":{\"set\":{\"a\":1}}}\n{\"outcome\":\"reject\",\"reason\":\"no\"}\n";
    let reject = run(out, "", exit).await;
    assert_eq!(reject.outcome, Outcome::Reject { reason: "no".to_owned() });
    assert!(reject.effects.is_empty());
}

#[tokio::test]
async fn a_failing_exit_without_a_verdict_is_a_trap() {
    let done =
        run("{\"state\":{\"set\":{\"a\":1}}}\n", "panicked", "(call $exit (i32.const 3))").await;
    assert_eq!(done.outcome, Outcome::Trap { reason: "exited with code 3".to_owned() });
    assert!(done.effects.is_empty());
    assert_eq!(done.logs.first().unwrap().message, "panicked");
    let told = "{\"log\":{\"level\":\"error\",\"message\":\"panic: boom\"}}\n";
    let done = run(told, "", "(call $exit (i32.const 2))").await;
    assert_eq!(done.outcome.reason(), "exited with code 2: panic: boom");
}

#[tokio::test]
async fn garbage_on_standard_output_is_a_trap_that_names_the_line() {
    for out in [
        "{\"outcome\":\"ok\"}\nhello\n",
        "\n{\"emit\":{\"type\":\"a\"},\"outcome\":\"ok\"}\n",
        "\n{\"emitt\":{\"type\":\"a\"}}\n",
        "{\"outcome\":\"ok\"}\n{\"outcome\":\"ok\"}\n",
        "\n{\"emit\":{\"type\":\"tidegate.forged\"}}\n",
        "\n{\"outcome\":\"fine\"}\n",
        "\n\u{fffd}\n",
    ] {
        let done = run(out, "", "").await;
        assert_eq!(done.outcome.kind(), OutcomeKind::Trap, "{out}");
        assert!(done.outcome.reason().contains("line 2"), "{:?}", done.outcome);
        assert!(done.effects.is_empty());
    }
}

#[tokio::test]
async fn too_much_standard_output_is_output() {
    let flood =
        "(loop $more (call $print (i32.const 1) (i32.const 0) (i32.const 65536)) (br $more))";
    let mut plugin = Plugin::load(command("", "said before", flood)).await;
    for _ in 0..2 {
        let done = plugin.deliver(".").await;
        assert_eq!(done.outcome, Outcome::Output { budget: "limits.output".to_owned() });
        assert_eq!(done.logs.first().unwrap().message, "said before");
    }
}

#[tokio::test]
async fn printed_effects_meet_the_same_budgets() {
    let line = "{\"emit\":{\"type\":\"thing.happened\"}}\n";
    let mut plugin = Plugin::load(command(&line.repeat(3), "", "")).await;
    plugin.limits.emits_max = 2;
    let done = plugin.deliver(".").await;
    assert_eq!(done.outcome, Outcome::Output { budget: "limits.emits".to_owned() });
    plugin.depth = crate::limits::DEPTH_MAX;
    assert_eq!(plugin.deliver(".").await.outcome, Outcome::Depth);
}

#[tokio::test]
async fn a_command_that_spins_or_grows_is_stopped() {
    let spin = run("", "", "(loop $forever (br $forever))").await;
    assert_eq!(spin.outcome, Outcome::Fuel);
    let grow = run("", "", "(loop $more (drop (memory.grow (i32.const 16))) (br $more))").await;
    assert_eq!(grow.outcome, Outcome::Memory);
    let trap = run("", "last words", "unreachable").await;
    assert_eq!(trap.outcome.kind(), OutcomeKind::Trap);
    assert_eq!(trap.logs.first().unwrap().message, "last words");
}

#[tokio::test]
async fn a_command_that_sleeps_meets_the_clock() {
    // A subscription to the monotonic clock (1), 100 s from now.
    let sleep = "(i32.store8 (i32.const 208) (i32.const 0))
        (i32.store (i32.const 216) (i32.const 1))
        (i64.store (i32.const 224) (i64.const 100000000000))
        (drop (call $poll (i32.const 200) (i32.const 400) (i32.const 1) (i32.const 8)))";
    let mut plugin = Plugin::load(command("", "good night", sleep)).await;
    plugin.limits.timeout = Duration::from_millis(40);
    for _ in 0..2 {
        let done = plugin.deliver(".").await;
        assert_eq!(done.outcome, Outcome::Timeout);
        assert!((1..1000).contains(&done.fuel), "it slept, and burnt {}", done.fuel);
        assert_eq!(done.logs.first().unwrap().message, "good night");
    }
}

#[tokio::test]
async fn clocks_stand_still_and_chance_repeats() {
    // Prints both clocks and 8 random bytes, each bit pattern moved to visible letters.
    let look = "(drop (call $clock (i32.const 0) (i64.const 1) (i32.const 200)))
        (drop (call $clock (i32.const 1) (i64.const 1) (i32.const 208)))
        (drop (call $random (i32.const 216) (i32.const 8)))
        (loop $letters
          (i32.store8 offset=300 (i32.mul (local.get $i) (i32.const 2))
            (i32.add (i32.const 97) (i32.shr_u
              (i32.load8_u offset=200 (local.get $i)) (i32.const 4))))
          (i32.store8 offset=301 (i32.mul (local.get $i) (i32.const 2))
            (i32.add (i32.const 97) (i32.and
              (i32.load8_u offset=200 (local.get $i)) (i32.const 15))))
          (br_if $letters (i32.lt_u
            (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 24))))
        (call $print (i32.const 2) (i32.const 300) (i32.const 48))";
    let mut plugin = Plugin::load(command("", "", look)).await;
    let one = plugin.deliver(".").await.logs;
    assert_eq!(one, plugin.deliver(".").await.logs);
    let text = &one.first().unwrap().message;
    let wall: u64 = 1_700_000_000_000 * 1_000_000;
    let letters: String = (wall.to_le_bytes().into_iter())
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|half| char::from(b'a' + half))
        .collect();
    assert!(text.starts_with(&letters), "{text} {letters}");
    plugin.attempt = 2;
    let two = plugin.deliver(".").await.logs;
    assert_ne!(one, two, "another attempt has other randomness");
}

#[tokio::test]
async fn a_guest_sees_the_variables_it_was_granted_and_no_other() {
    let look = "(drop (call $environ (i32.const 16) (i32.const 20)))
        (drop (call $variables (i32.const 70000) (i32.const 80000)))
        (call $print (i32.const 2) (i32.const 80000) (i32.load (i32.const 20)))";
    let mut command = Plugin::load(command("", "", look)).await;
    let mut handler = Plugin::load(wasi_handler()).await;
    assert!(command.deliver(".").await.logs.is_empty());
    command.limits.env = [("STAGE".to_owned(), "blue".to_owned())].into();
    handler.limits.env = command.limits.env.clone();
    for guest in [&mut command, &mut handler] {
        let done = guest.deliver(".").await;
        assert_ok(&done);
        let found = done.logs.iter().any(|line| line.message == "STAGE=blue\0");
        assert!(found, "{:?}", done.logs);
    }
}
