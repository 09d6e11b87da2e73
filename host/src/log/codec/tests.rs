//! The codec: golden bytes, round trips, what a newer version may do, and hostile bytes.

mod samples;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::event::{CommitNumber, KeySequence, Position};
use crate::log::dedup::IdHasher;
use crate::log::frame::{Entry, Frame, FrameBuilder};
use crate::log::index::{SegmentBase, SegmentIndexBuilder, SegmentSeal};
use crate::log::record::{Completion, DeliveryCommit};
use samples::{base_header, delivery, event, small_event};

const SALT_SEGMENT: u32 = 3;

fn salt() -> Salt {
    Salt::new(*b"0123456789abcdef", SALT_SEGMENT)
}

fn frame(commits: &[Encoded]) -> Frame {
    let mut builder = FrameBuilder::default();
    let mut sequence = 40;
    for commit in commits {
        builder.push(
            commit,
            commit.events.iter().map(|_| {
                sequence += 1;
                KeySequence(sequence)
            }),
        );
    }
    builder.build(base_header(), salt())
}

fn encoded(fill: impl FnOnce(&mut Encoded)) -> Encoded {
    let mut commit = Encoded::default();
    fill(&mut commit);
    commit.finish().unwrap();
    commit
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .chunks(16)
        .map(|row| row.iter().map(|b| format!("{b:02x}")).collect::<String>() + "\n")
        .collect()
}

/// Whatever is in `bytes`, reading all of it must end, in a value or an error.
fn read_all(bytes: &Bytes) -> Result<usize, DecodeError> {
    let frame = Frame::open(bytes, salt())?;
    let mut records = 0;
    for commit in frame.commits() {
        let mut rest = commit?.records();
        while let Some(raw) = rest.next_raw() {
            let (raw, position) = raw?;
            if raw.kind == kind::COMPLETION {
                let _ = Ended::of(&raw);
            }
            rest.read(&raw, position)?;
            records += 1;
        }
    }
    frame.events()?;
    Ok(records)
}

fn reopened(frame: &Frame) -> Frame {
    Frame::open(frame.bytes(), salt()).unwrap()
}

fn delivery_back(frame: &Frame) -> DeliveryCommit {
    let mut back: Option<DeliveryCommit> = None;
    for record in frame.commits().next().unwrap().unwrap().records() {
        match (record.unwrap(), &mut back) {
            (RecordRef::Completion(completion), none) => {
                *none = Some(DeliveryCommit {
                    completion: completion.to_owned().unwrap(),
                    emits: Vec::new(),
                    state: Vec::new(),
                    timers: Vec::new(),
                    calls: Vec::new(),
                    dead_letter: None,
                    park: false,
                });
            }
            (RecordRef::Event(event), Some(back)) => {
                let data = Bytes::copy_from_slice(event.data);
                back.emits.push(event.to_event(data).unwrap().body);
            }
            (RecordRef::State(state), Some(back)) => back.state.push(state.to_owned()),
            (RecordRef::Timer(timer), Some(back)) => back.timers.push(timer.to_owned()),
            (RecordRef::Call(call), Some(back)) => back.calls.push(call.to_owned()),
            (RecordRef::DeadLetter(letter), Some(back)) => back.dead_letter = Some(letter),
            (other, _) => panic!("unexpected {other:?}"),
        }
    }
    back.unwrap()
}

#[test]
fn golden_event_frame() {
    let commit = encoded(|commit| commit.event(&small_event()).unwrap());
    assert_eq!(hex(frame(&[commit]).bytes()), include_str!("tests/event.hex"));
}

#[test]
fn golden_delivery_frame() {
    let commit = encoded(|commit| commit.delivery(&samples::golden_delivery()).unwrap());
    assert_eq!(hex(frame(&[commit]).bytes()), include_str!("tests/delivery.hex"));
}

#[test]
fn golden_control_records_and_seal() {
    let mut text = String::new();
    for record in samples::controls() {
        let commit = encoded(|commit| commit.control(&record).unwrap());
        text += &hex(&commit.metadata);
        text.push('\n');
    }
    let seal = encoded(|commit| commit.seal(&samples::seal()).unwrap());
    text += &hex(&seal.metadata);
    assert_eq!(text, include_str!("tests/control.hex"));
}

#[test]
fn every_control_record_comes_back() {
    for record in samples::controls() {
        let frame = reopened(&frame(&[encoded(|commit| commit.control(&record).unwrap())]));
        let back = frame.commits().next().unwrap().unwrap().records().next().unwrap().unwrap();
        let RecordRef::Control(back) = back else { panic!("{back:?}") };
        assert_eq!(back, record);
    }
}

#[test]
fn seal_comes_back_and_takes_no_commit_number() {
    let mut builder = FrameBuilder::default();
    builder.push(&encoded(|commit| commit.seal(&samples::seal()).unwrap()), std::iter::empty());
    let header = Header { flags: FLAG_SEAL, ..base_header() };
    let frame = reopened(&builder.build(header, salt()));
    assert_eq!(frame.header().commit_count, 0);
    let back = frame.commits().next().unwrap().unwrap().records().next().unwrap().unwrap();
    assert!(matches!(back, RecordRef::Seal(seal) if seal == samples::seal()));
}

#[test]
fn a_frame_is_the_same_wherever_it_was_put_together() {
    let commits: Vec<_> =
        (0..3).map(|_| encoded(|commit| commit.event(&small_event()).unwrap())).collect();
    let expected = frame(&commits);
    let metadata: usize = commits.iter().map(|commit| commit.metadata.len()).sum();
    let payload: usize = commits.iter().map(|commit| commit.payload.len()).sum();
    for offset in [0, 64, 4096 * 7 + 4032] {
        // As much as announced, and less; so little that it is copied, and so much that it is not.
        for (metadata, payload) in [
            (metadata, payload),
            (metadata + 70, payload),
            (metadata, payload + (4 << 20)),
            (metadata + 70, payload + (4 << 20)),
        ] {
            let mut builder = FrameBuilder::default();
            builder.begin(offset, metadata, payload);
            for (commit, sequence) in commits.iter().zip(41..) {
                builder.push(commit, std::iter::once(KeySequence(sequence)));
            }
            assert_eq!(builder.frame_bytes(), expected.bytes().len());
            assert_eq!(builder.build(base_header(), salt()).bytes(), expected.bytes());
        }
    }
}

#[test]
fn a_mended_frame_says_what_the_next_is_chained_to() {
    let mut builder = FrameBuilder::default();
    let mut commit = encoded(|commit| commit.event(&small_event()).unwrap());
    commit.chain([9; 32]).unwrap();
    commit.finish().unwrap();
    builder.push(&commit, std::iter::once(KeySequence(1)));
    let header = Header { flags: FLAG_MENDED, ..base_header() };
    let frame = reopened(&builder.build(header, salt()));
    assert_eq!(frame.chain(), [9; 32]);
    assert_eq!((frame.header().commit_count, frame.events().unwrap().len()), (1, 1));
    let mut records = frame.commits().next().unwrap().unwrap().records();
    assert!(matches!(records.nth(1), Some(Ok(RecordRef::Unknown { kind: kind::CHAIN }))));
}

#[test]
fn numbers_are_given_in_order() {
    let one = encoded(|commit| commit.event(&small_event()).unwrap());
    let two = encoded(|commit| {
        commit.event(&small_event()).unwrap();
        commit.event(&small_event()).unwrap();
    });
    let frame = reopened(&frame(&[one, two]));
    let events = frame.events().unwrap();
    let numbers: Vec<_> = events.iter().map(|e| (e.commit.0, e.position.0, e.sequence.0)).collect();
    assert_eq!(numbers, [(10, 100, 41), (11, 101, 42), (11, 102, 43)]);
    assert_eq!(frame.last_commit(), CommitNumber(11));
    assert_eq!(frame.last_position(), Some(Position(102)));
}

#[test]
fn longer_arrays_of_a_newer_version_decode() {
    let commit = encoded(|commit| commit.event(&small_event()).unwrap());
    let prefix = encode_prefix_bytes(&commit);
    let mut body = commit.metadata[prefix..].to_vec();
    assert_eq!(body[0], 0x98, "an array of 8");
    body[0] = 0x9a;
    // Two more fields: a map with an array in it, and a text.
    body.extend_from_slice(&[0x81, 0xa1, b'x', 0x92, 1, 0xc0, 0xa2, b'h', b'i']);
    let mut longer = commit.clone();
    longer.metadata.truncate(prefix);
    longer.metadata.extend_from_slice(&body);
    let length = u32::try_from(body.len()).unwrap();
    longer.metadata[4..8].copy_from_slice(&length.to_le_bytes());
    let frame = reopened(&frame(&[longer]));
    assert_eq!(frame.events().unwrap()[0].body, small_event());
}

fn encode_prefix_bytes(commit: &Encoded) -> usize {
    super::encode::prefix_bytes(commit.metadata[1])
}

#[test]
fn shorter_arrays_of_an_older_version_decode() {
    let mut commit = encoded(|commit| commit.event(&small_event()).unwrap());
    let prefix = encode_prefix_bytes(&commit);
    // Only id, source and type.
    commit.metadata.truncate(prefix);
    commit.metadata.extend_from_slice(&[0x93, 0xa1, b'i', 0xa1, b's', 0xa1, b't']);
    commit.metadata[4..8].copy_from_slice(&7_u32.to_le_bytes());
    let back = reopened(&frame(&[commit]));
    // The prefix has a key hash and the body no key: that is a contradiction, and named.
    assert_eq!(back.events(), Err(DecodeError::Field { kind: kind::EVENT, field: "key hash" }));
}

#[test]
fn unknown_record_is_passed_over_only_if_it_says_so() {
    let skippable = encoded(|commit| {
        commit.foreign(77, flag::SKIPPABLE, b"whatever");
        commit.event(&small_event()).unwrap();
    });
    let skipped = reopened(&frame(&[skippable]));
    let kinds: Vec<_> = skipped.commits().next().unwrap().unwrap().records().collect();
    assert!(matches!(kinds[0], Ok(RecordRef::Unknown { kind: 77 })));
    assert_eq!(skipped.events().unwrap().len(), 1);

    let critical = encoded(|commit| commit.foreign(77, 0, b"whatever"));
    let refused = reopened(&frame(&[critical]));
    let record = refused.commits().next().unwrap().unwrap().records().next().unwrap();
    assert_eq!(record.unwrap_err(), DecodeError::Kind { kind: 77 });
}

#[test]
fn reserved_fields_of_the_commit_come_back() {
    let commit = encoded(|commit| {
        commit.commit_meta(CommitMeta { tenant: Some("acme"), region: None }).unwrap();
        commit.event(&small_event()).unwrap();
    });
    let frame = reopened(&frame(&[commit]));
    let first = frame.commits().next().unwrap().unwrap().records().next().unwrap().unwrap();
    assert!(matches!(first, RecordRef::Commit(CommitMeta { tenant: Some("acme"), region: None })));
}

#[test]
fn frame_of_another_log_or_segment_is_foreign() {
    let frame = frame(&[encoded(|commit| commit.event(&small_event()).unwrap())]);
    for salt in [Salt::new([9; 16], SALT_SEGMENT), Salt::new(*b"0123456789abcdef", 4)] {
        let error = Frame::open(frame.bytes(), salt).unwrap_err();
        assert_eq!(error, DecodeError::Foreign { segment: SALT_SEGMENT });
    }
}

#[test]
fn newer_format_is_refused_with_both_versions() {
    let frame = frame(&[encoded(|commit| commit.event(&small_event()).unwrap())]);
    let mut bytes = frame.bytes().to_vec();
    bytes[4] = 2;
    let seed = crc32c::crc32c_append(crc32c::crc32c(b"0123456789abcdef"), &3_u32.to_le_bytes());
    let crc = crc32c::crc32c_append(seed, &bytes[..124]);
    bytes[124..128].copy_from_slice(&crc.to_le_bytes());
    let error = Frame::open(&bytes.into(), salt()).unwrap_err();
    assert_eq!(error, DecodeError::Version { found: 2, supported: 1 });
}

#[test]
fn every_flipped_bit_of_a_frame_is_found() {
    let frame = frame(&[encoded(|commit| commit.event(&small_event()).unwrap())]);
    for at in 0..frame.bytes().len() {
        for bit in 0..8 {
            let mut bytes = frame.bytes().to_vec();
            bytes[at] ^= 1 << bit;
            assert!(read_all(&bytes.into()).is_err(), "byte {at}, bit {bit}");
        }
    }
}

proptest! {
    #[test]
    fn any_event_comes_back(event in event()) {
        let frame = reopened(&frame(&[encoded(|commit| commit.event(&event).unwrap())]));
        prop_assert_eq!(&frame.events().unwrap()[0].body, &event);
        let sequenced = event.key.is_some() && event.addressee.is_none();
        prop_assert_eq!(frame.events().unwrap()[0].sequence.0, if sequenced { 41 } else { 0 });
    }

    #[test]
    fn headings_say_what_the_events_do(
        events in prop::collection::vec(event(), 1..6),
        delivery in delivery(),
        wanted in any::<[bool; 6]>(),
    ) {
        let mut commits: Vec<_> =
            events.iter().map(|event| encoded(|commit| commit.event(event).unwrap())).collect();
        commits.insert(1, encoded(|commit| commit.delivery(&delivery).unwrap()));
        let frame = reopened(&frame(&commits));
        let all = frame.events().unwrap();
        let headings: Vec<_> = frame.headings().unwrap().collect();
        prop_assert_eq!(headings, all.iter().map(|event| event.heading()).collect::<Vec<_>>());
        let is_wanted = |at: Position| {
            usize::try_from(at.0).is_ok_and(|at| wanted[at % wanted.len()])
        };
        let selected = frame.select(|heading| is_wanted(heading.position)).unwrap();
        let kept = all.into_iter().filter(|event| is_wanted(event.position));
        prop_assert_eq!(selected, kept.collect::<Vec<_>>());
    }

    /// Of a frame that was just written nothing is read for that: it is what the encoders noted.
    #[test]
    fn what_encoders_note_is_what_reading_finds(
        events in prop::collection::vec(event(), 1..6),
        deliveries in prop::collection::vec(delivery(), 0..3),
    ) {
        let hasher = IdHasher::new(b"0123456789abcdef");
        let mut builder = FrameBuilder::default();
        for delivery in &deliveries {
            let commit = encoded(|commit| commit.delivery(delivery).unwrap());
            builder.push(&commit, commit.events.iter().map(|_| KeySequence(7)));
        }
        for event in &events {
            let commit = encoded(|commit| commit.event(event).unwrap());
            builder.push(&commit, std::iter::once(KeySequence(8)));
            builder.identify(std::iter::once(hasher.of(&event.source, &event.id)));
        }
        let written = builder.build(base_header(), salt());
        let read = reopened(&written);
        let keyed = deliveries.iter().filter(|delivery| delivery.completion.key.is_some());
        prop_assert_eq!(written.completed().map(<[_]>::len), Some(keyed.count()));
        prop_assert!(read.completed().is_none());
        let shown = |frame: &Frame| -> Vec<String> {
            let entries = frame.entries().unwrap();
            let show = |entry: Entry<'_>| {
                let (raw, event) = (entry.raw().unwrap(), entry.read().unwrap());
                format!("{:?} {raw:?} {} {}", entry.heading, event.id, event.commit)
            };
            entries.map(show).collect()
        };
        prop_assert_eq!(shown(&written), shown(&read));
        let indexed = |frame: &Frame| {
            let mut index = SegmentIndexBuilder::new(SegmentBase::of(frame.header()));
            index.add_frame(frame, 0, &hasher).map(|()| index.encode(SegmentSeal::default()).unwrap())
        };
        // Instances of samples may be more than an index has room for.
        prop_assert_eq!(indexed(&written).ok(), indexed(&read).ok());
    }

    #[test]
    fn any_delivery_comes_back(delivery in delivery()) {
        let frame = reopened(&frame(&[encoded(|commit| commit.delivery(&delivery).unwrap())]));
        prop_assert_eq!(delivery_back(&frame), delivery);
    }

    #[test]
    fn how_a_delivery_ended_is_what_its_completion_says(delivery in delivery()) {
        let frame = reopened(&frame(&[encoded(|commit| commit.delivery(&delivery).unwrap())]));
        let commit = frame.commits().next().unwrap().unwrap();
        let (raw, _) = commit.records().next_raw().unwrap().unwrap();
        let DeliveryCommit { completion: Completion { position, outcome, .. }, .. } = delivery;
        prop_assert_eq!(Ended::of(&raw), Ok(Ended { position, outcome }));
    }

    #[test]
    fn any_bytes_end_in_a_value_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = read_all(&bytes.into());
    }

    /// Checksums made to match, so that the decoders behind them see the damage.
    #[test]
    fn any_metadata_ends_in_a_value_or_an_error(
        delivery in delivery(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut commit = encoded(|commit| commit.delivery(&delivery).unwrap());
        for (at, byte) in edits {
            let at = at.index(commit.metadata.len());
            commit.metadata[at] = byte;
        }
        let _ = read_all(frame(&[commit]).bytes());
    }

    #[test]
    fn our_messagepack_is_everyones(text in ".{0,300}", number: u64, list in prop::collection::vec(any::<u32>(), 0..40)) {
        let mut out = Vec::new();
        super::super::pack::put_array(&mut out, 3);
        super::super::pack::put_str(&mut out, &text);
        super::super::pack::put_uint(&mut out, number);
        super::super::pack::put_array(&mut out, list.len());
        list.iter().for_each(|n| super::super::pack::put_uint(&mut out, (*n).into()));
        prop_assert_eq!(&out, &rmp_serde::to_vec(&(&text, number, &list)).unwrap());
        let mut reader = super::super::pack::Reader::new(&out);
        prop_assert!(reader.skip().is_ok() && reader.rest().is_empty());
    }
}
