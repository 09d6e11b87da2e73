//! Carrying state over to a generation that does not begin at the first event.
//!
//! The state of each key as it was after the last event before the rewind is recorded once more, as
//! completions of attempt 0 of the new generation: so the fold needs no past, and neither does who
//! asks for the state of an earlier point. What was done twice, because the host died on the way, is
//! the same both times. A key may have more state than one commit holds: it takes several then.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use ecow::EcoString;

use super::deliver::Deliverer;
use super::timers::{FireId, NAME_ATTRIBUTE};
use super::{Bus, Outbox, private};
use crate::effects::{OutcomeKind, StateWrite, TimerChange};
use crate::event::{CommitNumber, Generation, InstanceId, Key, KeyHash, Position};
use crate::limits::{GROUP_BYTES_MAX, REWIND_STATE_BYTES_MAX};
use crate::log::codec::{AddresseeRef, DecodeError, TimerRef};
use crate::log::record::{Completion, Control, ControlRecord, DeliveryCommit, Mode};
use crate::log::{AppendError, CommitRef, CompletionRef, EventRef, ReadError, RecordRef};
use crate::state::timers::SetAt;

/// Bytes of a commit beside the state in it.
const COMPLETION_BYTES: usize = 1024;
/// Bytes of state, about, that one commit carries over, unless a single value is larger.
const PART_BYTES_MAX: usize = GROUP_BYTES_MAX;

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
    /// There is no such state: what came later is in it.
    #[error(
        "the event at {position} of key `{key}` was delivered after later ones, on the state that these \
         had left: go back to that position or before it"
    )]
    Overtaken {
        /// The key.
        key: Key,
        /// An event before the point, delivered after one behind it.
        position: Position,
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

/// State and pending timers of a plugin's keys after some position.
pub struct Carried {
    of: (InstanceId, Generation, Position),
    keys: BTreeMap<Key, KeyState>,
    /// Keys that have come to later events.
    ahead: HashSet<KeyHash>,
    /// Fires whose delivery is not over: the timer's name, and which it is.
    fires: HashMap<Position, (Arc<str>, SetAt)>,
    bytes: usize,
}

#[derive(Default)]
struct KeyState {
    /// The last event of the key.
    last: Position,
    values: BTreeMap<EcoString, StateWrite>,
    timers: BTreeMap<Arc<str>, (SetAt, TimerChange)>,
}

/// What a value or a timer costs beside its name and bytes, about.
const OVERHEAD_BYTES: usize = 128;

impl Carried {
    fn new(of: (InstanceId, Generation, Position)) -> Self {
        Self { of, keys: BTreeMap::new(), ahead: HashSet::new(), fires: HashMap::new(), bytes: 0 }
    }

    fn take(&mut self, commit: &CommitRef<'_>) -> Result<(), CarryError> {
        let (mut key, mut timers, mut overtaken) = (None, 0, None);
        for record in commit.records() {
            let record = record?;
            if matches!(record, RecordRef::State(_) | RecordRef::Timer(_))
                && let Some((key, position)) = overtaken
            {
                return Err(CarryError::Overtaken { key, position });
            }
            match (record, &key) {
                (RecordRef::Event(event), _) => self.fire(&event),
                (RecordRef::Completion(done), _) => {
                    overtaken = self.overtaken(&done);
                    key = self.done(&done);
                    timers = 0;
                }
                (RecordRef::State(write), Some((key, _))) => self.write(key, write.to_owned()),
                (RecordRef::Timer(change), Some((key, _))) => {
                    self.change(key, SetAt { commit: commit.number, index: timers }, &change);
                    timers += 1;
                }
                _ => {}
            }
            if self.bytes > REWIND_STATE_BYTES_MAX {
                return Err(CarryError::TooLarge { limit: REWIND_STATE_BYTES_MAX });
            }
        }
        Ok(())
    }

    fn fire(&mut self, event: &EventRef<'_>) {
        let (instance, generation, until) = self.of;
        let ours = matches!(event.addressee, Some(AddresseeRef::Plugin(to)) if to == instance);
        if !ours || event.kind != private::TIMER || event.position > until {
            return;
        }
        let name = event.attributes.iter().find(|(name, _)| *name == NAME_ATTRIBUTE);
        if let (Some((_, name)), Ok(fire)) = (name, event.id.parse::<FireId>())
            && fire.generation == generation
        {
            self.fires.insert(event.position, (name.into(), fire.set));
        }
    }

    /// Key and position of a delivery of an event before the point that was made once its key had come
    /// past it, also in a later generation: that one began behind the point.
    fn overtaken(&self, done: &CompletionRef<'_>) -> Option<(Key, Position)> {
        let (instance, generation, until) = self.of;
        let late = match done.generation.cmp(&generation) {
            Ordering::Less => false,
            Ordering::Equal => done.key_hash.is_some_and(|hash| self.ahead.contains(&hash)),
            Ordering::Greater => done.attempt > 0,
        };
        let counts = done.instance == instance && done.position <= until && late;
        Some((Key::new(done.key.filter(|_| counts)?).ok()?, done.position))
    }

    /// Key and position of a completion that counts. A fire has served its timer with it.
    fn done(&mut self, done: &CompletionRef<'_>) -> Option<(Key, Position)> {
        let (instance, generation, until) = self.of;
        let ours = done.instance == instance && done.generation == generation;
        let key = Key::new(done.key.filter(|_| ours)?).ok()?;
        if done.position > until {
            self.ahead.insert(key.hash128());
            return None;
        }
        let state = self.keys.entry(key.clone()).or_default();
        state.last = state.last.max(done.position);
        if let Some((name, set)) = self.fires.remove(&done.position)
            && state.timers.get(&name).is_some_and(|(of, _)| *of == set)
        {
            let old = state.timers.remove(&name);
            self.count(0, old.map_or(0, |(_, timer)| timer_bytes(&timer)));
        }
        Some((key, done.position))
    }

    fn write(&mut self, key: &Key, write: StateWrite) {
        let Some(state) = self.keys.get_mut(key) else { return };
        let new = write.value.as_ref().map_or(0, |_| write_bytes(&write));
        let name = write.name.clone();
        let old = match write.value {
            Some(_) => state.values.insert(name, write),
            None => state.values.remove(&name),
        };
        self.count(new, old.as_ref().map_or(0, write_bytes));
    }

    fn change(&mut self, key: &Key, at: SetAt, change: &TimerRef<'_>) {
        let Some(state) = self.keys.get_mut(key) else { return };
        let (new, old) = match *change {
            TimerRef::Set { name, due_ms, data } => {
                let name: Arc<str> = name.into();
                let data = bytes::Bytes::copy_from_slice(data);
                let set = TimerChange::Set { name: Arc::clone(&name), due_ms, data };
                (timer_bytes(&set), state.timers.insert(name, (at, set)))
            }
            TimerRef::Cancel { name } => (0, state.timers.remove(name)),
        };
        self.count(new, old.map_or(0, |(_, timer)| timer_bytes(&timer)));
    }

    /// Counts bytes that came and bytes that went.
    fn count(&mut self, new: usize, old: usize) {
        self.bytes = self.bytes.saturating_add(new).saturating_sub(old);
    }
}

/// What one commit carries over of a key.
#[derive(Default)]
struct Part {
    values: Vec<StateWrite>,
    timers: Vec<TimerChange>,
    bytes: usize,
}

#[derive(Default)]
struct Parts {
    full: Vec<Part>,
    last: Part,
}

impl Parts {
    /// The part that so many bytes go into.
    fn room(&mut self, bytes: usize) -> &mut Part {
        if self.last.bytes > 0 && self.last.bytes.saturating_add(bytes) > PART_BYTES_MAX {
            self.full.push(std::mem::take(&mut self.last));
        }
        self.last.bytes += bytes;
        &mut self.last
    }

    fn into_all(self) -> impl Iterator<Item = Part> {
        let last = Some(self.last).filter(|part| part.bytes > 0);
        self.full.into_iter().chain(last)
    }
}

impl KeyState {
    /// All of it, as commits take it; nothing, where nothing is left of the key.
    fn into_parts(self) -> impl Iterator<Item = Part> {
        let mut parts = Parts::default();
        for write in self.values.into_values() {
            parts.room(write_bytes(&write)).values.push(write);
        }
        for (_, timer) in self.timers.into_values() {
            parts.room(timer_bytes(&timer)).timers.push(timer);
        }
        parts.into_all()
    }
}

fn write_bytes(write: &StateWrite) -> usize {
    write.bytes() + OVERHEAD_BYTES
}

fn timer_bytes(timer: &TimerChange) -> usize {
    OVERHEAD_BYTES
        + match timer {
            TimerChange::Set { name, data, .. } => name.len() + data.len(),
            TimerChange::Cancel { name } => name.len(),
        }
}

impl Bus {
    /// The state of a plugin after its deliveries of events up to a position, in one generation.
    /// Reads the log from its beginning. Changes nothing: dropped, only the reading is lost.
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
    /// The log takes nothing, or not this. What was recorded until then does no harm.
    pub async fn carry_over(&self, to: &Deliverer, state: Carried) -> Result<(), CarryError> {
        let instance = to.instance;
        let (outbox, progress) = (self.outbox(), self.progress(instance));
        for (key, state) in state.keys {
            let last = state.last;
            for part in state.into_parts() {
                let bytes = part.bytes + COMPLETION_BYTES;
                self.reserve_in(&outbox, (instance, bytes)).await?;
                // A memory bus has no past that could be carried over.
                let Outbox::Durable(outbox) = &outbox else { continue };
                outbox.push(&carried(to, (key.clone(), last), part))?;
                // Only what is sure to be folded, and before it is handed over.
                progress.submit();
            }
        }
        drop(outbox);
        let control = Control::Carried { instance, generation: to.generation };
        let record = ControlRecord { actor: "host".into(), control };
        let committed = self.control(&[record]).done().await?;
        self.until_applied(committed.commit).await;
        Ok(())
    }
}

/// A completion of attempt 0: nothing ran, and yet the key has this state after its event at `last`.
fn carried(to: &Deliverer, (key, last): (Key, Position), part: Part) -> DeliveryCommit {
    let Deliverer { instance, generation, environment, .. } = *to;
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
        state: part.values,
        timers: part.timers,
        calls: Vec::new(),
        dead_letter: None,
        park: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Digest;

    #[test]
    fn bytes_are_those_of_what_is_there_and_not_of_all_there_was() {
        let (instance, generation) = (InstanceId(1), Generation(0));
        let mut carried = Carried::new((instance, generation, Position(100)));
        let key = Key::new("k").unwrap();
        carried.keys.insert(key.clone(), KeyState::default());
        let at = |commit| SetAt { commit: CommitNumber(commit), index: 0 };
        let set = TimerRef::Set { name: "wake", due_ms: 7, data: &[0; 10] };

        carried.change(&key, at(1), &set);
        let one = carried.bytes;
        assert!(one > 0);
        carried.change(&key, at(2), &set);
        assert_eq!(carried.bytes, one, "replaced");
        carried.change(&key, at(3), &TimerRef::Cancel { name: "wake" });
        assert_eq!(carried.bytes, 0, "cancelled");
        carried.change(&key, at(3), &TimerRef::Cancel { name: "wake" });
        assert_eq!(carried.bytes, 0, "there was none");

        carried.change(&key, at(4), &set);
        carried.fires.insert(Position(5), ("wake".into(), at(4)));
        let done = CompletionRef {
            instance,
            generation,
            position: Position(5),
            key: Some("k"),
            key_hash: None,
            attempt: 1,
            mode: Mode::Live,
            outcome: OutcomeKind::Ok,
            fuel: 0,
            environment: Digest::default(),
            response: None,
        };
        assert_eq!(carried.done(&done), Some((key.clone(), Position(5))));
        assert_eq!(carried.bytes, 0, "served");

        let write = |value: Option<&'static [u8]>| StateWrite {
            name: "n".into(),
            value: value.map(Into::into),
            expires_ms: None,
        };
        carried.write(&key, write(Some(b"1")));
        carried.write(&key, write(Some(b"22")));
        assert_eq!(carried.bytes, write_bytes(&write(Some(b"22"))));
        carried.write(&key, write(None));
        assert_eq!(carried.bytes, 0, "deleted");
    }
}
