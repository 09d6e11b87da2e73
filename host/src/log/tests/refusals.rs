//! What a start refuses, the tools find and mend: whatever was done to the files of a log.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fastrand::Rng;

use super::support::*;
use crate::event::{CommitNumber, Position};
use crate::log::codec::HEADER_BYTES;
use crate::log::disk::sim::{Crash, SimDisk};
use crate::log::disk::{Disk, OsDisk};
use crate::log::segment::segment_number;
use crate::log::tools::{BusRepair, RepairMode, ToolError, repair, verify};
use crate::log::{Log, OpenError, Publish};
use crate::state::{At, Checkpoints, Ledger, Values, checkpoint};

const BUS: Option<&str> = Some("main");
const ROUNDS: u64 = 400;

fn data() -> &'static Path {
    Path::new("data")
}

/// A log of as many starts, three events each, stopped in order.
async fn stopped(starts: u64) -> SimDisk {
    let disk = SimDisk::new();
    for start in 0..starts {
        let log = open(&disk).log;
        for n in start * 3..start * 3 + 3 {
            log.ingest(vec![publish(&format!("e{n}"), "k")]).await.unwrap();
        }
        log.close().await.unwrap();
    }
    disk
}

/// The same, and killed behind the last three events, which are large.
async fn killed(starts: u64) -> SimDisk {
    let disk = stopped(starts - 1).await;
    let log = open(&disk).log;
    for n in 0..3 {
        let data = format!("\"{}\"", "x".repeat(5000));
        let event = event(&format!("large-{n}"), "k", &data);
        log.ingest(vec![Publish { event, expected: None }]).await.unwrap();
    }
    disk.crash(Crash::LosesAll)
}

/// A log that went through several segments in one start.
async fn long() -> SimDisk {
    let disk = SimDisk::new();
    let log = open(&disk).log;
    for n in 0..200 {
        let event = event(&format!("e{n}"), "k", &format!("\"{}\"", "x".repeat(1000)));
        log.ingest(vec![Publish { event, expected: None }]).await.unwrap();
    }
    log.close().await.unwrap();
    disk
}

fn segments(disk: &SimDisk) -> Vec<PathBuf> {
    let names = disk.list(&bus().join("log")).unwrap();
    let numbers = names.iter().filter_map(|name| segment_number(name));
    numbers.map(segment).collect()
}

/// Where the last byte of a file that is not zero ends.
fn end(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1)
}

fn repaired(disk: &SimDisk, case: &str) -> BusRepair {
    let report = repair(disk, data(), BUS, RepairMode::Perform);
    let report = report.unwrap_or_else(|error| panic!("{case}: {error}"));
    report.buses.into_iter().next().unwrap()
}

/// Holds the tools to what a start says; none: it takes the log as it is.
fn refused(disk: &SimDisk, case: &str) -> Option<BusRepair> {
    let refusal = try_open(&disk.crash(Crash::KeepsAll), options()).err()?;
    let verified = verify(disk, data(), BUS);
    let verified = verified.unwrap_or_else(|error| panic!("{case}: {refusal}: {error}"));
    assert!(!verified.is_sound(), "{case}: {refusal}\n{verified}");
    let report = repaired(disk, case);
    assert!(report.needs_repair(), "{case}: {refusal}");
    let verified = verify(disk, data(), BUS).unwrap();
    assert!(verified.is_sound(), "{case}: {refusal}\n{verified}");
    if let Err(error) = try_open(&disk.crash(Crash::KeepsAll), options()) {
        panic!("{case}: {refusal}; repaired: {error}");
    }
    Some(report)
}

/// Damages a file in one of the ways in which files come to be damaged, and says how.
fn damage(bytes: &mut Vec<u8>, random: &mut Rng) -> String {
    let last = end(bytes);
    let (len, at) = (bytes.len(), random.usize(..bytes.len().max(1)));
    let kind = random.usize(..8);
    match kind {
        0 if len > 0 => bytes[at] ^= 1 << random.usize(..8),
        1 | 2 if len > 0 => {
            // A page or sector; more often that in which the last frame ends.
            let size = [512, 4096][random.usize(..2)];
            let at = if random.bool() { last.saturating_sub(1) } else { at };
            let from = at - at % size;
            let to = len.min(from + size);
            bytes[from..to].fill_with(|| if kind == 1 { random.u8(..) } else { 0 });
        }
        3 => bytes.truncate(at),
        4 => bytes.truncate(at.next_multiple_of(4096).min(len)),
        5 => bytes.resize(len + [8, 64, 4096, 65_536][random.usize(..4)], 0),
        6 => bytes.extend((0..random.usize(1..9000)).map(|_| random.u8(..))),
        _ => bytes.fill(0),
    }
    format!("way {kind} at {at} of {len}, which ended at {last}")
}

#[tokio::test]
async fn what_a_start_refuses_verify_finds_and_a_repair_mends() {
    let stores =
        [stopped(1).await, stopped(4).await, killed(1).await, killed(3).await, long().await];
    let mut refusals = 0;
    for seed in 0..ROUNDS {
        let mut random = Rng::with_seed(seed);
        let store = random.usize(..stores.len());
        let disk = stores[store].crash(Crash::KeepsAll);
        let mut case = format!("seed {seed}, store {store}");
        for _ in 0..random.usize(1..3) {
            let segments = segments(&disk);
            let Some(last) = segments.last() else { break };
            let path = if random.bool() { last } else { &segments[random.usize(..segments.len())] };
            let number = segment_number(path.file_name().unwrap().to_str().unwrap()).unwrap();
            let index = bus().join("index").join(format!("{number:010}.idx"));
            if random.usize(..5) == 0 {
                let _ = disk.remove(&index);
                case += &format!("; index {number} is gone");
            }
            if random.usize(..5) == 0 {
                let _ = disk.remove(&bus().join("index/heads"));
                case += "; the heads are gone";
            }
            if random.usize(..5) == 0 {
                disk.remove(path).unwrap();
                case += &format!("; segment {number} is gone");
                continue;
            }
            disk.damage(path, |bytes| {
                case += &format!("; segment {number}: {}", damage(bytes, &mut random));
            });
        }
        refusals += u64::from(refused(&disk, &case).is_some());
    }
    assert!(refusals > ROUNDS / 2 && refusals < ROUNDS, "{refusals} of {ROUNDS}");
}

#[tokio::test]
async fn damage_in_the_last_frame_that_no_tear_leaves_is_mended() {
    let disk = killed(1).await;
    let bytes = disk.bytes(&segment(1)).unwrap();
    let page = (end(&bytes) - 1) / 4096 * 4096;
    let mut random = Rng::with_seed(1);
    disk.damage(&segment(1), |bytes| bytes[page..page + 4096].fill_with(|| random.u8(..)));
    let report = refused(&disk, "the page of the last end").unwrap();
    assert_eq!((report.lost_events, report.torn_bytes), (1, 0), "{report:?}");
    let opened = open(&disk);
    assert_eq!(opened.last_position, Position(3));
}

#[tokio::test]
async fn zeros_behind_a_seal_are_no_damage() {
    for is_last in [true, false] {
        for bytes in [8, 64, 4096, 3 * 65_536] {
            let disk = stopped(3).await;
            let number = if is_last { 3 } else { 2 };
            disk.damage(&segment(number), |content| content.resize(content.len() + bytes, 0));
            let case = format!("{bytes} behind segment {number}");
            assert!(verify(&disk, data(), BUS).unwrap().is_sound(), "{case}");
            let opened = try_open(&disk, options()).unwrap_or_else(|e| panic!("{case}: {e}"));
            assert_eq!((opened.last_position, opened.clean), (Position(9), true), "{case}");
            assert!(opened.cut.is_none(), "{case}");
        }
    }
}

#[tokio::test]
async fn a_log_of_which_no_segment_is_left_can_be_repaired() {
    for with_index in [true, false] {
        let disk = stopped(3).await;
        for path in segments(&disk) {
            disk.remove(&path).unwrap();
        }
        for (path, _) in files(&disk, &bus().join("index")) {
            if !with_index {
                disk.remove(&path).unwrap();
            }
        }
        let report = refused(&disk, "no segment").unwrap();
        assert_eq!(report.has_open_end, !with_index);
        let last = open(&disk).last_position;
        assert_eq!(last, Position(if with_index { 9 } else { 0 }));
    }
}

#[tokio::test]
async fn a_first_frame_that_is_gone_is_damage_of_a_log_that_has_begun() {
    let disk = killed(1).await;
    disk.damage(&segment(1), |bytes| bytes.fill(0));
    let report = refused(&disk, "all of it").unwrap();
    assert!(report.has_open_end);
}

#[tokio::test]
async fn last_segments_that_are_gone_are_missed_by_what_was_made_of_them() {
    for (gone, with_claimed) in [(1, true), (2, true), (4, true), (1, false), (2, false)] {
        let disk = stopped(5).await;
        for number in 6 - gone..=5 + u32::from(with_claimed) {
            disk.remove(&segment(number)).unwrap();
        }
        let error = try_open(&disk.crash(Crash::KeepsAll), options()).unwrap_err();
        let text = error.to_string();
        if with_claimed {
            assert!(matches!(error, OpenError::Shorter(_)), "{error}");
            assert!(text.contains("index/0000000005.idx"), "{text}");
        } else {
            assert!(matches!(error, OpenError::Missing { .. }), "{error}");
        }
        assert!(text.contains("log repair data"), "{text}");
        let case = format!("{gone} segments, the claimed one too: {with_claimed}");
        let report = refused(&disk, &case).unwrap();
        assert_eq!(
            (report.lost_events, report.has_open_end),
            (u64::from(gone) * 3, false),
            "{case}"
        );
        let opened = open(&disk);
        assert_eq!(opened.last_position, Position(15), "{case}");
        let answer = opened.log.ingest(vec![publish("new", "k")]).await.unwrap()[0];
        assert_eq!((answer.position, answer.sequence.0), (Position(16), 16), "{case}");
    }
}

#[tokio::test]
async fn the_key_heads_of_a_stop_tell_of_a_segment_that_is_gone_with_its_index() {
    let disk = stopped(3).await;
    [3, 4].iter().for_each(|number| disk.remove(&segment(*number)).unwrap());
    disk.remove(&bus().join("index/0000000003.idx")).unwrap();
    let report = refused(&disk, "heads").unwrap();
    // Keys have heads; what had none may have come behind them.
    assert_eq!((report.lost_events, report.has_open_end), (3, true));
    assert_eq!(open(&disk).last_position, Position(9));
}

fn checkpoint(commit: u64, log_id: uuid::Uuid, disk: &SimDisk) -> PathBuf {
    let dir = bus().join(checkpoint::DIR);
    let checkpoints = Checkpoints::open(Arc::new(disk.clone()), &dir, log_id).unwrap();
    let at = At { commit: CommitNumber(commit), time_ms: START_MS };
    checkpoints.write(&Ledger::default(), &Values::default(), at, &[7; 32]).unwrap();
    dir.join(format!("{commit:020}.checkpoint"))
}

#[tokio::test]
async fn a_log_of_which_only_a_checkpoint_is_left_keeps_its_id() {
    let disk = stopped(2).await;
    let opened = open(&disk.crash(Crash::KeepsAll));
    checkpoint(7, opened.log_id, &disk);
    for dir in ["log", "index"] {
        for (path, _) in files(&disk, &bus().join(dir)) {
            disk.remove(&path).unwrap();
        }
    }
    let error = try_open(&disk.crash(Crash::KeepsAll), options()).unwrap_err();
    assert!(error.to_string().contains(".checkpoint` proves"), "{error}");
    let report = refused(&disk, "a checkpoint").unwrap();
    assert_eq!((report.lost_commits, report.has_open_end), (7, true));
    let again = open(&disk);
    assert_eq!((again.log_id, again.last_commit), (opened.log_id, CommitNumber(8)));
}

#[tokio::test]
async fn an_older_log_that_was_put_back_with_its_index_is_taken() {
    let older = stopped(2).await;
    let opened = open(&older.crash(Crash::KeepsAll));
    // Of a later time, and not in the backup.
    checkpoint(1000, opened.log_id, &older);
    assert!(verify(&older, data(), BUS).unwrap().is_sound());
    assert_eq!(open(&older).last_position, Position(6));
}

#[tokio::test]
async fn an_older_log_beside_a_newer_index_is_taken_once_that_is_moved_away() {
    let disk = stopped(3).await;
    [3, 4].iter().for_each(|number| disk.remove(&segment(*number)).unwrap());
    let error = try_open(&disk, options()).unwrap_err();
    assert!(error.to_string().contains("or move those away"), "{error}");
    for (path, _) in files(&disk, &bus().join("index")) {
        disk.remove(&path).unwrap();
    }
    assert_eq!(open(&disk).last_position, Position(6));
}

#[tokio::test]
async fn a_log_folder_that_is_gone_is_missed_on_a_real_disk() {
    let place = tempfile::tempdir().unwrap();
    let bus = place.path().join("buses/main");
    let opened = || Log::open(Arc::new(OsDisk), &bus, options(), HandClock::at(START_MS));
    let log = opened().unwrap().log;
    log.ingest(vec![publish("e0", "k")]).await.unwrap();
    log.close().await.unwrap();
    std::fs::remove_dir_all(bus.join("log")).unwrap();
    let verified = verify(&OsDisk, place.path(), None).unwrap();
    assert!(!verified.is_sound() && !bus.join("log").exists(), "{verified}");
    assert!(matches!(opened().unwrap_err(), OpenError::Shorter(_)));
    std::fs::remove_dir_all(bus.join("log")).unwrap();
    assert!(repair(&OsDisk, place.path(), None, RepairMode::Perform).unwrap().is_done());
    let opened = opened().unwrap();
    assert_eq!((opened.new_empty, opened.last_position), (false, Position(1)));
}

#[tokio::test]
async fn an_interrupted_repair_is_named() {
    let disk = stopped(2).await;
    disk.create_new(&bus().join("log/repairing")).unwrap();
    let error = try_open(&disk.crash(Crash::KeepsAll), options()).unwrap_err();
    assert!(matches!(error, OpenError::InRepair { .. }), "{error}");
    refused(&disk, "interrupted").unwrap();
}

#[tokio::test]
async fn where_nothing_tells_of_a_log_there_is_none() {
    let disk = SimDisk::new();
    assert!(matches!(verify(&disk, data(), BUS), Err(ToolError::NoLog { .. })));
    let torn = vec![7; HEADER_BYTES];
    disk.create_new(&segment(1)).unwrap().write_at(&torn, 0).unwrap();
    assert!(try_open(&disk, options()).is_ok());
}
