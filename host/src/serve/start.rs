//! Builds a host from its configuration: the order of the steps is the point.
//!
//! Rule: a start that fails, or that is told to stop, leaves its logs sealed and nothing running for good.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::buses::{OpenBus, open_buses, start_folds};
use super::{ServeError, Serving, astray, close_logs, files, place, stop_filling};
use crate::api::auth::Tokens;
use crate::api::host::HostApi;
use crate::api::tls::Identity;
use crate::api::{Place, Server, ServerOptions};
use crate::bus::notes::Notes;
use crate::bus::{Bus, clocks, forward, timers};
use crate::calls;
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, TOKENS_VARIABLE, Tls, TokensFrom};
use crate::host::plugins::{Means, Plugins};
use crate::host::{About, Host, ModuleStore};
use crate::log::disk::{Disk, OsDisk};
use crate::metrics::Metrics;
use crate::plugin::{WatchOptions, Watcher};
use crate::schedule::pool::GuestPool;
use crate::state::evict::Evictor;
use crate::wasm::compile::CompileLimits;
use crate::wasm::engine::HostEngineOptions;
use crate::wasm::load::{Compiler, LoaderOptions};
use crate::wasm::{Sandbox, SandboxError, SandboxOptions};

/// Warm instances of each plugin that the pool has room for, at least.
const WARM_INSTANCES_MIN: usize = 8;

/// What is opened first. Nothing runs on it yet.
struct Base {
    began: Instant,
    config: Arc<Config>,
    server: ServerOptions,
    place: Place,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    workers: usize,
    /// The default one first.
    buses: Vec<Arc<Bus>>,
    new_empty_log: bool,
    epoch: u32,
}

/// What a start waits for before it goes on.
struct Coming {
    open: Vec<OpenBus>,
    sandbox: tokio::task::JoinHandle<Result<Arc<Sandbox>, SandboxError>>,
}

/// The same once it is there.
struct Ready {
    folds: Vec<JoinHandle<()>>,
    evictors: Vec<Evictor>,
    /// When the state of all buses was.
    folded: Instant,
    sandbox: Arc<Sandbox>,
}

impl Serving {
    /// Starts a host: logs, fold, sandbox, plugins, HTTP. Needs a multi-threaded tokio runtime.
    ///
    /// `told` ends the start once the logs are open.
    ///
    /// # Errors
    /// See [`ServeError`]. Its logs are closed then.
    pub async fn start(config: Config, told: impl Future<Output = ()>) -> Result<Self, ServeError> {
        let (failed, mut failures) = mpsc::channel(config.buses.len().max(1));
        let (base, coming) = Base::open(config, &failed).await?;
        let buses = base.buses.clone();
        let in_vain = async {
            let why = tokio::select! {
                () = told => ServeError::Stopped,
                Some(failure) = failures.recv() => failure,
            };
            // What ends with the start may wait for keys that are still being read.
            stop_filling(&buses);
            why
        };
        let ready = tokio::select! {
            biased;
            why = in_vain => Err(why),
            ready = coming.wait(&failed) => ready,
        };
        let started = ready.and_then(|ready| base.serve(ready, failures));
        if started.is_err() {
            give_up(&buses).await;
        }
        started
    }
}

/// Closes the logs of a start that failed.
async fn give_up(buses: &[Arc<Bus>]) {
    stop_filling(buses);
    // Why the host did not start is worth more than why its log was not sealed.
    let _ = close_logs(buses).await;
}

fn buses_of(open: &[OpenBus]) -> Vec<Arc<Bus>> {
    open.iter().map(|open| Arc::clone(&open.bus)).collect()
}

impl Base {
    async fn open(
        config: Config,
        failed: &Sender<ServeError>,
    ) -> Result<(Self, Coming), ServeError> {
        let began = Instant::now();
        let config = Arc::new(config);
        // Before anything is touched: who cannot listen as told has no use for the data.
        let files = files::take_all();
        let server = server_options(&config, files)?;
        let place = place::take(config.http.listen).await?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let disk: Arc<dyn Disk> = Arc::new(OsDisk);
        make_folders(&config)?;

        let workers = std::thread::available_parallelism().map_or(2, NonZeroUsize::get);
        let options = sandbox_options(&config, workers);
        // Beside the buses: neither knows of the other.
        let sandbox = tokio::task::spawn_blocking(move || Sandbox::new(options));
        let mut open = Vec::new();
        if let Err(error) = open_buses(&config, files, &disk, &clock, failed, &mut open) {
            // The others are not to look like those of a host that crashed.
            give_up(&buses_of(&open)).await;
            return Err(error);
        }
        let default = open.first().and_then(|open| open.durable.as_ref());
        let new_empty_log = default.is_some_and(|durable| durable.opened.new_empty);
        let epoch = default.map_or(0, |durable| durable.opened.epoch);
        let buses = buses_of(&open);
        let base = Self {
            began,
            config,
            server,
            place,
            disk,
            clock,
            workers,
            buses,
            new_empty_log,
            epoch,
        };
        Ok((base, Coming { open, sandbox }))
    }

    fn serve(self, ready: Ready, failures: Receiver<ServeError>) -> Result<Serving, ServeError> {
        let Self { began, config, server, place, disk, clock, workers, buses, .. } = self;
        let Ready { folds, evictors, folded, sandbox } = ready;
        let pool = start_pool(workers)?;
        let metrics = Arc::new(Metrics::default());
        let notes = Notes::default();
        let plugins = Plugins::new(Means {
            buses: buses.clone(),
            sandbox,
            pool: Arc::clone(&pool),
            modules: Arc::new(open_modules(&config, &disk)?),
            config: Arc::clone(&config),
            metrics: Arc::clone(&metrics),
            notes: notes.clone(),
            clock: Arc::clone(&clock),
            workers,
        });
        let about = about(&config, &*clock, self.epoch);
        let host = Arc::new(Host::new(about, &buses, Arc::clone(&plugins), metrics));

        let (stop, drain) = (CancellationToken::new(), CancellationToken::new());
        let stops = stop.clone().drop_guard();
        let tasks = TaskTracker::new();
        start_bus_tasks(&buses, &stop, &tasks);
        let senders = calls::start(&buses, &config, &stop);
        let watcher = Watcher::start(watch_options(&config, &buses));
        let watcher = watcher.map_err(at(&config.plugins))?;
        tasks.spawn(Arc::clone(&plugins).follow(watcher, stop.clone()));
        let api = Arc::clone(&host) as Arc<dyn HostApi>;
        let (tls, tokens) = (server.tls.clone(), server.tokens.clone());
        let server = Server::listen(place, server, api)?;
        let (addr, http) = (server.local_addr(), server.handle());
        let server = tokio::spawn(server.serve(drain.clone().cancelled_owned()));
        let times = (began, folded.saturating_duration_since(began));
        tasks.spawn(tell_ready(Arc::clone(&host), config, buses.clone(), stop.clone(), times));
        stops.disarm();
        Ok(Serving {
            addr,
            tls,
            tokens,
            new_empty_log: self.new_empty_log,
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
            senders,
            folds,
            _evictors: evictors,
            failures,
        })
    }
}

impl Coming {
    /// Waits for all of it. Dropped, it leaves the folds to end with their logs.
    async fn wait(self, failed: &Sender<ServeError>) -> Result<Ready, ServeError> {
        let (folds, evictors) = start_folds(self.open, failed).await?;
        let folded = Instant::now();
        let sandbox = self.sandbox.await.map_err(|_| ended("sandbox"))??;
        Ok(Ready { folds, evictors, folded, sandbox })
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
        bus.started();
        if let Err(error) = log.check_rest() {
            tracing::error!(%error, "the older part of the log is not checked");
        }
    }
}

/// Milliseconds, as the log shows them: a number in JSON, too.
pub(super) fn ms(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}

fn ended(what: &str) -> ServeError {
    let source = std::io::Error::other("its thread ended");
    ServeError::Io { path: PathBuf::from(what), source }
}

pub(super) fn at(path: &Path) -> impl FnOnce(std::io::Error) -> ServeError + use<> {
    let path = path.to_owned();
    |source| ServeError::Io { path, source }
}

fn make_folders(config: &Config) -> Result<(), ServeError> {
    create_dir(&config.data)?;
    create_dir(&config.plugins)?;
    astray::check_logs(config)
}

pub(super) fn create_dir(path: &Path) -> Result<(), ServeError> {
    std::fs::create_dir_all(path).map_err(at(path))
}

fn server_options(config: &Config, files: Option<u64>) -> Result<ServerOptions, ServeError> {
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
    let options = ServerOptions::default();
    let connections_max = files::connections_max(files, options.connections_max);
    Ok(ServerOptions { body_bytes_max, connections_max, tokens, tls, ..options })
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
