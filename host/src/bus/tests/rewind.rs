//! Rewinds: state as if the new module had always run, effects as if nothing had happened twice.

use std::sync::Arc;
use std::time::Duration;

use super::handlers::handle_with;
use super::world::{From, PLUGIN, World, texts};
use crate::bus::carry::{Carried, CarryError};
use crate::bus::operate::Act;
use crate::bus::replay::{self, Judged, On, Plan, Verdict};
use crate::effects::{Effects, Outcome, StateWrite};
use crate::event::{Generation, Key, Position};
use crate::limits::STATE_VALUE_BYTES_MAX;
use crate::log::disk::sim::Crash;
use crate::log::record::{Control, ControlRecord};
use crate::state::Owner;

const BOTH: [From; 2] = [From::Log, From::Checkpoint];

/// `a` and `b` with some events, at positions that are told by what was emitted between.
async fn world() -> World {
    let world = World::new().await;
    world.publish(&["a1", "b1", "a2", "a3", "b2", "-1"]).await;
    world.until_listed(&[("a", "a1 a2 a3"), ("b", "b1 b2")]).await;
    world.until("all has settled", |world| world.bus.last_position() == Position(12)).await;
    world
}

/// Positions of deliveries that are not what they were, among those of events in a range, run again on
/// the present module.
async fn diff(world: &World, from: u64, to: u64) -> Vec<Position> {
    let (version, scratch) = (world.runner.version(), tempfile::tempdir().unwrap());
    let plan = Plan {
        bus: Arc::clone(&world.bus),
        instance: PLUGIN,
        generation: world.plugin().generation,
        from: Position(from),
        to: Position(to),
        subscriptions: vec![(Position(0), Arc::new(version.manifest.subscribe.clone()))],
        on: On::One(version),
        tenant: world.pool.tenant("again"),
        tasks_max: 1,
        scratch: scratch.path().to_owned(),
    };
    let (mut judged, mut differ) = (0, Vec::new());
    let judge = |it: Judged| {
        judged += 1;
        differ.extend((it.verdict != Verdict::Equal).then_some(it.position));
    };
    replay::run(&plan, judge).await.unwrap();
    assert!(judged > 0, "nothing was compared");
    differ
}

/// Nothing was emitted twice, and all of these once.
async fn assert_emitted(world: &World, ids: &[&str]) {
    let emitted = world.emitted().await;
    assert!(emitted.values().all(|times| *times == 1), "{emitted:?}");
    for id in ids {
        assert!(emitted.contains_key(*id), "{id} of {emitted:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn state_is_rebuilt_as_if_the_new_module_had_always_run() {
    let world = world().await.rewind(0, "!").await;
    world.until_rebuilt().await;
    assert_eq!(world.ids("a"), "a1! a2! a3!");
    assert_eq!(world.ids("b"), "b1! b2!");
    assert_eq!(world.ids_of(Generation(0), "a"), "", "the old state is gone");
    world.publish(&["a4"]).await;
    world.until_listed(&[("a", "a1! a2! a3! a4!")]).await;
    world.until("it emits again", |world| world.bus.last_position() == Position(14)).await;
    assert_emitted(&world, &["a1", "a4", "-1"]).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_state_is_seen_and_new_events_wait_until_all_is_rebuilt() {
    for from in BOTH {
        let world = world().await;
        world.script.endless.lock().unwrap().insert("b2".to_owned());
        let world = world.rewind(0, "!").await;
        world.publish(&["a4", "c1"]).await;
        let half = |world: &World| world.ids_of(Generation(1), "a") == "a1! a2! a3!";
        world.until("a is rebuilt", half).await;
        world.until_handed("b2").await;
        assert_eq!((world.ids("a"), world.ids("b")), ("a1 a2 a3".into(), "b1 b2".into()));
        assert!(world.plugin().rebuilding().is_some());

        // Whatever happens meanwhile, it goes on where it was.
        let world = world.crash(Crash::LosesAll, from).await;
        assert_eq!(world.ids("a"), "a1 a2 a3", "{from:?}");
        world.script.endless.lock().unwrap().clear();
        // Not from a checkpoint: `b2` may be on its way by now, and one is taken at rest.
        let world = world.crash(Crash::LosesAll, From::Log).await;
        world.until_rebuilt().await;
        world.until_listed(&[("a", "a1! a2! a3! a4!"), ("b", "b1! b2!"), ("c", "c1!")]).await;
        world.until("c1 has emitted", |world| world.bus.last_position() >= Position(16)).await;
        assert_emitted(&world, &["a4", "c1"]).await;
        world.stop().await;
    }
}

/// Who waited for an event was shown the old state once that was delivered for the new one.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_seen_as_done_that_only_the_new_state_has() {
    let world = World::new().await;
    world.publish(&["a1"]).await;
    world.until_listed(&[("a", "a1")]).await;
    world.until("it has emitted", |world| world.bus.last_position() == Position(2)).await;
    world.runner.pause();
    world.publish(&["b1"]).await;
    world.script.endless.lock().unwrap().insert("a1".to_owned());
    let world = world.rewind(0, "!").await;
    let half = |world: &World| world.ids_of(Generation(1), "b") == "b1!";
    world.until("b is rebuilt", half).await;
    let patience = Duration::from_millis(100);
    let seen = tokio::time::timeout(patience, world.runner.until_completed(Position(3))).await;
    assert!(seen.is_err() && world.ids("b").is_empty(), "it is not to be seen yet");
    assert!(world.runner.until_completed(Position(1)).await.is_ok(), "this is");
    assert!(world.runner.snapshot(None).await.unwrap().position < Position(3));

    world.script.endless.lock().unwrap().clear();
    let world = world.crash(Crash::LosesAll, From::Log).await;
    world.runner.until_completed(Position(3)).await.unwrap();
    assert_eq!(world.ids("b"), "b1!");
    assert!(world.runner.snapshot(None).await.unwrap().position >= Position(3));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewind_to_a_position_begins_with_the_state_of_then() {
    for from in BOTH {
        // `a1`, `b1` and `a2` are at 1 to 3.
        let world = world().await.rewind(3, "!").await;
        world.until_rebuilt().await;
        assert_eq!(world.ids("a"), "a1 a2 a3!");
        assert_eq!(world.ids("b"), "b1 b2!");
        let world = world.crash(Crash::LosesAll, from).await;
        assert_eq!(world.ids("a"), "a1 a2 a3!");
        // Back before the first one, and between.
        let world = world.rewind(1, "?").await;
        world.until_rebuilt().await;
        assert_eq!((world.ids("a"), world.ids("b")), ("a1 a2? a3?".into(), "b1? b2?".into()));
        let world = world.rewind(4, ".").await;
        world.until_rebuilt().await;
        assert_eq!((world.ids("a"), world.ids("b")), ("a1 a2? a3?".into(), "b1? b2.".into()));
        assert_emitted(&world, &["a1", "b2"]).await;
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_delivered_is_delivered_with_all_its_effects() {
    let world = World::new().await;
    world.script.breaks(&["a2"]);
    world.publish(&["a1", "a2", "a3", "b1"]).await;
    world.until("a is parked", |world| world.is_parked("a")).await;
    world.until_listed(&[("a", "a1"), ("b", "b1")]).await;
    world.script.breaks(&[]);
    let world = world.rewind(0, "!").await;
    world.until_rebuilt().await;
    assert_eq!((world.ids("a"), world.ids("b")), ("a1! a2! a3!".into(), "b1!".into()));
    assert!(world.letters().is_empty() && !world.is_parked("a"));
    world.until("all have emitted", |world| world.bus.last_position() >= Position(8)).await;
    world.assert_once(&["a1", "a2", "a3", "b1"]).await;
    world.stop().await;
}

/// What a dead letter emitted was left out where a rewind had come in between, though nothing of it had
/// ever been emitted.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_up_has_all_its_effects_once_it_goes_well() {
    for from in BOTH {
        let world = World::with("[retry]\non-failure = \"continue\"\n").await;
        world.script.breaks(&["a1", "b1"]);
        world.publish(&["a1", "a2", "b1", "b2"]).await;
        world.until_listed(&[("a", "a2"), ("b", "b2")]).await;
        world.until("both are dead letters", |world| world.letters().len() == 2).await;
        // One stands before the rewind and runs again, the other comes once more.
        let world = world.rewind(2, "!").await;
        world.until_rebuilt().await;
        let world = world.crash(Crash::LosesAll, from).await;
        world.script.breaks(&["a2"]);
        assert_eq!(world.redrive_all().await.count, 2);
        world.until("they have emitted", |world| world.bus.last_position() == Position(8)).await;
        world.assert_once(&["a1", "a2", "b1", "b2"]).await;
        // What fails only now has emitted before, and so has what failed before.
        let world = world.rewind(0, "?").await;
        world.until_rebuilt().await;
        world.script.breaks(&[]);
        let world = world.rewind(0, "?").await;
        world.until_rebuilt().await;
        world.until_listed(&[("a", "a1? a2?"), ("b", "b1? b2?")]).await;
        world.publish(&["c1"]).await;
        world.until("c1 has emitted", |world| world.bus.last_position() == Position(10)).await;
        world.assert_once(&["a1", "a2", "b1", "b2", "c1"]).await;
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_fails_again_parks_and_holds_back_only_itself() {
    for from in BOTH {
        let world = world().await;
        world.script.breaks(&["a2"]);
        let world = world.rewind(0, "!").await;
        world.until_rebuilt().await;
        assert_eq!((world.ids("a"), world.ids("b")), ("a1!".into(), "b1! b2!".into()));
        assert_eq!(world.letters().len(), 1);
        world.publish(&["a4"]).await;
        let world = world.crash(Crash::LosesAll, from).await;
        assert!(world.is_parked("a"), "{from:?}");
        world.script.breaks(&[]);
        let letter = world.letters()[0].id;
        assert_eq!(world.act(&[letter], Act::Redrive).await.count, 1);
        world.until_listed(&[("a", "a1! a2! a3! a4!")]).await;
        world.until("a4 has emitted", |world| world.bus.last_position() >= Position(14)).await;
        assert_emitted(&world, &["a1", "a2", "a3", "a4"]).await;
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_time_of_a_rewind_leaves_it_to_be_finished() {
    let mut rng = fastrand::Rng::new();
    let seed = rng.get_seed();
    println!("seed {seed}");
    for round in 0..6 {
        let world = World::new().await;
        let ids: Vec<String> =
            (0..200).map(|n| format!("{}{n}", if n % 3 == 0 { "a" } else { "b" })).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        world.publish(&ids).await;
        world.until("all has emitted", |world| world.bus.last_position() == Position(400)).await;
        let after = if round % 2 == 0 { 0 } else { 100 };
        let mut world = world.rewind(after, "!").await;
        for _ in 0..4 {
            let patience = std::time::Duration::from_millis(rng.u64(..15));
            let _ = tokio::time::timeout(patience, world.until_rebuilt()).await;
            let from = if rng.bool() { From::Log } else { From::Checkpoint };
            // A checkpoint is taken of a bus that is at rest.
            let from = if world.plugin().rebuilding().is_some() { From::Log } else { from };
            world = world.crash(Crash::LosesAll, from).await;
        }
        world.until_rebuilt().await;
        for key in ["a", "b"] {
            let of_key = ids.iter().enumerate().filter(|(_, id)| id.starts_with(key));
            let expected: Vec<String> = of_key
                .map(|(n, id)| if (n as u64) < after { (*id).to_owned() } else { format!("{id}!") })
                .collect();
            assert_eq!(world.ids(key), expected.join(" "), "seed {seed}, round {round}");
        }
        world.assert_once(&ids).await;
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_with_more_state_than_a_commit_holds_is_carried_over() {
    const VALUES: usize = 66;
    let world = World::new().await;
    handle_with(&world, |delivery| {
        let value = Some(vec![b'v'; STATE_VALUE_BYTES_MAX].into());
        let write = StateWrite { name: (*delivery.event.id).into(), value, expires_ms: None };
        (Outcome::Ok, Effects { state: vec![write], ..Effects::default() })
    })
    .await;
    let ids: Vec<String> = (0..VALUES).map(|n| format!("big.{n}")).collect();
    world.publish(&texts(&ids)).await;
    let last = Position(VALUES as u64);
    world.until("all are set", |world| world.plugin().is_completed(last)).await;
    let world = world.rewind(last.0, "").await;
    world.until_rebuilt().await;
    let key = Key::new("big").unwrap();
    let carried = Owner { instance: PLUGIN, generation: Generation(1), key };
    let all = world.bus.values().all(&carried, 0).unwrap();
    assert_eq!(all.len(), VALUES);
    assert!(all.iter().all(|(_, value)| value.bytes.len() == STATE_VALUE_BYTES_MAX));
    world.stop().await;
}

/// It takes back how far the plugin is, and not what was delivered behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_that_runs_again_makes_nothing_behind_it_happen_twice() {
    let world = World::with("[retry]\non-failure = \"continue\"\n").await;
    world.script.breaks(&["a1"]);
    world.publish(&["a1", "b1", "b2"]).await;
    world.until("it is a dead letter", |world| world.letters().len() == 1).await;
    world.until_listed(&[("b", "b1 b2")]).await;
    for n in 0.. {
        if world.plugin().low > Position(3) {
            break;
        }
        // Each frame that is read lets the runner note how far it is.
        let id = format!("z{n}");
        world.publish(&[&id]).await;
        world.until("it is listed", |world| world.ids("z").ends_with(&id)).await;
    }
    world.runner.pause();
    assert_eq!(world.redrive_all().await.count, 1);
    assert_eq!(world.runner.cursor().low, Position(0));
    let world = world.rewind(0, "!").await;
    world.publish(&["b3"]).await;
    world.until_listed(&[("b", "b1! b2! b3!")]).await;
    assert_emitted(&world, &["b1", "b2", "b3"]).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_was_redriven_while_rebuilding_is_so_when_it_runs_again() {
    let world = World::new().await;
    world.publish(&["a1", "a2"]).await;
    world.until_listed(&[("a", "a1 a2")]).await;
    world.script.breaks(&["a1"]);
    let world = world.rewind(0, "!").await;
    world.until("it is parked", |world| world.is_parked("a")).await;
    world.script.breaks(&[]);
    assert_eq!(world.redrive_all().await.count, 1);
    world.until_listed(&[("a", "a1! a2!")]).await;
    let then = ["a1", "a2"].map(|id| world.script.deliveries(id));
    assert_eq!(
        then,
        [vec![(1, false), (1, false), (2, false), (3, true)], vec![(1, false), (1, true)]]
    );

    // The attempts that failed do not any more.
    assert_eq!(diff(&world, 1, 4).await, [Position(1)]);
    let again = ["a1", "a2"].map(|id| world.script.deliveries(id));
    assert_eq!(again[0][4..], [(2, false), (3, true)]);
    assert_eq!(again[1][2..], [(1, true)]);
    world.stop().await;
}

/// The state of the first generation, once all is applied that can be seen: a value is seen before.
async fn state_after(world: &World, position: u64) -> Result<Carried, CarryError> {
    world.bus.until_applied(world.bus.log().unwrap().durable()).await;
    world.bus.state_after(PLUGIN, Generation(0), Position(position)).await
}

/// The state after the first event would hold what the later ones had left, and they would come once more.
#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_state_of_a_point_that_a_dead_letter_was_redriven_behind() {
    let world = World::with("[retry]\non-failure = \"continue\"\n").await;
    world.script.breaks(&["a1"]);
    world.publish(&["b1", "a1", "a2", "b2"]).await;
    world.until_listed(&[("a", "a2"), ("b", "b1 b2")]).await;
    world.until("it is a dead letter", |world| world.letters().len() == 1).await;
    world.script.breaks(&[]);
    assert_eq!(world.redrive_all().await.count, 1);
    world.until_listed(&[("a", "a2 a1")]).await;

    let after = |position| state_after(&world, position);
    let Err(error) = after(2).await else { panic!("what is it then?") };
    assert!(matches!(error, CarryError::Overtaken { position: Position(2), .. }), "{error}");
    assert!(after(1).await.is_ok(), "it comes once more");
    assert!(after(3).await.is_ok(), "all that came before it does not");
    let world = world.rewind(1, "!").await;
    world.until_listed(&[("a", "a1! a2!"), ("b", "b1 b2!")]).await;
    world.stop().await;
}

/// Its effects stood in a generation that the second rewind went back behind, and were lost.
#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_state_of_a_point_that_a_rewind_came_to_before_a_redrive() {
    let world = World::with("[retry]\non-failure = \"continue\"\n").await;
    world.script.breaks(&["a1"]);
    world.publish(&["b1", "a1", "a2", "a3"]).await;
    world.until_listed(&[("a", "a2 a3"), ("b", "b1")]).await;
    world.until("it is a dead letter", |world| world.letters().len() == 1).await;
    let world = world.rewind(4, "!").await;
    world.until_rebuilt().await;
    assert!(state_after(&world, 3).await.is_ok(), "it is a dead letter still");
    world.script.breaks(&[]);
    assert_eq!(world.redrive_all().await.count, 1);
    world.until_listed(&[("a", "a2 a3 a1!")]).await;
    let Err(error) = state_after(&world, 3).await else { panic!("it is lost") };
    assert!(matches!(error, CarryError::Overtaken { position: Position(2), .. }), "{error}");
    assert!(state_after(&world, 1).await.is_ok(), "it comes once more");
    world.stop().await;
}

/// Who asks for state may still have the runner that was there before.
#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_was_stopped_says_nothing_of_how_far_its_plugin_is() {
    let world = world().await;
    world.runner.stop().await;
    let (instance, generation, after) = (PLUGIN, Generation(1), Position(0));
    let (until, done) = (world.bus.last_position(), world.runner.cursor().low);
    let control = Control::Rewind { instance, generation, after, until, done };
    let record = ControlRecord { actor: "ops".into(), control };
    let committed = world.bus.control(&[record]).done().await.unwrap();
    world.bus.until_applied(committed.commit).await;
    world.runner.snapshot(None).await.unwrap();
    world.publish(&["c1"]).await;
    world.bus.until_applied(world.bus.log().unwrap().durable()).await;

    let world = world.crash(Crash::LosesAll, From::Checkpoint).await;
    world.until_rebuilt().await;
    world.until_listed(&[("a", "a1 a2 a3"), ("b", "b1 b2"), ("c", "c1")]).await;
    assert_eq!(world.ids_of(generation, "a"), "a1 a2 a3");
    world.stop().await;
}

/// What such a dead letter had left was missing from the state that the others saw again.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_that_was_redriven_late_makes_no_delivery_differ() {
    let world = World::with("[retry]\non-failure = \"continue\"\n").await;
    world.script.breaks(&["a1"]);
    world.publish(&["a1", "a2"]).await;
    world.until_listed(&[("a", "a2")]).await;
    world.until("it is a dead letter", |world| world.letters().len() == 1).await;
    world.script.breaks(&[]);
    assert_eq!(world.redrive_all().await.count, 1);
    world.until_listed(&[("a", "a2 a1")]).await;
    world.publish(&["a3"]).await;
    world.until_listed(&[("a", "a2 a1 a3")]).await;
    let last = world.bus.last_position().0;
    for (from, to) in [(1, last), (1, 1), (1, 2), (2, last), (3, last)] {
        // The attempts that failed do not any more.
        let failed = (from == 1).then_some(Position(1));
        assert_eq!(diff(&world, from, to).await, Vec::from_iter(failed), "{from} to {to}");
    }
    world.stop().await;
}
