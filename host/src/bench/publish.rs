//! Publishing as fast as a window allows, or at a fixed rate: the clients of a bench, in process.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::event::Position;
use crate::log::{AppendError, Log};

use super::BenchError;
use super::events::Events;
use super::latency::Latencies;

/// When to try again where too many bytes wait: large events, many in flight. It is part of what they
/// take.
const FULL_WAIT: Duration = Duration::from_millis(1);

/// How long a pace that nobody follows any more goes on, at most: the program ends after it.
const PACE_SLEEP_MAX: Duration = Duration::from_millis(20);

/// Who opens the window again for an event that went through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Release {
    /// The publisher, once the event is durable.
    Durable,
    /// Somebody else.
    Elsewhere,
}

/// Events for each of the tasks that publish. Made before any clock starts, once for all runs: a million
/// keys take longer to copy than some runs take.
#[derive(Clone)]
pub(super) struct Lanes(Arc<[Arc<Events>]>);

/// Publishers of one run.
pub(super) struct Publishers {
    log: Log,
    lanes: Lanes,
    next: AtomicU64,
    numbers: Range<u64>,
    window: Arc<Semaphore>,
    release: Release,
    pace: Option<Pace>,
}

/// When events are due that come at a fixed rate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    started: Instant,
    period: Duration,
}

/// What was published.
#[derive(Default)]
pub(super) struct Sent {
    /// From the call to its answer.
    pub(super) latencies: Latencies,
    /// Where each event stands, and when its publishing began, or was due.
    pub(super) begun: Vec<(Position, Instant)>,
}

impl Pace {
    /// So many events a second, the first one now.
    pub(super) fn new(per_second: u64) -> Self {
        let period = Duration::from_secs(1) / u32::try_from(per_second.max(1)).unwrap_or(u32::MAX);
        Self { started: Instant::now(), period }
    }

    fn due(&self, index: u64) -> Instant {
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        self.started + self.period.saturating_mul(index)
    }

    /// Opens the window event by event as they are due, while anybody holds it. Blocks its thread: the
    /// timers of the runtime know whole milliseconds only.
    pub(super) fn open(&self, count: u64, window: &Weak<Semaphore>) {
        let add = || window.upgrade().map(|window| window.add_permits(1));
        for index in 0..count {
            let mut wait = self.due(index).saturating_duration_since(Instant::now());
            while !wait.is_zero() && window.strong_count() > 0 {
                std::thread::sleep(wait.min(PACE_SLEEP_MAX));
                wait = self.due(index).saturating_duration_since(Instant::now());
            }
            if add().is_none() {
                return;
            }
        }
        // One more, for those who wait to see that there is nothing left.
        add();
    }
}

impl Lanes {
    /// For as many tasks as there are processors; they share no memory that they count references to.
    pub(super) fn new(events: Arc<Events>) -> Self {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let apart: Vec<_> = (1..count).map(|_| Arc::new(events.apart())).collect();
        Self(apart.into_iter().chain([events]).collect())
    }
}

impl Publishers {
    pub(super) fn new(
        log: &Log,
        lanes: &Lanes,
        numbers: Range<u64>,
        window: Arc<Semaphore>,
        release: Release,
        pace: Option<Pace>,
    ) -> Self {
        let (log, lanes) = (log.clone(), lanes.clone());
        let next = AtomicU64::new(numbers.start);
        Self { log, lanes, next, numbers, window, release, pace }
    }

    /// Publishes all of them, each lane from a task of its own.
    pub(super) async fn run(self) -> Result<Sent, BenchError> {
        let this = Arc::new(self);
        let mut tasks = JoinSet::new();
        for events in &*this.lanes.0 {
            tasks.spawn(Arc::clone(&this).lane(Arc::clone(events)));
        }
        let mut all = Sent::default();
        while let Some(sent) = tasks.join_next().await {
            let sent = sent??;
            all.latencies.merge(&sent.latencies);
            all.begun.extend(sent.begun);
        }
        Ok(all)
    }

    async fn lane(self: Arc<Self>, events: Arc<Events>) -> Result<Sent, BenchError> {
        let mut sent = Sent::default();
        let mut pending = FuturesUnordered::new();
        let mut through = false;
        loop {
            while !through && let Ok(room) = self.window.try_acquire() {
                room.forget();
                match self.claim() {
                    Some(number) => pending.push(self.publish(&events, number)),
                    None => through = true,
                }
            }
            if through && pending.is_empty() {
                // Whoever else waits for the window is to see that there is nothing left.
                self.window.add_permits(1);
                return Ok(sent);
            }
            tokio::select! {
                biased;
                Some(published) = pending.next() => {
                    let (position, begun, took) = published?;
                    sent.latencies.add(took);
                    if self.release == Release::Durable {
                        self.window.add_permits(1);
                    } else {
                        sent.begun.push((position, begun));
                    }
                }
                Ok(room) = self.window.acquire(), if !through => {
                    room.forget();
                    match self.claim() {
                        Some(number) => pending.push(self.publish(&events, number)),
                        None => through = true,
                    }
                }
            }
        }
    }

    fn claim(&self) -> Option<u64> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (number < self.numbers.end).then_some(number)
    }

    async fn publish(
        &self,
        events: &Events,
        number: u64,
    ) -> Result<(Position, Instant, Duration), BenchError> {
        let called = Instant::now();
        let begun = self.pace.map_or(called, |pace| pace.due(number - self.numbers.start));
        let appended = loop {
            match self.log.ingest(vec![events.publish(number)]).await {
                Err(AppendError::QueueFull { .. }) => tokio::time::sleep(FULL_WAIT).await,
                appended => break appended?,
            }
        };
        let took = called.elapsed();
        let position = appended.first().map_or(Position(0), |appended| appended.position);
        Ok((position, begun, took))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_ends_with_those_who_follow_it() {
        let window = Arc::new(Semaphore::new(0));
        let weak = Arc::downgrade(&window);
        Pace::new(1_000_000).open(3, &weak);
        assert_eq!(window.available_permits(), 4);
        let begun = Instant::now();
        let slow = std::thread::spawn(move || Pace::new(1).open(1000, &weak));
        drop(window);
        slow.join().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(100));
    }
}
