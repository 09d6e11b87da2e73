//! The end of a segment, held against what stands in it.

use super::super::ToolError;
use super::super::damage::{Damage, DamageKind, Span};
use super::{Expected, SegmentWalk};
use crate::log::codec::{RecordRef, Seal};
use crate::log::frame::Frame;

impl SegmentWalk<'_, '_> {
    /// Reads a seal and holds it against what was counted.
    pub(super) fn seal(&mut self, offset: u64, frame: &Frame) -> Result<Seal, ToolError> {
        let mut records = frame.commits().flatten().flat_map(|commit| commit.records());
        let found = records.find_map(|record| match record {
            Ok(RecordRef::Seal(seal)) => Some(seal),
            _ => None,
        });
        let seal = found.unwrap_or_default();
        let counted = Seal { clean_stop: seal.clean_stop, ..self.tally };
        // Behind damage the counts are not known.
        if found.is_none() || (self.damages == 0 && seal != counted) {
            self.damage(Damage {
                kind: DamageKind::Seal,
                file: self.file.path.clone(),
                offset,
                bytes: Some(frame.header().frame_bytes()),
                what: format!("the seal says {seal:?}, the segment has {counted:?}"),
                commits: Span::of(counted.first_commit, counted.commits),
                positions: Span::of(counted.first_position, counted.events),
            })?;
        }
        Ok(seal)
    }

    pub(super) fn behind_seal(&mut self, offset: u64) -> Result<(), ToolError> {
        if self.reader.is_zero_from(offset)? {
            return Ok(());
        }
        self.damage(Damage {
            kind: DamageKind::BehindSeal,
            file: self.file.path.clone(),
            offset,
            bytes: Some(self.file.bytes - offset),
            what: "there are bytes behind the seal".to_owned(),
            commits: None,
            positions: None,
        })
    }

    pub(super) fn not_sealed(&mut self, offset: u64) -> Result<(), ToolError> {
        self.damage(Damage {
            kind: DamageKind::NotSealed,
            file: self.file.path.clone(),
            offset,
            bytes: None,
            what: match self.is_last {
                false => "the segment ends without its seal, and another follows".to_owned(),
                true => "the segment ends without its seal, and was not being written".to_owned(),
            },
            commits: self.expected.commit.map(|first| Span { first, last: None }),
            positions: self.expected.position.map(|first| Span { first, last: None }),
        })?;
        self.expected = Expected {
            epoch: self.expected.epoch,
            time_ms: self.expected.time_ms,
            commit: self.expected.commit,
            ..Expected::default()
        };
        Ok(())
    }
}
