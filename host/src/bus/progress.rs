//! How far a plugin has come, as far as that is durable and folded.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crossbeam_utils::CachePadded;

use crate::event::Position;
use crate::schedule::core::Settled;

/// How far one plugin is known to have come in this run: what lets its ledger forget completions.
///
/// The scheduler knows which positions are done with, but some of those commits may not be durable
/// yet. What it knows to be done with is in the lane, and whatever is submitted later stands behind that,
/// so it is enough to count: what was noted after `submitted` commits is safe once that many were applied, and
/// what was read is durable.
#[derive(Debug, Default)]
pub struct Progress {
    /// Counted by workers; the others by other threads.
    submitted: CachePadded<AtomicU64>,
    applied: CachePadded<AtomicU64>,
    scanned: AtomicU64,
    candidate: Mutex<Option<(Settled, u64)>>,
}

impl Progress {
    /// Notes that a completion is about to be committed. To be called before the scheduler is told
    /// that the delivery is over.
    pub fn submit(&self) {
        self.submitted.fetch_add(1, Ordering::SeqCst);
    }

    /// Completions that were handed to the log in this run, and those that are folded.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        // Folded ones first: the other order could count one as folded and not as handed over.
        let applied = self.applied.load(Ordering::SeqCst);
        (self.submitted.load(Ordering::SeqCst), applied)
    }

    /// Completions that are on their way into the log and its fold.
    #[must_use]
    pub fn outstanding(&self) -> u64 {
        let applied = self.applied.load(Ordering::SeqCst);
        self.submitted.load(Ordering::SeqCst).saturating_sub(applied)
    }

    /// Counts completions that were folded.
    pub(super) fn fold(&self, completions: usize) {
        self.applied.fetch_add(completions as u64, Ordering::SeqCst);
    }

    /// Notes how far the plugin's runner has read.
    pub fn scan(&self, scanned: Position) {
        self.scanned.store(scanned.0, Ordering::Relaxed);
    }

    /// How far the plugin's runner has read; 0: none ran yet.
    #[must_use]
    pub fn scanned(&self) -> Position {
        Position(self.scanned.load(Ordering::Relaxed))
    }

    /// Offers how far the scheduler is. It is asked before the commits are counted, and not at all
    /// while what was offered before is not noted.
    pub fn offer(&self, settled: impl FnOnce() -> Option<Settled>) {
        let mut candidate = self.candidate.lock().unwrap_or_else(PoisonError::into_inner);
        if candidate.is_none()
            && let Some(settled) = settled()
        {
            *candidate = Some((settled, self.submitted.load(Ordering::SeqCst)));
        }
    }

    /// Offers how far a scheduler was when its runner stopped, in place of any mark before.
    pub fn conclude(&self, mut settled: Settled) {
        let submitted = self.submitted.load(Ordering::SeqCst);
        let mut candidate = self.candidate.lock().unwrap_or_else(PoisonError::into_inner);
        // What a scheduler says once is not lost with the mark before.
        let before = candidate.take().map(|(before, _)| before.deferred).unwrap_or_default();
        settled.deferred.splice(0..0, before);
        *candidate = Some((settled, submitted));
    }

    /// Forgets what was offered: it is a mark of a generation that is over.
    pub(super) fn rewind(&self) {
        *self.candidate.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// What was offered, once it is safe: all of it is folded, and so is the log up to there.
    pub(super) fn take_safe(&self, folded: Position) -> Option<Settled> {
        let mut candidate = self.candidate.lock().unwrap_or_else(PoisonError::into_inner);
        let applied = self.applied.load(Ordering::SeqCst);
        let is_safe = |(settled, submitted): &mut (Settled, u64)| {
            *submitted <= applied && settled.low.max(settled.seen).max(settled.read) <= folded
        };
        candidate.take_if(is_safe).map(|(settled, _)| settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_safe_once_its_commits_and_what_was_read_are_folded() {
        let progress = Progress::default();
        let settled = Settled { low: Position(3), seen: Position(5), ..Settled::default() };
        progress.submit();
        progress.offer(|| Some(settled.clone()));
        assert_eq!(progress.take_safe(Position(5)), None, "a completion is not folded");
        progress.fold(1);
        assert_eq!(progress.take_safe(Position(4)), None, "what was read may be lost yet");
        assert_eq!(progress.take_safe(Position(5)), Some(settled));
        assert_eq!(progress.take_safe(Position(5)), None);
    }
}
