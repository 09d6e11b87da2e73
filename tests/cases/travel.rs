//! Looking back: state as it was, and past deliveries run again.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate::api::view::Timestamp;
use tidegate::clock::{Clock, SystemClock};

use crate::harness::{Host, HostOptions, Place, Sources, event, put, seed, wait_until};

/// Small segments, so that the past is in several files.
const SEGMENTS: &str = "[buses.main]\nkind = \"durable\"\nsegment = \"1MiB\"\n";
const KEYS: usize = 5;

/// What a program outside saw: the state of a key after an event was handled.
struct Noted {
    key: String,
    position: u64,
    /// Wall time between this event's end and the next one.
    ms: u64,
    count: usize,
    kind: String,
}

fn wall_ms() -> u64 {
    SystemClock::new().wall_ms()
}

/// A moment that lies between what happened before and what happens next.
fn moment_between() -> u64 {
    let now = wall_ms();
    wait_until("the clock moves", Duration::from_secs(5), || {
        if wall_ms() > now + 6 { Ok(()) } else { Err(now) }
    });
    now + 3
}

/// Publishes one event after the other, waits until each is handled, and notes what is seen then.
fn note(host: &Host, rng: &mut fastrand::Rng, noted: &mut Vec<Noted>, events: usize) {
    for _ in 0..events {
        let key = format!("k-{}", rng.usize(..KEYS));
        let count = noted.iter().filter(|n| n.key == key).count() + 1;
        let kind = ["case.opened", "case.moved", "case.closed"][rng.usize(..3)];
        let data = json!({ "text": "x".repeat(15_000) });
        let receipts =
            host.http.publish(&[event(kind, &format!("{key}/{count}"), Some(&key), data)]);
        wait_until("the event is handled", Duration::from_secs(30), || {
            match host.state("case-progress", &key, "events") {
                Some(text) if text == count.to_string() => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        let position = receipts[0]["position"].as_u64().unwrap();
        noted.push(Noted { key, position, ms: moment_between(), count, kind: kind.to_owned() });
    }
}

fn state_at(host: &Host, key: &str, at: &str) -> Value {
    let path = format!("/v1/plugins/case-progress/state?key={key}&at={at}");
    let view = host.http.get(&path).expect_ok();
    let values = view["values"].as_array().unwrap().iter();
    values
        .map(|value| (value["name"].as_str().unwrap().to_owned(), value["value"].clone()))
        .collect()
}

/// Asks for every key at every point that was noted.
fn check(host: &Host, noted: &[Noted]) {
    for (index, point) in noted.iter().enumerate() {
        let position = point.position.to_string();
        let time = Timestamp(point.ms).to_string();
        for key in (0..KEYS).map(|key| format!("k-{key}")) {
            // Every other key at some of the points: what happened to it before.
            if key != point.key && index % 10 != 0 {
                continue;
            }
            let last = noted[..=index].iter().rfind(|n| n.key == key);
            let want = last.map_or_else(
                || json!({}),
                |n| json!({ "events": n.count.to_string(), "last": n.kind }),
            );
            assert_eq!(state_at(host, &key, &position), want, "{key} at {position}");
            assert_eq!(state_at(host, &key, &time), want, "{key} at {time}");
        }
    }
}

#[test]
fn the_state_of_any_moment_is_what_was_seen_then_also_after_restarts() {
    let mut rng = seed("the state of any moment");
    let place = Place::new();
    put(Sources::CASE_PROGRESS, &place.plugins());
    let options = HostOptions { config: Some(SEGMENTS.to_owned()), ..HostOptions::default() };
    let mut noted = Vec::new();

    let host = place.start_with(&options);
    note(&host, &mut rng, &mut noted, 100);
    check(&host, &noted);
    host.stop();
    // From a checkpoint now.
    let host = place.start_with(&options);
    note(&host, &mut rng, &mut noted, 100);
    host.kill();
    let host = place.start_with(&options);
    note(&host, &mut rng, &mut noted, 50);
    assert!(place.segments("main").len() > 3);
    check(&host, &noted);

    let point = &noted[120];
    let position = point.position.to_string();
    let words = ["state", "get", "case-progress", &point.key, "events", "--at", &position];
    assert_eq!(host.cli(&words).run().expect_done(), format!("{}\n", point.count));
    let time = Timestamp(point.ms).to_string();
    let words = ["state", "list", "case-progress", &point.key, "--at", &time, "--output", "json"];
    let listed = host.cli(&words).run().json();
    assert_eq!(listed["values"][0]["value"], point.count.to_string());
    let words = ["state", "get", "case-progress", "k-0", "events", "--at", "0"];
    host.cli(&words).run().expect_failed();
    let words = ["state", "get", "case-progress", "k-0", "events", "--at", "99999999"];
    let said = host.cli(&words).run().expect_failed();
    assert!(said.contains("lies ahead"), "{said}");
    let words = ["state", "get", "case-progress", "k-0", "events", "--at", "yesterday"];
    let said = host.cli(&words).run().expect_failed();
    assert!(said.contains("neither a position nor an RFC 3339 time"), "{said}");
    host.stop();
}
