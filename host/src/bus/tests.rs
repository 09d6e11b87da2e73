//! A plugin at work on a real log, with a handler that tests tell what to do.

mod keys;
mod restart;
mod world;
