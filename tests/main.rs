//! End-to-end and fault tests: a real host process, real modules, real files. See `README.md`.
//!
//! Every test starts hosts of its own on a free port of loopback with data of its own, and takes
//! down every process it started, by its id, even where it fails.

mod cases;
#[allow(dead_code, reason = "every test binary uses a part of it")]
mod crashes;
mod harness;
#[allow(dead_code, reason = "every test binary uses a part of it")]
mod oracle;
