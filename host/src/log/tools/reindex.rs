//! Builds the index files of sealed segments anew.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::ToolError;
use super::damage::Damage;
use super::files::BusFiles;
use super::walk::{Met, walk};
use crate::log::dedup::IdHasher;
use crate::log::disk::Disk;
use crate::log::index::{SegmentBase, SegmentIndexBuilder, SegmentSeal};

/// What [`reindex`] did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReindexReport {
    /// Each bus, by name.
    pub buses: Vec<BusReindexed>,
}

/// What [`reindex`] did for one bus.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BusReindexed {
    /// The bus.
    pub bus: String,
    /// Index files written.
    pub written: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Segments without a seal: their index is in the host's memory.
    pub open: u64,
    /// Damaged segments, whose index stays as it is.
    pub skipped: u64,
    /// The first damage of each of them.
    pub damages: Vec<Damage>,
}

impl ReindexReport {
    /// Whether every sealed segment has its index.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.buses.iter().all(|bus| bus.damages.is_empty())
    }
}

/// Builds all index files of a data directory anew, of one bus where it is named.
///
/// # Errors
/// There is no log, a host has it open, or a file cannot be read or written.
pub fn reindex(
    disk: &dyn Disk,
    data: &Path,
    bus: Option<&str>,
) -> Result<ReindexReport, ToolError> {
    let buses = BusFiles::find(disk, data, bus)?;
    let buses = buses.iter().map(reindex_bus).collect::<Result<_, _>>()?;
    Ok(ReindexReport { buses })
}

fn reindex_bus(files: &BusFiles<'_>) -> Result<BusReindexed, ToolError> {
    let segments = files.segments()?;
    let log_id = files.log_id(&segments)?;
    let ids = IdHasher::new(&log_id);
    let mut report = BusReindexed { bus: files.name.clone(), ..BusReindexed::default() };
    let mut builder: Option<SegmentIndexBuilder> = None;
    let mut damage: Option<Damage> = None;
    let mut number = 0;
    walk(log_id, &segments, &mut |met| {
        match met {
            Met::Segment(file) => {
                (builder, number) = (None, file.number);
            }
            // What does not decode is damage that `verify` explains; here it ends the segment.
            Met::Frame { file, offset, frame, .. } => {
                let new = || SegmentIndexBuilder::new(SegmentBase::of(frame.header()));
                let filled = builder.get_or_insert_with(new).add_frame(frame, offset, &ids);
                if let (Err(error), None) = (filled, &damage) {
                    damage = Some(Damage::content(&file.path, offset, error.to_string()));
                }
            }
            Met::Broken { .. } => {}
            Met::Damage(found) => {
                damage.get_or_insert(found);
            }
            Met::End(end) => {
                let builder = builder.take();
                if let Some(found) = damage.take() {
                    report.skipped += 1;
                    report.damages.push(found);
                } else if let (Some((_, bytes, chain)), Some(builder)) = (end.seal, builder) {
                    let index = builder.encode(SegmentSeal { bytes, chain })?;
                    files.publish_index(number, &index)?;
                    report.written += 1;
                    report.bytes += index.len() as u64;
                } else {
                    report.open += 1;
                }
            }
        }
        Ok(())
    })?;
    Ok(report)
}

impl fmt::Display for ReindexReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for bus in &self.buses {
            let BusReindexed { bus: name, written, bytes, open, skipped, .. } = bus;
            writeln!(
                f,
                "{name}: {written} index files written ({bytes} bytes), {open} segments open, \
                 {skipped} damaged and skipped"
            )?;
            for damage in &bus.damages {
                writeln!(f, "  DAMAGED {damage}")?;
            }
        }
        Ok(())
    }
}
