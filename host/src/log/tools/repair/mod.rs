//! Makes a damaged log one that opens again: keeps what can be proven, holds the place of what is
//! lost, and says exactly what that is.
//!
//! What is lost keeps its commit numbers, positions and, where they are known, its key sequences: none
//! of them is given again. Only damaged segments are written anew; the frame before one that is kept
//! says in its last record what that is chained to. The originals stay beside, under other names.
//!
//! Rule: each step can be interrupted and done again. Until all of them are done a file named
//! [`UNFINISHED`] stands in the log's folder, and no host opens it.

mod apply;
mod byte;
mod deliveries;
mod earlier;
mod identities;
mod kept;
mod known;
mod lost;
mod plan;
mod refused;
mod report;
mod restore;
mod survey;
#[cfg(test)]
mod tests;
mod write;

use std::path::{Path, PathBuf};

pub use report::{BusRepair, LostRange, LostRecord, RepairReport, RepairedSegment};

use super::ToolError;
use super::files::BusFiles;
use crate::log::codec::EncodeError;
use crate::log::disk::Disk;

/// What to do about damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepairMode {
    /// Only say what would be done.
    DryRun,
    /// Do it.
    Perform,
}

/// Why a log cannot be repaired. What was begun can be done again.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// It cannot be read or written.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// A newer host wrote it, or it says what no host writes.
    #[error("{0}; this is not for a repair: use a host that knows this format, or a backup")]
    NotForRepair(Box<super::Damage>),
    /// Nothing in it says which log it is.
    #[error("nothing of the log of bus `{bus}` can be read: restore it from a backup")]
    NothingLeft {
        /// The bus.
        bus: String,
    },
    /// What stands in the place of what is lost cannot be written.
    #[error("the place of what is lost cannot be held: {0}")]
    Encode(#[from] EncodeError),
    /// A file changed while it was read.
    #[error("`{}` changed while it was read: run the command again", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// What was written is not what should have been.
    #[error("`{}` is not as it was to be at byte {offset}: nothing was put in its place", path.display())]
    Unproven {
        /// The new file.
        path: PathBuf,
        /// Where it stops being right, in bytes.
        offset: u64,
    },
}

/// Repairs the damaged logs of a data directory, of one bus where it is named. What is torn at the
/// end of a log is no damage: the next start cuts it off.
///
/// # Errors
/// See [`RepairError`]; also where a host has a log open.
pub fn repair(
    disk: &dyn Disk,
    data: &Path,
    bus: Option<&str>,
    mode: RepairMode,
) -> Result<RepairReport, RepairError> {
    let buses = BusFiles::find(disk, data, bus)?;
    let buses = buses.iter().map(|files| apply::repair_bus(files, mode));
    Ok(RepairReport { mode: mode.into(), buses: buses.collect::<Result<_, _>>()? })
}
