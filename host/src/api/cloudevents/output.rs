//! Events as they go out: one, several, or as headers and a body.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::value::RawValue;

use super::media::{is_json, is_text};
use super::own;
use crate::api::view::Timestamp;
use crate::event::{Event, KeyVariant, SCHEMA_VERSION};

/// One event as a JSON object on one line, unless its data has line breaks.
#[must_use]
pub fn write_json(event: &Event) -> Vec<u8> {
    // Serialising plain text and numbers into memory has no way to fail.
    serde_json::to_vec(&Structured(event)).unwrap_or_default()
}

/// Several events as a JSON array.
pub fn write_batch<'a>(events: impl Iterator<Item = &'a Event>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut serializer = serde_json::Serializer::new(&mut out);
    // As above.
    let _ = serializer.serialize_seq(None).and_then(|mut seq| {
        for event in events {
            seq.serialize_element(&Structured(event))?;
        }
        SerializeSeq::end(seq)
    });
    out
}

/// One event in binary mode: the headers, without the `Content-Type` of the data, and the body.
#[must_use]
pub fn to_binary(event: &Event) -> (Vec<(String, String)>, Bytes) {
    let mut headers = Vec::new();
    each_attribute(event, |name, value| {
        if name != "datacontenttype" {
            headers.push((format!("ce-{name}"), percent_encode(value)));
        }
    });
    (headers, event.data.clone())
}

/// The media type of the data; empty: nobody said it, and the data is not JSON. JSON whose type nobody
/// said is `application/json`, by the JSON format of CloudEvents.
#[must_use]
pub fn media_type(event: &Event) -> &str {
    match &*event.content_type {
        "" if matches!(data(event), Data::Json(_)) => "application/json",
        said => said,
    }
}

/// Names every attribute once, `specversion` first.
fn each_attribute(event: &Event, mut take: impl FnMut(&str, &str)) {
    take("specversion", "1.0");
    take("id", &event.id);
    take("source", &event.source);
    take("type", &event.kind);
    if let Some(key) = &event.key {
        let name = match event.key_variant {
            KeyVariant::Subject => "subject",
            KeyVariant::PartitionKey | KeyVariant::None => "partitionkey",
        };
        take(name, key.as_str());
    }
    if let Some(time) = &event.time {
        take("time", &time.text);
    }
    if !event.content_type.is_empty() {
        take("datacontenttype", &event.content_type);
    }
    if let Some(version) = event.schema_version_text() {
        take(SCHEMA_VERSION, &version);
    }
    for (name, value) in &event.attributes {
        take(name, value);
    }
    take(own::POSITION, &event.position.to_string());
    if event.sequence.0 > 0 {
        take(own::SEQUENCE, &event.sequence.to_string());
    }
    take(own::RECORDED, &Timestamp(event.recorded_ms).to_string());
    if event.depth > 0 {
        take(own::DEPTH, &event.depth.to_string());
    }
    if let Some(position) = event.causation {
        take(own::CAUSATION, &position.to_string());
    }
}

/// Spaces, quotes, `%` and everything outside printable ASCII, as the HTTP binding demands.
pub(in crate::api) fn percent_encode(value: &str) -> String {
    const HEX: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or('0');
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_graphic() && !matches!(byte, b'"' | b'%') {
            encoded.push(char::from(byte));
        } else {
            encoded.extend(['%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
    encoded
}

/// An event in the JSON format.
struct Structured<'a>(&'a Event);

impl Serialize for Structured<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let event = self.0;
        let mut map = serializer.serialize_map(None)?;
        let mut result = Ok(());
        each_attribute(event, |name, value| {
            if result.is_ok() {
                result = map.serialize_entry(name, value);
            }
        });
        result?;
        match data(event) {
            Data::None => {}
            Data::Json(json) => map.serialize_entry("data", json)?,
            Data::Text(text) => map.serialize_entry("data", text)?,
            Data::Bytes(bytes) => map.serialize_entry("data_base64", &STANDARD.encode(bytes))?,
        }
        map.end()
    }
}

enum Data<'a> {
    None,
    Json(&'a RawValue),
    Text(&'a str),
    Bytes(&'a [u8]),
}

fn data(event: &Event) -> Data<'_> {
    if event.data.is_empty() {
        return Data::None;
    }
    if event.content_type.is_empty() || is_json(&event.content_type) {
        if let Ok(json) = serde_json::from_slice(&event.data) {
            return Data::Json(json);
        }
    } else if is_text(&event.content_type)
        && let Ok(text) = std::str::from_utf8(&event.data)
    {
        return Data::Text(text);
    }
    Data::Bytes(&event.data)
}
