//! One client of a bench, in process: publishes as its window allows.
//!
//! Rule: where the log has too much to do, what was refused is tried again before anything else is sent.
//! What the window lets in meanwhile waits behind it, unmade, and its waiting counts.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::event::Position;
use crate::log::{AppendError, Appended};

use super::BenchError;
use super::latency::Latencies;
use super::pipelined::Pipelined;
use super::publish::Pace;
use super::touched::touched;

/// When to try again where too many bytes wait: large events, many in flight. It is part of what they
/// take.
const FULL_WAIT: Duration = Duration::from_millis(1);

/// How many events may be on their way, and who makes room for the next one.
#[derive(Debug, Clone)]
pub(super) enum Window {
    /// So many; an event makes room once it is durable.
    Durable(usize),
    /// As many as somebody else lets in.
    Elsewhere(Arc<Semaphore>),
}

/// Which events are left. All lanes of a run take from it.
pub(super) struct Turns {
    next: AtomicU64,
    numbers: Range<u64>,
    pace: Option<Pace>,
}

/// One event to publish.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    /// The event's number.
    pub(super) number: u64,
    /// When its publishing began, or was due.
    begun: Instant,
    /// When it was published first.
    called: Instant,
}

/// A turn and how it went.
pub(super) type Answer = (Turn, Result<Vec<Appended>, AppendError>);

/// What was published.
#[derive(Default)]
pub(super) struct Sent {
    /// From the call to its answer.
    pub(super) latencies: Latencies,
    /// Where each event stands, and when its publishing began, or was due. Not kept where events make
    /// room once they are durable.
    pub(super) begun: Vec<(Position, Instant)>,
}

/// A client.
pub(super) struct Lane {
    window: Window,
    sent: Sent,
    /// What the log had no room for, and what came after it: by their numbers.
    refused: VecDeque<Turn>,
    again_at: Instant,
}

impl Sent {
    /// What several lanes sent.
    pub(super) fn all(lanes: Vec<Self>) -> Self {
        let mut all = Self::default();
        for sent in lanes {
            all.latencies.merge(&sent.latencies);
            all.begun.extend(sent.begun);
        }
        all
    }
}

impl Window {
    /// The windows of so many lanes, which together are this one.
    pub(super) fn shares(&self, lanes: usize) -> Vec<Self> {
        let share = |lane| match self {
            Self::Durable(all) => Self::Durable(all / lanes + usize::from(lane < all % lanes)),
            Self::Elsewhere(window) => Self::Elsewhere(Arc::clone(window)),
        };
        (0..lanes).map(share).collect()
    }

    /// Takes room beside so many that are on their way, if there is some.
    fn try_enter(&self, on_their_way: usize) -> bool {
        match self {
            Self::Durable(all) => on_their_way < *all,
            Self::Elsewhere(window) => window.try_acquire().map(|room| room.forget()).is_ok(),
        }
    }

    /// Takes room once somebody else made it; never where nobody else does.
    async fn enter(&self) {
        if let Self::Elsewhere(window) = self
            && let Ok(room) = window.acquire().await
        {
            return room.forget();
        }
        std::future::pending().await
    }

    /// Gives back the room of an event that is not there, so that whoever else waits for it sees that
    /// there is nothing left.
    fn leave(&self) {
        if let Self::Elsewhere(window) = self {
            window.add_permits(1);
        }
    }
}

impl Turns {
    pub(super) const fn new(numbers: Range<u64>, pace: Option<Pace>) -> Self {
        Self { next: AtomicU64::new(numbers.start), numbers, pace }
    }

    fn next(&self) -> Option<Turn> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if number >= self.numbers.end {
            return None;
        }
        let called = Instant::now();
        let begun = self.pace.map_or(called, |pace| pace.due(number - self.numbers.start));
        Some(Turn { number, begun, called })
    }
}

impl Lane {
    /// One of `lanes` that publish so many events together.
    pub(super) fn new(window: Window, lanes: usize, events: u64) -> Self {
        let now = Instant::now();
        let begun = match window {
            Window::Durable(_) => Vec::new(),
            Window::Elsewhere(_) => {
                let all = usize::try_from(events).unwrap_or(0);
                // None takes exactly its share.
                let share = all / lanes.max(1);
                touched((share + share / 4).min(all), (Position(u64::MAX), now))
            }
        };
        let sent = Sent { latencies: Latencies::default(), begun };
        Self { window, sent, refused: VecDeque::new(), again_at: now }
    }

    /// Publishes with `publish` until there are no more turns and all answers are there.
    ///
    /// # Errors
    /// The first answer that is an error, but for [`AppendError::QueueFull`], after which it tries again.
    pub(super) async fn run<F: Future<Output = Answer>>(
        mut self,
        turns: &Turns,
        publish: impl Fn(Turn) -> F,
    ) -> Result<Sent, BenchError> {
        let mut on_their_way = Pipelined::default();
        let mut answers = Vec::new();
        let mut through = matches!(self.window, Window::Durable(0));
        loop {
            while let Some(turn) = self.again() {
                self.settle(on_their_way.begin(publish(turn)))?;
            }
            while !through && self.window.try_enter(on_their_way.len() + self.refused.len()) {
                through = !self.step(turns, &mut on_their_way, &publish)?;
            }
            let is_full = !self.refused.is_empty();
            if through && !is_full && on_their_way.is_empty() {
                self.window.leave();
                return Ok(self.sent);
            }
            tokio::select! {
                biased;
                () = on_their_way.take(&mut answers) => self.settle(answers.drain(..))?,
                () = tokio::time::sleep_until(self.again_at.into()), if is_full => {}
                () = self.window.enter(), if !through => {
                    through = !self.step(turns, &mut on_their_way, &publish)?;
                }
            }
        }
    }

    /// Takes the next turn, for which there is room; says whether there was one.
    fn step<F: Future<Output = Answer>>(
        &mut self,
        turns: &Turns,
        on_their_way: &mut Pipelined<F>,
        publish: impl Fn(Turn) -> F,
    ) -> Result<bool, BenchError> {
        let Some(turn) = turns.next() else { return Ok(false) };
        if self.refused.is_empty() {
            self.settle(on_their_way.begin(publish(turn)))?;
        } else {
            self.refused.push_back(turn);
        }
        Ok(true)
    }

    /// What was refused and is to be tried again by now.
    fn again(&mut self) -> Option<Turn> {
        if self.refused.is_empty() || Instant::now() < self.again_at {
            return None;
        }
        self.refused.pop_front()
    }

    /// Takes answers that are there now.
    fn settle(&mut self, answers: impl IntoIterator<Item = Answer>) -> Result<(), BenchError> {
        let mut now = None;
        for (turn, answer) in answers {
            let now = *now.get_or_insert_with(Instant::now);
            match answer {
                Ok(appended) => {
                    self.sent.latencies.add(now.saturating_duration_since(turn.called));
                    if let Window::Elsewhere(_) = self.window {
                        let position = appended.first().map_or(Position(0), |one| one.position);
                        self.sent.begun.push((position, turn.begun));
                    }
                }
                Err(AppendError::QueueFull { .. }) => {
                    let at = self.refused.partition_point(|other| other.number < turn.number);
                    self.refused.insert(at, turn);
                    self.again_at = now + FULL_WAIT;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
