//! The sandbox: from the bytes of a module to something that can be invoked.

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

#[cfg(test)]
pub(crate) mod fixtures;

pub use child::run_compile_child;
