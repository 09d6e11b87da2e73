use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

use super::super::{EventToIndex, IndexedAddressee, SegmentBase, SegmentSeal};
use super::*;
use crate::event::{Key, KeySequence, NewEvent};
use crate::log::codec::{Encoded, Header, Salt, kind};
use crate::log::dedup::IdHasher;
use crate::log::disk::sim::SimDisk;
use crate::log::disk::{Disk, OsDisk};
use crate::log::frame::FrameBuilder;

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

fn with_files<const N: usize>(sealed: [IndexFile; N], open: SegmentIndexBuilder) -> LogIndex {
    let sealed = sealed.into_iter().map(Ok::<_, Infallible>);
    LogIndex::new(Arc::new(SimDisk::new()), 8, sealed, open).unwrap()
}

/// Two sealed segments, one whose file is not there yet, an open one.
fn log() -> LogIndex {
    let index = with_files([file(&segment(0)), file(&segment(1))], segment(2));
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
            let file = index.with_memory(number, file).unwrap().unwrap();
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
fn of_many_index_files_few_are_open_and_each_is_found() {
    const OPEN_MAX: usize = 8;
    let folder = tempfile::tempdir().unwrap();
    let count = || {
        let links = std::fs::read_dir("/proc/self/fd").unwrap();
        let files = links.filter_map(|link| std::fs::read_link(link.ok()?.path()).ok());
        files.filter(|file| file.starts_with(folder.path())).count()
    };
    let publish = |number: u32| {
        let bytes = segment(number).encode(SegmentSeal::default()).unwrap();
        let path = folder.path().join(number.to_string());
        std::fs::write(&path, bytes).unwrap();
        IndexFile::open(&OsDisk, &path, &LOG_ID, number).map(Option::unwrap)
    };
    let index = LogIndex::new(Arc::new(OsDisk), OPEN_MAX, (0..50).map(publish), segment(50));
    let index = index.unwrap();
    for _ in 0..2 {
        assert_eq!(count(), OPEN_MAX);
        assert_eq!(positions(&index, 0, 500, 1000).len(), 250);
        let place = index.frame_of_position(Position(77)).unwrap().unwrap();
        assert_eq!((place.segment, place.mark.first_position), (7, Position(77)));
    }
    index.begin(segment(51));
    index.sealed(publish(50).unwrap());
    assert_eq!(count(), OPEN_MAX);
    assert_eq!(positions(&index, 0, 520, 1000).len(), 260);
    std::fs::remove_file(folder.path().join("3")).unwrap();
    assert!(matches!(index.frame_of_position(Position(35)), Err(IndexError::Io { .. })));
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
    index.refill_dedup(&dedup, 40_000, || true).unwrap();
    assert_eq!((dedup.len(), dedup.window(40_000).ms), (40, 100_000));
    assert_eq!(dedup.lookup(id(17)), [Position(17)]);
}

#[test]
fn a_refill_keeps_to_the_window_and_the_count() {
    let index = log();
    let by_time = Dedup::new(12_000, 1000);
    index.refill_dedup(&by_time, 40_000, || true).unwrap();
    assert!(by_time.lookup(id(28)).len() == 1 && by_time.lookup(id(26)).is_empty());
    for count in [9, 10, 11] {
        let by_count = Dedup::new(100_000, count);
        index.refill_dedup(&by_count, 40_000, || true).unwrap();
        assert_eq!(by_count.len(), count);
        let reach_ms = by_count.window(40_000).ms;
        assert!(reach_ms < count as u64 * 1000, "{reach_ms}");
    }
}

/// A frame of one commit: an event of a key, or one whose body makes no sense.
fn frame(position: u64, key: Option<&str>) -> Arc<Frame> {
    let mut commit = Encoded::default();
    match key {
        Some(key) => {
            let (key, id) = (Some(Key::new(key).unwrap()), position.to_string().into());
            let event = NewEvent { id, key, source: "shop".into(), ..NewEvent::default() };
            commit.event(&event).unwrap();
        }
        None => commit.foreign(kind::EVENT, 0, b"\xc1"),
    }
    commit.finish().unwrap();
    let mut builder = FrameBuilder::default();
    builder.push(&commit, std::iter::once(KeySequence(position)));
    let header = Header {
        log_id: LOG_ID,
        segment: 1,
        first_commit: position,
        first_position: position,
        ..Header::default()
    };
    Arc::new(builder.build(header, Salt::new(LOG_ID, 1)))
}

fn empty() -> LogIndex {
    let base = SegmentBase {
        log_id: LOG_ID,
        segment: 1,
        first_commit: CommitNumber(1),
        first_position: Position(1),
        first_ms: 0,
    };
    with_files([], SegmentIndexBuilder::new(base))
}

#[test]
fn who_asks_finds_what_was_handed_over_before() {
    let index = empty();
    for position in 1..=2000 {
        let key = if position % 2 == 0 { "a" } else { "b" };
        index.add(frame(position, Some(key)), position * 1000).unwrap();
        let place = index.frame_of_position(Position(position)).unwrap().unwrap();
        assert!(place.mark.first_position.0 + 20 > position);
        if position % 500 == 0 {
            let until = Position(u64::MAX);
            assert_eq!(positions(&index, 0, u64::MAX, 9999).len() as u64, position / 2);
            let found = index.key_entries(KeyHash::of("b"), Position(0), until, 9999).unwrap();
            assert_eq!(found.last().unwrap().position, Position(position - 1));
        }
    }
    index.begin(segment(7));
    assert_eq!(positions(&index, 1990, 2000, 99), [1992, 1994, 1996, 1998, 2000]);
    let sealed = index.with_memory(1, file).unwrap().unwrap();
    index.sealed(sealed);
    assert_eq!(positions(&index, 1990, 2000, 99), [1992, 1994, 1996, 1998, 2000]);
}

#[test]
fn what_waits_is_bounded_and_a_thread_is_asked_for_before() {
    let index = empty();
    let at = |position: usize| frame(position as u64, Some("a"));
    let bytes = at(1).bytes().len();
    let (mut position, mut wanted) = (0_usize, 0);
    while wanted < 3 * INDEX_BEHIND_BYTES_MAX / bytes {
        position += 1;
        wanted += usize::from(index.add(at(position), 1000 * position as u64).unwrap());
        let Some(Part::Memory(open)) = index.parts.load_full().last().cloned() else { panic!() };
        assert!(open.behind_bytes() <= INDEX_BEHIND_BYTES_MAX);
    }
    assert!(position - wanted >= INDEX_BEHIND_BYTES / bytes);
    index.follow().unwrap();
    assert!(!index.add(at(position + 1), 0).unwrap());
}

/// Encoding a large segment takes a while.
#[test]
fn while_a_sealed_segment_is_encoded_the_next_one_is_followed() {
    let index = Arc::new(empty());
    index.add(frame(1, Some("a")), 1000).unwrap();
    index.follow().unwrap();
    index.begin(segment(7));
    let followed = index.with_memory(1, |_| {
        let (done, is_done) = std::sync::mpsc::sync_channel(1);
        let other = Arc::clone(&index);
        std::thread::spawn(move || done.send(other.follow().is_ok()));
        is_done.recv_timeout(Duration::from_secs(10))
    });
    assert_eq!(followed.unwrap().unwrap(), Ok(true));
}

#[test]
fn a_frame_that_cannot_be_indexed_is_named_and_nothing_after_it_is_found() {
    let index = empty();
    index.add(frame(1, Some("a")), 0).unwrap();
    index.add(frame(2, None), 1000).unwrap();
    index.add(frame(3, Some("a")), 2000).unwrap();
    for _ in 0..2 {
        let error = index.follow().unwrap_err();
        assert!(matches!(error, IndexError::Frame { commit: CommitNumber(2), .. }), "{error}");
        let asked = index.key_entries(KeyHash::of("a"), Position(0), Position(9), 9);
        assert!(matches!(asked, Err(IndexError::Frame { segment: 1, .. })));
    }
    assert!(index.with_memory(1, |_| ()).unwrap().is_err());
}
