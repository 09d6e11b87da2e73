//! What the OpenAPI document says beside the routes: its head, the way to authenticate, events, and
//! the answers that are not successes.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::{IntoResponses, Modify, OpenApi, ToSchema};

use crate::api::errors::ErrorBody;

/// The document, before the routes are in it.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "tidegate",
        description = "Events in, events out, and everything about the plugins in between.\n\n\
            Every answer that is not a success has the body `ErrorBody`, with a stable `code`.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    tags(
        (name = "events", description = "CloudEvents 1.0, in and out"),
        (name = "plugins", description = "What handles them"),
        (name = "dead letters", description = "What could not be handled"),
        (name = "host", description = "How the host is"),
    ),
    components(schemas(ErrorBody)),
    modifiers(&Bearer),
)]
pub(in crate::api) struct Document;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_with(Default::default);
        components
            .add_security_scheme("bearer", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
        // With no tokens file nothing is needed; with one, a token.
        document.security = Some(vec![
            SecurityRequirement::new("bearer", Vec::<String>::new()),
            SecurityRequirement::default(),
        ]);
    }
}

/// A CloudEvent in the JSON format.
#[derive(Serialize, ToSchema)]
pub(super) struct CloudEvent {
    /// `1.0`.
    #[schema(example = "1.0")]
    specversion: String,
    /// Unique together with `source`; 1 to 255 bytes.
    #[schema(example = "o-1-1")]
    id: String,
    /// URI reference, 1 to 1024 bytes. `/tidegate/...` is reserved.
    #[schema(example = "/shop")]
    source: String,
    /// What happened; 1 to 255 bytes. `tidegate.*` is reserved.
    #[schema(example = "order.created")]
    r#type: String,
    /// The key: what orders events; 1 to 1024 bytes. In its absence, `subject`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "o-1")]
    partitionkey: Option<String>,
    /// What the event is about; the key where there is no `partitionkey`.
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    /// When it happened, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    /// Media type of the data; absent: JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    datacontenttype: Option<String>,
    /// The payload, where it is JSON or text. Stored as sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<serde_json::Value>,
    /// The payload in base64, where it is neither.
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
    /// Extensions: names of 1 to 20 of a-z and 0-9. What the host adds begins with `tidegate`;
    /// `expectedsequence` is a condition on the way in.
    #[serde(flatten)]
    extensions: BTreeMap<String, serde_json::Value>,
}

/// What every route may answer.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "it describes answers, it makes none")]
pub(super) enum Errors {
    /// `invalid_request`, `invalid_json`
    #[response(status = 400)]
    Malformed(ErrorBody),
    /// `unauthorized`
    #[response(status = 401)]
    Unauthorized(ErrorBody),
    /// `missing_role`, `cross_origin`
    #[response(status = 403)]
    Forbidden(ErrorBody),
    /// `not_found`
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// `invalid_field`, `invalid_key`
    #[response(status = 422)]
    Invalid(ErrorBody),
    /// `queue_full`: too many answers wait to be read
    #[response(status = 429, headers(("Retry-After" = u32)))]
    QueueFull(ErrorBody),
    /// `headers_too_large`
    #[response(status = 431)]
    HeadersTooLarge(ErrorBody),
    /// `internal`
    #[response(status = 500)]
    Internal(ErrorBody),
}

/// What publishing may answer beside [`Errors`].
#[derive(IntoResponses)]
#[allow(dead_code, reason = "it describes answers, it makes none")]
pub(super) enum PublishErrors {
    /// `request_timeout`
    #[response(status = 408)]
    Timeout(ErrorBody),
    /// `id_conflict`, `sequence_conflict`
    #[response(status = 409)]
    Conflict(ErrorBody),
    /// `too_large`
    #[response(status = 413)]
    TooLarge(ErrorBody),
    /// `unsupported_media_type`
    #[response(status = 415)]
    MediaType(ErrorBody),
    /// `queue_full`
    #[response(status = 429, headers(("Retry-After" = u32)))]
    QueueFull(ErrorBody),
    /// `read_only`, `shutting_down`
    #[response(status = 503, headers(("Retry-After" = u32)))]
    Stopped(ErrorBody),
    /// `storage_full`
    #[response(status = 507, headers(("Retry-After" = u32)))]
    StorageFull(ErrorBody),
}

/// What a command may answer beside [`Errors`].
#[derive(IntoResponses)]
#[allow(dead_code, reason = "it describes answers, it makes none")]
pub(super) enum CommandErrors {
    /// `request_timeout`
    #[response(status = 408)]
    Timeout(ErrorBody),
    /// `key_unavailable`, `idempotency_conflict`, `sequence_conflict`, `conflict`
    #[response(
        status = 409,
        headers(
            ("Retry-After" = u32),
            ("Tidegate-Repeated" = bool)
        )
    )]
    Conflict(ErrorBody),
    /// `too_large`
    #[response(status = 413)]
    TooLarge(ErrorBody),
    /// `unsupported_media_type`: the body is compressed
    #[response(status = 415)]
    MediaType(ErrorBody),
    /// `invalid_field`, `invalid_key`; `rejected`: the plugin says no
    #[response(status = 422, headers(("Tidegate-Repeated" = bool)))]
    Rejected(ErrorBody),
    /// `queue_full`
    #[response(status = 429, headers(("Retry-After" = u32)))]
    QueueFull(ErrorBody),
    /// `internal`; `trap`, `fuel`, `memory`, `output`, `depth`: the plugin failed
    #[response(status = 500, headers(("Tidegate-Repeated" = bool)))]
    Failed(ErrorBody),
    /// `retry`: the plugin asks to be tried later; `read_only`, `shutting_down`
    #[response(
        status = 503,
        headers(
            ("Retry-After" = u32),
            ("Tidegate-Repeated" = bool)
        )
    )]
    Stopped(ErrorBody),
    /// `timeout`: the plugin took too long; `answer_timeout`: it has not run yet, and will
    #[response(status = 504, headers(("Tidegate-Repeated" = bool)))]
    NotAnswered(ErrorBody),
    /// `storage_full`
    #[response(status = 507, headers(("Retry-After" = u32)))]
    StorageFull(ErrorBody),
}

/// The plugin's answer
#[derive(IntoResponses)]
#[response(
    status = 200,
    content_type = "*/*",
    headers(
        ("Tidegate-Commit" = u64, description = "The state is that of this commit. Other keys are \
            seen as they are then or later"),
        ("Tidegate-Position" = u64, description = "The plugin had completed everything that is for \
            it up to here, at least"),
        ("Tidegate-Sequence" = Option<u64>,
            description = "Sequence of the key at the commit; 0: it has no event"),
        ("Content-Security-Policy" = String, description = "`sandbox`"),
    )
)]
#[allow(dead_code, reason = "it describes answers, it makes none")]
pub(super) struct QueryAnswer(serde_json::Value);

/// What a query may answer beside [`Errors`].
#[derive(IntoResponses)]
#[allow(dead_code, reason = "it describes answers, it makes none")]
pub(super) enum QueryErrors {
    /// `request_timeout`
    #[response(status = 408)]
    Timeout(ErrorBody),
    /// `key_unavailable`: the plugin does not run
    #[response(status = 409, headers(("Retry-After" = u32)))]
    Conflict(ErrorBody),
    /// `too_large`
    #[response(status = 413)]
    TooLarge(ErrorBody),
    /// `unsupported_media_type`: the body is compressed
    #[response(status = 415)]
    MediaType(ErrorBody),
    /// `invalid_field`, `invalid_key`; `rejected`: the plugin says no
    #[response(status = 422)]
    Rejected(ErrorBody),
    /// `queue_full`
    #[response(status = 429, headers(("Retry-After" = u32)))]
    QueueFull(ErrorBody),
    /// `internal`; `trap`, `fuel`, `memory`, `output`: the plugin failed
    #[response(status = 500)]
    Failed(ErrorBody),
    /// `retry`: the plugin asks to be asked later; `shutting_down`
    #[response(status = 503, headers(("Retry-After" = u32)))]
    Stopped(ErrorBody),
    /// `timeout`: the plugin took too long; `wait_timeout`: it has not come to the position
    #[response(status = 504)]
    NotAnswered(ErrorBody),
}

/// What looking at what a plugin or a dead letter keeps may answer beside [`Errors`].
#[derive(IntoResponses)]
#[allow(dead_code, reason = "it describes answers, it makes none")]
pub(super) enum KeptErrors {
    /// `conflict`: no bus knows the plugin yet; what was kept for the dead letter is gone
    #[response(status = 409)]
    Conflict(ErrorBody),
}

/// What changing a plugin may answer beside [`Errors`].
#[derive(IntoResponses)]
#[allow(dead_code, reason = "it describes answers, it makes none")]
pub(super) enum ActionErrors {
    /// `conflict`
    #[response(status = 409)]
    Conflict(ErrorBody),
    /// `read_only`, `shutting_down`
    #[response(status = 503, headers(("Retry-After" = u32)))]
    Stopped(ErrorBody),
    /// `storage_full`
    #[response(status = 507, headers(("Retry-After" = u32)))]
    StorageFull(ErrorBody),
}

/// What a replay may answer beside [`Errors`] and [`ActionErrors`].
#[derive(IntoResponses)]
#[allow(dead_code, reason = "it describes answers, it makes none")]
pub(super) enum DiffErrors {
    /// `request_timeout`
    #[response(status = 408)]
    Timeout(ErrorBody),
    /// `too_large`
    #[response(status = 413)]
    TooLarge(ErrorBody),
    /// `unsupported_media_type`: the body is no `application/wasm`, or compressed
    #[response(status = 415)]
    MediaType(ErrorBody),
}

/// What opening a stream may answer beside [`Errors`].
#[derive(IntoResponses)]
#[allow(dead_code, reason = "it describes answers, it makes none")]
pub(super) enum StreamErrors {
    /// `too_many_streams`
    #[response(status = 429, headers(("Retry-After" = u32)))]
    TooMany(ErrorBody),
}

/// What a probe may answer.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "it describes answers, it makes none")]
pub(super) enum ProbeErrors {
    /// `headers_too_large`
    #[response(status = 431)]
    HeadersTooLarge(ErrorBody),
    /// `not_ready`, `shutting_down`
    #[response(status = 503, headers(("Retry-After" = u32)))]
    NotReady(ErrorBody),
}
