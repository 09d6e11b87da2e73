//! The last segment of a log that was not stopped in order: read, indexed, and cut where it is torn.
//!
//! Rule: [`Unfinished::read`] only reads. What follows it may write, and comes once all else is proven.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use super::prove::{Last, LastEnd, prove_last};
use super::{End, Folders, Recovered, SealedSegment, UnsealedSegment, torn};
use crate::log::codec::Salt;
use crate::log::dedup::IdHasher;
use crate::log::disk::Disk;
use crate::log::error::OpenError;
use crate::log::frame::Frame;
use crate::log::index::{FillError, SegmentBase, SegmentIndexBuilder};
use crate::log::segment::{Tip, sealed_len};

/// Frames that may be on their way from who reads them to who indexes them.
const FRAMES_AHEAD_MAX: usize = 64;

/// The last segment as it was found.
#[derive(Debug)]
pub(super) struct Unfinished {
    pub(super) number: u32,
    before: Tip,
    last: Last,
    frame_at: Option<u64>,
    index: Option<SegmentIndexBuilder>,
}

/// What is indexed of a segment so far.
struct Indexed {
    hasher: IdHasher,
    builder: Option<SegmentIndexBuilder>,
}

impl Indexed {
    fn new(log_id: &[u8; 16]) -> Self {
        Self { hasher: IdHasher::new(log_id), builder: None }
    }

    fn add(&mut self, frame: &Frame, offset: u64) -> Result<(), FillError> {
        let base = SegmentBase::of(frame.header());
        let builder = self.builder.get_or_insert_with(|| SegmentIndexBuilder::new(base));
        builder.add_frame(frame, offset, &self.hasher)
    }

    /// Adds what comes, as long as it can be added.
    fn add_all(mut self, frames: &Receiver<(Arc<Frame>, u64)>) -> Result<Self, FillError> {
        frames.iter().try_for_each(|(frame, offset)| self.add(&frame, offset))?;
        Ok(self)
    }
}

impl Unfinished {
    /// Reads the last segment, which follows on `before`.
    ///
    /// # Errors
    /// Damage, and the disk's.
    pub(super) fn read(
        disk: &dyn Disk,
        folders: &Folders,
        log_id: [u8; 16],
        number: u32,
        before: Tip,
    ) -> Result<Self, OpenError> {
        let path = folders.segment(number);
        let file = disk.open_read(&path).map_err(Folders::io(&path))?;
        let salt = Salt::new(log_id, number);
        let mut frame_at = None;
        let together = std::thread::scope(|scope| {
            let (sender, frames) = sync_channel(FRAMES_AHEAD_MAX);
            let thread = std::thread::Builder::new().name("log-index".to_owned());
            let indexing =
                thread.spawn_scoped(scope, move || Indexed::new(&log_id).add_all(&frames)).ok()?;
            let mut visit = |frame: &Arc<Frame>, offset| {
                frame_at = Some(offset);
                // Where the other end is gone, it says why below.
                let _ = sender.send((Arc::clone(frame), offset));
                Ok(())
            };
            let last = prove_last(&file, salt, before, folders, &mut visit);
            drop(sender);
            Some((last, indexing.join().ok()?.ok()?))
        });
        let (last, indexed) = match together {
            Some((last, indexed)) => (last?, indexed),
            // A record that cannot be indexed ends the log where it stands: once more, step by step.
            None => {
                let mut indexed = Indexed::new(&log_id);
                let mut visit = |frame: &Arc<Frame>, offset| {
                    indexed.add(frame, offset)?;
                    frame_at = Some(offset);
                    Ok(())
                };
                let last = prove_last(&file, salt, before, folders, &mut visit)?;
                (last, indexed)
            }
        };
        Ok(Self { number, before, last, frame_at, index: indexed.builder })
    }

    /// Bytes that its frames take.
    pub(super) const fn end(&self) -> u64 {
        match self.last.end {
            LastEnd::Sealed { end, .. } | LastEnd::Open { end, .. } => end,
        }
    }

    /// The segment that was claimed before this one was sealed, and what its first frame follows on;
    /// none: this one is open, or ends with a clean stop.
    pub(super) const fn followed_by(&self) -> Option<(u32, Tip)> {
        match self.last.end {
            LastEnd::Sealed { seal, .. } if !seal.clean_stop => {
                Some((self.number.saturating_add(1), self.last.tip))
            }
            LastEnd::Sealed { .. } | LastEnd::Open { .. } => None,
        }
    }

    /// Where the log ends with it.
    pub(super) const fn ends(&self) -> End {
        let segment = match self.last.end {
            LastEnd::Sealed { .. } => self.number.saturating_add(1),
            LastEnd::Open { .. } => self.number,
        };
        End { segment, commit: self.last.tip.last_commit() }
    }

    /// Cuts its tail where it is torn.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn finish(
        self,
        disk: &dyn Disk,
        folders: &Folders,
        mut recovered: Recovered,
    ) -> Result<Recovered, OpenError> {
        let Self { number, before, last, frame_at, index } = self;
        let path = folders.segment(number);
        let file = disk.open_append(&path).map_err(Folders::io(&path))?;
        recovered.tip = last.tip;
        match last.end {
            LastEnd::Sealed { seal, end } => {
                recovered.clean = seal.clean_stop;
                let segment = SealedSegment { number, bytes: end, before, after: last.tip, seal };
                recovered.sealed.push(segment);
                file.set_len(sealed_len(end))
                    .and_then(|()| file.sync_data())
                    .map_err(Folders::io(&path))?;
            }
            LastEnd::Open { seal, end, torn } => {
                if torn {
                    recovered.cut = Some(torn::cut(disk, &file, &path, end)?);
                }
                let open = UnsealedSegment { number, file, before, end, seal, frame_at, index };
                recovered.open = Some(open);
            }
        }
        Ok(recovered)
    }
}
