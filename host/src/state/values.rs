//! Keyed state: bytes by name, of one plugin and key.
//!
//! Each key has one entry with two layers. The *durable* layer is what the log says up to the
//! applied commit, and is all that queries and people see. The *pending* layer holds the writes of
//! deliveries whose commit is on its way to the disk: only the key's own next delivery reads it, so
//! that a busy key does not wait for a sync between two events.
//!
//! A key is either in memory or in the cold store. Keys that were not touched for a round of the
//! sweep move out when memory is over its bound (`evict.rs`), and move in when they are asked for.
//! During a walk over all keys those asked for are in both, and memory counts.

use std::hash::{Hash, Hasher};
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ecow::EcoBytes;
use hashbrown::{Equivalent, HashSet};

use super::account::{Accounts, Measure, Usage, Whose};
use super::cold::{Cold, ColdError, KeyValues};
use super::entry::{ByOwner, Entry, Layers, weight};
use super::evict::Budget;
use super::gate::Shards;
use super::timers::Timers;
use crate::effects::StateWrite;
use crate::event::{Generation, InstanceId, Key, KeyHash, Position};
use crate::log::codec::StateRef;

/// Whose state it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The plugin.
    pub instance: InstanceId,
    /// Its generation.
    pub generation: Generation,
    /// The key.
    pub key: Key,
}

/// An [`Owner`] whose key is only borrowed. It is looked up by the hash of the key, as in the log:
/// the text of a key that was not used for a while is far away.
#[derive(Clone, Copy)]
pub(super) struct OwnerRef<'a> {
    pub(super) instance: InstanceId,
    pub(super) generation: Generation,
    pub(super) key: &'a str,
    pub(super) hash: KeyHash,
}

impl Hash for OwnerRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(u64::from(self.instance.0) << 32 | u64::from(self.generation.0));
        state.write_u128(self.hash.0);
    }
}

impl Equivalent<ByOwner> for OwnerRef<'_> {
    fn equivalent(&self, ByOwner(entry): &ByOwner) -> bool {
        (self.instance, self.generation) == entry.whose() && self.hash == entry.key().hash128()
    }
}

/// One value with its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// The bytes.
    pub bytes: EcoBytes,
    /// Log time at which it is gone; none: it stays.
    pub expires_ms: Option<NonZeroU64>,
}

impl Value {
    /// Whether its end has not come at log time `now_ms`.
    #[must_use]
    pub fn lives_at(&self, now_ms: u64) -> bool {
        self.expires_ms.is_none_or(|end| now_ms < end.get())
    }
}

/// All keyed state of one bus.
#[derive(Debug)]
pub struct Values {
    pub(super) shards: Shards,
    pub(super) cold: Option<Cold>,
    /// Held by who moves keys out, and by who walks over all of them.
    pub(super) sweep: Mutex<()>,
    /// Whether someone walks over all keys: those asked for meanwhile stay in the cold store, too.
    pub(super) walking: AtomicBool,
    /// Keys that were copied out of the cold store during the walk.
    pub(super) copied: Mutex<Vec<Owner>>,
    pub(super) budget: Budget,
    /// What each plugin has.
    pub(super) accounts: Accounts,
    pub(super) next_sweep: AtomicUsize,
    timers: Timers,
}

#[derive(Debug, Default)]
pub(super) struct Shard {
    pub(super) entries: HashSet<ByOwner>,
}

pub(super) const SHARDS: usize = 64;
/// What a key costs in memory beside its values, about: measured, of keys of 36 bytes.
pub(super) const KEY_OVERHEAD_BYTES: usize = 235;

impl Default for Values {
    fn default() -> Self {
        Self::new(None, u64::MAX)
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing under these locks can be left half-done by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Values {
    /// No state yet. Above `hot_bytes_max`, an [`super::Evictor`] moves keys to `cold`.
    #[must_use]
    pub fn new(cold: Option<Cold>, hot_bytes_max: u64) -> Self {
        let budget = Budget::new(if cold.is_some() { hot_bytes_max } else { u64::MAX });
        Self {
            shards: Shards::new(),
            cold,
            sweep: Mutex::default(),
            walking: AtomicBool::new(false),
            copied: Mutex::default(),
            budget,
            accounts: Accounts::default(),
            next_sweep: AtomicUsize::new(0),
            timers: Timers::default(),
        }
    }

    /// Pending timers: the other thing that hangs on a key.
    #[must_use]
    pub fn timers(&self) -> &Timers {
        &self.timers
    }

    /// The entry of a key, moved in from the cold store where it is there.
    pub(super) fn warm(
        &self,
        shard: &mut Shard,
        owner: OwnerRef<'_>,
    ) -> Result<Option<Arc<Entry>>, ColdError> {
        if let Some(ByOwner(entry)) = shard.entries.get(&owner) {
            entry.touch();
            return Ok(Some(Arc::clone(entry)));
        }
        self.move_in(shard, owner)
    }

    /// The entry of a key that is not in memory, if the cold store has it.
    fn move_in(
        &self,
        shard: &mut Shard,
        owner: OwnerRef<'_>,
    ) -> Result<Option<Arc<Entry>>, ColdError> {
        let Some(cold) = &self.cold else { return Ok(None) };
        // A walk sees all of memory before the cold store: a key that changed places meanwhile
        // would be missed. So it stays there, until the walk is over.
        let copied = self.walking.load(Ordering::Acquire);
        let durable = if copied {
            cold.get(owner.instance, owner.generation, owner.key)?
        } else {
            cold.take(owner.instance, owner.generation, owner.key)?
        };
        let Some(durable) = durable else { return Ok(None) };
        let entry = self.insert(shard, owner, durable);
        if let (true, Some(entry), Ok(key)) = (copied, &entry, Key::hashed(owner.key, owner.hash)) {
            entry.lock().copied = true;
            let OwnerRef { instance, generation, .. } = owner;
            lock(&self.copied).push(Owner { instance, generation, key });
        }
        Ok(entry)
    }

    /// Makes a key that is in both places be in memory alone.
    pub(super) fn drop_copy(&self, owner: &Owner) -> Result<(), ColdError> {
        let owner = owner.as_ref();
        let shard = self.shards.of(owner)?;
        let found = shard.entries.get(&owner);
        found.map_or(Ok(()), |ByOwner(entry)| self.own(owner, &mut entry.lock()))
    }

    fn own(&self, owner: OwnerRef<'_>, layers: &mut Layers) -> Result<(), ColdError> {
        if let (true, Some(cold)) = (layers.copied, &self.cold) {
            cold.take(owner.instance, owner.generation, owner.key)?;
            layers.copied = false;
        }
        Ok(())
    }

    pub(super) fn insert(
        &self,
        shard: &mut Shard,
        owner: OwnerRef<'_>,
        durable: KeyValues,
    ) -> Option<Arc<Entry>> {
        let key = Key::hashed(owner.key, owner.hash).ok()?;
        let OwnerRef { instance, generation, .. } = owner;
        Some(self.put_in(shard, Owner { instance, generation, key }, durable))
    }

    /// Puts a key into its shard.
    pub(super) fn put_in(&self, shard: &mut Shard, owner: Owner, durable: KeyValues) -> Arc<Entry> {
        let layers = Layers::of(durable);
        self.budget.grow(layers.weight() + KEY_OVERHEAD_BYTES);
        let entry = Arc::new(Entry::new(owner, layers));
        if let Some(ByOwner(old)) = shard.entries.replace(ByOwner(Arc::clone(&entry))) {
            self.leaves(&mut old.lock());
        }
        entry
    }

    /// Takes the writes of a commit: durable from now on. The pending layer of the same delivery
    /// is dropped. A key that is not one is passed over.
    ///
    /// # Errors
    /// The cold store cannot be read.
    pub fn apply(
        &self,
        (instance, generation, key): (InstanceId, Generation, &str),
        position: Position,
        writes: impl IntoIterator<Item = StateWrite>,
    ) -> Result<(), ColdError> {
        let writes: Vec<_> = writes.into_iter().collect();
        let hash = KeyHash::of(key);
        self.change(OwnerRef { instance, generation, key, hash }, |layers| {
            layers.write_all(writes.into_iter());
            layers.settle(position).1
        })
    }

    /// As [`Values::apply`], of a key with its hash and writes as they stand in the log. What the pending layer has of them
    /// byte for byte is taken over from there, not copied.
    ///
    /// # Errors
    /// The cold store cannot be read.
    pub fn apply_logged(
        &self,
        (instance, generation): (InstanceId, Generation),
        (key, hash): (&str, KeyHash),
        (position, writes): (Position, &[StateRef<'_>]),
    ) -> Result<(), ColdError> {
        self.change(OwnerRef { instance, generation, key, hash }, |layers| {
            let (pending, claimed) = layers.settle(position);
            if writes.iter().copied().eq(pending.iter().map(StateRef::of)) {
                layers.write_all(pending.into_iter());
            } else {
                layers.write_all(writes.iter().map(StateRef::to_owned));
            }
            claimed
        })
    }

    /// Changes the durable layer of a key. `act` says what was claimed for that.
    pub(super) fn change(
        &self,
        owner: OwnerRef<'_>,
        act: impl FnOnce(&mut Layers) -> Usage,
    ) -> Result<(), ColdError> {
        let mut shard = self.shards.of(owner)?;
        // Most keys are there, and need not be counted for as long as their shard is held.
        let is_gone = if let Some(ByOwner(entry)) = shard.entries.get(&owner) {
            entry.touch();
            self.change_entry(owner, entry, act)?
        } else {
            let known = self.move_in(&mut shard, owner)?;
            let made = known.or_else(|| self.insert(&mut shard, owner, KeyValues::new()));
            let Some(entry) = made else { return Ok(()) };
            self.change_entry(owner, &entry, act)?
        };
        if is_gone {
            shard.entries.remove(&owner);
        }
        Ok(())
    }

    /// Says whether nothing is left of it, so that it leaves its table.
    fn change_entry(
        &self,
        owner: OwnerRef<'_>,
        entry: &Entry,
        act: impl FnOnce(&mut Layers) -> Usage,
    ) -> Result<bool, ColdError> {
        let mut layers = entry.lock();
        self.own(owner, &mut layers)?;
        let before = Measure::of(&layers.durable);
        let claimed = act(&mut layers);
        let after = Measure::of(&layers.durable);
        if weight(after) >= weight(before) {
            self.budget.grow(weight(after) - weight(before));
        } else {
            self.budget.shrink(weight(before) - weight(after));
        }
        if before != after || claimed != Usage::default() {
            self.accounts.change(entry.whose(), entry.key(), (before, after), claimed);
        }
        let is_gone = layers.is_empty();
        if is_gone {
            self.leaves(&mut layers);
        }
        Ok(is_gone)
    }

    /// A durable value, as people and queries see it.
    ///
    /// # Errors
    /// The cold store cannot be read.
    pub fn get(&self, owner: &Owner, name: &str, now_ms: u64) -> Result<Option<Value>, ColdError> {
        let mut all = self.all(owner, now_ms)?;
        let found = all.iter().position(|(n, _)| &**n == name);
        Ok(found.map(|at| all.swap_remove(at).1))
    }

    /// All durable values of a key, ascending by name.
    ///
    /// # Errors
    /// The cold store cannot be read.
    pub fn all(&self, owner: &Owner, now_ms: u64) -> Result<KeyValues, ColdError> {
        // The shard stays locked: else the key could move between the two looks.
        let shard = self.shards.of(owner.as_ref())?;
        let mut values = match (shard.entries.get(&owner.as_ref()), &self.cold) {
            (Some(ByOwner(entry)), _) => entry.lock().durable.clone(),
            (None, Some(cold)) => {
                cold.get(owner.instance, owner.generation, owner.key.as_str())?.unwrap_or_default()
            }
            (None, None) => KeyValues::new(),
        };
        values.retain(|(_, value)| value.lives_at(now_ms));
        Ok(values)
    }

    /// Drops everything of a plugin.
    ///
    /// # Errors
    /// The cold store cannot be read.
    pub fn forget(&self, instance: InstanceId) -> Result<(), ColdError> {
        self.timers.forget(instance);
        self.drop_where(|(of, _)| of == instance)?;
        self.accounts.retain(|other, _| other != instance);
        self.cold.as_ref().map_or(Ok(()), |cold| cold.forget(instance))
    }

    /// Drops what a plugin has of every generation but one.
    ///
    /// # Errors
    /// The cold store cannot be read.
    pub fn keep_only(&self, instance: InstanceId, generation: Generation) -> Result<(), ColdError> {
        self.drop_where(|(of, other)| of == instance && other != generation)?;
        self.accounts.retain(|other, of| other != instance || of == generation);
        self.cold.as_ref().map_or(Ok(()), |cold| cold.keep_only(instance, generation))
    }

    fn drop_where(&self, goes: impl Fn(Whose) -> bool) -> Result<(), ColdError> {
        for shard in self.shards.all()? {
            lock(shard).entries.retain(|ByOwner(entry)| {
                let keep = !goes(entry.whose());
                if !keep {
                    self.leaves(&mut entry.lock());
                }
                keep
            });
        }
        Ok(())
    }

    /// Notes that an entry goes out of its table.
    pub(super) fn leaves(&self, layers: &mut Layers) {
        layers.gone = true;
        self.budget.shrink(layers.weight() + KEY_OVERHEAD_BYTES);
    }
}

impl Owner {
    pub(super) fn as_ref(&self) -> OwnerRef<'_> {
        let Self { instance, generation, key } = self;
        let (instance, generation) = (*instance, *generation);
        OwnerRef { instance, generation, key: key.as_str(), hash: key.hash128() }
    }
}

#[cfg(test)]
mod tests;
