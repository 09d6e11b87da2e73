//! The sandbox: from the bytes of a module to something that can be invoked.

pub mod engine;
