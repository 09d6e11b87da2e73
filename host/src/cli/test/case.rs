//! A test as its file says it: what is there before, then steps, each with what is expected of it.
//!
//! What the file does not say is not compared, but for the outcome, which is `ok` unless said. What
//! nobody knows is refused, with the nearest name: a misspelt expectation would never fail.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value as Json};
use toml::Value;

use super::deliver::{Answer, Ask};
use super::expect::{Expect, read_expect};
use super::read_file;
use crate::api::cloudevents;
use crate::config::reader::{Document, Section};
use crate::config::syntax::parse;
use crate::event::{Key, NewEvent};

/// Bytes of one test.
const CASE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Steps of one test.
const STEPS_MAX: usize = 10_000;

/// One file.
#[derive(Debug)]
pub(super) struct Case {
    /// The name of the file, without its ending.
    pub(super) name: String,
    /// Replaces values of the manifest's `[config]`.
    pub(super) config: BTreeMap<String, String>,
    /// What keys have before the first step.
    pub(super) state: Vec<(Key, BTreeMap<String, Bytes>)>,
    /// What happens, in order.
    pub(super) steps: Vec<Step>,
}

/// One thing that happens, and what is expected to come of it.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) given: Given,
    pub(super) expect: Expect,
}

/// What happens.
#[derive(Debug)]
pub(super) enum Given {
    /// An event arrives.
    Event(Box<NewEvent>),
    /// A timer that is pending fires.
    Timer { name: String, key: Key },
    /// A call is answered.
    Response(Answer),
    /// A command is carried out.
    Command(Key, Ask),
    /// A question is asked.
    Query(Ask),
}

/// Reads one test of the plugin in `folder`.
///
/// # Errors
/// The file cannot be read, is no TOML, or says what nobody understands: every mistake, a line each.
pub(super) fn read_case(file: &Path, folder: &Path) -> anyhow::Result<Case> {
    let bytes = read_file(file, CASE_BYTES_MAX)?;
    let text = String::from_utf8(bytes)
        .with_context(|| format!("test `{}` is not UTF-8", file.display()))?;
    let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    parse_case(&name, &format!("test `{}`", file.display()), &text, folder)
}

fn parse_case(name: &str, label: &str, text: &str, folder: &Path) -> anyhow::Result<Case> {
    let document = Document::new(label);
    let mut root = document.root(parse(label, text)?);
    let config = root.pairs("config");
    let mut state = Vec::new();
    for (key, mut section) in root.sections("state") {
        let values = section.take_rest();
        let values = values.iter().map(|(name, value)| (name.clone(), bytes_of(&json_of(value))));
        match Key::new(&key) {
            Ok(key) => state.push((key, values.collect())),
            Err(error) => section.rule(error.to_string()),
        }
    }
    let mut steps = Vec::new();
    for (index, mut section) in root.tables("step", STEPS_MAX).into_iter().enumerate() {
        let given = read_given(&mut section, index + 1, folder);
        let expect = read_expect(section.section("expect"));
        steps.extend(given.map(|given| Step { given, expect }));
    }
    if steps.is_empty() {
        root.rule("there is no `[[step]]` that could be tested");
    }
    drop(root);
    document.finish()?;
    Ok(Case { name: name.to_owned(), config, state, steps })
}

/// What happens in a step: exactly one thing.
fn read_given(step: &mut Section<'_>, number: usize, folder: &Path) -> Option<Given> {
    const KINDS: [&str; 5] = ["event", "timer", "response", "command", "query"];
    let said: Vec<&str> = KINDS.into_iter().filter(|kind| step.has(kind)).collect();
    let [kind] = said[..] else {
        let number = format!("step {number}");
        step.rule(format!("{number} needs exactly one of `{}`", KINDS.join("`, `")));
        for kind in KINDS {
            step.take(kind);
        }
        return None;
    };
    match kind {
        "event" => read_event(step, number, folder),
        "timer" => {
            let mut timer = step.section("timer");
            Some(Given::Timer { name: required(&mut timer, "name")?, key: key(&mut timer, true)? })
        }
        "response" => read_response(&mut step.section("response")),
        "command" => {
            let mut command = step.section("command");
            let name = required(&mut command, "name");
            let key = key(&mut command, true);
            Some(Given::Command(key.clone()?, read_ask(&mut command, name?, key)?))
        }
        _ => {
            let mut query = step.section("query");
            let path = required(&mut query, "path");
            let key = key(&mut query, false);
            Some(Given::Query(read_ask(&mut query, path?, key)?))
        }
    }
}

fn read_ask(section: &mut Section<'_>, name: String, key: Option<Key>) -> Option<Ask> {
    let parameters = section.pairs("params").into_iter().collect();
    let body = read_payload(section)?;
    let content_type = section.text("datacontenttype").unwrap_or_else(|| body.media_type());
    Some(Ask { name, key, content_type, data: body.bytes(), parameters })
}

fn read_response(section: &mut Section<'_>) -> Option<Given> {
    let call = required(section, "call");
    let key = key(section, false);
    let error = section.text("error").unwrap_or_default();
    let usual = if error.is_empty() { 200 } else { 0 };
    let status = section.integer("status", usual, 0..=999);
    let body = read_payload(section)?;
    let content_type = section.text("datacontenttype").unwrap_or_else(|| body.media_type());
    let data = body.bytes();
    Some(Given::Response(Answer { call: call?, key, status, error, content_type, data }))
}

/// An event written out, or the file it stands in.
fn read_event(step: &mut Section<'_>, number: usize, folder: &Path) -> Option<Given> {
    let json = if let Some(file) = step.text_if("event") {
        match read_file(&folder.join(&file), CASE_BYTES_MAX) {
            Ok(json) => json,
            Err(error) => {
                step.rule(format!("step {number}: event {error:#}"));
                return None;
            }
        }
    } else {
        let mut event = step.section("event");
        serde_json::to_vec(&event_document(&mut event, number)?).ok()?
    };
    match cloudevents::read_line(&json) {
        Ok(publish) => Some(Given::Event(Box::new(publish.event))),
        Err(error) => {
            step.rule(format!("step {number}: event: {error}"));
            None
        }
    }
}

/// The event as a CloudEvent in JSON, so that it goes in as any other does.
fn event_document(event: &mut Section<'_>, number: usize) -> Option<Json> {
    let mut document = Map::new();
    let mut say = |name: &str, value: Option<String>| {
        document.extend(value.map(|value| (name.to_owned(), Json::from(value))));
    };
    say("specversion", Some("1.0".to_owned()));
    let kind = required(event, "type");
    say("type", kind.clone());
    say("id", Some(event.text("id").unwrap_or_else(|| format!("step-{number}"))));
    say("source", Some(event.text("source").unwrap_or_else(|| "/test".to_owned())));
    say("partitionkey", key(event, false).map(|key| key.as_str().to_owned()));
    for name in ["subject", "dataschema"] {
        say(name, event.text(name));
    }
    say(
        "time",
        event.take("time").map(|time| match json_of(&time) {
            Json::String(text) => text,
            other => other.to_string(),
        }),
    );
    let content_type = event.text("datacontenttype");
    let mut attributes = event.section("attributes");
    let attributes = attributes.take_rest();
    let body = read_payload(event)?;
    let media_type = content_type.unwrap_or_else(|| body.media_type());
    say("datacontenttype", Some(media_type).filter(|text| !text.is_empty()));
    document.extend(attributes.iter().map(|(name, value)| (name.clone(), json_of(value))));
    if body != Payload::Nothing {
        document.insert("data_base64".to_owned(), STANDARD.encode(body.bytes()).into());
    }
    kind.map(|_| Json::Object(document))
}

/// Data, however it is written.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Payload {
    Nothing,
    /// `data`: JSON, by value.
    Json(Json),
    /// `text`: these characters; JSON again where both sides are.
    Text(String),
    /// `base64`.
    Bytes(Vec<u8>),
}

impl Payload {
    pub(super) fn bytes(&self) -> Bytes {
        match self {
            Self::Nothing => Bytes::new(),
            Self::Json(json) => bytes_of(json),
            Self::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
            Self::Bytes(bytes) => Bytes::copy_from_slice(bytes),
        }
    }

    fn media_type(&self) -> String {
        match self {
            Self::Nothing => "",
            Self::Json(_) => "application/json",
            Self::Text(_) => "text/plain",
            Self::Bytes(_) => "application/octet-stream",
        }
        .to_owned()
    }
}

/// `data`, `text` or `base64`: at most one. None: it is wrong, which is said.
pub(super) fn read_payload(section: &mut Section<'_>) -> Option<Payload> {
    let (data, text) = (section.take("data"), section.text("text"));
    let base64 = section.text("base64");
    match (data, text, base64) {
        (None, None, None) => Some(Payload::Nothing),
        (Some(data), None, None) => Some(Payload::Json(json_of(&data))),
        (None, Some(text), None) => Some(Payload::Text(text)),
        (None, None, Some(base64)) => match STANDARD.decode(&base64) {
            Ok(bytes) => Some(Payload::Bytes(bytes)),
            Err(_) => {
                section.not_allowed("base64", &Value::String(base64), "padded standard base64");
                None
            }
        },
        _ => {
            section
                .rule(format!("`{}`, `text` and `base64` exclude each other", section.key("data")));
            None
        }
    }
}

/// A text that has to be there.
pub(super) fn required(section: &mut Section<'_>, name: &str) -> Option<String> {
    if !section.has(name) {
        section.take(name);
        section.rule(format!("`{}` is missing", section.key(name)));
        return None;
    }
    section.text(name)
}

/// The key of a step. None: it has none, or it is wrong, which is said.
fn key(section: &mut Section<'_>, needed: bool) -> Option<Key> {
    let text = if needed { required(section, "key")? } else { section.text("key")? };
    match Key::new(&text) {
        Ok(key) => Some(key),
        Err(error) => {
            section.rule(format!("`{}`: {error}", section.key("key")));
            None
        }
    }
}

fn bytes_of(json: &Json) -> Bytes {
    Bytes::from(json.to_string())
}

/// TOML as JSON: dates become their text.
pub(super) fn json_of(value: &Value) -> Json {
    match value {
        Value::String(text) => text.as_str().into(),
        Value::Integer(number) => (*number).into(),
        Value::Float(number) => (*number).into(),
        Value::Boolean(flag) => (*flag).into(),
        Value::Datetime(time) => time.to_string().into(),
        Value::Array(items) => items.iter().map(json_of).collect(),
        Value::Table(table) => {
            table.iter().map(|(name, value)| (name.clone(), json_of(value))).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effects::OutcomeKind;

    fn read(text: &str) -> anyhow::Result<Case> {
        parse_case("t", "test `t.toml`", text, Path::new("."))
    }

    fn problems(text: &str) -> String {
        read(text).unwrap_err().to_string()
    }

    #[test]
    fn a_step_is_one_thing_that_happens_and_what_is_expected() {
        let case = read(
            r#"
            config.currency = "USD"
            state.o-1.sum = 2
            [[step]]
            event = { type = "order.created", key = "o-1", data = { amount = 40 } }
            expect.emits = [{ type = "totals.updated", data = { sum = 42 } }]
            [[step]]
            command = { name = "close", key = "o-1" }
            expect.outcome = "reject"
            "#,
        )
        .unwrap();
        assert_eq!(case.config["currency"], "USD");
        assert_eq!(case.state[0].1["sum"], "2");
        let Given::Event(event) = &case.steps[0].given else { panic!("{:?}", case.steps[0]) };
        assert_eq!((&*event.kind, &*event.data), ("order.created", &br#"{"amount":40}"#[..]));
        assert_eq!(event.key.as_ref().unwrap().as_str(), "o-1");
        assert_eq!(case.steps[0].expect.outcome, OutcomeKind::Ok);
        assert_eq!(case.steps[1].expect.outcome, OutcomeKind::Reject);
    }

    #[test]
    fn what_is_unknown_is_refused_with_the_nearest_name() {
        let event = r#"event = { type = "a", key = "k" }"#;
        let said = problems(&format!("[[step]]\n{event}\nexpect.emit = []"));
        assert!(said.contains("did you mean `step.0.expect.emits`?"), "{said}");
        let said = problems(&format!("[[stap]]\n{event}"));
        assert!(said.contains("`stap` is not a key; did you mean `step`?"), "{said}");
        let said = problems("[[step]]\nevent = { tpye = \"a\" }");
        assert!(said.contains("`step.0.event.type` is missing"), "{said}");
        assert!(said.contains("did you mean `step.0.event.type`?"), "{said}");
        let said = problems(&format!("[[step]]\n{event}\nexpect.outcome = \"fine\""));
        assert!(said.contains("\"ok\", \"retry\", \"reject\""), "{said}");
    }

    #[test]
    fn a_step_without_or_with_two_happenings_is_refused() {
        let said = problems("[[step]]\nexpect.outcome = \"ok\"");
        assert!(said.contains("step 1 needs exactly one of `event`, `timer`"), "{said}");
        let said = problems("[[step]]\nevent.type = \"a\"\nquery.path = \"p\"");
        assert!(said.contains("exactly one of"), "{said}");
        assert!(problems("").contains("no `[[step]]`"));
    }
}
