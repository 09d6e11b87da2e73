//! What a memory bus says of itself, with a plugin at work on it and without.

use std::sync::Arc;

use crate::bus::memory::{MemoryOptions, Order, Overflow};
use crate::bus::{Bus, Ticket};
use crate::clock::SystemClock;
use crate::event::NewEvent;

fn memory_bus(capacity: usize, overflow: Overflow) -> Arc<Bus> {
    let options = MemoryOptions { capacity, overflow, order: Order::Key };
    Arc::new(Bus::memory("m", options, Arc::new(SystemClock::new())))
}

#[test]
fn what_was_applied_once_stays_so_whoever_else_appends() {
    let bus = memory_bus(1000, Overflow::DropOldest);
    let append = || {
        for _ in 0..20_000 {
            let appended = bus.ring().unwrap().append(vec![NewEvent::default()]).unwrap();
            let Ticket::Memory(Ok(committed)) = bus.control(&[]) else { panic!("it was refused") };
            let (position, applied) = (bus.last_position(), *bus.applied().borrow());
            assert!(
                position >= appended[0].position,
                "{position} after {:?}",
                appended[0].position
            );
            assert!(committed.commit.0 >= appended[0].position.0, "{committed:?}");
            assert!(applied >= committed.commit, "{applied} after {committed:?}");
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(append);
        }
    });
}
