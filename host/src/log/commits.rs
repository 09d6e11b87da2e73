//! Reading particular commits again: one, or those in which deliveries of a plugin and key ended.
//!
//! Rule: no more is read than the frames that hold such commits, and what stands between two of them
//! where they are near each other.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::Log;
use super::codec::CommitRef;
use super::error::ReadError;
use super::frame::Frame;
use super::index::CompletionEntry;
use super::segment::SegmentScan;
use super::shared::{Shared, blocking};
use crate::event::{CommitNumber, InstanceId, Key, Position};

/// Completions looked up at once.
const PAGE: usize = 4096;

/// Finds frames by commit, best in ascending order.
#[derive(Debug)]
struct Finder {
    shared: Arc<Shared>,
    scan: Option<SegmentScan>,
    frame: Option<Arc<Frame>>,
}

impl Finder {
    /// The frame that holds a durable commit. Blocks.
    fn find(&mut self, commit: CommitNumber) -> Result<Arc<Frame>, ReadError> {
        if let Some(frame) = self.frame.as_ref().filter(|frame| holds(frame, commit)) {
            return Ok(Arc::clone(frame));
        }
        let frame = match self.shared.tail.with_commit(commit) {
            Some(frame) => frame,
            None => self.read(commit)?,
        };
        self.frame = Some(Arc::clone(&frame));
        Ok(frame)
    }

    fn read(&mut self, commit: CommitNumber) -> Result<Arc<Frame>, ReadError> {
        let place = self.shared.index.frame_of_commit(commit)?;
        let (segment, offset) = place.map_or((1, 0), |place| (place.segment, place.mark.offset));
        let mut scan = match self.scan.take() {
            Some(mut scan) if scan.salt().segment == segment => {
                scan.go_to(offset);
                scan
            }
            _ => self.shared.scan(segment, offset)?.narrow(),
        };
        loop {
            let frame = self.shared.next_durable(&mut scan)?;
            if frame.last_commit() >= commit {
                self.scan = Some(scan);
                return Ok(frame);
            }
        }
    }
}

fn holds(frame: &Frame, commit: CommitNumber) -> bool {
    frame.first_commit() <= commit && commit <= frame.last_commit()
}

impl Log {
    /// The chain behind the frame that holds a durable commit. Blocks.
    ///
    /// # Errors
    /// The log or an index cannot be read.
    pub fn chain_behind(&self, commit: CommitNumber) -> Result<[u8; 32], ReadError> {
        let shared = Arc::clone(self.shared());
        Finder { shared, scan: None, frame: None }.find(commit).map(|frame| frame.chain())
    }

    /// What `read` finds in a commit; none: nothing, or the commit is not durable.
    ///
    /// # Errors
    /// The log cannot be read there, or `read` failed.
    pub async fn read_commit<T>(
        &self,
        number: CommitNumber,
        read: impl FnOnce(&CommitRef<'_>) -> Result<Option<T>, ReadError>,
    ) -> Result<Option<T>, ReadError> {
        let Some(frame) = self.frame_of(number).await? else { return Ok(None) };
        frame.commit(number)?.map_or(Ok(None), |commit| read(&commit))
    }

    /// The event whose delivery by `instance`, for `key`, ended in a durable commit, as the index has it; none:
    /// that commit ends no such delivery.
    ///
    /// # Errors
    /// An index cannot be read.
    pub async fn ended_in(
        &self,
        (instance, key): (InstanceId, &Key),
        commit: CommitNumber,
    ) -> Result<Option<Position>, ReadError> {
        let (shared, hash) = (Arc::clone(self.shared()), key.hash128());
        blocking(move || {
            let before = CommitNumber(commit.0.saturating_sub(1));
            let entries = shared.index.completions(instance, hash, before, commit, 1)?;
            Ok(entries.first().map(|entry| entry.position))
        })
        .await
    }

    /// Folds the durable commits after `after` in which deliveries of `instance` for `key` ended, in
    /// their order: those that `wanted` picks by what the index says of them. `fold` may end it early.
    /// Other keys with the same hash are among them, so look at the completion itself.
    ///
    /// # Errors
    /// The log or an index cannot be read.
    pub async fn fold_completions<T: Send + 'static>(
        &self,
        (instance, key): (InstanceId, &Key),
        mut after: CommitNumber,
        wanted: impl Fn(&CompletionEntry) -> bool + Send + 'static,
        state: T,
        fold: impl FnMut(&mut T, &CommitRef<'_>) -> Result<ControlFlow<()>, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let shared = Arc::clone(self.shared());
        let (hash, until) = (key.hash128(), shared.durable_commit());
        let finder = Finder { shared: Arc::clone(&shared), scan: None, frame: None };
        let mut hands = (finder, state, fold, wanted);
        loop {
            let shared = Arc::clone(&shared);
            // A page at a time: who is not waited for any more stops here.
            let (back, next) = blocking(move || {
                let entries = shared.index.completions(instance, hash, after, until, PAGE)?;
                let next = entries.last().filter(|_| entries.len() == PAGE).map(|e| e.commit);
                let (finder, state, fold, wanted) = &mut hands;
                for entry in entries.iter().filter(|entry| wanted(entry)) {
                    let frame = finder.find(entry.commit)?;
                    let Some(commit) = frame.commit(entry.commit)? else { continue };
                    if fold(state, &commit)?.is_break() {
                        return Ok((hands, None));
                    }
                }
                Ok((hands, next))
            })
            .await?;
            hands = back;
            match next {
                Some(commit) => after = commit,
                None => return Ok(hands.1),
            }
        }
    }
}
