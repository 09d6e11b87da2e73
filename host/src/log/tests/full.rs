//! A host whose disk is full to the last byte starts, whatever it was doing when it ended.

use std::path::Path;

use super::support::*;
use crate::log::disk::sim::{Crash, Fault, SimDisk};
use crate::log::disk::{Disk, OsDisk};
use crate::log::segment::{CLAIM_ALIGN, SEAL_BYTES_MAX, START_ROOM, claim};
use crate::log::tools::{LogEnd, RepairMode, repair, stat, verify};
use crate::log::{AppendError, Log, LogOptions, OpenError, Opened, Publish};

const BUS: Option<&str> = Some("main");
/// Operations that change something, of a start or a stop, at least.
const OPERATIONS: u64 = 24;

/// The smallest segments that can be configured, and nothing is kept free.
fn greedy() -> LogOptions {
    LogOptions {
        segment_bytes: 4 << 20,
        watermark_ingest_bytes: 0,
        watermark_effects_bytes: 0,
        ..options()
    }
}

/// Takes all that is free.
fn fill(disk: &SimDisk) {
    leave(disk, 0);
}

fn leave(disk: &SimDisk, bytes: u64) {
    const MUCH: u64 = 1 << 40;
    disk.set_capacity(Some(MUCH));
    let used = MUCH - disk.free_bytes(&bus()).unwrap();
    disk.set_capacity(Some(used + bytes));
}

fn of_bytes(id: usize, bytes: usize) -> Publish {
    let data = format!("\"{}\"", "x".repeat(bytes));
    Publish { event: event(&format!("e{id}"), "k", &data), expected: None }
}

/// Publishes ever smaller events until not one more is taken; gives how many were.
async fn use_up(log: &Log) -> usize {
    let mut taken = 0;
    let mut bytes = 900_000;
    while bytes > 0 {
        match log.ingest(vec![of_bytes(taken, bytes)]).await {
            Ok(_) => taken += 1,
            Err(AppendError::StorageFull { .. }) => bytes /= 2,
            Err(error) => panic!("{error}"),
        }
    }
    taken
}

/// Opens on a disk of which nothing is free; the events are there, and no more fit.
async fn starts_full(disk: &SimDisk, events: usize) -> Opened {
    fill(disk);
    let opened = try_open(disk, greedy()).unwrap();
    assert_eq!(all_events(&opened.log).await.unwrap().len(), events);
    let refused = opened.log.ingest(vec![publish("one-more", "k")]).await.unwrap_err();
    assert!(matches!(refused, AppendError::StorageFull { .. }), "{refused}");
    opened
}

/// A log in whose open segment nothing fits any more, on a disk that has nothing free.
async fn used_up() -> (SimDisk, Log, usize) {
    let disk = SimDisk::new();
    let log = try_open(&disk, greedy()).unwrap().log;
    fill(&disk);
    let taken = use_up(&log).await;
    (disk, log, taken)
}

/// What the tools say of it: nothing is wrong, and there is nothing to repair.
fn is_sound(disk: &SimDisk) -> LogEnd {
    let (disk, data) = (&disk.crash(Crash::ProcessDies), Path::new("data"));
    let report = verify(disk, data, BUS).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert!(stat(disk, data, BUS).unwrap().is_sound());
    let repaired = repair(disk, data, BUS, RepairMode::DryRun).unwrap();
    assert!(repaired.buses.iter().all(|bus| !bus.needs_repair()), "{repaired:?}");
    report.buses[0].end
}

#[tokio::test]
async fn a_host_that_is_killed_with_its_segment_used_up_starts_on_a_full_disk_again_and_again() {
    let (mut disk, log, taken) = used_up().await;
    let mut epoch = 1;
    drop(log);
    for round in 0..60 {
        let crash = [Crash::ProcessDies, Crash::LosesAll, Crash::KeepsAll, Crash::Random(round)];
        disk = disk.crash(crash[usize::try_from(round).unwrap() % crash.len()]);
        let opened = starts_full(&disk, taken).await;
        epoch += 1;
        assert_eq!((opened.epoch, opened.clean), (epoch, false));
        is_sound(&disk);
    }
    disk.set_capacity(None);
    let log = try_open(&disk.crash(Crash::LosesAll), greedy()).unwrap().log;
    log.ingest(vec![publish("one-more", "k")]).await.unwrap();
}

#[tokio::test]
async fn a_power_cut_in_a_start_on_a_full_disk_leaves_a_log_that_starts_on_it() {
    let (disk, _, taken) = used_up().await;
    for at in 1..OPERATIONS {
        let cut = disk.crash(Crash::ProcessDies);
        fill(&cut);
        cut.inject(Fault::PowerOffAt(at));
        drop(try_open(&cut, greedy()));
        starts_full(&cut.crash(Crash::LosesAll), taken).await;
    }
}

/// As hosts left it that kept nothing for starts.
#[tokio::test]
async fn a_segment_that_is_used_up_to_its_seal_needs_space_for_another() {
    let disk = SimDisk::new();
    let none_kept = LogOptions { segment_bytes: 1, ..greedy() };
    assert_eq!(none_kept.start_room(), 0);
    let log = try_open(&disk, none_kept).unwrap().log;
    let mut taken = 0;
    let len = loop {
        log.ingest(vec![of_bytes(taken, 700 + taken)]).await.unwrap();
        taken += 1;
        let segment = disk.bytes(&segment(log.stats().segments.try_into().unwrap())).unwrap();
        let end = segment.iter().rposition(|byte| *byte != 0).unwrap() as u64 + 1;
        if end + SEAL_BYTES_MAX + 100 > segment.len() as u64 {
            break segment.len();
        }
    };
    assert!((len as u64) < START_ROOM);
    let disk = disk.crash(Crash::ProcessDies);
    fill(&disk);
    let refused = try_open(&disk, greedy()).unwrap_err();
    assert!(matches!(refused, OpenError::StorageFull { bytes: CLAIM_ALIGN, .. }), "{refused}");
    is_sound(&disk);
    leave(&disk, CLAIM_ALIGN);
    let log = try_open(&disk, greedy()).unwrap().log;
    assert_eq!(all_events(&log).await.unwrap().len(), taken);
}

/// Stops, and leaves nothing free on the disk.
async fn stops_full(disk: &SimDisk, log: Log) {
    log.close().await.unwrap();
    fill(disk);
    assert_eq!(is_sound(disk), LogEnd::Sealed);
}

#[tokio::test]
async fn a_host_that_is_stopped_on_a_disk_that_is_full_then_starts_on_it_several_times() {
    let (disk, log, taken) = used_up().await;
    stops_full(&disk, log).await;
    for round in 0..10 {
        let opened = starts_full(&disk, taken).await;
        assert!(opened.clean && opened.cut.is_none());
        assert_eq!(opened.epoch, round + 2);
        stops_full(&disk, opened.log).await;
    }
    // And killed in between.
    drop(starts_full(&disk, taken).await);
    let disk = disk.crash(Crash::LosesAll);
    let opened = starts_full(&disk, taken).await;
    assert!(!opened.clean);
    opened.log.close().await.unwrap();
    disk.set_capacity(None);
    let opened = try_open(&disk, greedy()).unwrap();
    assert!(opened.clean);
    opened.log.ingest(vec![publish("one-more", "k")]).await.unwrap();
    assert_eq!(all_events(&opened.log).await.unwrap().len(), taken + 1);
}

#[tokio::test]
async fn a_power_cut_in_a_stop_on_a_full_disk_and_in_the_start_after_it_leaves_a_log_that_starts() {
    let (before, log, taken) = used_up().await;
    drop(log);
    let before = before.crash(Crash::LosesAll);
    for at in 1..2 * OPERATIONS {
        let disk = before.crash(Crash::ProcessDies);
        let opened = starts_full(&disk, taken).await;
        disk.inject(Fault::PowerOffAt(disk.operations() + at));
        let _ = opened.log.close().await;
        let disk = disk.crash(Crash::LosesAll);
        is_sound(&disk);
        for again in 1..OPERATIONS {
            let disk = disk.crash(Crash::ProcessDies);
            disk.inject(Fault::PowerOffAt(again));
            drop(try_open(&disk, greedy()));
            let disk = disk.crash(Crash::LosesAll);
            is_sound(&disk);
            let opened = try_open(&disk, greedy()).unwrap();
            assert_eq!(all_events(&opened.log).await.unwrap().len(), taken, "{at} {again}");
        }
    }
}

#[tokio::test]
async fn what_a_stop_claims_grows_into_a_segment_where_there_is_space() {
    let disk = SimDisk::new();
    let log = try_open(&disk, greedy()).unwrap().log;
    log.ingest(vec![publish("1", "k")]).await.unwrap();
    log.close().await.unwrap();
    assert_eq!(disk.bytes(&segment(2)).unwrap(), vec![0; 1 << 20]);
    // As hosts left it that claimed nothing.
    let without = disk.crash(Crash::LosesAll);
    without.remove(&segment(2)).unwrap();
    for disk in [disk, without] {
        assert_eq!(is_sound(&disk), LogEnd::Sealed);
        let opened = try_open(&disk, greedy()).unwrap();
        assert!(opened.clean);
        assert_eq!(disk.bytes(&segment(2)).unwrap().len(), 4 << 20);
        opened.log.ingest(vec![publish("2", "k")]).await.unwrap();
        let log = try_open(&disk.crash(Crash::LosesAll), greedy()).unwrap().log;
        assert_eq!(ids(&all_events(&log).await.unwrap()), ["1", "2"]);
    }
}

#[test]
fn a_claim_that_has_no_space_leaves_what_was_claimed_before() {
    let disk = SimDisk::new();
    let dir = bus().join("log");
    claim(&disk, &dir, 1, 8192).unwrap();
    for left in [0, 5000] {
        leave(&disk, left);
        let full = claim(&disk, &dir, 1, 1 << 20).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        assert_eq!(disk.bytes(&segment(1)).unwrap().len(), 8192);
        claim(&disk, &dir, 1, 8192).unwrap();
        claim(&disk, &dir, 2, 8192).unwrap_err();
        assert!(disk.bytes(&segment(2)).is_none());
    }
    leave(&disk, 4096);
    assert_eq!(claim(&disk, &dir, 1, 12_288).unwrap().len().unwrap(), 12_288);
}

/// What a claim got of a full disk is no sealed segment that lost its seal.
#[tokio::test]
async fn a_host_that_dies_while_it_finds_no_space_for_a_segment_leaves_a_log_that_starts() {
    for at in 0..OPERATIONS {
        let disk = SimDisk::new();
        let log = try_open(&disk, greedy()).unwrap().log;
        leave(&disk, 3500);
        for id in 0..4 {
            log.ingest(vec![of_bytes(id, 900_000)]).await.unwrap();
        }
        disk.inject(Fault::PowerOffAt(disk.operations() + at));
        log.ingest(vec![of_bytes(4, 900_000)]).await.unwrap_err();
        let disk = disk.crash(Crash::ProcessDies);
        is_sound(&disk);
        fill(&disk);
        let log = try_open(&disk, greedy()).unwrap().log;
        assert_eq!(all_events(&log).await.unwrap().len(), 4, "{at}");
    }
}

#[test]
fn a_claim_fills_the_holes_of_a_copy() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let path = crate::log::segment::segment_path(dir.path(), 1);
    std::fs::File::create_new(&path).unwrap().set_len(1 << 20).unwrap();
    let blocks = || std::fs::metadata(&path).unwrap().blocks();
    assert_eq!(blocks(), 0);
    claim(&OsDisk, dir.path(), 1, 1 << 20).unwrap();
    assert!(blocks() * 512 >= 1 << 20);
}
