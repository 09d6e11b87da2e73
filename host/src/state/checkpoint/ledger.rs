//! The ledger of the newest good checkpoint, for who looks at a bus that no host has open.
//!
//! Rule: reads only; what is damaged is passed over and stays where it is.

use std::path::Path;

use uuid::Uuid;

use super::format::Kind;
use super::read::{Expected, Reader, Refused, decode_ledger};
use super::{commits_in, path_in};
use crate::log::disk::{Disk, DiskFile};
use crate::state::ledger::{At, Ledger};

/// The ledger of the newest checkpoint of a log that is whole, and where it stands. Values are read
/// for their checksums only.
#[must_use]
pub fn newest_ledger(disk: &dyn Disk, dir: &Path, log_id: Uuid) -> Option<(Ledger, At)> {
    let commits = commits_in(disk, dir).ok()?;
    commits.into_iter().rev().find_map(|commit| {
        let file = disk.open_read(&path_in(dir, commit)).ok()?;
        ledger(&*file, Expected { log_id, commit }).ok()
    })
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
