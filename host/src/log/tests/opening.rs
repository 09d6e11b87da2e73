//! What a start reads before it serves, what it leaves for later, and that nobody can tell.

use std::sync::Arc;
use std::time::Duration;

use super::support::*;
use crate::event::{Key, KeySequence, Position};
use crate::log::disk::OsDisk;
use crate::log::disk::sim::{Crash, Fault, SimDisk};
use crate::log::{AppendError, CheckRest, Log, LogOptions, OpenError, Publish};

const EVENTS: usize = 200;
const KEYS: usize = 7;
const FAILED_MAX: Duration = Duration::from_secs(20);

fn long_event(n: usize) -> Publish {
    let data = format!("\"{}\"", "x".repeat(1000));
    Publish { event: event(&format!("e{n}"), &format!("k{}", n % KEYS), &data), expected: None }
}

async fn publish_some(log: &Log, numbers: std::ops::Range<usize>) {
    for n in numbers {
        log.ingest(vec![long_event(n)]).await.unwrap();
    }
}

/// A log of several sealed segments, stopped in order.
async fn long_log() -> SimDisk {
    let disk = SimDisk::new();
    let log = open(&disk).log;
    publish_some(&log, 0..EVENTS).await;
    assert!(log.stats().segments >= 4);
    log.close().await.unwrap();
    disk
}

/// Everything is left for later.
fn lazy() -> LogOptions {
    LogOptions { check_first_bytes: 0, ids_first_max: 0, ..options() }
}

/// Every event is known, and every key goes on where it was.
async fn is_as_it_was(log: &Log, events: usize) {
    for n in [0, 1, events / 2, events - 1] {
        let answer = log.ingest(vec![long_event(n)]).await.unwrap()[0];
        assert!(answer.duplicate, "event {n}");
        assert_eq!(answer.position, Position(n as u64 + 1));
    }
    for key in 0..KEYS {
        let of_key = (0..events).filter(|n| n % KEYS == key);
        let last = of_key.clone().next_back().unwrap() as u64;
        let expected = (KeySequence(of_key.count() as u64), Position(last + 1));
        assert_eq!(log.head(&Key::new(&format!("k{key}")).unwrap()), Some(expected));
    }
}

#[tokio::test]
async fn identities_that_are_read_behind_the_start_are_known_to_who_publishes() {
    let disk = long_log().await;
    for options in [options(), lazy()] {
        let opened = try_open(&disk.crash(Crash::KeepsAll), options).unwrap();
        assert!(opened.clean);
        is_as_it_was(&opened.log, EVENTS).await;
        assert_eq!(opened.log.stats().dedup.count, EVENTS);
        opened.log.close().await.unwrap();
    }
}

/// A start writes index files that are missing, and was refused where it could not.
#[tokio::test]
async fn an_index_file_that_has_no_room_is_kept_in_memory_and_written_once_it_has() {
    use crate::log::disk::Disk;
    let disk = long_log().await;
    let log = open(&disk).log;
    publish_some(&log, EVENTS..EVENTS + 2).await;
    let disk = disk.crash(Crash::ProcessDies);
    let missing = [2, 3].map(|number| bus().join(format!("index/{number:010}.idx")));
    missing.iter().for_each(|path| disk.remove(path).unwrap());
    for options in [options(), lazy()] {
        let full = disk.crash(Crash::ProcessDies);
        full.inject(Fault::FullFrom(0));
        let log = try_open(&full, options).unwrap().log;
        let key = Key::new("k0").unwrap();
        let found = log.key_positions(&key, Position(1), EVENTS).await.unwrap();
        assert_eq!(found.len(), (EVENTS + 2).div_ceil(KEYS));
        assert!(missing.iter().all(|path| full.bytes(path).is_none()));
        full.heal();
        log.close().await.unwrap();
        assert!(missing.iter().all(|path| full.bytes(path).is_some()));
        is_as_it_was(&open(&full).log, EVENTS + 2).await;
    }
}

#[tokio::test]
async fn who_waits_for_the_identities_of_a_log_that_is_closed_is_told_so() {
    let disk = long_log().await;
    for _ in 0..20 {
        let log = try_open(&disk.crash(Crash::KeepsAll), lazy()).unwrap().log;
        let (waiting, closing) = (log.clone(), log.clone());
        let answer = tokio::spawn(async move { waiting.ingest(vec![publish("new", "k0")]).await });
        closing.close().await.unwrap();
        let answer = tokio::time::timeout(FAILED_MAX, answer).await.unwrap().unwrap();
        // Either it came in time, or it did not; it never hangs.
        assert!(matches!(answer, Ok(_) | Err(AppendError::ShuttingDown)), "{answer:?}");
    }
}

#[tokio::test]
async fn a_killed_log_takes_its_heads_from_the_last_clean_stop_and_what_follows() {
    let disk = long_log().await;
    let log = open(&disk).log;
    publish_some(&log, EVENTS..2 * EVENTS).await;
    let killed = disk.crash(Crash::LosesAll);
    for options in [options(), lazy()] {
        let opened = try_open(&killed.crash(Crash::KeepsAll), options).unwrap();
        assert!(!opened.clean);
        is_as_it_was(&opened.log, 2 * EVENTS).await;
    }
    let without = killed.crash(Crash::KeepsAll);
    crate::log::disk::Disk::remove(&without, &bus().join("index/heads")).unwrap();
    is_as_it_was(&open(&without).log, 2 * EVENTS).await;
}

#[tokio::test]
async fn heads_of_a_log_that_went_another_way_are_not_taken() {
    let disk = long_log().await;
    // The log as it was before the stop that wrote the heads, gone on with elsewhere.
    let heads = disk.bytes(&bus().join("index/heads")).unwrap();
    let other = long_log().await;
    let log = open(&other).log;
    publish_some(&log, EVENTS..EVENTS + 3).await;
    let killed = other.crash(Crash::LosesAll);
    killed.damage(&bus().join("index/heads"), |bytes| *bytes = heads);
    is_as_it_was(&open(&killed).log, EVENTS + 3).await;
}

#[tokio::test]
async fn a_damaged_index_of_what_is_not_checked_first_is_made_anew() {
    let disk = long_log().await;
    for (path, bytes) in files(&disk, &bus().join("index")) {
        for at in (0..bytes.len()).step_by(1021) {
            for ids_first_max in [0, u64::MAX] {
                let damaged = disk.crash(Crash::KeepsAll);
                damaged.damage(&path, |bytes| bytes[at] ^= 0x40);
                let options = LogOptions { ids_first_max, ..lazy() };
                let log = try_open(&damaged, options).unwrap().log;
                is_as_it_was(&log, EVENTS).await;
            }
        }
    }
}

#[tokio::test]
async fn damage_in_any_segment_of_a_clean_log_ends_it_once_the_rest_is_checked() {
    let disk = long_log().await;
    let last = disk.bytes(&segment(4)).map_or(3, |_| 4);
    for number in 1..=last {
        let damaged = disk.crash(Crash::KeepsAll);
        damaged.damage(&segment(number), |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        });
        let refused = try_open(&damaged, options()).unwrap_err();
        assert!(matches!(refused, OpenError::Damaged(_)), "{refused}");
        let options = LogOptions { check_rest: CheckRest::WhenTold, ..lazy() };
        let log = try_open(&damaged, options).unwrap().log;
        log.ingest(vec![publish("new", "k0")]).await.unwrap();
        log.check_rest().unwrap();
        let failure = tokio::time::timeout(FAILED_MAX, log.failed()).await.unwrap().to_string();
        assert!(failure.contains(&format!("{number:010}.seg")), "{failure}");
    }
}

#[tokio::test]
async fn a_damaged_event_is_shown_to_nobody_before_the_rest_is_checked() {
    let disk = long_log().await;
    disk.damage(&segment(1), |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    });
    let options = LogOptions { check_rest: CheckRest::WhenTold, ..lazy() };
    let log = try_open(&disk, options).unwrap().log;
    let mut damaged = 0;
    for n in 0..60 {
        match log.event(Position(n + 1)).await {
            Ok(event) => assert_eq!(*event.unwrap().id, *format!("e{n}")),
            Err(error) => {
                assert!(error.to_string().contains("0000000001.seg"), "{error}");
                damaged += 1;
            }
        }
    }
    assert!(damaged > 0);
}

/// The check that begins with the log once took from the reader of the identities what it makes damaged
/// index files anew from: a log was ended for a file that can be deleted.
#[tokio::test]
async fn identities_are_read_though_the_check_of_their_damaged_index_has_begun() {
    let disk = SimDisk::new();
    let log = open(&disk).log;
    let mut count = 0;
    while log.stats().segments < 4 {
        let some = count..count + 100;
        let events = some.map(|n| publish(&format!("e{n}"), "k")).collect();
        count += log.ingest(events).await.unwrap().len();
    }
    log.close().await.unwrap();
    for (path, bytes) in files(&disk, &bus().join("index")) {
        for page in 1..bytes.len() / 4096 {
            let damaged = disk.crash(Crash::KeepsAll);
            damaged.damage(&path, |bytes| bytes[page * 4096 + 7] ^= 1);
            let log = try_open(&damaged, lazy()).unwrap().log;
            let again = log.ingest(vec![publish("e0", "k")]).await;
            assert!(again.unwrap()[0].duplicate, "page {page} of {}", path.display());
        }
    }
}

#[tokio::test]
async fn an_index_file_that_could_not_be_written_is_written_with_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let bus = dir.path().join("buses/main");
    let index = bus.join("index/0000000001.idx");
    let in_the_way = index.with_extension("idx.new");
    std::fs::create_dir_all(&in_the_way).unwrap();
    let log = Log::open(Arc::new(OsDisk), &bus, options(), HandClock::at(START_MS)).unwrap().log;
    publish_some(&log, 0..EVENTS / 2).await;
    assert!(log.stats().segments >= 2 && !index.exists());
    std::fs::remove_dir(&in_the_way).unwrap();
    publish_some(&log, EVENTS / 2..EVENTS).await;
    log.close().await.unwrap();
    assert!(index.exists());
}
