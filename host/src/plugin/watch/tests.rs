use std::fs;
use std::os::unix::fs::symlink;

use super::*;

/// Longer than anything takes, so that it only ends tests that fail.
const DEADLINE: Duration = Duration::from_secs(20);

struct Watched {
    folder: tempfile::TempDir,
    watcher: Watcher,
}

impl Watched {
    /// Watches a folder in which `files` were there before.
    fn new(files: &[(&str, &str)]) -> Self {
        Self::knowing(files, &[])
    }

    fn knowing(files: &[(&str, &str)], known: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            write(&folder.path().join("plugins").join(path), text);
        }
        let mut options = WatchOptions::new(folder.path().join("plugins"), 1024);
        // Looking now and then would make up for a notification that was missed.
        options.poll = DEADLINE * 2;
        options.known = known
            .iter()
            .map(|(name, text)| ((*name).to_owned(), Digest::of(text.as_bytes())))
            .collect();
        let watcher = Watcher::start(options).unwrap();
        Self { folder, watcher }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join("plugins").join(path)
    }

    async fn next(&mut self) -> Change {
        let next = tokio::time::timeout(DEADLINE, self.watcher.next()).await;
        next.expect("a change within the deadline").expect("a watcher that runs")
    }

    async fn line(&mut self) -> String {
        let folder = self.path("");
        let short = |path: &Path| {
            path.strip_prefix(&folder).map_or(".".into(), |path| path.display().to_string())
        };
        match self.next().await {
            Change::Present(source) => {
                format!("{} = {}", source.name, String::from_utf8_lossy(&source.wasm))
            }
            Change::Broken { name, why, .. } => format!("{name} broken: {why}"),
            Change::Removed { name } => format!("{name} removed"),
            Change::SecondSource { name, path, holder } => {
                format!("{name} at {} refused for {}", short(&path), short(&holder))
            }
            Change::Skipped { path, why } => format!("{} skipped: {why}", short(&path)),
            Change::Cleared { path } => format!("{} cleared", short(&path)),
            Change::ScanEnd => "scan end".to_owned(),
        }
    }

    async fn expect(&mut self, lines: &[&str]) {
        for line in lines {
            assert_eq!(self.line().await, *line);
        }
    }
}

/// At once, however busy the machine is: what a slow copy looks like is tested with the tracker.
fn write(path: &Path, text: &str) {
    let folder = path.parent().unwrap();
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join(".new"), text).unwrap();
    fs::rename(folder.join(".new"), path).unwrap();
}

#[tokio::test]
async fn what_was_there_comes_first_and_then_the_end_of_the_scan() {
    let mut watched = Watched::new(&[("a.wasm", "1"), ("b/x.wasm", "2"), ("c/plugin.toml", "")]);
    let skipped = watched.line().await;
    assert!(
        skipped.starts_with("c skipped: there is no module yet: `tidegate build "),
        "{skipped}"
    );
    watched.expect(&["a = 1", "b = 2", "scan end"]).await;
}

#[tokio::test]
async fn an_empty_or_missing_folder_ends_the_scan_at_once() {
    let mut watched = Watched::new(&[]);
    watched.expect(&["scan end"]).await;
    write(&watched.path("a.wasm"), "1");
    watched.expect(&["a = 1"]).await;
}

#[tokio::test]
async fn a_new_module_is_seen_in_well_under_150_ms() {
    let mut watched = Watched::new(&[("old.wasm", "0")]);
    watched.expect(&["old = 0", "scan end"]).await;
    // A busy machine may take longer now and then; what must not be is that it always does.
    for round in 0..20 {
        let begin = Instant::now();
        write(&watched.path(&format!("new-{round}.wasm")), "1");
        watched.expect(&[&format!("new-{round} = 1")]).await;
        if begin.elapsed() < Duration::from_millis(150) {
            return;
        }
    }
    panic!("20 modules, each seen after 150 ms or more");
}

#[tokio::test]
async fn a_change_is_told_of_and_a_rewrite_of_the_same_is_not() {
    let mut watched = Watched::new(&[("a.wasm", "1")]);
    watched.expect(&["a = 1", "scan end"]).await;
    write(&watched.path("a.wasm"), "1");
    write(&watched.path("a.toml"), "description = \"now with a manifest\"");
    watched.expect(&["a = 1"]).await;
    write(&watched.path("a.wasm"), "2");
    watched.expect(&["a = 2"]).await;
    fs::remove_file(watched.path("a.wasm")).unwrap();
    let lone = "a.toml skipped: there is no module for this manifest: `a.wasm` or `a.wat`";
    watched.expect(&["a removed", lone]).await;
}

#[tokio::test]
async fn a_renamed_file_is_gone_before_it_is_there() {
    let mut watched = Watched::new(&[("z.wasm", "1")]);
    watched.expect(&["z = 1", "scan end"]).await;
    fs::rename(watched.path("z.wasm"), watched.path("a.wasm")).unwrap();
    watched.expect(&["z removed", "a = 1"]).await;
}

#[tokio::test]
async fn a_file_replaced_by_rename_is_a_change_and_no_removal() {
    let mut watched = Watched::new(&[("a.wasm", "1")]);
    watched.expect(&["a = 1", "scan end"]).await;
    write(&watched.path("a.wasm"), "2");
    watched.expect(&["a = 2"]).await;
}

#[tokio::test]
async fn a_broken_manifest_is_told_of_and_so_is_its_repair() {
    let mut watched = Watched::new(&[("a.wasm", "1")]);
    watched.expect(&["a = 1", "scan end"]).await;
    write(&watched.path("a.toml"), "limits.memry = 1");
    watched
        .expect(&["a broken: manifest `a.toml`: `limits.memry` is not a key; did you mean \
                   `limits.memory`?"])
        .await;
    fs::remove_file(watched.path("a.toml")).unwrap();
    watched.expect(&["a = 1"]).await;
}

#[tokio::test]
async fn a_module_over_the_limit_is_not_read() {
    let mut watched = Watched::new(&[("a.wasm", &"x".repeat(1025))]);
    let expected = "a broken: module `a.wasm` has 1025 bytes; at most 1024 are allowed";
    watched.expect(&[expected, "scan end"]).await;
}

#[tokio::test]
async fn a_second_source_is_refused_until_the_first_is_gone() {
    let mut watched = Watched::new(&[("a.wasm", "1")]);
    watched.expect(&["a = 1", "scan end"]).await;
    write(&watched.path("a/x.wasm"), "2");
    watched.expect(&["a at a refused for a.wasm"]).await;
    write(&watched.path("a.wasm"), "3");
    watched.expect(&["a = 3"]).await;
    fs::remove_file(watched.path("a.wasm")).unwrap();
    watched.expect(&["a cleared", "a = 2"]).await;
}

#[tokio::test]
async fn of_two_sources_at_the_start_the_one_that_ran_stays() {
    let files = [("a.wasm", "1"), ("a/x.wasm", "2")];
    let mut watched = Watched::knowing(&files, &[("a", "2")]);
    watched.expect(&["a = 2", "a at a.wasm refused for a", "scan end"]).await;
}

#[tokio::test]
async fn what_is_known_and_not_there_is_removed_before_anything_is_present() {
    let mut watched = Watched::knowing(&[("b.wasm", "1")], &[("a", "1")]);
    watched.expect(&["a removed", "b = 1", "scan end"]).await;
}

#[tokio::test]
async fn a_skipped_file_is_told_of_once_and_cleared() {
    let mut watched = Watched::new(&[("a.wasm", "1")]);
    watched.expect(&["a = 1", "scan end"]).await;
    symlink(watched.path("a.wasm"), watched.path("b.wasm")).unwrap();
    let skipped = "b.wasm skipped: it is a symlink; only files and folders are read";
    watched.expect(&[skipped]).await;
    fs::remove_file(watched.path("b.wasm")).unwrap();
    watched.expect(&["b.wasm cleared"]).await;
    write(&watched.path("b.wasm"), "2");
    watched.expect(&["b = 2"]).await;
}

#[tokio::test]
async fn the_folder_may_go_and_come_back() {
    let mut watched = Watched::new(&[("a.wasm", "1"), ("b/x.wasm", "2")]);
    watched.expect(&["a = 1", "b = 2", "scan end"]).await;
    for _ in 0..3 {
        fs::remove_dir_all(watched.path("")).unwrap();
        let mut removed = [watched.line().await, watched.line().await];
        removed.sort();
        assert_eq!(removed, ["a removed", "b removed"]);
        write(&watched.path("a.wasm"), "1");
        watched.expect(&["a = 1"]).await;
        write(&watched.path("b/x.wasm"), "2");
        watched.expect(&["b = 2"]).await;
    }
    // At once, so that the new folder may get the inode of the old one.
    fs::remove_dir_all(watched.path("b")).unwrap();
    write(&watched.path("b/x.wasm"), "3");
    let mut line = watched.line().await;
    if line == "b removed" {
        line = watched.line().await;
    }
    assert_eq!(line, "b = 3");
    write(&watched.path("b/x.wasm"), "4");
    watched.expect(&["b = 4"]).await;
}

#[tokio::test]
async fn dropping_the_watcher_ends_its_thread() {
    let files: Vec<String> = (0..200).map(|n| format!("p{n}.wasm")).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|name| (name.as_str(), "1")).collect();
    // More changes than the channel holds: the thread is waiting for room.
    let mut watched = Watched::new(&files);
    watched.line().await;
    drop(watched);
}
