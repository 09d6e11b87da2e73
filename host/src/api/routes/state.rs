//! The state of a plugin, as it is durable.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use utoipa::ToSchema;

use super::openapi::{Errors, KeptErrors};
use crate::api::app::App;
use crate::api::errors::ApiError;
use crate::api::params::{LIMIT_DEFAULT, Params, not_found};
use crate::api::view::{StateValueView, StateView};

/// What a state request answers: one value where `name` was given, else those of the key.
#[derive(serde::Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum StateAnswer {
    /// Of one name.
    One(StateValueView),
    /// Of a key.
    Some(StateView),
}

/// Shows one state value, or those of a key
#[utoipa::path(
    get,
    path = "/v1/plugins/{plugin}/state",
    tag = "plugins",
    operation_id = "getState",
    params(
        ("plugin" = String, Path, description = "Name of the plugin"),
        ("key" = String, Query, description = "The key"),
        ("name" = Option<String>, Query, description = "Of this value alone"),
        ("prefix" = Option<String>, Query, description = "Of names that begin like this"),
        ("after" = Option<String>, Query, description = "Of names after this one"),
        ("limit" = Option<usize>, Query, minimum = 1, maximum = 1000, description = "100 if absent"),
        ("at" = Option<String>, Query, description = "As it was after the plugin's deliveries of the \
            key up to this position, or at this log time (RFC 3339)"),
    ),
    responses((status = 200, description = "Value or values", body = StateAnswer), Errors, KeptErrors),
)]
pub(super) async fn read(
    State(app): State<Arc<App>>,
    Path(plugin): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<StateAnswer>, ApiError> {
    let mut params = Params::new(query.as_deref())?;
    let key = params.required_key()?;
    let at = params.point("at")?;
    if let Some(name) = params.text("name") {
        params.finish()?;
        let entry = app.host.state_get(&plugin, &key, &name, at).await?;
        let entry = entry.ok_or_else(|| {
            not_found(format_args!("state `{name}` of key `{key}` in plugin `{plugin}`"))
        })?;
        return Ok(Json(StateAnswer::One(StateValueView::whole(&entry))));
    }
    let prefix = params.text("prefix").unwrap_or_default();
    let after = params.text("after");
    let limit = params.limit()?.unwrap_or(LIMIT_DEFAULT);
    params.finish()?;
    let after = after.as_deref();
    let entries = app.host.state_list(&plugin, &key, &prefix, after, limit, at).await?;
    let more = entries.len() >= limit;
    let next = entries.last().filter(|_| more).map(|entry| entry.name.to_string());
    let values = entries.iter().map(StateValueView::short).collect();
    Ok(Json(StateAnswer::Some(StateView { key: key.as_str().to_owned(), values, next })))
}
