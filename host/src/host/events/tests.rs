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

    /// Publishes so many events of a type, many in a frame.
    async fn publish_many(&self, kind: &str, count: usize) {
        let publish = |number: usize| {
            let id = uuid::Uuid::new_v4().to_string();
            let (id, source) = (id.into(), format!("/{}", number % 7).into());
            let event = NewEvent { id, source, kind: kind.into(), ..NewEvent::default() };
            Publish { event, expected: None }
        };
        for from in (0..count).step_by(500) {
            let numbers = from..count.min(from + 500);
            self.log.ingest(numbers.map(publish).collect()).await.unwrap();
        }
    }

    /// Positions of all pages of so many events, and how many pages those were.
    async fn listed(&self, filter: &EventFilter, limit: usize) -> (Vec<u64>, usize) {
        let (mut positions, mut cursor) = (Vec::new(), None);
        for pages in 1.. {
            let page = page(&self.bus, EPOCH, filter, cursor, limit).await.unwrap();
            assert!(page.events.len() <= limit);
            positions.extend(page.events.iter().map(|event| event.position.0));
            let Some(after) = page.next else { return (positions, pages) };
            cursor = Some(Cursor { epoch: EPOCH, after });
        }
        unreachable!("there are not as many pages")
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

#[tokio::test]
async fn a_stream_ends_behind_its_last_point_whatever_comes_there() {
    let world = World::new();
    world.publish(["a.b", "c.d", "a.b", "c.d", "a.b"]).await;
    let kind = Some("a.b".parse().unwrap());
    let to = Some(Point::Position(Position(3)));
    let filter = EventFilter { kind, to, ..EventFilter::default() };
    let cursor = Some(Cursor { epoch: EPOCH, after: Position(0) });
    let stream = follow(Arc::clone(&world.bus), EPOCH, filter, cursor).await.unwrap();
    let events: Vec<_> = stream.events.map(|event| event.position.0).collect().await;
    assert_eq!(events, [1, 3]);
}

/// Whoever had seen more of the original of an older copy once waited, and missed what came up to there.
#[tokio::test]
async fn a_cursor_behind_the_end_is_of_another_log() {
    let world = World::new();
    world.publish(["a.b"; 3]).await;
    let filter = EventFilter::default();
    let after = |after| Some(Cursor { epoch: EPOCH, after: Position(after) });
    let stream = follow(Arc::clone(&world.bus), EPOCH, filter.clone(), after(3)).await;
    assert!(stream.is_ok(), "all that there is was seen");
    let stream = follow(Arc::clone(&world.bus), EPOCH, filter.clone(), after(4)).await;
    assert!(matches!(stream, Err(HostError::Invalid { .. })));
    let page = page(&world.bus, EPOCH, &filter, after(4), 10).await;
    assert!(matches!(page, Err(HostError::Invalid { .. })));
}

/// A page once looked at no more than 20,000 events, whatever they were.
#[tokio::test]
async fn events_of_a_type_that_is_rare_are_found_in_one_page() {
    let world = World::new();
    for kind in ["rare.one", "rare.two"] {
        world.publish_many("a.b", PAGE_SCAN_MAX + 5000).await;
        world.publish_many(kind, 2).await;
    }
    world.publish_many("a.b", PAGE_SCAN_MAX + 5000).await;
    let first = PAGE_SCAN_MAX as u64 + 5001;
    let of = |kind: &str| EventFilter { kind: kind.parse().ok(), ..EventFilter::default() };
    assert_eq!(world.listed(&of("rare.one"), 10).await, (vec![first, first + 1], 1));
    let behind = 2 * first + 1;
    assert_eq!(world.listed(&of("rare.two"), 10).await, (vec![behind, behind + 1], 1));
    assert_eq!(world.listed(&of("rare.none"), 10).await, (vec![], 1));
    // The index knows types, and no patterns.
    let (both, pages) = world.listed(&of("rare.*"), 10).await;
    assert_eq!(both, [first, first + 1, behind, behind + 1]);
    assert!(pages > 3, "{pages}");
}

#[tokio::test]
async fn pages_of_any_size_list_what_the_filter_matches() {
    let world = World::new();
    for round in 0..6 {
        world.publish_many("a.b", 40 * round).await;
        world.publish_many("c.d", round).await;
        // More of them at a time than a page looks at in vain.
        world.publish_many("e.f", 1500 * (round % 2)).await;
    }
    let all = world.bus.read_after(Position(0));
    let last = world.bus.last_position();
    let events: Vec<_> = stream::unfold(all, |mut all| async move {
        let events = all.next().await.unwrap().events().unwrap();
        Some((stream::iter(events), all))
    })
    .flatten()
    .take(usize::try_from(last.0).unwrap())
    .collect()
    .await;
    let kinds = [None, Some("a.b"), Some("c.d"), Some("c.*"), Some("x.y")];
    let sources = [None, Some("/3")];
    let points = [None, Some(Point::Position(Position(700)))];
    let cases = kinds.into_iter().flat_map(|kind| {
        let ends = points.into_iter().flat_map(move |from| points.map(move |to| (from, to)));
        ends.flat_map(move |ends| sources.map(move |source| (kind, source, ends)))
    });
    for (kind, source, (from, to)) in cases {
        let kind = kind.map(|kind: &str| kind.parse().unwrap());
        let source = source.map(|source: &str| source.parse().unwrap());
        let filter = EventFilter { kind, source, from, to, ..EventFilter::default() };
        let matched = events.iter().filter(|event| {
            let heading = event.heading();
            filter.matches(event) && filter.has_begun(&heading) && !filter.has_ended(&heading)
        });
        let expected: Vec<_> = matched.map(|event| event.position.0).collect();
        for limit in [50, 1000] {
            assert_eq!(world.listed(&filter, limit).await.0, expected, "{filter:?}");
        }
    }
}
