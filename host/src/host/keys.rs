//! Keys that wait and dead letters, as the API asks for them.

use std::collections::BTreeMap;

use super::{Host, events, views};
use crate::api::host::{DeadLetter, DeadLetterFilter, DeadLetterSelection, HostError};
use crate::api::view::{
    ActedView, DeadLetterView, KeyState, KeyView, LeftView, StateValueView, Timestamp,
};
use crate::bus::Bus;
use crate::bus::operate::Act;
use crate::event::Key;
use crate::schedule::core::Until;

/// Dead letters that are named though nothing was done to them.
const EXAMPLES_MAX: usize = 100;
/// State values that a dead letter shows.
const STATE_SHOWN_MAX: usize = 100;

impl Host {
    pub(super) async fn read_dead_letter(&self, id: &str) -> Result<Option<DeadLetter>, HostError> {
        let Some((bus, number)) = self.dead_letter_id(id) else { return Ok(None) };
        let found = {
            let ledger = bus.ledger();
            ledger.dead_letter(number).cloned().map(|letter| {
                let plugin = ledger.instance(letter.instance).map(|i| i.name.clone());
                (letter, plugin.unwrap_or_default())
            })
        };
        let Some((letter, plugin)) = found else { return Ok(None) };
        let event = bus.event(letter.position).await.map_err(events::read_error)?;
        let record = views::dead_letter_record(bus, &letter).await.map_err(events::read_error)?;
        let id = self.name_dead_letter(bus, number);
        let record = record.as_ref();
        let mut view = views::dead_letter(bus, id, plugin, &letter, event.as_deref(), record);
        if let Some(event) = &event {
            let state = self.state_before(bus, &letter, event).await?;
            let shown = state.iter().take(STATE_SHOWN_MAX);
            view.state = shown.map(StateValueView::short).collect();
        }
        Ok(Some(DeadLetter { letter: view, event }))
    }

    /// Dead letters of the default bus are numbers; those of another bus have its name in front.
    pub(super) fn name_dead_letter(&self, bus: &Bus, number: u64) -> String {
        let default = self.buses.first().is_some_and(|(first, _)| first.name() == bus.name());
        if default { number.to_string() } else { format!("{}:{number}", bus.name()) }
    }

    pub(super) fn dead_letter_id(&self, id: &str) -> Option<(&std::sync::Arc<Bus>, u64)> {
        let (bus, number) = match id.rsplit_once(':') {
            Some((bus, number)) => (Some(bus), number),
            None => (None, id),
        };
        Some((&self.bus(bus).ok()?.0, number.parse().ok()?))
    }

    pub(super) async fn list_dead_letters(
        &self,
        filter: &DeadLetterFilter,
    ) -> Result<Vec<DeadLetterView>, HostError> {
        let mut views = Vec::new();
        let after = match &filter.after {
            Some(id) => Some(self.dead_letter_id(id).ok_or_else(|| {
                let why = "is not a cursor that this host gave".to_owned();
                HostError::Invalid { field: "cursor".to_owned(), why }
            })?),
            None => None,
        };
        let first = after.map_or(0, |(bus, _)| {
            self.buses.iter().position(|(other, _)| other.name() == bus.name()).unwrap_or_default()
        });
        for (index, (bus, _)) in self.buses.iter().enumerate().skip(first) {
            let after = after.filter(|_| index == first).map_or(0, |(_, number)| number);
            let letters = views::matching(bus, filter, after, filter.limit - views.len());
            for (letter, plugin) in letters {
                let event = bus.event(letter.position).await.map_err(events::read_error)?;
                let id = self.name_dead_letter(bus, letter.id);
                views.push(views::dead_letter(bus, id, plugin, &letter, event.as_deref(), None));
            }
            if views.len() >= filter.limit {
                break;
            }
        }
        Ok(views)
    }

    /// Does something to dead letters, plugin by plugin.
    pub(super) async fn act(
        &self,
        which: &DeadLetterSelection,
        act: &Act,
        actor: &str,
    ) -> Result<ActedView, HostError> {
        let one = match which.id.as_deref() {
            Some(id) => {
                let unknown = || HostError::NotFound(format!("dead letter `{id}`"));
                let (bus, number) = self.dead_letter_id(id).ok_or_else(unknown)?;
                if bus.ledger().dead_letter(number).is_none() {
                    return Err(unknown());
                }
                Some((bus.name(), number))
            }
            None => None,
        };
        if let Some(name) = &which.plugin {
            self.registered(name, |_, _| ())?;
        }
        let filter = DeadLetterFilter {
            plugin: which.plugin.clone(),
            key: which.key.clone(),
            outcome: which.outcome,
            after: None,
            limit: usize::MAX,
        };
        let (mut view, mut refused) = (ActedView::default(), None);
        for (bus, _) in &self.buses {
            let mut plugins: BTreeMap<String, Vec<u64>> = BTreeMap::new();
            for (number, plugin) in views::matching_numbers(bus, &filter) {
                if one.is_none_or(|(name, one)| name == bus.name() && one == number) {
                    plugins.entry(plugin).or_default().push(number);
                }
            }
            for (plugin, numbers) in plugins {
                let acted = match self.plugins.act(bus, &plugin, numbers.clone(), act, actor).await
                {
                    // Others may well run.
                    Err(HostError::Conflict(why)) => {
                        let left = numbers.into_iter().map(|number| (number, why.clone()));
                        self.leave(&mut view, bus, left);
                        refused = Some(why);
                        continue;
                    }
                    acted => acted?,
                };
                view.count += acted.count;
                let left = acted.left.into_iter().map(|(number, why)| (number, why.to_owned()));
                self.leave(&mut view, bus, left);
            }
        }
        match (refused, one, view.examples.first()) {
            (Some(why), ..) if view.count == 0 => Err(HostError::Conflict(why)),
            (_, Some(_), Some(left)) => {
                let why = format!("dead letter `{}` is left as it is: {}", left.id, left.reason);
                Err(HostError::Conflict(why))
            }
            _ => Ok(view),
        }
    }

    /// Notes dead letters to which nothing was done, and why.
    fn leave(
        &self,
        view: &mut ActedView,
        bus: &Bus,
        letters: impl ExactSizeIterator<Item = (u64, String)>,
    ) {
        view.left += letters.len() as u64;
        let room = EXAMPLES_MAX.saturating_sub(view.examples.len());
        let shown = letters.take(room);
        view.examples.extend(
            shown.map(|(number, reason)| LeftView {
                id: self.name_dead_letter(bus, number),
                reason,
            }),
        );
    }

    pub(super) async fn show_key(&self, plugin: &str, key: &Key) -> Result<KeyView, HostError> {
        let (bus, owner) = self.owner(plugin, key)?;
        let mut view =
            KeyView { plugin: plugin.to_owned(), key: key.to_string(), ..KeyView::default() };
        let runner = self.plugins.runner_of(plugin, &bus, owner.instance);
        if let Some(look) = runner.as_ref().and_then(|runner| runner.look(key)) {
            view.running = look.running;
            view.position = look.waiting.map(|(position, _)| position.0);
            view.attempt = look.waiting.map(|(_, attempt)| attempt);
            if let Some(Until::Due(ms)) = look.until {
                view.next_attempt = Some(Timestamp(ms));
            }
            if look.waiting.is_some() {
                view.state = KeyState::Waiting;
            }
            if let Some(throttle) = &look.throttle {
                view.state = KeyState::Waiting;
                view.reason = Some(throttle.to_string());
            }
            if let Some(runner) = &runner {
                let deferred = runner.deferred(key, &look).await.map_err(events::read_error)?;
                (view.deferred, view.deferred_more) = (deferred.count, deferred.more);
            }
        }
        self.add_recorded(&bus, owner.instance, key, &mut view);
        Ok(view)
    }

    /// What the log says of a key.
    fn add_recorded(
        &self,
        bus: &Bus,
        instance: crate::event::InstanceId,
        key: &Key,
        view: &mut KeyView,
    ) {
        let ledger = bus.ledger();
        let state = ledger.instance(instance).and_then(|plugin| plugin.keys.get(key));
        let Some(state) = state else { return };
        if let Some(parked) = state.parked {
            view.state = KeyState::Parked;
            view.since = Some(Timestamp(parked.since_ms));
            view.position = Some(parked.position.0);
            if let Some(letter) = ledger.dead_letter_of(instance, parked.position) {
                view.dead_letter = Some(self.name_dead_letter(bus, letter.id));
                view.reason = Some(format!("{} {}", letter.outcome.name(), letter.reason));
            }
        }
        if let Some(held) = &state.held {
            view.state = KeyState::Held;
            view.since = Some(Timestamp(held.since_ms));
            view.actor = Some(held.actor.to_string());
            view.reason = Some(held.reason.clone());
        }
    }
}
