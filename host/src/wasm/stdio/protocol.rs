//! The JSON lines of a stdio module: what it is handed, what it says.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::super::check::Text;
use super::super::context::{Denial, DraftIn};
use super::super::session::Session;
use crate::event::{Event, KeyVariant, SCHEMA_VERSION};
use crate::limits;

const JSON: &str = "application/json";

/// The verdict a module printed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// None.
    Nothing,
    Ok,
    Retry {
        reason: String,
        after_ms: Option<u64>,
    },
    Reject {
        reason: String,
    },
}

/// What a module reads: the event as a structured CloudEvent on the first line, what it may know
/// beside it on the second.
///
/// # Errors
/// A sentence, where the key has more state than one run can be handed.
pub(super) fn input(session: &Session) -> Result<String, String> {
    let context = &session.context;
    let mut text = context.event.as_deref().map_or_else(|| "{}".to_owned(), cloud_event);
    text.push('\n');
    text.push_str("{\"state\":{");
    for (index, (name, value)) in state(session)?.into_iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(&Value::from(name).to_string());
        text.push(':');
        text.push_str(&value);
    }
    let event = context.event.as_deref();
    let config = context.config.iter().map(|(name, value)| (name.clone(), value.as_str().into()));
    let rest = [
        ("config", Value::Object(config.collect())),
        ("attempt", context.attempt.into()),
        ("redriven", context.redriven.into()),
        ("position", event.map_or(0, |event| event.position.0).into()),
        ("sequence", event.map_or(0, |event| event.sequence.0).into()),
        ("recorded_ms", context.now_ms.into()),
    ];
    text.push('}');
    for (name, value) in rest {
        text.push_str(&format!(",\"{name}\":{value}"));
    }
    text.push_str("}\n");
    Ok(text)
}

/// Takes the effects a module printed, and its verdict. A budget that is exceeded is noted in the
/// session, as for any guest.
///
/// # Errors
/// A sentence naming the line that makes no sense: guessing would lose what it meant.
pub(super) fn take(session: &mut Session, printed: &[u8]) -> Result<Said, String> {
    let mut said = Said::Nothing;
    for (index, line) in printed.split(|byte| *byte == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let number = index + 1;
        let line: Line<'_> = serde_json::from_slice(line)
            .map_err(|error| format!("standard output, line {number}: {error}"))?;
        match line.verdict() {
            Ok(None) => {}
            Ok(Some(_)) if said != Said::Nothing => {
                return Err(format!("standard output, line {number}: a second `outcome`"));
            }
            Ok(Some(verdict)) => said = verdict,
            Err(why) => return Err(format!("standard output, line {number}: {why}")),
        }
        match line.effects(session) {
            Ok(()) | Err(Denial::Exceeded(_)) => {}
            Err(denial) => return Err(format!("standard output, line {number}: {denial}")),
        }
    }
    Ok(said)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(borrow)]
    emit: Option<Emit<'a>>,
    #[serde(borrow)]
    state: Option<State<'a>>,
    outcome: Option<Verdict>,
    #[serde(default)]
    reason: String,
    after_ms: Option<u64>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Retry,
    Reject,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Emit<'a> {
    r#type: String,
    key: Option<String>,
    bus: Option<String>,
    datacontenttype: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    data_base64: Option<String>,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct State<'a> {
    #[serde(borrow, default)]
    set: BTreeMap<String, &'a RawValue>,
    #[serde(default)]
    delete: Vec<String>,
}

impl Line<'_> {
    fn verdict(&self) -> Result<Option<Said>, String> {
        let there = [self.emit.is_some(), self.state.is_some(), self.outcome.is_some()];
        if there.into_iter().filter(|there| *there).count() != 1 {
            return Err("expected exactly one of `emit`, `state`, `outcome`".to_owned());
        }
        let reason = self.reason.clone();
        Ok(self.outcome.map(|outcome| match outcome {
            Verdict::Ok => Said::Ok,
            // 0 is what a module writes that has nothing to say: the backoff of the manifest.
            Verdict::Retry => Said::Retry { reason, after_ms: self.after_ms.filter(|ms| *ms > 0) },
            Verdict::Reject => Said::Reject { reason },
        }))
    }

    fn effects(self, session: &mut Session) -> Result<(), Denial> {
        if let Some(emit) = self.emit {
            emit.take(session)?;
        }
        let Some(state) = self.state else { return Ok(()) };
        for (name, value) in state.set {
            let write = session.draft_write(&name, Some(value.get().as_bytes()), None);
            session.write(write)?;
        }
        for name in state.delete {
            let write = session.draft_write(&name, None, None);
            session.write(write)?;
        }
        Ok(())
    }
}

impl Emit<'_> {
    fn take(self, session: &mut Session) -> Result<(), Denial> {
        let data = self.data()?;
        let content_type = match (&self.datacontenttype, self.data) {
            (Some(content_type), _) => content_type.as_str(),
            (None, Some(_)) => JSON,
            (None, None) => "",
        };
        let attributes = self.attributes.iter();
        let draft = session.draft_emit(DraftIn {
            kind: &self.r#type,
            key: self.key.as_deref(),
            bus: self.bus.as_deref(),
            content_type,
            data: &data,
            attributes: attributes.map(|(n, v)| (Text::from(&**n), Text::from(&**v))).collect(),
        });
        session.emit(draft).map(drop)
    }

    /// The payload, by the rules of CloudEvents: a string under a type that is not JSON is the
    /// text itself.
    fn data(&self) -> Result<Vec<u8>, Denial> {
        match (self.data, &self.data_base64) {
            (None, None) => Ok(Vec::new()),
            (Some(_), Some(_)) => {
                Err(Denial::Invalid("`data` and `data_base64` exclude each other".to_owned()))
            }
            (None, Some(text)) => BASE64
                .decode(text)
                .map_err(|error| Denial::Invalid(format!("`data_base64`: {error}"))),
            (Some(value), None) => {
                let json = self.datacontenttype.as_deref().is_none_or(is_json);
                let text =
                    if json { None } else { serde_json::from_str::<String>(value.get()).ok() };
                Ok(text.unwrap_or_else(|| value.get().to_owned()).into_bytes())
            }
        }
    }
}

/// All state of the key, each value as JSON: as it stands where it is JSON, as a string where it is
/// other text, as `{"base64": ..}` where it is neither.
fn state(session: &Session) -> Result<Vec<(String, String)>, String> {
    let mut values = Vec::new();
    if session.context.key.is_none() {
        return Ok(values);
    }
    let view = &session.context.state;
    let mut bytes = 0;
    let mut after: Option<String> = None;
    loop {
        let names = view.list("", after.as_deref(), limits::LIST_MAX);
        let full = names.len() >= limits::LIST_MAX;
        after = names.last().cloned();
        for name in names {
            let Some(value) = view.get(&name) else { continue };
            let value = json_value(&value);
            bytes += name.len() + value.len();
            if bytes > limits::STDIO_STATE_BYTES_MAX {
                let max = limits::STDIO_STATE_BYTES_MAX;
                return Err(format!(
                    "the key has more than {max} bytes of state, and a stdio module gets all of it"
                ));
            }
            values.push((name, value));
        }
        if !full {
            return Ok(values);
        }
    }
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
    Some(json.get().replace(['\n', '\r'], " "))
}

/// One event as structured JSON, on one line.
fn cloud_event(event: &Event) -> String {
    let mut object = Map::new();
    let mut put = |name: &str, value: &str| object.insert(name.to_owned(), value.into());
    put("specversion", "1.0");
    put("id", &event.id);
    put("source", &event.source);
    put("type", &event.kind);
    for (name, value) in &event.attributes {
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
    if !event.content_type.is_empty() {
        put("datacontenttype", &event.content_type);
    }
    let mut text = Value::Object(object).to_string();
    if let Some((name, value)) = data(event) {
        text.pop();
        text.push_str(&format!(",\"{name}\":{value}}}"));
    }
    text
}

/// The member that carries the payload, by the rules of CloudEvents.
fn data(event: &Event) -> Option<(&'static str, String)> {
    if event.data.is_empty() {
        return None;
    }
    if is_json(&event.content_type) || event.content_type.is_empty() {
        if let Some(json) = one_line(&event.data) {
            return Some(("data", json));
        }
    } else if let Ok(text) = std::str::from_utf8(&event.data) {
        return Some(("data", Value::from(text).to_string()));
    }
    Some(("data_base64", format!("\"{}\"", BASE64.encode(&event.data))))
}

fn is_json(content_type: &str) -> bool {
    let media = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media == JSON || media.ends_with("/json") || media.ends_with("+json")
}

#[cfg(test)]
mod tests;
