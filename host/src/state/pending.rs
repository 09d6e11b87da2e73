//! What deliveries of one key wrote whose commits are on their way to the disk.

use std::collections::VecDeque;

use super::account::Usage;
use crate::effects::StateWrite;
use crate::event::Position;

/// The writes of one delivery.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pending {
    /// Of the event that was delivered.
    pub(super) position: Position,
    pub(super) writes: Vec<StateWrite>,
    /// What was claimed for them.
    pub(super) claimed: Usage,
}

/// Those of all deliveries of a key, oldest first.
#[derive(Debug, Default)]
pub(super) struct PendingWrites {
    /// Mostly it is the only one. It stands where the key does: a list would be as far away again, and
    /// keep its memory for every key that ever had state.
    oldest: Option<Pending>,
    newer: VecDeque<Pending>,
}

impl PendingWrites {
    pub(super) const fn is_empty(&self) -> bool {
        self.oldest.is_none()
    }

    pub(super) fn push(&mut self, pending: Pending) {
        match self.oldest {
            None => self.oldest = Some(pending),
            Some(_) => self.newer.push_back(pending),
        }
    }

    /// Takes those of a delivery away, if they are the oldest.
    pub(super) fn settle(&mut self, position: Position) -> Option<Pending> {
        let settled = self.oldest.take_if(|oldest| oldest.position == position)?;
        self.oldest = self.newer.pop_front();
        if self.newer.is_empty() {
            self.newer = VecDeque::new();
        }
        Some(settled)
    }

    /// All writes, oldest first.
    pub(super) fn writes(&self) -> impl DoubleEndedIterator<Item = &StateWrite> {
        self.oldest.iter().chain(&self.newer).flat_map(|pending| &pending.writes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(position: u64, names: &[&str]) -> Pending {
        let write =
            |name: &&str| StateWrite { name: (*name).into(), value: None, expires_ms: None };
        let (writes, claimed) = (names.iter().map(write).collect(), Usage::default());
        Pending { position: Position(position), writes, claimed }
    }

    #[test]
    fn they_come_and_go_in_their_order() {
        let mut all = PendingWrites::default();
        assert!(all.is_empty());
        all.push(pending(3, &["a", "b"]));
        all.push(pending(5, &["c"]));
        all.push(pending(8, &["a"]));
        let names = |all: &PendingWrites| -> String { all.writes().map(|w| &*w.name).collect() };
        assert_eq!(names(&all), "abca");
        assert_eq!(all.settle(Position(5)), None, "not the oldest");
        assert_eq!(all.settle(Position(3)), Some(pending(3, &["a", "b"])));
        assert_eq!(names(&all), "ca");
        assert_eq!(all.settle(Position(5)), Some(pending(5, &["c"])));
        assert_eq!(all.newer.capacity(), 0, "the list is given back");
        all.push(pending(9, &["d"]));
        assert_eq!(names(&all), "ad");
        assert!(all.settle(Position(8)).is_some() && all.settle(Position(9)).is_some());
        assert!(all.is_empty() && all.settle(Position(9)).is_none());
    }
}
