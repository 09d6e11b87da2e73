//! Components that were built for other hosts of `wasi:messaging` and `wasi:keyvalue`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Cli, Host, HostOptions, Place, event, fixture, seed, wait_until};

const COUNTED_MAX: Duration = Duration::from_secs(90);
const KEYS: usize = 7;
const KILLS: usize = 4;
const EVENTS_A_KILL: usize = 400;

const MANIFEST: &str = "[subscribe]\ntypes = [\"work\"]\n[limits]\nfuel = 1_000_000_000\n\
    [retry]\nbackoff = \"10ms\"\nbackoff-max = \"20ms\"\ngive-up-after = \"200ms\"\n\
    on-failure = \"continue\"\n";

fn put(place: &Place) {
    let file = place.plugins().join("messaging.wasm");
    std::fs::write(&file, fixture("messaging-guest")).unwrap();
    std::fs::write(file.with_extension("toml"), MANIFEST).unwrap();
}

fn work(id: &str, key: Option<&str>, words: &str) -> Value {
    let mut event = event("work", id, key, json!(words));
    event["datacontenttype"] = "text/plain".into();
    event
}

fn sent(host: &Host, kind: &str) -> Vec<Value> {
    host.http.events(&format!("type={kind}"))
}

/// The data of the only event of a type.
fn only(host: &Host, kind: &str) -> String {
    let events = sent(host, kind);
    assert_eq!(events.len(), 1, "{kind}: {events:?}");
    events[0]["data"].as_str().unwrap().to_owned()
}

#[test]
fn a_component_of_another_host_runs_unchanged() {
    let place = Place::new();
    put(&place);
    let config = "[buses.main]\n[buses.other]\nkind = \"durable\"\n\
                  [plugins.messaging]\nconfig.greeting = \"good day\"\n";
    let options = HostOptions { config: Some(config.to_owned()), ..HostOptions::default() };
    let host = place.start_with(&options);
    let mut echo = work("echo", Some("k"), "echo");
    echo["subject"] = "a subject".into();
    echo["tenant"] = "t9".into();
    let mut asks = work("asks", Some("k"), "reply");
    asks["replyto"] = "answers".into();
    host.http.publish(&[
        work("count", Some("k"), "count"),
        echo,
        asks,
        work("unasked", Some("k"), "reply"),
        work("stores", Some("k"), "stores"),
        work("retry", Some("r"), "retry 3"),
        work("request", None, "request"),
        work("disconnect", None, "disconnect"),
        work("log", None, "log"),
        work("elsewhere", None, "elsewhere other"),
    ]);
    host.wait_rest("messaging", 0);
    assert_eq!(host.plugin("messaging")["dead_letters"], 0);

    let counted = sent(&host, "counted");
    assert_eq!(counted.len(), 1, "an attempt that failed has sent: {counted:?}");
    assert_eq!((&counted[0]["data"], &counted[0]["partitionkey"]), (&json!("1"), &json!("k")));
    assert_eq!(counted[0]["tenant"], "t1");
    assert_eq!(counted[0]["metadata"], r#"[["X-Sent-By","some component"]]"#);
    assert_eq!(host.state("messaging", "k", "counts/seen").as_deref(), Some("1"));

    let echoed = &sent(&host, "echoed")[0];
    assert_eq!((&echoed["data"], &echoed["partitionkey"]), (&json!("echo"), &json!("k")));
    assert_eq!((&echoed["subject"], &echoed["tenant"]), (&json!("a subject"), &json!("t9")));
    assert_eq!((&echoed["causationid"], &echoed["metadata"]), (&json!("echo"), &Value::Null));
    let answers = sent(&host, "answers");
    assert_eq!(answers.len(), 1, "{answers:?}");

    let first = "true 2 [true, false, true] 0 true true true true";
    let second = "true -5 7 true [\"number\", \"text\"] [\"text\"]";
    assert_eq!(only(&host, "tried"), format!("{first} {second}"));
    assert_eq!(host.state("messaging", "k", "many/number").as_deref(), Some("8"));
    assert_eq!(only(&host, "retried"), "3");
    let failed: Vec<String> = sent(&host, "failed").iter().map(|e| e["data"].to_string()).collect();
    // Without a key they have no order.
    for words in ["`request` cannot be had here", "Error::Connection("] {
        assert_eq!(failed.iter().filter(|failed| failed.contains(words)).count(), 1, "{failed:?}");
    }
    wait_until("it is on the other bus", COUNTED_MAX, || {
        let moved = host.http.events("type=moved&bus=other");
        if moved.len() == 1 { Ok(()) } else { Err(moved) }
    });

    let logs = host.cli(&["plugins", "logs", "messaging"]).run().expect_done();
    assert!(logs.contains("greeter: good day of 1"), "{logs}");

    let diff = host.cli(&["plugins", "diff", "messaging", "--output", "json"]).run().json();
    assert_eq!((&diff["different"], &diff["not_replayable"]), (&json!(0), &json!(0)), "{diff}");
    assert!(diff["equal"].as_u64() >= Some(9), "{diff}");
    host.stop();
}

#[test]
fn what_it_asks_of_the_host_is_bounded_as_for_everybody() {
    let place = Place::new();
    put(&place);
    let host = place.start();
    host.http.publish(&[
        work("fits", Some("a"), "hold 20"),
        work("large", Some("b"), "hold 100"),
        work("unkeyed", None, "count"),
        work("after", Some("b"), "hold 1"),
    ]);
    host.wait_rest("messaging", 0);
    let held: Vec<Value> = sent(&host, "held").iter().map(|event| event["data"].clone()).collect();
    assert_eq!(held.len(), 2, "{held:?}");
    let letters = host.dead_letters("messaging");
    let outcome = |id: &str| {
        let letter = letters.iter().find(|letter| letter["event_id"] == id);
        letter.map_or(Value::Null, |letter| letter["outcome"].clone())
    };
    assert_eq!((outcome("large"), outcome("unkeyed")), (json!("memory"), json!("retry")));
    assert!(letters.iter().any(|letter| letter.to_string().contains("the event has no key")));
    let module = place.plugins().join("messaging.wasm");
    let checked = Cli::new(&["check"]).arg(&module).run().expect_done();
    for words in ["`wasi:messaging`", "wasi:keyvalue/store@0.2.0-draft2", "would be loaded"] {
        assert!(checked.contains(words), "no `{words}` in:\n{checked}");
    }
    host.stop();
}

#[test]
fn a_counter_in_a_bucket_is_exact_across_kills() {
    let mut rng = seed("a_counter_in_a_bucket_is_exact_across_kills");
    let place = Place::new();
    put(&place);
    let mut published = 0;
    for _ in 0..KILLS {
        let host = place.start();
        let events: Vec<Value> = (published..published + EVENTS_A_KILL)
            .map(|n| work(&format!("e-{n}"), Some(&format!("k-{}", n % KEYS)), "count"))
            .collect();
        host.http.publish(&events);
        published += EVENTS_A_KILL;
        let enough = rng.u64(1..EVENTS_A_KILL as u64 / 2);
        wait_until("some are counted", COUNTED_MAX, || {
            let count = host.plugin("messaging")["deliveries"]["ok"].as_u64().unwrap_or(0);
            if count >= enough { Ok(()) } else { Err(count) }
        });
        host.kill();
    }
    let host = place.start();
    host.wait_rest("messaging", 0);
    for key in 0..KEYS {
        let expected = (0..published).filter(|n| n % KEYS == key).count();
        let seen = host.state("messaging", &format!("k-{key}"), "counts/seen");
        assert_eq!(seen, Some(expected.to_string()), "k-{key}");
        let query = format!("type=counted&key=k-{key}");
        let told: Vec<String> = (host.http.events(&query).iter())
            .map(|event| event["data"].as_str().unwrap().to_owned())
            .collect();
        let all: Vec<String> = (1..=expected).map(|n| n.to_string()).collect();
        assert_eq!(told, all, "each sum once, in order");
    }
    let diff = host.cli(&["plugins", "diff", "messaging", "--output", "json"]).run().json();
    assert_eq!((&diff["different"], &diff["not_replayable"]), (&json!(0), &json!(0)), "{diff}");
    assert_eq!(diff["equal"], published, "{diff}");
    host.stop();
}
