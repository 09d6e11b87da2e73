//! All keyed state at once: for a checkpoint, and out of one.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};

use super::super::cold::{ColdError, KeyValues};
use super::super::entry::ByOwner;
use super::super::values::{Owner, Values, lock};

/// While it is there nothing moves out of the cold store, and nothing into it.
struct Walk<'a> {
    values: &'a Values,
    _no_eviction: MutexGuard<'a, ()>,
}

impl<'a> Walk<'a> {
    fn begin(values: &'a Values) -> Self {
        let no_eviction = lock(&values.sweep);
        values.walking.store(true, Ordering::Release);
        Self { values, _no_eviction: no_eviction }
    }
}

impl Drop for Walk<'_> {
    fn drop(&mut self) {
        self.values.walking.store(false, Ordering::Release);
        for owner in std::mem::take(&mut *lock(&self.values.copied)) {
            if let Err(error) = self.values.drop_copy(&owner) {
                // The entry stays marked as copied, which every later look at it respects.
                tracing::warn!(%error, "a key stays in memory and in the cold store");
                break;
            }
        }
    }
}

impl Values {
    /// Visits every key with its durable values, in no order, each once. Deliveries may go on
    /// meanwhile; what they leave in the pending layer is not seen. No eviction runs, and nothing
    /// may be applied: the caller is the one who applies.
    ///
    /// # Errors
    /// The cold store cannot be read; or what `visit` returned.
    pub(in crate::state) fn each<E: From<ColdError>>(
        &self,
        mut visit: impl FnMut(&Owner, &KeyValues) -> Result<(), E>,
    ) -> Result<(), E> {
        let shards = self.shards.all()?;
        let _walk = Walk::begin(self);
        for shard in shards {
            let in_hand = |ByOwner(entry): &ByOwner| Arc::clone(entry);
            let entries: Vec<_> = lock(shard).entries.iter().map(in_hand).collect();
            for entry in entries {
                let layers = entry.lock();
                if layers.copied || layers.durable.is_empty() {
                    continue;
                }
                let durable = layers.durable.clone();
                drop(layers);
                visit(&entry.to_owner(), &durable)?;
            }
        }
        let Some(cold) = &self.cold else { return Ok(()) };
        cold.each(|owner, values| {
            // In memory and no copy: visited above. A failed eviction can leave such.
            let shard = self.shards.of(owner.as_ref())?;
            let found = shard.entries.get(&owner.as_ref());
            let visited = found.is_some_and(|ByOwner(entry)| !entry.lock().copied);
            drop(shard);
            if visited { Ok(()) } else { visit(&owner, &values) }
        })
    }

    /// Makes room for so many further keys, as far as memory has room for them.
    pub(in crate::state) fn reserve(&self, keys: usize) {
        let shards = self.shards.all_unfilled();
        let share = self.budget.keys_max().min(keys) / shards.len();
        for shard in shards {
            // Keys spread evenly, but for a little.
            lock(shard).entries.reserve(share + share / 32);
        }
    }

    /// Puts in what a checkpoint holds: into memory up to the bound, the rest into the cold store;
    /// into memory too where that fails, or the disk has no room. None of the keys may be there yet.
    pub(in crate::state) fn restore(&self, keys: Vec<(Owner, KeyValues)>) {
        self.accounts.add_ends(&keys);
        let mut rest = Vec::new();
        for (owner, values) in keys {
            if self.is_over() {
                rest.push((owner, values));
            } else {
                self.insert_new(owner, values);
            }
        }
        let Some(cold) = self.cold.as_ref().filter(|_| !rest.is_empty()) else { return };
        if !cold.lacks_room() {
            match cold.put(&rest) {
                Ok(()) => return,
                Err(error) => self.budget.give_up(&error),
            }
        }
        for (owner, values) in rest {
            self.insert_new(owner, values);
        }
    }

    fn insert_new(&self, owner: Owner, durable: KeyValues) {
        let mut shard = self.shards.of_unfilled(owner.as_ref());
        self.put_in(&mut shard, owner, durable);
    }

    /// Forgets everything: as new.
    ///
    /// # Errors
    /// The cold store cannot be emptied.
    pub(in crate::state) fn clear(&self) -> Result<(), ColdError> {
        self.timers().clear();
        for shard in self.shards.all_unfilled() {
            let mut shard = lock(shard);
            for ByOwner(entry) in shard.entries.drain() {
                self.leaves(&mut entry.lock());
            }
        }
        self.accounts.clear();
        self.cold.as_ref().map_or(Ok(()), super::super::cold::Cold::clear)
    }
}
