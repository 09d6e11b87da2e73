//! What every request passes through: the root of the router, and the bounds all requests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, header};
use axum::response::Response;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::answers::Answers;
use super::auth::{self, is_request};
use super::errors::{ApiError, Code};
use super::host::HostApi;
use super::params::check_text;
use super::server::ServerOptions;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Characters of a request id that a client may choose.
const REQUEST_ID_BYTES_MAX: usize = 128;
/// What the handlers share.
pub(super) struct App {
    pub(super) host: Arc<dyn HostApi>,
    pub(super) options: ServerOptions,
    /// Ingest answers `shutting_down`.
    pub(super) draining: AtomicBool,
    /// Streams end.
    pub(super) stop: CancellationToken,
    pub(super) streams: Arc<Semaphore>,
    pub(super) openapi: Bytes,
    loopback: bool,
    pub(super) bodies: Arc<Semaphore>,
    /// Memory for answers that are not taken yet, in bytes.
    pub(super) answers: Arc<Semaphore>,
    requests: Semaphore,
    request_id_prefix: String,
    requests_seen: AtomicU64,
}

impl App {
    pub(super) fn new(
        host: Arc<dyn HostApi>,
        options: ServerOptions,
        loopback: bool,
        openapi: Bytes,
    ) -> Self {
        let bodies = options.bodies_bytes_max.max(options.body_bytes_max);
        Self {
            host,
            draining: AtomicBool::new(false),
            stop: CancellationToken::new(),
            streams: Arc::new(Semaphore::new(options.streams_max)),
            openapi,
            loopback,
            bodies: Arc::new(Semaphore::new(bodies.min(u32::MAX as usize))),
            answers: Arc::new(Semaphore::new(options.answers_bytes_max.min(u32::MAX as usize))),
            requests: Semaphore::new(options.requests_max),
            request_id_prefix: format!("{:08x}", fastrand::u32(..)),
            requests_seen: AtomicU64::new(0),
            options,
        }
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// A place among the streams; held as long as one runs.
    pub(super) fn stream_permit(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Arc::clone(&self.streams).try_acquire_owned().map_err(|_| {
            let message = format!("{} streams are open already", self.options.streams_max);
            ApiError::new(Code::TooManyStreams, message)
        })
    }

    /// Answers one request of a connection with these answers.
    pub(super) async fn answer(
        &self,
        router: Router,
        answers: &Arc<Answers>,
        request: Request,
    ) -> Response {
        let mut request = self.read_on(request);
        let id = self.request_id(request.headers());
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let result = self.admit(&request);
        let response = match result {
            Err(error) => Err(error),
            Ok(principal) => {
                request.extensions_mut().insert(principal);
                self.route(router, request).await
            }
        };
        let (error, allow) = match response {
            Ok(response) => match foreign_error(&response) {
                None => match self.count(&method, answers, response).await {
                    Ok(response) => return with_request_id(response, &id),
                    Err(error) => (error, None),
                },
                Some(error) => (error, response.headers().get(header::ALLOW).cloned()),
            },
            Err(error) => (error, None),
        };
        if error.code == Code::Internal {
            let message = &error.detail.message;
            tracing::error!(request_id = %id, %method, path, message, "request failed");
        }
        let mut response = error.render(&id);
        if let Some(allow) = allow {
            response.headers_mut().insert(header::ALLOW, allow);
        }
        with_request_id(response, &id)
    }

    /// Answers whoever speaks plain HTTP where TLS is spoken.
    pub(super) fn refuse_plain(&self, request: &Request) -> Response {
        let id = self.request_id(request.headers());
        let error = ApiError::new(Code::InvalidRequest, "this port speaks TLS: use https://");
        with_request_id(error.render(&id), &id)
    }

    fn admit(&self, request: &Request) -> Result<auth::Principal, ApiError> {
        check_headers(&self.options, request.uri(), request.headers())?;
        check_singles(request.version(), request.headers())?;
        let principal = auth::authorize(
            self.options.tokens.as_deref(),
            self.loopback,
            request.method(),
            request.uri(),
            request.headers(),
        )?;
        check_text(request.uri())?;
        Ok(principal)
    }

    async fn route(&self, router: Router, request: Request) -> Result<Response, ApiError> {
        let _permit = match (request.uri().path(), request.method()) {
            // Probes are answered however busy the host is.
            ("/healthz" | "/readyz" | "/metrics", _) => None,
            // Bounded by the memory for bodies; many that wait for one sync are what makes it cheap.
            ("/v1/events", &Method::POST) => None,
            // Bounded on their own: they may take long.
            (path, _) if is_request(path, "command") || is_request(path, "query") => None,
            _ => self.requests.acquire().await.ok(),
        };
        match router.oneshot(request).await {
            Ok(mut response) => match response.extensions_mut().remove::<Arc<ApiError>>() {
                Some(error) => Err(Arc::unwrap_or_clone(error)),
                None => Ok(response),
            },
            Err(never) => match never {},
        }
    }

    fn request_id(&self, headers: &HeaderMap) -> String {
        let sent = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
        let plain = |text: &&str| {
            (1..=REQUEST_ID_BYTES_MAX).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:/+=".contains(&b))
        };
        match sent.filter(plain) {
            Some(id) => id.to_owned(),
            None => {
                let number = self.requests_seen.fetch_add(1, Ordering::Relaxed);
                format!("{}-{number}", self.request_id_prefix)
            }
        }
    }
}

fn check_headers(options: &ServerOptions, uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
    let bytes: usize = headers.iter().map(|(n, v)| n.as_str().len() + v.len()).sum();
    let bytes = bytes + uri.path().len() + uri.query().map_or(0, str::len);
    let (what, limit, actual) = if bytes > options.headers_bytes_max {
        ("bytes", options.headers_bytes_max, bytes)
    } else if headers.len() > options.headers_count_max {
        ("fields", options.headers_count_max, headers.len())
    } else {
        return Ok(());
    };
    let message = format!("address and headers have {actual} {what}, at most {limit} are allowed");
    Err(ApiError::over(Code::HeadersTooLarge, message, limit as u64, actual as u64))
}

/// RFC 9112, 3.2: one `Host`, which only HTTP/1.1 must have. RFC 9110, 11.6.2: one `Authorization`. With
/// two of them it would be chance which one counts here, and which one before a proxy.
fn check_singles(version: Version, headers: &HeaderMap) -> Result<(), ApiError> {
    let count = |name| headers.get_all(name).iter().count();
    let refused = |field: &str, why: &str| {
        let mut error = ApiError::new(Code::InvalidRequest, format!("`{field}` {why}"));
        error.detail.field = Some(field.to_owned());
        Err(error)
    };
    match (count(header::HOST), count(header::AUTHORIZATION)) {
        (2.., _) => refused("Host", "is given more than once"),
        (_, 2..) => refused("Authorization", "is given more than once"),
        (0, _) if version == Version::HTTP_11 => refused("Host", "is missing"),
        _ => Ok(()),
    }
}

/// Errors that a library answered, in the words of this API.
fn foreign_error(response: &Response) -> Option<ApiError> {
    let status = response.status();
    Some(match status {
        StatusCode::METHOD_NOT_ALLOWED => {
            let allow = response.headers().get(header::ALLOW).and_then(|v| v.to_str().ok());
            let message = format!("this route takes {}", allow.unwrap_or("other methods"));
            ApiError::new(Code::MethodNotAllowed, message)
        }
        StatusCode::NOT_FOUND => ApiError::new(Code::NotFound, "there is no such route"),
        status if status.is_client_error() => {
            ApiError::new(Code::InvalidRequest, format!("the request is malformed ({status})"))
        }
        status if status.is_server_error() => {
            ApiError::new(Code::Internal, format!("a handler answered {status}"))
        }
        _ => return None,
    })
}

fn with_request_id(mut response: Response, id: &str) -> Response {
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, value);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
