//! What a plugin remembers from one delivery to the next, in memory: keyed state and pending timers.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use ecow::{EcoBytes, EcoString};

use crate::effects::{StateWrite, TimerChange};
use crate::event::{CommitNumber, Key};
use crate::state::timers::SetAt;
use crate::state::{Value, page};
use crate::wasm::{KeysView, StateView};

/// Values by name.
#[derive(Clone, Default)]
pub(super) struct Values(pub(super) BTreeMap<EcoString, Value>);

/// State of one key as it is at one log time.
pub(super) struct View {
    pub(super) values: Arc<Values>,
    pub(super) now_ms: u64,
}

/// State of all keys as it is at one log time, for questions.
pub(super) struct Across {
    keys: BTreeMap<Key, Arc<Values>>,
    now_ms: u64,
}

/// A timer that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pending {
    pub(super) key: Key,
    pub(super) name: Arc<str>,
    /// Absolute log time, milliseconds since the Unix epoch.
    pub(super) due_ms: u64,
    /// Which change set it: of two that are due at once, the older fires first.
    pub(super) set: SetAt,
    pub(super) data: Bytes,
}

/// State and timers of every key.
#[derive(Default)]
pub(super) struct Memory {
    keys: BTreeMap<Key, KeyState>,
    timers: Vec<Pending>,
}

#[derive(Default)]
struct KeyState {
    sequence: u64,
    values: Arc<Values>,
}

impl Values {
    /// What has not ended at `now_ms`, by name.
    pub(super) fn at(&self, now_ms: u64) -> impl Iterator<Item = (&EcoString, &EcoBytes)> {
        let there = self.0.iter().filter(move |(_, value)| value.lives_at(now_ms));
        there.map(|(name, value)| (name, &value.bytes))
    }
}

impl StateView for View {
    fn get(&self, name: &str) -> Option<Vec<u8>> {
        let value = self.values.0.get(name)?;
        value.lives_at(self.now_ms).then(|| value.bytes.to_vec())
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
        page(self.values.at(self.now_ms).map(|(name, _)| &**name), prefix, after, limit)
    }
}

impl KeysView for Across {
    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
        let has_state = |values: &Values| values.at(self.now_ms).next().is_some();
        let keys = self.keys.iter().filter(|(_, values)| has_state(values));
        page(keys.map(|(key, _)| key.as_str()), prefix, after, limit)
    }

    fn get(&self, key: &str, name: &str) -> Option<Vec<u8>> {
        let key = Key::new(key).ok()?;
        View { values: Arc::clone(self.keys.get(&key)?), now_ms: self.now_ms }.get(name)
    }
}

impl Memory {
    /// The next number of a key, counted.
    pub(super) fn count(&mut self, key: &Key) -> u64 {
        let state = self.keys.entry(key.clone()).or_default();
        state.sequence += 1;
        state.sequence
    }

    pub(super) fn values(&self, key: Option<&Key>) -> Arc<Values> {
        let known = key.and_then(|key| self.keys.get(key));
        known.map(|state| Arc::clone(&state.values)).unwrap_or_default()
    }

    pub(super) fn across(&self, now_ms: u64) -> Across {
        let keys = self.keys.iter().map(|(key, state)| (key.clone(), Arc::clone(&state.values)));
        Across { keys: keys.collect(), now_ms }
    }

    /// Puts a value there without a delivery.
    pub(super) fn put(&mut self, key: &Key, name: &str, value: &[u8]) {
        let state = self.keys.entry(key.clone()).or_default();
        Arc::make_mut(&mut state.values)
            .0
            .insert(name.into(), Value { bytes: value.into(), expires_ms: None });
    }

    pub(super) fn write(&mut self, key: &Key, writes: &[StateWrite]) {
        if writes.is_empty() {
            return;
        }
        let state = self.keys.entry(key.clone()).or_default();
        let values = Arc::make_mut(&mut state.values);
        for write in writes {
            match &write.value {
                Some(value) => {
                    let (bytes, expires_ms) = (value.clone(), write.expires_ms);
                    values.0.insert(write.name.clone(), Value { bytes, expires_ms })
                }
                None => values.0.remove(&write.name),
            };
        }
    }

    /// Takes in what the delivery at `position` said about timers of its key.
    pub(super) fn change_timers(&mut self, key: &Key, position: u64, changes: &[TimerChange]) {
        for (index, change) in (0..).zip(changes) {
            let (TimerChange::Set { name, .. } | TimerChange::Cancel { name }) = change;
            self.timers.retain(|timer| timer.key != *key || timer.name != *name);
            if let TimerChange::Set { name, due_ms, data } = change {
                self.timers.push(Pending {
                    key: key.clone(),
                    name: Arc::clone(name),
                    due_ms: *due_ms,
                    set: SetAt { commit: CommitNumber(position), index },
                    data: data.clone(),
                });
            }
        }
    }

    /// Pending timers in the order in which they are due.
    pub(super) fn timers(&self) -> Vec<&Pending> {
        let mut timers: Vec<&Pending> = self.timers.iter().collect();
        timers.sort_by_key(|timer| (timer.due_ms, timer.set));
        timers
    }

    /// Takes out the first timer that is due by then.
    pub(super) fn take_due(&mut self, by_ms: u64) -> Option<Pending> {
        let first = self.timers.iter().min_by_key(|timer| (timer.due_ms, timer.set));
        let first = first.filter(|timer| timer.due_ms <= by_ms).cloned()?;
        self.timers.retain(|timer| *timer != first);
        Some(first)
    }

    pub(super) fn take_timer(&mut self, key: &Key, name: &str) -> Option<Pending> {
        let is = |timer: &&Pending| timer.key == *key && *timer.name == *name;
        let found = self.timers.iter().find(is).cloned()?;
        self.timers.retain(|timer| *timer != found);
        Some(found)
    }
}
