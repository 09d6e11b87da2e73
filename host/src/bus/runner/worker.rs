//! What one worker of a plugin keeps between its deliveries.
//!
//! Rule: what every delivery changes is the worker's own. A count or a lock that two processors use
//! in turn goes back and forth between them, which takes longer than a short guest runs. So a worker
//! whose deliveries are short has several in hand, and lets go of them before it waits for anything.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::prepare::commit_bytes;
use super::work::Stopped;
use super::{Runner, Version};
use crate::bus::Outbox;
use crate::effects::OutcomeKind;
use crate::event::Event;
use crate::schedule::core::{Finish, Finished};
use crate::schedule::driver::Lease;
use crate::state::Handle;
use crate::state::slots::{Slot as NoteSlot, Slots};
use crate::wasm::{GuestLimits, Invocation, Slot};

/// Attempts after which the counters are told at the latest.
const TOLD_AFTER: usize = 256;
/// Deliveries that a worker has in hand at most.
const IN_HAND_MAX: u128 = 16;
/// How long what a worker has in hand should take, going by the last delivery.
const IN_HAND_FOR: Duration = Duration::from_micros(100);
/// How long guests may have taken in all before what is left in hand goes to others.
const IN_HAND_FOR_MAX: Duration = Duration::from_micros(200);

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

/// What a worker has taken and not given back. Its fields are dropped in this order: the end of a delivery
/// is with the log before the scheduler hears of it.
pub(super) struct Hand {
    /// Ends of deliveries that the log has not got yet.
    pub(super) outbox: Outbox,
    pub(super) lease: Lease<Arc<Event>>,
    /// Bytes of the outbox's room that the delivery under way may need; 0: it has not come that far.
    needed: AtomicUsize,
    /// How long guests took since it took the lease.
    spent: Duration,
}

/// How a delivery went, for who delivers the next one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Delivered {
    pub(super) finish: Finish,
    /// The guest returned, and what it asked for is recorded.
    pub(super) went_well: bool,
    /// How long it took.
    pub(super) wall: Duration,
}

impl Delivered {
    /// Of an event that no guest was to see.
    pub(super) const fn passed_over() -> Self {
        Self { finish: Finish::Done, went_well: true, wall: Duration::ZERO }
    }

    /// How many deliveries like this one to have in hand. One that had to wait may not be the last.
    fn count_in_hand(&self, waited: bool) -> usize {
        let count = IN_HAND_FOR.as_nanos() / self.wall.as_nanos().max(1);
        if waited { 1 } else { usize::try_from(count.clamp(1, IN_HAND_MAX)).unwrap_or(1) }
    }
}

impl Hand {
    const fn new(outbox: Outbox, lease: Lease<Arc<Event>>) -> Self {
        Self { outbox, lease, needed: AtomicUsize::new(0), spent: Duration::ZERO }
    }

    /// Notes that the delivery has its room, of so many bytes: it is kept while the guest runs.
    pub(super) fn needs(&self, bytes: usize) {
        self.needed.store(bytes, Ordering::Relaxed);
    }

    /// Gives back all but the event that is being delivered, and what it needs.
    pub(super) fn let_go(&self) {
        self.outbox.hand_over(self.needed.load(Ordering::Relaxed));
        self.lease.let_go();
    }

    /// Goes on to the next event in hand, where there is one and it may follow at once: after a failure
    /// the plugin may be paused, and others are not to wait for long.
    fn advance(&mut self, delivered: Delivered) -> bool {
        self.spent += delivered.wall;
        *self.needed.get_mut() = 0;
        let went_well = delivered.went_well && delivered.finish == Finish::Done;
        went_well && self.spent < IN_HAND_FOR_MAX && self.lease.advance()
    }
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
        let Some(mut hand) = self.first().await else { return };
        loop {
            let mut waited = false;
            let let_go = || {
                waited = true;
                hand.let_go();
            };
            let delivered = before_waiting(self.deliver(&mut worker, &hand), let_go).await;
            let delivered = match delivered {
                Ok(delivered) => delivered,
                Err(Stopped::Closing) => return,
                Err(Stopped::Unreadable(why)) => {
                    self.cannot_deliver(hand, &why);
                    worker.tally.tell();
                    let Some(next) = self.first().await else { return };
                    hand = next;
                    continue;
                }
            };
            if hand.advance(delivered) {
                continue;
            }
            let count = delivered.count_in_hand(waited);
            let next = self.next(&mut worker, hand, (delivered.finish, count)).await;
            let Some(next) = next else { return };
            hand = next;
        }
    }

    /// Waits for a delivery, with nothing in hand; none: the runner stops.
    async fn first(&self) -> Option<Hand> {
        let lease = self.queue.take().await?;
        Some(Hand::new(self.bus.outbox(), lease))
    }

    /// Pauses the plugin, and gives back what is in hand: the same attempt is made once somebody lets it go
    /// on, for what could not be read may be readable again by then.
    fn cannot_deliver(&self, hand: Hand, why: &str) {
        let position = hand.lease.assignment().position;
        tracing::error!(plugin = %self.name, %position, why, "cannot deliver an event");
        // Before the lease is given back: another worker would take it.
        self.pause_because(format!("the event at {position} cannot be delivered: {why}"));
        drop(hand);
    }

    /// Says how the deliveries in hand ended, the last one with `finish`, and waits for the next ones: no
    /// more than `count`.
    async fn next(
        &self,
        worker: &mut Worker<'_>,
        Hand { outbox, lease, .. }: Hand,
        (finish, count): (Finish, usize),
    ) -> Option<Hand> {
        outbox.hand_over_for(commit_bytes(worker.pinned.current(self)));
        let next = lease.finish_then_take(finish, count);
        let tell = || {
            outbox.hand_over(0);
            worker.tally.tell();
        };
        let (finished, next) = before_waiting(next, tell).await;
        if finished == Finished::WaitsOver {
            self.pause_because(format!(
                "more keys wait than `run.waiting-max` = {} allows",
                self.version.load().manifest.run.waiting_max
            ));
        }
        next.map(|lease| Hand::new(outbox, lease))
    }
}

/// Waits for something; does `act` each time before it does.
async fn before_waiting<T>(future: impl Future<Output = T>, mut act: impl FnMut()) -> T {
    let mut future = pin!(future);
    poll_fn(|context| {
        let poll = future.as_mut().poll(context);
        if poll.is_pending() {
            act();
        }
        poll
    })
    .await
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
