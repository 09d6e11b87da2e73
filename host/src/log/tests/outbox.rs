//! Commits that are handed to the writer several at a time.

use super::support::*;
use crate::event::{CommitNumber, InstanceId, Position};
use crate::limits::EFFECTS_LANE_BYTES_MAX;
use crate::log::disk::sim::SimDisk;
use crate::log::{AppendError, Log, OUTBOX_BYTES, Outbox, RecordRef};

/// Bytes that one of [`delivery`] is sure to fit in.
const COMMIT_BYTES: usize = 1000;

async fn with_room(log: &Log) -> Outbox {
    let outbox = log.outbox();
    outbox.put(log.reserve(InstanceId(1), COMMIT_BYTES + OUTBOX_BYTES).await.unwrap());
    outbox
}

fn push(outbox: &Outbox, position: u64) {
    outbox.push(&delivery(position)).unwrap();
}

/// Positions whose deliveries ended, in the order of the log, once there are so many.
async fn ended(log: &Log, count: usize) -> Vec<u64> {
    let mut frames = log.frames_from_commit(CommitNumber(1));
    let mut positions = Vec::new();
    while positions.len() < count {
        let frame = tokio::time::timeout(DEADLINE, frames.next()).await.expect("a frame").unwrap();
        for commit in frame.commits() {
            let mut records = commit.unwrap().records();
            while let Some(raw) = records.next_raw() {
                let (raw, position) = raw.unwrap();
                if let RecordRef::Completion(done) = records.read(&raw, position).unwrap() {
                    positions.push(done.position.0);
                }
            }
        }
    }
    positions
}

#[tokio::test]
async fn nothing_is_in_the_log_before_it_is_handed_over_and_then_in_order() {
    let log = open(&SimDisk::new()).log;
    let outbox = with_room(&log).await;
    (1..=5).for_each(|position| push(&outbox, position));
    assert_eq!(log.shared().lanes.waiting_bytes().0, 0);
    let started = log.durable();
    outbox.hand_over(COMMIT_BYTES);
    outbox.hand_over(COMMIT_BYTES);
    assert_eq!(ended(&log, 5).await, [1, 2, 3, 4, 5]);
    assert_eq!(log.durable(), CommitNumber(started.0 + 5));
    push(&outbox, 6);
    drop(outbox);
    assert_eq!(ended(&log, 6).await, [1, 2, 3, 4, 5, 6], "dropped, it hands over");
}

#[tokio::test]
async fn there_is_room_for_the_next_commit_beside_those_that_are_in_it() {
    let log = open(&SimDisk::new()).log;
    let outbox = log.outbox();
    assert!(!outbox.has_room(COMMIT_BYTES));
    outbox.put(log.reserve(InstanceId(1), COMMIT_BYTES).await.unwrap());
    assert!(outbox.has_room(COMMIT_BYTES));
    push(&outbox, 1);
    assert!(!outbox.has_room(COMMIT_BYTES), "one is in it");
    outbox.hand_over(COMMIT_BYTES);
    assert!(!outbox.has_room(COMMIT_BYTES), "it took some");
    push(&outbox, 2);
    outbox.hand_over_for(COMMIT_BYTES);
    assert!(outbox.has_room(COMMIT_BYTES), "filled up");
    outbox.hand_over(COMMIT_BYTES / 2);
    assert!(outbox.has_room(COMMIT_BYTES / 2) && !outbox.has_room(COMMIT_BYTES / 2 + 1));
    outbox.hand_over(0);
    assert!(!outbox.has_room(1));
    // All of it comes back once the commits are written.
    let whole = log.reserve(InstanceId(2), EFFECTS_LANE_BYTES_MAX);
    let whole = tokio::time::timeout(DEADLINE, whole).await.expect("the whole lane").unwrap();
    assert_eq!(whole.bytes(), EFFECTS_LANE_BYTES_MAX);
}

#[tokio::test]
async fn whoever_waits_for_room_gets_what_is_kept_for_later() {
    let log = open(&SimDisk::new()).log;
    let outbox = with_room(&log).await;
    let other = tokio::spawn({
        let log = log.clone();
        async move { log.reserve(InstanceId(2), EFFECTS_LANE_BYTES_MAX).await.unwrap().bytes() }
    });
    tokio::task::yield_now().await;
    push(&outbox, 1);
    outbox.hand_over_for(COMMIT_BYTES);
    assert!(!outbox.has_room(1));
    let got = tokio::time::timeout(DEADLINE, other).await.expect("it waits no more").unwrap();
    assert_eq!(got, EFFECTS_LANE_BYTES_MAX);
}

#[tokio::test]
async fn what_has_room_is_still_written_as_the_log_closes_and_the_rest_is_not() {
    let disk = SimDisk::new();
    let log = open(&disk).log;
    let (outbox, without) = (with_room(&log).await, log.outbox());
    push(&outbox, 1);
    push(&without, 2);
    let closing = tokio::spawn({
        let log = log.clone();
        async move { log.close().await }
    });
    until("closing", || log.shared().lanes.refusal().is_some()).await;
    without.hand_over(COMMIT_BYTES);
    outbox.hand_over(COMMIT_BYTES);
    push(&outbox, 3);
    let told = log.commit(outbox.take_room(), &delivery(4));
    told.await.unwrap();
    closing.await.unwrap().unwrap();
    drop(outbox);
    assert_eq!(log.reserve(InstanceId(1), 1).await.err(), Some(AppendError::ShuttingDown));
    let opened = open(&disk);
    assert!(opened.clean);
    assert_eq!(ended(&opened.log, 3).await, [1, 3, 4]);
    assert_eq!(opened.log.last_position(), Position(0));
}
