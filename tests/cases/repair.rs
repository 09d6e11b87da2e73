//! A damaged log is repaired on command: what is lost is what was said, everything else is there, and
//! the plugins go on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::crashes::{Series, must_be_sound};
use crate::harness::{Cli, Host, HostOptions, Place, Sources, event, put, seed, wait_until};

/// The smallest there are, so that a small log has closed ones.
const SMALL_SEGMENTS: &str = "[buses.main]\nkind = \"durable\"\nsegment = \"4MiB\"\n";
const KEYS: usize = 40;
const EVENTS: usize = 4000;
const SAID_MAX: Duration = Duration::from_secs(20);

fn start(place: &Place) -> Host {
    let options = HostOptions { config: Some(SMALL_SEGMENTS.to_owned()), ..Default::default() };
    place.start_with(&options)
}

/// A log of three segments and more, all of it delivered, closed.
fn filled(place: &Place) {
    put(Sources::CASE_PROGRESS, &place.plugins());
    let host = start(place);
    let text = "tide ".repeat(400);
    let event = |n: usize| {
        let (id, key) = (format!("e-{n}"), format!("k-{}", n % KEYS));
        event("order.paid", &id, Some(&key), json!({ "text": text }))
    };
    for batch in (0..EVENTS).collect::<Vec<_>>().chunks(100) {
        host.http.publish(&batch.iter().map(|n| event(*n)).collect::<Vec<_>>());
    }
    host.wait_rest("case-progress", 0);
    host.stop();
    assert!(place.segments("main").len() >= 3, "{:?}", place.segments("main"));
}

fn counts(host: &Host) -> BTreeMap<String, u64> {
    let count =
        |key: &String| host.state("case-progress", key, "events").map_or(0, |n| n.parse().unwrap());
    (0..KEYS).map(|n| format!("k-{n}")).map(|key| (key.clone(), count(&key))).collect()
}

/// Every event of the log, public and private, by position.
fn events(place: &Place) -> BTreeMap<u64, Value> {
    let dump = Cli::new(&["log", "dump"]).arg(place.data()).run();
    let lines = dump.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let events = lines.filter(|line| line["record"] == "event").map(|mut line| {
        line["frame_offset"] = Value::Null;
        line["segment"] = Value::Null;
        (line["position"].as_u64().unwrap(), line)
    });
    events.collect()
}

fn repair(place: &Place, more: &[&str]) -> crate::harness::Run {
    let mut cli = Cli::new(&["--output", "json", "log", "repair"]).arg(place.data());
    for word in more {
        cli = cli.arg(word);
    }
    cli.run()
}

fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    // Who holds the lock writes its number into it.
    let entries = entries.filter(|path| !path.ends_with("lock"));
    entries.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// Refused, told what to do, told what it would do, done; gives what was said.
fn repaired(place: &Place) -> Value {
    let refused = place.start_refused();
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("tidegate log repair"), "{refused:?}");
    let log = place.data().join("buses/main/log");
    let before = contents(&log);
    let dry = repair(place, &[]);
    assert_eq!(dry.code, 1, "{dry:?}");
    let planned: Value = serde_json::from_str(&dry.stdout).unwrap();
    assert!(contents(&log) == before, "nothing is done without leave");
    let done = repair(place, &["--yes"]).json();
    assert_eq!(planned["buses"][0]["lost"], done["buses"][0]["lost"]);
    let sound = Cli::new(&["log", "verify"]).arg(place.data()).run().expect_done();
    assert!(sound.contains("nothing is damaged"), "{sound}");
    for (path, bytes) in before {
        let mut kept = contents(&log).into_iter().filter(|(_, kept)| *kept == bytes);
        assert!(kept.next().is_some(), "{} is kept", path.display());
    }
    let again = repair(place, &["--yes"]).json();
    assert_eq!(again["buses"][0]["segments"], json!([]), "{again}");
    done["buses"][0].clone()
}

/// The positions that a repair says are lost, after holding them against the log.
fn lost(place: &Place, before: &BTreeMap<u64, Value>, said: &Value) -> BTreeSet<u64> {
    let ranges = said["lost"].as_array().unwrap().iter();
    let events_said = ranges.flat_map(|range| range["events"].as_array().unwrap());
    let said: BTreeSet<u64> = events_said.map(|at| at["position"].as_u64().unwrap()).collect();
    let after = events(place);
    for (position, was) in before {
        let is = &after[position];
        assert_eq!(is["type"] == "tidegate.lost", said.contains(position), "{is}");
        assert!(is["type"] == "tidegate.lost" || is == was, "{is}");
    }
    said
}

#[test]
fn a_repaired_log_has_lost_what_was_said_and_its_plugins_go_on() {
    let mut rng = seed("a_repaired_log_has_lost_what_was_said_and_its_plugins_go_on");
    let place = Place::new();
    filled(&place);
    let before = events(&place);
    let segment = place.segments("main")[1].clone();
    let mut bytes = std::fs::read(&segment).unwrap();
    for _ in 0..4 {
        let at = rng.usize(..bytes.len() - 200);
        bytes[at..at + 64].iter_mut().for_each(|byte| *byte ^= rng.u8(1..));
    }
    let page = rng.usize(1..bytes.len() / 4096 - 1) * 4096;
    bytes[page..page + 4096].fill(0);
    std::fs::write(&segment, bytes).unwrap();

    let said = repaired(&place);
    let lost = lost(&place, &before, &said);
    let host = start(&place);
    host.wait_rest("case-progress", 0);
    // Of each key some events may be lost, and no more; what is delivered again is not counted twice.
    let mut lost_of: BTreeMap<String, u64> = BTreeMap::new();
    for position in &lost {
        if let Some(key) = before[position]["key"].as_str() {
            *lost_of.entry(key.to_owned()).or_default() += 1;
        }
    }
    let whole = (EVENTS / KEYS) as u64;
    for (key, count) in counts(&host) {
        let lost = lost_of.get(&key).copied().unwrap_or_default();
        let is_right = (whole - lost..=whole).contains(&count);
        assert!(is_right, "{key}: {count}, {lost} events lost\n{said}");
    }
    // What is lost can be published again; what is not is known.
    let published: Vec<_> = before.values().filter(|event| event["source"] == "/test").collect();
    let is_lost = |event: &Value| lost.contains(&event["position"].as_u64().unwrap());
    let again = |event: &Value| {
        let data = serde_json::from_str(event["data"].as_str().unwrap()).unwrap();
        crate::harness::event(
            "order.paid",
            event["id"].as_str().unwrap(),
            event["key"].as_str(),
            data,
        )
    };
    let (gone, there): (Vec<&Value>, Vec<&Value>) = published.iter().partition(|e| is_lost(e));
    assert!(!gone.is_empty(), "{said}");
    for (events, duplicate) in [(&gone, false), (&there, true)] {
        for event in events.iter().take(200) {
            let answer = &host.http.publish(&[again(event)])[0];
            assert_eq!(answer["duplicate"], duplicate, "{answer}");
        }
    }
    host.wait_rest("case-progress", 0);
    let counted = counts(&host);
    host.kill();
    let host = start(&place);
    host.wait_rest("case-progress", 0);
    assert_eq!(counts(&host), counted, "the log alone says what the state is");
    host.stop();
    Cli::new(&["log", "verify"]).arg(place.data()).run().expect_done();
}

#[test]
fn a_plugin_whose_registration_is_lost_stays_who_it_was() {
    let place = Place::new();
    filled(&place);
    let before = events(&place);
    let emitted = |events: &BTreeMap<u64, Value>| -> Vec<Value> {
        events
            .values()
            .filter(|event| event["emitter"].is_number())
            .map(|e| e["id"].clone())
            .collect()
    };
    let ids = emitted(&before);
    // The start of the log: who the plugins are, and what they were first told.
    let segment = place.segments("main")[0].clone();
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[..8192].fill(0);
    std::fs::write(&segment, bytes).unwrap();
    let said = repaired(&place);
    assert_eq!(said["restored"][0][1], "case-progress", "{said}");
    lost(&place, &before, &said);
    let host = start(&place);
    host.wait_rest("case-progress", 0);
    host.stop();
    // Nothing was done again under another identity, or twice.
    let after = emitted(&events(&place));
    assert!(after.len() <= ids.len(), "{} and {}", after.len(), ids.len());
    assert!(after.iter().all(|id| ids.contains(id)));
}

#[test]
fn a_missing_segment_is_lost_and_nothing_else() {
    let place = Place::new();
    filled(&place);
    let before = events(&place);
    std::fs::remove_file(&place.segments("main")[1]).unwrap();
    let said = repaired(&place);
    let lost = lost(&place, &before, &said);
    assert!(lost.len() > 500, "{}", lost.len());
    let host = start(&place);
    host.wait_rest("case-progress", 0);
    let key = host.http.events("key=k-7");
    let of_key = |event: &&Value| event["key"] == "k-7" && event["source"] == "/test";
    let there = before.values().filter(of_key).count();
    let gone =
        before.values().filter(of_key).filter(|e| lost.contains(&e["position"].as_u64().unwrap()));
    assert_eq!(key.iter().filter(|e| e["source"] == "/test").count(), there - gone.count());
    // The next of a key goes on behind the last one there ever was.
    let answer = host.http.publish(&[event("order.paid", "next", Some("k-7"), json!(1))]);
    let most = before.values().filter(|e| e["key"] == "k-7").filter_map(|e| e["sequence"].as_u64());
    assert!(answer[0]["sequence"].as_u64() > most.max(), "{answer:?}");
    host.stop();
}

#[test]
fn damaged_derived_files_are_made_anew_and_told() {
    let place = Place::new();
    filled(&place);
    let host = start(&place);
    let whole = (counts(&host), host.http.events("key=k-3"));
    host.stop();
    let bus = place.data().join("buses/main");
    let check = |path: &Path, bytes: &[u8], case: &str| {
        std::fs::write(path, bytes).unwrap();
        let host = start(&place);
        let case = format!("{case} {}", path.display());
        assert!((counts(&host), host.http.events("key=k-3")) == whole, "{case}");
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        // The snapshot of heads stands for the end of one stop.
        wait_until(&format!("{case}: a word about it"), SAID_MAX, || match host.said() {
            said if name == "heads" || said.contains(&name) => Ok(()),
            said => Err(said),
        });
        host.stop();
    };
    for (path, good) in contents(&bus.join("index")) {
        let middle = good.len() / 2;
        let mut flipped = good.clone();
        flipped[middle] ^= 0x10;
        check(&path, &flipped, "flip");
        check(&path, &good[..middle], "cut");
        check(&path, &vec![0; good.len()], "zero");
    }
    // The older of two is not read while the newer one is whole.
    let (newest, mut bytes) = contents(&bus.join("checkpoints")).pop_last().unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    check(&newest, &bytes, "flip");
    Cli::new(&["log", "verify"]).arg(place.data()).run().expect_done();
}

/// Repairs of the test below; `TIDEGATE_REPAIRS` says another number.
const REPAIRS: usize = 3;

/// The oracle's view of it: load, an end, damage, a repair, and on with more load, on one data folder.
#[test]
fn a_log_that_is_repaired_and_runs_on_keeps_every_promise_but_those_it_names() {
    let rng = seed("a_log_that_is_repaired_and_runs_on_keeps_every_promise_but_those_it_names");
    let mut series = Series::new(Place::new(), rng);
    let repairs = std::env::var("TIDEGATE_REPAIRS").map_or(REPAIRS, |text| text.parse().unwrap());
    for number in 0..repairs {
        let host = series.start();
        let load = series.load(&host);
        for _ in 0..series.rng.usize(1..3) {
            let more = series.rng.usize(50..400);
            series.wait_acknowledged(&load, more);
            if series.rng.bool() {
                series.redrive(&host);
            }
            series.roll(&host);
        }
        let is_killed = series.rng.bool();
        if is_killed {
            host.kill();
        } else {
            host.stop();
        }
        load.join();
        must_be_sound(&series.judge(), &format!("{number}: before the damage"));
        let damage = series.damage();
        let (report, verdict) = series.repair();
        println!("{number}: killed {is_killed}, {damage:?}, lost {:?}", series.lost.size());
        must_be_sound(&verdict, &format!("{number}: {damage:?}\n{report}"));
    }
    must_be_sound(&series.finish(), "at rest");
    let ((events, commits), lost) = (series.size(), series.lost.size());
    println!("{repairs} repairs: {events} events acknowledged, {commits} commits, lost {lost:?}");
}
