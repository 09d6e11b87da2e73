//! Modules that take long to compile: nobody else waits for them, and nobody waits for them twice.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Host, HostOptions, Place, Sources, event, put, wait_until};

/// A stdio module with more than 1 MiB of data, and one function that is hard to compile: many values
/// that are all alive at the end, over many blocks.
fn hard(rounds: usize) -> Vec<u8> {
    let data = "x".repeat(1 << 20);
    let mut text = format!("(module (memory 32) (data (i32.const 0) \"{data}\")");
    text.push_str("(func (export \"_start\")) (func (local i64 i64 i64 i64)\n");
    for n in 0..rounds {
        let (a, b) = (n % 4, (n + 1) % 4);
        writeln!(
            text,
            "(if (i64.eqz (local.get {a})) (then (local.set {b} (i64.mul (local.get {a}) \
             (i64.const {n})))) (else (local.set {a} (i64.div_u (local.get {b}) (i64.const {n})))))"
        )
        .unwrap();
    }
    text.push_str("))");
    wat::parse_str(&text).unwrap()
}

/// Lines of the host's log that say `message` of a plugin.
fn said(host: &Host, plugin: &str, message: &str) -> Vec<Value> {
    let lines = host.said();
    let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let is = |line: &Value| {
        let fields = &line["fields"];
        fields["plugin"] == plugin
            && fields["message"].as_str().is_some_and(|said| said.starts_with(message))
    };
    lines.filter(is).collect()
}

fn deliver(host: &Host, n: u64) {
    host.http.publish(&[event("a.b", &format!("e-{n}"), Some("k"), json!(n))]);
    host.wait_rest("case-progress", 0);
}

#[test]
fn deliveries_of_others_go_on_while_a_module_compiles_and_the_log_says_how_far_it_is() {
    let place = Place::new();
    put(Sources::CASE_PROGRESS, &place.plugins());
    // More CPU time than passes between two lines about its progress.
    let config = Some("[compile]\ntime = \"7s\"\n".to_owned());
    let host = place.start_with(&HostOptions { config, ..Default::default() });
    std::fs::write(place.plugins().join("slow.wasm"), hard(100_000)).unwrap();
    host.wait_plugin("slow", "compiling", |view| view["state"] == "compiling");
    for words in [&["plugins", "diff", "slow"][..], &["command", "slow", "add", "--key", "k"]] {
        let said = host.cli(words).run().expect_failed();
        assert!(said.contains("it is being compiled"), "{said}");
    }
    let mut during = 0;
    while host.plugin("slow")["state"] == "compiling" {
        deliver(&host, during);
        during += 1;
    }
    assert!(during > 10, "{during} deliveries while `slow` was compiled");
    let refused = host.wait_plugin("slow", "refused", |view| view["state"] == "refused");
    assert!(refused["reason"].as_str().unwrap().contains("`compile.time`"), "{refused}");
    let begun = said(&host, "slow", "compiling");
    assert!(begun[0]["fields"]["kilobytes"].as_u64().unwrap() > 1000, "{begun:?}");
    let under_way = said(&host, "slow", "still compiling");
    assert!(under_way[0]["fields"]["seconds"].as_u64().unwrap() >= 5, "{under_way:?}");
    assert_eq!(said(&host, "slow", "not compiled").len(), 1);
    host.stop();
}

#[test]
fn what_was_compiled_once_is_loaded_at_the_next_start() {
    let place = Place::new();
    let host = place.start();
    std::fs::write(place.plugins().join("large.wasm"), hard(2_000)).unwrap();
    host.wait_plugin("large", "live", |view| view["state"] == "live");
    assert_eq!(said(&host, "large", "compiling").len(), 1);
    let done = wait_until("the end of the compile is said", Duration::from_secs(10), || {
        let done = said(&host, "large", "compiled");
        if done.len() == 1 { Ok(done) } else { Err(host.said()) }
    });
    assert!(done[0]["fields"]["ms"].is_u64(), "{done:?}");
    host.kill();
    let host = place.start();
    assert_eq!(host.plugin("large")["state"], "live");
    assert_eq!(said(&host, "large", "compil"), [Value::Null; 0], "{}", host.said());
    host.stop();
}
