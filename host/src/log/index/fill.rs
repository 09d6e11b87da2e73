//! Fills an index from frames, the same whether they were just written or are read again.

use super::{
    CompletionEntry, EventToIndex, FrameMark, IndexError, IndexedAddressee, SegmentBase,
    SegmentIndexBuilder,
};
use crate::event::{CommitNumber, Heading, Position, To};
use crate::log::codec::{Completed, DecodeError, Header, RecordRef, kind};
use crate::log::dedup::{IdHash, IdHasher};
use crate::log::frame::{Entry, Frame};

/// Why a frame cannot be indexed.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    /// A record is not what its kind says.
    #[error("record cannot be indexed: {0}")]
    Decode(#[from] DecodeError),
    /// It does not fit this segment's index.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// The identity of an event where it counts for deduplication: events that plugins emit, private
/// ones and those forwarded from another bus are unique by other means.
fn dedup_id(entry: &Entry<'_>, ids: &IdHasher) -> Result<Option<IdHash>, DecodeError> {
    let Heading { emitter, to, is_forwarded, .. } = entry.heading;
    if emitter.is_some() || to != To::Everybody || is_forwarded {
        return Ok(None);
    }
    if let Some(known) = entry.id() {
        return Ok(Some(known));
    }
    let event = entry.read()?;
    Ok(Some(ids.of(event.source, event.id)))
}

impl SegmentBase {
    /// The base of the segment whose first frame has this header.
    #[must_use]
    pub const fn of(first: &Header) -> Self {
        Self {
            log_id: first.log_id,
            segment: first.segment,
            first_commit: CommitNumber(first.first_commit),
            first_position: Position(first.first_position),
            first_ms: first.time_ms,
        }
    }
}

impl SegmentIndexBuilder {
    /// Adds a frame that starts at `offset` of the segment file, with all its records. Frames come
    /// in their order; a seal adds nothing.
    ///
    /// # Errors
    /// A record does not decode, or is out of the range of the index. What came before it is there.
    pub fn add_frame(
        &mut self,
        frame: &Frame,
        offset: u64,
        ids: &IdHasher,
    ) -> Result<(), FillError> {
        let header = frame.header();
        if header.is_seal() {
            return Ok(());
        }
        let mark = FrameMark {
            offset,
            first_commit: frame.first_commit(),
            first_position: Position(header.first_position),
            time_ms: header.time_ms,
        };
        self.frame(mark, frame.last_commit());
        for entry in frame.entries()? {
            self.event(&to_index(&entry, ids)?)?;
        }
        match frame.completed() {
            Some(all) => all.iter().try_for_each(|completed| self.completed(completed)),
            None => self.read_completed(frame),
        }
    }

    fn read_completed(&mut self, frame: &Frame) -> Result<(), FillError> {
        for commit in frame.commits() {
            let commit = commit?;
            let mut records = commit.records();
            while let Some(raw) = records.next_raw() {
                let (raw, position) = raw?;
                // The rest says nothing that an index holds, so its bodies stay unread.
                if raw.kind != kind::COMPLETION {
                    continue;
                }
                if let RecordRef::Completion(done) = records.read(&raw, position)?
                    && let Some(completed) = done.completed(commit.number)
                {
                    self.completed(&completed)?;
                }
            }
        }
        Ok(())
    }

    fn completed(&mut self, completed: &Completed) -> Result<(), FillError> {
        let Completed { instance, generation, position, key, commit } = *completed;
        self.completion(instance, key, CompletionEntry { commit, position, generation })?;
        Ok(())
    }
}

fn to_index<'a>(entry: &Entry<'a>, ids: &IdHasher) -> Result<EventToIndex<'a>, DecodeError> {
    let heading = entry.heading;
    let raw = entry.raw()?;
    Ok(EventToIndex {
        position: heading.position,
        recorded_ms: heading.recorded_ms,
        kind: heading.kind,
        key: raw.key_hash,
        sequence: raw.sequence,
        addressee: match heading.to {
            To::Everybody => IndexedAddressee::Public,
            To::Plugin(instance) => IndexedAddressee::Plugin(instance),
            To::Bus => IndexedAddressee::Bus,
        },
        emitter: heading.emitter,
        id: dedup_id(entry, ids)?,
    })
}
