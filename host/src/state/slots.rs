//! Which deliveries are running, in a mapped file of fixed slots that is never synced.
//!
//! A worker notes its delivery here before it calls the guest. The page cache keeps the note when
//! the host dies, so that the next start knows which inputs were in progress: one of them may be
//! what killed it. After a power cut the notes may be gone; nothing depends on them.
//!
//! The file is mapped, as a note for each delivery is too often for a system call.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use memmap2::{MmapMut, MmapOptions};

use crate::event::{InstanceId, Position};

/// Bytes of one slot: instance (4), attempt (4), position (8), CRC32C of these (4), padding (12).
/// All integers little-endian.
const SLOT_BYTES: usize = 32;
/// Bytes from one slot to the next: what can be mapped for itself.
const STRIDE_BYTES: usize = 4096;

/// The slots of one bus.
#[derive(Debug)]
pub struct Slots {
    file: File,
    free: Mutex<Vec<u32>>,
    /// Those of the host before. They stay as they are until [`Slots::forget_past`].
    past: Mutex<Vec<u32>>,
}

/// A delivery that was in progress when the host ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suspect {
    /// The plugin.
    pub instance: InstanceId,
    /// Its input.
    pub position: Position,
    /// The attempt that was running.
    pub attempt: u32,
}

/// One slot, held by a worker as long as it lives.
#[derive(Debug)]
pub struct Slot<'a> {
    slots: &'a Slots,
    number: u32,
    map: MmapMut,
}

/// Slots of one bus, at most: more workers than that run without a note.
const SLOTS_MAX: u32 = 4096;

impl Slots {
    /// Opens or creates the file, and says what was in progress when it was last written to. It stays there
    /// until [`Slots::forget_past`]: a start that fails is not the last one. What was delivered while it was
    /// written, and is not in the log, whose `last` position that is, is forgotten: other events get its positions.
    ///
    /// # Errors
    /// The file cannot be opened, read or written.
    pub fn open(path: &Path, last: Position) -> io::Result<(Self, Vec<Suspect>)> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let bytes = std::fs::read(path)?;
        let notes = bytes.chunks(STRIDE_BYTES).map(|slot| slot.get(..SLOT_BYTES).and_then(decode));
        let (mut past, mut suspects) = (Vec::new(), Vec::new());
        for (number, note) in (0..SLOTS_MAX).zip(notes) {
            match note {
                Some(suspect) if suspect.position <= last => {
                    past.push(number);
                    suspects.push(suspect);
                }
                Some(_) => blank(&file, number)?,
                None => {}
            }
        }
        let free = (0..SLOTS_MAX).rev().filter(|number| !past.contains(number)).collect();
        Ok((Self { file, free: Mutex::new(free), past: Mutex::new(past) }, suspects))
    }

    /// Forgets what was in progress when the file was opened. Best effort: what is not forgotten is told again.
    pub fn forget_past(&self) {
        let past = std::mem::take(&mut *self.past.lock().unwrap_or_else(PoisonError::into_inner));
        for number in past {
            match blank(&self.file, number) {
                Ok(()) => self.free().push(number),
                Err(error) => tracing::debug!(%error, "a note of the host before stays"),
            }
        }
    }

    /// Takes a slot, if one is left and the system has room for it.
    pub fn take(&self) -> Option<Slot<'_>> {
        let number = self.free().pop()?;
        match self.map(number) {
            Ok(map) => Some(Slot { slots: self, number, map }),
            Err(error) => {
                tracing::debug!(%error, "a worker runs without a note");
                self.free().push(number);
                None
            }
        }
    }

    fn map(&self, number: u32) -> io::Result<MmapMut> {
        let offset = u64::from(number) * STRIDE_BYTES as u64;
        // Written, not only made longer: the space is there when a note is stored.
        self.file.write_all_at(&[0; STRIDE_BYTES], offset)?;
        let mut options = MmapOptions::new();
        options.offset(offset).len(STRIDE_BYTES);
        #[allow(
            unsafe_code,
            reason = "nobody else writes the file or makes it shorter: it is in the data folder, \
                      which this process has locked, and each slot is mapped for one holder alone"
        )]
        unsafe {
            options.map_mut(&self.file)
        }
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<u32>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot<'_> {
    /// Notes that a delivery is about to run.
    pub fn begin(&mut self, suspect: Suspect) {
        self.put(encode(suspect));
    }

    /// Notes that nothing runs here any more.
    pub fn clear(&mut self) {
        self.put([0; SLOT_BYTES]);
    }

    fn put(&mut self, bytes: [u8; SLOT_BYTES]) {
        if let Some(slot) = self.map.get_mut(..SLOT_BYTES) {
            slot.copy_from_slice(&bytes);
        }
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.clear();
        self.slots.free().push(self.number);
    }
}

fn blank(file: &File, number: u32) -> io::Result<()> {
    file.write_all_at(&[0; SLOT_BYTES], u64::from(number) * STRIDE_BYTES as u64)
}

fn encode(suspect: Suspect) -> [u8; SLOT_BYTES] {
    let mut bytes = [0; SLOT_BYTES];
    let (fields, rest) = bytes.split_at_mut(16);
    let (instance, tail) = fields.split_at_mut(4);
    let (attempt, position) = tail.split_at_mut(4);
    instance.copy_from_slice(&suspect.instance.0.to_le_bytes());
    attempt.copy_from_slice(&suspect.attempt.to_le_bytes());
    position.copy_from_slice(&suspect.position.0.to_le_bytes());
    let crc = crc32c::crc32c(fields);
    rest.split_at_mut(4).0.copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<Suspect> {
    let instance = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
    let attempt = u32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?);
    let position = u64::from_le_bytes(bytes.get(8..16)?.try_into().ok()?);
    let crc = u32::from_le_bytes(bytes.get(16..20)?.try_into().ok()?);
    let whole = position > 0 && crc == crc32c::crc32c(bytes.get(..16)?);
    whole.then_some(Suspect {
        instance: InstanceId(instance),
        position: Position(position),
        attempt,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> io::Result<(Slots, Vec<Suspect>)> {
        Slots::open(path, Position(100))
    }

    #[test]
    fn what_ran_at_the_end_is_found_and_what_ended_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("slots");
        let running = Suspect { instance: InstanceId(3), position: Position(70), attempt: 2 };
        let (slots, none) = open(&path).unwrap();
        assert!(none.is_empty());
        let mut held = slots.take().unwrap();
        held.begin(running);
        let mut ended = slots.take().unwrap();
        ended.begin(Suspect { position: Position(71), ..running });
        drop(ended);
        std::mem::forget(held);
        drop(slots);
        // A start that fails, and one that has all slots taken before it serves.
        assert_eq!(open(&path).unwrap().1, [running]);
        let (slots, found) = open(&path).unwrap();
        let all: Vec<_> = std::iter::from_fn(|| slots.take()).collect();
        assert_eq!((found, all.len()), (vec![running], 4095));
        drop(all);
        assert_eq!(open(&path).unwrap().1, [running]);
        slots.forget_past();
        let all: Vec<_> = std::iter::from_fn(|| slots.take()).collect();
        assert_eq!((all.len(), open(&path).unwrap().1), (4096, Vec::new()));
    }

    #[test]
    fn what_is_not_in_the_log_is_forgotten_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("slots");
        let running = Suspect { instance: InstanceId(3), position: Position(70), attempt: 1 };
        let (slots, _) = open(&path).unwrap();
        for position in [Position(71), Position(70)] {
            let mut held = slots.take().unwrap();
            held.begin(Suspect { position, ..running });
            std::mem::forget(held);
        }
        assert_eq!(Slots::open(&path, Position(70)).unwrap().1, [running]);
        assert_eq!(open(&path).unwrap().1, [running], "position 71 is another event by now");
    }

    #[test]
    fn a_torn_slot_is_nobody() {
        let suspect = Suspect { instance: InstanceId(3), position: Position(70), attempt: 2 };
        let bytes = encode(suspect);
        assert_eq!(decode(&bytes), Some(suspect));
        for at in 0..20 {
            let mut torn = bytes;
            torn[at] ^= 1;
            assert_eq!(decode(&torn), None, "byte {at}");
        }
    }
}
