//! What can be wrong with a log, named so that a person can act on it.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::ToolError;
use super::files::io_error;
use crate::log::codec::DecodeError;
use crate::log::error::{self, OpenError};
use crate::log::recovery::UNFINISHED;
use crate::log::segment::segment_path;

/// A run of numbers, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Span {
    /// The first.
    pub first: u64,
    /// The last; none: it cannot be told.
    pub last: Option<u64>,
}

impl Span {
    /// `count` numbers from `first` on; none where there are none.
    pub(super) fn of(first: u64, count: u64) -> Option<Self> {
        let last = first.checked_add(count.checked_sub(1)?);
        Some(Self { first, last })
    }

    /// From `first` up to, not including, `end`; none where there is nothing between.
    pub(super) fn until(first: u64, end: u64) -> Option<Self> {
        Self::of(first, end.saturating_sub(first))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.last {
            Some(last) if last == self.first => write!(f, "{last}"),
            Some(last) => write!(f, "{}-{last}", self.first),
            None => write!(f, "{} and up", self.first),
        }
    }
}

/// The sort of a [`Damage`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DamageKind {
    /// Bytes are not what was written.
    Checksum,
    /// There is no frame where one should be.
    NotAFrame,
    /// The file ends inside a frame.
    Cut,
    /// Commits are missing.
    Gap,
    /// A frame stands here again.
    Repeated,
    /// The hash chain does not hold.
    Chain,
    /// Numbers or times do not follow on.
    Order,
    /// A whole frame says what it must not.
    Content,
    /// The file belongs to another segment or log.
    Foreign,
    /// A segment before the last has no seal.
    NotSealed,
    /// The seal says something else than its segment.
    Seal,
    /// Something stands behind the seal.
    BehindSeal,
    /// A segment file is not there.
    MissingSegment,
    /// A newer host wrote this.
    Version,
    /// An index file is damaged or does not fit its segment.
    Index,
    /// A repair was interrupted.
    InRepair,
}

/// One place where a log is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// What sort.
    pub kind: DamageKind,
    /// The file.
    pub file: PathBuf,
    /// Where in the file the damaged part starts, in bytes.
    pub offset: u64,
    /// Bytes of the damaged part, where it can be told.
    pub bytes: Option<u64>,
    /// What is wrong, for people.
    pub what: String,
    /// Commits that are lost or doubtful.
    pub commits: Option<Span>,
    /// Positions of events that are lost or doubtful.
    pub positions: Option<Span>,
}

impl Damage {
    /// A frame that says what it must not.
    pub(super) fn content(file: &Path, offset: u64, what: String) -> Self {
        let (kind, file) = (DamageKind::Content, file.to_owned());
        Self { kind, file, offset, bytes: None, what, commits: None, positions: None }
    }

    /// What a start refuses a log for.
    ///
    /// # Errors
    /// It is not the log that it was refused for.
    pub(super) fn of_refusal(error: OpenError) -> Result<Self, ToolError> {
        let what = error.to_string();
        let at = |kind, file| Self { kind, ..Self::content(file, 0, what.clone()) };
        let from = |first| Some(Span { first, last: None });
        match error {
            OpenError::Damaged(damage) => Ok(Self::of_segment(&damage)),
            OpenError::Newer { path, .. } => Ok(at(DamageKind::Version, &path)),
            OpenError::Missing { dir, segment, first_commit, .. } => Ok(Self {
                what: format!("segment {segment} is missing"),
                commits: from(first_commit.0),
                ..at(DamageKind::MissingSegment, &segment_path(&dir, segment))
            }),
            OpenError::Shorter(shorter) => Ok(Self {
                what: format!(
                    "segments up to {} are missing, or the end of the last one: `{}` proves that there were \
                     commits up to {}",
                    shorter.segment,
                    shorter.proof.display(),
                    shorter.commit
                ),
                commits: Span::until(shorter.last_commit.0 + 1, shorter.commit.0 + 1),
                ..at(DamageKind::MissingSegment, &segment_path(&shorter.dir, shorter.segment))
            }),
            OpenError::InRepair { dir, .. } => Ok(Self {
                what: "a repair was interrupted: run it again".to_owned(),
                ..at(DamageKind::InRepair, &dir.join(UNFINISHED))
            }),
            OpenError::Io { path, source } => Err(io_error(&path, source)),
            OpenError::Index(error) => Err(error.into()),
            other @ (OpenError::Lock(_)
            | OpenError::Clock { .. }
            | OpenError::StorageFull { .. }
            | OpenError::NoRoomToCut { .. }
            | OpenError::Append(_)) => Err(ToolError::Refused(Box::new(other))),
        }
    }

    fn of_segment(damage: &error::Damage) -> Self {
        let kind = match damage.why {
            DecodeError::Short { .. } => DamageKind::Cut,
            DecodeError::Magic => DamageKind::NotAFrame,
            DecodeError::Version { .. } | DecodeError::Flags { .. } => DamageKind::Version,
            DecodeError::Foreign { .. } => DamageKind::Foreign,
            DecodeError::Checksum { .. } => DamageKind::Checksum,
            DecodeError::Chain => DamageKind::Chain,
            DecodeError::Order { .. } => DamageKind::Order,
            DecodeError::Unsealed => DamageKind::NotSealed,
            _ => DamageKind::Content,
        };
        let span = |first, next: Option<u64>| match next {
            Some(next) if next > first => Span::until(first, next),
            _ => Some(Span { first, last: None }),
        };
        let next = damage.next_whole;
        let commits = span(damage.first_commit.0, next.map(|(commit, _)| commit.0));
        let positions = span(damage.first_position.0, next.map(|(_, position)| position.0));
        let found = Self::content(&damage.path, damage.offset, damage.why.to_string());
        Self { kind, commits, positions, ..found }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.file.display(), self.offset)?;
        if let Some(bytes) = self.bytes {
            write!(f, " ({bytes} bytes)")?;
        }
        write!(f, ": {}", self.what)?;
        if let Some(commits) = self.commits {
            write!(f, "; commits {commits}")?;
        }
        if let Some(positions) = self.positions {
            write!(f, "; positions {positions}")?;
        }
        Ok(())
    }
}

/// The end of the last segment, where the next start goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogEnd {
    /// A seal: the host stopped in order.
    Sealed,
    /// A whole frame: the host was killed.
    Open,
    /// A torn frame, which the next start cuts off. It was never acknowledged.
    Torn {
        /// Where it starts, in bytes.
        offset: u64,
        /// Bytes up to the end of the file.
        bytes: u64,
    },
}
