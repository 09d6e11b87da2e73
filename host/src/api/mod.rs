//! HTTP in and out: CloudEvents to events and back, and everything people ask of a running host.
//!
//! The rules: [`errors`] is the only place of status codes; no request reaches a route that the
//! router's root did not let through ([`auth`]); whatever is read from a client has a bound first.

mod answers;
mod app;
mod aside;
pub mod auth;
mod body;
pub mod cloudevents;
mod console;
pub mod errors;
pub mod filter;
pub mod host;
mod io;
mod params;
pub mod requests;
mod routes;
mod server;
#[cfg(test)]
pub(crate) mod tests;
pub mod tls;
pub mod view;

pub use server::{BindError, Place, Server, ServerHandle, ServerOptions};
