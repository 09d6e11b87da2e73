//! Reading a segment frame by frame, in order.

use std::io;
use std::sync::Arc;

use super::Tip;
use super::windows::{ReadBuffers, Windows};
use crate::log::codec::{DecodeError, HEADER_BYTES, Header, Salt};
use crate::log::disk::{DiskFile, read_up_to};
use crate::log::frame::Frame;

/// Bytes read at once: few enough to be in the cache of the processor still when they are decoded.
const WINDOW_BYTES: usize = 256 << 10;
/// Bytes read at once by who wants a frame here and a frame there.
const NARROW_WINDOW_BYTES: usize = 64 << 10;
/// Bytes read at once past the page cache: so many that asking for them costs little, one by one.
const DIRECT_WINDOW_BYTES: usize = 512 << 10;

/// How a scan goes on.
#[derive(Debug)]
pub enum Scan {
    /// A frame, and where it starts.
    Frame {
        /// The frame.
        frame: Arc<Frame>,
        /// Where it starts in the file, in bytes.
        offset: u64,
    },
    /// No more frames.
    End(ScanEnd),
}

/// How the frames of a segment end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScanEnd {
    /// The file ends, or zeros follow to where the scan looked.
    Blank,
    /// Here is something that is not a frame that follows on.
    Broken(DecodeError),
}

/// A cursor over the frames of one segment.
#[derive(Debug)]
pub struct SegmentScan {
    windows: Windows,
    salt: Salt,
    offset: u64,
    is_direct: bool,
}

impl SegmentScan {
    /// Starts at a byte of the file where a frame starts.
    #[must_use]
    pub fn new(file: Arc<dyn DiskFile>, salt: Salt, offset: u64) -> Self {
        Self { windows: Windows::new(file, WINDOW_BYTES), salt, offset, is_direct: false }
    }

    /// Reads little at a time, for who goes from place to place.
    #[must_use]
    pub(in crate::log) const fn narrow(mut self) -> Self {
        self.windows.set_bytes_min(NARROW_WINDOW_BYTES);
        self
    }

    /// Reads much at a time from the next window on, for who reads on and on; past the page cache
    /// where there is the file for it.
    pub(in crate::log) fn go_direct(
        &mut self,
        direct: Option<Arc<dyn DiskFile>>,
        buffers: ReadBuffers,
    ) {
        self.windows.go_direct(direct, buffers);
        self.windows.set_bytes_min(DIRECT_WINDOW_BYTES);
        self.is_direct = true;
    }

    /// Whether it was told to read past the page cache.
    pub(in crate::log) const fn is_direct(&self) -> bool {
        self.is_direct
    }

    /// Goes to where a frame starts, unless it has come further than that already.
    pub(in crate::log) fn go_to(&mut self, offset: u64) {
        self.offset = self.offset.max(offset);
    }

    /// Goes on at the start of another segment: through the page cache until it is given the file past
    /// that too.
    pub(in crate::log) fn go_to_segment(&mut self, file: Arc<dyn DiskFile>, salt: Salt) {
        self.windows.set_file(file);
        (self.salt, self.offset) = (salt, 0);
    }

    /// Forgets what was read ahead.
    pub(in crate::log) fn forget(&mut self) {
        self.windows.forget();
    }

    /// Where the next frame starts.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// The salt of the segment.
    #[must_use]
    pub const fn salt(&self) -> Salt {
        self.salt
    }

    /// The next frame, its checksums verified; not whether it follows on the one before.
    ///
    /// # Errors
    /// The disk's.
    pub fn advance(&mut self) -> io::Result<Scan> {
        let head = self.windows.get(self.offset, HEADER_BYTES)?;
        if head.iter().take(HEADER_BYTES).all(|byte| *byte == 0) {
            return Ok(Scan::End(ScanEnd::Blank));
        }
        let header = match Header::decode(&head, self.salt) {
            Ok(header) => header,
            Err(error) => return Ok(Scan::End(ScanEnd::Broken(error))),
        };
        // `decode` has bounded the length.
        let len = usize::try_from(header.frame_bytes()).unwrap_or(usize::MAX);
        let bytes = self.windows.get(self.offset, len)?;
        Ok(match Frame::open(&bytes, self.salt) {
            Ok(frame) => {
                let offset = self.offset;
                self.offset = offset.saturating_add(len as u64);
                Scan::Frame { frame: Arc::new(frame), offset }
            }
            Err(error) => Scan::End(ScanEnd::Broken(error)),
        })
    }

    /// The next frame, which must follow on `tip`; moves `tip` behind it.
    ///
    /// # Errors
    /// The disk's.
    pub fn next_after(&mut self, tip: &mut Tip) -> io::Result<Scan> {
        let next = self.advance()?;
        if let Scan::Frame { frame, offset } = &next
            && let Err(error) = tip.follow(frame)
        {
            self.offset = *offset;
            return Ok(Scan::End(ScanEnd::Broken(error)));
        }
        Ok(next)
    }
}

/// Bytes that are looked at together: as many as the processor compares at once, many times over.
const ZEROS_AT_ONCE: usize = 1024;

/// The first byte at or after `offset` that is not zero. What was claimed and never written is not
/// read.
///
/// # Errors
/// The disk's.
pub(in crate::log) fn first_nonzero(file: &dyn DiskFile, offset: u64) -> io::Result<Option<u64>> {
    let mut at = offset;
    loop {
        let Some(data) = file.next_data(at)? else { return Ok(None) };
        at = data;
        let bytes = read_up_to(file, at, WINDOW_BYTES)?;
        if let Some(index) = nonzero_in(&bytes) {
            return Ok(Some(at + index as u64));
        }
        if bytes.len() < WINDOW_BYTES {
            return Ok(None);
        }
        at += bytes.len() as u64;
    }
}

fn nonzero_in(bytes: &[u8]) -> Option<usize> {
    let mut blocks = bytes.chunks(ZEROS_AT_ONCE).enumerate();
    let (block, found) =
        blocks.find(|(_, block)| block.iter().fold(0, |all, byte| all | byte) != 0)?;
    let index = found.iter().position(|byte| *byte != 0)?;
    Some(block * ZEROS_AT_ONCE + index)
}

/// The end of the last byte at or after `offset` that is not zero; `offset` where there is none.
///
/// # Errors
/// The disk's.
pub(in crate::log) fn nonzero_end(file: &dyn DiskFile, offset: u64) -> io::Result<u64> {
    let (mut at, mut end) = (offset, offset);
    loop {
        let bytes = read_up_to(file, at, WINDOW_BYTES)?;
        if let Some(index) = bytes.iter().rposition(|byte| *byte != 0) {
            end = at + index as u64 + 1;
        }
        if bytes.len() < WINDOW_BYTES {
            return Ok(end);
        }
        at += bytes.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn the_first_byte_that_is_not_zero_is_found_behind_holes_and_zeros() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("segment");
        let file = std::fs::File::options().read(true).write(true).create_new(true).open(path);
        let file = file.unwrap();
        let len = 8 * WINDOW_BYTES as u64 + 7;
        file.set_len(len).unwrap();
        assert_eq!(first_nonzero(&file, 0).unwrap(), None);
        // Zeros that were written, then nothing for long, then a byte.
        file.write_all_at(&[0; 5000], 100).unwrap();
        for at in [len - 1, 3 * WINDOW_BYTES as u64, 5003, 17] {
            file.write_all_at(&[1], at).unwrap();
            for from in [0, at / 2, at] {
                assert_eq!(first_nonzero(&file, from).unwrap(), Some(at), "from {from}");
            }
        }
        assert_eq!(first_nonzero(&file, len).unwrap(), None);
    }
}
