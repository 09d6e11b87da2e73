//! The threads that guests run on, apart from those of the writer and of HTTP.
//!
//! Tasks belong to *tenants* (plugins), and tenants get equal processor time however many tasks
//! they have and however long these run between two yields. What must not break: a task that never
//! yields holds one thread, so guests yield at epoch ticks and workers, between two of them, where their
//! slice is over (`slice_is_over`); and no foreign code (a waker, a future's destructor) runs under the pool's lock.

mod fair;
mod task;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::Thread;
use std::time::{Duration, Instant};

use async_task::Runnable;
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Handle;

use self::fair::{Fair, QUANTUM_NS, TenantId};
use self::task::Members;
pub use self::task::{JoinError, JoinHandle};

/// How long a task may run before it is to yield.
const SLICE: Duration = Duration::from_nanos(QUANTUM_NS.unsigned_abs());
/// How long to wait between looks at threads that are to end.
const END_POLL: Duration = Duration::from_millis(2);
/// How many times less a low share is.
const LOW_SHARE: i64 = 8;
/// Runs shorter than this are charged by the monotonic clock: reading the processor clock of a
/// thread takes fifteen times as long, and little can have come between.
const WALL_CLOCK_BELOW: Duration = Duration::from_micros(100);

thread_local! {
    /// End of the slice of the task that runs on this thread.
    static SLICE_END: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The pool. Dropping it is [`shutdown`](Self::shutdown).
#[derive(Debug)]
pub struct GuestPool {
    shared: Arc<Shared>,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

/// How much of the pool a tenant gets while others want it too; alone it gets all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// As much as everybody.
    Full,
    /// A `LOW_SHARE`th of that: for what nobody waits for.
    Low,
}

/// A share of the pool. Cheap to clone. Dropping the last handle lets its tasks run on;
/// [`close`](Self::close) ends them.
#[derive(Debug, Clone)]
pub struct Tenant(Arc<TenantInner>);

#[derive(Debug)]
struct TenantInner {
    id: TenantId,
    name: Arc<str>,
    shared: Arc<Shared>,
    closed: AtomicBool,
    members: Members,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Tasks whose future is still there.
    tasks: AtomicUsize,
    closing: AtomicBool,
}

#[derive(Debug)]
struct State {
    fair: Fair<Runnable>,
    /// Threads with nothing to do, the one that ran last on top.
    idle: Vec<Thread>,
    tenants: BTreeMap<u64, Weak<TenantInner>>,
    tenants_made: u64,
    /// The threads are gone: what is scheduled now is dropped.
    ended: bool,
}

impl GuestPool {
    /// Starts `threads` threads (at least one), on which timers and sockets of `runtime` work.
    ///
    /// # Errors
    /// Where the system gives no more threads.
    pub fn new(threads: usize, runtime: &Handle) -> std::io::Result<Self> {
        let state = State {
            fair: Fair::new(),
            idle: Vec::new(),
            tenants: BTreeMap::new(),
            tenants_made: 0,
            ended: false,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            tasks: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
        });
        let pool = Self { shared, threads: Mutex::new(Vec::new()) };
        for number in 0..threads.max(1) {
            let (shared, runtime) = (Arc::clone(&pool.shared), runtime.clone());
            let name = format!("guest-{number}");
            let thread = std::thread::Builder::new().name(name).spawn(move || {
                let _entered = runtime.enter();
                shared.work();
            })?;
            lock(&pool.threads).push(thread);
        }
        Ok(pool)
    }

    /// A new tenant. Names are for people; several tenants may have the same.
    #[must_use]
    pub fn tenant(&self, name: &str) -> Tenant {
        self.tenant_with(name, Share::Full)
    }

    /// As [`tenant`](Self::tenant), with a say on how much of the pool it gets while it is wanted.
    #[must_use]
    pub fn tenant_with(&self, name: &str, share: Share) -> Tenant {
        let quantum_ns = match share {
            Share::Full => QUANTUM_NS,
            Share::Low => QUANTUM_NS / LOW_SHARE,
        };
        let shared = Arc::clone(&self.shared);
        let mut state = lock(&self.shared.state);
        let inner = Arc::new(TenantInner {
            id: state.fair.add(quantum_ns),
            name: name.into(),
            shared,
            closed: AtomicBool::new(self.shared.closing.load(Ordering::SeqCst)),
            members: Members::default(),
        });
        state.tenants_made += 1;
        let number = state.tenants_made;
        state.tenants.retain(|_, tenant| tenant.strong_count() > 0);
        state.tenants.insert(number, Arc::downgrade(&inner));
        Tenant(inner)
    }

    /// Ends all tasks where they next yield, drops their futures and joins the threads. Blocks for
    /// as long as the longest of them runs on. Later tasks are cancelled at once.
    pub fn shutdown(&self) {
        self.close();
        for thread in self.take_threads() {
            // What a thread panicked of was contained and told of by its task.
            let _ = thread.join();
        }
        self.drop_left();
    }

    /// As [`shutdown`](Self::shutdown), for so long at most. Says whether all threads have ended; one that
    /// has not is left to itself, with the task that it runs.
    #[must_use]
    pub fn shutdown_within(&self, limit: Duration) -> bool {
        self.close();
        let begin = Instant::now();
        let threads = self.take_threads();
        while !threads.iter().all(std::thread::JoinHandle::is_finished) {
            if begin.elapsed() >= limit {
                return false;
            }
            std::thread::sleep(END_POLL);
        }
        self.drop_left();
        true
    }

    fn close(&self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        let tenants: Vec<_> = lock(&self.shared.state).tenants.values().cloned().collect();
        for tenant in tenants.iter().filter_map(Weak::upgrade) {
            tenant.close();
        }
        self.shared.unpark_all();
    }

    /// Those that can be waited for here.
    fn take_threads(&self) -> Vec<std::thread::JoinHandle<()>> {
        let here = std::thread::current().id();
        let mut threads = std::mem::take(&mut *lock(&self.threads));
        threads.retain(|thread| thread.thread().id() != here);
        threads
    }

    fn drop_left(&self) {
        let left = {
            let mut state = lock(&self.shared.state);
            state.ended = true;
            std::iter::from_fn(|| state.fair.pick()).collect::<Vec<_>>()
        };
        drop(left);
    }
}

impl Drop for GuestPool {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl Tenant {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Starts a task. Dropping the handle lets it run on.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        task::spawn(&self.0, future)
    }

    /// Ends its tasks where they next yield, and cancels those to come. Returns at once: join the
    /// handles to wait for it.
    pub fn close(&self) {
        self.0.close();
    }
}

impl TenantInner {
    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.members.wake_all();
    }

    fn schedule(&self, runnable: Runnable) {
        let mut state = lock(&self.shared.state);
        let idle = if state.ended {
            drop(state);
            drop(runnable);
            return;
        } else if let Err(runnable) = state.fair.push(self.id, runnable) {
            drop(state);
            drop(runnable);
            return;
        } else {
            state.idle.pop()
        };
        drop(state);
        if let Some(thread) = idle {
            thread.unpark();
        }
    }
}

impl Drop for TenantInner {
    fn drop(&mut self) {
        let left = lock(&self.shared.state).fair.remove(self.id);
        drop(left);
    }
}

impl Shared {
    /// What a thread does.
    fn work(&self) {
        let me = std::thread::current();
        let mut meter = Meter::new();
        let mut spent = None;
        loop {
            let next = {
                let mut state = lock(&self.state);
                if let Some((id, spent_ns)) = spent.take() {
                    state.fair.charge(id, spent_ns);
                }
                let next = state.fair.pick();
                if next.is_none() {
                    if self.is_over() {
                        return;
                    }
                    state.idle.push(me.clone());
                }
                next
            };
            if let Some((id, runnable)) = next {
                spent = Some((id, meter.run(runnable)));
                continue;
            }
            std::thread::park();
            // Woken on purpose it is not among them; otherwise it must not be there twice.
            lock(&self.state).idle.retain(|thread| thread.id() != me.id());
        }
    }

    fn is_over(&self) -> bool {
        self.closing.load(Ordering::SeqCst) && self.tasks.load(Ordering::SeqCst) == 0
    }

    fn unpark_all(&self) {
        for thread in std::mem::take(&mut lock(&self.state).idle) {
            thread.unpark();
        }
    }
}

/// Measures runs on one thread.
struct Meter {
    cpu_ns: u64,
}

impl Meter {
    fn new() -> Self {
        Self { cpu_ns: thread_cpu_ns() }
    }

    /// Runs a task until it yields, and says what that took, in nanoseconds.
    fn run(&mut self, runnable: Runnable) -> u64 {
        let start = Instant::now();
        SLICE_END.set(Some(start + SLICE));
        // The task contains its own panics; one that comes from a destructor must not end the thread.
        let contained = catch_unwind(AssertUnwindSafe(|| runnable.run()));
        SLICE_END.set(None);
        if contained.is_err() {
            tracing::error!("a task on the guest pool panicked while it was dropped");
        }
        let elapsed = start.elapsed();
        let elapsed_ns = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        if elapsed < WALL_CLOCK_BELOW {
            return elapsed_ns;
        }
        // The processor time since it was last read includes the short runs between: an upper
        // bound that takes out what other threads had of the processor meanwhile.
        let cpu_ns = thread_cpu_ns();
        let used_ns = cpu_ns.saturating_sub(self.cpu_ns);
        self.cpu_ns = cpu_ns;
        elapsed_ns.min(used_ns)
    }
}

fn thread_cpu_ns() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, nanos) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
    seconds.unwrap_or(0) * 1_000_000_000 + nanos.unwrap_or(0)
}

/// Whether the task that runs on this thread should yield. Never outside the pool. For whoever may take
/// turn after turn without having to wait: such a task never gives its thread back otherwise.
pub(super) fn slice_is_over() -> bool {
    SLICE_END.get().is_some_and(|end| Instant::now() >= end)
}

/// Nothing that runs under the pool's locks can leave what they guard half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
