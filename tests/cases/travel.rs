//! Looking back: state as it was, and past deliveries run again.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate::api::view::Timestamp;
use tidegate::clock::{Clock, SystemClock};

use crate::harness::{
    Host, HostOptions, Place, Sources, bare_guest, emitter, event, handler, put, seed, wait_until,
};

/// Small segments, so that the past is in several files.
const SEGMENTS: &str = "[buses.main]\nkind = \"durable\"\nsegment = \"4MiB\"\n";
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
        let data = json!({ "text": "x".repeat(70_000) });
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
    let said = host.cli(&words).run().expect_wrong_use();
    assert!(said.contains("lies ahead"), "{said}");
    let words = ["state", "get", "case-progress", "k-0", "events", "--at", "yesterday"];
    let said = host.cli(&words).run().expect_wrong_use();
    assert!(said.contains("neither a position nor an RFC 3339 time"), "{said}");
    host.stop();
}

fn diff(host: &Host, words: &[&str]) -> (i32, Value) {
    let words = [&["plugins", "diff"], words, &["--limit", "1000", "--output", "json"]].concat();
    let run = host.cli(&words).run();
    let found = serde_json::from_str(&run.stdout);
    (run.code, found.unwrap_or_else(|error| panic!("{error}: {} {}", run.stdout, run.stderr)))
}

fn last_position(host: &Host) -> u64 {
    host.http.get("/v1/buses").expect_ok()["buses"][0]["last_position"].as_u64().unwrap()
}

fn differing(found: &Value) -> Vec<u64> {
    let listed = found["differences"].as_array().unwrap().iter();
    let mut positions: Vec<_> = listed.map(|d| d["position"].as_u64().unwrap()).collect();
    positions.sort_unstable();
    positions
}

/// Events for the guest without an SDK: most are handled, some fail as their data says.
fn trying(rng: &mut fastrand::Rng, count: usize) -> Vec<Value> {
    let mut events: Vec<_> = (0..count)
        .map(|n| {
            let said = match rng.usize(..20) {
                0 => "panic",
                1 => "reject",
                2 => "retry",
                _ => "fine",
            };
            let key = format!("k-{}", rng.usize(..6));
            let key = (n % 7 != 0).then_some(key.as_str());
            let mut event = event("a.b", &format!("e-{n}"), key, json!(said));
            event["datacontenttype"] = "text/plain".into();
            event
        })
        .collect();
    events[0]["traceparent"] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into();
    events
}

const TRYING: &str = "[retry]\nbackoff = \"5ms\"\nbackoff-max = \"10ms\"\ngive-up-after = \"50ms\"\n\
                      on-failure = \"continue\"\n";

#[test]
fn an_unchanged_plugin_does_all_of_its_past_again() {
    let mut rng = seed("all of its past again");
    let place = Place::new();
    std::fs::write(place.plugins().join("bare.wasm"), bare_guest()).unwrap();
    std::fs::write(place.plugins().join("bare.toml"), TRYING).unwrap();
    put(Sources::CASE_PROGRESS, &place.plugins());
    let host = place.start();
    let events = trying(&mut rng, 400);
    for chunk in events.chunks(50) {
        host.http.publish(chunk);
    }
    host.wait_rest("bare", 0);
    host.wait_rest("case-progress", 0);
    assert!(!host.dead_letters("bare").is_empty());
    host.kill();
    let host = place.start();
    host.wait_rest("bare", 0);
    let last = last_position(&host);
    for plugin in ["bare", "case-progress"] {
        for words in [&[plugin][..], &[plugin, "--recorded"]] {
            let (code, found) = diff(&host, words);
            assert_eq!(code, 0, "{found}");
            let counts = ["equal", "different", "not_replayable"].map(|name| found[name].as_u64());
            assert_eq!(counts, [Some(400), Some(0), Some(0)], "{found}");
            assert_eq!(found["failed"], Value::Null);
        }
        assert!(last > 400);
        // A part of it: state of before comes from further back.
        let (code, found) = diff(&host, &[plugin, "--from", "101", "--to", "300"]);
        assert_eq!((code, &found["different"]), (0, &json!(0)), "{found}");
        let to = host.http.events("to=300").len() - host.http.events("to=100").len();
        let own =
            host.http.events("from=101&to=300").iter().filter(|e| e["source"] != "/test").count();
        assert_eq!(found["equal"], json!(to - own), "{found}");
    }
    assert_eq!(last_position(&host), last, "a replay says nothing");
    let said = host.cli(&["plugins", "diff", "bare", "--to", "9999999"]).run().expect_wrong_use();
    assert!(said.contains("lies ahead"), "{said}");
    host.cli(&["plugins", "diff", "nobody"]).run().expect_failed();

    // What a rewind carried over is no delivery, and those before it are of another time.
    host.cli(&["plugins", "rewind", "case-progress", "--to", "201"]).run().expect_done();
    host.wait_plugin("case-progress", "rebuilt", |view| view["rewind"].is_null());
    host.wait_rest("case-progress", 0);
    let (code, found) = diff(&host, &["case-progress"]);
    let counts = ["from", "different", "passed_over"].map(|name| found[name].as_u64());
    assert_eq!((code, counts), (0, [Some(201), Some(0), Some(0)]), "{found}");
    let since = host.http.events("from=201").iter().filter(|e| e["source"] == "/test").count();
    assert_eq!(found["equal"], json!(since), "{found}");
    let before = ["plugins", "diff", "case-progress", "--to", "200"];
    let said = host.cli(&before).run().expect_wrong_use();
    assert!(said.contains("only deliveries from there on can be compared"), "{said}");
    host.stop();
}

/// A handler that emits where the id of the input does not begin with `letter`.
fn choosy(letter: char) -> Vec<u8> {
    let body = format!(
        "(if (i32.ne (i32.load8_u (i32.load (local.get $event))) (i32.const {})) (then {}))",
        u32::from(letter),
        emitter("seen.it")
    );
    handler("seen.it", &body, "")
}

#[test]
fn a_changed_plugin_differs_exactly_where_it_must() {
    let mut rng = seed("exactly where it must");
    let place = Place::new();
    std::fs::write(place.plugins().join("choosy.wasm"), choosy('x')).unwrap();
    let other = place.path().join("other.wasm");
    std::fs::write(&other, choosy('y')).unwrap();
    put(Sources::CASE_PROGRESS, &place.plugins());
    let host = place.start();
    let mut input = Vec::new();
    for n in 0..300 {
        let letter = ["x", "y", "z"][rng.usize(..3)];
        let key = format!("k-{}", rng.usize(..4));
        let one = event("a.b", &format!("{letter}-{n}"), Some(&key), json!(1));
        let position = host.http.publish(&[one])[0]["position"].as_u64().unwrap();
        input.push((position, letter, key));
    }
    host.wait_rest("choosy", 0);
    host.wait_rest("case-progress", 0);
    let at = |wanted: &dyn Fn(usize) -> bool| -> Vec<u64> {
        (0..input.len()).filter(|index| wanted(*index)).map(|index| input[index].0).collect()
    };
    let (code, found) = diff(&host, &["choosy", "--module", other.to_str().unwrap()]);
    assert_eq!(code, 1);
    assert_eq!(differing(&found), at(&|index| input[index].1 != "z"));
    let first = &found["differences"][0]["changes"][0];
    assert_eq!(first["what"], "emitted event 1", "{found}");
    // What serves now is the other one: so it differs from the past, which is as it was.
    std::fs::write(place.plugins().join("choosy.wasm"), choosy('y')).unwrap();
    let digest = tidegate::event::Digest::of(&choosy('y')).to_string();
    host.wait_plugin("choosy", "swapped", |view| view["module"]["digest"] == digest);
    assert_eq!(differing(&diff(&host, &["choosy"]).1), at(&|index| input[index].1 != "z"));
    assert_eq!(diff(&host, &["choosy", "--recorded"]).0, 0);
    let old = tidegate::event::Digest::of(&choosy('x')).to_string();
    assert_eq!(diff(&host, &["choosy", "--module", &old[..12]]).0, 0);

    // Another configuration: a milestone at every fifth event instead of every tenth.
    let manifest = place.plugins().join("case-progress/plugin.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replace("every = \"10\"", "every = \"5\"")).unwrap();
    host.wait_plugin("case-progress", "has its new manifest", |view| {
        view["manifest"].as_str().is_some_and(|text| text.contains("every = \"5\""))
    });
    let count = |index: usize| input[..=index].iter().filter(|i| i.2 == input[index].2).count();
    let expected = at(&|index| count(index) % 10 == 5);
    let (code, found) = diff(&host, &["case-progress"]);
    assert_eq!((code, differing(&found)), (1, expected));
    host.stop();
}

#[test]
fn a_dead_letter_runs_offline_on_another_module_with_what_it_saw() {
    let place = Place::new();
    std::fs::write(place.plugins().join("bare.wasm"), bare_guest()).unwrap();
    std::fs::write(place.plugins().join("bare.toml"), TRYING).unwrap();
    let host = place.start();
    for (n, said) in ["fine", "fine", "fine", "panic", "fine"].iter().enumerate() {
        let mut event = event("a.b", &format!("e-{n}"), Some("k"), json!(said));
        event["datacontenttype"] = "text/plain".into();
        host.http.publish(&[event]);
    }
    host.wait_rest("bare", 0);
    assert_eq!(host.state("bare", "k", "seen").as_deref(), Some("4"));
    let letters = host.dead_letters("bare");
    let id = letters[0]["id"].as_str().unwrap();
    let letter = host.http.get(&format!("/v1/dead-letters/{id}")).expect_ok();
    assert_eq!(letter["state"][0]["value"], "3", "what came later is not in it: {letter}");

    let event = format!("dead-letter:{id}");
    let (same, other) = (place.path().join("same.wasm"), place.path().join("other.wasm"));
    std::fs::write(&same, bare_guest()).unwrap();
    std::fs::write(&other, handler("seen.it", &emitter("seen.it"), "")).unwrap();
    let test = |module: &std::path::Path| {
        let words = ["test", module.to_str().unwrap(), "--event", &event, "--output", "json"];
        host.cli(&words).run()
    };
    let run = test(&same);
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert!(run.stdout.contains("trap") && run.stdout.contains("seen 4"), "{}", run.stdout);
    let run = test(&other);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stdout.contains("seen.it"), "{}", run.stdout);
    let words = ["test", same.to_str().unwrap(), "--event", "dead-letter:99"];
    let said = host.cli(&words).run().expect_failed();
    assert!(said.contains("no dead letter `99`"), "{said}");
    host.stop();
}

/// Publishes `count` events whose ids begin with `letter`, and waits until they are handled.
fn publish_lettered(host: &Host, plugin: &str, letter: char, numbers: std::ops::Range<usize>) {
    let events: Vec<_> = numbers
        .map(|n| event("a.b", &format!("{letter}-{n}"), Some(&format!("k-{}", n % 3)), json!(n)))
        .collect();
    host.http.publish(&events);
    host.wait_rest(plugin, 0);
}

fn digest_of(wasm: &[u8]) -> Value {
    tidegate::event::Digest::of(wasm).to_string().into()
}

#[test]
fn a_version_serves_once_it_did_the_same_beside_and_is_refused_where_it_did_not() {
    let place = Place::new();
    let (module, manifest) =
        (place.plugins().join("choosy.wasm"), place.plugins().join("choosy.toml"));
    std::fs::write(&module, choosy('x')).unwrap();
    std::fs::write(&manifest, "[run]\nshadow = 50\n").unwrap();
    let host = place.start();
    publish_lettered(&host, "choosy", 'a', 0..10);

    // It waits for deliveries, however few there are, and the old one serves meanwhile.
    std::fs::write(&module, choosy('y')).unwrap();
    host.wait_plugin("choosy", "runs the new one beside", |view| {
        view["reason"].as_str().is_some_and(|reason| reason.contains("shadow 0/50"))
    });
    publish_lettered(&host, "choosy", 'b', 0..20);
    host.wait_plugin("choosy", "has compared", |view| {
        view["reason"].as_str().is_some_and(|reason| reason.contains("shadow 20/50, 0 differ"))
    });
    assert_eq!(host.plugin("choosy")["module"]["digest"], digest_of(&choosy('x')));
    publish_lettered(&host, "choosy", 'c', 0..40);
    let view = host.wait_plugin("choosy", "swapped", |view| {
        view["module"]["digest"] == digest_of(&choosy('y'))
    });
    let said = view["history"][0]["shadow"].as_str().unwrap();
    assert!(said.contains("0 of 50 deliveries differ"), "{view}");
    assert_eq!(view["reason"], Value::Null, "{view}");
    assert_eq!(host.http.events("type=seen.it").len(), 70, "nothing of it was committed");

    // One that differs is refused at the first difference, and the old one goes on.
    std::fs::write(&module, choosy('z')).unwrap();
    host.wait_plugin("choosy", "runs the next one beside", |view| {
        view["reason"].as_str().is_some_and(|reason| reason.contains("shadow 0/50"))
    });
    publish_lettered(&host, "choosy", 'z', 0..5);
    let view =
        host.wait_plugin("choosy", "refused", |view| view["history"][0]["result"] == "refused");
    let said = view["history"][0]["error"].as_str().unwrap();
    assert!(said.contains("`run.shadow-differences` allows 0"), "{said}");
    assert!(said.contains("emitted event 1: seen.it"), "{said}");
    assert_eq!(view["module"]["digest"], digest_of(&choosy('y')));
    assert_eq!(view["state"], "live");
    assert_eq!(host.http.events("type=seen.it").len(), 75);

    // As many as are allowed; and what is asked for instead ends a trial.
    std::fs::write(&manifest, "[run]\nshadow = 10\nshadow-differences = 2\n").unwrap();
    host.wait_plugin("choosy", "begins again", |view| {
        view["reason"].as_str().is_some_and(|reason| reason.contains("shadow 0/10"))
    });
    publish_lettered(&host, "choosy", 'z', 5..7);
    publish_lettered(&host, "choosy", 'd', 0..8);
    let view = host.wait_plugin("choosy", "swapped", |view| {
        view["module"]["digest"] == digest_of(&choosy('z'))
    });
    assert!(view["history"][0]["shadow"].as_str().unwrap().contains("2 of 10"), "{view}");
    std::fs::write(&module, choosy('w')).unwrap();
    host.wait_plugin("choosy", "begins once more", |view| {
        view["reason"].as_str().is_some_and(|reason| reason.contains("shadow 0/10"))
    });
    std::fs::write(&manifest, "[run]\nshadow = 0\n").unwrap();
    host.wait_plugin("choosy", "swapped at once", |view| {
        view["module"]["digest"] == digest_of(&choosy('w'))
    });
    host.stop();
}

#[test]
fn a_version_beside_sees_the_state_that_the_live_one_sees() {
    let place = Place::new();
    put(Sources::CASE_PROGRESS, &place.plugins());
    let folder = place.plugins().join("case-progress");
    let manifest = std::fs::read_to_string(folder.join("plugin.toml")).unwrap();
    let manifest = manifest.replace("[run]\n", "[run]\nshadow = 300\n");
    std::fs::write(folder.join("plugin.toml"), manifest).unwrap();
    let host = place.start();
    publish_lettered(&host, "case-progress", 'a', 0..30);
    // The same code under another digest: a custom section that means nothing.
    let mut wasm = std::fs::read(folder.join("case-progress.wasm")).unwrap();
    wasm.extend([0, 3, 1, b'x', b'y']);
    std::fs::write(folder.join("case-progress.wasm"), &wasm).unwrap();
    host.wait_plugin("case-progress", "runs the new one beside", |view| {
        view["reason"].as_str().is_some_and(|reason| reason.contains("shadow 0/300"))
    });
    // Few keys and many events at once: each runs on state that is not durable yet.
    let mut published = 0;
    let swapped = || host.plugin("case-progress")["module"]["digest"] == digest_of(&wasm);
    while !swapped() && published < 10_000 {
        publish_lettered(&host, "case-progress", 'b', published..published + 100);
        published += 100;
    }
    let view = host.wait_plugin("case-progress", "swapped", |view| {
        view["module"]["digest"] == digest_of(&wasm)
    });
    assert!(view["history"][0]["shadow"].as_str().unwrap().contains("0 of 300"), "{view}");
    host.stop();
}
