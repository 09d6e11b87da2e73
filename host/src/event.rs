//! The nouns everything else speaks in: events, keys, positions, digests.
//!
//! Nothing here does I/O. Validation that every entrance shares (HTTP, CLI, guests) lives here, so
//! that an event means the same wherever it came from.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::limits;

/// `type` of what stands at the position of an event that was damaged beyond reading when its log was
/// repaired: private, for no plugin.
pub const LOST_EVENT: &str = "tidegate.lost";

/// Number of an event in its bus: increasing from 1. Dense in the file log, but never to be used in
/// arithmetic by clients.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Position(pub u64);

/// Number of a commit in its log: dense from 1. Durable, applied and checkpoint marks are these.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct CommitNumber(pub u64);

/// Number of an event within its key: dense from 1. Zero: the event is unkeyed or private.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct KeySequence(pub u64);

/// Identity of a plugin in one log: allocated once by a `register` record, never reused.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct InstanceId(pub u32);

/// How often a plugin's state was rebuilt from scratch: 0 at first, one more for each rewind.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Generation(pub u32);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for CommitNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for KeySequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What orders events: 1 to 1024 bytes of UTF-8 without control characters. Cheap to clone.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key {
    text: Arc<str>,
    /// Of the text: looked up by several times for each event, so that it is made once.
    hash: KeyHash,
}

/// First 16 bytes of the BLAKE3 of a key: what the log and the memory tables look keys up by.
/// Collisions are as hard to make as for the hash itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct KeyHash(pub u128);

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

impl Key {
    /// Checks and takes a key.
    ///
    /// # Errors
    /// [`InvalidEvent::Key`] where it is empty, over 1 KiB or has control characters.
    pub fn new(text: &str) -> Result<Self, InvalidEvent> {
        Self::hashed(text, KeyHash::of(text))
    }

    /// As [`Key::new`], where the hash of the text is known: it stands in the log beside it.
    ///
    /// # Errors
    /// As [`Key::new`].
    pub fn hashed(text: &str, hash: KeyHash) -> Result<Self, InvalidEvent> {
        Self::check(text)?;
        Ok(Self { text: text.into(), hash })
    }

    /// Whether a text can be a key.
    ///
    /// # Errors
    /// As [`Key::new`].
    pub fn check(text: &str) -> Result<(), InvalidEvent> {
        let why = if text.is_empty() {
            "none".to_owned()
        } else if text.len() > limits::KEY_BYTES_MAX {
            format!("{} bytes", text.len())
        } else if has_control(text) {
            "a control character".to_owned()
        } else {
            return Ok(());
        };
        Err(InvalidEvent::Key { why })
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The hash that the log and its tables use.
    #[must_use]
    pub const fn hash128(&self) -> KeyHash {
        self.hash
    }
}

impl KeyHash {
    /// Hash of a key's text.
    #[must_use]
    pub fn of(key: &str) -> Self {
        let hash = blake3::hash(key.as_bytes());
        let mut low = [0_u8; 16];
        low.copy_from_slice(hash.as_bytes().split_at(16).0);
        Self(u128::from_le_bytes(low))
    }
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

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Key").field(&self.text).finish()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.text == other.text
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}

/// As its text, which it can be borrowed as.
impl std::hash::Hash for Key {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl AsRef<str> for Key {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl std::borrow::Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.text
    }
}

impl TryFrom<String> for Key {
    type Error = InvalidEvent;
    fn try_from(text: String) -> Result<Self, InvalidEvent> {
        Self::new(&text)
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.text.as_ref().to_owned()
    }
}

/// BLAKE3 of some bytes; of a module, it is the module's name for good.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The first 4 hex digits: enough for a person to tell two modules apart.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string().chars().take(4).collect()
    }

    /// Reads the 64 hex digits that `Display` writes.
    #[must_use]
    pub fn parse(hex: &str) -> Option<Self> {
        blake3::Hash::from_hex(hex).ok().map(|hash| Self(*hash.as_bytes()))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_bytes(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        if deserializer.is_human_readable() {
            let hex = String::deserialize(deserializer)?;
            Self::parse(&hex).ok_or_else(|| D::Error::custom("not 64 hex digits"))
        } else {
            let bytes: serde_bytes::ByteArray<32> = Deserialize::deserialize(deserializer)?;
            Ok(Self(bytes.into_array()))
        }
    }
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
