//! The JSON format: structured and batch mode, and one event a line.
//!
//! Two passes. The first takes a body apart into members without looking into them, so that
//! whatever is not JSON is found with its line and column; the second gives members their meaning.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::attributes::{shown, twice};
use super::media::is_json;
use super::{BadEvent, BadInput, EventBuilder, invalid, json_error};
use crate::api::host::Publish;
use crate::event::InvalidEvent;
use crate::limits;

const AN_EVENT: &str = "a CloudEvent, which is an object";
const A_BATCH: &str = "a batch, which is an array of CloudEvents";

/// Reads the body of a structured request.
pub(super) fn read_structured(body: &[u8]) -> Result<Publish, BadInput> {
    Ok(read_line(body)?)
}

/// Reads one event that stands alone on a line, as in a file for `publish --batch`.
///
/// # Errors
/// [`BadEvent`] for the first thing that is wrong; a JSON error counts lines from this one.
pub fn read_line(line: &[u8]) -> Result<Publish, BadEvent> {
    let members: Members<'_> = serde_json::from_slice(line).map_err(|e| not(AN_EVENT, &e))?;
    Ok(event(&members)?)
}

/// Reads the body of a batch request.
pub(super) fn read_batch(body: &[u8]) -> Result<Vec<Publish>, BadInput> {
    let mut at = None;
    let batch = batch(body, &mut at).map_err(|error| match at.filter(|_| error.is_data()) {
        Some(index) => BadInput::at(index, not(AN_EVENT, &error)),
        None => not(A_BATCH, &error).into(),
    })?;
    let actual = batch.events.len() + batch.beyond;
    if actual > limits::BATCH_EVENTS_MAX {
        let (limit, actual) = (limits::BATCH_EVENTS_MAX as u64, actual as u64);
        return Err(BadEvent::TooMany { limit, actual }.into());
    }
    let events = batch.events.iter().enumerate();
    events.map(|(index, members)| event(members).map_err(|e| BadInput::at(index, e))).collect()
}

/// What is wrong with a body that is to be of this shape.
fn not(expected: &'static str, error: &serde_json::Error) -> BadEvent {
    if error.is_data() { BadEvent::NotAnEvent { expected } } else { json_error(error) }
}

/// Takes a batch apart; `at`: the event it has come to.
fn batch<'a>(body: &'a [u8], at: &mut Option<usize>) -> Result<Batch<'a>, serde_json::Error> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let batch = json.deserialize_seq(BatchVisitor { at })?;
    json.end()?;
    Ok(batch)
}

fn event(members: &Members<'_>) -> Result<Publish, InvalidEvent> {
    let mut builder = EventBuilder::default();
    let (mut data, mut data_base64) = (None, None);
    for (name, value) in &members.0 {
        let slot = match &**name {
            "data" => &mut data,
            "data_base64" => &mut data_base64,
            _ => {
                attribute(&mut builder, name, value)?;
                continue;
            }
        };
        if slot.replace(*value).is_some() {
            return Err(twice(name));
        }
    }
    let present = |value: &&RawValue| value.get() != "null";
    let data = match (data.filter(present), data_base64.filter(present)) {
        (Some(_), Some(_)) => return Err(invalid("data_base64", "excludes `data`; send one")),
        (Some(value), None) => data_bytes(value, builder.content_type())?,
        (None, Some(value)) => base64_bytes(value)?,
        (None, None) => Bytes::new(),
    };
    builder.finish(data)
}

/// Strings, and for extensions integers and booleans, whose canonical text is what is kept.
fn attribute(builder: &mut EventBuilder, name: &str, value: &RawValue) -> Result<(), InvalidEvent> {
    const STRINGS_ONLY: [&str; 9] = [
        "specversion",
        "id",
        "source",
        "type",
        "subject",
        "time",
        "datacontenttype",
        "dataschema",
        "partitionkey",
    ];
    let text = value.get();
    match text.as_bytes().first() {
        Some(b'"') => builder.attribute(name, &string(name, value)?),
        Some(b'n') => builder.absent(name),
        Some(b't' | b'f' | b'-' | b'0'..=b'9') if STRINGS_ONLY.contains(&name) => {
            Err(invalid(name, "must be a string"))
        }
        Some(b't' | b'f') => builder.attribute(name, text),
        Some(b'-' | b'0'..=b'9') => match text.parse::<i64>() {
            Ok(number) => builder.attribute(name, &number.to_string()),
            Err(_) => Err(invalid(&shown(name), format!("`{}` is not an integer", shown(text)))),
        },
        _ => Err(invalid(&shown(name), "must be a string, an integer or a boolean")),
    }
}

/// JSON data is the text of the value, byte for byte; other data is what the string says.
fn data_bytes(value: &RawValue, content_type: &str) -> Result<Bytes, InvalidEvent> {
    let text = value.get();
    if content_type.is_empty() || is_json(content_type) {
        return Ok(Bytes::copy_from_slice(text.as_bytes()));
    }
    if !text.starts_with('"') {
        let why = format!(
            "must be a string, or stand in `data_base64`, because `datacontenttype` is `{}`",
            shown(content_type)
        );
        return Err(invalid("data", why));
    }
    string("data", value).map(|text| Bytes::from(text.into_owned()))
}

fn base64_bytes(value: &RawValue) -> Result<Bytes, InvalidEvent> {
    let wrong = || invalid("data_base64", "is not a string of padded standard base64");
    if !value.get().starts_with('"') {
        return Err(wrong());
    }
    let text = string("data_base64", value)?;
    STANDARD.decode(&*text).map(Bytes::from).map_err(|_| wrong())
}

fn string<'a>(name: &str, value: &'a RawValue) -> Result<Cow<'a, str>, InvalidEvent> {
    serde_json::from_str::<Name<'a>>(value.get())
        .map(|text| text.0)
        .map_err(|_| invalid(&shown(name), "has an escape that stands for no character"))
}

/// The members of an object, in order, repeated ones included.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// The events of a batch, as far as they may be kept.
struct Batch<'a> {
    events: Vec<Members<'a>>,
    beyond: usize,
}

/// A JSON string, borrowed where it has no escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(text)))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(AN_EVENT)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::with_capacity(10);
                while let Some((Name(name), value)) =
                    map.next_entry::<Name<'de>, &'de RawValue>()?
                {
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}

/// `at`: the index of the event that is being read.
struct BatchVisitor<'i> {
    at: &'i mut Option<usize>,
}

impl<'de> Visitor<'de> for BatchVisitor<'_> {
    type Value = Batch<'de>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(A_BATCH)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Batch<'de>, A::Error> {
        let (mut events, mut beyond) = (Vec::new(), 0);
        while events.len() < limits::BATCH_EVENTS_MAX {
            *self.at = Some(events.len());
            let Some(members) = seq.next_element()? else { break };
            events.push(members);
        }
        while seq.next_element::<&'de RawValue>()?.is_some() {
            beyond += 1;
        }
        Ok(Batch { events, beyond })
    }
}
