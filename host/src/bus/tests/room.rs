//! Deliveries that wait until memory has room for keyed state, which may take hours where the disk is full.

use std::sync::Arc;
use std::time::Duration;

use super::world::{From, PATIENCE, World};
use crate::event::{CommitNumber, InstanceId};
use crate::limits::EFFECTS_LANE_BYTES_MAX;
use crate::log::disk::sim::{Crash, SimDisk};
use crate::state::cold::Cold;
use crate::state::{Evictor, Ledger, Values};

/// `a1` has taken all room there is, and `a2` and `b1` wait for some.
async fn full() -> World {
    let dir = tempfile::tempdir().unwrap();
    let cold = Cold::create(&dir.path().join("cold")).unwrap();
    let values = Arc::new(Values::new(Some(cold), 1));
    let fold = Some((Ledger::default(), values, CommitNumber(0)));
    let world = World::open(SimDisk::new(), Arc::default(), Arc::default(), dir, fold, "").await;
    world.publish(&["a1"]).await;
    world.until_listed(&[("a", "a1")]).await;
    world.publish(&["a2", "b1", "-1"]).await;
    // It came last, and makes no state.
    world.until_handed("-1").await;
    assert!(world.bus.values().is_over());
    world
}

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it waits for room")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_state_goes_on_and_what_does_waits_for_room() {
    let world = full().await;
    let log = world.bus.log().unwrap();
    drop(in_time(log.reserve(InstanceId(9), EFFECTS_LANE_BYTES_MAX)).await.unwrap());
    assert_eq!((world.ids("a"), world.ids("b")), ("a1".to_owned(), String::new()));
    let evictor = Evictor::start(Arc::clone(world.bus.values()), "main").unwrap();
    world.until_listed(&[("a", "a1 a2"), ("b", "b1")]).await;
    drop(evictor);
    world.assert_once(&["a1", "-1", "a2", "b1"]).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_room_as_the_host_dies_has_not_been_tried() {
    let world = full().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let again = world.crash(Crash::ProcessDies, From::Log).await;
    assert_eq!(again.bus.suspects(), []);
    again.until_listed(&[("a", "a1 a2"), ("b", "b1")]).await;
    for id in ["a2", "b1"] {
        assert_eq!(again.script.deliveries(id), [(1, false)], "{id}");
    }
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_room() {
    let world = full().await;
    in_time(world.runner.stop()).await;
    assert_eq!((world.ids("a"), world.ids("b")), ("a1".to_owned(), String::new()));
    world.stop().await;
}
