//! Who waits for the writer, and what they are told once the sync is through.

use std::time::Instant;

use tokio::sync::oneshot;

use super::assign::Batch;
use super::codec::Encoded;
use super::error::{AppendError, LogFailure};
use super::lanes::EffectsPermit;
use super::segment::Durable;
use super::shared::Shared;
use super::ticket::{Committed, IngestReply};
use crate::event::{CommitNumber, Position};

/// Somebody who waits for the sync.
pub(super) enum Waiting {
    Effects {
        reply: Option<oneshot::Sender<Result<Committed, AppendError>>>,
        commit: Encoded,
        permit: Option<EffectsPermit>,
        number: u64,
        first: Position,
    },
    Ingest {
        reply: oneshot::Sender<IngestReply>,
        batch: Batch,
        begun: Instant,
        number: u64,
        first: Position,
    },
    /// Nothing of it is in the group, but what the answer speaks of may be.
    Answer { reply: oneshot::Sender<IngestReply>, answer: IngestReply },
}

/// That a group is durable, and its log time, milliseconds since the Unix epoch.
pub(super) type Proof = (Durable, u64);

impl Waiting {
    /// Answers that it is not in the log.
    pub(super) fn refuse(self, error: AppendError) {
        match self {
            Self::Effects { reply, .. } => drop(reply.map(|reply| reply.send(Err(error)))),
            Self::Ingest { reply, .. } | Self::Answer { reply, .. } => {
                drop(reply.send(IngestReply::Refused(error)));
            }
        }
    }
}

const fn committed_as(
    (durable, recorded_ms): Proof,
    number: u64,
    first: Position,
    has_events: bool,
) -> Committed {
    let first_position = if has_events { Some(first) } else { None };
    Committed { commit: CommitNumber(number), first_position, recorded_ms, durable }
}

/// Answers all who waited for a group. `committed`: the proof, and when the sync was through; none where
/// nothing was written.
pub(super) fn answer(shared: &Shared, waiting: Vec<Waiting>, committed: Option<(Proof, Instant)>) {
    let mut buffers = Vec::with_capacity(waiting.len());
    let mut room = 0;
    for one in waiting {
        match (one, committed) {
            (Waiting::Answer { reply, answer }, _) => drop(reply.send(answer)),
            (Waiting::Effects { reply, commit, permit, number, first }, Some((proof, _))) => {
                let answer = committed_as(proof, number, first, !commit.events.is_empty());
                if let Some(reply) = reply {
                    drop(reply.send(Ok(answer)));
                }
                room += permit.map_or(0, |mut permit| permit.take_bytes());
                buffers.push(commit);
            }
            (Waiting::Ingest { reply, batch, begun, number, first }, Some((proof, synced))) => {
                let committed = committed_as(proof, number, first, true);
                let items = batch.items;
                shared.note_ingested(begun, synced);
                drop(reply.send(IngestReply::Committed { committed, items }));
                buffers.push(batch.commit);
            }
            // Something taken makes the frame non-empty: there is a proof.
            (one, None) => one.refuse(AppendError::ReadOnly(LogFailure::WriterGone)),
        }
    }
    shared.lanes.release(room);
    shared.buffers.give(buffers.into_iter());
}
