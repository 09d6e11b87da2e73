//! Following the log, frame by frame: from memory while one keeps up, from the disk while one lags.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::watch;

use super::error::ReadError;
use super::frame::Frame;
use super::segment::SegmentScan;
use super::shared::{Shared, blocking};
use crate::event::{CommitNumber, Position};

/// Bytes of frames read from the disk at once.
const BATCH_BYTES: usize = 256 << 10;

/// Reads durable frames in order, and waits for the next one at the end.
#[derive(Debug)]
pub struct FrameReader {
    shared: Arc<Shared>,
    durable: watch::Receiver<CommitNumber>,
    ended: watch::Receiver<bool>,
    from: From,
    /// Read from the disk, not yet given out.
    ready: VecDeque<Arc<Frame>>,
    scan: Option<SegmentScan>,
}

/// Reads frames in order, each as soon as it is numbered: the last one may be on its way to the disk
/// yet, and never come there. One that has grown before it was written comes once more.
///
/// For deliveries alone. Their effects stand behind what they were made of, in the same log: so they are lost
/// where that is.
#[derive(Debug)]
pub struct NumberedFrames {
    durable: FrameReader,
    numbered: watch::Receiver<Option<Arc<Frame>>>,
}

/// What the next frame must hold or come after.
#[derive(Debug, Clone, Copy)]
enum From {
    Commit(CommitNumber),
    /// Where that is, is not known yet.
    Position(Position),
}

impl FrameReader {
    pub(super) fn from_commit(shared: Arc<Shared>, commit: CommitNumber) -> Self {
        Self::new(shared, From::Commit(CommitNumber(commit.0.max(1))))
    }

    pub(super) fn from_position(shared: Arc<Shared>, position: Position) -> Self {
        Self::new(shared, From::Position(Position(position.0.max(1))))
    }

    fn new(shared: Arc<Shared>, from: From) -> Self {
        let (durable, ended) = (shared.durable.subscribe(), shared.ended.subscribe());
        Self { shared, durable, ended, from, ready: VecDeque::new(), scan: None }
    }

    /// The next durable frame; waits for it. The first one holds the commit or position asked for,
    /// and may start before it. Cancel safe: a dropped call loses no frame.
    ///
    /// # Errors
    /// Damage, the disk's, and [`ReadError::Closed`] at the end of a log that was closed.
    pub async fn next(&mut self) -> Result<Arc<Frame>, ReadError> {
        loop {
            if let Some(frame) = self.at_hand() {
                return Ok(frame);
            }
            // Both marks before the look at the log: nothing that comes in between is missed.
            let has_ended = *self.ended.borrow_and_update();
            self.durable.borrow_and_update();
            if self.is_behind() {
                self.read_batch().await?;
            } else if has_ended {
                return Err(ReadError::Closed);
            } else {
                tokio::select! {
                    _ = self.durable.changed() => {}
                    _ = self.ended.changed() => {}
                }
            }
        }
    }

    /// The next durable frame, if it is in memory; none: it is on the disk, or not there yet.
    pub(super) fn at_hand(&mut self) -> Option<Arc<Frame>> {
        let frame = match self.ready.pop_front() {
            Some(frame) => frame,
            None if !self.is_behind() => return None,
            None => {
                let frame = match self.from {
                    From::Commit(commit) => self.shared.tail.with_commit(commit)?,
                    From::Position(position) => self.shared.tail.with_position(position)?,
                };
                self.leave_disk();
                frame
            }
        };
        self.go_behind(&frame);
        Some(frame)
    }

    /// Forgets the place on the disk: whoever falls behind again is somewhere else by then.
    fn leave_disk(&mut self) {
        self.scan = None;
    }

    fn go_behind(&mut self, frame: &Frame) {
        self.from = From::Commit(CommitNumber(frame.header().next_commit()));
    }

    /// Whether a frame is, or holds, the next one.
    fn wants(&self, frame: &Frame) -> bool {
        match self.from {
            From::Commit(commit) => (frame.first_commit()..=frame.last_commit()).contains(&commit),
            From::Position(position) => {
                let positions = frame.first_position().zip(frame.last_position());
                positions.is_some_and(|(first, last)| (first..=last).contains(&position))
            }
        }
    }

    fn has_next(&self) -> bool {
        !self.ready.is_empty() || self.is_behind()
    }

    /// Whether there are durable frames that were not given out.
    fn is_behind(&self) -> bool {
        match self.from {
            From::Commit(commit) => commit <= self.shared.durable_commit(),
            From::Position(position) => position <= self.shared.durable_position(),
        }
    }

    async fn read_batch(&mut self) -> Result<(), ReadError> {
        let (shared, from) = (self.shared.clone(), self.from);
        // Given up if this call is: the next one finds the place again through the index.
        let scan = self.scan.take();
        let (scan, frames) = blocking(move || read_batch(&shared, scan, from)).await?;
        self.scan = Some(scan);
        self.ready = frames;
        Ok(())
    }
}

impl NumberedFrames {
    pub(super) fn from_position(shared: Arc<Shared>, position: Position) -> Self {
        let numbered = shared.numbered.subscribe();
        Self { durable: FrameReader::from_position(shared, position), numbered }
    }

    /// The next frame; waits for it. The first one holds the position asked for, and may start before
    /// it. Cancel safe: a dropped call loses no frame.
    ///
    /// # Errors
    /// As [`FrameReader::next`].
    pub async fn next(&mut self) -> Result<Arc<Frame>, ReadError> {
        loop {
            // Before the look at what is durable: whatever is durable by then is no news here.
            let numbered = self.numbered.borrow_and_update().clone();
            let has_ended = *self.durable.ended.borrow_and_update();
            if self.durable.has_next() {
                return self.durable.next().await;
            }
            if let Some(frame) = numbered.filter(|frame| self.durable.wants(frame)) {
                self.durable.leave_disk();
                self.durable.go_behind(&frame);
                return Ok(frame);
            }
            if has_ended {
                return Err(ReadError::Closed);
            }
            tokio::select! {
                _ = self.numbered.changed() => {}
                _ = self.durable.ended.changed() => {}
            }
        }
    }
}

/// Reads frames from the disk, the first one as `from` says; at least one.
fn read_batch(
    shared: &Shared,
    scan: Option<SegmentScan>,
    from: From,
) -> Result<(SegmentScan, VecDeque<Arc<Frame>>), ReadError> {
    let durable = shared.durable_commit();
    let mut scan = match (scan, from) {
        (Some(mut scan), From::Commit(_)) => {
            // Whoever comes back for more lags; the first batch may be all that is wanted.
            if !scan.is_direct() {
                shared.go_direct(&mut scan);
            }
            scan
        }
        (_, from) => find(shared, from)?,
    };
    let (mut frames, mut bytes) = (VecDeque::new(), 0);
    while bytes < BATCH_BYTES {
        let frame = shared.next_durable(&mut scan)?;
        let is_before = match from {
            From::Commit(commit) => frame.last_commit() < commit,
            From::Position(position) => frame.header().next_position() <= position.0,
        };
        let is_last = frame.last_commit() >= durable;
        if !is_before {
            bytes += frame.bytes().len();
            frames.push_back(frame);
        }
        if is_last {
            break;
        }
    }
    Ok((scan, frames))
}

fn find(shared: &Shared, from: From) -> Result<SegmentScan, ReadError> {
    let place = match from {
        From::Commit(commit) => shared.index.frame_of_commit(commit)?,
        From::Position(position) => shared.index.frame_of_position(position)?,
    };
    place.map_or_else(|| shared.scan(1, 0), |place| shared.scan(place.segment, place.mark.offset))
}
