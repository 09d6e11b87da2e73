//! Publishing: duplicates, conflicts, expected sequences, batches, order.

use std::sync::Arc;

use super::support::*;
use crate::clock::Moment;
use crate::event::{CommitNumber, KeySequence, NewEvent, Position};
use crate::log::disk::sim::SimDisk;
use crate::log::record::{Control, ControlRecord};
use crate::log::{AppendError, Appended, ClockGap, CommitRef, Log, LogOptions, OpenError, Publish};

fn appended(position: u64, sequence: u64, duplicate: bool) -> Appended {
    Appended { position: Position(position), sequence: KeySequence(sequence), duplicate }
}

#[tokio::test]
async fn events_get_dense_positions_and_key_sequences() {
    let log = open(&SimDisk::new()).log;
    let batch = vec![publish("1", "a"), publish("2", "b"), publish("3", "a")];
    let answers = log.ingest(batch).await.unwrap();
    assert_eq!(answers, [appended(1, 1, false), appended(2, 1, false), appended(3, 2, false)]);
    let answers = log.ingest(vec![publish("4", "a")]).await.unwrap();
    assert_eq!(answers, [appended(4, 3, false)]);
    let key = event("", "a", "").key.unwrap();
    assert_eq!(log.head(&key), Some((KeySequence(3), Position(4))));
    let positions = log.key_positions(&key, Position(2), 10).await.unwrap();
    assert_eq!(positions, [Position(3), Position(4)]);
    assert_eq!(&*log.event(Position(2)).await.unwrap().unwrap().id, "2");
    assert_eq!(log.event(Position(5)).await.unwrap(), None);
    assert_eq!(log.find("/test", "3").await.unwrap().unwrap().position, Position(3));
    assert_eq!(log.find("/other", "3").await.unwrap(), None);
}

#[tokio::test]
async fn a_publish_that_waits_takes_little_memory() {
    let log = open(&SimDisk::new()).log;
    let bytes = size_of_val(&log.ingest(vec![publish("1", "a")]));
    assert!(bytes <= 640, "{bytes} bytes");
}

#[tokio::test]
async fn an_event_comes_back_as_it_was_published() {
    let log = open(&SimDisk::new()).log;
    let published = NewEvent {
        attributes: vec![("traceparent".into(), "00-1".into())],
        principal: "me".into(),
        ..event("1", "a", "{}")
    };
    log.ingest(vec![Publish { event: published.clone(), expected: None }]).await.unwrap();
    let stored = log.event(Position(1)).await.unwrap().unwrap();
    assert_eq!(stored.body, published);
    assert_eq!(stored.recorded_ms, START_MS);
}

#[tokio::test]
async fn the_same_again_is_a_duplicate_and_other_content_a_conflict() {
    let disk = SimDisk::new();
    let log = open(&disk).log;
    log.ingest(vec![publish("1", "a")]).await.unwrap();
    assert_eq!(log.ingest(vec![publish("1", "a")]).await.unwrap(), [appended(1, 1, true)]);
    let other = Publish { event: event("1", "a", "{\"n\":2}"), expected: None };
    let error = log.ingest(vec![publish("2", "a"), other.clone()]).await.unwrap_err();
    assert_eq!(error, AppendError::IdConflict { index: 1, position: Position(1) });
    assert_eq!(log.last_position(), Position(1), "nothing of the batch is there");
    // A batch of old and new: the new ones are appended.
    let answers = log.ingest(vec![publish("3", "a"), publish("1", "a")]).await.unwrap();
    assert_eq!(answers, [appended(2, 2, false), appended(1, 1, true)]);
    // It is remembered across starts.
    log.close().await.unwrap();
    let log = open(&disk).log;
    assert_eq!(log.ingest(vec![publish("3", "a")]).await.unwrap(), [appended(2, 2, true)]);
    log.ingest(vec![other]).await.unwrap_err();
}

#[tokio::test]
async fn a_batch_is_compared_with_itself() {
    let log = open(&SimDisk::new()).log;
    let answers = log.ingest(vec![publish("1", "a"), publish("1", "a")]).await.unwrap();
    assert_eq!(answers, [appended(1, 1, false), appended(1, 1, true)]);
    let other = Publish { event: event("2", "a", "[]"), expected: None };
    let error = log.ingest(vec![publish("2", "a"), other]).await.unwrap_err();
    assert_eq!(error, AppendError::IdConflict { index: 1, position: Position(0) });
    assert_eq!(log.ingest(Vec::new()).await, Ok(Vec::new()));
}

#[tokio::test]
async fn an_expected_sequence_is_a_condition_and_duplicates_come_first() {
    let log = open(&SimDisk::new()).log;
    let expecting =
        |id, sequence| Publish { expected: Some(KeySequence(sequence)), ..publish(id, "a") };
    log.ingest(vec![expecting("1", 0)]).await.unwrap();
    let error = log.ingest(vec![expecting("2", 0)]).await.unwrap_err();
    let conflict = AppendError::SequenceConflict {
        index: 0,
        expected: KeySequence(0),
        actual: KeySequence(1),
    };
    assert_eq!(error, conflict);
    assert_eq!(log.ingest(vec![expecting("1", 0)]).await.unwrap(), [appended(1, 1, true)]);
    // Events of one batch see each other.
    log.ingest(vec![expecting("2", 1), publish("3", "b"), expecting("4", 2)]).await.unwrap();
    let error = log.ingest(vec![expecting("5", 3), expecting("6", 3)]).await.unwrap_err();
    assert!(matches!(error, AppendError::SequenceConflict { index: 1, .. }));
    assert_eq!(log.last_position(), Position(4));
    assert_eq!(log.ingest(vec![expecting("5", 3)]).await.unwrap(), [appended(5, 4, false)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_publishers_of_one_id_one_appends() {
    let log = open(&SimDisk::new()).log;
    let tasks: Vec<_> = (0..64)
        .map(|n| {
            let log = log.clone();
            tokio::spawn(async move {
                let mut answers = Vec::new();
                for round in 0..10 {
                    let batch = vec![
                        publish(&format!("own-{n}-{round}"), "k"),
                        publish(&format!("shared-{round}"), "k"),
                    ];
                    answers.push(log.ingest(batch).await.unwrap()[1]);
                }
                answers
            })
        })
        .collect();
    let mut by_round = vec![Vec::new(); 10];
    for task in tasks {
        for (round, answer) in task.await.unwrap().into_iter().enumerate() {
            by_round[round].push(answer);
        }
    }
    for answers in by_round {
        assert_eq!(answers.iter().filter(|answer| !answer.duplicate).count(), 1);
        assert!(answers.iter().all(|answer| answer.position == answers[0].position));
    }
    assert_eq!(log.last_position(), Position(64 * 10 + 10));
    let events = all_events(&log).await.unwrap();
    assert!(events.iter().zip(1..).all(|(event, n)| event.sequence == KeySequence(n)));
}

#[tokio::test]
async fn forwarded_and_emitted_events_pass_no_deduplication() {
    let log = open(&SimDisk::new()).log;
    let control = Control::Forwarded { bus: "other".into(), position: Position(9), log: None };
    let mark = ControlRecord { actor: "host".into(), control };
    let origin =
        crate::event::Origin { region: "".into(), bus: "other".into(), position: Position(9) };
    let forwarded = NewEvent { origin: Some(origin), ..event("1", "a", "{}") };
    for round in 1..=2 {
        let committed = log.forward(std::slice::from_ref(&forwarded), &mark).await.unwrap();
        assert_eq!(committed.first_position, Some(Position(round)));
    }
    let head = log.head(&forwarded.key.unwrap());
    assert_eq!(head, Some((KeySequence(2), Position(2))));
    assert!(log.control(&[]).await.is_err(), "an empty commit is refused");
    let committed = log.control(std::slice::from_ref(&mark)).await.unwrap();
    assert_eq!((committed.first_position, committed.commit), (None, log.durable()));
}

#[tokio::test]
async fn identities_are_forgotten_after_the_window() {
    let clock = HandClock::at(START_MS);
    let options = LogOptions { dedup_window_ms: 10_000, ..options() };
    let log = Log::open(Arc::new(SimDisk::new()), &bus(), options, clock.clone()).unwrap().log;
    log.ingest(vec![publish("1", "a")]).await.unwrap();
    clock.pass(9_000);
    assert!(log.ingest(vec![publish("1", "a")]).await.unwrap()[0].duplicate);
    clock.pass(3_000);
    log.ingest(vec![publish("2", "a")]).await.unwrap();
    assert!(!log.ingest(vec![publish("1", "a")]).await.unwrap()[0].duplicate);
    assert_eq!(log.stats().dedup.ms, 10_000);
}

#[tokio::test]
async fn a_clock_far_behind_is_refused_unless_accepted() {
    let disk = SimDisk::new();
    let opened = open(&disk);
    opened.log.close().await.unwrap();
    let hours_before = || HandClock::at(START_MS - 2 * 60 * 60 * 1000);
    let error = Log::open(Arc::new(disk.clone()), &bus(), options(), hours_before()).unwrap_err();
    assert!(matches!(error, OpenError::Clock { behind_ms: 7_200_000, .. }), "{error}");
    let moments = [START_MS - 7_200_000, START_MS].map(|ms| Moment(ms).to_string());
    assert!(moments.iter().all(|moment| error.to_string().contains(moment)), "{error}");
    assert!(error.to_string().contains("`data/buses/main/log`"), "{error}");
    let accepting = LogOptions { clock_gap: ClockGap::Accept, ..options() };
    let log = Log::open(Arc::new(disk), &bus(), accepting, hours_before()).unwrap().log;
    assert!(log.now_ms() >= START_MS);
}

#[tokio::test]
async fn starts_are_counted_and_a_second_process_is_kept_out() {
    let disk = SimDisk::new();
    let opened = open(&disk);
    assert!(opened.new_empty && opened.epoch == 1 && opened.last_commit.0 == 1);
    let error = try_open(&disk, options()).unwrap_err();
    assert!(matches!(error, OpenError::Lock(_)), "{error}");
    opened.log.close().await.unwrap();
    let again = open(&disk);
    assert!(!again.new_empty && again.clean && again.epoch == 2 && again.last_commit.0 == 2);
    assert_eq!(again.log_id, opened.log_id);
    assert_eq!(opened.log.ingest(vec![publish("1", "a")]).await, Err(AppendError::ShuttingDown));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_works_on_a_real_disk_and_names_the_process_that_has_it() {
    let data = tempfile::tempdir().unwrap();
    let bus = data.path().join("buses/main");
    let open = || {
        let disk = Arc::new(crate::log::disk::OsDisk);
        Log::open(disk, &bus, options(), HandClock::at(START_MS))
    };
    let log = open().unwrap().log;
    // Now and then more than a frame has that is copied to where it is written from.
    let data =
        |n: usize| format!("\"{}\"", "x".repeat(if n % 20 < 3 { 950_000 + n } else { 2000 }));
    let event = |n: usize| Publish { event: event(&n.to_string(), "a", &data(n)), expected: None };
    for n in (0..100).step_by(5) {
        log.ingest((n..n + 5).map(event).collect()).await.unwrap();
    }
    let error = open().unwrap_err().to_string();
    assert!(error.ends_with(&format!("is in use by process {}", std::process::id())), "{error}");
    log.close().await.unwrap();
    let opened = open().unwrap();
    assert!(opened.clean && opened.log.stats().segments >= 4);
    let events = all_events(&opened.log).await.unwrap();
    assert_eq!(events.len(), 100);
    assert!(events.iter().zip(0..).all(|(found, n)| {
        &*found.id == n.to_string().as_str() && found.data == data(n).as_bytes()
    }));
}

#[tokio::test]
async fn a_commit_is_read_by_its_number_once_it_is_durable() {
    let disk = SimDisk::new();
    let log = open(&disk).log;
    let begun = log.durable();
    let (one, two) = (publish("1", "a"), publish("2", "a"));
    log.ingest(vec![one, two]).await.unwrap();
    log.ingest(vec![publish("3", "a")]).await.unwrap();
    let events = |commit: &CommitRef<'_>| Ok((commit.events > 0).then_some(commit.events));
    for (behind, expected) in [(0, None), (1, Some(2)), (2, Some(1)), (3, None)] {
        let number = CommitNumber(begun.0 + behind);
        assert_eq!(log.read_commit(number, events).await.unwrap(), expected, "{number}");
    }
}
