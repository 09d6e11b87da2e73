//! Everything it takes to run a delivery that was given up once more, somewhere else.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Timestamp;
use crate::api::host::StateEntry;
use crate::event::{CommitNumber, Event, EventTime, Key, KeySequence, NewEvent, Position};

/// A delivery that was given up, as its guest saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeliveryView {
    /// The plugin.
    pub plugin: String,
    /// Number of the last attempt, from 1.
    pub attempt: u32,
    /// Whether it was a redriven one.
    pub redriven: bool,
    /// The manifest that serves, as it was resolved, as TOML; absent: the plugin does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
    /// The event, in the shape that the guest was handed.
    pub input: InputView,
    /// The state of its key before it, ascending by name.
    #[serde(default)]
    pub state: Vec<SeenValueView>,
}

/// A state value as a delivery saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SeenValueView {
    /// Its name.
    pub name: String,
    /// The value in base64.
    pub value_base64: String,
    /// When it would have been gone; absent: it stayed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

/// An event to the byte, private ones included: not a CloudEvent, which keeps less.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InputView {
    /// Its position.
    pub position: u64,
    /// Number within its key; 0: unkeyed or private.
    pub sequence: u64,
    /// When the log took it.
    pub recorded: Timestamp,
    /// CloudEvents `id`.
    pub id: String,
    /// CloudEvents `source`.
    pub source: String,
    /// CloudEvents `type`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// CloudEvents `time` as it was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// Milliseconds since the Unix epoch that `time` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_ms: Option<u64>,
    /// Media type of the data; empty: none.
    pub content_type: String,
    /// The data in base64.
    pub data_base64: String,
    /// Further attributes, ascending by name.
    #[serde(default)]
    pub attributes: Vec<(String, String)>,
    /// Schema version of the data; 0: not said.
    pub schema_version: u32,
    /// Causes behind it.
    pub depth: u8,
    /// Who sent it; empty: nobody in particular.
    pub principal: String,
}

/// What a host sent is no event.
#[derive(Debug, thiserror::Error)]
#[error("the host sent no event: `{0}`")]
pub struct NoInput(&'static str);

impl SeenValueView {
    /// With the whole value.
    #[must_use]
    pub fn of(entry: &StateEntry) -> Self {
        Self {
            name: entry.name.to_string(),
            value_base64: STANDARD.encode(&entry.value),
            expires: entry.expires_ms.map(Timestamp),
        }
    }

    /// The bytes of the value.
    ///
    /// # Errors
    /// They are no base64.
    pub fn value(&self) -> Result<Bytes, NoInput> {
        STANDARD.decode(&self.value_base64).map(Bytes::from).map_err(|_| NoInput("state"))
    }
}

impl InputView {
    /// All of an event that a guest can tell.
    #[must_use]
    pub fn of(event: &Event) -> Self {
        let text = |text: &str| text.to_owned();
        Self {
            position: event.position.0,
            sequence: event.sequence.0,
            recorded: Timestamp(event.recorded_ms),
            id: text(&event.id),
            source: text(&event.source),
            kind: text(&event.kind),
            key: event.key.as_ref().map(ToString::to_string),
            time: event.time.as_ref().map(|time| text(&time.text)),
            time_ms: event.time.as_ref().map(|time| time.ms),
            content_type: text(&event.content_type),
            data_base64: STANDARD.encode(&event.data),
            attributes: event.attributes.iter().map(|(n, v)| (text(n), text(v))).collect(),
            schema_version: event.schema_version,
            depth: event.depth,
            principal: text(&event.principal),
        }
    }

    /// The event.
    ///
    /// # Errors
    /// Its key or data is not one.
    pub fn event(&self) -> Result<Event, NoInput> {
        let key = self.key.as_deref().map(Key::new).transpose().map_err(|_| NoInput("key"))?;
        let data = STANDARD.decode(&self.data_base64).map_err(|_| NoInput("data"))?;
        let time = self.time.as_deref().zip(self.time_ms);
        Ok(Event {
            position: Position(self.position),
            sequence: KeySequence(self.sequence),
            recorded_ms: self.recorded.0,
            commit: CommitNumber(0),
            body: NewEvent {
                id: self.id.as_str().into(),
                source: self.source.as_str().into(),
                kind: self.kind.as_str().into(),
                key,
                time: time.map(|(text, ms)| EventTime { text: text.into(), ms }),
                content_type: self.content_type.as_str().into(),
                data: data.into(),
                attributes: self
                    .attributes
                    .iter()
                    .map(|(name, value)| (name.as_str().into(), value.as_str().into()))
                    .collect(),
                schema_version: self.schema_version,
                depth: self.depth,
                principal: self.principal.as_str().into(),
                ..NewEvent::default()
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_comes_back_as_a_guest_can_tell_it() {
        let event = Event {
            position: Position(7),
            sequence: KeySequence(3),
            recorded_ms: 1_700_000_000_123,
            commit: CommitNumber(0),
            body: NewEvent {
                id: "o-1".into(),
                source: "/tidegate/main/totals".into(),
                kind: "tidegate.timer".into(),
                key: Key::new("ü k").ok(),
                time: Some(EventTime { text: "2026-01-31T08:00:00+01:00".into(), ms: 5 }),
                content_type: "text/plain".into(),
                data: Bytes::from_static(&[0xff, 0, b'a']),
                attributes: vec![("timername".into(), "check".into())],
                schema_version: 2,
                depth: 3,
                principal: "ops".into(),
                ..NewEvent::default()
            },
        };
        let json = serde_json::to_string(&InputView::of(&event)).unwrap();
        let back: InputView = serde_json::from_str(&json).unwrap();
        assert_eq!(back.event().unwrap(), event);
    }
}
