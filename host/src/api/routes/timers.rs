//! Pending timers of a plugin.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, RawQuery, State};

use super::openapi::{Errors, KeptErrors};
use crate::api::app::App;
use crate::api::errors::ApiError;
use crate::api::params::{LIMIT_DEFAULT, Params};
use crate::api::view::TimersView;

/// Lists pending timers, the next one due first
#[utoipa::path(
    get,
    path = "/v1/plugins/{plugin}/timers",
    tag = "plugins",
    operation_id = "listTimers",
    params(
        ("plugin" = String, Path, description = "Name of the plugin"),
        ("key" = Option<String>, Query, description = "Of this key alone"),
        ("after" = Option<String>, Query, description = "`next` of the page before"),
        ("limit" = Option<usize>, Query, minimum = 1, maximum = 1000, description = "100 if absent"),
    ),
    responses((status = 200, description = "Timers", body = TimersView), Errors, KeptErrors),
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Path(plugin): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<TimersView>, ApiError> {
    let mut params = Params::new(query.as_deref())?;
    let (key, after) = (params.key()?, params.text("after"));
    let limit = params.limit()?.unwrap_or(LIMIT_DEFAULT);
    params.finish()?;
    Ok(Json(app.host.timers(&plugin, key.as_ref(), after.as_deref(), limit).await?))
}
