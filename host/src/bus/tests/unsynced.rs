//! Events that are delivered while they are written: nobody sees them or what came of them before they
//! are durable, and nothing is left of them where they never are.

use std::time::Duration;

use super::world::{From, PATIENCE, World};
use crate::event::{Key, Position};
use crate::log::ReadError;
use crate::log::disk::sim::{Crash, Fault};
use crate::state::slots::Suspect;

/// Long enough for what must not happen to happen.
const A_WHILE: Duration = Duration::from_millis(50);

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_handed_over_while_it_is_written_and_nobody_else_sees_it() {
    let world = World::new().await;
    world.publish(&["a1"]).await;
    world.until_listed(&[("a", "a1")]).await;
    let last = world.bus.last_position();
    world.disk.hold_syncs();
    let published = world.publishing(&["a2", "b1"]);
    world.until_handed("a2").await;
    world.until_handed("b1").await;
    assert!(!published.is_finished());
    let next = Position(last.0 + 1);
    assert_eq!(world.bus.last_position(), last);
    assert_eq!(world.bus.event(next).await.unwrap(), None);
    assert_eq!((world.ids("a"), world.ids("b")), ("a1".to_owned(), String::new()));
    let cursor = world.runner.cursor();
    assert!(cursor.scanned.max(cursor.low).max(cursor.seen) <= last, "{cursor:?}");
    let seen = world.runner.snapshot(Key::new("a").ok().as_ref()).await.unwrap();
    assert!(seen.position <= last, "{seen:?}");
    let completed = tokio::time::timeout(A_WHILE, world.runner.until_completed(next)).await;
    assert!(completed.is_err(), "what is not durable was said to be completed");
    world.disk.release_syncs();
    published.await.unwrap().unwrap();
    world.until_listed(&[("a", "a1 a2"), ("b", "b1")]).await;
    world.runner.until_completed(next).await.unwrap();
    world.assert_once(&["a1", "a2", "b1"]).await;
    world.stop().await;
}

/// What the fold may forget rests on what the plugin has read: that must be durable, too, or other events
/// that get these positions later would be passed over.
#[tokio::test(flavor = "multi_thread")]
async fn other_events_at_the_positions_of_what_was_lost_are_delivered() {
    for from in [From::Log, From::Checkpoint] {
        let old = World::new().await;
        old.publish(&["a1"]).await;
        old.until_listed(&[("a", "a1")]).await;
        old.disk.hold_syncs();
        old.script.endless.lock().unwrap().insert("b1".to_owned());
        drop(old.publishing(&["b1", "b2", "c1"]));
        old.until_handed("b1").await;
        old.until_handed("c1").await;
        let world = old.crash(Crash::LosesAll, from).await;
        old.script.endless.lock().unwrap().clear();
        old.disk.release_syncs();
        assert_eq!(world.bus.suspects(), [], "nothing in the log was in progress");
        world.publish(&["d1", "d2", "e1"]).await;
        world.until_listed(&[("d", "d1 d2"), ("e", "e1")]).await;
        for id in ["d1", "d2", "e1"] {
            assert_eq!(world.script.deliveries(id), [(1, false)], "{id}, {from:?}");
        }
        world.assert_once(&["a1", "d1", "d2", "e1"]).await;
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_running_and_is_in_the_log_is_a_suspect() {
    let old = World::new().await;
    old.disk.hold_syncs();
    old.script.endless.lock().unwrap().insert("a1".to_owned());
    drop(old.publishing(&["a1"]));
    old.until_handed("a1").await;
    while !old.disk.holds_a_sync() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    old.script.endless.lock().unwrap().clear();
    let world = old.crash(Crash::ProcessDies, From::Log).await;
    old.disk.release_syncs();
    assert!(matches!(world.bus.suspects(), [Suspect { attempt: 1, .. }]));
    world.until_listed(&[("a", "a1")]).await;
    assert_eq!(world.script.deliveries("a1"), [(1, false), (2, false)]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_while_it_was_written_is_tried_again_once_it_is_durable() {
    let world = World::new().await;
    world.script.breaks(&["a1", "-1"]);
    world.disk.hold_syncs();
    let published = world.publishing(&["a1", "-1"]);
    world.until_handed("a1").await;
    world.until_handed("-1").await;
    world.script.breaks(&[]);
    tokio::time::sleep(A_WHILE).await;
    world.disk.release_syncs();
    published.await.unwrap().unwrap();
    world.until_listed(&[("a", "a1")]).await;
    world.until_handed_times("-1", 2).await;
    assert_eq!(world.script.deliveries("a1"), [(1, false), (2, false)]);
    world.stop().await;
}

/// They leave memory, and are looked for in the index once the key goes on.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_put_off_while_it_was_written_is_found_once_it_is_durable() {
    let world = World::with("[[limits.prefixes]]\nprefix = \"a\"\nrate = 2\n").await;
    // The second one waits for half a second, and what comes behind it is put off.
    world.publish(&["a1", "a2"]).await;
    world.until_listed(&[("a", "a1")]).await;
    world.disk.hold_syncs();
    let published = world.publishing(&["a3", "b1"]);
    world.until_handed("b1").await;
    world.until_handed("a2").await;
    tokio::time::sleep(A_WHILE).await;
    world.disk.release_syncs();
    published.await.unwrap().unwrap();
    world.until_listed(&[("a", "a1 a2 a3"), ("b", "b1")]).await;
    world.assert_once(&["a1", "a2", "a3", "b1"]).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_fails_takes_back_what_it_was_about_to_write() {
    let world = World::new().await;
    world.publish(&["a1"]).await;
    world.until_listed(&[("a", "a1")]).await;
    world.disk.hold_syncs();
    let published = world.publishing(&["a2"]);
    world.until_handed("a2").await;
    world.script.breaks(&["a2"]);
    world.disk.inject(Fault::PowerOffAt(0));
    world.disk.release_syncs();
    published.await.unwrap().unwrap_err();
    let until_durable = world.bus.until_durable(Position(world.bus.last_position().0 + 1));
    let never = tokio::time::timeout(PATIENCE, until_durable).await.unwrap();
    assert!(matches!(never, Err(ReadError::Closed)), "{never:?}");
    assert_eq!(world.ids("a"), "a1");
    let again = world.on(world.disk.crash(Crash::LosesAll)).await;
    again.script.breaks(&[]);
    again.until_listed(&[("a", "a1")]).await;
    again.assert_once(&["a1"]).await;
    again.stop().await;
}
