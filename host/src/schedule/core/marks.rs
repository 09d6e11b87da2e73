//! Where the first incomplete events are: what tells how far a plugin is, and where a restart has to
//! read on.

use std::collections::BTreeSet;

use super::{Deferred, KeyScheduler, Lane, Reopened};
use crate::event::{Key, Position};

/// Incomplete events of some lanes.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Every event in memory or waiting.
    open: BTreeSet<Position>,
    /// The first deferred event of every lane that has some.
    behind: BTreeSet<(Position, usize)>,
}

impl Marks {
    /// The first incomplete event.
    pub(super) fn first(&self) -> Option<Position> {
        let open = self.open.first().copied();
        let behind = self.behind.first().map(|&(position, _)| position);
        open.into_iter().chain(behind).min()
    }

    /// An event is in memory no more.
    pub(super) fn forget(&mut self, position: Position) {
        self.open.remove(&position);
    }

    /// Lanes with deferred events.
    pub(super) fn deferred(&self) -> usize {
        self.behind.len()
    }
}

/// How far a plugin is, for who has to find its place again after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settled {
    /// See [`Cursor::low`](super::Cursor::low).
    pub low: Position,
    /// See [`Cursor::seen`](super::Cursor::seen).
    pub seen: Position,
    /// Keys that were parked or held, and of which nothing at or below `seen` is incomplete now.
    pub back: Vec<Key>,
    /// What stands behind keys that are parked or held, where that is another than was told.
    pub deferred: Vec<(Key, Deferred)>,
    /// No event of those stands after it.
    pub read: Position,
}

impl<T> KeyScheduler<T> {
    /// How far the plugin is. Each key that is back is told once, as is what stands behind one that
    /// is not: whoever asks has to note it.
    pub fn settled(&mut self) -> Settled {
        let cursor = self.cursor();
        let deferred = std::mem::take(&mut self.recounted);
        let mut settled = Settled {
            low: cursor.low,
            seen: cursor.seen,
            back: Vec::new(),
            deferred: deferred.into_iter().filter_map(|id| self.deferred_aside(id)).collect(),
            read: self.offered,
        };
        // Before that, keys that are back may have incomplete events below the last one told.
        if cursor.seen >= self.settled {
            self.settled = cursor.seen;
            settled.back = self.back.drain().collect();
        }
        settled
    }

    fn deferred_aside(&self, id: usize) -> Option<(Key, Deferred)> {
        let lane = self.lanes.get(id).filter(|lane| lane.aside && !lane.uncounted)?;
        Some((lane.key.clone()?, lane.deferred?))
    }

    /// Starts to read after a position, as nothing at or below it is incomplete but what is
    /// restored next.
    pub fn start_after(&mut self, seen: Position) {
        self.scanned(seen);
        self.settled = self.settled.max(seen);
    }

    /// Whether an event is in memory or waiting.
    #[must_use]
    pub fn is_open(&self, position: Position) -> bool {
        self.here.open.contains(&position) || self.aside.open.contains(&position)
    }

    fn marks(&mut self, id: usize) -> &mut Marks {
        let aside = self.lanes.get(id).is_some_and(|lane| lane.aside);
        if aside { &mut self.aside } else { &mut self.here }
    }

    pub(super) fn mark_open(&mut self, id: usize, position: Position) {
        self.marks(id).open.insert(position);
    }

    pub(super) fn unmark_open(&mut self, id: usize, position: Position) {
        self.marks(id).open.remove(&position);
    }

    pub(super) fn mark_behind(&mut self, id: usize, first: Position) {
        self.marks(id).behind.insert((first, id));
    }

    pub(super) fn unmark_behind(&mut self, id: usize, first: Position) {
        self.marks(id).behind.remove(&(first, id));
    }

    /// Moves the marks of a lane that began, or ceased, to stand aside.
    pub(super) fn settle_aside(&mut self, id: usize) {
        let Some(lane) = self.lanes.get_mut(id) else { return };
        let aside = lane.stands_aside();
        if aside == lane.aside {
            return;
        }
        lane.aside = aside;
        let key = lane.key.clone();
        let (from, to) = match aside {
            true => (&mut self.here, &mut self.aside),
            false => (&mut self.aside, &mut self.here),
        };
        let Some(lane) = self.lanes.get(id) else { return };
        let Lane { queue, waiting, deferred, .. } = lane;
        let again = self.again.get(&id).into_iter().flat_map(Reopened::positions);
        let waiting = waiting.iter().map(|waiting| waiting.position);
        for position in self.nodes.positions(*queue).chain(waiting).chain(again) {
            if from.open.remove(&position) {
                to.open.insert(position);
            }
        }
        if let Some(deferred) = deferred {
            from.behind.remove(&(deferred.first, id));
            to.behind.insert((deferred.first, id));
        }
        if aside {
            self.recounted.insert(id);
        }
        match key {
            Some(key) if aside => drop(self.back.take(&key)),
            Some(key) => drop(self.back.insert(key)),
            None => {}
        }
    }

    /// Positions of the events in memory or waiting, in no order.
    pub fn open(&self) -> impl Iterator<Item = Position> {
        self.here.open.iter().chain(&self.aside.open).copied()
    }
}
