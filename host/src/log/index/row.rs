//! The fixed-width rows of an index file: what one entry of each section looks like in bytes.
//!
//! All numbers are little-endian. Positions, commits and times stand relative to the segment's
//! first, which keeps them at 32 bits.

use super::{IndexedAddressee, SegmentBase};
use crate::event::{CommitNumber, InstanceId, KeySequence, Position};

/// A row of a section.
pub(super) trait Row: Sized {
    /// Bytes of one.
    const BYTES: usize;
    fn write(&self, out: &mut Vec<u8>);
    /// Reads a row from exactly [`Row::BYTES`] bytes.
    fn read(bytes: &[u8]) -> Self;
}

/// An event of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EventRow {
    pub(super) position: u32,
    pub(super) kind: u32,
    pub(super) sequence: u64,
    pub(super) addressee: u32,
    pub(super) emitter: u32,
}

/// A completion of a plugin and key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CompletionRow {
    pub(super) commit: u32,
    pub(super) generation: u32,
    /// Absolute: the input may stand in an earlier segment.
    pub(super) position: u64,
}

/// Where the entries of one hash begin; they end where those of the next group do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GroupRow {
    pub(super) hash: u128,
    pub(super) first: u32,
    /// Position of the last event with a key sequence.
    pub(super) head_position: u32,
    /// Its key sequence; 0: there is none.
    pub(super) head_sequence: u64,
}

/// One type, in the order of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TypeRow {
    pub(super) name_offset: u32,
    pub(super) name_bytes: u32,
    pub(super) first: u32,
    pub(super) count: u32,
    pub(super) private_count: u32,
    pub(super) first_position: u32,
    pub(super) last_position: u32,
    pub(super) last_ms: u64,
}

/// One identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IdRow {
    pub(super) hash: u64,
    pub(super) position: u32,
    /// Seconds since the segment's first log time, rounded up: nothing expires early.
    pub(super) seconds: u32,
}

/// One frame to start reading at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MarkRow {
    pub(super) offset: u64,
    pub(super) time_ms: u64,
    pub(super) commit: u32,
    pub(super) position: u32,
}

impl Row for EventRow {
    const BYTES: usize = 24;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.position.to_le_bytes());
        out.extend_from_slice(&self.kind.to_le_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&self.addressee.to_le_bytes());
        out.extend_from_slice(&self.emitter.to_le_bytes());
    }

    fn read(bytes: &[u8]) -> Self {
        Self {
            position: u32_at(bytes, 0),
            kind: u32_at(bytes, 4),
            sequence: u64_at(bytes, 8),
            addressee: u32_at(bytes, 16),
            emitter: u32_at(bytes, 20),
        }
    }
}

impl Row for CompletionRow {
    const BYTES: usize = 16;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.commit.to_le_bytes());
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.extend_from_slice(&self.position.to_le_bytes());
    }

    fn read(bytes: &[u8]) -> Self {
        Self { commit: u32_at(bytes, 0), generation: u32_at(bytes, 4), position: u64_at(bytes, 8) }
    }
}

impl Row for GroupRow {
    const BYTES: usize = 32;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.hash.to_le_bytes());
        out.extend_from_slice(&self.first.to_le_bytes());
        out.extend_from_slice(&self.head_position.to_le_bytes());
        out.extend_from_slice(&self.head_sequence.to_le_bytes());
    }

    fn read(bytes: &[u8]) -> Self {
        let (low, high) = (u64_at(bytes, 0), u64_at(bytes, 8));
        Self {
            hash: u128::from(low) | (u128::from(high) << 64),
            first: u32_at(bytes, 16),
            head_position: u32_at(bytes, 20),
            head_sequence: u64_at(bytes, 24),
        }
    }
}

impl Row for TypeRow {
    const BYTES: usize = 36;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.name_offset.to_le_bytes());
        out.extend_from_slice(&self.name_bytes.to_le_bytes());
        out.extend_from_slice(&self.first.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&self.private_count.to_le_bytes());
        out.extend_from_slice(&self.first_position.to_le_bytes());
        out.extend_from_slice(&self.last_position.to_le_bytes());
        out.extend_from_slice(&self.last_ms.to_le_bytes());
    }

    fn read(bytes: &[u8]) -> Self {
        Self {
            name_offset: u32_at(bytes, 0),
            name_bytes: u32_at(bytes, 4),
            first: u32_at(bytes, 8),
            count: u32_at(bytes, 12),
            private_count: u32_at(bytes, 16),
            first_position: u32_at(bytes, 20),
            last_position: u32_at(bytes, 24),
            last_ms: u64_at(bytes, 28),
        }
    }
}

impl Row for IdRow {
    const BYTES: usize = 16;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.hash.to_le_bytes());
        out.extend_from_slice(&self.position.to_le_bytes());
        out.extend_from_slice(&self.seconds.to_le_bytes());
    }

    fn read(bytes: &[u8]) -> Self {
        Self { hash: u64_at(bytes, 0), position: u32_at(bytes, 8), seconds: u32_at(bytes, 12) }
    }
}

impl Row for MarkRow {
    const BYTES: usize = 24;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.time_ms.to_le_bytes());
        out.extend_from_slice(&self.commit.to_le_bytes());
        out.extend_from_slice(&self.position.to_le_bytes());
    }

    fn read(bytes: &[u8]) -> Self {
        Self {
            offset: u64_at(bytes, 0),
            time_ms: u64_at(bytes, 8),
            commit: u32_at(bytes, 16),
            position: u32_at(bytes, 20),
        }
    }
}

/// A row of one 32-bit number: group starts by hash prefix, positions by type.
impl Row for u32 {
    const BYTES: usize = 4;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_le_bytes());
    }

    fn read(bytes: &[u8]) -> Self {
        u32_at(bytes, 0)
    }
}

const ADDRESSEE_PUBLIC: u32 = 0;
const ADDRESSEE_BUS: u32 = u32::MAX;

pub(super) fn addressee_code(addressee: IndexedAddressee) -> Option<u32> {
    match addressee {
        IndexedAddressee::Public => Some(ADDRESSEE_PUBLIC),
        IndexedAddressee::Plugin(instance) => {
            instance.0.checked_add(1).filter(|code| *code != ADDRESSEE_BUS)
        }
        IndexedAddressee::Bus => Some(ADDRESSEE_BUS),
    }
}

pub(super) fn addressee_of(code: u32) -> IndexedAddressee {
    match code {
        ADDRESSEE_PUBLIC => IndexedAddressee::Public,
        ADDRESSEE_BUS => IndexedAddressee::Bus,
        instance => IndexedAddressee::Plugin(InstanceId(instance - 1)),
    }
}

pub(super) fn emitter_code(emitter: Option<InstanceId>) -> Option<u32> {
    emitter.map_or(Some(0), |instance| instance.0.checked_add(1))
}

pub(super) fn emitter_of(code: u32) -> Option<InstanceId> {
    code.checked_sub(1).map(InstanceId)
}

impl SegmentBase {
    pub(super) fn position(&self, above: u32) -> Position {
        Position(self.first_position.0.saturating_add(u64::from(above)))
    }

    pub(super) fn commit(&self, above: u32) -> CommitNumber {
        CommitNumber(self.first_commit.0.saturating_add(u64::from(above)))
    }

    pub(super) fn position_above(&self, position: Position) -> Option<u32> {
        u32::try_from(position.0.checked_sub(self.first_position.0)?).ok()
    }

    pub(super) fn commit_above(&self, commit: CommitNumber) -> Option<u32> {
        u32::try_from(commit.0.checked_sub(self.first_commit.0)?).ok()
    }

    pub(super) fn seconds_above(&self, time_ms: u64) -> u32 {
        let seconds = time_ms.saturating_sub(self.first_ms).div_ceil(1000);
        u32::try_from(seconds).unwrap_or(u32::MAX)
    }

    pub(super) fn time_ms(&self, seconds: u32) -> u64 {
        self.first_ms.saturating_add(u64::from(seconds) * 1000)
    }
}

impl EventRow {
    pub(super) const fn key_sequence(&self) -> KeySequence {
        KeySequence(self.sequence)
    }
}

// Callers hand over rows of a fixed width, so these never run past the end.

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    let found = bytes.get(at..).and_then(<[u8]>::first_chunk);
    found.map_or(0, |chunk| u16::from_le_bytes(*chunk))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let found = bytes.get(at..).and_then(<[u8]>::first_chunk);
    found.map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let found = bytes.get(at..).and_then(<[u8]>::first_chunk);
    found.map_or(0, |chunk| u64::from_le_bytes(*chunk))
}
