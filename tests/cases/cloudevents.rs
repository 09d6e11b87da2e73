//! CloudEvents 1.0 over HTTP in all three modes, with the payloads that GitHub sends.

use serde_json::{Value, json};

use crate::harness::{Answer, Http, Place, event, read_ndjson, root};

const STRUCTURED: &str = "application/cloudevents+json";

/// A subset, unless `TIDEGATE_WEBHOOKS` names the whole file.
fn webhooks() -> Vec<Value> {
    let whole = std::env::var_os("TIDEGATE_WEBHOOKS").map(std::path::PathBuf::from);
    read_ndjson(&whole.unwrap_or_else(|| root().join("tests/data/github-webhooks.ndjson")))
}

fn structured(http: &Http, event: &Value) -> Answer {
    http.post("/v1/events", STRUCTURED, event.to_string().as_bytes())
}

/// Attributes as headers, the data as the body.
fn binary(http: &Http, event: &Value) -> Answer {
    let attributes = event.as_object().unwrap();
    let headers: Vec<(String, &str)> = attributes
        .iter()
        .filter(|(name, _)| !matches!(&***name, "data" | "datacontenttype"))
        .map(|(name, value)| (format!("ce-{name}"), value.as_str().unwrap()))
        .chain([("content-type".to_owned(), event["datacontenttype"].as_str().unwrap())])
        .collect();
    let headers: Vec<(&str, &str)> =
        headers.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let body = event["data"].to_string();
    http.send("POST", "/v1/events", &headers, body.as_bytes()).unwrap()
}

#[test]
fn webhooks_are_the_same_events_in_every_mode() {
    let events = webhooks();
    let place = Place::new();
    let host = place.start();
    // Every third event comes first in each mode; the other two modes are repetitions of it.
    for (index, event) in events.iter().enumerate() {
        let modes: [fn(&Http, &Value) -> Answer; 2] = [structured, binary];
        let first = modes[index % 2](&host.http, event).expect_ok();
        assert_eq!(first[0]["duplicate"], false, "{first}");
        assert_eq!(first[0]["id"], event["id"]);
        let second = modes[(index + 1) % 2](&host.http, event).expect_ok();
        assert_eq!(second[0]["duplicate"], true, "{second}");
        assert_eq!(second[0]["position"], first[0]["position"]);
    }
    for chunk in events.chunks(40) {
        let answers = host.http.publish(chunk);
        assert!(answers.iter().all(|answer| answer["duplicate"] == true), "{answers:?}");
    }

    let stored = host.http.events("");
    assert_eq!(stored.len(), events.len());
    for (stored, sent) in stored.iter().zip(&events) {
        for (name, value) in sent.as_object().unwrap() {
            assert_eq!(stored[name], *value, "`{name}` of {}", sent["id"]);
        }
        let position = stored["tidegateposition"].as_str().unwrap();
        let binary = host.http.get(&format!("/v1/events/{position}?mode=binary"));
        assert_eq!(binary.header("ce-type"), sent["type"].as_str());
        assert_eq!(binary.header("content-type"), sent["datacontenttype"].as_str());
        assert_eq!(binary.json(), sent["data"]);
    }
    host.stop();
}

/// The JSON format of CloudEvents has it that both say the same.
#[test]
fn an_event_that_says_no_type_is_the_same_as_one_of_json() {
    let place = Place::new();
    let host = place.start();
    let modes: [fn(&Http, &Value) -> Answer; 2] = [structured, binary];
    for (first, second, position) in [(0, 1, 1), (1, 0, 2)] {
        let mut event = event("a.b", &format!("e-{first}"), Some("k"), json!({ "n": 1 }));
        let attributes = event.as_object_mut().unwrap();
        let mut send = |mode: usize| {
            // Binary mode has to say it.
            attributes.remove("datacontenttype");
            if mode == 1 {
                attributes.insert("datacontenttype".to_owned(), json!("application/json"));
            }
            modes[mode](&host.http, &Value::Object(attributes.clone())).expect_ok()
        };
        assert_eq!(send(first)[0]["duplicate"], false);
        assert_eq!(send(second)[0]["duplicate"], true);
        let binary = host.http.get(&format!("/v1/events/{position}?mode=binary"));
        assert_eq!(binary.header("content-type"), Some("application/json"));
    }
    assert!(host.http.get("/v1/events/1").expect_ok().get("datacontenttype").is_none(), "as sent");
    host.stop();
}

#[test]
fn text_bytes_and_strange_attributes_survive_every_mode() {
    let place = Place::new();
    let host = place.start();
    let headers = [
        ("ce-specversion", "1.0"),
        ("ce-id", "b-1"),
        ("ce-source", "/caf%C3%A9"),
        ("ce-type", "photo.taken"),
        ("ce-subject", "k%20%E2%82%AC"),
        ("ce-traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("content-type", "image/png"),
    ];
    let bytes: Vec<u8> = (0..=255).collect();
    host.http.send("POST", "/v1/events", &headers, &bytes).unwrap().expect_ok();
    let event = host.http.get("/v1/events/1").expect_ok();
    assert_eq!((&event["source"], &event["subject"]), (&json!("/café"), &json!("k €")));
    assert!(event["data_base64"].is_string(), "{event}");
    // What came out, in again: the same event.
    let mut again = event.clone();
    let attributes = again.as_object_mut().unwrap();
    attributes.retain(|name, _| !name.starts_with("tidegate"));
    let answer = structured(&host.http, &again).expect_ok();
    assert_eq!(answer[0]["duplicate"], true, "{answer}");
    let binary = host.http.get("/v1/events/1?mode=binary");
    assert_eq!(binary.body, bytes);
    host.stop();
}
