//! Modules are replaced while events flow: every event meets exactly one version.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tidegate::event::Digest;

use crate::harness::{Host, Place, Publisher, emitter, event, handler, wait_until};

/// How often a module is replaced under load; `TIDEGATE_RELOADS` says another number.
const RELOADS: usize = 10;
const FLOWING_MAX: Duration = Duration::from_secs(60);
const KEYS: u64 = 200;

/// Emits `seen.N`, with the id of the input, for each event. Every version has other bytes.
fn version(number: usize) -> Vec<u8> {
    let kind = format!("seen.{number}");
    handler(&kind, &emitter(&kind), "")
}

/// Replaces a module as people do it well: in one step.
fn replace(file: &Path, wasm: &[u8]) {
    let temporary = file.with_extension("new");
    std::fs::write(&temporary, wasm).unwrap();
    std::fs::rename(temporary, file).unwrap();
}

fn wait_for(host: &Host, wasm: &[u8]) {
    let digest = Digest::of(wasm).to_string();
    host.wait_plugin("seen", "runs the new module", |view| {
        view["module"]["digest"] == *digest && view["state"] == "live"
    });
}

fn wait_for_more(publisher: &Publisher, more: u64) {
    let goal = publisher.count() + more;
    wait_until("events flow", FLOWING_MAX, || {
        assert!(publisher.is_running(), "the publisher failed");
        if publisher.count() >= goal { Ok(()) } else { Err(publisher.count()) }
    });
}

fn endless_events() -> impl Iterator<Item = serde_json::Value> + Send {
    (0_u64..).map(|n| event("a.b", &format!("e-{n}"), Some(&format!("k-{}", n % KEYS)), json!(n)))
}

/// Every published event was handled once, by one of `versions`, and in order per key.
fn check_handled_once(host: &Host, published: usize) -> BTreeMap<String, usize> {
    host.wait_rest("seen", 0);
    let emitted = host.http.events("type=seen.*");
    let inputs: BTreeSet<&str> = emitted.iter().map(|e| e["data"].as_str().unwrap()).collect();
    assert_eq!((emitted.len(), inputs.len()), (published, published));
    let mut last_of_key = BTreeMap::new();
    let mut versions = BTreeMap::new();
    for event in &emitted {
        let n: u64 = event["data"].as_str().unwrap()["e-".len()..].parse().unwrap();
        let before = last_of_key.insert(event["partitionkey"].as_str().unwrap(), n);
        assert!(before.is_none_or(|before| before < n), "{event} came after {before:?}");
        *versions.entry(event["type"].as_str().unwrap().to_owned()).or_insert(0) += 1;
    }
    versions
}

#[test]
fn replacing_a_module_under_load_loses_nothing_and_mixes_nothing() {
    let reloads = std::env::var("TIDEGATE_RELOADS").map_or(RELOADS, |text| text.parse().unwrap());
    let place = Place::new();
    let file = place.plugins().join("seen.wasm");
    std::fs::write(&file, version(0)).unwrap();
    let host = place.start();
    let publisher = Publisher::start(&host.http, 50, endless_events());
    wait_for_more(&publisher, 200);

    let mut digests = BTreeSet::from([Digest::of(&version(0)).to_string()]);
    for number in 1..=reloads {
        let wasm = version(number);
        replace(&file, &wasm);
        wait_for(&host, &wasm);
        digests.insert(Digest::of(&wasm).to_string());
        wait_for_more(&publisher, 50);
    }

    // Garbage: the last version goes on, and it is said why.
    replace(&file, &[0xAB; 10_000]);
    let refused = host.wait_plugin("seen", "refused the garbage", |view| {
        view["history"]
            .as_array()
            .is_some_and(|tried| tried.iter().any(|tried| tried["result"] == "refused"))
    });
    assert_eq!(refused["state"], "live", "{refused}");
    assert_eq!(refused["module"]["digest"], Digest::of(&version(reloads)).to_string());
    assert!(refused["last_error"]["message"].is_string(), "{refused}");
    let shown = host.cli(&["plugins", "show", "seen"]).run().expect_done();
    assert!(shown.contains("refused") && shown.contains("last error"), "{shown}");
    wait_for_more(&publisher, 100);

    // A copy that takes its time: its half is no version, its whole is the next one.
    let wasm = version(reloads + 1);
    let (first, rest) = wasm.split_at(wasm.len() / 2);
    std::fs::write(&file, first).unwrap();
    wait_for_more(&publisher, 200);
    assert_eq!(
        host.plugin("seen")["module"]["digest"],
        Digest::of(&version(reloads)).to_string(),
        "half a module does not run"
    );
    let mut open = std::fs::OpenOptions::new().append(true).open(&file).unwrap();
    std::io::Write::write_all(&mut open, rest).unwrap();
    drop(open);
    wait_for(&host, &wasm);
    wait_for_more(&publisher, 50);

    // Gone, and back: what came meanwhile is waiting.
    std::fs::remove_file(&file).unwrap();
    host.wait_plugin("seen", "removed", |view| view["state"] == "removed");
    wait_for_more(&publisher, 100);
    std::fs::write(&file, &wasm).unwrap();
    wait_for(&host, &wasm);

    let (acknowledged, why) = publisher.end();
    assert_eq!(why, None);
    let versions = check_handled_once(&host, acknowledged.len());
    assert!(versions.len() >= 3, "several versions served: {versions:?}");
    let reloaded = [("plugin", "seen"), ("result", "ok")];
    assert!(host.metric("tidegate_reloads_total", &reloaded) > reloads as u64);
    assert!(
        host.metric("tidegate_reloads_total", &[("plugin", "seen"), ("result", "refused")]) > 0
    );
    host.stop();
}

#[test]
fn a_component_and_text_take_the_place_of_a_core_module() {
    let place = Place::new();
    let file = place.plugins().join("seen.wasm");
    std::fs::write(&file, version(1)).unwrap();
    let host = place.start();
    let publisher = Publisher::start(&host.http, 50, endless_events());
    wait_for_more(&publisher, 100);
    let component = wit_component::ComponentEncoder::default()
        .module(&version(2))
        .and_then(|mut encoder| encoder.encode())
        .unwrap();
    replace(&file, &component);
    wait_for(&host, &component);
    assert_eq!(host.plugin("seen")["module"]["kind"], "component");
    wait_for_more(&publisher, 100);
    let (acknowledged, why) = publisher.end();
    assert_eq!(why, None);
    check_handled_once(&host, acknowledged.len());
    host.stop();
}
