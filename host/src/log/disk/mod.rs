//! The seam between the log and the disk, so that faults can be put under everything above it.
//!
//! Rule: nothing in `log` touches a file but through [`Disk`]. What was written is durable only
//! after [`DiskFile::sync_data`], what was created, renamed or removed only after
//! [`Disk::sync_dir`]; the simulated disk loses the rest.

mod direct;
mod os;
pub mod sim;

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use os::OsDisk;

/// What a file that is written from front to back is written in, at least.
pub const BLOCK_BYTES: usize = 4096;

/// A file being open; any number of threads may use it at once.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Reads into `buffer` from `offset` on; gives how many bytes, fewer only at the end of the file.
    ///
    /// # Errors
    /// The disk's.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`, in one system call where the system can.
    ///
    /// # Errors
    /// The disk's.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Writes `buffer[place]` at `offset`, as [`DiskFile::write_at`] does. What else the buffer has may
    /// be used as room: a block before and behind, and an address that is as far from a multiple of
    /// [`BLOCK_BYTES`] as the offset is, save a copy.
    ///
    /// # Errors
    /// The disk's.
    fn write_within(&self, buffer: &mut [u8], place: Range<usize>, offset: u64) -> io::Result<()> {
        self.write_at(buffer.get(place).ok_or(io::ErrorKind::InvalidInput)?, offset)
    }
    /// Where, from `offset` on, bytes begin that are not known to be zero; none: there are no more.
    /// Says `offset` where the file system does not tell.
    ///
    /// # Errors
    /// The disk's.
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        Ok(Some(offset))
    }
    /// Makes durable what was written, and the length.
    ///
    /// # Errors
    /// The disk's. What was written since the last success may be gone then, even if a later call
    /// succeeds.
    fn sync_data(&self) -> io::Result<()>;
    /// Bytes of the file.
    ///
    /// # Errors
    /// The disk's.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    ///
    /// # Errors
    /// The disk's.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts the file, or extends it by zeros.
    ///
    /// # Errors
    /// The disk's.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Extends the file by zeros to `len` and claims the space on the disk.
    ///
    /// # Errors
    /// `StorageFull` where there is not enough; the file may be longer than before then.
    fn allocate(&self, len: u64) -> io::Result<()>;
}

/// Files and directories. Blocking: for the writer's thread, recovery, readers and tools.
pub trait Disk: Send + Sync + fmt::Debug + 'static {
    /// Creates a directory with its parents, durably.
    ///
    /// # Errors
    /// The disk's.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Names of the files in a directory, ascending.
    ///
    /// # Errors
    /// The disk's.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Opens a file for reading.
    ///
    /// # Errors
    /// `NotFound`, and the disk's.
    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file for reading past the page cache, which neither fills nor empties that; none: the
    /// file system cannot, or not this file. Offset, length and address of a read must be multiples
    /// of [`BLOCK_BYTES`]; it gives `InvalidInput` where they are not, and where the file system
    /// refuses such reads after all.
    fn open_direct(&self, path: &Path) -> Option<Arc<dyn DiskFile>> {
        let _ = path;
        None
    }
    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// `NotFound`, and the disk's.
    fn open_write(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Creates a file for reading and writing.
    ///
    /// # Errors
    /// `AlreadyExists`, and the disk's.
    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file for reading and writing, for whoever writes it from front to back: whatever
    /// stands behind a write, up to the next multiple of [`BLOCK_BYTES`], may become zeros. The
    /// length is such a multiple while it is written.
    ///
    /// # Errors
    /// `NotFound`, and the disk's.
    fn open_append(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.open_write(path)
    }
    /// Renames a file within its directory, in place of what has the name.
    ///
    /// # Errors
    /// The disk's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// The disk's.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// The disk's.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Bytes free for us on the disk that holds `dir`.
    ///
    /// # Errors
    /// The disk's.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
    /// Keeps every other process, and every other caller, out of `dir` until the guard is dropped
    /// or the process ends.
    ///
    /// # Errors
    /// [`LockError::Held`], naming who holds it, and the disk's.
    fn lock(&self, dir: &Path) -> Result<LockGuard, LockError>;
}

/// Keeps a directory locked.
pub struct LockGuard(#[allow(dead_code, reason = "held for its drop")] Box<dyn Send + Sync>);

impl fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LockGuard")
    }
}

/// Why a directory cannot be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("`{}` is in use by process {pid}", dir.display())]
    Held {
        /// The directory.
        dir: PathBuf,
        /// The process, as far as it said; `unknown` otherwise.
        pid: String,
    },
    /// The lock file cannot be opened.
    #[error("cannot lock `{}`: {source}", dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// What the disk says.
        source: io::Error,
    },
}

/// Puts a whole file in place so that after a crash there is the old one or the new one: written
/// beside, synced, renamed, the directory synced.
///
/// # Errors
/// The disk's; the old file stands then, if there was one.
pub fn publish_file(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    let file = match disk.create_new(&beside) {
        // Left by a crash in the middle of this function: nobody reads it under this name.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            disk.remove(&beside)?;
            disk.create_new(&beside)?
        }
        created => created?,
    };
    let written = file.write_at(bytes, 0).and_then(|()| file.sync_data());
    if let Err(error) = written.and_then(|()| disk.rename(&beside, path)) {
        // Best effort: the error that counts is the one before.
        let _ = disk.remove(&beside);
        return Err(error);
    }
    disk.sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// Names of the files in a directory, ascending; none where it is not there.
///
/// # Errors
/// The disk's.
pub fn names_in(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<String>> {
    match disk.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        names => names,
    }
}

/// Reads exactly `len` bytes from `offset` on, or up to the end of the file.
///
/// # Errors
/// The disk's.
pub fn read_up_to(file: &dyn DiskFile, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; len];
    let filled = read_into(file, &mut buffer, offset)?;
    buffer.truncate(filled);
    Ok(buffer)
}

/// Fills `buffer` from `offset` on, or up to the end of the file; gives how many bytes.
///
/// # Errors
/// The disk's.
pub fn read_into(file: &dyn DiskFile, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset.saturating_add(filled as u64)) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Whether bytes can be read or written past the page cache as they are.
fn is_aligned(bytes: &[u8], offset: u64) -> bool {
    offset.is_multiple_of(BLOCK_BYTES as u64)
        && bytes.len().is_multiple_of(BLOCK_BYTES)
        && bytes.as_ptr().align_offset(BLOCK_BYTES) == 0
}
