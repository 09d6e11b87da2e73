//! Write event handlers for tidegate in Rust.
//!
//! A plugin is functions that take events, and one macro that routes event types to them. The host
//! owns what is hard: the durable log, the order of events per key, retries, dead letters, state.
//!
//! ```
//! use serde::Deserialize;
//! use tidegate_sdk::{Event, Outcome, emit, handlers, state};
//!
//! #[derive(Deserialize)]
//! struct Order { amount: u64 }
//!
//! handlers! { "order.created" => on_created }
//!
//! fn on_created(_: &Event, order: Order) -> Outcome {
//!     let sum = state::get("sum")?.unwrap_or(0) + order.amount;
//!     state::set("sum", &sum)?;
//!     emit("order.totalled").json(&sum)?;
//!     Ok(())
//! }
//! # fn main() {}
//! ```
//!
//! * **A delivery is all or nothing.** What it emits and writes is recorded when the handler returns
//!   `Ok`, exactly once, and dropped when it fails. See [`Outcome`].
//! * **Events of one key come one at a time, in order**, so that state needs no locks.
//! * **A handler is a function of the event, the state and the configuration**: time, chance and the
//!   attempt number come from the host ([`now_ms`], [`random_u64`], [`attempt`]) and are the same when
//!   the delivery is run again.
//! * Statics are a cache at best: an instance may be thrown away between any two deliveries.
//! * A panic is a trap: its message goes to the plugin's log, the host tries a second time and then
//!   gives up. Prefer [`reject`].
//!
//! # Testing
//!
//! Natively the same handler runs against [`testing::Host`], without a host or WebAssembly:
//!
//! ```
//! # use serde::Deserialize;
//! # use tidegate_sdk::{Event, Outcome, emit, handlers, state};
//! # #[derive(Deserialize)]
//! # struct Order { amount: u64 }
//! # handlers! { "order.created" => on_created }
//! # fn on_created(_: &Event, order: Order) -> Outcome {
//! #     let sum = state::get("sum")?.unwrap_or(0) + order.amount;
//! #     state::set("sum", &sum)?;
//! #     emit("order.totalled").json(&sum)?;
//! #     Ok(())
//! # }
//! use serde_json::json;
//! use tidegate_sdk::testing::{Host, event};
//!
//! let mut host = Host::new();
//! let created = event("order.created").key("o-1").json(&json!({ "amount": 40 }));
//! let effects = host.deliver(handle, created).expect_ok();
//! assert_eq!(effects.emitted[0].kind, "order.totalled");
//! assert_eq!(host.state::<u64>("o-1", "sum"), Some(40));
//! ```
//!
//! # Building
//!
//! `tidegate build DIR` does it; by hand it is a `cdylib` built with
//! `cargo build --release --target wasm32-unknown-unknown`. The module is typed: the host makes a
//! component of it, with only those imports that are used.

#![warn(missing_docs)]

pub mod aggregate;
#[cfg(target_arch = "wasm32")]
mod bindings;
pub mod calls;
mod context;
mod emit;
mod event;
mod failure;
#[cfg(target_arch = "wasm32")]
mod guest;
mod json;
pub mod keys;
pub mod projection;
mod request;
mod route;
pub mod state;
mod tagged;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
pub mod timers;
pub mod windows;

pub use context::{
    Level, attempt, attribute, attributes, config, config_as, log, now_ms, random_u64, redriven,
};
pub use emit::{Emit, emit};
pub use event::Event;
pub use failure::{Error, Failure, Outcome, reject, retry, retry_after};
pub use request::{Answer, Lifted, Request, Response};
pub use route::{Handler, Responder, matches};

// The one place where the two sides meet: on wasm the imports, natively the test kit.
#[cfg(target_arch = "wasm32")]
use guest as host;
#[cfg(not(target_arch = "wasm32"))]
use testing::fake as host;

/// What the macros of this crate expand to; nothing else may use it.
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod __private {
    pub use crate::guest::*;
}

/// The failure of an operation that a plugin does not have.
#[doc(hidden)]
#[must_use]
pub fn unknown_operation(asked: &str, known: &[&str]) -> Failure {
    reject(format!("unknown operation `{asked}`; known: {}", known.join(", ")))
}

/// All of a listing that the host gives out in pages.
fn paged(
    page: u32,
    fetch: impl Fn(Option<&str>, u32) -> Vec<String>,
) -> impl Iterator<Item = String> {
    let mut names = Vec::new().into_iter();
    let mut after: Option<String> = None;
    let mut more = true;
    std::iter::from_fn(move || {
        if names.len() == 0 && more {
            let fetched = fetch(after.as_deref(), page);
            more = fetched.len() == page as usize;
            after = fetched.last().cloned();
            names = fetched.into_iter();
        }
        names.next()
    })
}
