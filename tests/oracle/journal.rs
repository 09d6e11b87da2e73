//! What a client wrote, and what it was told: kept by the client, not on the tested disk.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

/// An event that was sent at least once.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) id: String,
    pub(crate) key: Option<String>,
    pub(crate) data: Value,
    /// The position that an answer named.
    pub(crate) acknowledged: Option<u64>,
}

/// See the module. Each key has one writer, who sends its events in order, one request at a time.
#[derive(Debug, Default, Clone)]
pub(crate) struct Journal {
    entries: Vec<Entry>,
    by_id: HashMap<String, usize>,
    by_key: BTreeMap<String, Vec<String>>,
    conflicts: Vec<String>,
}

impl Journal {
    /// Notes an event, as JSON, that is about to be sent; again, if it was before.
    pub(crate) fn sends(&mut self, event: &Value) {
        let id = event["id"].as_str().expect("events have an id").to_owned();
        if self.by_id.contains_key(&id) {
            return;
        }
        let key = event["partitionkey"].as_str().map(ToOwned::to_owned);
        if let Some(key) = &key {
            self.by_key.entry(key.clone()).or_default().push(id.clone());
        }
        self.by_id.insert(id.clone(), self.entries.len());
        self.entries.push(Entry { id, key, data: event["data"].clone(), acknowledged: None });
    }

    /// Notes an answer.
    pub(crate) fn acknowledged(&mut self, id: &str, position: u64) {
        let Some(entry) = self.by_id.get(id).and_then(|at| self.entries.get_mut(*at)) else {
            self.conflicts.push(format!("`{id}` was acknowledged and never sent"));
            return;
        };
        match entry.acknowledged.replace(position) {
            Some(before) if before != position => {
                self.conflicts.push(format!("`{id}` was acknowledged at {before} and {position}"));
            }
            _ => {}
        }
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(crate) fn entry(&self, id: &str) -> Option<&Entry> {
        self.by_id.get(id).and_then(|at| self.entries.get(*at))
    }

    /// Ids of a key, in the order of sending.
    pub(crate) fn of_key(&self, key: &str) -> &[String] {
        self.by_key.get(key).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn conflicts(&self) -> &[String] {
        &self.conflicts
    }
}
