//! A plugin that fails at most keys stands still and is probed; nothing is lost by it.

use std::time::Duration;

use super::world::{PATIENCE, World, events, texts};

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_fails_broadly_parks_few_keys_and_goes_on_once_it_is_well() {
    let world = World::new().await;
    let all = events(500);
    world.script.breaks(&texts(&all));
    world.publish(&texts(&all)).await;
    // Probed, and still not well: the wait has doubled some times.
    let probed = |world: &World| {
        world.runner.broken().is_some() && world.script.handed.borrow().len() > 20 + 3 * 8
    };
    world.until("it is probed", probed).await;
    let (parked, tried) = (world.letters().len(), world.script.handed.borrow().len());
    assert!(parked < 20 && tried < 250, "{parked} parked after {tried} attempts");

    world.script.breaks(&[]);
    let handled = |world: &World| {
        all.iter().filter(|id| !world.ids(id.split('.').next().unwrap()).is_empty()).count()
    };
    world
        .until("all others went well", |world| handled(world) + world.letters().len() == 500)
        .await;
    assert!(world.runner.broken().is_none());
    world.redrive_all().await;
    world.until("all went well", |world| handled(world) == 500).await;
    world.assert_once(&texts(&all)).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_fails_at_some_keys_is_not_stopped() {
    let world = World::new().await;
    let all = events(900);
    let broken: Vec<_> = texts(&all).into_iter().skip(3).step_by(10).collect();
    world.script.breaks(&broken);
    world.publish(&texts(&all)).await;
    world.until("they are parked", |world| world.plugin().parked_keys() == broken.len()).await;
    assert!(world.runner.broken().is_none());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_who_resumes_it_closes_it() {
    let world = World::new().await;
    let all = events(60);
    world.script.breaks(&texts(&all));
    world.publish(&texts(&all)).await;
    world.until("it stands still", |world| world.runner.broken().is_some()).await;
    world.script.breaks(&[]);
    world.runner.resume();
    assert!(world.runner.broken().is_none());
    let handled =
        |world: &World| (0..60).filter(|n| !world.ids(&format!("k{n}")).is_empty()).count();
    world.until("all went on", |world| world.letters().len() + handled(world) == 60).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_opens_again_after_a_resume_is_probed_when_that_is_due() {
    let world = World::new().await;
    let (before, after): (Vec<_>, Vec<_>) =
        events(120).into_iter().partition(|id| id.as_str() < "k2");
    world.script.breaks(&texts(&events(120)));
    world.publish(&texts(&before)).await;
    let probe_ms = |world: &World| world.runner.broken().and_then(|broken| broken.probe_ms);
    // The wait has doubled with each time that the probes failed.
    let waits_long = |world: &World| {
        probe_ms(world).is_some_and(|probe_ms| probe_ms > world.bus.now_ms() + 2500)
    };
    world.until("it stands still for long", waits_long).await;
    let long_ms = probe_ms(&world).unwrap();
    world.runner.resume();
    world.publish(&texts(&after)).await;
    world.until("it stands still again", |world| probe_ms(world).is_some()).await;
    let short_ms = probe_ms(&world).unwrap();
    assert!(short_ms + 1000 < long_ms, "{short_ms}, and {long_ms} before");
    let is_probed = async {
        while probe_ms(&world) == Some(short_ms) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, is_probed).await.unwrap();
    assert!(world.bus.now_ms() < long_ms, "only when the wait from before was over");
    world.stop().await;
}
