//! Values with an end: removed once nobody can see them, the same live and at a restart.

use futures_util::poll;

use super::world::{From, PLUGIN, World};
use crate::bus::operate::Act;
use crate::bus::runner::Letter;
use crate::event::{Generation, Key, Position};
use crate::log::disk::sim::Crash;
use crate::state::Usage;

fn usage(world: &World) -> Usage {
    world.bus.values().usage(PLUGIN, Generation(0))
}

/// Lets the plugin come past the end of what the event at `position` left under `key`, until that is
/// removed.
async fn until_removed(world: &World, key: &str, position: u64) {
    let delivered = |world: &World| world.plugin().is_completed(Position(position));
    world.until("it was there", delivered).await;
    for n in 0.. {
        if world.ids(key).is_empty() {
            return;
        }
        let id = format!("z{n}");
        world.publish(&[&id]).await;
        world.until("it is listed", |world| world.ids("z").ends_with(&id)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_is_removed_live_and_by_a_fold_of_the_log_alike() {
    let world = World::new().await;
    world.publish(&["t.ttl1", "u.ttl1", "u2", "b1"]).await;
    world.until_listed(&[("b", "b1"), ("u", "u.ttl1 u2")]).await;
    until_removed(&world, "t", 1).await;
    let emitted = world.emitted().await;
    assert_eq!(emitted.get("t.ttl1"), Some(&1), "it was there");
    assert_eq!(world.ids("u"), "u.ttl1 u2", "it was set again, without an end");
    world.runner.stop().await;
    // What the runner asked for last is applied before this, which is no plugin's to handle.
    world.hold("y").await;
    world.bus.until_applied(world.bus.log().unwrap().durable()).await;
    let live = usage(&world);
    let again = world.crash(Crash::LosesAll, From::Log).await;
    assert_eq!(usage(&again), live);
    assert_eq!(again.ids("t"), "");
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_key_keeps_what_its_dead_letter_saw() {
    let world = World::new().await;
    world.script.breaks(&["p2"]);
    world.publish(&["p.ttl1", "p2", "t.ttl1"]).await;
    world.until("p is parked", |world| world.is_parked("p")).await;
    until_removed(&world, "t", 3).await;
    assert_eq!(world.ids("p"), "p.ttl1");
    world.script.breaks(&[]);
    assert_eq!(world.redrive_all().await.count, 1);
    world.until_listed(&[("p", "p.ttl1 p2")]).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_redriven_letter_saw_stays_while_the_scheduler_does_not_know_of_the_redrive() {
    let world = World::new().await;
    world.script.breaks(&["p2"]);
    world.publish(&["p.ttl1", "p2", "t.ttl1"]).await;
    world.until("p is parked", |world| world.is_parked("p")).await;
    world.script.breaks(&[]);
    let (id, position) = (world.letters()[0].id, world.letters()[0].position);
    let letter = Letter { position, key: Key::new("p").ok(), attempts: 2, parks: true };
    assert_eq!(world.runner.at_rest(std::slice::from_ref(&letter)).await, [true]);
    let numbers = [id];
    let mut redrive = Box::pin(world.act(&numbers, Act::Redrive));
    world.disk.hold_syncs();
    assert!(poll!(&mut redrive).is_pending(), "it is on its way into the log");
    world.disk.release_syncs();
    world.until("it is folded", |world| !world.is_parked("p")).await;
    // Nobody has told the scheduler when the plugin comes past the end of what `p` has.
    for n in 0..4 {
        world.clock.pass(3000);
        let id = format!("x{n}");
        world.publish(&[&id]).await;
        world.until("it is listed", |world| world.ids("x").ends_with(&id)).await;
    }
    world.hold("y").await;
    assert_eq!(redrive.await.count, 1);
    world.until_listed(&[("p", "p.ttl1 p2")]).await;
    until_removed(&world, "t", 3).await;
    world.stop().await;
}
