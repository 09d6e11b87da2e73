//! What the tests are written in: hosts, clients, guests, events.

mod browser;
mod cli;
mod events;
mod flaky;
mod guests;
mod host;
mod http;
mod load;
mod oracle;
mod process;
mod raw;
mod wait;

pub(crate) use browser::Browser;
pub(crate) use cli::{Cli, Run, program};
pub(crate) use events::{batch_file, event, generated, read_ndjson};
pub(crate) use flaky::{Flaky, Reply};
pub(crate) use guests::{
    Guest, Sources, bare_guest, caller, copy_folder, echo, emitter, encode_with, fixture,
    guest_target, handler, keeper, put, root, upcaster,
};
pub(crate) use host::{Host, HostOptions, OpenFiles, Place};
pub(crate) use http::{Answer, Http};
pub(crate) use load::Publisher;
pub(crate) use oracle::{by_key, milestones_are_exact, sequences_are_dense};
pub(crate) use process::Process;
pub(crate) use raw::Raw;
pub(crate) use wait::{seed, wait_until};
