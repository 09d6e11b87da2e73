//! `kill -9` in the middle of everything, again and again: nothing acknowledged is lost, and no
//! effect happens twice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    Host, Http, Place, Publisher, Sources, bare_guest, batch_file, by_key, emitter, event,
    generated, handler, milestones_are_exact, put, seed, sequences_are_dense, wait_until,
};

/// Events; `TIDEGATE_KILL_EVENTS` says another number.
const EVENTS: usize = 20_000;
/// Kills; `TIDEGATE_KILLS` says another number.
const KILLS: usize = 5;
const KEYS: usize = 300;
/// How long any of the publishers may go on before it is taken for stuck.
const PUBLISH_MAX: Duration = Duration::from_secs(300);

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// Two publishers, each with half of the keys, so that order per key is the order of publishing.
fn publishers(http: &Http, events: &[Value], batch: usize) -> Vec<Publisher> {
    let half = |odd: bool| -> Vec<Value> {
        let is_in = |event: &&Value| {
            let key = event["partitionkey"].as_str().unwrap();
            key.bytes().last().is_some_and(|last| last % 2 == 1) == odd
        };
        events.iter().filter(is_in).cloned().collect()
    };
    [true, false].map(|odd| Publisher::start(http, batch, half(odd).into_iter())).into()
}

fn note(acknowledged: &mut BTreeMap<String, u64>, answers: Vec<Value>) {
    for answer in answers {
        let id = answer["id"].as_str().unwrap().to_owned();
        let position = answer["position"].as_u64().unwrap();
        let before = acknowledged.insert(id, position);
        assert!(before.is_none_or(|before| before == position), "{answer} was at {before:?}");
    }
}

#[test]
fn killed_hosts_lose_nothing_and_repeat_nothing() {
    let mut rng = seed("killed_hosts_lose_nothing_and_repeat_nothing");
    let events = generated(&mut rng, number("TIDEGATE_KILL_EVENTS", EVENTS), KEYS);
    let place = Place::new();
    put(Sources::CASE_PROGRESS, &place.plugins());
    let mut acknowledged = BTreeMap::new();

    let kills = number("TIDEGATE_KILLS", KILLS);
    for kill in 0..kills {
        if rng.bool() {
            // In the middle of a start: plugins are being compiled, the log is being read again.
            place.start_and_kill();
        }
        let host = place.start();
        // Every round comes a bit further, so that kills hit young logs and old ones, duplicates
        // and new events.
        let most = events.len() * (kill + 1) / (kills + 1);
        let after = rng.u64(..most as u64);
        let publishers = publishers(&host.http, &events, rng.usize(1..200));
        wait_until("enough is acknowledged", PUBLISH_MAX, || {
            let count: u64 = publishers.iter().map(Publisher::count).sum();
            let over = publishers.iter().all(|publisher| !publisher.is_running());
            if count >= after || over { Ok(()) } else { Err(count) }
        });
        host.kill();
        for mut publisher in publishers {
            note(&mut acknowledged, publisher.join().0);
        }
    }

    let host = place.start();
    let log = host.http.events("source=/test");
    let present: BTreeSet<&str> = log.iter().map(|event| event["id"].as_str().unwrap()).collect();
    let lost: Vec<_> = acknowledged.keys().filter(|id| !present.contains(&***id)).collect();
    assert!(lost.is_empty(), "{} acknowledged events are lost: {lost:?}", lost.len());

    let file = batch_file(place.path(), &events);
    let done = host.cli(&["publish", "--batch"]).arg(&file).run().json();
    assert_eq!(done["acknowledged"], events.len());
    assert_eq!(done["duplicates"], present.len());
    host.wait_rest("case-progress", 0);
    check_effects(&host, &events, &acknowledged);
    host.stop();
}

fn check_effects(host: &Host, events: &[Value], acknowledged: &BTreeMap<String, u64>) {
    let log = host.http.events("");
    sequences_are_dense(&log);
    let mut counts = BTreeMap::new();
    let published = by_key(events);
    let stored = by_key(&log);
    for (key, published) in &published {
        let ids = |events: &[&Value]| -> Vec<String> {
            let own = events.iter().filter(|event| event["source"] == "/test");
            own.map(|event| event["id"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(ids(&stored[key]), ids(published), "order of {key}");
        let count = published.len() as u64;
        assert_eq!(host.state("case-progress", key, "events"), Some(count.to_string()), "{key}");
        counts.insert(key.clone(), count);
    }
    let milestones = host.http.events("type=case.milestone");
    milestones_are_exact(&milestones, &counts);
    assert_eq!(log.len(), events.len() + milestones.len());
    for event in &log {
        if let Some(position) = acknowledged.get(event["id"].as_str().unwrap()) {
            assert_eq!(event["tidegateposition"], json!(position.to_string()), "{event}");
        }
    }
    assert!(host.dead_letters("case-progress").is_empty());
}

#[test]
fn a_delivery_that_ran_when_the_host_died_runs_again_and_counts_as_an_attempt() {
    let place = Place::new();
    // Spins without end, on fuel enough for a minute.
    let spin = handler("", "(loop $on (br $on))", "");
    std::fs::write(place.plugins().join("spin.wasm"), spin).unwrap();
    let manifest = "[limits]\nfuel = 1_000_000_000_000\ntimeout = \"1m\"\n";
    std::fs::write(place.plugins().join("spin.toml"), manifest).unwrap();
    let host = place.start();
    host.http.publish(&[event("a.b", "1", Some("k"), json!(1))]);
    host.wait_plugin("spin", "at work", |view| view["in_flight"] == 1);
    host.kill();
    // Now it returns at once: whoever runs it says at which attempt.
    std::fs::write(place.plugins().join("spin.wasm"), bare_guest()).unwrap();
    let host = place.start();
    host.wait_rest("spin", 0);
    let emitted = host.http.events("type=bare.seen");
    assert_eq!(emitted.len(), 1, "{emitted:?}");
    assert_eq!(emitted[0]["attempt"], "2", "{}", emitted[0]);
    host.stop();
}

#[test]
fn retries_that_wait_when_the_host_dies_are_made_once() {
    const EVENTS: u64 = 300;
    /// Events of no concern, which are read again before those that wait: retries that are due are
    /// over before the plugin comes by their positions.
    const BEFORE: u64 = 15_000;
    let place = Place::new();
    let guest = handler("late.done", &retry_first(&emitter("late.done")), "");
    std::fs::write(place.plugins().join("late.wasm"), guest).unwrap();
    let manifest = "[subscribe]\ntypes = [\"a.b\"]\n";
    std::fs::write(place.plugins().join("late.toml"), manifest).unwrap();
    let host = place.start();
    let publish = |kind: &str, count: u64| {
        let numbers: Vec<u64> = (0..count).collect();
        for chunk in numbers.chunks(1000) {
            let id = |n: &u64| format!("{kind}-{n}");
            let batch: Vec<_> =
                chunk.iter().map(|n| event(kind, &id(n), Some(&id(n)), json!(n))).collect();
            host.http.publish(&batch);
        }
    };
    publish("no.concern", BEFORE);
    publish("a.b", EVENTS);
    host.wait_plugin("late", "waits", |view| view["waiting"].as_u64() >= Some(EVENTS / 2));
    host.kill();
    let host = place.start();
    host.wait_rest("late", 0);
    let done = host.http.events("type=late.done");
    let inputs: BTreeSet<_> = done.iter().map(|event| event["data"].as_str().unwrap()).collect();
    assert_eq!((done.len(), inputs.len()), (EVENTS as usize, EVENTS as usize));
    host.stop();
}

/// `then`, but at the first attempt only the wish to be tried again in 200 ms.
fn retry_first(then: &str) -> String {
    format!(
        "(if (i32.eq (call $attempt) (i32.const 1))
           (then
             (i32.store8 (i32.const 2048) (i32.const 1))
             (i32.store8 (i32.const 2072) (i32.const 1))
             (i64.store (i32.const 2080) (i64.const 200)))
           (else {then}))"
    )
}
