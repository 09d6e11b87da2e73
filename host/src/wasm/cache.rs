//! Compiled code on disk, so that a restart and a reload of a known module compile nothing.
//!
//! One file an entry, `MODULE-DIGEST-IDENTITY.code`, little-endian:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `TGCODE\0\x01`: magic and version |
//! | 8 | 32 | digest of the module |
//! | 40 | 32 | identity of the code: engine flags, CPU features, adapter |
//! | 72 | 8 | bytes of code, C |
//! | 80 | 8 | bytes of description, D |
//! | 88 | 32 | BLAKE3, in a key derivation of its own, of offsets 0..88 and everything from 120 on |
//! | 120 | C | code |
//! | 120+C | D | description, JSON |
//!
//! The rule that must not break: code is handed out only from an entry whose hash is right, under
//! the module and identity asked for. wasmtime runs what it is given: it takes a flipped bit in
//! an artifact as the truth. The folder is private to this user, because whoever can write there
//! can run code as the host.
//!
//! Nothing is synced: an entry that a power cut tears has a wrong hash, and is compiled again.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tempfile::NamedTempFile;

use super::compile::Description;
use crate::event::Digest;

const MAGIC: &[u8; 8] = b"TGCODE\0\x01";
const HEADER_BYTES: usize = 120;
const HASHED_BYTES: usize = 88;
const SUFFIX: &str = ".code";
/// Unfinished entries; one that a killed host left behind ages out like any entry.
const UNFINISHED_SUFFIX: &str = ".unfinished";
/// Bytes of all entries together before the oldest go.
pub const CACHE_BYTES_MAX: u64 = 1 << 30;
/// Bytes of one entry: more than any limit of code allows, less than would hurt to read.
const ENTRY_BYTES_MAX: u64 = 4 << 30;

/// Why the cache folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Another user could put code there.
    #[error(
        "cache folder `{dir}` {why}; whoever writes there can run code as this host: give it to \
         this user alone, or name another folder"
    )]
    NotPrivate {
        /// The folder.
        dir: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The system refused.
    #[error("cache folder `{dir}`: {source}")]
    Io {
        /// The folder.
        dir: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Whether entries could be kept in a folder; makes it where it is missing.
#[must_use]
pub fn is_usable(dir: &Path) -> bool {
    let opened = Cache::open(dir, Digest::default(), CACHE_BYTES_MAX);
    opened.is_ok_and(|cache| cache.begin(Digest::default()).is_ok())
}

/// The cache folder of one engine.
#[derive(Debug)]
pub struct Cache {
    dir: PathBuf,
    identity: Digest,
    bytes_max: u64,
}

/// Code that has proven to be what was written.
#[derive(Debug)]
pub struct Entry {
    /// What the module is.
    pub description: Description,
    /// What `deserialize` takes.
    pub code: Vec<u8>,
}

/// An entry being written. Dropped unpublished, it leaves nothing behind.
#[derive(Debug)]
pub struct Unfinished {
    file: NamedTempFile,
    digest: Digest,
}

impl Cache {
    /// Opens the folder, and makes it where it is missing, with mode 0700.
    ///
    /// # Errors
    /// [`CacheError::NotPrivate`] for a link, or a folder of another user; [`CacheError::Io`].
    pub fn open(dir: &Path, identity: Digest, bytes_max: u64) -> Result<Self, CacheError> {
        let io = |source| CacheError::Io { dir: dir.to_owned(), source };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io)?;
        let meta = std::fs::symlink_metadata(dir).map_err(io)?;
        let not_private =
            |why: &str| CacheError::NotPrivate { dir: dir.to_owned(), why: why.into() };
        if !meta.is_dir() {
            return Err(not_private("is not a folder"));
        }
        if meta.uid() != rustix::process::geteuid().as_raw() {
            return Err(not_private("belongs to another user"));
        }
        if meta.mode() & 0o077 != 0 {
            let private = std::fs::Permissions::from_mode(0o700);
            std::fs::set_permissions(dir, private).map_err(io)?;
        }
        Ok(Self { dir: dir.to_owned(), identity, bytes_max })
    }

    /// The entry of a module, if there is a good one. A bad one is removed, and said in the log.
    #[must_use]
    pub fn get(&self, digest: Digest) -> Option<Entry> {
        let path = self.path(digest);
        let mut file = OpenOptions::new().read(true).custom_flags(nofollow()).open(&path).ok()?;
        match read_entry(&mut file, digest, self.identity) {
            Ok(entry) => {
                // The age of an entry counts from its last use; without it, only eviction suffers.
                let _ = rustix::fs::futimens(&file, &now());
                Some(entry)
            }
            Err(why) => {
                tracing::warn!(path = %path.display(), why, "damaged cache entry, compiling again");
                let _ = std::fs::remove_file(&path);
                None
            }
        }
    }

    /// Begins an entry. Its code goes to [`Unfinished::code_file`].
    ///
    /// # Errors
    /// [`CacheError::Io`].
    pub fn begin(&self, digest: Digest) -> Result<Unfinished, CacheError> {
        let begin = || {
            let mut file =
                tempfile::Builder::new().suffix(UNFINISHED_SUFFIX).tempfile_in(&self.dir)?;
            file.as_file_mut().seek(SeekFrom::Start(HEADER_BYTES as u64))?;
            Ok(Unfinished { file, digest })
        };
        begin().map_err(|source| CacheError::Io { dir: self.dir.clone(), source })
    }

    /// Completes an entry and gives back what it holds. The code is read back from the file, so
    /// that what is loaded now is what will be loaded later.
    ///
    /// # Errors
    /// [`CacheError::Io`].
    pub fn publish(
        &self,
        unfinished: Unfinished,
        description: Description,
    ) -> Result<Entry, CacheError> {
        self.complete(unfinished, description)
            .map_err(|source| CacheError::Io { dir: self.dir.clone(), source })
    }

    fn complete(
        &self,
        mut unfinished: Unfinished,
        description: Description,
    ) -> std::io::Result<Entry> {
        let file = unfinished.file.as_file_mut();
        let code = read_from(file, HEADER_BYTES as u64)?;
        let described = serde_json::to_vec(&description)?;
        let header = header(unfinished.digest, self.identity, &code, &described);
        file.seek(SeekFrom::End(0))?;
        file.write_all(&described)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&header)?;
        let path = self.path(unfinished.digest);
        unfinished.file.persist(&path).map_err(|error| error.error)?;
        self.evict(&path);
        Ok(Entry { description, code })
    }

    /// Removes the oldest entries until the rest fits, but never `keep`.
    fn evict(&self, keep: &Path) {
        let mut entries = self.entries();
        let mut total: u64 = entries.iter().map(|entry| entry.bytes).sum();
        entries.sort_by_key(|entry| entry.used);
        for entry in entries {
            if total <= self.bytes_max {
                return;
            }
            if entry.path != keep && std::fs::remove_file(&entry.path).is_ok() {
                total = total.saturating_sub(entry.bytes);
            }
        }
    }

    fn entries(&self) -> Vec<OnDisk> {
        let Ok(listing) = std::fs::read_dir(&self.dir) else { return Vec::new() };
        listing.filter_map(|entry| OnDisk::of(&entry.ok()?)).collect()
    }

    fn path(&self, digest: Digest) -> PathBuf {
        let identity: String = self.identity.to_string().chars().take(16).collect();
        self.dir.join(format!("{digest}-{identity}{SUFFIX}"))
    }
}

/// What eviction looks at.
struct OnDisk {
    used: SystemTime,
    bytes: u64,
    path: PathBuf,
}

impl OnDisk {
    fn of(entry: &std::fs::DirEntry) -> Option<Self> {
        let path = entry.path();
        let name = path.file_name()?.to_str()?;
        let ours = name.ends_with(SUFFIX) || name.ends_with(UNFINISHED_SUFFIX);
        let meta = entry.metadata().ok().filter(|meta| ours && meta.is_file())?;
        Some(Self { used: meta.modified().ok()?, bytes: meta.len(), path })
    }
}

impl Unfinished {
    /// Where the code goes, from the file's current place on; its cursor is shared with every
    /// process that gets the file.
    #[must_use]
    pub fn code_file(&self) -> &File {
        self.file.as_file()
    }
}

fn read_entry(file: &mut File, digest: Digest, identity: Digest) -> Result<Entry, &'static str> {
    let all = read_from(file, 0).map_err(|_| "it cannot be read")?;
    let (found, body) = all.split_at_checked(HEADER_BYTES).ok_or("it ends within its header")?;
    let code_bytes = found
        .get(72..80)
        .and_then(|bytes| <[u8; 8]>::try_from(bytes).ok())
        .and_then(|bytes| usize::try_from(u64::from_le_bytes(bytes)).ok())
        .ok_or("its lengths are wrong")?;
    let (code, described) = body.split_at_checked(code_bytes).ok_or("it ends within its code")?;
    // The whole header is made again and compared: module, identity, lengths and hash at once.
    if found != header(digest, identity, code, described).as_slice() {
        return Err("its hash, module or engine is another");
    }
    let description =
        serde_json::from_slice(described).map_err(|_| "its description is unknown")?;
    Ok(Entry { description, code: code.to_vec() })
}

fn read_from(file: &mut File, offset: u64) -> std::io::Result<Vec<u8>> {
    let bytes = file.metadata()?.len();
    if bytes > ENTRY_BYTES_MAX {
        return Err(std::io::ErrorKind::FileTooLarge.into());
    }
    let mut all = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0));
    file.seek(SeekFrom::Start(offset))?;
    file.take(ENTRY_BYTES_MAX).read_to_end(&mut all)?;
    Ok(all)
}

fn header(digest: Digest, identity: Digest, code: &[u8], described: &[u8]) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&digest.0);
    header.extend_from_slice(&identity.0);
    header.extend_from_slice(&(code.len() as u64).to_le_bytes());
    header.extend_from_slice(&(described.len() as u64).to_le_bytes());
    debug_assert_eq!(header.len(), HASHED_BYTES);
    let mut hasher = blake3::Hasher::new_derive_key("tidegate compiled code v1");
    hasher.update(&header).update(code).update(described);
    header.extend_from_slice(hasher.finalize().as_bytes());
    header
}

fn now() -> rustix::fs::Timestamps {
    let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    rustix::fs::Timestamps { last_access: now, last_modification: now }
}

fn nofollow() -> i32 {
    i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0)
}

#[cfg(test)]
mod tests;
