//! What the host promises, one promise a test.

mod bank;
mod buses;
mod calls;
mod cloudevents;
mod commands;
mod conformance;
mod damage;
mod dev;
mod examples;
mod hostile;
mod kill;
mod park;
mod permits;
mod poison;
mod quotas;
mod refusals;
mod reload;
mod rewind;
mod saga;
mod stop;
mod timers;
mod tls;
mod travel;
mod upcast;
mod versions;
mod watching;
