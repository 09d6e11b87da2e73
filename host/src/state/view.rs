//! The state of one key, as its deliveries see it and write it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::claim::Claim;
use super::cold::{ColdError, KeyValues};
use super::entry::{ByOwner, Entry};
use super::page;
use super::pending::Pending;
use super::values::{Owner, Values};
use crate::effects::StateWrite;
use crate::event::Position;

/// A hold on all keyed state for whoever makes many views: each of them counts on it, and threads that
/// count on the same one hold up each other.
pub type Handle = Arc<Arc<Values>>;

/// The state of one key as its deliveries see it, pending writes included.
#[derive(Debug, Clone)]
pub struct KeyView {
    pub(super) values: Handle,
    pub(super) owner: Owner,
    /// None: the key had no state when the view was made.
    pub(super) entry: Option<Arc<Entry>>,
    pub(super) now_ms: u64,
    /// None: nothing is limited.
    pub(super) claim: Option<Arc<Claim>>,
}

impl Values {
    /// The state of a key as its next delivery sees it, at log time `now_ms`.
    ///
    /// # Errors
    /// The cold store cannot be read.
    pub fn view(self: &Arc<Self>, owner: Owner, now_ms: u64) -> Result<KeyView, ColdError> {
        Self::view_with(&Arc::new(Arc::clone(self)), owner, now_ms)
    }

    /// As [`Values::view`], for who makes many.
    ///
    /// # Errors
    /// The cold store cannot be read.
    pub fn view_with(this: &Handle, owner: Owner, now_ms: u64) -> Result<KeyView, ColdError> {
        let entry = this.warm(&mut *this.shards.of(owner.as_ref())?, owner.as_ref())?;
        Ok(KeyView { values: Arc::clone(this), owner, entry, now_ms, claim: None })
    }
}

impl KeyView {
    /// A copy of the value of a name, pending writes included. One that shared its bytes would have to
    /// be counted, and be copied for the guest all the same.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Vec<u8>> {
        let layers = self.entry.as_ref()?.lock();
        if let Some(write) = layers.pending(name) {
            return write.value_at(self.now_ms).map(|value| value.to_vec());
        }
        layers
            .durable(name)
            .filter(|value| value.lives_at(self.now_ms))
            .map(|value| value.bytes.to_vec())
    }

    /// Names with `prefix`, ascending, after `after`, at most `limit`; pending writes included.
    #[must_use]
    pub fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
        let Some(entry) = &self.entry else { return Vec::new() };
        let layers = entry.lock();
        let mut names: BTreeSet<&str> = layers
            .durable
            .iter()
            .filter(|(_, value)| value.lives_at(self.now_ms))
            .map(|(name, _)| &**name)
            .collect();
        for write in layers.writes() {
            if write.value_at(self.now_ms).is_some() {
                names.insert(&write.name);
            } else {
                names.remove(&*write.name);
            }
        }
        page(names.into_iter(), prefix, after, limit)
    }

    /// All names with copies of their values, ascending, pending writes included; none: they have more than
    /// `bytes_max` bytes. No more than that is copied, however many there are.
    #[must_use]
    pub fn all(&self, bytes_max: usize) -> Option<Vec<(String, Vec<u8>)>> {
        let Some(entry) = &self.entry else { return Some(Vec::new()) };
        let layers = entry.lock();
        // The newest of each name is the last.
        let written: BTreeMap<&str, Option<&[u8]>> = layers
            .writes()
            .map(|write| (&*write.name, write.value_at(self.now_ms).map(|value| &**value)))
            .collect();
        let durable = (layers.durable.iter())
            .filter(|(name, value)| value.lives_at(self.now_ms) && !written.contains_key(&**name))
            .map(|(name, value)| (&**name, &*value.bytes));
        let pending = written.iter().filter_map(|(name, value)| Some((*name, (*value)?)));
        let (mut all, mut bytes) = (Vec::new(), 0_usize);
        for (name, value) in durable.chain(pending) {
            bytes += name.len() + value.len();
            if bytes > bytes_max {
                return None;
            }
            all.push((name.to_owned(), value.to_vec()));
        }
        all.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        Some(all)
    }

    /// Puts the writes of a delivery into the pending layer, until [`Values::apply`] takes them.
    pub fn push_pending(&self, position: Position, writes: Vec<StateWrite>) {
        if writes.is_empty() {
            return;
        }
        let claimed = self.claim.as_ref().map(|claim| claim.take()).unwrap_or_default();
        let pending = Pending { position, writes, claimed };
        if let Some(mut layers) = self.entry.as_ref().map(|entry| entry.lock())
            && !layers.gone
        {
            layers.push(pending);
            return;
        }
        // There was none, or it became empty since and is no longer the one that the next delivery
        // finds. Who has a view came by the gate.
        let owner = self.owner.as_ref();
        let mut shard = self.values.shards.of_unfilled(owner);
        let known = shard.entries.get(&owner).map(|ByOwner(entry)| Arc::clone(entry));
        let entry = known.or_else(|| self.values.insert(&mut shard, owner, KeyValues::new()));
        if let Some(entry) = entry {
            entry.lock().push(pending);
        }
    }
}
