//! The asynchronous shell around one plugin's [`KeyScheduler`]: a lock, and who to wake.
//!
//! One lock a call, held for a few moves in memory. What must not break: a ready event and an idle
//! taker never both wait (see `takers`), and nobody is woken under the lock, because a waker may run
//! foreign destructors, among them those of [`Lease`]s.

mod lease;
mod takers;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

pub use self::lease::Lease;
pub use self::takers::Take;
use self::takers::Takers;
use super::core::{Assignment, Bounds, Cursor, Drain, Entry, KeyScheduler, Refill};
use super::sync::{Arc, Mutex, MutexGuard, PoisonError};
use crate::event::{Event, Position};

/// Where the log clock is read, in milliseconds.
pub type NowMs = Arc<dyn Fn() -> u64 + Send + Sync>;

/// How long memory stays exhausted before keys whose delivery takes that long give theirs up.
const STALL_MIN: Duration = Duration::from_millis(50);
/// How far that grows while it does not help.
const STALL_MAX: Duration = Duration::from_secs(5);

/// The events of one plugin on their way to its workers. Cheap to clone.
pub struct PluginQueue<T = Arc<Event>>(Arc<Inner<T>>);

struct Inner<T> {
    state: Mutex<State<T>>,
    now_ms: NowMs,
}

struct State<T> {
    core: KeyScheduler<T>,
    takers: Takers,
    feeders: Vec<Waker>,
    drainers: Vec<Waker>,
    watchers: Vec<(Condition, Waker)>,
    /// The feeder found no room: it is woken only once a quarter of it is free.
    blocked: bool,
    closed: bool,
}

/// What somebody waits for who neither feeds nor takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    Quiet,
    Idle,
    Resumed,
}

impl Condition {
    fn is_met<T>(self, core: &KeyScheduler<T>) -> bool {
        let cursor = core.cursor();
        let idle = cursor.in_flight == 0 && cursor.ready == 0 && !cursor.draining;
        match self {
            Self::Quiet => cursor.running == 0,
            Self::Idle => cursor.running == 0 && idle,
            Self::Resumed => !core.is_paused(),
        }
    }
}

/// Who is to be woken once the lock is released.
#[derive(Default)]
struct Wakes {
    one: Option<Waker>,
    more: Vec<Waker>,
}

impl Wakes {
    fn push(&mut self, waker: Waker) {
        match &self.one {
            None => self.one = Some(waker),
            Some(_) => self.more.push(waker),
        }
    }

    fn wake(self) {
        for waker in self.one.into_iter().chain(self.more) {
            waker.wake();
        }
    }
}

impl<T> State<T> {
    /// Makes ready what is due. Reads the clock only where something waits for it.
    fn due(&mut self, now_ms: &NowMs) {
        if self.core.is_limited() || self.core.next_due_ms().is_some() {
            self.core.due(now_ms());
        }
    }

    /// Tells limits the time, where there are some.
    fn fill(&mut self, now_ms: &NowMs) {
        if self.core.is_limited() {
            self.core.due(now_ms());
        }
    }

    /// How much room the feeder has; none: too little to bother.
    fn room(&self) -> Option<usize> {
        let enough = if self.blocked { self.core.is_roomy() } else { self.core.has_room() };
        enough.then(|| self.core.room())
    }

    /// Finds out who has reason to go on.
    fn settle(&mut self) -> Wakes {
        let mut wakes = Wakes::default();
        self.takers.call(self.core.takeable(), self.core.next_due_ms(), self.closed, &mut wakes);
        if !self.feeders.is_empty() && (self.closed || self.room().is_some()) {
            self.feeders.drain(..).for_each(|waker| wakes.push(waker));
        }
        if !self.drainers.is_empty() && (self.closed || self.core.wants_drain()) {
            self.drainers.drain(..).for_each(|waker| wakes.push(waker));
        }
        if !self.watchers.is_empty() {
            let met = |entry: &mut (Condition, Waker)| entry.0.is_met(&self.core);
            self.watchers.extract_if(.., met).for_each(|(_, waker)| wakes.push(waker));
        }
        wakes
    }
}

impl<T> PluginQueue<T> {
    /// An empty queue. `now_ms` must not call back into it.
    #[must_use]
    pub fn new(bounds: Bounds, now_ms: NowMs) -> Self {
        let state = State {
            core: KeyScheduler::new(bounds),
            takers: Takers::default(),
            feeders: Vec::new(),
            drainers: Vec::new(),
            watchers: Vec::new(),
            blocked: false,
            closed: false,
        };
        Self(Arc::new(Inner { state: Mutex::new(state), now_ms }))
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // The scheduler does not panic; should it, what it holds is still the best there is.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something to the scheduler and wakes whom that concerns: for what has no method here.
    /// Not for `take` and `finish`.
    pub fn with<R>(&self, act: impl FnOnce(&mut KeyScheduler<T>) -> R) -> R {
        let mut state = self.lock();
        state.fill(&self.0.now_ms);
        let result = act(&mut state.core);
        let wakes = state.settle();
        drop(state);
        wakes.wake();
        result
    }

    /// Takes events off the front of `batch`, in the order of positions, as long as there is room.
    /// Once all are taken everything up to `scanned` counts as offered, and the answer is true;
    /// otherwise wait for [`room`](Self::room) and offer the rest. One feeder at a time.
    pub fn offer_all(&self, batch: &mut VecDeque<Entry<T>>, scanned: Position) -> bool {
        let mut state = self.lock();
        state.fill(&self.0.now_ms);
        while let Some(entry) = batch.pop_front() {
            if let Err(entry) = state.core.offer(entry) {
                batch.push_front(entry);
                break;
            }
        }
        let all = batch.is_empty();
        if all {
            state.core.scanned(scanned);
        }
        state.blocked = !all;
        let wakes = state.settle();
        drop(state);
        wakes.wake();
        all
    }

    /// Waits until there is room for new events, and says for how many; none: closed. After an
    /// offer that was not taken whole, only once a quarter of the bound is free, so that events are
    /// handed over in batches. Where room stays out, keys whose delivery has been running all
    /// that time give up their memory. Needs a tokio runtime. Cancel safe.
    pub async fn room(&self) -> Option<usize> {
        let mut stall = STALL_MIN;
        loop {
            let mark = self.lock().core.mark();
            let room = poll_fn(|context| self.poll_room(context));
            if let Ok(room) = tokio::time::timeout(stall, room).await {
                return room;
            }
            let freed = self.with(|core| core.shed_slow(mark));
            stall = if freed > 0 { STALL_MIN } else { STALL_MAX.min(stall * 2) };
        }
    }

    fn poll_room(&self, context: &Context<'_>) -> Poll<Option<usize>> {
        let mut state = self.lock();
        if state.closed {
            return Poll::Ready(None);
        }
        if let Some(room) = state.room() {
            state.blocked = false;
            return Poll::Ready(Some(room));
        }
        wait_in(&mut state.feeders, context);
        Poll::Pending
    }

    /// Waits for an event to deliver; none: closed. Yields where the task's slice on the guest pool
    /// is over. Needs a tokio runtime. Cancel safe.
    pub const fn take(&self) -> Take<'_, T> {
        Take::new(self)
    }

    /// Waits for a key whose deferred events are to be found again, to be answered with
    /// [`refill`](Self::refill); none: closed. Cancel safe.
    pub async fn next_drain(&self) -> Option<Drain> {
        poll_fn(|context| {
            let mut state = self.lock();
            if state.closed {
                return Poll::Ready(None);
            }
            if let Some(drain) = state.core.next_drain() {
                return Poll::Ready(Some(drain));
            }
            wait_in(&mut state.drainers, context);
            Poll::Pending
        })
        .await
    }

    /// As [`next_drain`](Self::next_drain), if there is one now.
    #[must_use]
    pub fn try_next_drain(&self) -> Option<Drain> {
        let mut state = self.lock();
        if state.closed { None } else { state.core.next_drain() }
    }

    /// Answers a drain: see [`KeyScheduler::refill`].
    pub fn refill(
        &self,
        drain: &Drain,
        entries: impl IntoIterator<Item = Entry<T>>,
        reached: Position,
    ) -> Refill {
        self.with(|core| core.refill(drain, entries, reached))
    }

    /// How far the plugin is.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.lock().core.cursor()
    }

    /// Hands out nothing until [`resume`](Self::resume).
    pub fn pause(&self) {
        self.with(KeyScheduler::pause);
    }

    /// The end of [`pause`](Self::pause).
    pub fn resume(&self) {
        self.with(KeyScheduler::resume);
    }

    /// Ends everybody's waiting. Leases out there can still be finished.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let wakes = state.settle();
        drop(state);
        wakes.wake();
    }

    /// To be called when the log clock was stepped: what waits for a time looks at it again.
    pub fn clock_stepped(&self) {
        let mut state = self.lock();
        state.due(&self.0.now_ms);
        state.takers.rearm();
        let wakes = state.settle();
        drop(state);
        wakes.wake();
    }

    /// Waits until no lease is out: for a pause or a stop. Cancel safe.
    pub async fn quiet(&self) {
        self.watch(Condition::Quiet).await;
    }

    /// Waits until nothing is in memory or being searched for; keys may wait. Cancel safe.
    pub async fn idle(&self) {
        self.watch(Condition::Idle).await;
    }

    /// Waits until it is not paused, for who can do nothing before. Not ended by [`close`](Self::close).
    /// Cancel safe.
    pub async fn resumed(&self) {
        self.watch(Condition::Resumed).await;
    }

    async fn watch(&self, condition: Condition) {
        poll_fn(|context| {
            let mut state = self.lock();
            if condition.is_met(&state.core) {
                return Poll::Ready(());
            }
            let known = |(other, waker): &(Condition, Waker)| {
                *other == condition && waker.will_wake(context.waker())
            };
            if !state.watchers.iter().any(known) {
                state.watchers.push((condition, context.waker().clone()));
            }
            Poll::Pending
        })
        .await;
    }

    fn lease(&self, assignment: Assignment<T>) -> Lease<T> {
        Lease::new(self.clone(), assignment)
    }
}

impl<T> Clone for PluginQueue<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> fmt::Debug for PluginQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PluginQueue").field(&self.cursor()).finish()
    }
}

/// Registers a task once, however often it looks.
fn wait_in(wakers: &mut Vec<Waker>, context: &Context<'_>) {
    if !wakers.iter().any(|waker| waker.will_wake(context.waker())) {
        wakers.push(context.waker().clone());
    }
}
