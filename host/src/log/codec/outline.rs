//! What stands where in a frame: enough to pass over the events that a reader does not want, to find the
//! others, and to index all of them.
//!
//! Of a frame that was just written it is made of what the encoders noted, without reading a byte; of
//! any other by reading it once. Both come to the same.
//!
//! Rule: an outline owns no text of an event that nobody wanted. Readers share it, and what they want
//! they share too.

use std::sync::{Arc, OnceLock};

use super::decode::split;
use super::event::{EventRef, Place};
use super::{AddresseeRef, Commits, DecodeError, EventSlot, RawRecord, kind};
use crate::event::{
    CommitNumber, Event, Generation, Heading, InstanceId, KeyHash, NewEvent, Position, To,
};
use crate::log::dedup::IdHash;
use crate::log::pack::{Fields, PackError, Reader};

/// Where in the prefix of a record the length of its payload stands.
const PAYLOAD_BYTES_AT: usize = 8;

/// The events of a frame, in order of their positions, which are dense.
#[derive(Debug)]
pub struct Outline(Box<[Line]>);

/// One event.
#[derive(Debug)]
pub struct Line {
    /// Where its record starts in the two sections.
    metadata: u32,
    payload: u32,
    sketch: Sketch,
    position: Position,
    commit: CommitNumber,
    time_ms: u64,
    /// Its identity, where the writer knew it.
    id: Option<IdHash>,
    /// The event, once somebody wanted it. It goes with its frame: many at once, and not one by one on
    /// threads that have better things to do.
    event: OnceLock<Arc<Event>>,
}

/// What of an event's body goes into its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sketch {
    /// Where the type stands in the metadata.
    kind: (u32, u32),
    emitter: Option<InstanceId>,
    to: To,
    is_forwarded: bool,
}

/// The end of a delivery of a keyed event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completed {
    /// The plugin.
    pub instance: InstanceId,
    /// Its generation.
    pub generation: Generation,
    /// The event that was delivered.
    pub position: Position,
    /// Hash of its key.
    pub key: KeyHash,
    /// The commit that says so.
    pub commit: CommitNumber,
}

/// An event that was put into a frame and is to get its line: where what starts in the frame's sections,
/// and of which of its commits, from 0, it is.
#[derive(Debug, Clone, Copy)]
pub struct Placed {
    metadata: u32,
    payload: u32,
    sketch: Sketch,
    commit: u32,
    /// Its identity, where that is known.
    pub id: Option<IdHash>,
}

impl Placed {
    /// An event of a commit that starts at these places of the sections; none: it was not read.
    #[must_use]
    pub fn new(slot: &EventSlot, (metadata, payload): (usize, usize), commit: u32) -> Option<Self> {
        let mut sketch = slot.sketch?;
        sketch.kind.0 = sketch.kind.0.saturating_add(length(metadata));
        let (metadata, payload) = (length(metadata + slot.at), length(payload + slot.payload_at));
        Some(Self { metadata, payload, sketch, commit, id: None })
    }
}

impl Outline {
    /// Of a frame that begins with this commit and position and has this log time.
    #[must_use]
    pub fn placed(
        placed: impl Iterator<Item = Placed>,
        (commit, position): (CommitNumber, Position),
        time_ms: u64,
    ) -> Self {
        let line = |(placed, position): (Placed, u64)| {
            let commit = CommitNumber(commit.0.saturating_add(placed.commit.into()));
            let at = (placed.metadata, placed.payload);
            Line {
                id: placed.id,
                ..Line::new(at, placed.sketch, (Position(position), commit), time_ms)
            }
        };
        Self(placed.zip(position.0..).map(line).collect())
    }

    /// Walks the commits of a frame whose sections begin where these slices do.
    pub(in crate::log) fn of(
        events: u32,
        commits: Commits<'_>,
        (metadata, payload): (&[u8], &[u8]),
    ) -> Result<Self, DecodeError> {
        // Bounded: a header promises no more records than its metadata section has room for.
        let mut lines = Vec::with_capacity(events as usize);
        for commit in commits {
            let commit = commit?;
            let mut records = commit.records();
            loop {
                let (metadata_left, payload_left) = records.rest();
                let Some(raw) = records.next_raw() else { break };
                let (raw, position) = raw?;
                if raw.kind != kind::EVENT {
                    continue;
                }
                let sketch = Sketch::read(raw.body, metadata)
                    .map_err(|source| DecodeError::Body { kind: kind::EVENT, source })?;
                let at = (offset(metadata, metadata_left), offset(payload, payload_left));
                lines.push(Line::new(at, sketch, (position, commit.number), commit.time_ms));
            }
        }
        Ok(Self(lines.into()))
    }

    /// The lines, one for each event.
    #[must_use]
    pub const fn lines(&self) -> &[Line] {
        &self.0
    }
}

impl Line {
    fn new(
        (metadata, payload): (u32, u32),
        sketch: Sketch,
        (position, commit): (Position, CommitNumber),
        time_ms: u64,
    ) -> Self {
        let (id, event) = (None, OnceLock::new());
        Self { metadata, payload, sketch, position, commit, time_ms, id, event }
    }

    /// What it says, given the metadata section of its frame.
    #[must_use]
    pub fn heading<'a>(&self, metadata: &'a [u8]) -> Heading<'a> {
        let Sketch { kind: (start, len), emitter, to, is_forwarded } = self.sketch;
        let (start, len) = (start as usize, len as usize);
        let kind = metadata.get(start..start.saturating_add(len)).unwrap_or_default();
        Heading {
            position: self.position,
            recorded_ms: self.time_ms,
            // It was read as text when the outline was made.
            kind: std::str::from_utf8(kind).unwrap_or_default(),
            to,
            emitter,
            is_forwarded,
        }
    }

    /// The event, made with `make` from its record where nobody wanted it before. Given the sections of
    /// its frame.
    ///
    /// # Errors
    /// The record is not what its kind says.
    pub fn event(
        &self,
        sections: (&[u8], &[u8]),
        make: impl FnOnce(EventRef<'_>) -> Result<Event, DecodeError>,
    ) -> Result<Arc<Event>, DecodeError> {
        if let Some(event) = self.event.get() {
            return Ok(Arc::clone(event));
        }
        let made = Arc::new(make(self.read(sections)?)?);
        Ok(Arc::clone(self.event.get_or_init(|| made)))
    }

    /// Bytes of its payload, given the metadata section of its frame.
    #[must_use]
    pub fn payload_bytes(&self, metadata: &[u8]) -> usize {
        let at = (self.metadata as usize).saturating_add(PAYLOAD_BYTES_AT);
        let bytes = metadata.get(at..).and_then(|rest| rest.first_chunk());
        bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes) as usize)
    }

    /// Its identity, where the writer knew it.
    #[must_use]
    pub const fn id(&self) -> Option<IdHash> {
        self.id
    }

    /// The record, its body unread, given the sections of its frame.
    ///
    /// # Errors
    /// It is not in them.
    pub fn raw<'a>(
        &self,
        (metadata, payload): (&'a [u8], &'a [u8]),
    ) -> Result<RawRecord<'a>, DecodeError> {
        let mut metadata = metadata.get(self.metadata as usize..).unwrap_or_default();
        let mut payload = payload.get(self.payload as usize..).unwrap_or_default();
        let raw = split(&mut metadata, &mut payload)?;
        if raw.kind == kind::EVENT { Ok(raw) } else { Err(OUTLINE_OF_ANOTHER) }
    }

    /// The event, given the sections of its frame.
    ///
    /// # Errors
    /// The record is not what its kind says.
    pub fn read<'a>(&self, sections: (&'a [u8], &'a [u8])) -> Result<EventRef<'a>, DecodeError> {
        let raw = self.raw(sections)?;
        let place = Place {
            position: self.position,
            sequence: raw.sequence,
            recorded_ms: self.time_ms,
            commit: self.commit,
            key_hash: raw.key_hash,
            data: raw.payload,
        };
        EventRef::decode(place, raw.body)
    }
}

/// An outline that is of another frame.
pub const OUTLINE_OF_ANOTHER: DecodeError =
    DecodeError::Inconsistent { what: "an outline and its frame" };

impl Sketch {
    /// Of an event whose type was put at this place of the metadata.
    pub(super) fn of(event: &NewEvent, kind_at: usize) -> Self {
        Self {
            kind: (length(kind_at), length(event.kind.len())),
            emitter: event.emitter,
            to: To::of(event.addressee.as_ref()),
            is_forwarded: event.origin.is_some(),
        }
    }

    /// Reads of an event's body, a part of the metadata section, what a line needs and passes over the
    /// rest, unchecked: it is checked when the event is read.
    fn read(body: &[u8], metadata: &[u8]) -> Result<Self, PackError> {
        let mut fields = Fields::open(Reader::new(body))?;
        fields.pass(2)?;
        let kind = fields.next(Reader::str)?;
        let kind =
            kind.map_or((0, 0), |kind| (offset(metadata, kind.as_bytes()), length(kind.len())));
        fields.pass(4)?;
        let rare = fields.next(|reader| Ok(*reader))?;
        let sketch = Self { kind, emitter: None, to: To::Everybody, is_forwarded: false };
        match rare {
            Some(rare) => sketch.rare(rare),
            None => Ok(sketch),
        }
    }

    fn rare(self, array: Reader<'_>) -> Result<Self, PackError> {
        let mut fields = Fields::open(array)?;
        fields.pass(2)?;
        let emitter = fields.next(Reader::uint_as)?.map(InstanceId);
        fields.pass(2)?;
        let to = match fields.next(AddresseeRef::read)? {
            None => To::Everybody,
            Some(AddresseeRef::Plugin(instance)) => To::Plugin(instance),
            Some(AddresseeRef::Bus(_)) => To::Bus,
        };
        fields.pass(2)?;
        let is_forwarded = fields.next(Reader::skip)?.is_some();
        Ok(Self { emitter, to, is_forwarded, ..self })
    }
}

/// Where a part of a section starts. Sections are bounded by the largest frame.
fn offset(section: &[u8], part: &[u8]) -> u32 {
    length(part.as_ptr().addr().saturating_sub(section.as_ptr().addr()))
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
