//! Rewinds: which generation of a plugin's state people see, and which one is being built.
//!
//! A rewind begins a generation. Until the events up to its fixed end are delivered once more, the
//! generation before *serves*: queries and people read it. Then one record lets the new one serve.
//! The state of a generation up to where it begins is that of the one it came from, carried over.

use roaring::RoaringTreemap;
use serde::{Deserialize, Serialize};

use super::instance::{Activation, Instance};
use super::ledger::At;
use crate::event::{Generation, Position};
use crate::log::record::Control;

/// Rewinds remembered of one plugin, newest: what is asked about its past goes by them.
const REWINDS_KEPT: usize = 256;

/// One rewind of a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewound {
    /// The generation it began.
    pub generation: Generation,
    /// The one that served then, and until the end of it.
    pub from: Generation,
    /// Events after this one are delivered again.
    pub after: Position,
    /// The last of those that come before it serves.
    pub until: Position,
    /// Everything at or below this was delivered to the one that serves: it has come no further until then.
    #[serde(default)]
    pub shown: Position,
    /// Whether the state up to `after` was carried over.
    pub carried: bool,
    /// Log time since which it serves; none: it does not, or something else came in between.
    #[serde(default)]
    pub serves_ms: Option<u64>,
}

impl Instance {
    /// The generation whose state people see.
    #[must_use]
    pub fn serving(&self) -> Generation {
        self.rebuilding().map_or(self.generation, |rewound| rewound.from)
    }

    /// The module and manifest that made the state which people see: the last of the generation that serves.
    #[must_use]
    pub fn served(&self) -> Option<&Activation> {
        let serving = self.serving();
        self.activations.iter().rfind(|activation| activation.generation == serving)
    }

    /// The rewind that is under way.
    #[must_use]
    pub fn rebuilding(&self) -> Option<&Rewound> {
        self.rewound().filter(|rewound| rewound.serves_ms.is_none())
    }

    /// The rewind that began the present generation.
    #[must_use]
    pub fn rewound(&self) -> Option<&Rewound> {
        self.rewinds.last().filter(|rewound| rewound.generation == self.generation)
    }

    /// Whether what came of the event at a position is in the state that people see: it was delivered
    /// to the generation that serves.
    #[must_use]
    pub fn shows(&self, position: Position) -> bool {
        match self.rebuilding() {
            Some(rewound) => position <= rewound.shown,
            None => self.is_completed(position),
        }
    }

    /// Whether the delivery of an event repeats one that had ended in an earlier generation: nothing
    /// that it emits or calls may happen twice. Of one that was given up nothing happened.
    #[must_use]
    pub fn repeats(&self, position: Position) -> bool {
        repeats(position, self.repeats_low, &self.repeats, &self.given_up)
    }

    /// The generation whose completions tell how things stood after the events up to `position`,
    /// seen from the one that serves.
    #[must_use]
    pub fn generation_after(&self, position: Position) -> Generation {
        let mut generation = self.serving();
        for rewound in self.rewinds.iter().rev() {
            if rewound.generation == generation && position < rewound.after {
                generation = rewound.from;
            }
        }
        generation
    }

    /// The generation that served at a log time.
    #[must_use]
    pub fn generation_at(&self, time_ms: u64) -> Generation {
        let served =
            self.rewinds.iter().rev().find(|r| r.serves_ms.is_some_and(|ms| ms <= time_ms));
        let before = || {
            let mut switched = self.rewinds.iter().filter(|r| r.serves_ms.is_some());
            switched.next().map_or_else(|| self.serving(), |first| first.from)
        };
        served.map_or_else(before, |rewound| rewound.generation)
    }

    /// Up to where everything was delivered that is not known one by one, for a rewind that begins now.
    /// `low`: how far the scheduler is. A dead letter that runs again takes that back, and the ledger has
    /// forgotten by then which of the events behind it are completed.
    #[must_use]
    pub fn done(&self, low: Position) -> Position {
        self.low.max(low)
    }

    /// Begins a generation. Says whether that made sense.
    pub(super) fn begin(
        &mut self,
        generation: Generation,
        (after, until): (Position, Position),
        done: Position,
    ) -> bool {
        if generation <= self.generation || until < after {
            return false;
        }
        let from = self.serving();
        let shown = self.rebuilding().map_or(done, |rewound| rewound.shown);
        self.generation = generation;
        let carried = after == Position(0);
        let rewound = Rewound { generation, from, after, until, shown, carried, serves_ms: None };
        self.rewinds.push(rewound);
        let excess = self.rewinds.len().saturating_sub(REWINDS_KEPT);
        self.rewinds.drain(..excess);
        let mut given_up: Vec<u64> = self.letters.keys().map(|position| position.0).collect();
        // What fails only when it runs again had its effects before.
        given_up.retain(|position| !self.repeats(Position(*position)));
        // A parked key holds `done` back, so the rest is known one by one.
        self.repeats_low = self.repeats_low.max(done).max(after);
        self.repeats |= &self.completed;
        self.repeats.remove_range(..=self.repeats_low.0);
        self.given_up.extend(given_up);
        self.rewind(after);
        true
    }

    /// Takes what became of the present rewind. Says whether that made sense.
    pub(super) fn apply_to_rewind(&mut self, at: At, control: &Control) -> bool {
        match control {
            Control::Carried { generation, .. } => {
                self.present(*generation).is_some_and(|rewound| {
                    rewound.carried = true;
                    true
                })
            }
            Control::Rebuilt { generation, .. } => {
                self.present(*generation).is_some_and(|rewound| {
                    rewound.serves_ms = Some(at.time_ms);
                    true
                })
            }
            _ => false,
        }
    }

    fn present(&mut self, generation: Generation) -> Option<&mut Rewound> {
        let rewound = self.rewinds.last_mut()?;
        let present = rewound.generation == generation && self.generation == generation;
        (present && rewound.serves_ms.is_none()).then_some(rewound)
    }

    /// Why the events after a position cannot be delivered anew: something at or before it is still
    /// to be delivered, and never would be. `seen`: how far the plugin has come.
    #[must_use]
    pub fn cannot_rewind(&self, after: Position, seen: Position) -> Option<String> {
        // What waits is known of the generation that is being rebuilt, and not of the one that serves.
        if let Some(begun) = self.rebuilding().filter(|begun| begun.after < after) {
            return Some(format!(
                "the rewind to just after {} is not over: wait for it, or go back to there or before",
                begun.after
            ));
        }
        let waits = self.keys.iter().find(|(_, key)| key.from <= after);
        if let Some((key, state)) = waits {
            return Some(format!(
                "key `{key}` waits at {}: redrive, discard or release what is there first, or go \
                 back to that position or before it",
                state.from
            ));
        }
        let open = self.attempts.keys().chain(&self.redriving).find(|open| **open <= after);
        if let Some(open) = open {
            return Some(format!(
                "the event at {open} is still to be delivered again: go back to it or before it"
            ));
        }
        (seen < after).then(|| format!("it has come to {seen} only"))
    }
}

/// Whether an event's delivery had ended in an earlier generation: it is at or below `low` or among
/// `ended`, and was not given up.
#[must_use]
pub fn repeats(
    position: Position,
    low: Position,
    ended: &RoaringTreemap,
    given_up: &RoaringTreemap,
) -> bool {
    (position <= low || ended.contains(position.0)) && !given_up.contains(position.0)
}

#[cfg(test)]
mod tests;
