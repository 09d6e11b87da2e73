use std::collections::BTreeMap;

use super::*;
use crate::effects::{OutcomeKind, StateWrite, ends_at};
use crate::event::{Digest, Generation, InstanceId, Key, Position};
use crate::limits::{CHECKPOINT_CHUNK_BYTES, CHECKPOINT_FREE_BYTES_MIN};
use crate::log::disk::sim::{Crash, Fault, SimDisk};
use crate::log::record::{AttemptRecord, Control, ControlRecord, DeadLetterRecord};
use crate::state::cold::Cold;
use crate::state::ledger::Completed;
use crate::state::ledger::Origin;
use crate::state::values::{Owner, Value};

mod behind;
mod faults;
mod round_trip;

const DIR: &str = "bus/checkpoints";
const LOG: Uuid = Uuid::from_u128(7);
const LAST: CommitNumber = CommitNumber(1_000_000);

/// All state: what a checkpoint must bring back.
type Model = BTreeMap<(u32, u32, String), BTreeMap<String, Value>>;

fn at(commit: u64) -> At {
    At { commit: CommitNumber(commit), time_ms: commit * 10 }
}

fn open(disk: &SimDisk) -> Checkpoints {
    Checkpoints::open(Arc::new(disk.clone()), Path::new(DIR), LOG).unwrap()
}

fn file(commit: u64, suffix: &str) -> PathBuf {
    Path::new(DIR).join(format!("{commit:020}.checkpoint{suffix}"))
}

fn names(disk: &SimDisk) -> Vec<String> {
    let names = disk.list(Path::new(DIR)).unwrap();
    names.into_iter().map(|name| name.trim_start_matches('0').to_owned()).collect()
}

fn apply(values: &Values, key: &str, name: &str, value: &[u8]) {
    let value = Some(value.into());
    let write = StateWrite { name: name.into(), value, expires_ms: None };
    values.apply((InstanceId(1), Generation(0), key), Position(1), [write]).unwrap();
}

fn owner(key: &str) -> Owner {
    Owner { instance: InstanceId(1), generation: Generation(0), key: Key::new(key).unwrap() }
}

/// State that tells one commit from another.
fn values_of(commit: u64) -> Values {
    let values = Values::default();
    apply(&values, "a", "commit", commit.to_string().as_bytes());
    apply(&values, "b", "n", b"1");
    values
}

fn ledger_of(commit: u64) -> Ledger {
    let mut ledger = Ledger::default();
    ledger.apply_event(&format!("type-{commit}"), Origin::Outside, commit);
    ledger
}

fn write(disk: &SimDisk, commit: u64) {
    open(disk).write(&ledger_of(commit), &values_of(commit), at(commit), &[7; 32]).unwrap();
}

fn dump(values: &Values) -> Model {
    let mut model = Model::new();
    values
        .each(|owner, values| {
            let values = values.iter().map(|(name, value)| (name.to_string(), value.clone()));
            let key = (owner.instance.0, owner.generation.0, owner.key.to_string());
            let twice = model.insert(key, values.collect());
            assert!(twice.is_none(), "`{}` was visited twice", owner.key);
            Ok::<_, CheckpointError>(())
        })
        .unwrap();
    model
}

fn json(ledger: &Ledger) -> serde_json::Value {
    serde_json::to_value(ledger).unwrap()
}

/// The commit of the newest checkpoint, which is checked to be whole.
fn newest(disk: &SimDisk) -> Option<u64> {
    newest_up_to(&open(disk), LAST)
}

fn newest_up_to(checkpoints: &Checkpoints, last: CommitNumber) -> Option<u64> {
    let values = Values::default();
    let found = checkpoints.newest(&values, last).unwrap();
    let Some((ledger, found)) = found else {
        assert!(dump(&values).is_empty() && values.hot_bytes() == 0, "something was left behind");
        return None;
    };
    let commit = found.commit.0;
    assert_eq!(found, at(commit));
    assert_eq!(dump(&values), dump(&values_of(commit)));
    assert_eq!(values.hot_bytes(), values_of(commit).hot_bytes());
    assert_eq!(json(&ledger), json(&ledger_of(commit)));
    Some(commit)
}

#[test]
fn the_two_newest_are_kept() {
    let disk = SimDisk::new();
    for commit in [5, 10, 200] {
        write(&disk, commit);
    }
    assert_eq!(names(&disk), ["10.checkpoint", "200.checkpoint"]);
    assert_eq!(newest(&disk), Some(200));
}

#[test]
fn one_of_the_same_commit_is_replaced() {
    let disk = SimDisk::new();
    write(&disk, 5);
    open(&disk).write(&Ledger::default(), &Values::default(), at(5), &[7; 32]).unwrap();
    let values = Values::default();
    let (ledger, _) = open(&disk).newest(&values, LAST).unwrap().unwrap();
    assert_eq!(ledger.types().count(), 0);
    assert!(dump(&values).is_empty());
}

#[test]
fn nothing_is_found_where_there_is_nothing() {
    assert_eq!(newest(&SimDisk::new()), None);
}

#[test]
fn a_checkpoint_ahead_of_the_log_is_never_used_not_even_once_the_log_has_grown() {
    let disk = SimDisk::new();
    write(&disk, 5);
    write(&disk, 10);
    let checkpoints = open(&disk);
    assert_eq!(newest_up_to(&checkpoints, CommitNumber(9)), Some(5));
    assert_eq!(newest_up_to(&checkpoints, CommitNumber(100)), Some(5));
    assert_eq!(
        names(&disk),
        ["10.checkpoint.ahead", "5.checkpoint"]
            .map(str::to_owned)
            .into_iter()
            .rev()
            .collect::<Vec<_>>()
    );
}

#[test]
fn a_checkpoint_ahead_that_cannot_be_set_aside_is_an_error() {
    let disk = SimDisk::new();
    write(&disk, 10);
    let checkpoints = open(&disk);
    disk.inject(Fault::FailsAt(disk.operations() + 1));
    checkpoints.newest(&Values::default(), CommitNumber(9)).unwrap_err();
}

#[test]
fn a_checkpoint_of_another_log_is_not_used() {
    let disk = SimDisk::new();
    let other = Checkpoints::open(Arc::new(disk.clone()), Path::new(DIR), Uuid::from_u128(8));
    other.unwrap().write(&ledger_of(10), &values_of(10), at(10), &[7; 32]).unwrap();
    write(&disk, 5);
    assert_eq!(newest(&disk), Some(5));
    assert_eq!(names(&disk), ["5.checkpoint", "10.checkpoint.foreign"]);
}

#[test]
fn a_checkpoint_under_the_name_of_another_is_not_used() {
    let disk = SimDisk::new();
    write(&disk, 5);
    disk.rename(&file(5, ""), &file(6, "")).unwrap();
    assert_eq!(newest(&disk), None);
    assert_eq!(names(&disk), ["6.checkpoint.damaged"]);
}

#[test]
fn a_newer_format_is_passed_over_and_stays() {
    let disk = SimDisk::new();
    write(&disk, 5);
    write(&disk, 10);
    disk.damage(&file(10, ""), |bytes| {
        bytes[8] += 1;
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    });
    let checkpoints = open(&disk);
    assert_eq!(newest_up_to(&checkpoints, LAST), Some(5));
    // Of no use to this host, it does not take the place of one that is.
    checkpoints.write(&ledger_of(20), &values_of(20), at(20), &[7; 32]).unwrap();
    assert_eq!(names(&disk), ["5.checkpoint", "10.checkpoint", "20.checkpoint"]);
}

#[test]
fn a_second_damaged_one_does_not_replace_the_first() {
    let disk = SimDisk::new();
    for _ in 0..2 {
        write(&disk, 5);
        disk.damage(&file(5, ""), |bytes| bytes.truncate(100));
        assert_eq!(newest(&disk), None);
    }
    assert_eq!(names(&disk), ["5.checkpoint.damaged", "5.checkpoint.damaged-2"]);
}

#[test]
fn it_leaves_room_for_the_log() {
    let disk = SimDisk::new();
    write(&disk, 5);
    disk.set_capacity(Some(CHECKPOINT_FREE_BYTES_MIN));
    let refused = open(&disk).write(&ledger_of(10), &values_of(10), at(10), &[7; 32]).unwrap_err();
    let CheckpointError::Io { source, .. } = refused else { panic!("{refused}") };
    assert_eq!(source.kind(), io::ErrorKind::StorageFull);
    assert_eq!(names(&disk), ["5.checkpoint"]);
}

#[test]
fn it_is_due_by_bytes_or_by_commits() {
    let policy = CheckpointPolicy { every_bytes: 100, every_commits: 10 };
    for (bytes, commits, due) in [(99, 9, false), (100, 0, true), (0, 10, true), (0, 0, false)] {
        assert_eq!(policy.due(bytes, commits), due, "{bytes} bytes, {commits} commits");
    }
}
