//! What the writer, the readers and everybody who holds the log have in common.
//!
//! Rule: a reader sees durable frames only, but for the one that feeds deliveries
//! ([`super::NumberedFrames`]). The writer settles a group in one order: tables, index, tail, the durable
//! mark, and only then the answers; so whoever has an answer finds what it is about.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::behind::Recent;
use super::clock::LogClock;
use super::codec::Salt;
use super::dedup::IdHasher;
use super::disk::{Disk, DiskFile};
use super::error::{LogFailure, ReadError};
use super::frame::Frame;
use super::heads::Heads;
use super::index::LogIndex;
use super::lanes::Lanes;
use super::options::LogOptions;
use super::recovery::{Folders, SealedSegment};
use super::segment::{ReadBuffers, Scan, ScanEnd, SegmentScan};
use super::tail::Tail;
use super::ticket::Buffers;
use crate::event::{CommitNumber, Event, Position};

/// The shared half of a log.
pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) folders: Folders,
    pub(super) options: LogOptions,
    pub(super) log_id: [u8; 16],
    pub(super) epoch: u32,
    pub(super) clock: LogClock,
    pub(super) lanes: Arc<Lanes>,
    pub(super) buffers: Buffers,
    /// Of readers that lag.
    pub(super) read_buffers: ReadBuffers,
    /// The same, as are these past the page cache.
    pub(super) open_segments: OpenSegments,
    pub(super) open_direct: OpenSegments,
    pub(super) hasher: IdHasher,
    pub(super) heads: Heads,
    pub(super) recent: Recent,
    pub(super) index: LogIndex,
    pub(super) tail: Tail,
    /// The last frame that was numbered: durable already, or the one that is being written.
    pub(super) numbered: watch::Sender<Option<Arc<Frame>>>,
    pub(super) durable: watch::Sender<CommitNumber>,
    pub(super) durable_position: AtomicU64,
    pub(super) failure: watch::Sender<Option<LogFailure>>,
    /// True once the writer has ended.
    pub(super) ended: watch::Sender<bool>,
    /// The writer is to seal the log when the lanes are drained.
    pub(super) stops_clean: AtomicBool,
    pub(super) counters: Counters,
    /// Hears of what was published.
    pub(super) ingested: OnceLock<OnIngested>,
    /// Segments that nobody has checked since the start.
    pub(super) unchecked: Mutex<Vec<SealedSegment>>,
    /// Held by who makes the index file of one of them anew.
    pub(super) mending: Mutex<()>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("bus", &self.folders.bus).finish_non_exhaustive()
    }
}

/// Segments that are being read: whoever reads one that others read has the same file, so that a thousand
/// readers that lag take no more files than one.
#[derive(Debug, Default)]
pub(super) struct OpenSegments(Mutex<HashMap<u32, Weak<dyn DiskFile>>>);

impl OpenSegments {
    /// The file of a segment; `open` opens it where nobody reads it.
    fn get<E>(
        &self,
        segment: u32,
        open: impl FnOnce() -> Result<Arc<dyn DiskFile>, E>,
    ) -> Result<Arc<dyn DiskFile>, E> {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = files.get(&segment).and_then(Weak::upgrade) {
            return Ok(file);
        }
        files.retain(|_, file| file.strong_count() > 0);
        let file = open()?;
        files.insert(segment, Arc::downgrade(&file));
        Ok(file)
    }
}

/// Called with how long it took from a batch being published to its being durable. The writer calls it,
/// so it must not wait.
pub(super) type OnIngested = Box<dyn Fn(Duration) + Send + Sync>;

/// What [`super::LogStats`] reports.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) events: AtomicU64,
    pub(super) commits: AtomicU64,
    pub(super) groups: AtomicU64,
    pub(super) last_append_us: AtomicU64,
    pub(super) gather_ns: AtomicU64,
    pub(super) sync_ns: AtomicU64,
    pub(super) settle_ns: AtomicU64,
    pub(super) free_bytes: AtomicU64,
    pub(super) segments: AtomicU64,
    pub(super) sealed_bytes: AtomicU64,
    pub(super) open_bytes: AtomicU64,
}

impl Shared {
    /// Bytes free for us on the disk. A disk that does not say is not full.
    pub(super) fn free_bytes(&self) -> u64 {
        self.disk.free_bytes(&self.folders.segments).unwrap_or(u64::MAX)
    }

    /// Tells who counts of a batch that is durable by now.
    pub(super) fn note_ingested(&self, begun: Instant, now: Instant) {
        if let Some(heard) = self.ingested.get() {
            heard(now.saturating_duration_since(begun));
        }
    }

    /// Bytes that the next segment claims.
    pub(super) fn segment_bytes(&self) -> u64 {
        self.options.segment_bytes_on(self.free_bytes())
    }

    pub(super) fn salt(&self, segment: u32) -> Salt {
        Salt::new(self.log_id, segment)
    }

    pub(super) fn unchecked(&self) -> MutexGuard<'_, Vec<SealedSegment>> {
        self.unchecked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn durable_position(&self) -> Position {
        Position(self.durable_position.load(Ordering::Acquire))
    }

    pub(super) fn durable_commit(&self) -> CommitNumber {
        *self.durable.borrow()
    }

    /// Ends the log for appending. The first failure counts.
    pub(super) fn fail(&self, failure: &LogFailure) {
        let is_first = self.failure.send_if_modified(|known| {
            // In one step: who hears of it finds the lanes closed, and the writer that finds them
            // closed knows why.
            self.lanes.fail(failure);
            let is_first = known.is_none();
            known.get_or_insert(failure.clone());
            is_first
        });
        // What was being written may never be durable.
        self.numbered.send_replace(None);
        if is_first {
            tracing::error!(%failure, "the log takes no more");
        }
    }

    /// A scan that starts at a frame of a segment.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn scan(&self, segment: u32, offset: u64) -> Result<SegmentScan, ReadError> {
        Ok(SegmentScan::new(self.open_segment(segment)?, self.salt(segment), offset))
    }

    fn open_segment(&self, segment: u32) -> Result<Arc<dyn DiskFile>, ReadError> {
        let path = self.folders.segment(segment);
        let file = self.open_segments.get(segment, || self.disk.open_read(&path));
        file.map_err(|error| io_error(&path, error))
    }

    /// Has a scan read on past the page cache in this segment, where the disk can do that.
    pub(super) fn go_direct(&self, scan: &mut SegmentScan) {
        let segment = scan.salt().segment;
        let open = || self.disk.open_direct(&self.folders.segment(segment)).ok_or(());
        let direct = self.open_direct.get(segment, open).ok();
        scan.go_direct(direct, self.read_buffers.clone());
    }

    /// Moves a scan to the start of the next segment, to be read as this one was.
    fn go_to_next(&self, scan: &mut SegmentScan) -> Result<(), ReadError> {
        let segment = scan.salt().segment + 1;
        scan.go_to_segment(self.open_segment(segment)?, self.salt(segment));
        if scan.is_direct() {
            self.go_direct(scan);
        }
        Ok(())
    }

    /// The next frame of a scan, which is durable: so its absence is damage. `scan` moves to the next
    /// segment where one ends. Blocking.
    ///
    /// # Errors
    /// Damage, and the disk's.
    pub(super) fn next_durable(&self, scan: &mut SegmentScan) -> Result<Arc<Frame>, ReadError> {
        let mut is_fresh = false;
        loop {
            let path = self.folders.segment(scan.salt().segment);
            let why = match scan.advance().map_err(|error| io_error(&path, error))? {
                Scan::Frame { frame, .. } if frame.header().is_seal() => {
                    self.go_to_next(scan)?;
                    is_fresh = false;
                    continue;
                }
                Scan::Frame { frame, .. } => return Ok(frame),
                Scan::End(ScanEnd::Blank) => super::codec::DecodeError::Magic,
                Scan::End(ScanEnd::Broken(why)) => why,
            };
            if is_fresh {
                return Err(ReadError::Damaged { path, offset: scan.offset(), why });
            }
            // What was read ahead may be from before the frame was written.
            scan.forget();
            is_fresh = true;
        }
    }

    /// The frame that holds a position, from the disk. Blocking.
    fn frame_on_disk(&self, position: Position) -> Result<Option<Arc<Frame>>, ReadError> {
        let Some(place) = self.index.frame_of_position(position)? else { return Ok(None) };
        let mut scan = self.scan(place.segment, place.mark.offset)?.narrow();
        loop {
            let frame = self.next_durable(&mut scan)?;
            if frame.header().first_position > position.0 {
                return Ok(None);
            }
            if frame.last_position().is_some_and(|last| last >= position) {
                return Ok(Some(frame));
            }
        }
    }

    /// The events at ascending positions that are durable and there; each frame is read once.
    ///
    /// # Errors
    /// One cannot be read.
    pub(super) async fn events(
        self: &Arc<Self>,
        positions: Vec<Position>,
    ) -> Result<Vec<Arc<Event>>, ReadError> {
        let shared = self.clone();
        blocking(move || {
            let until = shared.durable_position();
            let durable = positions.partition_point(|position| *position <= until);
            let mut rest = positions.get(..durable).unwrap_or_default();
            let mut events = Vec::with_capacity(rest.len());
            while let Some((first, others)) = rest.split_first() {
                let frame = match shared.tail.with_position(*first) {
                    Some(frame) => Some(frame),
                    None => shared.frame_on_disk(*first)?,
                };
                let last = frame.as_ref().and_then(|frame| frame.last_position());
                let (Some(frame), Some(last)) = (frame, last) else {
                    rest = others;
                    continue;
                };
                let (here, behind) = rest.split_at(rest.partition_point(|at| *at <= last));
                events.extend(frame.events_at(here)?.into_iter().map(Arc::new));
                rest = behind;
            }
            Ok(events)
        })
        .await
    }

    /// The frame that holds a commit; none: it is not durable, or not there.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) async fn frame_of(
        self: &Arc<Self>,
        commit: CommitNumber,
    ) -> Result<Option<Arc<Frame>>, ReadError> {
        if commit.0 == 0 || commit > self.durable_commit() {
            return Ok(None);
        }
        if let Some(frame) = self.tail.with_commit(commit) {
            return Ok(Some(frame));
        }
        let shared = self.clone();
        blocking(move || {
            let Some(place) = shared.index.frame_of_commit(commit)? else { return Ok(None) };
            let mut scan = shared.scan(place.segment, place.mark.offset)?.narrow();
            loop {
                let frame = shared.next_durable(&mut scan)?;
                if frame.last_commit() >= commit {
                    return Ok(Some(frame));
                }
            }
        })
        .await
    }

    /// The event at a position; none: it is not durable, or not there.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) async fn event(
        self: &Arc<Self>,
        position: Position,
    ) -> Result<Option<Arc<Event>>, ReadError> {
        if position.0 == 0 || position > self.durable_position() {
            return Ok(None);
        }
        if let Some(frame) = self.tail.with_position(position) {
            return Ok(frame.event(position)?.map(Arc::new));
        }
        let shared = self.clone();
        let found = blocking(move || match shared.frame_on_disk(position)? {
            Some(frame) => Ok(frame.event(position)?),
            None => Ok(None),
        });
        Ok(found.await?.map(Arc::new))
    }
}

pub(super) fn io_error(path: &std::path::Path, source: std::io::Error) -> ReadError {
    ReadError::Io { path: path.to_owned(), source: Arc::new(source) }
}

/// Runs blocking reads off the async threads.
pub(super) async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Result<T, ReadError> {
    tokio::task::spawn_blocking(read)
        .await
        .unwrap_or_else(|error| Err(io_error(&PathBuf::from("log"), std::io::Error::other(error))))
}
