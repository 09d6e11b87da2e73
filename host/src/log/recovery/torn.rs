//! Torn tails: what tells them from damage, and how they are cut.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Folders;
use crate::log::codec::{DecodeError, FRAME_ALIGN, HEADER_BYTES, Header, Salt};
use crate::log::disk::{Disk, DiskFile, publish_file, read_up_to};
use crate::log::error::OpenError;
use crate::log::segment::nonzero_end;
use crate::log::writer::is_full;

const WINDOW_BYTES: usize = 1 << 20;

/// What was cut off the end of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutReport {
    /// The segment's file.
    pub path: PathBuf,
    /// Where the cut is, in bytes.
    pub offset: u64,
    /// Bytes cut off.
    pub bytes: u64,
    /// The file that keeps them.
    pub kept: PathBuf,
}

/// The first place at or after `from` where a header of a frame stands; with a salt, of that log and
/// segment, else of any. A header of a newer format counts: it was written by somebody.
pub(super) fn next_valid(
    file: &Arc<dyn DiskFile>,
    salt: Option<Salt>,
    from: u64,
) -> io::Result<Option<(u64, Header)>> {
    let mut at = from.next_multiple_of(FRAME_ALIGN as u64);
    loop {
        let bytes = read_up_to(&**file, at, WINDOW_BYTES + HEADER_BYTES)?;
        for start in (0..WINDOW_BYTES.min(bytes.len())).step_by(FRAME_ALIGN) {
            let Some(candidate) = bytes.get(start..).filter(|rest| rest.starts_with(b"TDGF"))
            else {
                continue;
            };
            let found = match salt {
                Some(salt) => Header::decode(candidate, salt),
                None => Header::decode_any(candidate),
            };
            match found {
                Ok(header) => return Ok(Some((at + start as u64, header))),
                Err(DecodeError::Version { .. } | DecodeError::Flags { .. }) => {
                    return Ok(Some((at + start as u64, Header::default())));
                }
                Err(_) => {}
            }
        }
        if bytes.len() <= WINDOW_BYTES {
            return Ok(None);
        }
        at += WINDOW_BYTES as u64;
    }
}

/// Keeps the bytes from `offset` on aside, then makes them zeros.
pub(super) fn cut(
    disk: &dyn Disk,
    file: &Arc<dyn DiskFile>,
    path: &Path,
    offset: u64,
) -> Result<CutReport, OpenError> {
    let end = nonzero_end(&**file, offset).map_err(Folders::io(path))?;
    let bytes = end - offset;
    let len = usize::try_from(bytes).unwrap_or(usize::MAX);
    let torn = read_up_to(&**file, offset, len).map_err(Folders::io(path))?;
    let kept = free_name(disk, path, offset);
    publish_file(disk, &kept, &torn).map_err(|source| match is_full(&source) {
        true => OpenError::NoRoomToCut { path: path.to_owned(), offset, bytes },
        false => Folders::io(&kept)(source),
    })?;
    let zeros = vec![0; len];
    let zeroed = file.write_at(&zeros, offset).and_then(|()| file.sync_data());
    zeroed.map_err(Folders::io(path))?;
    Ok(CutReport { path: path.to_owned(), offset, bytes, kept })
}

/// A name that no earlier cut has: a recovery that was itself interrupted finds fewer bytes, and
/// must not put those in the place of the more.
fn free_name(disk: &dyn Disk, path: &Path, offset: u64) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut count = 0_u32;
    loop {
        let kept = path.with_file_name(format!("{stem}-{offset}-{count}.cut"));
        match disk.open_read(&kept) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return kept,
            _ => count += 1,
        }
    }
}

/// Cuts a first frame that was torn before its header was whole: there is no log yet.
pub(super) fn cut_first(
    disk: &dyn Disk,
    folders: &Folders,
    numbers: &[u32],
) -> Result<Option<CutReport>, OpenError> {
    let Some(number) = numbers.first() else { return Ok(None) };
    let path = folders.segment(*number);
    let file = disk.open_write(&path).map_err(Folders::io(&path))?;
    if nonzero_end(&*file, 0).map_err(Folders::io(&path))? == 0 {
        return Ok(None);
    }
    cut(disk, &file, &path, 0).map(Some)
}
