//! Where things are in a segment of the log: by key, type, plugin and key, commit, position, time.
//!
//! A sealed segment has one immutable index file; the open one has a [`SegmentIndexBuilder`] in
//! memory, which answers the same questions and becomes the file when the segment is sealed. Every
//! index is derived: it can be deleted and built again from the segment. `INDEX.md` beside this
//! folder describes the bytes.
//!
//! Rule: an index may cost a read, but it never hides an event. Every page that is read is checked,
//! and an index that does not fit its segment is not used.

mod builder;
mod encode;
mod few;
mod file;
mod fill;
mod filter;
mod groups;
mod open;
mod page;
mod row;
mod sections;
mod set;
mod snapshot;
mod whole;

use std::path::PathBuf;
use std::sync::Arc;

pub use builder::SegmentIndexBuilder;
pub use file::IndexFile;
pub use fill::FillError;
pub use set::{FramePlace, LogIndex, SealedIndex};
pub use snapshot::{HeadsFile, HeadsMark};
pub use whole::{IndexedCompletion, IndexedEvent};

use super::dedup::IdHash;
use crate::event::{CommitNumber, Generation, InstanceId, KeyHash, KeySequence, Position};
use crate::limits::SEGMENT_MAX;

/// Largest segment that can be indexed: offsets of positions, commits and entries have 32 bits, and
/// no record takes less than 16 bytes.
const SEGMENT_BYTES_MAX: u64 = 64 << 30;
const _: () = assert!(SEGMENT_MAX.bytes() <= SEGMENT_BYTES_MAX);

/// What an index knows of its segment before the first record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentBase {
    /// The log.
    pub log_id: [u8; 16],
    /// Number of the segment.
    pub segment: u32,
    /// First commit in it.
    pub first_commit: CommitNumber,
    /// The next position when the segment began; no event in it has a lower one.
    pub first_position: Position,
    /// Log time at which it began, milliseconds since the Unix epoch; no event in it is older.
    pub first_ms: u64,
}

/// What ties an index to the content of its sealed segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SegmentSeal {
    /// Bytes of the segment up to the end of its seal.
    pub bytes: u64,
    /// Hash chain at its end.
    pub chain: [u8; 32],
}

/// What a segment spans, as its index says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentSpan {
    /// Its beginning.
    pub base: SegmentBase,
    /// Last commit in it.
    pub last_commit: CommitNumber,
    /// Last position in it; below `base.first_position` where it has no event.
    pub last_position: Position,
    /// Log time of its last frame, milliseconds since the Unix epoch.
    pub last_ms: u64,
    /// Events in it, private ones included.
    pub events: u64,
    /// Its content; all zero while it is open.
    pub seal: SegmentSeal,
}

/// Who alone gets a private event, as far as an index tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IndexedAddressee {
    /// Nobody in particular: the event is public.
    #[default]
    Public,
    /// One plugin.
    Plugin(InstanceId),
    /// Another bus; the event says which.
    Bus,
}

/// One event on its way into an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventToIndex<'a> {
    /// Its position; must be above all before it.
    pub position: Position,
    /// When the log took it, milliseconds since the Unix epoch.
    pub recorded_ms: u64,
    /// CloudEvents `type`.
    pub kind: &'a str,
    /// Hash of its key; none: unkeyed.
    pub key: Option<KeyHash>,
    /// Number within its key; 0: unkeyed or private.
    pub sequence: KeySequence,
    /// Who alone gets it.
    pub addressee: IndexedAddressee,
    /// The plugin that emitted it; none: it came from outside.
    pub emitter: Option<InstanceId>,
    /// Its identity, where it counts for deduplication.
    pub id: Option<IdHash>,
}

/// One event of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// Where it is.
    pub position: Position,
    /// Number within its key; 0: private.
    pub sequence: KeySequence,
    /// CloudEvents `type`.
    pub kind: Arc<str>,
    /// Who alone gets it.
    pub addressee: IndexedAddressee,
    /// The plugin that emitted it; none: it came from outside.
    pub emitter: Option<InstanceId>,
}

/// One completion of a plugin and key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompletionEntry {
    /// The commit that holds it.
    pub commit: CommitNumber,
    /// The input event.
    pub position: Position,
    /// The plugin's generation.
    pub generation: Generation,
}

/// A frame to start reading at. Not every frame has a mark: read on from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameMark {
    /// Where the frame starts in the segment file, in bytes.
    pub offset: u64,
    /// Its first commit.
    pub first_commit: CommitNumber,
    /// Its first position, or the next one where it has no event.
    pub first_position: Position,
    /// Its log time, milliseconds since the Unix epoch.
    pub time_ms: u64,
}

/// What a segment holds of one type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeStat {
    /// CloudEvents `type`.
    pub kind: Arc<str>,
    /// Public events of it.
    pub count: u64,
    /// Private events of it.
    pub private_count: u64,
    /// Position of the first.
    pub first_position: Position,
    /// Position of the last.
    pub last_position: Position,
    /// Log time of the last, milliseconds since the Unix epoch.
    pub last_ms: u64,
}

/// Why an index does not answer.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The file cannot be read.
    #[error("index `{path}` cannot be read: {source}")]
    Io {
        /// The index file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Bytes are not what was written.
    #[error(
        "index `{path}` is damaged at byte {offset}: {why}; `tidegate log reindex` rebuilds it"
    )]
    Damaged {
        /// The index file.
        path: PathBuf,
        /// Where the damaged page starts.
        offset: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// A newer host wrote it.
    #[error("index `{path}` has version {found}, at most {supported} is supported")]
    Version {
        /// The index file.
        path: PathBuf,
        /// The version in the file.
        found: u16,
        /// The newest version this host reads.
        supported: u16,
    },
    /// What was written does not decode, or does not fit: a defect of this host.
    #[error("a frame of segment {segment}, from commit {commit} on, cannot be indexed: {why}")]
    Frame {
        /// Number of the segment.
        segment: u32,
        /// First commit of the frame.
        commit: CommitNumber,
        /// What is wrong.
        why: String,
    },
    /// A position, commit or count is too far from the start of its segment.
    #[error("segment {segment} has a {what} out of the range an index can hold")]
    OutOfRange {
        /// Number of the segment.
        segment: u32,
        /// What is too far.
        what: &'static str,
    },
}

/// The hash under which completions of a plugin and key stand.
#[must_use]
fn completion_hash(instance: InstanceId, key: KeyHash) -> u128 {
    // A key hash is uniform already: shifting it by a multiple of a large odd number keeps it so.
    let step = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835_u128;
    key.0.wrapping_add(step.wrapping_mul(u128::from(instance.0) + 1))
}

#[cfg(test)]
mod tests;
