//! Bytes of a frame to commits and records, without copying.

use super::control::map;
use super::encode::prefix_bytes;
use super::event::Place;
use super::{CallRef, CommitMeta, CompletionRef, DecodeError, EventRef, Seal, StateRef, TimerRef};
use super::{Header, PREFIX_BYTES, flag, kind, number};
use crate::event::{CommitNumber, KeyHash, KeySequence, Position};
use crate::log::record::{ControlRecord, DeadLetterRecord};

/// A record with its prefix read and its body not.
#[derive(Debug, Clone, Copy)]
pub struct RawRecord<'a> {
    /// See [`kind`].
    pub kind: u8,
    /// See [`flag`].
    pub flags: u8,
    /// Milliseconds after the frame's log time.
    pub delta_ms: u16,
    /// The key sequence; 0 where there is none.
    pub sequence: KeySequence,
    /// Hash of the key.
    pub key_hash: Option<KeyHash>,
    /// First 16 bytes of the BLAKE3 of the payload.
    pub digest: Option<[u8; 16]>,
    /// The MessagePack body.
    pub body: &'a [u8],
    /// The payload; empty where there is none.
    pub payload: &'a [u8],
}

/// One record of a commit.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "it lives on the stack of one loop, never in a list")]
pub enum RecordRef<'a> {
    /// What is rare about the commit.
    Commit(CommitMeta<'a>),
    /// An event.
    Event(EventRef<'a>),
    /// The end of a delivery; the effects that follow in the commit are its.
    Completion(CompletionRef<'a>),
    /// A state write.
    State(StateRef<'a>),
    /// A timer change.
    Timer(TimerRef<'a>),
    /// A call.
    Call(CallRef<'a>),
    /// Why the delivery was given up.
    DeadLetter(DeadLetterRecord),
    /// A control record.
    Control(ControlRecord),
    /// The end of a segment.
    Seal(Seal),
    /// A record that a newer version wrote and that may be passed over.
    Unknown {
        /// Its kind.
        kind: u8,
    },
}

/// The commits of a frame.
#[derive(Debug, Clone)]
pub struct Commits<'a> {
    metadata: &'a [u8],
    payload: &'a [u8],
    next_commit: u64,
    next_position: u64,
    end_commit: u64,
    end_position: u64,
    records_left: u32,
    time_ms: u64,
    seal: bool,
    failed: bool,
}

/// One commit of a frame.
#[derive(Debug, Clone, Copy)]
pub struct CommitRef<'a> {
    /// Its number.
    pub number: CommitNumber,
    /// Its log time, milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// Position of its first event, or the next one where it has none.
    pub first_position: Position,
    /// How many events it has.
    pub events: u32,
    metadata: &'a [u8],
    payload: &'a [u8],
}

/// The records of a commit.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    metadata: &'a [u8],
    payload: &'a [u8],
    commit: CommitNumber,
    time_ms: u64,
    position: Position,
    failed: bool,
}

/// Takes the next record off the sections.
pub(super) fn split<'a>(
    metadata: &mut &'a [u8],
    payload: &mut &'a [u8],
) -> Result<RawRecord<'a>, DecodeError> {
    let lengths = || DecodeError::Inconsistent { what: "lengths of records and sections" };
    let prefix: &[u8; PREFIX_BYTES] = metadata.first_chunk().ok_or_else(lengths)?;
    let [kind, flags, low, high, ..] = *prefix;
    let body_bytes = number(prefix, 4).map(u32::from_le_bytes).ok_or_else(lengths)?;
    let payload_bytes = number(prefix, 8).map(u32::from_le_bytes).ok_or_else(lengths)?;
    if flags & !flag::ALL != 0 || (flags & flag::PAYLOAD == 0) != (payload_bytes == 0) {
        return Err(DecodeError::Inconsistent { what: "flags of a record and its prefix" });
    }
    let (head, rest) = metadata.split_at_checked(prefix_bytes(flags)).ok_or_else(lengths)?;
    let (body, rest) = rest.split_at_checked(body_bytes as usize).ok_or_else(lengths)?;
    let (bytes, payload_rest) =
        payload.split_at_checked(payload_bytes as usize).ok_or_else(lengths)?;
    let keyed = flags & flag::KEYED != 0;
    let digest_at = if keyed { PREFIX_BYTES + super::PREFIX_KEY_BYTES } else { PREFIX_BYTES };
    *metadata = rest;
    *payload = payload_rest;
    Ok(RawRecord {
        kind,
        flags,
        delta_ms: u16::from_le_bytes([low, high]),
        sequence: KeySequence(
            number(head, PREFIX_BYTES).filter(|_| keyed).map_or(0, u64::from_le_bytes),
        ),
        key_hash: number(head, PREFIX_BYTES + 8)
            .filter(|_| keyed)
            .map(|bytes| KeyHash(u128::from_le_bytes(bytes))),
        digest: number(head, digest_at).filter(|_| flags & flag::PAYLOAD != 0),
        body,
        payload: bytes,
    })
}

impl<'a> Commits<'a> {
    /// The commits of the frame with this header and these sections.
    #[must_use]
    pub const fn new(header: &Header, metadata: &'a [u8], payload: &'a [u8]) -> Self {
        Self {
            metadata,
            payload,
            next_commit: header.first_commit,
            next_position: header.first_position,
            end_commit: header.next_commit(),
            end_position: header.next_position(),
            records_left: header.record_count,
            time_ms: header.time_ms,
            seal: header.is_seal(),
            failed: false,
        }
    }

    /// Takes one commit: its records are walked by their prefixes alone.
    fn take(&mut self) -> Result<CommitRef<'a>, DecodeError> {
        let (metadata, payload) = (self.metadata, self.payload);
        let (mut metadata_left, mut payload_left) = (metadata, payload);
        let mut events = 0;
        let mut delta_ms = None;
        loop {
            let record = split(&mut metadata_left, &mut payload_left)?;
            delta_ms.get_or_insert(record.delta_ms);
            events += u32::from(record.kind == kind::EVENT);
            self.records_left = self
                .records_left
                .checked_sub(1)
                .ok_or(DecodeError::Inconsistent { what: "record count and records" })?;
            if record.flags & flag::LAST != 0 || self.seal {
                break;
            }
        }
        let commit = CommitRef {
            number: CommitNumber(self.next_commit),
            time_ms: self.time_ms.saturating_add(delta_ms.unwrap_or_default().into()),
            first_position: Position(self.next_position),
            events,
            metadata: metadata.get(..metadata.len() - metadata_left.len()).unwrap_or_default(),
            payload: payload.get(..payload.len() - payload_left.len()).unwrap_or_default(),
        };
        self.metadata = metadata_left;
        self.payload = payload_left;
        self.next_commit = self.next_commit.saturating_add(u64::from(!self.seal));
        self.next_position = self.next_position.saturating_add(events.into());
        Ok(commit)
    }

    fn check_end(&self) -> Result<(), DecodeError> {
        let whole = self.payload.is_empty()
            && self.records_left == 0
            && self.next_commit == self.end_commit
            && self.next_position == self.end_position;
        if whole {
            Ok(())
        } else {
            Err(DecodeError::Inconsistent { what: "counts in the header and records" })
        }
    }
}

impl<'a> Iterator for Commits<'a> {
    type Item = Result<CommitRef<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = if self.metadata.is_empty() {
            self.check_end().err().map(Err)
        } else {
            Some(self.take())
        };
        self.failed = !matches!(next, Some(Ok(_)));
        next
    }
}

impl<'a> CommitRef<'a> {
    /// Its records, in order.
    #[must_use]
    pub const fn records(&self) -> Records<'a> {
        Records {
            metadata: self.metadata,
            payload: self.payload,
            commit: self.number,
            time_ms: self.time_ms,
            position: self.first_position,
            failed: false,
        }
    }
}

impl<'a> Records<'a> {
    /// What of the sections is not read yet.
    pub(super) const fn rest(&self) -> (&'a [u8], &'a [u8]) {
        (self.metadata, self.payload)
    }

    /// The next record with its body unread, and its position if it is an event.
    ///
    /// # Errors
    /// Lengths or flags contradict each other.
    pub fn next_raw(&mut self) -> Option<Result<(RawRecord<'a>, Position), DecodeError>> {
        if self.failed || self.metadata.is_empty() {
            return None;
        }
        let record = split(&mut self.metadata, &mut self.payload);
        self.failed = record.is_err();
        Some(record.map(|record| {
            let position = self.position;
            if record.kind == kind::EVENT {
                self.position = Position(position.0.saturating_add(1));
            }
            (record, position)
        }))
    }

    /// Reads the body of a record that [`Self::next_raw`] gave.
    ///
    /// # Errors
    /// The body is not what the kind says, or the kind must not be passed over.
    pub fn read(
        &self,
        raw: &RawRecord<'a>,
        position: Position,
    ) -> Result<RecordRef<'a>, DecodeError> {
        Ok(match raw.kind {
            kind::COMMIT => RecordRef::Commit(CommitMeta::decode(raw.body)?),
            kind::EVENT => {
                let place = Place {
                    position,
                    sequence: raw.sequence,
                    recorded_ms: self.time_ms,
                    commit: self.commit,
                    key_hash: raw.key_hash,
                    data: raw.payload,
                };
                RecordRef::Event(EventRef::decode(place, raw.body)?)
            }
            kind::COMPLETION => {
                RecordRef::Completion(CompletionRef::decode(raw.body, raw.key_hash, raw.payload)?)
            }
            kind::STATE => RecordRef::State(StateRef::decode(raw.body, raw.payload)?),
            kind::TIMER => RecordRef::Timer(TimerRef::decode(raw.body, raw.payload)?),
            kind::CALL => RecordRef::Call(CallRef::decode(raw.body, raw.payload)?),
            kind::DEAD_LETTER => RecordRef::DeadLetter(map(raw.kind, raw.body)?),
            kind::CONTROL => match map(raw.kind, raw.body) {
                Ok(record) => RecordRef::Control(record),
                Err(_) if raw.flags & flag::SKIPPABLE != 0 => RecordRef::Unknown { kind: raw.kind },
                Err(error) => return Err(error),
            },
            kind::SEAL => RecordRef::Seal(map(raw.kind, raw.body)?),
            kind if raw.flags & flag::SKIPPABLE != 0 => RecordRef::Unknown { kind },
            kind => return Err(DecodeError::Kind { kind }),
        })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<RecordRef<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.next_raw()?.and_then(|(raw, position)| self.read(&raw, position));
        self.failed |= next.is_err();
        Some(next)
    }
}
