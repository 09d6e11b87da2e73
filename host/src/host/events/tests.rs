use std::path::Path;

use super::*;
use crate::clock::{Clock, SystemClock};
use crate::event::{CommitNumber, NewEvent};
use crate::log::disk::sim::SimDisk;
use crate::log::{Log, LogOptions, Publish};
use crate::state::{Ledger, Values};

const EPOCH: u32 = 1;

/// A bus whose frames leave memory at once.
struct World {
    disk: SimDisk,
    log: Log,
    bus: Arc<Bus>,
    _slots: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let disk = SimDisk::new();
        let options = LogOptions { tail_bytes: 1, ..LogOptions::default() };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let dir = Path::new("data/buses/main");
        let log = Log::open(Arc::new(disk.clone()), dir, options, clock).unwrap().log;
        let slots = tempfile::tempdir().unwrap();
        let fold = (Ledger::default(), Arc::new(Values::default()), CommitNumber(0));
        let bus = Arc::new(Bus::durable("main", log.clone(), fold, slots.path()).unwrap());
        Self { disk, log, bus, _slots: slots }
    }

    /// Publishes events of these types, each in a frame of its own, with a payload of 900 bytes.
    async fn publish(&self, kinds: impl IntoIterator<Item = &'static str>) {
        for (number, kind) in kinds.into_iter().enumerate() {
            let event = NewEvent {
                id: format!("{kind}-{number}").into(),
                source: "/test".into(),
                kind: kind.into(),
                data: vec![b'x'; 900].into(),
                ..NewEvent::default()
            };
            self.log.ingest(vec![Publish { event, expected: None }]).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_stream_that_lags_reads_each_part_of_the_log_once() {
    let world = World::new();
    world.publish(["a.b"; 1200]).await;
    let cursor = Some(Cursor { epoch: EPOCH, after: Position(0) });
    let stream = follow(Arc::clone(&world.bus), EPOCH, EventFilter::default(), cursor).await;
    let events: Vec<_> = stream.unwrap().events.take(1200).collect().await;
    assert!(events.iter().map(|event| event.position.0).eq(1..=1200));
    // As whoever reads on and on does: 512 KiB at a time behind the first 256 KiB.
    assert!((1..=4).contains(&world.disk.direct_reads()), "{}", world.disk.direct_reads());
}
