//! What a repair did, or would do, in words and numbers.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::super::damage::{Damage, Span};
use super::RepairMode;
use super::lost::{Hole, LostEvent};
use crate::event::{InstanceId, Position};

/// Events named one by one in a report.
const EVENTS_LISTED_MAX: usize = 1_000_000;
/// Lines of one sort that people are shown of them.
const LINES_MAX: usize = 1000;

/// What [`super::repair`] did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RepairReport {
    /// `dry-run` or `performed`.
    pub mode: &'static str,
    /// Each bus, by name.
    pub buses: Vec<BusRepair>,
}

/// What [`super::repair`] did for one bus.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BusRepair {
    /// The bus.
    pub bus: String,
    /// Everything that is damaged.
    pub damages: Vec<Damage>,
    /// Segments that are written anew.
    pub segments: Vec<RepairedSegment>,
    /// What is lost.
    pub lost: Vec<LostRange>,
    /// Commits of which something is lost.
    pub lost_commits: u64,
    /// Events that are lost.
    pub lost_events: u64,
    /// Deliveries whose end is lost and that are not made again: later ones of their keys had ended.
    pub over: u64,
    /// Deliveries whose end is lost and that are known to be made again.
    pub again: Vec<(InstanceId, Position)>,
    /// Plugins whose registration was lost, and which are registered again as who they were.
    pub restored: Vec<(InstanceId, String)>,
    /// Plugins whose registration was lost and of which nothing tells the name: a file of it is a new
    /// plugin to the log, which begins where its manifest says.
    pub unknown: Vec<InstanceId>,
    /// Commits behind the first damage that are kept.
    pub kept_behind_commits: u64,
    /// Events behind the first damage that are kept.
    pub kept_behind_events: u64,
    /// The log may have gone on behind everything that is left and known of it: numbers that were given
    /// there are given again.
    pub has_open_end: bool,
    /// Bytes at the end that are no damage: the next start cuts them off.
    pub torn_bytes: u64,
    /// Derived files that are put aside, and made anew by the next start.
    pub put_aside: Vec<PathBuf>,
    /// Where this is written down; none: nothing was done.
    pub written_to: Option<PathBuf>,
    /// A repair that was interrupted is finished.
    pub is_continued: bool,
}

/// A segment that is written anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RepairedSegment {
    /// Its number.
    pub segment: u32,
    /// Its file.
    pub file: PathBuf,
    /// The file that keeps what was there; none: there was nothing.
    pub original: Option<PathBuf>,
}

/// Commits that are lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LostRange {
    /// The segment that holds their place.
    pub segment: u32,
    /// From the first to the last.
    pub commits: Span,
    /// How many of them are lost, at least in part.
    pub lost_commits: u64,
    /// From the first to the last lost event.
    pub positions: Option<Span>,
    /// Lost events; the first million.
    pub events: Vec<LostRecord>,
    /// How many there are.
    pub lost_events: u64,
    /// Ends of deliveries that are known to be lost.
    pub lost_completions: u64,
    /// Whether those are all there were, but for unkeyed events: an index, or what is left, tells.
    pub is_exact: bool,
}

/// An event that is lost, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LostRecord {
    /// Its position.
    pub position: Position,
    /// Its type.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Its source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The hash of its key, where that is all that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_hash: Option<String>,
    /// Its key sequence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
}

impl RepairReport {
    /// Whether there is nothing left to do.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.mode == PERFORMED || self.buses.iter().all(|bus| !bus.needs_repair())
    }
}

impl BusRepair {
    /// Whether something is, or was, to be done.
    #[must_use]
    pub fn needs_repair(&self) -> bool {
        !self.segments.is_empty() || self.is_continued
    }
}

const PERFORMED: &str = "performed";

impl From<RepairMode> for &'static str {
    fn from(mode: RepairMode) -> Self {
        match mode {
            RepairMode::DryRun => "dry-run",
            RepairMode::Perform => PERFORMED,
        }
    }
}

impl LostRange {
    pub(super) fn of(hole: &Hole) -> Self {
        let commits = Span { first: hole.commits.start, last: Some(hole.commits.end - 1) };
        let positions = hole.events.first_key_value().zip(hole.events.last_key_value());
        Self {
            segment: hole.segment,
            commits,
            lost_commits: hole.lost_commits,
            positions: positions
                .map(|((first, _), (last, _))| Span { first: first.0, last: Some(last.0) }),
            events: hole
                .events
                .iter()
                .take(EVENTS_LISTED_MAX)
                .map(|(position, event)| LostRecord::of(*position, event))
                .collect(),
            lost_events: hole.events.len() as u64,
            lost_completions: hole.completions.len() as u64,
            is_exact: hole.is_exact,
        }
    }
}

impl LostRecord {
    fn of(position: Position, event: &LostEvent) -> Self {
        let hash = event.key_hash.filter(|_| event.key.is_none());
        Self {
            position,
            kind: event.kind.clone(),
            id: event.id.clone(),
            source: event.source.clone(),
            key: event.key.clone(),
            key_hash: hash.map(|hash| format!("{:032x}", hash.0)),
            sequence: (event.sequence > 0).then_some(event.sequence),
        }
    }
}

impl fmt::Display for LostRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "position {}", self.position)?;
        let known = [
            ("type", &self.kind),
            ("key", &self.key),
            ("a key with the hash", &self.key_hash),
            ("id", &self.id),
            ("source", &self.source),
        ];
        let known = known.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        let mut is_known = false;
        for (name, value) in known {
            write!(f, ", {name} `{}`", value.escape_debug())?;
            is_known = true;
        }
        if let Some(sequence) = self.sequence {
            write!(f, ", key sequence {sequence}")?;
        }
        if is_known { Ok(()) } else { f.write_str(", of which nothing else is known") }
    }
}

impl fmt::Display for RepairReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for bus in &self.buses {
            bus.write(f, self.mode == PERFORMED)?;
        }
        if !self.is_done() {
            writeln!(f, "nothing was changed: run the command with --yes to do this")?;
        }
        Ok(())
    }
}

impl BusRepair {
    fn write(&self, f: &mut fmt::Formatter<'_>, is_done: bool) -> fmt::Result {
        if !self.needs_repair() {
            writeln!(f, "{}: nothing to repair", self.bus)?;
            return self.torn(f);
        }
        writeln!(f, "{}:", self.bus)?;
        if self.is_continued {
            writeln!(f, "  an interrupted repair goes on")?;
        }
        for damage in &self.damages {
            writeln!(f, "  DAMAGED {damage}")?;
        }
        let verb = if is_done { "was" } else { "would be" };
        for segment in &self.segments {
            write!(f, "  {} {verb} written anew", segment.file.display())?;
            match &segment.original {
                Some(original) => writeln!(f, "; the original is kept as {}", original.display())?,
                None => writeln!(f, "; it was missing")?,
            }
        }
        self.write_lost(f)?;
        let (commits, events) = (self.kept_behind_commits, self.kept_behind_events);
        writeln!(f, "  {commits} commits with {events} events behind the first damage are kept")?;
        self.torn(f)?;
        for path in &self.put_aside {
            writeln!(
                f,
                "  derived, put aside and made anew at the next start: {}",
                path.display()
            )?;
        }
        match &self.written_to {
            Some(path) => writeln!(f, "  all of this is in {}", path.display()),
            None => Ok(()),
        }
    }

    fn torn(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.torn_bytes {
            0 => Ok(()),
            bytes => {
                writeln!(f, "  {bytes} bytes of a torn frame at the end were never acknowledged")
            }
        }
    }

    fn write_lost(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.has_open_end {
            writeln!(
                f,
                "  how far the log went is not known: what was behind all this is lost as well, and its \
                 commit numbers and positions will be given again"
            )?;
        }
        if self.lost.is_empty() {
            let known = if self.has_open_end { "known to be " } else { "" };
            return writeln!(f, "  nothing is {known}lost");
        }
        writeln!(f, "  LOST {} events in {} commits:", self.lost_events, self.lost_commits)?;
        for lost in &self.lost {
            let LostRange { segment, commits, lost_commits, lost_events, .. } = lost;
            write!(
                f,
                "  - commits {commits} ({lost_commits} damaged), {lost_events} events, \
                 {} ends of deliveries",
                lost.lost_completions
            )?;
            let exact = if lost.is_exact { "" } else { " known of, perhaps more" };
            writeln!(f, "{exact}; their place is held in segment {segment}")?;
            for event in lost.events.iter().take(LINES_MAX) {
                writeln!(f, "    {event}")?;
            }
            let shown = lost.events.len().min(LINES_MAX) as u64;
            if lost.lost_events > shown {
                writeln!(f, "    and {} more", lost.lost_events - shown)?;
            }
        }
        writeln!(
            f,
            "  {} deliveries lost their end and are over: later ones of their keys had ended; \
             what they emitted and asked for is lost where it was in these commits",
            self.over
        )?;
        writeln!(f, "  {} deliveries lost their end and are made again", self.again.len())?;
        for (instance, position) in self.again.iter().take(LINES_MAX) {
            writeln!(f, "    position {position} to plugin instance {}", instance.0)?;
        }
        for (instance, name) in &self.restored {
            writeln!(f, "  plugin `{name}` is registered again as instance {}", instance.0)?;
        }
        for instance in &self.unknown {
            writeln!(
                f,
                "  plugin instance {} lost its registration, and nothing tells its name: its file \
                 will be a new plugin, and begin where its manifest says",
                instance.0
            )?;
        }
        Ok(())
    }
}
