//! What a repair of the log says about what it could not keep.

use super::instance::Instance;
use super::ledger::Ledger;
use crate::event::{InstanceId, Position};
use crate::log::record::LostDeliveries;

/// Positions that one run may have: a longer one is no repair's, and would cost memory.
const RUN_MAX: u64 = 1 << 32;

impl Ledger {
    /// Takes that records are lost: identities up to `instances` are not given again, and the
    /// deliveries in `over` are not made again.
    pub(super) fn lose(&mut self, instances: InstanceId, over: &[LostDeliveries]) {
        self.keep_identities(instances);
        for lost in over {
            let ignored = self.over(lost);
            self.ignore(ignored);
        }
    }

    /// Gives how many runs made no sense.
    fn over(&mut self, lost: &LostDeliveries) -> u64 {
        let Some(plugin) = self.instance_mut(lost.instance) else { return 1 };
        // One of an earlier generation says nothing about this one.
        if plugin.generation != lost.generation {
            return 0;
        }
        let runs = lost.positions.iter();
        runs.map(|run| u64::from(!plugin.pass(*run))).sum()
    }
}

impl Instance {
    fn pass(&mut self, (first, last): (Position, Position)) -> bool {
        let first = first.0.max(self.low.0.saturating_add(1));
        if last.0.saturating_sub(first) >= RUN_MAX {
            return false;
        }
        if first <= last.0 {
            self.completed.insert_range(first..=last.0);
        }
        true
    }
}
