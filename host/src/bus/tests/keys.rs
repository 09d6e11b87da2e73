//! Keys that park, wait, and go on: order and effects, and what the ledger says meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

use super::handlers::{Handler, swap};
use super::world::World;
use crate::bus::operate::{self, Act};
use crate::bus::runner::Letter;
use crate::effects::{Effects, Outcome, OutcomeKind};
use crate::event::{Key, Position};
use crate::wasm::Delivery;

/// Long enough for what does not wait to happen.
const A_WHILE: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_fails_parks_and_holds_back_only_itself() {
    let world = World::new().await;
    world.script.breaks(&["a2"]);
    world.publish(&["a1", "b1", "a2", "b2", "a3", "b3"]).await;
    world.publish(&["a4", "b4"]).await;
    world.until_listed(&[("a", "a1"), ("b", "b1 b2 b3 b4")]).await;
    world.until("a is parked", |world| world.is_parked("a")).await;
    let letters = world.letters();
    let letter = &letters[0];
    assert_eq!((letters.len(), letter.position, letter.attempts), (1, Position(3), 2));
    assert_eq!(letter.outcome, OutcomeKind::Trap);
    assert_eq!(letter.tried.iter().map(|tried| tried.attempt).collect::<Vec<_>>(), [1, 2]);
    assert!(!world.plugin().is_completed(Position(3)));
    let (position, key) = (letter.position, letter.key.clone());
    let letter = Letter { position, key, attempts: 2, parks: true };
    assert_eq!(world.runner.at_rest(&[letter]).await, [true]);
    let look = world.runner.look(&Key::new("a").unwrap()).unwrap();
    assert_eq!((look.waiting, look.deferred.unwrap().count), (Some((Position(3), 3)), 2));

    world.script.breaks(&[]);
    assert_eq!(world.redrive_all().await.count, 1);
    world.until_listed(&[("a", "a1 a2 a3 a4")]).await;
    world.publish(&["a5"]).await;
    world.until_listed(&[("a", "a1 a2 a3 a4 a5")]).await;
    assert!(world.letters().is_empty());
    assert!(world.plugin().redriving.is_empty());
    assert_eq!(world.script.deliveries("a2"), [(1, false), (2, false), (3, true)]);
    assert_eq!(world.script.deliveries("a3"), [(1, true)]);
    assert_eq!(world.script.deliveries("a4"), [(1, true)]);
    assert_eq!(world.script.deliveries("a5"), [(1, false)]);
    world.assert_once(&["a1", "a2", "a3", "a4", "a5", "b1", "b2", "b3", "b4"]).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_that_fails_leaves_the_key_parked_and_the_dead_letter_its_number() {
    let world = World::new().await;
    world.script.breaks(&["a1"]);
    world.publish(&["a1", "a2"]).await;
    world.until("a is parked", |world| world.is_parked("a")).await;
    let first = world.letters().remove(0);
    assert_eq!(world.redrive_all().await.count, 1);
    let again = |world: &World| world.letters().first().is_some_and(|l| l.attempts == 3);
    world.until("it failed again", again).await;
    let letter = world.letters().remove(0);
    assert_eq!((letter.id, letter.first_ms), (first.id, first.first_ms));
    assert_eq!(letter.tried.len(), 3);
    assert!(world.is_parked("a") && world.plugin().redriving.is_empty());
    assert_eq!(world.plugin().outcomes[OutcomeKind::Trap as usize], 2);
    world.script.breaks(&[]);
    world.redrive_all().await;
    world.until_listed(&[("a", "a1 a2")]).await;
    world.assert_once(&["a1", "a2"]).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_failure_while_catching_up_parks_the_key_there() {
    let world = World::new().await;
    world.script.breaks(&["a1", "a3"]);
    world.publish(&["a1", "a2", "a3", "a4"]).await;
    world.until("a is parked", |world| world.is_parked("a")).await;
    world.script.breaks(&["a3"]);
    world.redrive_all().await;
    let parked_at = |world: &World| world.key_state("a").and_then(|a| a.parked).map(|p| p.position);
    world.until("a is parked at a3", |world| parked_at(world) == Some(Position(3))).await;
    world.until_listed(&[("a", "a1 a2")]).await;
    world.script.breaks(&[]);
    world.redrive_all().await;
    world.until_listed(&[("a", "a1 a2 a3 a4")]).await;
    world.assert_once(&["a1", "a2", "a3", "a4"]).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discarded_dead_letter_is_gone_and_its_key_goes_on() {
    let world = World::new().await;
    world.script.breaks(&["a1"]);
    world.publish(&["a1", "a2", "a3"]).await;
    world.until("a is parked", |world| world.is_parked("a")).await;
    let id = world.letters()[0].id;
    assert_eq!(world.act(&[id], Act::Discard("old".to_owned())).await.count, 1);
    world.until_listed(&[("a", "a2 a3")]).await;
    assert!(world.letters().is_empty());
    assert!(world.plugin().is_completed(Position(1)));
    assert_eq!(world.act(&[id], Act::Redrive).await.left, [(id, "it is gone")]);
    world.assert_once(&["a2", "a3"]).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_released_key_leaves_its_dead_letter_which_can_still_be_redriven() {
    let world = World::new().await;
    world.script.breaks(&["a1"]);
    world.publish(&["a1", "a2"]).await;
    world.until("a is parked", |world| world.is_parked("a")).await;
    world.release("a").await;
    world.until_listed(&[("a", "a2")]).await;
    assert_eq!(world.letters().len(), 1);
    // It fails once more: its later events went on, so nothing waits behind it.
    world.redrive_all().await;
    world.until("it failed again", |world| world.letters()[0].attempts == 3).await;
    assert!(!world.is_parked("a"));
    world.script.breaks(&[]);
    world.until("it is over", |world| world.plugin().redriving.is_empty()).await;
    assert_eq!(world.redrive_all().await.count, 1);
    world.until_listed(&[("a", "a2 a1")]).await;
    world.publish(&["a3"]).await;
    world.until_listed(&[("a", "a2 a1 a3")]).await;
    assert!(world.letters().is_empty());
    assert_eq!(world.script.deliveries("a1").last(), Some(&(4, true)));
    world.assert_once(&["a1", "a2", "a3"]).await;
    world.stop().await;
}

/// The one that parks its key once ran before those that do not.
#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_of_one_key_are_redriven_in_order() {
    let world = World::new().await;
    world.script.breaks(&["a2", "a4"]);
    world.publish(&["a1", "a2", "a3", "a4", "a5"]).await;
    world.until("a is parked", |world| world.is_parked("a")).await;
    world.release("a").await;
    world.until_listed(&[("a", "a1 a3")]).await;
    world.until("a is parked again", |world| world.is_parked("a")).await;
    world.script.breaks(&[]);
    assert_eq!(world.redrive_all().await.count, 2);
    world.until_listed(&[("a", "a1 a3 a2 a4 a5")]).await;
    assert!(world.letters().is_empty());
    world.assert_once(&["a1", "a2", "a3", "a4", "a5"]).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_key_waits_until_it_is_released() {
    let world = World::new().await;
    world.publish(&["a1"]).await;
    world.until_listed(&[("a", "a1")]).await;
    world.hold("a").await;
    world.publish(&["a2", "b1", "a3"]).await;
    world.until_listed(&[("b", "b1")]).await;
    let held = world.key_state("a").unwrap().held.unwrap();
    assert_eq!((&*held.actor, &*held.reason), ("ops", "why not"));
    assert_eq!(world.ids("a"), "a1");
    world.release("a").await;
    world.until_listed(&[("a", "a1 a2 a3")]).await;
    assert_eq!(world.script.deliveries("a2"), [(1, false)]);
    world.assert_once(&["a1", "a2", "a3", "b1"]).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redriven_dead_letter_of_a_held_key_waits_for_the_release() {
    let world = World::new().await;
    world.script.breaks(&["a1"]);
    world.publish(&["a1", "a2"]).await;
    world.until("a is parked", |world| world.is_parked("a")).await;
    world.hold("a").await;
    world.script.breaks(&[]);
    assert_eq!(world.redrive_all().await.count, 1);
    assert_eq!(world.redrive_all().await.left, [(1, "it runs again already")]);
    world.publish(&["b1"]).await;
    world.until_listed(&[("b", "b1")]).await;
    assert_eq!(world.ids("a"), "");
    world.release("a").await;
    world.until_listed(&[("a", "a1 a2")]).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_without_a_key_and_other_policies_do_not_park() {
    let world = World::new().await;
    world.script.breaks(&["-1"]);
    world.publish(&["-1", "-2"]).await;
    world.until("-1 is dead", |world| world.letters().len() == 1).await;
    assert!(world.plugin().keys.is_empty());
    world.script.breaks(&[]);
    world.redrive_all().await;
    world.until("-1 is done", |world| world.letters().is_empty()).await;
    world.assert_once(&["-1", "-2"]).await;
    world.stop().await;

    let world = World::with("[retry]\non-failure = \"continue\"").await;
    world.script.breaks(&["a1"]);
    world.publish(&["a1", "a2"]).await;
    world.until_listed(&[("a", "a2")]).await;
    world.until("a1 is dead", |world| world.letters().len() == 1).await;
    assert!(world.plugin().keys.is_empty());
    world.script.breaks(&[]);
    world.redrive_all().await;
    world.until_listed(&[("a", "a2 a1")]).await;
    world.assert_once(&["a1", "a2"]).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_keys_are_redriven_in_order_while_events_come_in() {
    let world = World::new().await;
    let keys: Vec<String> = (0..100).map(|n| format!("k{n}")).collect();
    let ids = |rounds: std::ops::Range<usize>| -> Vec<String> {
        rounds.flat_map(|n| keys.iter().map(move |key| format!("{key}.{n}"))).collect()
    };
    let publish = |ids: Vec<String>| {
        let world = &world;
        async move { world.publish(&ids.iter().map(String::as_str).collect::<Vec<_>>()).await }
    };
    let broken: Vec<String> = keys.iter().step_by(3).map(|key| format!("{key}.1")).collect();
    world.script.breaks(&broken.iter().map(String::as_str).collect::<Vec<_>>());
    publish(ids(0..5)).await;
    world.until("all are parked", |world| world.plugin().parked_keys() == broken.len()).await;
    world.script.breaks(&[]);
    let (acted, ()) = tokio::join!(world.redrive_all(), publish(ids(5..8)));
    assert_eq!(acted.count, broken.len() as u64);
    for key in &keys {
        let all: Vec<String> = (0..8).map(|n| format!("{key}.{n}")).collect();
        world.until_listed(&[(key, &all.join(" "))]).await;
    }
    let all = ids(0..8);
    world.assert_once(&all.iter().map(String::as_str).collect::<Vec<_>>()).await;
    world.publish(&["z1"]).await;
    world.until_listed(&[("z", "z1")]).await;
    world.publish(&["z2", "y1"]).await;
    world.until("all keys caught up", |world| world.plugin().keys.is_empty()).await;
    world.stop().await;
}

/// Its delivery once parked the key in the log and no more in the scheduler: what stood behind it was
/// delivered, and the dead letter could not be redriven.
#[tokio::test(flavor = "multi_thread")]
async fn a_held_key_that_parks_while_it_is_released_is_what_the_log_says() {
    let world = World::new().await;
    let (entered, mut entries) = watch::channel(());
    let (open, gate) = std::sync::mpsc::sync_channel::<()>(1);
    let (gate, is_well) = (Mutex::new(gate), Arc::new(AtomicBool::new(false)));
    let well = Arc::clone(&is_well);
    let handler = Handler(move |delivery: &Delivery<'_>| {
        if &*delivery.event.id != "a1" || well.load(Ordering::SeqCst) {
            return (Outcome::Ok, Effects::default());
        }
        entered.send_replace(());
        let _ = gate.lock().unwrap().recv();
        (Outcome::Trap { reason: "unreachable".to_owned() }, Effects::default())
    });
    swap(&world, |version| {
        version.invoker = Arc::new(handler);
        version.retry.attempts_fault = 1;
    })
    .await;
    world.publish(&["a1", "a2"]).await;
    entries.changed().await.unwrap();
    world.hold("a").await;
    world.disk.hold_syncs();
    let (bus, runner) = (Arc::clone(&world.bus), Arc::clone(&world.runner));
    let key = Key::new("a").unwrap();
    let instance = runner.instance();
    let released = tokio::spawn({
        let key = key.clone();
        async move { operate::release(&bus, instance, Some(&runner), &key, "ops").await }
    });
    tokio::time::sleep(A_WHILE).await;
    drop(open);
    while world.runner.look(&key).is_some_and(|view| view.running) {
        tokio::task::yield_now().await;
    }
    world.disk.release_syncs();
    released.await.unwrap().unwrap();
    world.until("a1 is dead", |world| world.letters().len() == 1).await;
    is_well.store(true, Ordering::SeqCst);
    assert_eq!(world.redrive_all().await.count, 1);
    let all = [Position(1), Position(2)];
    let over = |world: &World| all.iter().all(|at| world.plugin().is_completed(*at));
    world.until("both are over", |world| over(world) && world.letters().is_empty()).await;
    assert!(!world.is_parked("a"));
    world.stop().await;
}
