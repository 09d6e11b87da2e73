//! Carrying state over to a generation that does not begin at the first event.
//!
//! The state of each key as it was after the last event before the rewind is recorded once more, as
//! completions of attempt 0 of the new generation: so the fold needs no past, and neither does who
//! asks for the state of an earlier point. What was done twice, because the host died on the way, is
//! the same both times.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Bus;
use super::deliver::Deliverer;
use crate::effects::{OutcomeKind, StateWrite};
use crate::event::{CommitNumber, Generation, InstanceId, Key, Position};
use crate::limits::REWIND_STATE_BYTES_MAX;
use crate::log::codec::DecodeError;
use crate::log::record::{Completion, Control, ControlRecord, DeliveryCommit, Mode};
use crate::log::{AppendError, CommitRef, ReadError, RecordRef};

/// Bytes of a commit beside the state in it.
const COMPLETION_BYTES: usize = 1024;

/// Why state is not carried over.
#[derive(Debug, thiserror::Error)]
pub enum CarryError {
    /// It is too much to be held at once.
    #[error(
        "the state at that position has more than {limit} bytes, which is the most that a rewind \
         to a position carries over: go back to `earliest`"
    )]
    TooLarge {
        /// Bytes allowed.
        limit: usize,
    },
    /// The log cannot be read.
    #[error("reading the log: {0}")]
    Read(#[from] ReadError),
    /// The log takes nothing.
    #[error(transparent)]
    Append(#[from] AppendError),
}

impl From<DecodeError> for CarryError {
    fn from(error: DecodeError) -> Self {
        Self::Read(error.into())
    }
}

/// State of a plugin's keys after some position.
pub struct Carried {
    of: (InstanceId, Generation, Position),
    keys: BTreeMap<Key, KeyState>,
    bytes: usize,
}

#[derive(Default)]
struct KeyState {
    /// The last event of the key.
    last: Position,
    values: BTreeMap<Arc<str>, StateWrite>,
}

impl Carried {
    fn new(of: (InstanceId, Generation, Position)) -> Self {
        Self { of, keys: BTreeMap::new(), bytes: 0 }
    }

    fn take(&mut self, commit: &CommitRef<'_>) -> Result<(), CarryError> {
        let (instance, generation, until) = self.of;
        let mut of = None;
        for record in commit.records() {
            match record? {
                RecordRef::Completion(done) => {
                    let ours = done.instance == instance
                        && done.generation == generation
                        && done.position <= until;
                    let key = done.key.filter(|_| ours).and_then(|key| Key::new(key).ok());
                    of = key.map(|key| (key, done.position));
                }
                RecordRef::State(write) => {
                    if let Some((key, position)) = &of {
                        self.write(key, *position, write.to_owned());
                    }
                }
                _ => {}
            }
            if self.bytes > REWIND_STATE_BYTES_MAX {
                return Err(CarryError::TooLarge { limit: REWIND_STATE_BYTES_MAX });
            }
        }
        Ok(())
    }

    fn write(&mut self, key: &Key, position: Position, write: StateWrite) {
        let state = self.keys.entry(key.clone()).or_default();
        state.last = state.last.max(position);
        let weight = |write: &StateWrite| {
            write.name.len() + write.value.as_ref().map_or(0, bytes::Bytes::len) + 128
        };
        self.bytes += weight(&write);
        let old = match write.value {
            Some(_) => state.values.insert(Arc::clone(&write.name), write),
            None => {
                self.bytes -= weight(&write);
                state.values.remove(&write.name)
            }
        };
        self.bytes = self.bytes.saturating_sub(old.as_ref().map_or(0, weight));
    }
}

impl Bus {
    /// The state of a plugin after its deliveries of events up to a position, in one generation.
    /// Reads the log from its beginning.
    ///
    /// # Errors
    /// See [`CarryError`].
    pub async fn state_after(
        &self,
        instance: InstanceId,
        generation: Generation,
        position: Position,
    ) -> Result<Carried, CarryError> {
        let mut carried = Carried::new((instance, generation, position));
        let Some(log) = self.log() else { return Ok(carried) };
        let end = *self.applied().borrow();
        let mut frames = log.frames_from_commit(CommitNumber(1));
        let mut read = CommitNumber(0);
        while read < end {
            let frame = frames.next().await?;
            for commit in frame.commits() {
                carried.take(&commit?)?;
            }
            read = frame.last_commit();
        }
        Ok(carried)
    }

    /// Records state as that of the generation of `to`, which must not have begun to deliver.
    /// Returns once it is durable and applied.
    ///
    /// # Errors
    /// The log takes nothing. What was recorded until then does no harm.
    pub async fn carry_over(&self, to: &Deliverer, state: Carried) -> Result<(), CarryError> {
        let Deliverer { instance, generation, environment, .. } = *to;
        for (key, KeyState { last, values }) in state.keys {
            let state: Vec<StateWrite> = values.into_values().collect();
            if state.is_empty() {
                continue;
            }
            let sizes =
                state.iter().map(|w| w.name.len() + w.value.as_ref().map_or(0, |v| v.len()));
            let bytes = sizes.sum::<usize>() + 64 * state.len() + COMPLETION_BYTES;
            let permit = self.reserve(instance, bytes).await?;
            self.progress(instance).submit();
            self.commit_untold(
                permit,
                DeliveryCommit {
                    completion: Completion {
                        instance,
                        generation,
                        position: last,
                        key: Some(key),
                        environment,
                        attempt: 0,
                        mode: Mode::Rebuild,
                        outcome: OutcomeKind::Ok,
                        fuel: 0,
                        response: None,
                    },
                    emits: Vec::new(),
                    state,
                    timers: Vec::new(),
                    calls: Vec::new(),
                    dead_letter: None,
                    park: false,
                },
            );
        }
        let control = Control::Carried { instance, generation };
        let record = ControlRecord { actor: "host".into(), control };
        let committed = self.control(&[record]).done().await?;
        self.until_applied(committed.commit).await;
        Ok(())
    }
}
