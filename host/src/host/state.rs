//! Looking at keyed state: as it is, and as it was.

use std::num::NonZeroU64;

use ecow::EcoString;

use super::{Host, events};
use crate::api::filter::Point;
use crate::api::host::{HostError, StateEntry};
use crate::api::view::{DeliveryView, InputView, SeenValueView};
use crate::bus::Bus;
use crate::bus::past::{Moment, PastError};
use crate::bus::replay::recorded_completion;
use crate::event::{Event, Key};
use crate::log::Log;
use crate::log::record::Completion;
use crate::state::cold::ColdError;
use crate::state::{DeadLetter, Owner, Value};

impl Host {
    /// Values of a key that `wanted` picks by name, ascending, at most `limit`; now, or as they were.
    pub(super) async fn state_entries(
        &self,
        plugin: &str,
        key: &Key,
        at: Option<Point>,
        wanted: &(dyn Fn(&str) -> bool + Sync),
        limit: usize,
    ) -> Result<Vec<StateEntry>, HostError> {
        let (bus, owner) = self.owner(plugin, key)?;
        let Some(at) = at else {
            let unread = |error: ColdError| HostError::Internal(error.to_string());
            bus.values().filled().await.map_err(unread)?;
            let all = bus.values().all(&owner, bus.now_ms()).map_err(unread)?;
            let all = all.into_iter().filter(|(name, _)| wanted(name)).take(limit);
            return Ok(all.map(|(name, value)| entry(name, value)).collect());
        };
        let moment = match at {
            Point::Position(position) => Moment::After(position),
            Point::TimeMs(ms) => Moment::At(ms),
        };
        let owner = then(&bus, owner, at);
        let past = bus.past(&owner, moment).await.map_err(past_error)?;
        let values = past.values().filter(|(name, _)| wanted(name)).take(limit);
        Ok(values.map(|(name, value)| entry(name.clone(), value.clone())).collect())
    }

    /// What it takes to run a delivery that was given up once more.
    pub(super) async fn read_delivery(&self, id: &str) -> Result<Option<DeliveryView>, HostError> {
        let Some((bus, number)) = self.dead_letter_id(id) else { return Ok(None) };
        let found = {
            let ledger = bus.ledger();
            ledger.dead_letter(number).cloned().and_then(|letter| {
                let plugin = ledger.instance(letter.instance)?.name.clone();
                Some((letter, plugin))
            })
        };
        let Some((letter, plugin)) = found else { return Ok(None) };
        let gone = |what: &str| HostError::Conflict(format!("{what} of the dead letter is gone"));
        let event = bus.event(letter.position).await.map_err(events::read_error)?;
        let event = event.ok_or_else(|| gone("the event"))?;
        let log = bus.log().ok_or_else(|| gone("the record"))?;
        let done = ending(log, &letter).await?;
        let state = match &done {
            Some(done) => state_before(bus, &letter, done, &event).await?,
            None => Vec::new(),
        };
        let state = state.iter().map(SeenValueView::of).collect();
        let (attempt, redriven) =
            done.map_or((letter.attempts, false), |d| (d.attempt, d.mode.is_redriven()));
        let manifest = self.plugins.view_of(&plugin).ok().and_then(|view| view.manifest);
        // As its guest was handed it; where nobody can lift it now, as it stands in the log.
        let event = bus.upcasters().lift(&event).await.unwrap_or(event);
        let input = InputView::of(&event);
        Ok(Some(DeliveryView { plugin, attempt, redriven, manifest, input, state }))
    }

    /// What a delivery that was given up saw of its key; nothing where it has none, or its bus keeps
    /// no past.
    pub(super) async fn state_before(
        &self,
        bus: &Bus,
        letter: &DeadLetter,
        input: &Event,
    ) -> Result<Vec<StateEntry>, HostError> {
        let Some(log) = bus.log() else { return Ok(Vec::new()) };
        let Some(done) = ending(log, letter).await? else { return Ok(Vec::new()) };
        state_before(bus, letter, &done, input).await
    }
}

/// How the delivery ended that was given up; none: its record is not there.
async fn ending(log: &Log, letter: &DeadLetter) -> Result<Option<Completion>, HostError> {
    let done = log
        .read_commit(letter.at.commit, |commit| Ok(recorded_completion(commit, letter.instance)?));
    done.await.map_err(events::read_error)
}

/// What the delivery that ended so saw of its key.
async fn state_before(
    bus: &Bus,
    letter: &DeadLetter,
    done: &Completion,
    input: &Event,
) -> Result<Vec<StateEntry>, HostError> {
    let Some(key) = &letter.key else { return Ok(Vec::new()) };
    // A rewind may have come in between, or between two of its attempts.
    let owner = Owner { instance: letter.instance, generation: done.generation, key: key.clone() };
    let moment = Moment::Before { commit: letter.at.commit, input_ms: input.recorded_ms };
    let past = bus.past(&owner, moment).await.map_err(past_error)?;
    Ok(past.values().map(|(name, value)| entry(name.clone(), value.clone())).collect())
}

/// The owner of the state that was seen at a point: a rewind may have come in between.
fn then(bus: &Bus, owner: Owner, at: Point) -> Owner {
    let ledger = bus.ledger();
    let Some(plugin) = ledger.instance(owner.instance) else { return owner };
    let generation = match at {
        Point::Position(position) => plugin.generation_after(position),
        Point::TimeMs(ms) => plugin.generation_at(ms),
    };
    Owner { generation, ..owner }
}

fn entry(name: EcoString, value: Value) -> StateEntry {
    StateEntry { name, value: value.bytes, expires_ms: value.expires_ms.map(NonZeroU64::get) }
}

fn past_error(error: PastError) -> HostError {
    match error {
        PastError::Read(error) => events::read_error(error),
        error @ PastError::Forgotten(_) => {
            HostError::Invalid { field: "at".to_owned(), why: format!("cannot be asked: {error}") }
        }
        error @ (PastError::PositionAhead(_) | PastError::TimeAhead) => {
            HostError::Invalid { field: "at".to_owned(), why: error.to_string() }
        }
    }
}
