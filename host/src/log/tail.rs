//! The newest frames in memory: whoever keeps up never touches the disk.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};

use super::frame::Frame;
use crate::event::{CommitNumber, Position};

/// Recent durable frames, bounded in bytes.
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

    /// Adds the next frame, and drops the oldest ones that are too much.
    pub(super) fn push(&self, frame: Arc<Frame>) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.bytes += frame.bytes().len();
        inner.frames.push_back(frame);
        // At least one stays: the commit just made is always here.
        while inner.bytes > self.bytes_max && inner.frames.len() > 1 {
            let Some(oldest) = inner.frames.pop_front() else { break };
            inner.bytes -= oldest.bytes().len();
        }
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
        let behind = inner.frames.partition_point(|frame| early_enough(frame));
        inner.frames.get(behind.checked_sub(1)?).cloned()
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).bytes
    }
}
