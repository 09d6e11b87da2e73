use std::path::Path;

use super::super::{EventToIndex, IndexedAddressee, SegmentBase, SegmentSeal};
use super::*;
use crate::event::KeySequence;
use crate::log::dedup::IdHasher;
use crate::log::disk::Disk;
use crate::log::disk::sim::SimDisk;

const LOG_ID: [u8; 16] = [9; 16];

fn id(position: u64) -> crate::log::dedup::IdHash {
    IdHasher::new(&LOG_ID).of("shop", &position.to_string())
}

/// Segment `n` has the positions 10n+1..=10n+10, one a commit and a second, keys a and b in turn.
fn segment(number: u32) -> SegmentIndexBuilder {
    let before = u64::from(number) * 10;
    let mut builder = SegmentIndexBuilder::new(SegmentBase {
        log_id: LOG_ID,
        segment: number,
        first_commit: CommitNumber(before + 1),
        first_position: Position(before + 1),
        first_ms: before * 1000,
    });
    for position in before + 1..=before + 10 {
        let (commit, first_position) = (CommitNumber(position), Position(position));
        let offset = (position - before) * 20_000;
        let time_ms = position * 1000;
        let mark = FrameMark { offset, first_commit: commit, first_position, time_ms };
        builder.frame(mark, commit);
        let event = EventToIndex {
            position: first_position,
            recorded_ms: time_ms,
            kind: "counted",
            key: Some(KeyHash::of(if position % 2 == 0 { "a" } else { "b" })),
            sequence: KeySequence(position.div_ceil(2)),
            addressee: IndexedAddressee::Public,
            emitter: None,
            id: Some(id(position)),
        };
        builder.event(&event).unwrap();
    }
    builder
}

fn file(builder: &SegmentIndexBuilder) -> IndexFile {
    let bytes = builder.encode(SegmentSeal::default()).unwrap();
    let (disk, path) = (SimDisk::new(), Path::new("x"));
    disk.create_new(path).unwrap().write_at(&bytes, 0).unwrap();
    let segment = builder.span().base.segment;
    IndexFile::open(&disk, path, &LOG_ID, segment).unwrap().unwrap()
}

/// Two sealed segments, one whose file is not there yet, an open one.
fn log() -> LogIndex {
    let index = LogIndex::new(vec![file(&segment(0)), file(&segment(1))], segment(2));
    index.begin(segment(3));
    index
}

fn positions(index: &LogIndex, after: u64, until: u64, limit: usize) -> Vec<u64> {
    let (after, until) = (Position(after), Position(until));
    let found = index.key_entries(KeyHash::of("a"), after, until, limit).unwrap();
    found.iter().map(|entry| entry.position.0).collect()
}

#[test]
fn a_lookup_goes_across_segments_and_sealing_changes_no_answer() {
    let index = log();
    for sealed in [None, Some(2)] {
        if let Some(number) = sealed {
            let file = index.with_memory(number, file).unwrap();
            index.sealed(file);
            assert!(index.with_memory(number, |_| ()).is_none());
        }
        assert_eq!(positions(&index, 7, 24, 100), [8, 10, 12, 14, 16, 18, 20, 22, 24]);
        assert_eq!(positions(&index, 7, u64::MAX, 3), [8, 10, 12]);
        assert_eq!(positions(&index, 39, u64::MAX, 3), [40]);
        let all = index.type_positions("counted", Position(0), Position(99), 99).unwrap();
        assert_eq!(all, (1..=40).map(Position).collect::<Vec<_>>());
        let types = index.types().unwrap();
        assert_eq!((types.len(), types[0].count, types[0].last_ms), (1, 40, 40_000));
    }
}

#[test]
fn frames_are_found_by_position_commit_and_time() {
    let index = log();
    for position in 1..=40 {
        let place = index.frame_of_position(Position(position)).unwrap().unwrap();
        assert_eq!(place.mark.first_position, Position(position));
        assert_eq!(u64::from(place.segment), (position - 1) / 10);
        assert_eq!(index.frame_of_commit(CommitNumber(position)).unwrap(), Some(place));
        let later = index.frame_before_time(position * 1000 + 1).unwrap();
        assert_eq!(later, Some(place));
    }
    assert_eq!(index.frame_of_position(Position(0)).unwrap(), None);
    assert_eq!(index.frame_before_time(1000).unwrap(), None);
}

#[test]
fn heads_and_identities_are_refilled() {
    let index = log();
    let heads = Heads::new();
    index.refill_heads(&heads, CommitNumber(0)).unwrap();
    assert_eq!(heads.get(KeyHash::of("a")).unwrap().position, Position(40));
    assert_eq!(heads.get(KeyHash::of("b")).unwrap().sequence, KeySequence(20));

    let dedup = Dedup::new(100_000, 1000);
    index.refill_dedup(&dedup, 40_000).unwrap();
    assert_eq!((dedup.len(), dedup.window(40_000).ms), (40, 100_000));
    assert_eq!(dedup.lookup(id(17)), [Position(17)]);
}

#[test]
fn a_refill_keeps_to_the_window_and_the_count() {
    let index = log();
    let by_time = Dedup::new(12_000, 1000);
    index.refill_dedup(&by_time, 40_000).unwrap();
    assert!(by_time.lookup(id(28)).len() == 1 && by_time.lookup(id(26)).is_empty());
    for count in [9, 10, 11] {
        let by_count = Dedup::new(100_000, count);
        index.refill_dedup(&by_count, 40_000).unwrap();
        assert_eq!(by_count.len(), count);
        let reach_ms = by_count.window(40_000).ms;
        assert!(reach_ms < count as u64 * 1000, "{reach_ms}");
    }
}
