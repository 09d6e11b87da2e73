//! Tells `dev` which plugins to build again, once their sources have come to rest.
//!
//! What a build writes itself (modules, target folders, lock files) never makes a plugin dirty, or
//! every build would ask for the next.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher, event::ModifyKind};

use super::Language;

/// Changes that wait for the watching thread; over it, every plugin counts as changed.
const CHANGES_MAX: usize = 4096;
/// Sets of dirty plugins that wait for `dev`.
const DIRTY_MAX: usize = 16;

/// Watches until it is dropped.
#[derive(Debug)]
pub struct SourceWatcher {
    // Dropping it closes the channel of changes, which ends the thread.
    _watcher: RecommendedWatcher,
}

/// Folders of plugins whose sources have changed and come to rest: each set sorted, never empty.
pub type DirtyPlugins = tokio::sync::mpsc::Receiver<Vec<PathBuf>>;

impl SourceWatcher {
    /// Watches `dirs`, each a plugin's folder or a folder of them; folders that appear later too. A
    /// plugin is reported once nothing in it has changed for `settle` (100 ms is a good measure).
    ///
    /// Needs no runtime; the receiver may be polled on any, or with `blocking_recv`.
    ///
    /// # Errors
    /// Where a folder is not there, or the system has no more watches to give.
    pub fn start(dirs: &[PathBuf], settle: Duration) -> notify::Result<(Self, DirtyPlugins)> {
        let mut roots = Vec::with_capacity(dirs.len());
        for dir in dirs {
            roots.push(dir.canonicalize().map_err(notify::Error::io)?);
        }
        let (changes, changed) = sync_channel(CHANGES_MAX);
        let (dirty, plugins) = tokio::sync::mpsc::channel(DIRTY_MAX);
        let overflow = Arc::new(AtomicBool::new(false));
        let mut watcher = watcher(changes, Arc::clone(&overflow))?;
        for root in &roots {
            watcher.watch(root, RecursiveMode::Recursive)?;
        }
        std::thread::Builder::new()
            .name("tidegate-sources".to_owned())
            .spawn(move || follow(&roots, settle, &changed, &overflow, &dirty))
            .map_err(notify::Error::io)?;
        Ok((Self { _watcher: watcher }, plugins))
    }
}

fn watcher(
    changes: SyncSender<PathBuf>,
    overflow: Arc<AtomicBool>,
) -> notify::Result<RecommendedWatcher> {
    notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else { return overflow.store(true, Ordering::Relaxed) };
        // Builds read sources, and touch their times: neither is a change.
        let reads =
            matches!(event.kind, EventKind::Access(_) | EventKind::Modify(ModifyKind::Metadata(_)));
        if event.need_rescan() {
            overflow.store(true, Ordering::Relaxed);
        }
        for path in event.paths.into_iter().filter(|_| !reads) {
            if changes.try_send(path).is_err() {
                overflow.store(true, Ordering::Relaxed);
            }
        }
    })
}

fn follow(
    roots: &[PathBuf],
    settle: Duration,
    changed: &Receiver<PathBuf>,
    overflow: &AtomicBool,
    dirty: &tokio::sync::mpsc::Sender<Vec<PathBuf>>,
) {
    let mut settling = Settling::new(settle);
    loop {
        let wait = settling.wait(Instant::now()).unwrap_or(settle.max(Duration::from_secs(1)));
        match changed.recv_timeout(wait) {
            Ok(path) => {
                if let Some(plugin) = plugin_of(roots, &path) {
                    settling.touch(plugin, Instant::now());
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if overflow.swap(false, Ordering::Relaxed) {
            for found in roots.iter().filter_map(|root| super::find(root).ok()).flatten() {
                settling.touch(found.dir, Instant::now());
            }
        }
        let settled = settling.settled(Instant::now());
        if !settled.is_empty() && dirty.blocking_send(settled).is_err() {
            return;
        }
    }
}

/// The plugin whose build this has a say in, if any: a file that does, or a folder that is there. What
/// was put into a folder before it was watched is told by nothing but the folder. A plugin that comes
/// whole, with a module as new as its sources, was built where it comes from.
fn plugin_of(roots: &[PathBuf], path: &Path) -> Option<PathBuf> {
    let root = roots.iter().find(|root| path.starts_with(root))?;
    let plugin = if Language::of(root).is_some() {
        root.clone()
    } else {
        root.join(path.strip_prefix(root).ok()?.components().next()?)
    };
    let relative = path.strip_prefix(&plugin).ok()?;
    let comes = may_hold_sources(relative) && path.is_dir();
    let is_built = || path == plugin && has_new_module(&plugin);
    (makes_dirty(relative) || (comes && !is_built())).then_some(plugin)
}

/// Whether a plugin's folder has a module that none of its sources is newer than.
fn has_new_module(plugin: &Path) -> bool {
    let time = |path: &Path| path.metadata().and_then(|known| known.modified()).ok();
    let entries = std::fs::read_dir(plugin).into_iter().flatten().flatten();
    let modules = entries.map(|entry| entry.path());
    let modules = modules.filter(|path| path.extension() == Some("wasm".as_ref()));
    let Some(made) = modules.filter_map(|module| time(&module)).max() else { return false };
    let sources = sources(plugin, SOURCES_MAX);
    sources.len() < SOURCES_MAX && sources.iter().all(|path| time(path).is_some_and(|t| t <= made))
}

/// Sources of which the times are looked at: a plugin with more is built.
const SOURCES_MAX: usize = 10_000;
/// Endings of files that compilers read.
const SOURCES: [&str; 10] = ["rs", "js", "mjs", "ts", "mts", "py", "c", "h", "go", "wit"];
/// Files with other endings that builds read.
const MANIFESTS: [&str; 9] = [
    "Cargo.toml",
    "plugin.toml",
    "package.json",
    "tsconfig.json",
    "asconfig.json",
    "pyproject.toml",
    "go.mod",
    "go.sum",
    "rust-toolchain.toml",
];
/// Folders of what tools fetch and make, and of what is no part of the module.
const NOT_SOURCES: [&str; 6] = ["target", "node_modules", "__pycache__", "venv", "events", "tests"];

/// Whether a change of this file, relative to the plugin's folder, asks for a build: manifests and
/// sources of any language, and everything under `src`.
#[must_use]
pub fn makes_dirty(relative: &Path) -> bool {
    let mut names = Vec::new();
    for part in relative.components() {
        let Component::Normal(name) = part else { return false };
        names.push(name.to_str().unwrap_or_default());
    }
    let Some((file, folders)) = names.split_last() else { return false };
    let foreign = |name: &&str| name.starts_with('.') || NOT_SOURCES.contains(name);
    // Under `src` only the author decides what a folder is for.
    let in_src = folders.first() == Some(&"src");
    if file.starts_with('.') || (!in_src && folders.iter().any(foreign)) {
        return false;
    }
    let ending = Path::new(file).extension().and_then(|ending| ending.to_str());
    if in_src {
        return ending != Some("wasm");
    }
    ending.is_some_and(|ending| SOURCES.contains(&ending))
        || (folders.is_empty() && MANIFESTS.contains(file))
}

/// Whether a folder, relative to the plugin's, is one in which a file can make the plugin dirty.
fn may_hold_sources(folder: &Path) -> bool {
    makes_dirty(&folder.join("x.rs"))
}

/// The files in a plugin's folder that [`makes_dirty`] names, at most `most` of them; what cannot be
/// read is left out.
#[must_use]
pub fn sources(plugin: &Path, most: usize) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![plugin.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(listing) = std::fs::read_dir(&folder) else { continue };
        for entry in listing.map_while(Result::ok) {
            let path = entry.path();
            let Ok(relative) = path.strip_prefix(plugin) else { continue };
            let kind = entry.file_type();
            // A folder is looked into where a file in it could count.
            if kind.as_ref().is_ok_and(std::fs::FileType::is_dir) {
                if may_hold_sources(relative) {
                    folders.push(path);
                }
            } else if makes_dirty(relative) {
                found.push(path);
            }
            if found.len() >= most {
                return found;
            }
        }
    }
    found
}

/// Which plugins have changed, and since when they are quiet.
#[derive(Debug)]
struct Settling {
    settle: Duration,
    last_change: BTreeMap<PathBuf, Instant>,
}

impl Settling {
    fn new(settle: Duration) -> Self {
        Self { settle, last_change: BTreeMap::new() }
    }

    fn touch(&mut self, plugin: PathBuf, now: Instant) {
        self.last_change.insert(plugin, now);
    }

    /// How long until something may have settled; none: nothing is waiting.
    fn wait(&self, now: Instant) -> Option<Duration> {
        let quiet = |last: &Instant| now.saturating_duration_since(*last);
        self.last_change.values().map(|last| self.settle.saturating_sub(quiet(last))).min()
    }

    /// Takes out the plugins that have settled.
    fn settled(&mut self, now: Instant) -> Vec<PathBuf> {
        let settle = self.settle;
        let quiet = |last: &Instant| now.saturating_duration_since(*last) >= settle;
        let settled: Vec<PathBuf> = (self.last_change.iter())
            .filter(|(_, last)| quiet(last))
            .map(|(plugin, _)| plugin.clone())
            .collect();
        for plugin in &settled {
            self.last_change.remove(plugin);
        }
        settled
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, Instant, Path, PathBuf, Settling, SourceWatcher, makes_dirty, sources};

    #[test]
    fn only_sources_make_a_plugin_dirty() {
        for (file, dirty) in [
            ("src/lib.rs", true),
            ("src/deep/er.rs", true),
            ("Cargo.toml", true),
            ("plugin.toml", true),
            ("index.js", true),
            ("lib/more.ts", true),
            ("tsconfig.json", true),
            ("main.py", true),
            ("totals.c", true),
            ("tidegate/tidegate.go", true),
            ("assembly/index.ts", true),
            ("src/table.csv", true),
            ("src/tests/more.rs", true),
            ("tests/adds-up.toml", false),
            ("tests/native.rs", false),
            ("README.md", false),
            ("package-lock.json", false),
            ("node_modules/x/index.js", false),
            (".venv/lib/x.py", false),
            ("src/.index.js.swp", false),
            ("target/release/x.d", false),
            ("target/src/x.rs", false),
            ("totals.wasm", false),
            ("src/fixture.wasm", false),
            (".totals.wasm.7.new", false),
            ("Cargo.lock", false),
            ("events/sample.json", false),
            ("", false),
        ] {
            assert_eq!(makes_dirty(Path::new(file)), dirty, "{file}");
        }
    }

    #[test]
    fn sources_are_those_that_make_dirty() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["index.ts", "node_modules/x/index.js", "lib/a/b.ts", "x.wasm", "tests/t.toml"]
        {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let mut found = sources(dir.path(), 10);
        found.sort();
        assert_eq!(found, [dir.path().join("index.ts"), dir.path().join("lib/a/b.ts")]);
    }

    #[test]
    fn plugin_settles_after_its_last_change() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut settling = Settling::new(Duration::from_millis(100));
        assert_eq!(settling.wait(at(0)), None);
        settling.touch("a".into(), at(0));
        settling.touch("b".into(), at(50));
        settling.touch("a".into(), at(80));
        assert_eq!(settling.wait(at(80)), Some(Duration::from_millis(70)));
        assert!(settling.settled(at(149)).is_empty());
        assert_eq!(settling.settled(at(150)), [PathBuf::from("b")]);
        assert_eq!(settling.settled(at(180)), [PathBuf::from("a")]);
        assert_eq!(settling.wait(at(180)), None);
    }

    #[test]
    fn changed_source_is_reported_with_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("totals/src")).unwrap();
        std::fs::write(root.join("totals/Cargo.toml"), "[package]\nname = \"totals\"").unwrap();
        let (_watcher, mut plugins) =
            SourceWatcher::start(std::slice::from_ref(&root), Duration::from_millis(1)).unwrap();
        std::fs::write(root.join("totals/totals.wasm"), "no change of a source").unwrap();
        std::fs::write(root.join("totals/src/lib.rs"), "fn f() {}").unwrap();
        assert_eq!(plugins.blocking_recv(), Some(vec![root.join("totals")]));
    }

    /// A new project was missed where it was complete before its folder was watched: then only the
    /// folder is told of.
    #[test]
    fn folder_that_comes_with_its_sources_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        let root = base.join("plugins");
        for folder in ["plugins/old/target", "elsewhere/src", "deep"] {
            std::fs::create_dir_all(base.join(folder)).unwrap();
        }
        std::fs::write(base.join("elsewhere/Cargo.toml"), "[package]\nname = \"new\"").unwrap();
        std::fs::write(base.join("deep/more.rs"), "fn f() {}").unwrap();
        let (_watcher, mut plugins) =
            SourceWatcher::start(std::slice::from_ref(&root), Duration::from_millis(1)).unwrap();
        // What a build makes is none of it.
        std::fs::create_dir(root.join("old/target/release")).unwrap();
        std::fs::rename(base.join("elsewhere"), root.join("new")).unwrap();
        assert_eq!(plugins.blocking_recv(), Some(vec![root.join("new")]));
        std::fs::rename(base.join("deep"), root.join("new/src/deep")).unwrap();
        assert_eq!(plugins.blocking_recv(), Some(vec![root.join("new")]));
    }

    /// Interpreters give other bytes each time: built once more, it would be another version.
    #[test]
    fn folder_that_comes_with_a_module_of_its_sources_is_not_reported() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        let root = base.join("plugins");
        std::fs::create_dir(&root).unwrap();
        let make = |name: &str, files: [&str; 2]| {
            std::fs::create_dir_all(base.join(name).join("src")).unwrap();
            for (file, second) in files.into_iter().zip(1..) {
                let file = std::fs::File::create(base.join(name).join(file)).unwrap();
                let time = std::time::UNIX_EPOCH + Duration::from_secs(second);
                file.set_modified(time).unwrap();
            }
        };
        make("built", ["src/lib.rs", "built.wasm"]);
        make("changed", ["changed.wasm", "src/lib.rs"]);
        let (_watcher, mut plugins) =
            SourceWatcher::start(std::slice::from_ref(&root), Duration::from_millis(1)).unwrap();
        for name in ["built", "changed"] {
            std::fs::rename(base.join(name), root.join(name)).unwrap();
        }
        assert_eq!(plugins.blocking_recv(), Some(vec![root.join("changed")]));
        std::fs::write(root.join("built/src/lib.rs"), "fn f() {}").unwrap();
        assert_eq!(plugins.blocking_recv(), Some(vec![root.join("built")]));
    }
}
