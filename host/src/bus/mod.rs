//! What a bus is, and its two kinds.

pub mod deliver;
pub mod memory;
