//! Keyed state: bytes by name, of one plugin and key.
//!
//! Each key has one entry with two layers. The *durable* layer is what the log says up to the
//! applied commit, and is all that queries and people see. The *pending* layer holds the writes of
//! deliveries whose commit is on its way to the disk: only the key's own next delivery reads it, so
//! that a busy key does not wait for a sync between two events.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use hashbrown::{Equivalent, HashMap};

use crate::effects::StateWrite;
use crate::event::{Generation, InstanceId, Key, Position};

/// Whose state it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The plugin.
    pub instance: InstanceId,
    /// Its generation.
    pub generation: Generation,
    /// The key.
    pub key: Key,
}

/// An [`Owner`] whose key is only borrowed.
#[derive(Hash)]
struct OwnerRef<'a> {
    instance: InstanceId,
    generation: Generation,
    key: &'a str,
}

impl Equivalent<Owner> for OwnerRef<'_> {
    fn equivalent(&self, owner: &Owner) -> bool {
        self.instance == owner.instance
            && self.generation == owner.generation
            && self.key == owner.key.as_str()
    }
}

/// One value with its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// The bytes.
    pub bytes: Bytes,
    /// Log time at which it is gone; none: it stays.
    pub expires_ms: Option<u64>,
}

impl Value {
    fn lives_at(&self, now_ms: u64) -> bool {
        self.expires_ms.is_none_or(|end| now_ms < end)
    }
}

#[derive(Debug, Default)]
struct Layers {
    /// Ascending by name.
    durable: Vec<(Arc<str>, Value)>,
    /// Oldest first; each with the position of the delivery that wrote it.
    pending: VecDeque<(Position, Arc<[StateWrite]>)>,
}

/// All keyed state of one bus.
#[derive(Debug)]
pub struct Values {
    shards: Vec<Mutex<Shard>>,
    hasher: hashbrown::DefaultHashBuilder,
}

#[derive(Debug, Default)]
struct Shard {
    entries: HashMap<Owner, Arc<Mutex<Layers>>>,
}

/// The state of one key as its deliveries see it, pending writes included.
#[derive(Debug, Clone)]
pub struct KeyView {
    values: Arc<Values>,
    owner: Owner,
    /// None: the key had no state when the view was made.
    layers: Option<Arc<Mutex<Layers>>>,
    now_ms: u64,
}

const SHARDS: usize = 64;

impl Default for Values {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: hashbrown::DefaultHashBuilder::default(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing under these locks can be left half-done by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Values {
    /// The state of a key as its next delivery sees it, at log time `now_ms`.
    #[must_use]
    pub fn view(self: &Arc<Self>, owner: Owner, now_ms: u64) -> KeyView {
        let layers = self.shard(&owner.as_ref()).entries.get(&owner).map(Arc::clone);
        KeyView { values: Arc::clone(self), owner, layers, now_ms }
    }

    /// Takes the writes of a commit: durable from now on. The pending layer of the same delivery
    /// is dropped.
    pub fn apply(
        &self,
        (instance, generation, key): (InstanceId, Generation, &str),
        position: Position,
        writes: impl IntoIterator<Item = StateWrite>,
    ) {
        let owner = OwnerRef { instance, generation, key };
        let mut shard = self.shard(&owner);
        if !shard.entries.contains_key(&owner) {
            let Ok(key) = Key::new(key) else { return };
            shard.entries.insert(Owner { instance, generation, key }, Arc::default());
        }
        let Some(entry) = shard.entries.get(&owner).map(Arc::clone) else { return };
        let mut layers = lock(&entry);
        for write in writes {
            layers.write(write);
        }
        if layers.pending.front().is_some_and(|(writer, _)| *writer == position) {
            layers.pending.pop_front();
        }
        if layers.durable.is_empty() && layers.pending.is_empty() {
            shard.entries.remove(&owner);
        }
    }

    /// A durable value, as people and queries see it.
    #[must_use]
    pub fn get(&self, owner: &Owner, name: &str, now_ms: u64) -> Option<Bytes> {
        let layers = Arc::clone(self.shard(&owner.as_ref()).entries.get(owner)?);
        let layers = lock(&layers);
        layers.durable(name).filter(|value| value.lives_at(now_ms)).map(|value| value.bytes.clone())
    }

    /// All durable values of a key, ascending by name.
    #[must_use]
    pub fn all(&self, owner: &Owner, now_ms: u64) -> Vec<(Arc<str>, Value)> {
        let Some(layers) = self.shard(&owner.as_ref()).entries.get(owner).map(Arc::clone) else {
            return Vec::new();
        };
        let layers = lock(&layers);
        layers.durable.iter().filter(|(_, value)| value.lives_at(now_ms)).cloned().collect()
    }

    /// Drops everything of a plugin.
    pub fn forget(&self, instance: InstanceId) {
        for shard in &self.shards {
            lock(shard).entries.retain(|owner, _| owner.instance != instance);
        }
    }

    fn shard(&self, owner: &OwnerRef<'_>) -> std::sync::MutexGuard<'_, Shard> {
        use std::hash::BuildHasher;
        let hash = self.hasher.hash_one(owner);
        let index = usize::try_from(hash >> 32).unwrap_or(0) % self.shards.len();
        #[allow(clippy::indexing_slicing, reason = "the index was reduced to the length")]
        lock(&self.shards[index])
    }
}

impl Owner {
    fn as_ref(&self) -> OwnerRef<'_> {
        OwnerRef { instance: self.instance, generation: self.generation, key: self.key.as_str() }
    }
}

impl Layers {
    fn durable(&self, name: &str) -> Option<&Value> {
        let found = self.durable.binary_search_by(|(n, _)| (**n).cmp(name)).ok()?;
        self.durable.get(found).map(|(_, value)| value)
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
    fn pending(&self, name: &str) -> Option<&StateWrite> {
        self.pending
            .iter()
            .rev()
            .find_map(|(_, writes)| writes.iter().rev().find(|write| &*write.name == name))
    }
}

impl KeyView {
    /// The value of a name, pending writes included.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Bytes> {
        let layers = lock(self.layers.as_ref()?);
        if let Some(write) = layers.pending(name) {
            let lives = write.expires_ms.is_none_or(|end| self.now_ms < end);
            return write.value.clone().filter(|_| lives);
        }
        layers
            .durable(name)
            .filter(|value| value.lives_at(self.now_ms))
            .map(|value| value.bytes.clone())
    }

    /// Names with `prefix`, ascending, after `after`, at most `limit`; pending writes included.
    #[must_use]
    pub fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
        let Some(layers) = &self.layers else { return Vec::new() };
        let layers = lock(layers);
        let mut names: std::collections::BTreeSet<&str> = layers
            .durable
            .iter()
            .filter(|(_, value)| value.lives_at(self.now_ms))
            .map(|(name, _)| &**name)
            .collect();
        for write in layers.pending.iter().flat_map(|(_, writes)| writes.iter()) {
            if write.value.is_some() && write.expires_ms.is_none_or(|end| self.now_ms < end) {
                names.insert(&write.name);
            } else {
                names.remove(&*write.name);
            }
        }
        names
            .into_iter()
            .filter(|name| name.starts_with(prefix) && after.is_none_or(|after| *name > after))
            .take(limit)
            .map(str::to_owned)
            .collect()
    }

    /// Puts the writes of a delivery into the pending layer, until [`Values::apply`] takes them.
    pub fn push_pending(self, position: Position, writes: Arc<[StateWrite]>) {
        if writes.is_empty() {
            return;
        }
        // Through the shard, not through `layers`: an entry that became empty since is no longer
        // the one that the next delivery finds.
        let mut shard = self.values.shard(&self.owner.as_ref());
        let entry = Arc::clone(shard.entries.entry(self.owner).or_default());
        lock(&entry).pending.push_back((position, writes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(key: &str) -> Owner {
        Owner { instance: InstanceId(1), generation: Generation(0), key: Key::new(key).unwrap() }
    }

    fn set(name: &str, value: &str) -> StateWrite {
        let value = Some(Bytes::copy_from_slice(value.as_bytes()));
        StateWrite { name: name.into(), value, expires_ms: None }
    }

    fn apply(values: &Values, key: &str, position: u64, writes: &[StateWrite]) {
        let owner = (InstanceId(1), Generation(0), key);
        values.apply(owner, Position(position), writes.iter().cloned());
    }

    #[test]
    fn pending_writes_are_seen_by_the_next_delivery_alone() {
        let values = Arc::new(Values::default());
        values.view(owner("k"), 0).push_pending(Position(1), [set("n", "1")].into());
        assert_eq!(values.view(owner("k"), 0).get("n").as_deref(), Some(&b"1"[..]));
        assert_eq!(values.view(owner("k"), 0).list("", None, 10), ["n"]);
        assert_eq!(values.get(&owner("k"), "n", 0), None);
        apply(&values, "k", 1, &[set("n", "1")]);
        assert_eq!(values.get(&owner("k"), "n", 0).as_deref(), Some(&b"1"[..]));
    }

    #[test]
    fn applying_an_older_commit_leaves_newer_pending_writes_in_front() {
        let values = Arc::new(Values::default());
        values.view(owner("k"), 0).push_pending(Position(1), [set("n", "1")].into());
        values.view(owner("k"), 0).push_pending(Position(2), [set("n", "2")].into());
        apply(&values, "k", 1, &[set("n", "1")]);
        assert_eq!(values.view(owner("k"), 0).get("n").as_deref(), Some(&b"2"[..]));
        assert_eq!(values.get(&owner("k"), "n", 0).as_deref(), Some(&b"1"[..]));
    }

    #[test]
    fn a_key_without_values_costs_nothing() {
        let values = Arc::new(Values::default());
        let _ = values.view(owner("seen"), 0).get("n");
        apply(&values, "k", 1, &[set("n", "1")]);
        apply(&values, "k", 2, &[StateWrite { name: "n".into(), value: None, expires_ms: None }]);
        let entries: usize = values.shards.iter().map(|shard| lock(shard).entries.len()).sum();
        assert_eq!(entries, 0);
    }

    #[test]
    fn a_view_made_before_its_entry_went_away_still_writes_where_the_next_one_reads() {
        let values = Arc::new(Values::default());
        apply(&values, "k", 1, &[set("n", "1")]);
        let view = values.view(owner("k"), 0);
        apply(&values, "k", 2, &[StateWrite { name: "n".into(), value: None, expires_ms: None }]);
        view.push_pending(Position(3), [set("n", "3")].into());
        assert_eq!(values.view(owner("k"), 0).get("n").as_deref(), Some(&b"3"[..]));
    }

    #[test]
    fn a_value_is_gone_at_its_end() {
        let values = Arc::new(Values::default());
        let mut write = set("n", "1");
        write.expires_ms = Some(100);
        apply(&values, "k", 1, &[write]);
        assert!(values.get(&owner("k"), "n", 99).is_some());
        assert!(values.get(&owner("k"), "n", 100).is_none());
        assert!(values.view(owner("k"), 100).list("", None, 10).is_empty());
    }
}
