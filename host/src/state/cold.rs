//! Keyed state that is not in memory: a sled tree, filled by eviction and never relied upon.
//!
//! Every entry here is also in a checkpoint or in the log after it, so the tree is thrown away at
//! each start. (sled 0.34's `flush` does not sync on Linux: what it holds after a power cut says
//! nothing.) It is a place for what does not fit into memory while the host runs.

mod watch;

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ecow::EcoString;
use serde::{Deserialize, Serialize};
use serde_bytes::Bytes as SerdeBytes;
use smallvec::SmallVec;

use super::across::Wanted;
use super::values::{Owner, Value};
use crate::effects::ends_at;
use crate::event::{Generation, InstanceId, Key};
use crate::limits::COLD_FREE_BYTES_MIN;
use watch::{Call, Calls};

/// Bytes that sled may cache.
const CACHE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Why cold state cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ColdError {
    /// sled failed.
    #[error("state store `{}`: {source}", path.display())]
    Store {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: sled::Error,
    },
    /// The folder of an earlier run cannot be removed.
    #[error("state store `{}`: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The checkpoint that a start went on from was not read to its end.
    #[error("state store: the keys of the checkpoint are not there")]
    Unfilled,
    /// An entry does not decode.
    #[error("state store: an entry is damaged")]
    Damaged,
}

/// Values of one key, ascending by name. Most keys have one, which stands where they do: a block of its own
/// would be as far away again.
pub type KeyValues = SmallVec<[(EcoString, Value); 1]>;

/// The tree of one bus.
#[derive(Debug)]
pub struct Cold {
    /// Opened by the first key that moves here: few hosts have as much state, and a start must not
    /// need space that a full disk has not.
    tree: OnceLock<sled::Db>,
    opens: Mutex<()>,
    path: PathBuf,
    keys: AtomicU64,
    calls: Arc<Calls>,
    /// Makes writes fail from now on.
    #[cfg(test)]
    pub(super) fails: std::sync::atomic::AtomicBool,
    /// Has the disk look full.
    #[cfg(test)]
    pub(super) is_short: std::sync::atomic::AtomicBool,
}

/// Name, bytes, end.
#[derive(Serialize, Deserialize)]
struct Stored<'a>(&'a str, #[serde(borrow)] &'a SerdeBytes, Option<u64>);

impl Cold {
    /// An empty tree; one that an earlier run left there is removed.
    ///
    /// # Errors
    /// The folder cannot be removed.
    pub fn create(path: &Path) -> Result<Self, ColdError> {
        if path.exists() {
            std::fs::remove_dir_all(path)
                .map_err(|source| ColdError::Folder { path: path.to_owned(), source })?;
        }
        Ok(Self {
            tree: OnceLock::new(),
            opens: Mutex::default(),
            path: path.to_owned(),
            keys: AtomicU64::new(0),
            calls: Arc::default(),
            #[cfg(test)]
            fails: std::sync::atomic::AtomicBool::new(false),
            #[cfg(test)]
            is_short: std::sync::atomic::AtomicBool::new(false),
        })
    }

    /// Whether the disk has too little room for more keys: a write that finds none is not always answered.
    pub(super) fn lacks_room(&self) -> bool {
        #[cfg(test)]
        if self.is_short.load(Ordering::Relaxed) {
            return true;
        }
        // The folder is made with the first key.
        let stat = self.path.ancestors().find_map(|folder| rustix::fs::statvfs(folder).ok());
        stat.is_some_and(|stat| stat.f_bavail.saturating_mul(stat.f_frsize) < COLD_FREE_BYTES_MIN)
    }

    #[cfg(test)]
    pub(super) fn path_exists(&self) -> bool {
        self.path.exists()
    }

    /// The tree, where it holds keys, for a short call.
    fn ask(&self) -> Option<(&sled::Db, Call<'_>)> {
        let tree = self.tree.get().filter(|_| self.keys() > 0)?;
        Some((tree, self.calls.begin()))
    }

    fn remove(&self, tree: &sled::Db, key: impl AsRef<[u8]>) -> Result<(), ColdError> {
        let _call = self.calls.begin();
        if tree.remove(key).map_err(self.failed())?.is_some() {
            self.keys.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn open(&self) -> Result<&sled::Db, ColdError> {
        let _alone = self.opens.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tree) = self.tree.get() {
            return Ok(tree);
        }
        watch::start(&self.calls, self.path.clone())
            .map_err(|error| self.failed()(sled::Error::Io(error)))?;
        let _call = self.calls.begin();
        let config = sled::Config::new().path(&self.path).cache_capacity(CACHE_BYTES_MAX);
        let tree = config.open().map_err(self.failed())?;
        Ok(self.tree.get_or_init(|| tree))
    }

    fn failed(&self) -> impl FnOnce(sled::Error) -> ColdError {
        let path = self.path.clone();
        |source| ColdError::Store { path, source }
    }

    /// Keys it holds.
    #[must_use]
    pub fn keys(&self) -> u64 {
        self.keys.load(Ordering::Relaxed)
    }

    /// Takes keys that it does not hold, all or none.
    pub(super) fn put(&self, entries: &[(Owner, KeyValues)]) -> Result<(), ColdError> {
        let tree = self.open()?;
        let _call = self.calls.begin();
        let mut batch = sled::Batch::default();
        for (owner, values) in entries {
            let key = tree_key(owner.instance, owner.generation, owner.key.as_str());
            batch.insert(key, encode(values));
        }
        if let Err(error) = self.apply(tree, batch) {
            for (owner, _) in entries {
                // As far as possible nothing of it stays, to be taken for the truth later.
                let _ = tree.remove(tree_key(owner.instance, owner.generation, owner.key.as_str()));
            }
            return Err(error);
        }
        self.keys.fetch_add(entries.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn apply(&self, tree: &sled::Db, batch: sled::Batch) -> Result<(), ColdError> {
        #[cfg(test)]
        if self.fails.load(Ordering::Relaxed) {
            return Err(self.failed()(sled::Error::Unsupported("it was told to fail".to_owned())));
        }
        tree.apply_batch(batch).map_err(self.failed())
    }

    /// Moves the values of a key out. What does not decode stays, so that the key is not taken for one without
    /// state.
    pub(super) fn take(
        &self,
        instance: InstanceId,
        generation: Generation,
        key: &str,
    ) -> Result<Option<KeyValues>, ColdError> {
        let Some((tree, _call)) = self.ask() else { return Ok(None) };
        let key = tree_key(instance, generation, key);
        let Some(bytes) = tree.get(&key).map_err(self.failed())? else { return Ok(None) };
        let values = decode(&bytes)?;
        tree.remove(&key).map_err(self.failed())?;
        self.keys.fetch_sub(1, Ordering::Relaxed);
        Ok(Some(values))
    }

    /// Looks at the values of a key.
    pub(super) fn get(
        &self,
        instance: InstanceId,
        generation: Generation,
        key: &str,
    ) -> Result<Option<KeyValues>, ColdError> {
        let Some((tree, _call)) = self.ask() else { return Ok(None) };
        let found = tree.get(tree_key(instance, generation, key)).map_err(self.failed())?;
        found.map(|bytes| decode(&bytes)).transpose()
    }

    /// Hands over keys that are wanted and have state, ascending, as many as are wanted.
    pub(super) fn keys_of(
        &self,
        wanted: &Wanted<'_>,
        mut take: impl FnMut(Key),
    ) -> Result<(), ColdError> {
        let Some(tree) = self.tree.get() else { return Ok(()) };
        let start = wanted.after.filter(|after| *after >= wanted.prefix).unwrap_or(wanted.prefix);
        let prefix = tree_key(wanted.instance, wanted.generation, wanted.prefix);
        let mut found = 0;
        for entry in tree.range(tree_key(wanted.instance, wanted.generation, start)..) {
            let (key, values) = entry.map_err(self.failed())?;
            if found == wanted.limit || !key.starts_with(&prefix) {
                break;
            }
            let Owner { key, .. } = split(&key).ok_or(ColdError::Damaged)?;
            let lives = |(_, value): &(EcoString, Value)| value.lives_at(wanted.now_ms);
            if wanted.fits(key.as_str()) && decode(&values)?.iter().any(lives) {
                found += 1;
                take(key);
            }
        }
        Ok(())
    }

    /// Everything there is, in no meaningful order.
    pub(super) fn each<E: From<ColdError>>(
        &self,
        mut visit: impl FnMut(Owner, KeyValues) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(tree) = self.tree.get() else { return Ok(()) };
        for entry in tree.iter() {
            let (key, values) = entry.map_err(self.failed())?;
            visit(split(&key).ok_or(ColdError::Damaged)?, decode(&values)?)?;
        }
        Ok(())
    }

    pub(super) fn clear(&self) -> Result<(), ColdError> {
        let Some(tree) = self.tree.get() else { return Ok(()) };
        tree.clear().map_err(self.failed())?;
        self.keys.store(0, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn forget(&self, instance: InstanceId) -> Result<(), ColdError> {
        let Some(tree) = self.tree.get() else { return Ok(()) };
        for entry in tree.scan_prefix(instance.0.to_be_bytes()) {
            let (key, _) = entry.map_err(self.failed())?;
            self.remove(tree, key)?;
        }
        Ok(())
    }
}

impl Cold {
    /// Drops what a plugin has of every generation but one.
    pub(super) fn keep_only(
        &self,
        instance: InstanceId,
        generation: Generation,
    ) -> Result<(), ColdError> {
        let Some(tree) = self.tree.get() else { return Ok(()) };
        for entry in tree.scan_prefix(instance.0.to_be_bytes()) {
            let (key, _) = entry.map_err(self.failed())?;
            let other = split(&key).is_none_or(|owner| owner.generation != generation);
            if other {
                self.remove(tree, key)?;
            }
        }
        Ok(())
    }
}

impl Drop for Cold {
    /// sled writes what is left.
    fn drop(&mut self) {
        let calls = Arc::clone(&self.calls);
        let _call = calls.begin();
        drop(self.tree.take());
    }
}

fn tree_key(instance: InstanceId, generation: Generation, key: &str) -> Vec<u8> {
    [&instance.0.to_be_bytes()[..], &generation.0.to_be_bytes(), key.as_bytes()].concat()
}

fn split(bytes: &[u8]) -> Option<Owner> {
    let instance = InstanceId(u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?));
    let generation = Generation(u32::from_be_bytes(bytes.get(4..8)?.try_into().ok()?));
    let key = Key::new(std::str::from_utf8(bytes.get(8..)?).ok()?).ok()?;
    Some(Owner { instance, generation, key })
}

pub(super) fn encode(values: &KeyValues) -> Vec<u8> {
    let stored: Vec<Stored<'_>> = values
        .iter()
        .map(|(name, value)| {
            Stored(name, SerdeBytes::new(&value.bytes), value.expires_ms.map(NonZeroU64::get))
        })
        .collect();
    rmp_serde::to_vec(&stored).expect("texts, bytes and integers have a MessagePack form")
}

pub(super) fn decode(bytes: &[u8]) -> Result<KeyValues, ColdError> {
    let stored: Vec<Stored<'_>> =
        rmp_serde::from_slice(bytes).map_err(|_malformed| ColdError::Damaged)?;
    Ok(stored
        .into_iter()
        .map(|Stored(name, value, expires_ms)| {
            (name.into(), Value { bytes: (**value).into(), expires_ms: expires_ms.map(ends_at) })
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_that_does_not_decode_stays() {
        let dir = tempfile::tempdir().unwrap();
        let cold = Cold::create(&dir.path().join("sled")).unwrap();
        let (instance, generation) = (InstanceId(1), Generation(0));
        let owner = Owner { instance, generation, key: Key::new("k").unwrap() };
        cold.put(&[(owner, KeyValues::default())]).unwrap();
        let tree = cold.tree.get().unwrap();
        tree.insert(tree_key(instance, generation, "k"), b"no values").unwrap();
        for _ in 0..2 {
            let taken = cold.take(instance, generation, "k");
            assert!(matches!(taken, Err(ColdError::Damaged)), "{taken:?}");
        }
        assert_eq!(cold.keys(), 1);
    }
}
