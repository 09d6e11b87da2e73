//! The nouns everything else speaks in: events, keys, positions, digests.
//!
//! Nothing here does I/O. Validation that every entrance shares (HTTP, CLI, guests) lives here, so
//! that an event means the same wherever it came from.

mod digest;
mod key;
mod number;

use std::sync::Arc;

use bytes::Bytes;

use crate::limits;

pub use digest::Digest;
pub use key::{Key, KeyHash};
pub use number::{CommitNumber, Generation, InstanceId, KeySequence, Position};

/// `type` of what stands at the position of an event that was damaged beyond reading when its log was
/// repaired: private, for no plugin.
pub const LOST_EVENT: &str = "tidegate.lost";

/// Why a text is not what an attribute of an event allows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEvent {
    /// The key is empty, too long or has control characters.
    #[error("key must have 1 to {max} bytes and no control characters, found {why}", max = limits::KEY_BYTES_MAX)]
    Key {
        /// What was found.
        why: String,
    },
    /// An attribute is missing, malformed or too long.
    #[error("`{field}` {why}")]
    Field {
        /// The CloudEvents attribute.
        field: String,
        /// What is wrong with it.
        why: String,
    },
    /// Something is larger than its limit.
    #[error("`{field}` has {actual} bytes, at most {limit} are allowed")]
    TooLarge {
        /// The CloudEvents attribute.
        field: String,
        /// Bytes allowed.
        limit: u64,
        /// Bytes found.
        actual: u64,
    },
}

/// Whether a text has control characters.
#[must_use]
pub fn has_control(text: &str) -> bool {
    // Those beyond ASCII are U+0080 to U+009F, which begin with the byte 0xc2: without one of these
    // bytes nothing has to be decoded.
    let suspect = |byte: u8| byte < 0x20 || byte == 0x7f || byte == 0xc2;
    text.bytes().fold(false, |found, byte| found | suspect(byte))
        && text.chars().any(char::is_control)
}

/// Which CloudEvents attribute the key came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyVariant {
    /// The event is unkeyed.
    #[default]
    None,
    /// The extension `partitionkey`.
    PartitionKey,
    /// The attribute `subject`, in the absence of `partitionkey`.
    Subject,
}

/// Takes a W3C `traceparent` apart: version, trace, parent and flags, of 2, 32, 16 and 2 lower-case hex
/// digits. None where it is not one, or of no trace: zeros alone, or the version `ff`.
#[must_use]
pub fn traceparent(text: &str) -> Option<[&str; 4]> {
    let mut parts = text.split('-');
    let mut part = |length: usize| {
        let part = parts.next().filter(|part| part.len() == length)?;
        part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')).then_some(part)
    };
    let [version, trace, parent, flags] = [part(2)?, part(32)?, part(16)?, part(2)?];
    let is_said = |id: &str| id.bytes().any(|b| b != b'0');
    let valid = parts.next().is_none() && version != "ff" && is_said(trace) && is_said(parent);
    valid.then_some([version, trace, parent, flags])
}

/// The CloudEvents extension that says [`NewEvent::schema_version`].
pub const SCHEMA_VERSION: &str = "schemaversion";

/// Reads the value of [`SCHEMA_VERSION`]: a CloudEvents integer from 1 on, in digits alone.
#[must_use]
pub fn schema_version(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    let version = text.parse::<i32>().ok().filter(|_| plain)?;
    u32::try_from(version).ok()
}

/// When an event happened, as its source says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventTime {
    /// The RFC 3339 text as sent: it goes out as it came in.
    pub text: Arc<str>,
    /// The same in milliseconds since the Unix epoch; 0 for times before it.
    pub ms: u64,
}

/// Who alone gets a private event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addressee {
    /// One plugin: a timer fire, a command, a response.
    Plugin(InstanceId),
    /// Another bus: an emitted event on its way there.
    Bus(Arc<str>),
}

/// Where a forwarded event came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Region of the source; empty: this one.
    pub region: Arc<str>,
    /// Bus it was emitted on.
    pub bus: Arc<str>,
    /// Its position there.
    pub position: Position,
}

/// One event before the log has taken it: everything but what the writer assigns.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewEvent {
    /// Unique together with `source`. 1 to 255 bytes.
    pub id: Arc<str>,
    /// URI reference. 1 to 1024 bytes.
    pub source: Arc<str>,
    /// Past tense, dotted. 1 to 255 bytes. (CloudEvents `type`.)
    pub kind: Arc<str>,
    /// What orders events.
    pub key: Option<Key>,
    /// Where `key` came from.
    pub key_variant: KeyVariant,
    /// When it happened.
    pub time: Option<EventTime>,
    /// Media type of `data`; empty: none.
    pub content_type: Arc<str>,
    /// The payload as sent.
    pub data: Bytes,
    /// Further CloudEvents attributes (with `subject` where it is not the key), ascending by name.
    pub attributes: Vec<(Arc<str>, Arc<str>)>,
    /// Schema version of `data`; 0: not said.
    pub schema_version: u32,
    /// Set on private events.
    pub addressee: Option<Addressee>,
    /// The plugin that emitted it; none: it came from outside.
    pub emitter: Option<InstanceId>,
    /// 0 for events from outside, one more than its cause for emitted ones.
    pub depth: u8,
    /// Position of the event that caused it, on the same bus.
    pub causation: Option<Position>,
    /// Set on events forwarded from another bus.
    pub origin: Option<Origin>,
    /// Who published it, as authenticated; empty: nobody in particular.
    pub principal: Arc<str>,
}

/// Whom an event is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum To {
    /// Whoever subscribes to it.
    #[default]
    Everybody,
    /// One plugin.
    Plugin(InstanceId),
    /// Another bus.
    Bus,
}

impl To {
    /// Whom an event with this addressee is for.
    #[must_use]
    pub const fn of(addressee: Option<&Addressee>) -> Self {
        match addressee {
            None => Self::Everybody,
            Some(Addressee::Plugin(instance)) => Self::Plugin(*instance),
            Some(Addressee::Bus(_)) => Self::Bus,
        }
    }
}

/// What of an event tells most of those who do not want it from those who may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heading<'a> {
    /// Number in its bus.
    pub position: Position,
    /// When the log took it, milliseconds since the Unix epoch on the log's clock.
    pub recorded_ms: u64,
    /// Its type.
    pub kind: &'a str,
    /// Whom it is for.
    pub to: To,
    /// The plugin that emitted it.
    pub emitter: Option<InstanceId>,
    /// Whether it came from another bus.
    pub is_forwarded: bool,
}

impl Event {
    /// Its heading.
    #[must_use]
    pub fn heading(&self) -> Heading<'_> {
        Heading {
            position: self.position,
            recorded_ms: self.recorded_ms,
            kind: &self.kind,
            to: To::of(self.addressee.as_ref()),
            emitter: self.emitter,
            is_forwarded: self.origin.is_some(),
        }
    }
}

/// One event as it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Number in its bus.
    pub position: Position,
    /// Number within its key; 0: unkeyed or private.
    pub sequence: KeySequence,
    /// When the log took it, milliseconds since the Unix epoch on the log's clock.
    pub recorded_ms: u64,
    /// The commit it is part of.
    pub commit: CommitNumber,
    /// Everything else.
    pub body: NewEvent,
}

impl std::ops::Deref for Event {
    type Target = NewEvent;
    fn deref(&self) -> &NewEvent {
        &self.body
    }
}

/// Whether an event can have an attribute of this name: 1 to [`ATTRIBUTE_NAME_BYTES_MAX`] of a-z and
/// 0-9, and not `data`.
///
/// [`ATTRIBUTE_NAME_BYTES_MAX`]: crate::limits::ATTRIBUTE_NAME_BYTES_MAX
#[must_use]
pub fn is_attribute_name(name: &str) -> bool {
    let letters = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let fits = (1..=crate::limits::ATTRIBUTE_NAME_BYTES_MAX).contains(&name.len());
    letters && fits && name != "data"
}

impl NewEvent {
    /// The value of one further attribute.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(n, _)| &**n == name).map(|(_, value)| &**value)
    }

    /// The value of [`SCHEMA_VERSION`], where the event says one.
    #[must_use]
    pub fn schema_version_text(&self) -> Option<String> {
        (self.schema_version > 0).then(|| self.schema_version.to_string())
    }

    /// Bytes it holds on to, about: what bounds in bytes count.
    #[must_use]
    pub fn weight(&self) -> usize {
        let attributes: usize = self.attributes.iter().map(|(n, v)| n.len() + v.len()).sum();
        self.data.len() + self.id.len() + self.source.len() + attributes + 256
    }
}
