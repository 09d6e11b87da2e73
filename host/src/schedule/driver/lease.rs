//! The right to deliver what the scheduler has handed out.
//!
//! A holder that is quick takes several events at once and says of all of them at once how they ended: the
//! queue's lock goes from processor to processor with everything under it, which takes longer than a
//! short guest runs. Rule: whoever is going to wait lets go of all but the event it is at.

use std::collections::VecDeque;
use std::fmt;

use super::{NowMs, PluginQueue, State};
use crate::event::Event;
use crate::schedule::core::{Assignment, Finish, Finished, KeyScheduler, Ticket};
use crate::schedule::pool;
use crate::schedule::sync::{Arc, AtomicU64, Mutex, Ordering, PoisonError};

/// The right to deliver one event, and those that were taken with it after it; their keys belong to the
/// holder until they are finished. Dropped unfinished (the holder was cancelled or panicked), the same
/// attempts become ready again: so between handing a completion to the log and finishing there must be
/// no `await`.
pub struct Lease<T = Arc<Event>> {
    assignment: Assignment<T>,
    queue: PluginQueue<T>,
    rest: Mutex<Rest<T>>,
    /// What the delivery used so far.
    fuel: AtomicU64,
    finished: bool,
}

/// What a lease holds beside the event that is delivered.
struct Rest<T> {
    /// To be delivered after it, each of a key of its own.
    ahead: VecDeque<Assignment<T>>,
    /// What was delivered before it, for good: the scheduler is not told yet.
    done: Vec<Ticket>,
}

impl<T> Rest<T> {
    /// Tells the scheduler what is done, and gives back what was not begun.
    fn settle(&mut self, core: &mut KeyScheduler<T>) {
        for ticket in self.done.drain(..) {
            core.finish(ticket, Finish::Done);
        }
        // Each before those that are ready: so they come in the order in which they were taken.
        self.ahead.drain(..).rev().for_each(|assignment| core.give_back(assignment));
    }

    fn is_empty(&self) -> bool {
        self.ahead.is_empty() && self.done.is_empty()
    }
}

impl<T> Lease<T> {
    pub(super) fn new(queue: PluginQueue<T>, assignment: Assignment<T>) -> Self {
        let rest = Mutex::new(Rest { ahead: VecDeque::new(), done: Vec::new() });
        Self { assignment, queue, rest, fuel: AtomicU64::new(0), finished: false }
    }

    /// What is to be delivered.
    #[must_use]
    pub const fn assignment(&self) -> &Assignment<T> {
        &self.assignment
    }

    /// Notes fuel that the delivery used: it counts once the lease ends.
    pub fn spent(&self, fuel: u64) {
        self.fuel.fetch_add(fuel, Ordering::Relaxed);
    }

    /// Says how the delivery ended.
    pub fn finish(mut self, finish: Finish) -> Finished {
        self.finish_with(finish, |_, _, _| ()).0
    }

    /// Notes that the delivery is done for good, and goes on to the next event that was taken with it.
    /// False: there is none, and nothing was noted. The key is free once the lease is finished or lets go.
    pub fn advance(&mut self) -> bool {
        let rest = self.rest.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Some(next) = rest.ahead.pop_front() else { return false };
        let before = std::mem::replace(&mut self.assignment, next);
        rest.done.push(before.ticket);
        true
    }

    /// Keeps nothing but the event that is being delivered: for a holder that is going to wait. What was
    /// delivered before it is finished, and what comes after it is for others to take.
    pub fn let_go(&self) {
        let mut rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        if !rest.is_empty() {
            self.queue.with(|core| rest.settle(core));
        }
    }

    /// Says how the delivery ended and waits for the next events, with one lock where some are ready: at
    /// most `count_max` (at least one), and of many no more than half. Cancelled while it waits, the
    /// delivery is finished all the same.
    pub async fn finish_then_take(
        mut self,
        finish: Finish,
        count_max: usize,
    ) -> (Finished, Option<Self>) {
        let (finished, next) = self.finish_with(finish, |state, now_ms, ahead| {
            if state.closed || pool::slice_is_over() {
                return None;
            }
            state.due(now_ms);
            let first = state.core.take()?;
            // Limits count what is begun: there nothing is taken before its turn.
            let share = if state.core.is_limited() { 0 } else { state.core.takeable() / 2 };
            let count = share.min(count_max.saturating_sub(1));
            ahead.extend((0..count).map_while(|_| state.core.take()));
            Some(first)
        });
        if let Some(assignment) = next {
            self.assignment = assignment;
            self.finished = false;
            return (finished, Some(self));
        }
        let queue = self.queue.clone();
        drop(self);
        (finished, queue.take().await)
    }

    fn finish_with<R>(
        &mut self,
        finish: Finish,
        then: impl FnOnce(&mut State<T>, &NowMs, &mut VecDeque<Assignment<T>>) -> R,
    ) -> (Finished, R) {
        self.finished = true;
        let rest = self.rest.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.queue.lock();
        state.fill(&self.queue.0.now_ms);
        state.core.spend(self.fuel.swap(0, Ordering::Relaxed));
        rest.settle(&mut state.core);
        let finished = state.core.finish(self.assignment.ticket, finish);
        let result = then(&mut state, &self.queue.0.now_ms, &mut rest.ahead);
        let wakes = state.settle();
        drop(state);
        wakes.wake();
        (finished, result)
    }
}

impl<T> Drop for Lease<T> {
    fn drop(&mut self) {
        if !self.finished {
            self.finish_with(Finish::Return, |_, _, _| ());
        }
    }
}

impl<T> fmt::Debug for Lease<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Assignment { position, key, attempt, .. } = &self.assignment;
        let mut f = f.debug_struct("Lease");
        f.field("position", position).field("key", key).field("attempt", attempt).finish()
    }
}
