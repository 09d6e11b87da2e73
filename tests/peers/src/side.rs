//! The systems that are measured, and the rounds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::table::Table;
use crate::{Plan, nats, redis, tidegate};

/// What one run came to; a figure that a system does not have is absent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Run {
    /// Events a second, published until acknowledged.
    pub append: Option<f64>,
    /// Events a second, published until consumed and that acknowledged.
    pub pipeline: Option<f64>,
    /// From publishing to the end of consuming at a steady rate, microseconds.
    pub p50_us: Option<f64>,
    /// As before, 99 of 100 are faster.
    pub p99_us: Option<f64>,
    /// One call of a guest, microseconds of processor time.
    pub call_us: Option<f64>,
}

/// Measures a system once, from start to stop.
type Measure = Box<dyn Fn(&Plan) -> Result<Run>>;

/// A system, or one way to set it up.
pub struct Side {
    /// As the table calls it.
    pub name: String,
    /// Measures it.
    pub run: Measure,
}

fn sides() -> Vec<Side> {
    let mut sides = tidegate::sides();
    sides.extend(nats::sides());
    sides.extend(redis::sides());
    #[cfg(feature = "extism")]
    sides.extend(crate::with_extism::sides());
    sides
}

/// Runs tidegate and the sides whose name has `only` in it, in whatever case, in turns. One that cannot run is
/// named with the reason, and the others go on.
pub fn measure(plan: &Plan, only: &str) -> Result<Table> {
    let mut sides = sides();
    let only = only.to_lowercase();
    let is_wanted = |side: &Side| side.name.to_lowercase().contains(&only);
    if !sides.iter().any(is_wanted) {
        bail!("no side has `{only}` in its name");
    }
    sides.retain(|side| side.name == tidegate::NAME || is_wanted(side));
    let mut table = Table::new(sides.iter().map(|side| side.name.clone()).collect());
    for round in 0..plan.rounds {
        for (place, side) in sides.iter().enumerate() {
            eprintln!("round {} of {}: {}", round + 1, plan.rounds, side.name);
            match (side.run)(plan) {
                Ok(run) => table.add(place, run),
                Err(error) => table.fail(place, format!("{error:#}")),
            }
        }
    }
    Ok(table)
}

/// Sleeps and wakes all the time, so that an idle processor does not make every sync wait for a tick
/// of the kernel. It runs for every side alike.
pub struct Ticker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    /// Starts it.
    pub fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_micros(100));
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Times of a steady load.
#[derive(Default)]
pub struct Latencies(Vec<f64>);

impl Latencies {
    /// One event took so long.
    pub fn add(&mut self, since: Instant) {
        self.0.push(since.elapsed().as_secs_f64() * 1e6);
    }

    /// What so many of 1000 stay below, microseconds.
    pub fn permille(&mut self, share: usize) -> Option<f64> {
        self.0.sort_unstable_by(f64::total_cmp);
        let at = (self.0.len() * share / 1000).min(self.0.len().checked_sub(1)?);
        self.0.get(at).copied()
    }
}

/// Events a second.
pub fn rate(events: u64, began: Instant) -> f64 {
    events as f64 / began.elapsed().as_secs_f64()
}
