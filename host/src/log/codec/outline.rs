//! What stands where in a frame: enough to pass over the events that a reader does not want, and to
//! find the others.
//!
//! Rule: an outline owns no text of an event that nobody wanted. Readers share it, and what they want
//! they share too.

use std::sync::{Arc, OnceLock};

use super::decode::Records;
use super::event::EventRef;
use super::{AddresseeRef, Commits, DecodeError, RecordRef, kind};
use crate::event::{CommitNumber, Event, Heading, InstanceId, Position, To};
use crate::log::pack::{Fields, PackError, Reader};

/// The events of a frame, in order of their positions, which are dense.
#[derive(Debug)]
pub struct Outline(Box<[Line]>);

/// One event.
#[derive(Debug)]
pub struct Line {
    /// Where its record starts in the two sections.
    metadata: u32,
    payload: u32,
    /// Where the type stands in the metadata section.
    kind: (u32, u32),
    position: Position,
    commit: CommitNumber,
    time_ms: u64,
    emitter: Option<InstanceId>,
    to: To,
    is_forwarded: bool,
    /// The event, once somebody wanted it. It goes with its frame: many at once, and not one by one on
    /// threads that have better things to do.
    event: OnceLock<Arc<Event>>,
}

/// What of an event's body goes into its line.
#[derive(Default)]
struct Sketch<'a> {
    kind: &'a str,
    emitter: Option<InstanceId>,
    to: To,
    is_forwarded: bool,
}

impl Outline {
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
                let sketch = Sketch::read(raw.body)
                    .map_err(|source| DecodeError::Body { kind: kind::EVENT, source })?;
                lines.push(Line {
                    metadata: offset(metadata, metadata_left),
                    payload: offset(payload, payload_left),
                    kind: (offset(metadata, sketch.kind.as_bytes()), length(sketch.kind.len())),
                    position,
                    commit: commit.number,
                    time_ms: commit.time_ms,
                    emitter: sketch.emitter,
                    to: sketch.to,
                    is_forwarded: sketch.is_forwarded,
                    event: OnceLock::new(),
                });
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
    /// What it says, given the metadata section of its frame.
    #[must_use]
    pub fn heading<'a>(&self, metadata: &'a [u8]) -> Heading<'a> {
        let (start, len) = (self.kind.0 as usize, self.kind.1 as usize);
        let kind = metadata.get(start..start.saturating_add(len)).unwrap_or_default();
        Heading {
            position: self.position,
            recorded_ms: self.time_ms,
            // It was read as text when the outline was made.
            kind: std::str::from_utf8(kind).unwrap_or_default(),
            to: self.to,
            emitter: self.emitter,
            is_forwarded: self.is_forwarded,
        }
    }

    /// The event, made with `make` from its record where nobody wanted it before. Given the sections of
    /// its frame.
    ///
    /// # Errors
    /// The record is not what its kind says.
    pub fn event(
        &self,
        (metadata, payload): (&[u8], &[u8]),
        make: impl FnOnce(EventRef<'_>) -> Result<Event, DecodeError>,
    ) -> Result<Arc<Event>, DecodeError> {
        if let Some(event) = self.event.get() {
            return Ok(Arc::clone(event));
        }
        let made = Arc::new(make(self.read(metadata, payload)?)?);
        Ok(Arc::clone(self.event.get_or_init(|| made)))
    }

    fn read<'a>(&self, metadata: &'a [u8], payload: &'a [u8]) -> Result<EventRef<'a>, DecodeError> {
        let missing = DecodeError::Inconsistent { what: "an outline and its frame" };
        let metadata = metadata.get(self.metadata as usize..).unwrap_or_default();
        let payload = payload.get(self.payload as usize..).unwrap_or_default();
        let mut records = Records::at(metadata, payload, self.commit, self.time_ms, self.position);
        let (raw, position) = records.next_raw().ok_or_else(|| missing.clone())??;
        match records.read(&raw, position)? {
            RecordRef::Event(event) => Ok(event),
            _ => Err(missing),
        }
    }
}

impl<'a> Sketch<'a> {
    /// Reads of an event's body what a line needs and passes over the rest, unchecked: it is checked
    /// when the event is read.
    fn read(body: &'a [u8]) -> Result<Self, PackError> {
        let mut fields = Fields::open(Reader::new(body))?;
        fields.pass(2)?;
        let kind = fields.next(Reader::str)?.unwrap_or_default();
        fields.pass(4)?;
        let rare = fields.next(|reader| Ok(*reader))?;
        let sketch = Self { kind, ..Self::default() };
        match rare {
            Some(rare) => sketch.rare(rare),
            None => Ok(sketch),
        }
    }

    fn rare(self, array: Reader<'a>) -> Result<Self, PackError> {
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
