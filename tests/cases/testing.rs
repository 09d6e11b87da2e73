//! `tidegate test`: what authors run before they trust their plugin to a host.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Cli, Place, Sources, program, put, root};

/// How long a build and a run may take.
const RUN_MAX: Duration = Duration::from_secs(180);

/// Killed when dropped.
struct Watching {
    child: Child,
    lines: Receiver<Value>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Watching {
    fn start(place: &Place, words: &[&str]) -> Self {
        let mut command = program();
        command.args(["--output", "json", "test", "--watch"]).args(words);
        let mut child = command.current_dir(place.path()).stdout(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = sync_channel(1024);
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            let lines = stdout.lines().map_while(Result::ok);
            for line in lines.filter_map(|line| serde_json::from_str(&line).ok()) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// The tests of one run, and its last line.
    fn run(&self) -> (Vec<Value>, Value) {
        let mut tests = Vec::new();
        loop {
            let line = self.lines.recv_timeout(RUN_MAX).expect("a run ends");
            if line["tests"].is_u64() {
                return (tests, line);
            }
            tests.push(line);
        }
    }
}

#[test]
fn a_changed_source_is_built_and_tested_again() {
    let place = Place::new();
    let new = Cli::new(&["new", "totals", "--lang", "stdio"]).within(place.path()).run();
    new.expect_done();
    let watching = Watching::start(&place, &["plugins/totals"]);
    let (_, all) = watching.run();
    assert_eq!(all, json!({ "tests": 1, "failed": 0 }));

    let source = place.plugins().join("totals/src/main.rs");
    let text = std::fs::read_to_string(&source).unwrap();
    std::fs::write(&source, text.replace("totals.updated", "totals.changed")).unwrap();
    let (tests, all) = watching.run();
    assert_eq!(all, json!({ "tests": 1, "failed": 1 }));
    let expected = json!([{
        "place": "emits[0].type", "expected": "totals.updated", "got": "totals.changed"
    }]);
    assert_eq!(tests[0]["failure"]["differences"], expected, "{tests:?}");

    let test = place.plugins().join("totals/tests/amounts-add-up.toml");
    let text = std::fs::read_to_string(&test).unwrap();
    std::fs::write(&test, text.replace("totals.updated", "totals.changed")).unwrap();
    let (_, all) = watching.run();
    assert_eq!(all, json!({ "tests": 1, "failed": 0 }));
}

#[test]
fn the_tests_of_the_example_plugins_pass() {
    let tested = Cli::new(&["test"]).arg(root().join("plugins")).run().expect_done();
    for test in ["an-account-is-never-overdrawn", "an-unpaid-invoice-is-undone", "rows-are-checked"]
    {
        assert!(tested.contains(&format!("  ok    {test}")), "{tested}");
    }
    assert!(tested.trim_end().ends_with(", 0 failed"), "{tested}");
}

#[test]
fn commands_and_questions_are_answered_offline() {
    let place = Place::new();
    put(Sources::BANK_ACCOUNT, &place.plugins());
    let open = ["test", "plugins/bank-account", "--command", "open", "--key", "a"];
    let body = ["--data", r#"{"owner":"Ada"}"#, "--query", "balance", "--output", "json"];
    let run = Cli::new(&[&open[..], &body[..]].concat()).within(place.path()).run();
    let printed = run.expect_done();
    let lines: Vec<Value> =
        printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["effects"]["emits"][0]["type"], "account.opened");
    let account = json!({ "owner": "Ada", "balance": 0, "status": "open" });
    assert_eq!(lines[1]["answer"]["data"], account);
    // A refused command is a failure of the run, not of the command line.
    let refused = Cli::new(&open).within(place.path()).run();
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stdout.contains("command open a reject"), "{refused:?}");
    let nonsense = Cli::new(&["test", "plugins/bank-account", "--command", "open"]);
    assert_eq!(nonsense.within(place.path()).run().code, 2, "a command without a key");
}

#[test]
fn timers_fire_as_the_times_of_events_pass_them() {
    let place = Place::new();
    put(Sources::ORDER_SAGA, &place.plugins());
    let line = |id: &str, kind: &str, key: &str, time: &str| {
        json!({
            "specversion": "1.0", "id": id, "source": "/shop", "type": kind, "partitionkey": key,
            "time": time, "data": { "sku": "lamp", "quantity": 1, "amount": 4, "pay": "invoice" },
        })
    };
    let events = [
        line("1", "order.created", "o-1", "2024-01-01T00:00:00Z"),
        line("2", "inventory.reserved", "o-1", "2024-01-01T00:00:00Z"),
        line("3", "order.created", "o-2", "2024-01-01T00:14:59Z"),
        line("4", "order.created", "o-3", "2024-01-01T00:15:00Z"),
    ];
    let events: String = events.iter().map(|event| format!("{event}\n")).collect();
    std::fs::write(place.path().join("events.ndjson"), events).unwrap();
    let words = ["test", "plugins/order-saga", "--events", "events.ndjson", "--output", "json"];
    let printed = Cli::new(&words).within(place.path()).run().expect_done();
    let titles: Vec<Value> = printed
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["title"].clone())
        .collect();
    let expected = ["order.created", "inventory.reserved", "order.created", "timer payment"];
    assert_eq!(titles[..4], expected.map(Value::from));
    assert_eq!(titles[4], "order.created");
}
