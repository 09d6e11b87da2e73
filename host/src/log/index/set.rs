//! The index of the whole log: one part a segment, asked in the order of the log.
//!
//! Rule: at any moment each segment has exactly one part, so that a lookup neither misses nor doubles
//! an event while segments are sealed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use super::few::FewOpen;
use super::open::OpenIndex;
use super::{
    CompletionEntry, FrameMark, IndexEntry, IndexError, IndexFile, SegmentIndexBuilder,
    SegmentSpan, TypeStat,
};
use crate::event::{CommitNumber, InstanceId, KeyHash, Position};
use crate::limits::{INDEX_BEHIND_BYTES, INDEX_BEHIND_BYTES_MAX};
use crate::log::dedup::Dedup;
use crate::log::disk::Disk;
use crate::log::frame::Frame;
use crate::log::heads::Heads;

/// The indexes of all segments of a log, oldest first, the last one open. One writer fills it, any
/// number of threads ask. Lookups block on reads of index files.
#[derive(Debug)]
pub struct LogIndex {
    parts: ArcSwap<Vec<Part>>,
    few: Arc<FewOpen>,
    /// Held while the list of parts changes.
    changing: Mutex<()>,
}

/// The index of one segment.
#[derive(Debug, Clone)]
enum Part {
    /// Of a sealed segment.
    File(Arc<IndexFile>),
    /// Of the open segment, or of a sealed one whose file is being written.
    Memory(Arc<OpenIndex>),
}

/// The index of a sealed segment, as a start finds or makes it.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there are few in memory, and none for long")]
pub enum SealedIndex {
    /// Its file.
    File(IndexFile),
    /// The disk has no room for its file.
    Memory(SegmentIndexBuilder),
}

/// A frame to start reading at, and the segment it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FramePlace {
    /// Number of the segment.
    pub segment: u32,
    /// The frame.
    pub mark: FrameMark,
}

impl LogIndex {
    /// The index of a log with these sealed segments, oldest first, and this open one. Of its files, which
    /// are on `disk`, so many are open at a time.
    ///
    /// # Errors
    /// The first that comes instead of a file.
    pub fn new<E>(
        disk: Arc<dyn Disk>,
        files_max: usize,
        sealed: impl Iterator<Item = Result<impl Into<SealedIndex>, E>>,
        open: SegmentIndexBuilder,
    ) -> Result<Self, E> {
        let few = FewOpen::new(disk, files_max);
        let sealed = sealed.map(|sealed| Ok(Part::of(sealed?.into(), &few)));
        let mut parts = sealed.collect::<Result<Vec<_>, E>>()?;
        parts.push(Part::Memory(Arc::new(OpenIndex::new(open))));
        Ok(Self { parts: ArcSwap::from_pointee(parts), few, changing: Mutex::new(()) })
    }

    /// Hands over the next frame of the open segment, which starts at `offset` of its file. Whoever
    /// asks from now on finds what it has. Says whether it is time to [`LogIndex::follow`].
    ///
    /// # Errors
    /// A frame cannot be entered; where too much waits, they are entered here.
    pub fn add(&self, frame: Arc<Frame>, offset: u64) -> Result<bool, IndexError> {
        let parts = self.parts.load();
        let Some(Part::Memory(open)) = parts.last() else { return Ok(false) };
        open.add(frame, offset);
        let behind_bytes = open.behind_bytes();
        if behind_bytes > INDEX_BEHIND_BYTES_MAX {
            open.catch_up()?;
        }
        Ok(behind_bytes > INDEX_BEHIND_BYTES)
    }

    /// Enters the frames that were handed over, so that who asks need not.
    ///
    /// # Errors
    /// A frame cannot be entered.
    pub fn follow(&self) -> Result<(), IndexError> {
        self.parts.load_full().iter().try_for_each(|part| match part {
            Part::File(_) => Ok(()),
            Part::Memory(open) => open.follow(),
        })
    }

    /// Begins the next segment. The part of the one before stays in memory until
    /// [`LogIndex::sealed`] brings its file.
    pub fn begin(&self, next: SegmentIndexBuilder) {
        self.change(|parts| parts.push(Part::Memory(Arc::new(OpenIndex::new(next)))));
    }

    /// Runs `encode` on a segment's part while it is in memory: to write its file.
    ///
    /// # Errors
    /// A frame of it cannot be entered.
    pub fn with_memory<T>(
        &self,
        segment: u32,
        encode: impl FnOnce(&SegmentIndexBuilder) -> T,
    ) -> Option<Result<T, IndexError>> {
        let parts = self.parts.load_full();
        let memory = parts.iter().find_map(|part| match part {
            Part::Memory(memory) if memory.segment() == segment => Some(memory),
            _ => None,
        })?;
        Some(memory.ask(encode))
    }

    /// Puts the file of a sealed segment in the place of its part in memory, or what was made anew in the
    /// place of what it is made for.
    pub fn sealed(&self, sealed: impl Into<SealedIndex>) {
        let new = Part::of(sealed.into(), &self.few);
        self.change(|parts| {
            if let Some(part) = parts.iter_mut().find(|part| part.segment() == new.segment()) {
                *part = new.clone();
            }
        });
    }

    /// Sealed segments whose part is in memory.
    #[must_use]
    pub fn unwritten(&self) -> Vec<u32> {
        let parts = self.parts.load();
        let sealed = parts.split_last().map(|(_open, sealed)| sealed).unwrap_or_default();
        let in_memory = sealed.iter().filter(|part| matches!(part, Part::Memory(_)));
        in_memory.map(Part::segment).collect()
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Part>)) {
        let _guard = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut parts = self.parts.load().as_ref().clone();
        change(&mut parts);
        self.parts.store(Arc::new(parts));
    }

    /// Events of a key with `after < position <= until`, ascending, at most `limit`; private ones
    /// included.
    ///
    /// # Errors
    /// An index file cannot be read or is damaged.
    pub fn key_entries(
        &self,
        key: KeyHash,
        after: Position,
        until: Position,
        limit: usize,
    ) -> Result<Vec<IndexEntry>, IndexError> {
        self.gather(
            limit,
            |span| span.overlaps(after, until),
            |part, left| match part {
                Part::File(file) => file.key_entries(key, after, until, left),
                Part::Memory(open) => {
                    open.ask_by_key(|open| open.key_entries(key, after, until, left))
                }
            },
        )
    }

    /// Positions of the events of a type with `after < position <= until`, ascending, at most
    /// `limit`; private ones included.
    ///
    /// # Errors
    /// An index file cannot be read or is damaged.
    pub fn type_positions(
        &self,
        kind: &str,
        after: Position,
        until: Position,
        limit: usize,
    ) -> Result<Vec<Position>, IndexError> {
        self.gather(
            limit,
            |span| span.overlaps(after, until),
            |part, left| match part {
                Part::File(file) => file.type_positions(kind, after, until, left),
                Part::Memory(open) => {
                    open.ask(|open| open.type_positions(kind, after, until, left))
                }
            },
        )
    }

    /// Completions of a plugin and key with `after < commit <= until`, ascending, at most `limit`.
    ///
    /// # Errors
    /// An index file cannot be read or is damaged.
    pub fn completions(
        &self,
        instance: InstanceId,
        key: KeyHash,
        after: CommitNumber,
        until: CommitNumber,
        limit: usize,
    ) -> Result<Vec<CompletionEntry>, IndexError> {
        let overlaps =
            |span: &SegmentSpan| span.base.first_commit <= until && span.last_commit > after;
        self.gather(limit, overlaps, |part, left| match part {
            Part::File(file) => file.completions(instance, key, after, until, left),
            Part::Memory(open) => {
                open.ask_by_key(|open| open.completions(instance, key, after, until, left))
            }
        })
    }

    fn gather<T>(
        &self,
        limit: usize,
        concerns: impl Fn(&SegmentSpan) -> bool,
        ask: impl Fn(&Part, usize) -> Result<Vec<T>, IndexError>,
    ) -> Result<Vec<T>, IndexError> {
        let parts = self.parts.load_full();
        let mut found = Vec::new();
        for part in parts.iter() {
            if found.len() >= limit {
                break;
            }
            if !concerns(&part.span()?) {
                continue;
            }
            found.append(&mut ask(part, limit - found.len())?);
        }
        Ok(found)
    }

    /// Every type of the log, ascending by name.
    ///
    /// # Errors
    /// An index file cannot be read or is damaged.
    pub fn types(&self) -> Result<Vec<TypeStat>, IndexError> {
        let mut all: BTreeMap<Arc<str>, TypeStat> = BTreeMap::new();
        for part in self.parts.load_full().iter() {
            let stats = match part {
                Part::File(file) => file.types()?,
                Part::Memory(open) => open.ask(SegmentIndexBuilder::types)?,
            };
            for stat in stats {
                let Some(known) = all.get_mut(&stat.kind) else {
                    all.insert(stat.kind.clone(), stat);
                    continue;
                };
                known.count += stat.count;
                known.private_count += stat.private_count;
                known.last_position = stat.last_position;
                known.last_ms = stat.last_ms;
            }
        }
        Ok(all.into_values().collect())
    }

    /// The last marked frame that starts at or before a position: reading on from it finds the
    /// event. None: the position is before the log.
    ///
    /// # Errors
    /// An index file cannot be read or is damaged.
    pub fn frame_of_position(&self, position: Position) -> Result<Option<FramePlace>, IndexError> {
        self.place(
            |span| span.base.first_position <= position,
            |file| file.frame_of_position(position),
            |open| open.frame_of_position(position),
        )
    }

    /// The last marked frame that starts at or before a commit. None: it is before the log.
    ///
    /// # Errors
    /// An index file cannot be read or is damaged.
    pub fn frame_of_commit(&self, commit: CommitNumber) -> Result<Option<FramePlace>, IndexError> {
        self.place(
            |span| span.base.first_commit <= commit,
            |file| file.frame_of_commit(commit),
            |open| open.frame_of_commit(commit),
        )
    }

    /// The last marked frame older than a log time: what was taken at that time or later stands
    /// after its start. None: the whole log is as young or younger.
    ///
    /// # Errors
    /// An index file cannot be read or is damaged.
    pub fn frame_before_time(&self, time_ms: u64) -> Result<Option<FramePlace>, IndexError> {
        self.place(
            |span| span.base.first_ms < time_ms,
            |file| file.frame_before_time(time_ms),
            |open| open.frame_before_time(time_ms),
        )
    }

    /// The mark in the last part that starts early enough and has one. (A part may have none yet.)
    fn place(
        &self,
        starts_before: impl Fn(&SegmentSpan) -> bool,
        in_file: impl Fn(&IndexFile) -> Result<Option<FrameMark>, IndexError>,
        in_memory: impl Fn(&SegmentIndexBuilder) -> Option<FrameMark>,
    ) -> Result<Option<FramePlace>, IndexError> {
        for part in self.parts.load_full().iter().rev() {
            let span = part.span()?;
            if !starts_before(&span) {
                continue;
            }
            let mark = match part {
                Part::File(file) => in_file(file)?,
                Part::Memory(open) => open.ask(&in_memory)?,
            };
            if let Some(mark) = mark {
                return Ok(Some(FramePlace { segment: span.base.segment, mark }));
            }
        }
        Ok(None)
    }

    /// Fills a table of key heads from the segments that hold commits after `after`.
    ///
    /// # Errors
    /// An index file cannot be read or is damaged; heads may be missing then.
    pub fn refill_heads(&self, heads: &Heads, after: CommitNumber) -> Result<(), IndexError> {
        for part in self.parts.load_full().iter() {
            if part.span()?.last_commit <= after {
                continue;
            }
            heads.refill(|take| match part {
                Part::File(file) => file.for_each_head(take),
                Part::Memory(open) => open.ask(|open| open.for_each_head(take)),
            })?;
        }
        Ok(())
    }

    /// How many identities [`LogIndex::refill_dedup`] would read.
    ///
    /// # Errors
    /// A frame of the open segment cannot be entered.
    pub fn recent_ids(&self, dedup: &Dedup, now_ms: u64) -> Result<u64, IndexError> {
        Ok(recent(&self.parts.load_full(), dedup, now_ms)?.1)
    }

    /// Fills an empty table of recent identities with what its window and count hold at `now_ms`.
    /// Asks `goes_on` now and then, and leaves the table as it is then where that says no.
    ///
    /// # Errors
    /// An index file cannot be read or is damaged; identities may be missing then.
    pub fn refill_dedup(
        &self,
        dedup: &Dedup,
        now_ms: u64,
        goes_on: impl Fn() -> bool,
    ) -> Result<(), IndexError> {
        let parts = self.parts.load_full();
        let (first, ids) = recent(&parts, dedup, now_ms)?;
        // One identity more than the table holds: so it knows that there were older ones.
        let mut skip = ids.saturating_sub(dedup.count_max() as u64 + 1);
        dedup.refill(usize::try_from(ids - skip).unwrap_or_default(), |take| {
            for part in parts.iter().skip(first).take_while(|_| goes_on()) {
                let from = skip.min(part.ids()?);
                skip -= from;
                match part {
                    Part::File(file) => file.for_each_id(from, &mut *take)?,
                    Part::Memory(open) => open.ask(|open| open.for_each_id(from, &mut *take))?,
                }
            }
            Ok(())
        })?;
        dedup.expire(now_ms);
        Ok(())
    }
}

/// The first part with identities that a table holds at `now_ms`, and how many there are from it on.
fn recent(parts: &[Part], dedup: &Dedup, now_ms: u64) -> Result<(usize, u64), IndexError> {
    let (mut first, mut ids) = (parts.len(), 0);
    while first > 0 && ids <= dedup.count_max() as u64 {
        let Some(part) = parts.get(first - 1) else { break };
        if part.span()?.last_ms.saturating_add(dedup.window_ms()) < now_ms {
            break;
        }
        ids += part.ids()?;
        first -= 1;
    }
    Ok((first, ids))
}

impl From<IndexFile> for SealedIndex {
    fn from(file: IndexFile) -> Self {
        Self::File(file)
    }
}

impl Part {
    fn of(sealed: SealedIndex, few: &Arc<FewOpen>) -> Self {
        match sealed {
            SealedIndex::File(file) => Self::File(Arc::new(file.among(few))),
            SealedIndex::Memory(index) => Self::Memory(Arc::new(OpenIndex::new(index))),
        }
    }

    fn segment(&self) -> u32 {
        match self {
            Self::File(file) => file.span().base.segment,
            Self::Memory(open) => open.segment(),
        }
    }

    fn span(&self) -> Result<SegmentSpan, IndexError> {
        match self {
            Self::File(file) => Ok(*file.span()),
            Self::Memory(open) => open.ask(SegmentIndexBuilder::span),
        }
    }

    fn ids(&self) -> Result<u64, IndexError> {
        match self {
            Self::File(file) => Ok(file.ids()),
            Self::Memory(open) => open.ask(SegmentIndexBuilder::ids),
        }
    }
}

impl SegmentSpan {
    /// Whether it may have an event with `after < position <= until`.
    #[must_use]
    pub fn overlaps(&self, after: Position, until: Position) -> bool {
        self.events > 0 && self.base.first_position <= until && self.last_position > after
    }
}

#[cfg(test)]
mod tests;
