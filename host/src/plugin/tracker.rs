//! Which of the things seen in the plugins folder are to be told of, and when: pure, given what was
//! seen and the time.
//!
//! Nothing is told of before it stood still for a while, because a file that is being copied looks
//! like a broken one. A file that is gone is told of before one that is new, so that a renamed file
//! is recognised. Of two sources for one name, the one that was there stays.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::folder::{Found, SourceFiles};
use super::identity::{Contender, pick_holder};
use super::source::Source;
use super::watch::Change;
use crate::event::Digest;

/// What the watcher is to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Tell of this.
    Tell(Change),
    /// Read these files, and hand the result to [`Tracker::was_read`].
    Read(SourceFiles),
    /// Hash these modules, and hand the result to [`Tracker::was_contested`].
    Contest { name: String, sources: Vec<SourceFiles> },
}

#[derive(Debug)]
pub(crate) struct Tracker {
    settle: Duration,
    /// Last module of each registered plugin, as the host knows it from before.
    known: BTreeMap<String, Digest>,
    seen: BTreeMap<PathBuf, Seen>,
    /// Which source a name belongs to.
    holders: BTreeMap<String, PathBuf>,
    told: BTreeMap<String, Told>,
    /// The module of each source that was read last.
    modules: BTreeMap<PathBuf, PathBuf>,
    /// Paths that a warning stands for.
    warned: BTreeMap<PathBuf, Change>,
    start: Start,
}

#[derive(Debug)]
struct Seen {
    found: Found,
    /// When it is going to have stood still for long enough.
    settles_at: Duration,
    state: State,
}

impl Seen {
    /// Whether it could be a plugin, as opposed to a folder or file that is none.
    fn is_candidate(&self) -> bool {
        matches!(self.found, Found::Source(_) | Found::Broken { .. })
    }

    fn has_settled(&self, now: Duration) -> bool {
        now >= self.settles_at
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// To be told of once it stood still.
    Fresh,
    /// Told of as it is.
    Done,
    /// No longer there; to be told of unless it comes back.
    Gone,
}

#[derive(Debug, PartialEq, Eq)]
enum Told {
    Present { digest: Digest, manifest_text: String },
    Broken { why: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    Before,
    /// The first scan was at this time, and not all of it is told of.
    Since(Duration),
    Over,
}

/// How long the end of the initial scan may wait for files that somebody keeps writing.
const START_MAX: Duration = Duration::from_secs(2);

impl Tracker {
    pub(crate) fn new(settle: Duration, known: BTreeMap<String, Digest>) -> Self {
        Self {
            settle,
            known,
            seen: BTreeMap::new(),
            holders: BTreeMap::new(),
            told: BTreeMap::new(),
            modules: BTreeMap::new(),
            warned: BTreeMap::new(),
            start: Start::Before,
        }
    }

    /// Takes what was seen at `now`. Sources of the first scan that were last written before
    /// `old_ns` (Unix epoch) stood still for long enough already.
    pub(crate) fn observe(&mut self, now: Duration, found: Vec<Found>, old_ns: i128) -> Vec<Step> {
        let first = self.start == Start::Before;
        self.note(now, found, first.then_some(old_ns));
        let mut steps = Vec::new();
        if first {
            self.start = Start::Since(now);
            self.tell_removed_before(&mut steps);
        }
        self.tell_gone(now, &mut steps);
        self.tell_warnings(now, &mut steps);
        let names: BTreeSet<String> = self.candidates().map(|(name, ..)| name.to_owned()).collect();
        let leaving = self.is_any_leaving();
        for name in names {
            // The new name may turn out to be the one that is leaving.
            if leaving && !self.holders.contains_key(&name) {
                continue;
            }
            steps.extend(self.advance(now, &name));
        }
        steps
    }

    /// Whether the initial scan is over as of `now`; says yes once, after every step is done.
    pub(crate) fn take_start_end(&mut self, now: Duration) -> bool {
        let Start::Since(since) = self.start else { return false };
        let waiting = self.seen.values().any(|seen| seen.state == State::Fresh);
        if waiting && now < since + START_MAX {
            return false;
        }
        self.start = Start::Over;
        true
    }

    /// When to look again at the latest; none: nothing is waiting.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        let waiting = self.seen.values().filter(|seen| seen.state != State::Done);
        waiting.map(|seen| seen.settles_at).min()
    }

    /// Takes the result of [`Step::Read`]; none: the files changed meanwhile.
    pub(crate) fn was_read(
        &mut self,
        now: Duration,
        files: &SourceFiles,
        result: Option<Result<Source, String>>,
    ) -> Option<Change> {
        let seen = self.seen.get_mut(&files.path)?;
        let Some(result) = result else {
            seen.settles_at = now + self.settle;
            return None;
        };
        seen.state = State::Done;
        let (name, path) = (files.name.clone(), files.path.clone());
        let (told, change) = match result {
            Ok(source) => {
                self.modules.insert(path, files.module.path.clone());
                let (digest, manifest_text) = (source.digest, source.manifest_text.clone());
                (Told::Present { digest, manifest_text }, Change::Present(Box::new(source)))
            }
            Err(why) => (Told::Broken { why: why.clone() }, Change::Broken { name, path, why }),
        };
        self.tell(files.name.clone(), told, change)
    }

    /// Takes the result of [`Step::Contest`] and goes on with the winner.
    pub(crate) fn was_contested(
        &mut self,
        now: Duration,
        name: &str,
        contenders: &[Contender],
    ) -> Vec<Step> {
        let holder = pick_holder(contenders, self.known.get(name).copied());
        holder.map_or_else(Vec::new, |holder| self.hold(now, name, holder))
    }

    fn tell(&mut self, name: String, told: Told, change: Change) -> Option<Change> {
        if self.told.get(&name) == Some(&told) {
            return None;
        }
        self.told.insert(name, told);
        Some(change)
    }

    fn note(&mut self, now: Duration, found: Vec<Found>, old_ns: Option<i128>) {
        let paths: BTreeSet<PathBuf> = found.iter().map(|found| found.path().to_owned()).collect();
        for found in found {
            let found = self.keep_misnamed(found);
            let known = self.seen.get(found.path()).filter(|seen| seen.found == found);
            if known.is_some_and(|seen| seen.state != State::Gone) {
                continue;
            }
            let old = old_ns.is_some_and(|old_ns| was_written_before(&found, old_ns));
            let settles_at = if old { now } else { now + self.settle };
            let path = found.path().to_owned();
            self.seen.insert(path, Seen { found, settles_at, state: State::Fresh });
        }
        for (path, seen) in &mut self.seen {
            if !paths.contains(path) && seen.state != State::Gone {
                (seen.state, seen.settles_at) = (State::Gone, now + self.settle);
            }
        }
    }

    /// A manifest that names another module than the one that was read, and none that is there, removes
    /// nothing.
    fn keep_misnamed(&self, found: Found) -> Found {
        match found {
            Found::Unbuilt { name, path, module: Some(module), why }
                if self.modules.get(&path).is_some_and(|read| *read != module) =>
            {
                Found::Broken { name, path, why }
            }
            found => found,
        }
    }

    /// Plugins that the host knows and the first scan does not.
    fn tell_removed_before(&mut self, steps: &mut Vec<Step>) {
        let there: BTreeSet<&str> = self.candidates().map(|(name, ..)| name).collect();
        let gone = self.known.keys().filter(|name| !there.contains(name.as_str()));
        let gone: Vec<String> = gone.cloned().collect();
        for name in gone {
            self.known.remove(&name);
            steps.push(Step::Tell(Change::Removed { name }));
        }
    }

    fn tell_gone(&mut self, now: Duration, steps: &mut Vec<Step>) {
        self.seen.retain(|_, seen| seen.state != State::Gone || !seen.has_settled(now));
        let seen = &self.seen;
        self.holders.retain(|_, path| {
            seen.get(path).is_some_and(|seen| seen.is_candidate() || !seen.has_settled(now))
        });
        self.modules.retain(|path, _| self.holders.values().any(|holder| holder == path));
        let there: BTreeSet<&str> = self.candidates().map(|(name, ..)| name).collect();
        let gone = self.told.keys().chain(self.known.keys()).filter(|name| {
            !there.contains(name.as_str()) && !self.holders.contains_key(name.as_str())
        });
        let gone: BTreeSet<String> = gone.cloned().collect();
        for name in gone {
            self.told.remove(&name);
            self.known.remove(&name);
            steps.push(Step::Tell(Change::Removed { name }));
        }
    }

    /// Warnings about paths that are not what they were any more are taken back.
    fn tell_warnings(&mut self, now: Duration, steps: &mut Vec<Step>) {
        let settled_skips: Vec<(PathBuf, String)> = self
            .seen
            .values_mut()
            .filter(|seen| seen.state == State::Fresh && seen.has_settled(now))
            .filter_map(|seen| match &seen.found {
                Found::Skipped { path, why } | Found::Unbuilt { path, why, .. } => {
                    seen.state = State::Done;
                    Some((path.clone(), why.clone()))
                }
                Found::Source(_) | Found::Broken { .. } => None,
            })
            .collect();
        let still = |path: &Path| match self.seen.get(path).map(|seen| &seen.found) {
            Some(Found::Skipped { .. } | Found::Unbuilt { .. }) => true,
            Some(Found::Source(_) | Found::Broken { .. }) => {
                !self.holders.values().any(|holder| holder == path)
            }
            None => false,
        };
        let over: Vec<PathBuf> = self.warned.keys().filter(|path| !still(path)).cloned().collect();
        for path in over {
            self.warned.remove(&path);
            steps.push(Step::Tell(Change::Cleared { path }));
        }
        for (path, why) in settled_skips {
            let change = Change::Skipped { path: path.clone(), why };
            steps.extend(self.warn(path, change));
        }
    }

    fn warn(&mut self, path: PathBuf, change: Change) -> Option<Step> {
        if self.warned.get(&path) == Some(&change) {
            return None;
        }
        self.warned.insert(path, change.clone());
        Some(Step::Tell(change))
    }

    /// Name, path and state of everything that could be a plugin, also of what may just have gone.
    fn candidates(&self) -> impl Iterator<Item = (&str, &Path, &Seen)> {
        self.seen.iter().filter_map(|(path, seen)| match &seen.found {
            Found::Source(source) => Some((source.name.as_str(), path.as_path(), seen)),
            Found::Broken { name, .. } => Some((name.as_str(), path.as_path(), seen)),
            Found::Unbuilt { .. } | Found::Skipped { .. } => None,
        })
    }

    fn is_any_leaving(&self) -> bool {
        let leaving = |seen: &Seen| seen.state == State::Gone || !seen.is_candidate();
        self.holders.values().any(|holder| self.seen.get(holder).is_some_and(leaving))
    }

    /// What is to be done about one name, if what it depends on has settled.
    fn advance(&mut self, now: Duration, name: &str) -> Vec<Step> {
        let Some(holder) = self.holders.get(name).cloned() else {
            return self.find_holder(now, name);
        };
        let mut steps = Vec::new();
        let settled: Vec<(PathBuf, Found)> = self
            .candidates()
            .filter(|(candidate, _, seen)| *candidate == name && seen.state == State::Fresh)
            .filter(|(_, _, seen)| seen.has_settled(now))
            .map(|(_, path, seen)| (path.to_owned(), seen.found.clone()))
            .collect();
        for (path, found) in settled {
            if path == holder {
                steps.extend(self.advance_holder(name, found));
                continue;
            }
            self.finish(&path);
            let change = Change::SecondSource {
                name: name.to_owned(),
                path: path.clone(),
                holder: holder.clone(),
            };
            steps.extend(self.warn(path, change));
        }
        steps
    }

    fn advance_holder(&mut self, name: &str, found: Found) -> Option<Step> {
        match found {
            Found::Source(files) => Some(Step::Read(files)),
            Found::Broken { name: _, path, why } => {
                self.finish(&path);
                let change = Change::Broken { name: name.to_owned(), path, why: why.clone() };
                self.tell(name.to_owned(), Told::Broken { why }, change).map(Step::Tell)
            }
            Found::Unbuilt { .. } | Found::Skipped { .. } => None,
        }
    }

    fn finish(&mut self, path: &Path) {
        if let Some(seen) = self.seen.get_mut(path) {
            seen.state = State::Done;
        }
    }

    /// Nobody holds the name yet: once all that could have settled, one of them does.
    fn find_holder(&mut self, now: Duration, name: &str) -> Vec<Step> {
        let mut sources = Vec::new();
        let mut paths = Vec::new();
        for (candidate, path, seen) in self.candidates() {
            if candidate != name || seen.state == State::Gone {
                continue;
            }
            if !seen.has_settled(now) {
                return Vec::new();
            }
            paths.push(path.to_owned());
            if let Found::Source(files) = &seen.found {
                sources.push(files.clone());
            }
        }
        let holder = match (sources.as_slice(), paths.first()) {
            (_, None) => return Vec::new(),
            ([], Some(broken)) => broken.clone(),
            ([only], _) => only.path.clone(),
            _ => return vec![Step::Contest { name: name.to_owned(), sources }],
        };
        self.hold(now, name, &holder)
    }

    fn hold(&mut self, now: Duration, name: &str, holder: &Path) -> Vec<Step> {
        self.holders.insert(name.to_owned(), holder.to_owned());
        // A refused second source that takes over was told of as such, not as the plugin.
        if let Some(seen) = self.seen.get_mut(holder) {
            seen.state = State::Fresh;
        }
        let mut steps = Vec::new();
        if self.warned.remove(holder).is_some() {
            steps.push(Step::Tell(Change::Cleared { path: holder.to_owned() }));
        }
        steps.extend(self.advance(now, name));
        steps
    }
}

fn was_written_before(found: &Found, old_ns: i128) -> bool {
    let Found::Source(files) = found else { return false };
    let manifest = files.manifest.as_ref();
    files.module.stamp.modified_ns < old_ns
        && manifest.is_none_or(|manifest| manifest.stamp.modified_ns < old_ns)
}

#[cfg(test)]
mod tests;
