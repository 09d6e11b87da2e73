//! From files to a log that can go on: what is proven, what is cut, what is refused.
//!
//! Rule: reads only until everything it will rely on is proven; after that, each step can be
//! interrupted and done again. A torn tail is cut back only where nothing valid follows, in the last
//! segment, and not behind a seal. Whatever else is not as written refuses to open, and nothing is
//! ever deleted on suspicion.

mod beyond;
mod last;
mod prove;
mod refuse;
mod seals;
mod torn;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) use beyond::{End, Proof};
pub(super) use prove::{is_torn_tail, prove_sealed};
pub(super) use seals::seal_of;
pub use torn::CutReport;

use super::codec::{Header, Salt, Seal};
use super::disk::{Disk, DiskFile, publish_file, read_up_to};
use super::error::{Damage, OpenError, data_dir};
use super::index::SegmentIndexBuilder;
use super::options::LogOptions;
use super::segment::{INDEX_DIR, SEGMENTS_DIR, Tip, segment_path};
use last::Unfinished;
use seals::seals;

/// Stands in the folder of a log while it is being repaired: no host opens it.
pub const UNFINISHED: &str = "repairing";

/// Bytes of a log's id as text.
const ID_TEXT_BYTES: usize = uuid::fmt::Hyphenated::LENGTH;

/// The folders of one bus.
#[derive(Debug, Clone)]
pub struct Folders {
    /// `DATA/buses/BUS`.
    pub bus: PathBuf,
    /// Its segments.
    pub segments: PathBuf,
    /// Its index files.
    pub index: PathBuf,
}

impl Folders {
    /// The folders in a bus folder.
    #[must_use]
    pub fn of(bus: &Path) -> Self {
        Self { bus: bus.to_owned(), segments: bus.join(SEGMENTS_DIR), index: bus.join(INDEX_DIR) }
    }

    /// The file that says that a log has begun: it holds the log's id.
    #[must_use]
    pub fn id_file(&self) -> PathBuf {
        self.segments.join("id")
    }

    /// Where a segment is.
    #[must_use]
    pub fn segment(&self, number: u32) -> PathBuf {
        segment_path(&self.segments, number)
    }

    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> OpenError + use<> {
        let path = path.to_owned();
        move |source| OpenError::Io { path, source }
    }

    /// The log's id as its file says; none: it is not there, or says none.
    pub(super) fn noted_id(&self, disk: &dyn Disk) -> Option<[u8; 16]> {
        let file = disk.open_read(&self.id_file()).ok()?;
        let bytes = read_up_to(&*file, 0, ID_TEXT_BYTES + 1).ok()?;
        let text = std::str::from_utf8(bytes.get(..ID_TEXT_BYTES)?).ok()?;
        uuid::Uuid::parse_str(text).ok().map(uuid::Uuid::into_bytes)
    }

    pub(super) fn data_dir(&self) -> PathBuf {
        data_dir(&self.bus)
    }
}

/// A sealed segment, its seal verified.
#[derive(Debug, Clone)]
pub struct SealedSegment {
    /// Its number.
    pub number: u32,
    /// Bytes of the file.
    pub bytes: u64,
    /// What its first frame follows on.
    pub before: Tip,
    /// What the frame after its seal follows on.
    pub after: Tip,
    /// What the seal says.
    pub seal: Seal,
}

/// The last segment, where it is not sealed.
#[derive(Debug)]
pub struct UnsealedSegment {
    /// Its number.
    pub number: u32,
    /// The file, open for writing.
    pub file: Arc<dyn DiskFile>,
    /// What its first frame follows on.
    pub before: Tip,
    /// Where the next frame goes.
    pub end: u64,
    /// Counts of what is in it.
    pub seal: Seal,
    /// Where its last frame starts; none: it has no frame.
    pub frame_at: Option<u64>,
    /// Its index; none: it has no frame.
    pub index: Option<SegmentIndexBuilder>,
}

/// A log that can go on.
#[derive(Debug)]
pub struct Recovered {
    /// The log.
    pub log_id: [u8; 16],
    /// Its end.
    pub tip: Tip,
    /// Its sealed segments, in order.
    pub sealed: Vec<SealedSegment>,
    /// The segment behind those, if it was begun.
    pub open: Option<UnsealedSegment>,
    /// How many of the sealed segments, from the first on, have only had their seals checked.
    pub unchecked: usize,
    /// Whether the host before stopped in order.
    pub clean: bool,
    /// What was cut off.
    pub cut: Option<CutReport>,
}

/// What the folder of a log holds.
#[derive(Debug)]
pub enum Found {
    /// No commit yet.
    Nothing {
        /// What was cut off: the first frame may have been torn.
        cut: Option<CutReport>,
    },
    /// A log.
    Log(Box<Recovered>),
}

/// What was proven of a log, and nothing written yet.
#[derive(Debug)]
enum Proven {
    /// No commit yet.
    Nothing { numbers: Vec<u32> },
    /// A log, and its last segment where that is to be read as such.
    Log(Box<(Recovered, Option<Unfinished>)>),
}

/// Proves the log in a bus folder and makes its end writable.
///
/// # Errors
/// Damage, a newer format, a missing segment, or the disk's.
pub fn recover(
    disk: &dyn Disk,
    folders: &Folders,
    options: &LogOptions,
) -> Result<Found, OpenError> {
    refuse::not_in_repair(disk, folders)?;
    match prove(disk, folders, options.check_first_bytes)? {
        Proven::Nothing { numbers } => {
            let cut = torn::cut_first(disk, folders, &numbers)?;
            Ok(Found::Nothing { cut })
        }
        Proven::Log(proven) => {
            let (recovered, last) = *proven;
            let recovered = match last {
                Some(last) => last.finish(disk, folders, recovered)?,
                None => recovered,
            };
            settle(disk, folders, recovered).map(|recovered| Found::Log(Box::new(recovered)))
        }
    }
}

/// Whether a start would take the log in a bus folder, but for an interrupted repair. Only reads; of the
/// sealed segments it reads what every start does: where they begin and how they end.
///
/// # Errors
/// As [`recover`].
pub(super) fn judge(disk: &dyn Disk, folders: &Folders) -> Result<(), OpenError> {
    prove(disk, folders, 0).map(drop)
}

/// As [`judge`], and whether no repair was interrupted.
///
/// # Errors
/// As [`recover`].
pub(super) fn judge_all(disk: &dyn Disk, folders: &Folders) -> Result<(), OpenError> {
    refuse::not_in_repair(disk, folders)?;
    judge(disk, folders)
}

/// The half of recovery that only reads. Every refusal is made here.
fn prove(disk: &dyn Disk, folders: &Folders, first_bytes: u64) -> Result<Proven, OpenError> {
    let numbers = seals::segment_numbers(disk, folders)?;
    let Some(log_id) = prove::log_id(disk, folders, &numbers)? else {
        refuse::never_begun(disk, folders)?;
        return Ok(Proven::Nothing { numbers });
    };
    let (sealed, last, before) = seals(disk, folders, log_id, &numbers)?;
    refuse::never_sealed(disk, folders, log_id, sealed.len(), &numbers, &before)?;
    let last = last.map(|number| Unfinished::read(disk, folders, log_id, number, before));
    let last = last.transpose()?;
    // The next segment is claimed before one is sealed, but for the last.
    if let Some((next, tip)) = last.as_ref().and_then(Unfinished::followed_by)
        && numbers.last() < Some(&next)
    {
        return Err(seals::missing(folders, next, tip.next_commit));
    }
    let end = last.as_ref().map_or(End::behind(sealed.len(), &before), Unfinished::ends);
    refuse::longer_once(disk, folders, log_id, end)?;
    // What was read already counts.
    let read_bytes = last.as_ref().map_or(0, Unfinished::end);
    let unchecked = unchecked(&sealed, first_bytes.saturating_sub(read_bytes));
    for segment in sealed.iter().skip(unchecked) {
        prove_sealed(disk, folders, log_id, segment, || false)?;
    }
    let recovered =
        Recovered { log_id, tip: before, sealed, open: None, unchecked, clean: false, cut: None };
    Ok(Proven::Log(Box::new((recovered, last))))
}

/// Notes, once the first frame is durable, that the log has begun: from then on a log without frames
/// is damage and not a new one.
///
/// # Errors
/// The disk's.
pub(super) fn note_begun(
    disk: &dyn Disk,
    folders: &Folders,
    log_id: [u8; 16],
) -> Result<(), OpenError> {
    let path = folders.id_file();
    let text = format!("{}\n", uuid::Uuid::from_bytes(log_id));
    match disk.open_read(&path).and_then(|file| read_up_to(&*file, 0, text.len() + 1)) {
        Ok(found) if found == text.as_bytes() => return Ok(()),
        Ok(_) => tracing::warn!(path = %path.display(), "it is damaged, and written anew"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(Folders::io(&path)(error)),
    }
    publish_file(disk, &path, text.as_bytes()).map_err(Folders::io(&path))
}

/// How many sealed segments, from the first on, are beyond the bytes to check before opening. The
/// others are checked as a whole.
fn unchecked(sealed: &[SealedSegment], first_bytes: u64) -> usize {
    let mut bytes = 0_u64;
    let checked = sealed.iter().rev().take_while(|segment| {
        bytes = bytes.saturating_add(segment.bytes);
        bytes <= first_bytes
    });
    sealed.len() - checked.count()
}

/// Rewrites the last frame and syncs: the page cache may show what the disk does not hold.
fn settle(
    disk: &dyn Disk,
    folders: &Folders,
    mut recovered: Recovered,
) -> Result<Recovered, OpenError> {
    if recovered.open.as_ref().is_some_and(|open| open.end == 0) {
        // Claimed and not begun: the writer claims it again.
        recovered.open = None;
    }
    let (number, end) = match (&recovered.open, recovered.sealed.last()) {
        (Some(open), _) => (open.number, open.end),
        (None, Some(sealed)) => (sealed.number, sealed.bytes),
        (None, None) => return Ok(recovered),
    };
    if recovered.open.is_none() && recovered.cut.is_none() {
        recovered.clean = recovered.sealed.last().is_some_and(|sealed| sealed.seal.clean_stop);
    }
    let path = folders.segment(number);
    let file = disk.open_write(&path).map_err(Folders::io(&path))?;
    let salt = Salt::new(recovered.log_id, number);
    let from = match (&recovered.open, recovered.sealed.last()) {
        (Some(open), _) => open.frame_at,
        (None, sealed) => sealed.map(|sealed| sealed.seal.bytes),
    };
    let last = prove::last_frame(&file, salt, from, end).map_err(Folders::io(&path))?;
    if let Some((bytes, offset)) = last.filter(|_| !planted!(SkipsRewrite)) {
        let rewritten = file.write_at(&bytes, offset).and_then(|()| file.sync_data());
        rewritten.map_err(Folders::io(&path))?;
    }
    disk.sync_dir(&folders.segments).map_err(Folders::io(&folders.segments))?;
    Ok(recovered)
}

/// Names damage at a byte of a segment, given what was proven before it.
pub(super) fn damage(
    folders: &Folders,
    number: u32,
    offset: u64,
    why: super::codec::DecodeError,
    tip: &Tip,
    next_whole: Option<&Header>,
) -> OpenError {
    use super::codec::DecodeError;
    use crate::event::{CommitNumber, Position};
    let path = folders.segment(number);
    if let DecodeError::Version { .. } | DecodeError::Flags { .. } = why {
        return OpenError::Newer { path, why };
    }
    OpenError::Damaged(Box::new(Damage {
        path,
        offset,
        why,
        first_commit: CommitNumber(tip.next_commit),
        first_position: Position(tip.next_position),
        next_whole: next_whole
            .map(|header| (CommitNumber(header.first_commit), Position(header.first_position))),
        data_dir: folders.data_dir(),
    }))
}
