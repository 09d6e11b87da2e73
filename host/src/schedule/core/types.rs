//! What goes into the scheduler and comes out of it.

use crate::event::{Key, Position};

/// How much one plugin may have in memory and waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Events in memory, queued or running; at least 1 is taken for 0.
    pub in_flight_count_max: usize,
    /// Their weight in bytes, exceeded by at most one event.
    pub in_flight_bytes_max: usize,
    /// Lanes waiting, past which the plugin is to be paused.
    pub waiting_max: usize,
}

/// One event for the plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<T> {
    /// Its position in the log.
    pub position: Position,
    /// None: it is ordered with nothing.
    pub key: Option<Key>,
    /// Bytes it holds on to.
    pub weight: usize,
    /// Handed through, never looked into.
    pub item: T,
}

/// What became of an offered event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// It may run at once.
    Ready,
    /// It stands behind others of its key, in memory.
    Queued,
    /// Its key waits or drains: the driver will be asked to find it again.
    Deferred,
    /// It is not new: offered before, or restored as waiting.
    Known,
}

/// Proof that a taker owns a lane; worthless once it was finished, or everything was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    pub(super) lane: usize,
    pub(super) stamp: u64,
}

/// One event to deliver. The taker owns its key until it finishes the ticket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment<T> {
    /// To be given back.
    pub ticket: Ticket,
    /// The event.
    pub position: Position,
    /// Its key.
    pub key: Option<Key>,
    /// Number of this attempt, from 1.
    pub attempt: u32,
    /// Log time of the first attempt; none: this is it.
    pub first_ms: Option<u64>,
    /// Whether it was a dead letter, or stood behind one.
    pub redriven: bool,
    /// Whether it is a dead letter whose key went on long ago: it cannot park it any more.
    pub again: bool,
    /// None: the event waited and is to be read from the log.
    pub item: Option<T>,
}

/// How a delivery ended, as far as its key is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// For good: its completion is in the effects lane.
    Done,
    /// It failed and is tried again; the key waits.
    RetryAt {
        /// Log time before which it does not run, in milliseconds.
        at_ms: u64,
        /// Log time of the first attempt, handed back with the next.
        first_ms: u64,
    },
    /// It is a dead letter that the key waits behind. The same as `Done` for unkeyed events.
    Park,
    /// It did not run: the same attempt is ready again at once.
    Return,
}

/// What became of a finished ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    /// The key is free.
    Released,
    /// The key waits.
    Waits,
    /// The key waits now, and more keys do than `waiting_max`: pause the plugin. One that waited before
    /// makes it no worse: a plugin that is let go on works off what waits.
    WaitsOver,
    /// The ticket was worth nothing, and nothing changed.
    Stale,
}

/// How deliveries are begun, beside [`pause`](super::KeyScheduler::pause).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pace {
    /// As there are takers.
    #[default]
    Free,
    /// One at a time, and of keys picked at random: to find out how a plugin is.
    Probe,
    /// None.
    Still,
}

/// How far a plugin is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cursor {
    /// Everything up to here was offered, or is not for the plugin.
    pub scanned: Position,
    /// Everything at or below is complete; at most `scanned`.
    pub low: Position,
    /// Everything at or below is complete, or of a key that is parked or held; at least `low`.
    pub seen: Position,
    /// Events in memory, queued or running.
    pub in_flight: usize,
    /// Their weight in bytes.
    pub in_flight_bytes: usize,
    /// Lanes a taker owns.
    pub running: usize,
    /// Lanes ready to be taken, or so but for a limit.
    pub ready: usize,
    /// Keys that wait, and unkeyed events that do.
    pub waiting: usize,
    /// Those of them that wait for the limit of their prefix, and for nothing else.
    pub throttled: usize,
    /// Those of them that wait for the time of their next attempt.
    pub retrying: usize,
    /// Keys with deferred events.
    pub deferred: usize,
    /// Deferred events, about.
    pub deferred_events: u64,
    /// Whether some of them are being searched for, or about to be.
    pub draining: bool,
}

impl Cursor {
    /// The same, with no mark above a position.
    #[must_use]
    pub fn within(self, last: Position) -> Self {
        let (scanned, low, seen) =
            (self.scanned.min(last), self.low.min(last), self.seen.min(last));
        Self { scanned, low, seen, ..self }
    }
}
