//! Frames on their way to the disk: who gets them before they are there, and that nobody misses any.

use std::sync::Arc;

use super::support::*;
use std::time::Duration;

use crate::event::{CommitNumber, InstanceId, Position};
use crate::log::disk::sim::{Crash, Fault, SimDisk};
use crate::log::{
    AppendError, Appended, Linger, Log, LogOptions, NumberedFrames, Publish, ReadError,
};

type Publisher = tokio::task::JoinHandle<Result<Vec<Appended>, AppendError>>;

fn publishing(log: &Log, id: &str) -> Publisher {
    let (log, id) = (log.clone(), id.to_owned());
    tokio::spawn(async move { log.ingest(vec![publish(&id, "a")]).await })
}

async fn ids(frames: &mut NumberedFrames) -> Vec<String> {
    let events = frames.next().await.unwrap().events().unwrap();
    events.iter().map(|event| event.id.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_numbered_frame_is_given_once_and_before_it_is_durable() {
    let disk = SimDisk::new();
    let log = open(&disk).log;
    let mut numbered = log.numbered_from_position(Position(1));
    let mut durable = log.frames_from_position(Position(1));
    for id in ["1", "2", "3"] {
        disk.hold_syncs();
        let published = publishing(&log, id);
        assert_eq!(ids(&mut numbered).await, [id]);
        assert!(durable.at_hand().is_none());
        let mut from_here = log.numbered_from_position(Position(id.parse().unwrap()));
        assert_eq!(ids(&mut from_here).await, [id], "for who comes while it is written");
        disk.release_syncs();
        published.await.unwrap().unwrap();
        assert_eq!(durable.next().await.unwrap().events().unwrap().len(), 1);
    }
    let mut late = log.numbered_from_position(Position(2));
    assert_eq!((ids(&mut late).await, ids(&mut late).await), (vec!["2".into()], vec!["3".into()]));
    log.until_durable(Position(3)).await.unwrap();
    let (closed, never) = tokio::join!(log.close(), log.until_durable(Position(4)));
    closed.unwrap();
    assert!(matches!(never, Err(ReadError::Closed)), "{never:?}");
    assert!(matches!(numbered.next().await, Err(ReadError::Closed)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_could_not_be_written_is_given_to_nobody_who_comes_later() {
    let disk = SimDisk::new();
    let log = open(&disk).log;
    disk.inject(Fault::FailsAt(disk.operations() + 1));
    publishing(&log, "1").await.unwrap().unwrap_err();
    let mut numbered = log.numbered_from_position(Position(1));
    assert!(matches!(numbered.next().await, Err(ReadError::Closed)));
    assert!(matches!(log.until_durable(Position(1)).await, Err(ReadError::Closed)));
}

/// Small frames and such as are written from where they stand, to readers that keep up, lag, begin
/// somewhere, and read what has left memory.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_reads_misses_nothing_and_gets_nothing_twice() {
    let disk = SimDisk::new();
    let options = LogOptions { segment_bytes: 8 << 20, tail_bytes: 64 << 10, ..options() };
    let log = try_open(&disk, options).unwrap().log;
    let count: u64 = 400;
    let readers: Vec<_> = [1, 1, 2, 57, 300]
        .into_iter()
        .enumerate()
        .map(|(reader, first)| {
            let mut frames = log.numbered_from_position(Position(first));
            tokio::spawn(async move {
                let (mut next, mut commit) = (first, CommitNumber(0));
                while next <= count {
                    let frame = frames.next().await.unwrap();
                    assert!(frame.first_commit() > commit, "frames are in order");
                    commit = frame.last_commit();
                    for event in frame.events().unwrap() {
                        assert!(event.position.0 == next || event.position.0 < first);
                        next = event.position.0 + 1;
                    }
                    if reader % 2 == 1 && next % 50 < 3 {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            })
        })
        .collect();
    for number in 1..=count {
        let bytes = if number % 80 == 7 { 3 << 20 } else { 500 };
        let data = Arc::<str>::from(format!("\"{}\"", "x".repeat(bytes)));
        let event = event(&number.to_string(), "a", &data);
        log.ingest(vec![Publish { event, expected: None }]).await.unwrap();
    }
    for reader in readers {
        tokio::time::timeout(DEADLINE, reader).await.unwrap().unwrap();
    }
    log.close().await.unwrap();
}

/// And both are durable at once, or lost at once.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_of_an_event_at_once_is_written_together_with_it() {
    let disk = SimDisk::new();
    let options = LogOptions { linger: Linger::For(DEADLINE), ..options() };
    let log = try_open(&disk, options).unwrap().log;
    let mut numbered = log.numbered_from_position(Position(1));
    let groups = log.stats().groups;
    let published = publishing(&log, "1");
    let alone = numbered.next().await.unwrap();
    assert_eq!((alone.headings().unwrap().count(), log.last_position()), (1, Position(0)));
    let permit = log.reserve(InstanceId(1), 1000).await.unwrap();
    let committed = log.commit(permit, &delivery(1)).await.unwrap();
    published.await.unwrap().unwrap();
    assert_eq!(log.stats().groups, groups + 1, "one write, one sync");
    let whole = numbered.next().await.unwrap();
    assert_eq!(whole.first_commit(), alone.first_commit());
    assert_eq!((whole.last_commit(), log.durable()), (committed.commit, committed.commit));
    assert_eq!(log.event(Position(1)).await.unwrap().unwrap().position, Position(1));
    let again = try_open(&disk.crash(Crash::LosesAll), options).unwrap().log;
    assert_eq!((again.durable().0, again.last_position()), (committed.commit.0 + 1, Position(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_of_an_event_a_moment_later_is_not_dated_back() {
    let clock = HandClock::at(START_MS);
    let options = LogOptions { linger: Linger::For(DEADLINE), ..options() };
    let opened = Log::open(Arc::new(SimDisk::new()), &bus(), options, clock.clone());
    let log = opened.unwrap().log;
    let mut numbered = log.numbered_from_position(Position(1));
    let published = publishing(&log, "1");
    assert_eq!(ids(&mut numbered).await, ["1"]);
    clock.pass(1);
    let permit = log.reserve(InstanceId(1), 1000).await.unwrap();
    let committed = log.commit(permit, &delivery(1)).await.unwrap();
    assert_eq!(committed.recorded_ms, START_MS + 1);
    published.await.unwrap().unwrap();
    assert_eq!(log.event(Position(1)).await.unwrap().unwrap().recorded_ms, START_MS);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_waited_for_who_is_not_there_and_publishers_do_not_wait_for_each_other() {
    let options = LogOptions { linger: Linger::For(Duration::from_secs(3600)), ..options() };
    let log = try_open(&SimDisk::new(), options).unwrap().log;
    publishing(&log, "1").await.unwrap().unwrap();
    let mut numbered = log.numbered_from_position(Position(2));
    let first = publishing(&log, "2");
    assert_eq!(ids(&mut numbered).await, ["2"]);
    assert!(!first.is_finished());
    let second = publishing(&log, "3");
    first.await.unwrap().unwrap();
    drop(numbered);
    second.await.unwrap().unwrap();
    log.close().await.unwrap();
}

/// It keeps up for a while after it read from the disk: the place there is far behind by then.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_lags_again_reads_nothing_that_was_given_out_of_memory() {
    let disk = SimDisk::new();
    let options = LogOptions { segment_bytes: 64 << 20, tail_bytes: 1, ..options() };
    let log = try_open(&disk, options).unwrap().log;
    let mut numbered = log.numbered_from_position(Position(1));
    let write = |id: u64| {
        // The end of what is read from the disk is read at once.
        let bytes = if (4..6).contains(&id) { 10 } else { 300_000 };
        let data = Arc::<str>::from(format!("\"{}\"", "x".repeat(bytes)));
        let (log, event) = (log.clone(), event(&id.to_string(), "a", &data));
        tokio::spawn(async move { log.ingest(vec![Publish { event, expected: None }]).await })
    };
    for id in 1..=5 {
        write(id).await.unwrap().unwrap();
    }
    for id in 1..=5 {
        assert_eq!(ids(&mut numbered).await, [id.to_string()]);
    }
    for id in 6..=30 {
        disk.hold_syncs();
        let written = write(id);
        assert_eq!(ids(&mut numbered).await, [id.to_string()]);
        disk.release_syncs();
        written.await.unwrap().unwrap();
    }
    for id in 31..=33 {
        write(id).await.unwrap().unwrap();
    }
    let before = disk.direct_reads();
    for id in 31..=33 {
        assert_eq!(ids(&mut numbered).await, [id.to_string()]);
    }
    let reads = disk.direct_reads() - before;
    assert!(reads <= 3, "{reads} reads for three frames");
    log.close().await.unwrap();
}
