//! Builds the host (`start.rs`), serves until told to stop, and takes it down in order.
//!
//! The only place that knows every part; the order of the two lists, start and stop, is the point.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::auth::{Tokens, TokensError};
use crate::api::tls::{Identity, TlsError};
use crate::api::{BindError, ServerHandle};
use crate::bus::Bus;
use crate::bus::notes::Notes;
use crate::host::Host;
use crate::host::plugins::Plugins;
use crate::log::{LogFailure, OpenError};
use crate::schedule::pool::GuestPool;
use crate::state::checkpoint::CheckpointError;
use crate::state::cold::ColdError;
use crate::state::evict::Evictor;
use crate::wasm::SandboxError;

mod astray;
mod buses;
mod files;
mod place;
mod start;

/// How long running deliveries may take to end at a stop.
const DELIVERIES_END_MAX: Duration = Duration::from_secs(10);
/// How long the threads of guests may take to end after that: a guest yields every few milliseconds.
const GUESTS_END_MAX: Duration = Duration::from_secs(5);
/// How long open HTTP requests may take to end at a stop.
const REQUESTS_END_MAX: Duration = Duration::from_secs(5);

/// Why the host did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A folder or file cannot be used.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What was published would be kept from a log that is there.
    #[error(
        "bus `{bus}` is configured as a memory bus, and `{}` holds its log: make it `kind = \"durable\"` \
         again, or move that folder away",
        dir.display()
    )]
    MemoryOverLog {
        /// The bus.
        bus: String,
        /// Its folder.
        dir: PathBuf,
    },
    /// The log of a bus cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A checkpoint cannot be used, nor set aside.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The working state has no place.
    #[error(transparent)]
    Cold(#[from] ColdError),
    /// The tokens cannot be read.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// The certificate or its key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The sandbox cannot be set up.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] BindError),
    /// The log failed while serving.
    #[error("bus `{bus}`: {why}; the host has stopped, start it again to recover")]
    LogFailed {
        /// The bus.
        bus: String,
        /// Why.
        why: String,
    },
    /// The state of a bus cannot be brought up to its log, or kept there.
    #[error("bus `{bus}`: {why}; the host has stopped")]
    StateFailed {
        /// The bus.
        bus: String,
        /// Why.
        why: String,
    },
    /// It was told to stop before it served.
    #[error("told to stop before it served")]
    Stopped,
    /// A delivery neither ended nor yielded.
    #[error(
        "a delivery still held its thread {} s after it had to end: the host ends without sealing its logs, \
         which the next start reads to their ends", GUESTS_END_MAX.as_secs()
    )]
    Held,
    /// The log could not be sealed.
    #[error("bus `{bus}`: the log was not sealed: {source}")]
    Close {
        /// The bus.
        bus: String,
        /// Why.
        source: LogFailure,
    },
}

/// A running host.
pub struct Serving {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Who the listener is; none: it speaks plain HTTP.
    pub tls: Option<Arc<Identity>>,
    /// Who may do what; none: everybody everything.
    pub tokens: Option<Arc<Tokens>>,
    /// Whether the default bus was created by this start.
    pub new_empty_log: bool,
    /// The parts that a caller may look at.
    pub host: Arc<Host>,
    /// Every delivery.
    pub notes: Notes,
    buses: Vec<Arc<Bus>>,
    plugins: Arc<Plugins>,
    pool: Arc<GuestPool>,
    http: ServerHandle,
    server: tokio::task::JoinHandle<()>,
    drain: CancellationToken,
    stop: CancellationToken,
    tasks: TaskTracker,
    senders: TaskTracker,
    /// What keeps the state of the buses.
    folds: Vec<JoinHandle<()>>,
    /// Held for their threads.
    _evictors: Vec<Evictor>,
    failures: tokio::sync::mpsc::Receiver<ServeError>,
}

impl Serving {
    /// Its buses, the default one first.
    #[must_use]
    pub fn buses(&self) -> &[Arc<Bus>] {
        &self.buses
    }

    /// Where it listens, as clients write it.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.addr)
    }

    /// Serves until `told` resolves or a log fails, then stops in order: ingest, deliveries, logs.
    ///
    /// # Errors
    /// A log failed, or could not be sealed; a delivery held its thread.
    pub async fn until(mut self, told: impl Future<Output = ()>) -> Result<(), ServeError> {
        let failure = tokio::select! {
            () = told => None,
            // With memory buses alone there is nobody who could send one.
            Some(failure) = self.failures.recv() => Some(failure),
        };
        if let Some(failure) = &failure {
            tracing::error!(error = %failure, "the host must end");
        }
        self.host.drain();
        self.http.drain();
        self.stop.cancel();
        // Who waits for keys that are still being read has waited in vain.
        stop_filling(&self.buses);
        let ended = async {
            self.plugins.stop().await;
            // Where something has failed, perhaps nothing is folded any more.
            if failure.is_none() {
                self.until_folded().await;
            }
        };
        if tokio::time::timeout(DELIVERIES_END_MAX, ended).await.is_err() {
            tracing::warn!("some deliveries did not end in time; they run again at the next start");
        }
        self.buses.iter().for_each(|bus| bus.stop_answering());
        // They were told with the deliveries, and end by themselves before long.
        self.senders.wait().await;
        self.drain.cancel();
        if tokio::time::timeout(REQUESTS_END_MAX, &mut self.server).await.is_err() {
            tracing::warn!("some requests did not end in time");
            self.server.abort();
        }
        self.tasks.close();
        // Before the logs: a guest that still runs has room reserved in the effects lane, and a log
        // closes only once all of that is given back.
        let pool = Arc::clone(&self.pool);
        let end = move || pool.shutdown_within(GUESTS_END_MAX);
        if !tokio::task::spawn_blocking(end).await.unwrap_or(true) {
            return Err(failure.unwrap_or(ServeError::Held));
        }
        let closed = close_logs(&self.buses).await;
        let folds = std::mem::take(&mut self.folds);
        // They end with their logs, each with a last checkpoint.
        let _ = tokio::task::spawn_blocking(move || {
            folds.into_iter().for_each(|fold| drop(fold.join()));
        })
        .await;
        match failure {
            Some(failure) => Err(failure),
            None => closed,
        }
    }

    /// Waits until all that the last deliveries did can be seen.
    async fn until_folded(&self) {
        for bus in &self.buses {
            let Some(log) = bus.log() else { continue };
            tokio::select! {
                () = bus.until_applied(log.durable()) => {}
                _ = log.failed() => {}
            }
        }
    }
}

/// Turns away whoever waits for keys that are still being read.
fn stop_filling(buses: &[Arc<Bus>]) {
    buses.iter().for_each(|bus| bus.values().stop_filling());
}

async fn close_logs(buses: &[Arc<Bus>]) -> Result<(), ServeError> {
    let mut result = Ok(());
    for bus in buses {
        let Some(log) = bus.log() else { continue };
        if let Err(source) = log.close().await {
            let bus = bus.name().to_string();
            result = Err(ServeError::Close { bus, source });
        }
    }
    result
}

#[cfg(test)]
mod tests;
