//! What a program printed, whatever it is.

use std::sync::Arc;

use bytes::Bytes;

use super::output;
use crate::event::{CommitNumber, Event, Key, KeySequence, NewEvent, Position};
use crate::wasm::context::{Access, Context};
use crate::wasm::session::Session;
use crate::wasm::{Delivery, GuestLimits, Seed, StateView};

struct Nothing;

impl StateView for Nothing {
    fn get(&self, _name: &str) -> Option<Bytes> {
        None
    }

    fn list(&self, _prefix: &str, _after: Option<&str>, _limit: usize) -> Vec<String> {
        Vec::new()
    }
}

/// Takes lines of standard output: of an event's delivery, and as the answer to a command.
pub(crate) fn fuzz_printed(bytes: &[u8]) {
    for asked in [false, true] {
        let event = Event {
            position: Position(7),
            sequence: KeySequence(1),
            recorded_ms: 1000,
            commit: CommitNumber(1),
            body: NewEvent { key: Key::new("k").ok(), ..NewEvent::default() },
        };
        let delivery = Delivery {
            event: Arc::new(event),
            attempt: 1,
            redriven: false,
            seed: Seed::default(),
            config: Arc::default(),
            limits: Arc::new(GuestLimits::default()),
            state: Arc::new(Nothing),
            outside: None,
        };
        let mut session = Session::new(Context::of_delivery(delivery, Access::Write));
        let _ = output::take(&mut session, bytes, asked);
        output::take_logs(&mut session, bytes);
    }
}
