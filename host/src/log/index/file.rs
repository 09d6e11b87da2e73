//! The index of a sealed segment: a file of which each lookup reads a few pages.
//!
//! Nothing of it stays in memory but the header, so that a log of thousands of segments costs
//! nothing while nobody asks. A lookup of a key that the segment does not hold mostly reads one page.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::encode::{HEADER_BYTES, Header, MAGIC, Section, VERSION, prefix_of, salt};
use super::few::FewOpen;
use super::page::PageReader;
use super::row::{
    CompletionRow, EventRow, GroupRow, IdRow, MarkRow, Row, TypeRow, addressee_of, emitter_of,
};
use super::sections::PagedFile;
use super::{
    CompletionEntry, FrameMark, IndexEntry, IndexError, SegmentSpan, TypeStat, completion_hash,
    filter,
};
use crate::event::{CommitNumber, Generation, InstanceId, KeyHash, KeySequence, Position};
use crate::log::dedup::{DedupEntry, IdHash};
use crate::log::disk::Disk;
use crate::log::heads::Head;

/// An index file, open for lookups. Blocking; any number of threads may ask at once.
#[derive(Debug)]
pub struct IndexFile {
    pub(super) file: PagedFile,
    pub(super) header: Header,
}

impl IndexFile {
    /// Opens the index file of one segment of one log and checks its header; none: it is not there.
    /// Whether it fits the segment's content is to be seen from [`IndexFile::span`].
    ///
    /// # Errors
    /// It cannot be read, is damaged, or was written by a newer host.
    pub fn open(
        disk: &dyn Disk,
        path: &Path,
        log_id: &[u8; 16],
        segment: u32,
    ) -> Result<Option<Self>, IndexError> {
        let salt = salt(log_id, segment);
        let Some(file) = PagedFile::open(disk, path, salt, &MAGIC, VERSION)? else {
            return Ok(None);
        };
        let content = file.content(&mut file.pages()?, 0..HEADER_BYTES as u64)?;
        let header = Header::read(&content).ok_or_else(|| file.malformed(0))?;
        let fits = |(offset, len): &(u64, u64)| {
            offset.checked_add(*len).is_some_and(|end| end <= file.content_bytes())
        };
        if !header.sections.iter().all(fits) {
            return Err(file.malformed(0));
        }
        Ok(Some(Self { file, header }))
    }

    /// The log that an index file says it is of; none: there is none, or it says nothing. It is to be
    /// opened as such before it is believed.
    #[must_use]
    pub fn log_id(disk: &dyn Disk, path: &Path) -> Option<[u8; 16]> {
        PagedFile::open(disk, path, salt(&[0; 16], 0), &MAGIC, VERSION).ok()??.raw_log_id()
    }

    /// The same file, as one of those of which few are open.
    pub(super) fn among(self, few: &Arc<FewOpen>) -> Self {
        Self { file: self.file.among(few), ..self }
    }

    /// What the segment spans, and the content it was built from.
    #[must_use]
    pub fn span(&self) -> &SegmentSpan {
        &self.header.span
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Reads and checks every page.
    ///
    /// # Errors
    /// [`IndexError::Damaged`] for the first page that is not what was written.
    pub fn verify(&self) -> Result<(), IndexError> {
        self.file.verify()
    }

    /// Events of a key with `after < position <= until`, ascending, at most `limit`; private ones
    /// included.
    ///
    /// # Errors
    /// [`IndexError::Io`], [`IndexError::Damaged`].
    pub fn key_entries(
        &self,
        key: KeyHash,
        after: Position,
        until: Position,
        limit: usize,
    ) -> Result<Vec<IndexEntry>, IndexError> {
        let mut pages = self.file.pages()?;
        let (prefixes, groups) = (Section::KeyPrefixes, Section::KeyGroups);
        let Some(members) = self.group(&mut pages, prefixes, groups, key.0)? else {
            return Ok(Vec::new());
        };
        let base = self.header.span.base;
        let position = |row: &EventRow| base.position(row.position);
        let section = Section::KeyEvents;
        let start = self.search::<EventRow>(&mut pages, section, members.clone(), |row| {
            position(row) <= after
        })?;
        let rows = start..members.end.min(start.saturating_add(limit as u64));
        let mut names: HashMap<u32, Arc<str>> = HashMap::new();
        let mut entries = Vec::new();
        for row in self.rows::<EventRow>(&mut pages, section, rows)? {
            if position(&row) > until {
                break;
            }
            let kind = match names.get(&row.kind) {
                Some(kind) => kind.clone(),
                None => self.type_name(row.kind)?,
            };
            names.insert(row.kind, kind.clone());
            entries.push(IndexEntry {
                position: position(&row),
                sequence: KeySequence(row.sequence),
                kind,
                addressee: addressee_of(row.addressee),
                emitter: emitter_of(row.emitter),
            });
        }
        Ok(entries)
    }

    /// Completions of a plugin and key with `after < commit <= until`, ascending, at most `limit`.
    ///
    /// # Errors
    /// [`IndexError::Io`], [`IndexError::Damaged`].
    pub fn completions(
        &self,
        instance: InstanceId,
        key: KeyHash,
        after: CommitNumber,
        until: CommitNumber,
        limit: usize,
    ) -> Result<Vec<CompletionEntry>, IndexError> {
        let mut pages = self.file.pages()?;
        let hash = completion_hash(instance, key);
        let (prefixes, groups) = (Section::CompletionPrefixes, Section::CompletionGroups);
        let Some(members) = self.group(&mut pages, prefixes, groups, hash)? else {
            return Ok(Vec::new());
        };
        let base = self.header.span.base;
        let section = Section::Completions;
        let start = self.search::<CompletionRow>(&mut pages, section, members.clone(), |row| {
            base.commit(row.commit) <= after
        })?;
        let rows = start..members.end.min(start.saturating_add(limit as u64));
        let rows = self.rows::<CompletionRow>(&mut pages, section, rows)?;
        let entries = rows.into_iter().map(|row| CompletionEntry {
            commit: base.commit(row.commit),
            position: Position(row.position),
            generation: Generation(row.generation),
        });
        Ok(entries.take_while(|entry| entry.commit <= until).collect())
    }

    /// Positions of the events of a type with `after < position <= until`, ascending, at most
    /// `limit`; private ones included.
    ///
    /// # Errors
    /// [`IndexError::Io`], [`IndexError::Damaged`].
    pub fn type_positions(
        &self,
        kind: &str,
        after: Position,
        until: Position,
        limit: usize,
    ) -> Result<Vec<Position>, IndexError> {
        let mut pages = self.file.pages()?;
        let (mut low, mut high) = (0, self.count::<TypeRow>(Section::Types));
        while low < high {
            let middle = low.midpoint(high);
            let row = self.row::<TypeRow>(&mut pages, Section::Types, middle)?;
            match self.name_of(&mut pages, &row)?.as_str().cmp(kind) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => {
                    return self.positions_of(&mut pages, &row, after, until, limit);
                }
            }
        }
        Ok(Vec::new())
    }

    fn positions_of(
        &self,
        pages: &mut PageReader,
        row: &TypeRow,
        after: Position,
        until: Position,
        limit: usize,
    ) -> Result<Vec<Position>, IndexError> {
        let base = self.header.span.base;
        let first = u64::from(row.first);
        let members = first..first + u64::from(row.count) + u64::from(row.private_count);
        let section = Section::TypePositions;
        let start = self.search::<u32>(pages, section, members.clone(), |above| {
            base.position(*above) <= after
        })?;
        let rows = start..members.end.min(start.saturating_add(limit as u64));
        let rows = self.rows::<u32>(pages, section, rows)?;
        let positions = rows.into_iter().map(|above| base.position(above));
        Ok(positions.take_while(|position| *position <= until).collect())
    }

    /// Every type of the segment, ascending by name.
    ///
    /// # Errors
    /// [`IndexError::Io`], [`IndexError::Damaged`].
    pub fn types(&self) -> Result<Vec<TypeStat>, IndexError> {
        let base = self.header.span.base;
        let (mut stats, mut names) = (Vec::new(), self.file.pages()?);
        self.for_each::<TypeRow>(Section::Types, |row| {
            stats.push(TypeStat {
                kind: self.name_of(&mut names, &row)?.into(),
                count: u64::from(row.count),
                private_count: u64::from(row.private_count),
                first_position: base.position(row.first_position),
                last_position: base.position(row.last_position),
                last_ms: row.last_ms,
            });
            Ok(())
        })?;
        Ok(stats)
    }

    /// See [`super::SegmentIndexBuilder::frame_of_position`].
    ///
    /// # Errors
    /// [`IndexError::Io`], [`IndexError::Damaged`].
    pub fn frame_of_position(&self, position: Position) -> Result<Option<FrameMark>, IndexError> {
        self.mark_before(|mark| mark.first_position <= position)
    }

    /// See [`super::SegmentIndexBuilder::frame_of_commit`].
    ///
    /// # Errors
    /// [`IndexError::Io`], [`IndexError::Damaged`].
    pub fn frame_of_commit(&self, commit: CommitNumber) -> Result<Option<FrameMark>, IndexError> {
        self.mark_before(|mark| mark.first_commit <= commit)
    }

    /// See [`super::SegmentIndexBuilder::frame_before_time`].
    ///
    /// # Errors
    /// [`IndexError::Io`], [`IndexError::Damaged`].
    pub fn frame_before_time(&self, time_ms: u64) -> Result<Option<FrameMark>, IndexError> {
        self.mark_before(|mark| mark.time_ms < time_ms)
    }

    fn mark_before(
        &self,
        holds: impl Fn(&FrameMark) -> bool,
    ) -> Result<Option<FrameMark>, IndexError> {
        let base = self.header.span.base;
        let mark = |row: &MarkRow| FrameMark {
            offset: row.offset,
            first_commit: base.commit(row.commit),
            first_position: base.position(row.position),
            time_ms: row.time_ms,
        };
        let mut pages = self.file.pages()?;
        let all = 0..self.count::<MarkRow>(Section::Marks);
        let count =
            self.search::<MarkRow>(&mut pages, Section::Marks, all, |row| holds(&mark(row)))?;
        let Some(last) = count.checked_sub(1) else { return Ok(None) };
        Ok(Some(mark(&self.row::<MarkRow>(&mut pages, Section::Marks, last)?)))
    }

    /// Identities in the segment.
    #[must_use]
    pub fn ids(&self) -> u64 {
        self.count::<IdRow>(Section::Ids)
    }

    /// The identities of the segment but for the first `skip`, ascending by position; times are exact
    /// to a second.
    ///
    /// # Errors
    /// [`IndexError::Io`], [`IndexError::Damaged`].
    pub fn for_each_id(
        &self,
        skip: u64,
        mut visit: impl FnMut(DedupEntry),
    ) -> Result<(), IndexError> {
        let base = self.header.span.base;
        let count = self.ids().saturating_sub(skip);
        let start = self.place(Section::Ids).0 + (self.ids() - count) * IdRow::BYTES as u64;
        self.file.for_each(start, count, |row: IdRow| {
            visit(DedupEntry {
                hash: IdHash(row.hash),
                position: base.position(row.position),
                time_ms: base.time_ms(row.seconds),
            });
            Ok(())
        })
    }

    /// The last event of every key that has one with a key sequence, ascending by key hash.
    ///
    /// # Errors
    /// [`IndexError::Io`], [`IndexError::Damaged`].
    pub fn for_each_head(&self, mut visit: impl FnMut(KeyHash, Head)) -> Result<(), IndexError> {
        let base = self.header.span.base;
        self.for_each::<GroupRow>(Section::KeyGroups, |row| {
            if row.head_sequence > 0 {
                let position = base.position(row.head_position);
                let sequence = KeySequence(row.head_sequence);
                visit(KeyHash(row.hash), Head { sequence, position });
            }
            Ok(())
        })
    }

    /// The numbers of the entries of a hash.
    fn group(
        &self,
        pages: &mut PageReader,
        prefixes: Section,
        groups: Section,
        hash: u128,
    ) -> Result<Option<Range<u64>>, IndexError> {
        let (start, len) = self.place(Section::Filter);
        let Some(block) = filter::block_offset(hash, len) else { return Ok(None) };
        let block = start + block..start + block + filter::BLOCK_BYTES as u64;
        if !filter::may_hold(hash, &self.file.content(pages, block)?) {
            return Ok(None);
        }
        let count = self.count::<u32>(prefixes).saturating_sub(1).max(1);
        let prefix = prefix_of(hash, count.trailing_zeros());
        let bounds = self.rows::<u32>(pages, prefixes, prefix..prefix + 2)?;
        let [first, end] = bounds[..] else { return Ok(None) };
        // One further row: the entries of a group end where those of the next begin.
        let rows = self.rows::<GroupRow>(pages, groups, u64::from(first)..u64::from(end) + 1)?;
        let mut pairs = rows.iter().zip(rows.iter().skip(1));
        let found = pairs.find(|(row, _)| row.hash == hash);
        Ok(found.map(|(row, next)| u64::from(row.first)..u64::from(next.first)))
    }

    fn type_name(&self, number: u32) -> Result<Arc<str>, IndexError> {
        let mut pages = self.file.pages()?;
        let row = self.row::<TypeRow>(&mut pages, Section::Types, u64::from(number))?;
        Ok(self.name_of(&mut pages, &row)?.into())
    }

    fn name_of(&self, pages: &mut PageReader, row: &TypeRow) -> Result<String, IndexError> {
        let (start, len) = self.place(Section::TypeNames);
        let from = u64::from(row.name_offset);
        let range = from..from + u64::from(row.name_bytes);
        if range.end > len {
            return Err(self.file.malformed(start));
        }
        let name = self.file.content(pages, start + range.start..start + range.end)?;
        String::from_utf8(name).map_err(|_| self.file.malformed(start + from))
    }
}
