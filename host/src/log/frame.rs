//! A frame: one commit group as it stands on the disk, kept in memory as those very bytes.
//!
//! Rule: a `Frame` has passed its checksums. What is kept of its records beside the bytes is an outline,
//! and the events that somebody wanted.

use std::io;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};

use super::codec::{
    Commits, Completed, DecodeError, Encoded, EventRef, FLAG_SEAL, FRAME_ALIGN, HEADER_BYTES,
    Header, Line, Outline, Placed, RawRecord, RecordRef, Salt, chain, kind,
};
use super::dedup::IdHash;
use super::disk::{BLOCK_BYTES, DiskFile};
use crate::event::{CommitNumber, Event, Heading, KeySequence, Position};
use crate::texts::Texts;

/// A smaller frame is copied to where it is written from: that place is in the cache of the processor,
/// and the same each time.
const WITHIN_BYTES_MIN: usize = 2 << 20;

/// One frame, its checksums verified. Cheap to share behind an `Arc`.
pub struct Frame {
    header: Header,
    bytes: Bytes,
    /// Bytes of memory that `bytes` stand in.
    memory: usize,
    outline: OnceLock<Result<Outline, DecodeError>>,
    /// Ends of deliveries of keyed events, where they are known unread.
    completed: Option<Box<[Completed]>>,
}

/// An event of a frame, as far as it is known without reading its body.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// What there is to say of it.
    pub heading: Heading<'a>,
    line: &'a Line,
    sections: (&'a [u8], &'a [u8]),
}

impl<'a> Entry<'a> {
    /// Its identity, where the writer knew it.
    #[must_use]
    pub const fn id(&self) -> Option<IdHash> {
        self.line.id()
    }

    /// Its record, the body unread.
    ///
    /// # Errors
    /// It is not where it should be.
    pub fn raw(&self) -> Result<RawRecord<'a>, DecodeError> {
        self.line.raw(self.sections)
    }

    /// All of it.
    ///
    /// # Errors
    /// The record is not what its kind says.
    pub fn read(&self) -> Result<EventRef<'a>, DecodeError> {
        self.line.read(self.sections)
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Frame").field(&self.header).finish()
    }
}

impl Frame {
    /// Takes the frame at the start of `bytes`, which may go on behind it.
    ///
    /// # Errors
    /// It is not a whole frame of this log and segment.
    pub fn open(bytes: &Bytes, salt: Salt) -> Result<Self, DecodeError> {
        let header = Header::decode(bytes, salt)?;
        header.sections(bytes, salt)?;
        let len = usize::try_from(header.frame_bytes()).unwrap_or(usize::MAX);
        let bytes = bytes.slice(..len.min(bytes.len()));
        let memory = bytes.len();
        Ok(Self { header, bytes, memory, outline: OnceLock::new(), completed: None })
    }

    /// The header.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// The bytes as they stand on the disk.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Bytes of memory it keeps, less what was made of its records.
    #[must_use]
    pub const fn memory(&self) -> usize {
        self.memory
    }

    /// Number of its first commit; in a seal, of the next one.
    #[must_use]
    pub const fn first_commit(&self) -> CommitNumber {
        CommitNumber(self.header.first_commit)
    }

    /// Number of its last commit.
    #[must_use]
    pub const fn last_commit(&self) -> CommitNumber {
        CommitNumber(self.header.next_commit().saturating_sub(1))
    }

    /// Position of its first event.
    #[must_use]
    pub fn first_position(&self) -> Option<Position> {
        (self.header.event_count > 0).then_some(Position(self.header.first_position))
    }

    /// Position of its last event.
    #[must_use]
    pub fn last_position(&self) -> Option<Position> {
        let last = self.header.next_position().saturating_sub(1);
        (self.header.event_count > 0).then_some(Position(last))
    }

    /// The last position of the log once it has this frame.
    #[must_use]
    pub const fn position_after(&self) -> Position {
        Position(self.header.next_position().saturating_sub(1))
    }

    /// Log time, milliseconds since the Unix epoch.
    #[must_use]
    pub const fn time_ms(&self) -> u64 {
        self.header.time_ms
    }

    /// What the next frame has as its `chain`.
    #[must_use]
    pub fn chain(&self) -> [u8; 32] {
        chain(&self.bytes, self.sections().0)
    }

    fn sections(&self) -> (&[u8], &[u8]) {
        let body = self.bytes.get(HEADER_BYTES..).unwrap_or_default();
        let (metadata, padded) =
            body.split_at_checked(self.header.metadata_bytes as usize).unwrap_or_default();
        (metadata, padded.get(..self.header.payload_bytes as usize).unwrap_or_default())
    }

    /// Its commits, decoded as they are walked; in a seal, one that holds the seal.
    #[must_use]
    pub fn commits(&self) -> Commits<'_> {
        let (metadata, payload) = self.sections();
        Commits::new(&self.header, metadata, payload)
    }

    fn outline(&self) -> Result<&Outline, DecodeError> {
        let outline = self
            .outline
            .get_or_init(|| Outline::of(self.header.event_count, self.commits(), self.sections()));
        outline.as_ref().map_err(Clone::clone)
    }

    /// What there is to say of each of its events, public and private, in order. Read once, for
    /// whoever asks.
    ///
    /// # Errors
    /// A record is not what its kind says.
    pub fn headings(&self) -> Result<impl DoubleEndedIterator<Item = Heading<'_>>, DecodeError> {
        Ok(self.entries()?.map(|entry| entry.heading))
    }

    /// Its events, public and private, in order, their bodies unread.
    ///
    /// # Errors
    /// A record is not what its kind says.
    pub fn entries(&self) -> Result<impl DoubleEndedIterator<Item = Entry<'_>>, DecodeError> {
        let sections = self.sections();
        let entry = move |line| Entry { heading: Line::heading(line, sections.0), line, sections };
        Ok(self.outline()?.lines().iter().map(entry))
    }

    /// The ends of deliveries of keyed events, in order; none: they are to be read.
    #[must_use]
    pub fn completed(&self) -> Option<&[Completed]> {
        self.completed.as_deref()
    }

    /// Those of its events whose headings are wanted, in order, made once for all who want them; their
    /// payloads are slices of this frame's bytes.
    ///
    /// # Errors
    /// A record is not what its kind says.
    pub fn select(
        &self,
        mut is_wanted: impl FnMut(&Heading<'_>) -> bool,
    ) -> Result<Vec<Arc<Event>>, DecodeError> {
        let sections = self.sections();
        let mut texts = Texts::default();
        let mut events = Vec::new();
        for line in self.outline()?.lines() {
            if is_wanted(&line.heading(sections.0)) {
                events.push(line.event(sections, |event| {
                    let data = self.bytes.slice_ref(event.data);
                    event.to_event_with(data, &mut texts)
                })?);
            }
        }
        Ok(events)
    }

    /// All its events: see [`Frame::select`].
    ///
    /// # Errors
    /// A record is not what its kind says.
    pub fn events(&self) -> Result<Vec<Arc<Event>>, DecodeError> {
        self.select(|_| true)
    }

    /// The event at a position; none: it is not in this frame. Its payload is a copy, so that it does
    /// not keep the frame in memory.
    ///
    /// # Errors
    /// A record is not what its kind says.
    pub fn event(&self, position: Position) -> Result<Option<Event>, DecodeError> {
        Ok(self.events_at(&[position])?.pop())
    }

    /// The events at ascending positions that are in this frame, each as [`Frame::event`] has it.
    ///
    /// # Errors
    /// A record is not what its kind says.
    pub fn events_at(&self, positions: &[Position]) -> Result<Vec<Event>, DecodeError> {
        let mut wanted = positions.iter().copied().peekable();
        let mut events = Vec::new();
        for commit in self.commits() {
            let commit = commit?;
            let behind = Position(commit.first_position.0.saturating_add(commit.events.into()));
            while wanted.next_if(|position| *position < commit.first_position).is_some() {}
            let mut records = commit.records();
            while wanted.peek().is_some_and(|position| *position < behind) {
                let Some(raw) = records.next_raw() else { break };
                let (raw, at) = raw?;
                if raw.kind == kind::EVENT
                    && wanted.next_if_eq(&at).is_some()
                    && let RecordRef::Event(event) = records.read(&raw, at)?
                {
                    events.push(event.to_event(Bytes::copy_from_slice(event.data))?);
                }
            }
        }
        Ok(events)
    }
}

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
#[derive(Debug, Default)]
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

    /// Writes it.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&mut self, file: &dyn DiskFile, offset: u64) -> io::Result<()> {
        let place = self.place();
        file.write_within(&mut self.buffer, place, offset)
    }

    /// The frame.
    #[must_use]
    pub fn written(self) -> Frame {
        let place = self.place();
        let memory = self.buffer.capacity();
        let buffer = self.buffer.freeze();
        let bytes = buffer.slice(place.start.min(buffer.len())..place.end.min(buffer.len()));
        Frame {
            header: self.header,
            bytes,
            memory,
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
            let field = at + slot.at + super::codec::PREFIX_BYTES;
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
        self.finish(header, salt).written()
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
