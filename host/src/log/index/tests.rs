use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::log::disk::Disk;
use crate::log::disk::sim::SimDisk;
use crate::log::heads::Head;

const LOG_ID: [u8; 16] = [9; 16];
const SEAL: SegmentSeal = SegmentSeal { bytes: 12_345, chain: [3; 32] };

fn base() -> SegmentBase {
    SegmentBase {
        log_id: LOG_ID,
        segment: 4,
        first_commit: CommitNumber(1000),
        first_position: Position(500),
        first_ms: 1_700_000_000_000,
    }
}

fn open_as(bytes: &[u8], log_id: [u8; 16], segment: u32) -> Result<IndexFile, IndexError> {
    let (disk, path) = (SimDisk::new(), Path::new("4.idx"));
    disk.create_new(path).unwrap().write_at(bytes, 0).unwrap();
    IndexFile::open(&disk, path, &log_id, segment).map(Option::unwrap)
}

fn open(bytes: &[u8]) -> Result<IndexFile, IndexError> {
    open_as(bytes, LOG_ID, 4)
}

fn sealed(builder: &SegmentIndexBuilder) -> IndexFile {
    open(&builder.encode(SEAL).unwrap()).unwrap()
}

fn event(position: u64, kind: &str, key: Option<&str>, sequence: u64) -> EventToIndex<'static> {
    EventToIndex {
        position: Position(position),
        recorded_ms: base().first_ms + position,
        kind: String::leak(kind.to_owned()),
        key: key.map(KeyHash::of),
        sequence: KeySequence(sequence),
        addressee: IndexedAddressee::Public,
        emitter: None,
        id: Some(IdHash(position * 7)),
    }
}

/// What one event of the generated segments looks like.
#[derive(Debug, Clone)]
struct Sample {
    key: Option<u8>,
    kind: u8,
    private: bool,
    emitter: Option<u32>,
    gap: u64,
    completes: Option<(u32, u8)>,
    new_frame: bool,
}

fn sample() -> impl Strategy<Value = Sample> {
    let (key, kind) = (proptest::option::weighted(0.8, 0..20_u8), 0..6_u8);
    let private = proptest::bool::weighted(0.2);
    let emitter = proptest::option::of(0..3_u32);
    let completes = proptest::option::of((0..3_u32, 0..20_u8));
    let fields = (key, kind, private, emitter, 1..4_u64, completes, any::<bool>());
    fields.prop_map(|(key, kind, private, emitter, gap, completes, new_frame)| Sample {
        key,
        kind,
        private,
        emitter,
        gap,
        completes,
        new_frame,
    })
}

/// A segment as plain lists, and the builder filled from it.
struct Model {
    builder: SegmentIndexBuilder,
    by_key: BTreeMap<u8, Vec<IndexEntry>>,
    by_type: BTreeMap<String, Vec<Position>>,
    completions: BTreeMap<(u32, u8), Vec<CompletionEntry>>,
    frames: Vec<FrameMark>,
    heads: BTreeMap<KeyHash, Head>,
    last: Position,
}

fn key_hash(key: u8) -> KeyHash {
    KeyHash::of(&format!("key-{key}"))
}

fn model(samples: &[Sample]) -> Model {
    let mut model = Model {
        builder: SegmentIndexBuilder::new(base()),
        by_key: BTreeMap::new(),
        by_type: BTreeMap::new(),
        completions: BTreeMap::new(),
        frames: Vec::new(),
        heads: BTreeMap::new(),
        last: Position(499),
    };
    let mut sequences: BTreeMap<u8, u64> = BTreeMap::new();
    let mut commit = base().first_commit;
    for (n, sample) in samples.iter().enumerate() {
        let position = Position(model.last.0 + sample.gap);
        if sample.new_frame || n == 0 {
            let mark = FrameMark {
                offset: 4096 + n as u64 * 9000,
                first_commit: commit,
                first_position: position,
                time_ms: base().first_ms + n as u64 * 10,
            };
            model.builder.frame(mark, commit);
            model.frames.push(mark);
        }
        model.add(sample, position, commit, &mut sequences);
        commit.0 += 1;
    }
    model
}

impl Model {
    fn add(
        &mut self,
        sample: &Sample,
        position: Position,
        commit: CommitNumber,
        sequences: &mut BTreeMap<u8, u64>,
    ) {
        let kind = format!("type.{}", sample.kind);
        let addressee = match sample.private {
            true => IndexedAddressee::Plugin(InstanceId(u32::from(sample.kind))),
            false => IndexedAddressee::Public,
        };
        let mut sequence = KeySequence(0);
        if let (Some(key), false) = (sample.key, sample.private) {
            let last = sequences.entry(key).or_default();
            *last += 1;
            sequence = KeySequence(*last);
            self.heads.insert(key_hash(key), Head { sequence, position });
        }
        let emitter = sample.emitter.map(InstanceId);
        let new = EventToIndex {
            key: sample.key.map(key_hash),
            sequence,
            addressee,
            emitter,
            ..event(position.0, &kind, None, 0)
        };
        self.builder.event(&new).unwrap();
        let entry =
            IndexEntry { position, sequence, kind: kind.as_str().into(), addressee, emitter };
        if let Some(key) = sample.key {
            self.by_key.entry(key).or_default().push(entry);
        }
        self.by_type.entry(kind).or_default().push(position);
        if let Some((instance, key)) = sample.completes {
            let generation = Generation(2);
            let completion = CompletionEntry { commit, position, generation };
            self.builder.completion(InstanceId(instance), key_hash(key), completion).unwrap();
            self.completions.entry((instance, key)).or_default().push(completion);
        }
        self.last = position;
    }
}

proptest! {
    #[test]
    fn open_and_sealed_index_answer_like_lists(
        samples in proptest::collection::vec(sample(), 0..300),
        after in 490..900_u64,
        span in 0..500_u64,
        limit in 0..40_usize,
    ) {
        let model = model(&samples);
        let file = sealed(&model.builder);
        let (after, until) = (Position(after), Position(after + span));
        let within = |position: Position| position > after && position <= until;
        for key in 0..20 {
            let all = model.by_key.get(&key).cloned().unwrap_or_default();
            let expected: Vec<_> = all.into_iter().filter(|e| within(e.position)).take(limit).collect();
            let hash = key_hash(key);
            prop_assert_eq!(&model.builder.key_entries(hash, after, until, limit), &expected);
            prop_assert_eq!(&file.key_entries(hash, after, until, limit).unwrap(), &expected);
        }
        for kind in 0..6 {
            let kind = format!("type.{kind}");
            let all = model.by_type.get(&kind).cloned().unwrap_or_default();
            let expected: Vec<_> = all.into_iter().filter(|p| within(*p)).take(limit).collect();
            prop_assert_eq!(&model.builder.type_positions(&kind, after, until, limit), &expected);
            prop_assert_eq!(&file.type_positions(&kind, after, until, limit).unwrap(), &expected);
        }
        let (from, to) = (CommitNumber(after.0 + 500), CommitNumber(until.0 + 500));
        for instance in 0..3 {
            for key in 0..20 {
                let all = model.completions.get(&(instance, key)).cloned().unwrap_or_default();
                let expected: Vec<_> = all.into_iter()
                    .filter(|e| e.commit > from && e.commit <= to).take(limit).collect();
                let (instance, hash) = (InstanceId(instance), key_hash(key));
                prop_assert_eq!(&model.builder.completions(instance, hash, from, to, limit), &expected);
                prop_assert_eq!(&file.completions(instance, hash, from, to, limit).unwrap(), &expected);
            }
        }
    }

    #[test]
    fn whole_lists_survive_sealing(samples in proptest::collection::vec(sample(), 0..300)) {
        let model = model(&samples);
        let file = sealed(&model.builder);
        let (mut open_heads, mut file_heads) = (BTreeMap::new(), BTreeMap::new());
        model.builder.for_each_head(|key, head| { open_heads.insert(key, head); });
        file.for_each_head(|key, head| { file_heads.insert(key, head); }).unwrap();
        prop_assert_eq!(&open_heads, &model.heads);
        prop_assert_eq!(&file_heads, &model.heads);

        let (mut open_ids, mut file_ids) = (Vec::new(), Vec::new());
        model.builder.for_each_id(0, |id| open_ids.push(id));
        file.for_each_id(0, |id| file_ids.push(id)).unwrap();
        for skip in [1, open_ids.len() as u64 / 2, open_ids.len() as u64 + 1] {
            let rest = open_ids.get(usize::try_from(skip).unwrap()..).unwrap_or_default();
            let (mut open_rest, mut file_rest) = (Vec::new(), Vec::new());
            model.builder.for_each_id(skip, |id| open_rest.push(id));
            file.for_each_id(skip, |id| file_rest.push(id)).unwrap();
            prop_assert_eq!((&open_rest[..], &file_rest[..]), (rest, rest));
        }
        prop_assert_eq!(open_ids.len(), samples.len());
        prop_assert_eq!(open_ids, file_ids);

        let mut open_types = model.builder.types();
        open_types.sort_by(|a, b| a.kind.cmp(&b.kind));
        prop_assert_eq!(&open_types, &file.types().unwrap());
        for (stat, (kind, positions)) in open_types.iter().zip(&model.by_type) {
            prop_assert_eq!(&*stat.kind, kind);
            prop_assert_eq!(stat.count + stat.private_count, positions.len() as u64);
            prop_assert_eq!(Some(&stat.last_position), positions.last());
        }
        let expected = SegmentSpan { seal: SEAL, ..model.builder.span() };
        prop_assert_eq!(file.span(), &expected);
        file.verify().unwrap();
    }

    #[test]
    fn a_mark_is_at_or_before_what_is_sought_and_not_far(
        samples in proptest::collection::vec(sample(), 1..200), sought in 0..200_usize,
    ) {
        let model = model(&samples);
        let file = sealed(&model.builder);
        let frame = model.frames[sought % model.frames.len()];
        let found = [
            (model.builder.frame_of_position(frame.first_position), file.frame_of_position(frame.first_position)),
            (model.builder.frame_of_commit(frame.first_commit), file.frame_of_commit(frame.first_commit)),
        ];
        for (open, file) in found {
            let mark = open.unwrap();
            prop_assert_eq!(Some(mark), file.unwrap());
            prop_assert!(mark.offset <= frame.offset && mark.offset + 16 * 1024 > frame.offset);
        }
        let before = model.builder.frame_before_time(frame.time_ms);
        prop_assert_eq!(before, file.frame_before_time(frame.time_ms).unwrap());
        prop_assert_eq!(before.is_none(), frame == model.frames[0]);
        prop_assert!(before.is_none_or(|mark| mark.time_ms < frame.time_ms));
    }
}

#[test]
fn an_id_never_seems_older_than_it_is() {
    let mut builder = SegmentIndexBuilder::new(base());
    let recorded_ms = base().first_ms + 1_001;
    builder.event(&EventToIndex { recorded_ms, ..event(500, "a", None, 0) }).unwrap();
    builder.for_each_id(0, |id| assert_eq!(id.time_ms, base().first_ms + 2_000));
}

#[test]
fn a_large_segment_is_searched_by_prefix() {
    let mut builder = SegmentIndexBuilder::new(base());
    for n in 0..20_000_u64 {
        let key = format!("key-{}", n % 9_000);
        builder.event(&event(500 + n, "a", Some(&key), 1 + n / 9_000)).unwrap();
    }
    let file = sealed(&builder);
    let all = Position(u64::MAX);
    for n in 0..9_000 {
        let key = KeyHash::of(&format!("key-{n}"));
        let found = file.key_entries(key, Position(0), all, 10).unwrap();
        assert_eq!(found, builder.key_entries(key, Position(0), all, 10));
        assert_eq!(found[0].position, Position(500 + n));
    }
    assert!(file.key_entries(KeyHash::of("absent"), Position(0), all, 10).unwrap().is_empty());
}

#[test]
fn every_flipped_byte_is_found() {
    let mut builder = SegmentIndexBuilder::new(base());
    let frame = FrameMark {
        offset: 4096,
        first_commit: base().first_commit,
        first_position: base().first_position,
        time_ms: base().first_ms,
    };
    builder.frame(frame, base().first_commit);
    for n in 0..120 {
        builder.event(&event(500 + n, "a", Some(&format!("k{n}")), 1)).unwrap();
    }
    let bytes = builder.encode(SEAL).unwrap();
    assert!(bytes.len() > 2 * 4096);
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        let found = open(&damaged).and_then(|file| file.verify());
        match found {
            Err(IndexError::Damaged { offset, .. }) => {
                assert_eq!(offset, at as u64 / 4096 * 4096, "byte {at}");
            }
            Err(IndexError::Version { .. }) => assert!((8..10).contains(&at)),
            other => panic!("byte {at}: {other:?}"),
        }
    }
    for cut in [1, 100, 4096, 5000] {
        let found = open(&bytes[..bytes.len() - cut]).and_then(|file| file.verify());
        assert!(matches!(found, Err(IndexError::Damaged { .. })), "cut {cut}: {found:?}");
    }
}

#[test]
fn the_index_of_another_segment_or_log_is_not_taken() {
    let bytes = SegmentIndexBuilder::new(base()).encode(SEAL).unwrap();
    for (log_id, segment) in [(LOG_ID, 5), ([8; 16], 4)] {
        let found = open_as(&bytes, log_id, segment);
        assert!(matches!(found, Err(IndexError::Damaged { offset: 0, .. })));
    }
}

#[test]
fn a_position_out_of_range_is_refused() {
    let mut builder = SegmentIndexBuilder::new(base());
    let too_far = builder.event(&event(500 + (1 << 32), "a", None, 0));
    assert!(matches!(too_far, Err(IndexError::OutOfRange { what: "position", .. })));
    let too_early = builder.event(&event(499, "a", None, 0));
    assert!(matches!(too_early, Err(IndexError::OutOfRange { .. })));
}
