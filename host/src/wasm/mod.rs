//! The sandbox: from the bytes of a module to something that can be invoked, and its invocation.

pub mod cache;
pub mod child;
pub mod compile;
pub mod encode;
pub mod engine;
pub mod load;
pub mod recognise;
pub mod refusal;
pub mod report;
pub mod shape;

mod arguments;
mod backtrace;
mod bindings;
mod check;
mod context;
mod delivery;
mod drafts;
mod http;
mod imports;
mod invoke;
mod keyvalue;
mod limits;
mod messaging;
mod module;
mod outside;
mod sandbox;
mod seed;
mod session;
mod shelf;
mod small;
mod stdio;
mod store;
mod typing;
mod verdict;
mod wasi;

#[cfg(test)]
pub(crate) use stdio::fuzz::fuzz_printed;

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;

pub use child::run_compile_child;
pub use delivery::{
    Delivery, GuestLimits, Invocation, Invoker, KeysView, Lifted, Question, Request, StateView,
    Upcast,
};
pub use invoke::Slot;
pub use module::{Exports, Module, Needed};
pub use outside::{DirectAnswer, DirectFault, DirectRequest, Outside, Unanswered};
pub use sandbox::{EPOCH_TICK, Sandbox, SandboxError, SandboxOptions};
pub use seed::Seed;
