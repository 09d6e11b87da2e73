//! `wasi:http` for guests that are granted it: what the guest builds becomes one [`DirectRequest`],
//! whole, and the answer, whole, what the guest reads.
//!
//! Rules: nothing is connected to from here; every part of a request and an answer is bounded, and
//! so is their number; what is asked ends with the delivery, since its instance does
//! ([`Http::has_asked`]).

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Method, Request, Response, header};
use tokio::sync::Semaphore;
use wasmtime::component::ResourceTable;
use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks,
};

use super::context::Context;
use super::outside::{DirectAnswer, DirectFault, DirectRequest, Outside, Unanswered};
use super::seed::Seed;
use super::session::Session;
use crate::event::Position;
use crate::limits;

/// What a request may take beyond its delivery, so that a guest that hangs ends by the timeout of the
/// delivery, and not sometimes by an error in its hands.
const GRACE: Duration = Duration::from_millis(250);
/// Lines kept of what went wrong with the requests of one delivery.
const SAID_MAX: usize = 16;

type Answered =
    Result<(Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>), Error>;

/// `wasi:http` for one delivery.
pub(super) struct Http {
    ctx: WasiHttpCtx,
    asking: Asking,
}

/// The hooks.
struct Asking {
    /// None: nobody sends anything.
    outside: Option<Arc<dyn Outside>>,
    seed: Seed,
    position: Position,
    deadline: Instant,
    requests: u32,
    budget: Arc<Budget>,
}

/// What all requests of a delivery have in common.
struct Budget {
    /// Bytes that may still be sent.
    out_bytes: AtomicUsize,
    /// Bytes that may still be received.
    in_bytes: AtomicUsize,
    at_a_time: Semaphore,
    said: Mutex<Vec<String>>,
}

impl Http {
    pub(super) fn new(context: Option<&Context>, deadline: Instant) -> Self {
        let mut ctx = WasiHttpCtx::new();
        ctx.set_field_size_limit(limits::DIRECT_HEADERS_BYTES_MAX);
        let budget = Budget {
            out_bytes: AtomicUsize::new(context.map_or(0, |c| c.limits.output_bytes_max)),
            in_bytes: AtomicUsize::new(limits::DIRECT_ANSWERS_BYTES_MAX),
            at_a_time: Semaphore::new(limits::DIRECT_AT_A_TIME_MAX),
            said: Mutex::default(),
        };
        let asking = Asking {
            outside: context.and_then(|context| context.outside.clone()),
            seed: context.map_or_else(Seed::default, |context| context.seed),
            position: context.map_or(Position(0), Context::position),
            deadline: deadline.checked_add(GRACE).unwrap_or(deadline),
            requests: 0,
            budget: Arc::new(budget),
        };
        Self { ctx, asking }
    }

    /// Whether anything was asked: what is still on its way must not outlive the delivery.
    pub(super) const fn has_asked(&self) -> bool {
        self.asking.requests > 0
    }

    /// Moves what went wrong to the log of the delivery.
    pub(super) fn say(&self, session: &mut Session) {
        for line in std::mem::take(&mut *self.asking.budget.said()) {
            session.log("warn", &line);
        }
    }

    pub(super) fn view<'a>(&'a mut self, table: &'a mut ResourceTable) -> WasiHttpCtxView<'a> {
        WasiHttpCtxView { hooks: &mut self.asking, table, ctx: &mut self.ctx }
    }
}

impl WasiHttpHooks for Asking {
    /// The client names the host: an authority may say more than that.
    fn set_host_header(&mut self) -> bool {
        false
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        limits::DIRECT_CHUNK_BYTES_MAX
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _fut: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Answered> + Send> {
        let index = self.requests;
        self.requests = self.requests.saturating_add(1);
        let (outside, budget) = (self.outside.clone(), Arc::clone(&self.budget));
        let (seed, position, deadline) = (self.seed, self.position, self.deadline);
        Box::new(async move {
            let went = went(&request);
            let sent = async {
                let outside = outside.ok_or(Stopped::Closed)?;
                if index >= limits::DIRECT_REQUESTS_MAX {
                    return Err(Stopped::Requests);
                }
                let key = |digest: &[u8; 32]| seed.direct_id(position, index, digest);
                let request = budget.take(request, options.unwrap_or_default(), deadline, key);
                let request = request.await?;
                // Only now: a guest may write the body of one request while it waits for others.
                let _turn = budget.at_a_time.acquire().await.map_err(|_| Stopped::Closed)?;
                budget.receive(&*outside, request).await
            };
            sent.await.map_err(|stopped| {
                budget.note(&went, &stopped);
                stopped.into()
            })
        })
    }
}

impl Budget {
    /// Reads a request to its end, within what may be sent.
    async fn take(
        &self,
        request: Request<WasiBody>,
        options: RequestOptions,
        deadline: Instant,
        key: impl Fn(&[u8; 32]) -> Arc<str>,
    ) -> Result<DirectRequest, Stopped> {
        let (parts, mut body) = request.into_parts();
        if parts.method == Method::CONNECT {
            return Err(Stopped::Guest(Error::HttpRequestMethodInvalid));
        }
        let url = parts.uri.to_string();
        if url.len() > limits::URL_BYTES_MAX {
            return Err(Stopped::Guest(Error::HttpRequestUriTooLong));
        }
        let (headers, bytes) = outgoing(&parts.headers);
        self.pay(bytes + url.len())?;
        let mut whole = BytesMut::new();
        while let Some(frame) = body.frame().await {
            // Trailers say nothing that a server needs.
            if let Ok(data) = frame.map_err(Stopped::Guest)?.into_data() {
                self.pay(data.len())?;
                whole.extend_from_slice(&data);
            }
        }
        let mut request = DirectRequest {
            method: parts.method.as_str().to_owned(),
            url,
            headers,
            body: whole.freeze(),
            deadline,
            connect: options.connect_timeout,
            first_byte: options.first_byte_timeout,
            between_bytes: options.between_bytes_timeout,
            answer_bytes_max: 0,
        };
        let named = parts.headers.contains_key("idempotency-key");
        if !named && !parts.method.is_safe() {
            let key = key(&digest(&request));
            let value = Bytes::copy_from_slice(key.as_bytes());
            request.headers.push(("idempotency-key".to_owned(), value));
        }
        Ok(request)
    }

    async fn receive(&self, outside: &dyn Outside, request: DirectRequest) -> Received {
        let left = self.in_bytes.load(Ordering::Relaxed);
        let answer_bytes_max = left.min(limits::DIRECT_ANSWER_BYTES_MAX);
        let request = DirectRequest { answer_bytes_max, ..request };
        let answer = outside.ask(request).await.map_err(Stopped::Unanswered)?;
        let headers = answer.headers.iter().map(|(name, value)| name.len() + value.len());
        let bytes = answer.body.len() + headers.sum::<usize>();
        let take = |left: usize| Some(left.saturating_sub(bytes));
        let _ = self.in_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        Ok((incoming(answer)?, Box::new(async { Ok(()) })))
    }

    fn pay(&self, bytes: usize) -> Result<(), Stopped> {
        let take = |left: usize| left.checked_sub(bytes);
        let paid = self.out_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        paid.map(drop).map_err(|_| Stopped::Output)
    }

    fn note(&self, went: &str, stopped: &Stopped) {
        let mut said = self.said();
        if said.len() < SAID_MAX {
            said.push(format!("wasi:http {went}: {stopped}"));
        }
    }

    fn said(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Received =
    Result<(Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>), Stopped>;

/// Why a guest has no answer.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    #[error("nothing is asked outside here: no record has the answers")]
    Closed,
    #[error("more than {} requests in one delivery", limits::DIRECT_REQUESTS_MAX)]
    Requests,
    #[error("`limits.output` was exceeded by what is sent")]
    Output,
    #[error("{0}")]
    Guest(Error),
    #[error("{}", .0.why)]
    Unanswered(Unanswered),
}

impl From<Stopped> for Error {
    fn from(stopped: Stopped) -> Self {
        let fault = match stopped {
            Stopped::Closed => return Self::HttpRequestDenied,
            Stopped::Requests => return Self::ConnectionLimitReached,
            Stopped::Output => return Self::HttpRequestBodySize(None),
            Stopped::Guest(error) => return error,
            Stopped::Unanswered(unanswered) => unanswered.fault,
        };
        match fault {
            DirectFault::Denied => Self::HttpRequestDenied,
            DirectFault::Address => Self::DestinationIpProhibited,
            DirectFault::Dns => Self::DnsError { rcode: None, info_code: None },
            DirectFault::Connect => Self::ConnectionRefused,
            DirectFault::Timeout => Self::HttpResponseTimeout,
            DirectFault::Tls => Self::TlsProtocolError,
            DirectFault::Protocol => Self::HttpProtocolError,
            DirectFault::TooLarge => Self::HttpResponseBodySize(None),
            DirectFault::Invalid => Self::HttpRequestUriInvalid,
        }
    }
}

/// Where a request went, without its path: that may have more in it than is to be known.
fn went(request: &Request<WasiBody>) -> String {
    let host = request.uri().host().unwrap_or_default();
    let port = request.uri().port_u16().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{} {}://{host}{port}", request.method(), request.uri().scheme_str().unwrap_or("?"))
}

/// The headers that are sent, and the bytes of them. Those about the connection are the client's.
fn outgoing(headers: &HeaderMap) -> (Vec<(String, Bytes)>, usize) {
    let own = [header::CONTENT_LENGTH, header::EXPECT, header::TE, header::TRAILER];
    let sent = headers.iter().filter(|(name, _)| !own.contains(name));
    let sent: Vec<_> = sent
        .map(|(name, value)| (name.as_str().to_owned(), Bytes::copy_from_slice(value.as_bytes())))
        .collect();
    let bytes = sent.iter().map(|(name, value)| name.len() + value.len()).sum();
    (sent, bytes)
}

fn incoming(answer: DirectAnswer) -> Result<Response<WasiBody>, Stopped> {
    let broken = || Stopped::Guest(Error::HttpProtocolError);
    let mut builder = Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        builder = builder.header(name.as_str(), value.as_ref());
    }
    let body = Full::new(answer.body).map_err(|never| match never {});
    builder.body(body.boxed_unsync()).map_err(|_| broken())
}

/// What makes a request another one.
fn digest(request: &DirectRequest) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for part in [request.method.as_bytes(), request.url.as_bytes(), &request.body] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests;
