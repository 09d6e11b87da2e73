//! What the scheduler knows of one key, or of one unkeyed event.

use std::collections::VecDeque;

use super::fifo::Fifo;
use crate::event::{Key, Position};

/// What becomes of a lane next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// In the ready queue.
    Ready,
    /// In line for the limit of its prefix.
    Limited,
    /// A taker owns it, under this stamp.
    Running(u64),
    /// In the delay queue, until this log time.
    Delayed(u64),
    /// Nothing happens by itself: parked, held, or waiting for a drain.
    Resting,
}

/// What a waiting event waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Its next turn: nothing but a taker is missing.
    Now,
    /// This log time, in milliseconds.
    Due(u64),
    /// A redrive or a release: it is a dead letter that parks its key.
    Parked,
}

/// An event that failed. Its item is not kept: whoever takes it reads it from the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) position: Position,
    /// The attempt to come, from 1.
    pub(super) attempt: u32,
    /// Log time of the first attempt; none: it starts afresh.
    pub(super) first_ms: Option<u64>,
    pub(super) until: Until,
    /// See [`Assignment::again`](super::Assignment::again).
    pub(super) again: bool,
}

/// Dead letters of a lane that are to run again though its key went on.
#[derive(Debug, Default)]
pub(super) struct Reopened {
    /// In the order of positions.
    letters: VecDeque<Again>,
    /// The waiting event of a later position that one of them went before.
    pub(super) behind: Option<Waiting>,
}

impl Reopened {
    pub(super) fn insert(&mut self, letter: Again) {
        let at = self.letters.partition_point(|other| other.position < letter.position);
        self.letters.insert(at, letter);
    }

    /// The next one, if it may go before this event: not where a person keeps the key waiting.
    pub(super) fn pop_before(&mut self, waiting: Option<&Waiting>) -> Option<Again> {
        let first = self.letters.front()?;
        let passes = waiting.is_none_or(|waiting| {
            let stays = waiting.again || waiting.until == Until::Parked;
            !stays && first.position < waiting.position
        });
        if passes { self.letters.pop_front() } else { None }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.letters.is_empty() && self.behind.is_none()
    }

    pub(super) fn positions(&self) -> impl Iterator<Item = Position> {
        let behind = self.behind.iter().map(|waiting| waiting.position);
        self.letters.iter().map(|letter| letter.position).chain(behind)
    }
}

/// A dead letter that is to run again, once nothing of its key does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Again {
    pub(super) position: Position,
    /// The attempt to come, from 1.
    pub(super) attempt: u32,
}

/// Events of one key that are known to be incomplete but not held in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deferred {
    /// No deferred event lies before this position.
    pub first: Position,
    /// The last deferred event.
    pub last: Position,
    /// How many there are, about: events found to be complete already are still counted.
    pub count: u64,
}

/// How far the search for deferred events of a lane is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DrainState {
    Idle,
    /// In the drain queue, under this stamp.
    Wanted(u64),
    /// The driver searches; `limit` places of the in-flight bound are kept for what it finds.
    Asked {
        stamp: u64,
        limit: usize,
    },
}

#[derive(Debug)]
pub(super) struct Lane {
    /// None: one unkeyed event, which shares nothing with any other.
    pub(super) key: Option<Key>,
    pub(super) phase: Phase,
    /// Events in memory, all before those deferred; the first one may be running.
    pub(super) queue: Fifo,
    /// Stands before everything in `queue`; only one of the two is in use.
    pub(super) waiting: Option<Waiting>,
    pub(super) deferred: Option<Deferred>,
    pub(super) drain: DrainState,
    /// An operator holds it.
    pub(super) held: bool,
    /// It waited when the host stopped: everything up to `scanned` is to be searched.
    pub(super) restored: bool,
    /// Its queue was dropped because a delivery took long: keep little of it in memory.
    pub(super) slow: bool,
    /// Events up to here stood behind a dead letter.
    pub(super) redriven_to: Position,
    /// Whether it is part of the count of waiting lanes.
    pub(super) counted: bool,
    /// The prefix whose limits hold for it.
    pub(super) group: Option<usize>,
    /// Whether it waits for those limits, and for nothing else.
    pub(super) throttled: bool,
    /// Whether its incomplete events are marked as standing aside.
    pub(super) aside: bool,
    /// Whether dead letters of it are to run again.
    pub(super) again: bool,
    /// There may be more deferred events than are counted, since a restart.
    pub(super) uncounted: bool,
}

impl Lane {
    pub(super) const fn new(key: Option<Key>) -> Self {
        Self {
            key,
            phase: Phase::Resting,
            queue: Fifo::EMPTY,
            waiting: None,
            deferred: None,
            drain: DrainState::Idle,
            held: false,
            restored: false,
            slow: false,
            redriven_to: Position(0),
            counted: false,
            group: None,
            throttled: false,
            aside: false,
            again: false,
            uncounted: false,
        }
    }

    /// Whether it waits: it is one entry outside the in-flight bound.
    pub(super) const fn waits(&self) -> bool {
        self.held || self.waiting.is_some()
    }

    /// Whether it waits for a person.
    pub(super) const fn stands_aside(&self) -> bool {
        self.held || matches!(self.waiting, Some(Waiting { until: Until::Parked, .. }))
    }

    /// Whether new events of the key stay out of memory.
    pub(super) const fn defers(&self) -> bool {
        self.waits() || self.deferred.is_some()
    }

    /// A lane of a prefix with limits is not ready, but in line.
    pub(super) const fn limited(&self, phase: Phase) -> Phase {
        match (phase, self.group) {
            (Phase::Ready, Some(_)) => Phase::Limited,
            (phase, _) => phase,
        }
    }

    pub(super) const fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running(_))
    }

    /// Events in memory below which a drain asks for more.
    pub(super) const fn drain_below(&self, chunk: usize) -> usize {
        if self.slow { 1 } else { chunk / 4 + 1 }
    }

    /// What the lane should do, given that no taker owns it; none: it is used up.
    pub(super) const fn rests_as(&self) -> Option<Phase> {
        if self.held {
            return Some(Phase::Resting);
        }
        match &self.waiting {
            Some(waiting) => Some(match waiting.until {
                Until::Now => Phase::Ready,
                Until::Due(ms) => Phase::Delayed(ms),
                Until::Parked => Phase::Resting,
            }),
            None if !self.queue.is_empty() => Some(Phase::Ready),
            None if self.deferred.is_some() => Some(Phase::Resting),
            None => None,
        }
    }
}
