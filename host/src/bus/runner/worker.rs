//! What one worker of a plugin keeps between its deliveries.
//!
//! Rule: what every delivery changes is the worker's own. A count or a lock that two processors use
//! in turn goes back and forth between them, which takes longer than a short guest runs.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::work::Stopped;
use super::{Runner, Version};
use crate::effects::OutcomeKind;
use crate::schedule::core::Finished;
use crate::state::Handle;
use crate::state::slots::{Slot as NoteSlot, Slots};
use crate::wasm::{GuestLimits, Invocation, Slot};

/// Attempts after which the counters are told at the latest.
const TOLD_AFTER: usize = 256;

/// See the top of the file.
pub(super) struct Worker<'a> {
    /// The instance.
    pub(super) slot: Slot,
    /// Where a delivery is noted that may be what kills the host.
    pub(super) notes: Option<NoteSlot<'a>>,
    pub(super) pinned: Pinned,
    pub(super) values: Handle,
    pub(super) tally: Tally<'a>,
}

/// A version, with copies of what every delivery holds on to.
pub(super) struct Pinned {
    of: Arc<Version>,
    own: Version,
}

/// Attempts that the counters of the plugin have not been told of.
pub(super) struct Tally<'a> {
    runner: &'a Runner,
    attempts: Vec<Counted>,
}

/// One attempt, as it is counted.
struct Counted {
    outcome: OutcomeKind,
    wall: Duration,
    fuel: u64,
    lag_ms: Option<u64>,
}

impl Runner {
    /// Takes one delivery after the other until stopped.
    pub(super) async fn work(self: Arc<Self>) {
        let mut worker = Worker {
            slot: Slot::default(),
            notes: self.bus.slots().and_then(Slots::take),
            pinned: Pinned::new(self.version.load_full()),
            values: Arc::new(Arc::clone(self.bus.values())),
            tally: Tally { runner: &self, attempts: Vec::new() },
        };
        let mut next = self.queue.take().await;
        while let Some(lease) = next {
            let position = lease.assignment().position;
            match self.deliver(&mut worker, &lease).await {
                Ok(finish) => {
                    let following = worker.tally.told_before(lease.finish_then_take(finish));
                    let (finished, following) = following.await;
                    if finished == Finished::WaitsOver {
                        let why = format!(
                            "more keys wait than `run.waiting-max` = {} allows",
                            self.version.load().manifest.run.waiting_max
                        );
                        self.pause_because(why);
                    }
                    next = following;
                }
                Err(Stopped::Closing) => return,
                Err(Stopped::Unreadable(why)) => {
                    tracing::error!(plugin = %self.name, %position, why, "cannot deliver an event");
                    self.pause_because(format!(
                        "the event at {position} cannot be delivered: {why}"
                    ));
                    return;
                }
            }
        }
    }
}

impl Pinned {
    fn new(of: Arc<Version>) -> Self {
        let mut own = Version::clone(&of);
        own.limits = Arc::new(GuestLimits::clone(&of.limits));
        own.config = Arc::new(of.config.as_ref().clone());
        own.deliverer.source = Arc::from(&*of.deliverer.source);
        Self { of, own }
    }

    /// The version that serves now.
    pub(super) fn current(&mut self, runner: &Runner) -> &Version {
        let current = runner.version.load();
        if !Arc::ptr_eq(&current, &self.of) {
            *self = Self::new(Arc::clone(&current));
        }
        &self.own
    }
}

impl Tally<'_> {
    /// Counts an attempt; with the milliseconds from the append of its event, if it was the last.
    pub(super) fn add(&mut self, attempt: &Invocation, lag_ms: Option<u64>) {
        let Invocation { ref outcome, wall, fuel, .. } = *attempt;
        self.attempts.push(Counted { outcome: outcome.kind(), wall, fuel, lag_ms });
        if self.attempts.len() >= TOLD_AFTER {
            self.tell();
        }
    }

    /// Waits for something; before it does, the counters are told.
    async fn told_before<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        poll_fn(|context| {
            let poll = future.as_mut().poll(context);
            if poll.is_pending() {
                self.tell();
            }
            poll
        })
        .await
    }

    fn tell(&mut self) {
        for Counted { outcome, wall, fuel, lag_ms } in self.attempts.drain(..) {
            if let Some(count) = self.runner.deliveries.get(outcome as usize) {
                count.fetch_add(1, Ordering::Relaxed);
            }
            self.runner.metrics.delivered(outcome, wall, fuel);
            if let Some(lag_ms) = lag_ms {
                self.runner.metrics.lag(lag_ms);
            }
        }
    }
}

impl Drop for Tally<'_> {
    fn drop(&mut self) {
        self.tell();
    }
}
