//! One key with its state, and how it is found.

use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::account::{Measure, Usage, Whose};
use super::cold::KeyValues;
use super::pending::{Pending, PendingWrites, Writes};
use super::values::{Owner, OwnerRef, Value, lock};
use crate::effects::StateWrite;
use crate::event::{Generation, InstanceId, Key, Position};

/// What a value costs beside its name and bytes, about: measured, of keys with one to three values of 8
/// and of 100 bytes.
const VALUE_OVERHEAD_BYTES: usize = 65;

/// Values that come or go one by one: each moves all that stand behind it.
const MOVES_MAX: usize = 4;

/// One key. All of it stands in one place, so that who finds the key has found its state: with the two
/// counts of its [`Arc`], in the order in which it is read, three lines of a cache where it has one value
/// and one write on its way to the disk.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Entry {
    key: Key,
    instance: InstanceId,
    generation: Generation,
    /// Whether it was used since the last sweep. Changed by who holds its shard.
    touched: AtomicBool,
    layers: Mutex<Layers>,
}

/// An [`Entry`] in a table, where it is found by its owner.
#[derive(Debug)]
pub(super) struct ByOwner(pub(super) Arc<Entry>);

impl Entry {
    pub(super) fn new(owner: Owner, layers: Layers) -> Self {
        let Owner { instance, generation, key } = owner;
        let (touched, layers) = (AtomicBool::new(true), Mutex::new(layers));
        Self { key, instance, generation, touched, layers }
    }

    pub(super) fn owner(&self) -> OwnerRef<'_> {
        let Self { ref key, instance, generation, .. } = *self;
        OwnerRef { instance, generation, key: key.as_str(), hash: key.hash128() }
    }

    pub(super) const fn whose(&self) -> Whose {
        (self.instance, self.generation)
    }

    pub(super) const fn key(&self) -> &Key {
        &self.key
    }

    pub(super) fn to_owner(&self) -> Owner {
        Owner { instance: self.instance, generation: self.generation, key: self.key.clone() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Layers> {
        lock(&self.layers)
    }

    /// Notes that it is used.
    pub(super) fn touch(&self) {
        self.touched.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_touched(&self) -> bool {
        self.touched.load(Ordering::Relaxed)
    }

    /// Takes the mark away; says whether there was one.
    pub(super) fn untouch(&self) -> bool {
        self.touched.swap(false, Ordering::Relaxed)
    }
}

impl Hash for ByOwner {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.owner().hash(state);
    }
}

impl PartialEq for ByOwner {
    fn eq(&self, other: &Self) -> bool {
        self.0.whose() == other.0.whose() && self.0.key == other.0.key
    }
}

impl Eq for ByOwner {}

/// What a key has: its durable layer and its pending one.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Layers {
    /// Ascending by name.
    pub(super) durable: KeyValues,
    /// Whether the cold store has the durable layer too: it was asked for during a walk.
    pub(super) copied: bool,
    /// Whether it stands in no table any more: who has it in hand from before looks for another.
    pub(super) gone: bool,
    /// Whether there are pending writes. It is asked for more often than there are, and who asks has
    /// this line of the cache at hand, while the next one is with whoever applied the last of them.
    has_pending: bool,
    pending: PendingWrites,
}

impl Layers {
    /// What is durable of a key, and nothing pending.
    pub(super) fn of(durable: KeyValues) -> Self {
        Self { durable, ..Self::default() }
    }

    /// Whether all there is of it is what the cold store can take, and does not have.
    pub(super) fn is_movable(&self) -> bool {
        !self.copied && !self.has_pending
    }

    pub(super) fn weight(&self) -> usize {
        weight(Measure::of(&self.durable))
    }

    pub(super) fn durable(&self, name: &str) -> Option<&Value> {
        let found = self.durable.binary_search_by(|(n, _)| (**n).cmp(name)).ok()?;
        self.durable.get(found).map(|(_, value)| value)
    }

    /// Takes what a delivery wrote.
    pub(super) fn push(&mut self, pending: Pending) {
        self.pending.push(pending);
        self.has_pending = true;
    }

    /// Takes the pending writes of a delivery away, with what they claimed.
    pub(super) fn settle(&mut self, position: Position) -> (Writes, Usage) {
        if !self.has_pending {
            return Default::default();
        }
        let settled = self.pending.settle(position).unwrap_or_default();
        self.has_pending = !self.pending.is_empty();
        settled
    }

    /// Whether nothing is left of the key.
    pub(super) fn is_empty(&self) -> bool {
        self.durable.is_empty() && !self.has_pending
    }

    /// Takes the writes of a commit, in their order.
    pub(super) fn write_all(&mut self, writes: impl ExactSizeIterator<Item = StateWrite>) {
        if writes.len() <= MOVES_MAX {
            return writes.for_each(|write| self.write(write));
        }
        let mut last: Vec<StateWrite> = writes.collect();
        // Of several of one name the last one counts.
        last.reverse();
        last.sort_by(|a, b| a.name.cmp(&b.name));
        last.dedup_by(|later, kept| later.name == kept.name);
        let moves =
            |write: &mut StateWrite| self.durable(&write.name).is_some() != write.value.is_some();
        let moving: Vec<_> = last.extract_if(.., moves).collect();
        last.into_iter().for_each(|write| self.write(write));
        if moving.len() <= MOVES_MAX {
            return moving.into_iter().for_each(|write| self.write(write));
        }
        self.merge(moving);
    }

    /// Takes many writes, ascending by name, in one pass: each alone would move all values behind it.
    fn merge(&mut self, writes: Vec<StateWrite>) {
        let mut merged = KeyValues::with_capacity(self.durable.len() + writes.len());
        let mut before = std::mem::take(&mut self.durable).into_iter().peekable();
        for StateWrite { name, value, expires_ms } in writes {
            while let Some(other) = before.next_if(|(other, _)| *other < name) {
                merged.push(other);
            }
            before.next_if(|(old, _)| *old == name);
            merged.extend(value.map(|bytes| (name, Value { bytes, expires_ms })));
        }
        merged.extend(before);
        self.durable = merged;
    }

    fn write(&mut self, write: StateWrite) {
        let found = self.durable.binary_search_by(|(n, _)| (**n).cmp(&write.name));
        match (found, write.value) {
            (Ok(at), Some(bytes)) => {
                if let Some((_, value)) = self.durable.get_mut(at) {
                    *value = Value { bytes, expires_ms: write.expires_ms };
                }
            }
            (Ok(at), None) => {
                self.durable.remove(at);
            }
            (Err(at), Some(bytes)) => {
                let value = Value { bytes, expires_ms: write.expires_ms };
                self.durable.insert(at, (write.name, value));
            }
            (Err(_), None) => {}
        }
    }

    /// The newest pending write of a name, if any.
    pub(super) fn pending(&self, name: &str) -> Option<&StateWrite> {
        if self.has_pending { self.pending.newest(name) } else { None }
    }

    /// All pending writes, oldest first.
    pub(super) fn writes(&self) -> impl Iterator<Item = &StateWrite> {
        self.pending.writes()
    }
}

/// Bytes of memory that values take.
pub(super) const fn weight(measure: Measure) -> usize {
    measure.bytes + measure.values * VALUE_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_takes_three_lines_of_a_cache() {
        let counts = size_of::<[usize; 2]>();
        assert!(counts + size_of::<Entry>() <= 3 * 64, "{}", size_of::<Entry>());
    }

    fn write(name: String, value: Option<u32>) -> StateWrite {
        let value = value.map(|value| value.to_le_bytes()[..].into());
        StateWrite { name: name.into(), value, expires_ms: None }
    }

    proptest! {
        #[test]
        fn writes_together_are_writes_one_by_one(
            commits in vec(vec((0_u8..40, option::of(any::<u32>())), 0..30), 0..6),
        ) {
            let (mut together, mut one_by_one) = (Layers::default(), Layers::default());
            for commit in commits {
                let writes = commit.iter().map(|(name, value)| write(format!("n{name}"), *value));
                writes.clone().for_each(|write| one_by_one.write(write));
                together.write_all(writes);
                prop_assert_eq!(&together.durable, &one_by_one.durable);
            }
        }
    }

    /// 200,000 names, the last one first: each once moved all before it, which took minutes.
    #[test]
    fn many_names_of_a_key_are_taken_in_one_pass() {
        let mut layers = Layers::default();
        let names: Vec<u32> = (0..200_000).rev().collect();
        for commit in names.chunks(10_000) {
            let writes = commit.iter().map(|name| write(format!("{name:06}"), Some(*name)));
            let before = layers.durable.len();
            layers.write_all(writes);
            assert_eq!(layers.durable.len(), before + commit.len());
        }
        assert!(layers.durable.is_sorted_by(|(a, _), (b, _)| a < b));
    }
}
