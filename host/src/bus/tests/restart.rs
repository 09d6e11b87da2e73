//! Crashes in every situation a key can be in: what waits still waits, and nothing runs twice.

use super::world::{From, World};
use crate::bus::operate::Act;
use crate::event::{Key, Position};
use crate::log::disk::sim::Crash;

const BOTH: [From; 2] = [From::Log, From::Checkpoint];

/// Key `a` parked at `a2`, with `a3` and `a4` behind it; `b` went on.
async fn parked() -> World {
    let world = World::new().await;
    world.script.breaks(&["a2"]);
    world.publish(&["a1", "b1", "a2", "a3"]).await;
    world.publish(&["b2", "a4"]).await;
    world.until("a is parked", |world| world.is_parked("a")).await;
    world.until_listed(&[("a", "a1"), ("b", "b1 b2")]).await;
    settle(&world).await;
    world
}

/// Waits until what has been seen is noted, past what waits.
async fn settle(world: &World) {
    let last = world.bus.last_position();
    // Each frame that is read lets the runner note how far it is.
    for n in world.ids("z").split_whitespace().count().. {
        if world.plugin().seen >= last {
            return;
        }
        let id = format!("z{n}");
        world.publish(&[&id]).await;
        world.until("it is listed", |world| world.ids("z").ends_with(&id)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_key_is_parked_after_a_restart_and_its_backlog_is_found() {
    for from in BOTH {
        let old = parked().await;
        assert!(old.plugin().low < Position(3) && old.plugin().seen > Position(6));
        let world = old.crash(Crash::LosesAll, from).await;
        world.publish(&["a5", "b3"]).await;
        world.until_listed(&[("a", "a1"), ("b", "b1 b2 b3")]).await;
        assert!(world.is_parked("a"));
        let key = Key::new("a").unwrap();
        let look = world.runner.look(&key).unwrap();
        let deferred = world.runner.deferred(&key, &look).await.unwrap();
        assert_eq!((deferred.count, deferred.more), (3, false), "{from:?}");
        world.script.breaks(&[]);
        assert_eq!(world.redrive_all().await.count, 1);
        world.until_listed(&[("a", "a1 a2 a3 a4 a5")]).await;
        let emitted = world.emitted().await;
        assert!(emitted.values().all(|times| *times == 1), "{emitted:?}");
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_behind_keys_is_counted_after_restarts() {
    for from in BOTH {
        let old = parked().await;
        old.hold("h").await;
        old.publish(&["h1", "h2", "h3"]).await;
        settle(&old).await;
        assert_eq!(old.runner.cursor().deferred_events, 5);
        let old = old.crash(Crash::LosesAll, from).await;
        old.publish(&["a5", "h4"]).await;
        settle(&old).await;
        assert_eq!(old.runner.cursor().deferred_events, 7, "{from:?}");
        let world = old.crash(Crash::LosesAll, from).await;
        // Nothing new is behind them.
        settle(&world).await;
        assert_eq!(world.runner.cursor().deferred_events, 7, "{from:?}");
        for (name, deferred) in [("a", 3), ("h", 4)] {
            let look = world.runner.look(&Key::new(name).unwrap()).unwrap();
            assert_eq!((look.deferred.unwrap().count, look.unknown), (deferred, false), "{from:?}");
        }
        world.script.breaks(&[]);
        world.redrive_all().await;
        world.release("h").await;
        world.until_listed(&[("a", "a1 a2 a3 a4 a5"), ("h", "h1 h2 h3 h4")]).await;
        assert_eq!(world.runner.cursor().deferred_events, 0);
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_key_is_held_after_a_restart() {
    for from in BOTH {
        let old = World::new().await;
        old.publish(&["a1"]).await;
        old.until_listed(&[("a", "a1")]).await;
        old.hold("a").await;
        old.publish(&["a2", "b1"]).await;
        old.until_listed(&[("b", "b1")]).await;
        settle(&old).await;
        let world = old.crash(Crash::LosesAll, from).await;
        world.publish(&["a3", "b2"]).await;
        world.until_listed(&[("b", "b1 b2"), ("a", "a1")]).await;
        world.release("a").await;
        world.until_listed(&[("a", "a1 a2 a3")]).await;
        let emitted = world.emitted().await;
        assert!(emitted.values().all(|times| *times == 1), "{emitted:?}");
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_that_was_recorded_but_not_made_is_made_after_a_restart() {
    for from in BOTH {
        let old = parked().await;
        old.script.breaks(&[]);
        old.runner.pause();
        assert_eq!(old.redrive_all().await.count, 1);
        assert_eq!(old.plugin().redriving.len(), 1);
        let world = old.crash(Crash::LosesAll, from).await;
        world.until_listed(&[("a", "a1 a2 a3 a4")]).await;
        assert!(world.letters().is_empty());
        assert_eq!(world.script.deliveries("a2"), [(1, false), (2, false), (3, true)]);
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_dead_letters_of_a_key_are_redriven_in_order_after_a_restart() {
    for from in BOTH {
        let old = World::new().await;
        old.script.breaks(&["a1", "a3"]);
        old.publish(&["a1", "a2", "a3", "a4"]).await;
        old.until("a is parked", |world| world.is_parked("a")).await;
        old.release("a").await;
        old.until_listed(&[("a", "a2")]).await;
        old.until("a is parked again", |world| world.is_parked("a")).await;
        old.script.breaks(&[]);
        old.runner.pause();
        assert_eq!(old.redrive_all().await.count, 2);
        let world = old.crash(Crash::LosesAll, from).await;
        world.until_listed(&[("a", "a2 a1 a3 a4")]).await;
        assert!(world.letters().is_empty());
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_catching_up_goes_on_where_it_was() {
    for from in BOTH {
        let old = parked().await;
        old.script.breaks(&[]);
        old.script.endless.lock().unwrap().insert("a4".to_owned());
        old.redrive_all().await;
        old.until_handed("a4").await;
        old.until_listed(&[("a", "a1 a2 a3")]).await;
        // What hangs in the old host goes on hanging.
        old.script.endless.lock().unwrap().clear();
        let world = old.crash(Crash::LosesAll, from).await;
        world.publish(&["a5"]).await;
        world.until_listed(&[("a", "a1 a2 a3 a4 a5")]).await;
        // It may be what killed the host: it starts at the next attempt, and is redriven still.
        assert_eq!(world.script.deliveries("a4"), [(1, true), (2, true)]);
        let emitted = world.emitted().await;
        assert!(emitted.values().all(|times| *times == 1), "{emitted:?}");
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_released_discarded_or_redriven_stays_so() {
    for from in BOTH {
        let old = World::new().await;
        old.script.breaks(&["a1", "b1", "c1"]);
        old.publish(&["a1", "b1", "c1", "a2", "b2", "c2"]).await;
        old.until("all are parked", |world| world.plugin().parked_keys() == 3).await;
        old.script.breaks(&[]);
        old.release("a").await;
        let of = |world: &World, position: u64| {
            let letters = world.letters();
            letters.iter().find(|l| l.position == Position(position)).map(|letter| letter.id)
        };
        old.act(&[of(&old, 2).unwrap()], Act::Discard("old".to_owned())).await;
        old.act(&[of(&old, 3).unwrap()], Act::Redrive).await;
        old.until_listed(&[("a", "a2"), ("b", "b2"), ("c", "c1 c2")]).await;
        settle(&old).await;
        let world = old.crash(Crash::LosesAll, from).await;
        world.publish(&["a3", "b3", "c3"]).await;
        world.until_listed(&[("a", "a2 a3"), ("b", "b2 b3"), ("c", "c1 c2 c3")]).await;
        assert_eq!(world.letters().len(), 1);
        // The dead letter that was released runs again, here and after one more crash.
        world.runner.pause();
        assert_eq!(world.redrive_all().await.count, 1);
        let world = world.crash(Crash::LosesAll, from).await;
        world.until_listed(&[("a", "a2 a3 a1")]).await;
        let emitted = world.emitted().await;
        assert!(emitted.values().all(|times| *times == 1), "{emitted:?}");
        world.stop().await;
    }
}

/// The next event of a key may run on effects that are not durable yet. When these are lost with the
/// host, the note that it ran is still there: it once overtook the event before it that way.
#[tokio::test(flavor = "multi_thread")]
async fn what_ran_when_the_host_died_does_not_overtake_what_was_lost() {
    let old = World::new().await;
    old.runner.pause();
    old.publish(&["a1", "a2"]).await;
    old.disk.hold_syncs();
    old.script.endless.lock().unwrap().insert("a2".to_owned());
    old.runner.resume();
    old.until_handed("a2").await;
    old.script.endless.lock().unwrap().clear();
    let world = old.crash(Crash::LosesAll, From::Log).await;
    old.disk.release_syncs();
    world.until_listed(&[("a", "a1 a2")]).await;
    assert_eq!(world.script.deliveries("a1"), [(1, false), (1, false)]);
    assert_eq!(world.script.deliveries("a2"), [(1, false), (2, false)]);
    world.assert_once(&["a1", "a2"]).await;
    world.stop().await;
}

/// Cuts the power at some moments of a redrive of many keys, and lets each host that comes back
/// finish: every key ends with all of its events in order, each with its effects once.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_moment_of_a_redrive_loses_and_doubles_nothing() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let world = World::new().await;
    let keys: Vec<String> = (0..12).map(|n| format!("k{n}")).collect();
    let all: Vec<String> =
        (0..10).flat_map(|n| keys.iter().map(move |key| format!("{key}.{n}"))).collect();
    let broken: Vec<String> = keys.iter().map(|key| format!("{key}.2")).collect();
    world.script.breaks(&broken.iter().map(String::as_str).collect::<Vec<_>>());
    for ids in all.chunks(24) {
        world.publish(&ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    world.until("all are parked", |world| world.plugin().parked_keys() == keys.len()).await;
    world.script.breaks(&[]);
    let mut crashed = Vec::new();
    let redrive = world.redrive_all();
    let mut applied = world.bus.applied();
    let watch = async {
        for _ in 0..6 {
            let until = applied.borrow_and_update().0 + random.u64(1..6);
            if applied.wait_for(|commit| commit.0 >= until).await.is_err() {
                return;
            }
            let crash = match random.u8(..3) {
                0 => Crash::LosesAll,
                1 => Crash::KeepsAll,
                _ => Crash::Random(random.u64(..)),
            };
            crashed.push(world.disk.crash(crash));
        }
    };
    tokio::join!(redrive, async {
        tokio::time::timeout(std::time::Duration::from_secs(20), watch).await.ok()
    });
    for disk in crashed {
        let world = world.on(disk).await;
        for key in &keys {
            let ids: Vec<String> = (0..10).map(|n| format!("{key}.{n}")).collect();
            let listed = |world: &World| world.is_parked(key) || world.ids(key) == ids.join(" ");
            world.until("it is parked or done", listed).await;
        }
        world.redrive_all().await;
        for key in &keys {
            let ids: Vec<String> = (0..10).map(|n| format!("{key}.{n}")).collect();
            world.until_listed(&[(key, &ids.join(" "))]).await;
        }
        world.assert_once(&all.iter().map(String::as_str).collect::<Vec<_>>()).await;
        world.stop().await;
    }
    world.stop().await;
}
