//! Damage of every sort to a small closed log: what is said to be lost is lost, everything else is
//! as it was, and the log opens again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::*;
use crate::clock::SystemClock;
use crate::event::{CommitNumber, InstanceId, KeySequence, Position};
use crate::log::disk::sim::{Crash, Fault, SimDisk};
use crate::log::record::{Control, ControlRecord};
use crate::log::tools::sample::{
    BUS, LOG_ID, Writer, closed_log, control, data, delivery, event, index_path, ingest, put,
    segment_path,
};
use crate::log::tools::{DumpRange, dump, reindex, verify};
use crate::log::{Log, LogOptions};
use crate::state::{At, Checkpoints, Ledger, Values};

/// What a log says, record by record, without where it stands.
fn records(disk: &SimDisk) -> BTreeMap<u64, Vec<Value>> {
    let mut out = Vec::new();
    dump(disk, data(), Some(BUS), DumpRange::default(), &mut out).unwrap();
    let mut commits: BTreeMap<u64, Vec<Value>> = BTreeMap::new();
    for line in String::from_utf8(out).unwrap().lines() {
        let mut line: Value = serde_json::from_str(line).unwrap();
        let fields = line.as_object_mut().unwrap();
        fields.remove("frame_offset");
        fields.remove("segment");
        if let Some(commit) = fields.get("commit").and_then(Value::as_u64) {
            commits.entry(commit).or_default().push(line);
        }
    }
    commits
}

fn events(records: &BTreeMap<u64, Vec<Value>>) -> BTreeMap<u64, Value> {
    let events = records.values().flatten().filter(|line| line["record"] == "event");
    events.map(|line| (line["position"].as_u64().unwrap(), line.clone())).collect()
}

fn repaired(disk: &SimDisk) -> BusRepair {
    repair(disk, data(), Some(BUS), RepairMode::Perform).unwrap().buses.remove(0)
}

fn open(disk: &SimDisk) -> crate::log::Opened {
    let options = LogOptions { segment_bytes: 64 * 1024, ..LogOptions::default() };
    let dir = Path::new("/data/buses/main");
    Log::open(Arc::new(disk.clone()), dir, options, Arc::new(SystemClock::new())).unwrap()
}

/// What the files beside the log say of positions and commits that are lost.
fn written_down(disk: &SimDisk) -> (BTreeSet<u64>, Vec<(u64, u64)>) {
    let dir = Path::new("/data/buses/main/log");
    let (mut positions, mut commits) = (BTreeSet::new(), Vec::new());
    let names = disk.list(dir).unwrap();
    for name in names.iter().filter(|name| name.starts_with("repair-") && name.ends_with(".json")) {
        let report: Value = serde_json::from_slice(&disk.bytes(&dir.join(name)).unwrap()).unwrap();
        for lost in report["lost"].as_array().unwrap() {
            let events = lost["events"].as_array().unwrap().iter();
            positions.extend(events.map(|event| event["position"].as_u64().unwrap()));
            let end = |end: &str| lost["commits"][end].as_u64().unwrap();
            commits.push((end("first"), end("last")));
        }
    }
    (positions, commits)
}

/// A log as it was before it was damaged.
struct Before {
    records: BTreeMap<u64, Vec<Value>>,
    events: BTreeMap<u64, Value>,
}

impl Before {
    fn of(disk: &SimDisk) -> Self {
        let records = records(disk);
        Self { events: events(&records), records }
    }

    /// Repairs a damaged log and holds it against what it was.
    fn check(&self, disk: &SimDisk, case: &str) -> BusRepair {
        let report = repaired(disk);
        let said = RepairReport { mode: "performed", buses: vec![report.clone()] };
        let verified = verify(disk, data(), Some(BUS)).unwrap();
        assert!(verified.is_sound(), "{case}: {verified}\n{said}");
        let after = records(disk);
        let same = self.records.keys().eq(after.keys());
        assert!(same, "{case}: commits {:?}\n{said}", after.keys());
        let (positions, commits) = written_down(disk);
        let mut lost = BTreeSet::new();
        for ((position, was), (same, is)) in self.events.iter().zip(events(&after)) {
            assert_eq!(*position, same, "{case}");
            if is["type"] == "tidegate.lost" {
                lost.insert(same);
            } else {
                assert_eq!(*was, is, "{case}");
            }
        }
        assert_eq!(events(&after).len(), self.events.len(), "{case}");
        assert_eq!(lost, positions, "{case}: what is lost is what was said\n{said}");
        for (commit, was) in &self.records {
            let is_lost = commits.iter().any(|(first, last)| (first..=last).contains(&commit));
            let is_as_before = after.get(commit) == Some(was);
            assert!(is_lost || is_as_before, "{case}: commit {commit}\n{said}");
        }
        report
    }

    /// The same, and the log opens, and needs no further repair.
    fn check_all(&self, disk: &SimDisk, case: &str) -> BusRepair {
        let report = self.check(disk, case);
        assert!(!repaired(disk).needs_repair(), "{case}: repaired twice");
        drop(open(&disk.crash(Crash::KeepsAll)));
        report
    }
}

/// Every how manieth byte and cut is tried.
fn every() -> usize {
    let every = std::env::var("TIDEGATE_DAMAGE_EVERY").ok();
    every.and_then(|every| every.parse().ok()).unwrap_or(11)
}

#[test]
fn a_flipped_byte_costs_no_more_than_its_commit() {
    let (disk, _) = closed_log();
    reindex(&disk, data(), Some(BUS)).unwrap();
    let before = Before::of(&disk);
    for number in 1..=3 {
        let path = segment_path(number);
        for at in (0..disk.bytes(&path).unwrap().len()).step_by(every()) {
            let damaged = disk.crash(Crash::KeepsAll);
            damaged.damage(&path, |bytes| bytes[at] ^= 0x04);
            let case = format!("segment {number} byte {at}");
            let report = before.check_all(&damaged, &case);
            assert!(report.lost_commits <= 2, "{case}");
            assert!(report.lost.iter().all(|lost| lost.is_exact), "{case}");
        }
    }
}

type Damaging = Box<dyn Fn(&mut Vec<u8>)>;

/// Every damage of a file that is not a single byte: cut at each length, each sector zeroed, each
/// sector written over another.
fn damages(len: usize, every: usize) -> Vec<(String, Damaging)> {
    let mut damages: Vec<(String, Damaging)> = Vec::new();
    for cut in (0..len).step_by(every) {
        damages.push((format!("cut at {cut}"), Box::new(move |bytes| bytes.truncate(cut))));
    }
    let sectors: Vec<_> = (0..len).step_by(512).collect();
    for from in sectors.iter().copied() {
        let end = len.min(from + 512);
        let zero = move |bytes: &mut Vec<u8>| bytes[from..end].fill(0);
        damages.push((format!("sector at {from} zeroed"), Box::new(zero)));
        for to in sectors.iter().copied().filter(|to| *to != from) {
            let size = (end - from).min(len - to);
            let repeat = move |bytes: &mut Vec<u8>| bytes.copy_within(from..from + size, to);
            damages.push((format!("sector at {from} over {to}"), Box::new(repeat)));
        }
    }
    damages
}

#[test]
fn cuts_zeros_and_repeated_sectors_lose_what_they_covered() {
    for is_indexed in [true, false] {
        let (disk, _) = closed_log();
        if is_indexed {
            reindex(&disk, data(), Some(BUS)).unwrap();
        }
        let before = Before::of(&disk);
        for number in 1..=2 {
            let path = segment_path(number);
            for (what, damage) in damages(disk.bytes(&path).unwrap().len(), every() * 4) {
                let damaged = disk.crash(Crash::KeepsAll);
                damaged.damage(&path, damage);
                let case = format!("segment {number}, indexed: {is_indexed}, {what}");
                before.check_all(&damaged, &case);
            }
        }
    }
}

#[test]
fn of_the_last_segment_an_index_tells_what_is_lost() {
    let (disk, _) = closed_log();
    reindex(&disk, data(), Some(BUS)).unwrap();
    let before = Before::of(&disk);
    let path = segment_path(3);
    for (what, damage) in damages(disk.bytes(&path).unwrap().len(), every() * 4) {
        let damaged = disk.crash(Crash::KeepsAll);
        damaged.damage(&path, damage);
        // A file that looks as a crash leaves it is for recovery, as far as it goes.
        if verify(&damaged, data(), Some(BUS)).unwrap().is_sound() {
            continue;
        }
        before.check_all(&damaged, &format!("last segment, {what}"));
    }
}

#[test]
fn missing_segments_are_replaced_by_what_holds_their_place() {
    for is_indexed in [true, false] {
        for missing in [vec![1], vec![2], vec![1, 2]] {
            let (disk, _) = closed_log();
            if is_indexed {
                reindex(&disk, data(), Some(BUS)).unwrap();
            }
            let before = Before::of(&disk);
            for number in &missing {
                disk.remove(&segment_path(*number)).unwrap();
            }
            let case = format!("missing {missing:?}, indexed: {is_indexed}");
            let report = before.check_all(&disk, &case);
            assert_eq!(report.lost_commits, 4 * missing.len() as u64, "{case}");
            let events = report.lost.iter().flat_map(|lost| &lost.events);
            let known = events.filter(|event| event.kind.is_some()).count();
            assert_eq!(known, if is_indexed { 5 * missing.len() } else { 0 }, "{case}");
        }
    }
}

#[test]
fn damaged_data_loses_its_event_alone_and_names_it() {
    let (disk, _) = closed_log();
    let before = Before::of(&disk);
    let path = segment_path(2);
    let bytes = disk.bytes(&path).unwrap();
    let at = bytes.windows(8).position(|window| window == b"{\"n\":12}").unwrap();
    disk.damage(&path, |bytes| bytes[at..at + 5].fill(b'9'));
    let report = before.check_all(&disk, "data");
    let [lost] = &report.lost[..] else { panic!("{report:?}") };
    let [event] = &lost.events[..] else { panic!("{report:?}") };
    assert_eq!((event.position.0, event.id.as_deref()), (8, Some("id-12")));
    assert_eq!((event.key.as_deref(), event.sequence), (Some("b"), Some(3)));
    assert_eq!((report.lost_events, report.lost_commits), (1, 1));
}

/// A log of one key: three events, then the end of a delivery of each in a frame of its own.
fn delivered() -> (SimDisk, Vec<usize>) {
    let (disk, mut writer) = (SimDisk::new(), Writer::new());
    writer.frame(&[control()], &[&[]]);
    let events = [event(1, Some("a")), event(2, Some("a")), event(3, Some("a"))];
    writer.frame(&[ingest(&events)], &[&["a", "a", "a"]]);
    for position in 1..=3 {
        writer.frame(&[delivery(position, "a")], &[&["a"]]);
    }
    let (bytes, frames) = writer.seal(false);
    put(&disk, &segment_path(1), &bytes);
    writer.frame(&[control()], &[&[]]);
    let (bytes, _) = writer.seal(true);
    put(&disk, &segment_path(2), &bytes);
    (disk, frames)
}

#[test]
fn a_lost_end_is_over_where_a_later_one_of_the_key_is_left_and_else_made_again() {
    for is_indexed in [true, false] {
        for lost in 1..=3_usize {
            let (disk, frames) = delivered();
            if is_indexed {
                reindex(&disk, data(), Some(BUS)).unwrap();
            }
            let at = frames[lost + 1] + 4;
            disk.damage(&segment_path(1), |bytes| bytes[at..at + 40].fill(0xff));
            let report = Before::of(&delivered().0).check_all(&disk, "an end");
            let case = format!("{lost}, indexed: {is_indexed}: {report:?}");
            assert_eq!(report.over, u64::from(lost < 3), "{case}");
            let again =
                if lost == 3 && is_indexed { vec![(InstanceId(1), Position(3))] } else { vec![] };
            assert_eq!(report.again, again, "{case}");
            let after = records(&disk);
            let of_lost = |line: &&Value| line["control"]["Lost"].is_object();
            let line = after.values().flatten().find(of_lost).unwrap();
            let over = &line["control"]["Lost"]["over"];
            let is_over = serde_json::json!([{
                "instance": 1, "generation": 0, "positions": [[lost, lost]],
            }]);
            assert_eq!(*over, if lost < 3 { is_over } else { serde_json::json!([]) }, "{case}");
        }
    }
}

/// Deliveries of `a` of which one lost its end: its event and a later end stand in frames that lost
/// another event.
fn partly_kept() -> (SimDisk, Vec<usize>) {
    let (disk, mut writer) = (SimDisk::new(), Writer::new());
    writer.frame(&[control()], &[&[]]);
    let inputs = ingest(&[event(1, Some("a")), event(2, Some("a")), event(3, Some("b"))]);
    writer.frame(&[inputs], &[&["a", "a", "b"]]);
    writer.frame(&[delivery(1, "a")], &[&["a"]]);
    let commits = [delivery(2, "a"), ingest(&[event(4, Some("b"))])];
    writer.frame(&commits, &[&["a"], &["b"]]);
    let (bytes, frames) = writer.seal(true);
    put(&disk, &segment_path(1), &bytes);
    (disk, frames)
}

#[test]
fn what_is_kept_of_a_damaged_frame_tells_what_is_over() {
    for is_indexed in [true, false] {
        let (disk, frames) = partly_kept();
        if is_indexed {
            reindex(&disk, data(), Some(BUS)).unwrap();
        }
        disk.damage(&segment_path(1), |bytes| {
            for data in [b"{\"n\":3}", b"{\"n\":4}"] {
                let at = bytes.windows(data.len()).position(|window| window == data).unwrap();
                bytes[at..at + 5].fill(b'9');
            }
            bytes[frames[2] + 4..frames[2] + 44].fill(0xff);
        });
        let report = Before::of(&partly_kept().0).check_all(&disk, "partly kept");
        let case = format!("indexed: {is_indexed}: {report:?}");
        // Of the end that is lost nothing was left but what it emitted.
        assert_eq!((report.lost_events, report.lost_commits, report.over), (3, 3, 1), "{case}");
        assert_eq!(report.again, vec![], "{case}");
    }
}

#[test]
fn positions_and_key_sequences_of_lost_events_are_not_given_again() {
    let (disk, _) = closed_log();
    reindex(&disk, data(), Some(BUS)).unwrap();
    // The last frame of the log: an event of `a`, and one that a delivery emitted for `b`.
    disk.damage(&segment_path(3), |bytes| {
        let len = bytes.len();
        bytes.truncate(len - 500);
    });
    let report = repaired(&disk);
    assert!(report.lost_events > 0, "{report:?}");
    let opened = open(&disk);
    assert_eq!(opened.last_position, Position(15));
    let key = crate::event::Key::new("a").unwrap();
    assert_eq!(opened.log.head(&key).unwrap().0, KeySequence(6));
}

#[test]
fn a_checkpoint_of_another_history_is_not_asked_who_the_plugins_were() {
    let (disk, mut writer) = (SimDisk::new(), Writer::new());
    let mut chains = BTreeMap::new();
    writer.frame(&[control()], &[&[]]);
    for n in 1..=4 {
        writer.frame(&[ingest(&[event(n, Some("a"))])], &[&["a"]]);
        chains.insert(n + 1, writer.next.chain);
    }
    let (bytes, frames) = writer.seal(true);
    put(&disk, &segment_path(1), &bytes);
    disk.damage(&segment_path(1), |bytes| bytes[frames[2]..frames[2] + 200].fill(0xff));
    // Behind a frame that is kept, that is lost but followed by one, and the last one.
    for (commit, chain) in chains {
        for (is_own, chain) in [(true, chain), (false, [9; 32])] {
            let disk = disk.crash(Crash::KeepsAll);
            let dir = Path::new("/data/buses/main/checkpoints");
            let log_id = uuid::Uuid::from_bytes(LOG_ID);
            let checkpoints = Checkpoints::open(Arc::new(disk.clone()), dir, log_id).unwrap();
            let (name, after) = ("other".to_owned(), Position(0));
            let register = Control::Register { instance: InstanceId(7), name, after };
            let record = ControlRecord { actor: "ops".into(), control: register };
            let at = At { commit: CommitNumber(commit), time_ms: 0 };
            let mut ledger = Ledger::default();
            ledger.apply_control(at, &record);
            checkpoints.write(&ledger, &Values::default(), at, &chain).unwrap();
            let report = repaired(&disk);
            assert_eq!(report.lost_commits, 1);
            let restored: Vec<_> = report.restored.iter().map(|(id, _)| id.0).collect();
            let is_asked = is_own && commit >= 3;
            assert_eq!(restored, if is_asked { vec![7] } else { vec![] }, "{commit} {is_own}");
        }
    }
}

#[test]
fn an_interrupted_repair_keeps_the_log_closed_and_can_be_done_again() {
    let (disk, frames) = closed_log();
    reindex(&disk, data(), Some(BUS)).unwrap();
    let before = Before::of(&disk);
    let frames: Vec<_> = frames.iter().map(|frames| frames[1]).collect();
    for number in [1, 3] {
        let at = frames[number as usize - 1];
        disk.damage(&segment_path(number), |bytes| bytes[at..at + 200].fill(0));
    }
    let original = disk.bytes(&segment_path(1)).unwrap();
    let trial = disk.crash(Crash::KeepsAll);
    let from = trial.operations();
    repaired(&trial);
    let operations = trial.operations() - from;
    for operation in 1..=operations {
        for seed in 0..3 {
            let case = format!("operation {operation} of {operations}, seed {seed}");
            let tried = disk.crash(Crash::KeepsAll);
            tried.inject(Fault::PowerOffAt(tried.operations() + operation));
            repair(&tried, data(), Some(BUS), RepairMode::Perform).unwrap_err();
            tried.heal();
            let tried = tried.crash(Crash::Random(seed));
            before.check_all(&tried, &case);
            let kept = tried.list(Path::new("/data/buses/main/log")).unwrap();
            let mut kept = kept.iter().filter(|name| name.starts_with("0000000001-"));
            let is_kept = |name: &String| {
                let path = Path::new("/data/buses/main/log").join(name);
                tried.bytes(&path).unwrap() == original
            };
            assert!(kept.any(is_kept), "{case}");
        }
    }
}

#[test]
fn without_leave_nothing_is_changed() {
    let (disk, _) = closed_log();
    disk.damage(&segment_path(2), |bytes| bytes[200] ^= 1);
    let from = disk.operations();
    let report = repair(&disk, data(), Some(BUS), RepairMode::DryRun).unwrap();
    assert!(!report.is_done() && report.to_string().contains("--yes"), "{report}");
    assert_eq!(disk.operations(), from);
    assert!(disk.bytes(&index_path(1)).is_none());
}
