//! Which segments there are, and what the seals of the closed ones say.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::prove::sealed_before_zeros;
use super::torn::next_valid;
use super::{Folders, SealedSegment, damage};
use crate::event::CommitNumber;
use crate::log::codec::{DecodeError, FRAME_ALIGN, HEADER_BYTES, Header, RecordRef, Salt, Seal};
use crate::log::disk::{Disk, DiskFile, names_in, read_up_to};
use crate::log::error::OpenError;
use crate::log::frame::Frame;
use crate::log::segment::{
    CLAIM_ALIGN, SEAL_BYTES_MAX, Tip, first_nonzero, sealed_len, segment_number,
};

pub(super) fn missing(folders: &Folders, segment: u32, first_commit: u64) -> OpenError {
    OpenError::Missing {
        dir: folders.segments.clone(),
        segment,
        first_commit: CommitNumber(first_commit),
        data_dir: folders.data_dir(),
    }
}

/// The numbers of the segments there are: from 1, without a gap.
pub(super) fn segment_numbers(disk: &dyn Disk, folders: &Folders) -> Result<Vec<u32>, OpenError> {
    // Who only looks at a log does not make its folder.
    let names = names_in(disk, &folders.segments).map_err(Folders::io(&folders.segments))?;
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| segment_number(name)).collect();
    numbers.sort_unstable();
    for (number, expected) in numbers.iter().zip(1..) {
        if *number != expected {
            let before = expected - 1;
            let first_commit = if before == 0 {
                1
            } else {
                let path = folders.segment(before);
                let file = disk.open_read(&path).map_err(Folders::io(&path))?;
                let seal = any_seal(&file).map_err(Folders::io(&path))?;
                seal.map_or(1, |frame| frame.header().next_commit())
            };
            return Err(missing(folders, expected, first_commit));
        }
    }
    Ok(numbers)
}

/// Where the seal in a file of this length ends, if the file is sealed.
fn seal_end(file: &Arc<dyn DiskFile>) -> io::Result<u64> {
    let len = file.len()?;
    let end = len.saturating_sub(FRAME_ALIGN as u64);
    // Zeros that only make the length odd; a seal never ends with so many.
    let is_padded = sealed_len(end) == len && first_nonzero(&**file, end)?.is_none();
    Ok(if is_padded { end } else { len })
}

/// Reads the seal at the end of a file, of whatever log and segment it names.
pub(super) fn any_seal(file: &Arc<dyn DiskFile>) -> io::Result<Option<Frame>> {
    let end = seal_end(file)?;
    let from = end.saturating_sub(SEAL_BYTES_MAX).next_multiple_of(FRAME_ALIGN as u64);
    let len = usize::try_from(end.saturating_sub(from)).unwrap_or_default();
    let bytes: Bytes = read_up_to(&**file, from, len)?.into();
    // From the back: the seal is the last frame, and must end where the file ends.
    let starts = (0..bytes.len()).step_by(FRAME_ALIGN).rev();
    Ok(starts.map(|at| bytes.slice(at..)).find_map(|bytes| {
        let header = Header::decode_any(&bytes).ok()?;
        let frame = Frame::open(&bytes, Salt::new(header.log_id, header.segment)).ok()?;
        (header.is_seal() && frame.bytes().len() == bytes.len()).then_some(frame)
    }))
}

/// What the seal in a frame says.
pub(in crate::log) fn seal_of(frame: &Frame) -> Option<Seal> {
    let record = frame.commits().next()?.ok()?.records().next()?.ok()?;
    match record {
        RecordRef::Seal(seal) => Some(seal),
        _ => None,
    }
}

/// The sealed segments, their seals verified and in order; then the last segment, if it is to be
/// read as such, and what its first frame follows on.
pub(super) fn seals(
    disk: &dyn Disk,
    folders: &Folders,
    log_id: [u8; 16],
    numbers: &[u32],
) -> Result<(Vec<SealedSegment>, Option<u32>, Tip), OpenError> {
    let mut sealed: Vec<SealedSegment> = Vec::new();
    let mut tip = Tip::START;
    for number in numbers {
        let path = folders.segment(*number);
        let file = disk.open_read(&path).map_err(Folders::io(&path))?;
        let is_last = numbers.last() == Some(number);
        // A sealed file whose bytes have become zeros is as long as before.
        let is_blank = |file: &Arc<dyn DiskFile>| {
            Ok(file.len()?.is_multiple_of(CLAIM_ALIGN) && first_nonzero(&**file, 0)?.is_none())
        };
        if is_last && !is_blank(&file).map_err(Folders::io(&path))? {
            let found = sealed_end(&file, log_id, *number, &tip).map_err(Folders::io(&path))?;
            let Some(segment) = found.filter(|segment| segment.seal.clean_stop) else {
                return Ok((sealed, Some(*number), tip));
            };
            // All of it was synced before the seal that the host stopped with: it is one more sealed
            // segment.
            check_start(disk, folders, log_id, &segment)?;
            tip = segment.after;
            sealed.push(segment);
            return Ok((sealed, None, tip));
        }
        if is_last {
            // Claimed, not begun. So the one before is the last that counts, unless it is sealed.
            return Ok((sealed, None, tip));
        }
        let is_before_claimed = numbers.last() == Some(&(number + 1)) && {
            let next = folders.segment(number + 1);
            let file = disk.open_read(&next).map_err(Folders::io(&next))?;
            is_blank(&file).map_err(Folders::io(&next))?
        };
        let found = sealed_end(&file, log_id, *number, &tip).map_err(Folders::io(&path))?;
        let segment = match found {
            Some(segment) => {
                check_start(disk, folders, log_id, &segment)?;
                segment
            }
            None if is_before_claimed => return Ok((sealed, Some(*number), tip)),
            None => sealed_before_zeros(&file, folders, log_id, *number, tip)?,
        };
        tip = segment.after;
        sealed.push(segment);
    }
    Ok((sealed, None, tip))
}

fn sealed_end(
    file: &Arc<dyn DiskFile>,
    log_id: [u8; 16],
    number: u32,
    before: &Tip,
) -> io::Result<Option<SealedSegment>> {
    let Some(frame) = any_seal(file)? else { return Ok(None) };
    let header = *frame.header();
    let Some(seal) = seal_of(&frame) else { return Ok(None) };
    let bytes = seal_end(file)?;
    let fits = header.log_id == log_id
        && header.segment == number
        && seal.first_commit == before.next_commit
        && seal.first_position == before.next_position
        && seal.first_commit.checked_add(seal.commits) == Some(header.first_commit)
        && seal.first_position.checked_add(seal.events) == Some(header.first_position)
        && seal.bytes.checked_add(frame.bytes().len() as u64) == Some(bytes);
    let (before, after) = (*before, Tip::after(&frame));
    Ok(fits.then_some(SealedSegment { number, bytes, before, after, seal }))
}

/// The first frame of a segment must follow on the seal before it.
fn check_start(
    disk: &dyn Disk,
    folders: &Folders,
    log_id: [u8; 16],
    segment: &SealedSegment,
) -> Result<(), OpenError> {
    let path = folders.segment(segment.number);
    let file = disk.open_read(&path).map_err(Folders::io(&path))?;
    let bytes = read_up_to(&*file, 0, HEADER_BYTES).map_err(Folders::io(&path))?;
    let before = &segment.before;
    let why = match Header::decode(&bytes, Salt::new(log_id, segment.number)) {
        Ok(header) if header.chain == before.chain => return Ok(()),
        Ok(_) => DecodeError::Chain,
        Err(why) => why,
    };
    let next = next_valid(&file, Some(Salt::new(log_id, segment.number)), FRAME_ALIGN as u64)
        .map_err(Folders::io(&path))?;
    Err(damage(folders, segment.number, 0, why, before, next.map(|(_, header)| header).as_ref()))
}
