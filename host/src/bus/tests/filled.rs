//! A start whose keys are still being read.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use super::world::{PLUGIN, World, checkpoints};
use crate::event::{Generation, InstanceId, Key};
use crate::limits::EFFECTS_LANE_BYTES_MAX;
use crate::log::disk::sim::Crash;
use crate::state::{At, Fill, Usage};

impl World {
    /// The same after a crash, on a checkpoint of what is applied, whose keys are not there before the
    /// first of the two has run. Only while nothing is being applied.
    fn behind(&self) -> (Fill, impl Future<Output = Self> + use<>) {
        let commit = *self.bus.applied().borrow();
        let at = At { commit, time_ms: 0 };
        let checkpoints = checkpoints(&self.disk, self.bus.log().unwrap());
        checkpoints.write(&self.bus.ledger(), self.bus.values(), at, &[7; 32]).unwrap();
        self.on_checkpoint()
    }

    /// As [`World::behind`], on the newest checkpoint that is there.
    fn on_checkpoint(&self) -> (Fill, impl Future<Output = Self> + use<>) {
        let (disk, values) = (self.disk.crash(Crash::KeepsAll), Arc::default());
        let log = self.bus.log().unwrap();
        let found = checkpoints(&disk, log).find(&values, log.durable());
        let (ledger, at, fill) = found.unwrap().unwrap();
        let (script, dir) = (Arc::clone(&self.script), tempfile::tempdir().unwrap());
        let fold = Some((ledger, values, at.commit));
        (fill, Self::open(disk, Arc::clone(&self.clock), script, dir, fold, ""))
    }
}

async fn at_rest(ids: &[&str], listed: &[(&str, &str)]) -> World {
    let world = World::new().await;
    world.publish(ids).await;
    world.until_listed(listed).await;
    world.runner.stop().await;
    world.bus.until_applied(world.bus.log().unwrap().durable()).await;
    world
}

fn used(world: &World) -> Usage {
    world.bus.values().usage(PLUGIN, Generation(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_no_keys_goes_on_while_they_are_read_and_what_does_waits() {
    let world = at_rest(&["a1", "b1"], &[("a", "a1"), ("b", "b1")]).await;
    let (fill, again) = world.behind();
    let again = again.await;
    assert_eq!(used(&again), used(&world), "known at once");
    again.publish(&["a2", "-1"]).await;
    // Recorded, folded, and seen in the ledger, which nobody keeps locked.
    again.hold("y").await;
    again.until("y is held", |world| world.key_state("y").is_some()).await;
    again.until_handed("-1").await;
    let a = Key::new("a").unwrap();
    let asked = Arc::clone(&again.runner);
    let mut snapshot = pin!(asked.snapshot(Some(&a)));
    let mut context = Context::from_waker(Waker::noop());
    assert!(snapshot.as_mut().poll(&mut context).is_pending());
    let handed = again.script.handed.borrow().iter().any(|(id, ..)| id == "a2");
    assert!(!handed, "it was handed to the handler without its state");
    assert_eq!(again.emitted().await.get("a2"), None);

    fill.run().unwrap();
    assert!(snapshot.await.is_ok());
    again.until_listed(&[("a", "a1 a2"), ("b", "b1")]).await;
    again.assert_once(&["a1", "b1", "a2", "-1"]).await;
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_that_wait_for_keys_hold_no_room_for_what_they_may_record() {
    let world = at_rest(&["a1"], &[("a", "a1")]).await;
    let (fill, again) = world.behind();
    let again = again.await;
    // What workers deliver before makes them reserve room for what comes next.
    let unkeyed: Vec<_> = (0..200).map(|n| format!("-{n}")).collect();
    let keyed: Vec<_> = (0..100).map(|n| format!("k{n}.0")).collect();
    let all: Vec<_> = unkeyed.iter().zip(&keyed).flat_map(|(a, b)| [a.as_str(), b]).collect();
    again.publish(&all).await;
    again.until_handed("-0").await;
    let log = again.bus.log().unwrap();
    let whole = log.reserve(InstanceId(9), EFFECTS_LANE_BYTES_MAX);
    let whole = tokio::time::timeout(Duration::from_secs(20), whole).await;
    drop(whole.expect("they hold some of it").unwrap());
    fill.run().unwrap();
    let all: Vec<_> = all.into_iter().chain(["a1"]).collect();
    let ended = async { while again.emitted().await.len() < all.len() {} };
    tokio::time::timeout(Duration::from_secs(20), ended).await.expect("all are handled");
    again.assert_once(&all).await;
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_a_checkpoint_in_the_log_is_applied_on_top_of_its_keys() {
    let world = at_rest(&["a1", "b1"], &[("a", "a1"), ("b", "b1")]).await;
    let (fill, again) = world.behind();
    let again = again.await;
    fill.run().unwrap();
    again.publish(&["a2", "c1"]).await;
    again.until_listed(&[("a", "a1 a2"), ("c", "c1")]).await;
    again.runner.stop().await;
    again.bus.until_applied(again.bus.log().unwrap().durable()).await;
    // On the checkpoint from before: it is not serving before all of that is folded.
    let (fill, third) = again.on_checkpoint();
    let filling = tokio::task::spawn_blocking(move || fill.run().map(drop));
    let third = third.await;
    assert_eq!([third.ids("a"), third.ids("b"), third.ids("c")], ["a1 a2", "b1", "c1"]);
    assert_eq!(used(&third), used(&again));
    filling.await.unwrap().unwrap();
    third.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_keys_and_loses_nothing() {
    let world = at_rest(&["a1"], &[("a", "a1")]).await;
    let (fill, again) = world.behind();
    let again = again.await;
    again.publish(&["a2", "b1"]).await;
    again.bus.values().stop_filling();
    again.runner.stop().await;
    drop(fill);
    let (fill, third) = again.on_checkpoint();
    let third = third.await;
    fill.run().unwrap();
    third.until_listed(&[("a", "a1 a2"), ("b", "b1")]).await;
    third.assert_once(&["a1", "a2", "b1"]).await;
    third.stop().await;
}
