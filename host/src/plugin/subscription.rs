//! Which events a plugin wants.
//!
//! The rule that must not break: without `types` a plugin gets ingested events only, so that a bare
//! module cannot be caught in a loop of what plugins emit. Private events have an addressee and are
//! decided elsewhere.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::pattern::{SourcePattern, TypePattern};
use crate::event::{
    Event, Heading, InstanceId, KeyVariant, Position, SCHEMA_VERSION, schema_version,
};

/// The bus a plugin subscribes to when it names none.
pub const DEFAULT_BUS: &str = "main";

/// The `[subscribe]` section of a manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Subscription {
    /// As written; see [`Subscription::bus`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bus: Option<String>,
    /// Types wanted; empty: every ingested event.
    pub types: Vec<TypePattern>,
    /// Sources wanted; empty: every source.
    pub sources: Vec<SourcePattern>,
    /// Whether the plugin gets what it emitted itself.
    pub own: bool,
    /// As written; see [`Subscription::start`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<Start>,
    /// Attributes that must have these values.
    #[serde(rename = "where")]
    pub attributes: BTreeMap<String, String>,
}

/// Where a new plugin begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// At the first event there is.
    Earliest,
    /// After the last event there is when the plugin is registered.
    Latest,
    /// At this position.
    Position(Position),
    /// At the first event that the log took at or after this time.
    Time {
        /// RFC 3339, as written.
        text: String,
        /// The same in milliseconds since the Unix epoch; 0 for times before it.
        ms: u64,
    },
}

/// The text is none of the ways to say where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("\"earliest\", \"latest\", a position or an RFC 3339 time")]
pub struct InvalidStart;

impl Subscription {
    /// The bus whose events are wanted.
    #[must_use]
    pub fn bus(&self) -> &str {
        self.bus.as_deref().unwrap_or(DEFAULT_BUS)
    }

    /// Where to begin; [`Start::Earliest`] unless written otherwise.
    #[must_use]
    pub fn start(&self) -> &Start {
        self.start.as_ref().unwrap_or(&Start::Earliest)
    }

    /// Whether a public event is wanted by the plugin with the id `own`. Never allocates.
    #[must_use]
    pub fn matches(&self, event: &Event, own: InstanceId) -> bool {
        self.may_match(&event.heading(), own) && self.matches_rest(event)
    }

    /// Whether a public event may be wanted by the plugin with the id `own`, by its heading.
    #[must_use]
    pub fn may_match(&self, heading: &Heading<'_>, own: InstanceId) -> bool {
        self.wants_origin(heading, own) && self.wants_type(heading.kind)
    }

    /// Whether one that may be wanted is.
    #[must_use]
    pub fn matches_rest(&self, event: &Event) -> bool {
        (self.sources.is_empty() || self.sources.iter().any(|s| s.matches(&event.source)))
            && self.attributes.iter().all(|(name, value)| has_attribute(event, name, value))
    }

    /// Whether events of a type may be wanted; the answer for a type never changes.
    #[must_use]
    pub fn wants_type(&self, kind: &str) -> bool {
        self.types.is_empty() || self.types.iter().any(|pattern| pattern.matches(kind))
    }

    /// An event forwarded from another bus was emitted there: its emitter's id means nothing here.
    fn wants_origin(&self, heading: &Heading<'_>, own: InstanceId) -> bool {
        let emitted = heading.emitter.is_some() || heading.is_forwarded;
        let own_event = !heading.is_forwarded && heading.emitter == Some(own);
        !emitted || (!self.types.is_empty() && (self.own || !own_event))
    }
}

/// Compares any CloudEvents attribute, also those with a field of their own.
fn has_attribute(event: &Event, name: &str, value: &str) -> bool {
    let key = |variant| (event.key_variant == variant).then_some(event.key.as_ref()).flatten();
    match name {
        "id" => *event.id == *value,
        "type" => *event.kind == *value,
        "source" => *event.source == *value,
        "datacontenttype" => !value.is_empty() && *event.content_type == *value,
        "time" => event.time.as_ref().is_some_and(|time| *time.text == *value),
        "partitionkey" => key(KeyVariant::PartitionKey).is_some_and(|key| key.as_str() == value),
        "subject" if event.key_variant == KeyVariant::Subject => {
            event.key.as_ref().is_some_and(|key| key.as_str() == value)
        }
        SCHEMA_VERSION => {
            event.schema_version > 0 && schema_version(value) == Some(event.schema_version)
        }
        _ => event.attribute(name) == Some(value),
    }
}

impl FromStr for Start {
    type Err = InvalidStart;
    fn from_str(text: &str) -> Result<Self, InvalidStart> {
        match text {
            "earliest" => return Ok(Self::Earliest),
            "latest" => return Ok(Self::Latest),
            _ => {}
        }
        if let Ok(position) = text.parse::<u64>() {
            // TOML has no integers past 2^63, and no log has positions there.
            let storable = i64::try_from(position).is_ok();
            return storable.then_some(Self::Position(Position(position))).ok_or(InvalidStart);
        }
        let time = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| InvalidStart)?;
        let ms = u64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
        Ok(Self::Time { text: text.to_owned(), ms })
    }
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Earliest => f.write_str("earliest"),
            Self::Latest => f.write_str("latest"),
            Self::Position(position) => position.fmt(f),
            Self::Time { text, .. } => f.write_str(text),
        }
    }
}

impl Serialize for Start {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Position(position) => serializer.serialize_u64(position.0),
            _ => serializer.collect_str(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Key, NewEvent, Origin};

    const OWN: InstanceId = InstanceId(7);

    fn event(kind: &str) -> Event {
        Event {
            position: Position(1),
            sequence: Default::default(),
            recorded_ms: 0,
            commit: Default::default(),
            body: NewEvent { kind: kind.into(), source: "/shop".into(), ..NewEvent::default() },
        }
    }

    fn emitted(kind: &str, emitter: u32) -> Event {
        let mut event = event(kind);
        event.body.emitter = Some(InstanceId(emitter));
        event
    }

    fn types(patterns: &[&str]) -> Subscription {
        let types = patterns.iter().map(|pattern| pattern.parse().unwrap()).collect();
        Subscription { types, ..Subscription::default() }
    }

    #[test]
    fn without_types_only_ingested_events_are_wanted() {
        let mut bare = Subscription { own: true, ..Subscription::default() };
        assert!(bare.matches(&event("a.b"), OWN));
        assert!(!bare.matches(&emitted("a.b", 1), OWN));
        assert!(!bare.matches(&emitted("a.b", 7), OWN));
        bare.own = false;
        assert!(!bare.matches(&emitted("a.b", 7), OWN));
    }

    #[test]
    fn own_events_come_back_only_when_asked_for() {
        let mut typed = types(&["a.*"]);
        assert!(typed.matches(&emitted("a.b", 1), OWN));
        assert!(!typed.matches(&emitted("a.b", 7), OWN));
        typed.own = true;
        assert!(typed.matches(&emitted("a.b", 7), OWN));
        assert!(!typed.matches(&emitted("b.b", 7), OWN));
    }

    #[test]
    fn an_event_of_another_bus_is_emitted_but_never_own() {
        let mut forwarded = emitted("a.b", 7);
        let origin = Origin { region: "".into(), bus: "live".into(), position: Position(3) };
        forwarded.body.origin = Some(origin);
        assert!(types(&["a.*"]).matches(&forwarded, OWN));
        assert!(!Subscription::default().matches(&forwarded, OWN));
    }

    #[test]
    fn sources_and_attributes_narrow_further() {
        let mut wanted = types(&["**"]);
        wanted.sources = vec!["/shop*".parse().unwrap(), "/other".parse().unwrap()];
        assert!(wanted.matches(&event("a"), OWN));
        wanted.attributes.insert("region".into(), "eu".into());
        assert!(!wanted.matches(&event("a"), OWN));
        let mut tagged = event("a");
        tagged.body.attributes = vec![("region".into(), "eu".into())];
        assert!(wanted.matches(&tagged, OWN));
        tagged.body.source = "/elsewhere".into();
        assert!(!wanted.matches(&tagged, OWN));
    }

    #[test]
    fn attributes_with_a_field_of_their_own_can_be_asked_for() {
        let mut tagged = event("a");
        tagged.body.key = Some(Key::new("o-1").unwrap());
        tagged.body.key_variant = KeyVariant::PartitionKey;
        tagged.body.attributes = vec![("subject".into(), "cart".into())];
        tagged.body.content_type = "text/plain".into();
        let asks = |name: &str, value: &str| Subscription {
            attributes: [(name.to_owned(), value.to_owned())].into(),
            ..Subscription::default()
        };
        assert!(asks("partitionkey", "o-1").matches(&tagged, OWN));
        assert!(asks("subject", "cart").matches(&tagged, OWN));
        assert!(!asks("subject", "o-1").matches(&tagged, OWN));
        assert!(asks("datacontenttype", "text/plain").matches(&tagged, OWN));
        tagged.body.key_variant = KeyVariant::Subject;
        assert!(asks("subject", "o-1").matches(&tagged, OWN));
        assert!(!asks("partitionkey", "o-1").matches(&tagged, OWN));
    }

    #[test]
    fn a_start_is_a_word_a_position_or_a_time() {
        assert_eq!("latest".parse(), Ok(Start::Latest));
        assert_eq!("120".parse(), Ok(Start::Position(Position(120))));
        let Ok(Start::Time { ms, .. }) = "1970-01-01T01:00:01.5+01:00".parse() else {
            panic!("a time")
        };
        assert_eq!(ms, 1500);
        for text in ["", "-1", "newest", "2026-01-01"] {
            assert_eq!(text.parse::<Start>(), Err(InvalidStart), "{text}");
        }
    }
}
