//! What a program reads: two lines of JSON. `wit/STDIO.md` promises every member.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::super::delivery::Request;
use super::super::session::Session;
use super::Asked;
use crate::event::{Event, KeyVariant, SCHEMA_VERSION};
use crate::limits;

/// `type` of the first line where the program is asked a question; it stands in no log.
const QUERY: &str = "tidegate.query";
/// Attributes of a command's event that begin like this carry what the second line says in words.
const OF_HOST: &str = "tidegate";

/// What a program reads: a structured CloudEvent on the first line, what it may know beside it on
/// the second.
///
/// # Errors
/// A sentence, where the key has more state than one run can be handed.
pub(super) fn input(session: &Session, asked: &Asked<'_>) -> Result<String, String> {
    let mut text = match (asked, session.context.event.as_deref()) {
        (Asked::Question(request), _) => question(request),
        (Asked::Command(_), Some(event)) => cloud_event(event, |name| !name.starts_with(OF_HOST)),
        (Asked::Event, Some(event)) => cloud_event(event, |_| true),
        (Asked::Event | Asked::Command(_), None) => "{}".to_owned(),
    };
    text.push('\n');
    rest(session, asked, &mut text)?;
    text.push('\n');
    Ok(text)
}

fn rest(session: &Session, asked: &Asked<'_>, text: &mut String) -> Result<(), String> {
    let context = &session.context;
    text.push_str("{\"state\":{");
    state(session, text)?;
    text.push_str("},\"config\":{");
    for (index, (name, value)) in context.config.iter().enumerate() {
        member(text, index, name, &Value::from(value.as_str()).to_string());
    }
    let (position, sequence) =
        context.event.as_deref().map_or((0, 0), |event| (event.position.0, event.sequence.0));
    let (attempt, redriven, now_ms) = (context.attempt, context.redriven, context.now_ms);
    // A `String` takes everything that is written to it.
    let _ = write!(
        text,
        "}},\"attempt\":{attempt},\"redriven\":{redriven},\"position\":{position},\
         \"sequence\":{sequence},\"recorded_ms\":{now_ms}"
    );
    if let Some((kind, request)) = asked.request() {
        let parameters = request.attributes.iter();
        let parameters: Map<String, Value> =
            parameters.map(|(name, value)| (name.clone(), value.as_str().into())).collect();
        let request = json!({
            "kind": kind,
            "operation": request.operation,
            "principal": request.principal,
            "parameters": parameters,
        });
        let _ = write!(text, ",\"request\":{request}");
    }
    text.push('}');
    Ok(())
}

fn member(text: &mut String, index: usize, name: &str, value: &str) {
    if index > 0 {
        text.push(',');
    }
    let _ = write!(text, "{}:{value}", Value::from(name));
}

/// All state of the key, each value as JSON: as it stands where it is JSON, as a string where it is
/// other text, as `{"base64": ..}` where it is neither.
fn state(session: &Session, text: &mut String) -> Result<(), String> {
    if session.context.key().is_none() {
        return Ok(());
    }
    let max = limits::STDIO_STATE_BYTES_MAX;
    let over =
        || format!("the key has more than {max} bytes of state, and a stdio module gets all of it");
    let values = session.context.state().all(max).ok_or_else(over)?;
    let mut bytes = 0;
    for (index, (name, value)) in values.iter().enumerate() {
        let value = json_value(value);
        bytes += name.len() + value.len();
        if bytes > max {
            return Err(over());
        }
        member(text, index, name, &value);
    }
    Ok(())
}

fn json_value(value: &[u8]) -> String {
    if let Some(json) = one_line(value) {
        return json;
    }
    match std::str::from_utf8(value) {
        Ok(text) => Value::from(text).to_string(),
        Err(_) => format!("{{\"base64\":\"{}\"}}", BASE64.encode(value)),
    }
}

/// The text of some JSON without line breaks, which in JSON are always between tokens; none: it is
/// not JSON.
fn one_line(data: &[u8]) -> Option<String> {
    let json: &RawValue = serde_json::from_slice(data).ok()?;
    let json = json.get();
    // Most JSON is of one line, and may be large.
    let broken = json.bytes().any(|byte| matches!(byte, b'\n' | b'\r'));
    Some(if broken { json.replace(['\n', '\r'], " ") } else { json.to_owned() })
}

/// One event as structured JSON, on one line, with those of its attributes that are wanted.
fn cloud_event(event: &Event, wanted: impl Fn(&str) -> bool) -> String {
    let mut object = Map::new();
    let mut put = |name: &str, value: &str| object.insert(name.to_owned(), value.into());
    put("specversion", "1.0");
    put("id", &event.id);
    put("source", &event.source);
    put("type", &event.kind);
    for (name, value) in event.attributes.iter().filter(|(name, _)| wanted(name)) {
        put(name, value);
    }
    if let Some(version) = event.schema_version_text() {
        put(SCHEMA_VERSION, &version);
    }
    match (&event.key, event.key_variant) {
        (Some(key), KeyVariant::Subject) => put("subject", key.as_str()),
        (Some(key), _) => put("partitionkey", key.as_str()),
        (None, _) => None,
    };
    if let Some(time) = &event.time {
        put("time", &time.text);
    }
    with_data(object, &event.content_type, &event.data)
}

/// A question as an event, so that a program reads one form.
fn question(request: &Request) -> String {
    let mut object = Map::new();
    let mut put = |name: &str, value: &str| object.insert(name.to_owned(), value.into());
    put("specversion", "1.0");
    put("id", "query");
    put("source", "/tidegate");
    put("type", QUERY);
    if let Some(key) = &request.key {
        put("partitionkey", key.as_str());
    }
    with_data(object, &request.content_type, &request.data)
}

fn with_data(mut object: Map<String, Value>, content_type: &str, data: &[u8]) -> String {
    if !content_type.is_empty() {
        object.insert("datacontenttype".to_owned(), content_type.into());
    }
    let mut text = Value::Object(object).to_string();
    if let Some((name, value)) = payload(content_type, data) {
        text.pop();
        let _ = write!(text, ",\"{name}\":{value}}}");
    }
    text
}

/// The member that carries a payload, by the rules of CloudEvents.
fn payload(content_type: &str, data: &[u8]) -> Option<(&'static str, String)> {
    if data.is_empty() {
        return None;
    }
    if super::is_json(content_type) || content_type.is_empty() {
        if let Some(json) = one_line(data) {
            return Some(("data", json));
        }
    } else if let Ok(text) = std::str::from_utf8(data) {
        return Some(("data", Value::from(text).to_string()));
    }
    Some(("data_base64", format!("\"{}\"", BASE64.encode(data))))
}

#[cfg(test)]
mod tests;
