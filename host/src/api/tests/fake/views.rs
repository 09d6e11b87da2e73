//! What the host in memory shows of itself.

use bytes::Bytes;

use crate::api::host::{Answered, CommandRequest, HostError};
use crate::api::view::{
    AttemptView, BusKind, BusState, BusView, DeadLetterView, KeyState, KeyView, LogLineView,
    PluginState, PluginView, SubscriptionView, Timestamp, TreeEventView,
};
use crate::event::{CommitNumber, Digest, Event, Key, KeySequence, Position};

/// Says back what was said.
pub(super) fn said_back(request: &CommandRequest) -> Answered {
    let repeated = request.idempotency_key.is_some();
    Answered { data: format!("{request:?}").into(), repeated, ..answered() }
}

pub(super) fn answered() -> Answered {
    Answered {
        content_type: "text/html".into(),
        data: Bytes::new(),
        attributes: vec![("sum".into(), "40 \u{20ac}".into())],
        commit: CommitNumber(7),
        position: Position(9),
        sequence: Some(KeySequence(3)),
        repeated: false,
    }
}

pub(crate) fn plugin_view(name: &str, state: PluginState) -> Result<PluginView, HostError> {
    if name != "totals" {
        return Err(HostError::NotFound(format!("plugin `{name}`")));
    }
    Ok(PluginView {
        name: name.to_owned(),
        state,
        reason: None,
        description: "Adds up".to_owned(),
        file: Some("totals.wasm".to_owned()),
        module: None,
        instance: Some(1),
        rewind: None,
        generation: 0,
        subscription: SubscriptionView { bus: "main".to_owned(), ..Default::default() },
        completed_position: 0,
        lag_events: 0,
        in_flight: 0,
        waiting: 0,
        queued: 0,
        retrying: 0,
        throttled: Vec::new(),
        state_bytes: 0,
        state_keys: 0,
        parked_keys: 0,
        timers: 0,
        held_keys: 0,
        deferred_events: 0,
        deliveries: [("ok".to_owned(), 2)].into(),
        dead_letters: 1,
        open_calls: 0,
        last_error: None,
        history: Vec::new(),
        manifest: Some(crate::plugin::Manifest::default().to_toml()),
    })
}

pub(super) fn key_view(plugin: &str, key: &Key, state: KeyState) -> Result<KeyView, HostError> {
    plugin_view(plugin, PluginState::Live)?;
    let (plugin, key) = (plugin.to_owned(), key.to_string());
    let dead_letter = (state == KeyState::Parked).then(|| "1".to_owned());
    Ok(KeyView { plugin, key, state, dead_letter, deferred: 3, ..KeyView::default() })
}

pub(super) fn dead_letter_view(id: &str) -> DeadLetterView {
    DeadLetterView {
        id: id.to_owned(),
        plugin: "totals".to_owned(),
        bus: "main".to_owned(),
        position: 1,
        kind: "order.created".to_owned(),
        source: "/shop".to_owned(),
        event_id: "1".to_owned(),
        key: None,
        outcome: "trap".to_owned(),
        reason: "unreachable".to_owned(),
        attempts: 5,
        first_attempt: Timestamp(0),
        given_up: Timestamp(1000),
        module: Digest::default().to_string(),
        parked: true,
        redriving: false,
        tried: vec![AttemptView { attempt: 5, at: Timestamp(900), outcome: "trap".to_owned() }],
        state: Vec::new(),
        backtrace: String::new(),
        logs: Vec::new(),
    }
}

pub(super) fn bus_view(events: u64) -> BusView {
    BusView {
        name: "main".to_owned(),
        kind: BusKind::Durable,
        default: true,
        state: BusState::Open,
        last_position: events,
        appended: events,
        plugins: vec!["totals".to_owned()],
        log: None,
        capacity: None,
    }
}

pub(super) fn tree_event_view(event: &Event) -> TreeEventView {
    TreeEventView {
        bus: "main".to_owned(),
        position: event.position.0,
        cause: None,
        kind: event.kind.to_string(),
        source: event.source.to_string(),
        id: event.id.to_string(),
        key: event.key.as_ref().map(ToString::to_string),
        sequence: event.sequence.0,
        emitter: None,
        recorded: Timestamp(event.recorded_ms),
    }
}

pub(super) fn log_line_view(n: usize) -> LogLineView {
    LogLineView {
        at: Timestamp(n as u64),
        level: "info".to_owned(),
        message: format!("line {n}"),
        position: None,
        key: None,
        attempt: None,
    }
}
