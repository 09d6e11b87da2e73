//! Commands and queries: what a plugin answers itself.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;

use super::openapi::{CommandErrors, Errors, QueryAnswer, QueryErrors};
use crate::api::app::App;
use crate::api::auth::Principal;
use crate::api::cloudevents::percent_encode;
use crate::api::errors::{ApiError, Code, REPEATED};
use crate::api::params::Params;
use crate::api::requests::{Answered, CommandRequest, QueryRequest};
use crate::event::{KeySequence, Position};
use crate::limits;

const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
const EXPECTED_SEQUENCE: &str = "Tidegate-Expected-Sequence";

/// Has a plugin carry out a command
///
/// It is ordered with the events of its key, and answered once its effects are durable. What the
/// plugin answers is the body; its parameters are headers `Tidegate-Attribute-NAME`, percent-encoded.
/// Parameters of the address but `key` are the command's. With an `Idempotency-Key` a repetition gets
/// the same answer for 24 hours, also a failure, also after a restart, also while the first still
/// runs. A client that goes away does not stop it.
#[utoipa::path(
    post,
    path = "/v1/plugins/{plugin}/command/{name}",
    tag = "plugins",
    operation_id = "command",
    params(
        ("plugin" = String, Path, description = "Name of the plugin"),
        ("name" = String, Path, description = "What to do, chosen by the plugin"),
        ("key" = String, Query, description = "The key whose state it sees"),
        ("Idempotency-Key" = Option<String>, Header,
            description = "Makes a repetition known for one; 1 to 255 bytes"),
        ("Tidegate-Expected-Sequence" = Option<u64>, Header,
            description = "What the key's last sequence must be when the command runs; 0: the key \
                is new. Else nothing is executed: `sequence_conflict`"),
    ),
    request_body(content = Option<serde_json::Value>, content_type = "*/*", description = "At most 1 MiB"),
    responses(
        (status = 200, description = "The plugin's answer, and its effects are durable",
            body = serde_json::Value, content_type = "*/*",
            headers(
                ("Tidegate-Commit" = u64, description = "The commit that holds its effects"),
                ("Tidegate-Position" = u64, description = "The last event that came of it: what \
                    `?wait` of a query waits for"),
                ("Tidegate-Sequence" = Option<u64>,
                    description = "Number of the last event that it emitted for its key"),
                ("Tidegate-Repeated" = Option<bool>, description = "`true`: it was sent before"),
                ("Content-Security-Policy" = String, description = "`sandbox`"),
            )),
        Errors,
        CommandErrors,
    ),
)]
pub(super) async fn command(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Path((plugin, name)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let mut params = Params::new(query.as_deref())?;
    let key = params.required_key()?;
    let parameters = params.rest()?;
    check_name("name", &name)?;
    let expected = expected(&headers)?;
    let idempotency_key = idempotency_key(&headers)?;
    let content_type = content_type(&headers)?;
    if app.is_draining() {
        return Err(ApiError::new(Code::ShuttingDown, "the host is shutting down"));
    }
    let (data, _share) = request_body(&app, &headers, body).await?;
    let principal = principal.name();
    let request = CommandRequest {
        name,
        key,
        principal,
        content_type,
        data,
        parameters,
        expected,
        idempotency_key,
    };
    Ok(response(app.host.command(&plugin, request).await?))
}

/// Asks a plugin a question
///
/// It sees the durable state of the plugin, for the key at one commit, and changes nothing. Handlers
/// that run do not hold it up. Parameters of the address but `key` and `wait` are the question's.
#[utoipa::path(
    get,
    path = "/v1/plugins/{plugin}/query/{*path}",
    tag = "plugins",
    operation_id = "query",
    params(
        ("plugin" = String, Path, description = "Name of the plugin"),
        ("path" = String, Path, description = "What is asked, chosen by the plugin"),
        ("key" = Option<String>, Query,
            description = "The key whose state it sees; absent: a question across keys"),
        ("wait" = Option<u64>, Query, description = "Answer only once the plugin has completed the \
            event at this position; at most 10 s, then `wait_timeout`"),
    ),
    responses(
        QueryAnswer,
        Errors,
        QueryErrors,
    ),
)]
pub(super) async fn ask(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Path((plugin, path)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let request = question(path, query.as_deref(), &principal)?;
    Ok(response(app.host.query(&plugin, request).await?))
}

/// Asks a plugin a question that has a body
///
/// As the same with GET.
#[utoipa::path(
    post,
    path = "/v1/plugins/{plugin}/query/{*path}",
    tag = "plugins",
    operation_id = "queryWithBody",
    params(
        ("plugin" = String, Path, description = "Name of the plugin"),
        ("path" = String, Path, description = "What is asked, chosen by the plugin"),
        ("key" = Option<String>, Query,
            description = "The key whose state it sees; absent: a question across keys"),
        ("wait" = Option<u64>, Query, description = "Answer only once the plugin has completed the \
            event at this position; at most 10 s, then `wait_timeout`"),
    ),
    request_body(content = Option<serde_json::Value>, content_type = "*/*", description = "At most 1 MiB"),
    responses(
        QueryAnswer,
        Errors,
        QueryErrors,
    ),
)]
pub(super) async fn ask_with_body(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Path((plugin, path)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let mut request = question(path, query.as_deref(), &principal)?;
    request.content_type = content_type(&headers)?;
    let (data, _share) = request_body(&app, &headers, body).await?;
    request.data = data;
    Ok(response(app.host.query(&plugin, request).await?))
}

fn question(
    path: String,
    query: Option<&str>,
    principal: &Principal,
) -> Result<QueryRequest, ApiError> {
    let mut params = Params::new(query)?;
    let key = params.key()?;
    let wait = params.text("wait").map(|text| text.parse().map(Position)).transpose();
    let wait = wait.map_err(|_| ApiError::field("wait", "is not a position"))?;
    let parameters = params.rest()?;
    check_name("path", &path)?;
    let principal = principal.name();
    let (content_type, data) = (String::new(), Bytes::new());
    Ok(QueryRequest { path, key, principal, content_type, data, parameters, wait })
}

fn check_name(field: &str, text: &str) -> Result<(), ApiError> {
    let bytes = text.len();
    if !(1..=limits::NAME_BYTES_MAX).contains(&bytes) || text.chars().any(char::is_control) {
        let most = limits::NAME_BYTES_MAX;
        let why = format_args!("must have 1 to {most} bytes and no control characters");
        return Err(ApiError::field(field, why));
    }
    Ok(())
}

/// A header that is text, where it is there.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, ApiError> {
    let mut all = headers.get_all(name).iter();
    let Some(value) = all.next() else { return Ok(None) };
    if all.next().is_some() {
        return Err(ApiError::field(name, "is given twice"));
    }
    let text = std::str::from_utf8(value.as_bytes()).ok();
    text.map(Some).ok_or_else(|| ApiError::field(name, "is not UTF-8"))
}

fn expected(headers: &HeaderMap) -> Result<Option<KeySequence>, ApiError> {
    let Some(text) = text(headers, EXPECTED_SEQUENCE)? else { return Ok(None) };
    let sequence = text.parse().map(KeySequence);
    sequence.map(Some).map_err(|_| ApiError::field(EXPECTED_SEQUENCE, "is not a number"))
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(text) = text(headers, IDEMPOTENCY_KEY)? else { return Ok(None) };
    if !(1..=limits::IDEMPOTENCY_KEY_BYTES_MAX).contains(&text.len())
        || text.chars().any(char::is_control)
    {
        let most = limits::IDEMPOTENCY_KEY_BYTES_MAX;
        let why = format_args!("must have 1 to {most} bytes and no control characters");
        return Err(ApiError::field(IDEMPOTENCY_KEY, why));
    }
    Ok(Some(text.to_owned()))
}

fn content_type(headers: &HeaderMap) -> Result<String, ApiError> {
    let text = text(headers, "Content-Type")?.unwrap_or_default();
    if text.len() > limits::CONTENT_TYPE_BYTES_MAX {
        let most = limits::CONTENT_TYPE_BYTES_MAX;
        return Err(ApiError::field("Content-Type", format_args!("has over {most} bytes")));
    }
    Ok(text.to_owned())
}

/// The body of a request, with its share of the memory for bodies.
async fn request_body(
    app: &App,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Bytes, tokio::sync::OwnedSemaphorePermit), ApiError> {
    let (data, share) = app.body(headers, body).await?;
    let (limit, actual) = (limits::REQUEST_BYTES_MAX, data.len());
    if actual > limit {
        let message = format!("the body has {actual} bytes, at most {limit} are allowed");
        return Err(ApiError::over(Code::TooLarge, message, limit as u64, actual as u64));
    }
    Ok((data, share))
}

fn response(answered: Answered) -> Response {
    let mut response = answered.data.into_response();
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_TYPE);
    // The guest has chosen these: what a header cannot carry is left out.
    if let Ok(value) = HeaderValue::from_str(&answered.content_type)
        && !value.is_empty()
    {
        headers.insert(header::CONTENT_TYPE, value);
    }
    for (name, value) in &answered.attributes {
        let name = HeaderName::try_from(format!("tidegate-attribute-{name}"));
        let value = HeaderValue::try_from(percent_encode(value));
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.insert(name, value);
        }
    }
    // A page that a plugin makes must not act in the name of whoever looks at it.
    let sandbox = HeaderValue::from_static("sandbox");
    headers.insert(header::CONTENT_SECURITY_POLICY, sandbox);
    headers.insert(HeaderName::from_static("tidegate-commit"), answered.commit.0.into());
    headers.insert(HeaderName::from_static("tidegate-position"), answered.position.0.into());
    if let Some(sequence) = answered.sequence {
        headers.insert(HeaderName::from_static("tidegate-sequence"), sequence.0.into());
    }
    if answered.repeated {
        headers.insert(REPEATED, HeaderValue::from_static("true"));
    }
    response
}
