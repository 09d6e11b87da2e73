//! Records written as MessagePack maps of named fields: control records, dead letters, seals.
//!
//! They are rare, and they live long: a reader passes over fields it does not know, and fields
//! added later have defaults.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{DecodeError, EncodeError};

/// The end of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Seal {
    /// First commit of the segment.
    pub first_commit: u64,
    /// Commits in the segment.
    pub commits: u64,
    /// Position of the first event, or the next one where there is none.
    pub first_position: u64,
    /// Events in the segment.
    pub events: u64,
    /// Frames in the segment, less the seal.
    pub frames: u64,
    /// Bytes before the seal.
    pub bytes: u64,
    /// Log time of the first frame.
    pub first_ms: u64,
    /// Log time of the last frame.
    pub last_ms: u64,
    /// The host stopped in order; nothing was on its way to the disk.
    pub clean_stop: bool,
}

/// Appends `value` as a map of named fields.
pub(super) fn put_map<T: Serialize>(out: &mut Vec<u8>, value: &T) -> Result<(), EncodeError> {
    rmp_serde::encode::write_named(out, value)
        .map_err(|error| EncodeError::Map { why: error.to_string() })
}

/// Reads a map of named fields from the start of `body`.
pub(super) fn map<T: DeserializeOwned>(kind: u8, body: &[u8]) -> Result<T, DecodeError> {
    rmp_serde::from_slice(body).map_err(|error| DecodeError::Map { kind, why: error.to_string() })
}
