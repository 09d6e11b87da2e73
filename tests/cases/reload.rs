//! Modules are replaced while events flow: every event meets exactly one version.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tidegate::event::Digest;

use crate::harness::{Host, Place, Process, Publisher, emitter, event, handler, wait_until};

/// How often a module is replaced under load; `TIDEGATE_RELOADS` says another number.
const RELOADS: usize = 10;
/// Reloads of the storm; `TIDEGATE_STORM` says another number.
const STORM: usize = 40;
/// Events between two reloads of the storm, and right behind each.
const STORM_EVENTS: usize = 10;
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

/// The ways in which a module gets to stand where another one stood.
fn change(host: &Host, file: &Path, wasm: &[u8], number: usize) {
    let removed = || {
        host.wait_plugin("seen", "removed", |view| view["state"] == "removed");
    };
    let (half, rest) = wasm.split_at(wasm.len() / 2);
    let other = file.with_file_name("other.part");
    match number % 10 {
        // Copied in place, half by half.
        1 => {
            std::fs::write(file, half).unwrap();
            let mut open = std::fs::OpenOptions::new().append(true).open(file).unwrap();
            std::io::Write::write_all(&mut open, rest).unwrap();
        }
        // Half of it first stands there as if it were all.
        3 => {
            replace(file, half);
            replace(file, wasm);
        }
        4 => {
            std::fs::remove_file(file).unwrap();
            removed();
            std::fs::write(file, wasm).unwrap();
        }
        // A link to a file elsewhere is no module; one of two names of a file is.
        6 => {
            std::fs::write(&other, wasm).unwrap();
            std::fs::remove_file(file).unwrap();
            std::os::unix::fs::symlink(&other, file).unwrap();
            removed();
            std::fs::remove_file(file).unwrap();
            std::fs::hard_link(&other, file).unwrap();
            std::fs::remove_file(&other).unwrap();
        }
        7 => {
            replace(file, &[0xAB; 5000]);
            replace(file, wasm);
        }
        // Away under a name that is none, and back.
        8 => {
            std::fs::rename(file, &other).unwrap();
            removed();
            std::fs::write(&other, wasm).unwrap();
            std::fs::rename(&other, file).unwrap();
        }
        // The text form of a module, and back.
        9 => {
            replace(file, b"(module)");
            replace(file, wasm);
        }
        _ => replace(file, wasm),
    }
}

/// What must not grow with the number of reloads.
#[derive(Debug)]
struct Held {
    memory_kib: u64,
    threads: u64,
    descriptors: usize,
    mappings: usize,
    files: usize,
}

impl Held {
    fn by(host: &Host, place: &Place) -> Self {
        let process = Process::new(host.pid());
        let files = |folder: &str| {
            std::fs::read_dir(place.data().join(folder)).map_or(0, |entries| entries.count())
        };
        Self {
            memory_kib: process.memory_bytes() >> 10,
            threads: process.threads(),
            descriptors: process.descriptors().len(),
            mappings: process.mappings(),
            files: files("cache") + files("modules"),
        }
    }
}

#[test]
fn a_storm_of_reloads_loses_nothing_mixes_nothing_and_leaves_nothing_behind() {
    let storm = std::env::var("TIDEGATE_STORM").map_or(STORM, |text| text.parse().unwrap());
    // For comparison: a reload only in every so many rounds, or in none.
    let every = std::env::var("TIDEGATE_STORM_EVERY").map_or(1, |text| text.parse().unwrap());
    let place = Place::new();
    let file = place.plugins().join("seen.wasm");
    let versions = [version(0), version(1)];
    std::fs::write(&file, &versions[0]).unwrap();
    let host = place.start();
    let mut events = endless_events();
    let mut published = 0;
    let mut publish = || {
        let batch: Vec<Value> = events.by_ref().take(STORM_EVENTS).collect();
        published += host.http.publish(&batch).len();
    };
    let (mut begun, mut reloads) = (None, 0);
    for number in 1..=storm {
        publish();
        if every > 0 && number % every == 0 {
            let number = number / every;
            let wasm = &versions[number % 2];
            change(&host, &file, wasm, number);
            publish();
            wait_for(&host, wasm);
            reloads += 1;
        } else {
            publish();
        }
        if number == storm / 4 {
            begun = Some(Held::by(&host, &place));
        }
        if number % 100 == 0 {
            println!("{number} rounds, {reloads} reloads: {:?}", Held::by(&host, &place));
        }
    }
    let seen = check_handled_once(&host, published);
    assert_eq!(seen.len(), 1 + usize::from(reloads > 0), "both versions served: {seen:?}");
    let (begun, ended) = (begun.unwrap(), Held::by(&host, &place));
    println!("{published} events, {seen:?}; at a quarter {begun:?}, at the end {ended:?}");
    assert!(
        host.metric("tidegate_reloads_total", &[("plugin", "seen"), ("result", "ok")]) >= reloads
    );
    // The log in memory and what it knows of ids grow with the events, a little.
    assert!(ended.memory_kib <= begun.memory_kib + 40 * 1024, "memory");
    assert!(ended.threads <= begun.threads + 16, "threads");
    assert!(ended.descriptors <= begun.descriptors + 8, "descriptors");
    assert!(ended.mappings <= begun.mappings + 200, "mappings");
    assert!(ended.files <= begun.files + 4, "files of modules and of their code");
    host.stop();
}
