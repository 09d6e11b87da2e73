//! The files of a data directory, as the tools see them: buses, segments, index files.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::ToolError;
use crate::log::codec::{FRAME_ALIGN, HEADER_BYTES, Header, Salt};
use crate::log::disk::{Disk, DiskFile, LockError, LockGuard, names_in, publish_file, read_up_to};
use crate::log::recovery::{Folders, Proof};
use crate::log::segment::{INDEX_DIR, SEGMENTS_DIR, segment_number};
use crate::state::checkpoint;

/// Folders that a bus has which has, or had, a log.
const DIRS: [&str; 3] = [SEGMENTS_DIR, INDEX_DIR, checkpoint::DIR];
/// Bytes read at once.
const WINDOW_BYTES: u64 = 1024 * 1024;
const ALIGN: u64 = FRAME_ALIGN as u64;

/// The directories of one durable bus. While it is there no host can open the bus.
#[derive(Debug)]
pub(super) struct BusFiles<'d> {
    pub(super) disk: &'d dyn Disk,
    pub(super) name: String,
    pub(super) folders: Folders,
    /// None where its folder is not there, or on a disk that cannot be written: no host can have it open.
    lock: Option<LockGuard>,
}

/// One segment file.
#[derive(Debug, Clone)]
pub(super) struct SegmentFile {
    pub(super) number: u32,
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    pub(super) file: Arc<dyn DiskFile>,
}

impl<'d> BusFiles<'d> {
    /// The buses of a data directory that have a log, by name; only one of them where it is named.
    pub(super) fn find(
        disk: &'d dyn Disk,
        data: &Path,
        only: Option<&str>,
    ) -> Result<Vec<Self>, ToolError> {
        let buses = data.join("buses");
        let mut names = Vec::new();
        match (only, bus_names(&buses)) {
            (Some(only), Ok(known))
                if known.is_empty() || known.iter().any(|name| name == only) =>
            {
                names.push(only.to_owned());
            }
            (Some(bus), Ok(names)) => return Err(ToolError::NoBus { bus: bus.to_owned(), names }),
            (None, Ok(known)) => names = known,
            (_, Err(source)) => return Err(io_error(&buses, source)),
        }
        let open = names.into_iter().map(|name| Self::open(disk, &buses, name));
        let found = open.collect::<Result<Vec<_>, _>>()?;
        if !found.iter().any(Self::had_a_log) {
            return Err(ToolError::NoLog { data: data.to_owned() });
        }
        Ok(found)
    }

    fn open(disk: &'d dyn Disk, buses: &Path, name: String) -> Result<Self, ToolError> {
        let folders = Folders::of(&buses.join(&name));
        let log = &folders.segments;
        let lock = match disk.lock(log) {
            Ok(lock) => Some(lock),
            Err(LockError::Io { source, .. }) if cannot_be_open(&source) => None,
            Err(LockError::Io { source, .. }) => return Err(io_error(log, source)),
            Err(LockError::Held { pid, .. }) => return Err(ToolError::Locked { bus: name, pid }),
        };
        Ok(Self { disk, name, folders, lock })
    }

    /// Makes the folder of its segments where that is not there, and keeps hosts out of it, too.
    pub(super) fn make(&self) -> Result<Option<LockGuard>, ToolError> {
        let dir = self.segments_dir();
        self.disk.create_dir_all(dir).map_err(|source| io_error(dir, source))?;
        if self.lock.is_some() {
            return Ok(None);
        }
        self.disk.lock(dir).map(Some).map_err(|error| match error {
            LockError::Io { source, .. } => io_error(dir, source),
            LockError::Held { pid, .. } => ToolError::Locked { bus: self.name.clone(), pid },
        })
    }

    /// Whether there is a log, or anything tells that there was one.
    fn had_a_log(&self) -> bool {
        let is_empty = self.segments().is_ok_and(|segments| segments.is_empty());
        !is_empty
            || self.disk.open_read(&self.folders.id_file()).is_ok()
            || self.lost_log_id().is_some()
    }

    /// Its segment files in their order. Other files are not looked at.
    pub(super) fn segments(&self) -> Result<Vec<SegmentFile>, ToolError> {
        let mut segments = Vec::new();
        let dir = self.segments_dir();
        for name in self.names()? {
            if let Some(number) = segment_number(&name) {
                let path = dir.join(&name);
                let opened = self.disk.open_read(&path);
                let file = opened.map_err(|source| io_error(&path, source))?;
                let bytes = file.len().map_err(|source| io_error(&path, source))?;
                segments.push(SegmentFile { number, path, bytes, file });
            }
        }
        segments.sort_unstable_by_key(|segment| segment.number);
        Ok(segments)
    }

    /// Names of the files beside its segments, and those; none where the folder is not there.
    pub(super) fn names(&self) -> Result<Vec<String>, ToolError> {
        let dir = self.segments_dir();
        names_in(self.disk, dir).map_err(|source| io_error(dir, source))
    }

    /// The log that index files, key heads or a checkpoint are of.
    fn lost_log_id(&self) -> Option<[u8; 16]> {
        Proof::of_lost(self.disk, &self.folders).ok()?.map(|proof| proof.log_id())
    }

    /// The log's id, as most of its segments say; where none does, as what is beside them says.
    pub(super) fn log_id(&self, segments: &[SegmentFile]) -> Result<[u8; 16], ToolError> {
        let mut votes: Vec<([u8; 16], usize)> = Vec::new();
        for segment in segments {
            let Some(id) = first_log_id(segment)? else { continue };
            match votes.iter_mut().find(|(known, _)| *known == id) {
                Some((_, count)) => *count += 1,
                None => votes.push((id, 1)),
            }
        }
        // The first of equals: `max_by_key` would take the last.
        let best = votes.iter().rev().max_by_key(|(_, count)| *count);
        let found = best.map(|(id, _)| *id).or_else(|| self.folders.noted_id(self.disk));
        Ok(found.or_else(|| self.lost_log_id()).unwrap_or_default())
    }

    /// The folder of its segments.
    pub(super) fn segments_dir(&self) -> &Path {
        &self.folders.segments
    }

    /// Its own folder.
    pub(super) fn dir(&self) -> &Path {
        &self.folders.bus
    }

    /// Where the index file of a segment is.
    pub(super) fn index_path(&self, segment: u32) -> PathBuf {
        self.folders.index_file(segment)
    }

    /// Where the snapshot of key heads is.
    pub(super) fn heads_path(&self) -> PathBuf {
        self.folders.heads_file()
    }

    /// Puts the index file of a segment in place.
    pub(super) fn publish_index(&self, segment: u32, bytes: &[u8]) -> Result<(), ToolError> {
        let path = self.index_path(segment);
        let made = self.disk.create_dir_all(&self.folders.index);
        let published = made.and_then(|()| publish_file(self.disk, &path, bytes));
        published.map_err(|source| io_error(&path, source))
    }

    /// All bytes of a derived file.
    pub(super) fn read_derived(&self, path: &Path) -> Result<Vec<u8>, ToolError> {
        let read = self.disk.open_read(path).and_then(|file| {
            let bytes = usize::try_from(file.len()?).map_err(io::Error::other)?;
            read_up_to(&*file, 0, bytes)
        });
        read.map_err(|source| io_error(path, source))
    }
}

/// Directories with a log, by name. None are seen where the disk is not the system's.
fn bus_names(buses: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(buses) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        if DIRS.iter().any(|dir| entry.path().join(dir).is_dir()) {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn cannot_be_open(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied | ErrorKind::NotFound
    )
}

/// The log id in the first frame of a segment that has a whole header.
fn first_log_id(segment: &SegmentFile) -> Result<Option<[u8; 16]>, ToolError> {
    let mut reader = SegmentReader::new(segment);
    let mut offset = 0;
    // The first window is enough: damage larger than it leaves other segments to ask.
    while offset < WINDOW_BYTES.min(segment.bytes) {
        let head = reader.read(offset, HEADER_BYTES as u64)?;
        if let Ok(header) = Header::decode_any(&head) {
            return Ok(Some(header.log_id));
        }
        offset += ALIGN;
    }
    Ok(None)
}

pub(super) fn io_error(path: &Path, source: io::Error) -> ToolError {
    ToolError::Io { path: path.to_owned(), source }
}

/// Reads a segment file from front to back, in large pieces.
pub(super) struct SegmentReader<'s> {
    segment: &'s SegmentFile,
    window: Bytes,
    window_at: u64,
}

impl<'s> SegmentReader<'s> {
    pub(super) const fn new(segment: &'s SegmentFile) -> Self {
        Self { segment, window: Bytes::new(), window_at: 0 }
    }

    /// The bytes at an offset; fewer where the file ends.
    pub(super) fn read(&mut self, offset: u64, bytes: u64) -> Result<Bytes, ToolError> {
        let end = offset.saturating_add(bytes).min(self.segment.bytes).max(offset);
        if offset < self.window_at || end > self.window_at + self.window.len() as u64 {
            let window_end = end.max(offset + WINDOW_BYTES).min(self.segment.bytes).max(offset);
            let read = read_up_to(&*self.segment.file, offset, length(window_end - offset));
            self.window = read.map_err(|source| io_error(&self.segment.path, source))?.into();
            self.window_at = offset;
        }
        let (from, to) = (offset - self.window_at, end - self.window_at);
        let held = self.window.len();
        // The file may have become shorter since it was measured.
        Ok(self.window.slice(length(from).min(held)..length(to).min(held)))
    }

    /// Whether there are only zeros from an offset to the end of the file.
    pub(super) fn is_zero_from(&mut self, offset: u64) -> Result<bool, ToolError> {
        let mut at = offset;
        let mut step = ALIGN;
        while at < self.segment.bytes {
            let bytes = self.read(at, step)?;
            if bytes.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            at += (bytes.len() as u64).max(1);
            // The first few bytes of a frame settle it; a long run of zeros wants large steps.
            step = WINDOW_BYTES;
        }
        Ok(true)
    }

    /// The next whole frame header of this log and segment at or behind an offset.
    pub(super) fn next_frame(
        &mut self,
        from: u64,
        salt: Salt,
    ) -> Result<Option<(u64, Header)>, ToolError> {
        let mut at = from.next_multiple_of(ALIGN);
        while at + HEADER_BYTES as u64 <= self.segment.bytes {
            let head = self.read(at, HEADER_BYTES as u64)?;
            if let Ok(header) = Header::decode(&head, salt) {
                return Ok(Some((at, header)));
            }
            at += ALIGN;
        }
        Ok(None)
    }
}

#[allow(clippy::cast_possible_truncation, reason = "bounded by a window or a frame")]
const fn length(bytes: u64) -> usize {
    bytes as usize
}
