//! Reading: from the bus into the scheduler's queue.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::expire::Horizon;
use super::{Runner, Subscriptions, Swap, quotas};
use crate::bus::source::Batch;
use crate::bus::subscribed::may_want;
use crate::event::{Event, Heading, Position};
use crate::log::ReadError;
use crate::log::record::{Control, ControlRecord};
use crate::schedule::core::{Drain, Entry};

impl Runner {
    /// Reads the bus from `seen` on and offers what the plugin subscribes to, until stopped.
    pub(super) async fn feed(self: Arc<Self>, seen: Position, mut swaps: mpsc::Receiver<Swap>) {
        let bus = Arc::clone(&self.bus);
        let mut source = bus.read_after(seen);
        let mut scanned = seen;
        let mut end = self.rebuilt.awaited();
        self.progress.scan(seen);
        let mut horizon = Horizon::default();
        if !self.rebuild_to(&mut end, seen, None, &mut swaps).await {
            return;
        }
        loop {
            // Cancel safe: `next` loses nothing, and a swap that was received is performed.
            let batch = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                Some(swap) = swaps.recv() => {
                    self.perform(swap, scanned).await;
                    continue;
                }
                batch = source.next() => batch,
            };
            let batch = match batch {
                Ok(batch) => batch,
                Err(ReadError::Closed) => return,
                Err(error) => return self.cannot_read(&error),
            };
            let Some((last, recorded_ms)) = batch.last() else { continue };
            if !self.rebuild_to(&mut end, last, Some(&batch), &mut swaps).await {
                return;
            }
            match self.judge(&batch, last) {
                Ok(entries) => self.offer(entries, last, &mut swaps).await,
                Err(error) => return self.cannot_read(&error),
            }
            scanned = last;
            self.progress.scan(last);
            self.note_progress();
            horizon.read(last, recorded_ms);
            self.expire(&mut horizon);
        }
    }

    pub(super) fn note_progress(&self) {
        self.progress.offer(|| self.queue.with(|core| core.settled()));
    }

    pub(super) fn cannot_read(&self, error: &ReadError) {
        tracing::error!(plugin = %self.name, %error, "the plugin cannot read its bus");
        self.say("error", format!("cannot read the bus: {error}"));
    }

    /// The events of a batch, up to a position, that are this plugin's and still to be delivered.
    pub(super) fn judge(
        &self,
        batch: &Batch,
        until: Position,
    ) -> Result<VecDeque<Entry<Arc<Event>>>, ReadError> {
        let subscriptions = self.subscriptions.load();
        let may_be_due = |heading: &Heading<'_>| {
            heading.position <= until
                && may_want(&subscriptions, self.instance, heading)
                && !self.before.is_completed(heading.position)
        };
        let events = batch.select(may_be_due)?;
        // Not collected: that would make entries of events in place, in memory for fewer of them.
        let mut entries = VecDeque::with_capacity(events.len());
        let wanted = events.into_iter().filter(|event| self.wants(&subscriptions, event));
        entries.extend(wanted.map(entry));
        if planted!(ReordersAKey) {
            entries.make_contiguous().reverse();
        }
        Ok(entries)
    }

    pub(super) async fn offer(
        &self,
        mut entries: VecDeque<Entry<Arc<Event>>>,
        last: Position,
        swaps: &mut mpsc::Receiver<Swap>,
    ) {
        loop {
            if self.queue.offer_all(&mut entries, last) {
                return;
            }
            // What is left was judged already: a new subscription holds after `last`.
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                Some(swap) = swaps.recv() => self.perform(swap, last).await,
                _ = self.queue.room() => {}
            }
        }
    }

    /// Records and installs a new version; its subscription holds for positions after `after`.
    pub(super) async fn perform(&self, swap: Swap, after: Position) {
        let record = ControlRecord {
            actor: swap.actor,
            control: Control::Activate {
                instance: self.instance,
                generation: self.generation,
                module: swap.version.digest,
                environment: swap.version.deliverer.environment,
                manifest: swap.version.manifest.to_toml(),
                after,
            },
        };
        let result = self.bus.control(&[record]).done().await;
        if let Ok(committed) = &result {
            // Who asks next sees it in the ledger too: that a rollback has ended, say.
            self.bus.until_applied(committed.commit).await;
            let mut subscriptions = Subscriptions::clone(&self.subscriptions.load());
            subscriptions.push((after, swap.subscription));
            self.subscriptions.store(Arc::new(subscriptions));
            let (quotas, now_ms) = (quotas(&swap.version.manifest), self.bus.now_ms());
            self.queue.with(|core| core.set_quotas(&quotas, now_ms));
            self.version.store(swap.version);
            self.close_breaker();
        }
        // Nobody waits any more where the caller was dropped.
        let _ = swap.done.send(result.map(|_| ()));
    }

    /// Finds the deferred events of keys whose wait is over, until stopped.
    pub(super) async fn drain(self: Arc<Self>) {
        loop {
            let drain = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                drain = self.queue.next_drain() => drain,
            };
            let Some(drain) = drain else { return };
            if let Err(error) = self.refill(&drain).await {
                if matches!(error, ReadError::Closed) {
                    return;
                }
                tracing::error!(plugin = %self.name, key = %drain.key, %error, "a key cannot be drained");
                self.say("error", format!("key `{}` cannot be read: {error}", drain.key));
                return;
            }
        }
    }

    async fn refill(&self, drain: &Drain) -> Result<(), ReadError> {
        let mut positions = self.bus.key_positions(&drain.key, drain.from, drain.limit).await?;
        // As many as were asked for, all of them wanted: there may be more.
        let more = positions.len() >= drain.limit;
        let reached = positions.last().copied().filter(|last| more && *last < drain.to);
        let reached = reached.unwrap_or(drain.to);
        positions.truncate(positions.partition_point(|position| *position <= drain.to));
        positions.retain(|position| !self.before.is_completed(*position));
        let events = self.bus.events(positions).await?;
        let subscriptions = self.subscriptions.load_full();
        let wanted = events.into_iter().filter(|event| self.wants(&subscriptions, event));
        self.queue.refill(drain, wanted.map(entry), reached);
        self.note_progress();
        Ok(())
    }
}

fn entry(event: Arc<Event>) -> Entry<Arc<Event>> {
    Entry { position: event.position, key: event.key.clone(), weight: event.weight(), item: event }
}
