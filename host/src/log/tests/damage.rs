//! Bytes that are not what was written: found and named, or provably harmless. Never a panic.

use super::support::*;
use crate::event::Position;
use crate::log::disk::Disk;
use crate::log::disk::sim::{Crash, SimDisk};
use crate::log::{Damage, LogOptions, OpenError, Publish};

fn damage_in(error: OpenError) -> Box<Damage> {
    match error {
        OpenError::Damaged(damage) => damage,
        other => panic!("{other}"),
    }
}

/// A log of a few frames in one closed segment.
async fn closed_log() -> SimDisk {
    let disk = SimDisk::new();
    let log = open(&disk).log;
    for n in 0..4 {
        log.ingest(vec![publish(&format!("e{n}"), "k")]).await.unwrap();
    }
    log.close().await.unwrap();
    disk
}

#[tokio::test]
async fn every_flipped_byte_of_a_closed_log_is_found_and_named() {
    let disk = closed_log().await;
    let len = disk.bytes(&segment(1)).unwrap().len();
    for at in 0..len {
        let damaged = disk.crash(Crash::KeepsAll);
        damaged.damage(&segment(1), |bytes| bytes[at] ^= 0x40);
        let error = try_open(&damaged, options()).unwrap_err();
        let text = error.to_string();
        match error {
            OpenError::Damaged(damage) => {
                assert!(damage.offset <= at as u64, "byte {at}: {text}");
                assert!(text.contains("0000000001.seg` is damaged at byte"), "{text}");
                assert!(
                    text.contains(
                        "run `tidegate log verify data` for all of it, `tidegate log repair data`"
                    ),
                    "{text}"
                );
            }
            other => panic!("byte {at}: {other}"),
        }
    }
}

#[tokio::test]
async fn every_flipped_byte_of_an_open_log_is_found_or_only_in_its_last_frame() {
    let disk = SimDisk::new();
    let log = open(&disk).log;
    for n in 0..4 {
        log.ingest(vec![publish(&format!("e{n}"), "k")]).await.unwrap();
    }
    let end = usize::try_from(log.stats().bytes).unwrap();
    let stopped = disk.crash(Crash::LosesAll);
    for at in (0..end + 64).chain([end + 9000]) {
        let damaged = stopped.crash(Crash::KeepsAll);
        damaged.damage(&segment(1), |bytes| bytes[at] ^= 0x40);
        match try_open(&damaged, options()) {
            Err(OpenError::Damaged(damage)) => assert!(damage.offset <= at as u64),
            Err(other) => panic!("byte {at}: {other}"),
            Ok(opened) => {
                let cut = opened.cut.expect("what is not a frame is cut");
                assert!(cut.offset <= at as u64);
                let events = ids(&all_events(&opened.log).await.unwrap());
                assert!(events == ["e0", "e1", "e2"] || events == ["e0", "e1", "e2", "e3"]);
            }
        }
    }
}

#[tokio::test]
async fn derived_files_that_are_damaged_are_made_anew() {
    let disk = closed_log().await;
    for (path, bytes) in files(&disk, &bus().join("index")) {
        for at in (0..bytes.len()).step_by(13) {
            let damaged = disk.crash(Crash::KeepsAll);
            damaged.damage(&path, |bytes| bytes[at] ^= 0x40);
            let log = open(&damaged).log;
            assert!(log.ingest(vec![publish("e2", "k")]).await.unwrap()[0].duplicate, "byte {at}");
            let answer = log.ingest(vec![publish("e9", "k")]).await.unwrap()[0];
            assert_eq!((answer.position, answer.sequence.0), (Position(5), 5), "byte {at}");
            assert_eq!(log.event(Position(3)).await.unwrap().unwrap().position, Position(3));
        }
    }
}

/// A log of several sealed segments.
async fn long_log() -> SimDisk {
    let disk = SimDisk::new();
    let log = open(&disk).log;
    for n in 0..200 {
        let data = format!("\"{}\"", "x".repeat(1000));
        let event = event(&format!("e{n}"), "k", &data);
        log.ingest(vec![Publish { event, expected: None }]).await.unwrap();
    }
    assert!(log.stats().segments >= 4);
    log.close().await.unwrap();
    disk
}

#[tokio::test]
async fn a_missing_segment_is_named() {
    let disk = long_log().await;
    let names = disk.list(&bus().join("log")).unwrap();
    let last = names.iter().filter_map(|name| crate::log::segment::segment_number(name)).max();
    for gone in 1..last.unwrap() {
        let damaged = disk.crash(Crash::KeepsAll);
        damaged.remove(&segment(gone)).unwrap();
        let error = try_open(&damaged, options()).unwrap_err();
        assert!(matches!(error, OpenError::Missing { segment, .. } if segment == gone), "{error}");
    }
}

#[tokio::test]
async fn a_last_segment_that_is_gone_is_missed_if_the_log_went_on() {
    let disk = long_log().await;
    let crashed = {
        let opened = open(&disk);
        opened.log.ingest(vec![publish("more", "k")]).await.unwrap();
        disk.crash(Crash::LosesAll)
    };
    // The first segment was followed by others: its seal says so.
    for number in 2..=20 {
        let _ = crashed.remove(&segment(number));
    }
    let error = try_open(&crashed, options()).unwrap_err();
    assert!(matches!(error, OpenError::Missing { segment: 2, .. }), "{error}");
}

#[tokio::test]
async fn damage_in_the_middle_names_the_commits_concerned() {
    let disk = long_log().await;
    disk.damage(&segment(2), |bytes| bytes[20_000] ^= 1);
    let damage = damage_in(try_open(&disk, options()).unwrap_err());
    assert_eq!(damage.path, segment(2));
    assert!(damage.offset <= 20_000 && damage.offset > 18_000);
    let (next, _) = damage.next_whole.unwrap();
    assert_eq!(next.0, damage.first_commit.0 + 1, "one frame of one commit is concerned");
}

#[tokio::test]
async fn segments_that_changed_places_are_refused() {
    let disk = long_log().await;
    let (one, two) = (disk.bytes(&segment(2)).unwrap(), disk.bytes(&segment(3)).unwrap());
    disk.damage(&segment(2), |bytes| *bytes = two);
    disk.damage(&segment(3), |bytes| *bytes = one);
    assert!(try_open(&disk, options()).is_err());
}

#[tokio::test]
async fn damage_beyond_what_is_checked_first_ends_the_log_from_the_background() {
    let disk = long_log().await;
    disk.damage(&segment(1), |bytes| bytes[30_000] ^= 1);
    let options = LogOptions { check_first_bytes: 1, ..options() };
    let log = try_open(&disk, options).unwrap().log;
    let deadline = std::time::Duration::from_secs(20);
    let failure = tokio::time::timeout(deadline, log.failed()).await.unwrap();
    let text = failure.to_string();
    assert!(text.contains("0000000001.seg") && text.contains("tidegate log verify"), "{text}");
    assert!(log.ingest(vec![publish("new", "k")]).await.is_err());
}

#[tokio::test]
async fn a_whole_frame_behind_the_end_is_no_torn_tail() {
    let disk = SimDisk::new();
    let log = open(&disk).log;
    let end = |log: &crate::log::Log| usize::try_from(log.stats().bytes).unwrap();
    log.ingest(vec![publish("1", "k")]).await.unwrap();
    let start = end(&log);
    log.ingest(vec![publish("2", "k")]).await.unwrap();
    let between = end(&log);
    log.ingest(vec![publish("3", "k")]).await.unwrap();
    let crashed = disk.crash(Crash::LosesAll);
    crashed.damage(&segment(1), |bytes| bytes[start..between].fill(0));
    let damage = damage_in(try_open(&crashed, options()).unwrap_err());
    assert_eq!(damage.offset, start as u64);
    // The same for a frame that is there twice.
    let crashed = disk.crash(Crash::LosesAll);
    crashed.damage(&segment(1), |bytes| bytes.copy_within(start..between, end(&log)));
    assert_eq!(damage_in(try_open(&crashed, options()).unwrap_err()).offset, end(&log) as u64);
}
