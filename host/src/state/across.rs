//! State across the keys of one plugin, by prefix: what questions see that name no key.
//!
//! Nothing keeps keys in order in memory, so a listing looks at all of them once, and keeps the
//! smallest it has found. Nothing is locked for longer than a shard takes, and nothing is written.

use std::collections::BTreeSet;

use super::cold::ColdError;
use super::entry::{ByOwner, Layers};
use super::values::{Values, lock};
use crate::event::{Generation, InstanceId, Key};

/// Which keys are asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The plugin.
    pub instance: InstanceId,
    /// Its generation.
    pub generation: Generation,
    /// Keys that begin like this.
    pub prefix: &'a str,
    /// Keys after this one.
    pub after: Option<&'a str>,
    /// At most so many, the smallest ones.
    pub limit: usize,
    /// State that is gone at this log time does not count.
    pub now_ms: u64,
}

impl Wanted<'_> {
    pub(super) fn fits(&self, key: &str) -> bool {
        key.starts_with(self.prefix) && self.after.is_none_or(|after| key > after)
    }
}

impl Values {
    /// Keys that have durable state, ascending. A key whose state comes or goes meanwhile is there
    /// or not; all others are.
    ///
    /// # Errors
    /// The cold store cannot be read.
    pub fn keys(&self, wanted: &Wanted<'_>) -> Result<Vec<Key>, ColdError> {
        let mut found = BTreeSet::new();
        self.hot_keys(wanted, &mut found)?;
        if let Some(cold) = self.cold.as_ref().filter(|cold| cold.keys() > 0) {
            cold.keys_of(wanted, |key| {
                add(&mut found, key, wanted.limit);
            })?;
            // One that moved into memory behind the first look's back is there now.
            self.hot_keys(wanted, &mut found)?;
        }
        Ok(found.into_iter().collect())
    }

    fn hot_keys(&self, wanted: &Wanted<'_>, found: &mut BTreeSet<Key>) -> Result<(), ColdError> {
        for shard in self.shards.all()? {
            let shard = lock(shard);
            for ByOwner(entry) in &shard.entries {
                let same = entry.whose() == (wanted.instance, wanted.generation);
                let small = found.len() < wanted.limit
                    || found.last().is_some_and(|largest| entry.key() < largest);
                if same
                    && small
                    && wanted.fits(entry.key().as_str())
                    && entry.lock().lives_at(wanted.now_ms)
                {
                    add(found, entry.key().clone(), wanted.limit);
                }
            }
        }
        Ok(())
    }
}

impl Layers {
    /// Whether anything of the durable layer is left at a log time.
    fn lives_at(&self, now_ms: u64) -> bool {
        self.durable.iter().any(|(_, value)| value.lives_at(now_ms))
    }
}

fn add(found: &mut BTreeSet<Key>, key: Key, limit: usize) {
    found.insert(key);
    if found.len() > limit {
        found.pop_last();
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::effects::{StateWrite, ends_at};
    use crate::event::Position;
    use crate::state::cold::Cold;

    fn set(values: &Values, instance: u32, key: &str, expires_ms: Option<u64>) {
        let owner = (InstanceId(instance), Generation(0), key);
        let value = Some(b"1".into());
        let write = StateWrite { name: "n".into(), value, expires_ms: expires_ms.map(ends_at) };
        values.apply(owner, Position(1), [write]).unwrap();
    }

    fn keys(values: &Values, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
        let (instance, generation) = (InstanceId(1), Generation(0));
        let wanted = Wanted { instance, generation, prefix, after, limit, now_ms: 100 };
        values.keys(&wanted).unwrap().iter().map(ToString::to_string).collect()
    }

    fn filled(values: &Values) {
        for key in ["b-2", "a-1", "c", "a-3", "a-2"] {
            set(values, 1, key, None);
        }
        set(values, 2, "a-9", None);
        set(values, 1, "a-0", Some(100));
        set(values, 1, "a-4", Some(101));
    }

    fn check(values: &Values) {
        assert_eq!(keys(values, "a-", None, 10), ["a-1", "a-2", "a-3", "a-4"]);
        assert_eq!(keys(values, "a-", None, 2), ["a-1", "a-2"]);
        assert_eq!(keys(values, "a-", Some("a-2"), 10), ["a-3", "a-4"]);
        assert_eq!(keys(values, "a-", Some("a"), 1), ["a-1"]);
        assert_eq!(keys(values, "", None, 10), ["a-1", "a-2", "a-3", "a-4", "b-2", "c"]);
        assert!(keys(values, "a-", Some("a-4"), 10).is_empty());
        assert!(keys(values, "z", None, 10).is_empty());
    }

    #[test]
    fn keys_with_state_are_listed_in_order_whoever_else_has_some() {
        let values = Values::default();
        filled(&values);
        check(&values);
    }

    #[test]
    fn keys_are_listed_wherever_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let cold = Cold::create(&Path::new(dir.path()).join("cold")).unwrap();
        let values = Arc::new(Values::new(Some(cold), 1));
        filled(&values);
        // The first round takes the marks away, the second moves.
        for _ in 0..3 * super::super::values::SHARDS {
            values.evict_some().unwrap();
        }
        assert!(values.cold.as_ref().unwrap().keys() > 0);
        check(&values);
        set(&values, 1, "a-1", None);
        check(&values);
    }
}
