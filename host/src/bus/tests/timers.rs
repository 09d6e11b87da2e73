//! Timers through a whole bus: set by a delivery, fired by the clock, delivered in the order of the
//! key, whatever happens in between.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use super::world::{From, PATIENCE, PLUGIN, World};
use crate::bus::clocks::FollowError;
use crate::bus::operate::Act;
use crate::effects::TimerChange;
use crate::event::{CommitNumber, Event, Generation, Position};
use crate::log::RecordRef;
use crate::log::disk::sim::Crash;
use crate::log::record::{Control, ControlRecord};
use crate::state::timers::{Pending, Timers};

const BOTH: [From; 2] = [From::Log, From::Checkpoint];
const HOUR_MS: u64 = 60 * 60 * 1000;

fn timers(world: &World) -> &Timers {
    world.bus.values().timers()
}

fn pending(world: &World, key: &str, name: &str) -> Option<Pending> {
    timers(world).pending((PLUGIN, Generation(0)), key, name)
}

fn is_fired(world: &World) -> bool {
    pending(world, "a", "pay").is_some_and(|timer| timer.fired.is_some())
}

fn pass(world: &World, ms: u64) {
    world.clock.pass(ms);
    timers(world).wake();
}

/// Waits until the log finds the wall clock behind or ahead of it, or neither: it looks once a millisecond.
async fn until_apart(world: &World, expected: Option<Ordering>) {
    let apart = || {
        let alarm = world.bus.log().unwrap().clock_alarm();
        alarm.map(|alarm| alarm.wall_ms.cmp(&alarm.log_ms))
    };
    let so = async {
        while apart() != expected {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, so).await.expect("the log sees the clock");
}

/// All fires in the log, in order.
async fn fires(world: &World) -> Vec<Arc<Event>> {
    let (mut fires, mut seen) = (Vec::new(), Position(0));
    let mut source = world.bus.read_after(Position(0));
    while seen < world.bus.last_position() {
        for event in source.next().await.unwrap().events().unwrap() {
            seen = event.position;
            if &*event.kind == "tidegate.timer" {
                fires.push(event);
            }
        }
    }
    fires
}

async fn fired(world: &World) -> Vec<String> {
    let name = |event: &Arc<Event>| event.attribute("timername").unwrap().to_owned();
    fires(world).await.iter().map(name).collect()
}

/// A world where `a1` has set `pay`, due in an hour.
async fn with_one() -> (World, u64) {
    with_one_and("").await
}

/// The same, with further lines of the manifest.
async fn with_one_and(manifest: &str) -> (World, u64) {
    let world = World::with(manifest).await;
    let due_ms = world.bus.now_ms() + HOUR_MS;
    world.script.sets("a1", "pay", due_ms);
    world.publish(&["a1"]).await;
    world.until_listed(&[("a", "a1")]).await;
    (world, due_ms)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timer_fires_at_its_time_and_never_before() {
    let (world, due_ms) = with_one().await;
    assert_eq!(pending(&world, "a", "pay").unwrap().due.due_ms, due_ms);
    pass(&world, HOUR_MS / 2);
    world.publish(&["a2"]).await;
    world.until_listed(&[("a", "a1 a2")]).await;
    assert!(fires(&world).await.is_empty());
    pass(&world, HOUR_MS / 2);
    world.until_listed(&[("a", "a1 a2 @pay")]).await;
    let fires = fires(&world).await;
    assert_eq!(fires.len(), 1);
    assert!(fires[0].recorded_ms >= due_ms);
    assert_eq!(fires[0].attribute("timerdue"), Some(&*due_ms.to_string()));
    assert_eq!(&*fires[0].data, b"set by a1");
    assert_eq!((timers(&world).count(PLUGIN), pending(&world, "a", "pay")), (0, None));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_timer_never_fires_and_a_replaced_one_fires_once() {
    let (world, due_ms) = with_one().await;
    world.script.sets("a2", "other", due_ms);
    world.script.cancels("a3", "pay");
    world.script.sets("a4", "other", due_ms + HOUR_MS);
    world.publish(&["a2", "a3", "a4"]).await;
    world.until_listed(&[("a", "a1 a2 a3 a4")]).await;
    assert_eq!(timers(&world).count(PLUGIN), 1);
    pass(&world, HOUR_MS + 1);
    world.publish(&["a5"]).await;
    world.until_listed(&[("a", "a1 a2 a3 a4 a5")]).await;
    assert!(fires(&world).await.is_empty());
    pass(&world, HOUR_MS);
    world.until_listed(&[("a", "a1 a2 a3 a4 a5 @other")]).await;
    assert_eq!(fired(&world).await, ["other"]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_past_fires_at_once_and_a_timer_can_set_itself_again() {
    let world = World::new().await;
    world.script.sets("a1", "tick", 5);
    world.script.sets("@tick", "tock", 7);
    world.script.sets("@tock", "tock", u64::MAX);
    world.publish(&["a1"]).await;
    world.until_listed(&[("a", "a1 @tick @tock")]).await;
    assert_eq!(pending(&world, "a", "tock").unwrap().due.due_ms, u64::MAX);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fires_come_in_due_order() {
    let world = World::new().await;
    let now_ms = world.bus.now_ms() + HOUR_MS;
    let ids: Vec<String> = (0..200).map(|n| format!("k{n}.1")).collect();
    for (n, id) in (0_u64..).zip(&ids) {
        world.script.sets(id, &format!("{:03}", n * 73 % 200), now_ms + n * 73 % 200);
    }
    world.publish(&ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    world.until("all are set", |world| timers(world).count(PLUGIN) == 200).await;
    pass(&world, 2 * HOUR_MS);
    world.until("all are over", |world| timers(world).count(PLUGIN) == 0).await;
    let fired = fired(&world).await;
    assert!(fired.is_sorted(), "{fired:?}");
    assert_eq!(fired.len(), 200);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jumps_of_the_wall_clock_fire_nothing_and_lose_nothing() {
    const YEARS_MS: i64 = 10 * 365 * 24 * 3_600_000;
    let (world, due_ms) = with_one().await;
    for jump_ms in [YEARS_MS, -YEARS_MS, 3_600_000, -3_600_000, -YEARS_MS, YEARS_MS] {
        world.clock.jump(jump_ms);
        timers(&world).wake();
        world.publish(&["b1"]).await;
        assert!(fires(&world).await.is_empty(), "{jump_ms}");
    }
    until_apart(&world, None).await;
    world.clock.jump(-YEARS_MS);
    until_apart(&world, Some(Ordering::Less)).await;
    pass(&world, HOUR_MS);
    world.until_listed(&[("a", "a1 @pay")]).await;
    assert!(fires(&world).await[0].recorded_ms >= due_ms);
    world.script.sets("a2", "far", world.bus.now_ms() + 5 * HOUR_MS);
    world.publish(&["a2"]).await;
    world.until_listed(&[("a", "a1 @pay a2")]).await;
    world.clock.jump(2 * YEARS_MS);
    until_apart(&world, Some(Ordering::Greater)).await;
    world.bus.log().unwrap().follow_wall_clock();
    until_apart(&world, None).await;
    world.until_listed(&[("a", "a1 @pay a2 @far")]).await;
    assert_eq!(fired(&world).await, ["pay", "far"]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn timers_fire_by_a_clock_that_was_set_ahead_once_that_is_followed() {
    const MINUTE_MS: u64 = 60_000;
    let world = World::new().await;
    let log = world.bus.log().unwrap();
    let now_ms = world.bus.now_ms();
    for (key, name, minutes) in [("a", "late", 40), ("a", "early", 20), ("b", "between", 30)] {
        world.script.sets(&format!("{key}1"), name, now_ms + minutes * MINUTE_MS);
    }
    world.script.sets("b1", "tomorrow", now_ms + 24 * HOUR_MS);
    world.publish(&["a1", "b1"]).await;
    world.until_listed(&[("a", "a1"), ("b", "b1")]).await;

    world.clock.jump(HOUR_MS.cast_signed());
    until_apart(&world, Some(Ordering::Greater)).await;
    world.publish(&["d1"]).await;
    world.until_listed(&[("d", "d1")]).await;
    assert!(fires(&world).await.is_empty());

    let step = world.bus.follow_clock("ops").await.unwrap();
    assert!(step.before_ms < now_ms + HOUR_MS && step.after_ms >= now_ms + HOUR_MS, "{step:?}");
    assert_eq!(log.clock_alarm(), None);
    world.until_listed(&[("a", "a1 @early @late"), ("b", "b1 @between")]).await;
    assert_eq!(fired(&world).await, ["early", "between", "late"]);
    assert_eq!(timers(&world).count(PLUGIN), 1, "tomorrow is not yet");
    world.assert_once(&["a1", "b1", "d1", "@early", "@between", "@late"]).await;

    world.clock.jump(-2 * HOUR_MS.cast_signed());
    let refused = world.bus.follow_clock("ops").await;
    assert!(matches!(refused, Err(FollowError::Behind { .. })), "{refused:?}");
    assert!(world.bus.now_ms() >= step.after_ms);
    assert_eq!(followed(&world).await, ["ops"]);
    world.stop().await;
}

/// Nothing else happens by which the workers would look at the time.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_made_at_once_by_a_clock_that_is_followed() {
    let world = World::new().await;
    world.script.put_off.lock().unwrap().insert("a1".to_owned());
    world.publish(&["a1"]).await;
    world.until("it is put off", |world| !world.plugin().attempts.is_empty()).await;
    world.clock.jump(HOUR_MS.cast_signed());
    until_apart(&world, Some(Ordering::Greater)).await;
    assert_eq!(world.script.deliveries("a1"), [(1, false)]);
    world.bus.follow_clock("ops").await.unwrap();
    let listed = [("a", "a1")];
    let made = tokio::time::timeout(PATIENCE / 4, world.until_listed(&listed)).await;
    made.expect("the workers are told");
    assert_eq!(world.script.deliveries("a1"), [(1, false), (2, false)]);
    world.stop().await;
}

/// The fires that a generation handed to its handler.
async fn served(world: &World, generation: Generation) -> Vec<Position> {
    let fires: Vec<_> = fires(world).await.iter().map(|fire| fire.position).collect();
    let log = world.bus.log().unwrap();
    let (mut frames, mut served) = (log.frames_from_commit(CommitNumber(1)), Vec::new());
    loop {
        let frame = frames.next().await.unwrap();
        for record in frame.commits().flat_map(|commit| commit.unwrap().records()) {
            if let RecordRef::Completion(done) = record.unwrap()
                && (done.generation, done.fuel > 0) == (generation, true)
                && fires.contains(&done.position)
            {
                served.push(done.position);
            }
        }
        if frame.last_commit() >= log.durable() {
            return served;
        }
    }
}

/// Who had the log follow the clock, as the log says.
async fn followed(world: &World) -> Vec<String> {
    let log = world.bus.log().unwrap();
    let (mut frames, mut who) = (log.frames_from_commit(CommitNumber(1)), Vec::new());
    loop {
        let frame = frames.next().await.unwrap();
        for record in frame.commits().flat_map(|commit| commit.unwrap().records()) {
            if let RecordRef::Control(ControlRecord { actor, control }) = record.unwrap()
                && matches!(control, Control::FollowClock { .. })
            {
                who.push(actor.to_string());
            }
        }
        if frame.last_commit() >= log.durable() {
            return who;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timer_that_was_set_is_there_after_a_crash() {
    for from in BOTH {
        let (old, _) = with_one().await;
        let rows = timers(&old).rows(None, usize::MAX);
        assert_eq!(rows.len(), 1);
        let world = old.crash(Crash::LosesAll, from).await;
        assert_eq!(timers(&world).rows(None, usize::MAX), rows, "{from:?}");
        pass(&world, HOUR_MS);
        world.until_listed(&[("a", "a1 @pay")]).await;
        world.assert_once(&["a1", "@pay"]).await;
        let again = world.crash(Crash::LosesAll, from).await;
        assert_eq!(timers(&again).count(PLUGIN), 0);
        again.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fire_that_was_not_delivered_when_the_host_died_is_not_doubled() {
    for from in BOTH {
        let (old, _) = with_one().await;
        old.script.endless.lock().unwrap().insert("@pay".to_owned());
        pass(&old, HOUR_MS);
        old.until_handed("@pay").await;
        old.until("the fire is folded", is_fired).await;
        let rows = timers(&old).rows(None, usize::MAX);
        let world = old.crash(Crash::LosesAll, from).await;
        assert_eq!(timers(&world).rows(None, usize::MAX), rows, "{from:?}");
        world.until_handed_times("@pay", 2).await;
        world.script.endless.lock().unwrap().clear();
        let world = world.crash(Crash::LosesAll, from).await;
        world.until_listed(&[("a", "a1 @pay")]).await;
        assert_eq!(fired(&world).await, ["pay"]);
        world.assert_once(&["a1", "@pay"]).await;
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timer_that_is_cancelled_behind_its_fire_is_not_handed_over() {
    let (world, _) = with_one().await;
    world.script.cancels("a2", "pay");
    world.runner.pause();
    world.publish(&["a2"]).await;
    pass(&world, HOUR_MS);
    world.until("it fired", is_fired).await;
    world.runner.resume();
    world.publish(&["a3"]).await;
    world.until_listed(&[("a", "a1 a2 a3")]).await;
    assert_eq!((fired(&world).await.len(), timers(&world).count(PLUGIN)), (1, 0));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fire_that_is_given_up_parks_its_key_and_can_be_redriven() {
    let (world, _) = with_one().await;
    world.script.breaks(&["@pay"]);
    pass(&world, HOUR_MS);
    world.until("a is parked", |world| world.is_parked("a")).await;
    world.publish(&["a2"]).await;
    assert!(is_fired(&world));
    world.script.breaks(&[]);
    world.redrive_all().await;
    world.until_listed(&[("a", "a1 @pay a2")]).await;
    assert_eq!(timers(&world).count(PLUGIN), 0);
    assert_eq!(fired(&world).await, ["pay"]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fire_that_is_discarded_takes_its_timer_along() {
    let (world, _) = with_one().await;
    world.script.breaks(&["@pay"]);
    pass(&world, HOUR_MS);
    world.until("a is parked", |world| world.is_parked("a")).await;
    world.act(&[world.letters()[0].id], Act::Discard("enough".to_owned())).await;
    world.until("it is gone", |world| timers(world).count(PLUGIN) == 0).await;
    world.publish(&["a2"]).await;
    world.until_listed(&[("a", "a1 a2")]).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_finds_what_fired_in_its_place_and_nothing_fires_twice() {
    for after in [0, 1] {
        let (world, _) = with_one().await;
        pass(&world, HOUR_MS);
        world.until_listed(&[("a", "a1 @pay")]).await;
        world.publish(&["a2"]).await;
        world.until_listed(&[("a", "a1 @pay a2")]).await;
        let world = world.rewind(after, "!").await;
        world.until_rebuilt().await;
        let first = if after == 0 { "a1!" } else { "a1" };
        assert_eq!(world.ids("a"), format!("{first} @pay! a2!"));
        pass(&world, HOUR_MS);
        world.publish(&["a3"]).await;
        world.until_listed(&[("a", &format!("{first} @pay! a2! a3!"))]).await;
        assert_eq!((fired(&world).await.len(), timers(&world).count(PLUGIN)), (1, 0));
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pending_is_so_after_a_rewind_too() {
    for (after, from) in [(0, From::Log), (1, From::Log), (0, From::Checkpoint)] {
        let (world, due_ms) = with_one().await;
        let world = world.rewind(after, "!").await;
        world.until_rebuilt().await;
        let world = world.crash(Crash::LosesAll, from).await;
        let timer = timers(&world).pending((PLUGIN, Generation(1)), "a", "pay").unwrap();
        assert_eq!(timer.due.due_ms, due_ms);
        pass(&world, HOUR_MS);
        let first = if after == 0 { "a1!" } else { "a1" };
        world.until_listed(&[("a", &format!("{first} @pay!"))]).await;
        assert_eq!(fires(&world).await[0].data, "set by a1");
        assert_eq!(fired(&world).await.len(), 1);
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timer_that_only_the_new_module_sets_fires_once_all_is_rebuilt() {
    let world = World::new().await;
    world.publish(&["a1", "a2"]).await;
    world.until_listed(&[("a", "a1 a2")]).await;
    world.script.sets("a1", "extra", 5);
    let world = world.rewind(0, "!").await;
    world.until_listed(&[("a", "a1! a2! @extra!")]).await;
    assert_eq!(fired(&world).await, ["extra"]);
    world.stop().await;
}

/// Its fire was passed over: the timer had not come along.
#[tokio::test(flavor = "multi_thread")]
async fn a_fire_that_was_given_up_before_a_rewind_can_still_be_redriven() {
    for (after, from) in [(3, From::Log), (4, From::Log), (4, From::Checkpoint)] {
        let (world, _) = with_one_and("[retry]\non-failure = \"continue\"\n").await;
        world.script.breaks(&["@pay"]);
        pass(&world, HOUR_MS);
        world.until("it is a dead letter", |world| world.letters().len() == 1).await;
        world.publish(&["a2"]).await;
        world.until_listed(&[("a", "a1 a2")]).await;
        let position = world.letters()[0].position;
        assert!(position <= Position(after), "{position}");
        let world = world.rewind(after, "!").await;
        world.until_rebuilt().await;
        let world = world.crash(Crash::LosesAll, from).await;
        assert_eq!((world.letters().len(), timers(&world).count(PLUGIN)), (1, 1));
        world.script.breaks(&[]);
        assert_eq!(world.redrive_all().await.count, 1);
        world.until("it is done", |world| world.letters().is_empty()).await;
        assert!(world.ids("a").ends_with("@pay!"), "{}", world.ids("a"));
        assert_eq!((fired(&world).await.len(), timers(&world).count(PLUGIN)), (1, 0));
        world.stop().await;
    }
}

/// The first fire was for a timer that had been replaced since, and did nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_knows_timers_of_the_same_moment_apart() {
    for (after, data) in
        [0, 2, 3].into_iter().flat_map(|after| ["set by a1", "set by a2"].map(|data| (after, data)))
    {
        let (world, due_ms) = with_one().await;
        let set = TimerChange::Set { name: "pay".into(), due_ms, data: data.into() };
        world.script.timers.lock().unwrap().insert("a2".to_owned(), vec![set]);
        world.runner.pause();
        world.publish(&["a2"]).await;
        pass(&world, HOUR_MS);
        world.until("the first has fired", is_fired).await;
        world.runner.resume();
        world.until_listed(&[("a", "a1 a2 @pay")]).await;
        let world = world.rewind(after, "!").await;
        world.until_rebuilt().await;
        let fires = fires(&world).await;
        assert_eq!(
            fires.iter().map(|fire| &*fire.data).collect::<Vec<_>>(),
            [b"set by a1", data.as_bytes()]
        );
        assert_eq!(served(&world, Generation(1)).await, [fires[1].position]);
        world.stop().await;
    }
}
