//! The scheduler of the host: its own files, on the locks and atomics of the model checker.

pub mod bucket;
pub mod core;
pub mod driver;

/// The guest pool, as far as the driver asks it.
pub mod pool {
    /// Never: the model checker decides who goes on.
    pub fn slice_is_over() -> bool {
        false
    }
}

/// What stands in for `host/src/schedule/sync.rs`.
pub mod sync {
    pub use std::sync::PoisonError;

    pub use shuttle::sync::atomic::{AtomicU64, Ordering};
    pub use shuttle::sync::{Arc, Mutex, MutexGuard};
}
