//! Plugins: what they are, and what operators do with them. Names in the path are those of files,
//! never free text.

use std::sync::Arc;

use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::{Extension, Json};

use super::openapi::{ActionErrors, Errors};
use crate::api::app::App;
use crate::api::auth::Principal;
use crate::api::errors::ApiError;
use crate::api::params::Params;
use crate::api::view::{PluginView, PluginsView};
use crate::event::Digest;

/// Lists plugins, and the files that are none
#[utoipa::path(
    get,
    path = "/v1/plugins",
    tag = "plugins",
    operation_id = "listPlugins",
    responses((status = 200, description = "All of them", body = PluginsView), Errors),
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
) -> Result<Json<PluginsView>, ApiError> {
    Params::new(query.as_deref())?.finish()?;
    Ok(Json(app.host.plugins().await?))
}

/// Shows one plugin
#[utoipa::path(
    get,
    path = "/v1/plugins/{plugin}",
    tag = "plugins",
    operation_id = "getPlugin",
    params(("plugin" = String, Path, description = "Name of the plugin")),
    responses((status = 200, description = "The plugin", body = PluginView), Errors),
)]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    Path(plugin): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<PluginView>, ApiError> {
    Params::new(query.as_deref())?.finish()?;
    Ok(Json(app.host.plugin(&plugin).await?))
}

/// Removes a plugin whose file is gone, with its state
#[utoipa::path(
    delete,
    path = "/v1/plugins/{plugin}",
    tag = "plugins",
    operation_id = "forgetPlugin",
    params(("plugin" = String, Path, description = "Name of the plugin")),
    responses((status = 204, description = "It is forgotten"), Errors, ActionErrors),
)]
pub(super) async fn forget(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Path(plugin): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<StatusCode, ApiError> {
    Params::new(query.as_deref())?.finish()?;
    app.host.forget(&plugin, principal.actor()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Stops deliveries to a plugin
#[utoipa::path(
    post,
    path = "/v1/plugins/{plugin}/pause",
    tag = "plugins",
    operation_id = "pausePlugin",
    params(
        ("plugin" = String, Path, description = "Name of the plugin"),
        ("reason" = Option<String>, Query, description = "Why, for people"),
    ),
    responses((status = 200, description = "The plugin", body = PluginView), Errors, ActionErrors),
)]
pub(super) async fn pause(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Path(plugin): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<PluginView>, ApiError> {
    let mut params = Params::new(query.as_deref())?;
    let reason = params.reason()?.unwrap_or_default();
    params.finish()?;
    Ok(Json(app.host.pause(&plugin, &reason, principal.actor()).await?))
}

/// Lets deliveries to a plugin go on; registers one that waits as a new one
#[utoipa::path(
    post,
    path = "/v1/plugins/{plugin}/resume",
    tag = "plugins",
    operation_id = "resumePlugin",
    params(("plugin" = String, Path, description = "Name of the plugin")),
    responses((status = 200, description = "The plugin", body = PluginView), Errors, ActionErrors),
)]
pub(super) async fn resume(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Path(plugin): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<PluginView>, ApiError> {
    Params::new(query.as_deref())?.finish()?;
    Ok(Json(app.host.resume(&plugin, principal.actor()).await?))
}

/// Goes back to an earlier module, until the file changes
#[utoipa::path(
    post,
    path = "/v1/plugins/{plugin}/rollback",
    tag = "plugins",
    operation_id = "rollbackPlugin",
    params(
        ("plugin" = String, Path, description = "Name of the plugin"),
        ("module" = Option<String>, Query, description = "Digest, 64 hex digits, or a beginning of \
            one in the history, at least 4; absent: the module before the current one"),
    ),
    responses((status = 200, description = "The plugin", body = PluginView), Errors, ActionErrors),
)]
pub(super) async fn rollback(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Path(plugin): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<PluginView>, ApiError> {
    let mut params = Params::new(query.as_deref())?;
    let module = params.text("module");
    params.finish()?;
    let module = match module {
        None => None,
        Some(text) => Some(digest(&app, &plugin, &text).await?),
    };
    Ok(Json(app.host.rollback(&plugin, module, principal.actor()).await?))
}

/// People see the first digits of a digest, and may say as many as it takes.
pub(super) async fn digest(app: &App, plugin: &str, text: &str) -> Result<Digest, ApiError> {
    if let Some(digest) = Digest::parse(text) {
        return Ok(digest);
    }
    let history = app.host.plugin(plugin).await?.history;
    let mut found: Vec<&str> = history.iter().map(|tried| &*tried.digest).collect();
    found.retain(|digest| text.len() >= 4 && digest.starts_with(&text.to_ascii_lowercase()));
    found.sort_unstable();
    found.dedup();
    match (found.first().and_then(|hex| Digest::parse(hex)), found.len()) {
        (Some(digest), 1) => Ok(digest),
        (_, 0) => Err(ApiError::field("module", "is no module in the history of this plugin")),
        _ => {
            Err(ApiError::field("module", "begins several modules of the history; say more digits"))
        }
    }
}

/// Binds the instance of a plugin to another name
#[utoipa::path(
    post,
    path = "/v1/plugins/{plugin}/rename",
    tag = "plugins",
    operation_id = "renamePlugin",
    params(
        ("plugin" = String, Path, description = "Its name so far"),
        ("to" = String, Query, description = "Its new name: that of the new file"),
    ),
    responses((status = 200, description = "The plugin", body = PluginView), Errors, ActionErrors),
)]
pub(super) async fn rename(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Path(plugin): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<PluginView>, ApiError> {
    let mut params = Params::new(query.as_deref())?;
    let to = params.required("to")?;
    params.finish()?;
    if !is_plugin_name(&to) {
        let why = "is not a plugin name: 1 to 63 of a-z, 0-9 and `-`, not `-` first";
        return Err(ApiError::field("to", why));
    }
    Ok(Json(app.host.rename(&plugin, &to, principal.actor()).await?))
}

fn is_plugin_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&name.len()) && !name.starts_with('-') && name.bytes().all(plain)
}
