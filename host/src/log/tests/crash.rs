//! Power cuts at every operation of a trace, and again while recovering from them.

use std::sync::Arc;

use super::support::*;
use crate::event::{Event, Key, KeySequence, Position};
use crate::log::disk::sim::{Crash, Fault, SimDisk};
use crate::log::{LogOptions, Publish};

const EVENTS: usize = 45;

fn trace_event(n: usize) -> Publish {
    let data = format!("\"{}\"", "x".repeat(n * 97 % 3000));
    Publish { event: event(&format!("e{n}"), &format!("k{}", n % 3), &data), expected: None }
}

fn small() -> LogOptions {
    LogOptions { segment_bytes: 24 * 1024, ..options() }
}

/// Publishes one after the other until something fails; gives how many were acknowledged.
async fn run(disk: &SimDisk) -> usize {
    let Ok(opened) = try_open(disk, small()) else { return 0 };
    for n in 0..EVENTS {
        if opened.log.ingest(vec![trace_event(n)]).await.is_err() {
            return n;
        }
    }
    // Whether the stop goes through makes no difference to what is acknowledged.
    let _ = opened.log.close().await;
    EVENTS
}

fn check(events: &[Arc<Event>], acknowledged: usize) {
    assert!(events.len() >= acknowledged, "{} of {acknowledged} are there", events.len());
    // One publisher, one at a time: at most the one under way is there unacknowledged.
    assert!(events.len() <= acknowledged + 1);
    for (n, event) in events.iter().enumerate() {
        assert_eq!(event.body, trace_event(n).event);
        assert_eq!(event.position, Position(n as u64 + 1));
        assert_eq!(event.sequence, KeySequence(n as u64 / 3 + 1));
    }
}

/// What is found after a crash is right, and can be gone on from.
async fn recovers(disk: &SimDisk, acknowledged: usize) {
    let opened = try_open(disk, small()).unwrap();
    let log = opened.log;
    let events = all_events(&log).await.unwrap();
    check(&events, acknowledged);
    if let Some(cut) = &opened.cut {
        assert_eq!(disk.bytes(&cut.kept).unwrap().len() as u64, cut.bytes);
    }
    // The publisher starts over: what is there is a duplicate, the rest is appended.
    for n in 0..EVENTS {
        let answer = log.ingest(vec![trace_event(n)]).await.unwrap()[0];
        assert_eq!(answer.duplicate, n < events.len(), "event {n}");
        assert_eq!(answer.position, Position(n as u64 + 1));
    }
    let key = Key::new("k0").unwrap();
    let positions = log.key_positions(&key, Position(1), 100).await.unwrap();
    assert_eq!(positions.len(), EVENTS.div_ceil(3));
    log.close().await.unwrap();
    let again = try_open(disk, small()).unwrap();
    assert!(again.clean && again.cut.is_none());
    assert_eq!(all_events(&again.log).await.unwrap().len(), EVENTS);
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_events_survive_a_power_cut_at_every_operation() {
    let whole = SimDisk::new();
    assert_eq!(run(&whole).await, EVENTS);
    let operations = whole.operations();
    assert!(operations > 100, "{operations}");
    for at in 1..=operations {
        let disk = SimDisk::new();
        disk.inject(Fault::PowerOffAt(at));
        let acknowledged = run(&disk).await;
        for crash in [Crash::LosesAll, Crash::KeepsAll, Crash::Random(at), Crash::Random(at << 20)]
        {
            let after = disk.crash(crash);
            let tried = tokio::spawn(async move { recovers(&after, acknowledged).await }).await;
            assert!(tried.is_ok(), "operation {at}, {crash:?}, {acknowledged} acknowledged");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_while_recovering_loses_nothing() {
    for at in (7..140).step_by(11) {
        let disk = SimDisk::new();
        disk.inject(Fault::PowerOffAt(at));
        let acknowledged = run(&disk).await;
        for seed in 0..3 {
            let mut found = disk.crash(Crash::Random(seed * 1000 + at));
            for again in 1..12 {
                let before = found.operations();
                found.inject(Fault::PowerOffAt(before + again));
                let opened = try_open(&found, small());
                drop(opened);
                found = found.crash(Crash::Random(seed + again));
            }
            let tried = tokio::spawn(async move { recovers(&found, acknowledged).await }).await;
            assert!(tried.is_ok(), "operation {at}, seed {seed}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_start_has_shown_survives_a_power_cut_right_after() {
    for at in 7..140 {
        let disk = SimDisk::new();
        disk.inject(Fault::PowerOffAt(at));
        let acknowledged = run(&disk).await;
        // The page cache shows what the disk does not hold.
        let killed = disk.crash(Crash::ProcessDies);
        let shown = match try_open(&killed, small()) {
            Ok(opened) => all_events(&opened.log).await.unwrap().len(),
            Err(error) => panic!("operation {at}: {error}"),
        };
        let after = killed.crash(Crash::LosesAll);
        let opened = try_open(&after, small()).unwrap();
        let events = all_events(&opened.log).await.unwrap();
        assert!(events.len() >= shown, "operation {at}: {} of {shown} shown", events.len());
        check(&events, acknowledged);
    }
}

#[tokio::test]
async fn a_torn_tail_is_cut_back_kept_aside_and_reported() {
    let disk = SimDisk::new();
    let opened = open(&disk);
    opened.log.ingest(vec![publish("1", "a")]).await.unwrap();
    let end = usize::try_from(opened.log.stats().bytes).unwrap();
    opened.log.ingest(vec![publish("2", "a")]).await.unwrap();
    let after = disk.crash(Crash::KeepsAll);
    let mut torn = Vec::new();
    after.damage(&segment(1), |bytes| {
        let last = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        bytes[last - 20..].fill(0);
        torn = bytes[end..last - 20].to_vec();
    });
    let opened = open(&after);
    let cut = opened.cut.unwrap();
    assert!(!opened.clean);
    assert_eq!((cut.offset, cut.path.clone()), (end as u64, segment(1)));
    assert!(torn.starts_with(&after.bytes(&cut.kept).unwrap()));
    assert_eq!(ids(&all_events(&opened.log).await.unwrap()), ["1"]);
}
