//! Which events a listing or a stream is about. Pure: given an event, yes or no.

use crate::event::{Event, Key, Position};

/// A place in a log, as people say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// At this position.
    Position(Position),
    /// At this log time, milliseconds since the Unix epoch.
    TimeMs(u64),
}

/// A pattern over event types: case-sensitive, `*` is one segment between dots, `**` zero or more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypePattern(Box<[Box<str>]>);

/// A pattern over sources: exact, or with `*` for any run of characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourcePattern(Box<[Box<str>]>);

/// Every condition that is set must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// On the type.
    pub kind: Option<TypePattern>,
    /// On the key.
    pub key: Option<Key>,
    /// On the source.
    pub source: Option<SourcePattern>,
    /// On the id.
    pub id: Option<String>,
    /// At or after this point.
    pub from: Option<Point>,
    /// At or before this point.
    pub to: Option<Point>,
}

impl TypePattern {
    /// Takes a pattern; every text is one.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.split('.').map(Box::from).collect())
    }

    /// Whether it covers this type.
    #[must_use]
    pub fn matches(&self, kind: &str) -> bool {
        segments(&self.0, kind)
    }

    /// The type it stands for, where it has no `*`.
    #[must_use]
    pub fn exact(&self) -> Option<String> {
        let wild = self.0.iter().any(|s| matches!(&**s, "*" | "**"));
        (!wild).then(|| self.0.join("."))
    }
}

impl SourcePattern {
    /// Takes a pattern; every text is one.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.split('*').map(Box::from).collect())
    }

    /// Whether it covers this source.
    #[must_use]
    pub fn matches(&self, source: &str) -> bool {
        let Some((first, rest)) = self.0.split_first() else { return source.is_empty() };
        let Some((last, middle)) = rest.split_last() else { return source == &**first };
        let Some(source) = source.strip_prefix(&**first) else { return false };
        let Some(mut source) = source.strip_suffix(&**last) else { return false };
        for part in middle {
            let Some(at) = source.find(&**part) else { return false };
            source = source.get(at + part.len()..).unwrap_or_default();
        }
        true
    }
}

impl EventFilter {
    /// Whether the event is public and everything but `from` and `to` holds.
    #[must_use]
    pub fn matches(&self, event: &Event) -> bool {
        event.addressee.is_none()
            && self.key.as_ref().is_none_or(|key| event.key.as_ref() == Some(key))
            && self.id.as_deref().is_none_or(|id| *event.id == *id)
            && self.kind.as_ref().is_none_or(|kind| kind.matches(&event.kind))
            && self.source.as_ref().is_none_or(|source| source.matches(&event.source))
    }

    /// Whether the event is not before `from`.
    #[must_use]
    pub fn has_begun(&self, event: &Event) -> bool {
        self.from.is_none_or(|from| match from {
            Point::Position(position) => event.position >= position,
            Point::TimeMs(ms) => event.recorded_ms >= ms,
        })
    }

    /// Whether the event is after `to`: as log time is monotone, nothing later matches either.
    #[must_use]
    pub fn has_ended(&self, event: &Event) -> bool {
        self.to.is_some_and(|to| match to {
            Point::Position(position) => event.position > position,
            Point::TimeMs(ms) => event.recorded_ms > ms,
        })
    }
}

/// Goes back to the last `**` only, so that no pattern takes more than pattern times type steps.
fn segments(pattern: &[Box<str>], kind: &str) -> bool {
    let kind: Vec<&str> = kind.split('.').collect();
    let (mut in_pattern, mut in_kind) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while let Some(segment) = kind.get(in_kind) {
        match pattern.get(in_pattern).map(|s| &**s) {
            Some("**") => {
                back = Some((in_pattern, in_kind));
                in_pattern += 1;
            }
            Some(wanted) if wanted == "*" || wanted == *segment => {
                in_pattern += 1;
                in_kind += 1;
            }
            _ => {
                let Some((star, skipped)) = back else { return false };
                back = Some((star, skipped + 1));
                (in_pattern, in_kind) = (star + 1, skipped + 1);
            }
        }
    }
    pattern.iter().skip(in_pattern).all(|s| &**s == "**")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_pattern_matches_by_segment() {
        let cases = [
            ("order.created", "order.created", true),
            ("order.created", "order.Created", false),
            ("order.*", "order.created", true),
            ("order.*", "order", false),
            ("order.*", "order.line.added", false),
            ("order.**", "order", true),
            ("order.**", "order.line.added", true),
            ("**", "anything.at.all", true),
            ("**.added", "order.line.added", true),
            ("**.added", "added", true),
            ("*.line.**", "order.line", true),
            ("a.**.z.**.q", "a.z.z.b.q", true),
            ("a.**.z.**.q", "a.z.z.b.r", false),
        ];
        for (pattern, kind, expected) in cases {
            assert_eq!(TypePattern::new(pattern).matches(kind), expected, "{pattern} on {kind}");
        }
    }

    #[test]
    fn a_source_pattern_matches_exactly_or_around_stars() {
        let cases = [
            ("/shop", "/shop", true),
            ("/shop", "/shop/1", false),
            ("/shop/*", "/shop/1/2", true),
            ("*/orders", "/a/orders", true),
            ("/a*b*c", "/a-b-b-c", true),
            ("/a*c", "/ac", true),
            ("/ab*ba", "/aba", false),
        ];
        for (pattern, source, expected) in cases {
            let matched = SourcePattern::new(pattern).matches(source);
            assert_eq!(matched, expected, "{pattern} on {source}");
        }
    }
}
