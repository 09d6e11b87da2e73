//! Who runs when: pure decisions about keys and retries, and the thin shells that carry them out.
//!
//! `core`, `bucket`, `retry` and `breaker` decide and touch nothing; `driver` puts a lock and wakers
//! around `core`; `pool` is the executor that guests run on. None of them knows the log or the
//! sandbox.

pub mod breaker;
pub mod bucket;
pub mod core;
pub mod driver;
pub mod pool;
pub mod retry;
mod sync;
