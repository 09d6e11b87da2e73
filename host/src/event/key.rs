//! Keys, and the hashes that they are looked up by.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::limits;

use super::{InvalidEvent, has_control};

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
