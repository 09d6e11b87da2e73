//! A small closed log on a simulated disk, for tests.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::effects::{OutcomeKind, StateWrite};
use crate::event::{
    Digest, Generation, InstanceId, Key, KeySequence, KeyVariant, NewEvent, Position,
};
use crate::log::codec::{Encoded, FLAG_SEAL, Header, Salt, Seal};
use crate::log::disk::Disk;
use crate::log::disk::sim::SimDisk;
use crate::log::frame::FrameBuilder;
use crate::log::record::{Completion, Control, ControlRecord, DeliveryCommit, Mode};

pub(crate) const LOG_ID: [u8; 16] = [7; 16];
pub(crate) const BUS: &str = "main";

pub(crate) fn data() -> &'static Path {
    Path::new("/data")
}

pub(crate) fn segment_path(number: u32) -> PathBuf {
    PathBuf::from(format!("/data/buses/main/log/{number:010}.seg"))
}

pub(crate) fn index_path(number: u32) -> PathBuf {
    PathBuf::from(format!("/data/buses/main/index/{number:010}.idx"))
}

/// Writes a log as a writer would, frame by frame.
pub(crate) struct Writer {
    pub(crate) next: Header,
    sequences: HashMap<String, u64>,
    segment: Vec<u8>,
    seal: Seal,
    /// Where each frame of the segment starts.
    frames: Vec<usize>,
}

impl Writer {
    pub(crate) fn new() -> Self {
        let next = Header {
            log_id: LOG_ID,
            epoch: 1,
            segment: 1,
            first_commit: 1,
            first_position: 1,
            time_ms: 1_000_000,
            ..Header::default()
        };
        let (segment, frames, seal) = (Vec::new(), Vec::new(), Seal::default());
        Self { next, sequences: HashMap::new(), segment, seal, frames }
    }

    pub(crate) fn frame(&mut self, commits: &[Encoded], keys: &[&[&str]]) {
        let mut builder = FrameBuilder::default();
        for (commit, keys) in commits.iter().zip(keys) {
            let sequences: Vec<KeySequence> = keys
                .iter()
                .map(|key| {
                    let last = self.sequences.entry((*key).to_owned()).or_default();
                    *last += 1;
                    KeySequence(*last)
                })
                .collect();
            builder.push(commit, sequences.into_iter());
        }
        self.put(&mut builder, 0);
    }

    fn put(&mut self, builder: &mut FrameBuilder, flags: u16) {
        let header = Header { flags, ..self.next };
        let frame = builder.build(header, Salt::new(LOG_ID, self.next.segment));
        if flags == 0 {
            if self.seal.frames == 0 {
                self.seal.first_commit = frame.header().first_commit;
                self.seal.first_position = frame.header().first_position;
                self.seal.first_ms = frame.header().time_ms;
            }
            self.seal.frames += 1;
            self.seal.commits += u64::from(frame.header().commit_count);
            self.seal.events += u64::from(frame.header().event_count);
            self.seal.last_ms = frame.header().time_ms;
        }
        self.frames.push(self.segment.len());
        self.segment.extend_from_slice(frame.bytes());
        self.seal.bytes = self.segment.len() as u64;
        self.next.first_commit = frame.header().next_commit();
        self.next.first_position = frame.header().next_position();
        self.next.chain = frame.chain();
        self.next.time_ms += 10;
    }

    /// Ends the segment; gives its bytes and where its frames start.
    pub(crate) fn seal(&mut self, clean_stop: bool) -> (Vec<u8>, Vec<usize>) {
        let mut encoded = Encoded::default();
        encoded.seal(&Seal { clean_stop, ..self.seal }).unwrap();
        encoded.finish().unwrap();
        let mut builder = FrameBuilder::default();
        builder.push(&encoded, std::iter::empty());
        self.put(&mut builder, FLAG_SEAL);
        self.seal = Seal::default();
        self.next.segment += 1;
        (std::mem::take(&mut self.segment), std::mem::take(&mut self.frames))
    }
}

pub(crate) fn event(n: u64, key: Option<&str>) -> NewEvent {
    NewEvent {
        id: format!("id-{n}").into(),
        source: "shop".into(),
        kind: "order.created".into(),
        key: key.map(|key| Key::new(key).unwrap()),
        key_variant: key.map_or(KeyVariant::None, |_| KeyVariant::PartitionKey),
        content_type: "application/json".into(),
        data: format!("{{\"n\":{n}}}").into_bytes().into(),
        ..NewEvent::default()
    }
}

pub(crate) fn ingest(events: &[NewEvent]) -> Encoded {
    let mut encoded = Encoded::default();
    events.iter().for_each(|event| encoded.event(event).unwrap());
    encoded.finish().unwrap();
    encoded
}

pub(crate) fn delivery(position: u64, key: &str) -> Encoded {
    let completion = Completion {
        instance: InstanceId(1),
        generation: Generation(0),
        position: Position(position),
        key: Some(Key::new(key).unwrap()),
        environment: Digest::of(b"module"),
        attempt: 1,
        mode: Mode::Live,
        outcome: OutcomeKind::Ok,
        fuel: 1000,
        response: None,
    };
    let state = StateWrite { name: "n".into(), value: Some(b"1".into()), expires_ms: None };
    let emit =
        NewEvent { emitter: Some(InstanceId(1)), depth: 1, ..event(900 + position, Some(key)) };
    let mut encoded = Encoded::default();
    let commit = DeliveryCommit {
        completion,
        emits: vec![emit],
        state: vec![state],
        timers: Vec::new(),
        calls: Vec::new(),
        dead_letter: None,
        park: false,
    };
    encoded.delivery(&commit).unwrap();
    encoded.finish().unwrap();
    encoded
}

pub(crate) fn control() -> Encoded {
    let mut encoded = Encoded::default();
    let control = Control::Epoch { epoch: 1, host: "0.1.0".to_owned() };
    encoded.control(&ControlRecord { actor: Arc::from("host"), control }).unwrap();
    encoded.finish().unwrap();
    encoded
}

/// A closed log of three segments of three frames and a seal each, and where those start.
pub(crate) fn closed_log() -> (SimDisk, Vec<Vec<usize>>) {
    let (disk, mut writer, mut frames) = (SimDisk::new(), Writer::new(), Vec::new());
    for segment in 0..3 {
        let n = segment * 10;
        writer.frame(&[control()], &[&[]]);
        let events = [event(n, Some("a")), event(n + 1, None), event(n + 2, Some("b"))];
        writer.frame(&[ingest(&events)], &[&["a", "", "b"]]);
        let input = writer.next.first_position - 1;
        let commits = [delivery(input, "b"), ingest(&[event(n + 3, Some("a"))])];
        writer.frame(&commits, &[&["b"], &["a"]]);
        let (bytes, starts) = writer.seal(segment == 2);
        put(&disk, &segment_path(u32::try_from(segment).unwrap() + 1), &bytes);
        frames.push(starts);
    }
    (disk, frames)
}

pub(crate) fn put(disk: &SimDisk, path: &Path, bytes: &[u8]) {
    disk.create_new(path).unwrap().write_at(bytes, 0).unwrap();
}
