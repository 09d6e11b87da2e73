//! A disk in memory that forgets: what was not synced may be lost, torn or reordered by a crash,
//! any operation can be made to fail, and space can run out.
//!
//! Rule: it is never kinder than a real disk. A failed sync drops what it should have made durable,
//! although reads go on showing it, as the page cache does.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskFile, LockError, LockGuard, is_aligned};

/// What a disk writes as a whole or not at all.
const SECTOR_BYTES: usize = 512;

/// What a crash does to that which was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// All of it is lost.
    LosesAll,
    /// All of it happened to reach the disk.
    KeepsAll,
    /// Only the process died: reads still show all of it, and a power cut can still take it.
    ProcessDies,
    /// Each sector and each name survives or not, as this seed has it.
    Random(u64),
}

/// What goes wrong, and when. Operations that change something are counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// This operation fails with an I/O error; those after it work.
    FailsAt(u64),
    /// This operation and all after it fail: the power is off.
    PowerOffAt(u64),
    /// From this operation on there is no space left.
    FullFrom(u64),
    /// From this operation on no file can be opened, nor made: too many are.
    NoFilesFrom(u64),
}

/// Blocks of a small ext4: a claim that finds no space ends behind one of them.
const SMALL_BLOCK_BYTES: u64 = 1024;

/// The simulated disk; clones share it.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    released: Arc<Condvar>,
}

#[derive(Debug, Default)]
struct State {
    files: Vec<Content>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    dirs: BTreeSet<PathBuf>,
    locked: BTreeSet<PathBuf>,
    capacity: Option<u64>,
    operations: u64,
    syncs: u64,
    direct_reads: u64,
    faults: Vec<Fault>,
    syncs_held: bool,
    syncs_released: u32,
    waits_for_sync: bool,
}

#[derive(Debug, Clone, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// What was written since the last sync, and where: any of it may be what a crash leaves.
    dirty: Vec<(usize, Vec<u8>)>,
}

struct SimFile {
    state: Arc<Mutex<State>>,
    released: Arc<Condvar>,
    number: usize,
    reads: Reads,
}

/// What reads a file takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reads {
    Any,
    /// Those that are aligned, as past the page cache.
    Aligned,
}

impl std::fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimDisk")
    }
}

impl std::fmt::Debug for SimFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimFile({})", self.number)
    }
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimDisk {
    /// An empty disk without an end.
    #[must_use]
    pub fn new() -> Self {
        Self { state: Arc::default(), released: Arc::default() }
    }

    fn from_state(state: State) -> Self {
        Self { state: Arc::new(Mutex::new(state)), released: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Arranges for something to go wrong.
    pub fn inject(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    /// Forgets all faults arranged for.
    pub fn heal(&self) {
        self.state().faults.clear();
    }

    /// Operations so far that change something: what faults are counted in.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Successful syncs of files so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// Reads past the page cache so far.
    #[must_use]
    pub fn direct_reads(&self) -> u64 {
        self.state().direct_reads
    }

    /// Keeps syncs of files waiting until [`Self::release_syncs`].
    pub fn hold_syncs(&self) {
        self.state().syncs_held = true;
    }

    /// Lets one sync go on, that waits or comes next.
    pub fn release_a_sync(&self) {
        self.state().syncs_released += 1;
        self.released.notify_all();
    }

    /// Lets the syncs go on.
    pub fn release_syncs(&self) {
        self.state().syncs_held = false;
        self.released.notify_all();
    }

    /// Whether a sync is being held.
    #[must_use]
    pub fn holds_a_sync(&self) -> bool {
        self.state().waits_for_sync
    }

    /// Bounds the bytes of all files together; none: no bound.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// The disk as it is found after a crash: unlocked, healed; this one is left as it was.
    #[must_use]
    pub fn crash(&self, crash: Crash) -> Self {
        let state = self.state();
        let mut random = match crash {
            Crash::Random(seed) => Some(fastrand::Rng::with_seed(seed)),
            Crash::LosesAll | Crash::KeepsAll | Crash::ProcessDies => None,
        };
        if crash == Crash::ProcessDies {
            return Self::from_state(State {
                files: state.files.clone(),
                names: state.names.clone(),
                durable_names: state.durable_names.clone(),
                dirs: state.dirs.clone(),
                capacity: state.capacity,
                ..State::default()
            });
        }
        let mut survives = || match (&mut random, crash) {
            (Some(random), _) => random.bool(),
            (None, crash) => crash == Crash::KeepsAll,
        };
        let mut names = state.durable_names.clone();
        let all: BTreeSet<&PathBuf> =
            state.names.keys().chain(state.durable_names.keys()).collect();
        for path in all {
            let now = state.names.get(path);
            if now != state.durable_names.get(path) && survives() {
                match now {
                    Some(number) => names.insert(path.clone(), *number),
                    None => names.remove(path),
                };
            }
        }
        let files = state.files.iter().map(|file| file.crash(&mut survives)).collect();
        let after = State {
            files,
            durable_names: names.clone(),
            names,
            dirs: state.dirs.clone(),
            capacity: state.capacity,
            ..State::default()
        };
        Self::from_state(after)
    }

    /// Changes bytes of a file behind everybody's back, durably.
    pub fn damage(&self, path: &Path, damage: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let number = state.names.get(path).copied();
        if let Some(file) = number.and_then(|number| state.files.get_mut(number)) {
            damage(&mut file.now);
            file.durable = file.now.clone();
            file.dirty.clear();
        }
    }

    /// All bytes of a file, as reads show them.
    #[must_use]
    pub fn bytes(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state();
        state.files.get(*state.names.get(path)?).map(|file| file.now.clone())
    }

    fn open(&self, path: &Path, reads: Reads) -> io::Result<Arc<dyn DiskFile>> {
        let found = self.state();
        found.may_open()?;
        let number = *found.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        drop(found);
        let (state, released) = (self.state.clone(), self.released.clone());
        Ok(Arc::new(SimFile { state, released, number, reads }))
    }
}

impl Content {
    fn crash(&self, survives: &mut impl FnMut() -> bool) -> Self {
        let mut bytes = self.durable.clone();
        if self.now.len() != bytes.len() && survives() {
            bytes.resize(self.now.len(), 0);
        }
        for (start, written) in &self.dirty {
            let end = start + written.len();
            let mut at = *start;
            while at < end {
                let next = ((at / SECTOR_BYTES + 1) * SECTOR_BYTES).min(end);
                let new = written.get(at - start..next - start);
                if survives()
                    && let (Some(new), Some(old)) = (new, bytes.get_mut(at..next))
                {
                    old.copy_from_slice(new);
                }
                at = next;
            }
        }
        Self { now: bytes.clone(), durable: bytes, dirty: Vec::new() }
    }
}

impl State {
    /// Counts an operation, and fails it where that is arranged.
    fn step(&mut self) -> io::Result<()> {
        self.operations += 1;
        let now = self.operations;
        let fails = self.faults.iter().any(|fault| match fault {
            Fault::FailsAt(at) => *at == now,
            Fault::PowerOffAt(at) => now >= *at,
            Fault::FullFrom(_) | Fault::NoFilesFrom(_) => false,
        });
        if fails { Err(io::Error::other("simulated fault")) } else { Ok(()) }
    }

    fn is_full(&self) -> bool {
        let now = self.operations;
        self.faults.iter().any(|fault| matches!(fault, Fault::FullFrom(at) if now >= *at))
    }

    /// Fails where no file can be had.
    fn may_open(&self) -> io::Result<()> {
        let now = self.operations;
        let none = |fault: &Fault| matches!(fault, Fault::NoFilesFrom(at) if now >= *at);
        if self.faults.iter().any(none) { Err(rustix::io::Errno::MFILE.into()) } else { Ok(()) }
    }

    fn free(&self) -> u64 {
        if self.is_full() {
            return 0;
        }
        self.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.used()))
    }

    fn used(&self) -> u64 {
        let numbers: BTreeSet<usize> =
            self.names.values().chain(self.durable_names.values()).copied().collect();
        numbers.iter().filter_map(|n| self.files.get(*n)).map(|file| file.now.len() as u64).sum()
    }

    fn file(&mut self, number: usize) -> io::Result<&mut Content> {
        self.files.get_mut(number).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn grow(&mut self, number: usize, len: usize) -> io::Result<()> {
        let now = self.file(number)?.now.len();
        if len <= now {
            return Ok(());
        }
        if self.free() < (len - now) as u64 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file(number)?.now.resize(len, 0);
        Ok(())
    }
}

fn size(value: u64) -> io::Result<usize> {
    usize::try_from(value).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.reads == Reads::Aligned && !is_aligned(buffer, offset) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.direct_reads += u64::from(self.reads == Reads::Aligned);
        let rest = state.file(self.number)?.now.get(size(offset)?..).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..len), rest.get(..len)) {
            to.copy_from_slice(from);
        }
        Ok(len)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let step = state.step();
        let start = size(offset)?;
        let end = start.saturating_add(bytes.len());
        // A failing write may have got part of the way.
        let kept = if step.is_ok() { bytes.len() } else { bytes.len() / 2 };
        state.grow(self.number, end)?;
        let file = state.file(self.number)?;
        if let (Some(to), Some(from)) = (file.now.get_mut(start..start + kept), bytes.get(..kept)) {
            to.copy_from_slice(from);
            file.dirty.push((start, from.to_vec()));
        }
        step
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.syncs_held && state.syncs_released == 0 {
            state.waits_for_sync = true;
            state = self.released.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waits_for_sync = false;
        state.syncs_released = state.syncs_released.saturating_sub(1);
        let step = state.step();
        state.syncs += u64::from(step.is_ok());
        let file = state.file(self.number)?;
        let dirty = std::mem::take(&mut file.dirty);
        if step.is_ok() {
            file.durable.resize(file.now.len(), 0);
            for (start, written) in dirty {
                let end = (start + written.len()).min(file.now.len());
                if let (Some(new), Some(old)) =
                    (file.now.get(start..end), file.durable.get_mut(start..end))
                {
                    old.copy_from_slice(new);
                }
            }
        }
        step
    }

    fn len(&self) -> io::Result<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(state.file(self.number)?.now.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.step()?;
        let len = size(len)?;
        state.grow(self.number, len)?;
        state.file(self.number)?.now.truncate(len);
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.step()?;
        let claimed = state.grow(self.number, size(len)?);
        if claimed.is_err() {
            // It has got the blocks that there were.
            let now = state.file(self.number)?.now.len();
            let blocks = state.free() / SMALL_BLOCK_BYTES * SMALL_BLOCK_BYTES;
            state.grow(self.number, now + size(blocks)?)?;
        }
        claimed
    }
}

impl Disk for SimDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.state().dirs.insert(dir.to_owned());
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        let inside = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.open(path, Reads::Any)
    }

    fn open_direct(&self, path: &Path) -> Option<Arc<dyn DiskFile>> {
        self.open(path, Reads::Aligned).ok()
    }

    fn open_write(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.open(path, Reads::Any)
    }

    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        state.step()?;
        state.may_open()?;
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let number = state.files.len();
        state.files.push(Content::default());
        state.names.insert(path.to_owned(), number);
        drop(state);
        self.open(path, Reads::Any)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        let number = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), number);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        state.names.remove(path).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        let inside = |path: &PathBuf| path.parent() == Some(dir);
        let now: Vec<_> = state
            .names
            .iter()
            .filter(|(path, _)| inside(path))
            .map(|(path, number)| (path.clone(), *number))
            .collect();
        state.durable_names.retain(|path, _| !inside(path));
        state.durable_names.extend(now);
        Ok(())
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(self.state().free())
    }

    fn lock(&self, dir: &Path) -> Result<LockGuard, LockError> {
        if !self.state().locked.insert(dir.to_owned()) {
            return Err(LockError::Held { dir: dir.to_owned(), pid: "simulated".to_owned() });
        }
        Ok(LockGuard(Box::new(SimLock { state: self.state.clone(), dir: dir.to_owned() })))
    }
}

struct SimLock {
    state: Arc<Mutex<State>>,
    dir: PathBuf,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).locked.remove(&self.dir);
    }
}

#[cfg(test)]
mod tests;
