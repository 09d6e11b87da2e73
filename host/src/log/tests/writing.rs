//! Group commit, acknowledgement, poison, full disks, reading along.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::support::*;
use crate::effects::StateWrite;
use crate::event::{CommitNumber, InstanceId, Position};
use crate::limits::GROUP_BYTES_MAX;
use crate::log::disk::sim::{Crash, Fault, SimDisk};
use crate::log::record::DeliveryCommit;
use crate::log::{
    AppendError, Appended, CommitTicket, Linger, Log, LogOptions, Publish, ReadError, RecordRef,
};

async fn commit(log: &Log, position: u64) -> CommitTicket {
    let permit = log.reserve(InstanceId(1), 1000).await.unwrap();
    log.commit(permit, &delivery(position))
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_acknowledged_or_seen_before_the_sync() {
    let disk = SimDisk::new();
    let log = open(&disk).log;
    disk.hold_syncs();
    let publisher = tokio::spawn({
        let log = log.clone();
        async move { log.ingest(vec![publish("1", "a")]).await }
    });
    until("the sync", || disk.holds_a_sync()).await;
    assert!(!publisher.is_finished());
    assert_eq!((log.last_position(), log.durable()), (Position(0), CommitNumber(1)));
    assert_eq!(log.event(Position(1)).await.unwrap(), None);
    assert_eq!(log.head(&event("", "a", "").key.unwrap()), None);
    assert_eq!(log.find("/test", "1").await.unwrap(), None);
    disk.release_syncs();
    publisher.await.unwrap().unwrap();
    assert_eq!(log.last_position(), Position(1));
}

/// A client that went away was once not counted, though its event is in the log.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_durable_is_heard_of_though_its_publisher_has_gone() {
    let disk = SimDisk::new();
    let log = open(&disk).log;
    let heard = Arc::new(AtomicU64::new(0));
    log.on_ingested({
        let heard = Arc::clone(&heard);
        move |_| {
            heard.fetch_add(1, Ordering::SeqCst);
        }
    });
    disk.hold_syncs();
    let publisher = tokio::spawn({
        let log = log.clone();
        async move { log.ingest(vec![publish("1", "a"), publish("2", "a")]).await }
    });
    until("the sync", || disk.holds_a_sync()).await;
    assert_eq!(heard.load(Ordering::SeqCst), 0, "not before it is durable");
    publisher.abort();
    assert!(publisher.await.unwrap_err().is_cancelled());
    disk.release_syncs();
    until("the count", || heard.load(Ordering::SeqCst) == 1).await;
    log.ingest(vec![publish("2", "a")]).await.unwrap();
    assert_eq!(heard.load(Ordering::SeqCst), 2, "of a duplicate, too");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_during_a_sync_is_one_group_with_one_write_and_one_sync() {
    let disk = SimDisk::new();
    let log = open(&disk).log;
    // Zeroes ahead what the group needs, so that only frames are written below.
    log.ingest(vec![publish("0", "a")]).await.unwrap();
    disk.hold_syncs();
    let first = tokio::spawn({
        let log = log.clone();
        async move { log.ingest(vec![publish("1", "a")]).await }
    });
    until("the sync", || disk.holds_a_sync()).await;
    let (operations, groups) = (disk.operations(), log.stats().groups);
    let mut rest = Vec::new();
    for n in 2..100 {
        let log = log.clone();
        rest.push(tokio::spawn(
            async move { log.ingest(vec![publish(&n.to_string(), "a")]).await },
        ));
    }
    until("all waiting", || log.shared().lanes.waiting() == 98).await;
    let mut effects = Vec::new();
    for position in 1..50 {
        effects.push(commit(&log, position).await);
    }
    disk.release_syncs();
    first.await.unwrap().unwrap();
    for task in rest {
        task.await.unwrap().unwrap();
    }
    let mut commits = Vec::new();
    for ticket in effects {
        commits.push(ticket.await.unwrap().commit.0);
    }
    assert!(commits.windows(2).all(|pair| pair[0] < pair[1]), "first in, first out");
    let frame = log.frames_from_commit(CommitNumber(commits[0])).next().await.unwrap();
    assert_eq!(frame.first_commit().0, commits[0], "effects go first");
    assert_eq!(log.stats().groups - groups, 2);
    // The sync of the first, then a write and a sync.
    assert_eq!(disk.operations() - operations, 3);
}

#[tokio::test]
async fn the_first_failure_poisons_and_reads_go_on() {
    for at in 1..=2 {
        let disk = SimDisk::new();
        let log = open(&disk).log;
        log.ingest(vec![publish("1", "a")]).await.unwrap();
        disk.inject(Fault::FailsAt(disk.operations() + at));
        let error = log.ingest(vec![publish("2", "a")]).await.unwrap_err();
        assert!(matches!(error, AppendError::ReadOnly(_)), "{error}");
        disk.heal();
        let operations = disk.operations();
        assert!(matches!(log.ingest(vec![publish("3", "a")]).await, Err(AppendError::ReadOnly(_))));
        assert!(log.control(&[]).await.is_err());
        assert!(log.reserve(InstanceId(1), 10).await.is_err());
        assert_eq!(disk.operations(), operations, "nothing is written any more");
        let failure = tokio::time::timeout(DEADLINE, log.failed()).await.unwrap();
        assert_eq!(log.stats().failure, Some(failure.clone()));
        assert_eq!(log.close().await, Err(failure));
        assert_eq!(&*log.event(Position(1)).await.unwrap().unwrap().id, "1");
        assert_eq!(log.last_position(), Position(1));
        let log = open(&disk.crash(Crash::LosesAll)).log;
        assert_eq!(ids(&all_events(&log).await.unwrap()), ["1"]);
    }
}

#[tokio::test]
async fn a_log_that_gets_no_file_for_its_next_segment_waits_for_one() {
    let disk = SimDisk::new();
    let log = open(&disk).log;
    let large = |id: usize| crate::log::Publish {
        event: event(&id.to_string(), "a", &format!("\"{}\"", "x".repeat(30_000))),
        expected: None,
    };
    disk.inject(Fault::NoFilesFrom(0));
    let mut taken = 0;
    let error = loop {
        match log.ingest(vec![large(taken)]).await {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, AppendError::StorageFull { .. }), "{error}");
    assert_eq!(log.stats().failure, None);
    disk.heal();
    log.ingest(vec![large(taken)]).await.unwrap();
    log.close().await.unwrap();
    let log = open(&disk).log;
    assert_eq!(all_events(&log).await.unwrap().len(), taken + 1);
}

#[tokio::test]
async fn a_full_disk_refuses_and_recovers() {
    let disk = SimDisk::new();
    let log = open(&disk).log;
    let large = |id: &str| crate::log::Publish {
        event: event(id, "a", &format!("\"{}\"", "x".repeat(30_000))),
        expected: None,
    };
    log.ingest(vec![large("1")]).await.unwrap();
    disk.set_capacity(Some(100_000));
    // The claimed space is ours.
    log.ingest(vec![large("2")]).await.unwrap();
    let error = log.ingest(vec![large("3")]).await.unwrap_err();
    assert!(matches!(error, AppendError::StorageFull { .. }), "{error}");
    assert!(log.stats().failure.is_none());
    assert_eq!(all_events(&log).await.unwrap().len(), 2);
    assert!(log.ingest(vec![publish("small", "a")]).await.is_ok(), "there is room for less");
    disk.set_capacity(None);
    log.ingest(vec![large("3")]).await.unwrap();
    assert_eq!(ids(&all_events(&log).await.unwrap()), ["1", "2", "small", "3"]);
    log.close().await.unwrap();
    open(&disk).log.ingest(vec![large("4")]).await.unwrap();
}

#[tokio::test]
async fn ingest_stops_at_a_higher_watermark_than_effects() {
    let disk = SimDisk::new();
    let clock = HandClock::at(START_MS);
    let log = Log::open(Arc::new(disk.clone()), &bus(), options(), clock.clone()).unwrap().log;
    let free = |bytes| {
        use crate::log::disk::Disk;
        disk.set_capacity(Some(1 << 20));
        let used = (1 << 20) - disk.free_bytes(&bus()).unwrap();
        disk.set_capacity(Some(used + bytes));
    };
    let stored = log.ingest(vec![publish("0", "a")]).await.unwrap();
    free(1500);
    clock.pass(1000);
    let error = log.ingest(vec![publish("0", "a"), publish("1", "a")]).await.unwrap_err();
    assert_eq!(error, AppendError::StorageFull { free: 1500, needed: 2000 });
    // What is there already takes no room.
    let again = log.ingest(vec![publish("0", "a")]).await.unwrap();
    assert_eq!(again, [Appended { duplicate: true, ..stored[0] }]);
    commit(&log, 1).await.await.unwrap();
    free(500);
    clock.pass(1000);
    let mut waiting = Vec::new();
    for position in 2..5 {
        waiting.push(commit(&log, position).await);
    }
    // Told at once, however long effects wait.
    let error = log.ingest(vec![publish("1", "a")]).await.unwrap_err();
    assert_eq!(error, AppendError::StorageFull { free: 500, needed: 2000 });
    assert_eq!(log.check_room(), Err(AppendError::StorageFull { free: 500, needed: 1000 }));
    disk.set_capacity(None);
    clock.pass(1000);
    let mut commits = Vec::new();
    for ticket in waiting {
        commits.push(ticket.await.unwrap().commit.0);
    }
    assert!(commits.is_sorted(), "{commits:?}");
    log.ingest(vec![publish("1", "a")]).await.unwrap();
}

/// The end of a delivery was once refused for want of space: its key had gone on, and what came after
/// it was recorded.
#[tokio::test]
async fn a_stop_without_space_records_nothing_past_what_it_could_not() {
    let disk = SimDisk::new();
    let log = open(&disk).log;
    let used = |disk: &SimDisk| {
        use crate::log::disk::Disk;
        disk.set_capacity(Some(1 << 20));
        (1 << 20) - disk.free_bytes(&bus()).unwrap()
    };
    disk.set_capacity(Some(used(&disk) + 1_000_000));
    let large = DeliveryCommit {
        emits: vec![event("e", "a", &format!("\"{}\"", "x".repeat(80_000)))],
        ..delivery(1)
    };
    let full = used(&disk);
    disk.set_capacity(Some(full + 10_000));
    let permit = log.reserve(InstanceId(1), 100_000).await.unwrap();
    let first = log.commit(permit, &large);
    let second = commit(&log, 2).await;
    log.close().await.unwrap();
    assert!(matches!(first.await, Err(AppendError::StorageFull { .. })));
    assert!(matches!(second.await, Err(AppendError::StorageFull { .. })));
    let opened = open(&disk.crash(Crash::LosesAll));
    assert_eq!(opened.last_commit, CommitNumber(2), "the two starts");
}

#[tokio::test]
async fn segments_follow_on_and_are_read_from_disk_by_who_lags() {
    let disk = SimDisk::new();
    let options = LogOptions { tail_bytes: 1, ..options() };
    let log = try_open(&disk, options).unwrap().log;
    let mut live = log.frames_from_position(Position(1));
    for n in 0..200 {
        log.ingest(vec![crate::log::Publish {
            event: event(&n.to_string(), "a", &format!("\"{}\"", "x".repeat(1000))),
            expected: None,
        }])
        .await
        .unwrap();
    }
    assert!(log.stats().segments >= 3, "{:?}", log.stats());
    let events = all_events(&log).await.unwrap();
    assert!(events.iter().zip(0..).all(|(event, n)| &*event.id == n.to_string().as_str()));
    let mut seen = 0;
    while seen < 200 {
        seen += live.next().await.unwrap().events().unwrap().len();
    }
    let middle = log.frames_from_position(Position(120)).next().await.unwrap();
    assert!(middle.first_position() <= Some(Position(120)));
    assert!(middle.last_position() >= Some(Position(120)));
    for position in [1, 57, 120, 200] {
        let event = log.event(Position(position)).await.unwrap().unwrap();
        assert_eq!(event.position, Position(position));
    }
    assert_eq!(found_at(&log, &[1, 2, 57, 120, 200, 201]).await, [1, 2, 57, 120, 200]);
    log.close().await.unwrap();
    assert!(matches!(live.next().await, Err(ReadError::Closed)));
    let log = try_open(&disk, options).unwrap().log;
    assert_eq!(all_events(&log).await.unwrap().len(), 200);
    let positions = log.key_positions(&events[0].key.clone().unwrap(), Position(1), 500).await;
    assert_eq!(positions.unwrap().len(), 200);
}

async fn found_at(log: &crate::log::Log, positions: &[u64]) -> Vec<u64> {
    let positions = positions.iter().copied().map(Position).collect();
    log.events(positions).await.unwrap().iter().map(|event| event.position.0).collect()
}

#[tokio::test]
async fn events_here_and_there_are_found_in_frames_of_several_commits() {
    for tail_bytes in [1, 1 << 20] {
        let log = try_open(&SimDisk::new(), LogOptions { tail_bytes, ..options() }).unwrap().log;
        for frame in 0..3 {
            let publish = |n: u64| crate::log::Publish {
                event: event(&format!("{frame}-{n}"), "a", "1"),
                expected: None,
            };
            let (one, two) = tokio::join!(
                log.ingest((0..5).map(publish).collect()),
                log.ingest((5..10).map(publish).collect()),
            );
            one.unwrap();
            two.unwrap();
        }
        assert_eq!(found_at(&log, &[]).await, [0; 0]);
        assert_eq!(found_at(&log, &[2, 6, 7, 10, 11, 29, 31]).await, [2, 6, 7, 10, 11, 29]);
        let all: Vec<u64> = (1..=30).collect();
        assert_eq!(found_at(&log, &all).await, all);
    }
}

#[tokio::test]
async fn a_reader_waits_for_the_next_frame() {
    let log = open(&SimDisk::new()).log;
    let mut reader = log.frames_from_commit(CommitNumber(1));
    let epoch = reader.next().await.unwrap();
    let record = epoch.commits().next().unwrap().unwrap().records().next().unwrap().unwrap();
    assert!(matches!(record, RecordRef::Control(_)));
    assert!(reader.at_hand().is_none());
    let next = tokio::spawn(async move { reader.next().await.unwrap().first_commit() });
    log.ingest(vec![publish("1", "a")]).await.unwrap();
    assert_eq!(next.await.unwrap(), CommitNumber(2));
}

#[tokio::test]
async fn a_commit_larger_than_a_group_and_than_a_segment_is_written_alone() {
    let disk = SimDisk::new();
    let log = open(&disk).log;
    let batch: Vec<_> = (0..6)
        .map(|n| crate::log::Publish {
            event: event(&n.to_string(), "a", &format!("\"{}\"", "x".repeat(1_000_000))),
            expected: None,
        })
        .collect();
    let answers = log.ingest(batch).await.unwrap();
    assert_eq!(answers.last().unwrap().position, Position(6));
    log.close().await.unwrap();
    assert_eq!(all_events(&open(&disk).log).await.unwrap().len(), 6);
}

#[tokio::test]
async fn room_in_the_effects_lane_is_waited_for() {
    let log = open(&SimDisk::new()).log;
    let whole = log.reserve(InstanceId(1), usize::MAX).await.unwrap();
    let waiting = tokio::spawn({
        let log = log.clone();
        async move { log.reserve(InstanceId(2), 10).await.unwrap().bytes() }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    drop(whole);
    assert_eq!(waiting.await.unwrap(), 10);
}

#[tokio::test]
async fn what_has_room_reserved_is_written_before_the_log_closes() {
    let disk = SimDisk::new();
    let log = open(&disk).log;
    let permit = log.reserve(InstanceId(1), 1000).await.unwrap();
    let closing = tokio::spawn({
        let log = log.clone();
        async move { log.close().await }
    });
    until("closing", || log.shared().lanes.refusal().is_some()).await;
    assert_eq!(log.ingest(vec![publish("1", "a")]).await, Err(AppendError::ShuttingDown));
    log.commit(permit, &delivery(1)).await.unwrap();
    closing.await.unwrap().unwrap();
    let opened = open(&disk);
    assert!(opened.clean && opened.cut.is_none());
}

/// What was held while the disk was full and what was published meanwhile once made a frame together that
/// was larger than any reader takes.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_held_makes_no_frame_that_cannot_be_read() {
    const MEBIBYTE: usize = 1 << 20;
    let disk = SimDisk::new();
    let clock = HandClock::at(START_MS);
    let log = Log::open(Arc::new(disk.clone()), &bus(), options(), clock.clone()).unwrap().log;
    let permit = log.reserve(InstanceId(1), MEBIBYTE).await.unwrap();
    disk.inject(Fault::FullFrom(disk.operations()));
    let value = |number: usize| StateWrite {
        name: number.to_string().into(),
        value: Some(vec![7; MEBIBYTE - 1000].into()),
        expires_ms: None,
    };
    let held =
        log.commit(permit, &DeliveryCommit { state: (0..60).map(value).collect(), ..delivery(1) });
    let publisher = tokio::spawn({
        let log = log.clone();
        let large = |id: usize| {
            let event =
                event(&id.to_string(), "a", &format!("\"{}\"", "x".repeat(MEBIBYTE - 1000)));
            Publish { event, expected: None }
        };
        async move { while log.ingest((0..6).map(large).collect()).await.is_err() {} }
    });
    // Long enough for both to be refused some times.
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    disk.heal();
    // The free space is looked at once in a while.
    clock.pass(5000);
    held.await.unwrap();
    publisher.await.unwrap();
    let again = open(&disk.crash(Crash::KeepsAll)).log;
    assert_eq!(all_events(&again).await.unwrap().len(), 6);
}

/// What was published while effects were held once took those with it that came after them.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_while_effects_are_held_takes_none_that_came_after_them() {
    let disk = SimDisk::new();
    let options = LogOptions { linger: Linger::For(DEADLINE), ..options() };
    let log = try_open(&disk, options).unwrap().log;
    // The space is looked at, and found to be enough.
    commit(&log, 1).await.await.unwrap();
    // Whom the writer lingers for.
    let _numbered = log.numbered_from_position(Position(1));
    let permit = log.reserve(InstanceId(1), GROUP_BYTES_MAX).await.unwrap();
    disk.inject(Fault::FullFrom(disk.operations()));
    let value = StateWrite {
        name: "n".into(),
        value: Some(vec![7; GROUP_BYTES_MAX - 1000].into()),
        expires_ms: None,
    };
    let held = log.commit(permit, &DeliveryCommit { state: vec![value], ..delivery(2) });
    until("holding", || log.shared().lanes.waiting_bytes().0 == 0).await;
    let after = commit(&log, 3).await;
    // With what is held it would not fit one group: it is written for itself.
    let data = format!("\"{}\"", "x".repeat(2000));
    let published = log.ingest(vec![Publish { event: event("1", "a", &data), expected: None }]);
    let published = tokio::time::timeout(DEADLINE / 2, published).await;
    assert!(published.expect("nothing is waited for").is_ok());
    disk.heal();
    let (held, after) = (held.await.unwrap(), after.await.unwrap());
    assert!(held.commit < after.commit, "{held:?} {after:?}");
}
