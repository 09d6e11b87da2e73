//! Rewinds: state as if the module that is there now had always run, and nothing emitted twice.

use std::collections::BTreeMap;
use std::fs::write;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    Answer, Host, Place, bare_guest, event, fixture, generated, keeper, seed, wait_until,
};

/// A module without an SDK that sets `module` to `name` and emits `NAME.ran`.
fn writer(name: &str) -> String {
    let lines = format!(
        "{{\"state\":{{\"set\":{{\"module\":\"{name}\"}}}}}}\n{{\"emit\":{{\"type\":\"{name}.ran\"}}}}\n"
    );
    let text = lines.replace('"', "\\\"").replace('\n', "\\n");
    format!(
        r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "{text}")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 16))
    (i32.store (i32.const 4) (i32.const {}))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#,
        lines.len()
    )
}

/// Puts a manifest in force with a module that knows only its own state.
fn put_keeper(place: &Place, state_version: u32, word: &str) {
    let manifest = format!("[run]\nstate-version = {state_version}\n");
    write(place.plugins().join("keeper.toml"), manifest).unwrap();
    write(place.plugins().join("keeper.wasm"), keeper(word)).unwrap();
}

fn ask(host: &Host, more: &str) -> Answer {
    host.http.get(&format!("/v1/plugins/keeper/query/word?key=k{more}"))
}

fn text(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body).into_owned()
}

/// The file as it stands is refused without a rewind, and taken with one.
fn rewind_keeper(host: &Host, module: &str) {
    wait_until("the module is seen", Duration::from_secs(30), || {
        host.cli(&["plugins", "rewind", "keeper"]).run().expect_done();
        let seen = host.plugin("keeper")["module"]["digest"].as_str().unwrap().to_owned();
        if seen == module { Ok(()) } else { Err(seen) }
    });
}

fn rebuilt(host: &Host, name: &str, generation: u64) -> Value {
    host.wait_plugin(name, "rebuilt", |view| {
        view["generation"] == generation && view["rewind"].is_null()
    })
}

/// How often each input was answered with an event of a type.
fn answered(host: &Host, kind: &str) -> BTreeMap<String, usize> {
    let mut answered = BTreeMap::new();
    for event in host.http.events(&format!("type={kind}")) {
        *answered.entry(event["causationid"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    answered
}

#[test]
fn state_of_another_version_is_rebuilt_on_the_new_module_and_emits_nothing_twice() {
    let place = Place::new();
    let (module, manifest) =
        (place.plugins().join("writer.wat"), place.plugins().join("writer.toml"));
    write(&manifest, "[run]\nstate-version = 1\n").unwrap();
    write(&module, writer("one")).unwrap();
    let host = place.start();
    let events: Vec<_> =
        (0..20).map(|n| event("a.b", &n.to_string(), Some(&format!("k{n}")), json!(n))).collect();
    host.http.publish(&events);
    host.wait_rest("writer", 0);
    assert_eq!(host.state("writer", "k3", "module").unwrap(), "\"one\"");

    // Neither of them alone can take over the state.
    write(&manifest, "[run]\nstate-version = 2\n").unwrap();
    write(&module, writer("two")).unwrap();
    let said = host.wait_plugin("writer", "says what to do", |view| {
        view["last_error"].to_string().contains("tidegate plugins rewind writer")
    });
    assert_eq!((&said["state"], &said["generation"]), (&json!("live"), &json!(0)));
    // The folder is looked at file by file: the module may come in after the manifest.
    wait_until("the module is seen", Duration::from_secs(30), || {
        host.cli(&["plugins", "rewind", "writer"]).run().expect_done();
        rebuilt(&host, "writer", host.plugin("writer")["generation"].as_u64().unwrap());
        let state = host.state("writer", "k3", "module").unwrap();
        if state == "\"two\"" { Ok(()) } else { Err(state) }
    });
    for n in 0..20 {
        assert_eq!(host.state("writer", &format!("k{n}"), "module").unwrap(), "\"two\"");
    }
    assert_eq!(answered(&host, "one.ran").len(), 20);
    assert!(answered(&host, "two.ran").is_empty(), "what was emitted is not repeated");
    host.http.publish(&[event("a.b", "20", Some("k3"), json!(20))]);
    host.wait_rest("writer", 0);
    assert_eq!(answered(&host, "two.ran"), [("20".to_owned(), 1)].into());
    host.stop();

    let host = place.start();
    assert_eq!(host.state("writer", "k4", "module").unwrap(), "\"two\"");
    host.stop();
}

#[test]
fn queries_are_answered_by_what_served_before_a_rewind_until_that_is_over() {
    let place = Place::new();
    let digest = |word: &str| tidegate::event::Digest::of(&keeper(word)).to_string();
    put_keeper(&place, 1, "one");
    let host = place.start();
    let published = host.http.publish(&[event("a.b", "1", Some("k"), json!(1))]);
    let first = published[0]["position"].as_u64().unwrap();
    let word = |host: &Host, more: &str| {
        let answer = ask(host, more);
        assert_eq!(answer.status, 200, "{answer:?}");
        text(&answer)
    };
    assert_eq!(word(&host, &format!("&wait={first}")), "one");

    // Paused, the rewind comes to no end; the new module would trap on the state of the old one.
    host.cli(&["plugins", "pause", "keeper"]).run().expect_done();
    put_keeper(&place, 2, "two");
    rewind_keeper(&host, &digest("two"));
    assert!(host.plugin("keeper")["rewind"].is_object());
    assert_eq!(word(&host, ""), "one");
    assert_eq!(word(&host, &format!("&wait={first}")), "one");
    host.kill();

    let host = place.start();
    host.wait_plugin("keeper", "is back", |view| view["state"] == "paused");
    assert_eq!(host.plugin("keeper")["module"]["digest"], digest("two"));
    assert_eq!(word(&host, ""), "one");
    // Another module on the way, and another rewind: neither has been seen by anyone.
    put_keeper(&place, 2, "three");
    host.wait_plugin("keeper", "has the third", |v| v["module"]["digest"] == digest("three"));
    assert_eq!(word(&host, ""), "one");
    put_keeper(&place, 3, "four");
    rewind_keeper(&host, &digest("four"));
    assert_eq!(word(&host, ""), "one");

    // Who waits for what comes behind the rewind is answered by what serves then.
    let published = host.http.publish(&[event("a.b", "2", Some("k"), json!(2))]);
    let later = published[0]["position"].as_u64().unwrap();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| word(&host, &format!("&wait={later}")));
        host.cli(&["plugins", "resume", "keeper"]).run().expect_done();
        assert_eq!(waits.join().unwrap(), "four");
    });
    assert_eq!(word(&host, ""), "four");
    host.stop();
}

/// It waits for the delivery that is in progress, as long as that takes.
#[test]
fn queries_are_answered_while_a_rewind_begins() {
    let place = Place::new();
    write(place.plugins().join("tally.wasm"), fixture("tally-guest")).unwrap();
    let limits = "[limits]\ntimeout = \"3s\"\nfuel = 1_000_000_000_000\n";
    write(place.plugins().join("tally.toml"), limits).unwrap();
    let host = place.start();
    host.http.publish(&[event("tally.posted", "1", Some("k"), json!(7))]);
    host.wait_rest("tally", 0);
    let mut long = event("tally.posted", "2", Some("k"), json!(1));
    long["rounds"] = json!("100000000000");
    host.http.publish(&[long]);
    host.wait_plugin("tally", "is at it", |view| view["in_flight"] == 1);
    std::thread::scope(|scope| {
        let rewinds = scope.spawn(|| host.cli(&["plugins", "rewind", "tally"]).run().expect_done());
        let mut asked = 0;
        while !rewinds.is_finished() {
            let answer = host.http.get("/v1/plugins/tally/query/sum?key=k");
            assert_eq!(answer.expect_ok()["sum"], 7);
            asked += 1;
        }
        assert!(asked > 10, "{asked}");
    });
    host.kill();
}

/// Some read when the rewind ends, and the state that they read goes with that.
#[test]
fn queries_across_keys_see_all_of_them_while_rewinds_end() {
    const KEYS: usize = 300;
    let place = Place::new();
    write(place.plugins().join("tally.wasm"), fixture("tally-guest")).unwrap();
    let host = place.start();
    let posted =
        |n: usize| event("tally.posted", &n.to_string(), Some(&format!("k{n:03}")), json!(1));
    host.http.publish(&(0..KEYS).map(posted).collect::<Vec<_>>());
    host.wait_rest("tally", 0);
    let going = Arc::new(());
    let still = Arc::downgrade(&going);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while still.strong_count() > 0 {
                    let sum = host.http.get("/v1/plugins/tally/query/all").expect_ok();
                    assert_eq!(sum, KEYS);
                }
            });
        }
        // However it ends, the others do too.
        let _going = going;
        for generation in 1..=10 {
            host.cli(&["plugins", "rewind", "tally"]).run().expect_done();
            rebuilt(&host, "tally", generation);
        }
    });
    host.stop();
}

#[test]
fn where_what_served_before_a_rewind_is_gone_queries_say_what_they_wait_for() {
    let place = Place::new();
    put_keeper(&place, 1, "one");
    let host = place.start();
    host.http.publish(&[event("a.b", "1", Some("k"), json!(1))]);
    host.wait_rest("keeper", 0);
    host.cli(&["plugins", "pause", "keeper"]).run().expect_done();
    put_keeper(&place, 2, "two");
    let digest = |word: &str| tidegate::event::Digest::of(&keeper(word)).to_string();
    rewind_keeper(&host, &digest("two"));
    let kept = place.data().join("modules").join(format!("{}.wasm", digest("one")));
    std::fs::remove_file(&kept).unwrap();
    for _ in 0..3 {
        let refused = ask(&host, "");
        assert_eq!((refused.status, &*refused.code()), (409, "key_unavailable"), "{refused:?}");
        let words = refused.json()["error"]["message"].to_string();
        assert!(words.contains("is being rebuilt") && words.contains("tried again"), "{words}");
    }
    assert_eq!(host.said().matches("queries are refused during the rewind").count(), 1);
    write(kept, keeper("one")).unwrap();
    wait_until("it is loaded", Duration::from_secs(60), || {
        let answer = ask(&host, "");
        if answer.status == 200 { Ok(text(&answer)) } else { Err(answer) }
    });
    host.cli(&["plugins", "resume", "keeper"]).run().expect_done();
    rebuilt(&host, "keeper", host.plugin("keeper")["generation"].as_u64().unwrap());
    let answer = ask(&host, "");
    assert_eq!((answer.status, &*text(&answer)), (200, "two"), "{answer:?}");
    host.stop();
}

#[test]
fn a_rewind_outlives_kills_and_live_events_follow_it_in_order() {
    let place = Place::new();
    write(place.plugins().join("seen.wasm"), bare_guest()).unwrap();
    let mut rng = seed("a_rewind_outlives_kills");
    let events = generated(&mut rng, 1200, 30);
    let (first, later) = events.split_at(1000);
    let mut host = place.start();
    host.http.publish(first);
    host.wait_rest("seen", 0);
    let before: Vec<_> =
        (0..30).map(|key| host.state("seen", &format!("k-{key}"), "seen")).collect();

    let mut published = 0;
    for round in 1..=4_u64 {
        let to = if round % 2 == 0 { "earliest" } else { "300" };
        host.cli(&["plugins", "rewind", "seen", "--to", to]).run().expect_done();
        if host.plugin("seen")["rewind"].is_object() && round == 1 {
            let seen: Vec<_> =
                (0..30).map(|key| host.state("seen", &format!("k-{key}"), "seen")).collect();
            if host.plugin("seen")["rewind"].is_object() {
                assert_eq!(seen, before, "what was there is seen until all is rebuilt");
            }
        }
        host.http.publish(&later[published..published + 50]);
        published += 50;
        std::thread::sleep(std::time::Duration::from_millis(rng.u64(..300)));
        host.kill();
        host = place.start();
        rebuilt(&host, "seen", round);
    }
    host.wait_rest("seen", 0);

    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    for event in &events {
        *expected.entry(event["partitionkey"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    for (key, count) in &expected {
        assert_eq!(host.state("seen", key, "seen").unwrap(), count.to_string(), "{key}");
    }
    let answered = answered(&host, "bare.seen");
    assert_eq!(answered.len(), events.len());
    assert!(answered.values().all(|times| *times == 1), "{answered:?}");
    assert_eq!(host.metric("tidegate_dead_letters", &[("plugin", "seen")]), 0);
    host.stop();
}

#[test]
fn what_cannot_be_rewound_says_why() {
    let place = Place::new();
    write(place.plugins().join("seen.wasm"), bare_guest()).unwrap();
    let host = place.start();
    host.http.publish(&[event("a.b", "1", Some("k"), json!(1))]);
    host.wait_rest("seen", 0);
    let refused = |to: &str| host.http.post(&format!("/v1/plugins/seen/rewind?to={to}"), "", &[]);
    assert_eq!(refused("99").status, 422);
    assert_eq!(refused("latest").status, 422);
    assert_eq!(host.http.post("/v1/plugins/none/rewind", "", &[]).status, 404);
    host.cli(&["keys", "hold", "seen", "k", "--reason", "why"]).run().expect_done();
    // The first waits, so that nobody can say what state was before the second.
    let (held, later) = (event("a.b", "2", Some("k"), json!(1)), event("a.b", "3", None, json!(1)));
    host.http.publish(&[held, later]);
    host.wait_plugin("seen", "the later one is through", |view| view["deliveries"]["ok"] == 2);
    let position = host.http.events("id=3")[0]["tidegateposition"].to_string();
    let position = position.trim_matches('"');
    let run = host.cli(&["plugins", "rewind", "seen", "--to", position]).run();
    assert_eq!(run.code, 1, "{run:?}");
    host.wait_plugin("seen", "goes on", |view| view["state"] == "live");
    host.cli(&["keys", "release", "seen", "k"]).run().expect_done();
    host.wait_rest("seen", 0);
    assert_eq!(host.state("seen", "k", "seen").unwrap(), "2");
    host.stop();
}

/// Where a rewind began just behind it, it had seen nothing.
#[test]
fn a_dead_letter_shows_what_it_saw_before_a_rewind() {
    let place = Place::new();
    write(place.plugins().join("seen.toml"), "[retry]\non-failure = \"continue\"\n").unwrap();
    write(place.plugins().join("seen.wasm"), bare_guest()).unwrap();
    let host = place.start();
    let said = ["fine", "panic", "fine"].into_iter().zip(["1", "2", "3"]);
    let events = said.map(|(said, id)| {
        let mut event = event("a.b", id, Some("k"), json!(said));
        event["datacontenttype"] = json!("text/plain");
        event
    });
    host.http.publish(&events.collect::<Vec<_>>());
    host.wait_plugin("seen", "one is given up", |view| view["dead_letters"] == 1);
    host.wait_rest("seen", 0);
    let letter = || host.http.get("/v1/dead-letters/1").expect_ok();
    let before = letter()["state"].clone();
    assert_eq!(before[0]["name"], "seen", "{before}");
    let position = host.http.events("id=3")[0]["tidegateposition"].to_string();
    let to = position.trim_matches('"');
    host.cli(&["plugins", "rewind", "seen", "--to", to]).run().expect_done();
    rebuilt(&host, "seen", 1);
    assert_eq!(letter()["state"], before);

    // Redriven now, it sees what all of them have left.
    host.cli(&["dead-letters", "redrive", "1"]).run().expect_done();
    let letter = wait_until("it failed again", Duration::from_secs(30), || {
        let letter = letter();
        if letter["attempts"] == 3 { Ok(letter) } else { Err(letter.to_string()) }
    });
    assert_eq!(letter["state"][0]["value"], "2", "{letter}");
    host.stop();
}
