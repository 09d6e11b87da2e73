//! What cannot be read for a while: the plugin is paused, and goes on once somebody lets it, be it a worker,
//! the drain or the feeder that met with it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::world::{PLUGIN, World};
use crate::bus::notes::{Notes, PluginLog};
use crate::bus::runner::{Parts, Runner, Version};
use crate::event::{Generation, Position};
use crate::log::disk::Disk;
use crate::log::disk::sim::{Crash, SimDisk};
use crate::log::record::{Control, ControlRecord};
use crate::metrics::Metrics;
use crate::schedule::pool::GuestPool;

/// What the first segment of the log had when it was looked at, out of reach and back.
pub(super) struct Bytes {
    disk: SimDisk,
    segment: PathBuf,
    count: usize,
}

impl Bytes {
    pub(super) fn of(disk: &SimDisk, bus: &str) -> Self {
        let folder = Path::new("data/buses").join(bus).join("log");
        // The one after it is there already, and empty.
        let segment = folder.join(disk.list(&folder).unwrap().iter().min().unwrap());
        let bytes = disk.bytes(&segment).unwrap();
        // What comes later is appended behind them.
        let count = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        Self { disk: disk.clone(), segment, count }
    }

    /// Makes them unreadable, and readable the second time.
    pub(super) fn turn(&self) {
        let turn = |bytes: &mut Vec<u8>| bytes.iter_mut().take(self.count).for_each(|b| *b ^= 0x55);
        self.disk.damage(&self.segment, turn);
    }
}

/// The same after a crash, with so many workers: what was there before is on the disk alone.
async fn again(world: &World, workers: usize) -> World {
    let disk = world.disk.crash(Crash::KeepsAll);
    let (clock, script) = (Arc::clone(&world.clock), Arc::clone(&world.script));
    let dir = tempfile::tempdir().unwrap();
    let manifest = format!("[run]\nworkers = {workers}\n");
    World::open(disk, clock, script, dir, None, &manifest).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_goes_on_once_its_event_can_be_read_again() {
    let world = World::new().await;
    world.script.breaks(&["a1"]);
    world.publish(&["a1", "b1"]).await;
    world.until("a is parked", |world| world.is_parked("a")).await;
    world.until_listed(&[("b", "b1")]).await;
    let again = again(&world, 1).await;
    again.script.breaks(&[]);
    let bytes = Bytes::of(&again.disk, "main");
    bytes.turn();
    assert_eq!(again.redrive_all().await.count, 1);
    again.publish(&["c1"]).await;
    while !again.runner.is_paused() {
        tokio::task::yield_now().await;
    }
    bytes.turn();
    again.runner.resume();
    again.publish(&["d1"]).await;
    again.until_listed(&[("a", "a1"), ("c", "c1"), ("d", "d1")]).await;
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_drained_once_they_can_be_read_again() {
    let world = World::new().await;
    world.script.breaks(&["a1", "e1"]);
    world.publish(&["a1", "a2", "e1", "e2", "b1"]).await;
    world.until("both are parked", |world| world.is_parked("a") && world.is_parked("e")).await;
    world.until_listed(&[("b", "b1")]).await;
    let again = again(&world, 4).await;
    let bytes = Bytes::of(&again.disk, "main");
    bytes.turn();
    again.release("a").await;
    while !again.runner.is_paused() {
        tokio::task::yield_now().await;
    }
    bytes.turn();
    again.runner.resume();
    again.release("e").await;
    again.publish(&["b2"]).await;
    again.until_listed(&[("a", "a2"), ("e", "e2"), ("b", "b1 b2")]).await;
    again.stop().await;
}

/// A runner of the next generation, which begins with the first event.
async fn rewound(world: &World, pool: &GuestPool) -> Arc<Runner> {
    let (instance, generation, until) = (PLUGIN, Generation(1), world.bus.last_position());
    let control = Control::Rewind { instance, generation, after: Position(0), until, done: until };
    let record = ControlRecord { actor: "ops".into(), control };
    let committed = world.bus.control(&[record]).done().await.unwrap();
    world.bus.until_applied(committed.commit).await;
    let mut version = Version::clone(&world.runner.version());
    version.deliverer.generation = generation;
    let parts = Parts {
        bus: Arc::clone(&world.bus),
        name: "lister".into(),
        instance,
        generation,
        subscriptions: vec![(Position(0), Arc::new(version.manifest.subscribe.clone()))],
        version: Arc::new(version),
        paused: false,
        tenant: pool.tenant("rewound"),
        log: Arc::<PluginLog>::default(),
        notes: Notes::default(),
        metrics: Metrics::default().plugin("rewound"),
        pauses: mpsc::channel(8).0,
    };
    Runner::start(parts, 2)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_feeder_reads_on_once_the_bus_can_be_read_again() {
    let world = World::new().await;
    world.publish(&["a1", "b1"]).await;
    world.until_listed(&[("a", "a1"), ("b", "b1")]).await;
    let again = again(&world, 4).await;
    again.runner.stop().await;
    let bytes = Bytes::of(&again.disk, "main");
    bytes.turn();
    let pool = GuestPool::new(1, &tokio::runtime::Handle::current()).unwrap();
    let runner = rewound(&again, &pool).await;
    while !runner.is_paused() {
        tokio::task::yield_now().await;
    }
    bytes.turn();
    runner.resume();
    again.until_rebuilt().await;
    again.publish(&["a2"]).await;
    again.until_listed(&[("a", "a1 a2"), ("b", "b1")]).await;
    runner.stop().await;
    pool.shutdown();
    again.stop().await;
}
