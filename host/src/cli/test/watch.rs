//! What `--watch` waits for: a change of any file that a run reads.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::{Project, TestArgs};

/// How often it looks at the files.
const INTERVAL: Duration = Duration::from_millis(200);

/// Every file that a run reads, with time and length.
pub(super) type Seen = Vec<(PathBuf, Option<(SystemTime, u64)>)>;

/// Looks at the files that a run reads.
pub(super) fn look(args: &TestArgs) -> Seen {
    let mut files: Vec<PathBuf> = args.event.iter().chain(&args.events).cloned().collect();
    files.extend(args.body.file.clone());
    let projects = if args.path.is_dir() {
        Project::in_folder(&args.path).unwrap_or_default()
    } else {
        vec![Project::of_module(&args.path)]
    };
    for project in projects {
        let sources = project.source_files();
        files.extend(project.files.manifest.clone());
        // What is built from sources changes by this very run.
        if sources.is_empty() {
            files.push(project.files.module.clone());
        }
        files.extend(sources);
        if args.path.is_dir() {
            files.extend(project.cases());
            files.extend(project.samples());
        }
    }
    files.sort();
    files.dedup();
    let stamp = |path: &PathBuf| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.modified().ok()?, meta.len()))
    };
    files.into_iter().map(|path| (path.clone(), stamp(&path))).collect()
}

/// Waits until the files look otherwise than `seen`, and have come to rest.
pub(super) fn until_changed(args: &TestArgs, seen: &Seen) {
    let mut before = seen.clone();
    loop {
        std::thread::sleep(INTERVAL);
        let now = look(args);
        if now != *seen && now == before {
            return;
        }
        before = now;
    }
}
