//! How a log is opened: bounds, windows, and the operator's word on a clock that went back.

use std::time::Duration;

use super::segment::START_ROOM;
use crate::limits;

/// The share of a segment that is kept for starts, at most.
const START_ROOM_SHARE: u64 = 32;

const _: () = assert!(limits::SEGMENT_MIN.bytes() / START_ROOM_SHARE >= START_ROOM);

/// What [`super::Log::open`] takes beside the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogOptions {
    /// Bytes of a segment; one commit may make it larger.
    pub segment_bytes: u64,
    /// How long a published identity is remembered, milliseconds.
    pub dedup_window_ms: u64,
    /// How many identities are remembered.
    pub dedup_max: usize,
    /// Bytes of recent frames kept in memory.
    pub tail_bytes: usize,
    /// Index files that are open at a time.
    pub index_files_max: usize,
    /// Free bytes on the disk below which nothing is published.
    pub watermark_ingest_bytes: u64,
    /// Free bytes on the disk below which effects are refused too; below the one for ingest.
    pub watermark_effects_bytes: u64,
    /// Bytes checked before the log opens, if they come to more than the open segment those of sealed
    /// segments as a whole; the rest is checked in the background.
    pub check_first_bytes: u64,
    /// When the rest is checked.
    pub check_rest: CheckRest,
    /// Published identities that are read before the log opens. Where there are more, all are read in
    /// the background, and publishers wait for that.
    pub ids_first_max: u64,
    /// What to do if the wall clock is far behind the log.
    pub clock_gap: ClockGap,
    /// How long the writer waits for what comes of a few events, to write it together with them.
    pub linger: Linger,
}

impl LogOptions {
    /// Bytes that a segment claims where so many are free: fewer on a small disk, so that claiming
    /// does not stop publishers long before the disk is full.
    #[must_use]
    pub(super) fn segment_bytes_on(&self, free_bytes: u64) -> u64 {
        let share = free_bytes / limits::SEGMENT_FREE_SHARE;
        self.segment_bytes.min(share.max(limits::SEGMENT_MIN.bytes()))
    }

    /// Bytes at the end of a segment that are kept for starts: less where segments are smaller than any
    /// that can be configured, or nothing else would fit them. It does not go by the size that was
    /// claimed: what little a full disk gave is for starts.
    #[must_use]
    pub(super) fn start_room(&self) -> u64 {
        START_ROOM.min(self.segment_bytes / START_ROOM_SHARE)
    }
}

/// When the segments are checked that were not checked before the log opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CheckRest {
    /// From then on.
    #[default]
    AtOnce,
    /// From [`super::Log::check_rest`] on: there is something more urgent to read.
    WhenTold,
}

/// How long the writer waits for what comes of a few events, where something mostly does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Linger {
    /// As long as the last sync took: what waiting may save.
    #[default]
    AsSyncsTake,
    /// So long, whatever it saves.
    For(Duration),
}

/// What to do at start if the wall clock is further behind the last log time than
/// [`limits::CLOCK_GAP_MS_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClockGap {
    /// Refuse to open.
    #[default]
    Refuse,
    /// Open; log time goes on from where it was.
    Accept,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 256 << 20,
            dedup_window_ms: 24 * 60 * 60 * 1000,
            dedup_max: 10_000_000,
            tail_bytes: limits::TAIL_BYTES_MAX,
            index_files_max: limits::INDEX_FILES_OPEN_MAX,
            watermark_ingest_bytes: 64 << 20,
            watermark_effects_bytes: 16 << 20,
            check_first_bytes: 32 << 20,
            check_rest: CheckRest::AtOnce,
            ids_first_max: 200_000,
            clock_gap: ClockGap::Refuse,
            linger: Linger::AsSyncsTake,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_leaves_most_of_a_small_disk_free() {
        let options = LogOptions::default();
        for (free_mib, claimed_mib) in [(1 << 20, 256), (1024, 256), (400, 100), (80, 20), (3, 4)] {
            assert_eq!(options.segment_bytes_on(free_mib << 20), claimed_mib << 20, "{free_mib}");
        }
        let small = LogOptions { segment_bytes: 1000, ..options };
        assert_eq!(small.segment_bytes_on(0), 1000);
    }
}
