//! The locks and atomics of [`driver`](super::driver). In one place, because a model checker puts its own
//! there: see `tests/models`.

pub(super) use std::sync::atomic::{AtomicU64, Ordering};
pub(super) use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
