//! A host in memory, as simple as may be: what the server is tested against.

mod answers;
mod views;

use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use crate::api::filter::{EventFilter, Point};
use crate::api::host::{Appended, Cursor, HostError, Publish, PublishError};
use crate::api::view::{PluginState, PluginView};
use crate::event::{CommitNumber, Event, KeySequence, NewEvent, Position};
pub(crate) use views::plugin_view;

const EPOCH: u32 = 3;

/// Keeps everything, forgets it with the process.
pub(crate) struct FakeHost {
    events: watch::Sender<Vec<Arc<Event>>>,
    /// What the next publish answers instead of appending.
    pub(crate) refuse: Mutex<Option<PublishError>>,
    /// What `ready` says.
    pub(crate) waiting_for: Mutex<Vec<String>>,
    /// Actors of plugin actions, in order.
    pub(crate) actors: Mutex<Vec<String>>,
}

impl FakeHost {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            events: watch::Sender::default(),
            refuse: Mutex::default(),
            waiting_for: Mutex::default(),
            actors: Mutex::default(),
        })
    }

    pub(crate) fn events(&self) -> Vec<Arc<Event>> {
        self.events.borrow().clone()
    }

    /// Appends an event past the server.
    pub(crate) fn put(&self, id: u32, data: &str) {
        let event = NewEvent {
            id: id.to_string().into(),
            source: "/test".into(),
            kind: "a.b".into(),
            content_type: "text/plain".into(),
            data: data.to_owned().into(),
            ..NewEvent::default()
        };
        self.append(vec![Publish { event, expected: None }]).unwrap();
    }

    fn append(&self, batch: Vec<Publish>) -> Result<Vec<Appended>, PublishError> {
        if let Some(error) = self.refuse.lock().unwrap().take() {
            return Err(error);
        }
        let mut next = self.events();
        let mut appended = Vec::new();
        for (index, publish) in batch.into_iter().enumerate() {
            appended.push(append_one(&mut next, index, publish)?);
        }
        self.events.send_replace(next);
        Ok(appended)
    }

    fn act(&self, name: &str, state: PluginState, actor: &str) -> Result<PluginView, HostError> {
        self.actors.lock().unwrap().push(actor.to_owned());
        plugin_view(name, state)
    }
}

fn append_one(
    events: &mut Vec<Arc<Event>>,
    index: usize,
    publish: Publish,
) -> Result<Appended, PublishError> {
    let Publish { event: body, expected } = publish;
    if let Some(old) = events.iter().find(|e| e.source == body.source && e.id == body.id) {
        if old.kind != body.kind || old.data != body.data {
            return Err(PublishError::IdConflict { index, position: old.position });
        }
        let (position, sequence) = (old.position, old.sequence);
        return Ok(Appended { position, sequence, duplicate: true });
    }
    let of_key = events.iter().filter(|e| e.key.is_some() && e.key == body.key).count() as u64;
    if let Some(expected) = expected
        && expected.0 != of_key
    {
        let actual = KeySequence(of_key);
        return Err(PublishError::SequenceConflict { index, expected, actual });
    }
    let position = Position(events.len() as u64 + 1);
    let sequence = KeySequence(if body.key.is_some() { of_key + 1 } else { 0 });
    let recorded_ms = 1_800_000_000_000 + position.0 * 1000;
    let commit = CommitNumber(position.0);
    events.push(Arc::new(Event { position, sequence, recorded_ms, commit, body }));
    Ok(Appended { position, sequence, duplicate: false })
}

fn check_bus(bus: Option<&str>) -> Result<(), HostError> {
    match bus {
        None | Some("main" | "live") => Ok(()),
        Some(other) => Err(HostError::NotFound(format!("bus `{other}`"))),
    }
}

fn start(filter: &EventFilter, cursor: Option<Cursor>) -> Result<Option<u64>, HostError> {
    if let Some(cursor) = cursor {
        if cursor.epoch > EPOCH {
            let (field, why) = ("cursor".to_owned(), "is of another log".to_owned());
            return Err(HostError::Invalid { field, why });
        }
        return Ok(Some(cursor.after.0));
    }
    Ok(match filter.from {
        Some(Point::Position(position)) => Some(position.0.saturating_sub(1)),
        Some(Point::TimeMs(_)) => Some(0),
        None => None,
    })
}
