//! What a log is left with: every record that stays, wherever in it.
//!
//! Rule: it is asked of the plan and not of the files, which may also hold what is given up, and whose
//! damaged frames are kept in part.

use super::super::ToolError;
use super::super::files::SegmentReader;
use super::plan::{Piece, Planned};
use super::restore::{has_completion, is_whole, sections};
use super::survey::{Item, Run};
use crate::event::CommitNumber;
use crate::log::codec::{
    CommitRef, Commits, HEADER_BYTES, Header, RecordRef, Salt, payload_digest,
};
use crate::log::frame::Frame;

/// What is told of a record, with the number of its commit.
type Visit<'v> = dyn FnMut(CommitNumber, &RecordRef<'_>) + 'v;

/// Tells of each record of some kinds that stays, in the order of the log.
pub(super) fn each_kept(
    log_id: [u8; 16],
    segments: &[Planned],
    kinds: &[u8],
    visit: &mut Visit<'_>,
) -> Result<(), ToolError> {
    for planned in segments {
        for piece in &planned.pieces {
            match piece {
                Piece::Item(Item::Run(run)) => of_run(log_id, planned, run, kinds, visit)?,
                Piece::Item(
                    Item::Restored { header, bytes, .. } | Item::Partial { header, bytes },
                ) => {
                    of_frame(header, bytes, kinds, visit);
                }
                Piece::Gap(_) => {}
            }
        }
    }
    Ok(())
}

fn of_run(
    log_id: [u8; 16],
    planned: &Planned,
    run: &Run,
    kinds: &[u8],
    visit: &mut Visit<'_>,
) -> Result<(), ToolError> {
    let Some(file) = &planned.segment.file else { return Ok(()) };
    let salt = Salt::new(log_id, planned.segment.number);
    let mut reader = SegmentReader::new(file);
    let mut at = run.from;
    while at < run.to {
        // A file that changed since it was surveyed is found out when it is written anew.
        let Ok(header) = Header::decode(&reader.read(at, HEADER_BYTES as u64)?, salt) else {
            break;
        };
        let Ok(frame) = Frame::open(&reader.read(at, header.frame_bytes())?, salt) else { break };
        for commit in frame.commits().map_while(Result::ok) {
            of_commit(&commit, true, kinds, visit);
        }
        at += header.frame_bytes();
    }
    Ok(())
}

fn of_frame(header: &Header, bytes: &[u8], kinds: &[u8], visit: &mut Visit<'_>) {
    let Some((metadata, payload)) = sections(header, bytes) else { return };
    for commit in Commits::new(header, metadata, payload).map_while(Result::ok) {
        let is_kept = is_whole(&commit);
        // What a delivery did is whole or lost.
        if is_kept || !has_completion(&commit) {
            of_commit(&commit, is_kept, kinds, visit);
        }
    }
}

fn of_commit(commit: &CommitRef<'_>, is_whole: bool, kinds: &[u8], visit: &mut Visit<'_>) {
    let mut records = commit.records();
    while let Some(Ok((raw, position))) = records.next_raw() {
        let is_right =
            is_whole || raw.digest.is_none_or(|digest| digest == payload_digest(raw.payload));
        if is_right
            && kinds.contains(&raw.kind)
            && let Ok(record) = records.read(&raw, position)
        {
            visit(commit.number, &record);
        }
    }
}
