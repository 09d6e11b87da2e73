//! Timers that wait to fire.

use std::collections::BTreeMap;

use super::input::{Input, event};
use super::record::TimerChange;
use crate::timers::FIRED;

/// By key and name: when due, and what it hands back.
#[derive(Debug, Clone, Default)]
pub(super) struct Pending(BTreeMap<(String, String), (u64, Vec<u8>)>);

impl Pending {
    /// What a delivery of this key asked for, in order.
    pub(super) fn change(&mut self, key: &str, changes: &[TimerChange]) {
        for change in changes {
            match change {
                TimerChange::Set { name, due_ms, data } => {
                    self.0.insert((key.to_owned(), name.clone()), (*due_ms, data.clone()));
                }
                TimerChange::Cancel { name } => {
                    self.0.remove(&(key.to_owned(), name.clone()));
                }
            }
        }
    }

    /// Removes the earliest that is due by now, and makes the event it fires as.
    pub(super) fn take_due(&mut self, now_ms: u64) -> Option<Input> {
        let due = self.0.iter().filter(|(_, (due_ms, _))| *due_ms <= now_ms);
        let first = due.min_by_key(|(name, (due_ms, _))| (*due_ms, *name))?.0.clone();
        let (due_ms, data) = self.0.remove(&first)?;
        let (key, name) = first;
        let mut fired = event(FIRED).key(&key).source("/tidegate/main/test");
        fired.data = data;
        Some(fired.attribute("timerdue", &due_ms.to_string()).attribute("timername", &name))
    }

    pub(super) fn of(&self, key: &str) -> Vec<(String, u64)> {
        let of_key = self.0.iter().filter(|((k, _), _)| k == key);
        of_key.map(|((_, name), (due_ms, _))| (name.clone(), *due_ms)).collect()
    }
}
