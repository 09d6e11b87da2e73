//! Private events: what the host itself says to one plugin, in the order of a key.
//!
//! They stand in the log like all others, so that replay can place them, and are delivered like all
//! others; they have a position and no key sequence, and nobody else sees them.

use std::sync::Arc;

use bytes::Bytes;

use super::deliver::Deliverer;
use crate::event::{Addressee, Event, Key, KeyVariant, NewEvent};

/// `type` of a timer that fires. Attributes: `timername`, `timerdue` (log time, milliseconds); data: what
/// was set. Its id says which timer it is: [`super::timers::FireId`].
pub const TIMER: &str = "tidegate.timer";
/// `type` of a command. It is handed to `command.execute`, never to `handler.handle`.
pub const COMMAND: &str = "tidegate.command";
/// `type` of the answer to a call. Attributes: `callname`, `callstatus`; data: the body.
pub const RESPONSE: &str = "tidegate.response";

/// Whether an event is one of the host's own kinds.
#[must_use]
pub fn is_private(kind: &str) -> bool {
    [TIMER, COMMAND, RESPONSE].contains(&kind)
}

/// Whether an event is for one plugin alone.
#[must_use]
pub fn is_addressed(event: &Event) -> bool {
    matches!(event.addressee, Some(Addressee::Plugin(_)))
}

/// What a private event carries; the rest follows from who gets it.
#[derive(Debug, Clone)]
pub struct Content {
    /// [`TIMER`], [`COMMAND`] or [`RESPONSE`].
    pub kind: &'static str,
    /// Deterministic: made again after a crash it is the same.
    pub id: Arc<str>,
    /// The key it is delivered on.
    pub key: Option<Key>,
    /// Media type of `data`; empty: none.
    pub content_type: Arc<str>,
    /// The payload.
    pub data: Bytes,
    /// Further attributes, ascending by name.
    pub attributes: Vec<(Arc<str>, Arc<str>)>,
}

/// The private event that hands `content` to the plugin of `to`.
#[must_use]
pub fn event(to: &Deliverer, content: Content) -> NewEvent {
    NewEvent {
        id: content.id,
        source: Arc::clone(&to.source),
        kind: content.kind.into(),
        key_variant: content.key.as_ref().map_or(KeyVariant::None, |_| KeyVariant::PartitionKey),
        key: content.key,
        content_type: content.content_type,
        data: content.data,
        attributes: content.attributes,
        addressee: Some(Addressee::Plugin(to.instance)),
        ..NewEvent::default()
    }
}
