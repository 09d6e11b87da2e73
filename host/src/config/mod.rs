//! Configuration: from flags, environment and file to one validated value.

pub mod reader;
pub mod units;

pub use reader::{Fault, Invalid, Problem};
pub use units::{ByteSize, FailureShare, InvalidQuantity, TimeSpan};
