//! The breaker at work: what it is told, and what its phases mean for deliveries.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hashbrown::DefaultHashBuilder;
use tokio::sync::{Notify, watch};

use super::{Runner, Version};
use crate::effects::Outcome;
use crate::event::Event;
use crate::schedule::breaker::{Breaker, BreakerPolicy, Ended, Phase};
use crate::schedule::core::Pace;

/// The breaker of one runner. Gone with it: a restart finds out again.
pub(super) struct Guard {
    breaker: Mutex<Breaker>,
    /// As the breaker says: its lock is not taken for what goes well while nothing fails.
    watching: AtomicBool,
    opened: Notify,
    hasher: DefaultHashBuilder,
}

/// Why a plugin stands still, or is probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Log time of the next probe; none: it is under way.
    pub probe_ms: Option<u64>,
    /// Keys that failed, about.
    pub failed: usize,
    /// Of so many.
    pub seen: usize,
    /// What was allowed.
    pub policy: BreakerPolicy,
}

impl Guard {
    pub(super) fn new(version: &Version) -> Self {
        Self {
            breaker: Mutex::new(Breaker::new(policy(version))),
            watching: AtomicBool::new(false),
            opened: Notify::new(),
            hasher: DefaultHashBuilder::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Runner {
    /// Tells the breaker how an attempt ended.
    pub(super) fn tell_breaker(&self, event: &Event, first: bool, outcome: &Outcome, now_ms: u64) {
        let failed = is_failure(outcome);
        if !failed && !self.guard.watching.load(Ordering::Relaxed) {
            return;
        }
        let hasher = &self.guard.hasher;
        let key = match &event.key {
            Some(key) => hasher.hash_one(key.as_str()),
            None => hasher.hash_one(event.position.0),
        };
        let mut breaker = self.guard.lock();
        let changed = breaker.note(Ended { key, first, failed }, now_ms);
        self.guard.watching.store(breaker.is_watching(), Ordering::Relaxed);
        if changed {
            self.keep_pace(&breaker);
        }
    }

    /// When a delivery is tried again, though it would be given up if the plugin as a whole were
    /// well; none: it is.
    pub(super) fn put_off(&self, now_ms: u64) -> Option<u64> {
        self.guard.lock().put_off(now_ms)
    }

    /// Lets deliveries go on as if nothing had failed.
    pub fn close_breaker(&self) {
        let mut breaker = self.guard.lock();
        let was = breaker.phase();
        breaker.reset(policy(&self.version.load()));
        self.guard.watching.store(false, Ordering::Relaxed);
        if was != Phase::Closed {
            self.keep_pace(&breaker);
        }
    }

    /// Why the plugin stands still by itself; none: it does not.
    #[must_use]
    pub fn broken(&self) -> Option<Broken> {
        let breaker = self.guard.lock();
        let probe_ms = match breaker.phase() {
            Phase::Closed => return None,
            Phase::Open(until_ms) => Some(until_ms),
            Phase::Probing { .. } => None,
        };
        let (failed, seen) = breaker.share();
        Some(Broken { probe_ms, failed, seen, policy: policy(&self.version.load()) })
    }

    /// Makes deliveries follow the phase; `breaker` stays locked, so that the last change holds.
    fn keep_pace(&self, breaker: &Breaker) {
        let pace = match breaker.phase() {
            Phase::Closed => Pace::Free,
            Phase::Open(_) => Pace::Still,
            Phase::Probing { .. } => Pace::Probe,
        };
        self.queue.with(|core| core.set_pace(pace));
        match breaker.phase() {
            Phase::Open(_) => {
                self.guard.opened.notify_one();
                if !breaker.has_relapsed() {
                    let (failed, seen) = breaker.share();
                    let words = format!("the breaker opened: {failed} of {seen} keys failed");
                    tracing::warn!(plugin = %self.name, "{words}");
                    self.say("error", words);
                }
            }
            Phase::Closed => {
                tracing::info!(plugin = %self.name, "the breaker closed");
                self.say("info", "the breaker closed: deliveries go on".to_owned());
            }
            Phase::Probing { .. } => {}
        }
    }

    /// Begins to probe each time that it is due, until stopped. Where the log's clock is stepped, has the
    /// queue look at the time again, as it does itself.
    pub(super) async fn probe(self: Arc<Self>, mut clock_steps: watch::Receiver<()>) {
        loop {
            let open_until = match self.guard.lock().phase() {
                Phase::Open(until_ms) => Some(until_ms),
                _ => None,
            };
            let now_ms = self.bus.now_ms();
            let due = async {
                match open_until {
                    // The log clock may be slewed: it is looked at again.
                    Some(until_ms) => {
                        let wait_ms = until_ms.saturating_sub(now_ms).max(1);
                        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                Ok(()) = clock_steps.changed() => self.queue.clock_stepped(),
                // Also while it waits: it may have closed meanwhile, and be due sooner now.
                () = self.guard.opened.notified() => {}
                () = due => {}
            }
            let now_ms = self.bus.now_ms();
            let mut breaker = self.guard.lock();
            if breaker.probe(now_ms) {
                self.keep_pace(&breaker);
            }
        }
    }
}

fn policy(version: &Version) -> BreakerPolicy {
    let share = version.manifest.retry.breaker;
    BreakerPolicy { percent: share.percent, window_ms: share.window.ms() }
}

/// A reject is the handler's verdict about one event, and a retry at a time of its own choice is its
/// plan: neither says that the plugin is not well.
pub(super) const fn is_failure(outcome: &Outcome) -> bool {
    !matches!(
        outcome,
        Outcome::Ok | Outcome::Reject { .. } | Outcome::Retry { after_ms: Some(_), .. }
    )
}
