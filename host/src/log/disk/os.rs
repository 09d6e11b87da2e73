//! The real disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FlockOperation, SeekFrom};

use super::direct::{self, DirectFile};
use super::{Disk, DiskFile, LockError, LockGuard};

/// The file that says who has a folder. It can be removed, so that the folder itself is locked as well;
/// hosts that only know the file are kept out by it.
const LOCK_NAME: &str = "lock";
/// A process id has at most this many digits.
const PID_BYTES_MAX: u64 = 20;

/// The operating system's files.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsDisk;

/// What `st_blocks` counts.
const STAT_BLOCK_BYTES: u64 = 512;

/// File systems that keep everything in memory, by the numbers that Linux has for them
/// (`linux/magic.h`): tmpfs and ramfs.
const IN_MEMORY: [u32; 2] = [0x0102_1994, 0x8584_58f6];

impl OsDisk {
    /// Whether a folder is on a file system in memory: there a sync succeeds and proves nothing.
    ///
    /// # Errors
    /// The system does not say.
    pub fn is_in_memory(self, dir: &Path) -> io::Result<bool> {
        // Some platforms have these numbers signed, others longer: the low half tells.
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the low half of the number is what is compared"
        )]
        let kind = rustix::fs::statfs(dir)?.f_type as u32;
        Ok(IN_MEMORY.contains(&kind))
    }
}

impl DiskFile for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        // The offset of the file moves with it, which nobody uses.
        match rustix::fs::seek(self, SeekFrom::Data(offset)) {
            Ok(data) => Ok(Some(data)),
            Err(rustix::io::Errno::NXIO) => Ok(None),
            Err(_) => Ok(Some(offset)),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let metadata = self.metadata()?;
        if metadata.len() >= len && metadata.blocks().saturating_mul(STAT_BLOCK_BYTES) >= len {
            // All of it is there. XFS wants as much once more all the same.
            return Ok(());
        }
        match rustix::fs::fallocate(self, FallocateFlags::empty(), 0, len) {
            // No claim is possible on such a file system: a full disk shows when writing.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                File::set_len(self, len)
            }
            result => Ok(result?),
        }
    }
}

impl Disk for OsDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut missing: Vec<&Path> = dir.ancestors().take_while(|dir| !dir.exists()).collect();
        while let Some(dir) = missing.pop() {
            if dir.as_os_str().is_empty() {
                continue;
            }
            match fs::create_dir(dir) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
            self.sync_dir(parent.unwrap_or(Path::new(".")))?;
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(File::open(path)?))
    }

    fn open_direct(&self, path: &Path) -> Option<Arc<dyn DiskFile>> {
        if planted!(NeverSyncs | AcknowledgesBeforeSync) {
            // Such a read has the system write first what was not synced.
            return None;
        }
        let file = direct::open(OpenOptions::new().read(true), path).ok()?;
        Some(Arc::new(file))
    }

    fn open_write(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).open(path)?))
    }

    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).create_new(true).open(path)?))
    }

    fn open_append(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        if planted!(NeverSyncs | AcknowledgesBeforeSync) {
            // A loop device keeps what was written past the page cache, whether it was synced or not.
            return self.open_write(path);
        }
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Arc::new(DirectFile::new(file, path)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn lock(&self, dir: &Path) -> Result<LockGuard, LockError> {
        let failed = |source| LockError::Io { dir: dir.to_owned(), source };
        let held = || LockError::Held { dir: dir.to_owned(), pid: pid_in(&dir.join(LOCK_NAME)) };
        let folder = File::open(dir).map_err(failed)?;
        let locked = rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive);
        // Any other error is of a file system that locks no folders: there the file alone keeps others out.
        if locked == Err(rustix::io::Errno::WOULDBLOCK) {
            return Err(held());
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(dir.join(LOCK_NAME))
            .map_err(failed)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(held()),
            Err(error) => return Err(failed(error.into())),
        }
        let pid = std::process::id().to_string();
        // Without the pid the lock still holds; only the words to the second process are poorer.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(pid.as_bytes()));
        Ok(LockGuard(Box::new((folder, file))))
    }
}

/// The process that a lock file names; `unknown` where it names none.
fn pid_in(path: &Path) -> String {
    let mut pid = String::new();
    let read = File::open(path).and_then(|file| file.take(PID_BYTES_MAX).read_to_string(&mut pid));
    match pid.trim() {
        "" => "unknown".to_owned(),
        pid if read.is_ok() => pid.to_owned(),
        _ => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn file_systems_in_memory_are_told_from_disks() {
        // What is mounted last at a place is what is there.
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let kinds: HashMap<_, _> =
            fields.map(|fields| (fields[1].to_owned(), fields[2].to_owned())).collect();
        for (place, kind) in kinds {
            let Ok(is_in_memory) = OsDisk.is_in_memory(Path::new(&place)) else { continue };
            match &*kind {
                "tmpfs" | "devtmpfs" | "ramfs" => assert!(is_in_memory, "{place} is a {kind}"),
                "rootfs" => {}
                _ => assert!(!is_in_memory, "{place} is a {kind}"),
            }
        }
        assert!(OsDisk.is_in_memory(Path::new("/nowhere/at/all")).is_err());
    }

    fn pid_of(held: Result<LockGuard, LockError>) -> String {
        match held {
            Err(LockError::Held { pid, .. }) => pid,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_folder_stays_locked_when_its_lock_file_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let guard = OsDisk.lock(dir.path()).unwrap();
        assert_eq!(pid_of(OsDisk.lock(dir.path())), std::process::id().to_string());
        fs::remove_file(dir.path().join(LOCK_NAME)).unwrap();
        assert_eq!(pid_of(OsDisk.lock(dir.path())), "unknown");
        drop(guard);
        OsDisk.lock(dir.path()).unwrap();
    }

    #[test]
    fn whoever_locks_the_file_alone_keeps_others_out() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join(LOCK_NAME)).unwrap();
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert_eq!(pid_of(OsDisk.lock(dir.path())), "unknown");
    }
}
