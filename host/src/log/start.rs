//! Opening a log: lock, recover, record the start, fill the tables, start the writer.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::Log;
use super::behind::{self, Recent};
use super::clock::LogClock;
use super::codec::{Encoded, Salt, Seal};
use super::dedup::{Dedup, IdHasher};
use super::derived::{Depth, fill_dedup, fill_heads, sealed_index};
use super::disk::Disk;
use super::error::{AppendError, LogFailure, OpenError};
use super::frame::{Frame, FrameBuilder};
use super::index::{LogIndex, SealedIndex, SegmentBase, SegmentIndexBuilder};
use super::lanes::Lanes;
use super::options::{CheckRest, ClockGap, LogOptions};
use super::record::{Control, ControlRecord};
use super::recovery::{CutReport, Folders, Found, Recovered, SealedSegment, note_begun, recover};
use super::segment::{CLAIM_ALIGN, OpenSegment, ReadBuffers, SegmentError, Tip, claim};
use super::shared::{Counters, OpenSegments, Shared};
use super::tail::Tail;
use super::ticket::Buffers;
use super::writer::{Writer, is_full, make_known};
use crate::clock::Clock;
use crate::event::{CommitNumber, Position};
use crate::limits::CLOCK_GAP_MS_MAX;

/// Segments whose index a start keeps in memory, as the disk has no room for their files.
const UNWRITTEN_MAX: usize = 4;
/// The same, of those of at most [`SMALL_BYTES`]: a stop on a full disk leaves one each time.
const UNWRITTEN_SMALL_MAX: usize = 64;
const SMALL_BYTES: u64 = 1 << 20;

/// A log that was opened.
#[derive(Debug)]
pub struct Opened {
    /// The log.
    pub log: Log,
    /// Its id: random, for good. Never show it: checksums rest on its being unknown outside.
    pub log_id: uuid::Uuid,
    /// There was none before.
    pub new_empty: bool,
    /// Number of this start, from 1.
    pub epoch: u32,
    /// The host before stopped in order.
    pub clean: bool,
    /// What was cut off the end.
    pub cut: Option<CutReport>,
    /// The last commit: the one that records this start.
    pub last_commit: CommitNumber,
    /// The last event; 0: none.
    pub last_position: Position,
    /// Where the time went.
    pub times: OpenTimes,
}

/// Where the time of opening a log went.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenTimes {
    /// Proving what is there, and reading the end of a log that was not stopped in order.
    pub recover: Duration,
    /// Recording the start in it.
    pub begin: Duration,
    /// Index files, and identities where they are few.
    pub index: Duration,
    /// The last event of every key.
    pub heads: Duration,
}

/// What is known of the log before its writer starts.
struct Begun {
    segment: OpenSegment,
    sealed: Vec<SealedSegment>,
    unchecked: usize,
    frame: Arc<Frame>,
}

/// Opens the log in a bus folder, making one where there is none, and does something beside it once its
/// end is proven. Blocking.
pub(super) fn open<T: Send>(
    disk: Arc<dyn Disk>,
    dir: &Path,
    options: LogOptions,
    clock: Arc<dyn Clock>,
    beside: impl FnOnce(uuid::Uuid, CommitNumber) -> T + Send,
) -> Result<(Opened, T), OpenError> {
    let folders = Folders::of(dir);
    for folder in [&folders.segments, &folders.index] {
        disk.create_dir_all(folder).map_err(Folders::io(folder))?;
    }
    let lock = disk.lock(&folders.segments)?;
    let mut watch = StopWatch(Instant::now());
    let mut times = OpenTimes::default();
    let (recovered, new_empty) = match recover(&*disk, &folders, &options)? {
        Found::Log(recovered) => (*recovered, false),
        Found::Nothing { cut } => (nothing(cut), true),
    };
    times.recover = watch.lap();
    check_clock(&*clock, &folders, recovered.tip.time_ms, options.clock_gap)?;
    let clock = LogClock::start(clock, recovered.tip.time_ms);
    let epoch = recovered.tip.epoch + 1;
    let (log_id, clean, cut) = (recovered.log_id, recovered.clean, recovered.cut.clone());
    let (begun, index) = begin(&*disk, &folders, &options, recovered, epoch, clock.now_ms())?;
    note_begun(&*disk, &folders, log_id)?;
    times.begin = watch.lap();
    let (id, last_commit) = (uuid::Uuid::from_bytes(log_id), begun.frame.last_commit());
    let (shared, beside) = std::thread::scope(|scope| {
        let path = folders.bus.clone();
        let thread = std::thread::Builder::new().name("open-beside".to_owned());
        let thread = thread.spawn_scoped(scope, || beside(id, last_commit));
        let thread = thread.map_err(|source| OpenError::Io { path, source })?;
        let shared = share(disk, folders, options, clock, epoch, &begun, index, &mut times)?;
        let beside = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok::<_, OpenError>((shared, beside))
    })?;
    let last_position = Position(begun.frame.header().next_position().saturating_sub(1));
    let _ = make_known(&shared, begun.frame);
    let thread = |source| OpenError::Io { path: shared.folders.bus.clone(), source };
    behind::read_identities(&shared).map_err(thread)?;
    if options.check_rest == CheckRest::AtOnce {
        behind::check_rest(&shared).map_err(thread)?;
    }
    let unwritten = shared.index.unwritten();
    let unwritten = begun.sealed.iter().filter(|segment| unwritten.contains(&segment.number));
    let unwritten = unwritten.map(|segment| (segment.number, segment.index_seal())).collect();
    Writer::start(shared.clone(), begun.segment, unwritten, lock).map_err(thread)?;
    let opened = Opened {
        log: Log::new(shared),
        log_id: id,
        new_empty,
        epoch,
        clean,
        cut,
        last_commit,
        last_position,
        times,
    };
    Ok((opened, beside))
}

/// Says how long something took.
struct StopWatch(Instant);

impl StopWatch {
    fn lap(&mut self) -> Duration {
        let before = std::mem::replace(&mut self.0, Instant::now());
        self.0.duration_since(before)
    }
}

fn nothing(cut: Option<CutReport>) -> Recovered {
    Recovered {
        log_id: *uuid::Uuid::new_v4().as_bytes(),
        tip: Tip::START,
        sealed: Vec::new(),
        open: None,
        unchecked: 0,
        clean: true,
        cut,
    }
}

fn check_clock(
    clock: &dyn Clock,
    folders: &Folders,
    last_ms: u64,
    gap: ClockGap,
) -> Result<(), OpenError> {
    let wall_ms = clock.wall_ms();
    let behind_ms = last_ms.saturating_sub(wall_ms);
    if behind_ms > CLOCK_GAP_MS_MAX && gap == ClockGap::Refuse {
        let dir = folders.segments.clone();
        return Err(OpenError::Clock { dir, wall_ms, behind_ms });
    }
    Ok(())
}

/// Opens the segment to write to, and records the start in it.
fn begin(
    disk: &dyn Disk,
    folders: &Folders,
    options: &LogOptions,
    recovered: Recovered,
    epoch: u32,
    time_ms: u64,
) -> Result<(Begun, SegmentIndexBuilder), OpenError> {
    let Recovered { log_id, tip, mut sealed, open, unchecked, .. } = recovered;
    let failed = |error: SegmentError| OpenError::Io { path: error.path, source: error.source };
    let record = epoch_record(epoch)?;
    let frame_bytes = OpenSegment::frame_bytes(record.bytes());
    let (mut segment, index) = match open {
        Some(open) => {
            let salt = Salt::new(log_id, open.number);
            let path = folders.segment(open.number);
            let mut segment = OpenSegment::resume(path, open.file, salt, tip, open.end, open.seal)
                .map_err(failed)?;
            if frame_bytes <= segment.room(0) {
                (segment, open.index)
            } else {
                let next = first_claim(disk, folders, options, open.number + 1)?;
                segment.seal(epoch - 1, time_ms, false).map_err(failed)?;
                let after = *segment.tip();
                sealed.push(SealedSegment {
                    number: open.number,
                    bytes: segment.end(),
                    before: open.before,
                    after,
                    seal: Seal { bytes: segment.end(), ..open.seal },
                });
                let salt = Salt::new(log_id, open.number + 1);
                (OpenSegment::begin(&folders.segments, next, salt, after).map_err(failed)?, None)
            }
        }
        None => {
            let number = sealed.last().map_or(1, |last| last.number + 1);
            let file = first_claim(disk, folders, options, number)?;
            let salt = Salt::new(log_id, number);
            (OpenSegment::begin(&folders.segments, file, salt, tip).map_err(failed)?, None)
        }
    };
    let mut builder = FrameBuilder::default();
    builder.push(&record, std::iter::empty());
    let header = segment.header(epoch, time_ms);
    let (frame, offset, _) = segment.append(&mut builder, header, |_| ()).map_err(failed)?;
    let mut index =
        index.unwrap_or_else(|| SegmentIndexBuilder::new(SegmentBase::of(frame.header())));
    index.add_frame(&frame, offset, &IdHasher::new(&log_id)).map_err(|error| {
        let commit = frame.first_commit();
        AppendError::ReadOnly(LogFailure::Index { commit, why: error.to_string() })
    })?;
    Ok((Begun { segment, sealed, unchecked, frame }, index))
}

fn epoch_record(epoch: u32) -> Result<Encoded, OpenError> {
    let mut record = Encoded::default();
    let host = env!("CARGO_PKG_VERSION").to_owned();
    let control = Control::Epoch { epoch, host };
    record.control(&ControlRecord { actor: "host".into(), control }).map_err(AppendError::from)?;
    record.finish().map_err(AppendError::from)?;
    Ok(record)
}

/// Claims a segment, a smaller one on a disk that has no room for a whole one: what is there must be
/// readable, even where nothing can be added.
fn first_claim(
    disk: &dyn Disk,
    folders: &Folders,
    options: &LogOptions,
    number: u32,
) -> Result<Arc<dyn super::disk::DiskFile>, OpenError> {
    let free_bytes = disk.free_bytes(&folders.segments).unwrap_or(u64::MAX);
    let path = folders.segment(number);
    let found = match disk.open_read(&path).and_then(|file| file.len()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        found => found.map_err(Folders::io(&path))?,
    };
    let mut bytes = options.segment_bytes_on(free_bytes);
    loop {
        bytes = match claim(disk, &folders.segments, number, bytes) {
            Ok(file) => return Ok(file),
            Err(error) if !is_full(&error) => return Err(Folders::io(&path)(error)),
            Err(_) => less_than(bytes, found).ok_or_else(|| {
                let dir = folders.segments.clone();
                OpenError::StorageFull { dir, bytes }
            })?,
        };
    }
}

/// What is claimed where so many bytes are not to be had, and so many were found claimed; none: no less will do.
fn less_than(bytes: u64, found: u64) -> Option<u64> {
    let (half, found) = (bytes / 2, found - found % CLAIM_ALIGN);
    if half < found && found < bytes {
        return Some(found);
    }
    // What was found may have holes that the disk has no room for: less of it will do, too.
    Some(half).filter(|half| *half >= CLAIM_ALIGN)
}

/// Opens the indexes. Of segments that were not checked only the headers are read.
fn open_index(
    disk: &Arc<dyn Disk>,
    folders: &Folders,
    options: &LogOptions,
    begun: &Begun,
    open: SegmentIndexBuilder,
) -> Result<LogIndex, OpenError> {
    let log_id = begun.frame.header().log_id;
    let (mut large, mut small) = (0, 0);
    let files = begun.sealed.iter().enumerate().map(|(at, segment)| {
        let depth = if at < begun.unchecked { Depth::Header } else { Depth::Whole };
        let index = sealed_index(&**disk, folders, &log_id, segment, depth)?;
        if matches!(index, SealedIndex::Memory(_)) {
            *(if segment.bytes <= SMALL_BYTES { &mut small } else { &mut large }) += 1;
        }
        if large > UNWRITTEN_MAX || small > UNWRITTEN_SMALL_MAX {
            let path = folders.index_file(segment.number);
            return Err(Folders::io(&path)(io::ErrorKind::StorageFull.into()));
        }
        Ok(index)
    });
    LogIndex::new(Arc::clone(disk), options.index_files_max, files, open)
}

/// Fills something from the indexes. Where one of them turns out to be damaged, all are read as a whole,
/// which makes that one anew.
fn fill<T>(
    disk: &dyn Disk,
    folders: &Folders,
    begun: &Begun,
    index: &LogIndex,
    fill: impl Fn() -> Result<T, OpenError>,
) -> Result<T, OpenError> {
    match fill() {
        Err(OpenError::Index(error)) => {
            tracing::warn!("{error}");
            let log_id = begun.frame.header().log_id;
            for segment in begun.sealed.iter().take(begun.unchecked) {
                index.sealed(sealed_index(disk, folders, &log_id, segment, Depth::Whole)?);
            }
            fill()
        }
        filled => filled,
    }
}

/// Fills the tables and makes what writer and readers share.
#[allow(clippy::too_many_arguments, reason = "all of them become parts of what is shared")]
fn share(
    disk: Arc<dyn Disk>,
    folders: Folders,
    options: LogOptions,
    clock: LogClock,
    epoch: u32,
    begun: &Begun,
    index: SegmentIndexBuilder,
    times: &mut OpenTimes,
) -> Result<Arc<Shared>, OpenError> {
    let log_id = begun.frame.header().log_id;
    let mut watch = StopWatch(Instant::now());
    let index = open_index(&disk, &folders, &options, begun, index)?;
    times.index = watch.lap();
    let heads = fill(&*disk, &folders, begun, &index, || {
        fill_heads(&*disk, &folders, log_id, &begun.sealed, &index)
    })?;
    times.heads = watch.lap();
    let now_ms = clock.now_ms();
    let (window_ms, most) = (options.dedup_window_ms, options.dedup_max);
    let ids = index.recent_ids(&Dedup::new(window_ms, most), now_ms)?;
    let dedup = (ids <= options.ids_first_max)
        .then(|| {
            fill(&*disk, &folders, begun, &index, || {
                fill_dedup(&index, window_ms, most, now_ms, || true)
            })
        })
        .transpose()?;
    times.index += watch.lap();
    let counters = Counters {
        segments: AtomicU64::new(begun.sealed.len() as u64 + 1),
        sealed_bytes: AtomicU64::new(begun.sealed.iter().map(|segment| segment.bytes).sum()),
        open_bytes: AtomicU64::new(begun.segment.end()),
        free_bytes: AtomicU64::new(disk.free_bytes(&folders.segments).unwrap_or(u64::MAX)),
        ..Counters::default()
    };
    Ok(Arc::new(Shared {
        disk,
        folders,
        options,
        log_id,
        epoch,
        clock,
        lanes: Lanes::new(),
        buffers: Buffers::default(),
        read_buffers: ReadBuffers::default(),
        open_segments: OpenSegments::default(),
        open_direct: OpenSegments::default(),
        hasher: IdHasher::new(&log_id),
        heads,
        recent: Recent::new(dedup),
        index,
        tail: Tail::new(options.tail_bytes),
        numbered: watch::Sender::new(None),
        durable: watch::Sender::new(CommitNumber(0)),
        durable_position: AtomicU64::new(0),
        failure: watch::Sender::new(None),
        ended: watch::Sender::new(false),
        stops_clean: AtomicBool::new(false),
        counters,
        ingested: OnceLock::new(),
        unchecked: Mutex::new(begun.sealed.iter().take(begun.unchecked).cloned().collect()),
        mending: Mutex::default(),
    }))
}
