//! Binary mode: attributes in `ce-` headers, data in the body.

use std::borrow::Cow;

use axum::http::{HeaderMap, header};
use bytes::Bytes;
use serde_json::value::RawValue;

use super::media::is_json;
use super::{BadEvent, EventBuilder, invalid, json_error};
use crate::api::host::Publish;
use crate::event::InvalidEvent;

/// Reads a binary request.
pub(super) fn read(headers: &HeaderMap, body: &Bytes) -> Result<Publish, BadEvent> {
    let mut builder = EventBuilder::default();
    for (name, value) in headers {
        let Some(name) = name.as_str().strip_prefix("ce-") else { continue };
        if name == "datacontenttype" {
            return Err(invalid(name, "travels as the header `Content-Type` in binary mode").into());
        }
        builder.attribute(name, &decode(name, value.as_bytes())?)?;
    }
    let mut content_types = headers.get_all(header::CONTENT_TYPE).iter();
    if let Some(value) = content_types.next() {
        let text = value.to_str().map_err(|_| invalid("datacontenttype", "is not ASCII"))?;
        if !text.is_empty() {
            builder.attribute("datacontenttype", text)?;
        }
    }
    if content_types.next().is_some() {
        return Err(super::attributes::twice("datacontenttype").into());
    }
    if is_json(builder.content_type()) && !body.is_empty() {
        // Text, and not only brackets in the right places.
        serde_json::from_slice::<&RawValue>(body).map_err(|e| json_error(&e))?;
    }
    Ok(builder.finish(body.clone())?)
}

/// A header value as section 3.1.3.2 of the HTTP binding says: unquoted where it is quoted, then
/// percent-decoded.
fn decode(name: &str, value: &[u8]) -> Result<String, InvalidEvent> {
    String::from_utf8(percent_decode(&unquote(value))).map_err(|_| invalid(name, NOT_UTF8))
}

/// What is wrong with text that has other bytes behind its escapes.
pub(in crate::api) const NOT_UTF8: &str = "is not UTF-8 once percent-decoded";

/// A `%` that begins no escape stands for itself, because not every client encodes.
pub(in crate::api) fn percent_decode(mut rest: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(rest.len());
    while let Some((first, after)) = rest.split_first() {
        match (first, after) {
            (b'%', [high, low, after @ ..])
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                bytes.push(hex(*high) << 4 | hex(*low));
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

fn unquote(value: &[u8]) -> Cow<'_, [u8]> {
    let inner = value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\""));
    let Some(inner) = inner else { return Cow::Borrowed(value) };
    let mut plain = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => plain.extend(bytes.next()),
            _ => plain.push(*byte),
        }
    }
    Cow::Owned(plain)
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit - b'A' + 10,
    }
}
