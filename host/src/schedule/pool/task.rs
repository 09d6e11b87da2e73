//! One task: contains its panics, ends when its tenant is closed, and can be joined.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use async_task::FallibleTask;
use slab::Slab;

use super::{TenantInner, lock};

/// Why a task has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// Its tenant or the pool was closed, or the handle cancelled.
    #[error("the task was cancelled")]
    Cancelled,
    /// It panicked; nothing else was touched.
    #[error("the task panicked: {0}")]
    Panicked(String),
}

/// Waits for a task. Dropped, the task runs on.
pub struct JoinHandle<T>(Option<FallibleTask<Result<T, JoinError>>>);

impl<T> JoinHandle<T> {
    /// Ends the task where it next yields, and waits until its future is dropped. The result is
    /// there if it came before.
    pub async fn cancel(mut self) -> Option<T> {
        match self.0.take() {
            Some(task) => task.cancel().await.and_then(Result::ok),
            None => None,
        }
    }

    /// Whether it has ended, in whatever way.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.0.as_ref().is_none_or(FallibleTask::is_finished)
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle").field("finished", &self.is_finished()).finish()
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(task) = &mut self.0 else { return Poll::Ready(Err(JoinError::Cancelled)) };
        let ended = std::task::ready!(Pin::new(task).poll(context));
        self.0 = None;
        Poll::Ready(ended.unwrap_or(Err(JoinError::Cancelled)))
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.detach();
        }
    }
}

/// How to reach the tasks of a tenant.
#[derive(Debug, Default)]
pub(super) struct Members(Mutex<Slab<Waker>>);

impl Members {
    pub(super) fn wake_all(&self) {
        let wakers: Vec<Waker> = lock(&self.0).iter().map(|(_, waker)| waker.clone()).collect();
        for waker in wakers {
            waker.wake();
        }
    }

    fn enter(&self, waker: &Waker) -> usize {
        lock(&self.0).insert(waker.clone())
    }

    fn leave(&self, member: usize) {
        let waker = lock(&self.0).try_remove(member);
        drop(waker);
    }
}

pub(super) fn spawn<F>(tenant: &Arc<TenantInner>, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tenant.shared.tasks.fetch_add(1, Ordering::SeqCst);
    let contained =
        Contained { future: Some(Box::pin(future)), tenant: Arc::clone(tenant), member: None };
    let scheduler = Arc::clone(tenant);
    let (runnable, task) =
        async_task::spawn(contained, move |runnable| scheduler.schedule(runnable));
    runnable.schedule();
    JoinHandle(Some(task.fallible()))
}

/// A future that ends as told, whatever the one inside does.
struct Contained<F> {
    future: Option<Pin<Box<F>>>,
    tenant: Arc<TenantInner>,
    member: Option<usize>,
}

impl<F: Future> Future for Contained<F> {
    type Output = Result<F::Output, JoinError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        // Registered first, looked second: a tenant that is closed in between wakes it again.
        if this.member.is_none() {
            this.member = Some(this.tenant.members.enter(context.waker()));
        }
        let ended = match &mut this.future {
            Some(future) if !this.tenant.closed.load(Ordering::SeqCst) => {
                let poll = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context)));
                match poll {
                    Ok(Poll::Pending) => return Poll::Pending,
                    Ok(Poll::Ready(output)) => Ok(output),
                    Err(panic) => Err(JoinError::Panicked(told(panic.as_ref()))),
                }
            }
            Some(_) | None => Err(JoinError::Cancelled),
        };
        this.drop_future();
        Poll::Ready(ended)
    }
}

impl<F> Contained<F> {
    fn drop_future(&mut self) {
        let future = self.future.take();
        if catch_unwind(AssertUnwindSafe(|| drop(future))).is_err() {
            tracing::error!(tenant = &*self.tenant.name, "a task panicked while it was dropped");
        }
    }
}

impl<F> Drop for Contained<F> {
    fn drop(&mut self) {
        self.drop_future();
        if let Some(member) = self.member.take() {
            self.tenant.members.leave(member);
        }
        let shared = &self.tenant.shared;
        let last = shared.tasks.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && shared.closing.load(Ordering::SeqCst) {
            shared.unpark_all();
        }
    }
}

/// What a panic says of itself.
fn told(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "?".to_owned())
}
