//! What a plugin may do in a second and at the same time, as a whole and by prefix of the key.
//!
//! A limit of the whole plugin closes a gate: nothing is handed out, and events stay where they
//! are, within the in-flight bound. A limit of a prefix makes its keys queue up in a place of their
//! own; those that there is no room for now become waiting entries, so that they take no memory
//! from other keys. Nothing is lost or reordered either way: a key is where it was, only later.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use super::lane::{Lane, Phase, Until, Waiting};
use super::{KeyScheduler, Pace};
use crate::event::Key;
use crate::schedule::bucket::Bucket;

/// Limits of a plugin; 0: none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Quotas {
    /// Fuel a second. Counted when a delivery ends, so that one may overdraw: what it used too much
    /// is waited for before the next.
    pub fuel_per_second: u64,
    /// Of all deliveries.
    pub all: Quota,
    /// Of the deliveries whose key begins with a prefix; the longest that fits counts.
    pub prefixes: Vec<(Arc<str>, Quota)>,
}

/// What some deliveries may do together; 0: no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quota {
    /// Deliveries begun in a second.
    pub rate: u32,
    /// Deliveries at the same time.
    pub concurrency: u32,
}

/// Which limit holds something back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Throttle {
    /// The key of the manifest.
    pub limit: &'static str,
    /// The prefix of the keys; none: of the whole plugin.
    pub prefix: Option<Arc<str>>,
}

impl fmt::Display for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is reached", self.limit)?;
        self.prefix.as_ref().map_or(Ok(()), |prefix| write!(f, " by keys with prefix `{prefix}`"))
    }
}

/// A [`Quota`] at work.
#[derive(Debug)]
struct Gate {
    quota: Quota,
    bucket: Option<Bucket>,
    running: usize,
}

impl Gate {
    fn new(quota: Quota, now_ms: u64) -> Self {
        let bucket = (quota.rate > 0).then(|| Bucket::new(u64::from(quota.rate), now_ms));
        Self { quota, bucket, running: 0 }
    }

    /// How many deliveries may begin by what runs.
    fn places(&self) -> usize {
        let concurrency = usize::try_from(self.quota.concurrency).unwrap_or(usize::MAX);
        if concurrency == 0 { usize::MAX } else { concurrency.saturating_sub(self.running) }
    }

    /// How many deliveries may begin now.
    fn room(&self) -> usize {
        self.places().min(self.bucket.as_ref().map_or(usize::MAX, Bucket::tokens))
    }

    fn begin(&mut self) {
        self.running += 1;
        if let Some(bucket) = &mut self.bucket {
            bucket.spend(1);
        }
    }

    fn end(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    fn ready_ms(&self) -> Option<u64> {
        self.bucket.as_ref().and_then(Bucket::ready_ms)
    }

    /// The limit that leaves no room; none: there is some.
    fn closed_by(&self, rate: &'static str, concurrency: &'static str) -> Option<&'static str> {
        if self.places() == 0 {
            return Some(concurrency);
        }
        self.ready_ms().map(|_| rate)
    }
}

/// Keys of one prefix.
#[derive(Debug)]
struct Group {
    prefix: Arc<str>,
    gate: Gate,
    /// Lanes that are ready but for the limit, in order of arrival.
    queue: VecDeque<usize>,
}

/// The quotas of a scheduler, with what stands in line for them.
#[derive(Debug)]
pub(super) struct Queues {
    fuel: Option<Bucket>,
    all: Gate,
    groups: Vec<Group>,
    /// Whose turn it is: 0 are the keys of no prefix, then each prefix.
    turn: usize,
}

impl Queues {
    fn new(quotas: &Quotas, now_ms: u64) -> Self {
        let fuel = quotas.fuel_per_second;
        let group = |(prefix, quota): &(Arc<str>, Quota)| Group {
            prefix: Arc::clone(prefix),
            gate: Gate::new(*quota, now_ms),
            queue: VecDeque::new(),
        };
        Self {
            fuel: (fuel > 0).then(|| Bucket::new(fuel, now_ms)),
            all: Gate::new(quotas.all, now_ms),
            groups: quotas.prefixes.iter().map(group).collect(),
            turn: 0,
        }
    }

    /// Goes on with what was spent from a bucket before, where the rate is the same.
    fn inherit(&mut self, old: Self) {
        let same = |new: &mut Option<Bucket>, old: Option<Bucket>| {
            if let (Some(new), Some(old)) = (new, old)
                && new.per_second() == old.per_second()
            {
                *new = old;
            }
        };
        same(&mut self.fuel, old.fuel);
        same(&mut self.all.bucket, old.all.bucket);
        for group in old.groups {
            let known = self.groups.iter_mut().find(|known| known.prefix == group.prefix);
            if let Some(known) = known {
                same(&mut known.gate.bucket, group.gate.bucket);
            }
        }
    }

    /// Nothing runs and nothing stands in line any more.
    pub(super) fn emptied(mut self) -> Self {
        self.all.running = 0;
        for group in &mut self.groups {
            group.gate.running = 0;
            group.queue.clear();
        }
        self
    }

    fn group_of(&self, key: &Key) -> Option<usize> {
        let fits = |group: &Group| key.as_str().starts_with(&*group.prefix);
        let fitting = self.groups.iter().enumerate().filter(|(_, group)| fits(group));
        fitting.max_by_key(|(_, group)| group.prefix.len()).map(|(index, _)| index)
    }

    fn fill(&mut self, now_ms: u64) {
        let of_groups = self.groups.iter_mut().filter_map(|group| group.gate.bucket.as_mut());
        let own = self.fuel.iter_mut().chain(self.all.bucket.as_mut());
        own.chain(of_groups).for_each(|bucket| bucket.fill(now_ms));
    }

    /// How many deliveries the whole plugin may begin now.
    fn room(&self) -> usize {
        let fueled = self.fuel.as_ref().is_none_or(|fuel| fuel.tokens() > 0);
        if fueled { self.all.room() } else { 0 }
    }

    fn takeable(&self, ready: usize) -> usize {
        let grouped = self.groups.iter().map(|group| group.queue.len().min(group.gate.room()));
        self.room().min(grouped.fold(ready, usize::saturating_add))
    }

    fn next(&mut self, ready: &mut VecDeque<usize>) -> Option<usize> {
        if self.room() == 0 {
            return None;
        }
        let sources = self.groups.len() + 1;
        for source in (0..sources).map(|step| (self.turn + step) % sources) {
            let taken = match source.checked_sub(1).and_then(|at| self.groups.get_mut(at)) {
                None => ready.pop_front(),
                Some(group) if group.gate.room() > 0 => group.queue.pop_front(),
                Some(_) => None,
            };
            if taken.is_some() {
                self.turn = (source + 1) % sources;
                return taken;
            }
        }
        None
    }

    fn gates(&mut self, group: Option<usize>) -> impl Iterator<Item = &mut Gate> {
        let group = group.and_then(|at| self.groups.get_mut(at)).map(|group| &mut group.gate);
        std::iter::once(&mut self.all).chain(group)
    }

    /// When something in line may go on for no other reason than that time has passed.
    fn next_ms(&self, ready: usize) -> Option<u64> {
        let queued = || self.groups.iter().filter(|group| !group.queue.is_empty());
        if self.all.places() == 0 || (ready == 0 && queued().next().is_none()) {
            return None;
        }
        let fuel = self.fuel.as_ref().and_then(Bucket::ready_ms);
        if let Some(ready_ms) = fuel.max(self.all.ready_ms()) {
            return Some(ready_ms);
        }
        queued().filter(|group| group.gate.places() > 0).filter_map(|g| g.gate.ready_ms()).min()
    }

    fn closed_by(&self) -> Option<&'static str> {
        if self.fuel.as_ref().is_some_and(|fuel| fuel.tokens() == 0) {
            return Some("limits.fuel-per-second");
        }
        self.all.closed_by("limits.rate", "limits.concurrency")
    }

    fn throttle_of(&self, group: usize) -> Option<Throttle> {
        let group = self.groups.get(group)?;
        let limit = group.gate.closed_by("limits.prefixes.rate", "limits.prefixes.concurrency")?;
        Some(Throttle { limit, prefix: Some(Arc::clone(&group.prefix)) })
    }
}

impl<T> KeyScheduler<T> {
    /// Puts limits in force, in place of those before. Linear in the keys known.
    pub fn set_quotas(&mut self, quotas: &Quotas, now_ms: u64) {
        let none = *quotas == Quotas::default();
        let mut new = (!none).then(|| Queues::new(quotas, now_ms));
        if let (Some(new), Some(old)) = (&mut new, self.queues.take()) {
            new.inherit(old);
        }
        self.queues = new;
        let ids: Vec<usize> = self.lanes.iter().map(|(id, _)| id).collect();
        self.ready.clear();
        for id in ids {
            let Some(lane) = self.lanes.get_mut(id) else { continue };
            let queues = self.queues.as_mut();
            lane.group = lane.key.as_ref().and_then(|key| queues.as_ref()?.group_of(key));
            match lane.phase {
                Phase::Running(_) => {
                    let gates = queues.into_iter().flat_map(|queues| queues.gates(lane.group));
                    gates.for_each(|gate| gate.running += 1);
                }
                Phase::Ready | Phase::Limited => {
                    lane.phase = Phase::Resting;
                    self.place(id);
                }
                Phase::Delayed(_) | Phase::Resting => {}
            }
        }
    }

    /// Whether there are limits, so that the time matters.
    #[must_use]
    pub const fn is_limited(&self) -> bool {
        self.queues.is_some()
    }

    /// Counts fuel that a delivery used.
    pub fn spend(&mut self, fuel: u64) {
        if let Some(bucket) = self.queues.as_mut().and_then(|queues| queues.fuel.as_mut()) {
            bucket.spend(fuel);
        }
    }

    /// The limit that holds back the whole plugin, and how many keys and unkeyed events it does.
    #[must_use]
    pub fn gate(&self) -> Option<(Throttle, usize)> {
        let queues = self.queues.as_ref()?;
        let limit = queues.closed_by()?;
        let grouped = queues.groups.iter().map(|group| group.queue.len());
        let held_back = self.ready.len() + grouped.sum::<usize>();
        (held_back > 0).then_some((Throttle { limit, prefix: None }, held_back))
    }

    /// The prefixes whose limit holds back keys, and how many.
    pub fn throttled(&self) -> impl Iterator<Item = (Throttle, usize)> {
        let queues = self.queues.iter();
        queues.flat_map(|queues| {
            let groups = queues.groups.iter().enumerate();
            groups
                .filter(|(_, group)| !group.queue.is_empty())
                .filter_map(|(at, group)| Some((queues.throttle_of(at)?, group.queue.len())))
        })
    }

    /// The limit that holds back a key; none: nothing of it is ready, or it comes next.
    pub(super) fn throttle(&self, lane: &Lane) -> Option<Throttle> {
        let queues = self.queues.as_ref()?;
        if !matches!(lane.phase, Phase::Ready | Phase::Limited) {
            return None;
        }
        let own = lane.group.and_then(|group| queues.throttle_of(group));
        own.or_else(|| queues.closed_by().map(|limit| Throttle { limit, prefix: None }))
    }

    pub(super) fn fill(&mut self, now_ms: u64) {
        if let Some(queues) = &mut self.queues {
            queues.fill(now_ms);
        }
    }

    /// The lane whose turn it is.
    pub(super) fn next_lane(&mut self) -> Option<usize> {
        match &mut self.queues {
            None => self.ready.pop_front(),
            Some(queues) => queues.next(&mut self.ready),
        }
    }

    pub(super) fn count_takeable(&self) -> usize {
        let ready = self.ready.len();
        self.queues.as_ref().map_or(ready, |queues| queues.takeable(ready))
    }

    /// A taker has the lane from now on.
    pub(super) fn begun(&mut self, id: usize) {
        let Some(lane) = self.lanes.get_mut(id) else { return };
        self.throttled -= usize::from(std::mem::take(&mut lane.throttled));
        let gates = self.queues.iter_mut().flat_map(|queues| queues.gates(lane.group));
        gates.for_each(Gate::begin);
    }

    /// No taker has it any more.
    pub(super) fn ended(&mut self, id: usize) {
        let group = self.lanes.get(id).and_then(|lane| lane.group);
        let gates = self.queues.iter_mut().flat_map(|queues| queues.gates(group));
        gates.for_each(Gate::end);
    }

    pub(super) fn gate_opens_ms(&self) -> Option<u64> {
        let queues = self.queues.as_ref().filter(|_| !self.paused && self.pace != Pace::Still)?;
        queues.next_ms(self.ready.len())
    }

    /// Lanes in line for the limit of a prefix.
    pub(super) fn queued(&self) -> usize {
        let groups = self.queues.iter().flat_map(|queues| &queues.groups);
        groups.map(|group| group.queue.len()).sum()
    }

    pub(super) fn group_of(&self, key: Option<&Key>) -> Option<usize> {
        key.and_then(|key| self.queues.as_ref()?.group_of(key))
    }

    /// Puts a lane in line for the limit of its prefix.
    pub(super) fn queue_up(&mut self, id: usize, group: usize) {
        let queues = self.queues.as_mut();
        if let Some(group) = queues.and_then(|queues| queues.groups.get_mut(group)) {
            group.queue.push_back(id);
        }
    }

    pub(super) fn leave_queue(&mut self, id: usize, group: Option<usize>) {
        let queues = self.queues.as_mut();
        let group = group.and_then(|at| queues.and_then(|queues| queues.groups.get_mut(at)));
        if let Some(group) = group {
            group.queue.retain(|&other| other != id);
        }
    }

    /// Deferred events of a lane that are of use soon.
    pub(super) fn drain_limit(&self, group: Option<usize>) -> usize {
        let group = group.and_then(|at| self.queues.as_ref()?.groups.get(at));
        group.map_or(usize::MAX, |group| group.gate.room().saturating_sub(group.queue.len()).max(1))
    }

    /// Makes a lane at rest a waiting entry where its prefix has no room for it now. Not past the
    /// bound of such entries: then events stay in memory, and the feeder waits.
    pub(super) fn stand_back(&mut self, id: usize) {
        let Some(queues) = &self.queues else { return };
        let Some(lane) = self.lanes.get_mut(id) else { return };
        let Some(group) = lane.group.and_then(|at| queues.groups.get(at)) else { return };
        let ready = lane.phase == Phase::Resting && !lane.waits() && !lane.queue.is_empty();
        let has_room = group.gate.room() > group.queue.len();
        if !ready || has_room || self.throttled >= self.bounds.waiting_max {
            return;
        }
        let Some(head) = self.nodes.pop(&mut lane.queue) else { return };
        self.in_flight -= 1;
        self.in_flight_bytes -= head.weight;
        let (position, until) = (head.position, Until::Now);
        lane.waiting = Some(Waiting { position, attempt: 1, first_ms: None, until, again: false });
        lane.throttled = true;
        self.throttled += 1;
        self.shed(id, 0);
    }
}

#[cfg(test)]
mod tests;
