//! What can go wrong with a log: opening, appending, reading, and for good.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::codec::{DecodeError, EncodeError};
use super::disk::LockError;
use super::index::IndexError;
use crate::clock::Moment;
use crate::event::{CommitNumber, KeySequence, Position};

/// Bytes of the log that are not what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{}` is damaged at byte {offset}: {why}; concerned are commits {} (positions {}); \
     run `tidegate log verify {}` for all of it, `tidegate log repair {}` for what can be done",
    path.display(), span(first_commit.0, next_whole.map(|(commit, _)| commit.0)),
    span(first_position.0, next_whole.map(|(_, position)| position.0)), data_dir.display(),
    data_dir.display()
)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// Where in it, in bytes.
    pub offset: u64,
    /// What is wrong.
    pub why: DecodeError,
    /// The first commit that cannot be read.
    pub first_commit: CommitNumber,
    /// The first position that cannot be read.
    pub first_position: Position,
    /// The first commit and position after the damage that can be read again, where there are any.
    pub next_whole: Option<(CommitNumber, Position)>,
    /// What to give the command.
    pub data_dir: PathBuf,
}

fn span(first: u64, next_whole: Option<u64>) -> String {
    match next_whole {
        Some(next) if next > first => format!("{first} to {}", next - 1),
        Some(_) => "none".to_owned(),
        None => format!("{first} and later"),
    }
}

/// The data folder that a bus folder, `DATA/buses/BUS`, is in.
pub(super) fn data_dir(bus_dir: &Path) -> PathBuf {
    let buses = bus_dir.parent().filter(|dir| dir.ends_with("buses"));
    buses.and_then(Path::parent).unwrap_or(bus_dir).to_owned()
}

/// A log that was longer once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the log in `{}` ends with commit {last_commit}, and `{}` proves that it went on up to commit \
     {commit}: segments up to {segment} are missing, or the end of the last one; run `tidegate log verify \
     {}` for all of it, `tidegate log repair {}` for what can be done; if an older log was put back on \
     purpose, put back the `index` and `checkpoints` of the same backup as well, or move those away",
    dir.display(), proof.display(), data_dir.display(), data_dir.display()
)]
pub struct Shorter {
    /// The folder of the segments.
    pub dir: PathBuf,
    /// The last segment that there was, as far as is known.
    pub segment: u32,
    /// The last commit that is there; 0: none.
    pub last_commit: CommitNumber,
    /// The file that proves it.
    pub proof: PathBuf,
    /// The last commit that it tells of.
    pub commit: CommitNumber,
    /// What to give the command.
    pub data_dir: PathBuf,
}

/// Why a log does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The disk fails.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the disk says.
        source: io::Error,
    },
    /// The log is not what was written.
    #[error(transparent)]
    Damaged(#[from] Box<Damage>),
    /// A newer host wrote the log.
    #[error("`{}`: {why}; use a host that knows this format", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Found and supported versions.
        why: DecodeError,
    },
    /// A segment is missing between others, or the first one, or the last one.
    #[error(
        "segment {segment} of `{}` is missing; commits {first_commit} and later were in it; \
         run `tidegate log verify {}` for all of it, `tidegate log repair {}` for what can be done",
        dir.display(), data_dir.display(), data_dir.display()
    )]
    Missing {
        /// The folder.
        dir: PathBuf,
        /// The segment.
        segment: u32,
        /// The first commit that is missing.
        first_commit: CommitNumber,
        /// What to give the command.
        data_dir: PathBuf,
    },
    /// The last segments are missing, or the end of the last one, and something else proves it.
    #[error(transparent)]
    Shorter(#[from] Box<Shorter>),
    /// A repair was interrupted.
    #[error(
        "`{}` is being repaired, and that was interrupted: run `tidegate log repair {} --yes` again",
        dir.display(), data_dir.display()
    )]
    InRepair {
        /// The folder.
        dir: PathBuf,
        /// What to give the command.
        data_dir: PathBuf,
    },
    /// The index of a segment cannot be made.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The wall clock is far behind the log.
    #[error(
        "the clock says {} ({wall_ms} ms), which is {behind_ms} ms before the last commit in `{}`, at {}; \
         set the clock, or start with `--accept-clock`",
        Moment(*wall_ms), dir.display(), Moment(wall_ms.saturating_add(*behind_ms))
    )]
    Clock {
        /// The folder of the log.
        dir: PathBuf,
        /// Wall time, milliseconds since the Unix epoch.
        wall_ms: u64,
        /// How far it is behind, milliseconds.
        behind_ms: u64,
    },
    /// There is no room for the segment that the start is to be recorded in.
    #[error("no space for a segment of {bytes} bytes in `{}`; free some space and start again", dir.display())]
    StorageFull {
        /// The folder.
        dir: PathBuf,
        /// Bytes wanted.
        bytes: u64,
    },
    /// A torn tail is kept aside before it is cut off, and there is no room for that.
    #[error(
        "`{}`: the torn tail at offset {offset} is to be kept aside before it is cut off, and the \
         disk has no room for its {bytes} bytes; free some space and start again",
        path.display()
    )]
    NoRoomToCut {
        /// The segment's file.
        path: PathBuf,
        /// Where the tail starts.
        offset: u64,
        /// Its bytes.
        bytes: u64,
    },
    /// The first commit could not be made.
    #[error("the start could not be recorded: {0}")]
    Append(#[from] AppendError),
}

/// Why something was not appended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// An event with this source and id, and other content, is in the log.
    #[error("event {index}: its id was used before with other content, at position {position}")]
    IdConflict {
        /// Which event of the batch, from 0.
        index: usize,
        /// The event in the log; 0: an earlier one in the same batch.
        position: Position,
    },
    /// The key is not where the publisher expected it.
    #[error("event {index}: expected sequence {expected}, the key is at {actual}")]
    SequenceConflict {
        /// Which event of the batch, from 0.
        index: usize,
        /// As the publisher thought.
        expected: KeySequence,
        /// As it is.
        actual: KeySequence,
    },
    /// Too much is waiting.
    #[error("the append queue is full: {limit} bytes wait")]
    QueueFull {
        /// Bytes that may wait.
        limit: usize,
    },
    /// More events at a time than a memory bus can hold.
    #[error("{actual} events at a time are too many for this memory bus: it holds {limit}")]
    TooMany {
        /// Events that it holds.
        limit: usize,
        /// Events that were to be appended.
        actual: usize,
    },
    /// The disk is full, or nearly.
    #[error("the disk is full: {free} bytes are free, {needed} are needed")]
    StorageFull {
        /// Bytes free.
        free: u64,
        /// Bytes that must be.
        needed: u64,
    },
    /// The log failed and takes nothing more; what was on its way may or may not be in it.
    #[error("the log is read-only: {0}")]
    ReadOnly(LogFailure),
    /// The host is stopping.
    #[error("the log is closing")]
    ShuttingDown,
    /// The commit cannot be written at all.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// An identity could not be compared with the event in the log.
    #[error("looking up an earlier event: {0}")]
    Read(String),
}

/// Why nothing is read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The disk fails.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the disk says.
        source: Arc<io::Error>,
    },
    /// The log is not what was written.
    #[error("`{}` is damaged at byte {offset}: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// What is wrong.
        why: DecodeError,
    },
    /// A record cannot be decoded.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// An index cannot be read.
    #[error(transparent)]
    Index(Arc<IndexError>),
    /// The log is closed and everything in it was read.
    #[error("the log is closed")]
    Closed,
}

impl From<IndexError> for ReadError {
    fn from(error: IndexError) -> Self {
        Self::Index(Arc::new(error))
    }
}

/// Why a log takes nothing more, for good. The host must end, and start again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogFailure {
    /// A write or sync failed: what the disk holds is not known until it is read again.
    #[error("writing `{}` failed: {why}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the disk says.
        why: String,
    },
    /// The check in the background found damage.
    #[error(transparent)]
    Damaged(Box<Damage>),
    /// A segment could not be read in the background.
    #[error("checking `{}` failed: {why}", path.display())]
    Check {
        /// The file.
        path: PathBuf,
        /// What the disk says.
        why: String,
    },
    /// What was written could not be indexed.
    #[error("indexing commit {commit} failed: {why}")]
    Index {
        /// The first commit of the frame.
        commit: CommitNumber,
        /// What the index says.
        why: String,
    },
    /// The writer's thread ended without being told to.
    #[error("the writer of the log ended")]
    WriterGone,
}

#[cfg(test)]
mod tests {
    use super::span;

    #[test]
    fn a_span_of_nothing_is_none() {
        let words = [(5, Some(8)), (5, Some(6)), (5, Some(5)), (5, None)];
        let words = words.map(|(first, next)| span(first, next));
        assert_eq!(words, ["5 to 7", "5 to 5", "none", "5 and later"]);
    }
}
