//! Reading the sections of an index file: rows by number, binary search, going through.

use std::ops::Range;
use std::path::Path;

use super::IndexError;
use super::encode::Section;
use super::file::{IndexFile, Pages};
use super::page::{CONTENT_BYTES, PAGE_BYTES, PageError, PageReader};
use super::row::Row;

/// Rows handed on at once when going through a section.
const ROWS_AT_ONCE: u64 = 4096;

impl IndexFile {
    pub(super) fn pages(&self) -> Pages<'_> {
        PageReader::new(&*self.source, self.salt, self.file_bytes)
    }

    pub(super) fn place(&self, section: Section) -> (u64, u64) {
        self.header.sections.get(section as usize).copied().unwrap_or_default()
    }

    pub(super) fn count<R: Row>(&self, section: Section) -> u64 {
        self.place(section).1 / R::BYTES as u64
    }

    pub(super) fn content(
        &self,
        pages: &mut Pages<'_>,
        range: Range<u64>,
    ) -> Result<Vec<u8>, IndexError> {
        let mut content = Vec::new();
        pages.read(range, &mut content).map_err(|error| explain(&self.path, error))?;
        Ok(content)
    }

    pub(super) fn rows<R: Row>(
        &self,
        pages: &mut Pages<'_>,
        section: Section,
        rows: Range<u64>,
    ) -> Result<Vec<R>, IndexError> {
        let (start, _) = self.place(section);
        if rows.end > self.count::<R>(section) || rows.start > rows.end {
            return Err(self.malformed(start));
        }
        let width = R::BYTES as u64;
        let content = self.content(pages, start + rows.start * width..start + rows.end * width)?;
        Ok(content.chunks_exact(R::BYTES).map(R::read).collect())
    }

    pub(super) fn row<R: Row>(
        &self,
        pages: &mut Pages<'_>,
        section: Section,
        number: u64,
    ) -> Result<R, IndexError> {
        let mut rows = self.rows(pages, section, number..number + 1)?;
        rows.pop().ok_or_else(|| self.malformed(self.place(section).0))
    }

    /// The first of the rows that does not hold, where those that hold come first.
    pub(super) fn search<R: Row>(
        &self,
        pages: &mut Pages<'_>,
        section: Section,
        rows: Range<u64>,
        holds: impl Fn(&R) -> bool,
    ) -> Result<u64, IndexError> {
        let Range { start: mut low, end: mut high } = rows;
        while low < high {
            let middle = low.midpoint(high);
            if holds(&self.row(pages, section, middle)?) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    pub(super) fn for_each<R: Row>(
        &self,
        section: Section,
        mut visit: impl FnMut(R) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        let (start, _) = self.place(section);
        let (count, width) = (self.count::<R>(section), R::BYTES as u64);
        let mut pages = self.pages().sequential();
        let (mut content, mut at) = (Vec::new(), 0);
        while at < count {
            let end = count.min(at + ROWS_AT_ONCE);
            content.clear();
            let range = start + at * width..start + end * width;
            pages.read(range, &mut content).map_err(|error| explain(&self.path, error))?;
            content.chunks_exact(R::BYTES).try_for_each(|row| visit(R::read(row)))?;
            at = end;
        }
        Ok(())
    }

    pub(super) fn malformed(&self, content_offset: u64) -> IndexError {
        let offset = content_offset / CONTENT_BYTES as u64 * PAGE_BYTES as u64;
        IndexError::Damaged { path: self.path.clone(), offset, why: "a section is malformed" }
    }
}

pub(super) fn explain(path: &Path, error: PageError) -> IndexError {
    let path = path.to_owned();
    match error {
        PageError::Io(source) => IndexError::Io { path, source },
        PageError::Damaged(offset) => {
            IndexError::Damaged { path, offset, why: "a page fails its checksum" }
        }
    }
}
