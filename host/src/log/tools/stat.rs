//! Counts what a log holds.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::damage::LogEnd;
use super::files::BusFiles;
use super::walk::{Met, walk};
use super::{ToolError, hex};
use crate::event::KeyHash;
use crate::log::codec::{RecordRef, kind};
use crate::log::disk::Disk;
use crate::log::frame::Frame;

/// What [`stat`] counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StatReport {
    /// Each bus, by name.
    pub buses: Vec<BusStat>,
}

/// How often a type stands in a log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TypeCount {
    /// Its events, private ones included.
    pub events: u64,
    /// Bytes of their payloads.
    pub payload_bytes: u64,
    /// Log time of the last, milliseconds since the Unix epoch.
    pub last_ms: u64,
}

/// What the log of one bus holds, as far as it is whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BusStat {
    /// The bus.
    pub bus: String,
    /// The log's id, as 32 hex digits.
    pub log_id: String,
    /// Segment files.
    pub segments: u64,
    /// Bytes of the segment files.
    pub bytes: u64,
    /// Frames, seals not counted.
    pub frames: u64,
    /// Commits.
    pub commits: u64,
    /// First commit and last.
    pub commit_range: Option<(u64, u64)>,
    /// First position and last.
    pub position_range: Option<(u64, u64)>,
    /// Log time of the first frame and of the last, milliseconds since the Unix epoch.
    pub time_range_ms: Option<(u64, u64)>,
    /// Bytes of headers and metadata.
    pub metadata_bytes: u64,
    /// Bytes of payloads.
    pub payload_bytes: u64,
    /// Events, private ones included.
    pub events: u64,
    /// Private events.
    pub private_events: u64,
    /// Events that plugins emitted.
    pub emitted_events: u64,
    /// Keys that have events.
    pub keys: u64,
    /// Last epoch: how often a host started.
    pub epoch: u32,
    /// Completions, by outcome.
    pub completions: BTreeMap<&'static str, u64>,
    /// Records of other kinds, by kind.
    pub records: BTreeMap<&'static str, u64>,
    /// Events by type.
    pub types: BTreeMap<String, TypeCount>,
    /// How the log ends.
    pub end: LogEnd,
    /// Damaged places: what they held is not counted.
    pub damages: u64,
}

impl StatReport {
    /// Whether everything could be counted.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.buses.iter().all(|bus| bus.damages == 0)
    }
}

/// Counts what the logs of a data directory hold, of one bus where it is named.
///
/// # Errors
/// There is no log, a host has it open, or a file cannot be read. Damage is passed over and counted.
pub fn stat(disk: &dyn Disk, data: &Path, bus: Option<&str>) -> Result<StatReport, ToolError> {
    let buses = BusFiles::find(disk, data, bus)?;
    let buses = buses.iter().map(stat_bus).collect::<Result<_, _>>()?;
    Ok(StatReport { buses })
}

fn stat_bus(files: &BusFiles<'_>) -> Result<BusStat, ToolError> {
    let segments = files.segments()?;
    let log_id = files.log_id(&segments)?;
    let mut stat = BusStat {
        bus: files.name.clone(),
        log_id: hex(log_id),
        segments: segments.len() as u64,
        bytes: segments.iter().map(|segment| segment.bytes).sum(),
        frames: 0,
        commits: 0,
        commit_range: None,
        position_range: None,
        time_range_ms: None,
        metadata_bytes: 0,
        payload_bytes: 0,
        events: 0,
        private_events: 0,
        emitted_events: 0,
        keys: 0,
        epoch: 0,
        completions: BTreeMap::new(),
        records: BTreeMap::new(),
        types: BTreeMap::new(),
        end: LogEnd::Open,
        damages: 0,
    };
    let mut keys = HashSet::new();
    walk(log_id, &segments, &mut |met| {
        match met {
            Met::Segment(_) | Met::Broken { .. } => {}
            Met::Frame { frame, .. } => stat.frame(frame, &mut keys),
            Met::Damage(_) => stat.damages += 1,
            Met::End(end) => stat.end = end.end,
        }
        Ok(())
    })?;
    stat.keys = keys.len() as u64;
    Ok(stat)
}

fn widen(range: &mut Option<(u64, u64)>, first: u64, last: u64) {
    *range = Some((range.map_or(first, |(first, _)| first), last));
}

impl BusStat {
    fn frame(&mut self, frame: &Frame, keys: &mut HashSet<KeyHash>) {
        let header = frame.header();
        if header.is_seal() {
            return;
        }
        self.frames += 1;
        self.commits += u64::from(header.commit_count);
        self.epoch = header.epoch;
        widen(&mut self.commit_range, header.first_commit, frame.last_commit().0);
        if let (Some(first), Some(last)) = (frame.first_position(), frame.last_position()) {
            widen(&mut self.position_range, first.0, last.0);
        }
        widen(&mut self.time_range_ms, header.time_ms, header.time_ms);
        self.payload_bytes += u64::from(header.payload_bytes);
        let payload_and_padding = u64::from(header.payload_bytes);
        self.metadata_bytes += header.frame_bytes().saturating_sub(payload_and_padding);
        for commit in frame.commits() {
            let records = commit.map(|commit| commit.records());
            let Ok(mut records) = records else {
                self.damages += 1;
                return;
            };
            while let Some(raw) = records.next_raw() {
                let read = raw.and_then(|(raw, position)| records.read(&raw, position));
                match read {
                    Ok(record) => self.record(&record, keys),
                    Err(_) => self.damages += 1,
                }
            }
        }
    }

    fn record(&mut self, record: &RecordRef<'_>, keys: &mut HashSet<KeyHash>) {
        match record {
            RecordRef::Event(event) => {
                self.events += 1;
                self.private_events += u64::from(event.addressee.is_some());
                self.emitted_events += u64::from(event.emitter.is_some());
                keys.extend(event.key_hash);
                let count = self.types.entry(event.kind.to_owned()).or_default();
                count.events += 1;
                count.payload_bytes += event.data.len() as u64;
                count.last_ms = event.recorded_ms;
            }
            RecordRef::Completion(done) => {
                *self.completions.entry(done.outcome.name()).or_default() += 1;
            }
            other => *self.records.entry(kind_name(other)).or_default() += 1,
        }
    }
}

/// The name of a record's kind.
pub(super) const fn kind_name(record: &RecordRef<'_>) -> &'static str {
    match record {
        RecordRef::Commit(_) => "commit",
        RecordRef::Event(_) => "event",
        RecordRef::Completion(_) => "completion",
        RecordRef::State(_) => "state",
        RecordRef::Timer(_) => "timer",
        RecordRef::Call(_) => "call",
        RecordRef::DeadLetter(_) => "dead-letter",
        RecordRef::Control(_) => "control",
        RecordRef::Seal(_) => "seal",
        RecordRef::Unknown { kind: kind::CHAIN } => "chain",
        RecordRef::Unknown { .. } => "unknown",
    }
}

impl fmt::Display for StatReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.buses.iter().try_for_each(|bus| bus.fmt(f))
    }
}

impl fmt::Display for BusStat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = |range: Option<(u64, u64)>| {
            range.map_or_else(|| "none".to_owned(), |(first, last)| format!("{first}-{last}"))
        };
        writeln!(f, "{}: log {}", self.bus, self.log_id)?;
        writeln!(f, "  segments      {} ({} bytes)", self.segments, self.bytes)?;
        writeln!(f, "  frames        {}", self.frames)?;
        writeln!(f, "  commits       {} ({})", self.commits, range(self.commit_range))?;
        writeln!(f, "  positions     {}", range(self.position_range))?;
        writeln!(f, "  log time ms   {}", range(self.time_range_ms))?;
        writeln!(
            f,
            "  events        {} ({} private, {} emitted), {} keys",
            self.events, self.private_events, self.emitted_events, self.keys
        )?;
        writeln!(f, "  metadata      {} bytes", self.metadata_bytes)?;
        writeln!(f, "  payloads      {} bytes", self.payload_bytes)?;
        writeln!(f, "  starts        {}", self.epoch)?;
        for (outcome, count) in &self.completions {
            writeln!(f, "  completions   {count} {outcome}")?;
        }
        for (kind, count) in &self.records {
            writeln!(f, "  records       {count} {kind}")?;
        }
        for (kind, TypeCount { events, payload_bytes, last_ms }) in &self.types {
            writeln!(f, "  type          {events} {kind}, {payload_bytes} bytes, last {last_ms}")?;
        }
        if self.damages > 0 {
            let damages = self.damages;
            writeln!(f, "  DAMAGED in {damages} places: see `tidegate log verify`")?;
        }
        Ok(())
    }
}
