//! tidegate beside other systems, and tidegate as what it holds grows. Two programs over one library:
//! `peers` and `growth`.

pub mod growth;
pub mod host;
pub mod lines;
pub mod nats;
pub mod page;
pub mod plot;
pub mod publish;
pub mod redis;
pub mod series;
pub mod side;
pub mod steady;
pub mod table;
pub mod tidegate;
#[cfg(feature = "extism")]
pub mod with_extism;

use std::path::PathBuf;

/// What is measured, and how often.
#[derive(Debug, clap::Args)]
pub struct Plan {
    /// The `tidegate` program.
    #[arg(long, default_value = "tidegate")]
    pub tidegate: PathBuf,
    /// Events of one run.
    #[arg(long, default_value_t = 100_000)]
    pub events: u64,
    /// Events that are under way at once.
    #[arg(long, default_value_t = 256)]
    pub in_flight: u64,
    /// Events a second where latency is measured.
    #[arg(long, default_value_t = 2000)]
    pub rate: u64,
    /// Rounds.
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Keys that events are spread over.
    #[arg(long, default_value_t = 10_000)]
    pub keys: u64,
}

/// Bytes of an event: 256 of payload, and what `tidegate bench` adds to tell one from another.
pub const EVENT_BYTES: usize = 378;
