//! Reading derived files: as pages, and the sections of an index by rows.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::IndexError;
use super::encode::Section;
use super::few::{FewOpen, Source};
use super::file::IndexFile;
use super::page::{CONTENT_BYTES, PAGE_BYTES, PageError, PageReader, PageSalt};
use super::row::{Row, u16_at};
use crate::log::disk::{Disk, read_up_to};

/// Rows handed on at once when going through a section.
const ROWS_AT_ONCE: u64 = 4096;
/// Magic and version: what every derived file starts with.
const START_BYTES: usize = 16;

/// A derived file in pages, its start checked.
#[derive(Debug)]
pub(super) struct PagedFile {
    pub(super) path: PathBuf,
    source: Source,
    file_bytes: u64,
    salt: PageSalt,
}

impl PagedFile {
    /// Opens a file that must start with this magic and version; none: it is not there.
    pub(super) fn open(
        disk: &dyn Disk,
        path: &Path,
        salt: PageSalt,
        magic: &[u8; 8],
        version: u16,
    ) -> Result<Option<Self>, IndexError> {
        let io_error = |source| IndexError::Io { path: path.to_owned(), source };
        let damaged = |offset, why| IndexError::Damaged { path: path.to_owned(), offset, why };
        let source = match disk.open_read(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            source => source.map_err(io_error)?,
        };
        let file_bytes = source.len().map_err(io_error)?;
        if file_bytes == 0 || !file_bytes.is_multiple_of(PAGE_BYTES as u64) {
            return Err(damaged(file_bytes, "the length is not a multiple of the page"));
        }
        let start = read_up_to(&*source, 0, START_BYTES).map_err(io_error)?;
        if !start.starts_with(magic) {
            return Err(damaged(0, "the file does not start as it should"));
        }
        let found = u16_at(&start, magic.len());
        if found != version {
            return Err(IndexError::Version { path: path.to_owned(), found, supported: version });
        }
        let source = Source::Open(source);
        Ok(Some(Self { path: path.to_owned(), source, file_bytes, salt }))
    }

    /// The first bytes of the file, unchecked: for what decides how to check.
    pub(super) fn raw_start(&self, bytes: usize) -> Result<Vec<u8>, IndexError> {
        let read = self.source.file(&self.path).and_then(|file| read_up_to(&*file, 0, bytes));
        read.map_err(|source| self.io_error(source))
    }

    /// The log that the file says it is of, unchecked; none: it is too short.
    pub(super) fn raw_log_id(&self) -> Option<[u8; 16]> {
        let raw = self.raw_start(START_BYTES + 16).ok()?;
        raw.get(START_BYTES..)?.first_chunk().copied()
    }

    pub(super) const fn content_bytes(&self) -> u64 {
        self.file_bytes / PAGE_BYTES as u64 * CONTENT_BYTES as u64
    }

    /// The same file, as one of those of which few are open.
    pub(super) fn among(self, few: &Arc<FewOpen>) -> Self {
        Self { source: self.source.among(few), ..self }
    }

    /// Its pages; the file stays open while they are read.
    pub(super) fn pages(&self) -> Result<PageReader, IndexError> {
        let file = self.source.file(&self.path).map_err(|source| self.io_error(source))?;
        Ok(PageReader::new(file, self.salt, self.file_bytes))
    }

    fn io_error(&self, source: std::io::Error) -> IndexError {
        IndexError::Io { path: self.path.clone(), source }
    }

    pub(super) fn read(
        &self,
        pages: &mut PageReader,
        range: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<(), IndexError> {
        pages.read(range, out).map_err(|error| {
            let path = self.path.clone();
            match error {
                PageError::Io(source) => IndexError::Io { path, source },
                PageError::Damaged(offset) => {
                    IndexError::Damaged { path, offset, why: "a page fails its checksum" }
                }
            }
        })
    }

    pub(super) fn content(
        &self,
        pages: &mut PageReader,
        range: Range<u64>,
    ) -> Result<Vec<u8>, IndexError> {
        let mut content = Vec::new();
        self.read(pages, range, &mut content)?;
        Ok(content)
    }

    /// Checks every page.
    pub(super) fn verify(&self) -> Result<(), IndexError> {
        let mut pages = self.pages()?.sequential();
        let mut content = Vec::new();
        for page in 0..self.file_bytes / PAGE_BYTES as u64 {
            let start = page * CONTENT_BYTES as u64;
            content.clear();
            self.read(&mut pages, start..start + CONTENT_BYTES as u64, &mut content)?;
        }
        Ok(())
    }

    /// Goes through rows of a fixed width that start at an offset of content.
    pub(super) fn for_each<R: Row>(
        &self,
        start: u64,
        count: u64,
        mut visit: impl FnMut(R) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        let width = R::BYTES as u64;
        let mut pages = self.pages()?.sequential();
        let (mut content, mut at) = (Vec::new(), 0);
        while at < count {
            let end = count.min(at + ROWS_AT_ONCE);
            content.clear();
            let range = start + at * width..start + end * width;
            self.read(&mut pages, range, &mut content)?;
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

impl IndexFile {
    pub(super) fn place(&self, section: Section) -> (u64, u64) {
        self.header.sections.get(section as usize).copied().unwrap_or_default()
    }

    pub(super) fn count<R: Row>(&self, section: Section) -> u64 {
        self.place(section).1 / R::BYTES as u64
    }

    pub(super) fn rows<R: Row>(
        &self,
        pages: &mut PageReader,
        section: Section,
        rows: Range<u64>,
    ) -> Result<Vec<R>, IndexError> {
        let (start, _) = self.place(section);
        if rows.end > self.count::<R>(section) || rows.start > rows.end {
            return Err(self.file.malformed(start));
        }
        let width = R::BYTES as u64;
        let content =
            self.file.content(pages, start + rows.start * width..start + rows.end * width)?;
        Ok(content.chunks_exact(R::BYTES).map(R::read).collect())
    }

    pub(super) fn row<R: Row>(
        &self,
        pages: &mut PageReader,
        section: Section,
        number: u64,
    ) -> Result<R, IndexError> {
        let mut rows = self.rows(pages, section, number..number + 1)?;
        rows.pop().ok_or_else(|| self.file.malformed(self.place(section).0))
    }

    /// The first of the rows that does not hold, where those that hold come first.
    pub(super) fn search<R: Row>(
        &self,
        pages: &mut PageReader,
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
        visit: impl FnMut(R) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        self.file.for_each(self.place(section).0, self.count::<R>(section), visit)
    }
}
