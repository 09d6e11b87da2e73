//! A plugin at work on a real log, with a handler that tests tell what to do.

mod breaker;
mod clock;
mod commands;
mod damaged;
mod expire;
mod filled;
mod forward;
mod hand;
mod handlers;
mod keys;
mod lane;
mod memory;
mod restart;
mod rewind;
mod room;
mod swap;
mod timers;
mod unreadable;
mod unsynced;
mod world;
