//! Keys that wait for a person: nothing overtakes, and once redriven nothing shows that anything
//! had failed.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Host, Place, bare_guest, by_key, event, seed, wait_until};

const FAILING: &str = "[retry]\nbackoff = \"5ms\"\n";
const FIXED: &str = "[retry]\nbackoff = \"5ms\"\n[config]\nfixed = \"yes\"\n";
const EVENTS_PER_KEY: usize = 4;
const SETTLED_MAX: Duration = Duration::from_secs(300);

fn text(id: &str, key: &str, data: &str) -> Value {
    let mut event = event("a.b", id, Some(key), json!(data));
    event["datacontenttype"] = "text/plain".into();
    event
}

fn number(name: &str, otherwise: usize) -> usize {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

fn put(place: &Place, manifest: &str) {
    std::fs::write(place.plugins().join("bare.toml"), manifest).unwrap();
}

/// Puts the guest there as another module: one that does the same, but for its digest.
fn put_fixed(place: &Place) {
    let mut wasm = bare_guest();
    // A custom section: id, length, name.
    wasm.extend_from_slice(b"\0\x06\x05fixed");
    std::fs::write(place.plugins().join("bare.wasm"), wasm).unwrap();
    put(place, FIXED);
}

fn wait_fixed(host: &Host) {
    let is_fixed = |view: &Value| {
        let manifest = view["manifest"].as_str().unwrap_or_default();
        manifest.contains("fixed = \"yes\"") && view["history"].as_array().unwrap().len() > 1
    };
    host.wait_plugin("bare", "fixed", is_fixed);
}

fn failing_place() -> Place {
    let place = Place::new();
    std::fs::write(place.plugins().join("bare.wasm"), bare_guest()).unwrap();
    put(&place, FAILING);
    place
}

/// `EVENTS_PER_KEY` events of each key, one key after the other in each round; every hundredth key
/// fails at its second event.
fn one_in_a_hundred(keys: usize) -> Vec<Value> {
    let of_key = |n: usize, key: usize| {
        let data = if n == 2 && key % 100 == 7 { "panic" } else { "fine" };
        text(&format!("k-{key}/{n}"), &format!("k-{key}"), data)
    };
    (1..=EVENTS_PER_KEY).flat_map(|n| (0..keys).map(move |key| of_key(n, key))).collect()
}

/// How long the same events take where none fails.
fn without_failures(keys: usize) -> Duration {
    let place = failing_place();
    put_fixed(&place);
    let host = place.start();
    let events = one_in_a_hundred(keys);
    let started = std::time::Instant::now();
    publish(&host, &events);
    host.wait_rest("bare", 0);
    let took = started.elapsed();
    host.stop();
    took
}

fn publish(host: &Host, events: &[Value]) {
    for chunk in events.chunks(500) {
        host.http.publish(chunk);
    }
}

/// What a run without failures leaves: the effects of every event once, in the order of its key,
/// and the state they came to.
fn assert_as_if_nothing_had_failed(host: &Host, events: &[Value]) {
    let emitted = host.http.events("type=bare.seen");
    let effects = by_key(&emitted);
    let expected = by_key(events);
    assert_eq!(effects.len(), expected.len());
    for (key, events) in expected {
        let ids = events.iter().map(|event| &event["id"]);
        let seen = effects[&key].iter().map(|event| &event["data"]);
        assert!(ids.eq(seen), "{key}: {:?}", effects[&key]);
        let count = Some(events.len().to_string());
        assert_eq!(host.state("bare", &key, "seen"), count, "state of {key}");
    }
    assert!(host.dead_letters("bare").is_empty());
    let view = host.plugin("bare");
    assert_eq!((&view["parked_keys"], &view["dead_letters"]), (&json!(0), &json!(0)), "{view}");
}

#[test]
fn redriven_on_a_fixed_module_everything_is_as_if_nothing_had_failed() {
    let keys = number("TIDEGATE_PARK_KEYS", 2000);
    let bad = (keys / 100) as u64;
    let place = failing_place();
    let host = place.start();
    let events = one_in_a_hundred(keys);
    println!("without failures: {:?}", without_failures(keys));
    let started = std::time::Instant::now();
    publish(&host, &events);
    host.wait_plugin("bare", "the bad keys are parked", |view| view["parked_keys"] == bad);
    host.wait_rest("bare", bad);
    println!("with {bad} keys that fail: {:?}", started.elapsed());
    let view = host.plugin("bare");
    assert_eq!((&view["state"], &view["dead_letters"]), (&json!("live"), &json!(bad)), "{view}");
    assert_eq!(host.metric("tidegate_plugin_parked_keys", &[("plugin", "bare")]), bad);
    assert_eq!(host.metric("tidegate_dead_letters", &[("plugin", "bare")]), bad);
    let others = events.len() as u64 - bad * (EVENTS_PER_KEY as u64 - 1);
    assert_eq!(host.http.events("type=bare.seen").len() as u64, others);

    put_fixed(&place);
    wait_fixed(&host);
    let acted = host.cli(&["--output", "json", "dead-letters", "redrive", "--all"]).run().json();
    assert_eq!((&acted["count"], &acted["left"]), (&json!(bad), &json!(0)), "{acted}");
    host.wait_rest("bare", 0);
    assert_as_if_nothing_had_failed(&host, &events);
    let redriven = host.http.events("type=bare.seen&key=k-7");
    let marks: Vec<_> = redriven.iter().map(|event| event["redriven"] == "yes").collect();
    assert_eq!(marks, [false, true, true, true], "{redriven:?}");
    host.stop();
}

#[test]
fn kills_during_a_redrive_lose_double_and_reorder_nothing() {
    let mut rng = seed("kills_during_a_redrive_lose_double_and_reorder_nothing");
    let place = failing_place();
    let host = place.start();
    // All keys fail, some at a time, so that the breaker has no say.
    let keys = 120;
    let mut events = Vec::new();
    for n in 1..=EVENTS_PER_KEY * 5 {
        for key in 0..keys {
            let bad = (key + n) % 60 == 0;
            let data = if bad { "panic" } else { "fine" };
            events.push(text(&format!("k-{key}/{n}"), &format!("k-{key}"), data));
        }
    }
    publish(&host, &events);
    let parked = |view: &Value| view["parked_keys"].as_u64().unwrap() > 30;
    host.wait_plugin("bare", "many are parked", parked);
    host.kill();

    put_fixed(&place);
    for _ in 0..4 {
        let host = place.start();
        let http = host.http.clone();
        let redrive = std::thread::spawn(move || {
            drop(http.send("POST", "/v1/dead-letters/redrive?all=true", &[], &[]));
        });
        std::thread::sleep(Duration::from_millis(rng.u64(..60)));
        host.kill();
        redrive.join().unwrap();
    }
    let host = place.start();
    // What was recorded goes on by itself; the rest is asked for.
    wait_until("all dead letters are gone", SETTLED_MAX, || {
        host.http.post("/v1/dead-letters/redrive?all=true", "", &[]).expect_ok();
        let letters = host.dead_letters("bare");
        if letters.is_empty() { Ok(()) } else { Err(letters.len()) }
    });
    host.wait_rest("bare", 0);
    assert_as_if_nothing_had_failed(&host, &events);
    host.stop();
}

#[test]
fn a_long_backlog_of_one_key_costs_no_memory_and_comes_in_order() {
    let backlog = number("TIDEGATE_PARK_BACKLOG", 3000);
    let place = failing_place();
    let host = place.start();
    host.http.publish(&[text("sick/0", "sick", "panic")]);
    host.wait_plugin("bare", "parked", |view| view["parked_keys"] == 1);
    let mut events = vec![text("sick/0", "sick", "panic")];
    for n in 1..=backlog {
        events.push(text(&format!("sick/{n}"), "sick", "fine"));
        if n % 10 == 0 {
            let id = format!("fit-{}/{n}", n % 100);
            events.push(text(&id, &format!("fit-{}", n % 100), "fine"));
        }
    }
    publish(&host, &events[1..]);
    let view = host.wait_rest("bare", 1);
    assert_eq!((&view["in_flight"], &view["deferred_events"]), (&json!(0), &json!(backlog)));
    println!("resident with {backlog} behind a key: {} KiB", resident_kib(host.pid()));
    host.kill();

    // It is read again after a kill, and known after a stop.
    let host = place.start();
    let counted = |view: &Value| view["deferred_events"] == json!(backlog);
    host.wait_plugin("bare", "counted after a kill", counted);
    host.stop();
    let host = place.start();
    host.wait_plugin("bare", "counted after a stop", counted);
    host.wait_rest("bare", 1);
    println!("resident after a restart: {} KiB", resident_kib(host.pid()));
    let key = host.cli(&["--output", "json", "keys", "show", "bare", "sick"]).run().json();
    assert_eq!(key["state"], "parked");
    assert_eq!(key["deferred"], json!(backlog), "{key}");

    put_fixed(&place);
    wait_fixed(&host);
    let id = key["dead_letter"].as_str().unwrap();
    let started = std::time::Instant::now();
    host.cli(&["dead-letters", "redrive", id]).run().expect_done();
    host.wait_rest("bare", 0);
    println!("{backlog} in order in {:?}", started.elapsed());
    println!("resident after it: {} KiB", resident_kib(host.pid()));
    assert_as_if_nothing_had_failed(&host, &events);
    host.stop();
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_dead_letter_shows_what_is_needed_to_judge_it() {
    let place = failing_place();
    let host = place.start();
    host.http.publish(&[text("1", "k", "fine"), text("2", "k", "panic"), text("3", "k", "fine")]);
    let view = host.wait_plugin("bare", "parked", |view| view["parked_keys"] == 1);
    let letter = host.http.get("/v1/dead-letters/1").expect_ok();
    assert_eq!((&letter["outcome"], &letter["attempts"]), (&json!("trap"), &json!(2)));
    assert_eq!(letter["module"], view["module"]["digest"]);
    assert_eq!((&letter["parked"], &letter["redriving"]), (&json!(true), &json!(false)));
    assert_eq!(letter["event"]["id"], "2");
    assert!(letter["backtrace"].as_str().unwrap().contains("panic"), "{letter}");
    assert_eq!(letter["logs"][0]["message"], "seen 2");
    let tried: Vec<_> = letter["tried"].as_array().unwrap().iter().collect();
    assert_eq!(tried.len(), 2, "{letter}");
    assert!(tried.iter().all(|tried| tried["outcome"] == "trap" && tried["at"].is_string()));
    assert_eq!(
        (&letter["state"][0]["name"], &letter["state"][0]["value"]),
        (&json!("seen"), &json!("1"))
    );
    let shown = host.cli(&["dead-letters", "show", "1"]).run().expect_done();
    for words in ["seen=1", "seen 2", "backtrace", "attempts", "later events of this key wait"] {
        assert!(shown.contains(words), "no `{words}` in {shown}");
    }
    let listed = host.cli(&["plugins", "show", "bare"]).run().expect_done();
    assert!(listed.contains("waiting 1 (parked 1, held 0) with 1 events behind them"), "{listed}");
    host.stop();
}

#[test]
fn what_people_decide_holds_across_a_kill_and_stands_in_the_log_with_who_it_was() {
    let place = failing_place();
    let host = place.start();
    host.cli(&["keys", "hold", "bare", "stop", "--reason", "an audit"]).run().expect_done();
    host.http.publish(&[
        text("1", "stop", "fine"),
        text("2", "one", "panic"),
        text("3", "one", "fine"),
        text("4", "two", "panic"),
        text("5", "two", "fine"),
    ]);
    host.wait_plugin("bare", "two are parked", |view| view["parked_keys"] == 2);
    let discard = ["dead-letters", "discard", "--key", "one", "--reason", "sent by mistake"];
    host.cli(&discard).run().expect_done();
    host.cli(&["keys", "release", "bare", "two"]).run().expect_done();
    let gone_on = |host: &Host| {
        wait_until("both went on", SETTLED_MAX, || {
            let seen = [host.state("bare", "one", "seen"), host.state("bare", "two", "seen")];
            if seen.iter().all(|seen| seen.as_deref() == Some("1")) { Ok(()) } else { Err(seen) }
        });
    };
    gone_on(&host);
    host.kill();

    let host = place.start();
    host.wait_rest("bare", 1);
    gone_on(&host);
    let left = host.dead_letters("bare");
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!((&left[0]["event_id"], &left[0]["parked"]), (&json!("4"), &json!(false)));
    assert_eq!(host.state("bare", "stop", "seen"), None, "it is held");
    let key = host.cli(&["--output", "json", "keys", "show", "bare", "stop"]).run().json();
    assert_eq!((&key["state"], &key["reason"]), (&json!("held"), &json!("an audit")), "{key}");
    assert_eq!(host.metric("tidegate_plugin_held_keys", &[("plugin", "bare")]), 1);
    host.cli(&["keys", "release", "bare", "stop"]).run().expect_done();
    host.wait_rest("bare", 0);
    assert_eq!(host.state("bare", "stop", "seen").as_deref(), Some("1"));
    let again = host.cli(&["keys", "release", "bare", "stop"]).run().expect_failed();
    assert!(again.contains("neither parked nor held"), "{again}");
    host.stop();

    let dump = host_log(&place);
    for (kind, more) in [("Hold", "an audit"), ("Discard", "sent by mistake"), ("Release", "")] {
        let line = dump.lines().find(|line| line.to_lowercase().contains(&kind.to_lowercase()));
        let line = line.unwrap_or_else(|| panic!("no `{kind}` in\n{dump}"));
        assert!(line.contains(more) && line.contains("actor"), "{line}");
    }
}

fn host_log(place: &Place) -> String {
    crate::harness::Cli::new(&["--output", "json", "log", "dump"])
        .arg(place.data())
        .run()
        .expect_done()
}

#[test]
fn rejects_park_where_the_manifest_says_so_and_unkeyed_events_never_do() {
    let place = failing_place();
    put(&place, "[retry]\nbackoff = \"5ms\"\non-reject = \"park\"\n");
    let host = place.start();
    let mut unkeyed = event("a.b", "2", None, json!("panic"));
    unkeyed["datacontenttype"] = "text/plain".into();
    host.http.publish(&[text("1", "k", "reject"), unkeyed, text("3", "k", "fine")]);
    wait_until("both are dead letters", SETTLED_MAX, || {
        let letters = host.dead_letters("bare");
        if letters.len() == 2 { Ok(()) } else { Err(letters) }
    });
    let parked: BTreeMap<_, _> = host
        .dead_letters("bare")
        .iter()
        .map(|letter| (letter["outcome"].as_str().unwrap().to_owned(), letter["parked"].clone()))
        .collect();
    assert_eq!(
        parked,
        BTreeMap::from([("reject".into(), json!(true)), ("trap".into(), json!(false))])
    );
    host.wait_rest("bare", 1);
    assert_eq!(host.state("bare", "k", "seen"), None);
    host.stop();
}

#[test]
fn a_plugin_that_fails_broadly_is_stopped_and_goes_on_with_another_module() {
    let place = failing_place();
    // Longer than the breaker needs: what fails first has not been given up by then.
    put(&place, "[retry]\nbackoff = \"2s\"\n");
    let host = place.start();
    let keys = 400;
    let events: Vec<_> =
        (0..keys).map(|key| text(&format!("k-{key}/1"), &format!("k-{key}"), "panic")).collect();
    publish(&host, &events);
    let view = host.wait_plugin("bare", "stopped", |view| view["state"] == "paused");
    let reason = view["reason"].as_str().unwrap();
    assert!(reason.contains("keys failed") && reason.contains("retry.breaker"), "{reason}");
    assert_eq!(host.metric("tidegate_plugin_breaker_open", &[("plugin", "bare")]), 1);
    let listed = host.cli(&["status"]).run().expect_done();
    assert!(listed.contains("paused"), "{listed}");

    put_fixed(&place);
    wait_fixed(&host);
    wait_until("all went on", SETTLED_MAX, || {
        host.http.post("/v1/dead-letters/redrive?all=true", "", &[]).expect_ok();
        let done = host.http.events("type=bare.seen").len();
        if done == keys { Ok(()) } else { Err(done) }
    });
    host.wait_rest("bare", 0);
    assert_eq!(host.plugin("bare")["state"], "live");
    assert_as_if_nothing_had_failed(&host, &events);
    host.stop();
}

#[test]
fn dead_letters_of_a_plugin_that_is_gone_do_not_keep_those_of_others() {
    let place = failing_place();
    std::fs::write(place.plugins().join("gone.wasm"), bare_guest()).unwrap();
    std::fs::write(place.plugins().join("a-gone.wasm"), bare_guest()).unwrap();
    let host = place.start();
    publish(&host, &[text("1", "k", "panic")]);
    for name in ["bare", "gone", "a-gone"] {
        host.wait_plugin(name, "parked", |view| view["parked_keys"] == 1);
    }
    for name in ["gone", "a-gone"] {
        std::fs::remove_file(place.plugins().join(format!("{name}.wasm"))).unwrap();
        host.wait_plugin(name, "removed", |view| view["state"] == "removed");
    }
    put_fixed(&place);
    wait_fixed(&host);
    let done = host.http.post("/v1/dead-letters/redrive?all=true", "text/plain", b"").expect_ok();
    assert_eq!((&done["count"], &done["left"]), (&json!(1), &json!(2)), "{done}");
    assert!(done["examples"].to_string().contains("does not run"), "{done}");
    host.wait_rest("bare", 0);
    assert_eq!(host.dead_letters("bare").len(), 0);
    let none = host.http.post("/v1/dead-letters/redrive?all=true", "text/plain", b"");
    assert_eq!((none.status, none.json()["error"]["code"].clone()), (409, json!("conflict")));
    host.stop();
}
