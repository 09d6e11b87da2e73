//! Requests to the outside, sent by the host once the delivery is durable.
//!
//! The answer comes back on the key as an event of type `tidegate.response`: see [`answer`]. The host
//! tries again by itself what may pass (no connection, a timeout, status 429, 502, 503, 504), within
//! `[retry] give-up-after`, always with the same `Idempotency-Key`: a server that heeds it does what
//! is asked once. The plugin needs `grants.http` for the host it calls.

use std::time::Duration;

use serde::Serialize;

use crate::{Error, context, host, json};

/// The type of the events that answers come back as.
pub const ANSWERED: &str = "tidegate.response";

const TIMEOUT_MS_DEFAULT: u32 = 10_000;

/// An HTTP request to be sent. Nothing is recorded before [`send`](Self::send) or
/// [`send_json`](Self::send_json).
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "nothing is sent before `send` or `send_json`"]
pub struct Call {
    pub(crate) name: String,
    pub(crate) method: String,
    pub(crate) url: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) timeout_ms: u32,
}

/// Begins a request. The name comes back with the answer; the URL is absolute.
///
/// ```no_run
/// # fn f() -> tidegate_sdk::Outcome {
/// use tidegate_sdk::calls;
///
/// calls::request("charge", "POST", "https://api.example.com/charges")
///     .header("authorization", "Bearer {secret:PAY_TOKEN}")
///     .send_json(&serde_json::json!({ "amount": 40 }))?;
/// # Ok(())
/// # }
/// ```
pub fn request(name: impl Into<String>, method: impl Into<String>, url: impl Into<String>) -> Call {
    Call {
        name: name.into(),
        method: method.into(),
        url: url.into(),
        headers: Vec::new(),
        body: Vec::new(),
        timeout_ms: TIMEOUT_MS_DEFAULT,
    }
}

impl Call {
    /// With a header; `{secret:NAME}` in its value is filled in by the host.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Time for one attempt, at most 60 s; 10 s unless said.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        self
    }

    /// Records the call with this body and returns its idempotency key, which the host sends as
    /// `Idempotency-Key`.
    ///
    /// # Errors
    /// [`Error::Denied`] for a host that is not granted, [`Error::Exceeded`], [`Error::Invalid`],
    /// [`Error::ReadOnly`].
    pub fn send(mut self, body: impl Into<Vec<u8>>) -> Result<String, Error> {
        self.body = body.into();
        host::call_send(self)
    }

    /// The same with a JSON body and its `content-type`.
    ///
    /// # Errors
    /// As [`send`](Self::send), and [`Error::Encode`].
    pub fn send_json<T: Serialize + ?Sized>(self, body: &T) -> Result<String, Error> {
        let body = json::write(body, || format!("body of `{}`", self.name))?;
        self.header("content-type", json::MEDIA_TYPE).send(body)
    }
}

/// How a call ended, as the event that is being handled tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The name the call was given.
    pub name: String,
    /// What [`Call::send`] returned.
    pub id: String,
    /// The HTTP status; 0: no server answered.
    pub status: u16,
    /// Why the host gave up: `denied`, `dns`, `connect`, `timeout`, `tls`, `protocol`, `secret`,
    /// `invalid`, or `status` where the last attempt ended with [`status`](Self::status).
    pub error: Option<String>,
    /// Attempts made, since the host started last.
    pub attempts: u32,
    /// Whether the body had more than the 256 KiB that are kept.
    pub truncated: bool,
}

/// The answer that is being handled; none where the input is something else. Its body is the data
/// of the event.
///
/// ```
/// # use tidegate_sdk::{Event, Outcome, calls, handlers};
/// fn answered(event: &Event) -> Outcome {
///     let Some(answer) = calls::answer() else { return Ok(()) };
///     if answer.is_success() {
///         // `event.data()` is what the server said.
///     }
///     Ok(())
/// }
/// handlers! { "tidegate.response" => answered }
/// # fn main() {}
/// ```
#[must_use]
pub fn answer() -> Option<Answer> {
    let number = |name: &str| context::attribute(name)?.parse::<u32>().ok();
    Some(Answer {
        name: context::attribute("callname")?,
        id: context::attribute("callid").unwrap_or_default(),
        status: number("callstatus")?.try_into().ok()?,
        error: context::attribute("callerror"),
        attempts: number("callattempts").unwrap_or(1),
        truncated: context::attribute("calltruncated").is_some(),
    })
}

impl Answer {
    /// Whether the server did what was asked: status 200 to 299, and not given up.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.error.is_none() && (200..300).contains(&self.status)
    }
}
