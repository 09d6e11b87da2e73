//! What follows the writer at its own pace: the index of what was written, frames that leave memory,
//! and the index files of segments that were sealed.
//!
//! Rule: all of it is derived, or room. The writer waits for it only where too much is left undone.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::derived::publish_index;
use super::error::LogFailure;
use super::index::{IndexError, SegmentSeal};
use super::shared::Shared;
use crate::event::CommitNumber;

/// A sealed segment that has no index file yet.
pub(super) type Unwritten = (u32, SegmentSeal);

/// The threads of one log.
#[derive(Debug)]
pub(super) struct Followers {
    indexer: Option<JoinHandle<()>>,
    stops: Arc<AtomicBool>,
    /// Threads that write index files of sealed segments.
    sealing: Vec<JoinHandle<()>>,
    /// Segments whose index file is to be written.
    unwritten: Arc<Mutex<Vec<Unwritten>>>,
}

impl Followers {
    /// Starts the thread that enters frames into the index and trims the tail. The index files of segments that
    /// are `unwritten` are written once one more is.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(super) fn start(shared: &Arc<Shared>, unwritten: Vec<Unwritten>) -> io::Result<Self> {
        let stops = Arc::new(AtomicBool::new(false));
        let (shared, until) = (Arc::clone(shared), Arc::clone(&stops));
        let thread = std::thread::Builder::new().name("log-index".to_owned());
        let indexer = thread.spawn(move || {
            while !until.load(Ordering::Acquire) {
                std::thread::park();
                if let Err(error) = shared.index.follow() {
                    return shared.fail(&failure(&error));
                }
                shared.tail.trim();
            }
        })?;
        let unwritten = Arc::new(Mutex::new(unwritten));
        Ok(Self { indexer: Some(indexer), stops, sealing: Vec::new(), unwritten })
    }

    /// Says that there is something to do.
    pub(super) fn wake(&self) {
        if let Some(indexer) = &self.indexer {
            indexer.thread().unpark();
        }
    }

    /// Writes the index file of a sealed segment, in a thread of its own; and those that could not be written
    /// before.
    pub(super) fn seal(&mut self, shared: &Arc<Shared>, segment: u32, seal: SegmentSeal) {
        let (shared, unwritten) = (Arc::clone(shared), Arc::clone(&self.unwritten));
        lock(&unwritten).push((segment, seal));
        self.sealing.retain(|thread| !thread.is_finished());
        let thread = std::thread::Builder::new().name("log-seal".to_owned());
        match thread.spawn(move || write_indexes(&shared, &unwritten)) {
            Ok(thread) => self.sealing.push(thread),
            // It stays in memory, and is written with the next one.
            Err(error) => tracing::warn!(%error, segment, "no thread to write an index"),
        }
    }

    /// Waits until the index files of all sealed segments are written.
    pub(super) fn until_sealed(&mut self) {
        for thread in self.sealing.drain(..) {
            // What it had to say, it has logged.
            let _ = thread.join();
        }
    }
}

impl Drop for Followers {
    fn drop(&mut self) {
        self.stops.store(true, Ordering::Release);
        self.wake();
        if let Some(indexer) = self.indexer.take() {
            // What it had to say, the log's failure says.
            let _ = indexer.join();
        }
    }
}

/// What it means for a log that its index cannot be filled.
pub(super) fn failure(error: &IndexError) -> LogFailure {
    match error {
        IndexError::Frame { commit, why, .. } => {
            LogFailure::Index { commit: *commit, why: why.clone() }
        }
        other => LogFailure::Index { commit: CommitNumber(0), why: other.to_string() },
    }
}

fn lock(unwritten: &Mutex<Vec<Unwritten>>) -> MutexGuard<'_, Vec<Unwritten>> {
    unwritten.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes index files of sealed segments. Derived: one that fails costs memory until the next segment is
/// sealed, and is tried again then, or at the next start.
fn write_indexes(shared: &Shared, unwritten: &Mutex<Vec<Unwritten>>) {
    let mut due = std::mem::take(&mut *lock(unwritten));
    due.retain(|(segment, seal)| !write_index(shared, *segment, *seal));
    lock(unwritten).append(&mut due);
}

/// Writes the index file of a sealed segment and puts it in the place of the part in memory. False: it could
/// not be written.
fn write_index(shared: &Shared, segment: u32, seal: SegmentSeal) -> bool {
    let Some(encoded) = shared.index.with_memory(segment, |open| open.encode(seal)) else {
        return true;
    };
    let published = encoded.flatten().map_err(Into::into).and_then(|bytes| {
        publish_index(&*shared.disk, &shared.folders, &shared.log_id, segment, &bytes)
    });
    match published {
        Ok(file) => {
            shared.index.sealed(file);
            true
        }
        Err(error) => {
            let folder = shared.folders.index.display();
            tracing::warn!(%error, segment, %folder, "index not written");
            false
        }
    }
}
