//! Keyed state as it was: a fold over the commits of one plugin and key, found through the index.
//!
//! Rule: what it answers is a function of a prefix of the log, never of what is in memory now.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use ecow::EcoString;

use super::Bus;
use crate::effects::ends_at;
use crate::event::{CommitNumber, Generation, InstanceId, Key, Position};
use crate::log::{CommitRef, ReadError, RecordRef};
use crate::state::{Owner, Value};

/// A moment in the life of a plugin's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// After its deliveries of events up to and including this position, and before that of any later
    /// one: what was redriven after that is of a later moment.
    After(Position),
    /// At this log time, milliseconds since the Unix epoch.
    At(u64),
    /// What the delivery that ended in this commit saw, its input taken at `input_ms`.
    Before {
        /// The commit.
        commit: CommitNumber,
        /// Log time of the input, milliseconds since the Unix epoch.
        input_ms: u64,
    },
}

/// Why the past is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum PastError {
    /// A memory bus forgets.
    #[error("the bus `{0}` is in memory, and keeps no past")]
    Forgotten(Arc<str>),
    /// It has not come yet.
    #[error("lies ahead: the last event is at position {0}")]
    PositionAhead(Position),
    /// It has not come yet.
    #[error("lies ahead of the log's clock")]
    TimeAhead,
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// The state of one key at a moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PastState {
    values: BTreeMap<EcoString, Value>,
    /// Log time at which ends of values are judged.
    now_ms: u64,
}

impl PastState {
    /// Its values, ascending by name, without those whose end had come.
    pub fn values(&self) -> impl Iterator<Item = (&EcoString, &Value)> {
        self.values.iter().filter(|(_, value)| value.lives_at(self.now_ms))
    }

    /// One value, unless its end had come.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(name).filter(|value| value.lives_at(self.now_ms))
    }

    /// Everything that was written and not deleted, also values whose end had come.
    pub fn into_values(self) -> impl Iterator<Item = (EcoString, Value)> {
        self.values.into_iter()
    }

    /// Takes a state write, as the log has it.
    pub fn write(&mut self, name: &str, value: Option<&[u8]>, expires_ms: Option<u64>) {
        match value {
            Some(bytes) => {
                let value = Value { bytes: bytes.into(), expires_ms: expires_ms.map(ends_at) };
                self.values.insert(name.into(), value);
            }
            None => {
                self.values.remove(name);
            }
        }
    }
}

impl Bus {
    /// The state of a plugin's key at a moment. Reads only commits of that plugin and key. An end
    /// of a value is judged at the log time of the moment: for [`Moment::After`] that is when the
    /// event at the position was taken.
    ///
    /// # Errors
    /// See [`PastError`].
    pub async fn past(&self, owner: &Owner, moment: Moment) -> Result<PastState, PastError> {
        let log = self.log().ok_or_else(|| PastError::Forgotten(Arc::clone(self.name())))?;
        let now_ms = match moment {
            Moment::After(Position(0)) => 0,
            Moment::After(position) => match log.event(position).await? {
                Some(event) => event.recorded_ms,
                None => return Err(PastError::PositionAhead(log.last_position())),
            },
            Moment::At(ms) if ms > log.now_ms() => return Err(PastError::TimeAhead),
            Moment::At(ms) => ms,
            Moment::Before { input_ms, .. } => input_ms,
        };
        let (instance, generation) = (owner.instance, owner.generation);
        let (mut last, mut until_ms, mut end) =
            (Position(u64::MAX), u64::MAX, CommitNumber(u64::MAX));
        match moment {
            Moment::After(position) => last = position,
            Moment::At(ms) => until_ms = ms,
            Moment::Before { commit, .. } => end = commit,
        }
        let key = owner.key.clone();
        log.fold_completions(
            (instance, &owner.key),
            CommitNumber(0),
            move |entry| entry.generation == generation && entry.commit < end,
            PastState { values: BTreeMap::new(), now_ms },
            move |state, commit| {
                if commit.time_ms > until_ms {
                    return Ok(ControlFlow::Break(()));
                }
                take(state, commit, (instance, generation, &key), last)
            },
        )
        .await
        .map_err(PastError::from)
    }
}

/// Takes the writes of a commit, if it ends a delivery of this plugin and key; breaks at one of an event
/// after `last`.
fn take(
    state: &mut PastState,
    commit: &CommitRef<'_>,
    (instance, generation, key): (InstanceId, Generation, &Key),
    last: Position,
) -> Result<ControlFlow<()>, ReadError> {
    let mut ours = false;
    for record in commit.records() {
        match record? {
            RecordRef::Completion(done) => {
                ours = done.instance == instance
                    && done.generation == generation
                    && done.key == Some(key.as_str());
                if ours && done.position > last {
                    return Ok(ControlFlow::Break(()));
                }
            }
            RecordRef::State(write) if ours => {
                state.write(write.name, write.value, write.expires_ms);
            }
            _ => {}
        }
    }
    Ok(ControlFlow::Continue(()))
}

#[cfg(test)]
mod tests;
