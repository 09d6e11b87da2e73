//! Checkpoints of the fold: immutable files from which a restart goes on instead of from the log's
//! beginning. `CHECKPOINT.md` has their bytes.
//!
//! A checkpoint is written beside its final name, synced, renamed, and its directory synced; only
//! then older ones are removed, all but the two newest. Reading tries the newest first.
//!
//! Rule: no checkpoint is believed but a whole one of this log at a commit that the log has; one
//! that is not is set aside under another name and said so, never removed.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::cold::ColdError;
use super::ledger::{At, Ledger};
use super::values::Values;
use crate::event::CommitNumber;
use crate::log::disk::{Disk, DiskFile};
pub use fill::{Fill, FillError, Filled};
pub use format::ChainStart;
use format::Header;
#[cfg(test)]
pub(crate) use fuzz::fuzz;
pub use ledger::{newest_header, newest_ledger, origin};
use prove::{Proven, prove};
use read::{Expected, Refused};
use write::Writer;

mod fill;
mod format;
#[cfg(test)]
mod fuzz;
mod ledger;
mod prove;
mod read;
#[cfg(test)]
mod tests;
mod walk;
mod write;

/// Checkpoints that are kept: the older is there for the case that the newer is damaged.
const KEPT: usize = 2;
/// Timers taken out under one lock.
const TIMERS_AT_ONCE: usize = 4096;
/// Folder of the checkpoints in a bus folder.
pub const DIR: &str = "checkpoints";
const SUFFIX: &str = ".checkpoint";
const SUFFIX_NEW: &str = ".checkpoint.new";
/// Digits of the commit in a name, so that names sort as numbers do.
const NAME_DIGITS: usize = 20;

/// The checkpoints of one bus. One caller at a time writes.
#[derive(Debug)]
pub struct Checkpoints {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    log_id: Uuid,
    policy: CheckpointPolicy,
    /// Known to be of no use, but still under their names: not counted as kept.
    useless: Mutex<Vec<CommitNumber>>,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Bytes of the file.
    pub bytes: u64,
    /// Keys with state.
    pub keys: u64,
    /// Time it took.
    pub took: Duration,
}

/// Why a checkpoint was not written, or none could be looked for.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The disk failed.
    #[error("checkpoint `{}`: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The cold store failed.
    #[error(transparent)]
    Cold(#[from] ColdError),
}

/// When the fold writes a checkpoint: whatever comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointPolicy {
    /// Bytes of log folded since the last one.
    pub every_bytes: u64,
    /// Commits folded since the last one.
    pub every_commits: u64,
}

impl Default for CheckpointPolicy {
    fn default() -> Self {
        Self { every_bytes: 256 * 1024 * 1024, every_commits: 2_000_000 }
    }
}

impl CheckpointPolicy {
    /// Whether one is to be written, that much after the last one.
    #[must_use]
    pub const fn due(&self, bytes_folded_since: u64, commits_since: u64) -> bool {
        bytes_folded_since >= self.every_bytes || commits_since >= self.every_commits
    }
}

impl Checkpoints {
    /// Opens or creates the directory `dir`; what a crash left half written there is removed.
    ///
    /// # Errors
    /// The disk's.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, log_id: Uuid) -> io::Result<Self> {
        disk.create_dir_all(dir)?;
        for name in disk.list(dir)? {
            if name.ends_with(SUFFIX_NEW) {
                disk.remove(&dir.join(name))?;
            }
        }
        let policy = CheckpointPolicy::default();
        Ok(Self { disk, dir: dir.to_owned(), log_id, policy, useless: Mutex::default() })
    }

    /// The same, written as often as `policy` says.
    #[must_use]
    pub fn with_policy(self, policy: CheckpointPolicy) -> Self {
        Self { policy, ..self }
    }

    /// When they are to be written.
    #[must_use]
    pub const fn policy(&self) -> CheckpointPolicy {
        self.policy
    }

    /// Finds the newest good checkpoint at or below `last_commit`, the last one of the log: gives the
    /// ledger and where it stands, and what is left to do, which is to fill in the keys. Until that has
    /// run, whoever asks `values`, which are to be empty, for a key waits. None: `values` are empty, and
    /// the fold begins with the log's first commit.
    ///
    /// Blocks until the file is proven to be whole. Those that cannot be used are set aside, each with a
    /// warning.
    ///
    /// # Errors
    /// As [`Checkpoints::newest`].
    pub fn find(
        &self,
        values: &Arc<Values>,
        last_commit: CommitNumber,
    ) -> Result<Option<(Ledger, At, Fill)>, CheckpointError> {
        self.newest_good(values, last_commit, |file, Proven { ledger, at, chain, keys }| {
            let (path, expected) = (self.path(at.commit), self.expected(at.commit));
            values.shards.gate().close();
            Ok((ledger, at, Fill { file, path, expected, keys, chain, values: Arc::clone(values) }))
        })
    }

    /// As [`Checkpoints::find`], with all keys filled in.
    ///
    /// # Errors
    /// The directory cannot be read, the cold store cannot be emptied, or a checkpoint beyond the log's end
    /// cannot be set aside: the log would grow past it and then seem to be what it was made of.
    pub fn newest(
        &self,
        values: &Values,
        last_commit: CommitNumber,
    ) -> Result<Option<(Ledger, At)>, CheckpointError> {
        self.newest_good(values, last_commit, |file, Proven { ledger, at, keys, .. }| {
            fill::fill(&*file, self.expected(at.commit), (values, keys), || true)?;
            Ok((ledger, at))
        })
    }

    /// What `make` makes of the newest checkpoint that is good, for it as well.
    fn newest_good<T>(
        &self,
        values: &Values,
        last_commit: CommitNumber,
        make: impl Fn(Arc<dyn DiskFile>, Proven) -> Result<T, Refused>,
    ) -> Result<Option<T>, CheckpointError> {
        for commit in self.commits()?.into_iter().rev() {
            let file = self.open_one(commit, last_commit);
            let made = file.and_then(|file| {
                let proven = prove(&*file, self.expected(commit), values)?;
                make(file, proven)
            });
            let refused = match made {
                Ok(made) => return Ok(Some(made)),
                Err(refused) => refused,
            };
            values.clear()?;
            self.set_aside(commit, &refused)?;
        }
        Ok(None)
    }

    fn open_one(
        &self,
        commit: CommitNumber,
        last_commit: CommitNumber,
    ) -> Result<Arc<dyn DiskFile>, Refused> {
        let file = self.disk.open_read(&self.path(commit))?;
        if commit > last_commit { Err(Refused::Ahead(last_commit)) } else { Ok(file) }
    }

    const fn expected(&self, commit: CommitNumber) -> Expected {
        Expected { log_id: self.log_id, commit }
    }

    /// Writes the fold as it is after the commit `at`, behind which the log has `chain`. Blocks; holds about
    /// 1 MiB of it in memory. Nothing may be applied to `values` meanwhile; deliveries may go on. One of the
    /// same commit is replaced.
    ///
    /// # Errors
    /// The disk's, `StorageFull` also where little is left for the log; and the cold store's. The
    /// checkpoints from before are still there then.
    pub fn write(
        &self,
        ledger: &Ledger,
        values: &Values,
        at: At,
        chain: &[u8; 32],
    ) -> Result<Written, CheckpointError> {
        let start = Instant::now();
        let beside = self.dir.join(format!("{}{SUFFIX_NEW}", digits(at.commit)));
        let path = self.path(at.commit);
        let failed = |source| CheckpointError::Io { path: path.clone(), source };
        let file = self.create(&beside).map_err(failed)?;
        let header = Header { log_id: self.log_id, at, chain: ChainStart::of(chain) };
        let written = self.fill(&*file, ledger, values, &header).and_then(|written| {
            self.disk.rename(&beside, &path).map_err(failed)?;
            Ok(written)
        });
        let (counts, bytes) = written.inspect_err(|_| {
            // Best effort: the error that counts is the one before, and nobody reads this name.
            let _ = self.disk.remove(&beside);
        })?;
        self.disk.sync_dir(&self.dir).map_err(failed)?;
        self.remove_older(at.commit);
        Ok(Written { bytes, keys: counts.keys, took: start.elapsed() })
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        match self.disk.create_new(path) {
            // Left by a write that failed, and could not be removed then.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.disk.remove(path)?;
                self.disk.create_new(path)
            }
            created => created,
        }
    }

    fn fill(
        &self,
        file: &dyn DiskFile,
        ledger: &Ledger,
        values: &Values,
        header: &Header,
    ) -> Result<(format::Counts, u64), CheckpointError> {
        let failed = |source| CheckpointError::Io { path: self.path(header.at.commit), source };
        let free_bytes = || self.disk.free_bytes(&self.dir);
        let mut writer = Writer::begin(file, header, free_bytes).map_err(failed)?;
        writer.ledger(ledger).map_err(failed)?;
        values.each(|owner, values| writer.key(owner, values).map_err(failed))?;
        let mut after = None;
        loop {
            // Some at a time: deliveries look at them meanwhile.
            let rows = values.timers().rows(after, TIMERS_AT_ONCE);
            after = rows.last().map(|row| (row.holder, row.id));
            if after.is_none() {
                break;
            }
            writer.timers(&rows).map_err(failed)?;
        }
        writer.finish().map_err(failed)
    }

    /// Removes all but the newest up to `written`. What cannot be removed is tried again next time.
    fn remove_older(&self, written: CommitNumber) {
        let useless = self.useless();
        let mut kept = self.commits().unwrap_or_default();
        kept.retain(|commit| *commit <= written && !useless.contains(commit));
        for commit in kept.into_iter().rev().skip(KEPT) {
            let path = self.path(commit);
            if let Err(error) = self.disk.remove(&path) {
                tracing::warn!(path = %path.display(), %error, "an old checkpoint stays");
            }
        }
    }

    /// Sets one aside that was made of commits which the log does not have.
    ///
    /// # Errors
    /// It has no other name now, and would be found again.
    pub fn set_aside_diverged(&self, commit: CommitNumber) -> Result<(), CheckpointError> {
        self.set_aside(commit, &Refused::Diverged(commit))
    }

    /// Gives a checkpoint that cannot be used a name under which nobody looks for it.
    fn set_aside(&self, commit: CommitNumber, refused: &Refused) -> Result<(), CheckpointError> {
        let path = self.path(commit);
        tracing::warn!(path = %path.display(), "a checkpoint is not used: {refused}");
        let why = match refused {
            Refused::Damaged { .. } => "damaged",
            Refused::Foreign | Refused::Diverged(_) => "foreign",
            Refused::Ahead(_) => "ahead",
            // It may be good: for a newer host, or once the disk can be read again.
            Refused::Newer(_) | Refused::Io(_) => {
                self.useless().push(commit);
                return Ok(());
            }
        };
        let renamed = self.free_name(commit, why).and_then(|aside| {
            self.disk.rename(&path, &aside)?;
            self.disk.sync_dir(&self.dir)
        });
        match (renamed, refused) {
            (Ok(()), _) => Ok(()),
            (Err(source), Refused::Ahead(_) | Refused::Diverged(_)) => {
                Err(CheckpointError::Io { path, source })
            }
            // It will be found to be what it is again.
            (Err(error), _) => {
                tracing::warn!(path = %path.display(), %error, "it cannot be set aside");
                self.useless().push(commit);
                Ok(())
            }
        }
    }

    /// A name that no file has: what was set aside before stays.
    fn free_name(&self, commit: CommitNumber, why: &str) -> io::Result<PathBuf> {
        let taken = self.disk.list(&self.dir)?;
        let plain = format!("{}{SUFFIX}.{why}", digits(commit));
        let mut name = plain.clone();
        for number in 2_u32.. {
            if !taken.contains(&name) {
                break;
            }
            name = format!("{plain}-{number}");
        }
        Ok(self.dir.join(name))
    }

    fn useless(&self) -> std::sync::MutexGuard<'_, Vec<CommitNumber>> {
        self.useless.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commits that there are checkpoints of, ascending.
    fn commits(&self) -> Result<Vec<CommitNumber>, CheckpointError> {
        commits_in(&*self.disk, &self.dir)
            .map_err(|source| CheckpointError::Io { path: self.dir.clone(), source })
    }

    fn path(&self, commit: CommitNumber) -> PathBuf {
        path_in(&self.dir, commit)
    }
}

/// Commits that there are checkpoints of in a folder, by their names, ascending.
///
/// # Errors
/// The disk's.
pub fn commits_in(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<CommitNumber>> {
    let names = disk.list(dir)?;
    let mut commits: Vec<_> = names.iter().filter_map(|name| commit_of(name)).collect();
    commits.sort_unstable();
    Ok(commits)
}

fn path_in(dir: &Path, commit: CommitNumber) -> PathBuf {
    dir.join(format!("{}{SUFFIX}", digits(commit)))
}

/// Whether a file is named as checkpoints are.
#[must_use]
pub fn is_checkpoint(name: &str) -> bool {
    commit_of(name).is_some()
}

fn digits(commit: CommitNumber) -> impl fmt::Display {
    fmt::from_fn(move |f| write!(f, "{:0NAME_DIGITS$}", commit.0))
}

fn commit_of(name: &str) -> Option<CommitNumber> {
    let digits = name.strip_suffix(SUFFIX)?;
    let all_digits = digits.len() == NAME_DIGITS && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|_| all_digits).map(CommitNumber)
}
