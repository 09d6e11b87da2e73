//! HTTP in and out: CloudEvents to events and back, and everything people ask of a running host.
//!
//! The rules: [`errors`] is the only place of status codes; no route is reachable that the router's
//! root did not let through ([`auth`]); whatever is read from a client has a bound first.

pub mod filter;
pub mod host;
pub mod view;
