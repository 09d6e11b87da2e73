//! Media types: which mode a request is in, and what is JSON.

use axum::http::{HeaderMap, header};

use super::BadEvent;

/// One event in structured mode.
pub const STRUCTURED: &str = "application/cloudevents+json";
/// Several events in batch mode.
pub const BATCH: &str = "application/cloudevents-batch+json";

/// How events travel in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Structured,
    Binary,
    Batch,
}

/// The media type without its parameters, in lower case.
pub(super) fn essence(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Whether data of this type is JSON, as the CloudEvents JSON format defines it.
pub(super) fn is_json(content_type: &str) -> bool {
    let essence = essence(content_type);
    essence
        .split_once('/')
        .is_some_and(|(_, subtype)| subtype == "json" || subtype.ends_with("+json"))
}

/// Whether data of this type is text for people and programs alike, so that it may stand in JSON as
/// a string.
pub(super) fn is_text(content_type: &str) -> bool {
    let essence = essence(content_type);
    essence.starts_with("text/")
        || essence.ends_with("/xml")
        || essence.ends_with("+xml")
        || essence == "application/x-www-form-urlencoded"
}

fn charset(content_type: &str) -> Option<String> {
    content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let is_charset = name.trim().eq_ignore_ascii_case("charset");
        is_charset.then(|| value.trim().trim_matches('"').to_ascii_lowercase())
    })
}

/// Which mode the headers say.
///
/// # Errors
/// [`BadEvent::MediaType`] where it is none.
pub(super) fn mode(headers: &HeaderMap) -> Result<Mode, BadEvent> {
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        .unwrap_or_default();
    let mode = match essence(&content_type).as_str() {
        STRUCTURED => Mode::Structured,
        BATCH => Mode::Batch,
        essence if essence.starts_with("application/cloudevents") => {
            return Err(unsupported(&content_type, "the JSON format alone is supported"));
        }
        _ if headers.keys().any(|name| name.as_str().starts_with("ce-")) => {
            return Ok(Mode::Binary);
        }
        "" => {
            let what = "there is no content type, and there are no `ce-` headers";
            return Err(BadEvent::MediaType { why: format!("{what}; {}", what_to_send()) });
        }
        _ => return Err(unsupported(&content_type, "there are no `ce-` headers either")),
    };
    match charset(&content_type).as_deref() {
        None | Some("utf-8" | "utf8" | "us-ascii") => Ok(mode),
        Some(_) => Err(unsupported(&content_type, "JSON is UTF-8")),
    }
}

fn unsupported(content_type: &str, why: &str) -> BadEvent {
    let content_type = content_type.escape_debug();
    let what = format!("content type `{content_type}` is not one for events: {why}");
    BadEvent::MediaType { why: format!("{what}; {}", what_to_send()) }
}

fn what_to_send() -> String {
    format!("send `{STRUCTURED}`, `{BATCH}`, or any type with `ce-` headers")
}
