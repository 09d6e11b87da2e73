//! The room that one delivery claims for the state it wants to add.
//!
//! Decided while the guest runs, so that it hears of it, against what is durable and what others
//! have claimed. Given back when the delivery comes to nothing, or once its commit is applied.

use std::sync::{Arc, Mutex};

use super::account::{StateQuota, Usage, counted};
use super::entry::{Entry, Layers};
use super::values::{Owner, lock};
use super::view::{Handle, KeyView};

/// See the module.
#[derive(Debug)]
pub(super) struct Claim {
    values: Handle,
    owner: Owner,
    quota: StateQuota,
    now_ms: u64,
    claimed: Mutex<Claimed>,
}

#[derive(Debug, Default)]
struct Claimed {
    /// Bytes of the key when the delivery began; none: nobody asked yet.
    base_bytes: Option<usize>,
    /// What the writes of the delivery add to that.
    added: isize,
    usage: Usage,
}

impl Claim {
    pub(super) fn new(values: Handle, owner: Owner, quota: StateQuota, now_ms: u64) -> Self {
        Self { values, owner, quota, now_ms, claimed: Mutex::default() }
    }

    /// Makes room for `new` bytes of a name in place of `own`, which the delivery wrote before, or
    /// of what stands there. The error is the key of the manifest.
    pub(super) fn grow(
        &self,
        entry: Option<&Entry>,
        name: &str,
        own: Option<usize>,
        new: usize,
    ) -> Result<(), &'static str> {
        let mut claimed = lock(&self.claimed);
        let stands = |entry: &Entry| entry.lock().counted(name, self.now_ms);
        let old = own.unwrap_or_else(|| entry.map_or(0, stands));
        let base_bytes = *claimed
            .base_bytes
            .get_or_insert_with(|| entry.map_or(0, |entry| entry.lock().counted_all(self.now_ms)));
        let added = claimed.added + signed(new) - signed(old);
        let key_bytes = (signed(base_bytes) + added).max(0).unsigned_abs() as u64;
        if new > old && self.quota.key_bytes > 0 && key_bytes > self.quota.key_bytes {
            return Err("limits.state-per-key");
        }
        // A value that ended may be removed at any time, so it is room for nobody.
        let usage = Usage {
            bytes: added.max(0).unsigned_abs() as u64,
            keys: u64::from(base_bytes == 0 && key_bytes > 0),
        };
        let whose = (self.owner.instance, self.owner.generation);
        self.values.accounts.claim(whose, &self.quota, (claimed.usage, usage))?;
        claimed.usage = usage;
        claimed.added = added;
        Ok(())
    }

    /// Hands the claim on, to be given back by whoever has it now.
    pub(super) fn take(&self) -> Usage {
        std::mem::take(&mut lock(&self.claimed).usage)
    }

    /// Gives all of it back.
    fn give_back(&self) {
        let Claimed { usage, .. } = std::mem::take(&mut *lock(&self.claimed));
        if usage != Usage::default() {
            let whose = (self.owner.instance, self.owner.generation);
            self.values.accounts.release(whose, usage);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl Layers {
    /// Bytes that a name counts for, pending writes included.
    fn counted(&self, name: &str, now_ms: u64) -> usize {
        if let Some(write) = self.pending(name) {
            return write.value_at(now_ms).map_or(0, |value| counted(name, value));
        }
        let value = self.durable(name).filter(|value| value.lives_at(now_ms));
        value.map_or(0, |value| counted(name, &value.bytes))
    }

    /// Bytes that the key counts for, pending writes included.
    fn counted_all(&self, now_ms: u64) -> usize {
        let durable = self.durable.iter().map(|(name, _)| &**name);
        let new =
            self.writes().map(|write| &*write.name).filter(|name| self.durable(name).is_none());
        let mut new: Vec<&str> = new.collect();
        new.sort_unstable();
        new.dedup();
        durable.chain(new).map(|name| self.counted(name, now_ms)).sum()
    }
}

impl KeyView {
    /// Bounds what the delivery may add; see [`KeyView::grow`].
    #[must_use]
    pub fn within(mut self, quota: StateQuota) -> Self {
        let claim = || Claim::new(Arc::clone(&self.values), self.owner.clone(), quota, self.now_ms);
        self.claim = (!quota.is_none()).then(|| Arc::new(claim()));
        self
    }

    /// Makes room for a name with `new` bytes (with its value; 0: it is removed) in place of `own`
    /// bytes that the delivery wrote under it before, or else of what stands there. The room is
    /// kept until the delivery's writes are applied, or all copies of this view are gone.
    ///
    /// # Errors
    /// The key of the manifest whose limit leaves no room.
    pub fn grow(&self, name: &str, own: Option<usize>, new: usize) -> Result<(), &'static str> {
        let claim = self.claim.as_ref();
        claim.map_or(Ok(()), |claim| claim.grow(self.entry.as_deref(), name, own, new))
    }

    /// Gives back the room that was made so far, for a delivery that runs once more.
    pub fn start_over(&self) {
        if let Some(claim) = &self.claim {
            claim.give_back();
        }
    }

    /// Timers pending in this generation of the plugin besides the one of this name under the key,
    /// as far as deliveries are applied.
    #[must_use]
    pub fn other_timers(&self, name: &str) -> usize {
        let Owner { instance, generation, key } = &self.owner;
        self.values.timers().others((*instance, *generation), key.as_str(), name)
    }
}

fn signed(bytes: usize) -> isize {
    isize::try_from(bytes).unwrap_or(isize::MAX)
}
