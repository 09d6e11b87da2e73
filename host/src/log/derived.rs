//! What is derived from the segments when a log opens: index files, key heads, recent identities.
//!
//! Rule: everything here can be made anew from the segments, and is, where it does not fit them.

use std::path::PathBuf;

use super::codec::{DecodeError, Salt};
use super::dedup::{Dedup, IdHasher};
use super::disk::{Disk, names_in, publish_file};
use super::error::OpenError;
use super::heads::Heads;
use super::index::{
    FillError, HeadsFile, HeadsMark, IndexFile, LogIndex, SealedIndex, SegmentBase,
    SegmentIndexBuilder, SegmentSeal,
};
use super::recovery::{Folders, SealedSegment, damage};
use super::segment::{Scan, ScanEnd, SegmentScan, Tip};
use super::writer::is_full;
use crate::event::CommitNumber;

const INDEX_SUFFIX: &str = ".idx";

impl Folders {
    /// Where the index of a segment is.
    #[must_use]
    pub fn index_file(&self, segment: u32) -> PathBuf {
        self.index.join(format!("{segment:010}{INDEX_SUFFIX}"))
    }

    /// Numbers of the segments that there are index files of, by their names, ascending.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn index_numbers(&self, disk: &dyn Disk) -> Result<Vec<u32>, OpenError> {
        let names = names_in(disk, &self.index).map_err(Self::io(&self.index))?;
        let number = |name: &String| name.strip_suffix(INDEX_SUFFIX)?.parse().ok();
        let mut numbers: Vec<u32> = names.iter().filter_map(number).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Where the snapshot of key heads is.
    #[must_use]
    pub fn heads_file(&self) -> PathBuf {
        self.index.join("heads")
    }
}

impl SealedSegment {
    /// What ties an index to this segment.
    #[must_use]
    pub const fn index_seal(&self) -> SegmentSeal {
        SegmentSeal { bytes: self.bytes, chain: self.after.chain }
    }
}

/// Writes the index file of a sealed segment, and opens it.
///
/// # Errors
/// The disk's.
pub(super) fn publish_index(
    disk: &dyn Disk,
    folders: &Folders,
    log_id: &[u8; 16],
    segment: u32,
    bytes: &[u8],
) -> Result<IndexFile, OpenError> {
    let path = folders.index_file(segment);
    publish_file(disk, &path, bytes).map_err(Folders::io(&path))?;
    IndexFile::open(disk, &path, log_id, segment)?
        .ok_or_else(|| OpenError::Io { path, source: std::io::ErrorKind::NotFound.into() })
}

/// How much of an index file is read before it is believed. Its other pages are checked when they are
/// read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// All of it.
    Whole,
    /// Its header.
    Header,
}

/// The index of a sealed segment: its file, made anew where it is not there or does not fit; in memory, where
/// the disk has no room for that.
///
/// # Errors
/// The segment is damaged, or the disk's.
pub(super) fn sealed_index(
    disk: &dyn Disk,
    folders: &Folders,
    log_id: &[u8; 16],
    segment: &SealedSegment,
    depth: Depth,
) -> Result<SealedIndex, OpenError> {
    let path = folders.index_file(segment.number);
    match IndexFile::open(disk, &path, log_id, segment.number) {
        Ok(Some(file)) if file.span().seal != segment.index_seal() => {
            tracing::warn!(path = %path.display(), "it does not fit its segment, and is made anew");
        }
        Ok(Some(file)) => match if depth == Depth::Whole { file.verify() } else { Ok(()) } {
            Ok(()) => return Ok(file.into()),
            Err(error) => tracing::warn!("{error}; it is made anew"),
        },
        Ok(None) => {}
        Err(error) => tracing::warn!("{error}; it is made anew"),
    }
    let builder = build_index(disk, folders, log_id, segment)?;
    let bytes = builder.encode(segment.index_seal())?;
    match publish_index(disk, folders, log_id, segment.number, &bytes) {
        Err(OpenError::Io { path, source }) if is_full(&source) => {
            tracing::warn!(path = %path.display(), error = %source, "index not written");
            Ok(SealedIndex::Memory(builder))
        }
        published => published.map(SealedIndex::File),
    }
}

fn build_index(
    disk: &dyn Disk,
    folders: &Folders,
    log_id: &[u8; 16],
    segment: &SealedSegment,
) -> Result<SegmentIndexBuilder, OpenError> {
    let path = folders.segment(segment.number);
    let file = disk.open_read(&path).map_err(Folders::io(&path))?;
    let ids = IdHasher::new(log_id);
    let mut scan = SegmentScan::new(file, Salt::new(*log_id, segment.number), 0);
    let mut tip = segment.before;
    let mut builder: Option<SegmentIndexBuilder> = None;
    let broken = |offset, why, tip: &Tip| damage(folders, segment.number, offset, why, tip, None);
    loop {
        let before = tip;
        match scan.next_after(&mut tip).map_err(Folders::io(&path))? {
            Scan::Frame { frame, offset } => {
                let base = SegmentBase::of(frame.header());
                let builder = builder.get_or_insert_with(|| SegmentIndexBuilder::new(base));
                match builder.add_frame(&frame, offset, &ids) {
                    Ok(()) => {}
                    Err(FillError::Decode(why)) => return Err(broken(offset, why, &before)),
                    Err(FillError::Index(error)) => return Err(error.into()),
                }
            }
            Scan::End(ScanEnd::Broken(why)) => return Err(broken(scan.offset(), why, &tip)),
            Scan::End(ScanEnd::Blank) => break,
        }
    }
    match builder {
        Some(builder) if tip == segment.after => Ok(builder),
        _ => Err(broken(scan.offset(), DecodeError::Magic, &tip)),
    }
}

/// Fills the key heads: from the snapshot of a clean stop, where these segments hold what it was made
/// of, and the indexes of the segments after it; else from all indexes.
///
/// # Errors
/// An index cannot be read.
pub(super) fn fill_heads(
    disk: &dyn Disk,
    folders: &Folders,
    log_id: [u8; 16],
    sealed: &[SealedSegment],
    index: &LogIndex,
) -> Result<Heads, OpenError> {
    let heads = Heads::new();
    let is_of_log = |mark: &HeadsMark| sealed.iter().any(|s| heads_mark(log_id, &s.after) == *mark);
    let loaded = match HeadsFile::find(disk, &folders.heads_file(), &log_id, is_of_log) {
        Ok(Some(file)) => file.load(&heads).map(|()| file.mark().commit),
        Ok(None) => Ok(CommitNumber(0)),
        Err(error) => Err(error),
    };
    let known = loaded.unwrap_or_else(|error| {
        tracing::warn!("{error}; the heads of all keys are gathered anew");
        CommitNumber(0)
    });
    index.refill_heads(&heads, known)?;
    Ok(heads)
}

/// Writes the snapshot of key heads that a clean start reads. Derived: a failure costs only time.
pub(super) fn publish_heads(
    disk: &dyn Disk,
    folders: &Folders,
    log_id: [u8; 16],
    tip: &Tip,
    heads: &Heads,
) -> std::io::Result<()> {
    let bytes = HeadsFile::encode(&heads_mark(log_id, tip), heads);
    publish_file(disk, &folders.heads_file(), &bytes)
}

const fn heads_mark(log_id: [u8; 16], tip: &Tip) -> HeadsMark {
    let commit = CommitNumber(tip.next_commit.saturating_sub(1));
    HeadsMark { log_id, commit, chain: tip.chain }
}

/// Fills a table of recent identities, as long as `goes_on` says so.
///
/// # Errors
/// An index cannot be read.
pub(super) fn fill_dedup(
    index: &LogIndex,
    window_ms: u64,
    count_max: usize,
    now_ms: u64,
    goes_on: impl Fn() -> bool,
) -> Result<Dedup, OpenError> {
    let dedup = Dedup::new(window_ms, count_max);
    index.refill_dedup(&dedup, now_ms, goes_on)?;
    Ok(dedup)
}
