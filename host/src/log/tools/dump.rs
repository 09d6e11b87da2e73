//! Every record of a log as a JSON object, one a line.

use std::fmt;
use std::io::Write;
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::ToolError;
use super::damage::Damage;
use super::files::{BusFiles, SegmentFile};
use super::stat::kind_name;
use super::walk::{Met, walk};
use crate::log::codec::{
    AddresseeRef, CallRef, CommitRef, CompletionRef, DecodeError, EventRef, Pairs, RecordRef,
    StateRef, TimerRef, kind,
};
use crate::log::disk::Disk;
use crate::log::frame::Frame;

/// Which commits to write out, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DumpRange {
    /// The first.
    pub first_commit: u64,
    /// The last.
    pub last_commit: u64,
}

impl Default for DumpRange {
    fn default() -> Self {
        Self { first_commit: 0, last_commit: u64::MAX }
    }
}

/// What [`dump`] wrote.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DumpReport {
    /// Lines written.
    pub records: u64,
    /// What could not be written because it is damaged.
    pub damages: Vec<Damage>,
}

impl DumpReport {
    /// Whether nothing was damaged.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.damages.is_empty()
    }
}

/// Writes the records of a data directory's logs, of one bus where it is named, to `out`.
///
/// # Errors
/// There is no log, a host has it open, a file cannot be read, or `out` does not take it. Damage is
/// passed over and reported.
pub fn dump(
    disk: &dyn Disk,
    data: &Path,
    bus: Option<&str>,
    range: DumpRange,
    out: &mut dyn Write,
) -> Result<DumpReport, ToolError> {
    let mut report = DumpReport::default();
    for files in BusFiles::find(disk, data, bus)? {
        let segments = files.segments()?;
        let log_id = files.log_id(&segments)?;
        walk(log_id, &segments, &mut |met| {
            match met {
                Met::Frame { file, offset, frame, .. } => {
                    let mut place = Place { bus: &files.name, file, offset, out: &mut *out };
                    match place.frame(frame, range)? {
                        Ok(records) => report.records += records,
                        Err(error) => {
                            let what = error.to_string();
                            report.damages.push(Damage::content(&file.path, offset, what));
                        }
                    }
                }
                Met::Damage(damage) => report.damages.push(damage),
                Met::Segment(_) | Met::Broken { .. } | Met::End(_) => {}
            }
            Ok(())
        })?;
    }
    out.flush().map_err(ToolError::Output)?;
    Ok(report)
}

/// Where the records of a frame are, and where they go.
struct Place<'p> {
    bus: &'p str,
    file: &'p SegmentFile,
    offset: u64,
    out: &'p mut dyn Write,
}

impl Place<'_> {
    /// Writes a frame's records; the inner error is damage.
    fn frame(
        &mut self,
        frame: &Frame,
        range: DumpRange,
    ) -> Result<Result<u64, DecodeError>, ToolError> {
        let mut written = 0;
        for commit in frame.commits() {
            let commit = match commit {
                Ok(commit) => commit,
                Err(error) => return Ok(Err(error)),
            };
            if !(range.first_commit..=range.last_commit).contains(&commit.number.0) {
                continue;
            }
            for record in commit.records() {
                match record {
                    // How frames hang together is no content.
                    Ok(RecordRef::Unknown { kind: kind::CHAIN }) => continue,
                    Ok(record) => self.line(&commit, &record)?,
                    Err(error) => return Ok(Err(error)),
                }
                written += 1;
            }
        }
        Ok(Ok(written))
    }

    fn line(&mut self, commit: &CommitRef<'_>, record: &RecordRef<'_>) -> Result<(), ToolError> {
        let mut line = Map::new();
        line.insert("bus".to_owned(), json!(self.bus));
        line.insert("segment".to_owned(), json!(self.file.number));
        line.insert("frame_offset".to_owned(), json!(self.offset));
        if !matches!(record, RecordRef::Seal(_)) {
            line.insert("commit".to_owned(), json!(commit.number.0));
        }
        line.insert("log_time_ms".to_owned(), json!(commit.time_ms));
        line.insert("record".to_owned(), json!(kind_name(record)));
        if let Value::Object(fields) = fields(record) {
            // What is absent is left out, so that a line shows what is there.
            line.extend(fields.into_iter().filter(|(_, value)| !value.is_null()));
        }
        let written = serde_json::to_writer(&mut *self.out, &line).map_err(std::io::Error::from);
        written.and_then(|()| self.out.write_all(b"\n")).map_err(ToolError::Output)
    }
}

fn fields(record: &RecordRef<'_>) -> Value {
    match record {
        RecordRef::Commit(meta) => json!({ "tenant": meta.tenant, "region": meta.region }),
        RecordRef::Event(event) => event_fields(event),
        RecordRef::Completion(done) => completion_fields(done),
        RecordRef::State(StateRef { name, value, expires_ms }) => {
            let (text, base64) = value.map_or((None, None), bytes);
            json!({ "name": name, "value": text, "value_base64": base64, "expires_ms": expires_ms,
                "removed": value.is_none().then_some(true) })
        }
        RecordRef::Timer(TimerRef::Set { name, due_ms, data }) => {
            let (text, base64) = bytes(data);
            json!({ "name": name, "due_ms": due_ms, "data": text, "data_base64": base64 })
        }
        RecordRef::Timer(TimerRef::Cancel { name }) => json!({ "name": name, "cancelled": true }),
        RecordRef::Call(call) => call_fields(call),
        RecordRef::DeadLetter(letter) => json!(letter),
        RecordRef::Control(control) => json!(control),
        RecordRef::Seal(seal) => json!(seal),
        RecordRef::Unknown { kind } => json!({ "kind": kind }),
    }
}

fn event_fields(event: &EventRef<'_>) -> Value {
    let (text, base64) = bytes(event.data);
    let (plugin, bus) = match event.addressee {
        Some(AddresseeRef::Plugin(instance)) => (Some(instance), None),
        Some(AddresseeRef::Bus(bus)) => (None, Some(bus)),
        None => (None, None),
    };
    json!({
        "position": event.position,
        "sequence": (event.sequence.0 > 0).then_some(event.sequence),
        "id": event.id,
        "source": event.source,
        "type": event.kind,
        "key": event.key,
        "time": event.time.map(|(text, _)| text),
        "datacontenttype": some_text(event.content_type),
        "data": text,
        "data_base64": base64,
        "attributes": pairs(&event.attributes),
        "schema_version": (event.schema_version > 0).then_some(event.schema_version),
        "emitter": event.emitter,
        "depth": (event.depth > 0).then_some(event.depth),
        "causation": event.causation,
        "addressee_plugin": plugin,
        "addressee_bus": bus,
        "origin": event.origin.map(|origin| {
            json!({ "region": origin.region, "bus": origin.bus, "position": origin.position })
        }),
        "principal": some_text(event.principal),
        "encryption_key": event.encryption_key,
    })
}

fn completion_fields(done: &CompletionRef<'_>) -> Value {
    json!({
        "instance": done.instance,
        "generation": done.generation,
        "position": done.position,
        "key": done.key,
        "environment": done.environment.to_string(),
        "attempt": done.attempt,
        "mode": done.mode,
        "outcome": done.outcome,
        "fuel": done.fuel,
        "response": done.response.as_ref().map(|response| {
            let (text, base64) = bytes(response.data);
            json!({
                "content_type": response.content_type,
                "data": text,
                "data_base64": base64,
                "attributes": pairs(&response.attributes),
            })
        }),
    })
}

fn call_fields(call: &CallRef<'_>) -> Value {
    let (text, base64) = bytes(call.body);
    json!({
        "idempotency_key": call.idempotency_key,
        "name": call.name,
        "method": call.method,
        "url": call.url,
        "headers": pairs(&call.headers),
        "timeout_ms": call.timeout_ms,
        "body": text,
        "body_base64": base64,
    })
}

/// Bytes as text, or else as base64; neither where there are none.
fn bytes(bytes: &[u8]) -> (Option<&str>, Option<String>) {
    use base64::Engine as _;
    if bytes.is_empty() {
        return (None, None);
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text), None),
        Err(_) => (None, Some(base64::engine::general_purpose::STANDARD.encode(bytes))),
    }
}

fn some_text(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// An array of pairs rather than an object: headers may repeat.
fn pairs(pairs: &Pairs<'_>) -> Option<Value> {
    (!pairs.is_empty()).then(|| pairs.iter().map(|(name, value)| json!([name, value])).collect())
}

impl fmt::Display for DumpReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for damage in &self.damages {
            writeln!(f, "DAMAGED {damage}")?;
        }
        Ok(())
    }
}
