//! Attributes of events and metadata of messages, each as the other: pure.
//!
//! Rule: metadata that one component sends comes to another as it was, whatever its names.

use serde_json::Value;

use crate::event::{Event, SCHEMA_VERSION};
use crate::limits;
use crate::wasm::check::{self, Text};

/// Before the names of attributes with a field of their own, as in CloudEvents over HTTP and NATS.
const CLOUD_EVENT: &str = "ce-";
/// Before the names of what the host says of a delivery.
const HOST: &str = "tidegate-";
/// The key of an event among its metadata.
const KEY: &str = "ce-partitionkey";
/// The attribute that carries metadata whose names or values cannot be those of attributes: a JSON
/// list of pairs.
const PACKED: &str = "metadata";
/// Names of metadata that ask for a reply, and say where to.
const REPLY_TO: [&str; 2] = ["reply-to", "replyto"];

/// What becomes of the metadata of a message that is sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parts {
    /// None: the key of the input.
    pub(super) key: Option<String>,
    pub(super) attributes: Vec<(Text, Text)>,
}

/// The metadata of an event.
pub(super) fn of(event: &Event, attempt: u32) -> Vec<(String, String)> {
    let mut pairs = Vec::with_capacity(event.attributes.len() + 8);
    let mut add = |name: &str, value: &str| pairs.push((name.to_owned(), value.to_owned()));
    add("ce-id", &event.id);
    add("ce-source", &event.source);
    add("ce-type", &event.kind);
    if let Some(time) = &event.time {
        add("ce-time", &time.text);
    }
    if let Some(key) = &event.key {
        add(KEY, key.as_str());
    }
    if let Some(version) = event.schema_version_text() {
        add(SCHEMA_VERSION, &version);
    }
    add("tidegate-position", &event.position.0.to_string());
    add("tidegate-attempt", &attempt.to_string());
    for (name, value) in &event.attributes {
        match unpacked(name, value) {
            Some(packed) => pairs.extend(packed),
            None => pairs.push((name.as_ref().to_owned(), value.as_ref().to_owned())),
        }
    }
    pairs
}

/// The key and the attributes that metadata stands for. What the host says of an event by itself is
/// left out, so that a component may pass on what it got.
///
/// # Errors
/// A sentence, where there is more than an event can have. No budget of the guest covers the work here, so
/// that is bounded before it begins.
pub(super) fn to_event(metadata: Vec<(String, String)>) -> Result<Parts, String> {
    let entry =
        |(name, value): &(String, String)| limits::METADATA_ENTRY_BYTES + name.len() + value.len();
    let bytes = metadata.iter().map(entry).sum();
    check::bytes("all metadata together", bytes, limits::METADATA_BYTES_MAX)?;
    let mut parts = Parts { key: None, attributes: Vec::new() };
    let mut packed = Vec::new();
    for (name, value) in metadata {
        if name == KEY {
            parts.key = Some(value);
            continue;
        }
        if name.starts_with(HOST) || check::is_of_host(&name) {
            continue;
        }
        let bare = name.strip_prefix(CLOUD_EVENT);
        if bare.is_some_and(check::is_reserved) {
            continue;
        }
        let plain = bare.unwrap_or(&name);
        let is_new = parts.attributes.iter().all(|(known, _)| **known != *plain);
        if is_new && plain != PACKED && check::is_extension(plain, &value) {
            parts.attributes.push((plain.into(), value.into()));
            check::attribute_count(parts.attributes.len())?;
        } else {
            packed.push(Value::from(vec![name, value]));
        }
    }
    if !packed.is_empty() {
        parts.attributes.push((PACKED.into(), escaped(&Value::from(packed).to_string()).into()));
    }
    Ok(parts)
}

/// Where a message asks for a reply, if it does.
pub(super) fn reply_topic(metadata: &[(String, String)]) -> Option<&str> {
    let asks = |name: &str| REPLY_TO.iter().any(|ask| name.eq_ignore_ascii_case(ask));
    metadata.iter().find(|(name, _)| asks(name)).map(|(_, value)| value.as_str())
}

/// The pairs in an attribute, if it is the one that carries them.
fn unpacked(name: &str, value: &str) -> Option<Vec<(String, String)>> {
    if name != PACKED {
        return None;
    }
    serde_json::from_str(value).ok()
}

/// JSON without the control characters that it allows and attributes do not.
fn escaped(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for letter in json.chars() {
        if letter.is_control() {
            escaped.push_str(&format!("\\u{:04x}", u32::from(letter)));
        } else {
            escaped.push(letter);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{CommitNumber, Key, KeySequence, NewEvent, Position};

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn event(attributes: Vec<(Text, Text)>) -> Event {
        Event {
            position: Position(7),
            sequence: KeySequence(1),
            recorded_ms: 1,
            commit: CommitNumber(1),
            body: NewEvent {
                id: "1".into(),
                source: "/s".into(),
                kind: "a.b".into(),
                key: Key::new("k").ok(),
                attributes,
                ..NewEvent::default()
            },
        }
    }

    /// What comes to the next component, without what the host says by itself.
    fn carried(sent: &[(&str, &str)]) -> Vec<(String, String)> {
        let mut attributes = to_event(pairs(sent)).unwrap().attributes;
        attributes.sort();
        let mut got = of(&event(attributes), 1);
        got.retain(|(name, _)| !name.starts_with(CLOUD_EVENT) && !name.starts_with(HOST));
        got
    }

    #[test]
    fn an_event_is_told_by_its_attributes() {
        let got = of(&event(vec![("tenant".into(), "a".into())]), 3);
        let expected = [
            ("ce-id", "1"),
            ("ce-source", "/s"),
            ("ce-type", "a.b"),
            ("ce-partitionkey", "k"),
            ("tidegate-position", "7"),
            ("tidegate-attempt", "3"),
            ("tenant", "a"),
        ];
        assert_eq!(got, pairs(&expected));
    }

    #[test]
    fn metadata_of_any_name_comes_through() {
        for sent in [
            &[("tenant", "a")][..],
            &[("X-Request-Id", "a b")],
            &[("id", "own"), ("type", "t"), ("time", "never")],
            &[("a", "1"), ("a", "2")],
            &[("metadata", "[[\"x\",\"y\"]]")],
            &[("", ""), ("a", "line\nline\u{7f}\u{85}\0")],
            &[("schemaversion", "not a number")],
            &[("averyveryverylongattributename", "ü")],
        ] {
            let (mut got, mut sent) = (carried(sent), pairs(sent));
            got.sort();
            sent.sort();
            assert_eq!(got, sent);
        }
    }

    #[test]
    fn what_came_in_can_be_passed_on_as_it_is() {
        let came =
            of(&event(vec![("subject".into(), "s".into()), ("traceparent".into(), "t".into())]), 2);
        let parts = to_event(came).unwrap();
        assert_eq!(parts.key.as_deref(), Some("k"));
        assert_eq!(parts.attributes, [("subject".into(), "s".into())]);
    }

    #[test]
    fn attributes_under_their_names_over_http_are_the_same() {
        let parts =
            to_event(pairs(&[("ce-subject", "s"), ("ce-source", "/forged"), ("ce-id", "9")]));
        let attributes = vec![("subject".into(), "s".into())];
        assert_eq!(parts, Ok(Parts { key: None, attributes }));
    }

    #[test]
    fn an_event_with_all_that_it_may_have_can_be_passed_on() {
        let named = |number: usize| -> Text { format!("attributeattribut{number:03}").into() };
        let value = "x".repeat(limits::ATTRIBUTES_BYTES_MAX / limits::ATTRIBUTES_MAX - 20);
        let attributes = (0..limits::ATTRIBUTES_MAX).map(|n| (named(n), value.as_str().into()));
        let full = event(attributes.collect());
        let parts = to_event(of(&full, 1)).unwrap();
        assert_eq!(parts.attributes, full.body.attributes);

        // As many entries as fit, none of which can be an attribute.
        let many: Vec<_> = (0..900).map(|_| (String::new(), String::new())).collect();
        let packed = to_event(many.clone()).unwrap().attributes;
        assert!(check::size(&packed) <= limits::ATTRIBUTES_BYTES_MAX);
        let mut got = of(&event(packed.clone()), 1);
        assert_eq!(to_event(got.clone()).unwrap().attributes, packed);
        got.retain(|(name, _)| name.is_empty());
        assert_eq!(got, many);
    }

    /// A hundred thousand of them once took a guest thread thirteen seconds, which no limit of the guest ended.
    #[test]
    fn more_metadata_than_an_event_can_have_is_refused_at_once() {
        let many = (0..400_000).map(|n| (format!("a{n:06}"), String::new()));
        let refused = to_event(many.collect()).unwrap_err();
        assert!(refused.contains("all metadata together has"), "{refused}");
        let many = (0..=limits::ATTRIBUTES_MAX).map(|n| (format!("a{n}"), String::new()));
        let refused = to_event(many.collect()).unwrap_err();
        assert!(refused.contains("there are 65 attributes"), "{refused}");
    }

    #[test]
    fn a_reply_goes_where_it_is_asked_for() {
        assert_eq!(reply_topic(&pairs(&[("a", "b"), ("Reply-To", "answers")])), Some("answers"));
        assert_eq!(reply_topic(&pairs(&[("a", "b")])), None);
    }
}
