//! Whether two events that claim the same identity say the same.

mod json;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

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
        && same_type(new, stored)
        && new.schema_version == stored.schema_version
        && same_time(new, stored)
        && sent(new).eq(sent(stored))
        && same_data(new, stored)
}

/// Whether the data is of the same media type: as it is written, but for that which nobody said.
fn same_type(new: &NewEvent, stored: &NewEvent) -> bool {
    new.content_type == stored.content_type || media_type(new) == media_type(stored)
}

/// JSON whose type nobody said is `application/json`, by the JSON format of CloudEvents; so is no data.
fn media_type(event: &NewEvent) -> &str {
    let said = &*event.content_type;
    let is_json = || event.data.is_empty() || json::is_document(&event.data);
    if said.is_empty() && is_json() { "application/json" } else { said }
}

fn same_time(new: &NewEvent, stored: &NewEvent) -> bool {
    match (&new.time, &stored.time) {
        (None, None) => true,
        (Some(a), Some(b)) => {
            // The same moment may be written in two ways.
            let same_moment = || moment(&a.text).is_some_and(|a| moment(&b.text) == Some(a));
            a.text == b.text || same_moment()
        }
        _ => false,
    }
}

/// The whole seconds of an RFC 3339 time, and its fraction, which may be finer than any clock here.
fn moment(text: &str) -> Option<(OffsetDateTime, &str)> {
    let whole = |text| OffsetDateTime::parse(text, &Rfc3339).ok();
    let Some((seconds, rest)) = text.split_once('.') else { return Some((whole(text)?, "")) };
    let (fraction, offset) = rest.split_at_checked(rest.find(|c: char| !c.is_ascii_digit())?)?;
    Some((whole(&format!("{seconds}{offset}"))?, fraction.trim_end_matches('0')))
}

fn sent(event: &NewEvent) -> impl Iterator<Item = &(std::sync::Arc<str>, std::sync::Arc<str>)> {
    event.attributes.iter().filter(|(name, _)| !TRACE_CONTEXT.contains(&&**name))
}

fn same_data(new: &NewEvent, stored: &NewEvent) -> bool {
    new.data == stored.data
        || (is_json(&new.content_type) && json::is_same(&new.data, &stored.data))
}

/// `application/json`, `text/json` and `*/*+json`, with or without parameters. Data whose type nobody
/// said is JSON where it reads as such, as on the way in and out.
fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence.is_empty() || essence.ends_with("/json") || essence.ends_with("+json")
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
    use crate::event::EventTime;

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
        assert!(!says_the_same(
            &json(r#"{"balance":100000000000000000001}"#),
            &json(r#"{"balance":100000000000000000002}"#)
        ));
    }

    #[test]
    fn json_without_a_type_is_compared_by_value_too() {
        let bare = |data| NewEvent { content_type: "".into(), ..json(data) };
        assert!(says_the_same(&bare("[1,2]"), &bare("[1, 2]")));
        assert!(!says_the_same(&bare("[1,2]"), &bare("[2,1]")));
        assert!(!says_the_same(&bare("no json"), &bare("no  json")));
    }

    #[test]
    fn json_without_a_type_is_application_json() {
        let typed =
            |content_type: &str, data| NewEvent { content_type: content_type.into(), ..json(data) };
        for (data, content_type, same) in [
            (r#"{"a":1}"#, "application/json", true),
            ("", "application/json", true),
            ("no json", "application/json", false),
            ("1", "application/json; charset=utf-8", false),
            ("1", "text/json", false),
            ("1", "text/plain", false),
            ("", "text/plain", false),
        ] {
            let (bare, typed) = (typed("", data), typed(content_type, data));
            assert_eq!(says_the_same(&bare, &typed), same, "{data} {content_type}");
            assert_eq!(says_the_same(&typed, &bare), same, "{data} {content_type}");
        }
        assert!(says_the_same(&typed("", "[1,2]"), &typed("application/json", "[1, 2]")));
        assert!(!says_the_same(&typed("", "[1,2]"), &typed("application/json", "[2,1]")));
    }

    #[test]
    fn times_are_the_same_where_the_moment_is() {
        let at = |text: &str| {
            let time = Some(EventTime { text: text.into(), ms: 0 });
            NewEvent { time, ..NewEvent::default() }
        };
        for (a, b, same) in [
            ("2026-01-01T00:00:00Z", "2026-01-01T01:00:00.000+01:00", true),
            ("2026-01-01T00:00:00.5z", "2026-01-01t00:00:00.50Z", true),
            ("1960-01-01T00:00:00Z", "1960-01-01T01:00:00+01:00", true),
            ("2026-01-01T00:00:00.0001Z", "2026-01-01T00:00:00.0009Z", false),
            ("2026-01-01T00:00:00.0000000001Z", "2026-01-01T00:00:00.0000000002Z", false),
            ("1960-01-01T00:00:00Z", "1960-01-01T00:00:01Z", false),
            ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00.1Z", false),
        ] {
            assert_eq!(says_the_same(&at(a), &at(b)), same, "{a} {b}");
        }
        assert!(!says_the_same(&at("2026-01-01T00:00:00Z"), &NewEvent::default()));
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
