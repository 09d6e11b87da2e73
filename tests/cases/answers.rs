//! What bad input gets: every answer that is promised, in one table; and the same for files.

use std::fs::{create_dir, create_dir_all, write};
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Cli, Host, Place, event, fixture, handler};

const STRUCTURED: (&str, &str) = ("content-type", "application/cloudevents+json");
const BATCH: (&str, &str) = ("content-type", "application/cloudevents-batch+json");
const JSON: (&str, &str) = ("content-type", "application/json");

/// One input, and its answer.
struct Row {
    input: &'static str,
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: String,
    status: u16,
    code: &'static str,
    /// Members of the error that say more.
    more: Value,
}

fn row(input: &'static str, status: u16, code: &'static str) -> Row {
    let (path, body, more) = (String::new(), String::new(), json!({}));
    Row { input, method: "GET", path, headers: Vec::new(), body, status, code, more }
}

#[allow(clippy::needless_pass_by_value, reason = "texts and `json!` values are made for the call")]
impl Row {
    fn get(self, path: &str) -> Self {
        Self { path: path.to_owned(), ..self }
    }

    fn post(self, path: &str, body: impl ToString) -> Self {
        Self { method: "POST", path: path.to_owned(), body: body.to_string(), ..self }
    }

    fn with(mut self, (name, value): (&'static str, &str)) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    fn event(self, event: impl ToString) -> Self {
        self.post("/v1/events", event).with(STRUCTURED)
    }

    fn add(self, key: &str, body: &str) -> Self {
        self.post(&format!("/v1/plugins/tally/command/add?key={key}"), body).with(JSON)
    }

    fn more(self, more: Value) -> Self {
        Self { more, ..self }
    }

    fn check(&self, host: &Host) {
        let headers: Vec<_> = self.headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let answer = host.http.send(self.method, &self.path, &headers, self.body.as_bytes());
        let answer = answer.unwrap_or_else(|error| panic!("{}: {error}", self.input));
        let said = (answer.status, answer.code());
        assert_eq!(said, (self.status, self.code.to_owned()), "{}: {answer:?}", self.input);
        if self.status == 200 {
            let first = &answer.json()[0];
            for (name, value) in self.more.as_object().unwrap() {
                assert_eq!(&first[name], value, "{}: {first}", self.input);
            }
            return;
        }
        let error = answer.json()["error"].clone();
        assert!(error["message"].as_str().is_some_and(|words| !words.is_empty()), "{error}");
        assert_eq!(error["request_id"], answer.header("x-request-id").unwrap(), "{error}");
        for (name, value) in self.more.as_object().unwrap() {
            assert_eq!(&error[name], value, "{}: {error}", self.input);
        }
        if [429, 507].contains(&self.status) || self.code == "key_unavailable" {
            assert!(answer.header("retry-after").is_some(), "{}: {answer:?}", self.input);
        }
    }
}

fn an_event(change: impl FnOnce(&mut Value)) -> Value {
    let mut event = event("a.b", "1", Some("k"), json!({ "n": 1 }));
    change(&mut event);
    event
}

fn without(name: &str) -> Value {
    an_event(|event| drop(event.as_object_mut().unwrap().remove(name)))
}

fn set(name: &str, value: Value) -> Value {
    an_event(|event| event[name] = value)
}

/// Of events: shape, size, conditions. `#1` of source `/test` is in the log, as the only one of `k`.
fn events() -> Vec<Row> {
    let expecting = |sequence: u64| {
        an_event(|event| {
            event["id"] = json!("2");
            event["expectedsequence"] = json!(sequence.to_string());
        })
    };
    let long = "k".repeat(1025);
    let field = |name| json!({ "field": name });
    vec![
        row("bad JSON", 400, "invalid_json").event("{\"id\":\n !}").more(json!({ "line": 2 })),
        row("no JSON at all", 400, "invalid_json").event(""),
        row("no id", 422, "invalid_field").event(without("id")).more(field("id")),
        row("no type", 422, "invalid_field").event(without("type")).more(field("type")),
        row("no source", 422, "invalid_field").event(without("source")).more(field("source")),
        row("a name in capitals", 422, "invalid_field").event(set("Upper", json!("x"))),
        row("a name of 21 letters", 422, "invalid_field").event(set(&"a".repeat(21), json!("x"))),
        row("a wrong type", 422, "invalid_field").event(set("id", json!(7))).more(field("id")),
        row("a type of the host", 422, "invalid_field").event(set("type", json!("tidegate.x"))),
        row("an empty key", 422, "invalid_key").event(set("partitionkey", json!(""))),
        row("a long key", 422, "invalid_key").event(set("partitionkey", json!(long))),
        row("a key with a tab", 422, "invalid_key").event(set("partitionkey", json!("a\tb"))),
        row("large data", 413, "too_large")
            .event(set("data", json!("x".repeat(1 << 20))))
            .more(json!({ "limit": 1 << 20, "actual": (1 << 20) + 2 })),
        row("a large body", 413, "too_large")
            .event(" ".repeat((8 << 20) + 1))
            .more(json!({ "limit": 8 << 20, "actual": (8 << 20) + 1 })),
        row("a large batch", 413, "too_large")
            .post("/v1/events", format!("[{}]", vec!["{}"; 10_001].join(",")))
            .with(BATCH)
            .more(json!({ "limit": 10_000, "actual": 10_001 })),
        row("large headers", 431, "headers_too_large")
            .get("/v1/status")
            .with(("x-large", &"x".repeat(40_000))),
        row("an address too long", 431, "headers_too_large")
            .get(&format!("/v1/events?type={}", "x".repeat(40_000))),
        row("no content type", 415, "unsupported_media_type").post("/v1/events", an_event(|_| ())),
        row("another content type", 415, "unsupported_media_type")
            .post("/v1/events", an_event(|_| ()))
            .with(("content-type", "text/html")),
        row("a compressed body", 415, "unsupported_media_type")
            .event(an_event(|_| ()))
            .with(("content-encoding", "gzip")),
        row("the same again", 200, "")
            .event(an_event(|_| ()))
            .more(json!({ "duplicate": true, "position": 1, "sequence": 1 })),
        row("the same id, other content", 409, "id_conflict")
            .event(set("data", json!(2)))
            .more(json!({ "position": 1 })),
        row("a wrong expected sequence", 409, "sequence_conflict")
            .event(expecting(7))
            .more(json!({ "expected": 7, "actual": 1 })),
        row("no such bus", 404, "not_found")
            .post("/v1/events?bus=none", an_event(|_| ()))
            .with(STRUCTURED),
        row("no such event", 404, "not_found").get("/v1/events/4711"),
        row("no such route", 404, "not_found").get("/v2/events"),
        row("no such method", 405, "method_not_allowed").post("/v1/status", ""),
        row("no such parameter", 422, "invalid_field").get("/v1/events?colour=red"),
        row("a limit that is none", 422, "invalid_field").get("/v1/events?limit=0"),
        row("a cursor of nobody", 422, "invalid_field").get("/v1/events?cursor=abc"),
    ]
}

/// Of plugins and commands. Key `parked` is parked, `held` is held, plugin `paused` is paused; a command
/// with the key `once` was carried out.
fn requests() -> Vec<Row> {
    let once = ("idempotency-key", "once");
    vec![
        row("no such plugin", 404, "not_found").get("/v1/plugins/nobody"),
        row("no such dead letter", 404, "not_found").get("/v1/dead-letters/4711"),
        row("a cursor that is none", 422, "invalid_field").get("/v1/dead-letters?cursor=zzz"),
        row("a cursor on no bus", 422, "invalid_field").get("/v1/dead-letters?cursor=none:1"),
        row("a command to nobody", 404, "not_found")
            .post("/v1/plugins/nobody/command/add?key=k", "1")
            .with(JSON),
        row("a command on a parked key", 409, "key_unavailable").add("parked", "1"),
        row("a command on a held key", 409, "key_unavailable").add("held", "1"),
        row("a command to a paused plugin", 409, "key_unavailable")
            .post("/v1/plugins/paused/command/add?key=k", "1")
            .with(JSON),
        row("the same idempotency key, other request", 409, "idempotency_conflict")
            .add("once", "2")
            .with(once),
        row("a wrong expected sequence of a command", 409, "sequence_conflict")
            .add("once", "2")
            .with(("tidegate-expected-sequence", "9"))
            .more(json!({ "expected": 9, "actual": 1 })),
        row("a command without a key", 422, "invalid_field")
            .post("/v1/plugins/tally/command/add", "1")
            .with(JSON),
        row("a command that is refused", 422, "rejected").add("k", "-1"),
        row("a command that falls", 500, "trap")
            .post("/v1/plugins/tally/command/fail?key=k", "\"panic\"")
            .with(JSON),
        row("a large command", 413, "too_large").add("k", &" ".repeat((1 << 20) + 1)),
        row("a position that does not come", 504, "wait_timeout")
            .get("/v1/plugins/tally/query/sum?key=k&wait=1000000"),
        row("a discard without a reason", 422, "invalid_field")
            .post("/v1/dead-letters/discard?all=true", "")
            .more(json!({ "field": "reason" })),
    ]
}

fn prepare(place: &Place) -> Host {
    let tally = fixture("tally-guest");
    for name in ["tally", "paused"] {
        write(place.plugins().join(format!("{name}.wasm")), &tally).unwrap();
        let manifest = "[subscribe]\ntypes = [\"tally.posted\"]\n[retry]\non-reject = \"park\"\n\
                        on-failure = \"park\"\nattempts-fault = 1\n";
        write(place.plugins().join(format!("{name}.toml")), manifest).unwrap();
    }
    let host = place.start();
    host.http.publish(&[an_event(|_| ())]);
    host.http.publish(&[event("tally.posted", "p", Some("parked"), json!("no number"))]);
    host.wait_plugin("tally", "parked the key", |view| view["parked_keys"] == 1);
    host.cli(&["keys", "hold", "tally", "held"]).run().expect_done();
    host.cli(&["plugins", "pause", "paused"]).run().expect_done();
    let path = "/v1/plugins/tally/command/add?key=once";
    let once = [JSON, ("idempotency-key", "once")];
    assert_eq!(host.http.send("POST", path, &once, b"1").unwrap().status, 200);
    host
}

#[test]
fn bad_input_gets_the_answers_that_are_promised() {
    let place = Place::new();
    let host = prepare(&place);
    let before = host.http.events("type=a.b").len();
    for row in events().iter().chain(&requests()) {
        row.check(&host);
    }
    assert_eq!(host.http.events("type=a.b").len(), before, "nothing of all this was taken");
    host.stop();
}

#[test]
fn bad_files_get_the_answers_that_are_promised() {
    let place = Place::new();
    let (plugins, wasm) = (place.plugins(), handler("a.b", "", ""));
    write(plugins.join("UPPER.wasm"), &wasm).unwrap();
    write(plugins.join("cut.wasm"), &wasm[..wasm.len() / 2]).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", plugins.join("link.wasm")).unwrap();
    create_dir(plugins.join("folder.wasm")).unwrap();
    let made = Command::new("mkfifo").arg(plugins.join("pipe.wasm")).status().unwrap();
    assert!(made.success());
    create_dir_all(plugins.join("round")).unwrap();
    std::os::unix::fs::symlink("..", plugins.join("round/again")).unwrap();
    std::os::unix::fs::symlink("round", plugins.join("around")).unwrap();
    write(plugins.join("fine.wasm"), &wasm).unwrap();
    let host = place.start();
    let listed = host.cli(&["plugins", "list"]).run().expect_done();
    for (file, why) in
        [("UPPER.wasm", ""), ("link.wasm", "link"), ("pipe.wasm", "file"), ("around", "link")]
    {
        let told =
            |line: &str| line.starts_with("skipped ") && line.contains(file) && line.contains(why);
        assert!(listed.lines().any(told), "{file}: {listed}");
    }
    let cut = host.plugin("cut");
    assert_eq!(cut["state"], "refused", "{cut}");
    assert!(cut["reason"].as_str().unwrap().contains("offset"), "{cut}");
    assert_eq!(host.plugin("fine")["state"], "live");
    host.http.publish(&[event("a.b", "1", Some("k"), json!(1))]);

    let pid = host.pid().to_string();
    let locked = place.start_refused();
    assert!(locked.stderr.contains(&pid), "{locked:?}");
    host.stop();

    write(place.path().join("tidegate.toml"), "[http]\nbody-mx = \"1MiB\"\n").unwrap();
    let unknown = Cli::new(&["run", "--data"]).arg(place.data()).within(place.path()).run();
    assert!(unknown.expect_failed().contains("did you mean `http.body-max`?"));
    std::fs::remove_file(place.path().join("tidegate.toml")).unwrap();
    let open = Cli::new(&["run", "--listen", "0.0.0.0:0", "--data"]).arg(place.data());
    let open = open.within(place.path()).run().expect_failed();
    assert!(open.contains("tokens") && open.contains("--insecure"), "{open}");
    let open = Cli::new(&["run", "--listen", "[::]:0", "--data"]).arg(place.data());
    assert!(open.within(place.path()).run().expect_failed().contains("--insecure"));
}
