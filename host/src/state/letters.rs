//! Deliveries that were given up, until they are redriven with success or discarded.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::instance::Instance;
use super::ledger::{At, Completed};
use crate::effects::OutcomeKind;
use crate::event::{Digest, InstanceId, Key, Position};
use crate::log::record::DeadLetterRecord;

/// One attempt that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    /// Its number, from 1.
    pub attempt: u32,
    /// Log time of its end.
    pub at_ms: u64,
    /// How it ended.
    pub outcome: OutcomeKind,
}

impl Tried {
    /// Attempts of one delivery that are kept: the newest.
    pub const KEPT: usize = 10;

    pub(super) fn note(self, tried: &mut Vec<Self>) {
        if tried.len() >= Self::KEPT {
            tried.remove(0);
        }
        tried.push(self);
    }
}

/// A delivery that was given up, with what is needed to list it; the rest stands in its commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Number of the dead letter in its bus, from 1. It keeps it when a redrive fails.
    pub id: u64,
    /// The plugin.
    pub instance: InstanceId,
    /// The input event.
    pub position: Position,
    /// Its key.
    pub key: Option<Key>,
    /// How the last attempt ended.
    pub outcome: OutcomeKind,
    /// Attempts made.
    pub attempts: u32,
    /// The first line of why.
    pub reason: String,
    /// Log time of the first attempt.
    pub first_ms: u64,
    /// The module that failed.
    pub module: Digest,
    /// Where the completion stands.
    pub at: At,
    /// The last attempts; see [`Tried::KEPT`].
    #[serde(default)]
    pub tried: Vec<Tried>,
}

/// The dead letters of one bus. Each also stands in [`Instance::letters`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct DeadLetters {
    letters: BTreeMap<u64, DeadLetter>,
    last: u64,
}

impl DeadLetters {
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &DeadLetter> {
        self.letters.values()
    }

    pub(super) fn get(&self, id: u64) -> Option<&DeadLetter> {
        self.letters.get(&id)
    }

    pub(super) fn of(&self, instance: &Instance, position: Position) -> Option<&DeadLetter> {
        instance.letters.get(&position).and_then(|id| self.letters.get(id))
    }

    /// Takes a delivery that was given up, for the first time or once more. `tried`: the attempts
    /// before the last one.
    pub(super) fn put(
        &mut self,
        instance: &mut Instance,
        at: At,
        done: &Completed<'_>,
        dead: &DeadLetterRecord,
        mut tried: Vec<Tried>,
    ) {
        let known = instance.letters.get(&done.position).and_then(|id| self.letters.remove(id));
        let (id, first_ms) = match known {
            Some(old) => {
                let mut all = old.tried;
                tried.drain(..).for_each(|attempt| attempt.note(&mut all));
                tried = all;
                (old.id, old.first_ms)
            }
            None => {
                self.last += 1;
                (self.last, dead.first_ms)
            }
        };
        let Completed { attempt, outcome, .. } = *done;
        Tried { attempt, at_ms: at.time_ms, outcome }.note(&mut tried);
        instance.letters.insert(done.position, id);
        let letter = DeadLetter {
            id,
            instance: done.instance,
            position: done.position,
            key: done.key.and_then(|key| Key::new(key).ok()),
            outcome,
            attempts: attempt,
            reason: dead.reason.lines().next().unwrap_or_default().chars().take(200).collect(),
            first_ms,
            module: dead.module,
            at,
            tried,
        };
        self.letters.insert(id, letter);
    }

    pub(super) fn remove(&mut self, instance: &mut Instance, position: Position) {
        if let Some(id) = instance.letters.remove(&position) {
            self.letters.remove(&id);
        }
    }

    /// Those of events that are to be delivered anew.
    pub(super) fn remove_after(&mut self, instance: &mut Instance, position: Position) {
        let after = instance.letters.split_off(&Position(position.0.saturating_add(1)));
        for id in after.values() {
            self.letters.remove(id);
        }
    }

    pub(super) fn forget(&mut self, instance: InstanceId) {
        self.letters.retain(|_, letter| letter.instance != instance);
    }
}
