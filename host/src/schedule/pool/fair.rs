//! Deficit round-robin (Shreedhar and Varghese, 1995) over tenants, on time that is known only
//! after it was spent: a run may overdraw its tenant, which then sits out until that is paid back.

use std::collections::VecDeque;

use slab::Slab;

/// What a tenant with a full share may spend before the next one's turn.
pub(super) const QUANTUM_NS: i64 = 1_000_000;
/// Most that a tenant pays back: one endless run does not shut it out for as long again.
const DEBT_NS_MAX: i64 = 100 * QUANTUM_NS;

/// Names a tenant; worthless once it was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TenantId {
    index: usize,
    serial: u64,
}

#[derive(Debug)]
struct Line<R> {
    serial: u64,
    queue: VecDeque<R>,
    deficit_ns: i64,
    /// What it may spend before the next one's turn.
    quantum_ns: i64,
    in_ring: bool,
}

/// Who runs next. `R` is what is to run.
#[derive(Debug)]
pub(super) struct Fair<R> {
    lines: Slab<Line<R>>,
    /// Tenants with something to run, the one whose turn it is in front.
    ring: VecDeque<usize>,
    serial: u64,
}

impl<R> Fair<R> {
    pub(super) const fn new() -> Self {
        Self { lines: Slab::new(), ring: VecDeque::new(), serial: 0 }
    }

    pub(super) fn add(&mut self, quantum_ns: i64) -> TenantId {
        self.serial += 1;
        let serial = self.serial;
        let queue = VecDeque::new();
        let line = Line { serial, queue, deficit_ns: 0, quantum_ns, in_ring: false };
        TenantId { index: self.lines.insert(line), serial }
    }

    /// Forgets a tenant, and hands back what it had to run.
    pub(super) fn remove(&mut self, id: TenantId) -> VecDeque<R> {
        if self.line(id).is_none() {
            return VecDeque::new();
        }
        self.ring.retain(|&index| index != id.index);
        self.lines.try_remove(id.index).map(|line| line.queue).unwrap_or_default()
    }

    fn line(&mut self, id: TenantId) -> Option<&mut Line<R>> {
        self.lines.get_mut(id.index).filter(|line| line.serial == id.serial)
    }

    /// Queues something to run; gives it back where the tenant is gone.
    pub(super) fn push(&mut self, id: TenantId, run: R) -> Result<(), R> {
        let Some(line) = self.line(id) else { return Err(run) };
        line.queue.push_back(run);
        if !line.in_ring {
            line.in_ring = true;
            self.ring.push_back(id.index);
        }
        Ok(())
    }

    /// What runs next.
    pub(super) fn pick(&mut self) -> Option<(TenantId, R)> {
        loop {
            let index = *self.ring.front()?;
            let alone = self.ring.len() == 1;
            let Some(line) = self.lines.get_mut(index) else {
                self.ring.pop_front();
                continue;
            };
            if line.queue.is_empty() {
                // Unused time is not saved up, but what is owed stays owed.
                line.in_ring = false;
                line.deficit_ns = line.deficit_ns.min(0);
                self.ring.pop_front();
                continue;
            }
            if line.deficit_ns <= 0 && alone {
                line.deficit_ns = line.quantum_ns;
            }
            if line.deficit_ns <= 0 {
                line.deficit_ns += line.quantum_ns;
                self.ring.rotate_left(1);
                continue;
            }
            let id = TenantId { index, serial: line.serial };
            return line.queue.pop_front().map(|run| (id, run));
        }
    }

    /// Notes what a run of a tenant took.
    pub(super) fn charge(&mut self, id: TenantId, spent_ns: u64) {
        let Some(line) = self.line(id) else { return };
        let spent = i64::try_from(spent_ns).unwrap_or(i64::MAX);
        line.deficit_ns = line.deficit_ns.saturating_sub(spent).max(-DEBT_NS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Runs tenants that always have work, each run taking what `costs` says, and tells the shares.
    fn shares(costs: &[u64], rounds: usize) -> Vec<u64> {
        let mut fair = Fair::new();
        let ids: Vec<_> = costs.iter().map(|_| fair.add(QUANTUM_NS)).collect();
        for (id, cost) in ids.iter().zip(costs) {
            fair.push(*id, *cost).unwrap();
        }
        let mut spent = vec![0; ids.len()];
        for _ in 0..rounds {
            let (id, cost) = fair.pick().unwrap();
            fair.push(id, cost).unwrap();
            fair.charge(id, cost);
            spent[ids.iter().position(|other| *other == id).unwrap()] += cost;
        }
        spent
    }

    #[test]
    fn a_low_share_waits_for_others_and_has_the_rest() {
        let mut fair = Fair::new();
        let ids = [fair.add(QUANTUM_NS), fair.add(QUANTUM_NS / 8)];
        for id in ids {
            fair.push(id, 50_000_u64).unwrap();
        }
        let mut spent = [0; 2];
        for _ in 0..10_000 {
            let (id, cost) = fair.pick().unwrap();
            fair.push(id, cost).unwrap();
            fair.charge(id, cost);
            spent[usize::from(id == ids[1])] += cost;
        }
        let [full, low] = spent;
        assert!((6..=10).contains(&(full / low)), "{full} {low}");
        fair.remove(ids[0]);
        assert_eq!(fair.pick().map(|(id, _)| id), Some(ids[1]));
    }

    proptest! {
        #[test]
        fn busy_tenants_get_equal_time_whatever_their_runs_take(
            costs in prop::collection::vec(1_000_u64..5_000_000, 2..6),
        ) {
            let shares = shares(&costs, 20_000);
            let longest = *costs.iter().max().unwrap();
            let apart = shares.iter().max().unwrap() - shares.iter().min().unwrap();
            let bound = longest + 2 * QUANTUM_NS.unsigned_abs();
            prop_assert!(apart <= 2 * bound, "{costs:?} -> {shares:?}");
        }
    }

    #[test]
    fn tasks_of_one_tenant_take_turns() {
        let mut fair = Fair::new();
        let id = fair.add(QUANTUM_NS);
        for run in 0..3 {
            fair.push(id, run).unwrap();
        }
        let picked: Vec<i32> = std::iter::from_fn(|| fair.pick().map(|(_, run)| run)).collect();
        assert_eq!(picked, [0, 1, 2]);
    }

    #[test]
    fn idle_time_is_not_saved_up_and_debt_is_paid() {
        let mut fair = Fair::new();
        let (a, b) = (fair.add(QUANTUM_NS), fair.add(QUANTUM_NS));
        fair.push(a, 'a').unwrap();
        assert_eq!(fair.pick(), Some((a, 'a')));
        fair.charge(a, 5_500_000);
        assert_eq!(fair.pick(), None);
        let mut order = String::new();
        for _ in 0..8 {
            for (id, run) in [(a, 'a'), (b, 'b')] {
                if fair.line(id).unwrap().queue.is_empty() {
                    fair.push(id, run).unwrap();
                }
            }
            let (id, run) = fair.pick().unwrap();
            order.push(run);
            fair.charge(id, 1_000_000);
        }
        assert!(order.starts_with("bbbb") && order.contains('a'), "{order}");
    }

    #[test]
    fn removed_tenant_is_neither_picked_nor_charged() {
        let mut fair = Fair::new();
        let a = fair.add(QUANTUM_NS);
        fair.push(a, 1).unwrap();
        assert_eq!(fair.remove(a), [1]);
        let b = fair.add(QUANTUM_NS);
        fair.charge(a, 7);
        assert_eq!(fair.push(a, 2), Err(2));
        assert_eq!(fair.pick(), None);
        assert_eq!(fair.line(b).map(|line| line.deficit_ns), Some(0));
        assert!(fair.line(a).is_none());
    }
}
