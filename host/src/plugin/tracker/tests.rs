use super::*;
use crate::plugin::Manifest;
use crate::plugin::folder::{Stamp, Stamped};

const SETTLE_MS: u64 = 80;
/// After every file time of these tests: nothing is old.
const NOTHING_OLD: i128 = i128::MIN;

fn tracker() -> Tracker {
    Tracker::new(Duration::from_millis(SETTLE_MS), BTreeMap::new())
}

fn files(name: &str, version: u64) -> SourceFiles {
    let path = PathBuf::from(format!("/plugins/{name}.wasm"));
    let stamp = Stamp::of_version(version, 0);
    let module = Stamped { path: path.clone(), stamp };
    SourceFiles { name: name.to_owned(), path, module, manifest: None }
}

fn source(name: &str, version: u64) -> Found {
    Found::Source(files(name, version))
}

fn unbuilt(name: &str, module: Option<PathBuf>) -> Found {
    let (path, why) = (files(name, 1).path, "no module".to_owned());
    Found::Unbuilt { name: name.to_owned(), path, module, why }
}

fn content(files: &SourceFiles, text: &str) -> Source {
    Source {
        name: files.name.clone(),
        path: files.path.clone(),
        wasm: text.to_owned().into(),
        digest: Digest::of(text.as_bytes()),
        manifest: Manifest::default(),
        manifest_text: String::new(),
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Lets a tracker take up `name` with `text`, from `at_ms` on.
fn take_up(tracker: &mut Tracker, name: &str, text: &str, at_ms: u64) {
    tracker.observe(ms(at_ms), vec![source(name, 1)], NOTHING_OLD);
    let settled = ms(at_ms + SETTLE_MS);
    let steps = tracker.observe(settled, vec![source(name, 1)], NOTHING_OLD);
    assert_eq!(steps, [Step::Read(files(name, 1))]);
    let read = tracker.was_read(settled, &files(name, 1), Some(Ok(content(&files(name, 1), text))));
    assert!(matches!(read, Some(Change::Present(_))), "{read:?}");
}

#[test]
fn a_file_that_grows_is_read_once_it_stood_still() {
    let mut tracker = tracker();
    for (at_ms, version) in [(0, 1), (50, 2), (120, 3), (199, 3)] {
        let steps = tracker.observe(ms(at_ms), vec![source("a", version)], NOTHING_OLD);
        assert_eq!(steps, [], "at {at_ms}");
    }
    assert_eq!(tracker.next_due(), Some(ms(200)));
    let steps = tracker.observe(ms(200), vec![source("a", 3)], NOTHING_OLD);
    assert_eq!(steps, [Step::Read(files("a", 3))]);
}

#[test]
fn a_file_that_changes_while_it_is_read_has_to_stand_still_again() {
    let mut tracker = tracker();
    tracker.observe(ms(0), vec![source("a", 1)], NOTHING_OLD);
    tracker.observe(ms(80), vec![source("a", 1)], NOTHING_OLD);
    assert_eq!(tracker.was_read(ms(80), &files("a", 1), None), None);
    assert_eq!(tracker.observe(ms(100), vec![source("a", 1)], NOTHING_OLD), []);
    let steps = tracker.observe(ms(160), vec![source("a", 1)], NOTHING_OLD);
    assert_eq!(steps, [Step::Read(files("a", 1))]);
}

#[test]
fn the_same_content_again_is_not_told_of() {
    let mut tracker = tracker();
    take_up(&mut tracker, "a", "text", 0);
    tracker.observe(ms(100), vec![source("a", 2)], NOTHING_OLD);
    let steps = tracker.observe(ms(180), vec![source("a", 2)], NOTHING_OLD);
    assert_eq!(steps, [Step::Read(files("a", 2))]);
    let same = Some(Ok(content(&files("a", 2), "text")));
    assert_eq!(tracker.was_read(ms(180), &files("a", 2), same), None);
    assert_eq!(tracker.next_due(), None);
}

#[test]
fn a_file_that_is_gone_for_a_moment_was_never_removed() {
    let mut tracker = tracker();
    take_up(&mut tracker, "a", "text", 0);
    assert_eq!(tracker.observe(ms(100), vec![], NOTHING_OLD), []);
    assert_eq!(tracker.observe(ms(170), vec![source("a", 1)], NOTHING_OLD), []);
    let steps = tracker.observe(ms(250), vec![source("a", 1)], NOTHING_OLD);
    assert_eq!(steps, [Step::Read(files("a", 1))]);
}

#[test]
fn a_new_name_waits_for_what_is_leaving() {
    let mut tracker = tracker();
    take_up(&mut tracker, "a", "text", 0);
    // The copy was there before the original went.
    tracker.observe(ms(100), vec![source("a", 1), source("b", 1)], NOTHING_OLD);
    assert_eq!(tracker.observe(ms(150), vec![source("b", 1)], NOTHING_OLD), []);
    assert_eq!(tracker.observe(ms(180), vec![source("b", 1)], NOTHING_OLD), []);
    let steps = tracker.observe(ms(230), vec![source("b", 1)], NOTHING_OLD);
    let removed = Step::Tell(Change::Removed { name: "a".to_owned() });
    assert_eq!(steps, [removed, Step::Read(files("b", 1))]);
}

#[test]
fn a_plugin_whose_folder_lost_its_module_is_removed() {
    let path = files("a", 1).path;
    // As named before, or by nobody.
    for module in [Some(path.clone()), None] {
        let mut tracker = tracker();
        take_up(&mut tracker, "a", "text", 0);
        let unbuilt = || vec![unbuilt("a", module.clone())];
        assert_eq!(tracker.observe(ms(100), unbuilt(), NOTHING_OLD), []);
        let removed = Step::Tell(Change::Removed { name: "a".to_owned() });
        let why = "no module".to_owned();
        let skipped = Step::Tell(Change::Skipped { path: path.clone(), why });
        assert_eq!(tracker.observe(ms(180), unbuilt(), NOTHING_OLD), [removed, skipped]);
        assert_eq!(tracker.observe(ms(300), unbuilt(), NOTHING_OLD), []);
    }
}

/// A manifest whose `module` was misspelt took a live plugin away.
#[test]
fn a_plugin_whose_manifest_names_a_module_that_never_was_is_broken() {
    let mut tracker = tracker();
    take_up(&mut tracker, "a", "text", 0);
    let misnamed = || vec![unbuilt("a", Some(PathBuf::from("/plugins/a/A.wasm")))];
    assert_eq!(tracker.observe(ms(100), misnamed(), NOTHING_OLD), []);
    let (path, why) = (files("a", 1).path, "no module".to_owned());
    let broken = Step::Tell(Change::Broken { name: "a".to_owned(), path, why });
    assert_eq!(tracker.observe(ms(180), misnamed(), NOTHING_OLD), [broken]);
    assert_eq!(tracker.observe(ms(300), misnamed(), NOTHING_OLD), []);
    tracker.observe(ms(400), vec![source("a", 2)], NOTHING_OLD);
    let steps = tracker.observe(ms(480), vec![source("a", 2)], NOTHING_OLD);
    assert_eq!(steps, [Step::Read(files("a", 2))]);
}

#[test]
fn a_folder_that_is_not_built_yet_is_told_of_until_it_is() {
    let mut tracker = tracker();
    tracker.observe(ms(0), vec![unbuilt("a", None)], NOTHING_OLD);
    let path = files("a", 1).path;
    let why = "no module".to_owned();
    let skipped = Step::Tell(Change::Skipped { path: path.clone(), why });
    assert_eq!(tracker.observe(ms(80), vec![unbuilt("a", None)], NOTHING_OLD), [skipped]);
    tracker.observe(ms(200), vec![source("a", 1)], NOTHING_OLD);
    let steps = tracker.observe(ms(280), vec![source("a", 1)], NOTHING_OLD);
    assert_eq!(steps, [Step::Tell(Change::Cleared { path }), Step::Read(files("a", 1))]);
}

#[test]
fn the_initial_scan_ends_when_all_of_it_is_told_of_or_after_two_seconds() {
    let mut tracker = tracker();
    tracker.observe(ms(0), vec![source("a", 1)], NOTHING_OLD);
    assert!(!tracker.take_start_end(ms(0)));
    tracker.observe(ms(80), vec![source("a", 1)], NOTHING_OLD);
    tracker.was_read(ms(80), &files("a", 1), Some(Err("broken".to_owned())));
    assert!(tracker.take_start_end(ms(80)));
    assert!(!tracker.take_start_end(ms(90)), "the end is told of once");

    let mut tracker = self::tracker();
    for at_ms in (0..2000).step_by(50) {
        tracker.observe(ms(at_ms), vec![source("a", at_ms)], NOTHING_OLD);
        assert!(!tracker.take_start_end(ms(at_ms)), "at {at_ms}");
    }
    assert!(tracker.take_start_end(ms(2000)));
}

#[test]
fn files_that_were_old_at_the_start_are_read_at_once() {
    let steps = tracker().observe(ms(0), vec![source("a", 1)], 1);
    assert_eq!(steps, [Step::Read(files("a", 1))]);
    assert_eq!(tracker().observe(ms(0), vec![source("a", 1)], 0), []);
}

#[test]
fn what_is_known_and_not_there_is_removed_once() {
    let known = [("a".to_owned(), Digest::of(b"a"))].into();
    let mut tracker = Tracker::new(ms(SETTLE_MS), known);
    let removed = Step::Tell(Change::Removed { name: "a".to_owned() });
    assert_eq!(tracker.observe(ms(0), vec![], NOTHING_OLD), [removed]);
    assert_eq!(tracker.observe(ms(500), vec![], NOTHING_OLD), []);
}
