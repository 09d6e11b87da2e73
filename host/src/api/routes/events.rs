//! Publishing, and reading what was published.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use url::form_urlencoded;

use super::openapi::{CloudEvent, Errors, PublishErrors};
use crate::api::app::App;
use crate::api::aside::aside;
use crate::api::auth::Principal;
use crate::api::cloudevents::{self, BATCH, STRUCTURED};
use crate::api::errors::{ApiError, Code};
use crate::api::host::Cursor;
use crate::api::params::{LIMIT_DEFAULT, Params, cursor_text, not_found, path_position};
use crate::api::view::{AppendedView, BusKind, TreeView};
use crate::event::Event;

/// Says where the next page begins.
const CURSOR_HEADER: HeaderName = HeaderName::from_static("tidegate-cursor");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Publishes one event or a batch
///
/// Answers once everything is durable. A batch is one commit, all or nothing. Structured, binary
/// (`ce-` headers, data as the body, any content type) and batch mode of CloudEvents 1.0.
#[utoipa::path(
    post,
    path = "/v1/events",
    tag = "events",
    operation_id = "publish",
    params(
        ("bus" = Option<String>, Query, description = "The bus; absent: the default one"),
        ("Tidegate-Expected-Sequence" = Option<u64>, Header,
            description = "Key sequence seen last, 0: the key is new. As the extension \
                `expectedsequence`"),
    ),
    request_body(content(
        (CloudEvent = "application/cloudevents+json"),
        (Vec<CloudEvent> = "application/cloudevents-batch+json"),
        // Binary mode: the data, of any type, with its attributes as headers.
        (serde_json::Value = "*/*"),
    )),
    responses(
        (status = 200, description = "Durable", body = Vec<AppendedView>,
            headers(("Server-Timing" = String, description = "`durable`: milliseconds that took"))),
        Errors,
        PublishErrors,
    ),
)]
pub(super) async fn publish(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let mut params = Params::new(query.as_deref())?;
    let bus = params.text("bus");
    params.finish()?;
    if app.is_draining() {
        return Err(ApiError::new(Code::ShuttingDown, "the host is shutting down"));
    }
    let (body, _share) = app.body(&headers, body).await?;
    let bytes = body.len();
    aside(bytes, take(&app, bus.as_deref(), (&headers, &body), &principal)).await
}

/// Publishes what a body says.
async fn take(
    app: &App,
    bus: Option<&str>,
    (headers, body): (&HeaderMap, &Bytes),
    principal: &Principal,
) -> Result<Response, ApiError> {
    let mut batch = cloudevents::read(headers, body)?;
    let principal = principal.name();
    for publish in &mut batch {
        publish.event.principal = Arc::clone(&principal);
    }
    if batch.is_empty() {
        return Ok(Json(Vec::<AppendedView>::new()).into_response());
    }
    let names: Vec<_> = batch
        .iter()
        .map(|publish| (Arc::clone(&publish.event.source), Arc::clone(&publish.event.id)))
        .collect();
    let start = Instant::now();
    let appended = app.host.publish(bus, batch).await.map_err(|error| {
        let mut error = ApiError::from(error);
        let index = error.detail.index;
        if cloudevents::is_batch(headers) {
            if let Some(index) = index {
                let message = std::mem::take(&mut error.detail.message);
                error.detail.message = format!("event {index} of the batch: {message}");
            }
        } else {
            error.detail.index = None;
        }
        error
    })?;
    let took = start.elapsed();
    let views: Vec<_> = names
        .iter()
        .zip(&appended)
        .map(|((source, id), appended)| AppendedView {
            source: source.as_ref().to_owned(),
            id: id.as_ref().to_owned(),
            position: appended.position.0,
            sequence: appended.sequence.0,
            duplicate: appended.duplicate,
        })
        .collect();
    let timing = app.host.bus_kind(bus).map(|kind| timing(kind, took));
    Ok((timing.map(|text| [(SERVER_TIMING, text)]), Json(views)).into_response())
}

/// How long it took until everything was as safe as it gets, for people who look.
fn timing(kind: BusKind, took: Duration) -> String {
    format!("{};dur={:.3}", kind.published(), took.as_secs_f64() * 1000.0)
}

/// Lists events, oldest first
///
/// Where there is more, the header `Tidegate-Cursor` says where to go on, and `Link` with
/// `rel="next"` is the address of the next page. A page may be short, or empty, and have a next one.
#[utoipa::path(
    get,
    path = "/v1/events",
    tag = "events",
    operation_id = "listEvents",
    params(
        ("bus" = Option<String>, Query, description = "The bus; absent: the default one"),
        ("type" = Option<String>, Query, description = "Type; `*` is one segment, `**` any"),
        ("key" = Option<String>, Query, description = "Key"),
        ("source" = Option<String>, Query, description = "Source; `*` is any run of characters"),
        ("id" = Option<String>, Query, description = "Id"),
        ("from" = Option<String>, Query, description = "Position or RFC 3339 time, included"),
        ("to" = Option<String>, Query, description = "Position or RFC 3339 time, included"),
        ("limit" = Option<usize>, Query, minimum = 1, maximum = 1000, description = "100 if absent"),
        ("cursor" = Option<String>, Query, description = "From `Tidegate-Cursor`; opaque"),
    ),
    responses(
        (status = 200, description = "A page", body = Vec<CloudEvent>,
            content_type = "application/cloudevents-batch+json",
            headers(("Tidegate-Cursor" = String), ("Link" = String))),
        Errors,
    ),
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let mut params = Params::new(query.as_deref())?;
    let bus = params.text("bus");
    let filter = params.event_filter()?;
    let limit = params.limit()?.unwrap_or(LIMIT_DEFAULT);
    let cursor = params.cursor()?;
    params.finish()?;
    let page = app.host.events(bus.as_deref(), &filter, cursor, limit).await?;
    let bytes = page.events.iter().map(|event| event.weight()).sum();
    let write = async { cloudevents::write_batch(page.events.iter().map(AsRef::as_ref)) };
    let body = aside(bytes, write).await;
    let mut response = ([(header::CONTENT_TYPE, BATCH)], body).into_response();
    if let Some(after) = page.next {
        let cursor = cursor_text(Cursor { epoch: page.epoch, after });
        let link = next_link(query.as_deref(), &cursor);
        for (name, text) in [(CURSOR_HEADER, cursor), (header::LINK, link)] {
            if let Ok(value) = HeaderValue::from_str(&text) {
                response.headers_mut().insert(name, value);
            }
        }
    }
    Ok(response)
}

fn next_link(query: Option<&str>, cursor: &str) -> String {
    let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let mut next = form_urlencoded::Serializer::new(String::new());
    next.extend_pairs(pairs.filter(|(name, _)| name != "cursor"));
    next.append_pair("cursor", cursor);
    format!("</v1/events?{}>; rel=\"next\"", next.finish())
}

/// Shows one event
#[utoipa::path(
    get,
    path = "/v1/events/{position}",
    tag = "events",
    operation_id = "getEvent",
    params(
        ("position" = u64, Path, description = "Its number in the bus"),
        ("bus" = Option<String>, Query, description = "The bus; absent: the default one"),
        ("mode" = Option<String>, Query, description = "`structured`, or `binary`: attributes as \
            `ce-` headers, data as the body"),
    ),
    responses(
        (status = 200, description = "The event; in binary mode its data, of its own type", content(
            (CloudEvent = "application/cloudevents+json"),
            (serde_json::Value = "*/*"),
        )),
        Errors,
    ),
)]
pub(super) async fn get(
    State(app): State<Arc<App>>,
    Path(position): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let position = path_position(&position)?;
    let mut params = Params::new(query.as_deref())?;
    let bus = params.text("bus");
    let mode = params.text("mode");
    params.finish()?;
    let event = app.host.event(bus.as_deref(), position).await?;
    let event = event.ok_or_else(|| not_found(format_args!("event at position {position}")))?;
    match mode.as_deref() {
        None | Some("structured") => {
            let body = cloudevents::write_json(&event);
            Ok(([(header::CONTENT_TYPE, STRUCTURED)], body).into_response())
        }
        Some("binary") => Ok(binary(&event)),
        Some(_) => Err(ApiError::field("mode", "must be `structured` or `binary`")),
    }
}

/// The data goes out under the media type its publisher chose: a browser must not run it here.
fn binary(event: &Event) -> Response {
    let (attributes, body) = cloudevents::to_binary(event);
    let mut response = Body::from(body).into_response();
    let headers = response.headers_mut();
    for (name, value) in attributes {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.insert(name, value);
        }
    }
    if let Ok(value) = HeaderValue::from_str(cloudevents::media_type(event))
        && !value.is_empty()
    {
        headers.insert(header::CONTENT_TYPE, value);
    }
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    response
}

/// Shows what caused an event, and what it caused
#[utoipa::path(
    get,
    path = "/v1/events/{position}/tree",
    tag = "events",
    operation_id = "getTree",
    params(
        ("position" = u64, Path, description = "Its number in the bus"),
        ("bus" = Option<String>, Query, description = "The bus; absent: the default one"),
    ),
    responses((status = 200, description = "The tree", body = TreeView), Errors),
)]
pub(super) async fn tree(
    State(app): State<Arc<App>>,
    Path(position): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<TreeView>, ApiError> {
    let position = path_position(&position)?;
    let mut params = Params::new(query.as_deref())?;
    let bus = params.text("bus");
    params.finish()?;
    Ok(Json(app.host.tree(bus.as_deref(), position).await?))
}
