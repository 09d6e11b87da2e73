//! What the host promises, one promise a test.

mod buses;
mod cloudevents;
mod damage;
mod dev;
mod hostile;
mod kill;
mod permits;
mod poison;
mod quotas;
mod refusals;
mod reload;
mod saga;
mod stop;
mod tls;
mod travel;
mod upcast;
mod versions;
mod watching;
