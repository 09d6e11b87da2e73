//! The cases: what is published, and what must come of it.

use serde_json::{Map, Value, json};

use super::languages::Language;

/// Bytes of the large payload: what `limits.output` of 4 MiB has room for, and the log takes.
const PAYLOAD_BYTES: usize = 1_000_000;

/// What a case is about, in the table of the README.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Feature {
    /// Events, state, outcomes, configuration, log.
    Basics,
    Timers,
    Calls,
    Requests,
    Upcasters,
}

/// One event and what must come of it.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) feature: Feature,
    pub(super) event: Value,
    pub(super) then: Then,
    /// Names of state under the event's key, and the text of each; none: there is no such name.
    pub(super) state: Vec<(&'static str, Option<String>)>,
}

/// How the delivery ends.
pub(super) enum Then {
    /// With ok and these events, now or when something has come back.
    Emits(Vec<Emitted>),
    /// With a dead letter of this outcome, whose reason says this.
    Dead(&'static str, &'static str),
    /// With ok and these lines in the log: level, message.
    Logs(&'static [(&'static str, &'static str)]),
}

/// An event that must be emitted.
#[derive(Debug, Clone)]
pub(super) struct Emitted {
    pub(super) kind: &'static str,
    pub(super) key: String,
    /// `datacontenttype`, `data`, `data_base64` and further attributes, as the host shows them.
    pub(super) has: Map<String, Value>,
}

impl Case {
    fn new(name: &'static str, kind: &str, content: Value, then: Then) -> Self {
        Self::of_key(name, kind, &format!("k-{name}"), content, then)
    }

    fn of_key(name: &'static str, kind: &str, key: &str, content: Value, then: Then) -> Self {
        let mut event = json!({ "specversion": "1.0", "id": name, "source": "/conformance",
                                "type": kind, "partitionkey": key });
        let fields = event.as_object_mut().unwrap();
        if let Value::Object(content) = content {
            fields.extend(content);
        }
        Self { name, feature: Feature::Basics, event, then, state: Vec::new() }
    }

    fn about(self, feature: Feature) -> Self {
        Self { feature, ..self }
    }

    fn leaves(self, state: Vec<(&'static str, Option<String>)>) -> Self {
        Self { state, ..self }
    }

    pub(super) fn key(&self) -> &str {
        self.event["partitionkey"].as_str().unwrap()
    }
}

#[allow(clippy::needless_pass_by_value, reason = "`json!` values are made for the call")]
fn data(data: Value) -> Value {
    json!({ "datacontenttype": "application/json", "data": data })
}

fn one(kind: &'static str, key: &str, has: Value) -> Then {
    Then::Emits(vec![emitted(kind, key, has)])
}

fn emitted(kind: &'static str, key: &str, has: Value) -> Emitted {
    let Value::Object(has) = has else { panic!("an object") };
    Emitted { kind, key: key.to_owned(), has }
}

/// Every case of a language; `url` is where calls go.
pub(super) fn cases(language: &Language, url: &str) -> Vec<Case> {
    let mut all = echoes();
    all.extend(state_and_events());
    all.extend(failures(language));
    all.extend(texts());
    all.extend(what_comes_back(url));
    all.push(nowhere(language));
    all.push(odd_numbers());
    if ["js", "ts", "python", "go", "assemblyscript"].contains(&language.name) {
        all.push(half_a_letter());
    }
    if ["js", "ts", "python", "go"].contains(&language.name) {
        let then = one("past.done", "k-past", data(json!({ "gone": null })));
        all.push(half_a_member());
        all.push(Case::new("past", "conf.past", json!({}), then).about(Feature::Timers));
    }
    if language.name == "go" {
        all.extend(refused());
    }
    if ["js", "ts", "python"].contains(&language.name) {
        let then = Then::Dead("trap", "");
        let asynchronous = Case::new("async", "conf.async", json!({}), then);
        all.push(asynchronous.leaves(vec![("gone", None)]));
    }
    if language.lifts {
        let kind = format!("conf.old.{}", language.name);
        let then = one("old.done", "k-upcast", data(json!({ "cents": 400 })));
        let mut case = Case::new("upcast", &kind, data(json!({ "amount": 4 })), then);
        case.event["id"] = kind.into();
        all.push(case.about(Feature::Upcasters));
    }
    all
}

/// What goes in comes out, whatever it is.
fn echoes() -> Vec<Case> {
    let text = "0123456789abcdefghijklmnopqrstuvwxyz- äöü €".repeat(PAYLOAD_BYTES / 48);
    let payload = format!("{text}{}", "x".repeat(PAYLOAD_BYTES - text.len()));
    let contents = [
        ("echo", data(json!({ "a": [1, 2.5, "x"], "b": null, "c": {} }))),
        (
            "binary",
            json!({ "datacontenttype": "application/octet-stream",
                           "data_base64": "AP/+gAo=" }),
        ),
        (
            "lines of JSON",
            json!({ "datacontenttype": "application/x-ndjson",
                           "data_base64": "eyJhIjoxfQp7ImEiOjJ9Cg==" }),
        ),
        ("1 MB payload", json!({ "datacontenttype": "text/plain", "data": payload })),
        ("empty payload", json!({})),
    ];
    let contents = contents.into_iter();
    let echo = |(name, content): (&'static str, Value)| {
        let then = one("echo.done", &format!("k-{name}"), content.clone());
        Case::new(name, "conf.echo", content, then)
    };
    contents.map(echo).collect()
}

fn state_and_events() -> Vec<Case> {
    let parts = (1..=3).map(|n| {
        let mut has = data(json!({ "n": n }));
        has["part"] = n.to_string().into();
        emitted("emit.done", &format!("part-{n}"), has)
    });
    let sum = |name: &'static str, add: u64, sum: u64| {
        let then =
            one("state.done", "k-state", data(json!({ "sum": sum, "names": ["last", "sum"] })));
        Case::of_key(name, "conf.state", "k-state", data(json!({ "add": add })), then)
    };
    let left = vec![
        ("sum", Some("42".to_owned())),
        ("last", Some("\"state again\"".to_owned())),
        ("draft", None),
    ];
    let greeting = json!({ "greeting": "grüß dich", "missing": null });
    let lines = &[
        ("trace", "one"),
        ("debug", "two"),
        ("info", "three"),
        ("warn", "four"),
        ("error", "five"),
    ];
    vec![
        Case::new("emit", "conf.emit", data(json!({ "count": 3 })), Then::Emits(parts.collect())),
        sum("state", 40, 40),
        sum("state again", 2, 42).leaves(left),
        Case::new(
            "config",
            "conf.config",
            json!({}),
            one("config.done", "k-config", data(greeting)),
        ),
        Case::new("log", "conf.log", json!({}), Then::Logs(lines)),
    ]
}

/// Nothing of a delivery that fails is left.
fn failures(language: &Language) -> Vec<Case> {
    let gone = || vec![("gone", None)];
    let why = data(json!({ "why": "no: größe ✓" }));
    vec![
        Case::new(
            "retry",
            "conf.retry",
            json!({}),
            one("retry.done", "k-retry", data(json!({ "attempt": 2 }))),
        ),
        Case::new("reject", "conf.reject", why, Then::Dead("reject", "no: größe ✓")).leaves(gone()),
        Case::new("trap", "conf.trap", json!({}), Then::Dead("trap", language.reason()))
            .leaves(gone()),
        Case::new("fuel", "conf.fuel", json!({}), Then::Dead("fuel", "")),
        Case::new("memory", "conf.memory", json!({}), Then::Dead("memory", "")),
    ]
}

fn texts() -> Vec<Case> {
    // Two, three and four bytes of UTF-8, an escape, and what JSON must escape.
    let (text, key) = ("grün ✓ 🦀 \"q\" \\ end", "schlüssel-✓-🦀");
    let then = one("unicode.done", key, data(json!({ "text": text, "key": key })));
    let kept = vec![(text, Some(json!(text).to_string()))];
    let unicode = Case::of_key("unicode", "conf.unicode", key, data(json!({ "text": text })), then);

    let attributes: Map<String, Value> = (0..55)
        .map(|n| (format!("attr{n:02}"), format!("{n:02}{}", "wert-é".repeat(18)).into()))
        .collect();
    let size = |(name, value): (&String, &Value)| name.len() + value.as_str().unwrap().len();
    let bytes: usize = attributes.iter().map(size).sum();
    let mut has = data(json!({ "count": attributes.len(), "bytes": bytes }));
    has.as_object_mut().unwrap().extend(attributes.clone());
    let then = one("attributes.done", "k-large attributes", has);
    vec![
        unicode.leaves(kept),
        Case::new("large attributes", "conf.attributes", Value::Object(attributes), then),
    ]
}

/// Half a surrogate pair, which JSON can say and UTF-8 cannot. The other languages reject it.
fn half_a_letter() -> Case {
    let (name, key) = ("half a letter", "k-half a letter");
    let then = one("unicode.done", key, data(json!({ "text": "cut \u{fffd}", "key": key })));
    let kept = vec![("cut \u{fffd}", Some("\"cut \u{fffd}\"".to_owned()))];
    Case::new(name, "conf.unicode", cut(), then).leaves(kept)
}

/// A name that is there twice, once with an escape, and a zero with a power of ten beyond all doubles.
fn odd_numbers() -> Case {
    // {"n":1,"m":{"n":5},"z":0e400,"\u006e":7}
    let content = json!({ "datacontenttype": "application/json",
                          "data_base64": "eyJuIjoxLCJtIjp7Im4iOjV9LCJ6IjowZTQwMCwiXHUwMDZlIjo3fQ==" });
    let then = one("read.done", "k-odd numbers", data(json!({ "n": 7, "z": 0 })));
    Case::new("odd numbers", "conf.read", content, then)
}

/// A key that is empty is a mistake of the handler, and not the key of the input.
fn nowhere(language: &Language) -> Case {
    // Without an SDK nobody says so before the run is over.
    let outcome = if language.name == "stdio" { "trap" } else { "reject" };
    let then = Then::Dead(outcome, "key must have 1 to 1024 bytes");
    Case::new("nowhere", "conf.nowhere", json!({}), then)
}

/// What the host refuses when a run is over, and an SDK of lines has to refuse before.
fn refused() -> [Case; 2] {
    let first = "`type` is `tidegate.own`: types starting `tidegate.` are the host's own";
    let told = one("refused.done", "k-refused", data(json!({ "told": 22, "first": first })));
    let forget = Then::Dead("reject", "a name must have 1 to 255 bytes, not 0");
    [
        Case::new("refused", "conf.refused", json!({}), told),
        Case::new("forget", "conf.forget", json!({}), forget),
    ]
}

/// The same as the name of a member, and beside a text that only looks like it.
fn half_a_member() -> Case {
    let (name, key) = ("half a member", "k-half a member");
    let mut has = data(json!({ "cut \u{fffd}": "\\ud83d" }));
    has["sure"] = "true".into();
    Case::new(name, "conf.member", cut(), one("member.done", key, has))
}

/// {"text":"cut \ud83d"}
fn cut() -> Value {
    json!({ "datacontenttype": "application/json", "data_base64": "eyJ0ZXh0IjoiY3V0IFx1ZDgzZCJ9" })
}

/// Timers that fire, answers of the outside.
fn what_comes_back(url: &str) -> Vec<Case> {
    let timer = data(json!({ "name": "later", "data": { "n": 7 }, "key": "k-timer" }));
    let answer = data(json!({ "name": "ask", "status": 200 }));
    vec![
        Case::new("timer", "conf.timer", json!({}), one("timer.done", "k-timer", timer))
            .about(Feature::Timers),
        Case::new(
            "call",
            "conf.call",
            data(json!({ "url": url })),
            one("call.done", "k-call", answer),
        )
        .about(Feature::Calls),
    ]
}
