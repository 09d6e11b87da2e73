//! The state a guest is measured on.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ecow::{EcoBytes, EcoString};

use crate::effects::StateWrite;
use crate::state::page;
use crate::wasm::StateView;

/// State of one key as the first deliveries to it left it. What a guest writes while it is measured is
/// forgotten, so that each call finds the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Kept(BTreeMap<EcoString, EcoBytes>);

impl Kept {
    /// Takes what a delivery wrote.
    pub(super) fn take(&mut self, writes: Vec<StateWrite>) {
        for StateWrite { name, value, .. } in writes {
            match value {
                Some(value) => self.0.insert(name, value),
                None => self.0.remove(&name),
            };
        }
    }
}

impl StateView for Kept {
    fn get(&self, name: &str) -> Option<Vec<u8>> {
        self.0.get(name).map(|value| value.to_vec())
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
        page(self.0.keys().map(|name| &**name), prefix, after, limit)
    }
}

/// The same, noting which values are read.
#[derive(Debug)]
pub(super) struct Noting {
    kept: Kept,
    read: Mutex<Vec<String>>,
}

impl Noting {
    pub(super) fn new(kept: Kept) -> Self {
        Self { kept, read: Mutex::default() }
    }

    /// The names of the values that were read, in order.
    pub(super) fn read(&self) -> Vec<String> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        // Nothing panics while it is held.
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StateView for Noting {
    fn get(&self, name: &str) -> Option<Vec<u8>> {
        self.lock().push(name.to_owned());
        self.kept.get(name)
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
        self.kept.list(prefix, after, limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(name: &str, value: Option<&'static str>) -> StateWrite {
        let value = value.map(|text| EcoBytes::from(text.as_bytes()));
        StateWrite { name: name.into(), value, expires_ms: None }
    }

    #[test]
    fn what_was_written_is_there_until_it_is_removed() {
        let mut kept = Kept::default();
        assert_eq!(kept.get("a"), None);
        kept.take(vec![write("a", Some("1")), write("b", Some("2"))]);
        kept.take(vec![write("a", None), write("c", Some("3"))]);
        assert_eq!((kept.get("a"), kept.get("b")), (None, Some(b"2".to_vec())));
        assert_eq!(kept.list("", None, 9), ["b", "c"]);
        let noting = Noting::new(kept);
        assert_eq!((noting.get("c"), noting.get("d")), (Some(b"3".to_vec()), None));
        assert_eq!(noting.list("", None, 9), ["b", "c"]);
        assert_eq!(noting.read(), ["c", "d"]);
    }
}
