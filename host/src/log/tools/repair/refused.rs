//! What speaks against a log though its frames are whole, and whatever else a start refuses: so that a
//! repair mends all of it.

use super::super::ToolError;
use super::super::damage::Damage;
use super::super::files::BusFiles;
use super::known::Known;
use super::plan::Planned;
use super::survey::{Segment, Survey};
use crate::log::recovery::judge;
use crate::log::segment::{segment_number, segment_path};

impl Survey {
    /// Asks the start's own judgement. A segment that it refuses is written anew, as far as it is whole.
    pub(super) fn hold_against_start(&mut self, files: &BusFiles<'_>) -> Result<(), ToolError> {
        match judge(files.disk, &files.folders) {
            Ok(()) => Ok(()),
            Err(error) => {
                self.refused(Damage::of_refusal(error)?);
                Ok(())
            }
        }
    }

    pub(super) fn refused(&mut self, damage: Damage) {
        let name = damage.file.file_name().unwrap_or_default().to_string_lossy();
        if let Some(number) = segment_number(&name) {
            self.add_missing(number.saturating_add(1));
            let is_it = |segment: &&mut Segment| segment.number == number;
            let Some(segment) = self.segments.iter_mut().find(is_it) else { return };
            let is_known = segment.is_damaged && self.damages.iter().any(|d| d.file == damage.file);
            (segment.is_damaged, segment.is_blank) = (true, false);
            if is_known {
                return;
            }
        }
        self.damages.push(damage);
    }
}

/// Whether a log may have gone on behind what is left and known of it.
pub(super) fn has_open_end(
    files: &BusFiles<'_>,
    planned: &[Planned],
    damages: &[Damage],
    known: &Known,
) -> bool {
    let Some(last) = planned.last().map(|planned| &planned.segment) else { return false };
    let path = segment_path(files.segments_dir(), last.number);
    let is_cut = |damage: &Damage| {
        damage.file == path && damage.commits.is_some_and(|commits| commits.last.is_none())
    };
    let is_told = last.seal.is_some() || known.span(last.number).is_some();
    last.is_damaged && !is_told && damages.iter().any(is_cut)
}
