//! A new version beside the one that serves: it is handed what the live one was handed, with the
//! state that one saw, and its effects are compared and thrown away.
//!
//! Rule: a key never waits for the version beside. It runs after the live delivery, in a task of its
//! own, and where too many of those run a delivery is left out.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::{Runner, Version};
use crate::bus::private;
use crate::bus::replay::{Again, Change, Judged, Seen, Verdict};
use crate::event::{Event, Key, Position};
use crate::limits::SHADOW_TASKS_MAX;
use crate::log::record::DeliveryCommit;
use crate::schedule::pool::Tenant;
use crate::state::{KeyView, Value};

/// Differences that are told in words.
const EXAMPLES_MAX: usize = 5;

/// What is wanted of a version before it serves.
pub struct Trial {
    /// The version.
    pub version: Arc<Version>,
    /// Deliveries to compare.
    pub deliveries: u32,
    /// How many of them may differ.
    pub differences: u32,
    /// Runs its guests.
    pub tenant: Tenant,
}

/// How a trial stands, or ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Deliveries with the same outcome and effects.
    pub equal: u32,
    /// Deliveries that differ.
    pub different: u32,
    /// Deliveries that prove nothing: they ran into a limit of time, say.
    pub undecided: u64,
    /// The first ones that differ.
    pub examples: Vec<(Position, Option<Key>, Vec<Change>)>,
    /// Something else became of the plugin meanwhile.
    pub is_abandoned: bool,
}

/// One trial at work.
pub(super) struct Shadow {
    trial: Trial,
    running: Mutex<u32>,
    tally: watch::Sender<Tally>,
}

/// A place in a trial for one delivery, with the state it saw.
pub(super) struct Beside {
    shadow: Arc<Shadow>,
    seen: Option<Seen>,
    /// Whether the place was given back.
    is_over: bool,
}

impl Tally {
    const fn decided(&self) -> u32 {
        self.equal.saturating_add(self.different)
    }
}

impl Trial {
    /// Whether nothing can change the end of it any more.
    fn is_over(&self, tally: &Tally) -> bool {
        tally.is_abandoned
            || tally.different > self.differences
            || tally.decided() >= self.deliveries
    }
}

impl Shadow {
    fn running(&self) -> MutexGuard<'_, u32> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for one more delivery, where it is wanted and there is room.
    fn take_place(&self) -> bool {
        let mut running = self.running();
        let tally = self.tally.borrow();
        let wanted = !self.trial.is_over(&tally)
            && tally.decided().saturating_add(*running) < self.trial.deliveries;
        let has_room = *running < SHADOW_TASKS_MAX;
        if wanted && has_room {
            *running += 1;
        }
        wanted && has_room
    }

    fn count(&self, judged: Judged) {
        self.tally.send_if_modified(|tally| {
            if self.trial.is_over(tally) {
                return false;
            }
            match judged.verdict {
                Verdict::Equal => tally.equal += 1,
                Verdict::NotReplayable(_) | Verdict::PassedOver => tally.undecided += 1,
                Verdict::Different(changes) => {
                    tally.different += 1;
                    if tally.examples.len() < EXAMPLES_MAX {
                        tally.examples.push((judged.position, judged.key, changes));
                    }
                }
            }
            true
        });
    }

    fn abandon(&self) {
        self.tally.send_if_modified(|tally| {
            let ends = !self.trial.is_over(tally);
            tally.is_abandoned |= ends;
            ends
        });
    }
}

impl Beside {
    /// Counts what the delivery came to, and gives its place back: at once, so that nobody who
    /// wants a place sees it counted twice.
    fn count(mut self, judged: Judged) {
        let shadow = Arc::clone(&self.shadow);
        let mut running = shadow.running();
        shadow.count(judged);
        *running -= 1;
        self.is_over = true;
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if !self.is_over {
            *self.shadow.running() -= 1;
        }
    }
}

impl Runner {
    /// Runs a version beside the one that serves, in place of any that did so before, until enough
    /// deliveries were compared or too many differed: however long it takes for them to come.
    /// Dropped, it ends.
    pub async fn try_beside(&self, trial: Trial) -> Tally {
        let shadow = Arc::new(Shadow {
            trial,
            running: Mutex::new(0),
            tally: watch::channel(Tally::default()).0,
        });
        let mut tally = shadow.tally.subscribe();
        if let Some(before) = self.shadow.swap(Some(Arc::clone(&shadow))) {
            before.abandon();
        }
        let _ends = Ends { runner: self, shadow: Arc::clone(&shadow) };
        let over = tally.wait_for(|tally| shadow.trial.is_over(tally));
        tokio::select! {
            // The sender lives as long as `shadow`.
            _ = over => {}
            () = self.stop.cancelled() => shadow.abandon(),
        }
        shadow.tally.borrow().clone()
    }

    /// Ends a trial, if there is one: what it was about is decided in another way.
    pub fn end_trial(&self) {
        if let Some(shadow) = self.shadow.swap(None) {
            shadow.abandon();
        }
    }

    /// How a trial stands, in words; none: there is none.
    #[must_use]
    pub fn trial(&self) -> Option<String> {
        let shadow = self.shadow.load_full()?;
        let tally = shadow.tally.borrow();
        Some(format!(
            "module {} runs beside before it serves: shadow {}/{}, {} differ",
            shadow.trial.version.digest.short(),
            tally.decided(),
            shadow.trial.deliveries,
            tally.different
        ))
    }

    /// A place for the version beside, with what the live one sees; none: it is not wanted.
    pub(super) fn beside(&self, event: &Event, view: Option<&KeyView>) -> Option<Beside> {
        // Without one, which is the rule, nothing is counted.
        let shadow = self.shadow.load();
        let shadow = shadow.as_ref().filter(|shadow| shadow.take_place()).cloned()?;
        let seen = match view {
            Some(view) if event.key.is_some() => seen(view),
            _ => Seen::default(),
        };
        Some(Beside { shadow, seen: Some(seen), is_over: false })
    }

    /// Lets the version beside do what the live one has done.
    pub(super) fn run_beside(&self, mut beside: Beside, event: &Arc<Event>, done: DeliveryCommit) {
        let Some(seen) = beside.seen.take() else { return };
        // No guest ran: there is nothing to compare.
        if done.completion.fuel == 0 && private::is_private(&event.kind) {
            return;
        }
        let again = Again {
            bus: Arc::clone(&self.bus),
            version: Arc::clone(&beside.shadow.trial.version),
            input: Arc::clone(event),
            done,
            seen: Arc::new(seen),
        };
        let tenant = beside.shadow.trial.tenant.clone();
        drop(tenant.spawn(async move {
            let judged = again.run().await;
            beside.count(judged);
        }));
    }
}

/// Takes a trial away that nobody waits for any more.
struct Ends<'a> {
    runner: &'a Runner,
    shadow: Arc<Shadow>,
}

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.shadow.abandon();
        let here = self.runner.shadow.load();
        if here.as_ref().is_some_and(|here| Arc::ptr_eq(here, &self.shadow)) {
            self.runner.shadow.compare_and_swap(&here, None);
        }
    }
}

/// All that a delivery sees of its key. The key is its own, so nothing changes meanwhile.
fn seen(view: &KeyView) -> Seen {
    let names = view.list("", None, usize::MAX).into_iter();
    let values = names.filter_map(|name| {
        let value = Value { bytes: view.get(&name)?.into(), expires_ms: None };
        Some((name.into(), value))
    });
    Seen::of(values.collect())
}
