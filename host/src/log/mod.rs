//! The durable log: the only truth of a bus.

pub mod codec;
pub mod frame;
pub mod pack;
pub mod record;
