//! What of the log needs keys that are still being read in behind a start, and waits for them.
//!
//! Rule: the fold waits before it locks the ledger, which many look at who must not be blocked.

use super::Bus;
use super::apply::{FoldError, unreadable};
use crate::event::CommitNumber;
use crate::log::record::Control;
use crate::log::{Frame, RecordRef};

impl Bus {
    /// Waits until all keys are there, if commits of `frame` after `applied` change any. Blocks.
    ///
    /// # Errors
    /// See [`FoldError`]; also where the keys never will be there, as at a stop.
    pub(super) fn filled_for(&self, frame: &Frame, applied: CommitNumber) -> Result<(), FoldError> {
        if self.values.is_filled() || !changes_keys(frame, applied)? {
            return Ok(());
        }
        Ok(self.values.until_filled()?)
    }
}

fn changes_keys(frame: &Frame, applied: CommitNumber) -> Result<bool, FoldError> {
    for commit in frame.commits() {
        let commit = commit.map_err(unreadable(frame.first_commit()))?;
        for record in commit.records() {
            let changes = match record.map_err(unreadable(commit.number))? {
                RecordRef::State(_) => true,
                RecordRef::Control(record) => changes_many(&record.control),
                _ => false,
            };
            if changes && commit.number > applied {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Whether it changes keys without naming each.
const fn changes_many(control: &Control) -> bool {
    matches!(
        control,
        Control::Forget { .. }
            | Control::Rewind { .. }
            | Control::Rebuilt { .. }
            | Control::Expire { .. }
    )
}
