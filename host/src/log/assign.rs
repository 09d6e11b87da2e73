//! What the writer decides at assignment: duplicates, expected sequences, key sequences. Pure but
//! for reading the tables.
//!
//! Rule: a batch is taken as a whole or leaves no trace. The tables know durable events only; what
//! the group at hand adds is kept here until its sync is through.

use hashbrown::{HashMap, HashSet};
use smallvec::SmallVec;

use super::codec::Encoded;
use super::dedup::{Dedup, DedupEntry, IdHash};
use super::error::AppendError;
use super::heads::{Head, Heads, Place};
use crate::event::{KeyHash, KeySequence, Position};

/// One for each event of a batch, which mostly is one.
pub(super) type Each<T> = SmallVec<[T; 1]>;

/// A published batch, encoded: its new events, duplicates taken out.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) commit: Encoded,
    /// One for each event of `commit`.
    pub(super) items: Each<Item>,
}

/// A new event of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    /// Which event of the batch as it was published.
    pub(super) index: usize,
    pub(super) id: IdHash,
    /// Whether the table may hold it, as far as one sees at a glance.
    pub(super) is_suspect: bool,
    /// Events with the same hash that are known to have another identity.
    pub(super) others: Vec<Position>,
    /// The publisher's condition.
    pub(super) expected: Option<KeySequence>,
    /// Filled in at assignment.
    pub(super) sequence: KeySequence,
}

/// What becomes of a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is in the group, from this position on.
    Taken(Position),
    /// An identity of it may be in the log: to be looked at again once that is durable.
    Recheck,
    /// A condition does not hold.
    Refused(AppendError),
}

/// What the group at hand adds to the tables.
#[derive(Debug, Default)]
pub(super) struct Group {
    heads: HashMap<KeyHash, Moved>,
    ids: HashSet<IdHash>,
    /// The same, in the order of their positions.
    published: Vec<(IdHash, Position)>,
    /// Keys as the tables have them, to be entered in `heads`.
    found: Vec<(KeyHash, Moved)>,
    next_position: u64,
}

/// A key that the group moves on, or may.
#[derive(Debug, Clone, Copy)]
struct Moved {
    head: Head,
    /// None: the tables do not know it.
    place: Option<Place>,
}

impl Group {
    /// Begins a group whose first event gets this position.
    pub(super) fn begin(&mut self, next_position: u64) {
        self.heads.clear();
        self.ids.clear();
        self.published.clear();
        self.next_position = next_position;
    }

    /// Published events in it.
    pub(super) fn published(&self) -> u32 {
        u32::try_from(self.published.len()).unwrap_or(u32::MAX)
    }

    fn sequence_of(&self, heads: &Heads, key: KeyHash) -> KeySequence {
        let head = self.heads.get(&key).map(|moved| moved.head).or_else(|| heads.get(key));
        head.map_or(KeySequence(0), |head| head.sequence)
    }

    /// Looks all keys of commits up at once, before any event is numbered.
    pub(super) fn meet<'a>(&mut self, heads: &Heads, commits: impl Iterator<Item = &'a Encoded>) {
        let table = heads.glance();
        let keys = commits.flat_map(|commit| &commit.events).filter_map(|slot| slot.sequenced);
        self.found.extend(keys.map(|key| (key, Moved::of(table.find(key)))));
        drop(table);
        self.heads.extend(self.found.drain(..));
    }

    /// Numbers the events of a commit whose conditions are decided.
    fn assign(&mut self, heads: &Heads, commit: &Encoded, mut give: impl FnMut(KeySequence)) {
        for slot in &commit.events {
            let position = Position(self.next_position);
            self.next_position += 1;
            let Some(key) = slot.sequenced else {
                give(KeySequence(0));
                continue;
            };
            let moved = self.heads.entry(key).or_insert_with(|| Moved::of(heads.find(key)));
            let sequence = KeySequence(moved.head.sequence.0 + 1);
            moved.head = Head { sequence, position };
            give(sequence);
        }
    }

    /// Numbers the events of an effects commit: unconditional.
    pub(super) fn effects(
        &mut self,
        heads: &Heads,
        commit: &Encoded,
        sequences: &mut Vec<KeySequence>,
    ) -> Position {
        let first = Position(self.next_position);
        sequences.clear();
        self.assign(heads, commit, |sequence| sequences.push(sequence));
        first
    }

    /// Looks all events of batches up at once, before any batch is decided.
    pub(super) fn glance<'a>(dedup: Option<&Dedup>, batches: impl Iterator<Item = &'a mut Batch>) {
        let Some(table) = dedup.map(Dedup::glance) else { return };
        for item in batches.flat_map(|batch| &mut batch.items) {
            item.is_suspect = table.may_hold(item.id);
        }
    }

    /// Decides a batch that was glanced at, duplicates first, and numbers it if it is taken. Without the
    /// table nothing can be decided.
    pub(super) fn ingest(
        &mut self,
        dedup: Option<&Dedup>,
        heads: &Heads,
        batch: &mut Batch,
    ) -> Verdict {
        let Some(dedup) = dedup else { return Verdict::Recheck };
        let is_known = |item: &Item| {
            let other = |position: &Position| item.others.contains(position);
            self.ids.contains(&item.id)
                || item.is_suspect && !dedup.lookup(item.id).iter().all(other)
        };
        if batch.items.iter().any(is_known) && !planted!(ForgetsIdentities) {
            return Verdict::Recheck;
        }
        if let Some(error) = self.conflict(heads, batch) {
            return Verdict::Refused(error);
        }
        let first = Position(self.next_position);
        let mut items = batch.items.iter_mut();
        self.assign(heads, &batch.commit, |sequence| {
            if let Some(item) = items.next() {
                item.sequence = sequence;
            }
        });
        for (item, position) in batch.items.iter().zip(first.0..) {
            self.ids.insert(item.id);
            self.published.push((item.id, Position(position)));
        }
        Verdict::Taken(first)
    }

    /// The first event that does not find its key where it expects it.
    fn conflict(&self, heads: &Heads, batch: &Batch) -> Option<AppendError> {
        if batch.items.iter().all(|item| item.expected.is_none()) {
            return None;
        }
        // Events of the batch itself move their keys on.
        let mut moved: HashMap<KeyHash, KeySequence> = HashMap::new();
        for (slot, item) in batch.commit.events.iter().zip(&batch.items) {
            let actual = slot.sequenced.map_or(KeySequence(0), |key| {
                moved.get(&key).copied().unwrap_or_else(|| self.sequence_of(heads, key))
            });
            if let Some(expected) = item.expected.filter(|expected| *expected != actual) {
                return Some(AppendError::SequenceConflict { index: item.index, expected, actual });
            }
            if let Some(key) = slot.sequenced {
                moved.insert(key, KeySequence(actual.0 + 1));
            }
        }
        None
    }

    /// Enters what the group added into the tables: it is durable now.
    pub(super) fn settle(&mut self, dedup: Option<&Dedup>, heads: &Heads, time_ms: u64) {
        for (key, Moved { head, place }) in self.heads.drain() {
            match place {
                Some(place) => heads.advance_at(key, place, head),
                // Of a batch that was refused.
                None if head.sequence.0 == 0 => {}
                None => heads.advance(key, head),
            }
        }
        // Without it nothing was published.
        let Some(dedup) = dedup else { return };
        if !self.published.is_empty() {
            let entry = |(hash, position)| DedupEntry { hash, position, time_ms };
            dedup.insert_all(self.published.drain(..).map(entry));
        }
        dedup.expire(time_ms);
    }
}

impl Moved {
    /// A key as the tables have it; none: they do not know it.
    fn of(found: Option<(Head, Place)>) -> Self {
        match found {
            Some((head, place)) => Self { head, place: Some(place) },
            None => {
                let head = Head { sequence: KeySequence(0), position: Position(0) };
                Self { head, place: None }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Key, NewEvent};

    fn batch(id: u64, key: &str, expected: Option<u64>) -> Batch {
        let key = Some(Key::new(key).unwrap());
        let mut commit = Encoded::default();
        commit.event(&NewEvent { kind: "thing.seen".into(), key, ..NewEvent::default() }).unwrap();
        commit.finish().unwrap();
        let item = Item {
            index: 0,
            id: IdHash(id),
            is_suspect: false,
            others: Vec::new(),
            expected: expected.map(KeySequence),
            sequence: KeySequence(0),
        };
        Batch { commit, items: Each::from_elem(item, 1) }
    }

    #[test]
    fn a_key_that_was_only_looked_up_stays_unknown() {
        let (dedup, heads, mut group) = (Dedup::new(10, 10), Heads::new(), Group::default());
        let mut batches = [batch(1, "a", Some(3)), batch(2, "b", None), batch(3, "b", Some(1))];
        group.begin(1);
        group.meet(&heads, batches.iter().map(|batch| &batch.commit));
        let [refused, first, second] =
            batches.each_mut().map(|batch| group.ingest(Some(&dedup), &heads, batch));
        assert!(matches!(refused, Verdict::Refused(_)), "{refused:?}");
        assert_eq!([first, second], [1, 2].map(|at| Verdict::Taken(Position(at))));
        assert_eq!(batches[2].items[0].sequence, KeySequence(2), "the group moved the key on");
        group.settle(Some(&dedup), &heads, 0);
        assert_eq!(heads.get(KeyHash::of("a")), None);
        let head = Head { sequence: KeySequence(2), position: Position(2) };
        assert_eq!((heads.get(KeyHash::of("b")), heads.len()), (Some(head), 1));
    }
}
