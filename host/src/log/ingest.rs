//! The publisher's side of ingest: what is new, what was there, and asking the writer until both agree.
//!
//! Rule: the writer compares hashes, here content is compared. All is taken for new at first, as nearly
//! all of it is. A hash that the writer knows and this side did not comes back, and goes around again
//! once what it hit is durable.

use std::sync::Arc;
use std::time::Instant;

use hashbrown::HashMap;
use tokio::sync::oneshot;

use super::assign::{Batch, Each, Item};
use super::codec::Encoded;
use super::dedup::{Dedup, IdHash};
use super::error::{AppendError, LogFailure};
use super::identity::{Likeness, compare, is_same, says_the_same};
use super::lanes::IngestEntry;
use super::shared::Shared;
use super::ticket::{Appended, IngestReply};
use crate::event::{KeySequence, NewEvent, Position};

/// An event to publish.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Publish {
    /// The event.
    pub event: NewEvent,
    /// What the key's last sequence must be; 0: the key must be new. None: no condition.
    pub expected: Option<KeySequence>,
}

/// What an event of a batch is, as far as this side knows.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Known {
    /// Not in the log, as far as one knows. `others` have its hash and another identity.
    New { others: Vec<Position> },
    /// In the log.
    Stored(Appended),
    /// The same as an earlier one of the batch.
    Same { earlier: usize },
}

/// Publishes a batch as one commit: all or nothing.
pub(super) async fn ingest(
    shared: &Arc<Shared>,
    batch: &[Publish],
) -> Result<Vec<Appended>, AppendError> {
    let begun = Instant::now();
    if let Some(error) = shared.lanes.refusal() {
        return Err(error);
    }
    let Some(recent) = shared.recent.filled().await else {
        return Err(shared.lanes.refusal().unwrap_or_else(gone));
    };
    if batch.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Each<IdHash> =
        batch.iter().map(|one| shared.hasher.of(&one.event.source, &one.event.id)).collect();
    let mut known = within(batch, &ids)?;
    loop {
        let refused = match ask(shared, (batch, &ids, &known), begun).await {
            Ok(answers) => return Ok(answers),
            Err(refused) => refused,
        };
        // Boxed, because it is rare: without it every publish would carry the room for it.
        Box::pin(look_up((shared, recent), batch, &ids, (&mut known, refused))).await?;
        if !has_new(&known) {
            shared.note_ingested(begun, Instant::now());
            return Ok(appended(&known, Position(0), &[]));
        }
    }
}

/// Asks the writer for what is new of a batch. The error is why it refuses; none: it knows a hash.
async fn ask(
    shared: &Shared,
    (batch, ids, known): (&[Publish], &[IdHash], &[Known]),
    begun: Instant,
) -> Result<Vec<Appended>, Option<AppendError>> {
    let answer = {
        let mut commit = shared.buffers.take();
        encode(&mut commit, batch, known)?;
        let batch = Batch { commit, items: items(batch, ids, known) };
        let (reply, answer) = oneshot::channel();
        shared.lanes.push_ingest(IngestEntry { batch, begun, reply })?;
        answer
    };
    match answer.await {
        Ok(IngestReply::Committed { committed, items }) => {
            Ok(appended(known, committed.first_position.unwrap_or_default(), &items))
        }
        Ok(IngestReply::Recheck) => Err(None),
        Ok(IngestReply::Refused(error)) => Err(Some(error)),
        Err(_) => Err(Some(gone())),
    }
}

const fn gone() -> AppendError {
    AppendError::ReadOnly(LogFailure::WriterGone)
}

/// Compares the events of a batch with each other.
fn within(batch: &[Publish], ids: &[IdHash]) -> Result<Each<Known>, AppendError> {
    let mut known = Each::with_capacity(batch.len());
    if batch.len() == 1 {
        known.push(Known::New { others: Vec::new() });
        return Ok(known);
    }
    let mut first: HashMap<IdHash, usize> = HashMap::new();
    for (index, (one, id)) in batch.iter().zip(ids).enumerate() {
        let twin = Some(*first.entry(*id).or_insert(index))
            .filter(|earlier| *earlier != index)
            .and_then(|earlier| Some((earlier, batch.get(earlier)?)))
            .filter(|(_, twin)| is_same(&one.event, &twin.event));
        known.push(match twin {
            None => Known::New { others: Vec::new() },
            Some((earlier, twin)) if says_the_same(&one.event, &twin.event) => {
                Known::Same { earlier }
            }
            Some(_) => return Err(AppendError::IdConflict { index, position: Position(0) }),
        });
    }
    Ok(known)
}

/// Compares what seems new with what the log has under the same hash. Where the batch was refused, that
/// is the error if any of it is new: what is in the log takes no room and meets no condition.
async fn look_up(
    (shared, recent): (&Arc<Shared>, &Dedup),
    batch: &[Publish],
    ids: &[IdHash],
    (known, refused): (&mut [Known], Option<AppendError>),
) -> Result<(), AppendError> {
    for (index, ((one, id), known)) in batch.iter().zip(ids).zip(&mut *known).enumerate() {
        let Known::New { others } = known else { continue };
        let mut found = None;
        for position in recent.lookup(*id) {
            if others.contains(&position) || planted!(ForgetsIdentities) {
                continue;
            }
            let stored = shared.event(position).await;
            let stored = stored.map_err(|error| AppendError::Read(error.to_string()))?;
            // The table knows durable events only, so it is there.
            let Some(stored) = stored else { continue };
            match compare(&one.event, &stored) {
                Likeness::Other => others.push(position),
                Likeness::Conflict => return Err(AppendError::IdConflict { index, position }),
                Likeness::Duplicate => {
                    let sequence = stored.sequence;
                    found = Some(Appended { position, sequence, duplicate: true });
                    break;
                }
            }
        }
        if let Some(stored) = found {
            *known = Known::Stored(stored);
        }
    }
    refused.filter(|_| has_new(known)).map_or(Ok(()), Err)
}

fn has_new(known: &[Known]) -> bool {
    known.iter().any(|known| matches!(known, Known::New { .. }))
}

fn new_ones<'a>(
    batch: &'a [Publish],
    known: &'a [Known],
) -> impl Iterator<Item = (usize, &'a Publish, &'a [Position])> {
    let all = batch.iter().zip(known).enumerate();
    all.filter_map(|(index, (one, known))| match known {
        Known::New { others } => Some((index, one, &others[..])),
        Known::Stored(_) | Known::Same { .. } => None,
    })
}

fn encode(encoded: &mut Encoded, batch: &[Publish], known: &[Known]) -> Result<(), AppendError> {
    encoded.clear();
    if planted!(ReordersABatch) {
        let new: Vec<_> = new_ones(batch, known).collect();
        new.iter().rev().try_for_each(|(_, one, _)| encoded.event(&one.event))?;
        return Ok(encoded.finish()?);
    }
    for (_, one, _) in new_ones(batch, known) {
        encoded.event(&one.event)?;
    }
    Ok(encoded.finish()?)
}

fn items(batch: &[Publish], ids: &[IdHash], known: &[Known]) -> Each<Item> {
    new_ones(batch, known)
        .filter_map(|(index, one, others)| {
            Some(Item {
                index,
                id: *ids.get(index)?,
                is_suspect: true,
                others: others.to_vec(),
                expected: one.expected,
                sequence: KeySequence(0),
            })
        })
        .collect()
}

/// The answers, in the order of the batch; new events stand from `first` on, in the order of `items`.
fn appended(known: &[Known], first: Position, items: &[Item]) -> Vec<Appended> {
    let mut answers: Vec<Appended> = Vec::with_capacity(known.len());
    let mut new = items.iter().zip(first.0..);
    for known in known {
        let answer = match known {
            Known::Stored(stored) => Some(*stored),
            Known::New { .. } => new.next().map(|(item, position)| Appended {
                position: Position(position),
                sequence: item.sequence,
                duplicate: false,
            }),
            Known::Same { earlier } => {
                answers.get(*earlier).map(|earlier| Appended { duplicate: true, ..*earlier })
            }
        };
        answers.extend(answer);
    }
    answers
}
