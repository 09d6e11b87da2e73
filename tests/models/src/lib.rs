//! Models of tidegate. `README.md` says what each proves, and what not.

#[allow(dead_code, reason = "what the host's own files need of it")]
pub mod event;
pub mod protocol;
#[allow(missing_docs, dead_code, reason = "the host's own files, of which the models use a part")]
pub mod schedule;
