//! Figures about a log, for metrics and `status`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Log;
use super::clock::ClockAlarm;
use super::dedup::DedupWindow;
use super::error::{AppendError, LogFailure};
use crate::event::{CommitNumber, Position};

/// How a log is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogStats {
    /// Segments, the open one included.
    pub segments: u64,
    /// Bytes of all frames.
    pub bytes: u64,
    /// Events appended since the start.
    pub appended_events: u64,
    /// Commits appended since the start.
    pub appended_commits: u64,
    /// Frames written since the start.
    pub groups: u64,
    /// How long the last group took from being gathered to being answered, microseconds.
    pub last_append_us: u64,
    /// Time the writer spent numbering and copying what it took, since the start.
    pub gather: Duration,
    /// Time it spent in write and sync.
    pub sync: Duration,
    /// Time it spent on what follows a sync: tables, index, answers.
    pub settle: Duration,
    /// The last durable commit.
    pub last_commit: CommitNumber,
    /// The last durable event.
    pub last_position: Position,
    /// How far back duplicates are found for sure.
    pub dedup: DedupWindow,
    /// Keys known.
    pub keys: usize,
    /// Bytes waiting in the effects lane.
    pub effects_waiting_bytes: usize,
    /// Bytes waiting in the ingest lane.
    pub ingest_waiting_bytes: usize,
    /// Bytes of recent frames in memory.
    pub tail_bytes: usize,
    /// Free bytes on the disk, now.
    pub free_bytes: u64,
    /// Free bytes on the disk below which nothing is published.
    pub keep_free_bytes: u64,
    /// Wall time ran away from log time.
    pub clock_alarm: Option<ClockAlarm>,
    /// Why the log takes no more.
    pub failure: Option<LogFailure>,
}

impl LogStats {
    /// Whether too little is free for anything to be published.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.free_bytes < self.keep_free_bytes
    }
}

impl Log {
    /// Whether the disk has room for effects: without it whatever goes into their lane waits.
    ///
    /// # Errors
    /// [`AppendError::StorageFull`].
    pub fn check_room(&self) -> Result<(), AppendError> {
        let (free, needed) =
            (self.shared().free_bytes(), self.shared().options.watermark_effects_bytes);
        if free < needed { Err(AppendError::StorageFull { free, needed }) } else { Ok(()) }
    }

    /// Whether wall time is too far from log time to be followed, as of now.
    #[must_use]
    pub fn clock_alarm(&self) -> Option<ClockAlarm> {
        let clock = &self.shared().clock;
        // A log with nothing to do asks for no time.
        let _ = clock.now_ms();
        clock.alarm()
    }

    /// Events appended since the start.
    #[must_use]
    pub fn appended_events(&self) -> u64 {
        self.shared().counters.events.load(Ordering::Relaxed)
    }

    /// How the log is doing.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        let shared = self.shared();
        let counters = &shared.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (effects_waiting_bytes, ingest_waiting_bytes) = shared.lanes.waiting_bytes();
        LogStats {
            segments: read(&counters.segments),
            bytes: read(&counters.sealed_bytes) + read(&counters.open_bytes),
            appended_events: self.appended_events(),
            appended_commits: read(&counters.commits),
            groups: read(&counters.groups),
            last_append_us: read(&counters.last_append_us),
            gather: Duration::from_nanos(read(&counters.gather_ns)),
            sync: Duration::from_nanos(read(&counters.sync_ns)),
            settle: Duration::from_nanos(read(&counters.settle_ns)),
            last_commit: shared.durable_commit(),
            last_position: shared.durable_position(),
            dedup: shared.recent.window(shared.clock.now_ms()),
            keys: shared.heads.len(),
            effects_waiting_bytes,
            ingest_waiting_bytes,
            tail_bytes: shared.tail.bytes(),
            free_bytes: shared.free_bytes(),
            keep_free_bytes: shared.options.watermark_ingest_bytes,
            clock_alarm: self.clock_alarm(),
            failure: shared.failure.borrow().clone(),
        }
    }
}
