//! The index of the open segment, in memory: filled record by record, and asked at the same time.
//!
//! Memory: 28 bytes an event and 20 for its key, 16 an identity, 36 a completion, and about 60 a key
//! that was there when somebody asked for one.

use std::sync::Arc;

use hashbrown::HashMap;

use super::groups::Groups;
use super::row::{
    CompletionRow, EventRow, IdRow, addressee_code, addressee_of, emitter_code, emitter_of,
};
use super::{
    CompletionEntry, EventToIndex, FrameMark, IndexEntry, IndexError, SegmentBase, SegmentSeal,
    SegmentSpan, TypeStat, completion_hash, encode,
};
use crate::event::{CommitNumber, Generation, InstanceId, KeyHash, Position};
use crate::log::dedup::{DedupEntry, IdHash};
use crate::log::heads::Head;

/// Bytes of log between two frame marks: what a reader may have to skip.
const MARK_EVERY_BYTES: u64 = 16 * 1024;

/// The index of one segment while it grows. Lookups answer for what was added so far.
#[derive(Debug)]
pub struct SegmentIndexBuilder {
    pub(super) base: SegmentBase,
    /// Every event, in the order of positions.
    pub(super) events: Vec<EventRow>,
    pub(super) keys: Groups,
    pub(super) types: Vec<TypeEvents>,
    type_numbers: HashMap<Arc<str>, u32>,
    pub(super) completions: Vec<CompletionRow>,
    pub(super) completion_groups: Groups,
    pub(super) ids: Vec<IdRow>,
    pub(super) marks: Vec<FrameMark>,
    last_commit: CommitNumber,
    last_ms: u64,
}

/// One type of the segment.
#[derive(Debug)]
pub(super) struct TypeEvents {
    pub(super) kind: Arc<str>,
    /// Numbers of its events, ascending.
    pub(super) members: Vec<u32>,
    pub(super) private_count: u32,
    pub(super) last_ms: u64,
}

impl SegmentIndexBuilder {
    /// The index of a segment that has nothing yet.
    #[must_use]
    pub fn new(base: SegmentBase) -> Self {
        Self {
            base,
            events: Vec::new(),
            keys: Groups::default(),
            types: Vec::new(),
            type_numbers: HashMap::new(),
            completions: Vec::new(),
            completion_groups: Groups::default(),
            ids: Vec::new(),
            marks: Vec::new(),
            last_commit: CommitNumber(base.first_commit.0.saturating_sub(1)),
            last_ms: base.first_ms,
        }
    }

    /// Notes that a frame begins, before its records; `last_commit` is the last one in it.
    pub fn frame(&mut self, frame: FrameMark, last_commit: CommitNumber) {
        let is_due = self.marks.last().is_none_or(|mark| {
            frame.offset >= mark.offset.saturating_add(MARK_EVERY_BYTES)
                // A gap in time is where a search by time wants to land.
                || frame.time_ms >= mark.time_ms.saturating_add(60_000)
        });
        if is_due {
            self.marks.push(frame);
        }
        self.last_commit = self.last_commit.max(last_commit);
        self.last_ms = self.last_ms.max(frame.time_ms);
    }

    /// Adds an event. Events come in the order of positions.
    ///
    /// # Errors
    /// [`IndexError::OutOfRange`] where it is too far from the segment's start.
    pub fn event(&mut self, event: &EventToIndex<'_>) -> Result<(), IndexError> {
        let out_of_range = |what| IndexError::OutOfRange { segment: self.base.segment, what };
        let above = self.base.position_above(event.position);
        let position = above.ok_or_else(|| out_of_range("position"))?;
        let number = u32::try_from(self.events.len()).map_err(|_| out_of_range("count"))?;
        let addressee = addressee_code(event.addressee).ok_or_else(|| out_of_range("addressee"))?;
        let emitter = emitter_code(event.emitter).ok_or_else(|| out_of_range("emitter"))?;
        let kind = self.type_number(event.kind)?;
        let sequence = event.sequence.0;
        self.events.push(EventRow { position, kind, sequence, addressee, emitter });
        if let Some(key) = event.key {
            self.keys.push(key.0, number);
        }
        if let Some(known) = self.types.get_mut(kind as usize) {
            known.members.push(number);
            known.private_count += u32::from(addressee != 0);
            known.last_ms = event.recorded_ms;
        }
        if let Some(IdHash(hash)) = event.id {
            let seconds = self.base.seconds_above(event.recorded_ms);
            self.ids.push(IdRow { hash, position, seconds });
        }
        Ok(())
    }

    /// Adds a completion of a keyed event. Completions come in the order of commits.
    ///
    /// # Errors
    /// [`IndexError::OutOfRange`] where its commit is too far from the segment's start.
    pub fn completion(
        &mut self,
        instance: InstanceId,
        key: KeyHash,
        completion: CompletionEntry,
    ) -> Result<(), IndexError> {
        let segment = self.base.segment;
        let out_of_range = |what| IndexError::OutOfRange { segment, what };
        let above = self.base.commit_above(completion.commit);
        let commit = above.ok_or_else(|| out_of_range("commit"))?;
        let number = u32::try_from(self.completions.len()).map_err(|_| out_of_range("count"))?;
        let generation = completion.generation.0;
        let position = completion.position.0;
        self.completions.push(CompletionRow { commit, generation, position });
        self.completion_groups.push(completion_hash(instance, key), number);
        Ok(())
    }

    fn type_number(&mut self, kind: &str) -> Result<u32, IndexError> {
        if let Some(number) = self.type_numbers.get(kind) {
            return Ok(*number);
        }
        let out_of_range = IndexError::OutOfRange { segment: self.base.segment, what: "type" };
        let number = u32::try_from(self.types.len()).map_err(|_| out_of_range)?;
        let kind: Arc<str> = kind.into();
        self.type_numbers.insert(kind.clone(), number);
        self.types.push(TypeEvents { kind, members: Vec::new(), private_count: 0, last_ms: 0 });
        Ok(number)
    }

    /// The index file of the segment, which must be sealed by now.
    ///
    /// # Errors
    /// [`IndexError::OutOfRange`] where a count has more than 32 bits.
    pub fn encode(&self, seal: SegmentSeal) -> Result<Vec<u8>, IndexError> {
        encode::encode(self, seal)
    }

    /// What the segment spans so far.
    #[must_use]
    pub fn span(&self) -> SegmentSpan {
        let before = Position(self.base.first_position.0.saturating_sub(1));
        SegmentSpan {
            base: self.base,
            last_commit: self.last_commit,
            last_position: self.events.last().map_or(before, |e| self.base.position(e.position)),
            last_ms: self.last_ms,
            events: self.events.len() as u64,
            seal: SegmentSeal::default(),
        }
    }

    /// Events of a key with `after < position <= until`, ascending, at most `limit`; private ones
    /// included.
    #[must_use]
    pub fn key_entries(
        &self,
        key: KeyHash,
        after: Position,
        until: Position,
        limit: usize,
    ) -> Vec<IndexEntry> {
        let members = self.keys.get(key.0);
        let rows = self.between(&members, after, until, limit);
        rows.map(|row| self.entry(row)).collect()
    }

    /// Positions of the events of a type with `after < position <= until`, ascending, at most
    /// `limit`; private ones included.
    #[must_use]
    pub fn type_positions(
        &self,
        kind: &str,
        after: Position,
        until: Position,
        limit: usize,
    ) -> Vec<Position> {
        let number = self.type_numbers.get(kind);
        let known = number.and_then(|number| self.types.get(*number as usize));
        let members = known.map_or(&[][..], |known| &known.members);
        let rows = self.between(members, after, until, limit);
        rows.map(|row| self.base.position(row.position)).collect()
    }

    fn between<'a>(
        &'a self,
        members: &'a [u32],
        after: Position,
        until: Position,
        limit: usize,
    ) -> impl Iterator<Item = &'a EventRow> + 'a {
        let position = |number: u32| {
            self.events.get(number as usize).map(|row| self.base.position(row.position))
        };
        let start = members.partition_point(|number| position(*number) <= Some(after));
        let rest = members.get(start..).unwrap_or_default().iter();
        let rows = rest.filter_map(|number| self.events.get(*number as usize));
        rows.take_while(move |row| self.base.position(row.position) <= until).take(limit)
    }

    fn entry(&self, row: &EventRow) -> IndexEntry {
        let kind = self.types.get(row.kind as usize).map(|known| known.kind.clone());
        IndexEntry {
            position: self.base.position(row.position),
            sequence: row.key_sequence(),
            kind: kind.unwrap_or_default(),
            addressee: addressee_of(row.addressee),
            emitter: emitter_of(row.emitter),
        }
    }

    /// Completions of a plugin and key with `after < commit <= until`, ascending, at most `limit`.
    #[must_use]
    pub fn completions(
        &self,
        instance: InstanceId,
        key: KeyHash,
        after: CommitNumber,
        until: CommitNumber,
        limit: usize,
    ) -> Vec<CompletionEntry> {
        let members = self.completion_groups.get(completion_hash(instance, key));
        let row = |number: &u32| self.completions.get(*number as usize);
        let commit = |number: &u32| row(number).map(|row| self.base.commit(row.commit));
        let start = members.partition_point(|number| commit(number) <= Some(after));
        let rest = members.get(start..).unwrap_or_default().iter().filter_map(row);
        rest.map(|row| CompletionEntry {
            commit: self.base.commit(row.commit),
            position: Position(row.position),
            generation: Generation(row.generation),
        })
        .take_while(|entry| entry.commit <= until)
        .take(limit)
        .collect()
    }

    /// Every type of the segment, in no order.
    #[must_use]
    pub fn types(&self) -> Vec<TypeStat> {
        self.types.iter().map(|known| self.type_stat(known)).collect()
    }

    fn type_stat(&self, known: &TypeEvents) -> TypeStat {
        let position = |number: Option<&u32>| {
            let row = number.and_then(|number| self.events.get(*number as usize));
            row.map_or(self.base.first_position, |row| self.base.position(row.position))
        };
        let private_count = u64::from(known.private_count);
        TypeStat {
            kind: known.kind.clone(),
            count: known.members.len() as u64 - private_count,
            private_count,
            first_position: position(known.members.first()),
            last_position: position(known.members.last()),
            last_ms: known.last_ms,
        }
    }

    /// The last marked frame that starts at or before a position: reading on from it finds the
    /// event. None: the position is before the segment.
    #[must_use]
    pub fn frame_of_position(&self, position: Position) -> Option<FrameMark> {
        self.mark_before(|mark| mark.first_position <= position)
    }

    /// The last marked frame that starts at or before a commit. None: it is before the segment.
    #[must_use]
    pub fn frame_of_commit(&self, commit: CommitNumber) -> Option<FrameMark> {
        self.mark_before(|mark| mark.first_commit <= commit)
    }

    /// The last marked frame older than a log time: what was taken at that time or later stands
    /// after its start. None: the whole segment is as young or younger.
    #[must_use]
    pub fn frame_before_time(&self, time_ms: u64) -> Option<FrameMark> {
        self.mark_before(|mark| mark.time_ms < time_ms)
    }

    fn mark_before(&self, holds: impl Fn(&FrameMark) -> bool) -> Option<FrameMark> {
        let count = self.marks.partition_point(holds);
        self.marks.get(count.checked_sub(1)?).copied()
    }

    /// Identities in the segment.
    #[must_use]
    pub fn ids(&self) -> u64 {
        self.ids.len() as u64
    }

    /// The identities of the segment but for the first `skip`, ascending by position; times are exact
    /// to a second.
    pub fn for_each_id(&self, skip: u64, mut visit: impl FnMut(DedupEntry)) {
        for row in self.ids.iter().skip(usize::try_from(skip).unwrap_or(usize::MAX)) {
            visit(DedupEntry {
                hash: IdHash(row.hash),
                position: self.base.position(row.position),
                time_ms: self.base.time_ms(row.seconds),
            });
        }
    }

    /// Events with a key sequence, keys in no order: of each key ascending, the last one among them.
    pub fn for_each_head(&self, mut visit: impl FnMut(KeyHash, Head)) {
        self.keys.for_each(|hash, members| {
            if let Some(row) = self.head(members) {
                let position = self.base.position(row.position);
                visit(KeyHash(hash), Head { sequence: row.key_sequence(), position });
            }
        });
    }

    /// Whether questions by key are answered faster after [`Self::group`].
    #[must_use]
    pub const fn is_ungrouped(&self) -> bool {
        self.keys.waits_long() || self.completion_groups.waits_long()
    }

    /// Makes questions by key fast.
    pub fn group(&mut self) {
        self.keys.enter();
        self.completion_groups.enter();
    }

    pub(super) fn head(&self, members: &[u32]) -> Option<&EventRow> {
        let rows = members.iter().rev().filter_map(|number| self.events.get(*number as usize));
        rows.into_iter().find(|row| row.sequence > 0)
    }
}
