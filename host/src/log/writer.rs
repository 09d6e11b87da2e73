//! The one thread that writes: gathers what waits, numbers it, writes once, syncs once, settles,
//! answers. While it syncs, the lanes fill up with the next group.
//!
//! Rule: at most one frame is unsynced, and no answer is given before the sync. All that gets a frame
//! earlier are deliveries, whose effects come behind it. The first write or sync that fails ends it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::assign::{Group, Verdict};
use super::codec::FRAME_ALIGN;
use super::derived::publish_heads;
use super::disk::LockGuard;
use super::error::{AppendError, LogFailure};
use super::follow::{self, Followers, Unwritten};
use super::frame::{Frame, FrameBuilder};
use super::index::{SegmentBase, SegmentIndexBuilder, SegmentSeal};
use super::lanes::{EffectsEntry, IngestEntry, Taken};
use super::linger::{JOINING_BYTES_MAX, Lingering};
use super::segment::{OpenSegment, SegmentError, claim};
use super::shared::Shared;
use super::ticket::IngestReply;
use super::waiting::{self, Proof, Waiting};
use crate::event::KeySequence;
use crate::limits::GROUP_BYTES_MAX;

/// How often the free space of the disk is looked at, milliseconds of log time.
const SPACE_EVERY_MS: u64 = 1000;
/// How long effects that the disk had no room for wait until they are tried again.
const HELD_AGAIN: Duration = Duration::from_millis(100);

/// What the writer's thread owns.
pub(super) struct Writer {
    shared: Arc<Shared>,
    segment: OpenSegment,
    /// The open segment's part of the index has not begun: it begins with its first frame.
    begins_index: bool,
    group: Group,
    builder: FrameBuilder,
    sequences: Vec<KeySequence>,
    space_checked_ms: Option<u64>,
    /// Effects that the disk has no room for: they go first once it has.
    held: Vec<EffectsEntry>,
    /// What was published, and is the next group: with what was held it would not fit one frame.
    put_off: Option<Taken>,
    /// The system gave no file for the next segment: that was told.
    lacks_file: bool,
    /// A stop found no room for the end of a delivery: what comes after it may rest on it.
    gives_up: bool,
    lingering: Lingering,
    followers: Followers,
    lock: LockGuard,
}

/// Why a group was not written.
enum Stop {
    /// There is no room; the log is as it was.
    Full { free: u64, needed: u64 },
    /// The log is poisoned.
    Failed(LogFailure),
}

impl From<SegmentError> for Stop {
    fn from(error: SegmentError) -> Self {
        Self::Failed(LogFailure::Write { path: error.path, why: error.source.to_string() })
    }
}

/// Tells everybody that the writer has ended, however it did.
struct EndGuard(Arc<Shared>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(&LogFailure::WriterGone);
        }
        self.0.ended.send_replace(true);
    }
}

impl Writer {
    /// Starts the thread, and those that follow it. `unwritten`: sealed segments without an index file.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(super) fn start(
        shared: Arc<Shared>,
        segment: OpenSegment,
        unwritten: Vec<Unwritten>,
        lock: LockGuard,
    ) -> io::Result<()> {
        let writer = Self {
            followers: Followers::start(&shared, unwritten)?,
            lingering: Lingering::new(shared.options.linger),
            shared,
            segment,
            begins_index: false,
            group: Group::default(),
            builder: FrameBuilder::default(),
            sequences: Vec::new(),
            space_checked_ms: None,
            held: Vec::new(),
            put_off: None,
            lacks_file: false,
            gives_up: false,
            lock,
        };
        let thread = std::thread::Builder::new().name("log-writer".to_owned());
        thread.spawn(move || {
            let guard = EndGuard(writer.shared.clone());
            writer.run();
            drop(guard);
        })?;
        Ok(())
    }

    fn run(mut self) {
        while let Some(taken) = self.take() {
            self.write_group(taken);
            if let Some(failure) = self.failure() {
                if let Some(taken) = self.put_off.take() {
                    self.refuse(taken, Stop::Failed(failure));
                }
                return;
            }
        }
        if self.shared.stops_clean.load(Ordering::Acquire) && self.failure().is_none() {
            self.stop();
        }
        drop(self.lock);
    }

    fn failure(&self) -> Option<LogFailure> {
        self.shared.failure.borrow().clone()
    }

    /// What the next group is made of. While effects are held they are it, but for what is published:
    /// later effects stay in their lane, which in time makes deliveries wait.
    fn take(&mut self) -> Option<Taken> {
        if self.put_off.is_some() {
            return self.put_off.take();
        }
        if self.held.is_empty() {
            return self.shared.lanes.take();
        }
        let ingest = self.shared.lanes.take_ingest(HELD_AGAIN);
        let effects = std::mem::take(&mut self.held);
        let effects_bytes = effects.iter().map(|entry| entry.commit.bytes()).sum();
        let bytes = ingest.bytes + effects_bytes;
        if bytes <= GROUP_BYTES_MAX || ingest.ingest.is_empty() {
            return Some(Taken { effects, bytes, ..ingest });
        }
        // Either may be as large as a frame can be.
        self.put_off = Some(ingest);
        Some(Taken { effects, bytes: effects_bytes, ..Taken::default() })
    }

    /// Keeps effects until there is room: what comes after a delivery rests on its end, and was let go
    /// on by it. A host that stops cannot wait: there all that is left is lost, and runs again.
    fn hold(&mut self, effects: Vec<EffectsEntry>, error: &AppendError) {
        if effects.is_empty() {
            return;
        }
        if self.shared.lanes.refusal().is_none() && !planted!(DropsWhatHasNoRoom) {
            self.held = effects;
            return;
        }
        self.gives_up = !planted!(DropsWhatHasNoRoom);
        effects.into_iter().for_each(|entry| entry.answer(Err(error.clone())));
    }

    /// Takes one group through: all of it, or (full, failed) none.
    fn write_group(&mut self, taken: Taken) {
        let started = Instant::now();
        let time_ms = self.shared.clock.now_ms();
        let taken = self.turn_away(taken, time_ms);
        if taken.effects.is_empty() && taken.ingest.is_empty() {
            return;
        }
        let frame_bytes = OpenSegment::frame_bytes(taken.bytes);
        if let Err(stop) = self.make_room(frame_bytes, time_ms) {
            self.refuse(taken, stop);
            return;
        }
        let mut waiting = self.gather(taken);
        self.linger(&mut waiting, time_ms);
        let gathered = Instant::now();
        let committed = if self.builder.is_empty() { Ok(None) } else { self.append(time_ms) };
        match committed {
            Ok(committed) => {
                waiting::answer(&self.shared, waiting, committed);
                let synced = committed.map_or(gathered, |(_, synced)| synced);
                if committed.is_some() {
                    self.lingering.synced(synced.saturating_duration_since(gathered));
                }
                self.note_times(started, gathered, synced);
            }
            Err(failure) => {
                self.shared.fail(&failure);
                for one in waiting {
                    one.refuse(AppendError::ReadOnly(failure.clone()));
                }
            }
        }
    }

    fn note_times(&self, started: Instant, gathered: Instant, synced: Instant) {
        let counters = &self.shared.counters;
        let ended = Instant::now();
        let span = |from: Instant, to: Instant| {
            u64::try_from(to.saturating_duration_since(from).as_nanos()).unwrap_or(u64::MAX)
        };
        counters.last_append_us.store(span(started, ended) / 1000, Ordering::Relaxed);
        counters.gather_ns.fetch_add(span(started, gathered), Ordering::Relaxed);
        counters.sync_ns.fetch_add(span(gathered, synced), Ordering::Relaxed);
        counters.settle_ns.fetch_add(span(synced, ended), Ordering::Relaxed);
    }

    /// Numbers what was taken and puts it into the frame.
    fn gather(&mut self, mut taken: Taken) -> Vec<Waiting> {
        let shared = self.shared.clone();
        let mut waiting = Vec::with_capacity(taken.effects.len() + taken.ingest.len());
        let tip = self.segment.tip();
        let first_commit = tip.next_commit;
        self.group.begin(tip.next_position);
        let (metadata_bytes, payload_bytes) = taken.section_bytes();
        self.builder.begin(self.segment.end(), metadata_bytes, payload_bytes);
        let effects = taken.effects.iter().map(|entry| &entry.commit);
        let published = taken.ingest.iter().map(|entry| &entry.batch.commit);
        self.group.meet(&shared.heads, effects.chain(published));
        let batches = taken.ingest.iter_mut().map(|entry| &mut entry.batch);
        Group::glance(shared.recent.get(), batches);
        for entry in taken.effects {
            waiting.push(self.gather_effects(entry));
        }
        for IngestEntry { mut batch, begun, reply } in taken.ingest {
            match self.group.ingest(shared.recent.get(), &shared.heads, &mut batch) {
                Verdict::Taken(first) => {
                    let number = first_commit + u64::from(self.builder.commits());
                    self.builder.push(&batch.commit, batch.items.iter().map(|item| item.sequence));
                    self.builder.identify(batch.items.iter().map(|item| item.id));
                    waiting.push(Waiting::Ingest { reply, batch, begun, number, first });
                }
                Verdict::Recheck => {
                    waiting.push(Waiting::Answer { reply, answer: IngestReply::Recheck });
                }
                Verdict::Refused(error) => {
                    let answer = IngestReply::Refused(error);
                    waiting.push(Waiting::Answer { reply, answer });
                }
            }
        }
        waiting
    }

    fn gather_effects(&mut self, EffectsEntry { commit, reply, permit }: EffectsEntry) -> Waiting {
        let first = self.group.effects(&self.shared.heads, &commit, &mut self.sequences);
        let number = self.segment.tip().next_commit + u64::from(self.builder.commits());
        self.builder.push(&commit, self.sequences.iter().copied());
        Waiting::Effects { reply, commit, permit, number, first }
    }

    /// Hands a few events to deliveries before they are written, and adds what comes of them at once.
    fn linger(&mut self, waiting: &mut Vec<Waiting>, time_ms: u64) {
        let free = self.shared.counters.free_bytes.load(Ordering::Relaxed);
        let is_full = free < self.shared.options.watermark_effects_bytes || self.gives_up;
        // Whatever is in the lane comes after what is held.
        let is_full = is_full || !self.held.is_empty();
        if is_full || self.shared.numbered.receiver_count() == 0 {
            return;
        }
        let Some(pause) = self.lingering.pause(self.group.published()) else { return };
        let taken = self.builder.frame_bytes() + FRAME_ALIGN;
        let kept = self.shared.options.start_room();
        let room = self.segment.room(kept).saturating_sub(taken as u64);
        let room = usize::try_from(room).unwrap_or(usize::MAX).min(JOINING_BYTES_MAX);
        let header = self.segment.header(self.shared.epoch, time_ms);
        let frame = self.builder.clone().build(header, self.segment.salt());
        self.shared.numbered.send_replace(Some(Arc::new(frame)));
        // The frame has one time, which must not be before that of anything in it: a timer fires when its
        // time has come.
        let clock = &self.shared.clock;
        let is_timely = || clock.now_ms() == time_ms;
        let effects = self.shared.lanes.take_effects(pause, room, is_timely);
        self.lingering.waited(!effects.is_empty());
        waiting.extend(effects.into_iter().map(|entry| self.gather_effects(entry)));
    }

    /// Writes the frame, syncs, and makes it known: tables, index, tail, durable mark. Gives the
    /// proof, and when the sync was through.
    fn append(&mut self, time_ms: u64) -> Result<Option<(Proof, Instant)>, LogFailure> {
        let header = self.segment.header(self.shared.epoch, time_ms);
        let appended = self.segment.append(&mut self.builder, header, |frame| {
            self.shared.numbered.send_replace(Some(Arc::clone(frame)));
        });
        let (frame, offset, durable) = appended.map_err(|error| LogFailure::Write {
            path: error.path,
            why: error.source.to_string(),
        })?;
        let synced = Instant::now();
        self.group.settle(self.shared.recent.get(), &self.shared.heads, frame.time_ms());
        let index_is_behind = self.index(&frame, offset)?;
        let counters = &self.shared.counters;
        let header = *frame.header();
        counters.groups.fetch_add(1, Ordering::Relaxed);
        counters.commits.fetch_add(header.commit_count.into(), Ordering::Relaxed);
        counters.events.fetch_add(header.event_count.into(), Ordering::Relaxed);
        counters.open_bytes.store(self.segment.end(), Ordering::Relaxed);
        if make_known(&self.shared, frame) || index_is_behind {
            self.followers.wake();
        }
        Ok(Some(((durable, header.time_ms), synced)))
    }

    fn index(&mut self, frame: &Arc<Frame>, offset: u64) -> Result<bool, LogFailure> {
        if self.begins_index {
            let base = SegmentBase::of(frame.header());
            self.shared.index.begin(SegmentIndexBuilder::new(base));
            self.begins_index = false;
        }
        let handed_over = self.shared.index.add(Arc::clone(frame), offset);
        handed_over.map_err(|error| follow::failure(&error))
    }

    fn refuse(&mut self, taken: Taken, stop: Stop) {
        let error = match stop {
            Stop::Full { free, needed } => AppendError::StorageFull { free, needed },
            Stop::Failed(failure) => {
                self.shared.fail(&failure);
                AppendError::ReadOnly(failure)
            }
        };
        self.hold(taken.effects, &error);
        for entry in taken.ingest {
            let _ = entry.reply.send(IngestReply::Refused(error.clone()));
        }
    }

    /// Refuses what the free space of the disk does not allow: ingest before effects.
    fn turn_away(&mut self, mut taken: Taken, time_ms: u64) -> Taken {
        let is_due =
            self.space_checked_ms.is_none_or(|at| time_ms.saturating_sub(at) >= SPACE_EVERY_MS);
        let counters = &self.shared.counters;
        if is_due {
            self.space_checked_ms = Some(time_ms);
            counters.free_bytes.store(self.shared.free_bytes(), Ordering::Relaxed);
        }
        let free = counters.free_bytes.load(Ordering::Relaxed);
        let options = self.shared.options;
        if free < options.watermark_ingest_bytes {
            let ingest = std::mem::take(&mut taken.ingest);
            let full = Stop::Full { free, needed: options.watermark_ingest_bytes };
            self.refuse(Taken { ingest, ..Taken::default() }, full);
        }
        if free < options.watermark_effects_bytes || self.gives_up {
            let effects = std::mem::take(&mut taken.effects);
            let full = Stop::Full { free, needed: options.watermark_effects_bytes };
            self.refuse(Taken { effects, ..Taken::default() }, full);
        }
        taken
    }

    /// Goes on to the next segment where the frame does not fit this one. The next one is claimed
    /// first: if that fails for want of space, nothing has changed.
    fn make_room(&mut self, frame_bytes: u64, time_ms: u64) -> Result<(), Stop> {
        let kept = self.shared.options.start_room();
        if frame_bytes <= self.segment.room(kept) {
            return Ok(());
        }
        let shared = self.shared.clone();
        let number = self.segment.number() + 1;
        let bytes = shared.segment_bytes().max(OpenSegment::bytes_for(frame_bytes, kept));
        let file = claim(&*shared.disk, &shared.folders.segments, number, bytes);
        let file = file.map_err(|error| self.claim_stop(number, bytes, &error))?;
        self.lacks_file = false;
        self.seal(time_ms, false)?;
        let tip = *self.segment.tip();
        let dir = &shared.folders.segments;
        self.segment = OpenSegment::begin(dir, file, shared.salt(number), tip)?;
        self.begins_index = true;
        Ok(())
    }

    /// Without a file, too, nothing has changed, and there is one once others are closed.
    fn claim_stop(&mut self, number: u32, bytes: u64, error: &io::Error) -> Stop {
        let shared = &self.shared;
        let path = shared.folders.segment(number);
        let lacks_file = matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE));
        if !lacks_file && !is_full(error) {
            return Stop::Failed(LogFailure::Write { path, why: error.to_string() });
        }
        if lacks_file && !self.lacks_file {
            let path = path.display();
            tracing::warn!(%path, %error, "no file for a segment: nothing is appended until there is one");
        }
        self.lacks_file = lacks_file;
        let free = shared.disk.free_bytes(&shared.folders.segments).unwrap_or_default();
        Stop::Full { free, needed: bytes }
    }

    /// Seals the segment; its index file is written beside the work.
    fn seal(&mut self, time_ms: u64, clean_stop: bool) -> Result<(), Stop> {
        self.segment.seal(self.shared.epoch, time_ms, clean_stop)?;
        if clean_stop {
            self.claim_for_start();
        }
        let counters = &self.shared.counters;
        counters.segments.fetch_add(1, Ordering::Relaxed);
        counters.sealed_bytes.fetch_add(self.segment.end(), Ordering::Relaxed);
        counters.open_bytes.store(0, Ordering::Relaxed);
        let seal = SegmentSeal { bytes: self.segment.end(), chain: self.segment.tip().chain };
        self.followers.seal(&self.shared, self.segment.number(), seal);
        Ok(())
    }

    /// Before anything else takes the space that the seal has cut off.
    fn claim_for_start(&self) {
        let shared = &self.shared;
        if let Err(error) = self.segment.claim_next(&*shared.disk, &shared.folders.segments) {
            tracing::warn!(%error, "the next start needs space for a segment");
        }
    }

    /// The end of an orderly stop.
    fn stop(&mut self) {
        let time_ms = self.shared.clock.now_ms();
        if let Err(Stop::Failed(failure)) = self.seal(time_ms, true) {
            self.shared.fail(&failure);
            return;
        }
        self.followers.until_sealed();
        let shared = &self.shared;
        let tip = self.segment.tip();
        let kept = publish_heads(&*shared.disk, &shared.folders, shared.log_id, tip, &shared.heads);
        if let Err(error) = kept {
            tracing::warn!(%error, "the next start gathers the key heads from the indexes");
        }
    }
}

/// Shows a durable frame to everybody. Says whether it is time to trim the tail.
pub(super) fn make_known(shared: &Shared, frame: Arc<Frame>) -> bool {
    let last = frame.last_commit();
    let position = frame.header().next_position().saturating_sub(1);
    let is_long = shared.tail.push(frame);
    shared.durable_position.store(position, Ordering::Release);
    shared.durable.send_replace(last);
    is_long
}

/// Whether an error says that there is no space.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
