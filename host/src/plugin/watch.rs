//! Watches the plugins folder and tells of whole, settled changes.
//!
//! The file system's notifications only say when to look: what there is comes from reading the
//! folder each time, so that a lost or merged notification costs a moment and never a change.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, ModifyKind, RemoveKind};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use super::folder::{Found, Scan, SourceFiles, Stamp, scan};
use super::identity::Contender;
use super::source::{Source, SourceError};
use super::tracker::{Step, Tracker};
use crate::clock::{Clock, SystemClock};
use crate::event::Digest;
use crate::limits;

/// What happened in the plugins folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A plugin is there, new or changed.
    Present(Box<Source>),
    /// A plugin's files are there and no version of it: what ran before keeps running.
    Broken {
        /// The plugin.
        name: String,
        /// Its module file or folder.
        path: PathBuf,
        /// What is wrong, and what to change.
        why: String,
    },
    /// A plugin's files are gone.
    Removed {
        /// The plugin.
        name: String,
    },
    /// A second source for a name: it is refused while the first is there.
    SecondSource {
        /// The plugin.
        name: String,
        /// The new source.
        path: PathBuf,
        /// The source that stays.
        holder: PathBuf,
    },
    /// Something that cannot be a plugin.
    Skipped {
        /// What it is.
        path: PathBuf,
        /// What is wrong with it, and what to change.
        why: String,
    },
    /// What `Skipped` or `SecondSource` said of this path holds no longer.
    Cleared {
        /// The path.
        path: PathBuf,
    },
    /// Everything that was there at the start has been told of.
    ScanEnd,
}

/// How a folder is watched.
#[derive(Debug, Clone)]
pub struct WatchOptions {
    /// The plugins folder; need not be there yet.
    pub folder: PathBuf,
    /// Bytes of a module file.
    pub module_bytes_max: u64,
    /// Last module of each registered plugin: names that are not there at the start are told of as
    /// `Removed`, and of two sources for one name the one with this digest is the plugin.
    pub known: BTreeMap<String, Digest>,
    /// How long files have to stand still.
    pub settle: Duration,
    /// How often to look without being notified.
    pub poll: Duration,
}

/// Watches until it is dropped. One thread.
#[derive(Debug)]
pub struct Watcher {
    changes: mpsc::Receiver<Change>,
    wake: SyncSender<Wake>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Wake {
    Look,
    Stop,
}

/// Between a notification and the look at the folder: a copy causes many notifications.
const COALESCE: Duration = Duration::from_millis(10);
/// Files that were last written this long before the start are not being copied.
const OLD_MS: u64 = 2000;

impl WatchOptions {
    /// Watches `folder`, which no plugin is known of yet.
    #[must_use]
    pub fn new(folder: PathBuf, module_bytes_max: u64) -> Self {
        Self {
            folder,
            module_bytes_max,
            known: BTreeMap::new(),
            settle: Duration::from_millis(80),
            poll: Duration::from_secs(1),
        }
    }
}

impl Watcher {
    /// Starts watching: first come the changes since what was known, then [`Change::ScanEnd`].
    ///
    /// # Errors
    /// The system has no more threads.
    pub fn start(options: WatchOptions) -> io::Result<Self> {
        let (sender, changes) = mpsc::channel(limits::PLUGIN_CHANGES_MAX);
        // One place is enough: a wake-up that waits stands for all that follow it.
        let (wake, woken) = sync_channel(1);
        let notifier = Notifier::new(wake.clone());
        let tracker = Tracker::new(options.settle, options.known.clone());
        let begin = Instant::now();
        let task = Task { options, notifier, tracker, sender, begin, unreadable: None };
        let builder = std::thread::Builder::new().name("plugin-watch".to_owned());
        let thread = builder.spawn(move || task.run(&woken))?;
        Ok(Self { changes, wake, thread: Some(thread) })
    }

    /// The next change; none: the watching thread ended, which it does not do by itself. Cancel
    /// safe.
    pub async fn next(&mut self) -> Option<Change> {
        self.changes.recv().await
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // Closed first: the thread may be waiting for room in the channel.
        self.changes.close();
        while self.changes.try_recv().is_ok() {}
        // Where another wake-up is waiting, the thread sees the closed channel instead.
        let _ = self.wake.try_send(Wake::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The watching thread.
struct Task {
    options: WatchOptions,
    notifier: Notifier,
    tracker: Tracker,
    sender: mpsc::Sender<Change>,
    begin: Instant,
    /// Why the folder itself could not be read last time.
    unreadable: Option<String>,
}

/// The receiver is gone: nobody wants to know any more.
struct Closed;

impl Task {
    fn run(mut self, woken: &Receiver<Wake>) {
        loop {
            if self.look().is_err() {
                return;
            }
            match woken.recv_timeout(self.pause()) {
                Ok(Wake::Look) => std::thread::sleep(COALESCE),
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.sender.is_closed() {
                return;
            }
        }
    }

    fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    fn pause(&self) -> Duration {
        if self.unreadable.is_some() {
            return self.options.poll;
        }
        let due = self.tracker.next_due().map(|due| due.saturating_sub(self.now()));
        due.unwrap_or(self.options.poll).clamp(COALESCE, self.options.poll.max(COALESCE))
    }

    fn tell(&self, change: Change) -> Result<(), Closed> {
        self.sender.blocking_send(change).map_err(|_| Closed)
    }

    fn look(&mut self) -> Result<(), Closed> {
        let now = self.now();
        if let Some(found) = self.scan_watched()? {
            let old_ms = SystemClock::new().wall_ms().saturating_sub(OLD_MS);
            let steps = self.tracker.observe(now, found, i128::from(old_ms) * 1_000_000);
            self.perform(steps)?;
            if self.tracker.take_start_end(self.now()) {
                self.tell(Change::ScanEnd)?;
            }
        }
        Ok(())
    }

    /// What is in the folder, with every folder in it watched from before it was read. None: it
    /// cannot be read, which says nothing about the plugins in it.
    fn scan_watched(&mut self) -> Result<Option<Vec<Found>>, Closed> {
        let folder = self.options.folder.clone();
        // A folder that is new has to be read again once it is watched; then it is new no more.
        for _ in 0..3 {
            let scanned = match scan(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Scan::default(),
                Err(error) => {
                    self.tell_unreadable(&folder, format!("it cannot be read: {error}"))?;
                    return Ok(None);
                }
                Ok(scanned) => scanned,
            };
            if self.unreadable.take().is_some() {
                self.tell(Change::Cleared { path: folder.clone() })?;
            }
            if !self.notifier.watch(folders_of(&folder, &scanned)) {
                return Ok(Some(scanned.found));
            }
        }
        Ok(Some(scan(&folder).unwrap_or_default().found))
    }

    fn tell_unreadable(&mut self, folder: &Path, why: String) -> Result<(), Closed> {
        if self.unreadable.as_ref() == Some(&why) {
            return Ok(());
        }
        self.unreadable = Some(why.clone());
        self.tell(Change::Skipped { path: folder.to_owned(), why })
    }

    fn perform(&mut self, steps: Vec<Step>) -> Result<(), Closed> {
        for step in steps {
            match step {
                Step::Tell(change) => self.tell(change)?,
                Step::Read(files) => self.read(&files)?,
                Step::Contest { name, sources } => {
                    let contenders: Vec<Contender> =
                        sources.iter().map(|files| self.contender(files)).collect();
                    let steps = self.tracker.was_contested(self.now(), &name, &contenders);
                    self.perform(steps)?;
                }
            }
        }
        Ok(())
    }

    fn read(&mut self, files: &SourceFiles) -> Result<(), Closed> {
        let result = match Source::read(files, self.options.module_bytes_max) {
            Ok(source) => Some(Ok(source)),
            Err(SourceError::Changed) => None,
            Err(why) => Some(Err(why.to_string())),
        };
        let change = self.tracker.was_read(self.now(), files, result);
        change.map_or(Ok(()), |change| self.tell(change))
    }

    fn contender(&self, files: &SourceFiles) -> Contender {
        let source = Source::read(files, self.options.module_bytes_max).ok();
        Contender {
            path: files.path.clone(),
            digest: source.map(|source| source.digest),
            modified_ns: files.module.stamp.modified_ns,
        }
    }
}

/// Where changes can happen. While the plugins folder is not there, that is the folder above it.
fn folders_of(folder: &Path, scanned: &Scan) -> Vec<PathBuf> {
    let modules = scanned.found.iter().filter_map(|found| match found {
        Found::Source(files) => files.module.path.parent().map(Path::to_owned),
        _ => None,
    });
    let mut folders: Vec<PathBuf> =
        scanned.folders.iter().cloned().chain(modules).chain([folder.to_owned()]).collect();
    if !folder.exists() {
        folders.extend(folder.parent().map(Path::to_owned));
    }
    folders
}

/// Notifications about a set of folders. Without them, looking now and then has to do.
struct Notifier {
    watcher: Option<RecommendedWatcher>,
    watched: BTreeMap<PathBuf, Stamp>,
    /// A folder may have been replaced by another, maybe with the same inode: watching it does
    /// nothing then.
    stale: Arc<AtomicBool>,
    /// Said once: a limit of the system applies to every folder alike.
    complained: bool,
}

impl Notifier {
    fn new(wake: SyncSender<Wake>) -> Self {
        let stale = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stale);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let kind = event.map_or(EventKind::Any, |event| event.kind);
            if may_replace_folder(kind) {
                told.store(true, Ordering::Release);
            }
            if is_write(kind) {
                // Full: a wake-up is waiting already.
                let _ = wake.try_send(Wake::Look);
            }
        });
        let watched = BTreeMap::new();
        let mut notifier = Self { watcher: None, watched, stale, complained: false };
        match watcher {
            Ok(watcher) => notifier.watcher = Some(watcher),
            Err(error) => notifier.complain(&error),
        }
        notifier
    }

    /// Watches these folders and no others. Says whether one of them was not watched before.
    fn watch(&mut self, folders: Vec<PathBuf>) -> bool {
        let Some(watcher) = &mut self.watcher else { return false };
        let mut wanted = BTreeMap::new();
        for folder in folders {
            if let Ok(metadata) = std::fs::metadata(&folder) {
                wanted.insert(folder, Stamp::of(&metadata));
            }
        }
        // A folder that was replaced by another of the same name is watched no more.
        let stale = self.stale.swap(false, Ordering::AcqRel);
        let same = |path: &PathBuf, stamp: &Stamp| {
            !stale && wanted.get(path).is_some_and(|wanted| wanted.is_same_file(stamp))
        };
        self.watched.retain(|path, stamp| {
            let keep = same(path, stamp);
            if !keep {
                // An error means that it is gone, which is the point.
                let _ = watcher.unwatch(path);
            }
            keep
        });
        let (mut added, mut failure) = (false, None);
        for (path, stamp) in wanted {
            if self.watched.contains_key(&path) {
                continue;
            }
            match watcher.watch(&path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(path, stamp);
                    added = true;
                }
                Err(error) => failure = Some(error),
            }
        }
        if let Some(error) = failure {
            self.complain(&error);
        }
        added
    }

    fn complain(&mut self, error: &notify::Error) {
        if !self.complained {
            self.complained = true;
            tracing::warn!(%error, "file notifications do not work; changes are seen more slowly");
        }
    }
}

/// Looking at a folder causes notifications of its own: those must not cause another look.
fn is_write(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

fn may_replace_folder(kind: EventKind) -> bool {
    match kind {
        EventKind::Remove(kind) => kind != RemoveKind::File,
        EventKind::Modify(ModifyKind::Name(_)) | EventKind::Any | EventKind::Other => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
