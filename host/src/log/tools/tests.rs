use std::path::{Path, PathBuf};

use super::sample::{
    BUS, LOG_ID, Writer, closed_log, data, event, index_path, ingest, put, segment_path,
};
use super::*;
use crate::event::{KeyHash, KeySequence, Position};
use crate::log::disk::sim::SimDisk;
use crate::log::disk::{Disk, publish_file};
use crate::log::heads::{Head, Heads};
use crate::log::index::{HeadsFile, HeadsMark};

/// [`closed_log`] with its index files.
fn indexed_log() -> (SimDisk, Vec<Vec<usize>>) {
    let (disk, frames) = closed_log();
    let report = reindex(&disk, data(), Some(BUS)).unwrap();
    assert!(report.is_sound());
    assert_eq!((report.buses[0].written, report.buses[0].open), (3, 0));
    (disk, frames)
}

fn verified(disk: &SimDisk) -> BusVerified {
    let mut report = verify(disk, data(), Some(BUS)).unwrap();
    assert_eq!(report.is_sound(), report.buses[0].damages.is_empty());
    report.buses.remove(0)
}

/// Where a finding says the damage is.
fn found(report: &BusVerified) -> Vec<(PathBuf, u64, Option<u64>)> {
    let damages = report.damages.iter();
    damages.map(|damage| (damage.file.clone(), damage.offset, damage.bytes)).collect()
}

#[test]
fn a_closed_log_is_sound() {
    let (disk, _) = indexed_log();
    let report = verified(&disk);
    assert_eq!(report.damages, []);
    assert_eq!((report.segments, report.frames, report.commits, report.events), (3, 9, 12, 15));
    assert_eq!((report.end, report.indexes_missing), (LogEnd::Sealed, 0));
    assert!(report.to_string().contains("ends with a seal at commit 12"), "{report}");
}

#[test]
fn every_flipped_byte_of_a_segment_is_named() {
    let (disk, frames) = indexed_log();
    for number in 1..=3 {
        let path = segment_path(number);
        let len = disk.bytes(&path).unwrap().len();
        for at in 0..len {
            disk.damage(&path, |bytes| bytes[at] ^= 0x04);
            let report = verified(&disk);
            disk.damage(&path, |bytes| bytes[at] ^= 0x04);
            let first = report.damages.first();
            let first = first.unwrap_or_else(|| panic!("segment {number} byte {at}"));
            assert_eq!(first.file, path, "byte {at}: {first}");
            let from = frames[number as usize - 1].iter().rfind(|start| **start <= at).unwrap();
            let end = first.bytes.map_or(len as u64, |bytes| first.offset + bytes);
            let names_it = (*from as u64..=at as u64).contains(&first.offset) && end > at as u64;
            assert!(names_it, "segment {number} byte {at}: {first}");
        }
    }
}

#[test]
fn every_flipped_byte_of_an_index_is_named() {
    let (disk, _) = indexed_log();
    let path = index_path(2);
    for at in (0..disk.bytes(&path).unwrap().len()).step_by(7) {
        disk.damage(&path, |bytes| bytes[at] ^= 0x80);
        let report = verified(&disk);
        disk.damage(&path, |bytes| bytes[at] ^= 0x80);
        let [damage] = &report.damages[..] else { panic!("byte {at}: {report}") };
        assert_eq!((damage.kind, &damage.file), (DamageKind::Index, &path));
        assert_eq!(damage.offset, at as u64 / 4096 * 4096, "byte {at}");
    }
}

#[test]
fn damaged_data_is_narrowed_to_its_event() {
    let (disk, _) = closed_log();
    let path = segment_path(2);
    let bytes = disk.bytes(&path).unwrap();
    let at = bytes.windows(8).position(|window| window == b"{\"n\":12}").unwrap();
    disk.damage(&path, |bytes| bytes[at + 5] = b'9');
    let report = verified(&disk);
    let [damage] = &report.damages[..] else { panic!("{report}") };
    assert_eq!(found(&report), [(path, at as u64, Some(8))]);
    assert_eq!(damage.positions, Some(Span { first: 8, last: Some(8) }));
    assert_eq!(damage.commits, Some(Span { first: 6, last: Some(6) }));
}

#[test]
fn a_zeroed_stretch_is_named_with_the_commits_it_held() {
    let (disk, frames) = closed_log();
    let (from, to) = (frames[1][1], frames[1][2]);
    disk.damage(&segment_path(2), |bytes| bytes[from..to].fill(0));
    let report = verified(&disk);
    let damage = &report.damages[0];
    assert_eq!(found(&report)[0], (segment_path(2), from as u64, Some((to - from) as u64)));
    assert_eq!(damage.commits, Some(Span { first: 6, last: Some(6) }));
    assert_eq!(damage.positions, Some(Span { first: 6, last: Some(8) }));
    assert_eq!(report.damages.len(), 1, "{report}");
}

#[test]
fn a_cut_in_the_middle_of_the_log_is_damage() {
    let (disk, frames) = closed_log();
    let cut = frames[1][2] + 40;
    disk.damage(&segment_path(2), |bytes| bytes.truncate(cut));
    let report = verified(&disk);
    assert_eq!(found(&report)[0], (segment_path(2), frames[1][2] as u64, Some(40)));
    assert_eq!(report.damages[0].kind, DamageKind::Cut);
}

#[test]
fn a_cut_end_is_a_torn_tail_unless_an_index_knows_better() {
    let (disk, frames) = closed_log();
    let cut = frames[2][2] + 40;
    let cut_off = |bytes: &mut Vec<u8>, cut| {
        bytes.truncate(cut);
        bytes.resize(8192, 0);
    };
    disk.damage(&segment_path(3), |bytes| cut_off(bytes, cut));
    let report = verified(&disk);
    assert_eq!(report.damages, []);
    let offset = frames[2][2] as u64;
    assert_eq!(report.end, LogEnd::Torn { offset, bytes: 8192 - offset });

    let (disk, _) = indexed_log();
    for cut in [frames[2][3], cut, frames[2][2]] {
        disk.damage(&segment_path(3), |bytes| cut_off(bytes, cut));
        let report = verified(&disk);
        let [damage] = &report.damages[..] else { panic!("{report}") };
        assert_eq!((damage.kind, &damage.file), (DamageKind::NotSealed, &segment_path(3)));
        let lost = (cut < frames[2][3]).then_some(Span { first: 11, last: Some(12) });
        assert_eq!(damage.commits, lost);
    }
}

#[test]
fn an_unsealed_segment_with_zeros_behind_it_is_how_a_killed_host_leaves_it() {
    let (disk, frames) = closed_log();
    let end = frames[2][3];
    disk.damage(&segment_path(3), |bytes| {
        bytes.truncate(end);
        bytes.resize(102_400, 0);
    });
    let report = verified(&disk);
    assert_eq!((report.damages.len(), report.end, report.commits), (0, LogEnd::Open, 12));
    disk.damage(&segment_path(3), |bytes| bytes[end + 50_000] = 1);
    let torn = LogEnd::Torn { offset: end as u64, bytes: 102_400 - end as u64 };
    assert_eq!(verified(&disk).end, torn);
}

#[test]
fn a_segment_claimed_ahead_is_no_part_of_the_log() {
    let (disk, frames) = closed_log();
    put(&disk, &segment_path(4), &[0; 49_152]);
    let report = verified(&disk);
    assert_eq!((report.damages.len(), report.end), (0, LogEnd::Sealed));
    disk.damage(&segment_path(3), |bytes| {
        bytes.truncate(frames[2][3]);
        bytes.resize(8192, 0);
    });
    let report = verified(&disk);
    assert_eq!((report.damages.len(), report.end), (0, LogEnd::Open));
}

#[test]
fn a_zeroed_last_segment_is_damage_where_an_index_knows_it() {
    let (disk, _) = indexed_log();
    disk.damage(&segment_path(3), |bytes| {
        bytes.fill(0);
        bytes.resize(4096, 0);
    });
    let report = verified(&disk);
    let [damage] = &report.damages[..] else { panic!("{report}") };
    assert_eq!((&damage.file, damage.offset), (&segment_path(3), 0));
    assert_eq!(damage.commits, Some(Span { first: 9, last: Some(12) }));
}

#[test]
fn a_snapshot_of_heads_is_held_against_the_log() {
    let (disk, mut writer) = (SimDisk::new(), Writer::new());
    writer.frame(&[ingest(&[event(1, Some("a")), event(2, Some("a"))])], &[&["a", "a"]]);
    put(&disk, &segment_path(1), &writer.seal(true).0);
    let commit = crate::event::CommitNumber(1);
    let mark = HeadsMark { log_id: LOG_ID, commit, chain: writer.next.chain };
    let path = Path::new("/data/buses/main/index/heads");
    for (sequence, damages) in [(2, 0), (1, 1)] {
        let heads = Heads::new();
        let head = Head { sequence: KeySequence(sequence), position: Position(2) };
        heads.advance(KeyHash::of("a"), head);
        publish_file(&disk, path, &HeadsFile::encode(&mark, &heads)).unwrap();
        assert_eq!(verified(&disk).damages.len(), damages);
    }
    disk.damage(path, |bytes| bytes[100] ^= 1);
    assert_eq!(found(&verified(&disk))[0].0, path);
}

#[test]
fn a_repeated_frame_is_found() {
    let (disk, frames) = closed_log();
    let (from, to) = (frames[0][1], frames[0][2]);
    disk.damage(&segment_path(1), |bytes| {
        let frame = bytes[from..to].to_vec();
        bytes.splice(to..to, frame);
    });
    let report = verified(&disk);
    assert_eq!(report.damages[0].kind, DamageKind::Repeated);
    assert_eq!(found(&report)[0], (segment_path(1), to as u64, Some((to - from) as u64)));
    assert_eq!(report.damages[0].commits, Some(Span { first: 2, last: Some(2) }));
}

#[test]
fn a_missing_frame_is_found() {
    let (disk, frames) = closed_log();
    let (from, to) = (frames[0][1], frames[0][2]);
    disk.damage(&segment_path(1), |bytes| {
        bytes.drain(from..to);
    });
    let report = verified(&disk);
    assert_eq!(report.damages[0].kind, DamageKind::Gap);
    assert_eq!(report.damages[0].commits, Some(Span { first: 2, last: Some(2) }));
}

#[test]
fn swapped_segments_are_found() {
    let (disk, _) = closed_log();
    let [first, second] = [1, 2].map(|number| disk.bytes(&segment_path(number)).unwrap());
    disk.damage(&segment_path(1), |bytes| *bytes = second);
    disk.damage(&segment_path(2), |bytes| *bytes = first);
    let report = verified(&disk);
    let foreign = |damage: &&Damage| damage.kind == DamageKind::Foreign;
    let named: Vec<_> = report.damages.iter().filter(foreign).map(|d| d.file.clone()).collect();
    assert_eq!(named, [segment_path(1), segment_path(2)]);
    assert!(report.damages[0].what.contains("segment 2, not 1"), "{report}");
}

#[test]
fn a_swapped_last_segment_is_no_torn_tail() {
    let (disk, _) = closed_log();
    let second = disk.bytes(&segment_path(2)).unwrap();
    disk.damage(&segment_path(3), |bytes| *bytes = second);
    let report = verified(&disk);
    assert_eq!(report.damages[0].kind, DamageKind::Foreign, "{report}");
}

#[test]
fn a_missing_segment_is_found() {
    let (disk, _) = closed_log();
    disk.remove(&segment_path(2)).unwrap();
    let report = verified(&disk);
    assert_eq!(report.damages[0].kind, DamageKind::MissingSegment);
    assert_eq!(report.damages[0].commits.unwrap().first, 5);
}

#[test]
fn bytes_behind_a_seal_are_found() {
    let (disk, _) = closed_log();
    let len = disk.bytes(&segment_path(2)).unwrap().len();
    disk.damage(&segment_path(2), |bytes| bytes.resize(len + 64, 0));
    assert_eq!(verified(&disk).damages, []);
    disk.damage(&segment_path(2), |bytes| bytes[len + 63] = 1);
    let report = verified(&disk);
    assert_eq!(report.damages[0].kind, DamageKind::BehindSeal);
    assert_eq!(found(&report)[0], (segment_path(2), len as u64, Some(64)));
}

#[test]
fn an_index_that_says_something_else_is_found() {
    let (disk, _) = indexed_log();
    let (other, mut writer) = (SimDisk::new(), Writer::new());
    writer.frame(&[ingest(&[event(1, Some("z"))])], &[&["z"]]);
    put(&other, &segment_path(1), &writer.seal(false).0);
    reindex(&other, data(), Some(BUS)).unwrap();
    let wrong = other.bytes(&index_path(1)).unwrap();
    disk.damage(&index_path(1), |bytes| *bytes = wrong);
    let report = verified(&disk);
    let [damage] = &report.damages[..] else { panic!("{report}") };
    assert_eq!((damage.kind, &damage.file), (DamageKind::Index, &index_path(1)));
    assert!(reindex(&disk, data(), Some(BUS)).unwrap().is_sound());
    assert_eq!(verified(&disk).damages, []);
}

#[test]
fn a_damaged_segment_is_not_indexed() {
    let (disk, frames) = closed_log();
    disk.damage(&segment_path(2), |bytes| bytes[frames[1][1] + 200] ^= 1);
    let report = reindex(&disk, data(), Some(BUS)).unwrap();
    let bus = &report.buses[0];
    assert_eq!((bus.written, bus.skipped, bus.damages.len()), (2, 1, 1));
    assert!(!report.is_sound());
}

#[test]
fn stat_counts_what_is_there() {
    let (disk, _) = closed_log();
    let report = stat(&disk, data(), Some(BUS)).unwrap();
    let bus = &report.buses[0];
    assert_eq!((bus.events, bus.emitted_events, bus.private_events, bus.keys), (15, 3, 0, 2));
    assert_eq!((bus.commit_range, bus.position_range), (Some((1, 12)), Some((1, 15))));
    assert_eq!(bus.completions.get("ok"), Some(&3));
    assert_eq!((bus.records.get("state"), bus.records.get("control")), (Some(&3), Some(&3)));
    assert_eq!(bus.types["order.created"].events, 15);
    assert!(report.is_sound() && report.to_string().contains("15 (0 private, 3 emitted), 2 keys"));
}

#[test]
fn dump_writes_one_object_a_record() {
    let (disk, _) = closed_log();
    let mut out = Vec::new();
    let report = dump(&disk, data(), Some(BUS), DumpRange::default(), &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // Three times: control, 3 events, completion, state, emitted event, event, seal.
    assert_eq!((lines.len(), report.records), (27, 27));
    assert_eq!(lines[1]["record"], "event");
    assert_eq!(lines[1]["data"], "{\"n\":0}");
    assert_eq!((&lines[1]["key"], &lines[1]["sequence"]), (&"a".into(), &1.into()));
    let range = DumpRange { first_commit: 2, last_commit: 2 };
    let mut some = Vec::new();
    assert_eq!(dump(&disk, data(), Some(BUS), range, &mut some).unwrap().records, 3);
}

#[test]
fn a_log_in_use_is_refused_and_a_directory_without_one_too() {
    let (disk, _) = closed_log();
    let guard = disk.lock(Path::new("/data/buses/main/log")).unwrap();
    assert!(matches!(verify(&disk, data(), Some(BUS)), Err(ToolError::Locked { .. })));
    drop(guard);
    assert!(verify(&disk, data(), Some(BUS)).is_ok());
    let none = verify(&disk, Path::new("/nothing"), Some(BUS));
    assert!(matches!(none, Err(ToolError::NoLog { .. })), "{none:?}");
}
