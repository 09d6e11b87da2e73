//! What goes into a guest as arguments, borrowed, and the answer that comes out of it.

use std::sync::Arc;

use wasmtime::Store;

use super::bindings::tidegate::plugin::types::{self, Failure};
use super::delivery::Request;
use super::invoke::Returned;
use super::limits::Breach;
use super::store::StoreData;
use super::verdict;
use crate::effects::Response;
use crate::event::Event;

/// The event of the running delivery.
pub(super) fn event(store: &Store<StoreData>) -> Result<Arc<Event>, Breach> {
    store.data().session()?.context.event.clone().ok_or(Breach::Idle)
}

/// As `handler` and `upcaster` take it.
pub(super) fn lower(event: &Event) -> types::Event<'_> {
    types::Event {
        id: &event.id,
        source: &event.source,
        type_: &event.kind,
        key: event.key.as_ref().map(AsRef::as_ref),
        position: event.position.0,
        sequence: event.sequence.0,
        time_ms: event.time.as_ref().map(|time| time.ms),
        recorded_ms: event.recorded_ms,
        content_type: &event.content_type,
        data: &event.data,
    }
}

/// The attributes of a request, for [`lower_request`].
pub(super) fn lower_attributes(request: &Request) -> Vec<(&str, &str)> {
    request.attributes.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

/// As `command` and `query` take it.
pub(super) fn lower_request<'a>(
    request: &'a Request,
    attributes: &'a [(&'a str, &'a str)],
) -> types::Request<'a> {
    types::Request {
        operation: &request.operation,
        key: request.key.as_ref().map(AsRef::as_ref),
        principal: &request.principal,
        content_type: &request.content_type,
        data: &request.data,
        attributes,
    }
}

/// Takes the answer into the session, where it counts as output.
pub(super) fn respond(
    returned: Result<types::Response, Failure>,
    store: &mut Store<StoreData>,
) -> wasmtime::Result<Returned> {
    let response = match returned {
        Ok(response) => response,
        Err(failure) => return Ok(Returned::Failed(failure)),
    };
    let attributes = response.attributes.into_iter();
    let taken = store.data_mut().session_mut()?.respond(Response {
        content_type: response.content_type.into(),
        data: response.data.into(),
        attributes: attributes.map(|(name, value)| (name.into(), value.into())).collect(),
    });
    Ok(verdict::responded(taken))
}
