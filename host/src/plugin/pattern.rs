//! Patterns of event types and sources, compiled once and matched without allocating.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A pattern of event types: dotted segments, `*` for exactly one, `**` for zero or more.
#[derive(Debug, Clone)]
pub struct TypePattern {
    text: Arc<str>,
    /// None where the pattern has no stars: then it is compared as a whole.
    segments: Option<Arc<[Segment]>>,
}

/// A pattern of event sources: `*` stands for any characters, also none.
#[derive(Debug, Clone)]
pub struct SourcePattern {
    text: Arc<str>,
}

/// Why a text is not a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    /// A type pattern is malformed.
    #[error(
        "1 to 255 bytes of segments between dots, where `*` alone is one segment and `**` alone \
         zero or more"
    )]
    Type,
    /// A source pattern is malformed.
    #[error("1 to 1024 bytes, where `*` is any characters")]
    Source,
}

#[derive(Debug, PartialEq, Eq)]
enum Segment {
    Literal(Box<str>),
    One,
    Many,
}

impl FromStr for TypePattern {
    type Err = InvalidPattern;
    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        if text.is_empty() || text.len() > crate::limits::TYPE_BYTES_MAX {
            return Err(InvalidPattern::Type);
        }
        let segments: Result<Vec<Segment>, InvalidPattern> = text
            .split('.')
            .map(|segment| match segment {
                "*" => Ok(Segment::One),
                "**" => Ok(Segment::Many),
                _ if segment.is_empty() || segment.contains('*') => Err(InvalidPattern::Type),
                _ => Ok(Segment::Literal(segment.into())),
            })
            .collect();
        let mut segments = segments?;
        segments.dedup_by(|next, last| *next == Segment::Many && *last == Segment::Many);
        let literal = segments.iter().all(|segment| matches!(segment, Segment::Literal(_)));
        Ok(Self { text: text.into(), segments: (!literal).then(|| segments.into()) })
    }
}

impl TypePattern {
    /// The pattern as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The one type that matches; none: more than one may.
    #[must_use]
    pub fn exact(&self) -> Option<&str> {
        self.segments.is_none().then_some(&*self.text)
    }

    /// Whether an event type matches. Case-sensitive. Never allocates; takes at most pattern
    /// segments x type segments steps.
    #[must_use]
    pub fn matches(&self, kind: &str) -> bool {
        let Some(segments) = &self.segments else { return *self.text == *kind };
        let (mut pattern, mut rest): (&[Segment], Option<&str>) = (segments, Some(kind));
        // Where to go on if the shortest reading of the last `**` turns out to be too short.
        let mut longer: Option<(&[Segment], Option<&str>)> = None;
        loop {
            let step = match (pattern.split_first(), rest) {
                (None, None) => return true,
                (Some((Segment::Many, after)), _) => {
                    longer = Some((after, rest));
                    Some((after, rest))
                }
                (Some((Segment::One, after)), Some(text)) => Some((after, split_segment(text).1)),
                (Some((Segment::Literal(literal), after)), Some(text)) => {
                    let (head, tail) = split_segment(text);
                    (**literal == *head).then_some((after, tail))
                }
                _ => None,
            };
            (pattern, rest) = if let Some(step) = step {
                step
            } else {
                let Some((after, Some(text))) = longer else { return false };
                let tail = split_segment(text).1;
                longer = Some((after, tail));
                (after, tail)
            };
        }
    }
}

/// The first dotted segment and what follows its dot.
fn split_segment(text: &str) -> (&str, Option<&str>) {
    text.split_once('.').map_or((text, None), |(head, tail)| (head, Some(tail)))
}

impl FromStr for SourcePattern {
    type Err = InvalidPattern;
    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        if text.is_empty() || text.len() > crate::limits::SOURCE_BYTES_MAX {
            return Err(InvalidPattern::Source);
        }
        Ok(Self { text: text.into() })
    }
}

impl SourcePattern {
    /// The pattern as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether a source matches. Case-sensitive. Never allocates.
    #[must_use]
    pub fn matches(&self, source: &str) -> bool {
        let Some((head, stars)) = self.text.split_once('*') else { return *self.text == *source };
        let Some(mut rest) = source.strip_prefix(head) else { return false };
        // The last piece has to end the source, so it is taken off first.
        let (middle, tail) = stars.rsplit_once('*').unwrap_or(("", stars));
        let Some(before_tail) = rest.strip_suffix(tail) else { return false };
        rest = before_tail;
        for piece in middle.split('*') {
            let Some((_, after)) = rest.split_once(piece) else { return false };
            rest = after;
        }
        true
    }
}

/// Patterns are compared, shown and stored as the text they were written as.
macro_rules! pattern_as_text {
    ($($pattern:ty),*) => {$(
        impl PartialEq for $pattern {
            fn eq(&self, other: &Self) -> bool {
                self.text == other.text
            }
        }

        impl Eq for $pattern {}

        impl fmt::Display for $pattern {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.text)
            }
        }

        impl serde::Serialize for $pattern {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.text)
            }
        }
    )*};
}

pattern_as_text!(TypePattern, SourcePattern);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kind_matches(pattern: &str, kind: &str) -> bool {
        pattern.parse::<TypePattern>().unwrap().matches(kind)
    }

    fn source_matches(pattern: &str, source: &str) -> bool {
        pattern.parse::<SourcePattern>().unwrap().matches(source)
    }

    #[test]
    fn type_patterns_match_by_segment() {
        for (pattern, kind, expected) in [
            ("order.created", "order.created", true),
            ("order.created", "Order.created", false),
            ("order.*", "order.created", true),
            ("order.*", "order.line.added", false),
            ("order.*", "order", false),
            ("order.**", "order", true),
            ("order.**", "order.line.added", true),
            ("order.**", "orders.line", false),
            ("**", "anything.at.all", true),
            ("*", "one", true),
            ("*", "one.two", false),
            ("**.added", "order.line.added", true),
            ("**.added", "added", true),
            ("a.**.b.**.c", "a.x.b.b.y.c", true),
            ("a.**.b.*.c", "a.b.b.c.c", true),
            ("a.**.b.*.c", "a.b.b", false),
        ] {
            assert_eq!(kind_matches(pattern, kind), expected, "{pattern} on {kind}");
        }
    }

    #[test]
    fn source_patterns_match_by_character() {
        for (pattern, source, expected) in [
            ("/shop", "/shop", true),
            ("/shop", "/shop/2", false),
            ("/shop*", "/shop/2", true),
            ("*", "", true),
            ("*/orders", "https://example.com/orders", true),
            ("a*a", "a", false),
            ("a*b*c", "a--b--c", true),
            ("a*b*c", "a--c--b", false),
            ("*ab*ab", "ab", false),
            ("**x**", "wxy", true),
        ] {
            assert_eq!(source_matches(pattern, source), expected, "{pattern} on {source}");
        }
    }

    #[test]
    fn a_star_inside_a_segment_is_not_a_pattern() {
        for pattern in ["", "order.cre*", "***", "a..b", ".a", "a.", &"a".repeat(256)] {
            assert!(pattern.parse::<TypePattern>().is_err(), "{pattern}");
        }
    }

    fn naive_type(pattern: &[&str], kind: &[&str]) -> bool {
        match pattern.split_first() {
            None => kind.is_empty(),
            Some((&"**", rest)) => (0..=kind.len()).any(|skip| naive_type(rest, &kind[skip..])),
            Some((&"*", rest)) => !kind.is_empty() && naive_type(rest, &kind[1..]),
            Some((literal, rest)) => kind.first() == Some(literal) && naive_type(rest, &kind[1..]),
        }
    }

    fn naive_source(pattern: &[u8], source: &[u8]) -> bool {
        match pattern.split_first() {
            None => source.is_empty(),
            Some((b'*', rest)) => {
                (0..=source.len()).any(|skip| naive_source(rest, &source[skip..]))
            }
            Some((byte, rest)) => source.first() == Some(byte) && naive_source(rest, &source[1..]),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn type_patterns_agree_with_the_naive_matcher(
            pattern in prop::collection::vec(prop::sample::select(vec!["a", "b", "*", "**"]), 1..7),
            kind in prop::collection::vec(prop::sample::select(vec!["a", "b", ""]), 1..8),
        ) {
            let expected = naive_type(&pattern, &kind);
            prop_assert_eq!(kind_matches(&pattern.join("."), &kind.join(".")), expected);
        }

        #[test]
        fn source_patterns_agree_with_the_naive_matcher(
            pattern in "[ab*]{1,8}", source in "[ab]{0,10}",
        ) {
            let expected = naive_source(pattern.as_bytes(), source.as_bytes());
            prop_assert_eq!(source_matches(&pattern, &source), expected);
        }
    }
}
