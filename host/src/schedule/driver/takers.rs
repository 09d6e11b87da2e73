//! Workers that found nothing to do, and how exactly as many of them are woken as there is work.
//!
//! A sleeping taker is *called* when there is more to take than takers called before. A call lasts
//! until the taker looks again; one that is dropped instead gives its call back. At most one
//! sleeping taker, the *keeper*, has a timer: for the next time something is due.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Sleep;

use super::{Lease, PluginQueue, Wakes};
use crate::schedule::pool;

/// Longest sleep without a look at the log clock, which may run faster than the machine's.
const SLEEP_MS_MAX: u64 = 60_000;

#[derive(Default)]
pub(super) struct Takers {
    last_id: u64,
    /// The one that fell asleep last is woken first: its memory is the warmest.
    asleep: Vec<(u64, Waker)>,
    called: Vec<u64>,
    /// Who has a timer, and for which log time.
    keeper: Option<(u64, u64)>,
}

impl Takers {
    /// Wakes as many as there is work for, and one to be keeper where there is none in time.
    pub(super) fn call(
        &mut self,
        takeable: usize,
        due_ms: Option<u64>,
        closed: bool,
        wakes: &mut Wakes,
    ) {
        while (closed || takeable > self.called.len())
            && let Some((id, waker)) = self.asleep.pop()
        {
            self.note_call(id);
            wakes.push(waker);
        }
        let Some(due_ms) = due_ms else { return };
        if !self.called.is_empty() || self.keeper.is_some_and(|(_, armed_ms)| armed_ms <= due_ms) {
            return;
        }
        let keeper = self.keeper.map(|(id, _)| id);
        let at = self.asleep.iter().position(|(id, _)| Some(*id) == keeper);
        let found = match at {
            Some(at) => Some(self.asleep.swap_remove(at)),
            None => self.asleep.pop(),
        };
        if let Some((id, waker)) = found {
            self.note_call(id);
            wakes.push(waker);
        }
    }

    fn note_call(&mut self, id: u64) {
        self.called.push(id);
        if self.keeper.is_some_and(|(keeper, _)| keeper == id) {
            self.keeper = None;
        }
    }

    /// The timer of the keeper is worth nothing any more.
    pub(super) const fn rearm(&mut self) {
        if let Some((_, armed_ms)) = &mut self.keeper {
            *armed_ms = u64::MAX;
        }
    }

    /// The taker looks for itself, or is gone.
    fn leave(&mut self, id: u64) {
        self.called.retain(|other| *other != id);
        self.asleep.retain(|(other, _)| *other != id);
        if self.keeper.is_some_and(|(keeper, _)| keeper == id) {
            self.keeper = None;
        }
    }

    /// Goes to sleep; with a timer if the answer is true.
    fn sleep(&mut self, waker: Waker, due_ms: Option<u64>) -> (u64, bool) {
        self.last_id += 1;
        self.asleep.push((self.last_id, waker));
        let Some(due_ms) = due_ms else { return (self.last_id, false) };
        let kept = self.keeper.is_some_and(|(_, armed_ms)| armed_ms <= due_ms);
        if !kept {
            self.keeper = Some((self.last_id, due_ms));
        }
        (self.last_id, !kept)
    }
}

/// Waits for an event to deliver: see [`PluginQueue::take`].
#[must_use = "futures do nothing unless polled"]
pub struct Take<'a, T> {
    queue: &'a PluginQueue<T>,
    /// Under which it sleeps.
    id: Option<u64>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<'a, T> Take<'a, T> {
    pub(super) const fn new(queue: &'a PluginQueue<T>) -> Self {
        Self { queue, id: None, timer: None }
    }

    #[cfg(test)]
    pub(super) const fn keeps(&self) -> bool {
        self.timer.is_some()
    }

    /// One look. Where nothing is there, milliseconds to sleep at most, if it is to keep the time.
    fn look(&mut self, context: &Context<'_>) -> Result<Option<Lease<T>>, Option<u64>> {
        let now_ms = &self.queue.0.now_ms;
        let mut state = self.queue.lock();
        if let Some(id) = self.id.take() {
            state.takers.leave(id);
        }
        let found = if state.closed {
            Ok(None)
        } else {
            state.due(now_ms);
            match state.core.take() {
                Some(assignment) => Ok(Some(assignment)),
                None => {
                    let due_ms = state.core.next_due_ms();
                    let (id, keeps) = state.takers.sleep(context.waker().clone(), due_ms);
                    self.id = Some(id);
                    Err(due_ms.filter(|_| keeps))
                }
            }
        };
        let wakes = state.settle();
        drop(state);
        wakes.wake();
        match found {
            Ok(assignment) => Ok(assignment.map(|assignment| self.queue.lease(assignment))),
            Err(due_ms) => Err(due_ms.map(|due_ms| due_ms.saturating_sub(now_ms()))),
        }
    }
}

impl<T> Future for Take<'_, T> {
    type Output = Option<Lease<T>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if pool::slice_is_over() {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            match self.look(context) {
                Ok(found) => return Poll::Ready(found),
                Err(None) => {
                    self.timer = None;
                    return Poll::Pending;
                }
                Err(Some(sleep_ms)) => {
                    let sleep = Duration::from_millis(sleep_ms.clamp(1, SLEEP_MS_MAX));
                    let timer = self.timer.insert(Box::pin(tokio::time::sleep(sleep)));
                    if timer.as_mut().poll(context).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}

impl<T> Drop for Take<'_, T> {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        let mut state = self.queue.lock();
        state.takers.leave(id);
        let wakes = state.settle();
        drop(state);
        wakes.wake();
    }
}
