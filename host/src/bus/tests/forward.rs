//! Events on their way from one bus to another.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;

use super::unreadable::Bytes;
use super::world::World;
use crate::bus::memory::{MemoryOptions, Order, Overflow};
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
    let (path, options) = (Path::new("data/buses/s"), LogOptions::default());
    let log = Log::open(Arc::new(disk.clone()), path, options, Arc::new(SystemClock::new()));
    let fold = (Ledger::default(), Arc::default(), CommitNumber(0));
    Arc::new(Bus::durable("s", log.unwrap().log, fold, state).unwrap())
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
    ring.append(vec![emitted("main", EVENT_DATA_BYTES_MAX); 70]).unwrap();
    let run = tokio::spawn(run);
    ring.append(vec![emitted("main", 1)]).unwrap();
    let taken = async {
        let mut applied = world.bus.applied();
        let all = |bus: &Bus| bus.ledger().forwarded("m") == Position(71);
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
        let come = |world: &World| world.bus.ledger().forwarded("s") == Position(last);
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
    world.until("both have come", |world| world.bus.ledger().forwarded("s") == Position(2)).await;
    stop.cancel();
    run.await.unwrap().unwrap();
}

/// Its folder was moved away, or an older copy put in its place.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_log_that_is_begun_anew_gets_is_forwarded() {
    let world = World::new().await;
    for count in [4, 2, 3] {
        let (source, _dir) = durable_bus();
        let stop = CancellationToken::new();
        let run = forward::run(Arc::clone(&source), Arc::clone(&world.bus), stop.clone());
        let run = tokio::spawn(run);
        let before = |world: &World| world.bus.ledger().forwarded("s") == Position(0);
        world.until("it is known to begin anew", before).await;
        for _ in 0..count {
            let emitted = source.append_private(vec![emitted("main", 1)]);
            emitted.done().await.unwrap();
        }
        let come = |world: &World| world.bus.ledger().forwarded("s") == Position(count);
        world.until("all have come", come).await;
        stop.cancel();
        run.await.unwrap().unwrap();
    }
    assert_eq!(origins(&world).await, [1, 2, 3, 4, 1, 2, 1, 2, 3]);
}
