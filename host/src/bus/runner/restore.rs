//! What a runner takes over from the log when it starts: which events are done with, and what waits.
//!
//! What must not break: all of it is in the scheduler before anything is offered or handed out, so
//! that an event behind one that waits never overtakes it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use roaring::RoaringTreemap;

use crate::bus::Bus;
use crate::event::{Event, InstanceId, Key, Position};
use crate::schedule::core::{KeyScheduler, Restored, Until};
use crate::state::{Instance, KeyState, Ledger};

/// What earlier runs of the host have done with events that this one reads again.
#[derive(Default)]
pub(super) struct Before {
    low: Position,
    completed: RoaringTreemap,
    /// Keys that were catching up with what stood behind a dead letter, up to `last`.
    redriven: HashSet<Key>,
    last: Position,
    /// Attempts that were running when the host died, of events that do not wait. They are not
    /// restored as waiting: the one before of the same key may have been lost, and comes first.
    died: HashMap<Position, u32>,
}

impl Before {
    /// Attempts made at an event of which nothing but their beginning is known.
    pub(super) fn died_at(&self, position: Position) -> u32 {
        self.died.get(&position).copied().unwrap_or(0)
    }

    pub(super) fn is_redriven(&self, event: &Event) -> bool {
        event.position <= self.last
            && event.key.as_ref().is_some_and(|key| self.redriven.contains(key))
    }

    pub(super) fn is_completed(&self, position: Position) -> bool {
        position <= self.low || self.completed.contains(position.0)
    }
}

/// What the log says of the deliveries of one plugin.
#[derive(Default)]
pub(super) struct Past {
    /// Where to read on.
    pub(super) seen: Position,
    before: Before,
    waiting: Vec<Restored>,
    keys: Vec<(Key, KeyState)>,
    /// Dead letters that were running again though their key had gone on, with the attempt to come.
    again: Vec<(Position, Option<Key>, u32)>,
}

/// Looks up where a plugin is.
pub(super) fn look_back(bus: &Bus, instance: InstanceId) -> Past {
    let ledger = bus.ledger();
    let Some(plugin) = ledger.instance(instance) else { return Past::default() };
    let mut died = HashMap::new();
    // Of one position there are several where a start failed after it had begun to deliver.
    for suspect in bus.suspects().iter().filter(|suspect| suspect.instance == instance) {
        let last = died.entry(suspect.position).or_default();
        *last = suspect.attempt.max(*last);
    }
    let mut past = Past {
        seen: plugin.seen.max(plugin.low),
        before: Before {
            low: plugin.low,
            completed: plugin.completed.clone(),
            redriven: HashSet::new(),
            last: bus.last_position(),
            died,
        },
        keys: plugin.keys.iter().map(|(key, state)| (key.clone(), state.clone())).collect(),
        ..Past::default()
    };
    past.look_at_attempts(plugin);
    past.look_at_dead_letters(&ledger, plugin);
    past
}

impl Past {
    /// The attempt to come, of an event that waits after as many.
    fn next_attempt(&mut self, position: Position, made: u32) -> u32 {
        let died = self.before.died.remove(&position).unwrap_or(0);
        made.max(died).saturating_add(1)
    }

    fn look_at_attempts(&mut self, plugin: &Instance) {
        for (position, state) in &plugin.attempts {
            let attempt = self.next_attempt(*position, state.attempts);
            if self.before.is_completed(*position) {
                if plugin.redriving.contains(position) {
                    self.again.push((*position, state.key.clone(), attempt));
                }
                continue;
            }
            self.waiting.push(Restored {
                position: *position,
                key: state.key.clone(),
                attempt,
                first_ms: Some(state.first_ms),
                until: Until::Due(state.due_ms),
            });
        }
    }

    fn look_at_dead_letters(&mut self, ledger: &Ledger, plugin: &Instance) {
        let parked = plugin.keys.values().filter_map(|key| key.parked);
        let parked = parked.map(|parked| (parked.position, Until::Parked));
        let redriving = plugin.redriving.iter().map(|position| (*position, Until::Now));
        for (position, until) in parked.chain(redriving) {
            let Some(letter) = ledger.dead_letter_of(plugin.id, position) else { continue };
            let attempt = self.next_attempt(position, letter.attempts);
            if until == Until::Now && self.before.is_completed(position) {
                if !plugin.attempts.contains_key(&position) {
                    self.again.push((position, letter.key.clone(), attempt));
                }
                continue;
            }
            let key = letter.key.clone();
            self.waiting.push(Restored { position, key, attempt, first_ms: None, until });
        }
    }

    /// Puts everything that waits into a new scheduler.
    pub(super) fn restore(mut self, core: &mut KeyScheduler<Arc<Event>>) -> Before {
        core.start_after(self.seen);
        for restored in self.waiting {
            // A dead letter that failed once more while it was redriven is known by now.
            core.restore_waiting(restored);
        }
        for (key, state) in &self.keys {
            if state.held.is_some() {
                core.hold(key);
            }
            let redriven = state.redriven && state.parked.is_none();
            let counted = state.backlog.filter(|_| state.waits());
            let counted = counted.map(|backlog| (backlog.last, backlog.count));
            core.restore_backlog(key, state.from, redriven, counted);
            if redriven {
                self.before.redriven.insert(key.clone());
            }
        }
        for (position, key, attempt) in &self.again {
            core.reopen(*position, key.as_ref(), *attempt);
        }
        self.before
    }
}
