//! What went wrong, as clients see it: the only place of status codes.
//!
//! Every answer that is not a success has the body of [`ErrorBody`]. Codes are stable: programs
//! match on them, people read the message.

use std::sync::Arc;

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::cloudevents::{BadEvent, BadInput};
use super::host::{HostError, PublishError};
use crate::effects::OutcomeKind;
use crate::event::InvalidEvent;

/// Seconds a client is asked to wait where a queue is full.
const RETRY_AFTER_QUEUE_S: u32 = 1;
/// Seconds a client is asked to wait where a disk is full or the host goes away.
const RETRY_AFTER_STOPPED_S: u32 = 5;

/// Says that a command was sent before, and this is the answer it got.
pub(super) const REPEATED: HeaderName = HeaderName::from_static("tidegate-repeated");

/// What kind of trouble it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The body is not JSON.
    InvalidJson,
    /// The request is not HTTP as it should be.
    InvalidRequest,
    /// An attribute, parameter or header is missing or malformed, or the body no event at all.
    InvalidField,
    /// The key is empty, too long or has control characters.
    InvalidKey,
    /// The body, the batch or an event is larger than its limit.
    TooLarge,
    /// Headers and address are larger than their limit.
    HeadersTooLarge,
    /// The media type is not one this route takes.
    UnsupportedMediaType,
    /// No token, or one that is not known.
    Unauthorized,
    /// The token does not have the role the route needs.
    MissingRole,
    /// A web page of somewhere else asks, and no tokens protect the host.
    CrossOrigin,
    /// There is no such thing.
    NotFound,
    /// The route does not take this method.
    MethodNotAllowed,
    /// The body did not arrive in time.
    RequestTimeout,
    /// An event with the same source and id, but other content, exists.
    IdConflict,
    /// The key is not at the expected sequence.
    SequenceConflict,
    /// What is asked for does not go with how things stand.
    Conflict,
    /// A command for a key that would not get to it soon.
    KeyUnavailable,
    /// The `Idempotency-Key` came with another request.
    IdempotencyConflict,
    /// The plugin says no, for good.
    Rejected,
    /// The plugin asks to be tried again later.
    Retry,
    /// The plugin did not do it: an outcome of that name.
    Failed(OutcomeKind),
    /// The command is in the log, and has not run in time.
    AnswerTimeout,
    /// The plugin has not come to the position in time.
    WaitTimeout,
    /// The append queue is full.
    QueueFull,
    /// As many streams are open as may be.
    TooManyStreams,
    /// Free space is under the watermark.
    StorageFull,
    /// The log failed; it takes no more records.
    ReadOnly,
    /// The host drains.
    ShuttingDown,
    /// The host is not ready yet.
    NotReady,
    /// A broken invariant, or damage found while reading.
    Internal,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 35] = [
        Self::InvalidJson,
        Self::InvalidRequest,
        Self::InvalidField,
        Self::InvalidKey,
        Self::TooLarge,
        Self::HeadersTooLarge,
        Self::UnsupportedMediaType,
        Self::Unauthorized,
        Self::MissingRole,
        Self::CrossOrigin,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::IdConflict,
        Self::SequenceConflict,
        Self::Conflict,
        Self::KeyUnavailable,
        Self::IdempotencyConflict,
        Self::Rejected,
        Self::Retry,
        Self::Failed(OutcomeKind::Trap),
        Self::Failed(OutcomeKind::Fuel),
        Self::Failed(OutcomeKind::Timeout),
        Self::Failed(OutcomeKind::Memory),
        Self::Failed(OutcomeKind::Output),
        Self::Failed(OutcomeKind::Depth),
        Self::AnswerTimeout,
        Self::WaitTimeout,
        Self::QueueFull,
        Self::TooManyStreams,
        Self::StorageFull,
        Self::ReadOnly,
        Self::ShuttingDown,
        Self::NotReady,
        Self::Internal,
    ];

    /// The wire name and the status.
    #[must_use]
    pub const fn wire(self) -> (&'static str, StatusCode) {
        match self {
            Self::InvalidJson => ("invalid_json", StatusCode::BAD_REQUEST),
            Self::InvalidRequest => ("invalid_request", StatusCode::BAD_REQUEST),
            Self::InvalidField => ("invalid_field", StatusCode::UNPROCESSABLE_ENTITY),
            Self::InvalidKey => ("invalid_key", StatusCode::UNPROCESSABLE_ENTITY),
            Self::TooLarge => ("too_large", StatusCode::PAYLOAD_TOO_LARGE),
            Self::HeadersTooLarge => {
                ("headers_too_large", StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
            }
            Self::UnsupportedMediaType => {
                ("unsupported_media_type", StatusCode::UNSUPPORTED_MEDIA_TYPE)
            }
            Self::Unauthorized => ("unauthorized", StatusCode::UNAUTHORIZED),
            Self::MissingRole => ("missing_role", StatusCode::FORBIDDEN),
            Self::CrossOrigin => ("cross_origin", StatusCode::FORBIDDEN),
            Self::NotFound => ("not_found", StatusCode::NOT_FOUND),
            Self::MethodNotAllowed => ("method_not_allowed", StatusCode::METHOD_NOT_ALLOWED),
            Self::RequestTimeout => ("request_timeout", StatusCode::REQUEST_TIMEOUT),
            Self::IdConflict => ("id_conflict", StatusCode::CONFLICT),
            Self::SequenceConflict => ("sequence_conflict", StatusCode::CONFLICT),
            Self::Conflict => ("conflict", StatusCode::CONFLICT),
            Self::KeyUnavailable => ("key_unavailable", StatusCode::CONFLICT),
            Self::IdempotencyConflict => ("idempotency_conflict", StatusCode::CONFLICT),
            Self::Rejected => ("rejected", StatusCode::UNPROCESSABLE_ENTITY),
            Self::Retry => ("retry", StatusCode::SERVICE_UNAVAILABLE),
            Self::Failed(OutcomeKind::Timeout) => ("timeout", StatusCode::GATEWAY_TIMEOUT),
            Self::Failed(outcome) => (outcome.name(), StatusCode::INTERNAL_SERVER_ERROR),
            Self::AnswerTimeout => ("answer_timeout", StatusCode::GATEWAY_TIMEOUT),
            Self::WaitTimeout => ("wait_timeout", StatusCode::GATEWAY_TIMEOUT),
            Self::QueueFull => ("queue_full", StatusCode::TOO_MANY_REQUESTS),
            Self::TooManyStreams => ("too_many_streams", StatusCode::TOO_MANY_REQUESTS),
            Self::StorageFull => ("storage_full", StatusCode::INSUFFICIENT_STORAGE),
            Self::ReadOnly => ("read_only", StatusCode::SERVICE_UNAVAILABLE),
            Self::ShuttingDown => ("shutting_down", StatusCode::SERVICE_UNAVAILABLE),
            Self::NotReady => ("not_ready", StatusCode::SERVICE_UNAVAILABLE),
            Self::Internal => ("internal", StatusCode::INTERNAL_SERVER_ERROR),
        }
    }

    /// The wire name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.wire().0
    }

    /// The status.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        self.wire().1
    }

    fn retry_after_s(self) -> Option<u32> {
        match self {
            Self::QueueFull
            | Self::TooManyStreams
            | Self::NotReady
            | Self::KeyUnavailable
            | Self::Retry => Some(RETRY_AFTER_QUEUE_S),
            Self::StorageFull | Self::ShuttingDown => Some(RETRY_AFTER_STOPPED_S),
            _ => None,
        }
    }
}

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong. Members that do not apply are absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorDetail {
    /// Stable; what programs match on.
    #[schema(example = "sequence_conflict")]
    pub code: String,
    /// For people: what is wrong, and what to change.
    pub message: String,
    /// The attribute, parameter or header that is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The limit that was exceeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// What was found: as `limit` counts where that is set, else the key sequence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actual: Option<u64>,
    /// The key sequence that was expected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<u64>,
    /// Index of the event in the batch, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    /// Position of the event that stands in the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
    /// Line of the body where it stops being JSON, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// Column of that line, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    /// Names this request in the host's log; also in the header `x-request-id`.
    #[serde(default)]
    pub request_id: String,
}

/// What comes of sending a request again that was answered so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Perhaps another answer.
    Once,
    /// The same: it is recorded under an `Idempotency-Key`.
    Recorded,
    /// The same, as before.
    Repeated,
}

/// An answer that is not a success, before it knows its request id.
#[derive(Debug, Clone)]
pub struct ApiError {
    /// The kind.
    pub code: Code,
    /// What comes of asking again.
    pub answer: Answer,
    /// Everything else; `code` and `request_id` are filled in when it is rendered.
    pub detail: Box<ErrorDetail>,
}

impl ApiError {
    /// An error with nothing but a message.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            answer: Answer::Once,
            detail: Box::new(ErrorDetail { message: message.into(), ..ErrorDetail::default() }),
        }
    }

    /// A malformed parameter, header or attribute. `why` follows the name in the message.
    #[must_use]
    pub fn field(field: &str, why: impl std::fmt::Display) -> Self {
        let mut error = Self::new(Code::InvalidField, format!("`{field}` {why}"));
        error.detail.field = Some(field.to_owned());
        error
    }

    /// Something larger than its limit.
    #[must_use]
    pub fn over(code: Code, message: impl Into<String>, limit: u64, actual: u64) -> Self {
        let mut error = Self::new(code, message);
        error.detail.limit = Some(limit);
        error.detail.actual = Some(actual);
        error
    }

    /// The answer itself.
    #[must_use]
    pub fn render(&self, request_id: &str) -> Response {
        let (name, status) = self.code.wire();
        let body = ErrorBody {
            error: ErrorDetail {
                code: name.to_owned(),
                request_id: request_id.to_owned(),
                ..(*self.detail).clone()
            },
        };
        let mut response = (status, axum::Json(body)).into_response();
        let headers = response.headers_mut();
        if let (Some(seconds), Answer::Once) = (self.code.retry_after_s(), self.answer) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.answer == Answer::Repeated {
            headers.insert(REPEATED, HeaderValue::from_static("true"));
        }
        if self.code == Code::Unauthorized {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Carries the error to the root of the router, which knows the request id and renders it.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.code.status().into_response();
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}

impl From<InvalidEvent> for ApiError {
    fn from(error: InvalidEvent) -> Self {
        let message = error.to_string();
        match error {
            InvalidEvent::Key { .. } => {
                let mut error = Self::new(Code::InvalidKey, message);
                error.detail.field = Some("key".to_owned());
                error
            }
            InvalidEvent::Field { field, .. } => {
                let mut error = Self::new(Code::InvalidField, message);
                error.detail.field = Some(field);
                error
            }
            InvalidEvent::TooLarge { field, limit, actual } => {
                let code = if field == "data" { Code::TooLarge } else { Code::InvalidField };
                let mut error = Self::over(code, message, limit, actual);
                error.detail.field = Some(field);
                error
            }
        }
    }
}

impl From<BadInput> for ApiError {
    fn from(bad: BadInput) -> Self {
        let message = bad.problem.to_string();
        let mut error = match bad.problem {
            BadEvent::Invalid(invalid) => Self::from(invalid),
            BadEvent::Json { line, column, .. } => {
                let mut error = Self::new(Code::InvalidJson, message);
                error.detail.line = Some(line);
                error.detail.column = Some(column);
                error
            }
            BadEvent::NotAnEvent { .. } => Self::new(Code::InvalidField, message),
            BadEvent::MediaType { .. } => Self::new(Code::UnsupportedMediaType, message),
            BadEvent::TooMany { limit, actual } => {
                Self::over(Code::TooLarge, message, limit, actual)
            }
        };
        if let Some(index) = bad.index {
            error.detail.index = Some(index);
            error.detail.message = format!("event {index} of the batch: {}", error.detail.message);
        }
        error
    }
}

impl From<PublishError> for ApiError {
    fn from(error: PublishError) -> Self {
        let message = error.to_string();
        match error {
            PublishError::NoBus(_) => Self::new(Code::NotFound, message),
            PublishError::IdConflict { index, position } => {
                let message = if position.0 == 0 {
                    "an event with this source and id, but other content, is in the same batch"
                        .to_owned()
                } else {
                    message
                };
                let mut error = Self::new(Code::IdConflict, message);
                error.detail.index = Some(index);
                error.detail.position = (position.0 != 0).then_some(position.0);
                error.detail.field = Some("id".to_owned());
                error
            }
            PublishError::SequenceConflict { index, expected, actual } => {
                let mut error = Self::new(Code::SequenceConflict, message);
                error.detail.index = Some(index);
                error.detail.expected = Some(expected.0);
                error.detail.actual = Some(actual.0);
                error.detail.field = Some("expectedsequence".to_owned());
                error
            }
            PublishError::TooLarge { limit, actual } | PublishError::TooMany { limit, actual } => {
                Self::over(Code::TooLarge, message, limit, actual)
            }
            PublishError::QueueFull => Self::new(Code::QueueFull, message),
            PublishError::StorageFull => Self::new(Code::StorageFull, message),
            PublishError::ReadOnly(_) => Self::new(Code::ReadOnly, message),
            PublishError::ShuttingDown => Self::new(Code::ShuttingDown, message),
            PublishError::Internal(_) => Self::new(Code::Internal, message),
        }
    }
}

impl From<HostError> for ApiError {
    fn from(error: HostError) -> Self {
        let message = error.to_string();
        match error {
            HostError::NotFound(_) => Self::new(Code::NotFound, message),
            HostError::Invalid { field, why } => Self::field(&field, why),
            HostError::Conflict(_) => Self::new(Code::Conflict, message),
            HostError::ReadOnly(_) => Self::new(Code::ReadOnly, message),
            HostError::StorageFull => Self::new(Code::StorageFull, message),
            HostError::ShuttingDown => Self::new(Code::ShuttingDown, message),
            HostError::Internal(_) => Self::new(Code::Internal, message),
        }
    }
}
