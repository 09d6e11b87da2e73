//! The segment being written: the only place that writes frames, and the only maker of [`Durable`].

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{CLAIM_ALIGN, SEAL_BYTES_MAX, Tip, sealed_len, segment_path};
use crate::limits::{SEGMENT_ZEROED_AHEAD_BYTES, SEGMENT_ZEROED_STEP_BYTES};
use crate::log::codec::{
    Encoded, FLAG_SEAL, FRAME_ALIGN, FRAME_BYTES_MAX, HEADER_BYTES, Header, Salt, Seal,
};
use crate::log::disk::{BLOCK_BYTES, Disk, DiskFile};
use crate::log::frame::{Frame, FrameBuilder, Unwritten};
use crate::log::writer::is_full;

/// Bytes that a stop claims for the start after it, at most.
const NEXT_BYTES_MAX: u64 = 1 << 20;

/// At an address that can be written from as it is.
#[repr(align(4096))]
struct Zeros([u8; 1 << 20]);

static ZEROS: Zeros = Zeros([0; 1 << 20]);

const _: () = assert!(align_of::<Zeros>() == BLOCK_BYTES);
const _: () = assert!(SEGMENT_ZEROED_STEP_BYTES.is_multiple_of(BLOCK_BYTES as u64));

/// Proof that an fdatasync has covered a frame. Only this file makes it, after the sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Durable(());

/// A write or sync that failed: the log is poisoned by it.
#[derive(Debug, thiserror::Error)]
#[error("writing `{}`: {source}", path.display())]
pub(in crate::log) struct SegmentError {
    /// The file.
    pub(in crate::log) path: PathBuf,
    /// What the disk says.
    #[source]
    pub(in crate::log) source: io::Error,
}

/// The open segment, and the end of the log in it.
#[derive(Debug)]
pub(in crate::log) struct OpenSegment {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    salt: Salt,
    /// Where the next frame starts.
    end: u64,
    /// Up to where zeros have been written.
    zeroed: u64,
    capacity: u64,
    tip: Tip,
    seal: Seal,
}

/// Creates the file of a segment and claims its space, durably. One that is there was claimed by a stop, or
/// by a host that did not come to use it: recovery has seen that it is blank, and it is given that size.
///
/// # Errors
/// `StorageFull` where there is no room; then there is no file either, or one that is not longer than it was.
pub(in crate::log) fn claim(
    disk: &dyn Disk,
    dir: &Path,
    segment: u32,
    bytes: u64,
) -> io::Result<Arc<dyn DiskFile>> {
    let path = segment_path(dir, segment);
    let bytes = bytes.next_multiple_of(CLAIM_ALIGN);
    let (file, found) = match disk.create_new(&path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let file = disk.open_write(&path)?;
            // What space it has, it keeps: a full disk may have no other.
            let found = file.len()?.min(bytes);
            (file, Some(found))
        }
        created => (created?, None),
    };
    // Its length first. An allocation that finds no space ends anywhere, and a host that dies then would leave a
    // length that says that it was sealed.
    let long = file.set_len(bytes);
    // Also of what is there: a copy may have holes in it.
    let claimed = long.and_then(|()| file.allocate(bytes)).and_then(|()| file.sync_data());
    let named = |()| if planted!(SkipsDirectorySync) { Ok(()) } else { disk.sync_dir(dir) };
    if let Err(error) = claimed.and_then(named) {
        // Best effort: a blank file at the end of the log is harmless.
        let _ = match found {
            Some(found) => file.set_len(found),
            None => disk.remove(&path),
        };
        return Err(error);
    }
    disk.open_append(&path)
}

impl OpenSegment {
    /// A new segment in a claimed file.
    ///
    /// # Errors
    /// Its length cannot be read.
    pub(in crate::log) fn begin(
        dir: &Path,
        file: Arc<dyn DiskFile>,
        salt: Salt,
        tip: Tip,
    ) -> Result<Self, SegmentError> {
        let path = segment_path(dir, salt.segment);
        let seal = Seal {
            first_commit: tip.next_commit,
            first_position: tip.next_position,
            ..Seal::default()
        };
        Self::resume(path, file, salt, tip, 0, seal)
    }

    /// Goes on behind the last frame of a segment; `seal` counts what is in it.
    ///
    /// # Errors
    /// Its length cannot be read.
    pub(in crate::log) fn resume(
        path: PathBuf,
        file: Arc<dyn DiskFile>,
        salt: Salt,
        tip: Tip,
        end: u64,
        seal: Seal,
    ) -> Result<Self, SegmentError> {
        match file.len() {
            Ok(capacity) => Ok(Self { path, file, salt, end, zeroed: end, capacity, tip, seal }),
            Err(source) => Err(SegmentError { path, source }),
        }
    }

    /// Number of the segment.
    #[must_use]
    pub(in crate::log) const fn number(&self) -> u32 {
        self.salt.segment
    }

    /// What its frames are sealed with.
    #[must_use]
    pub(in crate::log) const fn salt(&self) -> Salt {
        self.salt
    }

    /// Where the next frame starts.
    #[must_use]
    pub(in crate::log) const fn end(&self) -> u64 {
        self.end
    }

    /// The end of the log.
    #[must_use]
    pub(in crate::log) const fn tip(&self) -> &Tip {
        &self.tip
    }

    /// Bytes that the next frame may have, so that the seal has room behind it, and so many bytes
    /// are kept for starts. Only a start keeps none.
    #[must_use]
    pub(in crate::log) const fn room(&self, kept: u64) -> u64 {
        self.capacity.saturating_sub(SEAL_BYTES_MAX + kept).saturating_sub(self.end)
    }

    /// Bytes, at most, of a frame whose sections have so many bytes.
    #[must_use]
    pub(in crate::log) const fn frame_bytes(section_bytes: usize) -> u64 {
        (section_bytes + HEADER_BYTES + FRAME_ALIGN) as u64
    }

    /// Bytes a new segment needs for one frame of so many bytes, and so many kept for starts.
    #[must_use]
    pub(in crate::log) const fn bytes_for(frame_bytes: u64, kept: u64) -> u64 {
        frame_bytes.saturating_add(SEAL_BYTES_MAX + kept)
    }

    /// The header of the next frame, as far as the end of the log decides it.
    #[must_use]
    pub(in crate::log) fn header(&self, epoch: u32, time_ms: u64) -> Header {
        Header {
            log_id: self.salt.log_id,
            epoch,
            segment: self.salt.segment,
            first_commit: self.tip.next_commit,
            first_position: self.tip.next_position,
            time_ms: time_ms.max(self.tip.time_ms),
            chain: self.tip.chain,
            ..Header::default()
        }
    }

    /// Writes one frame with one write, and syncs once. Gives where it starts. `show` gets it between the two:
    /// who runs then takes nothing from the write.
    ///
    /// # Errors
    /// What is on the disk is not known then: nothing may be written after it.
    pub(in crate::log) fn append(
        &mut self,
        builder: &mut FrameBuilder,
        header: Header,
        show: impl FnOnce(&Arc<Frame>),
    ) -> Result<(Arc<Frame>, u64, Durable), SegmentError> {
        let frame = builder.finish(header, self.salt);
        let offset = self.end;
        let written = self.write(frame, show);
        let (frame, durable) = written.map_err(|source| self.failed(source))?;
        if !frame.header().is_seal() {
            self.count(&frame);
        }
        self.end = offset + frame.bytes().len() as u64;
        self.tip = Tip::after(&frame);
        Ok((frame, offset, durable))
    }

    fn write(
        &mut self,
        frame: Unwritten,
        show: impl FnOnce(&Arc<Frame>),
    ) -> io::Result<(Arc<Frame>, Durable)> {
        if frame.frame_bytes() > FRAME_BYTES_MAX as u64 {
            // Nobody could read it, nor anything behind it.
            return Err(io::Error::other("the frame is larger than frames can be"));
        }
        self.zero_ahead(frame.frame_bytes())?;
        if planted!(AcknowledgesBeforeSync) {
            self.file.sync_data()?;
        }
        let frame = Arc::new(frame.write(&*self.file, self.end)?);
        show(&frame);
        self.sync(frame.header().is_seal())?;
        Ok((frame, Durable(())))
    }

    fn sync(&self, seals: bool) -> io::Result<()> {
        let left_out = match seals {
            true => planted!(NeverSyncs | SkipsSealSync),
            false => planted!(AcknowledgesBeforeSync | NeverSyncs),
        };
        if left_out {
            return Ok(());
        }
        if planted!(RetriesFailedSync) && self.file.sync_data().is_ok() {
            return Ok(());
        }
        self.file.sync_data()
    }

    /// Writes zeros where the next frames go, so that syncing them changes no metadata of the file
    /// system. One sync covers them and the frame. A step at a time, once a step is used up: all
    /// that is ahead at once would hold up one group in many for as long as that takes.
    fn zero_ahead(&mut self, frame_bytes: u64) -> io::Result<()> {
        // Whole blocks; the frame fills up the one that it ends in.
        let block = BLOCK_BYTES as u64;
        let frame_end = (self.end + frame_bytes).next_multiple_of(block);
        let ahead = (frame_end + SEGMENT_ZEROED_AHEAD_BYTES).min(self.capacity);
        // No less than what is used, or large frames would run away from it.
        let step = SEGMENT_ZEROED_STEP_BYTES.max(frame_bytes.next_multiple_of(block));
        let mut at = self.zeroed.max(frame_end);
        let is_due = frame_end > self.zeroed || at + step <= ahead || ahead == self.capacity;
        let until = if is_due { (at + step).min(ahead) } else { at };
        while at < until {
            let zeros = &ZEROS.0;
            let len = usize::try_from(until - at).unwrap_or(zeros.len()).min(zeros.len());
            self.file.write_at(zeros.get(..len).unwrap_or(zeros), at)?;
            at += len as u64;
        }
        self.zeroed = at;
        Ok(())
    }

    /// Claims the segment behind this one, which is sealed, from the space that the seal has cut off: the next
    /// start has somewhere to be recorded then, however full the disk becomes.
    ///
    /// # Errors
    /// As [`claim`].
    pub(in crate::log) fn claim_next(&self, disk: &dyn Disk, dir: &Path) -> io::Result<()> {
        let sealed = sealed_len(self.end).next_multiple_of(CLAIM_ALIGN);
        let mut bytes = self.capacity.saturating_sub(sealed).clamp(CLAIM_ALIGN, NEXT_BYTES_MAX);
        loop {
            match claim(disk, dir, self.number() + 1, bytes) {
                Err(error) if is_full(&error) && bytes > CLAIM_ALIGN => bytes /= 2,
                claimed => return claimed.map(drop),
            }
        }
    }

    fn count(&mut self, frame: &Frame) {
        count_frame(&mut self.seal, frame);
    }

    fn failed(&self, source: io::Error) -> SegmentError {
        SegmentError { path: self.path.clone(), source }
    }

    /// Seals the segment, and cuts off the space it did not need.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub(in crate::log) fn seal(
        &mut self,
        epoch: u32,
        time_ms: u64,
        clean_stop: bool,
    ) -> Result<Arc<Frame>, SegmentError> {
        let seal = Seal { clean_stop, bytes: self.end, ..self.seal };
        let mut encoded = Encoded::default();
        let fill = encoded.seal(&seal).and_then(|()| encoded.finish());
        fill.map_err(|error| self.failed(io::Error::other(error)))?;
        let mut builder = FrameBuilder::default();
        builder.push(&encoded, std::iter::empty());
        let header = Header { flags: FLAG_SEAL, ..self.header(epoch, time_ms) };
        let (frame, ..) = self.append(&mut builder, header, |_| ())?;
        let cut = self.file.set_len(sealed_len(self.end)).and_then(|()| self.sync(true));
        cut.map_err(|source| self.failed(source))?;
        Ok(frame)
    }
}

/// Counts a frame into what the seal of its segment will say.
pub(in crate::log) fn count_frame(seal: &mut Seal, frame: &Frame) {
    let header = frame.header();
    if seal.frames == 0 {
        seal.first_commit = header.first_commit;
        seal.first_position = header.first_position;
        seal.first_ms = header.time_ms;
    }
    seal.frames += 1;
    seal.commits += u64::from(header.commit_count);
    seal.events += u64::from(header.event_count);
    seal.last_ms = header.time_ms;
}
