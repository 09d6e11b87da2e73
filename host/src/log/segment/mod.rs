//! Segment files: their names, what must follow on what, reading them frame by frame.
//!
//! Rule: a frame is accepted only if it follows on the one before it, by hash chain and by numbers.

mod open;
mod scan;
mod windows;

use std::path::{Path, PathBuf};

pub use open::Durable;
pub(super) use open::{OpenSegment, SegmentError, claim, count_frame};
pub use scan::{Scan, ScanEnd, SegmentScan};
pub(super) use scan::{first_nonzero, nonzero_end};
pub(super) use windows::ReadBuffers;

use super::codec::{DecodeError, FRAME_ALIGN};
use super::frame::Frame;
use crate::event::CommitNumber;

/// Folder of the segments in a bus folder.
pub const SEGMENTS_DIR: &str = "log";
/// Folder of the index files in a bus folder.
pub const INDEX_DIR: &str = "index";
/// Bytes that an open segment always has behind its last frame: room for the seal.
pub const SEAL_BYTES_MAX: u64 = 1024;
/// Bytes that a host leaves beside those for starts to be recorded in: on a full disk there is no
/// other room for that. A start takes some 200 of them.
pub const START_ROOM: u64 = 64 * 1024;
/// The length of an open segment's file is a multiple of this, that of a sealed one's never is: so
/// a file that lost its seal is not taken for an open one.
pub const CLAIM_ALIGN: u64 = 4096;
const EXTENSION: &str = ".seg";
const DIGITS: usize = 10;

/// Where a segment is; `dir` is the folder of the segments.
#[must_use]
pub fn segment_path(dir: &Path, segment: u32) -> PathBuf {
    dir.join(format!("{segment:0DIGITS$}{EXTENSION}"))
}

/// The number of a segment by its file name; none: the file is something else.
#[must_use]
pub fn segment_number(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(EXTENSION).filter(|digits| digits.len() == DIGITS)?;
    digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// The length of the file of a segment whose seal ends at `end`.
#[must_use]
pub const fn sealed_len(end: u64) -> u64 {
    if end.is_multiple_of(CLAIM_ALIGN) { end + FRAME_ALIGN as u64 } else { end }
}

/// The end of the log: what the next frame must follow on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tip {
    /// Number of the next commit.
    pub next_commit: u64,
    /// Position of the next event.
    pub next_position: u64,
    /// Chain of the next frame.
    pub chain: [u8; 32],
    /// Epoch of the last frame.
    pub epoch: u32,
    /// Log time of the last frame.
    pub time_ms: u64,
}

impl Tip {
    /// Before the first frame of a log.
    pub const START: Self =
        Self { next_commit: 1, next_position: 1, chain: [0; 32], epoch: 0, time_ms: 0 };

    /// The last commit of what it is behind; 0: none.
    #[must_use]
    pub const fn last_commit(&self) -> CommitNumber {
        CommitNumber(self.next_commit.saturating_sub(1))
    }

    /// Moves behind a frame.
    ///
    /// # Errors
    /// The frame does not follow on.
    pub fn follow(&mut self, frame: &Frame) -> Result<(), DecodeError> {
        let header = frame.header();
        let order = |what, found, expected| Err(DecodeError::Order { what, found, expected });
        if header.first_commit != self.next_commit {
            return order("first commit", header.first_commit, self.next_commit);
        }
        if header.first_position != self.next_position {
            return order("first position", header.first_position, self.next_position);
        }
        if header.chain != self.chain {
            return Err(DecodeError::Chain);
        }
        if header.epoch < self.epoch {
            return order("epoch", header.epoch.into(), self.epoch.into());
        }
        if header.time_ms < self.time_ms {
            return order("log time", header.time_ms, self.time_ms);
        }
        *self = Self::after(frame);
        Ok(())
    }

    /// Behind a frame that is known to be right.
    #[must_use]
    pub fn after(frame: &Frame) -> Self {
        let header = frame.header();
        Self {
            next_commit: header.next_commit(),
            next_position: header.next_position(),
            chain: frame.chain(),
            epoch: header.epoch,
            time_ms: header.time_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_file_is_told_from_an_open_one_by_its_length() {
        for end in [8, 4088, 4096, 4104, 8192] {
            assert!(!sealed_len(end).is_multiple_of(CLAIM_ALIGN));
        }
    }

    #[test]
    fn names_and_numbers_go_both_ways() {
        let path = segment_path(Path::new("d"), 42);
        assert_eq!(path, Path::new("d/0000000042.seg"));
        assert_eq!(segment_number("0000000042.seg"), Some(42));
        for other in ["42.seg", "0000000042.cut", "+000000042.seg", "9999999999.seg", "lock"] {
            assert_eq!(segment_number(other), None, "{other}");
        }
    }
}
