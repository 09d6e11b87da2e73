//! Server-sent events: events of a bus and log lines of a plugin, as they come.
//!
//! Nothing is gathered for a client: the next item is fetched when the connection takes it, and a
//! connection that takes nothing is dropped (`write_stall_max`).

use std::convert::Infallible;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, RawQuery, State};
use axum::http::HeaderMap;
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::OwnedSemaphorePermit;

use super::openapi::{Errors, StreamErrors};
use crate::api::app::App;
use crate::api::auth::Principal;
use crate::api::cloudevents;
use crate::api::errors::ApiError;
use crate::api::host::{Cursor, Follow};
use crate::api::params::{Params, cursor_text, parse_cursor};
use crate::event::Position;
use crate::limits;

/// Log lines shown first where nothing else is asked for.
const RECENT_DEFAULT: usize = 100;

/// Streams events as they become durable
///
/// `id` of an item is a cursor: sent back as `Last-Event-ID`, or as `cursor`, the stream goes on
/// after it. Without either it begins at `from`, else with the next event: then the first item is an `id`
/// alone, so that who loses the connection before an event came goes on from there. `data` is the event in the
/// JSON format. A client that does not read is dropped.
#[utoipa::path(
    get,
    path = "/v1/events/stream",
    tag = "events",
    operation_id = "streamEvents",
    params(
        ("bus" = Option<String>, Query, description = "The bus; absent: the default one"),
        ("type" = Option<String>, Query, description = "Type; `*` is one segment, `**` any"),
        ("key" = Option<String>, Query, description = "Key"),
        ("source" = Option<String>, Query, description = "Source; `*` is any run of characters"),
        ("id" = Option<String>, Query, description = "Id"),
        ("from" = Option<String>, Query, description = "Position or RFC 3339 time, included"),
        ("to" = Option<String>, Query, description = "Position or RFC 3339 time; ends after it"),
        ("limit" = Option<usize>, Query, minimum = 1, maximum = 1000, description = "Ends after so many"),
        ("cursor" = Option<String>, Query, description = "As `Last-Event-ID`"),
        ("Last-Event-ID" = Option<String>, Header, description = "`id` of the last item seen"),
    ),
    responses(
        (status = 200, description = "Events", body = String, content_type = "text/event-stream"),
        Errors,
        StreamErrors,
    ),
)]
pub(super) async fn events(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    Extension(principal): Extension<Principal>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let mut params = Params::new(query.as_deref())?;
    let bus = params.text("bus");
    let filter = params.event_filter()?;
    let limit = params.limit()?.unwrap_or(usize::MAX);
    let mut cursor = params.cursor()?;
    params.finish()?;
    cursor = last_seen(&headers)?.or(cursor);
    let permit = app.stream_permit()?;
    let stream = app.host.stream(bus.as_deref(), filter, cursor).await?;
    let at = after(stream.epoch);
    let begins = stream.begins_after.map(&at);
    let items = stream.events.take(limit).map(move |event| {
        let json = cloudevents::write_json(&event);
        at(event.position).data(String::from_utf8_lossy(&json))
    });
    Ok(respond(&app, principal, stream::iter(begins).chain(items), permit))
}

/// Streams the log lines of a plugin
///
/// `id` of an item, sent back as `Last-Event-ID`, has the stream go on after it, also where the host was started
/// again: `recent` does not count then. The first item is an `id` alone. Lines are kept in memory, and at most 1000.
#[utoipa::path(
    get,
    path = "/v1/plugins/{plugin}/logs",
    tag = "plugins",
    operation_id = "streamLogs",
    params(
        ("plugin" = String, Path, description = "Name of the plugin"),
        ("recent" = Option<usize>, Query, maximum = 1000, description = "Kept lines first; 100 if absent"),
        ("follow" = Option<bool>, Query, description = "`false`: end after the kept lines"),
        ("Last-Event-ID" = Option<String>, Header, description = "`id` of the last item seen"),
    ),
    responses(
        (status = 200, description = "Each `data` is a line as JSON: `at`, `level`, `message`, \
            `position`, `key`, `attempt`", body = String, content_type = "text/event-stream"),
        Errors,
        StreamErrors,
    ),
)]
pub(super) async fn logs(
    State(app): State<Arc<App>>,
    Path(plugin): Path<String>,
    RawQuery(query): RawQuery,
    Extension(principal): Extension<Principal>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let mut params = Params::new(query.as_deref())?;
    let recent = match params.text("recent") {
        None => RECENT_DEFAULT,
        Some(text) => text.parse().ok().filter(|n| *n <= limits::LIST_MAX).ok_or_else(|| {
            ApiError::field("recent", format_args!("must be 0 to {}", limits::LIST_MAX))
        })?,
    };
    let follow = match params.flag("follow")? {
        Some(false) => Follow::Kept,
        None | Some(true) => Follow::New,
    };
    params.finish()?;
    let permit = app.stream_permit()?;
    let stream = app.host.logs(&plugin, recent, last_seen(&headers)?, follow).await?;
    let at = after(stream.epoch);
    let begins = at(Position(stream.begins_after));
    let items = stream.lines.map(move |(number, line)| {
        at(Position(number)).data(serde_json::to_string(&line).unwrap_or_default())
    });
    Ok(respond(&app, principal, stream::iter([begins]).chain(items), permit))
}

/// Items, as yet without data, after which to go on after a position.
fn after(epoch: u32) -> impl Fn(Position) -> SseEvent {
    move |after| SseEvent::default().id(cursor_text(Cursor { epoch, after }))
}

/// What a browser that reconnects adds: it repeats the address.
fn last_seen(headers: &HeaderMap) -> Result<Option<Cursor>, ApiError> {
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let last = last.filter(|last| !last.is_empty());
    last.map(|last| parse_cursor("Last-Event-ID", last)).transpose()
}

/// Ends with the host, or once whoever asked may not read any more, and gives its place back then.
fn respond(
    app: &App,
    principal: Principal,
    items: impl Stream<Item = SseEvent> + Send + 'static,
    permit: OwnedSemaphorePermit,
) -> Response {
    let (stop, tokens) = (app.stop.clone(), app.options.tokens.clone());
    let ends = async move {
        match tokens {
            None => stop.cancelled().await,
            Some(tokens) => tokio::select! {
                () = stop.cancelled() => {}
                () = tokens.until_revoked(principal) => {}
            },
        }
    };
    let items = items.take_until(ends).map(move |item| {
        let _held = &permit;
        Ok::<_, Infallible>(item)
    });
    let alive = KeepAlive::new().interval(app.options.alive_every);
    Sse::new(items).keep_alive(alive).into_response()
}
