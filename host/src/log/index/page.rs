//! Pages: how a derived file is laid out so that any part of it can be read alone and be trusted.
//!
//! A file is a sequence of pages of 4096 bytes: 4092 bytes of content and their CRC32C. The CRC is
//! salted with the file's identity and the page's number, so that a page of another file, another
//! place or an older life never passes. Content is addressed as if there were no CRCs.

use std::ops::Range;
use std::sync::Arc;

use crate::log::disk::{DiskFile, read_up_to};

/// Bytes of a page on disk.
pub(super) const PAGE_BYTES: usize = 4096;
/// Bytes of content in a page.
pub(super) const CONTENT_BYTES: usize = PAGE_BYTES - 4;
/// Bytes read at once when going through a file: a multiple of the page.
const READ_AHEAD_BYTES: usize = 64 * PAGE_BYTES;

/// What the CRCs of a file are salted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PageSalt(u32);

impl PageSalt {
    pub(super) fn new(purpose: &[u8], log_id: &[u8; 16], number: u64) -> Self {
        let salt = crc32c::crc32c_append(crc32c::crc32c(purpose), log_id);
        Self(crc32c::crc32c_append(salt, &number.to_le_bytes()))
    }

    fn crc(self, page: u64, content: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c_append(self.0, &page.to_le_bytes()), content)
    }

    /// Lays out content as pages, where it stands; the last one is filled up with zeroes.
    pub(super) fn seal(self, mut content: Vec<u8>) -> Vec<u8> {
        let pages = content.len().div_ceil(CONTENT_BYTES).max(1);
        content.resize(pages * PAGE_BYTES, 0);
        // The last one first: each moves to where those behind it have gone away.
        for page in (0..pages).rev() {
            let start = page * PAGE_BYTES;
            let from = page * CONTENT_BYTES;
            content.copy_within(from..from + CONTENT_BYTES, start);
            let Some(bytes) = content.get_mut(start..start + PAGE_BYTES) else { continue };
            if let Some((content, place)) = bytes.split_last_chunk_mut::<4>() {
                *place = self.crc(page as u64, content).to_le_bytes();
            }
        }
        content
    }

    /// The content of one page, if it is what was written.
    pub(super) fn open(self, page: u64, bytes: &[u8]) -> Option<&[u8]> {
        let (content, crc) = bytes.split_last_chunk::<4>()?;
        let is_whole = content.len() == CONTENT_BYTES;
        (is_whole && self.crc(page, content) == u32::from_le_bytes(*crc)).then_some(content)
    }
}

/// Why content cannot be read.
#[derive(Debug)]
pub(super) enum PageError {
    Io(std::io::Error),
    /// The page that starts at this byte of the file.
    Damaged(u64),
}

/// Reads the content of a paged file; remembers the pages it read last.
pub(super) struct PageReader {
    source: Arc<dyn DiskFile>,
    salt: PageSalt,
    /// Pages that the file has.
    pages: u64,
    /// Raw pages read last, and the number of the first.
    held: Vec<u8>,
    held_first: u64,
    ahead: usize,
}

impl PageReader {
    /// For lookups: reads what is asked for and no more.
    pub(super) fn new(source: Arc<dyn DiskFile>, salt: PageSalt, file_bytes: u64) -> Self {
        let pages = file_bytes / PAGE_BYTES as u64;
        Self { source, salt, pages, held: Vec::new(), held_first: 0, ahead: PAGE_BYTES }
    }

    /// For going through: reads ahead.
    pub(super) fn sequential(mut self) -> Self {
        self.ahead = READ_AHEAD_BYTES;
        self
    }

    /// Appends a range of content to `out`. Ranges past the end are damage: the caller has checked
    /// them against the file, or they come from inside it.
    pub(super) fn read(&mut self, range: Range<u64>, out: &mut Vec<u8>) -> Result<(), PageError> {
        let mut at = range.start;
        while at < range.end {
            let page = at / CONTENT_BYTES as u64;
            let skip = offset_in_page(at);
            let content = self.page(page)?;
            let rest = content.get(skip..).unwrap_or_default();
            let want = usize::try_from(range.end - at).unwrap_or(usize::MAX);
            let taken = rest.get(..want.min(rest.len())).unwrap_or_default();
            out.extend_from_slice(taken);
            at += taken.len() as u64;
        }
        Ok(())
    }

    fn page(&mut self, page: u64) -> Result<&[u8], PageError> {
        let start = page.saturating_mul(PAGE_BYTES as u64);
        if page >= self.pages {
            return Err(PageError::Damaged(start));
        }
        if self.held_range(page).is_none() {
            let left = usize::try_from((self.pages - page).saturating_mul(PAGE_BYTES as u64));
            let bytes = self.ahead.min(left.unwrap_or(usize::MAX));
            self.held = read_up_to(&*self.source, start, bytes).map_err(PageError::Io)?;
            self.held_first = page;
        }
        let bytes = self.held_range(page).and_then(|range| self.held.get(range));
        let content = bytes.and_then(|bytes| self.salt.open(page, bytes));
        content.ok_or(PageError::Damaged(start))
    }

    fn held_range(&self, page: u64) -> Option<Range<usize>> {
        let start = usize::try_from(page.checked_sub(self.held_first)?).ok()? * PAGE_BYTES;
        let end = start + PAGE_BYTES;
        (end <= self.held.len()).then_some(start..end)
    }
}

#[allow(clippy::cast_possible_truncation, reason = "below the page's size")]
fn offset_in_page(at: u64) -> usize {
    (at % CONTENT_BYTES as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_page_holds_its_part_of_the_content() {
        let salt = PageSalt::new(b"a test", &[7; 16], 1);
        for len in [0, 1, CONTENT_BYTES - 1, CONTENT_BYTES, CONTENT_BYTES + 1, 5 * PAGE_BYTES] {
            let content: Vec<u8> = (0..=250).cycle().take(len).collect();
            let file = salt.seal(content.clone());
            assert_eq!(file.len(), len.div_ceil(CONTENT_BYTES).max(1) * PAGE_BYTES);
            let pages = file.chunks(PAGE_BYTES).zip(0..);
            let mut found: Vec<u8> = pages
                .flat_map(|(page, number)| salt.open(number, page).unwrap())
                .copied()
                .collect();
            assert!(found.split_off(len).iter().all(|byte| *byte == 0), "{len} bytes");
            assert!(found == content, "{len} bytes");
        }
    }
}
