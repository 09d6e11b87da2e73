//! A delivery for people, and as one JSON object a line.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::super::Output;
use super::super::out::drives;
use super::super::table::span;
use super::cases::Tally;
use super::deliver::{Delivered, QUERY};
use super::memory::Pending;
use crate::api::view::Timestamp;
use crate::effects::{Effects, TimerChange};
use crate::wasm::Invocation;

/// Bytes of a payload that are shown to people.
const SHOWN_BYTES_MAX: usize = 200;

/// Prints one line about the delivery, and one for each effect and log line.
pub(super) fn text(delivered: &Delivered, out: &mut dyn Write) -> std::io::Result<()> {
    let (event, invocation) = (&delivered.event, &delivered.invocation);
    let key = event.key.as_ref().map_or("-", |key| key.as_str());
    let outcome = invocation.outcome.kind().name();
    let reason = invocation.outcome.reason();
    let reason = if reason.is_empty() { reason } else { format!("   {}", clean(&reason)) };
    // A question has no place in the log.
    let place = if &*event.kind == QUERY { String::new() } else { format!("#{} ", event.position) };
    writeln!(
        out,
        "{place}{} {} {outcome}  {} us  {} fuel  {} KiB{reason}",
        clean(&delivered.title()),
        clean(key),
        invocation.wall.as_micros(),
        invocation.fuel,
        invocation.memory_bytes.div_ceil(1024),
    )?;
    if let Some(lifted) = &delivered.lifted {
        let (version, data) = (lifted.schema_version, shown(&lifted.data));
        writeln!(out, "   lifted to version {version}: {data}")?;
    }
    effects(&invocation.effects, event.recorded_ms, out)?;
    if let Some(response) = &invocation.effects.response {
        writeln!(out, "   answer {}", shown(&response.data))?;
    }
    said(invocation, "   ", out)
}

/// What a guest logged, and where it was when it trapped.
pub(super) fn said(
    invocation: &Invocation,
    indent: &str,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    for line in &invocation.logs {
        let mut words = line.message.split('\n').map(clean);
        writeln!(out, "{indent}log {}: {}", line.level, words.next().unwrap_or_default())?;
        words.try_for_each(|more| writeln!(out, "{indent}    {more}"))?;
    }
    for frame in invocation.backtrace.lines() {
        writeln!(out, "{indent}at {}", clean(frame.trim()))?;
    }
    Ok(())
}

/// Timers as they are pending at the end of a run.
pub(super) fn pending(timers: &[&Pending], out: &mut dyn Write) -> std::io::Result<()> {
    for timer in timers {
        let (name, key) = (clean(&timer.name), clean(timer.key.as_str()));
        writeln!(out, "pending: timer {name} of {key}, due {}", Timestamp(timer.due_ms))?;
    }
    Ok(())
}

fn effects(effects: &Effects, now_ms: u64, out: &mut dyn Write) -> std::io::Result<()> {
    for emit in &effects.emits {
        let key = emit.key.as_ref().map_or("-", |key| key.as_str());
        let (kind, key, data) = (clean(&emit.kind), clean(key), shown(&emit.data));
        writeln!(out, "   -> {kind} {key} {data}")?;
    }
    for write in &effects.state {
        match &write.value {
            Some(value) => writeln!(out, "   state {} = {}", clean(&write.name), shown(value))?,
            None => writeln!(out, "   state {} removed", clean(&write.name))?,
        }
    }
    for timer in &effects.timers {
        match timer {
            TimerChange::Set { name, due_ms, .. } => {
                let (name, after) = (clean(name), span(due_ms.saturating_sub(now_ms)));
                writeln!(out, "   timer {name} in {after}, at {}", Timestamp(*due_ms))?;
            }
            TimerChange::Cancel { name } => writeln!(out, "   timer {} cancelled", clean(name))?,
        }
    }
    for call in &effects.calls {
        let (name, method, url) = (clean(&call.name), clean(&call.method), clean(&call.url));
        writeln!(out, "   call {name}: {method} {url} (not sent)")?;
    }
    Ok(())
}

/// Prints the delivery as one line of JSON.
pub(super) fn json(delivered: &Delivered, out: &mut dyn Write) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, &delivery_document(delivered))?;
    writeln!(out)
}

/// A plugin whose tests are not run, and why that is no fault.
pub(super) fn skipped(
    name: &str,
    why: &str,
    output: Output,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    match output {
        Output::Text => writeln!(out, "{name}  skipped: {why}"),
        Output::Json => writeln!(out, "{}", json!({ "plugin": name, "skipped": why })),
    }
}

/// A plugin whose tests cannot be run.
pub(super) fn not_tested(
    name: &str,
    why: &str,
    output: Output,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    match output {
        Output::Text => writeln!(out, "{name}\n  FAIL  {why}"),
        Output::Json => {
            writeln!(out, "{}", json!({ "plugin": name, "passed": false, "error": why }))
        }
    }
}

/// The last line.
pub(super) fn tally(tally: Tally, output: Output, out: &mut dyn Write) -> std::io::Result<()> {
    let Tally { tests, failed } = tally;
    match output {
        Output::Text => {
            let s = if tests == 1 { "" } else { "s" };
            writeln!(out, "{tests} test{s}, {failed} failed")
        }
        Output::Json => writeln!(out, "{}", json!({ "tests": tests, "failed": failed })),
    }
}

/// All there is to say about a delivery.
pub(super) fn delivery_document(delivered: &Delivered) -> Value {
    let (event, invocation) = (&delivered.event, &delivered.invocation);
    let answer = invocation.effects.response.as_ref().map(|response| {
        json!({
            "datacontenttype": &*response.content_type,
            "data": value(&response.data),
            "attributes": pairs(&response.attributes),
        })
    });
    json!({
        "position": event.position,
        "id": &*event.id,
        "type": &*event.kind,
        "title": delivered.title(),
        "key": event.key.as_ref().map(|key| key.as_str()),
        "lifted": delivered.lifted.as_ref().map(|lifted| json!({
            "schemaversion": lifted.schema_version,
            "datacontenttype": &*lifted.content_type,
            "data": value(&lifted.data),
        })),
        "outcome": invocation.outcome.kind().name(),
        "reason": invocation.outcome.reason(),
        "fuel": invocation.fuel,
        "wall_us": u64::try_from(invocation.wall.as_micros()).unwrap_or(u64::MAX),
        "memory_bytes": invocation.memory_bytes,
        "effects": effects_document(&invocation.effects),
        "answer": answer,
        "logs": invocation.logs,
        "backtrace": invocation.backtrace,
    })
}

fn effects_document(effects: &Effects) -> Value {
    let emits = effects.emits.iter().map(|emit| {
        json!({
            "id": &*emit.id,
            "type": &*emit.kind,
            "key": emit.key.as_ref().map(|key| key.as_str()),
            "bus": emit.bus.as_deref(),
            "datacontenttype": &*emit.content_type,
            "data": value(&emit.data),
            "attributes": pairs(&emit.attributes),
        })
    });
    let state = effects.state.iter().map(|write| {
        json!({
            "name": &*write.name,
            "value": write.value.as_ref().map(|bytes| value(bytes)),
            "expires_ms": write.expires_ms,
        })
    });
    let timers = effects.timers.iter().map(|timer| match timer {
        TimerChange::Set { name, due_ms, data } => {
            json!({ "set": &**name, "due_ms": due_ms, "data": value(data) })
        }
        TimerChange::Cancel { name } => json!({ "cancel": &**name }),
    });
    let calls = effects.calls.iter().map(|call| {
        json!({
            "name": &*call.name,
            "method": &*call.method,
            "url": &*call.url,
            "headers": pairs(&call.headers),
            "body": value(&call.body),
        })
    });
    json!({
        "emits": emits.collect::<Vec<_>>(),
        "state": state.collect::<Vec<_>>(),
        "timers": timers.collect::<Vec<_>>(),
        "calls": calls.collect::<Vec<_>>(),
    })
}

fn pairs(pairs: &[(std::sync::Arc<str>, std::sync::Arc<str>)]) -> Value {
    pairs.iter().map(|(name, value)| (name.to_string(), Value::from(&**value))).collect()
}

/// JSON as JSON, other text as a string, anything else as `{"base64": ..}`.
pub(super) fn value(bytes: &[u8]) -> Value {
    if let Ok(value) = serde_json::from_slice(bytes) {
        return value;
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => json!({ "base64": STANDARD.encode(bytes) }),
    }
}

/// Payload for people: text as it is, anything else as base64, cut where it is long.
fn shown(bytes: &[u8]) -> String {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => clean(text),
        Err(_) => STANDARD.encode(bytes),
    };
    match text.char_indices().nth(SHOWN_BYTES_MAX) {
        Some((end, _)) => format!("{}… ({} bytes)", text.split_at(end).0, bytes.len()),
        None => text,
    }
}

/// A guest's text without what could steer a terminal.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if drives(c) && c != '\t' { '\u{fffd}' } else { c }).collect()
}
