//! Outgoing calls: from a call that stands durably in the log to the answer that is appended.
//!
//! Rules: nothing is sent before the commit that holds it is durable and folded; a call keeps its
//! idempotency key through retries and restarts; calls of one key of a plugin are sent in order, one
//! at a time, each answered before the next is begun; nothing but a granted host at a checked address
//! is ever connected to; the value of a secret is nowhere but in the request.
//!
//! Direct requests (`direct.rs`) are the exception to the first and third of these: a guest waits for
//! them, and no record has their answers.
//!
//! A call stays open in the ledger until its `tidegate.response` is in the log. A crash in between
//! sends it again: at least once.

mod address;
mod answer;
mod client;
mod direct;
mod plan;
mod policy;
mod sender;

pub use self::direct::Direct;
pub use self::sender::start;
