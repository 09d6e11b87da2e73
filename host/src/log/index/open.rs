//! The index of the open segment, and the frames it is to have next.
//!
//! The writer only hands frames over. They are entered a good many at a time, by a thread that
//! follows the writer ([`super::LogIndex::follow`]) or by whoever asks first: so that the next group
//! waits for none of it.
//!
//! Rule: who asks sees every frame that was handed over before.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard};

use super::{IndexError, SegmentIndexBuilder};
use crate::event::CommitNumber;
use crate::log::dedup::IdHasher;
use crate::log::frame::Frame;

/// A segment's part of the index while it is in memory.
#[derive(Debug)]
pub(super) struct OpenIndex {
    segment: u32,
    ids: IdHasher,
    built: RwLock<Built>,
    behind: Mutex<Vec<(Arc<Frame>, u64)>>,
    behind_bytes: AtomicUsize,
}

#[derive(Debug)]
struct Built {
    index: SegmentIndexBuilder,
    /// A frame that could not be entered; no later one was.
    failed: Option<(CommitNumber, String)>,
}

impl OpenIndex {
    pub(super) fn new(index: SegmentIndexBuilder) -> Self {
        Self {
            segment: index.span().base.segment,
            ids: IdHasher::new(&index.span().base.log_id),
            built: RwLock::new(Built { index, failed: None }),
            behind: Mutex::default(),
            behind_bytes: AtomicUsize::new(0),
        }
    }

    /// Number of the segment.
    pub(super) const fn segment(&self) -> u32 {
        self.segment
    }

    /// Hands over a frame that starts at `offset` of the segment file.
    pub(super) fn add(&self, frame: Arc<Frame>, offset: u64) {
        let mut behind = lock(&self.behind);
        self.behind_bytes.fetch_add(frame.bytes().len(), Ordering::Release);
        behind.push((frame, offset));
    }

    /// Bytes of the frames that were handed over and are not entered.
    pub(super) fn behind_bytes(&self) -> usize {
        self.behind_bytes.load(Ordering::Acquire)
    }

    /// Enters what was handed over.
    ///
    /// # Errors
    /// [`IndexError::Frame`], now and from then on.
    pub(super) fn catch_up(&self) -> Result<(), IndexError> {
        self.caught_up().map(drop)
    }

    /// As [`Self::catch_up`], and waits for nobody where nothing was handed over: a file may be made of it
    /// just now.
    ///
    /// # Errors
    /// As [`Self::catch_up`].
    pub(super) fn follow(&self) -> Result<(), IndexError> {
        if self.behind_bytes() > 0 {
            return self.catch_up();
        }
        // Who has it to enter frames is told what comes of that.
        self.built.try_read().map_or(Ok(()), |built| self.whole(&built))
    }

    /// Asks, once everything handed over before is entered.
    ///
    /// # Errors
    /// As [`Self::catch_up`].
    pub(super) fn ask<T>(
        &self,
        ask: impl FnOnce(&SegmentIndexBuilder) -> T,
    ) -> Result<T, IndexError> {
        if self.behind_bytes() > 0 {
            self.catch_up()?;
        }
        // Who took frames to enter them holds this lock until they are.
        let built = self.built.read().unwrap_or_else(PoisonError::into_inner);
        self.whole(&built)?;
        Ok(ask(&built.index))
    }

    /// As [`Self::ask`], for a question by key.
    ///
    /// # Errors
    /// As [`Self::catch_up`].
    pub(super) fn ask_by_key<T>(
        &self,
        ask: impl FnOnce(&SegmentIndexBuilder) -> T,
    ) -> Result<T, IndexError> {
        if self.ask(SegmentIndexBuilder::is_ungrouped)? {
            self.caught_up()?.index.group();
        }
        self.ask(ask)
    }

    fn caught_up(&self) -> Result<RwLockWriteGuard<'_, Built>, IndexError> {
        // This lock first: frames are entered in the order in which they were handed over.
        let mut built = self.built.write().unwrap_or_else(PoisonError::into_inner);
        let frames = {
            let mut behind = lock(&self.behind);
            self.behind_bytes.store(0, Ordering::Release);
            std::mem::take(&mut *behind)
        };
        for (frame, offset) in frames {
            self.whole(&built)?;
            if let Err(error) = built.index.add_frame(&frame, offset, &self.ids) {
                built.failed = Some((frame.first_commit(), error.to_string()));
            }
        }
        self.whole(&built)?;
        Ok(built)
    }

    fn whole(&self, built: &Built) -> Result<(), IndexError> {
        let failed = |(commit, why): &(CommitNumber, String)| {
            Err(IndexError::Frame { segment: self.segment, commit: *commit, why: why.clone() })
        };
        built.failed.as_ref().map_or(Ok(()), failed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
