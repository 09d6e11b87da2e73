//! Deliveries of timers' fires: which of them the handler gets to see.

use std::sync::Arc;

use super::Runner;
use super::work::Stopped;
use crate::bus::deliver::{self, Deliverer, Ended};
use crate::bus::timers::{self, FireId, Serves};
use crate::bus::{Outbox, private};
use crate::effects::{Effects, OutcomeKind, TimerChange};
use crate::event::{Event, Key, LOST_EVENT};
use crate::log::record::{DeliveryCommit, Mode};

/// Timers that are shown of one delivery.
const TIMERS_SHOWN_MAX: usize = 3;

impl Runner {
    /// What an event serves, if it is a fire; waits until what the key did before is folded, for it
    /// may have cancelled the timer.
    pub(super) async fn serves(&self, event: &Event) -> Result<Serves, Stopped> {
        // A dead letter whose input a repair could not keep: nobody can handle that any more.
        if &*event.kind == LOST_EVENT {
            return Ok(Serves::Nothing);
        }
        if &*event.kind != private::TIMER {
            return Ok(Serves::Its);
        }
        let (Some(key), Ok(fire), Some((name, due_ms))) =
            (&event.key, event.id.parse::<FireId>(), timers::name_and_due(event))
        else {
            return Ok(Serves::Nothing);
        };
        self.until_settled(key).await?;
        let holder = (self.instance, self.generation);
        let pending = self.bus.values().timers().pending(holder, key.as_str(), name);
        let serves = timers::serves(fire, due_ms, self.generation, pending);
        if let (Serves::Successor, Some(timer), Some(log)) = (serves, pending, self.bus.log())
            && !timers::is_again(log, self.instance, (fire, event), timer.due.set).await?
        {
            return Ok(Serves::Nothing);
        }
        Ok(serves)
    }

    async fn until_settled(&self, key: &Key) -> Result<(), Stopped> {
        let (hash, mut applied) = (key.hash128(), self.bus.applied());
        let timers = self.bus.values().timers();
        while !timers.is_settled(self.instance, hash) {
            let Some(log) = self.bus.log() else { return Ok(()) };
            tokio::select! {
                changed = applied.changed() => changed.map_err(|_| Stopped::Closing)?,
                _ = log.failed() => return Err(Stopped::Closing),
            }
        }
        Ok(())
    }

    /// Ends the delivery of a fire that serves nothing: recorded like any other, and no guest runs.
    pub(super) fn pass_over(
        &self,
        by: &Deliverer,
        event: &Event,
        (attempt, mode): (u32, Mode),
        outbox: &Outbox,
    ) {
        let ended = Ended {
            attempt,
            outcome: OutcomeKind::Ok,
            fuel: 0,
            mode,
            dead_letter: None,
            park: false,
        };
        let commit = deliver::commit(by, event, ended, &mut Effects::default());
        self.progress.submit();
        self.bus.commit_untold(outbox, commit, drop);
    }

    /// Makes a fire take away the timer it served, where the fold cannot see that it did.
    pub(super) fn consume(&self, event: &Event, effects: &mut Effects) {
        let fire = event.id.parse::<FireId>();
        let (true, Ok(fire)) = (&*event.kind == private::TIMER, fire) else { return };
        let Some((name, _)) = timers::name_and_due(event) else { return };
        if fire.generation != self.generation {
            effects.timers.insert(0, TimerChange::Cancel { name: name.into() });
        }
    }

    /// Notes a commit that the key's next delivery may have to wait for, if that is a fire.
    pub(super) fn note_timers(&self, event: &Event, commit: &DeliveryCommit) {
        let Some(key) = &event.key else { return };
        if !commit.timers.is_empty() || &*event.kind == private::TIMER {
            self.bus.values().timers().submit(self.instance, key.hash128(), event.position);
        }
    }
}

/// The timers that a delivery has set, for people: name, and milliseconds from `now_ms` on.
pub(super) fn timers_set(effects: &Effects, now_ms: u64) -> Vec<(Arc<str>, u64)> {
    let set = effects.timers.iter().filter_map(|change| match change {
        TimerChange::Set { name, due_ms, .. } => {
            Some((Arc::clone(name), due_ms.saturating_sub(now_ms)))
        }
        TimerChange::Cancel { .. } => None,
    });
    set.take(TIMERS_SHOWN_MAX).collect()
}
