//! The last event of every key: what the next key sequence and an expected sequence are judged by.
//!
//! One writer, any number of readers. Memory: 32 bytes a key and up to an eighth of room to grow,
//! and 5.7 to 11.4 bytes in the tables: 38 to 47 bytes a key.
//!
//! Rule: a head only ever moves forward.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use hashbrown::HashTable;

use crate::event::{KeyHash, KeySequence, Position};

/// Tables with a lock of their own, so that readers rarely meet the writer and growing stays short.
const SHARDS: usize = 64;
/// Keys a shard makes room for at first.
const GROWTH_MIN: usize = 16;

/// The last event of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Its number within the key.
    pub sequence: KeySequence,
    /// Where it is.
    pub position: Position,
}

/// Where a key that is known stands, for good: to move its head without looking for it once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(u32);

/// Key hash -> [`Head`].
#[derive(Debug)]
pub struct Heads {
    shards: Vec<RwLock<Shard>>,
}

/// See [`Heads::glance`].
pub(in crate::log) struct Glance<'a>(Vec<RwLockReadGuard<'a, Shard>>);

/// 32 bytes: as halves, since a `u128` would be aligned to 16.
#[derive(Debug, Clone, Copy)]
struct Slot {
    hash_low: u64,
    hash_high: u64,
    sequence: u64,
    position: u64,
}

#[derive(Debug, Default)]
struct Shard {
    slots: Vec<Slot>,
    table: HashTable<u32>,
}

impl Default for Heads {
    fn default() -> Self {
        Self::new()
    }
}

impl Heads {
    /// No keys yet.
    #[must_use]
    pub fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| RwLock::default()).collect() }
    }

    /// Makes room for so many further keys, so that filling does not grow the tables step by step.
    pub fn reserve(&self, keys: usize) {
        for shard in &self.shards {
            write(shard).reserve(keys / SHARDS + keys / SHARDS / 32);
        }
    }

    /// The head of a key.
    #[must_use]
    pub fn get(&self, key: KeyHash) -> Option<Head> {
        self.find(key).map(|(head, _)| head)
    }

    /// The head of a key, and where it stands.
    #[must_use]
    pub fn find(&self, key: KeyHash) -> Option<(Head, Place)> {
        read(self.shards.get(shard(key))?).find(key)
    }

    /// A look at all keys for whoever asks about many, one right after the other: no lock is between
    /// two of them, so that a processor reads the places of several keys at once. Heads stand still while
    /// it is held.
    pub(in crate::log) fn glance(&self) -> Glance<'_> {
        Glance(self.shards.iter().map(read).collect())
    }

    /// As [`Heads::advance`], of a key that stands at `place`.
    pub fn advance_at(&self, key: KeyHash, Place(index): Place, head: Head) {
        let Some(lock) = self.shards.get(shard(key)) else { return };
        if let Some(slot) = write(lock).slots.get_mut(index as usize) {
            slot.advance(head);
        }
    }

    /// Moves the head of a key to an event; an event at or before the head changes nothing.
    pub fn advance(&self, key: KeyHash, head: Head) {
        if let Some(lock) = self.shards.get(shard(key)) {
            write(lock).advance(key, head);
        }
    }

    /// Moves many heads: fast where they come in the order of key hashes, as an index file has them.
    /// `feed` gets a function that takes one head; it must not ask this table for anything.
    ///
    /// # Errors
    /// What `feed` fails with; what it fed until then is there.
    pub fn refill<E>(
        &self,
        feed: impl FnOnce(&mut dyn FnMut(KeyHash, Head)) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut held: Option<(usize, RwLockWriteGuard<'_, Shard>)> = None;
        feed(&mut |key, head| {
            let number = shard(key);
            if held.as_ref().is_none_or(|(holding, _)| *holding != number) {
                // The lock before is given back first: two are never held.
                held = None;
                held = self.shards.get(number).map(|lock| (number, write(lock)));
            }
            if let Some((_, shard)) = &mut held {
                shard.advance(key, head);
            }
        })
    }

    /// Every key with its head, ascending by the top bits of the hash and otherwise in no order. Takes one shard's lock at a time: what the writer adds
    /// meanwhile may or may not be seen.
    pub fn for_each(&self, mut visit: impl FnMut(KeyHash, Head)) {
        for lock in &self.shards {
            for slot in &read(lock).slots {
                visit(slot.key(), slot.head());
            }
        }
    }

    /// Keys known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|lock| read(lock).slots.len()).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory the keys take.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.shards.iter().map(|lock| read(lock).memory_bytes()).sum()
    }
}

impl Glance<'_> {
    /// As [`Heads::find`].
    pub(in crate::log) fn find(&self, key: KeyHash) -> Option<(Head, Place)> {
        self.0.get(shard(key))?.find(key)
    }
}

impl Shard {
    fn find(&self, key: KeyHash) -> Option<(Head, Place)> {
        let index = self.index(key)?;
        Some((self.slots.get(index as usize)?.head(), Place(index)))
    }

    fn index(&self, key: KeyHash) -> Option<u32> {
        let is_it = |index: &u32| self.slots.get(*index as usize).is_some_and(|s| s.key() == key);
        self.table.find(hash(key), is_it).copied()
    }

    fn advance(&mut self, key: KeyHash, head: Head) {
        if let Some(index) = self.index(key) {
            if let Some(slot) = self.slots.get_mut(index as usize) {
                slot.advance(head);
            }
            return;
        }
        // 2^32 keys a shard are beyond any memory this runs in: such a key would go unknown.
        let Ok(index) = u32::try_from(self.slots.len()) else { return };
        if self.slots.len() == self.slots.capacity() {
            // Doubling would leave up to half of the room empty.
            self.slots.reserve_exact(GROWTH_MIN.max(self.slots.len() / 8));
        }
        self.slots.push(Slot::new(key, head));
        let slots = &self.slots;
        let rehash = |index: &u32| slots.get(*index as usize).map_or(0, |slot| hash(slot.key()));
        self.table.insert_unique(hash(key), index, rehash);
    }

    fn reserve(&mut self, keys: usize) {
        self.slots.reserve_exact(keys);
        let slots = &self.slots;
        let rehash = |index: &u32| slots.get(*index as usize).map_or(0, |slot| hash(slot.key()));
        self.table.reserve(keys, rehash);
    }

    fn memory_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>() + self.table.allocation_size()
    }
}

impl Slot {
    const fn new(key: KeyHash, head: Head) -> Self {
        let (hash_low, hash_high) = halves(key);
        Self { hash_low, hash_high, sequence: head.sequence.0, position: head.position.0 }
    }

    const fn key(&self) -> KeyHash {
        KeyHash(((self.hash_high as u128) << 64) | self.hash_low as u128)
    }

    const fn advance(&mut self, head: Head) {
        if head.position.0 > self.position {
            self.sequence = head.sequence.0;
            self.position = head.position.0;
        }
    }

    const fn head(&self) -> Head {
        Head { sequence: KeySequence(self.sequence), position: Position(self.position) }
    }
}

fn read(lock: &RwLock<Shard>) -> RwLockReadGuard<'_, Shard> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(lock: &RwLock<Shard>) -> RwLockWriteGuard<'_, Shard> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// A key hash is uniform already: its low half serves the tables.
const fn hash(key: KeyHash) -> u64 {
    halves(key).0
}

/// By the top bits, so that keys in the order of hashes stay with one shard for long.
#[allow(clippy::cast_possible_truncation, reason = "a few bits are left")]
const fn shard(key: KeyHash) -> usize {
    (halves(key).1 >> (u64::BITS - SHARDS.ilog2())) as usize
}

#[allow(clippy::cast_possible_truncation, reason = "taking the halves is the purpose")]
const fn halves(key: KeyHash) -> (u64, u64) {
    (key.0 as u64, (key.0 >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn head(sequence: u64, position: u64) -> Head {
        Head { sequence: KeySequence(sequence), position: Position(position) }
    }

    #[test]
    fn a_head_only_moves_forward() {
        let heads = Heads::new();
        let key = KeyHash::of("o-1");
        assert_eq!(heads.get(key), None);
        heads.advance(key, head(2, 20));
        heads.advance(key, head(1, 10));
        assert_eq!(heads.get(key), Some(head(2, 20)));
        heads.advance(key, head(3, 30));
        assert_eq!(heads.get(key), Some(head(3, 30)));
        assert_eq!(heads.len(), 1);
    }

    #[test]
    fn keys_that_share_half_of_their_hash_are_kept_apart() {
        let heads = Heads::new();
        let keys = [5, 5 | (1 << 64), 5 | (1 << 127)].map(KeyHash);
        for (key, n) in keys.iter().zip(1..) {
            heads.advance(*key, head(n, n));
        }
        for (key, n) in keys.iter().zip(1..) {
            assert_eq!(heads.get(*key), Some(head(n, n)));
        }
    }

    #[test]
    fn a_key_takes_at_most_48_bytes() {
        let heads = Heads::new();
        for n in 0..200_000_u64 {
            heads.advance(KeyHash::of(&n.to_string()), head(1, n + 1));
        }
        let bytes = heads.memory_bytes() / heads.len();
        assert!((32..=48).contains(&bytes), "{bytes} bytes a key");
    }

    proptest! {
        #[test]
        fn behaves_like_a_map(
            steps in proptest::collection::vec((0..40_u8, 1..500_u64), 0..300),
            reserved in 0..1000_usize,
        ) {
            let heads = Heads::new();
            heads.reserve(reserved);
            let mut model: HashMap<KeyHash, Head> = HashMap::new();
            for (key, position) in steps {
                let key = KeyHash::of(&key.to_string());
                let new = head(position * 2, position);
                match heads.find(key) {
                    Some((known, place)) => {
                        prop_assert_eq!(model.get(&key), Some(&known));
                        heads.advance_at(key, place, new);
                    }
                    None => heads.advance(key, new),
                }
                // Once more in the other way: nothing moves.
                heads.advance(key, new);
                let known = model.entry(key).or_insert(new);
                if new.position > known.position {
                    *known = new;
                }
                prop_assert_eq!(heads.get(key), model.get(&key).copied());
            }
            let mut all = HashMap::new();
            heads.for_each(|key, head| {
                all.insert(key, head);
            });
            prop_assert_eq!(&all, &model);
            let refilled = Heads::new();
            let fed: Result<(), ()> = refilled.refill(|take| {
                all.iter().for_each(|(key, head)| take(*key, *head));
                Ok(())
            });
            prop_assert_eq!(fed, Ok(()));
            prop_assert!(model.iter().all(|(key, head)| refilled.get(*key) == Some(*head)));
        }
    }
}
