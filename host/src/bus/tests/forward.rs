//! Events on their way from one bus to another.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;

use super::unreadable::Bytes;
use super::world::World;
use crate::bus::memory::{MemoryOptions, Order, Over, Overflow};
use crate::bus::{Bus, forward};
use crate::clock::SystemClock;
use crate::event::{Addressee, CommitNumber, InstanceId, NewEvent, Position};
use crate::limits::EVENT_DATA_BYTES_MAX;
use crate::log::disk::sim::{Crash, SimDisk};
use crate::log::{Log, LogOptions};
use crate::state::Ledger;

const PATIENCE: Duration = Duration::from_secs(60);

fn memory_bus(capacity: usize) -> Arc<Bus> {
    let options = MemoryOptions { capacity, overflow: Overflow::Reject, order: Order::Key };
    Arc::new(Bus::memory("m", options, Arc::new(SystemClock::new())))
}

/// A bus with a new log, and where it notes what runs.
fn durable_bus() -> (Arc<Bus>, tempfile::TempDir) {
    let (disk, dir) = (SimDisk::new(), tempfile::tempdir().unwrap());
    (source_on(&disk, dir.path()), dir)
}

/// Where the events that were forwarded stand in the log they come from.
async fn origins(world: &World) -> Vec<u64> {
    let positions: Vec<_> = (1..=world.bus.last_position().0).map(Position).collect();
    let events = world.bus.events(positions).await.unwrap();
    let origins = events.iter().filter_map(|event| event.origin.as_ref());
    origins.map(|origin| origin.position.0).collect()
}

/// What a plugin emits to this bus.
fn emitted(to: &str, bytes: usize) -> NewEvent {
    NewEvent {
        kind: "thing.made".into(),
        id: "x".into(),
        source: "/tidegate/other/p".into(),
        emitter: Some(InstanceId(9)),
        data: vec![7; bytes].into(),
        addressee: Some(Addressee::Bus(to.into())),
        ..NewEvent::default()
    }
}

/// A durable bus that nobody folds.
fn source_on(disk: &SimDisk, state: &Path) -> Arc<Bus> {
    named_on("s", disk, state)
}

fn named_on(name: &str, disk: &SimDisk, state: &Path) -> Arc<Bus> {
    let (path, options) = (Path::new("data/buses/s"), LogOptions::default());
    let log = Log::open(Arc::new(disk.clone()), path, options, Arc::new(SystemClock::new()));
    let fold = (Ledger::default(), Arc::default(), CommitNumber(0));
    Arc::new(Bus::durable(name, log.unwrap().log, fold, state).unwrap())
}

/// More of them come at a time than one commit can hold.
#[tokio::test(flavor = "multi_thread")]
async fn many_large_events_are_forwarded_and_so_is_what_follows() {
    let world = World::new().await;
    let source = memory_bus(1000);
    let stop = CancellationToken::new();
    let mut run = forward::run(Arc::clone(&source), Arc::clone(&world.bus), stop.clone()).boxed();
    assert!((&mut run).now_or_never().is_none(), "it has begun, and waits");
    let ring = source.ring().unwrap();
    ring.append(vec![emitted("main", EVENT_DATA_BYTES_MAX); 70], Over::Nothing).unwrap();
    let run = tokio::spawn(run);
    ring.append(vec![emitted("main", 1)], Over::Nothing).unwrap();
    let taken = async {
        let mut applied = world.bus.applied();
        let all = |bus: &Bus| forward::taken(&source, bus) == Position(71);
        applied.wait_for(|_| all(&world.bus) || run.is_finished()).await.unwrap();
    };
    tokio::time::timeout(PATIENCE, taken).await.unwrap();
    assert!(!run.is_finished(), "it gave up");
    stop.cancel();
    run.await.unwrap().unwrap();
}

/// The fold is behind the log for a moment, after a start as well.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_durable_and_not_folded_when_forwarding_begins_is_forwarded_once() {
    let world = World::new().await;
    let (source, _dir) = durable_bus();
    let emit = async || source.append_private(vec![emitted("main", 1)]).done().await.unwrap();
    for last in [2, 4] {
        emit().await;
        let stop = CancellationToken::new();
        let (from, to) = (Arc::clone(&source), Arc::clone(&world.bus));
        let mut run = forward::run(from, to, stop.clone()).boxed();
        assert!((&mut run).now_or_never().is_none(), "it has begun, and waits");
        let run = tokio::spawn(run);
        emit().await;
        let come = |world: &World| forward::taken(&source, &world.bus) == Position(last);
        world.until("all have come", come).await;
        stop.cancel();
        run.await.unwrap().unwrap();
    }
    assert_eq!(origins(&world).await, [1, 2, 3, 4]);
}

/// One read that failed once ended it until the next start.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_for_a_while_is_forwarded_once_it_can() {
    let world = World::new().await;
    let (disk, dir) = (SimDisk::new(), tempfile::tempdir().unwrap());
    let before = source_on(&disk, dir.path());
    let emit = async |bus: &Bus| bus.append_private(vec![emitted("main", 1)]).done().await.unwrap();
    emit(&before).await;
    // What was there before is on the disk alone.
    let disk = disk.crash(Crash::KeepsAll);
    let source = source_on(&disk, dir.path());
    let bytes = Bytes::of(&disk, "s");
    bytes.turn();
    let stop = CancellationToken::new();
    let mut run = forward::run(Arc::clone(&source), Arc::clone(&world.bus), stop.clone()).boxed();
    // It reads, fails, and waits.
    assert!(tokio::time::timeout(Duration::from_millis(500), &mut run).await.is_err());
    bytes.turn();
    emit(&source).await;
    let run = tokio::spawn(run);
    let come = |world: &World| forward::taken(&source, &world.bus) == Position(2);
    world.until("both have come", come).await;
    stop.cancel();
    run.await.unwrap().unwrap();
}

/// Its folder was moved away.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_log_that_is_begun_anew_gets_is_forwarded() {
    let world = World::new().await;
    for count in [4, 2, 3] {
        let (source, _dir) = durable_bus();
        let stop = CancellationToken::new();
        let run = forward::run(Arc::clone(&source), Arc::clone(&world.bus), stop.clone());
        let run = tokio::spawn(run);
        for _ in 0..count {
            let emitted = source.append_private(vec![emitted("main", 1)]);
            emitted.done().await.unwrap();
        }
        let come = |world: &World| forward::taken(&source, &world.bus) == Position(count);
        world.until("all have come", come).await;
        stop.cancel();
        run.await.unwrap().unwrap();
    }
    assert_eq!(origins(&world).await, [1, 2, 3, 4, 1, 2, 1, 2, 3]);
}

/// Forwards what comes of the source until all up to a position was taken.
async fn forward_up_to(world: &World, source: &Arc<Bus>, last: u64) {
    let stop = CancellationToken::new();
    let run = forward::run(Arc::clone(source), Arc::clone(&world.bus), stop.clone());
    let run = tokio::spawn(run);
    let come = |world: &World| forward::taken(source, &world.bus) == Position(last);
    world.until("all have come", come).await;
    stop.cancel();
    run.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_a_log_goes_on_where_it_ends() {
    let world = World::new().await;
    let (disk, dir) = (SimDisk::new(), tempfile::tempdir().unwrap());
    let emit = async |bus: &Bus| bus.append_private(vec![emitted("main", 1)]).done().await.unwrap();
    let source = source_on(&disk, dir.path());
    emit(&source).await;
    let copy = disk.crash(Crash::KeepsAll);
    emit(&source).await;
    forward_up_to(&world, &source, 2).await;
    let source = source_on(&copy, dir.path());
    forward_up_to(&world, &source, 1).await;
    emit(&source).await;
    forward_up_to(&world, &source, 2).await;
    assert_eq!(origins(&world).await, [1, 2, 2]);
}

/// Two buses that change their folders, and so their logs.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_known_under_another_name() {
    let world = World::new().await;
    let (disks, dir) = ([SimDisk::new(), SimDisk::new()], tempfile::tempdir().unwrap());
    let emit = async |bus: &Bus| bus.append_private(vec![emitted("main", 1)]).done().await.unwrap();
    for (disk, (name, count)) in disks.iter().zip([("a", 3), ("b", 1)]) {
        let bus = named_on(name, disk, dir.path());
        for _ in 0..count {
            emit(&bus).await;
        }
        forward_up_to(&world, &bus, count).await;
    }
    let disks = disks.map(|disk| disk.crash(Crash::KeepsAll));
    for (disk, (name, count)) in disks.iter().zip([("b", 3), ("a", 1)]) {
        let bus = named_on(name, disk, dir.path());
        emit(&bus).await;
        forward_up_to(&world, &bus, count + 1).await;
    }
    assert_eq!(origins(&world).await, [1, 2, 3, 1, 4, 2]);
}
