//! How the host is: for people, for programs, for probes.

use std::sync::Arc;

use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};

use super::exposition::Format;
use super::openapi::{ActionErrors, Errors, ProbeErrors};
use crate::api::app::App;
use crate::api::auth::Principal;
use crate::api::errors::{ApiError, Code};
use crate::api::params::Params;
use crate::api::view::{BusesView, ClockView, StatusView, TypesView};

/// Lists event types
#[utoipa::path(
    get,
    path = "/v1/types",
    tag = "events",
    operation_id = "listTypes",
    params(
        ("bus" = Option<String>, Query, description = "The bus; absent: the default one"),
        ("type" = Option<String>, Query, description = "This type alone, seen or not"),
    ),
    responses((status = 200, description = "Ascending by type", body = TypesView), Errors),
)]
pub(super) async fn types(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
) -> Result<Json<TypesView>, ApiError> {
    let mut params = Params::new(query.as_deref())?;
    let (bus, only) = (params.text("bus"), params.text("type"));
    params.finish()?;
    let types = app.host.types(bus.as_deref(), only.as_deref()).await?;
    Ok(Json(TypesView { types }))
}

/// Lists buses
#[utoipa::path(
    get,
    path = "/v1/buses",
    tag = "host",
    operation_id = "listBuses",
    responses((status = 200, description = "The default one first", body = BusesView), Errors),
)]
pub(super) async fn buses(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
) -> Result<Json<BusesView>, ApiError> {
    Params::new(query.as_deref())?.finish()?;
    Ok(Json(BusesView { buses: app.host.buses().await? }))
}

/// Has the log of a bus follow a clock that is ahead of it
///
/// A clock that is set ahead by more than a minute is not followed otherwise. What waits for log time sees
/// all of that time pass at once: timers that are due by then fire, retries that wait are made.
#[utoipa::path(
    post,
    path = "/v1/buses/{bus}/follow-clock",
    tag = "host",
    operation_id = "followClock",
    params(("bus" = String, Path, description = "Name of the bus")),
    responses(
        (status = 200, description = "The time of the log, before and after", body = ClockView),
        Errors,
        ActionErrors,
    ),
)]
pub(super) async fn follow_clock(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Path(bus): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<ClockView>, ApiError> {
    Params::new(query.as_deref())?.finish()?;
    Ok(Json(app.host.follow_clock(&bus, principal.actor()).await?))
}

/// Shows the whole host at a glance
#[utoipa::path(
    get,
    path = "/v1/status",
    tag = "host",
    operation_id = "getStatus",
    responses((status = 200, description = "Buses, plugins, lag, disk", body = StatusView), Errors),
)]
pub(super) async fn status(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
) -> Result<Json<StatusView>, ApiError> {
    Params::new(query.as_deref())?.finish()?;
    let mut status = app.host.status().await?;
    status.draining |= app.is_draining();
    Ok(Json(status))
}

/// Shows metrics, for Prometheus
///
/// In the text format 0.0.4 for clients whose `Accept` would rather have `text/plain` than
/// `application/openmetrics-text`.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "host",
    operation_id = "getMetrics",
    responses(
        (status = 200, description = "OpenMetrics 1.0, or the text format 0.0.4", content(
            (String = "application/openmetrics-text"),
            (String = "text/plain"),
        ), headers(("Vary" = String, description = "`accept`"))),
        Errors,
    ),
)]
pub(super) async fn metrics(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let format = Format::asked(&headers);
    let types = [(header::CONTENT_TYPE, format.content_type()), (header::VARY, "accept")];
    (types, format.write(app.host.metrics())).into_response()
}

/// Says that the process answers
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "host",
    operation_id = "getHealth",
    security(()),
    responses((status = 200, description = "It does", body = String), ProbeErrors),
)]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Says whether every plugin found at start is live or refused
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "host",
    operation_id = "getReadiness",
    security(()),
    responses((status = 200, description = "It is ready", body = String), ProbeErrors),
)]
pub(super) async fn readyz(State(app): State<Arc<App>>) -> Result<&'static str, ApiError> {
    if app.is_draining() {
        return Err(ApiError::new(Code::ShuttingDown, "the host is shutting down"));
    }
    let waiting_for = app.host.ready().waiting_for;
    if waiting_for.is_empty() {
        return Ok("ready\n");
    }
    let message = format!("waiting for {}", waiting_for.join(", "));
    Err(ApiError::new(Code::NotReady, message))
}

/// Shows this document
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "host",
    operation_id = "getOpenApi",
    responses(
        (status = 200, description = "OpenAPI 3.1", body = Object, content_type = "application/json"),
        Errors,
    ),
)]
pub(super) async fn openapi(State(app): State<Arc<App>>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], app.openapi.clone()).into_response()
}
