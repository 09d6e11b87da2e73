//! What a start leaves to be done behind it: the table of recent identities of a long log, and the
//! check of what was not checked before the log opened.
//!
//! Rule: nothing is published until the identities are there, and everything else need not wait for
//! them. Damage ends the log.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Instant;

use tokio::sync::watch;

use super::dedup::{Dedup, DedupWindow};
use super::derived::{Depth, fill_dedup, sealed_index};
use super::error::{LogFailure, OpenError};
use super::follow;
use super::index::IndexFile;
use super::recovery::{SealedSegment, prove_sealed};
use super::shared::Shared;

/// The table of recent identities, from when it is filled on.
#[derive(Debug)]
pub(super) struct Recent {
    table: OnceLock<Dedup>,
    /// Nothing more comes: it is filled, or never will be.
    ended: watch::Sender<bool>,
}

impl Recent {
    /// One that holds a table, or waits for it.
    pub(super) fn new(table: Option<Dedup>) -> Self {
        let this = Self { table: OnceLock::new(), ended: watch::Sender::new(table.is_some()) };
        // It was empty a line before.
        if let Some(table) = table {
            let _ = this.table.set(table);
        }
        this
    }

    /// The table, if it is there.
    pub(super) fn get(&self) -> Option<&Dedup> {
        self.table.get()
    }

    /// The table, once it is there; none: the log has ended before. Cancel safe.
    pub(super) async fn filled(&self) -> Option<&Dedup> {
        if self.table.get().is_none() {
            // The sender lives as long as this.
            let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
        }
        self.table.get()
    }

    /// How far back duplicates are found for sure at `now_ms`; while the table is being filled, what is
    /// published waits, so that this says nothing yet.
    pub(super) fn window(&self, now_ms: u64) -> DedupWindow {
        self.table.get().map_or(DedupWindow { ms: 0, count: 0 }, |table| table.window(now_ms))
    }

    fn end(&self, table: Option<Dedup>) {
        if let Some(table) = table {
            let _ = self.table.set(table);
        }
        self.ended.send_replace(true);
    }
}

/// Says that the table is not going to be filled where its thread ends without having done so.
struct EndGuard(Arc<Shared>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.0.recent.end(None);
    }
}

/// Starts the thread that fills the table of recent identities, where it is not filled yet.
///
/// # Errors
/// The system gives no thread.
pub(super) fn read_identities(shared: &Arc<Shared>) -> std::io::Result<()> {
    if shared.recent.get().is_some() {
        return Ok(());
    }
    let shared = Arc::clone(shared);
    // Now: the check takes them away once it begins.
    let unchecked = shared.unchecked().clone();
    let thread = std::thread::Builder::new().name("log-ids".to_owned());
    let fill = move || {
        let _guard = EndGuard(Arc::clone(&shared));
        fill(&shared, &unchecked);
    };
    thread.spawn(fill).map(drop)
}

/// Starts the thread that checks the segments that were not checked before the log opened, once.
///
/// # Errors
/// The system gives no thread.
pub(super) fn check_rest(shared: &Arc<Shared>) -> std::io::Result<()> {
    let unchecked = std::mem::take(&mut *shared.unchecked());
    if unchecked.is_empty() {
        return Ok(());
    }
    let shared = Arc::clone(shared);
    let thread = std::thread::Builder::new().name("log-check".to_owned());
    thread.spawn(move || check(&shared, &unchecked)).map(drop)
}

fn stops(shared: &Shared) -> bool {
    *shared.ended.borrow() || shared.stops_clean.load(Ordering::Acquire)
}

/// Fills the table of recent identities.
fn fill(shared: &Shared, unchecked: &[SealedSegment]) {
    let began = Instant::now();
    let options = &shared.options;
    let fill = || {
        let (window_ms, most) = (options.dedup_window_ms, options.dedup_max);
        fill_dedup(&shared.index, window_ms, most, shared.clock.now_ms(), || !stops(shared))
    };
    let filled = fill().or_else(|error| {
        // A damaged index file is made anew from its segment.
        tracing::warn!("{error}");
        unchecked.iter().try_for_each(|segment| check_index(shared, segment))?;
        fill()
    });
    match filled {
        Ok(_) if stops(shared) => {}
        Ok(table) => {
            let (count, ms) = (table.len(), began.elapsed().as_millis());
            shared.recent.end(Some(table));
            tracing::info!(bus = %shared.folders.bus.display(), count, ms, "identities read");
        }
        Err(error) => shared.fail(&failure_of(shared, None, error)),
    }
}

fn check(shared: &Shared, unchecked: &[SealedSegment]) {
    for segment in unchecked {
        let (disk, folders) = (&*shared.disk, &shared.folders);
        let proven = prove_sealed(disk, folders, shared.log_id, segment, || stops(shared));
        if let Err(error) = proven.and_then(|()| check_index(shared, segment)) {
            return shared.fail(&failure_of(shared, Some(segment), error));
        }
    }
}

fn failure_of(shared: &Shared, segment: Option<&SealedSegment>, error: OpenError) -> LogFailure {
    match error {
        OpenError::Damaged(damage) => LogFailure::Damaged(damage),
        OpenError::Index(error) => follow::failure(&error),
        error => {
            let path = segment.map(|segment| shared.folders.segment(segment.number));
            let path = path.unwrap_or_else(|| shared.folders.bus.clone());
            LogFailure::Check { path, why: error.to_string() }
        }
    }
}

/// Reads the index file of a segment that is whole; one that is damaged is made anew.
fn check_index(shared: &Shared, segment: &SealedSegment) -> Result<(), OpenError> {
    // Two threads would write the new one in the same place.
    let _alone = shared.mending.lock().unwrap_or_else(PoisonError::into_inner);
    let (disk, folders) = (&*shared.disk, &shared.folders);
    let path = folders.index_file(segment.number);
    let is_right = IndexFile::open(disk, &path, &shared.log_id, segment.number)
        .is_ok_and(|file| file.is_some_and(|file| file.verify().is_ok()));
    if !is_right {
        let file = sealed_index(disk, folders, &shared.log_id, segment, Depth::Whole)?;
        shared.index.sealed(file);
    }
    Ok(())
}
