//! How much keyed state each plugin has, and which of its keys has something that ends next.
//!
//! What is counted is the durable layer, so it is a function of the log like the values themselves.
//! On top of it stand *claims*: room that deliveries in progress, or on their way to the disk, have
//! been promised. A claim is what a delivery adds at most, never less than 0: whatever order commits
//! are applied in, what is durable stays within the limit. What a delivery frees can be used once
//! that is applied.

use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::sync::{Mutex, MutexGuard};

use ecow::EcoString;
use hashbrown::HashMap;

use super::cold::{ColdError, KeyValues};
use super::values::{Owner, Value, Values, lock};
use crate::event::{Generation, InstanceId, Key};

/// Keyed state of a plugin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of names and values. What has ended counts until it is removed.
    pub bytes: u64,
    /// Keys with at least one value.
    pub keys: u64,
}

/// How much there may be; 0: no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StateQuota {
    /// `limits.state`: bytes of names and values of all keys.
    pub bytes: u64,
    /// `limits.keys`: keys with state.
    pub keys: u64,
    /// `limits.state-per-key`: bytes of names and values of one key, without what has ended.
    pub key_bytes: u64,
}

impl StateQuota {
    /// Whether nothing is limited.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// The durable layer of one key in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Measure {
    pub(super) bytes: usize,
    pub(super) values: usize,
    /// The first end of a value that has one.
    ends_ms: Option<u64>,
}

impl Measure {
    pub(super) fn of(values: &[(EcoString, Value)]) -> Self {
        values.iter().fold(Self::default(), |sum, (name, value)| Self {
            bytes: sum.bytes + counted(name, &value.bytes),
            values: sum.values + 1,
            ends_ms: sum.ends_ms.into_iter().chain(value.expires_ms.map(NonZeroU64::get)).min(),
        })
    }
}

/// Bytes that a value counts for.
pub(super) fn counted(name: &str, value: &[u8]) -> usize {
    name.len() + value.len()
}

pub(super) type Whose = (InstanceId, Generation);

/// State of one plugin.
#[derive(Debug, Default)]
struct Account {
    used: Usage,
    claimed: Usage,
    /// Keys by the first end of one of their values.
    ending: BTreeSet<(u64, Key)>,
}

/// State of all plugins of a bus.
#[derive(Debug, Default)]
pub(super) struct Accounts(Mutex<HashMap<Whose, Account>>);

impl Accounts {
    fn lock(&self) -> MutexGuard<'_, HashMap<Whose, Account>> {
        lock(&self.0)
    }

    pub(super) fn usage(&self, whose: Whose) -> Usage {
        self.lock().get(&whose).map(|account| account.used).unwrap_or_default()
    }

    /// A key changed; `claimed` was claimed for that.
    pub(super) fn change(
        &self,
        whose: Whose,
        key: &Key,
        (before, after): (Measure, Measure),
        claimed: Usage,
    ) {
        if before == after && claimed == Usage::default() {
            return;
        }
        let mut accounts = self.lock();
        let account = accounts.entry(whose).or_default();
        let used = &mut account.used;
        used.bytes = (used.bytes + after.bytes as u64).saturating_sub(before.bytes as u64);
        used.keys += u64::from(after.values > 0);
        used.keys = used.keys.saturating_sub(u64::from(before.values > 0));
        account.release(claimed);
        if before.ends_ms != after.ends_ms {
            if let Some(ends_ms) = before.ends_ms {
                account.ending.remove(&(ends_ms, key.clone()));
            }
            if let Some(ends_ms) = after.ends_ms {
                account.ending.insert((ends_ms, key.clone()));
            }
        }
    }

    /// What a checkpoint holds, before its keys are there: nothing is under-counted meanwhile.
    pub(super) fn expect(&self, used: HashMap<Whose, Usage>) {
        let mut accounts = self.lock();
        for (whose, used) in used {
            accounts.entry(whose).or_default().used = used;
        }
    }

    /// Takes the ends of values of keys that came out of a checkpoint.
    pub(super) fn add_ends(&self, keys: &[(Owner, KeyValues)]) {
        let ends = |values: &KeyValues| {
            values.iter().filter_map(|(_, value)| value.expires_ms).min().map(NonZeroU64::get)
        };
        let mut ending = keys.iter().filter_map(|(owner, values)| Some((owner, ends(values)?)));
        let Some(first) = ending.next() else { return };
        let mut accounts = self.lock();
        for (owner, ends_ms) in std::iter::once(first).chain(ending) {
            let account = accounts.entry((owner.instance, owner.generation)).or_default();
            account.ending.insert((ends_ms, owner.key.clone()));
        }
    }

    /// Keys that have a value which ended by `until_ms`.
    pub(super) fn ended(&self, whose: Whose, until_ms: u64) -> Vec<Key> {
        let accounts = self.lock();
        let Some(account) = accounts.get(&whose) else { return Vec::new() };
        let ended = account.ending.iter().take_while(|(ends_ms, _)| *ends_ms <= until_ms);
        ended.map(|(_, key)| key.clone()).collect()
    }

    /// The first end of a value.
    pub(super) fn next_end_ms(&self, whose: Whose) -> Option<u64> {
        let accounts = self.lock();
        accounts.get(&whose)?.ending.first().map(|(ends_ms, _)| *ends_ms)
    }

    /// Drops the accounts of plugins and generations that are gone.
    pub(super) fn retain(&self, keeps: impl Fn(InstanceId, Generation) -> bool) {
        self.lock().retain(|(instance, generation), _| keeps(*instance, *generation));
    }

    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    /// Changes a claim from `old` to `new`, where that is within the quota or no more than before.
    /// The error is the key of the manifest.
    pub(super) fn claim(
        &self,
        whose: Whose,
        quota: &StateQuota,
        (old, new): (Usage, Usage),
    ) -> Result<(), &'static str> {
        let mut accounts = self.lock();
        let account = accounts.entry(whose).or_default();
        let sum = |used: u64, claimed: u64, old: u64, new: u64| {
            used.saturating_add(claimed).saturating_sub(old).saturating_add(new)
        };
        let Account { used, claimed, .. } = account;
        let bytes = sum(used.bytes, claimed.bytes, old.bytes, new.bytes);
        if new.bytes > old.bytes && quota.bytes > 0 && bytes > quota.bytes {
            return Err("limits.state");
        }
        let keys = sum(used.keys, claimed.keys, old.keys, new.keys);
        if new.keys > old.keys && quota.keys > 0 && keys > quota.keys {
            return Err("limits.keys");
        }
        account.release(old);
        account.claimed.bytes += new.bytes;
        account.claimed.keys += new.keys;
        Ok(())
    }

    pub(super) fn release(&self, whose: Whose, claimed: Usage) {
        if let Some(account) = self.lock().get_mut(&whose) {
            account.release(claimed);
        }
    }
}

impl Account {
    /// A plugin that was forgotten and came back may hear of claims of before.
    fn release(&mut self, claimed: Usage) {
        self.claimed.bytes = self.claimed.bytes.saturating_sub(claimed.bytes);
        self.claimed.keys = self.claimed.keys.saturating_sub(claimed.keys);
    }
}

impl Values {
    /// Removes what ended by `until_ms`, but of the keys that `keeps` says to keep.
    ///
    /// # Errors
    /// The cold store cannot be read.
    pub fn expire(
        &self,
        (instance, generation): (InstanceId, Generation),
        until_ms: u64,
        keeps: impl Fn(&Key) -> bool,
    ) -> Result<(), ColdError> {
        self.until_filled()?;
        let mut ended = self.accounts.ended((instance, generation), until_ms);
        ended.retain(|key| !keeps(key));
        for key in ended {
            let owner = Owner { instance, generation, key };
            self.change(owner.as_ref(), |layers| {
                layers.durable.retain(|(_, value)| value.lives_at(until_ms));
                Usage::default()
            })?;
        }
        Ok(())
    }

    /// The first log time at which something of a plugin ends, or ended and is still here; of the keys
    /// that are there, while they are being filled in.
    #[must_use]
    pub fn next_end_ms(&self, instance: InstanceId, generation: Generation) -> Option<u64> {
        self.accounts.next_end_ms((instance, generation))
    }

    /// How much durable state a plugin has.
    #[must_use]
    pub fn usage(&self, instance: InstanceId, generation: Generation) -> Usage {
        self.accounts.usage((instance, generation))
    }
}

#[cfg(test)]
mod tests;
