//! One attempt at one call: resolve, check, connect, send, read. Blocks its thread, for no longer
//! than the call's timeout.
//!
//! Rules: what is connected to is the address that was checked; redirects and proxies are not
//! followed; no error says more of a request than where it went.

mod direct;

use std::io::Read;
use std::time::Duration;

use time::PrimitiveDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use tokio_rustls::rustls;
use ureq::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use ureq::http::{Method, Request, Response, Uri};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Body};
use url::Url;

use super::address::{Reach, reach};
use super::policy::{Ended, Fault};
use crate::config::Secrets;
use crate::config::secrets::Secret;
use crate::effects::OutgoingCall;
use crate::limits::{
    CALL_ANSWER_BYTES_MAX, CALL_ANSWER_HEADERS_BYTES_MAX, CALL_CONNECT_MS_MAX,
    CONTENT_TYPE_BYTES_MAX,
};
use crate::plugin::Grants;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// IMF-fixdate of RFC 9110.
const DATE: &[BorrowedFormatItem<'_>] = format_description!(
    "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
);

/// Sends the calls of one plugin, under the grants of one version of it.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    grants: Grants,
}

/// What a server answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) retry_after_ms: Option<u64>,
    /// Empty: none.
    pub(super) content_type: String,
    pub(super) body: Vec<u8>,
    /// Whether the body had more bytes than are kept.
    pub(super) truncated: bool,
}

/// Where the system is asked for the address of a host, which may take it a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resolving {
    /// On a thread of its own, which nobody waits for once the time is over.
    InTime,
    /// On the thread that sends, however long it takes: there are no others to count.
    InPlace,
}

/// How long the parts of a request may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Waits {
    /// All of it, with the last byte of the answer.
    pub(super) whole: Duration,
    /// Until there is a connection.
    pub(super) connect: Duration,
    /// From the request sent to the first byte of the answer.
    pub(super) first_byte: Option<Duration>,
    /// Between two parts of the answer.
    pub(super) between_bytes: Option<Duration>,
}

/// Why there is no answer, for people beside the word for programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) fault: Fault,
    pub(super) why: String,
}

impl Failure {
    fn new(fault: Fault, why: &dyn std::fmt::Display) -> Self {
        Self { fault, why: why.to_string() }
    }
}

/// How an attempt ended, for [`super::policy`].
pub(super) fn ended(result: &Result<Answer, Failure>) -> Ended {
    match result {
        Ok(answer) => {
            Ended::Status { status: answer.status, retry_after_ms: answer.retry_after_ms }
        }
        Err(failure) => Ended::Fault(failure.fault),
    }
}

impl Client {
    /// For a plugin with these grants, as both sides agree on them.
    pub(super) fn new(grants: Grants, resolving: Resolving) -> Self {
        let config = Agent::config_builder()
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .proxy(None)
            .user_agent(concat!("tidegate/", env!("CARGO_PKG_VERSION")))
            .max_response_header_size(CALL_ANSWER_HEADERS_BYTES_MAX)
            .build();
        let resolver = CheckedResolver {
            grants: grants.clone(),
            resolving,
            inner: DefaultResolver::default(),
        };
        let agent = Agent::with_parts(config, DefaultConnector::default(), resolver);
        Self { agent, grants }
    }

    /// Sends a call and reads the answer.
    pub(super) fn send(&self, call: &OutgoingCall, secrets: &Secrets) -> Result<Answer, Failure> {
        let mut used = Vec::new();
        let request = self.request(call, secrets, &mut used)?;
        let ms = |ms: u32| Duration::from_millis(u64::from(ms));
        let connect = ms(call.timeout_ms.min(CALL_CONNECT_MS_MAX));
        let waits =
            Waits { whole: ms(call.timeout_ms), connect, first_byte: None, between_bytes: None };
        let answer = read(self.run(request, waits).map_err(|error| failure(&error))?)?;
        Ok(strike(answer, &used))
    }

    fn run(&self, request: Request<Vec<u8>>, waits: Waits) -> Result<Response<Body>, ureq::Error> {
        let request = self
            .agent
            .configure_request(request)
            .timeout_global(Some(waits.whole))
            .timeout_connect(Some(waits.connect))
            .timeout_recv_response(waits.first_byte)
            .timeout_per_read(waits.between_bytes)
            .build();
        // A body that is not there is another thing than an empty one: GET has none.
        let with_body = matches!(request.method().as_str(), "POST" | "PUT" | "PATCH")
            || !request.body().is_empty();
        if with_body {
            self.agent.run(request)
        } else {
            let (parts, _) = request.into_parts();
            self.agent.run(Request::from_parts(parts, ()))
        }
    }

    /// A request without headers, to a granted host.
    fn bare(&self, method: &str, url: &str, body: &[u8]) -> Result<Request<Vec<u8>>, Failure> {
        let invalid = |why: &dyn std::fmt::Display| Failure::new(Fault::Invalid, why);
        let mut url = Url::parse(url).map_err(|error| invalid(&error))?;
        if !self.grants.allows_http(&url) {
            let host = url.host_str().unwrap_or_default();
            let why = format!("`{host}` is not in `grants.http`");
            return Err(Failure::new(Fault::Denied, &why));
        }
        url.set_fragment(None);
        // As the grants were judged by: two parsers may see two hosts in one odd text.
        let uri: Uri = url.as_str().parse().map_err(|_| invalid(&"the URL cannot be sent"))?;
        let method = Method::from_bytes(method.as_bytes()).map_err(|error| invalid(&error))?;
        let mut request = Request::new(body.to_vec());
        *request.uri_mut() = uri;
        *request.method_mut() = method;
        Ok(request)
    }

    fn request(
        &self,
        call: &OutgoingCall,
        secrets: &Secrets,
        used: &mut Vec<Secret>,
    ) -> Result<Request<Vec<u8>>, Failure> {
        let invalid = |why: &dyn std::fmt::Display| Failure::new(Fault::Invalid, why);
        let mut request = self.bare(&call.method, &call.url, &call.body)?;
        let headers = request.headers_mut();
        for (name, value) in &call.headers {
            let name: HeaderName = name.parse().map_err(|_| invalid(&"a header's name"))?;
            let value = self.fill(&name, value, secrets, used)?;
            headers.append(name, value);
        }
        let key = call.idempotency_key.parse().map_err(|_| invalid(&"the idempotency key"))?;
        headers.insert(IDEMPOTENCY_KEY, key);
        Ok(request)
    }

    fn fill(
        &self,
        name: &HeaderName,
        value: &str,
        secrets: &Secrets,
        used: &mut Vec<Secret>,
    ) -> Result<HeaderValue, Failure> {
        let value = secrets
            .fill(value, &self.grants.secrets, used)
            .map_err(|error| Failure::new(Fault::Secret, &error))?;
        let mut value: HeaderValue = value
            .parse()
            .map_err(|_| Failure::new(Fault::Invalid, &format!("the value of header `{name}`")))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

fn read(mut response: Response<Body>) -> Result<Answer, Failure> {
    let headers = response.headers();
    let retry_after_ms = retry_after_ms(headers);
    let content_type = text(headers, header::CONTENT_TYPE)
        .filter(|text| text.len() <= CONTENT_TYPE_BYTES_MAX)
        .unwrap_or_default()
        .to_owned();
    let status = response.status().as_u16();
    let mut body = Vec::new();
    let most = CALL_ANSWER_BYTES_MAX as u64 + 1;
    let read = response.body_mut().as_reader().take(most).read_to_end(&mut body);
    read.map_err(|error| failure(&in_reading(error)))?;
    let truncated = body.len() > CALL_ANSWER_BYTES_MAX;
    body.truncate(CALL_ANSWER_BYTES_MAX);
    Ok(Answer { status, retry_after_ms, content_type, body, truncated })
}

/// What ureq hides in an error of its reader.
fn in_reading(error: std::io::Error) -> ureq::Error {
    match error.downcast::<ureq::Error>() {
        Ok(inner) => inner,
        Err(error) => ureq::Error::Io(error),
    }
}

/// Takes out what a server repeats of secrets: the answer goes into the log.
fn strike(answer: Answer, used: &[Secret]) -> Answer {
    used.iter().fold(answer, |answer, secret| {
        let content_type = secret.struck_from(answer.content_type.into_bytes());
        Answer {
            content_type: String::from_utf8(content_type).unwrap_or_default(),
            body: secret.struck_from(answer.body),
            ..answer
        }
    })
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Seconds, or a date that is compared with the server's own clock.
fn retry_after_ms(headers: &HeaderMap) -> Option<u64> {
    let asked = text(headers, header::RETRY_AFTER)?.trim();
    if let Ok(seconds) = asked.parse::<u64>() {
        return Some(seconds.saturating_mul(1000));
    }
    let at = |text: &str| PrimitiveDateTime::parse(text, DATE).ok();
    let wait = at(asked)? - at(text(headers, header::DATE)?.trim())?;
    u64::try_from(wait.whole_milliseconds()).ok()
}

fn failure(error: &ureq::Error) -> Failure {
    let fault = match error {
        ureq::Error::Timeout(_) => Fault::Timeout,
        ureq::Error::HostNotFound => Fault::Dns,
        ureq::Error::Rustls(_) | ureq::Error::Tls(_) => Fault::Tls,
        ureq::Error::Io(io) if io.get_ref().is_some_and(|why| why.is::<rustls::Error>()) => {
            Fault::Tls
        }
        ureq::Error::Io(io) if io.kind() == std::io::ErrorKind::TimedOut => Fault::Timeout,
        ureq::Error::Io(_) | ureq::Error::ConnectionFailed => Fault::Connect,
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => Fault::Invalid,
        ureq::Error::Other(other) if other.is::<Refused>() => Fault::Denied,
        _ => Fault::Protocol,
    };
    Failure::new(fault, error)
}

/// An address that a call may not connect to.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{host}` has the address {address}, which is not a public one; if that is meant, the operator \
     names the host in `allow.private`"
)]
struct Refused {
    host: String,
    address: std::net::IpAddr,
}

/// Resolves names, and gives only addresses that may be connected to.
#[derive(Debug)]
struct CheckedResolver {
    grants: Grants,
    resolving: Resolving,
    inner: DefaultResolver,
}

impl Resolver for CheckedResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &ureq::config::Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let url = Url::parse(&uri.to_string()).map_err(|_| ureq::Error::HostNotFound)?;
        let timeout = match self.resolving {
            Resolving::InTime => timeout,
            Resolving::InPlace => NextTimeout::default(),
        };
        let found = self.inner.resolve(uri, config, timeout).map_err(|error| match error {
            ureq::Error::Io(_) => ureq::Error::HostNotFound,
            other => other,
        })?;
        let private = self.grants.allows_private(&url);
        let mut allowed = self.empty();
        let mut refused = None;
        for address in found.iter() {
            match reach(address.ip()) {
                Reach::Public => allowed.push(*address),
                Reach::Private if private => allowed.push(*address),
                Reach::Private | Reach::Never => refused = Some(address.ip()),
            }
        }
        match refused {
            _ if !allowed.is_empty() => Ok(allowed),
            Some(address) => {
                let host = url.host_str().unwrap_or_default().to_owned();
                Err(ureq::Error::Other(Box::new(Refused { host, address })))
            }
            None => Err(ureq::Error::HostNotFound),
        }
    }
}

#[cfg(test)]
mod tests;
