//! Deliveries while the log takes nothing: what they leave in memory has its room in the lane.

use std::time::Duration;

use tokio::sync::watch;

use super::handlers::handle_with;
use super::world::{World, events, texts};
use crate::effects::{Effects, Outcome};
use crate::event::InstanceId;
use crate::limits::{EFFECTS_LANE_BYTES_MAX, REASON_BYTES_MAX};
use crate::log::disk::sim::Fault;

/// As long without an attempt says that there are none.
const STILL: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn attempts_wait_for_room_while_the_disk_is_full() {
    let world = World::new().await;
    let (made, mut attempts) = watch::channel(());
    handle_with(&world, move |_| {
        made.send_replace(());
        let reason = "x".repeat(REASON_BYTES_MAX);
        (Outcome::Retry { reason, after_ms: Some(1) }, Effects::default())
    })
    .await;
    world.runner.pause();
    world.publish(&texts(&events(300))).await;
    // A small lane: another plugin has the rest of it.
    let room = 2 << 20;
    let others = world.bus.reserve(InstanceId(2), EFFECTS_LANE_BYTES_MAX - room).await.unwrap();
    world.disk.inject(Fault::FullFrom(world.disk.operations()));
    world.runner.resume();
    attempts.changed().await.unwrap();
    while tokio::time::timeout(STILL, attempts.changed()).await.is_ok() {
        let waiting = world.bus.log().unwrap().stats().effects_waiting_bytes;
        assert!(waiting <= room, "{waiting} bytes of attempts wait in a room of {room}");
    }
    world.disk.heal();
    tokio::time::timeout(PATIENCE, attempts.changed()).await.unwrap().unwrap();
    // A log that is closed waits for whoever has room.
    drop(others);
    world.stop().await;
}
