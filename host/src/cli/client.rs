//! What client commands speak to the host with: blocking HTTP, typed answers, errors that say what
//! to do next.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use serde::de::DeserializeOwned;
use tokio_rustls::rustls::CertificateError;
use ureq::http::{HeaderMap, Request, Response};
use ureq::{Agent, Body};
use url::Url;

use super::out::UsageError;
use super::sse::Items;
use super::trust::{self, Handshake};
use crate::api::errors::{Code, ErrorBody, ErrorDetail};
use crate::api::view::BusKind;

/// Where a host listens unless it is told otherwise.
const URL_DEFAULT: &str = "http://127.0.0.1:7411";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for an answer to begin. Publishing waits for the disk.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest silence of an answer that has begun: a quiet stream says every 15 s that it is alive.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of an answer that is not a stream.
const ANSWER_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Which host, and who asks.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ConnectArgs {
    /// Address of the host [default: http://127.0.0.1:7411]
    #[arg(long, global = true, env = "TIDEGATE_URL", value_name = "URL", help_heading = "Host")]
    pub url: Option<String>,

    /// File that holds the token; goes before what TIDEGATE_TOKEN holds
    #[arg(
        long,
        global = true,
        env = "TIDEGATE_TOKEN_FILE",
        value_name = "FILE",
        help_heading = "Host"
    )]
    pub token_file: Option<PathBuf>,

    /// PEM file of the certificate authorities to trust, instead of the public ones
    #[arg(
        long,
        global = true,
        env = "TIDEGATE_CA_CERT",
        value_name = "FILE",
        help_heading = "Host"
    )]
    pub ca_cert: Option<PathBuf>,
}

/// Why the host did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error(
        "no host answers at {url}: start one with `tidegate run` (or `tidegate dev`), or say where \
         it is with --url or TIDEGATE_URL"
    )]
    NoHost {
        /// Where.
        url: String,
    },
    /// The connection broke, or nothing came.
    #[error("the connection to {url} failed: {why}")]
    Broken {
        /// Where.
        url: String,
        /// How.
        why: String,
    },
    /// Whoever answers there cannot show that it is the host.
    #[error("{url} is not trusted: {}", trust::reason(why))]
    Untrusted {
        /// Where.
        url: String,
        /// What is wrong with its certificate.
        why: Box<CertificateError>,
    },
    /// Nobody speaks TLS there.
    #[error("{url} does not speak TLS: use http://")]
    NoTls {
        /// Where.
        url: String,
    },
    /// The host said no.
    #[error("{}{}", detail.message, next_step(&detail.code))]
    Refused {
        /// What it said.
        detail: Box<ErrorDetail>,
    },
    /// Whoever answers there speaks another language.
    #[error("what answers at {url} is not a tidegate host of this version: {why}")]
    Foreign {
        /// Where.
        url: String,
        /// What it said.
        why: String,
    },
}

impl ClientError {
    /// Whether the same request may succeed a little later.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::NoHost { .. } | Self::Broken { .. } => true,
            Self::Refused { detail } => {
                matches!(
                    &*detail.code,
                    "queue_full" | "too_many_streams" | "shutting_down" | "read_only" | "not_ready"
                )
            }
            Self::Untrusted { .. } | Self::NoTls { .. } | Self::Foreign { .. } => false,
        }
    }

    /// Whether what the command line says is what the host cannot make sense of.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        let Self::Refused { detail } = self else { return false };
        [Code::InvalidField, Code::InvalidKey].iter().any(|code| code.name() == detail.code)
    }
}

fn next_step(code: &str) -> &'static str {
    match code {
        "unauthorized" => ": set TIDEGATE_TOKEN or give --token-file",
        "missing_role" => ": use a token that has it",
        "storage_full" => ": free some space, the host goes on by itself",
        "read_only" => ": look at the host's log, then start it again",
        "sequence_conflict" => ": read it again, and decide anew at the sequence it has",
        "queue_full" => ": try again in a moment",
        _ => "",
    }
}

/// A host, as seen from outside.
#[derive(Debug, Clone)]
pub struct Client {
    agent: Agent,
    base: Url,
    token: Option<String>,
}

impl Client {
    /// A client of the host that the arguments and the environment name. Does not connect yet.
    ///
    /// # Errors
    /// [`UsageError`] where the address is none or the token is no word; a file that cannot be read.
    pub fn new(args: &ConnectArgs) -> anyhow::Result<Self> {
        let text = args.url.as_deref().unwrap_or(URL_DEFAULT);
        let base = Url::parse(text)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| {
                UsageError(format!("`{text}` is not the address of a host, like {URL_DEFAULT}"))
            })?;
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("tidegate/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(ANSWER_TIMEOUT))
            .timeout_per_read(Some(SILENCE_TIMEOUT));
        if is_loopback(&base) {
            // A proxy for the world has no way to this machine's own loopback.
            config = config.proxy(None);
        }
        if let Some(path) = &args.ca_cert {
            config = config.tls_config(trust::only(path)?);
        }
        Ok(Self { agent: config.build().into(), base, token: token(args)? })
    }

    fn url(&self, path: &[&str], query: &[(&str, &str)]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    fn send(
        &self,
        method: &str,
        url: &Url,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response<Body>, ClientError> {
        let mut request = Request::builder().method(method).uri(url.as_str());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let sent = match method {
            "GET" | "DELETE" => request
                .body(())
                .map_err(ureq::Error::from)
                .and_then(|request| self.agent.run(request)),
            _ => request
                .body(body)
                .map_err(ureq::Error::from)
                .and_then(|request| self.agent.run(request)),
        };
        let response = sent.map_err(|error| self.broken(&error))?;
        if response.status().is_success() { Ok(response) } else { Err(self.refused(response)) }
    }

    /// Asks for something and takes the answer apart.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn get<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Result<T, ClientError> {
        self.parse(&self.get_page(path, query)?.body)
    }

    /// Asks for something and takes the answer as it is.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn get_page(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Page, ClientError> {
        let response = self.send("GET", &self.url(path, query), &[], &[])?;
        let header = response.headers().get("tidegate-cursor");
        let cursor = header.and_then(|value| value.to_str().ok()).map(ToOwned::to_owned);
        Ok(Page { cursor, body: self.body(response)? })
    }

    /// Asks for something to be done.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn post<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
        content_type: Option<&str>,
        body: &[u8],
    ) -> Result<Posted<T>, ClientError> {
        let content_type = content_type.map(|text| ("content-type", text));
        self.post_with(path, query, content_type.as_slice(), body)
    }

    /// As [`post`](Self::post), with headers.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn post_with<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Posted<T>, ClientError> {
        let response = self.send("POST", &self.url(path, query), headers, body)?;
        let timing = response.headers().get("server-timing").and_then(|value| value.to_str().ok());
        let took = timing.and_then(took);
        let body = self.body(response)?;
        Ok(Posted { took, answer: self.parse(&body)? })
    }

    /// Asks a plugin, and takes the answer as it is.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn ask(
        &self,
        method: &str,
        path: &[&str],
        query: &[(&str, &str)],
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answered, ClientError> {
        let response = self.send(method, &self.url(path, query), headers, body)?;
        let headers = response.headers().clone();
        Ok(Answered { headers, body: self.body(response)? })
    }

    /// Asks for something to be removed.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn delete(&self, path: &[&str]) -> Result<(), ClientError> {
        self.send("DELETE", &self.url(path, &[]), &[], &[]).map(drop)
    }

    /// Opens a stream of server-sent events, after the one with id `last`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn stream(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
        last: Option<&str>,
    ) -> Result<Items, ClientError> {
        let last = last.map(|id| ("last-event-id", id));
        let response = self.send("GET", &self.url(path, query), last.as_slice(), &[])?;
        let kind = response.headers().get("content-type").and_then(|value| value.to_str().ok());
        if !kind.is_some_and(|kind| kind.starts_with("text/event-stream")) {
            let (url, why) = (self.base.to_string(), "it answers with no stream".to_owned());
            return Err(ClientError::Foreign { url, why });
        }
        Ok(Items::new(response.into_body().into_reader(), self.base.to_string()))
    }

    fn body(&self, response: Response<Body>) -> Result<Vec<u8>, ClientError> {
        let mut body = response.into_body();
        let read = body.with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        read.map_err(|error| self.broken(&error))
    }

    fn parse<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(body).map_err(|why| ClientError::Foreign {
            url: self.base.to_string(),
            why: why.to_string(),
        })
    }

    fn broken(&self, error: &ureq::Error) -> ClientError {
        let url = self.base.to_string();
        match error {
            ureq::Error::Io(io) if io.kind() == std::io::ErrorKind::ConnectionRefused => {
                ClientError::NoHost { url }
            }
            ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => {
                ClientError::NoHost { url }
            }
            other => match trust::handshake_failure(other) {
                Some(Handshake::Untrusted(why)) => ClientError::Untrusted { url, why },
                Some(Handshake::NoTls) => ClientError::NoTls { url },
                None => ClientError::Broken { url, why: other.to_string() },
            },
        }
    }

    fn refused(&self, response: Response<Body>) -> ClientError {
        let status = response.status();
        let body = self.body(response).unwrap_or_default();
        match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(body) => ClientError::Refused { detail: Box::new(body.error) },
            Err(_) => {
                let (url, why) = (self.base.to_string(), format!("it answers {status}"));
                ClientError::Foreign { url, why }
            }
        }
    }
}

/// An answer as it is.
#[derive(Debug)]
pub struct Page {
    /// Where the next page begins; none: there is none.
    pub cursor: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

/// The answer of a plugin.
#[derive(Debug)]
pub struct Answered {
    headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
}

impl Answered {
    /// One of its headers, where it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// The answer to something done.
#[derive(Debug)]
pub struct Posted<T> {
    /// What it became, `durable` or `taken`, in how many milliseconds, as the host measured.
    pub took: Option<(&'static str, f64)>,
    /// What came back.
    pub answer: T,
}

/// Reads `durable;dur=1.234`.
fn took(timing: &str) -> Option<(&'static str, f64)> {
    let (word, ms) = timing.split_once(";dur=")?;
    let words = [BusKind::Durable, BusKind::Memory].map(BusKind::published);
    Some((words.into_iter().find(|known| *known == word)?, ms.parse().ok()?))
}

/// From the environment or a file, never from an argument, where everybody on the machine sees it.
pub(super) fn token(args: &ConnectArgs) -> anyhow::Result<Option<String>> {
    let (text, from) = if let Some(path) = &args.token_file {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read token file `{}`", path.display()))?;
        (text, format!("token file `{}`", path.display()))
    } else {
        match std::env::var("TIDEGATE_TOKEN") {
            Ok(text) if !text.is_empty() => (text, "TIDEGATE_TOKEN".to_owned()),
            _ => return Ok(None),
        }
    };
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(
            UsageError(format!("{from} holds no token: one word of printable ASCII")).into()
        );
    }
    Ok(Some(token.to_owned()))
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_travel_encoded() {
        let url = Some("http://h:1/prefix/".to_owned());
        let client = Client::new(&ConnectArgs { url, ..ConnectArgs::default() }).unwrap();
        let url = client.url(&["v1", "plugins", "a/b"], &[("key", "ü &=")]);
        assert_eq!(url.as_str(), "http://h:1/prefix/v1/plugins/a%2Fb?key=%C3%BC+%26%3D");
    }

    #[test]
    fn a_wrong_address_is_a_usage_error() {
        for url in ["nonsense", "ftp://a", "localhost:7411"] {
            let args = ConnectArgs { url: Some(url.to_owned()), ..ConnectArgs::default() };
            let error = Client::new(&args).unwrap_err();
            assert!(error.downcast_ref::<UsageError>().is_some(), "{url}: {error}");
        }
    }
}
