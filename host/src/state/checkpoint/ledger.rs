//! The ledger of the newest good checkpoint, for who looks at a bus that no host has open.
//!
//! Rule: reads only; what is damaged is passed over and stays where it is.

use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::format::{ChainStart, HEADER_BYTES, Header, Kind};
use super::read::{Expected, Reader, Refused, decode_ledger};
use super::{commits_in, path_in};
use crate::event::CommitNumber;
use crate::log::disk::{Disk, DiskFile, read_up_to};
use crate::state::ledger::{At, Ledger};

/// The ledger of the newest checkpoint of a log that is whole and not of these commits, and where it
/// stands. Values are read for their checksums only.
#[must_use]
pub fn newest_ledger(
    disk: &dyn Disk,
    dir: &Path,
    log_id: Uuid,
    but: &[CommitNumber],
) -> Option<(Ledger, At)> {
    let mut commits = commits_in(disk, dir).ok()?;
    commits.retain(|commit| !but.contains(commit));
    commits.into_iter().rev().find_map(|commit| {
        let file = disk.open_read(&path_in(dir, commit)).ok()?;
        ledger(&*file, Expected { log_id, commit }).ok()
    })
}

/// The newest checkpoint whose header is whole, of whatever log: its file, the log, and its commit.
#[must_use]
pub fn newest_header(disk: &dyn Disk, dir: &Path) -> Option<(PathBuf, Uuid, CommitNumber)> {
    let commits = commits_in(disk, dir).ok()?;
    commits.into_iter().rev().find_map(|commit| {
        let header = header(disk, dir, commit)?;
        Some((path_in(dir, commit), header.log_id, commit))
    })
}

/// The log that a checkpoint is of, and what that is to have behind its commit; none: its header is not
/// whole.
#[must_use]
pub fn origin(disk: &dyn Disk, dir: &Path, commit: CommitNumber) -> Option<(Uuid, ChainStart)> {
    header(disk, dir, commit).map(|header| (header.log_id, header.chain))
}

fn header(disk: &dyn Disk, dir: &Path, commit: CommitNumber) -> Option<Header> {
    let file = disk.open_read(&path_in(dir, commit)).ok()?;
    let bytes = read_up_to(&*file, 0, HEADER_BYTES).ok()?;
    Header::decode(&bytes).ok().filter(|header| header.at.commit == commit)
}

fn ledger(file: &dyn DiskFile, expected: Expected) -> Result<(Ledger, At), Refused> {
    let mut reader = Reader::new(file)?;
    let header = reader.header(expected)?;
    let mut ledger = Vec::new();
    loop {
        match reader.chunk(header.salt())? {
            (Kind::Ledger, content) => ledger.extend_from_slice(&content),
            (Kind::End, _) => break,
            (Kind::Values | Kind::Timers, _) => {}
        }
    }
    reader.finish()?;
    Ok((decode_ledger(&ledger)?, header.at))
}
