//! What derived files prove of a log: that it once went further than its segments do.
//!
//! Rule: only what cannot have been written before what it tells of was durable is proof: an index file,
//! whose segment was sealed, and the snapshot of key heads, which follows on the seal of a clean stop. A
//! checkpoint is proof only where no frame is left: whoever puts an older log back, with its index, may
//! leave newer checkpoints beside it, and a start sets those aside.

use std::path::PathBuf;

use super::Folders;
use crate::event::CommitNumber;
use crate::log::disk::Disk;
use crate::log::error::{OpenError, Shorter};
use crate::log::index::{HeadsFile, IndexFile};
use crate::log::segment::Tip;
use crate::state::checkpoint;

/// Where a log ends, by its segments.
#[derive(Debug, Clone, Copy)]
pub(in crate::log) struct End {
    /// The segment that its next frame would be in.
    pub(in crate::log) segment: u32,
    /// Its last commit; 0: none.
    pub(in crate::log) commit: CommitNumber,
}

impl End {
    /// Of a log without a frame.
    pub(in crate::log) const NONE: Self = Self { segment: 1, commit: CommitNumber(0) };

    /// Behind so many sealed segments.
    pub(super) fn behind(sealed: usize, tip: &Tip) -> Self {
        let segment = u32::try_from(sealed).unwrap_or(u32::MAX).saturating_add(1);
        Self { segment, commit: tip.last_commit() }
    }
}

/// What proves that a log went on.
#[derive(Debug)]
pub(in crate::log) struct Proof {
    log_id: [u8; 16],
    path: PathBuf,
    /// The last segment that there was, as far as this tells.
    segment: u32,
    /// The last commit that it tells of.
    commit: CommitNumber,
}

impl Proof {
    /// That a log went on behind an end.
    pub(in crate::log) fn beyond(
        disk: &dyn Disk,
        folders: &Folders,
        log_id: [u8; 16],
        end: End,
    ) -> Result<Option<Self>, OpenError> {
        let numbers = folders.index_numbers(disk)?;
        let ahead = numbers.into_iter().rev().take_while(|number| *number >= end.segment);
        let of_index = ahead.into_iter().find_map(|segment| {
            let path = folders.index_file(segment);
            // One that cannot be read tells nothing.
            let index = IndexFile::open(disk, &path, &log_id, segment).ok()??;
            Some(Self { log_id, path, segment, commit: index.span().last_commit })
        });
        let of_heads = || {
            let path = folders.heads_file();
            let is_ahead = |commit: CommitNumber| commit > end.commit;
            let file =
                HeadsFile::find(disk, &path, &log_id, |mark| is_ahead(mark.commit)).ok()??;
            let commit = file.mark().commit;
            Some(Self { log_id, path, segment: end.segment, commit })
        };
        Ok(of_index.or_else(of_heads))
    }

    /// That there was a log where no frame of one is left.
    pub(in crate::log) fn of_lost(
        disk: &dyn Disk,
        folders: &Folders,
    ) -> Result<Option<Self>, OpenError> {
        let heads = folders.heads_file();
        let mut log_ids: Vec<_> = HeadsFile::log_id(disk, &heads).into_iter().collect();
        for number in folders.index_numbers(disk)?.into_iter().rev() {
            log_ids.extend(IndexFile::log_id(disk, &folders.index_file(number)));
        }
        log_ids.dedup();
        for log_id in log_ids {
            let proof = Self::beyond(disk, folders, log_id, End::NONE)?;
            if proof.is_some() {
                return Ok(proof);
            }
        }
        let newest = checkpoint::newest_header(disk, &folders.bus.join(checkpoint::DIR));
        Ok(newest.map(|(path, log_id, commit)| {
            let log_id = log_id.into_bytes();
            Self { log_id, path, segment: End::NONE.segment, commit }
        }))
    }

    /// The log that it is of.
    pub(in crate::log) const fn log_id(&self) -> [u8; 16] {
        self.log_id
    }

    /// Why a log that ends there is refused.
    pub(in crate::log) fn refusal(self, folders: &Folders, end: End) -> Box<Shorter> {
        Box::new(Shorter {
            dir: folders.segments.clone(),
            segment: self.segment,
            last_commit: end.commit,
            proof: self.path,
            commit: self.commit,
            data_dir: folders.data_dir(),
        })
    }
}
