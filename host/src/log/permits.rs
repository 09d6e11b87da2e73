//! Who waits for room in the effects lane: first come, first served within a plugin, in turn among
//! plugins.

use std::collections::{HashMap, VecDeque};

use tokio::sync::oneshot;

use super::lanes::EffectsPermit;
use crate::event::InstanceId;

/// The queue in front of the effects lane.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    by_instance: HashMap<InstanceId, VecDeque<Waiter>>,
    /// Plugins with a waiter, the next one to be served first.
    turns: VecDeque<InstanceId>,
}

#[derive(Debug)]
struct Waiter {
    bytes: usize,
    granted: oneshot::Sender<EffectsPermit>,
}

impl Waiters {
    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Joins the queue; the answer comes when room was granted.
    pub(super) fn push(
        &mut self,
        instance: InstanceId,
        bytes: usize,
    ) -> oneshot::Receiver<EffectsPermit> {
        let (granted, receiver) = oneshot::channel();
        let queue = self.by_instance.entry(instance).or_default();
        if queue.is_empty() {
            self.turns.push_back(instance);
        }
        queue.push_back(Waiter { bytes, granted });
        receiver
    }

    /// What the next in line wants.
    pub(super) fn next_bytes(&self) -> Option<usize> {
        self.by_instance.get(self.turns.front()?)?.front().map(|waiter| waiter.bytes)
    }

    /// Serves the next in line with `permit`; gives it back where they had gone.
    pub(super) fn grant(&mut self, permit: EffectsPermit) -> Option<EffectsPermit> {
        let Some(instance) = self.turns.pop_front() else { return Some(permit) };
        let Some(queue) = self.by_instance.get_mut(&instance) else { return Some(permit) };
        let Some(waiter) = queue.pop_front() else { return Some(permit) };
        // The permit itself travels: whoever leaves after this gives it back by dropping it.
        let refused = waiter.granted.send(permit).err();
        if queue.is_empty() {
            self.by_instance.remove(&instance);
        } else if refused.is_none() {
            self.turns.push_back(instance);
        } else {
            self.turns.push_front(instance);
        }
        refused
    }

    /// Sends everybody away.
    pub(super) fn clear(&mut self) {
        self.by_instance.clear();
        self.turns.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::super::lanes::Lanes;
    use super::*;

    #[test]
    fn plugins_take_turns_and_one_is_served_in_order() {
        let (lanes, mut waiters) = (Lanes::new(), Waiters::default());
        let (a, b) = (InstanceId(1), InstanceId(2));
        let mut got: Vec<_> = [(a, 1), (a, 2), (a, 3), (b, 4)]
            .map(|(who, bytes)| (bytes, waiters.push(who, bytes)))
            .into();
        let mut order = Vec::new();
        while let Some(bytes) = waiters.next_bytes() {
            assert!(waiters.grant(EffectsPermit::new(&lanes, bytes)).is_none());
            order.push(bytes);
        }
        assert_eq!(order, [1, 4, 2, 3]);
        assert!(
            got.iter_mut().all(|(bytes, granted)| granted.try_recv().unwrap().bytes() == *bytes)
        );
    }

    #[test]
    fn one_who_left_takes_no_turn() {
        let (lanes, mut waiters) = (Lanes::new(), Waiters::default());
        drop(waiters.push(InstanceId(1), 1));
        let _stays = waiters.push(InstanceId(1), 2);
        let permit = waiters.grant(EffectsPermit::new(&lanes, 1)).unwrap();
        assert_eq!(waiters.next_bytes(), Some(2));
        assert!(waiters.grant(permit).is_none());
        assert!(waiters.is_empty());
    }
}
