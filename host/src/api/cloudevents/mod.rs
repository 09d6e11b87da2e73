//! CloudEvents 1.0 over HTTP: structured, binary and batch mode, in and out.
//!
//! In: [`read`] takes the headers and the body of a request. `data` of a JSON event is kept byte for
//! byte; attributes that are integers or booleans become their canonical text; `null` is the same as
//! absent; a member given twice is an error, because two readers would disagree on it. A plain
//! `application/json` body is *not* taken for an event: the media type says which mode it is.
//!
//! Out: the attributes as they were sent, and these, which the host alone writes. All are strings,
//! because a CloudEvents integer has 32 bits only. On the way in they are dropped, so that what was
//! read from one bus can be published to another.
//!
//! | attribute | what it is |
//! |---|---|
//! | `tidegateposition` | number of the event in its bus |
//! | `tidegatesequence` | number of the event within its key; absent: unkeyed or private |
//! | `tidegaterecorded` | when the log took it, RFC 3339 |
//! | `tidegatedepth` | causes behind an emitted event; absent: it came from outside |
//! | `tidegatecausation` | position of the event that caused it, on the same bus |
//!
//! `schemaversion`, a whole number from 1, says the version of the schema that `data` follows; it has
//! a field of its own in the log, and upcasters go by it. `dataschema` is a name, not an order: it is
//! passed on and nothing is made of it.
//!
//! `correlationid`, `causationid`, `traceparent` and `tracestate` are attributes like any other: the
//! host fills them in on emitted events, and passes on those of published ones.

mod attributes;
mod binary;
mod json;
mod media;
mod output;

use axum::http::HeaderMap;
use bytes::Bytes;

pub(super) use binary::{NOT_UTF8, percent_decode};
pub use json::read_line;
pub use media::{BATCH, STRUCTURED};
pub(super) use output::percent_encode;
pub use output::{media_type, to_binary, write_batch, write_json};

use super::host::Publish;
use crate::event::{InvalidEvent, KeySequence};
use attributes::EventBuilder;
use media::Mode;

/// The header that stands for the attribute `expectedsequence`.
pub const EXPECTED_SEQUENCE_HEADER: &str = "tidegate-expected-sequence";
/// The condition, as an attribute: never stored.
pub const EXPECTED_SEQUENCE: &str = "expectedsequence";

/// Attributes the host alone writes, and their common beginning.
pub(crate) mod own {
    /// No other attribute may begin like this.
    pub(crate) const PREFIX: &str = "tidegate";
    pub(crate) const POSITION: &str = "tidegateposition";
    pub(crate) const SEQUENCE: &str = "tidegatesequence";
    pub(crate) const RECORDED: &str = "tidegaterecorded";
    pub(crate) const DEPTH: &str = "tidegatedepth";
    pub(crate) const CAUSATION: &str = "tidegatecausation";
    pub(crate) const ALL: [&str; 5] = [POSITION, SEQUENCE, RECORDED, DEPTH, CAUSATION];
}

/// Why a request holds no events.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadEvent {
    /// Not JSON.
    #[error("not valid JSON at line {line}, column {column}: {why}")]
    Json {
        /// Line of the body, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What the parser says.
        why: String,
    },
    /// JSON, but not an object, or not an array.
    #[error("not {expected}")]
    NotAnEvent {
        /// What it should be.
        expected: &'static str,
    },
    /// An attribute is wrong.
    #[error(transparent)]
    Invalid(#[from] InvalidEvent),
    /// The media type is none that carries events.
    #[error("{why}")]
    MediaType {
        /// What it is, and what to send.
        why: String,
    },
    /// The batch has too many events.
    #[error("the batch has {actual} events, at most {limit} are allowed")]
    TooMany {
        /// Events allowed.
        limit: u64,
        /// Events found.
        actual: u64,
    },
}

/// Why a request holds no events, and which one of a batch it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadInput {
    /// Index in the batch, from 0.
    pub index: Option<usize>,
    /// What is wrong.
    pub problem: BadEvent,
}

impl<E: Into<BadEvent>> From<E> for BadInput {
    fn from(problem: E) -> Self {
        Self { index: None, problem: problem.into() }
    }
}

impl BadInput {
    fn at(index: usize, problem: impl Into<BadEvent>) -> Self {
        Self { index: Some(index), problem: problem.into() }
    }
}

/// Reads the events of a request, in whichever mode its headers say.
///
/// # Errors
/// [`BadInput`] for the first thing that is wrong.
pub fn read(headers: &HeaderMap, body: &Bytes) -> Result<Vec<Publish>, BadInput> {
    let condition = condition_header(headers)?;
    let mode = media::mode(headers)?;
    if mode == Mode::Batch {
        if condition.is_some() {
            return Err(invalid(
                EXPECTED_SEQUENCE_HEADER,
                format!("goes with one event; in a batch use the extension `{EXPECTED_SEQUENCE}`"),
            )
            .into());
        }
        return json::read_batch(body);
    }
    let mut publish = match mode {
        Mode::Binary => binary::read(headers, body)?,
        Mode::Structured | Mode::Batch => json::read_structured(body)?,
    };
    add_trace_context(headers, &mut publish);
    if let Some(condition) = condition {
        if publish.expected.is_some_and(|expected| expected != condition) {
            return Err(invalid(
                EXPECTED_SEQUENCE_HEADER,
                format!("says {condition}, the extension `{EXPECTED_SEQUENCE}` says otherwise"),
            )
            .into());
        }
        attributes::check_condition(publish.event.key.as_ref())?;
        publish.expected = Some(condition);
    }
    Ok(vec![publish])
}

/// Whether the headers say batch mode.
#[must_use]
pub fn is_batch(headers: &HeaderMap) -> bool {
    media::mode(headers) == Ok(Mode::Batch)
}

fn condition_header(headers: &HeaderMap) -> Result<Option<KeySequence>, InvalidEvent> {
    let mut all = headers.get_all(EXPECTED_SEQUENCE_HEADER).iter();
    let Some(value) = all.next() else { return Ok(None) };
    if all.next().is_some() {
        return Err(attributes::twice(EXPECTED_SEQUENCE_HEADER));
    }
    let text = value.to_str().unwrap_or_default();
    attributes::sequence(EXPECTED_SEQUENCE_HEADER, text).map(Some)
}

/// An instrumented client says its trace in the headers of HTTP; an event that says none takes it
/// over. Deduplication does not look at it.
fn add_trace_context(headers: &HeaderMap, publish: &mut Publish) {
    if publish.event.attribute("traceparent").is_some() {
        return;
    }
    for name in ["traceparent", "tracestate"] {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        let Some(value) = value.filter(|value| attributes::is_trace_context(name, value)) else {
            return;
        };
        let attributes = &mut publish.event.attributes;
        if let Err(at) = attributes.binary_search_by(|(n, _)| (**n).cmp(name)) {
            attributes.insert(at, (name.into(), value.into()));
        }
    }
}

fn invalid(field: &str, why: impl Into<String>) -> InvalidEvent {
    InvalidEvent::Field { field: field.to_owned(), why: why.into() }
}

fn json_error(error: &serde_json::Error) -> BadEvent {
    let text = error.to_string();
    let why = text.split(" at line ").next().unwrap_or(&text).to_owned();
    // The parser says 0 where it has read nothing yet.
    BadEvent::Json { line: error.line().max(1), column: error.column().max(1), why }
}
