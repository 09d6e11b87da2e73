//! Where the open calls of a bus meet what sends them: who may send for which plugin, and what wakes
//! whom.
//!
//! The fold says that calls were opened or closed; runners come and go. Nothing here waits or
//! decides.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Notify;

use super::Bus;
use super::runner::Runner;
use crate::effects::OutgoingCall;
use crate::event::{CommitNumber, InstanceId, Key};
use crate::limits::{CALLS_OPEN_MAX, CALLS_OPEN_MEMORY_MAX};
use crate::log::record::Completion;
use crate::log::{CompletionRef, ReadError, RecordRef};
use crate::state::{At, CallPlace, OpenCall};

/// See the module.
#[derive(Default)]
pub struct Outlets {
    runners: Mutex<HashMap<InstanceId, Weak<Runner>>>,
    /// Something may be sent now that could not be before. For the one sender of the bus.
    sendable: Notify,
    /// A call was closed.
    closed: Notify,
    /// Calls that a memory bus has opened.
    made: AtomicU64,
}

impl Outlets {
    /// From now on calls of this plugin are sent as its runner says.
    pub(super) fn attach(&self, runner: &Arc<Runner>) {
        self.runners().insert(runner.instance(), Arc::downgrade(runner));
        self.sendable.notify_one();
    }

    /// Calls of this plugin stay open until it runs again.
    pub(super) fn detach(&self, instance: InstanceId) {
        self.runners().remove(&instance);
    }

    /// The plugin at work; none: it has no runner at present.
    #[must_use]
    pub fn runner(&self, instance: InstanceId) -> Option<Arc<Runner>> {
        self.runners().get(&instance).and_then(Weak::upgrade)
    }

    fn runners(&self) -> std::sync::MutexGuard<'_, HashMap<InstanceId, Weak<Runner>>> {
        self.runners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that there may be something to send.
    pub fn wake(&self) {
        self.sendable.notify_one();
    }

    /// Says what the fold did.
    pub(super) fn folded(&self, opened: usize, closed: usize) {
        if opened > 0 {
            self.sendable.notify_one();
        }
        if closed > 0 {
            self.closed.notify_waiters();
        }
    }

    /// Waits until there may be something to send. Cancel safe; one waiter only.
    pub async fn sendable(&self) {
        self.sendable.notified().await;
    }
}

/// The calls with these idempotency keys, which stand in the commit of `done`.
pub(super) fn opened(at: At, done: &CompletionRef<'_>, keys: &[&str]) -> Vec<OpenCall> {
    let opened = |(index, idempotency_key): (u32, &&str)| OpenCall {
        place: CallPlace { commit: at.commit, index },
        instance: done.instance,
        generation: done.generation,
        position: done.position,
        key: done.key.and_then(|key| Key::new(key).ok()),
        idempotency_key: (*idempotency_key).into(),
        opened_ms: at.time_ms,
        request: None,
    };
    (0..).zip(keys).map(opened).collect()
}

impl Bus {
    /// Opens the calls of a delivery on a memory bus: with their requests, which stand nowhere else.
    pub(super) fn open_in_memory(&self, done: &Completion, calls: Vec<OutgoingCall>) {
        if calls.is_empty() {
            return;
        }
        let opened_ms = self.now_ms();
        let open = |request: OutgoingCall| {
            let number = self.outlets.made.fetch_add(1, Ordering::Relaxed);
            OpenCall {
                place: CallPlace { commit: CommitNumber(number), index: 0 },
                instance: done.instance,
                generation: done.generation,
                position: done.position,
                key: done.key.clone(),
                idempotency_key: Arc::clone(&request.idempotency_key),
                opened_ms,
                request: Some(Arc::new(request)),
            }
        };
        // Numbered under the lock: whoever follows them by number misses none.
        let mut ledger = self.ledger();
        let opened = ledger.apply_calls(calls.into_iter().map(open).collect());
        drop(ledger);
        self.outlets.folded(opened, 0);
    }

    /// The request of an open call, from where it stands; none: it is not there.
    ///
    /// # Errors
    /// The log cannot be read there.
    pub async fn call_request(
        &self,
        call: &OpenCall,
    ) -> Result<Option<Arc<OutgoingCall>>, ReadError> {
        if let Some(request) = &call.request {
            return Ok(Some(Arc::clone(request)));
        }
        let Some(log) = self.log() else { return Ok(None) };
        log.read_commit(call.place.commit, |commit| {
            for record in commit.records() {
                match record? {
                    RecordRef::Call(found) if *found.idempotency_key == *call.idempotency_key => {
                        return Ok(Some(Arc::new(found.to_owned())));
                    }
                    _ => {}
                }
            }
            Ok(None)
        })
        .await
    }

    /// Waits until a plugin has room for more open calls: one that calls faster than it is answered
    /// has its deliveries wait, instead of the memory of the host. Cancel safe.
    pub async fn calls_room(&self, instance: InstanceId) {
        loop {
            // Before the look: what is closed in between is not missed.
            let closed = self.outlets.closed.notified();
            if self.has_calls_room(instance) {
                return;
            }
            closed.await;
        }
    }

    /// Whether a plugin has room for more open calls.
    pub(super) fn has_calls_room(&self, instance: InstanceId) -> bool {
        let most = self.log().map_or(CALLS_OPEN_MEMORY_MAX, |_| CALLS_OPEN_MAX);
        self.ledger().calls().count(instance) < most
    }

    /// Who sends calls, and what wakes whom.
    #[must_use]
    pub fn outlets(&self) -> &Outlets {
        &self.outlets
    }
}
