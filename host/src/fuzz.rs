//! What decides on bytes that somebody else wrote, as functions of bytes: each must come to an end, in a
//! value or an error, and never panic.
//!
//! The tests beside this file feed them the corpora in `tests/fuzz/corpus` and random changes of
//! those, a little on every build, and for as long as one says with `TIDEGATE_FUZZ_SECONDS`. They
//! have the form that a fuzzer guided by coverage wants.

mod recovery;
mod tests;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use bytes::Bytes;

pub use self::recovery::recovery;
use crate::api::cloudevents;
use crate::config::{Config, Flags};
use crate::log::codec::{HEADER_BYTES, Header, Salt};
use crate::log::frame::Frame;
use crate::plugin::manifest::Manifest;
use crate::wasm::compile::prepare;
use crate::wasm::engine::compile_config;

/// A target: its name and the function.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 8] = [
    ("records", records),
    ("recovery", recovery),
    ("checkpoint", checkpoint),
    ("manifest", manifest),
    ("config", config),
    ("http", http),
    ("module", module),
    ("stdio", stdio),
];

/// The salt of what [`records`] reads.
pub(crate) fn salt() -> Salt {
    Salt::new(*b"0123456789abcdef", 3)
}

/// Records of a frame. Its checksums are right: what they would catch is behind us.
///
/// The first 16 bytes say how many commits, events and records there are and how the rest is split
/// into metadata and payload.
pub fn records(bytes: &[u8]) {
    let Some((numbers, body)) = bytes.split_first_chunk::<16>() else { return };
    let number = |at: usize| {
        let bytes = numbers.get(at..at + 4).and_then(|bytes| bytes.first_chunk::<4>());
        u32::from_le_bytes(bytes.copied().unwrap_or_default())
    };
    let metadata_bytes = (number(12) as usize).min(body.len());
    let (metadata, payload) = body.split_at(metadata_bytes);
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let header = Header {
        log_id: salt().log_id,
        segment: salt().segment,
        epoch: 1,
        first_commit: 1,
        first_position: 1,
        commit_count: number(0),
        event_count: number(4),
        record_count: number(8),
        metadata_bytes: length(metadata),
        payload_bytes: length(payload),
        ..Header::default()
    };
    let frame_bytes = usize::try_from(header.frame_bytes()).unwrap_or(usize::MAX);
    let mut payload = payload.to_vec();
    payload.resize(frame_bytes.saturating_sub(HEADER_BYTES + metadata.len()), 0);
    let mut frame = header.encode(salt(), metadata, &payload).to_vec();
    frame.extend_from_slice(metadata);
    frame.extend_from_slice(&payload);
    let Ok(frame) = Frame::open(&Bytes::from(frame), salt()) else { return };
    for commit in frame.commits() {
        let Ok(commit) = commit else { return };
        if commit.records().any(|record| record.is_err()) {
            return;
        }
    }
    let _ = frame.events();
}

/// A checkpoint whose checksums are right.
pub fn checkpoint(bytes: &[u8]) {
    crate::state::checkpoint::fuzz(bytes);
}

/// A manifest; one that is taken is taken again as it is written down in the log.
pub fn manifest(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(manifest) = Manifest::parse("plugin.toml", text) else { return };
    let written = manifest.to_toml();
    let again = Manifest::parse("plugin.toml", &written);
    assert_eq!(again.ok().as_ref(), Some(&manifest), "what was written down is another: {written}");
}

/// A configuration file.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = Config::from_text(text, &Flags::default());
}

/// The body of a request that publishes, and its headers: what the first line says, as `name: value` with
/// `|` between two.
pub fn http(bytes: &[u8]) {
    let (head, body) = match bytes.iter().position(|byte| *byte == b'\n') {
        Some(at) => (bytes.get(..at).unwrap_or_default(), bytes.get(at + 1..).unwrap_or_default()),
        None => (&b"content-type: application/cloudevents+json"[..], bytes),
    };
    let mut headers = HeaderMap::new();
    for field in head.split(|byte| *byte == b'|') {
        let Some(at) = field.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = field.split_at(at);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            headers.append(name, value);
        }
    }
    headers.remove(header::CONTENT_LENGTH);
    let Ok(batch) = cloudevents::read(&headers, &Bytes::copy_from_slice(body)) else { return };
    for publish in batch {
        let event = crate::event::Event {
            position: crate::event::Position(1),
            sequence: crate::event::KeySequence(1),
            recorded_ms: 1,
            commit: crate::event::CommitNumber(1),
            body: publish.event,
        };
        // What is taken can be given back, and is the same event then.
        let written = cloudevents::write_json(&event);
        // Data may hold numbers that no `Value` has room for, and be JSON all the same.
        let parsed: Result<serde::de::IgnoredAny, _> = serde_json::from_slice(&written);
        assert!(parsed.is_ok(), "an event is given back as no JSON");
        let _ = cloudevents::to_binary(&event);
    }
}

/// A module on its way to the compiler: recognised, validated, encoded, described.
pub fn module(bytes: &[u8]) {
    const MODULE_BYTES_MAX: u64 = 1 << 20;
    thread_local! {
        static ENGINE: Option<wasmtime::Engine> = wasmtime::Engine::new(&compile_config()).ok();
    }
    ENGINE.with(|engine| {
        let Some(engine) = engine else { return };
        if let Ok(prepared) = prepare(engine, bytes, MODULE_BYTES_MAX) {
            let _ = prepared.shape.check(prepared.kind);
        }
    });
}

/// What a stdio module printed.
pub fn stdio(bytes: &[u8]) {
    crate::wasm::fuzz_printed(bytes);
}
