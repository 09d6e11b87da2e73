//! The fold of a bus: what its commits add up to.
//!
//! [`Ledger`] holds who the plugins are and how far each has come; [`Values`] holds their keyed
//! state. Both are functions of the log prefix that was applied to them, so a restart is the newest
//! checkpoint plus the fold of what follows.

pub mod account;
pub mod across;
pub mod calls;
pub mod checkpoint;
mod claim;
pub mod cold;
pub mod commands;
mod entry;
pub mod evict;
mod gate;
pub mod instance;
pub mod keys;
pub mod ledger;
pub mod letters;
mod lost;
mod pending;
pub mod rewind;
pub mod slots;
pub mod timers;
pub mod values;
pub mod view;

pub use account::{StateQuota, Usage};
pub use calls::{CallPlace, OpenCall, OpenCalls};
pub use checkpoint::{CheckpointError, CheckpointPolicy, Checkpoints, Fill, FillError, Written};
pub use evict::Evictor;
pub use instance::{Activation, AttemptState, Instance};
pub use keys::KeyState;
pub use ledger::{At, Ledger};
pub use letters::DeadLetter;
pub use values::{Owner, Value, Values};
pub use view::{Handle, KeyView};

/// A page of names or keys, which ascend: those with `prefix` after `after`, at most `limit`.
pub(crate) fn page<'a>(
    names: impl Iterator<Item = &'a str>,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Vec<String> {
    names
        .filter(|name| name.starts_with(prefix) && after.is_none_or(|after| *name > after))
        .take(limit)
        .map(str::to_owned)
        .collect()
}
