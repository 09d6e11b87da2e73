//! What bad input gets: every code that a client of a running host can bring about.

use serde_json::{Value, json};

use crate::harness::{Cli, Host, HostOptions, Place, event};

const STRUCTURED: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";

fn valid() -> Value {
    event("a.b", "1", Some("k"), json!({ "n": 1 }))
}

fn with(name: &str, value: Value) -> String {
    let mut event = valid();
    event[name] = value;
    event.to_string()
}

fn without(name: &str) -> String {
    let mut event = valid();
    event.as_object_mut().unwrap().remove(name);
    event.to_string()
}

fn check(host: &Host, content_type: &str, body: &str, status: u16, code: &str) -> Value {
    let answer = host.http.post("/v1/events", content_type, body.as_bytes());
    let shown: String = body.chars().take(200).collect();
    assert_eq!((answer.status, answer.code().as_str()), (status, code), "{shown}");
    let error = answer.json()["error"].clone();
    assert!(error["message"].is_string() && error["request_id"].is_string(), "{error}");
    error
}

#[test]
fn bad_events_get_the_documented_codes_and_leave_nothing() {
    let place = Place::new();
    let host = place.start();
    let bad = check(&host, STRUCTURED, "{\"specversion\":\n  nonsense}", 400, "invalid_json");
    assert_eq!((&bad["line"], &bad["column"].is_u64()), (&json!(2), &true), "{bad}");
    for name in ["id", "source", "type", "specversion"] {
        let error = check(&host, STRUCTURED, &without(name), 422, "invalid_field");
        assert_eq!(error["field"], name, "{error}");
    }
    for (name, value) in [
        ("Upper", json!("x")),
        ("with-dash", json!("x")),
        ("a2345678901234567890z", json!("x")),
        ("type", json!(7)),
        ("id", json!("")),
        ("time", json!("yesterday")),
        ("specversion", json!("0.3")),
        ("type", json!("tidegate.forged")),
        ("source", json!("/tidegate/main/somebody")),
        ("expectedsequence", json!("many")),
    ] {
        check(&host, STRUCTURED, &with(name, value), 422, "invalid_field");
    }
    for key in ["", "tab\there", &"k".repeat(1025)] {
        check(&host, STRUCTURED, &with("partitionkey", json!(key)), 422, "invalid_key");
    }
    let large = with("data", json!("x".repeat(1024 * 1024 + 1)));
    let error = check(&host, STRUCTURED, &large, 413, "too_large");
    assert!(error["limit"].is_u64() && error["actual"].is_u64(), "{error}");
    let body = "x".repeat(8 * 1024 * 1024 + 1);
    check(&host, STRUCTURED, &body, 413, "too_large");
    check(&host, "text/html", &valid().to_string(), 415, "unsupported_media_type");
    let batch = format!("[{},{}]", valid(), without("id"));
    let error = check(&host, BATCH, &batch, 422, "invalid_field");
    assert_eq!(error["index"], 1, "{error}");

    let long = format!("/v1/events?type={}", "x".repeat(60_000));
    assert_eq!(host.http.get(&long).status, 431);
    for path in ["/v1/plugins/none", "/v1/events/1", "/v1/dead-letters/1", "/v1/nothing"] {
        let answer = host.http.get(path);
        assert_eq!((answer.status, answer.code().as_str()), (404, "not_found"), "{path}");
    }
    assert!(host.http.events("").is_empty(), "nothing of all this was taken");
    host.stop();
}

#[test]
fn identities_and_expected_sequences_are_conditions() {
    let place = Place::new();
    let host = place.start();
    let first = host.http.publish(&[valid()]);
    let again = host.http.publish(&[valid()]);
    assert_eq!(again[0]["duplicate"], true);
    assert_eq!(again[0]["position"], first[0]["position"]);
    // By value: other white space and another order are the same content.
    let spaced = valid().to_string().replace("{\"n\":1}", "{ \"n\" : 1 }");
    let answer = host.http.post("/v1/events", STRUCTURED, spaced.as_bytes()).expect_ok();
    assert_eq!(answer[0]["duplicate"], true);
    let error = check(&host, STRUCTURED, &with("data", json!({ "n": 2 })), 409, "id_conflict");
    assert_eq!(error["position"], first[0]["position"], "{error}");

    let expecting = |id: &str, expected: u64| {
        let mut event = event("a.b", id, Some("k"), json!(1));
        event["expectedsequence"] = expected.to_string().into();
        event.to_string()
    };
    let error = check(&host, STRUCTURED, &expecting("2", 0), 409, "sequence_conflict");
    assert_eq!((&error["expected"], &error["actual"]), (&json!(0), &json!(1)), "{error}");
    let taken = host.http.post("/v1/events", STRUCTURED, expecting("2", 1).as_bytes()).expect_ok();
    assert_eq!(taken[0]["sequence"], 2);
    // Duplicate first: the same request again is no conflict.
    let again = host.http.post("/v1/events", STRUCTURED, expecting("2", 1).as_bytes()).expect_ok();
    assert_eq!((&again[0]["duplicate"], &again[0]["sequence"]), (&json!(true), &json!(2)));
    // All or nothing: one conflict, and nothing of the batch is there.
    let batch = format!("[{},{}]", event("a.b", "3", Some("new"), json!(1)), expecting("4", 9));
    let error = check(&host, BATCH, &batch, 409, "sequence_conflict");
    assert_eq!(error["index"], 1, "{error}");
    assert!(host.http.events("key=new").is_empty());
    assert_eq!(host.http.events("").len(), 2);
    let words = ["publish", "a.b", "--key", "k", "--expected-sequence", "7", "--data", "1"];
    let refused = host.cli(&words).run().expect_failed();
    assert!(refused.contains('7') && refused.contains('2'), "{refused}");
    host.stop();
}

#[test]
fn a_configuration_that_makes_no_sense_stops_the_start_with_the_nearest_name() {
    let place = Place::new();
    for (text, says) in [
        ("plugin = \"x\"\n", "did you mean `plugins`?"),
        ("[http]\nlisten = \"0.0.0.0:0\"\n", "tokens"),
        ("[buses.main]\nkind = \"durable\"\nsegmnt = \"1MiB\"\n", "segment"),
    ] {
        let file = place.path().join("tidegate.toml");
        std::fs::write(&file, text).unwrap();
        let run = Cli::new(&["run", "--config"]).arg(&file).within(place.path()).run();
        assert!(run.code == 1 || run.code == 2, "{run:?}");
        assert!(run.stderr.contains(says), "{text}: {run:?}");
    }
    assert!(!place.data().exists(), "nothing was made");
}

#[test]
fn a_variable_that_is_spelt_otherwise_is_warned_of() {
    for dev in [false, true] {
        let place = Place::new();
        let environment = ["TIDEGATE_LISTN", "TIDEGATE_URL", "TIDEGATE_TOKEN"];
        let environment = environment.map(|name| (name, "x".to_owned())).to_vec();
        let host = place.start_with(&HostOptions { dev, environment, ..Default::default() });
        let said = host.said();
        assert_eq!(said.matches("environment variable").count(), 1, "{said}");
        assert!(said.contains("did you mean `TIDEGATE_LISTEN`?"), "{said}");
        host.stop();
    }
}

#[test]
fn an_address_that_is_taken_stops_the_start_before_anything_is_made() {
    let place = Place::new();
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = other.local_addr().unwrap().to_string();
    let new = place.path().join("new");
    let run = Cli::new(&["run", "--listen", &listen, "--data"]).arg(new.join("data"));
    let refused = run.arg("--plugins").arg(new.join("plugins")).run().expect_failed();
    assert!(refused.contains(&format!("`{listen}` is taken")), "{refused}");
    assert!(!new.exists(), "something was left behind");
}

#[test]
fn commands_say_what_to_do_where_no_host_is() {
    let run = Cli::new(&["status", "--url", "http://127.0.0.1:9"]).run();
    assert!(run.expect_failed().contains("tidegate run"));
    assert_eq!(Cli::new(&["publish"]).run().code, 2);
    assert_eq!(Cli::new(&["frobnicate"]).run().code, 2);
}

#[test]
fn with_tokens_nothing_but_health_is_open_without_one() {
    /// Of the token `secret`, who may publish and read.
    const TOKENS: &str = r#"
        [[tokens]]
        name = "shop"
        sha256 = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
        roles = ["publish", "read"]
    "#;
    let place = Place::new();
    std::fs::write(place.path().join("tokens.toml"), TOKENS).unwrap();
    let config = "[auth]\ntokens-file = \"tokens.toml\"\n".to_owned();
    let host = place.start_with(&HostOptions { config: Some(config), ..Default::default() });
    assert_eq!(host.http.get("/healthz").status, 200);
    for path in ["/v1/events", "/v1/status", "/v1/plugins", "/metrics", "/v1/nothing"] {
        let answer = host.http.get(path);
        assert_eq!((answer.status, answer.code().as_str()), (401, "unauthorized"), "{path}");
    }
    let answer = host.http.post("/v1/events", STRUCTURED, valid().to_string().as_bytes());
    assert_eq!(answer.status, 401);
    assert!(host.cli(&["events", "list"]).run().expect_failed().contains("TIDEGATE_TOKEN"));

    let file = place.path().join("token");
    std::fs::write(&file, "secret\n").unwrap();
    let with_token = |words: &[&str]| host.cli(words).arg("--token-file").arg(&file).run();
    with_token(&["publish", "a.b", "--key", "k", "--data", "1"]).expect_done();
    assert!(with_token(&["events", "list"]).expect_done().contains("a.b"));
    let refused = with_token(&["plugins", "pause", "none"]).expect_failed();
    assert!(refused.contains("operate"), "{refused}");
    host.stop();
}
