//! The durable log: the only truth of a bus.

pub mod codec;
pub mod dedup;
pub mod disk;
pub mod frame;
pub mod heads;
pub mod index;
pub mod pack;
pub mod record;
