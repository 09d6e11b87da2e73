//! Everything an index file knows of a stretch of its segment: what is left to say of records that
//! cannot be read any more.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::encode::Section;
use super::row::{CompletionRow, EventRow, GroupRow, addressee_of, emitter_of};
use super::{IndexError, IndexFile, IndexedAddressee, completion_hash};
use crate::event::{CommitNumber, Generation, InstanceId, KeyHash, KeySequence, Position};

/// An event, as far as an index knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexedEvent {
    /// CloudEvents `type`.
    pub kind: Arc<str>,
    /// Hash of its key; none: unkeyed.
    pub key: Option<KeyHash>,
    /// Number within its key; 0: unkeyed or private.
    pub sequence: KeySequence,
    /// Who alone gets it, of a keyed event.
    pub addressee: IndexedAddressee,
    /// The plugin that emitted it, of a keyed event.
    pub emitter: Option<InstanceId>,
}

/// A completion of a keyed event, as far as an index knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexedCompletion {
    hash: u128,
    /// The commit that holds it.
    pub commit: CommitNumber,
    /// The input event.
    pub position: Position,
    /// The plugin's generation.
    pub generation: Generation,
}

impl IndexedCompletion {
    /// Whether it is of this plugin and key.
    #[must_use]
    pub fn is_of(&self, instance: InstanceId, key: KeyHash) -> bool {
        self.hash == completion_hash(instance, key)
    }
}

impl IndexFile {
    /// All events at positions in a range, by position.
    ///
    /// # Errors
    /// [`IndexError::Io`], [`IndexError::Damaged`].
    pub fn events_in(
        &self,
        positions: Range<u64>,
    ) -> Result<BTreeMap<Position, IndexedEvent>, IndexError> {
        let mut found = BTreeMap::new();
        let (after, until) = (
            Position(positions.start.saturating_sub(1)),
            Position(positions.end.saturating_sub(1)),
        );
        for stat in self.types()? {
            for position in self.type_positions(&stat.kind, after, until, usize::MAX)? {
                let event = IndexedEvent {
                    kind: stat.kind.clone(),
                    key: None,
                    sequence: KeySequence(0),
                    addressee: IndexedAddressee::Public,
                    emitter: None,
                };
                found.insert(position, event);
            }
        }
        let base = self.header.span.base;
        self.for_each_of_group(Section::KeyGroups, Section::KeyEvents, |hash, row: EventRow| {
            if let Some(event) = found.get_mut(&base.position(row.position)) {
                event.key = Some(KeyHash(hash));
                event.sequence = row.key_sequence();
                event.addressee = addressee_of(row.addressee);
                event.emitter = emitter_of(row.emitter);
            }
        })?;
        Ok(found)
    }

    /// All completions of keyed events in a range of commits, in no order.
    ///
    /// # Errors
    /// [`IndexError::Io`], [`IndexError::Damaged`].
    pub fn completions_in(
        &self,
        commits: Range<u64>,
    ) -> Result<Vec<IndexedCompletion>, IndexError> {
        let base = self.header.span.base;
        let mut found = Vec::new();
        let (groups, section) = (Section::CompletionGroups, Section::Completions);
        self.for_each_of_group(groups, section, |hash, row: CompletionRow| {
            let commit = base.commit(row.commit);
            if commits.contains(&commit.0) {
                let (position, generation) = (Position(row.position), Generation(row.generation));
                found.push(IndexedCompletion { hash, commit, position, generation });
            }
        })?;
        Ok(found)
    }

    /// Goes through the entries of all groups, with the hash of each.
    fn for_each_of_group<R: super::row::Row>(
        &self,
        groups: Section,
        section: Section,
        mut visit: impl FnMut(u128, R),
    ) -> Result<(), IndexError> {
        let mut starts: Vec<(u64, u128)> = Vec::new();
        self.for_each::<GroupRow>(groups, |row| {
            starts.push((row.first.into(), row.hash));
            Ok(())
        })?;
        let mut starts = starts.into_iter().peekable();
        let (mut at, mut hash) = (0_u64, 0);
        self.for_each::<R>(section, |row| {
            while let Some((_, next)) = starts.next_if(|(first, _)| *first <= at) {
                hash = next;
            }
            visit(hash, row);
            at += 1;
            Ok(())
        })
    }
}
