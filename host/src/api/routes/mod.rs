//! Every route, and the OpenAPI document that is made from them.

mod dead_letters;
mod diff;
mod events;
mod exposition;
mod keys;
mod openapi;
mod plugins;
mod requests;
mod state;
mod status;
mod stream;
mod timers;

use std::sync::Arc;

use axum::Router;
use bytes::Bytes;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::app::App;
use super::console;

pub(super) use openapi::Document;

/// The routes, and the document as JSON.
pub(super) fn router() -> (Router<Arc<App>>, Bytes) {
    let (router, mut document) = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(events::publish, events::list))
        .routes(routes!(events::get))
        .routes(routes!(events::tree))
        .routes(routes!(stream::events))
        .routes(routes!(status::types))
        .routes(routes!(plugins::list))
        .routes(routes!(plugins::show, plugins::forget))
        .routes(routes!(plugins::pause))
        .routes(routes!(plugins::resume))
        .routes(routes!(plugins::rollback))
        .routes(routes!(plugins::rewind))
        .routes(routes!(plugins::rename))
        .routes(routes!(diff::diff))
        .routes(routes!(stream::logs))
        .routes(routes!(state::read))
        .routes(routes!(requests::command))
        .routes(routes!(requests::ask, requests::ask_with_body))
        .routes(routes!(dead_letters::list))
        .routes(routes!(dead_letters::show))
        .routes(routes!(dead_letters::delivery))
        .routes(routes!(dead_letters::redrive))
        .routes(routes!(dead_letters::discard))
        .routes(routes!(keys::show))
        .routes(routes!(timers::list))
        .routes(routes!(keys::hold))
        .routes(routes!(keys::release))
        .routes(routes!(status::buses))
        .routes(routes!(status::follow_clock))
        .routes(routes!(status::status))
        .routes(routes!(status::metrics))
        .routes(routes!(status::healthz))
        .routes(routes!(status::readyz))
        .routes(routes!(status::openapi))
        .split_for_parts();
    // The router's way to say that a parameter may have slashes is not the document's.
    let paths = std::mem::take(&mut document.paths.paths);
    document.paths.paths =
        paths.into_iter().map(|(path, item)| (path.replace("{*", "{"), item)).collect();
    let json = serde_json::to_vec_pretty(&document).unwrap_or_default();
    (router.merge(console::routes()), Bytes::from(json))
}
