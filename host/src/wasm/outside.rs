//! The seam to the outside for guests that wait for an answer: what they ask, as plain data, and
//! who sends it.
//!
//! Rule: without an [`Outside`] in its delivery a guest reaches nothing. Tests, diffs, versions that
//! run beside, rebuilds, questions and upcasters have none.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;

/// Sends the direct requests of one plugin, to where it is granted and nowhere else.
pub trait Outside: Send + Sync + 'static {
    /// Sends one request and gives the whole answer, at `request.deadline` at the latest.
    ///
    /// Dropped: nobody hears the answer. What is on its way then ends by itself, in time.
    fn ask(&self, request: DirectRequest) -> BoxFuture<'static, Result<DirectAnswer, Unanswered>>;
}

/// One request, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectRequest {
    /// `GET`, `POST`, ...
    pub method: String,
    /// Absolute.
    pub url: String,
    /// Names and values, in order; `{secret:NAME}` in a value is filled in.
    pub headers: Vec<(String, Bytes)>,
    /// The body.
    pub body: Bytes,
    /// Until when there must be an answer.
    pub deadline: Instant,
    /// Time until there must be a connection; none: the host's own bound.
    pub connect: Option<Duration>,
    /// Time from there until the answer must begin; none: `deadline` alone.
    pub first_byte: Option<Duration>,
    /// Time between two parts of the answer; none: `deadline` alone.
    pub between_bytes: Option<Duration>,
    /// Bytes that its body may have.
    pub answer_bytes_max: usize,
}

/// What a server answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DirectAnswer {
    /// The status; redirects are answers like any other.
    pub status: u16,
    /// Names and values, in order.
    pub headers: Vec<(String, Bytes)>,
    /// The body.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unanswered {
    /// For programs.
    pub fault: DirectFault,
    /// For people. Says no more of the request than where it went.
    pub why: String,
}

/// Why there is no answer, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectFault {
    /// The host is not granted, or a secret is not.
    Denied,
    /// The host is granted, its address is not.
    Address,
    /// The host has no address.
    Dns,
    /// No connection came about, or it broke.
    Connect,
    /// It took too long.
    Timeout,
    /// The server is not who it should be.
    Tls,
    /// What came back is not HTTP.
    Protocol,
    /// The answer has more bytes than it may.
    TooLarge,
    /// The request cannot be sent as it is.
    Invalid,
}
