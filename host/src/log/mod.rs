//! The durable log: the only truth of a bus.

pub mod record;
