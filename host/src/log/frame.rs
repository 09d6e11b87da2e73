//! A frame: one commit group as it stands on the disk, kept in memory as those very bytes.
//!
//! Rule: a `Frame` has passed its checksums. What is kept of its records beside the bytes is an outline,
//! and the events that somebody wanted.

mod build;

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

pub use self::build::{FrameBuilder, Unwritten};
use super::codec::{
    CommitRef, Commits, Completed, DecodeError, EventRef, HEADER_BYTES, Header, Line, Outline,
    RawRecord, RecordRef, Salt, chain, kind,
};
use super::dedup::IdHash;
use crate::event::{CommitNumber, Event, Heading, Position};
use crate::texts::Texts;

/// Payloads are copied up to here: thousands of events may wait for a plugin, and each would keep the
/// frame that it was written with, or the window that it was read in. Larger ones count for so much
/// themselves that few of them wait.
const COPIED_BYTES_MAX: usize = 64 << 10;
/// They are not where the events that are wanted at once are at least one in so many of the bytes they
/// would keep: copies cost a tenth of what catching up does.
const KEPT_PER_WANTED: usize = 16;
/// What an event counts for beside its payload.
const EVENT_BYTES: usize = 256;
/// What one frame of many is read with: a window.
const WINDOW_BYTES: usize = 512 << 10;

/// One frame, its checksums verified. Cheap to share behind an `Arc`.
pub struct Frame {
    header: Header,
    bytes: Bytes,
    /// Bytes of memory that `bytes` stand in.
    memory: usize,
    /// It was read from the disk, among others: whoever holds on to a part of it keeps all that was read
    /// at once.
    is_read: bool,
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
        let outline = OnceLock::new();
        Ok(Self { header, bytes, memory, is_read: true, outline, completed: None })
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

    /// The commit with this number; none: it is in another frame.
    ///
    /// # Errors
    /// A record before it cannot be told from the next one.
    pub fn commit(&self, number: CommitNumber) -> Result<Option<CommitRef<'_>>, DecodeError> {
        self.commits()
            .find(|commit| commit.as_ref().map_or(true, |commit| commit.number == number))
            .transpose()
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
        let lines = self.outline()?.lines();
        // Whoever reads a frame mostly wants a good part of what is in it.
        let mut wanted = Vec::with_capacity(lines.len());
        wanted.extend(lines.iter().filter(|line| is_wanted(&line.heading(sections.0))));
        let bytes = |line: &&Line| EVENT_BYTES + line.payload_bytes(sections.0);
        let shares = self.is_shared_by(wanted.iter().map(bytes).sum());
        let mut events = Vec::with_capacity(wanted.len());
        for line in wanted {
            events.push(line.event(sections, |event| {
                let copied = !shares && event.data.len() <= COPIED_BYTES_MAX;
                let data = match copied {
                    true => Bytes::copy_from_slice(event.data),
                    false => self.bytes.slice_ref(event.data),
                };
                event.to_event_with(data, &mut texts)
            })?);
        }
        Ok(events)
    }

    /// Whether events of so many bytes may keep what the frame stands in: it is theirs in good part.
    fn is_shared_by(&self, bytes: usize) -> bool {
        let kept = if self.is_read { self.memory.max(WINDOW_BYTES) } else { self.memory };
        bytes.saturating_mul(KEPT_PER_WANTED) >= kept
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
