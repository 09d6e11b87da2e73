//! Putting a frame together from commits, at the place that it is written from.
//!
//! Rule: metadata and payload are copied once, to where the frame has them, if their sizes were said
//! before.

use std::io;
use std::ops::Range;
use std::sync::OnceLock;

use bytes::BytesMut;

use super::Frame;
use crate::event::{CommitNumber, KeySequence, Position};
use crate::log::codec::{
    Completed, DecodeError, Encoded, FLAG_SEAL, FRAME_ALIGN, HEADER_BYTES, Header, Outline,
    PREFIX_BYTES, Placed, Salt,
};
use crate::log::dedup::IdHash;
use crate::log::disk::{BLOCK_BYTES, DiskFile};

/// A smaller frame is copied to where it is written from: that place is in the cache of the processor,
/// and the same each time.
const WITHIN_BYTES_MIN: usize = 2 << 20;

/// A frame that is whole, but not written yet.
#[derive(Debug)]
pub struct Unwritten {
    header: Header,
    buffer: BytesMut,
    /// Where its bytes start in the buffer.
    start: usize,
    outline: OnceLock<Result<Outline, DecodeError>>,
    completed: Option<Box<[Completed]>>,
}

/// A frame being put together by the writer.
#[derive(Debug, Default, Clone)]
pub struct FrameBuilder {
    /// Room, and the frame behind it but for its payload.
    bytes: BytesMut,
    /// The payload: where there is room for it, directly behind.
    payload: BytesMut,
    /// Where the frame starts in `bytes`.
    start: usize,
    commits: u32,
    records: u32,
    events: u32,
    placed: Vec<Placed>,
    completed: Vec<Completed>,
    /// Something in it was copied, unread: its outline is to be read.
    is_unread: bool,
}

impl Unwritten {
    /// The header.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Bytes it takes on the disk.
    #[must_use]
    pub const fn frame_bytes(&self) -> u64 {
        self.header.frame_bytes()
    }

    fn place(&self) -> Range<usize> {
        let len = usize::try_from(self.frame_bytes()).unwrap_or(usize::MAX);
        self.start..self.start.saturating_add(len)
    }

    /// Writes it, and gives the frame.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(mut self, file: &dyn DiskFile, offset: u64) -> io::Result<Frame> {
        let place = self.place();
        file.write_within(&mut self.buffer, place, offset)?;
        Ok(self.whole())
    }

    fn whole(self) -> Frame {
        let place = self.place();
        let memory = self.buffer.capacity();
        let buffer = self.buffer.freeze();
        let bytes = buffer.slice(place.start.min(buffer.len())..place.end.min(buffer.len()));
        Frame {
            header: self.header,
            bytes,
            memory,
            is_read: false,
            outline: self.outline,
            completed: self.completed,
        }
    }
}

impl FrameBuilder {
    /// Whether it has no commit yet.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Begins a frame for `offset` of its file, of commits that have so many bytes at most. A large
    /// one gets the blocks around it as room: so it is written from where it stands.
    pub fn begin(&mut self, offset: u64, metadata_bytes: usize, payload_bytes: usize) {
        let metadata_end = HEADER_BYTES + metadata_bytes;
        let len = metadata_end + payload_bytes + FRAME_ALIGN;
        self.start = 0;
        if len < WITHIN_BYTES_MIN {
            self.bytes = BytesMut::with_capacity(len);
        } else {
            let before = usize::try_from(offset % BLOCK_BYTES as u64).unwrap_or(0);
            self.bytes = BytesMut::with_capacity(before + len + 2 * BLOCK_BYTES);
            let unaligned = self.bytes.as_ptr().align_offset(BLOCK_BYTES).min(BLOCK_BYTES);
            self.start = unaligned + before;
        }
        self.bytes.resize(self.start + HEADER_BYTES, 0);
        self.payload = self.bytes.split_off(self.start + metadata_end);
    }

    /// Commits so far.
    #[must_use]
    pub const fn commits(&self) -> u32 {
        self.commits
    }

    /// Events so far.
    #[must_use]
    pub const fn events(&self) -> u32 {
        self.events
    }

    /// Bytes the frame has on the disk as it is.
    #[must_use]
    pub fn frame_bytes(&self) -> usize {
        (HEADER_BYTES + self.metadata_bytes() + self.payload.len()).next_multiple_of(FRAME_ALIGN)
    }

    fn metadata_bytes(&self) -> usize {
        self.bytes.len().saturating_sub(self.start + HEADER_BYTES)
    }

    /// Adds a commit; `sequences` are the key sequences of its events, in order.
    #[allow(clippy::cast_possible_truncation, reason = "`Encoded::finish` bounds a commit")]
    pub fn push(&mut self, commit: &Encoded, sequences: impl Iterator<Item = KeySequence>) {
        if self.bytes.is_empty() {
            self.bytes.resize(HEADER_BYTES, 0);
        }
        let at = self.bytes.len();
        self.outline(commit, (self.metadata_bytes(), self.payload.len()));
        self.bytes.extend_from_slice(&commit.metadata);
        self.payload.extend_from_slice(&commit.payload);
        for (slot, sequence) in commit.events.iter().zip(sequences) {
            let field = at + slot.at + PREFIX_BYTES;
            if let (Some(_), Some(bytes)) =
                (slot.sequenced, self.bytes.get_mut(field..field + size_of::<u64>()))
            {
                bytes.copy_from_slice(&sequence.0.to_le_bytes());
            }
        }
        self.commits += 1;
        self.records += commit.records;
        self.events += commit.events.len() as u32;
    }

    /// Notes what is known of a commit that is put at these places of the sections.
    fn outline(&mut self, commit: &Encoded, at: (usize, usize)) {
        self.is_unread |= commit.is_unread;
        let (placed, number) = (&mut self.placed, self.commits);
        placed.extend(commit.events.iter().filter_map(|slot| Placed::new(slot, at, number)));
        let commit_number = CommitNumber(number.into());
        self.completed
            .extend(commit.completed.map(|done| Completed { commit: commit_number, ..done }));
    }

    /// Notes the identities of the events of the commit that was pushed last, in order.
    pub fn identify(&mut self, ids: impl DoubleEndedIterator<Item = IdHash>) {
        let events = self.placed.iter_mut().rev();
        events.zip(ids.rev()).for_each(|(placed, id)| placed.id = Some(id));
    }

    /// Makes the frame. `header` says all but counts and lengths; a seal is the one record pushed.
    #[must_use]
    pub fn build(&mut self, header: Header, salt: Salt) -> Frame {
        self.finish(header, salt).whole()
    }

    /// As [`Self::build`], for whoever writes it first.
    #[allow(clippy::cast_possible_truncation, reason = "groups are bounded by `FRAME_BYTES_MAX`")]
    #[must_use]
    pub fn finish(&mut self, mut header: Header, salt: Salt) -> Unwritten {
        header.commit_count = if header.flags & FLAG_SEAL == 0 { self.commits } else { 0 };
        header.record_count = self.records;
        header.event_count = self.events;
        header.metadata_bytes = self.metadata_bytes() as u32;
        header.payload_bytes = self.payload.len() as u32;
        let start = std::mem::take(&mut self.start);
        let mut buffer = std::mem::take(&mut self.bytes);
        // Copies what does not stand there already.
        buffer.unsplit(std::mem::take(&mut self.payload));
        let end = start + (buffer.len() - start).next_multiple_of(FRAME_ALIGN);
        // To the end of its block, where there is room for that.
        let block_end = end.next_multiple_of(BLOCK_BYTES);
        buffer.resize(if block_end <= buffer.capacity() { block_end } else { end }, 0);
        if let Some((head, body)) =
            buffer.get_mut(start..end).and_then(|frame| frame.split_at_mut_checked(HEADER_BYTES))
        {
            let (metadata, payload) =
                body.split_at_checked(header.metadata_bytes as usize).unwrap_or_default();
            head.copy_from_slice(&header.encode(salt, metadata, payload));
        }
        (self.commits, self.records, self.events) = (0, 0, 0);
        let (first_commit, first) = (header.first_commit, Position(header.first_position));
        let at = (CommitNumber(first_commit), first);
        let outline = Outline::placed(self.placed.drain(..), at, header.time_ms);
        let numbered = |done: Completed| {
            let commit = CommitNumber(first_commit.saturating_add(done.commit.0));
            Completed { commit, ..done }
        };
        let completed = self.completed.drain(..).map(numbered).collect();
        let is_known = !std::mem::take(&mut self.is_unread);
        let outline = if is_known { OnceLock::from(Ok(outline)) } else { OnceLock::new() };
        Unwritten { header, buffer, start, outline, completed: is_known.then_some(completed) }
    }
}
