//! Reading: from the bus into the scheduler's queue.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::expire::Horizon;
use super::{Pin, Runner, Subscriptions, Swap, bounds, quotas};
use crate::bus::source::Batch;
use crate::bus::subscribed::{hold, may_want};
use crate::event::{Event, Heading, Position};
use crate::log::ReadError;
use crate::log::record::{Control, ControlRecord};
use crate::schedule::core::{DRAIN_CHUNK, Drain, Entry};

/// How far the feeder is.
struct Fed {
    /// Everything up to here was offered, or is not for this plugin.
    scanned: Position,
    /// The end of a rewind that is not reached yet.
    end: Option<Position>,
    horizon: Horizon,
}

impl Runner {
    /// Reads the bus from `seen` on and offers what the plugin subscribes to, until stopped.
    pub(super) async fn feed(self: Arc<Self>, seen: Position, mut swaps: mpsc::Receiver<Swap>) {
        let bus = Arc::clone(&self.bus);
        let mut source = bus.deliver_after(seen);
        let mut fed =
            Fed { scanned: seen, end: self.rebuilt.awaited(), horizon: Horizon::default() };
        self.progress.scan(seen);
        if !matches!(self.rebuild_to(&mut fed.end, seen, None, &mut swaps).await, Ok(true)) {
            return;
        }
        loop {
            // Cancel safe: `next` loses nothing, and a swap that was received is performed.
            let batch = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                Some(swap) = swaps.recv() => {
                    self.perform(swap, fed.scanned).await;
                    continue;
                }
                batch = source.next() => batch,
            };
            let taken = match batch {
                Ok(batch) => self.take_in(&batch, &mut fed, &mut swaps).await,
                Err(error) => Err(error),
            };
            match taken {
                Ok(true) => {}
                Ok(false) | Err(ReadError::Closed) => return,
                Err(error) => {
                    self.cannot_read("the plugin cannot read its bus", &error);
                    if !self.until_resumed(fed.scanned, &mut swaps).await {
                        return;
                    }
                    // From the disk once more: what was read of it may be what is wrong.
                    source = bus.deliver_after(fed.scanned);
                }
            }
        }
    }

    /// Offers what is the plugin's of some events that were read. False: the runner stops.
    async fn take_in(
        &self,
        batch: &Batch,
        fed: &mut Fed,
        swaps: &mut mpsc::Receiver<Swap>,
    ) -> Result<bool, ReadError> {
        let Some((last, recorded_ms)) = batch.last() else { return Ok(true) };
        if !self.rebuild_to(&mut fed.end, last, Some(batch), swaps).await? {
            return Ok(false);
        }
        self.offer(self.judge(batch, last)?, last, swaps).await;
        fed.scanned = last;
        self.progress.scan(last);
        self.note_progress();
        fed.horizon.read(last, recorded_ms);
        self.expire(&mut fed.horizon);
        Ok(true)
    }

    /// Waits until somebody lets the plugin go on; new versions come in meanwhile. False: the runner stops.
    async fn until_resumed(&self, scanned: Position, swaps: &mut mpsc::Receiver<Swap>) -> bool {
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return false,
                Some(swap) = swaps.recv() => self.perform(swap, scanned).await,
                () = self.queue.resumed() => return true,
            }
        }
    }

    pub(super) fn note_progress(&self) {
        let settled = || self.queue.with(|core| core.settled());
        // Whoever asks a runner that was stopped may do so when its plugin begins anew.
        self.progress.offer(|| (!self.stop.is_cancelled()).then(settled));
    }

    /// Pauses the plugin: somebody has to look, and says by letting it go on that it can be tried again.
    fn cannot_read(&self, what: &str, error: &ReadError) {
        tracing::error!(plugin = %self.name, %error, "{what}");
        self.pause_because(format!("{what}: {error}"));
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
                unpins: swap.pin == Pin::Ends,
            },
        };
        let result = self.bus.control(&[record]).done().await;
        if let Ok(committed) = &result {
            // Who asks next sees it in the ledger too: that a rollback has ended, say.
            self.bus.until_applied(committed.commit).await;
            let mut subscriptions = Subscriptions::clone(&self.subscriptions.load());
            hold(&mut subscriptions, after, swap.subscription);
            self.subscriptions.store(Arc::new(subscriptions));
            let (manifest, now_ms) = (&swap.version.manifest, self.bus.now_ms());
            self.queue.with(|core| {
                core.set_bounds(bounds(manifest));
                core.set_quotas(&quotas(manifest), now_ms);
            });
            self.version.store(swap.version);
            self.close_breaker();
        }
        // Nobody waits any more where the caller was dropped.
        let _ = swap.done.send(result.map(|_| ()));
    }

    /// Finds the deferred events of keys whose wait is over, until stopped.
    pub(super) async fn drain(self: Arc<Self>) {
        // So many are read one by one, to find out which of them cannot be.
        let mut singly = 0_usize;
        loop {
            let first = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                first = self.queue.next_drain() => first,
            };
            let Some(first) = first else { return };
            let drains = if singly > 0 { vec![first] } else { self.more_drains(first) };
            singly = singly.saturating_sub(1);
            let error = match self.refill(&drains).await {
                Ok(()) => continue,
                Err(ReadError::Closed) => return,
                Err(error) => error,
            };
            // They are asked for again at once.
            for drain in &drains {
                let nothing_reached = Position(drain.from.0.saturating_sub(1));
                self.queue.refill(drain, [], nothing_reached);
            }
            let [drain] = &*drains else {
                singly = drains.len();
                continue;
            };
            self.cannot_read(&format!("key `{}` cannot be read", drain.key), &error);
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = self.queue.resumed() => {}
            }
        }
    }

    /// What else is to be drained now, about a chunk in all: what several keys wait for often stands in
    /// the same frames.
    fn more_drains(&self, first: Drain) -> Vec<Drain> {
        let mut limit = first.limit;
        let mut drains = vec![first];
        while limit < DRAIN_CHUNK
            && let Some(next) = self.queue.try_next_drain()
        {
            limit += next.limit;
            drains.push(next);
        }
        drains
    }

    async fn refill(&self, drains: &[Drain]) -> Result<(), ReadError> {
        let last = drains.iter().map(|drain| drain.to).max().unwrap_or_default();
        self.bus.until_durable(last).await?;
        let mut found = Vec::with_capacity(drains.len());
        for drain in drains {
            found.push(self.find(drain).await?);
        }
        let mut positions: Vec<_> =
            found.iter().flat_map(|(positions, _)| positions).copied().collect();
        positions.sort_unstable();
        let events = self.bus.events(positions).await?;
        let subscriptions = self.subscriptions.load_full();
        let event_at = |position: &Position| {
            let at = events.binary_search_by_key(position, |event| event.position).ok()?;
            events.get(at).filter(|event| self.wants(&subscriptions, event)).cloned()
        };
        for (drain, (positions, reached)) in drains.iter().zip(&found) {
            let wanted = positions.iter().filter_map(event_at);
            self.queue.refill(drain, wanted.map(entry), *reached);
        }
        self.note_progress();
        Ok(())
    }

    /// Where the events of a drain stand, and up to where that is all of them.
    async fn find(&self, drain: &Drain) -> Result<(Vec<Position>, Position), ReadError> {
        let mut positions = self.bus.key_positions(&drain.key, drain.from, drain.limit).await?;
        // As many as were asked for, all of them wanted: there may be more.
        let more = positions.len() >= drain.limit;
        let reached = positions.last().copied().filter(|last| more && *last < drain.to);
        let reached = reached.unwrap_or(drain.to);
        positions.truncate(positions.partition_point(|position| *position <= drain.to));
        positions.retain(|position| !self.before.is_completed(*position));
        Ok((positions, reached))
    }
}

fn entry(event: Arc<Event>) -> Entry<Arc<Event>> {
    Entry { position: event.position, key: event.key.clone(), weight: event.weight(), item: event }
}
