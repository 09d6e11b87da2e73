//! A key that fails holds back only itself.

use serde_json::{Value, json};

use crate::harness::{Place, bare_guest, event};

const OTHERS: usize = 2000;

/// Waits without end, as far as a test can tell.
const PATIENT: &str = r#"
[retry]
backoff = "20ms"
backoff-max = "100ms"
give-up-after = "1h"
"#;
/// Gives up at the next attempt.
const IMPATIENT: &str = r#"
[retry]
backoff = "20ms"
backoff-max = "100ms"
give-up-after = "100ms"
"#;

fn text(kind: &str, id: &str, key: &str, data: &str) -> Value {
    let mut event = event(kind, id, Some(key), json!(data));
    event["datacontenttype"] = "text/plain".into();
    event
}

#[test]
fn a_key_that_retries_forever_holds_back_only_itself_until_somebody_decides() {
    let place = Place::new();
    let manifest = place.plugins().join("bare.toml");
    std::fs::write(place.plugins().join("bare.wasm"), bare_guest()).unwrap();
    std::fs::write(&manifest, PATIENT).unwrap();
    let host = place.start();

    let mut events = vec![text("a.b", "poison", "sick", "retry")];
    for n in 0..OTHERS {
        let (id, key) = (format!("e-{n}"), format!("k-{}", n % 1000));
        events.push(text("a.b", &id, &key, "fine"));
        if n % 100 == 0 {
            events.push(text("a.b", &format!("behind-{n}"), "sick", "fine"));
        }
    }
    for chunk in events.chunks(500) {
        host.http.publish(chunk);
    }
    // Everybody else is through, while the one still waits and its later events behind it.
    host.wait_rest("bare", 1);
    let emitted = host.http.events("type=bare.seen");
    assert_eq!(emitted.len(), OTHERS);
    assert!(emitted.iter().all(|event| event["partitionkey"] != "sick"));
    let retries = [("plugin", "bare"), ("outcome", "retry")];
    assert!(host.metric("tidegate_deliveries_total", &retries) > 0);
    assert!(host.dead_letters("bare").is_empty());

    std::fs::write(&manifest, IMPATIENT).unwrap();
    let parked = host.wait_plugin("bare", "parked", |view| view["parked_keys"] == 1);
    assert_eq!(parked["dead_letters"], 1);
    let letters = host.dead_letters("bare");
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!(letters[0]["outcome"], "retry");
    assert_eq!(letters[0]["event_id"], "poison");
    assert_eq!(letters[0]["parked"], true);
    assert!(letters[0]["attempts"].as_u64().unwrap() > 1);
    // The effects of what was given up are nowhere, and nothing overtakes it.
    host.http.publish(&[text("a.b", "late", "fit", "fine")]);
    host.wait_rest("bare", 1);
    assert!(host.http.events("type=bare.seen&key=sick").is_empty());
    let key = host.cli(&["--output", "json", "keys", "show", "bare", "sick"]).run().json();
    assert_eq!((&key["state"], &key["deferred"]), (&json!("parked"), &json!(20)), "{key}");

    // Let go on without it, the events behind it come in order.
    host.cli(&["keys", "release", "bare", "sick"]).run().expect_done();
    host.wait_rest("bare", 0);
    let behind = host.http.events("type=bare.seen&key=sick");
    let ids: Vec<_> = behind.iter().map(|event| event["data"].as_str().unwrap()).collect();
    let expected: Vec<_> = (0..OTHERS).step_by(100).map(|n| format!("behind-{n}")).collect();
    assert_eq!(ids, expected);
    let id = letters[0]["id"].as_str().unwrap();
    let shown = host.cli(&["dead-letters", "show", id]).run().expect_done();
    assert!(shown.contains("poison") && shown.contains("asked to"), "{shown}");
    host.stop();
}

#[test]
fn a_dead_letter_and_a_pending_retry_outlive_a_kill() {
    let place = Place::new();
    std::fs::write(place.plugins().join("bare.wasm"), bare_guest()).unwrap();
    std::fs::write(place.plugins().join("bare.toml"), PATIENT).unwrap();
    let host = place.start();
    host.http.publish(&[
        text("a.b", "1", "sick", "retry"),
        text("a.b", "2", "sick", "fine"),
        text("a.b", "3", "gone", "reject"),
        text("a.b", "4", "gone", "fine"),
    ]);
    host.wait_rest("bare", 1);
    let before = host.dead_letters("bare");
    assert_eq!(before.len(), 1);
    assert_eq!(before[0]["outcome"], "reject");
    host.kill();

    let host = place.start();
    host.wait_rest("bare", 1);
    assert_eq!(host.dead_letters("bare"), before);
    assert_eq!(host.state("bare", "sick", "seen"), None, "nothing overtook what waits");
    assert_eq!(host.state("bare", "gone", "seen").as_deref(), Some("1"));
    host.stop();
}
