//! Builds the host from its configuration, serves until told to stop, and takes it down in order.
//!
//! The only place that knows every part; the order of the two lists, start and stop, is the point.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::auth::{Tokens, TokensError};
use crate::api::host::HostApi;
use crate::api::tls::{Identity, TlsError};
use crate::api::{BindError, Server, ServerHandle, ServerOptions};
use crate::bus::notes::Notes;
use crate::bus::{Bus, clocks, forward, timers};
use crate::calls;
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, TOKENS_VARIABLE, Tls, TokensFrom};
use crate::host::plugins::{Means, Plugins};
use crate::host::{About, Host, ModuleStore};
use crate::log::disk::{Disk, OsDisk};
use crate::log::{LogFailure, OpenError};
use crate::metrics::Metrics;
use crate::plugin::{WatchOptions, Watcher};
use crate::schedule::pool::GuestPool;
use crate::state::checkpoint::CheckpointError;
use crate::state::cold::ColdError;
use crate::state::evict::Evictor;
use crate::wasm::compile::CompileLimits;
use crate::wasm::engine::HostEngineOptions;
use crate::wasm::load::{Compiler, LoaderOptions};
use crate::wasm::{Sandbox, SandboxError, SandboxOptions};

mod astray;
mod buses;
mod place;

use buses::{open_buses, start_folds};

/// How long running deliveries may take to end at a stop.
const DELIVERIES_END_MAX: Duration = Duration::from_secs(10);
/// How long open HTTP requests may take to end at a stop.
const REQUESTS_END_MAX: Duration = Duration::from_secs(5);

/// Warm instances of each plugin that the pool has room for, at least.
const WARM_INSTANCES_MIN: usize = 8;

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
    outboxes: TaskTracker,
    /// What keeps the state of the buses.
    folds: Vec<JoinHandle<()>>,
    /// Held for their threads.
    _evictors: Vec<Evictor>,
    failures: tokio::sync::mpsc::Receiver<ServeError>,
}

impl Serving {
    /// Starts a host: logs, fold, sandbox, plugins, HTTP. Needs a multi-threaded tokio runtime.
    ///
    /// # Errors
    /// See [`ServeError`]. Nothing is left running.
    pub async fn start(config: Config) -> Result<Self, ServeError> {
        let began = Instant::now();
        let config = Arc::new(config);
        // Before anything is touched: who cannot listen as told has no use for the data.
        let server = server_options(&config)?;
        let place = place::take(config.http.listen).await?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let disk: Arc<dyn Disk> = Arc::new(OsDisk);
        make_folders(&config)?;

        let workers = std::thread::available_parallelism().map_or(2, NonZeroUsize::get);
        let options = sandbox_options(&config, workers);
        // Beside the buses: neither knows of the other.
        let sandbox = tokio::task::spawn_blocking(move || Sandbox::new(options));
        let (failed, failures) = tokio::sync::mpsc::channel(config.buses.len().max(1));
        let open = open_buses(&config, &disk, &clock, &failed)?;
        let default = open.first().and_then(|open| open.durable.as_ref());
        let new_empty_log = default.is_some_and(|durable| durable.opened.new_empty);
        let epoch = default.map_or(0, |durable| durable.opened.epoch);
        let buses: Vec<Arc<Bus>> = open.iter().map(|open| Arc::clone(&open.bus)).collect();
        let (folds, evictors) = start_folds(open, &failed).await?;

        let buses_took = began.elapsed();
        let pool = start_pool(workers)?;
        let metrics = Arc::new(Metrics::default());
        let notes = Notes::default();
        let plugins = Plugins::new(Means {
            buses: buses.clone(),
            sandbox: sandbox.await.map_err(|_| ended("sandbox"))??,
            pool: Arc::clone(&pool),
            modules: Arc::new(open_modules(&config, &disk)?),
            config: Arc::clone(&config),
            metrics: Arc::clone(&metrics),
            notes: notes.clone(),
            clock: Arc::clone(&clock),
            workers,
        });
        let about = about(&config, &*clock, epoch);
        let host = Arc::new(Host::new(about, &buses, Arc::clone(&plugins), metrics));

        let (stop, drain) = (CancellationToken::new(), CancellationToken::new());
        let tasks = TaskTracker::new();
        start_bus_tasks(&buses, &stop, &tasks);
        let outboxes = calls::start(&buses, &config, &stop);
        let watcher = Watcher::start(watch_options(&config, &buses));
        let watcher = watcher.map_err(at(&config.plugins))?;
        tasks.spawn(Arc::clone(&plugins).follow(watcher, stop.clone()));
        let api = Arc::clone(&host) as Arc<dyn HostApi>;
        let (tls, tokens) = (server.tls.clone(), server.tokens.clone());
        let server = Server::listen(place, server, api)?;
        let (addr, http) = (server.local_addr(), server.handle());
        let server = tokio::spawn(server.serve(drain.clone().cancelled_owned()));
        let took = (began, buses_took);
        tasks.spawn(tell_ready(Arc::clone(&host), config, buses.clone(), stop.clone(), took));
        Ok(Self {
            addr,
            tls,
            tokens,
            new_empty_log,
            host,
            notes,
            buses,
            plugins,
            pool,
            http,
            server,
            drain,
            stop,
            tasks,
            outboxes,
            folds,
            _evictors: evictors,
            failures,
        })
    }

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
    /// A log failed, or could not be sealed.
    pub async fn until(mut self, told: impl Future<Output = ()>) -> Result<(), ServeError> {
        let failure = tokio::select! {
            () = told => None,
            failure = self.failures.recv() => failure,
        };
        if let Some(failure) = &failure {
            tracing::error!(error = %failure, "the host must end");
        }
        self.host.drain();
        self.http.drain();
        self.stop.cancel();
        // Who waits for keys that are still being read has waited in vain.
        self.buses.iter().for_each(|bus| bus.values().stop_filling());
        if tokio::time::timeout(DELIVERIES_END_MAX, self.plugins.stop()).await.is_err() {
            tracing::warn!("some deliveries did not end in time; they run again at the next start");
        }
        // They were told with the deliveries, and end by themselves before long.
        self.outboxes.wait().await;
        self.drain.cancel();
        if tokio::time::timeout(REQUESTS_END_MAX, &mut self.server).await.is_err() {
            tracing::warn!("some requests did not end in time");
            self.server.abort();
        }
        self.tasks.close();
        // Before the logs: a guest that still runs has room reserved in the effects lane, and a log
        // closes only once all of that is given back.
        let pool = Arc::clone(&self.pool);
        let _ = tokio::task::spawn_blocking(move || pool.shutdown()).await;
        let closed = self.close_logs().await;
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

    async fn close_logs(&self) -> Result<(), ServeError> {
        let mut result = Ok(());
        for bus in &self.buses {
            let Some(log) = bus.log() else { continue };
            if let Err(source) = log.close().await {
                let bus = bus.name().to_string();
                result = Err(ServeError::Close { bus, source });
            }
        }
        result
    }
}

fn about(config: &Config, clock: &dyn Clock, epoch: u32) -> About {
    About {
        version: env!("CARGO_PKG_VERSION"),
        data: config.data.clone(),
        plugins: config.plugins.clone(),
        started_ms: clock.wall_ms(),
        epoch,
    }
}

/// Says when the host is ready, and has the rest of the logs checked once their state is there, too: until
/// then there is more urgent work.
async fn tell_ready(
    host: Arc<Host>,
    config: Arc<Config>,
    buses: Vec<Arc<Bus>>,
    stop: CancellationToken,
    (began, buses_took): (Instant, Duration),
) {
    let Some(plugins) = stop.run_until_cancelled(host.readied()).await else { return };
    tracing::info!(
        plugins,
        buses_ms = ms(buses_took),
        plugins_ms = ms(began.elapsed().saturating_sub(buses_took)),
        ms = ms(began.elapsed()),
        "ready"
    );
    for name in astray::unused_words(&config, &host.plugins_now()) {
        tracing::warn!("`[plugins.{name}]` is configured, and the folder has no plugin `{name}`");
    }
    for bus in &buses {
        let Some(log) = bus.log() else { continue };
        // Where they never are, the host ends.
        if bus.values().filled().await.is_err() {
            continue;
        }
        if let Err(error) = log.check_rest() {
            tracing::error!(%error, "the older part of the log is not checked");
        }
    }
}

/// Milliseconds, as the log shows them: a number in JSON, too.
fn ms(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}

fn ended(what: &str) -> ServeError {
    let source = std::io::Error::other("its thread ended");
    ServeError::Io { path: PathBuf::from(what), source }
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> ServeError + use<> {
    let path = path.to_owned();
    |source| ServeError::Io { path, source }
}

fn make_folders(config: &Config) -> Result<(), ServeError> {
    create_dir(&config.data)?;
    create_dir(&config.plugins)?;
    astray::check_logs(config)
}

fn create_dir(path: &Path) -> Result<(), ServeError> {
    std::fs::create_dir_all(path).map_err(at(path))
}

fn server_options(config: &Config) -> Result<ServerOptions, ServeError> {
    let tokens = match &config.auth.tokens {
        Some(TokensFrom::File(path)) => Some(Arc::new(Tokens::load(path)?)),
        Some(TokensFrom::Environment(text)) => {
            Some(Arc::new(Tokens::from_variable(TOKENS_VARIABLE, text)?))
        }
        None => None,
    };
    let tls = match &config.http.tls {
        Some(Tls { cert, key }) => Some(Arc::new(Identity::load(cert, key)?)),
        None => None,
    };
    let body_bytes_max = config.http.body_max.as_usize();
    Ok(ServerOptions { body_bytes_max, tokens, tls, ..ServerOptions::default() })
}

fn watch_options(config: &Config, buses: &[Arc<Bus>]) -> WatchOptions {
    let module_bytes_max = config.compile.module_max.bytes();
    let mut options = WatchOptions::new(config.plugins.clone(), module_bytes_max);
    for bus in buses {
        for instance in bus.ledger().instances() {
            if let Some(file) = instance.file {
                options.known.insert(instance.name.clone(), file);
            }
        }
    }
    options
}

fn sandbox_options(config: &Config, workers: usize) -> SandboxOptions {
    let compiler = std::env::current_exe().map_or(Compiler::InProcess, Compiler::Child);
    let limits = CompileLimits {
        memory_bytes: config.compile.memory.bytes(),
        time: config.compile.time.duration(),
        module_bytes_max: config.compile.module_max.bytes(),
    };
    let loader = LoaderOptions::new(config.data.join("cache"), compiler);
    SandboxOptions {
        loader: LoaderOptions { limits, ..loader },
        // Room is only address space: plugins with more workers than processors, and instances kept
        // for queries and upcasters, must not find the pool full.
        engine: HostEngineOptions {
            workers: workers.max(WARM_INSTANCES_MIN),
            ..HostEngineOptions::default()
        },
    }
}

fn start_pool(workers: usize) -> Result<Arc<GuestPool>, ServeError> {
    let runtime = tokio::runtime::Handle::current();
    GuestPool::new(workers, &runtime).map(Arc::new).map_err(at(Path::new("threads")))
}

fn open_modules(config: &Config, disk: &Arc<dyn Disk>) -> Result<ModuleStore, ServeError> {
    let dir = config.data.join("modules");
    ModuleStore::open(Arc::clone(disk), &dir).map_err(at(&dir))
}

/// Starts what works on each bus beside the plugins: what fires timers, what forwards, and what watches
/// the clock.
fn start_bus_tasks(buses: &[Arc<Bus>], stop: &CancellationToken, tasks: &TaskTracker) {
    for source in buses {
        tasks.spawn(timers::run(Arc::clone(source), stop.clone()));
        tasks.spawn(clocks::watch(Arc::clone(source), stop.clone()));
        for target in buses.iter().filter(|target| target.name() != source.name()) {
            let (source, target, stop) = (Arc::clone(source), Arc::clone(target), stop.clone());
            tasks.spawn(async move {
                let (from, to) = (Arc::clone(source.name()), Arc::clone(target.name()));
                if let Err(error) = forward::run(source, target, stop).await {
                    tracing::error!(%from, %to, %error, "events are not forwarded any more");
                }
            });
        }
    }
}
