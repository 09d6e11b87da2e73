//! What a guest may write: checks of its strings and lists, as pure functions.
//!
//! Each answers with a sentence for the author of the plugin; nothing here keeps or counts.

use std::sync::Arc;

use crate::event::{SCHEMA_VERSION, has_control, schema_version};
use crate::limits;

/// A string as it is kept.
pub(super) type Text = Arc<str>;

/// Attributes a guest may not set, because they have a field of their own or a meaning at ingest.
const ATTRIBUTES_RESERVED: [&str; 9] = [
    "data",
    "datacontenttype",
    "expectedsequence",
    "id",
    "partitionkey",
    "source",
    "specversion",
    "time",
    "type",
];

/// Attributes the host fills in on every emitted event. Dropped rather than refused, so that a
/// guest may pass on the attributes of its input.
const ATTRIBUTES_OF_HOST: [&str; 4] = ["causationid", "correlationid", "traceparent", "tracestate"];

/// What the names of attributes begin with that the host writes on events as they leave it, and on
/// commands. Dropped like those above.
const PREFIX_OF_HOST: &str = "tidegate";

/// Headers of a call that say how it is sent, which the guest does not decide. The idempotency key is
/// the host's word too.
const HEADERS_OF_HOST: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "idempotency-key",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Checks a name: of a state value, a timer, a call.
pub(super) fn name(what: &str, text: &str) -> Result<(), String> {
    bounded(what, text, limits::NAME_BYTES_MAX)
}

/// Checks the type of an event to be emitted.
pub(super) fn event_type(text: &str) -> Result<(), String> {
    bounded("`type`", text, limits::TYPE_BYTES_MAX)?;
    if text.starts_with("tidegate.") {
        return Err(format!("`type` is `{text}`: types starting `tidegate.` are the host's own"));
    }
    Ok(())
}

/// Checks a media type; empty: none.
pub(super) fn content_type(text: &str) -> Result<(), String> {
    if text.is_empty() {
        Ok(())
    } else {
        bounded("`content-type`", text, limits::CONTENT_TYPE_BYTES_MAX)
    }
}

/// Checks the length of some bytes against a limit that is not a budget.
pub(super) fn bytes(what: &str, bytes: usize, bytes_max: usize) -> Result<(), String> {
    if bytes > bytes_max {
        return Err(format!("{what} has {bytes} bytes, at most {bytes_max} are allowed"));
    }
    Ok(())
}

/// Checks the number of attributes, before any of them is looked at.
pub(super) fn attribute_count(count: usize) -> Result<(), String> {
    if count > limits::ATTRIBUTES_MAX {
        return Err(format!(
            "there are {count} attributes, at most {} are allowed",
            limits::ATTRIBUTES_MAX
        ));
    }
    Ok(())
}

/// Checks the attributes of an event to be emitted and puts them in order.
pub(super) fn event_attributes(attributes: Vec<(Text, Text)>) -> Result<Vec<(Text, Text)>, String> {
    let mut attributes = parameters(attributes)?;
    if let Some((name, _)) =
        attributes.iter().find(|(name, _)| ATTRIBUTES_RESERVED.contains(&&**name))
    {
        return Err(format!("attribute `{name}` is not an extension"));
    }
    attributes.retain(|(name, _)| !is_of_host(name) && !name.starts_with(PREFIX_OF_HOST));
    let version = attributes.iter().find(|(name, _)| **name == *SCHEMA_VERSION);
    if let Some((name, value)) = version.filter(|(_, value)| schema_version(value).is_none()) {
        let value = shown(value);
        return Err(format!("attribute `{name}` is `{value}`, not a whole number from 1"));
    }
    Ok(attributes)
}

/// Whether a name and value can stand among the attributes of an emitted event.
pub(super) fn is_extension(name: &str, value: &str) -> bool {
    let version = name != SCHEMA_VERSION || schema_version(value).is_some();
    let of_guest = !is_reserved(name) && !name.starts_with(PREFIX_OF_HOST);
    of_guest && is_attribute_name(name) && !has_control(value) && version
}

/// Whether an attribute has a field of its own, or a meaning at ingest.
pub(super) fn is_reserved(name: &str) -> bool {
    ATTRIBUTES_RESERVED.contains(&name)
}

/// Whether the host fills an attribute in on every emitted event.
pub(super) fn is_of_host(name: &str) -> bool {
    ATTRIBUTES_OF_HOST.contains(&name)
}

fn is_attribute_name(name: &str) -> bool {
    let letters = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    !name.is_empty() && name.len() <= limits::ATTRIBUTE_NAME_BYTES_MAX && letters
}

/// Checks the attributes of a response and puts them in order.
pub(super) fn parameters(mut attributes: Vec<(Text, Text)>) -> Result<Vec<(Text, Text)>, String> {
    attribute_count(attributes.len())?;
    for (name, value) in &attributes {
        if !is_attribute_name(name) {
            return Err(format!(
                "attribute name `{}` must have 1 to {} characters of a-z and 0-9",
                shown(name),
                limits::ATTRIBUTE_NAME_BYTES_MAX
            ));
        }
        if has_control(value) {
            return Err(format!("attribute `{name}` has a control character"));
        }
    }
    bytes("all attributes together", size(&attributes), limits::ATTRIBUTES_BYTES_MAX)?;
    attributes.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    match attributes.windows(2).find(|pair| matches!(pair, [(one, _), (other, _)] if one == other))
    {
        Some(pair) => Err(format!(
            "attribute `{}` is there twice",
            pair.first().map_or("", |(name, _)| &**name)
        )),
        None => Ok(attributes),
    }
}

/// Checks the headers of a call.
pub(super) fn headers(headers: &[(Text, Text)]) -> Result<(), String> {
    attribute_count(headers.len())?;
    for (name, value) in headers {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(token) {
            return Err(format!("`{}` is not the name of a header", shown(name)));
        }
        if has_control(value) {
            return Err(format!("header `{}` has a control character", shown(name)));
        }
        if HEADERS_OF_HOST.iter().any(|of_host| name.eq_ignore_ascii_case(of_host)) {
            return Err(format!("header `{}` is the host's to set", shown(name)));
        }
    }
    bytes("all headers together", size(headers), limits::ATTRIBUTES_BYTES_MAX)
}

/// Checks a method: upper-case letters.
pub(super) fn method(text: &str) -> Result<(), String> {
    if text.is_empty() || text.len() > 16 || !text.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return Err(format!("`method` is `{}`, not like `GET` or `POST`", shown(text)));
    }
    Ok(())
}

/// Bytes of all names and values.
pub(super) fn size(pairs: &[(Text, Text)]) -> usize {
    pairs.iter().map(|(name, value)| name.len() + value.len()).sum()
}

/// The start of a text of unknown length.
pub(super) fn cut(text: &str, bytes_max: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes_max)).unwrap_or_default()
}

fn shown(text: &str) -> &str {
    cut(text, 64)
}

fn bounded(what: &str, text: &str, bytes_max: usize) -> Result<(), String> {
    if text.is_empty() || text.len() > bytes_max {
        return Err(format!("{what} must have 1 to {bytes_max} bytes, not {}", text.len()));
    }
    if has_control(text) {
        return Err(format!("{what} has a control character"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(names: &[&str]) -> Vec<(Text, Text)> {
        names.iter().map(|name| (Text::from(*name), Text::from("x"))).collect()
    }

    #[test]
    fn attributes_come_out_in_order_and_without_the_hosts_own() {
        let given = ["b", "traceparent", "tidegateposition", "a", "tidegatecommand"];
        let sorted = event_attributes(pairs(&given)).unwrap();
        assert_eq!(sorted, pairs(&["a", "b"]));
    }

    #[test]
    fn malformed_attributes_are_refused() {
        for names in
            [&["a", "a"][..], &["A"], &[""], &["a-b"], &["time"], &["abcdefghijklmnopqrstu"]]
        {
            assert!(event_attributes(pairs(names)).is_err(), "{names:?}");
        }
        let many: Vec<String> = (0..=limits::ATTRIBUTES_MAX).map(|n| format!("a{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(event_attributes(pairs(&many)).is_err());
        let large = vec![(Text::from("a"), Text::from("x".repeat(limits::ATTRIBUTES_BYTES_MAX)))];
        assert!(event_attributes(large).is_err());
        assert!(event_attributes(vec![(Text::from("a"), Text::from("x\ny"))]).is_err());
    }

    #[test]
    fn types_of_the_host_are_refused() {
        assert!(event_type("tidegate.timer").is_err());
        assert!(event_type("").is_err());
        assert!(event_type("a\nb").is_err());
        assert!(event_type("tidegates.moved").is_ok());
    }

    #[test]
    fn cutting_keeps_characters_whole() {
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(cut("aé", 3), "aé");
    }
}
