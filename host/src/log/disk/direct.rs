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
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::OFlags;

use super::{BLOCK_BYTES, DiskFile, is_aligned};

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

/// Opens a file past the page cache.
///
/// # Errors
/// `InvalidInput` where the file system cannot, and the disk's.
pub(super) fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let flags = i32::try_from(OFlags::DIRECT.bits()).map_err(|_| io::ErrorKind::Unsupported)?;
    options.custom_flags(flags).open(path)
}

/// The last block written, as far as it was filled.
#[derive(Debug, Default)]
struct End {
    /// Its bytes.
    bytes: Vec<u8>,
    /// Where it starts in the file.
    block: u64,
    /// What a write is copied to that has no room around it.
    copies: Vec<u8>,
}

impl DirectFile {
    /// Takes the file at `path`.
    pub(super) fn new(file: File, path: &Path) -> Self {
        let direct = open(OpenOptions::new().write(true), path).ok();
        Self { file, direct, refused: AtomicBool::new(false), end: Mutex::default() }
    }

    /// Writes past the page cache. False: not this file; nothing was written then.
    fn write_direct(
        &self,
        write: impl FnOnce(&File, &mut End) -> io::Result<()>,
    ) -> io::Result<bool> {
        let Some(direct) = self.direct.as_ref().filter(|_| !self.refused.load(Ordering::Relaxed))
        else {
            return Ok(false);
        };
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        let written = write(direct, &mut end);
        if written.is_err() {
            // What is kept is not right then.
            *end = End::default();
        }
        match written {
            // Some file systems take the flag and refuse the write.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                self.refused.store(true, Ordering::Relaxed);
                Ok(false)
            }
            written => written.map(|()| true),
        }
    }

    /// Writes the blocks that `buffer[place]` stands in, where [`blocks`] finds them there.
    fn write_blocks(
        &self,
        (direct, end): (&File, &mut End),
        (buffer, place): (&mut [u8], &Range<usize>),
        offset: u64,
    ) -> io::Result<()> {
        let around = blocks(buffer, place, offset).ok_or_else(too_long)?;
        let block = offset - offset % BLOCK;
        let (head_at, zeros_at) = (around.start..place.start, place.end..around.end);
        let head = buffer.get_mut(head_at).ok_or_else(too_long)?;
        if end.block == block && end.bytes.len() == head.len() {
            head.copy_from_slice(&end.bytes);
        } else {
            self.file.read_exact_at(head, block)?;
        }
        buffer.get_mut(zeros_at).ok_or_else(too_long)?.fill(0);
        let whole = buffer.get(around.clone()).ok_or_else(too_long)?;
        direct.write_all_at(whole, block)?;
        let written = place.end - around.start;
        let last = written - written % BLOCK_BYTES;
        end.block = block + last as u64;
        end.bytes.clear();
        end.bytes.extend_from_slice(whole.get(last..written).unwrap_or_default());
        Ok(())
    }

    fn write_copy(
        &self,
        (direct, end): (&File, &mut End),
        bytes: &[u8],
        offset: u64,
    ) -> io::Result<()> {
        let before = usize::try_from(offset % BLOCK).unwrap_or(0);
        let mut copies = std::mem::take(&mut end.copies);
        let len = (before + bytes.len()).next_multiple_of(BLOCK_BYTES) + BLOCK_BYTES;
        if copies.len() < len {
            copies = vec![0; len.next_power_of_two()];
        }
        let at = copies.as_ptr().align_offset(BLOCK_BYTES).min(BLOCK_BYTES) + before;
        let place = at..at + bytes.len();
        copies.get_mut(place.clone()).ok_or_else(too_long)?.copy_from_slice(bytes);
        self.write_blocks((direct, end), (&mut copies, &place), offset)?;
        if copies.len() <= KEPT_BYTES_MAX {
            end.copies = copies;
        }
        Ok(())
    }
}

/// The whole blocks around `buffer[place]`, which is for `offset` of a file; none: the buffer has not
/// all of them, or not at aligned addresses.
fn blocks(buffer: &[u8], place: &Range<usize>, offset: u64) -> Option<Range<usize>> {
    let before = usize::try_from(offset % BLOCK).ok()?;
    let start = place.start.checked_sub(before)?;
    let len = place.end.checked_sub(start)?.next_multiple_of(BLOCK_BYTES);
    let whole = buffer.get(start..start.checked_add(len)?)?;
    let is_aligned = whole.as_ptr().align_offset(BLOCK_BYTES) == 0;
    is_aligned.then_some(start..start + len)
}

fn too_long() -> io::Error {
    io::Error::other("a write that no buffer holds")
}

impl DiskFile for DirectFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(&self.file, buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let written = self.write_direct(|direct, end| {
            if is_aligned(bytes, offset) {
                return direct.write_all_at(bytes, offset);
            }
            self.write_copy((direct, end), bytes, offset)
        })?;
        if written { Ok(()) } else { self.file.write_all_at(bytes, offset) }
    }

    fn write_within(&self, buffer: &mut [u8], place: Range<usize>, offset: u64) -> io::Result<()> {
        if blocks(buffer, &place, offset).is_some()
            && self.write_direct(|direct, end| {
                self.write_blocks((direct, end), (&mut *buffer, &place), offset)
            })?
        {
            return Ok(());
        }
        self.write_at(buffer.get(place).ok_or_else(too_long)?, offset)
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

    /// A buffer in which so many bytes for `offset` have the blocks around them, filled with `around`.
    fn with_room(bytes: &[u8], offset: u64, around: u8) -> (Vec<u8>, Range<usize>) {
        let mut buffer = vec![around; bytes.len() + 4 * BLOCK_BYTES];
        let before = usize::try_from(offset % BLOCK).unwrap();
        let at = buffer.as_ptr().align_offset(BLOCK_BYTES) + before;
        buffer[at..at + bytes.len()].copy_from_slice(bytes);
        (buffer, at..at + bytes.len())
    }

    #[test]
    fn what_is_written_one_after_the_other_stands_there() {
        for room in [[true, true], [false, false], [true, false]] {
            let dir = tempfile::tempdir().unwrap();
            let file = file(dir.path(), 64 << 20);
            let mut expected = Vec::new();
            for (turn, len) in
                [1, 4095, 1, 8192, 100, 3996, 70_000, 9 << 20, 5, 4096].iter().enumerate()
            {
                let bytes: Vec<u8> = (0..=250).cycle().skip(turn * 7 + 1).take(*len).collect();
                let offset = expected.len() as u64;
                if room[turn % 2] {
                    let (mut buffer, place) = with_room(&bytes, offset, 255);
                    file.write_within(&mut buffer, place.clone(), offset).unwrap();
                    assert!(buffer[place] == bytes);
                } else {
                    file.write_at(&bytes, offset).unwrap();
                }
                expected.extend_from_slice(&bytes);
                let mut found = vec![0; expected.len() + 1];
                file.file.read_exact_at(&mut found, 0).unwrap();
                assert_eq!(found.pop(), Some(0));
                assert!(found == expected, "after {len} bytes, {room:?}");
            }
            file.sync_data().unwrap();
        }
    }

    #[test]
    fn a_buffer_without_room_or_at_another_address_is_copied() {
        let dir = tempfile::tempdir().unwrap();
        let file = file(dir.path(), 1 << 20);
        file.write_at(&[1; 10], 0).unwrap();
        let mut bare = vec![2; 9000];
        file.write_within(&mut bare, 0..9000, 10).unwrap();
        let (mut shifted, place) = with_room(&[3; 9000], 9011, 9);
        file.write_within(&mut shifted, place, 9010).unwrap();
        let mut found = vec![0; 18_011];
        file.read_at(&mut found, 0).unwrap();
        let expected = [vec![1; 10], vec![2; 9000], vec![3; 9000], vec![0]].concat();
        assert!(found == expected);
        assert!(file.write_within(&mut bare, 0..9001, 18_010).is_err());
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
        let at = zeros.as_ptr().align_offset(BLOCK_BYTES);
        file.write_at(&zeros[at..at + BLOCK_BYTES], 2 * BLOCK).unwrap();
        file.write_at(&[2; 100], 100).unwrap();
        let mut found = vec![0; 3 * BLOCK_BYTES];
        file.read_at(&mut found, 0).unwrap();
        assert!(found[..100] == [1; 100] && found[100..200] == [2; 100]);
        assert!(found[200..2 * BLOCK_BYTES].iter().all(|byte| *byte == 0));
        assert!(found[2 * BLOCK_BYTES..].iter().all(|byte| *byte == 9));
    }
}
