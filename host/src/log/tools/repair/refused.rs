//! What speaks against a log though its frames are whole, and whatever else a start refuses: so that a
//! repair mends all of it.

use super::super::ToolError;
use super::super::damage::{Damage, DamageKind};
use super::super::files::BusFiles;
use super::known::Known;
use super::plan::Planned;
use super::survey::{Segment, Survey};
use crate::event::CommitNumber;
use crate::log::error::OpenError;
use crate::log::recovery::{End, Proof, judge};
use crate::log::segment::{segment_number, segment_path};

impl Survey {
    /// Holds what is there against what derived files prove.
    pub(super) fn hold_against_proofs(
        &mut self,
        files: &BusFiles<'_>,
        log_id: [u8; 16],
    ) -> Result<(), ToolError> {
        let end = self.end();
        let (disk, folders) = (files.disk, &files.folders);
        let proof = Proof::beyond(disk, folders, log_id, end).and_then(|proof| match proof {
            None if end.commit == End::NONE.commit => Proof::of_lost(disk, folders),
            proof => Ok(proof),
        });
        match proof {
            Ok(None) => {}
            Ok(Some(proof)) => {
                let refusal = OpenError::Shorter(proof.refusal(folders, end));
                self.refused(Damage::of_refusal(refusal)?);
            }
            Err(error) => return Damage::of_refusal(error).map(drop),
        }
        Ok(())
    }

    /// Where it ends, as far as that is left.
    fn end(&self) -> End {
        let commit =
            CommitNumber(self.segments.iter().map(Segment::last_commit).max().unwrap_or(0));
        let segment = match self.segments.iter().rfind(|segment| !segment.is_blank) {
            Some(last) if last.seal.is_some() => last.number.saturating_add(1),
            Some(last) => last.number,
            None => End::NONE.segment,
        };
        End { segment, commit }
    }

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
            // What is followed by another is sealed.
            let before = self.segments.iter_mut().take_while(|segment| segment.number < number);
            for segment in before.filter(|segment| segment.seal.is_none()) {
                (segment.is_damaged, segment.is_blank) = (true, false);
            }
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
        let is_open = damage.commits.is_some_and(|commits| commits.last.is_none());
        damage.file == path && (is_open || damage.kind == DamageKind::MissingSegment)
    };
    let is_told = last.seal.is_some() || known.tells_end_of(last.number);
    last.is_damaged && !is_told && damages.iter().any(is_cut)
}
