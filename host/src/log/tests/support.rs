//! A log on a simulated disk with a clock that tests turn.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::clock::Clock;
use crate::effects::OutcomeKind;
use crate::event::{Digest, Event, Generation, InstanceId, Key, KeyVariant, NewEvent, Position};
use crate::log::disk::sim::SimDisk;
use crate::log::record::{Completion, DeliveryCommit, Mode};
use crate::log::{Log, LogOptions, OpenError, Opened, Publish, ReadError};

pub(super) const START_MS: u64 = 1_700_000_000_000;
pub(super) const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(super) struct HandClock {
    ms: AtomicU64,
}

impl HandClock {
    pub(super) fn at(ms: u64) -> Arc<Self> {
        Arc::new(Self { ms: AtomicU64::new(ms) })
    }

    pub(super) fn pass(&self, ms: u64) {
        self.ms.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Clock for HandClock {
    fn wall_ms(&self) -> u64 {
        self.ms.load(Ordering::Relaxed)
    }
    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.ms.load(Ordering::Relaxed))
    }
}

pub(super) fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 64 * 1024,
        watermark_ingest_bytes: 2000,
        watermark_effects_bytes: 1000,
        ..LogOptions::default()
    }
}

pub(super) fn bus() -> PathBuf {
    PathBuf::from("data/buses/main")
}

pub(super) fn segment(number: u32) -> PathBuf {
    crate::log::segment::segment_path(&bus().join("log"), number)
}

pub(super) fn try_open(disk: &SimDisk, options: LogOptions) -> Result<Opened, OpenError> {
    Log::open(Arc::new(disk.clone()), &bus(), options, HandClock::at(START_MS))
}

pub(super) fn open(disk: &SimDisk) -> Opened {
    try_open(disk, options()).unwrap()
}

pub(super) fn event(id: &str, key: &str, data: &str) -> NewEvent {
    NewEvent {
        id: id.into(),
        source: "/test".into(),
        kind: "thing.happened".into(),
        key: Some(Key::new(key).unwrap()),
        key_variant: KeyVariant::PartitionKey,
        content_type: "application/json".into(),
        data: Bytes::copy_from_slice(data.as_bytes()),
        ..NewEvent::default()
    }
}

pub(super) fn publish(id: &str, key: &str) -> Publish {
    Publish { event: event(id, key, "{\"n\":1}"), expected: None }
}

/// Waits for a condition that another thread brings about.
pub(super) async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(DEADLINE, waiting).await.is_ok(), "{what} did not happen");
}

/// The end of a delivery that did nothing.
pub(super) fn delivery(position: u64) -> DeliveryCommit {
    DeliveryCommit {
        completion: Completion {
            instance: InstanceId(1),
            generation: Generation(0),
            position: Position(position),
            key: None,
            environment: Digest([0; 32]),
            attempt: 1,
            mode: Mode::Live,
            outcome: OutcomeKind::Ok,
            fuel: 0,
            response: None,
        },
        emits: Vec::new(),
        state: Vec::new(),
        timers: Vec::new(),
        calls: Vec::new(),
        dead_letter: None,
        park: false,
    }
}

/// All durable events, read frame by frame.
pub(super) async fn all_events(log: &Log) -> Result<Vec<Arc<Event>>, ReadError> {
    let mut reader = log.frames_from_position(Position(1));
    let mut events = Vec::new();
    while (events.len() as u64) < log.last_position().0 {
        events.extend(reader.next().await?.events()?.iter().cloned());
    }
    Ok(events)
}

pub(super) fn ids(events: &[Arc<Event>]) -> Vec<String> {
    events.iter().map(|event| event.id.to_string()).collect()
}

/// Files of a folder, by name, with their bytes.
pub(super) fn files(disk: &SimDisk, dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    use crate::log::disk::Disk;
    let names = disk.list(dir).unwrap();
    names.into_iter().map(|name| (dir.join(&name), disk.bytes(&dir.join(&name)).unwrap())).collect()
}
