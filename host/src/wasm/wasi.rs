//! The part of WASI that guests get without any grant: clocks that stand still, randomness that a
//! replay repeats, and output that goes to the plugin's log. No files, no sockets; of the environment
//! only the variables that are granted.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{self, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError};
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxBuilder, WasiCtxView};

use super::context::Context;
use super::limits::Breach;
use super::session::Session;
use crate::limits;

/// Bytes kept of what one delivery prints.
const PRINTED_BYTES_MAX: usize = 64 * 1024;
/// Random bytes one call may ask for.
const RANDOM_BYTES_MAX: u64 = 1024 * 1024;

/// WASI preview 2 for one component instance.
pub(super) struct Wasi {
    ctx: WasiCtx,
    table: ResourceTable,
    world: World,
    printed: Sink,
}

impl Wasi {
    pub(super) fn new(context: Option<&Context>) -> Self {
        let world = World::default();
        if let Some(context) = context {
            world.begin(context);
        }
        let printed = Sink::lossy(PRINTED_BYTES_MAX);
        let mut builder = world.builder();
        if let Some(context) = context {
            builder.envs(&context.limits.env);
        }
        let ctx = builder.stdout(printed.clone()).stderr(printed.clone()).build();
        Self { ctx, table: ResourceTable::new(), world, printed }
    }

    /// Starts clocks and randomness of the next delivery.
    pub(super) fn begin(&self, context: &Context) {
        self.world.begin(context);
    }

    /// Moves what was printed to the log of the delivery.
    pub(super) fn printed(&self, session: &mut Session) {
        log_lines(session, &self.printed.take());
    }

    pub(super) const fn table(&mut self) -> &mut ResourceTable {
        &mut self.table
    }

    pub(super) const fn view(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.ctx, table: &mut self.table }
    }
}

/// Logs some output line by line.
pub(super) fn log_lines(session: &mut Session, printed: &[u8]) {
    for line in String::from_utf8_lossy(printed).lines().take(limits::LOG_LINES_MAX) {
        session.log("info", line);
    }
}

/// What a guest can learn about the time and about chance.
#[derive(Clone)]
pub(super) struct World {
    now_ms: Arc<AtomicU64>,
    random: Arc<Mutex<blake3::OutputReader>>,
}

impl Default for World {
    fn default() -> Self {
        let random = blake3::Hasher::new().finalize_xof();
        Self { now_ms: Arc::default(), random: Arc::new(Mutex::new(random)) }
    }
}

impl World {
    pub(super) fn begin(&self, context: &Context) {
        self.now_ms.store(context.now_ms, Ordering::Relaxed);
        *lock(&self.random) = context.seed.random_bytes(context.position(), context.attempt);
    }

    /// Everything denied, everything repeatable.
    pub(super) fn builder(&self) -> WasiCtxBuilder {
        let mut builder = WasiCtxBuilder::new();
        builder
            .wall_clock(self.clone())
            .monotonic_clock(self.clone())
            .secure_random(Random(self.clone()))
            .insecure_random(Random(self.clone()))
            .insecure_random_seed(0)
            .max_random_size(RANDOM_BYTES_MAX)
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false);
        builder
    }
}

impl HostWallClock for World {
    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn now(&self) -> Duration {
        Duration::from_millis(self.now_ms.load(Ordering::Relaxed))
    }
}

impl HostMonotonicClock for World {
    fn resolution(&self) -> u64 {
        1_000_000
    }

    /// Stands still at 1: the runtime of Go takes 0 for a clock that is not there.
    fn now(&self) -> u64 {
        1
    }
}

struct Random(World);

impl rand_core::TryRng for Random {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        lock(&self.0.random).fill(bytes);
        Ok(())
    }
}

/// Where a guest prints to: bounded bytes in memory. Cloning makes another handle to the same.
#[derive(Clone)]
pub(super) struct Sink {
    bytes: Arc<Mutex<Vec<u8>>>,
    bytes_max: usize,
    /// Whether what does not fit is dropped, or ends the guest.
    lossy: bool,
}

impl Sink {
    /// A sink that drops what does not fit: a log must not fail the guest.
    pub(super) fn lossy(bytes_max: usize) -> Self {
        Self { bytes: Arc::default(), bytes_max, lossy: true }
    }

    /// A sink that ends the guest when it is full: a cut answer would be a wrong one.
    pub(super) fn strict(bytes_max: usize) -> Self {
        Self { bytes: Arc::default(), bytes_max, lossy: false }
    }

    /// Empties the sink.
    pub(super) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *lock(&self.bytes))
    }

    fn append(&self, more: &[u8]) -> Result<(), Breach> {
        let mut bytes = lock(&self.bytes);
        let room = self.bytes_max.saturating_sub(bytes.len());
        if more.len() > room && !self.lossy {
            return Err(Breach::Output { budget: "limits.output" });
        }
        bytes.extend(more.iter().take(room));
        Ok(())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Sink {
    async fn ready(&mut self) {}
}

impl OutputStream for Sink {
    fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        self.append(&bytes).map_err(|breach| StreamError::Trap(breach.into()))
    }

    fn flush(&mut self) -> Result<(), StreamError> {
        Ok(())
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        Ok(PRINTED_BYTES_MAX)
    }
}

impl AsyncWrite for Sink {
    fn poll_write(
        self: Pin<&mut Self>,
        _context: &mut task::Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Poll::Ready(self.append(bytes).map(|()| bytes.len()).map_err(std::io::Error::other))
    }

    fn poll_flush(
        self: Pin<&mut Self>,
        _context: &mut task::Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: Pin<&mut Self>,
        _context: &mut task::Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl IsTerminal for Sink {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Sink {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

/// A lock that no panic can poison for good: the bytes behind it are whole at every moment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
