//! The listener: connections, their bounds, and how they end.
//!
//! HTTP/1.1 and HTTP/2 on one port: over TLS by negotiation, plain with prior knowledge. Every wait
//! for a client has a limit: for its handshake, for its first request, for headers, for a body, and
//! for it to read what it asked for. Who says nothing at all makes room for who waits.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use super::answers::Answers;
use super::app::App;
use super::auth::Tokens;
use super::host::HostApi;
use super::io::{Guarded, Heard};
use super::routes;
use super::tls::{self, Greeted, Identity};

/// Streams that one HTTP/2 connection may have open.
const H2_STREAMS_MAX: u32 = 128;
/// How often an HTTP/2 connection is probed, and how long its answer may take.
const H2_KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Bytes in flight towards the host on one HTTP/2 stream, and on one connection.
const H2_WINDOW_BYTES: (u32, u32) = (1024 * 1024, 4 * 1024 * 1024);
/// Connections that wait to be accepted; the system may allow for fewer.
const BACKLOG_MAX: u32 = 4096;
/// Pause after the system could not accept a connection: most often it is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The bounds of the server.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Bytes of one body.
    pub body_bytes_max: usize,
    /// Bytes of all bodies being read or published at a time; over it: `queue_full`.
    pub bodies_bytes_max: usize,
    /// Bytes of all answers that clients have not taken yet; over it: `queue_full`.
    pub answers_bytes_max: usize,
    /// Bytes of address and headers of one request.
    pub headers_bytes_max: usize,
    /// Header fields of one request.
    pub headers_count_max: usize,
    /// Time for a TLS handshake.
    pub handshake_timeout: Duration,
    /// Time for the headers of a request, and for an idle connection to send one.
    pub header_timeout: Duration,
    /// Time a connection may say nothing at all while another waits for its place.
    pub silent_max: Duration,
    /// Time for a body.
    pub body_timeout: Duration,
    /// Time a client may leave the connection unread while there is something for it, or take nothing
    /// of an answer.
    pub write_stall_max: Duration,
    /// How often an answer that goes on says that it does while it has nothing else to say. A client
    /// that is gone refuses the first of these, and is known by the second.
    pub alive_every: Duration,
    /// Connections; one more waits for a place, and others to be accepted.
    pub connections_max: usize,
    /// Requests being handled beside publishing, which `bodies_bytes_max` bounds; more wait.
    pub requests_max: usize,
    /// Open SSE streams; over it: `too_many_streams`.
    pub streams_max: usize,
    /// Time requests in progress get at shutdown.
    pub grace: Duration,
    /// Who may do what; none: everybody everything.
    pub tokens: Option<Arc<Tokens>>,
    /// Who the listener is; none: it speaks plain HTTP.
    pub tls: Option<Arc<Identity>>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            body_bytes_max: 8 * 1024 * 1024,
            bodies_bytes_max: 256 * 1024 * 1024,
            answers_bytes_max: 256 * 1024 * 1024,
            headers_bytes_max: 32 * 1024,
            headers_count_max: 128,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            silent_max: Duration::from_secs(1),
            body_timeout: Duration::from_secs(60),
            write_stall_max: Duration::from_secs(30),
            alive_every: Duration::from_secs(5),
            connections_max: 1024,
            requests_max: 256,
            streams_max: 256,
            grace: Duration::from_secs(5),
            tokens: None,
            tls: None,
        }
    }
}

/// Why the server does not listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else does.
    #[error("`{0}` is taken: another host runs already, or choose another with `--listen`")]
    Taken(SocketAddr),
    /// The system says no.
    #[error("cannot listen on `{address}`: {source}")]
    Io {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

impl BindError {
    fn at(address: SocketAddr) -> impl Fn(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::AddrInUse => Self::Taken(address),
            _ => Self::Io { address, source },
        }
    }
}

/// An address where nobody else listens, nor does anybody here: whoever connects is refused.
pub struct Place {
    socket: TcpSocket,
    address: SocketAddr,
}

impl Place {
    /// Takes an address; port 0 finds a free one.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn take(address: SocketAddr) -> Result<Self, BindError> {
        let taken = || {
            let socket = match address {
                SocketAddr::V4(_) => TcpSocket::new_v4(),
                SocketAddr::V6(_) => TcpSocket::new_v6(),
            }?;
            // Connections of a host that was here before are no reason to refuse.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            let address = socket.local_addr()?;
            Ok(Self { socket, address })
        };
        taken().map_err(BindError::at(address))
    }
}

/// A server that listens, and does not answer yet.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    root: Root,
}

/// Tells a running server what is going on.
#[derive(Clone)]
pub struct ServerHandle(Arc<App>);

impl ServerHandle {
    /// From now on ingest answers `shutting_down`; everything else goes on.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    /// Streams that may still be opened.
    #[cfg(test)]
    pub(super) fn streams_free(&self) -> usize {
        self.0.streams.available_permits()
    }
}

impl Server {
    /// Listens at a place. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`BindError`]: somebody else came to listen there first.
    pub fn listen(
        Place { socket, address }: Place,
        options: ServerOptions,
        host: Arc<dyn HostApi>,
    ) -> Result<Self, BindError> {
        let listener = socket.listen(BACKLOG_MAX).map_err(BindError::at(address))?;
        let (router, openapi) = routes::router();
        let app = Arc::new(App::new(host, options, address.ip().is_loopback(), openapi));
        let router = router.with_state(Arc::clone(&app));
        Ok(Self { listener, address, root: Root { app, router } })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// For whoever starts the shutdown.
    #[must_use]
    pub fn handle(&self) -> ServerHandle {
        ServerHandle(Arc::clone(&self.root.app))
    }

    /// Answers until `shutdown` resolves; then ends streams, lets requests in progress finish within
    /// `grace`, and returns. Dropping the future closes every connection at once.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send) {
        let Self { listener, root, .. } = self;
        let app = Arc::clone(&root.app);
        let places = Arc::new(Semaphore::new(app.options.connections_max));
        let silent_max = app.options.silent_max;
        let (waits, told) = (AtomicBool::new(false), Notify::new());
        let crowd = Arc::new(Crowd { waits, told, silent_max });
        let graceful = GracefulShutdown::new();
        let mut connections = JoinSet::new();
        let mut waiting = None;
        tokio::pin!(shutdown);
        loop {
            let place = tokio::select! {
                biased;
                () = &mut shutdown => break,
                Ok(place) = Arc::clone(&places).acquire_owned(), if waiting.is_some() => place,
                accepted = accept(&listener), if waiting.is_none() => {
                    waiting = accepted;
                    if waiting.is_some() && places.available_permits() == 0 {
                        crowd.wait();
                    }
                    continue;
                }
                Some(_) = connections.join_next() => continue,
            };
            crowd.wait_no_more();
            let Some(stream) = waiting.take() else { continue };
            let (heard, crowd) = (Heard::default(), Arc::clone(&crowd));
            let connection =
                accepted_connection(stream, heard.clone(), root.clone(), graceful.watcher());
            connections.spawn(async move {
                tokio::select! {
                    biased;
                    () = connection => {}
                    () = crowd.left(&heard) => {}
                }
                drop(place);
            });
        }
        drop(listener);
        app.draining.store(true, Ordering::Relaxed);
        app.stop.cancel();
        let finished = async {
            graceful.shutdown().await;
            while connections.join_next().await.is_some() {}
        };
        if tokio::time::timeout(app.options.grace, finished).await.is_err() {
            tracing::warn!("requests still in progress after {:?} are cut off", app.options.grace);
        }
    }
}

/// How a connection that waits for a place gets that of one that says nothing.
struct Crowd {
    waits: AtomicBool,
    /// Wakes the oldest of those that say nothing.
    told: Notify,
    silent_max: Duration,
}

impl Crowd {
    /// Resolves where a connection has to make room: of those that say nothing it is the oldest.
    async fn left(&self, heard: &Heard) {
        tokio::time::sleep(self.silent_max).await;
        while !heard.any() {
            self.told.notified().await;
            if heard.any() {
                self.told.notify_one();
            } else if self.waits.load(Ordering::Relaxed) {
                return;
            }
        }
        std::future::pending().await
    }

    fn wait(&self) {
        self.waits.store(true, Ordering::Relaxed);
        self.told.notify_one();
    }

    fn wait_no_more(&self) {
        self.waits.store(false, Ordering::Relaxed);
    }
}

/// Cancel safe: a connection is either returned or still waits to be accepted.
async fn accept(listener: &TcpListener) -> Option<TcpStream> {
    match listener.accept().await {
        Ok((stream, _)) => {
            // Answers are small and waited for; a delay to gather more gains nothing.
            let _ = stream.set_nodelay(true);
            Some(stream)
        }
        Err(error) => {
            tracing::warn!("cannot accept a connection: {error}");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

/// The router behind what every request passes through.
#[derive(Clone)]
struct Root {
    app: Arc<App>,
    router: Router,
}

/// What requests of a connection meet.
#[derive(Clone, Copy)]
enum Door {
    Open,
    /// The client speaks plain HTTP, and the host was told to speak TLS.
    Plain,
}

async fn accepted_connection(stream: TcpStream, heard: Heard, root: Root, watcher: Watcher) {
    let app = Arc::clone(&root.app);
    let Some(identity) = &app.options.tls else {
        let stream = Guarded::new(stream, app.options.write_stall_max, heard);
        return connection(stream, Door::Open, root, watcher).await;
    };
    let greeted = tokio::select! {
        greeted = tls::greet(stream, heard, identity, &app.options) => greeted,
        // Nothing has been asked yet.
        () = app.stop.cancelled() => None,
    };
    match greeted {
        Some(Greeted::Tls(stream)) => connection(stream, Door::Open, root, watcher).await,
        Some(Greeted::Plain(stream)) => connection(stream, Door::Plain, root, watcher).await,
        None => {}
    }
}

async fn connection<S>(stream: S, door: Door, root: Root, watcher: Watcher)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let first_timeout = root.app.options.header_timeout;
    let builder = builder(&root.app.options, door);
    let io = TokioIo::new(stream);
    let asked = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&asked);
    let answers = Answers::new(root.app.options.write_stall_max);
    let taken = Arc::clone(&answers);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        seen.store(true, Ordering::Relaxed);
        let Root { app, router } = root.clone();
        let request = request.map(Body::new);
        let answers = Arc::clone(&answers);
        async move {
            Ok::<_, std::convert::Infallible>(match door {
                Door::Open => app.answer(router, &answers, request).await,
                Door::Plain => app.refuse_plain(&request),
            })
        }
    });
    let connection = watcher.watch(builder.serve_connection(io, service).into_owned());
    // Dropped where a client does not take what it asked for.
    let connection = async {
        tokio::select! {
            biased;
            result = connection => result,
            () = taken.stalled() => Ok(()),
        }
    };
    tokio::pin!(connection);
    // hyper's own limit starts once it knows the version; a client that never says is caught here.
    let first = tokio::time::sleep(first_timeout);
    let result = tokio::select! {
        result = &mut connection => result,
        () = first => {
            if !asked.load(Ordering::Relaxed) {
                return;
            }
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!("connection ended: {error}");
    }
}

fn builder(options: &ServerOptions, door: Door) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // Above the limits of `App`, which answers with a body; what is far over gets a bare 431.
    let headers_bytes = options.headers_bytes_max.saturating_mul(4).max(64 * 1024);
    // The end of what a client sends says nothing about whether it still reads: whatever arrived whole
    // is answered. Who is gone is known by what cannot be written, see `alive_every`.
    builder
        .http1()
        .half_close(true)
        .timer(TokioTimer::new())
        .header_read_timeout(options.header_timeout)
        .keep_alive(matches!(door, Door::Open))
        .max_headers(options.headers_count_max.saturating_mul(2))
        .max_buf_size(headers_bytes);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(headers_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(H2_STREAMS_MAX)
        .initial_stream_window_size(H2_WINDOW_BYTES.0)
        .initial_connection_window_size(H2_WINDOW_BYTES.1)
        .keep_alive_interval(H2_KEEP_ALIVE)
        .keep_alive_timeout(H2_KEEP_ALIVE);
    builder
}
