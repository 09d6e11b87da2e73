//! Looking at a log that no host has open: verify, stat, dump, reindex, repair. Blocking.
//!
//! They read the segments themselves, past what recovery stops at, so that they show what is on the disk;
//! what it refuses, [`verify`] and [`repair`] find as well, for they ask it in the end. Rule:
//! nothing writes but [`reindex`], only derived files, and [`repair`], where it is told to.

mod content;
mod damage;
mod dump;
mod files;
mod missing;
mod narrow;
mod reindex;
mod repair;
mod stat;
mod verify;
mod walk;

use std::path::PathBuf;

pub use damage::{Damage, DamageKind, LogEnd, Span};
pub use dump::{DumpRange, DumpReport, dump};
pub use reindex::{BusReindexed, ReindexReport, reindex};
pub use repair::{
    BusRepair, LostRange, LostRecord, RepairError, RepairMode, RepairReport, RepairedSegment,
    repair,
};
pub use stat::{BusStat, StatReport, TypeCount, stat};
pub use verify::{BusVerified, VerifyReport, verify};

use crate::log::error::OpenError;
use crate::log::index::IndexError;

/// Why a tool cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// There is nothing to look at.
    #[error("`{data}` is not a data directory: it has no `buses/BUS/log`")]
    NoLog {
        /// What was given as the data directory.
        data: PathBuf,
    },
    /// The bus named has no log.
    #[error("bus `{bus}` has no log here; there are: {}", names.join(", "))]
    NoBus {
        /// As asked for.
        bus: String,
        /// Those that have one.
        names: Vec<String>,
    },
    /// A host has the log open.
    #[error("the log of bus `{bus}` is in use by process {pid}; stop the host first")]
    Locked {
        /// The bus.
        bus: String,
        /// Its process, as far as it said; `unknown` otherwise.
        pid: String,
    },
    /// A file cannot be read or written.
    #[error("`{path}`: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A start would refuse the log for a reason of its own.
    #[error(transparent)]
    Refused(Box<OpenError>),
    /// An index cannot be built.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// What was asked for cannot be written.
    #[error("output cannot be written: {0}")]
    Output(#[source] std::io::Error),
}

/// 32 hex digits.
fn hex(id: [u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(id))
}

#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;
