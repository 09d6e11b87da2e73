//! Workers that have several deliveries in hand.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::handlers::invocation;
use super::world::{World, events, parts, texts};
use crate::bus::runner::{Pin, Version};
use crate::effects::{Effects, Outcome, StateWrite};
use crate::event::Position;
use crate::wasm::{Delivery, Invocation, Invoker, Slot};

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_does_not_end_holds_up_nothing_but_its_key() {
    let world = World::new().await;
    let all = events(300);
    // Fewer than there are workers, somewhere in what they have in hand.
    let endless = ["k60.0", "k131.0", "k200.0"];
    world.script.endless.lock().unwrap().extend(endless.map(str::to_owned));
    world.publish(&texts(&all)).await;
    let handled = |world: &World| {
        let key = |id: &&String| !world.ids(id.split('.').next().unwrap()).is_empty();
        all.iter().filter(key).count()
    };
    world.until("all others are handled", |world| handled(world) == all.len() - 3).await;
    let others: Vec<_> = texts(&all).into_iter().filter(|id| !endless.contains(id)).collect();
    world.assert_once(&others).await;
    for id in endless {
        assert_eq!(world.script.deliveries(id), [(1, false)], "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_in_hand_follows_a_delivery_that_pauses_the_plugin() {
    let manifest = "[run]\nworkers = 1\n[retry]\non-failure = \"pause\"\non-reject = \"pause\"\n";
    let world = World::with(manifest).await;
    let all = events(300);
    world.script.rejected.lock().unwrap().insert("k40.0".to_owned());
    world.publish(&texts(&all)).await;
    world.until("it is paused", |world| world.runner.is_paused()).await;
    let handed: Vec<_> = world.script.handed.borrow().iter().map(|(id, ..)| id.clone()).collect();
    assert_eq!(handed, all[..=40]);
    world.runner.resume();
    let handled =
        |world: &World| (0..300).filter(|n| !world.ids(&format!("k{n}")).is_empty()).count();
    world.until("all others are handled", |world| handled(world) == 299).await;
    world.stop().await;
}

/// Adds 601 bytes to its state, and then takes long where nothing may: it runs once more where it can
/// yield.
struct Long;

impl Long {
    fn run(delivery: &Delivery<'_>) -> Box<Invocation> {
        let room = delivery.state.grow("n", None, 601);
        let outcome = room
            .map_or_else(|limit| Outcome::Output { budget: limit.to_owned() }, |()| Outcome::Ok);
        let value = Some(vec![b'x'; 600].into());
        let write = StateWrite { name: "n".into(), value, expires_ms: None };
        invocation(outcome, Effects { state: vec![write], ..Effects::default() })
    }
}

impl Invoker for Long {
    fn invoke<'a>(
        &'a self,
        _: &'a mut Slot,
        delivery: Delivery<'a>,
    ) -> BoxFuture<'a, Box<Invocation>> {
        Box::pin(async move { Self::run(&delivery) })
    }

    fn invoke_through<'a>(
        &self,
        _: &mut Slot,
        delivery: Delivery<'a>,
    ) -> Result<Box<Invocation>, Delivery<'a>> {
        Self::run(&delivery);
        Err(delivery)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_runs_once_more_has_its_room_once() {
    let world = World::new().await;
    let manifest = "[limits]\nstate-per-key = \"1KiB\"\n";
    let new = parts(&world.bus, &world.script, &world.pool, manifest);
    let version = Version { invoker: Arc::new(Long), ..(*new.version).clone() };
    let subscription = Arc::new(version.manifest.subscribe.clone());
    world.runner.swap(Arc::new(version), subscription, "ops".into(), Pin::Stays).await.unwrap();
    world.publish(&["a1"]).await;
    let is_over = |world: &World| world.plugin().is_completed(Position(1)) || world.is_parked("a");
    world.until("it is over", is_over).await;
    assert!(!world.is_parked("a"), "{:?}", world.letters());
}
