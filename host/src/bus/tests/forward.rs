//! Events on their way from one bus to another.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;

use super::world::World;
use crate::bus::memory::{MemoryOptions, Order, Overflow};
use crate::bus::{Bus, forward};
use crate::clock::SystemClock;
use crate::event::{Addressee, InstanceId, NewEvent, Position};
use crate::limits::EVENT_DATA_BYTES_MAX;

const PATIENCE: Duration = Duration::from_secs(60);

fn memory_bus(capacity: usize) -> Arc<Bus> {
    let options = MemoryOptions { capacity, overflow: Overflow::Reject, order: Order::Key };
    Arc::new(Bus::memory("m", options, Arc::new(SystemClock::new())))
}

/// What a plugin emits to this bus.
fn emitted(to: &str, bytes: usize) -> NewEvent {
    NewEvent {
        kind: "thing.made".into(),
        id: "x".into(),
        source: "/tidegate/other/p".into(),
        emitter: Some(InstanceId(9)),
        data: vec![7; bytes].into(),
        addressee: Some(Addressee::Bus(to.into())),
        ..NewEvent::default()
    }
}

/// More of them come at a time than one commit can hold.
#[tokio::test(flavor = "multi_thread")]
async fn many_large_events_are_forwarded_and_so_is_what_follows() {
    let world = World::new().await;
    let source = memory_bus(1000);
    let stop = CancellationToken::new();
    let mut run = forward::run(Arc::clone(&source), Arc::clone(&world.bus), stop.clone()).boxed();
    assert!((&mut run).now_or_never().is_none(), "it has begun, and waits");
    let ring = source.ring().unwrap();
    ring.append(vec![emitted("main", EVENT_DATA_BYTES_MAX); 70]).unwrap();
    let run = tokio::spawn(run);
    ring.append(vec![emitted("main", 1)]).unwrap();
    let taken = async {
        let mut applied = world.bus.applied();
        let all = |bus: &Bus| bus.ledger().forwarded("m") == Position(71);
        applied.wait_for(|_| all(&world.bus) || run.is_finished()).await.unwrap();
    };
    tokio::time::timeout(PATIENCE, taken).await.unwrap();
    assert!(!run.is_finished(), "it gave up");
    stop.cancel();
    run.await.unwrap().unwrap();
}
