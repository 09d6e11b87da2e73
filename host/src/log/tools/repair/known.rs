//! What derived files still know of commits that cannot be read: index files, the snapshot of key
//! heads, checkpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::super::ToolError;
use super::super::files::{BusFiles, io_error};
use super::survey::Survey;
use crate::event::{CommitNumber, Position};
use crate::log::index::{HeadsFile, IndexFile, IndexedCompletion, IndexedEvent, SegmentSpan};
use crate::state::checkpoint;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Known {
    indexes: BTreeMap<u32, IndexFile>,
    /// Segments of which it is known where they ended.
    ends: BTreeSet<u32>,
    /// The log had commits and positions up to these.
    end: (u64, u64),
    /// Checkpoints of other logs, and of other histories of this one.
    foreign: Vec<CommitNumber>,
}

/// What an index knows of a stretch.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) events: BTreeMap<Position, IndexedEvent>,
    pub(super) completions: Vec<IndexedCompletion>,
}

impl Known {
    /// Reads what there is for the damaged segments of a log.
    pub(super) fn gather(
        files: &BusFiles<'_>,
        log_id: &[u8; 16],
        survey: &Survey,
    ) -> Result<Self, ToolError> {
        let mut known = Self { end: survey.reached, ..Self::default() };
        for segment in survey.segments.iter().filter(|segment| segment.is_damaged) {
            let path = files.index_path(segment.number);
            let Ok(Some(index)) = IndexFile::open(files.disk, &path, log_id, segment.number) else {
                continue;
            };
            let SegmentSpan { last_commit, last_position, .. } = *index.span();
            known.reaches(last_commit.0, last_position.0);
            known.ends.insert(segment.number);
            // One that is damaged itself knows nothing else.
            if index.verify().is_ok() {
                known.indexes.insert(segment.number, index);
            }
        }
        if let Some((commit, position)) = HeadsFile::end(files.disk, &files.heads_path(), log_id) {
            known.reaches(commit.0, position.0);
        }
        let checkpoints = files.dir().join(checkpoint::DIR);
        if files.disk.list(&checkpoints).is_ok() {
            let commits = checkpoint::commits_in(files.disk, &checkpoints);
            for commit in commits.map_err(|source| io_error(&checkpoints, source))? {
                let origin = checkpoint::origin(files.disk, &checkpoints, commit);
                let is_foreign = origin.is_some_and(|(of, start)| {
                    let chain = survey.chain_behind(*log_id, commit);
                    of.as_bytes() != log_id || chain.is_some_and(|chain| !start.fits(&chain))
                });
                match is_foreign {
                    true => known.foreign.push(commit),
                    false => known.reaches(commit.0, 0),
                }
            }
        }
        Ok(known)
    }

    /// Commits of checkpoints that are not of this log, or of a copy of it that went on.
    pub(super) fn foreign(&self) -> &[CommitNumber] {
        &self.foreign
    }

    fn reaches(&mut self, commit: u64, position: u64) {
        self.end = (self.end.0.max(commit), self.end.1.max(position));
    }

    /// The last commit and the last position that the log is known to have had.
    pub(super) const fn end(&self) -> (u64, u64) {
        self.end
    }

    /// Whether it is known where a segment ended.
    pub(super) fn tells_end_of(&self, segment: u32) -> bool {
        self.ends.contains(&segment)
    }

    /// What a segment spanned.
    pub(super) fn span(&self, segment: u32) -> Option<&SegmentSpan> {
        self.indexes.get(&segment).map(IndexFile::span)
    }

    /// What is known of lost commits of a segment; none: nothing.
    pub(super) fn rows(
        &self,
        segment: u32,
        commits: Range<u64>,
        positions: Range<u64>,
    ) -> Option<Rows> {
        let index = self.indexes.get(&segment)?;
        let events =
            if positions.is_empty() { BTreeMap::new() } else { index.events_in(positions).ok()? };
        Some(Rows { events, completions: index.completions_in(commits).ok()? })
    }
}
