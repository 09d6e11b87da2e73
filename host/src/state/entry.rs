//! One key with its state, and how it is found.

use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::account::{Measure, Usage};
use super::cold::KeyValues;
use super::pending::PendingWrites;
use super::values::{Owner, Value, lock};
use crate::effects::StateWrite;
use crate::event::Position;

/// What a value costs beside its name and bytes, about: measured, once it was read, of keys with one to
/// three values.
const VALUE_OVERHEAD_BYTES: usize = 165;

/// One key. All of it stands in one place, so that who finds the key has found its state.
#[derive(Debug)]
pub(super) struct Entry {
    owner: Owner,
    layers: Mutex<Layers>,
    /// Whether it was used since the last sweep. Changed by who holds its shard.
    touched: AtomicBool,
}

/// An [`Entry`] in a table, where it is found by its owner.
#[derive(Debug)]
pub(super) struct ByOwner(pub(super) Arc<Entry>);

impl Entry {
    pub(super) const fn new(owner: Owner, layers: Layers) -> Self {
        Self { owner, layers: Mutex::new(layers), touched: AtomicBool::new(true) }
    }

    pub(super) const fn owner(&self) -> &Owner {
        &self.owner
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
        self.0.owner.as_ref().hash(state);
    }
}

impl PartialEq for ByOwner {
    fn eq(&self, other: &Self) -> bool {
        self.0.owner == other.0.owner
    }
}

impl Eq for ByOwner {}

/// What a key has: its durable layer and its pending one.
#[derive(Debug, Default)]
pub(super) struct Layers {
    /// Ascending by name.
    pub(super) durable: KeyValues,
    pub(super) pending: PendingWrites,
    /// Whether the cold store has the durable layer too: it was asked for during a walk.
    pub(super) copied: bool,
}

impl Layers {
    /// Whether all there is of it is what the cold store can take, and does not have.
    pub(super) fn is_movable(&self) -> bool {
        !self.copied && self.pending.is_empty()
    }

    pub(super) fn weight(&self) -> usize {
        weight(Measure::of(&self.durable))
    }

    pub(super) fn durable(&self, name: &str) -> Option<&Value> {
        let found = self.durable.binary_search_by(|(n, _)| (**n).cmp(name)).ok()?;
        self.durable.get(found).map(|(_, value)| value)
    }

    /// Takes the pending writes of a delivery away, with what they claimed.
    pub(super) fn settle(&mut self, position: Position) -> (Vec<StateWrite>, Usage) {
        let settled = self.pending.settle(position);
        settled.map(|settled| (settled.writes, settled.claimed)).unwrap_or_default()
    }

    pub(super) fn write(&mut self, write: StateWrite) {
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
        self.pending.writes().rfind(|write| &*write.name == name)
    }
}

/// Bytes of memory that values take.
pub(super) const fn weight(measure: Measure) -> usize {
    measure.bytes + measure.values * VALUE_OVERHEAD_BYTES
}
