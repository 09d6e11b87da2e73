//! What a scan reads at a time: windows of a file, in memory that is used again.
//!
//! A reader that lags reads each byte once, and past the page cache: finding, clearing and filling a
//! page for each 4 KiB, to copy out of it once, costs more than the reading.
//!
//! Rule: a buffer goes back to where it came from when nothing points into it any more. Until then
//! nobody writes to it.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::limits::READ_BUFFERS_BYTES_MAX;
use crate::log::disk::{BLOCK_BYTES, DiskFile, read_into};

const BLOCK: u64 = BLOCK_BYTES as u64;

/// Buffers that nobody reads in any more, the newest last; clones share them.
#[derive(Debug, Clone, Default)]
pub(in crate::log) struct ReadBuffers(Arc<Mutex<Vec<Vec<u8>>>>);

/// A buffer that goes back when it is dropped. What is in it is left over until it is read into.
struct ReadBuffer {
    memory: Vec<u8>,
    /// Where in it an address is a multiple of [`BLOCK_BYTES`].
    start: usize,
    len: usize,
    home: ReadBuffers,
}

impl ReadBuffers {
    fn kept(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A buffer of `len` bytes: the newest one that has them, and few more.
    fn take(&self, len: usize) -> ReadBuffer {
        let needed = len + BLOCK_BYTES;
        let fits = |memory: &Vec<u8>| (needed..=needed + needed / 8).contains(&memory.len());
        let mut kept = self.kept();
        let found = kept.iter().rposition(fits).map(|index| kept.remove(index));
        drop(kept);
        let memory = found.unwrap_or_else(|| vec![0; needed]);
        let start = memory.as_ptr().align_offset(BLOCK_BYTES).min(BLOCK_BYTES);
        ReadBuffer { memory, start, len, home: self.clone() }
    }

    /// Keeps a buffer, and the oldest ones no longer where they are too many.
    fn give_back(&self, memory: Vec<u8>) {
        if memory.len() > READ_BUFFERS_BYTES_MAX {
            return;
        }
        let mut kept = self.kept();
        kept.push(memory);
        let mut bytes = 0;
        let fit = kept.iter().rev().take_while(|memory| {
            bytes += memory.len();
            bytes <= READ_BUFFERS_BYTES_MAX
        });
        let too_many = kept.len() - fit.count();
        let oldest: Vec<_> = kept.drain(..too_many).collect();
        // Not under the lock: the system takes the memory back.
        drop(kept);
        drop(oldest);
    }
}

impl ReadBuffer {
    fn bytes_mut(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.start..self.start + self.len).unwrap_or_default()
    }
}

impl AsRef<[u8]> for ReadBuffer {
    fn as_ref(&self) -> &[u8] {
        self.memory.get(self.start..self.start + self.len).unwrap_or_default()
    }
}

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        self.home.give_back(std::mem::take(&mut self.memory));
    }
}

/// A file, and the window of it that is at hand. Windows start at multiples of [`BLOCK_BYTES`].
#[derive(Debug)]
pub(super) struct Windows {
    file: Arc<dyn DiskFile>,
    /// The file past the page cache, while it can be read so.
    direct: Option<Arc<dyn DiskFile>>,
    buffers: ReadBuffers,
    /// Bytes read at once, at least.
    bytes_min: usize,
    held: Bytes,
    held_at: u64,
}

impl Windows {
    pub(super) fn new(file: Arc<dyn DiskFile>, bytes_min: usize) -> Self {
        let (buffers, held) = (ReadBuffers::default(), Bytes::new());
        Self { file, direct: None, buffers, bytes_min, held, held_at: 0 }
    }

    /// Reads so many bytes at once from the next window on.
    pub(super) const fn set_bytes_min(&mut self, bytes_min: usize) {
        self.bytes_min = bytes_min;
    }

    /// Reads past the page cache from the next window on, into buffers shared with others.
    pub(super) fn go_direct(&mut self, direct: Option<Arc<dyn DiskFile>>, buffers: ReadBuffers) {
        (self.direct, self.buffers) = (direct, buffers);
    }

    /// Goes on in another file.
    pub(super) fn set_file(&mut self, file: Arc<dyn DiskFile>) {
        (self.file, self.direct) = (file, None);
        self.forget();
    }

    /// Forgets what was read ahead.
    pub(super) fn forget(&mut self) {
        self.held = Bytes::new();
    }

    /// At least `len` bytes from `offset` on, or what there is.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn get(&mut self, offset: u64, len: usize) -> io::Result<Bytes> {
        if self.held_from(offset).len() < len {
            self.read(offset, len)?;
        }
        Ok(self.held_from(offset))
    }

    fn held_from(&self, offset: u64) -> Bytes {
        let skip = offset.checked_sub(self.held_at).and_then(|skip| usize::try_from(skip).ok());
        skip.filter(|skip| *skip <= self.held.len())
            .map_or_else(Bytes::new, |skip| self.held.slice(skip..))
    }

    /// Reads the window that `offset` is in, less the blocks of it that the last one had.
    fn read(&mut self, offset: u64, len: usize) -> io::Result<()> {
        let before = offset % BLOCK;
        let at = offset - before;
        let known = self.held_from(at);
        // Only the last block of a file is not whole.
        let known = known.get(..known.len() - known.len() % BLOCK_BYTES).unwrap_or_default();
        let needed = usize::try_from(before).unwrap_or(0).saturating_add(len);
        let bytes = needed.max(self.bytes_min).next_multiple_of(BLOCK_BYTES);
        let mut buffer = self.buffers.take(bytes);
        let (head, rest) = buffer.bytes_mut().split_at_mut(known.len().min(bytes));
        head.copy_from_slice(known);
        let read = head.len() + self.read_blocks(rest, at + head.len() as u64)?;
        self.held = Bytes::from_owner(buffer).slice(..read);
        self.held_at = at;
        Ok(())
    }

    /// Reads whole blocks to an aligned address, as far as the file has them.
    ///
    /// The writer may be writing the block that the newest durable frame ends in at this moment, past
    /// the page cache too. What is durable is whole all the same: in each such write it is the same
    /// bytes at the same place, so it does not matter which of them is seen. Whatever stands behind
    /// it may be torn, and is read anew once it is durable.
    fn read_blocks(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let read = match &self.direct {
            Some(direct) => match direct.read_at(buffer, offset) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                // Some file systems take the flag and refuse the read. What is wrong with the disk, the
                // other way finds too.
                Err(_) => {
                    self.direct = None;
                    0
                }
            },
            None => 0,
        };
        // Where the file ends, or what is left: it is not at a multiple of a block.
        let rest = buffer.get_mut(read..).unwrap_or_default();
        Ok(read + read_into(&*self.file, rest, offset + read as u64)?)
    }
}

#[cfg(test)]
mod tests;
