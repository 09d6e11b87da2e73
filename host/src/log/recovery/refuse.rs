//! What speaks against a log beside the bytes of its segments.

use std::io;

use super::prove::walk;
use super::seals::{any_seal, missing};
use super::{End, Folders, Proof, damage};
use crate::event::{CommitNumber, Position};
use crate::log::codec::{DecodeError, Salt};
use crate::log::disk::Disk;
use crate::log::error::OpenError;
use crate::log::index::{IndexFile, SegmentSpan};
use crate::log::segment::{ScanEnd, Tip};

/// A repair that was interrupted is to be finished first.
pub(super) fn not_in_repair(disk: &dyn Disk, folders: &Folders) -> Result<(), OpenError> {
    let path = folders.segments.join(super::UNFINISHED);
    match disk.open_read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Folders::io(&path)(error)),
        Ok(_) => {
            let dir = folders.segments.clone();
            Err(OpenError::InRepair { dir, data_dir: folders.data_dir() })
        }
    }
}

/// A log is as long as derived files prove that it was.
pub(super) fn longer_once(
    disk: &dyn Disk,
    folders: &Folders,
    log_id: [u8; 16],
    end: End,
) -> Result<(), OpenError> {
    match Proof::beyond(disk, folders, log_id, end)? {
        None => Ok(()),
        Some(proof) => Err(proof.refusal(folders, end).into()),
    }
}

/// A log that has begun has a frame.
pub(super) fn never_begun(disk: &dyn Disk, folders: &Folders) -> Result<(), OpenError> {
    let path = folders.id_file();
    match disk.open_read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match Proof::of_lost(disk, folders)? {
                None => Ok(()),
                Some(proof) => Err(proof.refusal(folders, End::NONE).into()),
            }
        }
        Err(error) => Err(Folders::io(&path)(error)),
        Ok(_) => {
            let first = folders.segment(1);
            match disk.open_read(&first) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    Err(missing(folders, 1, 1))
                }
                _ => Err(damage(folders, 1, 0, DecodeError::Magic, &Tip::START, None)),
            }
        }
    }
}

/// A segment has an index once it was sealed: one that has an index and no seal lost its end.
pub(super) fn never_sealed(
    disk: &dyn Disk,
    folders: &Folders,
    log_id: [u8; 16],
    sealed: usize,
    numbers: &[u32],
    before: &Tip,
) -> Result<(), OpenError> {
    for number in numbers.iter().skip(sealed) {
        let path = folders.segment(*number);
        let file = disk.open_read(&path).map_err(Folders::io(&path))?;
        if any_seal(&file).map_err(Folders::io(&path))?.is_some() {
            continue;
        }
        let index = IndexFile::open(disk, &folders.index_file(*number), &log_id, *number);
        // One that cannot be read tells nothing; it is made anew.
        if let Ok(Some(index)) = index {
            let walked = walk(&file, Salt::new(log_id, *number), *before, |_, _| Ok(()), || false)
                .map_err(|error| error.at(folders, *number))?;
            // The seal is there, and only zeros behind it.
            if walked.seal.is_some() && walked.stop == ScanEnd::Blank {
                continue;
            }
            let offset = walked.end;
            let mut error =
                damage(folders, *number, offset, DecodeError::Unsealed, &walked.tip, None);
            if let OpenError::Damaged(damage) = &mut error {
                let SegmentSpan { last_commit, last_position, .. } = *index.span();
                let next = (CommitNumber(last_commit.0 + 1), Position(last_position.0 + 1));
                damage.next_whole = Some(next);
            }
            return Err(error);
        }
    }
    Ok(())
}
