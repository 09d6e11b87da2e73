//! The durable log: the only truth of a bus.

pub mod dedup;
pub mod heads;
pub mod index;
pub mod record;
