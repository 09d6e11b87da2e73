//! The reading half of recovery: what is there, and whether it is what was written.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::seals::seal_of;
use super::torn::next_valid;
use super::{Folders, SealedSegment, damage};
use crate::log::codec::{
    DecodeError, FRAME_ALIGN, FRAME_BYTES_MAX, HEADER_BYTES, Header, Salt, Seal,
};
use crate::log::disk::{Disk, DiskFile, read_up_to};
use crate::log::error::OpenError;
use crate::log::frame::Frame;
use crate::log::index::{FillError, IndexError};
use crate::log::segment::{
    CLAIM_ALIGN, SEAL_BYTES_MAX, Scan, ScanEnd, SegmentScan, Tip, count_frame, first_nonzero,
};

/// How the last segment ends.
#[derive(Debug)]
pub(super) enum LastEnd {
    /// With a seal; `end` is behind it.
    Sealed { seal: Seal, end: u64 },
    /// With a frame; `seal` counts what is in it. Torn: bytes follow that are to be cut.
    Open { seal: Seal, end: u64, torn: bool },
}

/// The last segment, read.
#[derive(Debug)]
pub(super) struct Last {
    pub(super) tip: Tip,
    pub(super) end: LastEnd,
}

/// The log's id, from the first frame; none: there is no frame in any segment, nor a part of one
/// whose header can be read.
pub(super) fn log_id(
    disk: &dyn Disk,
    folders: &Folders,
    numbers: &[u32],
) -> Result<Option<[u8; 16]>, OpenError> {
    for number in numbers {
        let path = folders.segment(*number);
        let file = disk.open_read(&path).map_err(Folders::io(&path))?;
        let bytes = read_up_to(&*file, 0, HEADER_BYTES).map_err(Folders::io(&path))?;
        let why = match Header::decode_any(&bytes) {
            Ok(header) => return Ok(Some(header.log_id)),
            Err(why) => why,
        };
        if let DecodeError::Version { .. } | DecodeError::Flags { .. } = why {
            return Err(OpenError::Newer { path, why });
        }
        let next = next_valid(&file, None, 0).map_err(Folders::io(&path))?;
        if let Some((_, header)) = next {
            return Err(damage(folders, *number, 0, why, &Tip::START, Some(&header)));
        }
    }
    Ok(None)
}

/// Reads a segment that should end with its seal and does not: only zeros may stand behind that.
pub(super) fn sealed_before_zeros(
    file: &Arc<dyn DiskFile>,
    folders: &Folders,
    log_id: [u8; 16],
    number: u32,
    before: Tip,
) -> Result<SealedSegment, OpenError> {
    let salt = Salt::new(log_id, number);
    let walked = walk(file, salt, before, |_, _| Ok(()), || false)
        .map_err(|error| error.at(folders, number))?;
    match (walked.seal, &walked.stop) {
        (Some(seal), ScanEnd::Blank) => {
            let (bytes, after) = (walked.end, walked.tip);
            Ok(SealedSegment { number, bytes, before, after, seal })
        }
        _ => Err(walked.damage(file, folders, salt)),
    }
}

/// Why a walk over a segment ended before the segment.
pub(super) enum WalkError {
    Io(io::Error),
    Index(IndexError),
}

impl WalkError {
    pub(super) fn at(self, folders: &Folders, number: u32) -> OpenError {
        match self {
            Self::Io(source) => OpenError::Io { path: folders.segment(number), source },
            Self::Index(error) => OpenError::Index(error),
        }
    }
}

/// How far a segment is right.
pub(super) struct Walked {
    pub(super) tip: Tip,
    /// Behind the last right frame.
    pub(super) end: u64,
    counts: Seal,
    /// The seal, where the last right frame was one.
    pub(super) seal: Option<Seal>,
    pub(super) stop: ScanEnd,
    cancelled: bool,
}

impl Walked {
    fn damage(self, file: &Arc<dyn DiskFile>, folders: &Folders, salt: Salt) -> OpenError {
        let why = match self.stop {
            ScanEnd::Blank => DecodeError::Magic,
            ScanEnd::Broken(why) => why,
        };
        let next = next_valid(file, Some(salt), self.end + FRAME_ALIGN as u64).ok().flatten();
        let next = next.map(|(_, header)| header);
        damage(folders, salt.segment, self.end, why, &self.tip, next.as_ref())
    }
}

/// Walks the frames of a segment as long as they are right.
pub(super) fn walk(
    file: &Arc<dyn DiskFile>,
    salt: Salt,
    before: Tip,
    mut visit: impl FnMut(&Arc<Frame>, u64) -> Result<(), FillError>,
    cancelled: impl Fn() -> bool,
) -> Result<Walked, WalkError> {
    let mut scan = SegmentScan::new(file.clone(), salt, 0);
    let stop = ScanEnd::Blank;
    let mut walked =
        Walked { tip: before, end: 0, counts: Seal::default(), seal: None, stop, cancelled: false };
    walked.counts.first_commit = before.next_commit;
    walked.counts.first_position = before.next_position;
    loop {
        if cancelled() {
            walked.cancelled = true;
            return Ok(walked);
        }
        if walked.seal.is_some() {
            // Nothing may stand behind a seal, not even a frame.
            let rest = first_nonzero(&**file, walked.end).map_err(WalkError::Io)?;
            walked.stop = rest.map_or(ScanEnd::Blank, |_| ScanEnd::Broken(DecodeError::Magic));
            return Ok(walked);
        }
        let before = walked.tip;
        let next = scan.next_after(&mut walked.tip).map_err(WalkError::Io)?;
        if planted!(CutsTooMuch) && is_last(&next, &scan, file, salt).map_err(WalkError::Io)? {
            walked.tip = before;
            walked.stop = ScanEnd::Broken(DecodeError::Checksum { part: "payload" });
            return Ok(walked);
        }
        match next {
            Scan::Frame { frame, offset } => {
                match visit(&frame, offset) {
                    Ok(()) => {}
                    Err(FillError::Index(error)) => return Err(WalkError::Index(error)),
                    Err(FillError::Decode(why)) => {
                        walked.stop = ScanEnd::Broken(why);
                        return Ok(walked);
                    }
                }
                if frame.header().is_seal() {
                    walked.seal = seal_of(&frame);
                } else {
                    count_frame(&mut walked.counts, &frame);
                }
                walked.end = scan.offset();
            }
            Scan::End(stop) => {
                walked.stop = stop;
                return Ok(walked);
            }
        }
    }
}

/// Whether a frame of a planted defect's interest is the last one: not the first of a log.
fn is_last(
    next: &Scan,
    scan: &SegmentScan,
    file: &Arc<dyn DiskFile>,
    salt: Salt,
) -> io::Result<bool> {
    let Scan::Frame { frame, .. } = next else { return Ok(false) };
    let mut after = SegmentScan::new(file.clone(), salt, scan.offset());
    let is_last = matches!(after.advance()?, Scan::End(ScanEnd::Blank));
    Ok(is_last && !frame.header().is_seal() && frame.first_commit().0 > 2)
}

/// Reads a sealed segment from end to end.
///
/// # Errors
/// Damage, and the disk's.
pub(in crate::log) fn prove_sealed(
    disk: &dyn Disk,
    folders: &Folders,
    log_id: [u8; 16],
    segment: &SealedSegment,
    cancelled: impl Fn() -> bool,
) -> Result<(), OpenError> {
    let path = folders.segment(segment.number);
    let file = disk.open_read(&path).map_err(Folders::io(&path))?;
    let salt = Salt::new(log_id, segment.number);
    let walked = walk(&file, salt, segment.before, |_, _| Ok(()), cancelled)
        .map_err(|error| error.at(folders, segment.number))?;
    let is_right = walked.cancelled
        || (walked.end == segment.bytes
            && walked.stop == ScanEnd::Blank
            && walked.tip == segment.after
            && walked.seal == Some(segment.seal));
    if is_right { Ok(()) } else { Err(walked.damage(&file, folders, salt)) }
}

/// Reads the last segment, and decides whether what follows its frames is a torn tail.
pub(super) fn prove_last(
    file: &Arc<dyn DiskFile>,
    salt: Salt,
    before: Tip,
    folders: &Folders,
    visit: &mut impl FnMut(&Arc<Frame>, u64) -> Result<(), FillError>,
) -> Result<Last, OpenError> {
    let path = folders.segment(salt.segment);
    let walked = walk(file, salt, before, visit, || false)
        .map_err(|error| error.at(folders, salt.segment))?;
    if let Some(seal) = walked.seal {
        return match walked.stop {
            ScanEnd::Blank => {
                Ok(Last { tip: walked.tip, end: LastEnd::Sealed { seal, end: walked.end } })
            }
            ScanEnd::Broken(_) => Err(walked.damage(file, folders, salt)),
        };
    }
    if !has_room_behind(file, walked.end).map_err(Folders::io(&path))? {
        return Err(walked.damage(file, folders, salt));
    }
    let rest = first_nonzero(&**file, walked.end).map_err(Folders::io(&path))?;
    let torn = rest.is_some();
    let why = match &walked.stop {
        ScanEnd::Blank => None,
        ScanEnd::Broken(why) => Some(why),
    };
    let follows = |header: &Header| {
        header.first_commit == walked.tip.next_commit
            && header.first_position == walked.tip.next_position
            && header.chain == walked.tip.chain
    };
    let is_torn = || is_torn_tail(file, salt, walked.end, why, follows);
    if torn && !is_torn().map_err(Folders::io(&path))? {
        return Err(walked.damage(file, folders, salt));
    }
    let end = LastEnd::Open { seal: walked.counts, end: walked.end, torn };
    Ok(Last { tip: walked.tip, end })
}

/// Whether a file is as long as an open segment is whose frames end, or whose next one ends, at
/// `end`. A sealed segment that lost its seal, or its end, is not.
fn has_room_behind(file: &Arc<dyn DiskFile>, end: u64) -> io::Result<bool> {
    let len = file.len()?;
    Ok(len.is_multiple_of(CLAIM_ALIGN) && end.saturating_add(SEAL_BYTES_MAX) <= len)
}

/// Whether the bytes behind the last right frame, which ends at `end`, can be one frame that was being
/// written when the host died: no header among them is valid, but perhaps that frame's own, and they are
/// not more than a frame has. `why`: what is wrong with them; none: they begin with zeros. `follows`:
/// whether a header is what comes next.
///
/// # Errors
/// The disk's.
pub(in crate::log) fn is_torn_tail(
    file: &Arc<dyn DiskFile>,
    salt: Salt,
    end: u64,
    why: Option<&DecodeError>,
    follows: impl Fn(&Header) -> bool,
) -> io::Result<bool> {
    let may_be_torn = why.is_none_or(|why| {
        matches!(why, DecodeError::Short { .. } | DecodeError::Magic | DecodeError::Checksum { .. })
    });
    if !may_be_torn || !has_room_behind(file, end)? {
        return Ok(false);
    }
    if next_valid(file, Some(salt), end + FRAME_ALIGN as u64)?.is_some() {
        return Ok(false);
    }
    let bytes = read_up_to(&**file, end, HEADER_BYTES)?;
    let longest = match Header::decode(&bytes, salt) {
        // A header that was written in full, of a frame that does not follow on: no tear does that.
        Ok(header) if !follows(&header) => return Ok(false),
        Ok(header) if header.is_seal() => header.frame_bytes(),
        Ok(header) => {
            if !has_room_behind(file, end.saturating_add(header.frame_bytes()))? {
                return Ok(false);
            }
            header.frame_bytes()
        }
        Err(_) => FRAME_BYTES_MAX as u64,
    };
    Ok(first_nonzero(&**file, end.saturating_add(longest))?.is_none())
}

/// The bytes of the last frame before `end`, and where it starts; `hint`: where, if that is known.
pub(super) fn last_frame(
    file: &Arc<dyn DiskFile>,
    salt: Salt,
    hint: Option<u64>,
    end: u64,
) -> io::Result<Option<(Bytes, u64)>> {
    let mut scan = SegmentScan::new(file.clone(), salt, hint.unwrap_or_default());
    let mut last = None;
    while scan.offset() < end {
        match scan.advance()? {
            Scan::Frame { frame, offset } => last = Some((frame.bytes().clone(), offset)),
            Scan::End(_) => break,
        }
    }
    Ok(last)
}
