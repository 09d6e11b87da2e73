//! Who may do what. The decision is made once, at the root of the router, from method and path
//! alone: a route that nobody thought of here is refused, not open.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::http::{HeaderMap, Method, Uri, header};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::console;
use super::errors::{ApiError, Code};
use crate::config::depth::too_deep;

/// Bytes of a presented token: longer ones are not looked at.
const TOKEN_BYTES_MAX: usize = 512;

/// What a token allows. `admin` allows everything, `operate` includes `read`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Publish events.
    Publish,
    /// See everything.
    Read,
    /// Pause, resume, rename, roll back, follow the clock.
    Operate,
    /// Whatever destroys.
    Admin,
}

impl Role {
    /// The wire name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }
}

/// Who asks, as authenticated; by default nobody in particular.
#[derive(Debug, Clone, Default)]
pub struct Principal(Option<Arc<Token>>);

impl Principal {
    /// The name, or nothing.
    #[must_use]
    pub fn name(&self) -> Arc<str> {
        self.0.as_ref().map(|token| Arc::clone(&token.name)).unwrap_or_default()
    }

    /// The name for control records.
    #[must_use]
    pub fn actor(&self) -> &str {
        self.0.as_ref().map_or("operator", |token| &token.name)
    }
}

/// Why tokens are not taken.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// It cannot be read.
    #[error("cannot read tokens file `{path}`: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The text is wrong.
    #[error("{place}: {why}")]
    Invalid {
        /// Where it stands.
        place: String,
        /// What is wrong with it.
        why: InvalidTokens,
    },
}

/// What is wrong with the text of a tokens file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTokens {
    /// It is not what it should be. Without the line itself: somebody may have put a token there.
    #[error("line {line}: {why}")]
    Syntax {
        /// From 1.
        line: usize,
        /// What the parser says.
        why: String,
    },
    /// It is TOML of something else. Without what stands there, for the same reason.
    #[error(
        "line {line}: a token is a table `[[tokens]]` with its `name`, its `sha256` and its `roles`, a \
         list of `publish`, `read`, `operate`, `admin`, and nothing else"
    )]
    Shape {
        /// From 1.
        line: usize,
    },
    /// A hash has the wrong shape.
    #[error("`sha256` of token `{0}` must be 64 hex digits: printf %s TOKEN | sha256sum")]
    Hash(String),
    /// A token without a name, or two with one.
    #[error("every token needs a `name` of its own, found `{0}` again")]
    Name(String),
    /// There are none: nobody could do anything.
    #[error("there is no token; add a `[[tokens]]` table")]
    Empty,
}

/// The tokens that are known. Read from their file at once, and again when told; it holds their
/// hashes only:
///
/// ```toml
/// [[tokens]]
/// name = "shop"                # stands in the log as principal and actor
/// sha256 = "9f86d081884c7d65..."   # of the token: openssl rand -hex 32, then printf %s TOKEN | sha256sum
/// roles = ["publish", "read"]  # publish, read, operate, admin
/// ```
#[derive(Debug)]
pub struct Tokens {
    /// None: they stand in the environment, which stays as it is while a process lives.
    file: Option<PathBuf>,
    known: ArcSwap<Vec<Arc<Token>>>,
    /// Tells those who look at them longer than a request takes.
    reloaded: watch::Sender<()>,
}

#[derive(Debug)]
struct Token {
    name: Arc<str>,
    hash: [u8; 32],
    roles: Vec<Role>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokensFile {
    #[serde(default)]
    tokens: Vec<TokenEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenEntry {
    name: String,
    sha256: String,
    roles: Vec<Role>,
}

impl Tokens {
    /// Reads a file of tokens.
    ///
    /// # Errors
    /// [`TokensError`].
    pub fn load(path: &Path) -> Result<Self, TokensError> {
        Ok(Self::of(Some(path.to_owned()), read_file(path)?))
    }

    fn of(file: Option<PathBuf>, known: Vec<Arc<Token>>) -> Self {
        Self { file, known: ArcSwap::from_pointee(known), reloaded: watch::Sender::new(()) }
    }

    /// The file that they are from, which [`Tokens::reload`] reads; none: there is none.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Reads the file again, if they are from one, for requests from now on. Blocks on the disk.
    ///
    /// # Errors
    /// [`TokensError`]; what was there stays in force.
    pub fn reload(&self) -> Result<(), TokensError> {
        let Some(path) = &self.file else { return Ok(()) };
        self.known.store(Arc::new(read_file(path)?));
        self.reloaded.send_replace(());
        Ok(())
    }

    /// Reads the text of such a file, as the environment variable `name` holds it.
    ///
    /// # Errors
    /// [`TokensError::Invalid`].
    pub fn from_variable(name: &str, text: &str) -> Result<Self, TokensError> {
        let place = format!("environment variable `{name}`");
        Self::parse(text).map_err(|why| TokensError::Invalid { place, why })
    }

    /// Reads the text of such a file.
    ///
    /// # Errors
    /// [`InvalidTokens`].
    pub fn parse(text: &str) -> Result<Self, InvalidTokens> {
        Ok(Self::of(None, read_tokens(text)?))
    }

    /// Resolves once a principal may not read any more: its token is gone, or has lost the role.
    pub(super) async fn until_revoked(&self, principal: Principal) {
        let mut reloaded = self.reloaded.subscribe();
        while let Some(token) = &principal.0 {
            let may_read = |known: &Arc<Token>| known.hash == token.hash && known.has(Role::Read);
            if !self.known.load().iter().any(may_read) {
                return;
            }
            // The sender lives as long as `self`.
            let _ = reloaded.changed().await;
        }
        std::future::pending().await
    }

    /// Looks at every token whatever it finds, and compares hashes in constant time.
    fn find(&self, presented: &str) -> Option<Arc<Token>> {
        let hash: [u8; 32] = Sha256::digest(presented.as_bytes()).into();
        let mut found = None;
        for token in self.known.load().iter() {
            if equal(&token.hash, &hash) {
                found = Some(Arc::clone(token));
            }
        }
        found
    }
}

fn read_file(path: &Path) -> Result<Vec<Arc<Token>>, TokensError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| TokensError::Read { path: path.to_owned(), source })?;
    let place = format!("tokens file `{}`", path.display());
    read_tokens(&text).map_err(|why| TokensError::Invalid { place, why })
}

fn read_tokens(text: &str) -> Result<Vec<Arc<Token>>, InvalidTokens> {
    if let Some(before) = too_deep(text).and_then(|at| text.get(..at)) {
        let line = 1 + before.matches('\n').count();
        return Err(InvalidTokens::Shape { line });
    }
    let file: TokensFile = toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        let line = before.map_or(1, |before| 1 + before.matches('\n').count());
        // Only of syntax does the parser speak without what it has read.
        match text.parse::<toml::Table>() {
            Ok(_) => InvalidTokens::Shape { line },
            Err(_) => InvalidTokens::Syntax { line, why: error.message().to_owned() },
        }
    })?;
    let mut tokens: Vec<Arc<Token>> = Vec::with_capacity(file.tokens.len());
    for entry in file.tokens {
        if entry.name.is_empty() || tokens.iter().any(|t| *t.name == *entry.name) {
            return Err(InvalidTokens::Name(entry.name));
        }
        // Both hashes have 32 bytes; this only reads the hex digits.
        let Ok(hash) = blake3::Hash::from_hex(&entry.sha256) else {
            return Err(InvalidTokens::Hash(entry.name));
        };
        let hash = *hash.as_bytes();
        tokens.push(Arc::new(Token { name: entry.name.into(), hash, roles: entry.roles }));
    }
    if tokens.is_empty() { Err(InvalidTokens::Empty) } else { Ok(tokens) }
}

impl Token {
    fn has(&self, role: Role) -> bool {
        self.roles.iter().any(|own| {
            *own == role || *own == Role::Admin || (*own == Role::Operate && role == Role::Read)
        })
    }
}

/// Takes the same time wherever the two differ.
fn equal(a: &[u8; 32], b: &[u8; 32]) -> bool {
    // `Hash` compares in constant time, which is what it is used for here.
    blake3::Hash::from_bytes(*a) == blake3::Hash::from_bytes(*b)
}

/// The role a request needs; none: it needs no token either.
#[must_use]
pub fn required_role(method: &Method, path: &str) -> Option<Role> {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    match path {
        "/healthz" | "/readyz" if reads => None,
        path if reads && console::is_asset(path) => None,
        _ if reads => Some(Role::Read),
        "/v1/events" if *method == Method::POST => Some(Role::Publish),
        _ if *method == Method::POST && is_request(path, "command") => Some(Role::Publish),
        _ if *method == Method::POST && is_request(path, "query") => Some(Role::Read),
        _ if *method == Method::POST => Some(Role::Operate),
        _ => Some(Role::Admin),
    }
}

/// Whether a path is that of a `command` or `query` to a plugin.
#[must_use]
pub(super) fn is_request(path: &str, what: &str) -> bool {
    let mut rest = path.strip_prefix("/v1/plugins/").unwrap_or_default().split('/');
    let (plugin, kind, name) = (rest.next(), rest.next(), rest.next());
    plugin.is_some_and(|plugin| !plugin.is_empty()) && kind == Some(what) && name.is_some()
}

/// Who asks, if they may.
///
/// # Errors
/// `unauthorized`, in the same words with no token and with a wrong one; `missing_role`; without
/// tokens `cross_origin`.
pub fn authorize(
    tokens: Option<&Tokens>,
    loopback: bool,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Principal, ApiError> {
    let Some(role) = required_role(method, uri.path()) else { return Ok(Principal::default()) };
    let Some(tokens) = tokens else {
        refuse_browsers(loopback, uri, headers)?;
        return Ok(Principal::default());
    };
    let token = bearer(headers).and_then(|presented| tokens.find(presented)).ok_or_else(|| {
        let message = "a valid token is needed: send `Authorization: Bearer TOKEN`";
        ApiError::new(Code::Unauthorized, message)
    })?;
    if token.has(role) {
        return Ok(Principal(Some(token)));
    }
    let message = format!("token `{}` does not have the role `{}`", token.name, role.name());
    Err(ApiError::new(Code::MissingRole, message))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && token.len() <= TOKEN_BYTES_MAX).then_some(token)
}

/// An open host on loopback is within reach of every web page its owner visits. A page of another
/// origin says so in `Origin`; one that had its name resolve to 127.0.0.1 says so in `Host`.
fn refuse_browsers(loopback: bool, uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
    let host = uri
        .authority()
        .map(|a| a.as_str())
        .or_else(|| headers.get(header::HOST).and_then(|value| value.to_str().ok()));
    let origin = headers.get(header::ORIGIN).map(|value| value.to_str().unwrap_or_default());
    let foreign = origin.is_some_and(|origin| {
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        authority.is_none() || authority != host
    });
    let rebound = loopback && host.is_some_and(|host| !is_local_name(host));
    let why = match (foreign, rebound) {
        (false, false) => return Ok(()),
        (true, _) => "",
        (false, true) => ": `Host` names neither an address nor `localhost`",
    };
    let what = "requests of web pages from elsewhere are refused while no tokens are set";
    Err(ApiError::new(Code::CrossOrigin, format!("{what}{why}")))
}

fn is_local_name(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>().is_ok()
        || host.eq_ignore_ascii_case("localhost")
        || host.to_ascii_lowercase().ends_with(".localhost")
}

#[cfg(test)]
mod tests;
