//! Reading the end of a delivery again, as it was handed to the log.

use bytes::Bytes;

use crate::event::{Generation, InstanceId};
use crate::log::codec::{DecodeError, kind};
use crate::log::record::{Completion, DeliveryCommit};
use crate::log::{CommitRef, RecordRef};

/// How a commit ends a delivery of this plugin, in whatever generation; none: it is something else.
///
/// # Errors
/// A record does not decode.
pub fn completion(
    commit: &CommitRef<'_>,
    instance: InstanceId,
) -> Result<Option<Completion>, DecodeError> {
    for record in commit.records() {
        if let RecordRef::Completion(done) = record?
            && done.instance == instance
        {
            return done.to_owned().map(Some);
        }
    }
    Ok(None)
}

/// The end of a delivery of this plugin and generation; none: the commit is something else.
///
/// # Errors
/// A record does not decode.
pub(super) fn delivery(
    commit: &CommitRef<'_>,
    instance: InstanceId,
    generation: Generation,
) -> Result<Option<DeliveryCommit>, DecodeError> {
    // Most commits have no completion: then no body is read.
    let mut raw = commit.records();
    let mut has_completion = false;
    while let Some(record) = raw.next_raw() {
        has_completion |= record?.0.kind == kind::COMPLETION;
    }
    if !has_completion {
        return Ok(None);
    }
    let mut found: Option<DeliveryCommit> = None;
    let mut emits = Vec::new();
    for record in commit.records() {
        match (record?, &mut found) {
            (RecordRef::Completion(done), None) => {
                if done.instance != instance || done.generation != generation {
                    return Ok(None);
                }
                found = Some(DeliveryCommit {
                    completion: done.to_owned()?,
                    emits: Vec::new(),
                    state: Vec::new(),
                    timers: Vec::new(),
                    calls: Vec::new(),
                    dead_letter: None,
                    park: false,
                });
            }
            (RecordRef::Event(event), _) => {
                emits.push(event.to_event(Bytes::copy_from_slice(event.data))?.body);
            }
            (RecordRef::State(write), Some(found)) => found.state.push(write.to_owned()),
            (RecordRef::Timer(change), Some(found)) => found.timers.push(change.to_owned()),
            (RecordRef::Call(call), Some(found)) => found.calls.push(call.to_owned()),
            (RecordRef::DeadLetter(letter), Some(found)) => found.dead_letter = Some(letter),
            _ => {}
        }
    }
    Ok(found.map(|found| DeliveryCommit { emits, ..found }))
}
