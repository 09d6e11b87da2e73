//! Segment files that are not there, as damage.

use std::path::Path;

use super::damage::{Damage, DamageKind, Span};
use super::files::SegmentFile;
use crate::log::segment::segment_path;

/// The commit and the position that come next, where they are known.
type Expected = (Option<u64>, Option<u64>);

/// Those from `next` up to the one that is there.
pub(super) fn missing(file: &SegmentFile, next: u32, (commit, position): Expected) -> Damage {
    let last = file.number.saturating_sub(1);
    let what = match file.number.saturating_sub(next) {
        1 => format!("segment {next} before this one is missing"),
        _ => format!("segments {next} to {last} before this one are missing"),
    };
    Damage {
        kind: DamageKind::MissingSegment,
        file: file.path.clone(),
        offset: 0,
        bytes: None,
        what,
        commits: commit.map(|first| Span { first, last: None }),
        positions: position.map(|first| Span { first, last: None }),
    }
}

/// The one that an unclean seal says is there.
pub(super) fn missing_last(before: &SegmentFile, (commit, position): Expected) -> Damage {
    let number = before.number.saturating_add(1);
    Damage {
        kind: DamageKind::MissingSegment,
        file: segment_path(before.path.parent().unwrap_or(Path::new("")), number),
        offset: 0,
        bytes: None,
        what: format!("segment {number} is missing: the one before it was sealed to go on in it"),
        commits: commit.map(|first| Span { first, last: None }),
        positions: position.map(|first| Span { first, last: None }),
    }
}
