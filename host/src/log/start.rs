//! Opening a log: lock, recover, record the start, fill the tables, start the writer.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::watch;

use super::Log;
use super::clock::LogClock;
use super::codec::{Encoded, Salt, Seal};
use super::dedup::IdHasher;
use super::derived::{Depth, fill_dedup, fill_heads, sealed_index};
use super::disk::Disk;
use super::error::{AppendError, LogFailure, OpenError};
use super::frame::{Frame, FrameBuilder};
use super::index::{IndexFile, LogIndex, SegmentBase, SegmentIndexBuilder};
use super::lanes::Lanes;
use super::options::{ClockGap, LogOptions};
use super::record::{Control, ControlRecord};
use super::recovery::{
    CutReport, Folders, Found, Recovered, SealedSegment, note_begun, prove_sealed, recover,
};
use super::segment::{OpenSegment, SegmentError, Tip, claim};
use super::shared::{Counters, Shared};
use super::tail::Tail;
use super::ticket::Buffers;
use super::writer::{Writer, is_full, make_known};
use crate::clock::Clock;
use crate::event::{CommitNumber, Position};
use crate::limits::CLOCK_GAP_MS_MAX;

/// The smallest segment that a nearly full disk is opened with.
const SEGMENT_BYTES_MIN: u64 = 64 * 1024;

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
}

/// What is known of the log before its writer starts.
struct Begun {
    segment: OpenSegment,
    sealed: Vec<SealedSegment>,
    /// The end of the log as a clean stop left it.
    stopped: Option<Tip>,
    unchecked: usize,
    frame: Frame,
}

/// Opens the log in a bus folder, making one where there is none. Blocking.
pub(super) fn open(
    disk: Arc<dyn Disk>,
    dir: &Path,
    options: LogOptions,
    clock: Arc<dyn Clock>,
) -> Result<Opened, OpenError> {
    let folders = Folders::of(dir);
    for folder in [&folders.segments, &folders.index] {
        disk.create_dir_all(folder).map_err(Folders::io(folder))?;
    }
    let lock = disk.lock(&folders.segments)?;
    let (recovered, new_empty) = match recover(&*disk, &folders, &options)? {
        Found::Log(recovered) => (*recovered, false),
        Found::Nothing { cut } => (nothing(cut), true),
    };
    check_clock(&*clock, recovered.tip.time_ms, options.clock_gap)?;
    let clock = LogClock::start(clock, recovered.tip.time_ms);
    let epoch = recovered.tip.epoch + 1;
    let (log_id, clean, cut) = (recovered.log_id, recovered.clean, recovered.cut.clone());
    let (begun, index) = begin(&*disk, &folders, &options, recovered, epoch, clock.now_ms())?;
    note_begun(&*disk, &folders, log_id)?;
    let shared = share(disk, folders, options, clock, epoch, &begun, index)?;
    let last_commit = begun.frame.last_commit();
    let last_position = Position(begun.frame.header().next_position().saturating_sub(1));
    let _ = make_known(&shared, Arc::new(begun.frame));
    let thread = |source| OpenError::Io { path: shared.folders.bus.clone(), source };
    check_rest(&shared, begun.sealed.into_iter().take(begun.unchecked).collect())
        .map_err(thread)?;
    Writer::start(shared.clone(), begun.segment, lock).map_err(thread)?;
    Ok(Opened {
        log: Log::new(shared),
        log_id: uuid::Uuid::from_bytes(log_id),
        new_empty,
        epoch,
        clean,
        cut,
        last_commit,
        last_position,
    })
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

fn check_clock(clock: &dyn Clock, last_ms: u64, gap: ClockGap) -> Result<(), OpenError> {
    let wall_ms = clock.wall_ms();
    let behind_ms = last_ms.saturating_sub(wall_ms);
    if behind_ms > CLOCK_GAP_MS_MAX && gap == ClockGap::Refuse {
        return Err(OpenError::Clock { wall_ms, behind_ms });
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
    let Recovered { log_id, tip, mut sealed, open, unchecked, clean, .. } = recovered;
    let failed = |error: SegmentError| OpenError::Io { path: error.path, source: error.source };
    let record = epoch_record(epoch)?;
    let frame_bytes = (record.bytes() + super::codec::HEADER_BYTES + 8) as u64;
    let (mut segment, index) = match open {
        Some(open) => {
            let salt = Salt::new(log_id, open.number);
            let path = folders.segment(open.number);
            let mut segment = OpenSegment::resume(path, open.file, salt, tip, open.end, open.seal)
                .map_err(failed)?;
            if segment.has_room(frame_bytes) {
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
    let (frame, offset, _) = segment.append(&mut builder, header).map_err(failed)?;
    let mut index =
        index.unwrap_or_else(|| SegmentIndexBuilder::new(SegmentBase::of(frame.header())));
    index.add_frame(&frame, offset, &IdHasher::new(&log_id)).map_err(|error| {
        let commit = frame.first_commit();
        AppendError::ReadOnly(LogFailure::Index { commit, why: error.to_string() })
    })?;
    let stopped = clean.then_some(tip);
    Ok((Begun { segment, sealed, stopped, unchecked, frame }, index))
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
/// readable, even where hardly anything can be added.
fn first_claim(
    disk: &dyn Disk,
    folders: &Folders,
    options: &LogOptions,
    number: u32,
) -> Result<Arc<dyn super::disk::DiskFile>, OpenError> {
    let free_bytes = disk.free_bytes(&folders.segments).unwrap_or(u64::MAX);
    let mut bytes = options.segment_bytes_on(free_bytes);
    loop {
        match claim(disk, &folders.segments, number, bytes) {
            Ok(file) => return Ok(file),
            Err(error) if is_full(&error) && bytes / 2 >= SEGMENT_BYTES_MIN => bytes /= 2,
            Err(error) if is_full(&error) => {
                return Err(OpenError::StorageFull { dir: folders.segments.clone(), bytes });
            }
            Err(error) => return Err(Folders::io(&folders.segment(number))(error)),
        }
    }
}

/// Fills the tables and makes what writer and readers share.
fn share(
    disk: Arc<dyn Disk>,
    folders: Folders,
    options: LogOptions,
    clock: LogClock,
    epoch: u32,
    begun: &Begun,
    index: SegmentIndexBuilder,
) -> Result<Arc<Shared>, OpenError> {
    let log_id = begun.frame.header().log_id;
    let files = begun
        .sealed
        .iter()
        .enumerate()
        .map(|(at, segment)| {
            let depth = if at < begun.unchecked { Depth::Header } else { Depth::Whole };
            sealed_index(&*disk, &folders, &log_id, segment, depth)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let index = LogIndex::new(files, index);
    let heads = fill_heads(&*disk, &folders, log_id, begun.stopped.as_ref(), &index)?;
    let now_ms = clock.now_ms();
    let dedup = fill_dedup(&index, options.dedup_window_ms, options.dedup_max, now_ms)?;
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
        hasher: IdHasher::new(&log_id),
        heads,
        dedup,
        index,
        tail: Tail::new(options.tail_bytes),
        durable: watch::Sender::new(CommitNumber(0)),
        durable_position: AtomicU64::new(0),
        failure: watch::Sender::new(None),
        ended: watch::Sender::new(false),
        stops_clean: AtomicBool::new(false),
        counters,
    }))
}

/// Checks in the background what was not checked before opening. Damage ends the log.
fn check_rest(shared: &Arc<Shared>, segments: Vec<SealedSegment>) -> std::io::Result<()> {
    if segments.is_empty() {
        return Ok(());
    }
    let shared = shared.clone();
    let thread = std::thread::Builder::new().name("log-check".to_owned());
    let check = move || {
        let stops = || *shared.ended.borrow() || shared.stops_clean.load(Ordering::Acquire);
        for segment in segments {
            let proven =
                prove_sealed(&*shared.disk, &shared.folders, shared.log_id, &segment, stops);
            let indexed = proven.and_then(|()| check_index(&shared, &segment));
            match indexed {
                Ok(()) => {}
                Err(OpenError::Damaged(damage)) => {
                    return shared.fail(&LogFailure::Damaged(damage));
                }
                Err(error) => {
                    let path = shared.folders.segment(segment.number);
                    return shared.fail(&LogFailure::Check { path, why: error.to_string() });
                }
            }
        }
    };
    thread.spawn(check).map(drop)
}

/// Reads the index file of a segment that is whole; one that is damaged is made anew.
fn check_index(shared: &Shared, segment: &SealedSegment) -> Result<(), OpenError> {
    let (disk, folders) = (&*shared.disk, &shared.folders);
    let path = folders.index_file(segment.number);
    let is_right = IndexFile::open(disk, &path, &shared.log_id, segment.number)
        .is_ok_and(|file| file.is_some_and(|file| file.verify().is_ok()));
    if !is_right {
        let file = sealed_index(disk, folders, &shared.log_id, segment, Depth::Whole)?;
        shared.index.sealed(file);
    }
    Ok(())
}
