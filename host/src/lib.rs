//! tidegate: a WebAssembly plugin host for event handlers, with a durable log and order per key.
//!
//! The modules stand in the order an event passes through them; `ARCHITECTURE.md` at the root of
//! the repository tells the story.

// First, for its macro: what a test plants can stand anywhere.
#[macro_use]
pub mod planted;

pub mod api;
pub mod bench;
pub mod build;
pub mod bus;
pub mod calls;
pub mod cli;
pub mod clock;
pub mod command;
pub mod config;
pub mod effects;
pub mod event;
#[cfg(test)]
pub mod fuzz;
pub mod host;
pub mod limits;
pub mod log;
pub mod metrics;
pub mod plugin;
pub mod schedule;
pub mod serve;
pub mod state;
pub mod texts;
pub mod wasm;
