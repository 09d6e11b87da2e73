//! What deliveries of one key wrote whose commits are on their way to the disk.

use std::collections::VecDeque;

use smallvec::SmallVec;

use super::account::Usage;
use crate::effects::StateWrite;
use crate::event::Position;

/// The writes of one delivery: mostly it is one.
pub(super) type Writes = SmallVec<[StateWrite; 1]>;

/// What one delivery wrote: at least one value.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pending {
    /// Of the event that was delivered.
    pub(super) position: Position,
    pub(super) writes: Vec<StateWrite>,
    /// What was claimed for them.
    pub(super) claimed: Usage,
}

/// The writes of all deliveries of a key, oldest first.
#[derive(Debug, Default)]
pub(super) struct PendingWrites {
    /// Of the oldest delivery, where there is one.
    position: Position,
    /// Its first write. Mostly that is all there is. It stands where the key does: a list would be as
    /// far away again, and keep its memory for every key that ever had state.
    first: Option<StateWrite>,
    more: Option<Box<More>>,
}

/// What there is beside the first write of the oldest delivery.
#[derive(Debug, Default)]
struct More {
    /// Its other writes.
    rest: Vec<StateWrite>,
    /// What was claimed for all of them.
    claimed: Usage,
    newer: VecDeque<Pending>,
}

impl PendingWrites {
    pub(super) const fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(super) fn push(&mut self, pending: Pending) {
        match self.first {
            None => self.begin(pending),
            Some(_) => self.more.get_or_insert_default().newer.push_back(pending),
        }
    }

    /// Takes those of a delivery away, with what was claimed for them, if they are the oldest.
    pub(super) fn settle(&mut self, position: Position) -> Option<(Writes, Usage)> {
        let oldest = self.position;
        let first = self.first.take_if(|_| oldest == position)?;
        let mut writes = Writes::from_buf([first]);
        let mut claimed = Usage::default();
        if let Some(mut more) = self.more.take() {
            writes.extend(more.rest.drain(..));
            claimed = std::mem::take(&mut more.claimed);
            if let Some(next) = more.newer.pop_front() {
                self.more = Some(more).filter(|more| !more.newer.is_empty());
                self.begin(next);
            }
        }
        Some((writes, claimed))
    }

    /// The newest write of a name, if any.
    pub(super) fn newest(&self, name: &str) -> Option<&StateWrite> {
        let is_wanted = |write: &&StateWrite| write.name == name;
        let later = self.more.as_ref().and_then(|more| {
            let newer = more.newer.iter().rev().flat_map(|pending| pending.writes.iter().rev());
            newer.chain(more.rest.iter().rev()).find(is_wanted)
        });
        later.or_else(|| self.first.as_ref().filter(is_wanted))
    }

    /// All writes, oldest first.
    pub(super) fn writes(&self) -> impl Iterator<Item = &StateWrite> {
        let more = self.more.iter().flat_map(|more| {
            let newer = more.newer.iter().flat_map(|pending| &pending.writes);
            more.rest.iter().chain(newer)
        });
        self.first.iter().chain(more)
    }

    fn begin(&mut self, Pending { position, writes, claimed }: Pending) {
        let mut writes = writes.into_iter();
        (self.position, self.first) = (position, writes.next());
        if writes.len() > 0 || claimed != Usage::default() {
            let more = self.more.get_or_insert_default();
            more.rest.extend(writes);
            more.claimed = claimed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effects::ends_at;

    fn writes(names: &[&str]) -> Vec<StateWrite> {
        let write =
            |name: &&str| StateWrite { name: (*name).into(), value: None, expires_ms: None };
        names.iter().map(write).collect()
    }

    fn pending(position: u64, names: &[&str], claimed_bytes: u64) -> Pending {
        let claimed = Usage { bytes: claimed_bytes, keys: 0 };
        Pending { position: Position(position), writes: writes(names), claimed }
    }

    fn settled(names: &[&str], claimed_bytes: u64) -> Option<(Writes, Usage)> {
        Some((writes(names).into(), Usage { bytes: claimed_bytes, keys: 0 }))
    }

    #[test]
    fn they_come_and_go_in_their_order() {
        let mut all = PendingWrites::default();
        assert!(all.is_empty());
        all.push(pending(3, &["a", "b"], 7));
        all.push(pending(5, &["c"], 0));
        all.push(pending(8, &["a"], 9));
        let names = |all: &PendingWrites| -> String { all.writes().map(|w| &*w.name).collect() };
        assert_eq!(names(&all), "abca");
        assert_eq!(all.settle(Position(5)), None, "not the oldest");
        assert_eq!(all.settle(Position(3)), settled(&["a", "b"], 7));
        assert_eq!(names(&all), "ca");
        assert_eq!(all.settle(Position(5)), settled(&["c"], 0));
        all.push(pending(9, &["d", "e"], 0));
        assert_eq!(names(&all), "ade");
        assert_eq!(all.settle(Position(8)), settled(&["a"], 9));
        assert_eq!(all.settle(Position(9)), settled(&["d", "e"], 0));
        assert!(all.is_empty() && all.settle(Position(9)).is_none());
        assert!(all.more.is_none(), "the lists are given back");
        all.push(pending(10, &["f"], 0));
        assert!(all.more.is_none(), "one write needs none");
    }

    #[test]
    fn the_newest_write_of_a_name_is_found() {
        let mut all = PendingWrites::default();
        assert_eq!(all.newest("a"), None);
        let ended = |all: &PendingWrites, name| all.newest(name).map(|write| write.expires_ms);
        for (number, names) in [["a", "b"], ["b", "c"], ["c", "d"]].into_iter().enumerate() {
            let mut next = pending(number as u64, &names, 0);
            next.writes.iter_mut().for_each(|w| w.expires_ms = Some(ends_at(number as u64 + 1)));
            all.push(next);
        }
        let found = ["a", "b", "c", "d"].map(|name| ended(&all, name).unwrap().unwrap().get());
        assert_eq!(found, [1, 2, 3, 3]);
        assert_eq!(ended(&all, "e"), None);
    }
}
