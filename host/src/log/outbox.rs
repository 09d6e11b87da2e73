//! Commits of one worker on their way to the writer, and the room that is reserved for them.
//!
//! The lane's lock goes from processor to processor, which takes longer than to encode a short commit: so
//! several are handed over at once, and room for the next ones is taken with them.
//!
//! Rule: what is in an outbox is in no lane yet. Whoever is going to wait, or to let the scheduler know
//! that a delivery is over, hands it over before.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::codec::Encoded;
use super::error::AppendError;
use super::lanes::{EffectsPermit, Keep, Lanes};
use super::record::{ControlRecord, DeliveryCommit};
use super::shared::Shared;

/// Bytes that the commits of an outbox may take beside the room that is reserved for the next one.
pub const OUTBOX_BYTES: usize = 64 * 1024;

/// Commits that nobody waits for, of one holder. Dropped, it hands over what is in it.
#[derive(Debug)]
pub struct Outbox {
    shared: Arc<Shared>,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    commits: Vec<Encoded>,
    bytes: usize,
    room: Option<EffectsPermit>,
}

impl Outbox {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared), held: Mutex::default() }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether room is reserved for one more commit of so many bytes. Where it is not, hand over and
    /// keep nothing, reserve that and [`OUTBOX_BYTES`], and [`put`](Self::put) it here.
    #[must_use]
    pub fn has_room(&self, bytes: usize) -> bool {
        let held = self.held();
        held.room.as_ref().is_some_and(|room| held.bytes.saturating_add(bytes) <= room.bytes())
    }

    /// Takes room for the commits to come; what it had before is given back.
    pub fn put(&self, room: EffectsPermit) {
        let before = self.held().room.replace(room);
        drop(before);
    }

    /// Takes a commit: nobody can read it before it is handed over.
    ///
    /// # Errors
    /// It cannot be encoded. That the log takes nothing any more is not told.
    pub fn push(&self, commit: &DeliveryCommit) -> Result<(), AppendError> {
        let encode = || self.shared.buffers.encode(|encoded| encoded.delivery(commit));
        let bytes = encode()?;
        let again = if planted!(CommitsTwice) { Some(encode()?) } else { None };
        let mut held = self.held();
        again.into_iter().chain([bytes]).for_each(|bytes| held.take(bytes));
        Ok(())
    }

    /// Takes a record of a delivery that goes on later, in place of the commit that its room was for.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn push_control(&self, record: &ControlRecord) -> Result<(), AppendError> {
        let bytes = self.shared.buffers.encode(|encoded| encoded.control(record))?;
        self.held().take(bytes);
        Ok(())
    }

    /// Hands its commits to the writer. Of the room that is left `bytes` at most stay, for a delivery that
    /// is under way; 0: none.
    pub fn hand_over(&self, bytes: usize) {
        let mut held = self.held();
        if !held.commits.is_empty() || held.room_bytes() > bytes {
            held.push(&self.shared.lanes, Keep::AtMost(bytes));
        }
    }

    /// Hands its commits to the writer. Keeps room for `bytes`, for a delivery that comes next, where that
    /// can be had at once and nobody waits for it.
    pub fn hand_over_for(&self, bytes: usize) {
        let mut held = self.held();
        if !held.commits.is_empty() || held.room_bytes() != bytes {
            held.push(&self.shared.lanes, Keep::Refilled(bytes));
        }
    }

    /// Hands its commits to the writer, and gives the room that is left to a commit that somebody waits
    /// for.
    #[must_use]
    pub fn take_room(&self) -> EffectsPermit {
        let mut held = self.held();
        let lanes = &self.shared.lanes;
        held.push(lanes, Keep::AtMost(usize::MAX));
        held.room.take().unwrap_or_else(|| EffectsPermit::new(lanes, 0))
    }
}

impl Held {
    fn take(&mut self, commit: Encoded) {
        self.bytes += commit.bytes();
        self.commits.push(commit);
    }

    fn room_bytes(&self) -> usize {
        self.room.as_ref().map_or(0, EffectsPermit::bytes)
    }

    fn push(&mut self, lanes: &Arc<Lanes>, keep: Keep) {
        self.room = lanes.push_commits(&mut self.commits, self.room.take(), keep);
        self.bytes = 0;
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.hand_over(0);
    }
}
