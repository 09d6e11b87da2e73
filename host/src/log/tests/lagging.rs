//! Readers that lag: what they get from the disk, and which way they read it.

use std::sync::Arc;

use super::support::*;
use crate::event::{CommitNumber, Event, Position};
use crate::log::disk::OsDisk;
use crate::log::disk::sim::SimDisk;
use crate::log::{FrameReader, Log, LogOptions, Publish, ReadError};

/// Frames leave memory at once.
fn forgetful(segment_bytes: u64) -> LogOptions {
    LogOptions { segment_bytes, tail_bytes: 1, ..options() }
}

/// Publishes events with payloads of these lengths, each in a frame of its own.
async fn fill(log: &Log, numbers: std::ops::Range<usize>, payload_bytes: impl Fn(usize) -> usize) {
    for number in numbers {
        let data = format!("\"{}\"", "x".repeat(payload_bytes(number)));
        let event = event(&number.to_string(), "a", &data);
        log.ingest(vec![Publish { event, expected: None }]).await.unwrap();
    }
}

/// The next so many events, which are these ones.
async fn read(reader: &mut FrameReader, numbers: std::ops::Range<usize>) {
    let mut expected = numbers.clone();
    while !expected.is_empty() {
        for event in reader.next().await.unwrap().events().unwrap() {
            assert_eq!(event.id.to_string(), expected.next().unwrap().to_string());
        }
    }
}

#[tokio::test]
async fn who_reads_on_and_on_reads_past_the_page_cache() {
    // Small frames, frames across windows, frames larger than one; more of each than a segment has.
    for (count, segment_bytes, payload_bytes) in
        [(4000, 1 << 20, 900), (60, 3 << 20, 190_000), (20, 8 << 20, 1_000_000)]
    {
        let disk = SimDisk::new();
        let log = try_open(&disk, forgetful(segment_bytes)).unwrap().log;
        fill(&log, 0..count, |number| payload_bytes + number % 16).await;
        assert!(log.stats().segments >= 3, "{:?}", log.stats());
        for position in [1, 7, 11] {
            log.frames_from_position(Position(position)).next().await.unwrap();
            log.event(Position(position)).await.unwrap().unwrap();
        }
        assert_eq!(disk.direct_reads(), 0, "one frame is looked up through the page cache");
        read(&mut log.frames_from_commit(CommitNumber(1)), 0..count).await;
        let bytes = u64::try_from(count * payload_bytes).unwrap();
        assert!((bytes >> 21..bytes >> 18).contains(&disk.direct_reads()), "{count}");
        log.close().await.unwrap();
    }
}

#[tokio::test]
async fn many_readers_that_lag_share_the_files_that_they_read() {
    let folder = tempfile::tempdir().unwrap();
    let open_files = || {
        let links = std::fs::read_dir("/proc/self/fd").unwrap();
        let files = links.filter_map(|link| std::fs::read_link(link.ok()?.path()).ok());
        files.filter(|file| file.starts_with(folder.path())).count()
    };
    let options = forgetful(16 << 20);
    let log =
        Log::open(Arc::new(OsDisk), folder.path(), options, HandClock::at(START_MS)).unwrap().log;
    fill(&log, 0..40, |_| 100_000).await;
    let before = open_files();
    let mut readers: Vec<_> = (0..50).map(|_| log.frames_from_commit(CommitNumber(1))).collect();
    for reader in &mut readers {
        read(reader, 0..10).await;
    }
    assert!((1..=2).contains(&(open_files() - before)), "{} more", open_files() - before);
    drop(readers);
    assert_eq!(open_files(), before);
    log.close().await.unwrap();
}

#[tokio::test]
async fn a_small_event_that_is_held_does_not_hold_what_was_read_with_it() {
    let disk = SimDisk::new();
    let log = try_open(&disk, forgetful(64 << 20)).unwrap().log;
    let lengths = [10, 60_000, 70_000, 100];
    fill(&log, 0..lengths.len(), |number| lengths[number]).await;
    let mut reader = log.frames_from_commit(CommitNumber(1));
    let mut shares = Vec::new();
    while shares.len() < lengths.len() {
        let frame = reader.next().await.unwrap();
        let within = frame.bytes().as_ptr_range();
        let events = frame.events().unwrap();
        shares.extend(events.iter().map(|event| within.contains(&event.data.as_ptr())));
    }
    // Of the second one so much is wanted that it may keep the rest.
    assert_eq!(shares, [false, true, true, false]);
}

#[tokio::test]
async fn a_few_events_of_a_large_frame_are_copied_and_many_are_not() {
    let disk = SimDisk::new();
    let log = try_open(&disk, forgetful(64 << 20)).unwrap().log;
    let publish = |number: usize| {
        let event = event(&number.to_string(), "a", &format!("\"{}\"", "x".repeat(1000)));
        Publish { event, expected: None }
    };
    log.ingest((0..200).map(publish).collect()).await.unwrap();
    // The newest frame stays in memory.
    log.ingest(vec![publish(200)]).await.unwrap();
    for (count, shared) in [(5, false), (100, true), (200, true)] {
        let frame = log.frames_from_position(Position(1)).next().await.unwrap();
        let events = frame.select(|heading| heading.position.0 <= count).unwrap();
        assert_eq!(events.len() as u64, count);
        let within = frame.bytes().as_ptr_range();
        let shares = |event: &Arc<Event>| within.contains(&event.data.as_ptr());
        assert!(events.iter().all(|event| shares(event) == shared), "{count}");
    }
}

#[tokio::test]
async fn a_small_event_that_waits_does_not_keep_the_frame_it_was_written_with() {
    let disk = SimDisk::new();
    let log = open(&disk).log;
    let publish = |number: usize| {
        let bytes = if number == 0 { 10 } else { 50_000 };
        let event = event(&number.to_string(), "a", &format!("\"{}\"", "x".repeat(bytes)));
        Publish { event, expected: None }
    };
    log.ingest((0..10).map(publish).collect()).await.unwrap();
    for (count, shared) in [(1, false), (3, true)] {
        let frame = log.frames_from_position(Position(count)).next().await.unwrap();
        let events = frame.select(|heading| heading.position.0 == count).unwrap();
        let within = frame.bytes().as_ptr_range();
        assert_eq!(within.contains(&events[0].data.as_ptr()), shared, "{count}");
    }
}

#[tokio::test]
async fn what_was_read_ahead_of_the_writer_is_read_again() {
    let disk = SimDisk::new();
    let log = try_open(&disk, forgetful(64 << 20)).unwrap().log;
    let mut reader = log.frames_from_commit(CommitNumber(1));
    let mut from = 0;
    for more in [20, 2, 3, 30, 2] {
        fill(&log, from..from + more, |_| 50_000).await;
        read(&mut reader, from..from + more - 1).await;
        // The last one by its own, so that the reader does not go on from memory.
        let direct_reads = disk.direct_reads();
        read(&mut reader, from + more - 1..from + more).await;
        assert_eq!(disk.direct_reads(), direct_reads, "all that is durable is read at once");
        from += more;
    }
    assert!(disk.direct_reads() > 4);
}

#[tokio::test]
async fn damage_past_the_first_batch_is_found_by_who_lags() {
    let disk = SimDisk::new();
    let log = try_open(&disk, forgetful(64 << 20)).unwrap().log;
    fill(&log, 0..40, |_| 50_000).await;
    disk.damage(&segment(1), |bytes| bytes[1_500_000] ^= 1);
    let mut reader = log.frames_from_commit(CommitNumber(1));
    let mut frames = 0;
    let error = loop {
        match reader.next().await {
            Ok(_) => frames += 1,
            Err(error) => break error,
        }
    };
    // What stands before it in the same batch is not given out.
    assert!((20..=30).contains(&frames), "{frames}");
    let ReadError::Damaged { path, offset, .. } = error else { panic!("{error}") };
    assert_eq!(path, segment(1));
    assert!((1_449_000..=1_500_000).contains(&offset), "{offset}");
}

#[tokio::test]
async fn a_reader_behind_the_writer_of_real_files_finds_every_frame_whole() {
    let dir = tempfile::tempdir().unwrap();
    let clock = HandClock::at(START_MS);
    let log = Log::open(Arc::new(OsDisk), &dir.path().join("bus"), forgetful(8 << 20), clock);
    let log = log.unwrap().log;
    let payload_bytes = |number| if number % 40 == 0 { 700_000 } else { number * 37 % 5000 };
    let reading = tokio::spawn({
        let mut reader = log.frames_from_commit(CommitNumber(1));
        async move { read(&mut reader, 0..800).await }
    });
    fill(&log, 0..800, payload_bytes).await;
    reading.await.unwrap();
    assert!(log.stats().segments >= 2, "{:?}", log.stats());
    read(&mut log.frames_from_commit(CommitNumber(1)), 0..800).await;
    log.close().await.unwrap();
}
