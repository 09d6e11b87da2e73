//! What operators do to keys and dead letters, as far as the scheduler has to know. The host has
//! recorded it before, and does one thing at a time for each plugin.

use std::sync::Arc;
use std::time::Duration;

use super::Runner;
use crate::event::{Event, Key, Position};
use crate::log::ReadError;
use crate::schedule::core::{KeyScheduler, KeyView, Throttle, Until};

/// Deferred events that are looked for to count them, where nobody has.
const COUNTED_MAX: usize = 1000;
/// Looks at a key whose last delivery is about to be over.
const LOOKS_MAX: u32 = 200;
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A dead letter, as far as the scheduler has to know it.
#[derive(Debug, Clone)]
pub struct Letter {
    /// Its input.
    pub position: Position,
    /// Its key.
    pub key: Option<Key>,
    /// Attempts made.
    pub attempts: u32,
    /// Whether its key waits behind it.
    pub parks: bool,
}

/// How many events of a key wait, of those that are not in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Deferred {
    /// At least so many.
    pub count: u64,
    /// There may be more.
    pub more: bool,
}

impl Runner {
    /// What is known of a key; none: nothing of it is incomplete.
    #[must_use]
    pub fn look(&self, key: &Key) -> Option<KeyView> {
        self.queue.with(|core| core.look(key))
    }

    /// The limits that hold something back, and how many keys and unkeyed events each does.
    #[must_use]
    pub fn throttles(&self) -> Vec<(Throttle, usize)> {
        self.queue.with(|core| core.gate().into_iter().chain(core.throttled()).collect())
    }

    /// Starts no more deliveries of a key; one that runs goes on.
    pub fn hold(&self, key: &Key) {
        self.queue.with(|core| core.hold(key));
    }

    /// Lets a key go on that is held, or parked.
    pub fn release(&self, key: &Key) {
        self.queue.with(|core| core.release(key));
    }

    /// Whether no delivery of a key is under way, now or in a moment. As long as the key waits for a person
    /// none is begun.
    pub async fn is_still(&self, key: &Key) -> bool {
        let is_running = || self.look(key).is_some_and(|view| view.running);
        for _ in 1..LOOKS_MAX {
            if !is_running() {
                return true;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        !is_running()
    }

    /// Which of these dead letters, which the log knows, the scheduler has as well. The commit of one may
    /// be durable a moment before its delivery is over: that is waited for, for all of them together.
    pub async fn at_rest(&self, letters: &[Letter]) -> Vec<bool> {
        let look = || -> Vec<bool> {
            self.queue.with(|core| letters.iter().map(|letter| is_at_rest(core, letter)).collect())
        };
        let mut found = look();
        for _ in 1..LOOKS_MAX {
            if !found.contains(&false) {
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
            found = look();
        }
        found
    }

    /// Runs dead letters again.
    pub fn redrive(&self, letters: &[Letter]) {
        self.queue.with(|core| {
            for letter in letters {
                match &letter.key {
                    Some(key) if letter.parks => drop(core.redrive(key)),
                    key => {
                        let attempt = letter.attempts.saturating_add(1);
                        core.reopen(letter.position, key.as_ref(), attempt);
                    }
                }
            }
        });
    }

    /// Lets the keys go on that dead letters park; nobody runs these any more.
    pub fn give_up(&self, letters: &[Letter]) {
        self.queue.with(|core| {
            for key in letters.iter().filter(|letter| letter.parks).filter_map(|l| l.key.as_ref()) {
                core.give_up(key);
            }
        });
    }

    /// How many events of a key are deferred. Counts them in the log where the scheduler does not
    /// know, up to a bound.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn deferred(&self, key: &Key, view: &KeyView) -> Result<Deferred, ReadError> {
        let known = view.deferred.map_or(0, |deferred| deferred.count);
        if !view.unknown {
            return Ok(Deferred { count: known, more: false });
        }
        let first = view.waiting.map(|(position, _)| Position(position.0.saturating_add(1)));
        let Some(from) = first.or(view.deferred.map(|deferred| deferred.first)) else {
            return Ok(Deferred::default());
        };
        let positions = self.bus.key_positions(key, from, COUNTED_MAX).await?;
        let more = positions.len() == COUNTED_MAX;
        let open = positions.into_iter().filter(|position| !self.before.is_completed(*position));
        let events = self.bus.events(open.collect()).await?;
        let subscriptions = self.subscriptions.load_full();
        let wanted = events.iter().filter(|event| self.wants(&subscriptions, event));
        let count = wanted.count() as u64;
        Ok(Deferred { count: known.max(count), more })
    }
}

/// Whether no delivery of the dead letter is on its way.
fn is_at_rest(core: &KeyScheduler<Arc<Event>>, letter: &Letter) -> bool {
    match &letter.key {
        Some(key) if letter.parks => core.look(key).is_some_and(|view| {
            let at = view.waiting.map(|(position, _)| position);
            at == Some(letter.position) && view.until == Some(Until::Parked) && !view.running
        }),
        _ => !core.is_open(letter.position),
    }
}
