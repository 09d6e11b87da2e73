//! The bytes of the log: frames of commits of records, as `log/FORMAT.md` has them byte by byte.
//!
//! Encoding happens in the caller's thread into reused buffers; the writer only patches what it
//! assigns. Decoding borrows. Rule: no decoder panics or allocates on the word of a length it has
//! not checked, whatever the bytes.

mod control;
mod decode;
mod effect;
mod encode;
mod event;
mod header;
mod outline;
#[cfg(test)]
mod tests;

pub use control::Seal;
pub use decode::{CommitRef, Commits, RawRecord, RecordRef, Records};
pub use effect::{CallRef, CommitMeta, CompletionRef, Ended, ResponseRef, StateRef, TimerRef};
pub use encode::{Encoded, EventSlot};
pub use event::{AddresseeRef, EventRef, OriginRef, Pairs};
pub use header::{
    FLAG_MENDED, FLAG_SEAL, FRAME_ALIGN, FRAME_BYTES_MAX, HEADER_BYTES, Header, Salt, Section,
    chain,
};
pub use outline::{Completed, Line, OUTLINE_OF_ANOTHER, Outline, Placed, Sketch};

use super::pack::PackError;

/// Kind of a record: the first byte of its prefix.
pub mod kind {
    /// What is rare about the whole commit; first in it where present.
    pub const COMMIT: u8 = 1;
    /// An event.
    pub const EVENT: u8 = 2;
    /// The end of a delivery.
    pub const COMPLETION: u8 = 3;
    /// A state write of the completion before it.
    pub const STATE: u8 = 4;
    /// A timer change of the completion before it.
    pub const TIMER: u8 = 5;
    /// A call of the completion before it.
    pub const CALL: u8 = 6;
    /// Why the completion before it was given up.
    pub const DEAD_LETTER: u8 = 7;
    /// A control record.
    pub const CONTROL: u8 = 8;
    /// The end of a segment; alone in its frame, part of no commit.
    pub const SEAL: u8 = 9;
    /// What the frame after this one has as its chain; the last record of a mended frame.
    pub const CHAIN: u8 = 10;
}

/// Flags of a record: the second byte of its prefix.
pub mod flag {
    /// The last record of its commit.
    pub const LAST: u8 = 1;
    /// A reader that does not know the kind passes over the record; without it, it refuses.
    pub const SKIPPABLE: u8 = 2;
    /// Key sequence and key hash follow the lengths.
    pub const KEYED: u8 = 4;
    /// A payload digest follows; the record has bytes in the payload section.
    pub const PAYLOAD: u8 = 8;
    /// The flags this version knows.
    pub const ALL: u8 = LAST | SKIPPABLE | KEYED | PAYLOAD;
}

/// Bytes of the part of a prefix that every record has.
pub const PREFIX_BYTES: usize = 12;
/// Bytes that `KEYED` adds.
pub const PREFIX_KEY_BYTES: usize = 24;
/// Bytes that `PAYLOAD` adds: the first 16 of the payload's BLAKE3.
pub const PREFIX_DIGEST_BYTES: usize = 16;

/// What is wrong with bytes that should be a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The file or buffer ends inside the frame.
    #[error("ends inside a frame: {needed} bytes needed, {available} there")]
    Short {
        /// Bytes the frame claims.
        needed: u64,
        /// Bytes there are.
        available: u64,
    },
    /// There is no frame here.
    #[error("no frame starts here")]
    Magic,
    /// The frame was written by a newer version.
    #[error("frame has format version {found}, this host reads up to {supported}")]
    Version {
        /// Version in the frame.
        found: u8,
        /// Version this host writes.
        supported: u8,
    },
    /// A feature this host does not have.
    #[error("frame flags {found:#06x} ask for a compression or checksum this host does not have")]
    Flags {
        /// The flags in the frame.
        found: u16,
    },
    /// The frame belongs to another log or segment.
    #[error("frame belongs to another log or segment (segment {segment})")]
    Foreign {
        /// The segment it names.
        segment: u32,
    },
    /// A checksum does not match.
    #[error("checksum of the {part} does not match")]
    Checksum {
        /// `header`, `metadata` or `payload`.
        part: &'static str,
    },
    /// The hash of the frame before is not the one this frame names.
    #[error("hash chain is broken: this frame does not follow the one before it")]
    Chain,
    /// Numbers do not follow on those of the frame before.
    #[error("{what} is {found}, expected {expected}")]
    Order {
        /// Which number.
        what: &'static str,
        /// As it stands.
        found: u64,
        /// As it should be.
        expected: u64,
    },
    /// A segment that was sealed once has no seal.
    #[error("the segment was sealed once, and ends without its seal")]
    Unsealed,
    /// A length or count contradicts another.
    #[error("{what} contradict each other")]
    Inconsistent {
        /// What.
        what: &'static str,
    },
    /// A record of a kind this host does not know and must not pass over.
    #[error("record kind {kind} is not known to this host and must not be passed over")]
    Kind {
        /// The kind.
        kind: u8,
    },
    /// A record's body is not what its kind says.
    #[error("body of a record of kind {kind} {source}")]
    Body {
        /// The kind.
        kind: u8,
        /// What is wrong.
        source: PackError,
    },
    /// A required field is absent or has no meaning.
    #[error("record of kind {kind} has no valid `{field}`")]
    Field {
        /// The kind.
        kind: u8,
        /// The field.
        field: &'static str,
    },
    /// A control record or dead letter is not what its kind says.
    #[error("record of kind {kind}: {why}")]
    Map {
        /// The kind.
        kind: u8,
        /// What the decoder says.
        why: String,
    },
}

/// What is wrong with something about to be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The commit is larger than a frame may be.
    #[error("commit has {actual} bytes, at most {limit} fit a frame")]
    TooLarge {
        /// Bytes of the commit.
        actual: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// There is nothing in the commit.
    #[error("commit has no record")]
    Empty,
    /// A map could not be written.
    #[error("record cannot be encoded: {why}")]
    Map {
        /// What the encoder says.
        why: String,
    },
}

/// The digest of a payload that stands in a record's prefix.
#[must_use]
pub fn payload_digest(payload: &[u8]) -> [u8; PREFIX_DIGEST_BYTES] {
    let mut digest = [0; PREFIX_DIGEST_BYTES];
    digest.copy_from_slice(blake3::hash(payload).as_bytes().split_at(PREFIX_DIGEST_BYTES).0);
    digest
}

/// Reads a little-endian number at `at`, without panicking.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}
