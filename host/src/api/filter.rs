//! Which events a listing or a stream is about. Pure: given an event, yes or no.

use std::str::FromStr;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::event::{Event, Heading, Key, Position, To};
use crate::plugin::{SourcePattern, TypePattern};

/// A place in a log, as people say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// At this position.
    Position(Position),
    /// At this log time, milliseconds since the Unix epoch.
    TimeMs(u64),
}

/// It says neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is neither a position nor an RFC 3339 time")]
pub struct InvalidPoint;

impl FromStr for Point {
    type Err = InvalidPoint;

    fn from_str(text: &str) -> Result<Self, InvalidPoint> {
        if let Ok(position) = text.parse() {
            return Ok(Self::Position(Position(position)));
        }
        let moment = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| InvalidPoint)?;
        let ms = moment.unix_timestamp_nanos() / 1_000_000;
        Ok(Self::TimeMs(u64::try_from(ms).unwrap_or(0)))
    }
}

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

    /// Whether the event under this heading is public, of the type and not before `from`: if not, it need
    /// not be read.
    #[must_use]
    pub fn may_match(&self, heading: &Heading<'_>) -> bool {
        heading.to == To::Everybody
            && self.kind.as_ref().is_none_or(|kind| kind.matches(heading.kind))
            && self.has_begun(heading)
    }

    /// Whether the event is not before `from`.
    #[must_use]
    pub fn has_begun(&self, heading: &Heading<'_>) -> bool {
        self.from.is_none_or(|from| match from {
            Point::Position(position) => heading.position >= position,
            Point::TimeMs(ms) => heading.recorded_ms >= ms,
        })
    }

    /// Whether the event is after `to`: as log time is monotone, nothing later matches either.
    #[must_use]
    pub fn has_ended(&self, heading: &Heading<'_>) -> bool {
        self.to.is_some_and(|to| match to {
            Point::Position(position) => heading.position > position,
            Point::TimeMs(ms) => heading.recorded_ms > ms,
        })
    }
}
