//! The steps of a repair, in an order in which each can be interrupted.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::ToolError;
use super::super::damage::DamageKind;
use super::super::files::{BusFiles, SegmentFile, SegmentReader, io_error};
use super::deliveries::{Deliveries, decide};
use super::earlier::Earlier;
use super::known::Known;
use super::lost::{Hole, holes};
use super::plan::{Piece, Planned, plan};
use super::refused::has_open_end;
use super::report::{BusRepair, LostRange, RepairedSegment};
use super::survey::{Item, survey};
use super::write::{Around, write_segment};
use super::{RepairError, RepairMode};
use crate::log::disk::{Disk, publish_file, read_up_to};
use crate::log::recovery::UNFINISHED;
use crate::log::segment::{CLAIM_ALIGN, Tip, claim};
use crate::state::checkpoint;

/// Bytes copied at once.
const COPY_BYTES: u64 = 1 << 20;

/// What is still to be done once all segments are written: what [`UNFINISHED`] holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Unfinished {
    /// Number of the repair.
    number: u32,
    /// Segments whose index says what they said before.
    segments: Vec<u32>,
    /// Whether something is lost that checkpoints and key heads still have.
    is_lossy: bool,
}

/// Repairs one bus.
pub(super) fn repair_bus(files: &BusFiles<'_>, mode: RepairMode) -> Result<BusRepair, RepairError> {
    let segments = files.segments()?;
    let log_id = files.log_id(&segments)?;
    let begun = Unfinished::read(files)?;
    let mut report = BusRepair { bus: files.name.clone(), ..BusRepair::default() };
    report.is_continued = begun.is_some();
    let mut survey = survey(log_id, &segments)?;
    survey.hold_against_indexes(files, &log_id);
    survey.hold_against_proofs(files, log_id)?;
    survey.hold_against_start(files)?;
    report.damages.clone_from(&survey.damages);
    let is_hopeless =
        |kind| matches!(kind, DamageKind::Version | DamageKind::Order | DamageKind::Content);
    if let Some(damage) = survey.damages.iter().find(|damage| is_hopeless(damage.kind)) {
        return Err(RepairError::NotForRepair(Box::new(damage.clone())));
    }
    if log_id == [0; 16] && !survey.damages.is_empty() {
        return Err(RepairError::NothingLeft { bus: files.name.clone() });
    }
    let kept = survey.segments.iter().filter(|segment| !segment.is_damaged);
    let torn = kept.filter_map(|segment| segment.torn);
    report.torn_bytes = torn.map(|(_, bytes)| bytes).sum();
    let known = Known::gather(files, &log_id, &survey)?;
    let planned = plan(survey, &known);
    report.has_open_end = has_open_end(files, &planned, &report.damages, &known);
    let mut holes = holes(&planned, &known)?;
    let number = free_number(files)?;
    // What an interrupted one was to write says nothing new.
    let until = begun.as_ref().map_or(number, |begun| begun.number.min(number));
    let earlier = Earlier::read(files, until, report_name)?;
    for hole in holes.iter_mut().filter(|hole| earlier.wrote(hole.segment)) {
        hole.is_exact = false;
    }
    let mut deliveries = decide(log_id, &planned, &mut holes)?;
    if let Some(hole) = holes.first_mut() {
        let from = hole.commits.start;
        let restored =
            deliveries.identities.restore(files.disk, files.dir(), log_id, (from, known.foreign()));
        hole.controls = restored.controls;
        (report.restored, report.unknown) = (restored.plugins, restored.unknown);
    }
    let damaged: Vec<u32> = planned
        .iter()
        .filter(|planned| planned.segment.is_damaged)
        .map(|planned| planned.segment.number)
        .collect();
    let mut todo = begun.unwrap_or_default();
    todo.number = number;
    todo.is_lossy |= !holes.is_empty();
    todo.segments.extend(
        damaged.iter().filter(|number| !todo.segments.contains(number)).collect::<Vec<_>>(),
    );
    let repair = Repair { files, log_id, planned, holes, deliveries, todo };
    repair.describe(&mut report)?;
    if mode == RepairMode::Perform && report.needs_repair() {
        repair.perform(&mut report)?;
    }
    Ok(report)
}

impl Unfinished {
    /// What an interrupted repair left to do.
    fn read(files: &BusFiles<'_>) -> Result<Option<Self>, ToolError> {
        let path = files.segments_dir().join(UNFINISHED);
        let file = match files.disk.open_read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(|source| io_error(&path, source))?,
        };
        let bytes = file
            .len()
            .and_then(|len| usize::try_from(len).map_err(io::Error::other))
            .and_then(|len| read_up_to(&*file, 0, len))
            .map_err(|source| io_error(&path, source))?;
        // One that cannot be read any more says that all of it may still be to do.
        let everything = || Self { is_lossy: true, ..Self::default() };
        Ok(Some(serde_json::from_slice(&bytes).unwrap_or_else(|_| everything())))
    }
}

/// The first number under which no repair is written down.
fn free_number(files: &BusFiles<'_>) -> Result<u32, ToolError> {
    let names = files.names()?;
    let is_taken = |number: &u32| names.contains(&report_name(*number));
    Ok((1..).find(|number| !is_taken(number)).unwrap_or(u32::MAX))
}

fn report_name(number: u32) -> String {
    format!("repair-{number}.json")
}

struct Repair<'f, 'd> {
    files: &'f BusFiles<'d>,
    log_id: [u8; 16],
    planned: Vec<Planned>,
    holes: Vec<Hole>,
    deliveries: Deliveries,
    todo: Unfinished,
}

impl Repair<'_, '_> {
    fn damaged(&self) -> impl Iterator<Item = &Planned> {
        self.planned.iter().filter(|planned| planned.segment.is_damaged)
    }

    fn segment_path(&self, number: u32) -> PathBuf {
        crate::log::segment::segment_path(self.files.segments_dir(), number)
    }

    /// Where the original of a segment is kept.
    fn original_path(&self, number: u32) -> PathBuf {
        let name = format!("{number:010}-{}.damaged", self.todo.number);
        self.files.segments_dir().join(name)
    }

    fn describe(&self, report: &mut BusRepair) -> Result<(), ToolError> {
        report.segments = self
            .damaged()
            .map(|planned| RepairedSegment {
                segment: planned.segment.number,
                file: self.segment_path(planned.segment.number),
                original: planned
                    .segment
                    .file
                    .as_ref()
                    .map(|_| self.original_path(planned.segment.number)),
            })
            .collect();
        let lost = || self.holes.iter().filter(|hole| !hole.is_empty());
        report.lost = lost().map(LostRange::of).collect();
        report.lost_commits = lost().map(|hole| hole.lost_commits).sum();
        report.lost_events = lost().map(|hole| hole.events.len() as u64).sum();
        let over = lost().flat_map(|hole| &hole.over).flat_map(|over| &over.positions);
        report.over = over.map(|(first, last)| last.0 - first.0 + 1).sum();
        report.again = self.deliveries.again.iter().copied().collect();
        if let Some(first) = self.holes.first().map(|hole| hole.commits.start) {
            let pieces = self.planned.iter().flat_map(|planned| &planned.pieces);
            let kept = pieces.filter_map(|piece| match piece {
                Piece::Item(Item::Run(run)) if run.first.first_commit >= first => Some(run),
                _ => None,
            });
            for run in kept {
                report.kept_behind_commits += run.counts.commits;
                report.kept_behind_events += run.counts.events;
            }
        }
        report.put_aside = self.derived()?;
        Ok(())
    }

    fn perform(&self, report: &mut BusRepair) -> Result<(), RepairError> {
        let disk = self.files.disk;
        let dir = self.files.segments_dir();
        let _lock = self.files.make()?;
        for planned in self.damaged() {
            if let Some(file) = &planned.segment.file {
                copy(disk, file, &self.original_path(planned.segment.number))?;
            }
        }
        let written_to = dir.join(report_name(self.todo.number));
        report.written_to = Some(written_to.clone());
        let json = serde_json::to_vec_pretty(&report).map_err(io::Error::other);
        json.and_then(|json| publish_file(disk, &written_to, &json))
            .map_err(|source| io_error(&written_to, source))?;
        let unfinished = dir.join(UNFINISHED);
        serde_json::to_vec(&self.todo)
            .map_err(io::Error::other)
            .and_then(|json| publish_file(disk, &unfinished, &json))
            .map_err(|source| io_error(&unfinished, source))?;
        self.write_segments()?;
        self.put_aside()?;
        disk.remove(&unfinished)
            .and_then(|()| disk.sync_dir(dir))
            .map_err(|source| io_error(&unfinished, source))?;
        Ok(())
    }

    fn write_segments(&self) -> Result<(), RepairError> {
        let disk = self.files.disk;
        let dir = self.files.segments_dir();
        let mut holes = self.holes.iter();
        let mut tip = Tip::START;
        for (at, planned) in self.planned.iter().enumerate() {
            if planned.segment.is_blank {
                continue;
            }
            if !planned.segment.is_damaged {
                tip = planned.end().unwrap_or(tip);
                continue;
            }
            let path = self.segment_path(planned.segment.number);
            let beside = path.with_extension("mended");
            let following = self.planned.get(at + 1..).unwrap_or_default();
            let around = Around {
                bus: &self.files.name,
                log_id: self.log_id,
                before: tip,
                next_chain: following.iter().find_map(Planned::chained_to).flatten(),
                instances: self.deliveries.identities.last,
            };
            tip = write_segment(disk, &beside, planned, &mut holes, &around)?;
            disk.rename(&beside, &path)
                .and_then(|()| disk.sync_dir(dir))
                .map_err(|source| io_error(&path, source))?;
        }
        self.claim_next()
    }

    /// A log goes on in a segment that is claimed before the last one was sealed.
    fn claim_next(&self) -> Result<(), RepairError> {
        let Some(last) = self.planned.last() else { return Ok(()) };
        if last.segment.is_blank || !last.segment.is_damaged {
            return Ok(());
        }
        let number = last.segment.number.saturating_add(1);
        let dir = self.files.segments_dir();
        let claimed = claim(self.files.disk, dir, number, CLAIM_ALIGN);
        claimed.map_err(|source| io_error(&self.segment_path(number), source))?;
        Ok(())
    }

    /// Derived files that say what the log does not say any more.
    fn derived(&self) -> Result<Vec<PathBuf>, ToolError> {
        let disk = self.files.disk;
        let segments = self.todo.segments.iter();
        let mut paths: Vec<_> = segments.map(|number| self.files.index_path(*number)).collect();
        if !self.todo.segments.is_empty() || self.todo.is_lossy {
            paths.push(self.files.heads_path());
        }
        if self.todo.is_lossy {
            let dir = self.files.dir().join(checkpoint::DIR);
            // A folder that is not there has none.
            let names = disk.list(&dir).unwrap_or_default();
            let checkpoints = names.into_iter().filter(|name| checkpoint::is_checkpoint(name));
            paths.extend(checkpoints.map(|name| dir.join(name)));
        }
        paths.retain(|path| disk.open_read(path).is_ok());
        Ok(paths)
    }

    fn put_aside(&self) -> Result<(), ToolError> {
        let disk = self.files.disk;
        for path in self.derived()? {
            let mut name = path.file_name().unwrap_or_default().to_owned();
            name.push(format!(".repair-{}", self.todo.number));
            let dir = path.parent().unwrap_or(Path::new("."));
            disk.rename(&path, &path.with_file_name(name))
                .and_then(|()| disk.sync_dir(dir))
                .map_err(|source| io_error(&path, source))?;
        }
        Ok(())
    }
}

impl Planned {
    /// What follows on the segment as it is.
    fn end(&self) -> Option<Tip> {
        if let Some(seal) = &self.segment.seal {
            return Some(seal.after);
        }
        match self.pieces.last()? {
            Piece::Item(Item::Run(run)) => Some(run.after),
            Piece::Item(Item::Restored { after, .. }) => Some(*after),
            Piece::Item(Item::Partial { .. }) | Piece::Gap(_) => None,
        }
    }

    /// What its first frame is chained to; none: it has no frame. The inner one: that is made anew.
    fn chained_to(&self) -> Option<Option<[u8; 32]>> {
        match self.pieces.first() {
            Some(Piece::Item(item)) => Some(item.chained_to()),
            Some(Piece::Gap(_)) => Some(None),
            None if self.segment.is_damaged => Some(None),
            None => self.segment.seal.map(|seal| Some(seal.header.chain)),
        }
    }
}

/// Copies a file so that after a crash there is all of it or nothing under its name.
fn copy(disk: &dyn Disk, from: &SegmentFile, to: &Path) -> Result<(), ToolError> {
    let failed = |source| io_error(to, source);
    let beside = to.with_extension("copying");
    // Left by an earlier try, or not there.
    let _ = disk.remove(&beside);
    let file = disk.create_new(&beside).map_err(failed)?;
    let mut reader = SegmentReader::new(from);
    let mut at = 0;
    while at < from.bytes {
        let bytes = reader.read(at, COPY_BYTES)?;
        if bytes.is_empty() {
            break;
        }
        file.write_at(&bytes, at).map_err(failed)?;
        at += bytes.len() as u64;
    }
    file.sync_data().map_err(failed)?;
    let dir = to.parent().unwrap_or(Path::new("."));
    disk.rename(&beside, to).and_then(|()| disk.sync_dir(dir)).map_err(failed)
}
