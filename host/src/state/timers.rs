//! Pending timers: what was set and neither cancelled, replaced nor served.
//!
//! A timer is (plugin, generation, key, name), and *which* timer of that name it is, is said by the
//! place in the log where it was set. Only numbers are in memory, about 130 bytes a timer; key, name
//! and data are read again from that place when it fires or is listed.
//!
//! Rule: everything here but the notes of deliveries under way is a function of the log.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::event::{CommitNumber, Generation, InstanceId, KeyHash, Position};
use crate::log::codec::TimerRef;
use crate::log::record::{Control, LostDeliveries};

#[cfg(test)]
mod tests;

/// Where the log says that a timer was set: which one it is, for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetAt {
    /// The commit.
    pub commit: CommitNumber,
    /// Which of the commit's timer records, from 0.
    pub index: u32,
}

/// A timer in the order of firing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Due {
    /// Log time before which it does not fire, milliseconds since the Unix epoch.
    pub due_ms: u64,
    /// Which one.
    pub set: SetAt,
}

/// Whose timers: a new generation starts with its own.
pub type Holder = (InstanceId, Generation);

/// A pending timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    /// Which one, and when.
    pub due: Due,
    /// Where it fired, if it did: it is pending until that delivery is over.
    pub fired: Option<Position>,
}

/// The end of a delivery, as far as timers go.
#[derive(Debug, Clone, Copy)]
pub struct Served<'a> {
    /// The plugin.
    pub holder: Holder,
    /// The input's key.
    pub key: &'a str,
    /// The input.
    pub position: Position,
    /// The commit that ends it.
    pub commit: CommitNumber,
    /// Whether it was given up. A timer whose fire was is pending until that is redriven or
    /// discarded.
    pub dead: bool,
}

/// A row of a checkpoint: a pending timer without its texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    pub(super) holder: Holder,
    pub(super) id: Id,
    pub(super) pending: Pending,
}

/// Key and name, as hashes: the first part is the key's alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id(pub(super) [u64; 3]);

/// All pending timers of one bus.
#[derive(Debug, Default)]
pub struct Timers {
    piles: Mutex<BTreeMap<Holder, Pile>>,
    /// By key: the last delivery under way that may change what is pending there.
    under_way: Mutex<HashMap<(InstanceId, KeyHash), Position>>,
    under_way_count: AtomicUsize,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Pile {
    by_name: BTreeMap<Id, Entry>,
    /// Those that did not fire.
    order: BTreeSet<Due>,
    /// Those that did, by where.
    fired: BTreeMap<Position, Id>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    due: Due,
    /// 0: it did not fire.
    fired: Position,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing under these locks can be left half-done by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Id {
    pub(super) fn of(key: &str, name: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(key.len() as u64).to_le_bytes());
        hasher.update(key.as_bytes());
        hasher.update(name.as_bytes());
        let mut both = [0; 16];
        hasher.finalize_xof().fill(&mut both);
        let both = u128::from_le_bytes(both);
        Self([key_part(KeyHash::of(key)), low(both >> 64), low(both)])
    }
}

fn key_part(key: KeyHash) -> u64 {
    low(key.0)
}

/// The lower half.
fn low(wide: u128) -> u64 {
    u64::try_from(wide & u128::from(u64::MAX)).unwrap_or_default()
}

impl Pile {
    fn insert(&mut self, id: Id, entry: Entry) {
        self.remove(id);
        self.by_name.insert(id, entry);
        if entry.fired == Position(0) {
            self.order.insert(entry.due);
        } else {
            self.fired.insert(entry.fired, id);
        }
    }

    fn remove(&mut self, id: Id) {
        let Some(entry) = self.by_name.remove(&id) else { return };
        self.order.remove(&entry.due);
        self.fired.remove(&entry.fired);
    }

    fn change(&mut self, key: &str, commit: CommitNumber, index: u32, change: &TimerRef<'_>) {
        match *change {
            TimerRef::Set { name, due_ms, .. } => {
                let due = Due { due_ms, set: SetAt { commit, index } };
                self.insert(Id::of(key, name), Entry { due, fired: Position(0) });
            }
            TimerRef::Cancel { .. } if planted!(LosesTimerCancel) => {}
            TimerRef::Cancel { name } => self.remove(Id::of(key, name)),
        }
    }

    /// How many fired after a position; no more than `most` are counted.
    fn fired_after(&self, position: Position, most: usize) -> usize {
        let after = Position(position.0.saturating_add(1));
        self.fired.range(after..).take(most).count()
    }
}

impl Entry {
    fn view(&self) -> Pending {
        let fired = (self.fired != Position(0)).then_some(self.fired);
        Pending { due: self.due, fired }
    }
}

/// The fold's side.
impl Timers {
    /// Takes the end of a delivery of the key with this hash; no changes: it is of a generation that
    /// is over. The delivery is settled last: whoever finds it settled finds what it changed.
    pub fn end<'a>(
        &self,
        done: &Served<'_>,
        key: KeyHash,
        changes: Option<impl IntoIterator<Item = TimerRef<'a>>>,
    ) {
        if let Some(changes) = changes {
            self.apply(done, changes);
        }
        self.settle(done.holder.0, key, done.position);
    }

    /// Takes the end of a delivery: a fire has served its timer, then the changes hold, in their
    /// order. Deliveries of generations that are over are not to be given.
    fn apply<'a>(&self, done: &Served<'_>, changes: impl IntoIterator<Item = TimerRef<'a>>) {
        let mut changes = changes.into_iter().peekable();
        let mut piles = lock(&self.piles);
        if changes.peek().is_none() && !piles.contains_key(&done.holder) {
            return;
        }
        let pile = piles.entry(done.holder).or_default();
        let first = pile.order.first().copied();
        let served = pile.fired.get(&done.position).copied().filter(|_| !done.dead);
        if let Some(id) = served {
            pile.remove(id);
        }
        for (index, change) in (0_u32..).zip(changes) {
            pile.change(done.key, done.commit, index, &change);
        }
        let is_earlier = pile.order.first().copied() != first;
        if pile.by_name.is_empty() {
            piles.remove(&done.holder);
        }
        drop(piles);
        if is_earlier || served.is_some() {
            self.changed.notify_one();
        }
    }

    /// Takes a fire: the timer waits for the end of that delivery now. One that was cancelled or
    /// replaced meanwhile is passed over.
    pub fn fire(&self, holder: Holder, (key, name): (&str, &str), set: SetAt, at: Position) {
        let id = Id::of(key, name);
        let mut piles = lock(&self.piles);
        let Some(pile) = piles.get_mut(&holder) else { return };
        let Some(entry) = pile.by_name.get(&id).copied() else { return };
        if entry.due.set == set && entry.fired == Position(0) {
            pile.insert(id, Entry { fired: at, ..entry });
        }
    }

    /// Drops the timer whose fire at this position is never going to be delivered: it was given up, or
    /// is over already.
    pub fn discard(&self, instance: InstanceId, position: Position) {
        let mut piles = lock(&self.piles);
        for (_, pile) in piles.range_mut(of_instance(instance)) {
            if let Some(id) = pile.fired.get(&position).copied() {
                pile.remove(id);
            }
        }
        piles.retain(|_, pile| !pile.by_name.is_empty());
    }

    /// Drops the timers whose fires are over though nothing says how they ended. Fires that come
    /// later in the log are to be given to [`Timers::discard`].
    fn pass(&self, lost: &LostDeliveries) {
        let fired = |(first, last): &(Position, Position)| -> Vec<Position> {
            let piles = lock(&self.piles);
            let pile = piles.get(&(lost.instance, lost.generation));
            let fired = pile.filter(|_| first <= last).map(|pile| pile.fired.range(*first..=*last));
            fired.into_iter().flatten().map(|(position, _)| *position).collect()
        };
        let fired = lost.positions.iter().flat_map(fired);
        fired.for_each(|position| self.discard(lost.instance, position));
    }

    /// A generation begins just after a position: the timers of those before it never fire. Those whose
    /// fires up to there were given up are its own: these may yet be redriven.
    fn rewind(&self, (instance, generation): Holder, after: Position) {
        let mut piles = lock(&self.piles);
        let before = (instance, Generation(0))..(instance, generation);
        let older: Vec<Pile> =
            piles.extract_if(before, |_, _| true).map(|(_, pile)| pile).collect();
        for pile in older {
            for id in pile.fired.range(..=after).map(|(_, id)| *id) {
                if let Some(entry) = pile.by_name.get(&id) {
                    piles.entry((instance, generation)).or_default().insert(id, *entry);
                }
            }
        }
    }

    /// Takes what a control record means for timers; the end of a plugin is [`Timers::forget`].
    pub fn apply_control(&self, control: &Control) {
        match control {
            Control::Rewind { instance, generation, after, .. } => {
                self.rewind((*instance, *generation), *after);
            }
            Control::Discard { instance, position, .. } => self.discard(*instance, *position),
            Control::Lost { over, .. } => over.iter().for_each(|lost| self.pass(lost)),
            _ => {}
        }
    }

    /// Drops everything of a plugin.
    pub fn forget(&self, instance: InstanceId) {
        lock(&self.piles).retain(|(of, _), _| *of != instance);
    }

    /// Forgets everything: as new.
    pub(super) fn clear(&self) {
        lock(&self.piles).clear();
    }

    /// At most `limit` rows in order, after a place in that order.
    pub(crate) fn rows(&self, after: Option<(Holder, Id)>, limit: usize) -> Vec<Row> {
        use std::ops::Bound::{Excluded, Unbounded};
        let piles = lock(&self.piles);
        let mut rows = Vec::new();
        let from = after.map_or((InstanceId(0), Generation(0)), |(holder, _)| holder);
        for (holder, pile) in piles.range(from..) {
            let start = match after {
                Some((of, id)) if of == *holder => Excluded(id),
                _ => Unbounded,
            };
            let more = limit.saturating_sub(rows.len());
            let some = pile.by_name.range((start, Unbounded)).take(more);
            rows.extend(some.map(|(id, entry)| Row {
                holder: *holder,
                id: *id,
                pending: entry.view(),
            }));
        }
        rows
    }

    /// Puts in what a checkpoint holds.
    pub(crate) fn restore(&self, rows: impl IntoIterator<Item = Row>) {
        let mut piles = lock(&self.piles);
        for Row { holder, id, pending } in rows {
            let fired = pending.fired.unwrap_or_default();
            let pile = piles.entry(holder).or_default();
            pile.insert(id, Entry { due: pending.due, fired });
        }
    }
}

fn of_instance(instance: InstanceId) -> std::ops::RangeInclusive<Holder> {
    (instance, Generation(0))..=(instance, Generation(u32::MAX))
}

/// The side of who fires.
impl Timers {
    /// Timers that are due at `now_ms` and did not fire, in due order within a plugin: at most `most`
    /// of each, and no more than what makes `ahead_max` fires after the position that the plugin has
    /// read up to, as `read` says.
    pub(crate) fn due(
        &self,
        now_ms: u64,
        most: usize,
        read: impl Fn(InstanceId) -> Position,
        ahead_max: usize,
    ) -> Vec<(Holder, Due)> {
        let now_ms = if planted!(FiresEarly) { now_ms + 2000 } else { now_ms };
        let piles = lock(&self.piles);
        let mut due = Vec::new();
        for (holder, pile) in piles.iter() {
            if pile.order.first().is_none_or(|first| first.due_ms > now_ms) {
                continue;
            }
            let ahead = pile.fired_after(read(holder.0), ahead_max);
            let some = pile.order.iter().take_while(|due| due.due_ms <= now_ms);
            let some = some.take(most.min(ahead_max.saturating_sub(ahead)));
            due.extend(some.map(|due| (*holder, *due)));
        }
        due
    }

    /// Leaves a timer out of the order for as long as this host runs.
    pub(crate) fn give_up(&self, holder: Holder, due: Due) {
        if let Some(pile) = lock(&self.piles).get_mut(&holder) {
            pile.order.remove(&due);
        }
    }

    /// When the next one is due; none: nothing waits for its time.
    #[must_use]
    pub fn next_due_ms(&self) -> Option<u64> {
        lock(&self.piles).values().filter_map(|pile| pile.order.first()).map(|d| d.due_ms).min()
    }

    /// Resolves once something changed that who fires wants to know: a timer due sooner than all of
    /// its plugin's, or a fire that is over. One waiter.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Makes who fires look again: the clock was set, say.
    pub fn wake(&self) {
        self.changed.notify_one();
    }
}

/// The side of deliveries and of people.
impl Timers {
    /// The timer of this name, as far as the log is folded.
    #[must_use]
    pub fn pending(&self, holder: Holder, key: &str, name: &str) -> Option<Pending> {
        let id = Id::of(key, name);
        lock(&self.piles).get(&holder)?.by_name.get(&id).map(Entry::view)
    }

    /// Timers pending of a generation besides that of this name.
    pub(super) fn others(&self, holder: Holder, key: &str, name: &str) -> usize {
        let piles = lock(&self.piles);
        let Some(pile) = piles.get(&holder) else { return 0 };
        pile.by_name.len() - usize::from(pile.by_name.contains_key(&Id::of(key, name)))
    }

    /// Timers pending of a plugin.
    #[must_use]
    pub fn count(&self, instance: InstanceId) -> usize {
        let piles = lock(&self.piles);
        piles.range(of_instance(instance)).map(|(_, pile)| pile.by_name.len()).sum()
    }

    /// Pending timers in due order, after `after`, at most `limit`; only those of a key if one is
    /// given. A look at all that have fired, and at all of the key, is part of it.
    #[must_use]
    pub fn page(
        &self,
        holder: Holder,
        key: Option<KeyHash>,
        after: Option<Due>,
        limit: usize,
    ) -> Vec<Pending> {
        use std::ops::Bound::{Excluded, Unbounded};
        let piles = lock(&self.piles);
        let Some(pile) = piles.get(&holder) else { return Vec::new() };
        let mut page = BTreeMap::new();
        let mut add = |entry: &Entry| {
            if after.is_none_or(|after| entry.due > after) {
                page.insert(entry.due, entry.view());
                if page.len() > limit {
                    page.pop_last();
                }
            }
        };
        if let Some(part) = key.map(key_part) {
            let of_key = Id([part, 0, 0])..=Id([part, u64::MAX, u64::MAX]);
            pile.by_name.range(of_key).for_each(|(_, entry)| add(entry));
        } else {
            let waiting = pile.order.range((after.map_or(Unbounded, Excluded), Unbounded));
            waiting.take(limit).for_each(|due| add(&Entry { due: *due, fired: Position(0) }));
            pile.fired.values().filter_map(|id| pile.by_name.get(id)).for_each(add);
        }
        page.into_values().collect()
    }

    /// Notes that a delivery is about to be committed which may change what is pending on its key.
    /// To be called before the key's next delivery can begin.
    pub fn submit(&self, instance: InstanceId, key: KeyHash, position: Position) {
        let mut under_way = lock(&self.under_way);
        under_way.insert((instance, key), position);
        self.under_way_count.store(under_way.len(), Ordering::SeqCst);
    }

    /// Notes that a delivery is folded.
    fn settle(&self, instance: InstanceId, key: KeyHash, position: Position) {
        if self.under_way_count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut under_way = lock(&self.under_way);
        if under_way.get(&(instance, key)) == Some(&position) {
            under_way.remove(&(instance, key));
        }
        self.under_way_count.store(under_way.len(), Ordering::SeqCst);
    }

    /// Whether all that deliveries of the key have committed is folded: only then does
    /// [`Timers::pending`] say what the key's next delivery wants to know.
    #[must_use]
    pub fn is_settled(&self, instance: InstanceId, key: KeyHash) -> bool {
        !lock(&self.under_way).contains_key(&(instance, key))
    }
}
