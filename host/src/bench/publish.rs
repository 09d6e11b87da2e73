//! Publishing as fast as a window allows, or at a fixed rate: the clients of a bench, in process.

use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::log::Log;

use super::BenchError;
use super::events::Events;
use super::lane::{Answer, Lane, Sent, Turn, Turns, Window};

/// How long a pace that nobody follows any more goes on, at most: the program ends after it.
const PACE_SLEEP_MAX: Duration = Duration::from_millis(20);

/// Events for each of the tasks that publish. Made before any clock starts, once for all runs: a million
/// keys take longer to copy than some runs take.
#[derive(Clone)]
pub(super) struct Lanes(Arc<[Arc<Events>]>);

/// Publishers of one run.
pub(super) struct Publishers {
    log: Log,
    events: Lanes,
    lanes: Vec<Lane>,
    numbers: Range<u64>,
}

/// When events are due that come at a fixed rate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    started: Instant,
    period: Duration,
}

impl Pace {
    /// So many events a second, the first one now.
    pub(super) fn new(per_second: u64) -> Self {
        let period = Duration::from_secs(1) / u32::try_from(per_second.max(1)).unwrap_or(u32::MAX);
        Self { started: Instant::now(), period }
    }

    /// When this one is, counted from 0.
    pub(super) fn due(&self, index: u64) -> Instant {
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
    /// To be made before the clock starts: this has the memory for what is noted of each event.
    pub(super) fn new(log: &Log, events: &Lanes, numbers: Range<u64>, window: &Window) -> Self {
        let (log, events) = (log.clone(), events.clone());
        let (count, all) = (events.0.len(), numbers.end - numbers.start);
        let lanes = window.shares(count).into_iter();
        let lanes = lanes.map(|window| Lane::new(window, count, all)).collect();
        Self { log, events, lanes, numbers }
    }

    /// Publishes all of them, each lane from a task of its own, and gives what each lane sent.
    pub(super) async fn run(self, pace: Option<Pace>) -> Result<Vec<Sent>, BenchError> {
        let turns = Arc::new(Turns::new(self.numbers, pace));
        let mut tasks = JoinSet::new();
        for (lane, events) in self.lanes.into_iter().zip(&*self.events.0) {
            let (log, events, turns) = (self.log.clone(), Arc::clone(events), Arc::clone(&turns));
            tasks.spawn(async move { lane.run(&turns, |turn| publish(&log, &events, turn)).await });
        }
        let mut all = Vec::new();
        while let Some(sent) = tasks.join_next().await {
            all.push(sent??);
        }
        Ok(all)
    }
}

async fn publish(log: &Log, events: &Events, turn: Turn) -> Answer {
    (turn, log.ingest(vec![events.publish(turn.number)]).await)
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
