//! The newest frames in memory: whoever keeps up never touches the disk.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};

use super::frame::Frame;
use crate::event::{CommitNumber, Position};

/// Frames at the end that are looked at one by one.
const NEWEST: usize = 4;

/// Recent durable frames, bounded in bytes.
///
/// Dropping a frame drops all the events that were made of it, which takes longer than making it did:
/// so who adds frames leaves that to [`Tail::trim`], up to an eighth above the bound.
#[derive(Debug)]
pub(super) struct Tail {
    bytes_max: usize,
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    frames: VecDeque<Arc<Frame>>,
    bytes: usize,
}

impl Tail {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, inner: RwLock::default() }
    }

    /// Adds the next frame. Says whether it is time to [`Tail::trim`].
    pub(super) fn push(&self, frame: Arc<Frame>) -> bool {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.bytes += frame.memory();
        inner.frames.push_back(frame);
        let above = inner.bytes.saturating_sub(self.bytes_max);
        let oldest = inner.take_above(self.bytes_max + self.bytes_max / 8);
        drop(inner);
        drop(oldest);
        above > self.bytes_max / 64
    }

    /// Drops the oldest frames that are too much.
    pub(super) fn trim(&self) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let oldest = inner.take_above(self.bytes_max);
        // Not under the lock, which readers and the writer wait for.
        drop(inner);
        drop(oldest);
    }

    /// The frame that holds a commit.
    pub(super) fn with_commit(&self, commit: CommitNumber) -> Option<Arc<Frame>> {
        self.last_where(|frame| frame.first_commit() <= commit)
            .filter(|frame| frame.last_commit() >= commit)
    }

    /// The frame that holds a position.
    pub(super) fn with_position(&self, position: Position) -> Option<Arc<Frame>> {
        self.last_where(|frame| frame.header().first_position <= position.0)
            .filter(|frame| frame.last_position().is_some_and(|last| last >= position))
    }

    fn last_where(&self, early_enough: impl Fn(&Frame) -> bool) -> Option<Arc<Frame>> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        // Whoever keeps up wants one of the newest: a search would pass by old ones that no cache has.
        let newest = inner.frames.iter().rev().take(NEWEST).find(|frame| early_enough(frame));
        newest.cloned().or_else(|| {
            let behind = inner.frames.partition_point(|frame| early_enough(frame));
            inner.frames.get(behind.checked_sub(1)?).cloned()
        })
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).bytes
    }
}

impl Inner {
    /// Takes out the oldest frames that are above a bound.
    fn take_above(&mut self, bytes_max: usize) -> Vec<Arc<Frame>> {
        let mut oldest = Vec::new();
        // At least one stays: the commit just made is always here.
        while self.bytes > bytes_max && self.frames.len() > 1 {
            let Some(frame) = self.frames.pop_front() else { break };
            self.bytes -= frame.memory();
            oldest.push(frame);
        }
        oldest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{KeySequence, NewEvent};
    use crate::log::codec::{Encoded, Header, Salt};
    use crate::log::frame::FrameBuilder;

    fn frame(number: u64) -> Arc<Frame> {
        let mut commit = Encoded::default();
        commit.event(&NewEvent { data: vec![7; 900].into(), ..NewEvent::default() }).unwrap();
        commit.finish().unwrap();
        let mut builder = FrameBuilder::default();
        builder.push(&commit, std::iter::once(KeySequence(0)));
        let header = Header { first_commit: number, first_position: number, ..Header::default() };
        Arc::new(builder.build(header, Salt::new([7; 16], 1)))
    }

    #[test]
    fn it_is_bounded_whether_it_is_trimmed_or_not() {
        let bytes = frame(1).memory();
        let tail = Tail::new(64 * bytes);
        let pushed: Vec<bool> = (1..=200).map(|number| tail.push(frame(number))).collect();
        let first = pushed.iter().position(|due| *due).unwrap();
        assert_eq!((first, tail.bytes()), (65, 72 * bytes));
        assert!(tail.with_commit(CommitNumber(128)).is_none());
        assert!(tail.with_commit(CommitNumber(129)).is_some());
        tail.trim();
        assert_eq!(tail.bytes(), 64 * bytes);
        assert!(tail.with_position(Position(136)).is_none());
        assert_eq!(tail.with_position(Position(137)).unwrap().first_commit(), CommitNumber(137));
        assert!(!tail.push(frame(201)));
    }

    #[test]
    fn the_last_frame_stays_however_large() {
        let tail = Tail::new(1);
        let pushed = (1..=3).filter(|number| tail.push(frame(*number))).count();
        assert_eq!(pushed, 3);
        tail.trim();
        assert!(tail.with_commit(CommitNumber(2)).is_none());
        assert!(tail.with_commit(CommitNumber(3)).is_some());
    }
}
