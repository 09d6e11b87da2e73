//! Keys of a plugin: whether they wait, and making them.

use std::sync::Arc;

use axum::extract::{Path, RawQuery, State};
use axum::{Extension, Json};

use super::openapi::{ActionErrors, Errors, KeptErrors};
use crate::api::app::App;
use crate::api::auth::Principal;
use crate::api::errors::ApiError;
use crate::api::params::Params;
use crate::api::view::KeyView;

/// Shows how a key stands with a plugin
#[utoipa::path(
    get,
    path = "/v1/plugins/{plugin}/keys",
    tag = "plugins",
    operation_id = "getKey",
    params(
        ("plugin" = String, Path, description = "Name of the plugin"),
        ("key" = String, Query, description = "The key"),
    ),
    responses((status = 200, description = "The key", body = KeyView), Errors, KeptErrors),
)]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    Path(plugin): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<KeyView>, ApiError> {
    let mut params = Params::new(query.as_deref())?;
    let key = params.required_key()?;
    params.finish()?;
    Ok(Json(app.host.key(&plugin, &key).await?))
}

/// Starts no more deliveries of a key
#[utoipa::path(
    post,
    path = "/v1/plugins/{plugin}/keys/hold",
    tag = "plugins",
    operation_id = "holdKey",
    params(
        ("plugin" = String, Path, description = "Name of the plugin"),
        ("key" = String, Query, description = "The key"),
        ("reason" = Option<String>, Query, description = "Why, for people"),
    ),
    responses((status = 200, description = "The key", body = KeyView), Errors, ActionErrors),
)]
pub(super) async fn hold(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Path(plugin): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<KeyView>, ApiError> {
    let mut params = Params::new(query.as_deref())?;
    let key = params.required_key()?;
    let reason = params.reason()?.unwrap_or_default();
    params.finish()?;
    Ok(Json(app.host.hold(&plugin, &key, &reason, principal.actor()).await?))
}

/// Lets a key go on that is held, or parked behind a dead letter, which stays one
#[utoipa::path(
    post,
    path = "/v1/plugins/{plugin}/keys/release",
    tag = "plugins",
    operation_id = "releaseKey",
    params(
        ("plugin" = String, Path, description = "Name of the plugin"),
        ("key" = String, Query, description = "The key"),
    ),
    responses((status = 200, description = "The key", body = KeyView), Errors, ActionErrors),
)]
pub(super) async fn release(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Path(plugin): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<KeyView>, ApiError> {
    let mut params = Params::new(query.as_deref())?;
    let key = params.required_key()?;
    params.finish()?;
    Ok(Json(app.host.release(&plugin, &key, principal.actor()).await?))
}
