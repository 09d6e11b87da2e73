//! How a delivery fails, and why an effect is refused.

use std::fmt;
use std::time::Duration;

/// What a handler returns: its effects are recorded, or dropped for the reason given.
pub type Outcome = Result<(), Failure>;

/// How a delivery fails. All its effects are dropped.
///
/// Any error that `?` meets becomes a [`Failure::Reject`] with the error's text, because a handler
/// has no source of errors that would go away by themselves. Say otherwise where you know better:
///
/// ```
/// use tidegate_sdk::{Failure, retry_after};
/// use std::time::Duration;
///
/// fn stock(text: &str) -> Result<u32, Failure> {
///     Ok(text.parse()?) // reject: invalid digit found in string
/// }
/// fn patient(text: &str) -> Result<u32, Failure> {
///     text.parse().map_err(|_| retry_after("stock not counted yet", Duration::from_secs(60)))
/// }
/// assert_eq!(stock("x"), Err(Failure::Reject { reason: "invalid digit found in string".into() }));
/// assert!(matches!(patient("x"), Err(Failure::Retry { .. })));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The cause may go away: the host tries again, and later events of the key wait.
    Retry {
        /// Why, for people. 4 KiB are kept.
        reason: String,
        /// How long to wait, at most 30 days; none: the backoff of the manifest.
        after: Option<Duration>,
    },
    /// Never going to work: the event becomes a dead letter, and the key goes on.
    Reject {
        /// Why, for people. 4 KiB are kept.
        reason: String,
    },
}

/// A failure that asks to be tried again after the backoff of the manifest.
#[must_use]
pub fn retry(reason: impl Into<String>) -> Failure {
    Failure::Retry { reason: reason.into(), after: None }
}

/// A failure that asks to be tried again after this long, at most 30 days.
#[must_use]
pub fn retry_after(reason: impl Into<String>, after: Duration) -> Failure {
    Failure::Retry { reason: reason.into(), after: Some(after) }
}

/// A failure that is final: the event becomes a dead letter.
#[must_use]
pub fn reject(reason: impl Into<String>) -> Failure {
    Failure::Reject { reason: reason.into() }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retry { reason, after: None } => write!(f, "retry: {reason}"),
            Self::Retry { reason, after: Some(after) } => {
                write!(f, "retry in {} ms: {reason}", after.as_millis())
            }
            Self::Reject { reason } => write!(f, "reject: {reason}"),
        }
    }
}

// `Failure` is no `std::error::Error` itself, or this would overlap with `From<T> for T`.
impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut reason = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            reason.push_str(": ");
            reason.push_str(&cause.to_string());
            source = cause.source();
        }
        Self::Reject { reason }
    }
}

/// Why a call into this crate failed. Nothing changed; the handler may go on.
///
/// A budget that was once exceeded makes the host drop the delivery even where the handler returns
/// `Ok`, with the outcome `output`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// Bytes that are not the JSON the handler takes.
    Decode {
        /// What was read: ``data of `order.created` ``.
        what: String,
        /// What is wrong, with line and column.
        why: String,
    },
    /// A value that has no JSON form.
    Encode {
        /// What was to be written: ``state `sum` ``.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// A budget is used up; its manifest key: `limits.emits`.
    Exceeded(String),
    /// A malformed argument: why, for people.
    Invalid(String),
    /// The input has no key, so that there is no state and there are no timers.
    Unkeyed,
    /// Not granted; the manifest key: `grants.http`.
    Denied(String),
    /// Queries and upcasters have no effects.
    ReadOnly,
    /// Something a newer host says: a stable code.
    Other(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decode { what, why } => write!(f, "{what} is not what the handler takes: {why}"),
            Self::Encode { what, why } => write!(f, "{what} has no JSON form: {why}"),
            Self::Exceeded(budget) => write!(f, "`{budget}` is used up"),
            Self::Invalid(why) => f.write_str(why),
            Self::Unkeyed => f.write_str("the event has no key, so that it has no state"),
            Self::Denied(grant) => write!(f, "not granted: `{grant}` in the manifest"),
            Self::ReadOnly => f.write_str("queries and upcasters have no effects"),
            Self::Other(code) => write!(f, "refused by the host: {code}"),
        }
    }
}

impl std::error::Error for Error {}
