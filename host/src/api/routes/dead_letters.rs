//! Deliveries that were given up.

use std::sync::Arc;

use axum::extract::{Path, RawQuery, State};
use axum::{Extension, Json};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::openapi::{ActionErrors, CloudEvent, Errors, KeptErrors};
use crate::api::app::App;
use crate::api::auth::Principal;
use crate::api::cloudevents;
use crate::api::errors::ApiError;
use crate::api::host::{DeadLetterFilter, DeadLetterSelection};
use crate::api::params::{LIMIT_DEFAULT, Params, not_found};
use crate::api::view::{ActedView, DeadLetterView, DeadLettersView, DeliveryView};
use crate::effects::OutcomeKind;

/// A dead letter with its event.
#[derive(serde::Serialize, ToSchema)]
pub(super) struct DeadLetterWithEvent {
    #[serde(flatten)]
    letter: DeadLetterView,
    /// The event that could not be handled; absent: it is not to be had any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<CloudEvent>)]
    event: Option<Box<RawValue>>,
}

/// Lists dead letters, oldest first
#[utoipa::path(
    get,
    path = "/v1/dead-letters",
    tag = "dead letters",
    operation_id = "listDeadLetters",
    params(
        ("plugin" = Option<String>, Query, description = "Of this plugin"),
        ("key" = Option<String>, Query, description = "Of this key"),
        ("outcome" = Option<String>, Query, description = "With this outcome: `trap`, `reject`, ..."),
        ("limit" = Option<usize>, Query, minimum = 1, maximum = 1000, description = "100 if absent"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses((status = 200, description = "A page", body = DeadLettersView), Errors),
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
) -> Result<Json<DeadLettersView>, ApiError> {
    let mut params = Params::new(query.as_deref())?;
    let filter = DeadLetterFilter {
        plugin: params.text("plugin"),
        key: params.key()?,
        outcome: params.text("outcome").map(|text| outcome(&text)).transpose()?,
        after: params.text("cursor").map(cursor).transpose()?,
        limit: params.limit()?.unwrap_or(LIMIT_DEFAULT),
    };
    params.finish()?;
    let dead_letters = app.host.dead_letters(&filter).await?;
    let more = dead_letters.len() >= filter.limit;
    let next = dead_letters.last().filter(|_| more).map(|letter| letter.id.clone());
    Ok(Json(DeadLettersView { dead_letters, next }))
}

/// The id of a dead letter: a number, with the name of the bus in front where it is not the default one.
fn cursor(id: String) -> Result<String, ApiError> {
    let number = id.rsplit_once(':').map_or(&*id, |(_, number)| number);
    if number.parse::<u64>().is_err() {
        return Err(ApiError::field("cursor", "is not a cursor that this host gave"));
    }
    Ok(id)
}

fn outcome(text: &str) -> Result<OutcomeKind, ApiError> {
    OutcomeKind::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| {
        let names: Vec<_> = OutcomeKind::ALL.iter().map(|kind| kind.name()).collect();
        ApiError::field("outcome", format_args!("must be one of {}", names.join(", ")))
    })
}

/// Shows what it takes to run a dead letter's delivery again, elsewhere
#[utoipa::path(
    get,
    path = "/v1/dead-letters/{id}/delivery",
    tag = "dead letters",
    operation_id = "getDeadLetterDelivery",
    params(("id" = String, Path, description = "Its id")),
    responses((status = 200, description = "The delivery", body = DeliveryView), Errors, KeptErrors),
)]
pub(super) async fn delivery(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<DeliveryView>, ApiError> {
    Params::new(query.as_deref())?.finish()?;
    let found = app.host.dead_letter_delivery(&id).await?;
    found.map(Json).ok_or_else(|| not_found(format_args!("dead letter `{id}`")))
}

/// Shows one dead letter, with its event
#[utoipa::path(
    get,
    path = "/v1/dead-letters/{id}",
    tag = "dead letters",
    operation_id = "getDeadLetter",
    params(("id" = String, Path, description = "Its id")),
    responses((status = 200, description = "The dead letter", body = DeadLetterWithEvent), Errors),
)]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<DeadLetterWithEvent>, ApiError> {
    Params::new(query.as_deref())?.finish()?;
    let found = app.host.dead_letter(&id).await?;
    let found = found.ok_or_else(|| not_found(format_args!("dead letter `{id}`")))?;
    let event = found.event.and_then(|event| {
        RawValue::from_string(String::from_utf8(cloudevents::write_json(&event)).ok()?).ok()
    });
    Ok(Json(DeadLetterWithEvent { letter: found.letter, event }))
}

/// Which dead letters are meant: nobody means all of them by saying nothing.
fn selection(params: &mut Params) -> Result<DeadLetterSelection, ApiError> {
    let which = DeadLetterSelection {
        id: params.text("id"),
        plugin: params.text("plugin"),
        key: params.key()?,
        outcome: params.text("outcome").map(|text| outcome(&text)).transpose()?,
    };
    let all = params.flag("all")?.unwrap_or(false);
    if all != (which == DeadLetterSelection::default()) {
        let why = "say which: `id`, or `plugin`, `key` and `outcome`, or `all=true` alone";
        return Err(ApiError::field("all", format_args!("does not fit the rest; {why}")));
    }
    Ok(which)
}

/// Runs dead letters again, and then what waits behind them
#[utoipa::path(
    post,
    path = "/v1/dead-letters/redrive",
    tag = "dead letters",
    operation_id = "redriveDeadLetters",
    params(
        ("id" = Option<String>, Query, description = "This one"),
        ("plugin" = Option<String>, Query, description = "Of this plugin"),
        ("key" = Option<String>, Query, description = "Of this key"),
        ("outcome" = Option<String>, Query, description = "With this outcome: `trap`, `reject`, ..."),
        ("all" = Option<bool>, Query, description = "`true`: all there are"),
    ),
    responses((status = 200, description = "How many", body = ActedView), Errors, ActionErrors),
)]
pub(super) async fn redrive(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    RawQuery(query): RawQuery,
) -> Result<Json<ActedView>, ApiError> {
    let mut params = Params::new(query.as_deref())?;
    let which = selection(&mut params)?;
    params.finish()?;
    Ok(Json(app.host.redrive(&which, principal.actor()).await?))
}

/// Gives up dead letters for good; their keys go on
#[utoipa::path(
    post,
    path = "/v1/dead-letters/discard",
    tag = "dead letters",
    operation_id = "discardDeadLetters",
    params(
        ("reason" = String, Query, description = "Why, for people"),
        ("id" = Option<String>, Query, description = "This one"),
        ("plugin" = Option<String>, Query, description = "Of this plugin"),
        ("key" = Option<String>, Query, description = "Of this key"),
        ("outcome" = Option<String>, Query, description = "With this outcome: `trap`, `reject`, ..."),
        ("all" = Option<bool>, Query, description = "`true`: all there are"),
    ),
    responses((status = 200, description = "How many", body = ActedView), Errors, ActionErrors),
)]
pub(super) async fn discard(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    RawQuery(query): RawQuery,
) -> Result<Json<ActedView>, ApiError> {
    let mut params = Params::new(query.as_deref())?;
    let which = selection(&mut params)?;
    let reason = params.reason()?.filter(|reason| !reason.trim().is_empty());
    let reason = reason.ok_or_else(|| ApiError::field("reason", "is missing"))?;
    params.finish()?;
    Ok(Json(app.host.discard(&which, &reason, principal.actor()).await?))
}
