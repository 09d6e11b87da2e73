//! Past deliveries run again.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::openapi::{ActionErrors, DiffErrors, Errors};
use super::plugins::digest;
use crate::api::app::App;
use crate::api::errors::{ApiError, Code};
use crate::api::host::{DiffOn, DiffRequest};
use crate::api::params::Params;
use crate::api::view::DiffView;
use crate::event::Position;
use crate::limits::REPLAY_DIFFERENCES_MAX;

/// Differences that are told where nothing else is asked for.
const DIFFERENCES_DEFAULT: usize = 20;

/// The media type of a module.
const WASM: &str = "application/wasm";

/// Runs past deliveries again, and compares them with the record
///
/// Each delivery sees the event, attempt, time and state that it saw then. Nothing is committed and
/// nothing reaches the outside. The body, if there is one, is the module to run.
#[utoipa::path(
    post,
    path = "/v1/plugins/{plugin}/diff",
    tag = "plugins",
    operation_id = "diffPlugin",
    params(
        ("plugin" = String, Path, description = "Name of the plugin"),
        ("from" = Option<u64>, Query, description = "Position of the first input; 1 if absent"),
        ("to" = Option<u64>, Query, description = "Position of the last input; the last if absent"),
        ("module" = Option<String>, Query, description = "`recorded`: each delivery on the module \
            that served then. A digest, or a beginning of one in the history: a module that served. \
            Absent: the body, or else the module that serves"),
        ("limit" = Option<usize>, Query, minimum = 1, maximum = 1000, description = "Differences \
            told in words; 20 if absent"),
    ),
    request_body(content = Option<Vec<u8>>, content_type = "application/wasm", description = "A module"),
    responses(
        (status = 200, description = "What differs", body = DiffView),
        Errors,
        ActionErrors,
        DiffErrors,
    ),
)]
pub(super) async fn diff(
    State(app): State<Arc<App>>,
    Path(plugin): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let mut params = Params::new(query.as_deref())?;
    let from = params.position("from")?;
    let to = params.position("to")?;
    let module = params.text("module");
    let differences_max = params.limit()?.unwrap_or(DIFFERENCES_DEFAULT);
    params.finish()?;
    const { assert!(DIFFERENCES_DEFAULT <= REPLAY_DIFFERENCES_MAX) };
    let (wasm, share) = app.body(&headers, body).await?;
    if !wasm.is_empty() {
        check_type(&headers)?;
    }
    let on = match module.as_deref() {
        Some(_) if !wasm.is_empty() => {
            return Err(ApiError::field("module", "cannot be asked for beside a body"));
        }
        Some("recorded") => DiffOn::Recorded,
        Some(text) => DiffOn::Kept(digest(&app, &plugin, text).await?),
        None if wasm.is_empty() => DiffOn::Serving,
        None => DiffOn::Given(wasm),
    };
    let permit = app.stream_permit()?;
    let request = DiffRequest { on, from, to, differences_max };
    let report = app.host.diff(&plugin, request).await?;
    drop(share);
    let report =
        stream::once(report).map(|view| Bytes::from(serde_json::to_vec(&view).unwrap_or_default()));
    // A blank, which JSON passes over: a replay may take long.
    let mut beat = tokio::time::interval(app.options.alive_every);
    let alive = stream::poll_fn(move |context| {
        beat.poll_tick(context).map(|_| Some(Bytes::from_static(b"\n")))
    });
    // Ends with the report, and whatever happens with the host.
    let ends = Arc::new(tokio_util::sync::CancellationToken::new());
    let done = Arc::clone(&ends);
    let report = report.inspect(move |_| done.cancel());
    let alive = alive.take_until(async move { ends.cancelled().await });
    let both = stream::select(report, alive).take_until(app.stop.clone().cancelled_owned());
    let both = both.map(move |bytes| {
        let _held = &permit;
        Ok::<_, Infallible>(bytes)
    });
    Ok(([(header::CONTENT_TYPE, "application/json")], Body::from_stream(both)).into_response())
}

fn check_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let said = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = said.and_then(|said| said.split(';').next()).unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case(WASM) {
        return Ok(());
    }
    let message = format!("a module comes as `{WASM}`, not as `{}`", essence.escape_debug());
    Err(ApiError::new(Code::UnsupportedMediaType, message))
}

impl Params {
    fn position(&mut self, name: &'static str) -> Result<Option<Position>, ApiError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let position = text.parse().map_err(|_| ApiError::field(name, "is not a position"))?;
        Ok(Some(Position(position)))
    }
}
