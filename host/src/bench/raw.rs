//! The limit: a file of the size of a segment, and for each group one write and one fdatasync.
//!
//! Two of them. One is treated as the log treats its segments: its space is claimed, and zeros are
//! written ahead of the end while it runs; ratios are against this one. The other was zeroed before
//! the clock starts: what the disk could do at best, which no log that grows can reach.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::limits::{GROUP_BYTES_MAX, SEGMENT_ZEROED_AHEAD_BYTES, SEGMENT_ZEROED_STEP_BYTES};
use crate::log::disk::{Disk, DiskFile, OsDisk};

use super::BenchError;
use super::latency::Latencies;
use super::place::at;

/// Bytes of a segment; longer runs begin another.
const SEGMENT_BYTES: u64 = 256 << 20;
/// Bytes of the file that is zeroed before; longer runs go through it again.
const ZEROED_BYTES: u64 = 64 << 20;

static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// When a file is zeroed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Zeroing {
    /// While it is written, as a segment is.
    Ahead,
    /// Before the clock starts.
    Before,
}

/// The file of the limit.
pub(super) struct RawSegment {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    zeroing: Zeroing,
    bytes: Vec<u8>,
    group: u64,
    event_bytes: usize,
    at: u64,
    zeroed: u64,
}

/// What one run of the limit came to.
pub(super) struct RawRun {
    pub(super) events_per_second: f64,
    pub(super) groups: Latencies,
}

impl RawSegment {
    /// Makes the file in `dir`, for groups of `group` events of `event_bytes` each, or of as many as
    /// the log takes into a group.
    pub(super) fn new(
        dir: &Path,
        zeroing: Zeroing,
        group: usize,
        event_bytes: usize,
    ) -> Result<Self, BenchError> {
        let group = Self::group_of(group, event_bytes);
        let path = dir.join(format!("raw-{zeroing:?}-{group}.seg"));
        let file = OsDisk.create_new(&path).map_err(at(&path))?;
        let len = group.saturating_mul(event_bytes).max(1);
        let (bytes, group) = (vec![0x5a; len], group as u64);
        let mut this = Self { file, path, zeroing, bytes, group, event_bytes, at: 0, zeroed: 0 };
        this.begin()?;
        Ok(this)
    }

    /// How many events a group has where `events` could go together: no more bytes than the log
    /// takes at a time.
    pub(super) fn group_of(events: usize, event_bytes: usize) -> usize {
        events.min(GROUP_BYTES_MAX / event_bytes.max(1)).max(1)
    }

    /// Goes on with groups of so many events, as [`Self::new`] takes them.
    pub(super) fn regroup(&mut self, group: usize) {
        let group = Self::group_of(group, self.event_bytes);
        self.bytes.resize(group.saturating_mul(self.event_bytes).max(1), 0x5a);
        self.group = group as u64;
    }

    fn begin(&mut self) -> Result<(), BenchError> {
        self.at = 0;
        let begun = match self.zeroing {
            Zeroing::Ahead => {
                self.zeroed = 0;
                let cleared = self.file.set_len(0);
                cleared.and_then(|()| self.file.allocate(SEGMENT_BYTES))
            }
            Zeroing::Before if self.zeroed == 0 => {
                let claimed = self.file.allocate(ZEROED_BYTES);
                claimed.and_then(|()| self.zero(0, ZEROED_BYTES))
            }
            Zeroing::Before => return Ok(()),
        };
        begun.and_then(|()| self.file.sync_data()).map_err(at(&self.path))
    }

    fn zero(&mut self, from: u64, to: u64) -> std::io::Result<()> {
        let mut at = from;
        while at < to {
            let len = usize::try_from(to - at).unwrap_or(ZEROS.len()).min(ZEROS.len());
            self.file.write_at(ZEROS.get(..len).unwrap_or(&ZEROS), at)?;
            at += len as u64;
        }
        self.zeroed = to;
        Ok(())
    }

    /// Writes groups until `events` are through, or for `time_max`, whichever is first.
    pub(super) fn run(&mut self, events: u64, time_max: Duration) -> Result<RawRun, BenchError> {
        let mut groups = Latencies::default();
        let started = Instant::now();
        let mut written = 0;
        while written < events && (written == 0 || started.elapsed() < time_max) {
            let begun = Instant::now();
            self.write()?;
            written += self.group;
            groups.add(begun.elapsed());
        }
        #[allow(clippy::cast_precision_loss, reason = "a rate needs no more digits")]
        let events_per_second = written as f64 / started.elapsed().as_secs_f64();
        Ok(RawRun { events_per_second, groups })
    }

    fn write(&mut self) -> Result<(), BenchError> {
        let size = match self.zeroing {
            Zeroing::Ahead => SEGMENT_BYTES,
            Zeroing::Before => ZEROED_BYTES,
        };
        if self.at + self.bytes.len() as u64 > size {
            self.begin()?;
        }
        let end = self.at + self.bytes.len() as u64;
        let ahead = (end + SEGMENT_ZEROED_AHEAD_BYTES).min(size);
        let step = SEGMENT_ZEROED_STEP_BYTES.max(self.bytes.len() as u64);
        let from = self.zeroed.max(end);
        if end > self.zeroed || from + step <= ahead {
            self.zero(from, (from + step).min(ahead)).map_err(at(&self.path))?;
        }
        let written = self.file.write_at(&self.bytes, self.at);
        written.and_then(|()| self.file.sync_data()).map_err(at(&self.path))?;
        self.at = end;
        Ok(())
    }

    /// When it is zeroed.
    pub(super) const fn zeroing(&self) -> Zeroing {
        self.zeroing
    }

    /// Events of a group.
    pub(super) const fn group(&self) -> u64 {
        self.group
    }

    /// Bytes of an event.
    pub(super) const fn event_bytes(&self) -> usize {
        self.event_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_longer_than_the_file_go_around() {
        let dir = tempfile::tempdir().unwrap();
        let mut raw = RawSegment::new(dir.path(), Zeroing::Before, 20, 1 << 20).unwrap();
        assert_eq!(raw.group(), 4, "no more than a group of the log");
        let run = raw.run(100, Duration::from_secs(60)).unwrap();
        assert!(run.events_per_second > 0.0);
        assert_eq!(std::fs::metadata(&raw.path).unwrap().len(), ZEROED_BYTES);
    }

    #[test]
    fn a_segment_is_zeroed_ahead_of_what_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut raw = RawSegment::new(dir.path(), Zeroing::Ahead, 10, 100).unwrap();
        raw.run(20, Duration::from_secs(60)).unwrap();
        assert_eq!((raw.at, raw.zeroed), (2000, 1000 + 2 * SEGMENT_ZEROED_STEP_BYTES));
        raw.run(300, Duration::from_secs(60)).unwrap();
        let written = raw.at;
        raw.regroup(25);
        raw.run(50, Duration::from_secs(60)).unwrap();
        assert_eq!((raw.group(), raw.at), (25, written + 5000));
        assert!(raw.zeroed <= raw.at + SEGMENT_ZEROED_AHEAD_BYTES);
        assert!(raw.zeroed > raw.at + SEGMENT_ZEROED_AHEAD_BYTES - SEGMENT_ZEROED_STEP_BYTES);
        assert_eq!(std::fs::metadata(&raw.path).unwrap().len(), SEGMENT_BYTES);
    }
}
