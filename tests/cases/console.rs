//! The web console in a real browser. Left out where there is none.

use std::time::Duration;

use serde_json::{Value, json};

use super::abuse::with_tokens;
use crate::harness::{Browser, Host, Place, Sources, event, put, wait_until};

/// Longest wait for what a click leads to.
const DONE_MAX: Duration = Duration::from_secs(60);
/// Markup in every place that a publisher chooses, and a number that no double holds.
const KEY: &str = "<img src=x onerror=document.title='run'>";
const DATA: &str = r#"{"sku":"<script>document.title='run'</script>","big":12345678901234567890}"#;

/// A host whose saga has one order on its way and one that it could not take.
fn shop(place: &Place) -> Host {
    put(Sources::ORDER_SAGA, &place.plugins());
    let host = place.start();
    let order = json!({ "sku": "lamp", "quantity": 1, "amount": 40 });
    host.http.publish(&[event("order.created", "good", Some("o-1"), order)]);
    let body = format!(
        r#"{{"specversion":"1.0","id":"bad","source":"/shop","type":"order.created","partitionkey":{},"data":{DATA}}}"#,
        Value::from(KEY)
    );
    let sent = host.http.post("/v1/events", "application/cloudevents+json", body.as_bytes());
    assert_eq!(sent.status, 200);
    wait_until("a dead letter", DONE_MAX, || match host.dead_letters("order-saga").len() {
        1 => Ok(()),
        other => Err(other),
    });
    host
}

fn wait_state(host: &Host, state: &str) {
    wait_until(&format!("the plugin is {state}"), DONE_MAX, || {
        let plugin = host.plugin("order-saga");
        if plugin["state"] == state { Ok(()) } else { Err(plugin) }
    });
}

#[test]
fn it_shows_events_and_dead_letters_as_they_were_stored() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let host = shop(&place);
    browser.open(&format!("{}/", host.url()));
    browser.wait_text("order-saga");
    browser.wait_text("Takes an order through stock and payment");
    browser.click("Dead letters");
    browser.wait_text("missing field `quantity`");
    browser.wait_text(KEY);
    browser.click("1");
    browser.wait_text("\"big\": 12345678901234567890");
    browser.wait_text("\"sku\": \"<script>document.title='run'</script>\"");
    browser.click("Discard");
    browser.fill("reason", "no such lamp");
    browser.click("Discard");
    browser.wait_text("1 discarded");
    assert_eq!(host.dead_letters("order-saga").len(), 0);

    browser.click("Events");
    browser.wait_text(DATA);
    browser.click(KEY);
    wait_until("only the events of the key", DONE_MAX, || {
        let text = browser.text();
        if text.contains(DATA) && !text.contains("o-1") { Ok(()) } else { Err(text) }
    });
    browser.open(&format!("{}/#/event?position=1", host.url()));
    browser.wait_text("Causes and consequences");
    browser.wait_text("payment.processed o-1 by order-saga");
    assert_eq!(browser.run("return document.querySelectorAll('img, main script').length", &[]), 0);
    assert!(!browser.text().contains("run - tidegate"));
    assert_eq!(browser.errors(), [""; 0]);
    host.stop();
}

#[test]
fn it_publishes_follows_and_operates() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let host = shop(&place);
    browser.open(&format!("{}/#/publish", host.url()));
    browser.wait_text("Publish");
    browser.fill("type", "order.seen");
    browser.fill("key", "o-7");
    browser.fill("data", "{ \"big\": 12345678901234567890 }");
    browser.run("document.querySelector('main form').requestSubmit()", &[]);
    browser.wait_text("Durable as #");
    let stored = String::from_utf8(host.http.get("/v1/events?type=order.seen").body).unwrap();
    assert!(stored.contains("{ \"big\": 12345678901234567890 }"), "{stored}");

    browser.open(&format!("{}/#/events?type=order.seen&follow=1", host.url()));
    browser.wait_text("New events are shown as they come.");
    // Whether it follows by now is not to be seen: one of them comes after that.
    let mut number = 0;
    wait_until("an event that is new", DONE_MAX, || {
        number += 1;
        let seen = event("order.seen", &format!("seen-{number}"), Some("o-8"), json!({}));
        host.http.publish(&[seen]);
        let text = browser.text();
        if text.contains("o-8") { Ok(()) } else { Err(text) }
    });

    browser.open(&format!("{}/#/plugin?name=order-saga&key=o-1", host.url()));
    browser.wait_text("\"paid\"");
    browser.click("Pause");
    browser.fill("reason", "stocktaking");
    browser.click("Pause");
    wait_state(&host, "paused");
    browser.wait_text("stocktaking");
    browser.click("Resume");
    wait_state(&host, "live");
    browser.click("Hold");
    browser.click("Hold");
    browser.wait_text("held");
    assert_eq!(host.plugin("order-saga")["held_keys"], 1);
    browser.click("Release");
    wait_until("no key is held", DONE_MAX, || {
        let plugin = host.plugin("order-saga");
        if plugin["held_keys"] == 0 { Ok(()) } else { Err(plugin) }
    });
    assert_eq!(browser.errors(), [""; 0]);
    host.stop();
}

/// Its key was once not shown, and what was published like it had none.
#[test]
fn an_event_that_is_ordered_by_its_subject_is_shown_and_published_with_its_key() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let host = place.start();
    browser.open(&format!("{}/#/events?type=order.seen&follow=1", host.url()));
    browser.wait_text("New events are shown as they come.");
    // As a file of another system has it: lines that end with CR.
    let mut number = 0;
    wait_until("an event that is new", DONE_MAX, || {
        number += 1;
        let body = format!(
            "{{\"specversion\":\"1.0\",\"id\":\"{number}\",\"source\":\"/shop\",\"type\":\"order.seen\",\
             \"subject\":\"cust-7\",\"schemaversion\":\"2\",\"data\":{{\r\n\"sku\":\r\"lamp\"}}}}"
        );
        let sent = host.http.post("/v1/events", "application/cloudevents+json", body.as_bytes());
        assert_eq!(sent.status, 200);
        let text = browser.text();
        if text.contains("cust-7") && text.contains("lamp") { Ok(()) } else { Err(text) }
    });
    assert!(!browser.text().contains("the host does not answer"));

    browser.open(&format!("{}/#/event?position=1", host.url()));
    browser.wait_text("cust-7");
    browser.click("Publish one like it");
    browser.wait_text("Schema version");
    browser.run("document.querySelector('main form').requestSubmit()", &[]);
    browser.wait_text("Durable as #");
    let stored = host.http.get("/v1/events?source=/console").json();
    let event = &stored[0];
    assert_eq!(
        (&event["partitionkey"], &event["tidegatesequence"]),
        (&json!("cust-7"), &json!((number + 1).to_string()))
    );
    assert_eq!(event["schemaversion"].to_string().trim_matches('"'), "2");
    assert_eq!(browser.errors(), [""; 0]);
    host.stop();
}

#[test]
fn it_asks_for_a_token_and_does_what_its_roles_allow() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    put(Sources::ORDER_SAGA, &place.plugins());
    let host = with_tokens(&place);
    browser.open(&format!("{}/#/plugin?name=order-saga", host.url()));
    browser.wait_text("This host has tokens");
    browser.fill("token", "guessed");
    browser.click("Sign in");
    browser.wait_text("the host does not know this token");
    browser.fill("token", "read");
    browser.click("Sign in");
    browser.wait_text("Takes an order through stock and payment");
    browser.click("Resume");
    browser.wait_text("token `r` does not have the role `operate`");
    browser.click("Sign out");
    browser.wait_text("This host has tokens");
    browser.fill("token", "operate");
    browser.click("Sign in");
    browser.wait_text("Takes an order through stock and payment");
    browser.click("Pause");
    browser.click("Pause");
    browser.wait_text("paused");
    host.stop();
}

/// The text of JSON is kept in parts as it is: what is taken out of it, and how it is laid out.
#[test]
fn it_reads_json_as_text() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let host = place.start();
    browser.open(&format!("{}/", host.url()));
    let call = |name: &str, text: &str, more: &str| {
        let body = "return import('./console/json.js').then((all) => all[arguments[0]](arguments[1], arguments[2]) ?? null)";
        browser.run(body, &[name, text, more])
    };
    for (text, name, found) in [
        (
            r#"{"a":1,"data":{"data":2,"x":[1,{}]},"b":3}"#,
            "data",
            json!(r#"{"data":2,"x":[1,{}]}"#),
        ),
        (r#"{ "data" : 1.50 }"#, "data", json!("1.50")),
        (r#"{"a":{"data":1}}"#, "data", Value::Null),
        (r#"{"a":"\"data\":1,","data":"}{,\\"}"#, "data", json!(r#""}{,\\""#)),
        (r#"{"d\u0061ta":[]}"#, "data", json!("[]")),
        ("{}", "data", Value::Null),
    ] {
        assert_eq!(call("member", text, name), found, "{text}");
    }
    for (text, found) in [
        ("[]", json!([])),
        (r#"[{"a":[1,2]}, 3 ,"x,]"]"#, json!([r#"{"a":[1,2]}"#, "3", r#""x,]""#])),
    ] {
        assert_eq!(call("elements", text, ""), found, "{text}");
    }
    for (text, found) in [
        (r#"{"a":{},"b":[1,-0.0]}"#, "{\n  \"a\": {},\n  \"b\": [\n    1,\n    -0.0\n  ]\n}"),
        ("[[]]", "[\n  []\n]"),
        (r#""a: {,}""#, r#""a: {,}""#),
    ] {
        assert_eq!(call("reindent", text, ""), found, "{text}");
    }
    host.stop();
}
