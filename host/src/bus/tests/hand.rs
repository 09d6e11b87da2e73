//! Workers that have several deliveries in hand.

use super::world::{World, events, texts};

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
