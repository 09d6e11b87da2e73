//! The entries of the dedup table in the order of their positions, oldest first to go.

use std::collections::VecDeque;

use super::IdHash;
use crate::event::Position;

/// Entries of one piece of the ring: small enough to be given back soon, large enough to be cheap.
pub(super) const CHUNK_ENTRIES: usize = 4096;
/// [`CHUNK_ENTRIES`] as a serial number.
const CHUNK_SERIALS: u64 = 4096;
const _: () = assert!(CHUNK_ENTRIES as u64 == CHUNK_SERIALS);

/// 12 bytes: halves instead of a `u64`, which would align it to 16.
#[derive(Debug, Clone, Copy)]
struct Slot {
    hash_low: u32,
    hash_high: u32,
    /// Position above the chunk's base.
    above: u32,
}

#[derive(Debug)]
struct Chunk {
    base: Position,
    slots: Vec<Slot>,
}

/// Entries by serial number, which goes on from entry to entry, with gaps.
#[derive(Debug, Default)]
pub(super) struct Ring {
    chunks: VecDeque<Chunk>,
    /// Serial number of the first slot of the first chunk; a multiple of the chunk's size.
    origin: u64,
    /// Serial number of the oldest entry held.
    pub(super) head: u64,
    /// Serial number of the next entry.
    pub(super) next: u64,
}

impl Ring {
    /// Takes an entry; gives its serial number.
    pub(super) fn push(&mut self, hash: IdHash, position: Position) -> u64 {
        let above = self.chunks.back().and_then(|chunk| {
            let above = u32::try_from(position.0.checked_sub(chunk.base.0)?).ok()?;
            (chunk.slots.len() < CHUNK_ENTRIES).then_some(above)
        });
        if above.is_none() {
            // Positions too far apart for one chunk leave the rest of it unused.
            self.next = self.next.next_multiple_of(CHUNK_SERIALS);
            if self.chunks.is_empty() {
                self.origin = self.next;
                self.head = self.next;
            }
            let slots = Vec::with_capacity(if self.next == 0 { 64 } else { CHUNK_ENTRIES });
            self.chunks.push_back(Chunk { base: position, slots });
        }
        let slot = Slot {
            hash_low: low_bits(hash.0),
            hash_high: low_bits(hash.0 >> 32),
            above: above.unwrap_or(0),
        };
        if let Some(chunk) = self.chunks.back_mut() {
            chunk.slots.push(slot);
        }
        let serial = self.next;
        self.next += 1;
        serial
    }

    /// Bytes of memory it takes.
    pub(super) fn memory_bytes(&self) -> usize {
        let slots: usize = self.chunks.iter().map(|chunk| chunk.slots.capacity()).sum();
        slots * size_of::<Slot>() + self.chunks.capacity() * size_of::<Chunk>()
    }

    /// The entry with this serial number; none: it is gone, or never was.
    pub(super) fn get(&self, serial: u64) -> Option<(IdHash, Position)> {
        let offset = usize::try_from(serial.checked_sub(self.origin)?).ok()?;
        let chunk = self.chunks.get(offset / CHUNK_ENTRIES)?;
        let slot = chunk.slots.get(offset % CHUNK_ENTRIES)?;
        let hash = u64::from(slot.hash_low) | (u64::from(slot.hash_high) << 32);
        Some((IdHash(hash), Position(chunk.base.0 + u64::from(slot.above))))
    }

    /// The serial number held that has these low bits.
    pub(super) fn serial(&self, low: u32) -> u64 {
        self.origin + u64::from(low.wrapping_sub(low_bits(self.origin)))
    }

    /// Drops the oldest entry, or the gap before it.
    pub(super) fn drop_head(&mut self) {
        self.head += 1;
        while let Some(first) = self.chunks.front() {
            let is_whole = self.chunks.len() == 1 && first.slots.len() < CHUNK_ENTRIES;
            let end = if is_whole { self.next } else { self.origin + CHUNK_SERIALS };
            if self.head < end {
                return;
            }
            self.chunks.pop_front();
            self.origin += CHUNK_SERIALS;
        }
    }
}

/// The part of a serial number that the tables hold.
#[allow(clippy::cast_possible_truncation, reason = "taking the low half is the purpose")]
pub(super) const fn low_bits(value: u64) -> u32 {
    value as u32
}
