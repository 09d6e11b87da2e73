//! What a plugin may do over time and keep, and what people see of it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Host, Place, bare_guest, event, wait_until};

/// Longest wait for what ended to be removed.
const REMOVED_MAX: Duration = Duration::from_secs(60);

fn text(id: &str, key: &str) -> Value {
    let mut event = event("a.b", id, Some(key), json!("fine"));
    event["datacontenttype"] = "text/plain".into();
    event
}

fn place(manifest: &str) -> Place {
    let place = Place::new();
    std::fs::write(place.plugins().join("bare.wasm"), bare_guest()).unwrap();
    std::fs::write(place.plugins().join("bare.toml"), manifest).unwrap();
    place
}

/// Ids of the inputs of a key, in the order in which they were handled.
fn handled(emitted: &[Value], key: &str) -> Vec<String> {
    let of_key = emitted.iter().filter(|event| event["partitionkey"] == key);
    of_key.map(|event| event["data"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_throttled_prefix_waits_visibly_and_in_order_through_a_kill_while_others_go_on() {
    let place = place("[[limits.prefixes]]\nprefix = \"eu/\"\nrate = 5\n");
    let host = place.start();
    let mut events = Vec::new();
    for n in 0..100 {
        events.push(text(&format!("eu-{n}"), &format!("eu/{}", n % 5)));
        events.extend((0..5).map(|m| text(&format!("us-{n}-{m}"), &format!("us/{m}"))));
    }
    host.http.publish(&events);
    // All others are through, while most of these are still to come.
    let view = host.wait_plugin("bare", "others are through", |view| {
        view["deliveries"]["ok"].as_u64().unwrap_or(0) >= 500
            && view["in_flight"].as_u64().unwrap_or(99) <= 5
            && view["throttled"][0]["limit"] == "limits.prefixes.rate"
    });
    assert_eq!(view["throttled"][0]["prefix"], "eu/", "{view}");
    assert!(view["deferred_events"].as_u64().unwrap() > 0, "{view}");
    assert!(view["waiting"].as_u64().unwrap() <= 5, "{view}");
    let emitted = host.http.events("type=bare.seen");
    let slow = emitted.iter().filter(|e| e["partitionkey"].as_str().unwrap().starts_with("eu/"));
    assert!(slow.count() < 95);
    let reason = "`limits.prefixes.rate` is reached by keys with prefix `eu/`";
    // Between two throttled deliveries a key has its turn, and no reason to wait, nor has the plugin.
    wait_until("a key waits for its rate", Duration::from_secs(30), || {
        let key = host.cli(&["--output", "json", "keys", "show", "bare", "eu/1"]).run().json();
        let waits = key["state"] == "waiting" && key["reason"] == reason;
        if waits { Ok(()) } else { Err(key) }
    });
    wait_until("the plugin says that it is throttled", Duration::from_secs(30), || {
        let shown = host.cli(&["plugins", "show", "bare"]).run().expect_done();
        if shown.contains("by limits.prefixes.rate of eu/") { Ok(()) } else { Err(shown) }
    });
    host.kill();

    // Without the limit the rest comes at once.
    std::fs::write(place.plugins().join("bare.toml"), "").unwrap();
    let host = place.start();
    host.wait_rest("bare", 0);
    let emitted = host.http.events("type=bare.seen");
    assert_eq!(emitted.len(), 600);
    for key in 0..5 {
        let expected: Vec<_> =
            (0..100).filter(|n| n % 5 == key).map(|n| format!("eu-{n}")).collect();
        assert_eq!(handled(&emitted, &format!("eu/{key}")), expected);
    }
    host.stop();
}

#[test]
fn fuel_that_was_used_is_waited_for() {
    let place = place("[limits]\nfuel-per-second = 1\n");
    let host = place.start();
    // Of one key: those of two could begin together.
    host.http.publish(&[text("1", "a"), text("2", "a")]);
    // A worker tells its counts once it waits, a moment after the gate has closed behind it.
    let view = host.wait_plugin("bare", "the gate is closed behind one", |view| {
        view["throttled"][0]["limit"] == "limits.fuel-per-second" && view["deliveries"]["ok"] == 1
    });
    assert_eq!(view["queued"], json!(1), "{view}");
    // A limit that is lifted lets what waits go on.
    std::fs::write(place.plugins().join("bare.toml"), "").unwrap();
    host.wait_rest("bare", 0);
    host.stop();
}

#[test]
fn state_stays_within_its_limits_and_is_counted_alike_after_a_kill() {
    let place = place("[limits]\nkeys = 2\n[retry]\non-reject = \"continue\"\n");
    let host = place.start();
    host.http.publish(&[text("1", "a"), text("2", "b")]);
    host.wait_rest("bare", 0);
    host.http.publish(&[text("3", "c"), text("4", "a")]);
    let view = host.wait_rest("bare", 0);
    assert_eq!((&view["state_keys"], &view["state_bytes"]), (&json!(2), &json!(10)), "{view}");
    let letters = host.dead_letters("bare");
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert!(letters[0]["reason"].as_str().unwrap().contains("limits.keys"), "{letters:?}");
    assert_eq!(host.state("bare", "c", "seen"), None);
    assert_eq!(host.state("bare", "a", "seen").as_deref(), Some("2"));
    assert_eq!(host.metric("tidegate_plugin_state_keys", &[("plugin", "bare")]), 2);
    assert_eq!(host.metric("tidegate_plugin_state_bytes", &[("plugin", "bare")]), 10);
    // Whether there was room for the third key is not in the record, nor what another limit had done.
    let diff = || host.cli(&["plugins", "diff", "bare", "--output", "json"]).run().json();
    let counts = |found: &Value| {
        ["equal", "different", "not_replayable"].map(|name| found[name].as_u64().unwrap())
    };
    let found = diff();
    assert_eq!(counts(&found), [3, 0, 1], "{found}");
    assert!(found["obstacles"].to_string().contains("it was refused room"), "{found}");
    std::fs::write(place.plugins().join("bare.toml"), "").unwrap();
    host.wait_plugin("bare", "has its new manifest", |view| {
        view["manifest"].as_str().is_some_and(|text| !text.contains("keys = 2"))
    });
    assert_eq!(counts(&diff()), [3, 0, 1], "{}", diff());
    host.kill();

    let host = place.start();
    let view = host.wait_rest("bare", 0);
    assert_eq!((&view["state_keys"], &view["state_bytes"]), (&json!(2), &json!(10)), "{view}");
    host.stop();
}

/// Keys and bytes of the state of a plugin, as the metrics and `plugins show` say alike.
fn kept(host: &Host, plugin: &str) -> (u64, u64) {
    let metric = |name: &str| host.metric(name, &[("plugin", plugin)]);
    (metric("tidegate_plugin_state_keys"), metric("tidegate_plugin_state_bytes"))
}

#[test]
fn a_value_that_ended_is_gone_and_counts_no_more_also_after_a_kill() {
    let place = place("");
    std::fs::write(place.plugins().join("brief.wasm"), bare_guest()).unwrap();
    std::fs::write(place.plugins().join("brief.toml"), "[config]\nttl-ms = \"1\"\n").unwrap();
    let host = place.start();
    host.http.publish(&[text("1", "a"), text("2", "a"), text("3", "b")]);
    host.wait_rest("brief", 0);
    host.wait_rest("bare", 0);
    // Log time goes on with what is read; an event without a key adds nothing.
    let mut n = 0;
    wait_until("what ended is removed", REMOVED_MAX, || {
        n += 1;
        let passing = event("a.b", &format!("passing-{n}"), None, json!("fine"));
        host.http.publish(&[passing]);
        let kept = kept(&host, "brief");
        if kept == (0, 0) { Ok(()) } else { Err(kept) }
    });
    let view = host.plugin("brief");
    assert_eq!((&view["state_keys"], &view["dead_letters"]), (&json!(0), &json!(0)), "{view}");
    assert_eq!(host.state("brief", "a", "seen"), None);
    assert_eq!(kept(&host, "bare"), (2, 10), "what has no end stays");
    host.kill();

    let host = place.start();
    host.wait_rest("brief", 0);
    assert_eq!((kept(&host, "brief"), kept(&host, "bare")), ((0, 0), (2, 10)));
    assert_eq!(host.state("brief", "b", "seen"), None);
    assert_eq!(host.state("bare", "a", "seen").as_deref(), Some("2"));
    host.stop();
}
