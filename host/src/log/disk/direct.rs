//! A file that is written from front to back, past the page cache.
//!
//! What is written to a log is read again from memory, or much later. So it needs no place in the
//! page cache, and a write need not find, clear and fill a page for each 4 KiB before the disk gets
//! to see it: that is the larger part of what appending costs. The system asks for whole blocks at
//! aligned addresses; the block that a write ends in is kept here, and written again with the next.
//!
//! Rule: bytes before the offset of a write stay what they were. The block that holds the end of
//! the last write is written again with the same bytes, as a page cache would do it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::OFlags;

use super::{BLOCK_BYTES, DiskFile};

const BLOCK: u64 = BLOCK_BYTES as u64;
/// Larger buffers are given back after use.
const KEPT_BYTES_MAX: usize = 8 << 20;

/// The file, open twice: once past the page cache, where the file system can do that.
#[derive(Debug)]
pub(super) struct DirectFile {
    file: File,
    direct: Option<File>,
    /// The file system has refused such a write after all.
    refused: AtomicBool,
    end: Mutex<End>,
}

/// The last block written, as far as it was filled.
#[derive(Debug, Default)]
struct End {
    /// Starts, where `aligned` says, with the bytes of that block.
    buffer: Vec<u8>,
    /// Where the block starts in the file.
    block: u64,
    filled: usize,
}

impl DirectFile {
    /// Takes the file at `path`.
    pub(super) fn new(file: File, path: &Path) -> Self {
        let flags = i32::try_from(OFlags::DIRECT.bits()).unwrap_or(0);
        let direct = OpenOptions::new().write(true).custom_flags(flags).open(path).ok();
        Self { file, direct, refused: AtomicBool::new(false), end: Mutex::default() }
    }

    fn write_blocks(&self, direct: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        if is_aligned(bytes, offset) {
            return direct.write_all_at(bytes, offset);
        }
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        let block = offset - offset % BLOCK;
        let before = usize::try_from(offset - block).unwrap_or(0);
        let known = end.block == block && end.filled == before;
        let len = (before + bytes.len()).next_multiple_of(BLOCK_BYTES);
        let buffer = end.room(len, before);
        let (head, rest) = buffer.split_at_mut_checked(before).ok_or_else(too_long)?;
        if !known {
            self.file.read_exact_at(head, block)?;
        }
        let (body, zeros) = rest.split_at_mut_checked(bytes.len()).ok_or_else(too_long)?;
        body.copy_from_slice(bytes);
        zeros.fill(0);
        // What is kept is not right while the write is under way.
        let written = direct.write_all_at(buffer, block);
        end.keep(block, before + bytes.len());
        if written.is_err() {
            *end = End::default();
        }
        written
    }
}

impl End {
    /// So many bytes at an aligned address; the first `kept` are what they were.
    fn room(&mut self, len: usize, kept: usize) -> &mut [u8] {
        let needed = len + BLOCK_BYTES;
        if self.buffer.len() < needed {
            let mut larger = vec![0; needed.next_power_of_two()];
            let old = start(&self.buffer);
            let new = start(&larger);
            let (from, to) = (self.buffer.get(old..old + kept), larger.get_mut(new..new + kept));
            if let (Some(from), Some(to)) = (from, to) {
                to.copy_from_slice(from);
            }
            self.buffer = larger;
        }
        let start = start(&self.buffer);
        self.buffer.get_mut(start..start + len).unwrap_or_default()
    }

    /// Moves the last block of what was written to the front.
    fn keep(&mut self, block: u64, written: usize) {
        let start = start(&self.buffer);
        let whole = written - written % BLOCK_BYTES;
        self.block = block + whole as u64;
        self.filled = written - whole;
        if whole > 0 {
            self.buffer.copy_within(start + whole..start + written, start);
        }
        if self.buffer.len() > KEPT_BYTES_MAX {
            let mut smaller = vec![0; 2 * BLOCK_BYTES];
            let to = self::start(&smaller);
            let kept = self.buffer.get(start..start + self.filled);
            if let (Some(from), Some(to)) = (kept, smaller.get_mut(to..to + self.filled)) {
                to.copy_from_slice(from);
            }
            self.buffer = smaller;
        }
    }
}

/// Where the first aligned address in a buffer is.
fn start(buffer: &[u8]) -> usize {
    match buffer.as_ptr().align_offset(BLOCK_BYTES) {
        start if start < buffer.len() => start,
        _ => 0,
    }
}

fn is_aligned(bytes: &[u8], offset: u64) -> bool {
    offset.is_multiple_of(BLOCK)
        && bytes.len().is_multiple_of(BLOCK_BYTES)
        && bytes.as_ptr().align_offset(BLOCK_BYTES) == 0
}

fn too_long() -> io::Error {
    io::Error::from(io::ErrorKind::InvalidInput)
}

impl DiskFile for DirectFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(&self.file, buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Some(direct) = &self.direct
            && !self.refused.load(Ordering::Relaxed)
        {
            match self.write_blocks(direct, bytes, offset) {
                // Some file systems take the flag and refuse the write. Nothing was written then.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    self.refused.store(true, Ordering::Relaxed);
                }
                result => return result,
            }
        }
        self.file.write_all_at(bytes, offset)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        DiskFile::next_data(&self.file, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(&self.file)
    }

    fn len(&self) -> io::Result<u64> {
        DiskFile::len(&self.file)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(&self.file, len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        DiskFile::allocate(&self.file, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dir: &Path, len: u64) -> DirectFile {
        let path = dir.join("a");
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        file.set_len(len).unwrap();
        DirectFile::new(file, &path)
    }

    #[test]
    fn what_is_written_one_after_the_other_stands_there() {
        let dir = tempfile::tempdir().unwrap();
        let file = file(dir.path(), 64 << 20);
        let mut expected = Vec::new();
        for (turn, len) in
            [1, 4095, 1, 8192, 100, 3996, 70_000, 9 << 20, 5, 4096].iter().enumerate()
        {
            let bytes: Vec<u8> = (0..=250).cycle().skip(turn * 7 + 1).take(*len).collect();
            file.write_at(&bytes, expected.len() as u64).unwrap();
            expected.extend_from_slice(&bytes);
            let mut found = vec![0; expected.len()];
            file.file.read_exact_at(&mut found, 0).unwrap();
            assert!(found == expected, "after {len} bytes");
        }
        file.sync_data().unwrap();
    }

    #[test]
    fn a_file_that_is_opened_in_the_middle_keeps_what_is_before() {
        let dir = tempfile::tempdir().unwrap();
        file(dir.path(), 1 << 20).write_at(&[1; 6000], 0).unwrap();
        let path = dir.path().join("a");
        let again = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        again.write_all_at(&[2; 10], 6000).unwrap();
        let again = DirectFile::new(again, &path);
        again.write_at(&[3; 10], 6010).unwrap();
        again.write_at(&[4; 10], 6020).unwrap();
        let mut found = vec![0; 6040];
        again.read_at(&mut found, 0).unwrap();
        let expected = [vec![1; 6000], vec![2; 10], vec![3; 10], vec![4; 10], vec![0; 10]].concat();
        assert!(found == expected);
    }

    #[test]
    fn what_is_aligned_is_written_as_it_is_and_beside_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let file = file(dir.path(), 1 << 20);
        file.write_at(&[1; 100], 0).unwrap();
        let zeros = vec![9; 4 * BLOCK_BYTES];
        let at = start(&zeros);
        file.write_at(&zeros[at..at + BLOCK_BYTES], 2 * BLOCK).unwrap();
        file.write_at(&[2; 100], 100).unwrap();
        let mut found = vec![0; 3 * BLOCK_BYTES];
        file.read_at(&mut found, 0).unwrap();
        assert!(found[..100] == [1; 100] && found[100..200] == [2; 100]);
        assert!(found[200..2 * BLOCK_BYTES].iter().all(|byte| *byte == 0));
        assert!(found[2 * BLOCK_BYTES..].iter().all(|byte| *byte == 9));
    }
}
