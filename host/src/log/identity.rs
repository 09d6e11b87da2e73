//! Whether two events that claim the same identity say the same.

use crate::event::{Event, NewEvent};

/// Attributes that differ from one attempt to the next, and mean nothing to the event.
const TRACE_CONTEXT: [&str; 2] = ["traceparent", "tracestate"];

/// Whether a published event has the identity, (source, id), of one in the log.
pub(super) fn is_same(new: &NewEvent, stored: &NewEvent) -> bool {
    new.id == stored.id && new.source == stored.source
}

/// Whether it also has the same content: type, key, content type, data and the attributes that the
/// client sent, less trace context. JSON is compared by value.
pub(super) fn says_the_same(new: &NewEvent, stored: &NewEvent) -> bool {
    new.kind == stored.kind
        && new.key == stored.key
        && new.key_variant == stored.key_variant
        && new.content_type == stored.content_type
        && new.schema_version == stored.schema_version
        && same_time(new, stored)
        && sent(new).eq(sent(stored))
        && same_data(new, stored)
}

fn same_time(new: &NewEvent, stored: &NewEvent) -> bool {
    match (&new.time, &stored.time) {
        (None, None) => true,
        // The same moment may be written in two ways; only before 1970 the text alone decides.
        (Some(a), Some(b)) => a.text == b.text || (a.ms == b.ms && a.ms > 0),
        _ => false,
    }
}

fn sent(event: &NewEvent) -> impl Iterator<Item = &(std::sync::Arc<str>, std::sync::Arc<str>)> {
    event.attributes.iter().filter(|(name, _)| !TRACE_CONTEXT.contains(&&**name))
}

fn same_data(new: &NewEvent, stored: &NewEvent) -> bool {
    if new.data == stored.data {
        return true;
    }
    if !is_json(&new.content_type) {
        return false;
    }
    let value = |data: &[u8]| serde_json::from_slice::<serde_json::Value>(data).ok();
    value(&new.data).is_some_and(|new| value(&stored.data) == Some(new))
}

/// `application/json`, `text/json` and `*/*+json`, with or without parameters.
fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence.ends_with("/json") || essence.ends_with("+json")
}

/// What a stored event is to a published one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Likeness {
    /// Another identity: only the hashes are the same.
    Other,
    /// The same event.
    Duplicate,
    /// The same identity, other content.
    Conflict,
}

/// Compares a published event with one in the log.
pub(super) fn compare(new: &NewEvent, stored: &Event) -> Likeness {
    if !is_same(new, &stored.body) {
        Likeness::Other
    } else if says_the_same(new, &stored.body) {
        Likeness::Duplicate
    } else {
        Likeness::Conflict
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn json(data: &'static str) -> NewEvent {
        NewEvent {
            content_type: "application/json; charset=utf-8".into(),
            data: Bytes::from_static(data.as_bytes()),
            ..NewEvent::default()
        }
    }

    #[test]
    fn json_is_compared_by_value() {
        assert!(says_the_same(&json(r#"{"a":1,"b":[2]}"#), &json(r#"{ "b": [2], "a": 1 }"#)));
        assert!(!says_the_same(&json(r#"{"a":1}"#), &json(r#"{"a":2}"#)));
        assert!(!says_the_same(&json("{broken"), &json("{ broken")));
        let text = |data| NewEvent { content_type: "text/plain".into(), ..json(data) };
        assert!(!says_the_same(&text("{ }"), &text("{}")));
    }

    #[test]
    fn trace_context_makes_no_difference_and_other_attributes_do() {
        let with = |name: &str, value: &str| NewEvent {
            attributes: vec![(name.into(), value.into())],
            ..NewEvent::default()
        };
        assert!(says_the_same(&with("traceparent", "a"), &with("traceparent", "b")));
        assert!(says_the_same(&with("traceparent", "a"), &NewEvent::default()));
        assert!(!says_the_same(&with("tenant", "a"), &with("tenant", "b")));
        assert!(!says_the_same(&with("tenant", "a"), &NewEvent::default()));
    }
}
