//! `tidegate bench`: how fast the host's own code is on this machine, against what the disk allows.
//!
//! Rule: what is measured is the code that serves, called as `serve` calls it, never a copy; and
//! every figure stands beside the limit that was measured in the same run, in turns with it.

pub mod alone;
pub mod append;
pub mod guest;
pub mod http;
pub mod invoke;
pub mod pipeline;
pub mod replay;
pub mod report;
pub mod ticker;

mod bare;
mod connection;
mod cpu;
mod events;
mod kept;
mod lane;
mod latency;
mod observe;
mod pipelined;
mod place;
mod publish;
mod raw;
mod stages;
mod touched;

use std::path::PathBuf;

use crate::api::cloudevents;
use crate::event::Position;
use crate::log::{AppendError, LogFailure, OpenError, ReadError};
use crate::serve::ServeError;
use crate::wasm::SandboxError;
use crate::wasm::load::LoadError;

pub use report::Report;
pub use ticker::Ticker;

/// Bytes of an event of the limit beside its payload: 378 for 256, as in the figures that the
/// project quotes.
pub const ENVELOPE_BYTES: usize = 122;
/// Events of one repetition, at most.
pub const EVENTS_MAX: u64 = 10_000_000;
/// Bytes that one repetition may write, about: what keeps a slip of the hand from filling a disk.
pub const RUN_BYTES_MAX: u64 = 16 << 30;
/// Events, requests or calls at the same time, at most.
pub const IN_FLIGHT_MAX: usize = 100_000;
/// Keys, at most.
pub const KEYS_MAX: usize = 10_000_000;

/// What every bench is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where its folder is made; none: the folder of the system for such things.
    pub dir: Option<PathBuf>,
    /// How often each side is measured.
    pub repetitions: usize,
    /// Whether something keeps the processors awake.
    pub ticker: Ticker,
    /// Events of one repetition.
    pub events: u64,
    /// Bytes of a payload.
    pub size: usize,
    /// Events on their way at the same time.
    pub in_flight: usize,
    /// Keys the events are spread over.
    pub keys: usize,
    /// Type of the events.
    pub kind: String,
    /// The payload; none: text of `size` bytes.
    pub data: Option<Vec<u8>>,
}

/// Why there is no figure.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A file or folder cannot be used.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A parameter makes no sense.
    #[error("`{name}` is {actual}, at most {limit} {what}")]
    TooMuch {
        /// The parameter.
        name: &'static str,
        /// What it is.
        actual: u64,
        /// What it may be.
        limit: u64,
        /// Of what.
        what: &'static str,
    },
    /// A host takes no such events.
    #[error("no host takes the events of this bench: {why}")]
    Event {
        /// What it says to them.
        why: String,
    },
    /// There is no such stage.
    #[error("there is no stage `{name}`; there are {}", alone::STAGES.map(|(name, _)| name).join(", "))]
    Stage {
        /// What was asked for.
        name: String,
    },
    /// The host did not start or stop.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The log did not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogFailure),
    /// An event was not taken.
    #[error("an event was not taken: {0}")]
    Append(#[from] AppendError),
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// There is no sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The module was not taken.
    #[error("the module was not taken: {0}")]
    Load(#[from] LoadError),
    /// The module was not taken by the host.
    #[error("the module was not taken: {why}")]
    Refused {
        /// What the host says.
        why: String,
    },
    /// The module does not do what the bench needs.
    #[error("the module {why}")]
    Module {
        /// What is wrong.
        why: String,
    },
    /// Deliveries stand still.
    #[error("no delivery ended for {seconds} s, {done} of {events} are done; {why}")]
    Stuck {
        /// How long.
        seconds: u64,
        /// How many ended.
        done: u64,
        /// How many should.
        events: u64,
        /// What is known of the reason.
        why: String,
    },
    /// Deliveries ended, but nearly none of them well.
    #[error(
        "{why}: how fast it fails says nothing; choose an event that the module takes with --type and \
         --data-file"
    )]
    GivenUp {
        /// How many, and why the first one.
        why: String,
    },
    /// Too few deliveries ended behind the first group.
    #[error(
        "`--events` is {events}: {behind} of them ended behind the first group of the log, in {groups} \
         groups, which does not tell how fast they do; ask for more"
    )]
    TooFew {
        /// How many there were.
        events: u64,
        /// How many did not end in the first group.
        behind: u64,
        /// In how many groups.
        groups: u64,
    },
    /// A record of the log makes no sense.
    #[error("the log at {position}: {why}")]
    Decode {
        /// Where.
        position: Position,
        /// Why.
        why: String,
    },
    /// The host did not answer as it should.
    #[error("{url}: {why}")]
    Http {
        /// The host.
        url: String,
        /// What happened.
        why: String,
    },
    /// wasmtime failed where no guest is at fault.
    #[error("WebAssembly without the host: {why}")]
    Bare {
        /// What it says.
        why: String,
    },
    /// A part of the bench ended early.
    #[error("a task of the bench failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            dir: None,
            repetitions: 3,
            ticker: Ticker::default(),
            events: 100_000,
            size: 256,
            in_flight: 256,
            keys: 10_000,
            kind: "bench.happened".to_owned(),
            data: None,
        }
    }
}

impl Settings {
    /// Refuses what would fill the disk or the memory, and events that no host takes.
    ///
    /// # Errors
    /// [`BenchError::TooMuch`] and [`BenchError::Event`].
    pub fn check(&self) -> Result<(), BenchError> {
        let size = self.payload_bytes();
        let bytes = self.events.saturating_mul((size + ENVELOPE_BYTES) as u64);
        let size_max = crate::limits::EVENT_DATA_BYTES_MAX as u64;
        for (name, actual, limit, what) in [
            ("--events", self.events, EVENTS_MAX, "events"),
            ("--in-flight", self.in_flight as u64, IN_FLIGHT_MAX as u64, "at a time"),
            ("--keys", self.keys as u64, KEYS_MAX as u64, "keys"),
            ("--size", size as u64, size_max, "bytes"),
            ("--events times --size", bytes, RUN_BYTES_MAX, "bytes"),
        ] {
            if actual > limit {
                return Err(BenchError::TooMuch { name, actual, limit, what });
            }
        }
        self.check_event()
    }

    /// Refuses what a host refuses to those who publish.
    fn check_event(&self) -> Result<(), BenchError> {
        let refused = |why: String| BenchError::Event { why };
        let event = serde_json::json!({
            "specversion": "1.0", "id": "1", "source": events::SOURCE, "type": self.kind,
        });
        cloudevents::read_line(event.to_string().as_bytes())
            .map_err(|problem| refused(problem.to_string()))?;
        let data = self.data.as_deref().unwrap_or(b"null");
        serde_json::from_slice::<serde::de::IgnoredAny>(data)
            .map_err(|error| refused(format!("`--data-file` is not JSON: {error}")))?;
        Ok(())
    }

    /// Where the folder of the bench is made.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.dir.clone().unwrap_or_else(std::env::temp_dir)
    }

    /// Bytes of a payload.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        self.data.as_ref().map_or(self.size, Vec::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_that_no_host_takes_are_refused() {
        let said = |kind: &str, data: Option<&str>| {
            let data = data.map(|data| data.as_bytes().to_vec());
            let settings = Settings { kind: kind.to_owned(), data, ..Settings::default() };
            settings.check().err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert_eq!(said("a.b", None), "");
        assert_eq!(said("a.b", Some("{\"a\": 1}\n")), "");
        assert!(said("", None).contains("`type` is empty"));
        assert!(said("tidegate.x", None).contains("`type` is reserved"));
        assert!(said("a.b", Some("a: 1")).contains("`--data-file` is not JSON"));
        assert!(said("a.b", Some("")).contains("`--data-file` is not JSON"));
    }
}
