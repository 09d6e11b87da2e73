//! For those who write plugins: `new`, `build`, `test`, `dev`, and modules without any SDK.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{
    Cli, Host, HostOptions, Place, Sources, copy_folder, event, put, root, wait_until,
};

const BUILT_MAX: std::time::Duration = std::time::Duration::from_secs(120);
/// How long an interpreter may be compiled, in dev profile on a busy machine.
const COMPILED_MAX: std::time::Duration = std::time::Duration::from_secs(300);

fn dev(place: &Place) -> Host {
    place.start_with(&HostOptions { dev: true, ..Default::default() })
}

/// A copy of an example outside the repository, which finds the SDK where it was.
fn copy_example(name: &str, plugins: &Path) {
    let folder = plugins.join(name);
    copy_folder(&root().join("plugins").join(name), &folder);
    let cargo = folder.join("Cargo.toml");
    let sdk = root().join("guest-sdk").display().to_string();
    let text = std::fs::read_to_string(&cargo).unwrap().replace("../../guest-sdk", &sdk);
    std::fs::write(cargo, text).unwrap();
    std::fs::copy(root().join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
}

#[test]
fn dev_builds_runs_and_takes_up_a_changed_source_without_a_restart() {
    let place = Place::new();
    copy_example("case-progress", &place.plugins());
    let mut host = dev(&place);
    let publish = |host: &Host, n: u64| {
        let id = format!("e-{n}");
        host.http.publish(&[event("a.b", &id, Some("k"), json!(n))]);
        host.wait_rest("case-progress", 0);
    };
    publish(&host, 1);
    assert_eq!(host.state("case-progress", "k", "events").as_deref(), Some("1"));
    let before = host.plugin("case-progress")["module"]["digest"].clone();

    let source = place.plugins().join("case-progress/src/lib.rs");
    let text = std::fs::read_to_string(&source).unwrap();
    assert!(text.contains("\"last\""));
    std::fs::write(&source, text.replace("\"last\"", "\"latest\"")).unwrap();
    wait_until("the changed source runs", BUILT_MAX, || {
        let view = host.plugin("case-progress");
        if view["module"]["digest"] == before { Err(view.to_string()) } else { Ok(()) }
    });
    publish(&host, 2);
    assert_eq!(host.state("case-progress", "k", "events").as_deref(), Some("2"));
    assert_eq!(host.state("case-progress", "k", "latest").as_deref(), Some("a.b"));

    // What does not compile is told, and what ran goes on.
    std::fs::write(&source, "fn broken(").unwrap();
    wait_until("the compiler's words", BUILT_MAX, || {
        let printed = host.printed().join("\n");
        if printed.contains("unclosed delimiter") { Ok(()) } else { Err(printed) }
    });
    publish(&host, 3);
    assert_eq!(host.state("case-progress", "k", "events").as_deref(), Some("3"));
    assert!(host.is_alive());
    // A line for each delivery, and nothing that is no JSON.
    let printed: Vec<Value> =
        host.printed().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ok = printed.iter().filter(|note| note["outcome"] == "ok" && note["key"] == "k");
    assert_eq!(ok.count(), 3, "{printed:#?}");
    host.stop();
}

/// In an empty folder outside the repository, with nothing but the binary.
fn check_new(lang: &str) {
    let place = Place::new();
    let words = ["new", "totals", "--lang", lang, "--on", "order.created"];
    Cli::new(&words).within(place.path()).run().expect_done();
    let folder = place.plugins().join("totals");
    assert!(folder.join("plugin.toml").is_file(), "{lang}: made in `plugins`, as it is there");
    let refused = Cli::new(&words).within(place.path()).run().expect_failed();
    assert!(refused.contains("is there already"), "{refused}");
    Cli::new(&["build", "plugins/totals"]).within(place.path()).run().expect_done();
    let module = folder.join("totals.wasm");
    let checked = Cli::new(&["check"]).arg(&folder).run().expect_done();
    assert!(checked.contains("handler"), "{checked}");
    assert!(checked.contains("gets `order.created` of the bus `main`"), "{checked}");
    let tested = Cli::new(&["test", "plugins/totals"]).within(place.path()).run().expect_done();
    assert!(tested.contains("ok    amounts-add-up   2 steps"), "{lang}: {tested}");
    let sample = folder.join("events/sample.json");
    let tested = Cli::new(&["test"]).arg(&module).arg("--event").arg(sample).run().expect_done();
    assert!(tested.contains("ok") && tested.contains("totals.updated"), "{tested}");
    let host = place.start_within(&HostOptions::default(), COMPILED_MAX);
    for n in 0..2 {
        let words = ["publish", "order.created", "--key", "o-1", "--data", r#"{"amount":40}"#];
        let line = host.cli(&words).run().expect_done();
        assert!(line.contains("order.created o-1/") && line.contains("totals"), "{n}: {line}");
    }
    host.wait_rest("totals", 0);
    let ok = [("plugin", "totals"), ("outcome", "ok")];
    assert_eq!(host.metric("tidegate_deliveries_total", &ok), 2, "{}", host.plugin("totals"));
    let sum = host.cli(&["state", "get", "totals", "o-1", "sum"]).run().expect_done();
    assert_eq!(sum, "80\n", "{lang}");
    host.stop();
}

#[test]
fn a_new_rust_plugin_builds_and_runs_anywhere() {
    check_new("rust");
}

#[test]
fn a_new_stdio_plugin_builds_and_runs_anywhere() {
    check_new("stdio");
}

#[test]
fn a_program_that_reads_stdin_and_writes_stdout_is_a_plugin() {
    let place = Place::new();
    put(Sources::CSV_AUDIT, &place.plugins());
    let host = place.start();
    assert_eq!(host.plugin("csv-audit")["module"]["kind"], "stdio");
    let publish = |id: &str, csv: &str| {
        let file = place.path().join("people.csv");
        std::fs::write(&file, csv).unwrap();
        host.cli(&["publish", "csv.uploaded", "--key", "people.csv", "--id", id])
            .arg("--content-type=text/csv")
            .arg("--file")
            .arg(file)
            .run()
            .expect_done();
    };
    publish("1", "name,age\nada,36\ngrace\n");
    publish("2", "");
    publish("3", "name,age\nada,36\n");
    host.wait_rest("csv-audit", 0);
    let audited = host.http.events("type=csv.audited");
    assert_eq!(audited.len(), 2, "{audited:?}");
    let expected = json!({ "rows": 2, "problems": ["line 3: 1 cells instead of 2"] });
    assert_eq!(audited[0]["data"], expected);
    assert_eq!(audited[0]["partitionkey"], "people.csv");
    assert_eq!(host.state("csv-audit", "people.csv", "audits").as_deref(), Some("2"));
    let letters = host.dead_letters("csv-audit");
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!((&letters[0]["outcome"], &letters[0]["event_id"]), (&json!("reject"), &json!("2")));
    let logs = host.cli(&["plugins", "logs", "csv-audit"]).run().expect_done();
    assert!(logs.contains("2 rows, 1 problems"), "stderr is the plugin's log: {logs}");
    host.stop();
}
