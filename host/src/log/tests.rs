//! The log as its users see it, on the simulated disk.

mod crash;
mod damage;
mod full;
mod lagging;
mod numbered;
mod opening;
mod outbox;
mod refusals;
mod semantics;
mod support;
mod writing;
