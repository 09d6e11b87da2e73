//! A new version on its way in.

use std::sync::Arc;

use super::handlers::swap;
use super::world::World;
use crate::plugin::Manifest;

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_puts_the_bounds_of_its_manifest_in_force() {
    let world = World::new().await;
    let manifest = "[run]\nin-flight = 7\nwaiting-max = 3\n";
    let manifest = Arc::new(Manifest::parse("lister", manifest).unwrap());
    swap(&world, |version| version.manifest = manifest).await;
    let bounds = world.runner.queue.with(|core| core.bounds());
    assert_eq!((bounds.in_flight_count_max, bounds.waiting_max), (7, 3));
    world.stop().await;
}
