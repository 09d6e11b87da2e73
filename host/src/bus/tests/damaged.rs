//! A small store, damaged in every way at every place: segments, index files, checkpoints, the snapshot
//! of key heads, the log's id. What opens says what it said before; what does not is repaired, and has
//! lost what it says and nothing else. Never a panic, never in silence.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::clock::TurnedClock;
use crate::bus::apply::fold;
use crate::clock::Clock;
use crate::effects::{OutcomeKind, StateWrite};
use crate::event::{
    CommitNumber, Digest, Generation, InstanceId, Key, KeyVariant, LOST_EVENT, NewEvent, Position,
};
use crate::log::disk::Disk;
use crate::log::disk::sim::{Crash, SimDisk};
use crate::log::record::{Completion, Control, ControlRecord, DeliveryCommit, Mode};
use crate::log::tools::{RepairMode, repair};
use crate::log::{Log, LogOptions, OpenError, Opened, Publish};
use crate::state::{At, Checkpoints, Ledger, Owner, Values};

const KEYS: [&str; 3] = ["a", "b", "c"];
const PLUGIN: InstanceId = InstanceId(1);
const PATIENT: &str = "what was opened can be read";

fn bus() -> &'static Path {
    Path::new("data/buses/main")
}

fn open(disk: &SimDisk) -> Result<Opened, OpenError> {
    let options = LogOptions { segment_bytes: 8192, ..LogOptions::default() };
    let clock: Arc<dyn Clock> = Arc::<TurnedClock>::default();
    Log::open(Arc::new(disk.clone()), bus(), options, clock)
}

fn checkpoints(disk: &SimDisk, log: &Log) -> Checkpoints {
    Checkpoints::open(Arc::new(disk.clone()), &bus().join("checkpoints"), log.id()).unwrap()
}

fn event(n: usize) -> NewEvent {
    NewEvent {
        id: format!("e{n}").into(),
        source: "/test".into(),
        kind: "thing.happened".into(),
        key: Some(Key::new(KEYS[n % KEYS.len()]).unwrap()),
        key_variant: KeyVariant::PartitionKey,
        content_type: "application/json".into(),
        data: Bytes::from(format!("{{\"n\":{n},\"text\":\"{}\"}}", "x".repeat(200))),
        ..NewEvent::default()
    }
}

fn delivery(position: Position, key: &str, count: usize) -> DeliveryCommit {
    DeliveryCommit {
        completion: Completion {
            instance: PLUGIN,
            generation: Generation(0),
            position,
            key: Some(Key::new(key).unwrap()),
            environment: Digest::of(b"module"),
            attempt: 1,
            mode: Mode::Live,
            outcome: OutcomeKind::Ok,
            fuel: 10,
            response: None,
        },
        emits: vec![NewEvent {
            id: format!("made-{position}").into(),
            source: "/tidegate/main/counter".into(),
            emitter: Some(PLUGIN),
            depth: 1,
            ..event(0)
        }],
        state: vec![StateWrite {
            name: "count".into(),
            value: Some(count.to_string().into_bytes().into()),
            expires_ms: None,
        }],
        timers: Vec::new(),
        calls: Vec::new(),
        dead_letter: None,
        park: false,
    }
}

/// What a store says, as far as anybody can ask it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Image {
    events: BTreeMap<u64, String>,
    /// Everything of commits but events.
    records: BTreeMap<u64, Vec<String>>,
    heads: Vec<Option<(u64, u64)>>,
    key_positions: Vec<Vec<u64>>,
    found: Vec<Option<u64>>,
    counts: Vec<Option<ecow::EcoBytes>>,
    plugins: Vec<String>,
}

/// Folds what the log has behind `at`.
async fn fold_all(log: &Log, ledger: &mut Ledger, values: &Values, at: CommitNumber) -> At {
    let mut reader = log.frames_from_commit(CommitNumber(at.0 + 1));
    let mut reached = At { commit: at, time_ms: 0 };
    while reached.commit < log.durable() {
        let frame = reader.next().await.expect(PATIENT);
        fold(ledger, values, &frame, reached.commit).unwrap();
        reached = At { commit: frame.last_commit(), time_ms: frame.time_ms() };
    }
    reached
}

impl Image {
    /// Of everything up to a commit.
    async fn of(disk: &SimDisk, opened: &Opened, until: u64) -> Self {
        let log = &opened.log;
        let mut image = Self {
            events: BTreeMap::new(),
            records: BTreeMap::new(),
            heads: Vec::new(),
            key_positions: Vec::new(),
            found: Vec::new(),
            counts: Vec::new(),
            plugins: Vec::new(),
        };
        image.read(log, until).await;
        for key in KEYS.map(|key| Key::new(key).unwrap()) {
            let head = log.head(&key).map(|(sequence, position)| (sequence.0, position.0));
            image.heads.push(head);
            let positions = log.key_positions(&key, Position(1), 10_000).await.expect(PATIENT);
            image.key_positions.push(positions.into_iter().map(|position| position.0).collect());
        }
        for n in 0..30 {
            let found = log.find("/test", &format!("e{n}")).await.expect(PATIENT);
            image.found.push(found.map(|event| event.position.0));
        }
        let values = Values::default();
        let newest = checkpoints(disk, log).newest(&values, CommitNumber(until)).unwrap();
        let (mut ledger, at) = newest.map_or_else(Default::default, |(l, at)| (l, at.commit));
        fold_all(log, &mut ledger, &values, at).await;
        for key in KEYS.map(|key| Key::new(key).unwrap()) {
            let owner = Owner { instance: PLUGIN, generation: Generation(0), key };
            image.counts.push(values.get(&owner, "count", 0).unwrap().map(|value| value.bytes));
        }
        image.plugins = ledger.instances().map(|plugin| format!("{plugin:?}")).collect();
        image
    }

    async fn read(&mut self, log: &Log, until: u64) {
        let mut reader = log.frames_from_commit(CommitNumber(1));
        let mut reached = 0;
        while reached < until {
            let frame = reader.next().await.expect(PATIENT);
            reached = frame.last_commit().0;
            for event in frame.events().expect(PATIENT) {
                self.events.insert(event.position.0, format!("{event:?}"));
            }
            for commit in frame.commits().map_while(Result::ok) {
                if commit.number.0 <= until {
                    let records = commit.records().map(|record| format!("{:?}", record.unwrap()));
                    let others = records.filter(|text| !text.starts_with("Event"));
                    self.records.insert(commit.number.0, others.collect());
                }
            }
        }
    }
}

/// Two starts and stops of a log with small segments, everything delivered, a checkpoint of each.
async fn filled() -> (SimDisk, u64) {
    let disk = SimDisk::new();
    let (mut ledger, values) = (Ledger::default(), Values::default());
    let mut at = CommitNumber(0);
    let mut last = 0;
    for round in 0..2_usize {
        let opened = open(&disk).unwrap();
        let log = &opened.log;
        if round == 0 {
            let (name, after) = ("counter".to_owned(), Position(0));
            let control = Control::Register { instance: PLUGIN, name, after };
            let record = ControlRecord { actor: "test".into(), control };
            log.control(&[record]).await.unwrap();
        }
        for n in round * 12..round * 12 + 12 {
            let event = event(n);
            let key = event.key.clone().unwrap();
            let appended = log.ingest(vec![Publish { event, expected: None }]).await.unwrap();
            let permit = log.reserve(PLUGIN, 4096).await.unwrap();
            let count = n / KEYS.len() + 1;
            let commit = delivery(appended[0].position, key.as_str(), count);
            log.commit(permit, &commit).await.unwrap();
        }
        let reached = fold_all(log, &mut ledger, &values, at).await;
        at = reached.commit;
        let chain = log.chain_behind(at).unwrap();
        checkpoints(&disk, log).write(&ledger, &values, reached, &chain).unwrap();
        last = log.durable().0;
        log.close().await.unwrap();
    }
    (disk, last)
}

/// What became of a damaged store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// It opens, and says what it said before.
    Same,
    /// It does not open; repaired it has lost what was said.
    Repaired,
    /// It does not open, and a repair restores all of it.
    Restored,
    /// It opens; what was cut off its end was told.
    Cut,
}

struct Store {
    disk: SimDisk,
    last: u64,
    image: Image,
}

impl Store {
    async fn new() -> Self {
        let (disk, last) = filled().await;
        let copy = disk.crash(Crash::KeepsAll);
        let opened = open(&copy).unwrap();
        let image = Image::of(&copy, &opened, last).await;
        opened.log.close().await.unwrap();
        assert_eq!(image.counts[0].as_deref(), Some(&b"8"[..]));
        Self { disk, last, image }
    }

    fn files(&self) -> Vec<PathBuf> {
        let folders = ["log", "index", "checkpoints"].map(|folder| bus().join(folder));
        let files = folders.iter().flat_map(|folder| {
            self.disk.list(folder).unwrap().into_iter().map(|name| folder.join(name))
        });
        files.filter(|path| self.disk.bytes(path).is_some_and(|bytes| !bytes.is_empty())).collect()
    }

    /// Damages one file, opens what is there, and holds it against what was.
    async fn outcome(&self, path: &Path, damage: &Damaging, case: &str) -> Outcome {
        let disk = self.disk.crash(Crash::KeepsAll);
        disk.damage(path, |bytes| damage(bytes));
        let copy = disk.crash(Crash::KeepsAll);
        match open(&copy) {
            Ok(opened) => {
                let image = Image::of(&copy, &opened, self.last.min(opened.last_commit.0)).await;
                opened.log.close().await.unwrap();
                if opened.cut.is_some() {
                    return Outcome::Cut;
                }
                assert_eq!(image, self.image, "{case}");
                Outcome::Same
            }
            Err(error) => {
                let text = error.to_string();
                let is_told = matches!(error, OpenError::Newer { .. })
                    || text.contains("tidegate log repair data");
                assert!(is_told, "{case}: {text}");
                self.repaired(&disk, case).await
            }
        }
    }

    async fn repaired(&self, disk: &SimDisk, case: &str) -> Outcome {
        let report = repair(disk, Path::new("data"), Some("main"), RepairMode::Perform);
        let report = report.unwrap_or_else(|error| panic!("{case}: {error}"));
        let said = &report.buses[0];
        let opened = open(disk).unwrap_or_else(|error| panic!("{case}: {error}\n{report}"));
        let image = Image::of(disk, &opened, self.last).await;
        opened.log.close().await.unwrap();
        let listed = said.lost.iter().flat_map(|lost| &lost.events);
        let lost: BTreeSet<u64> = listed.map(|event| event.position.0).collect();
        assert!(image.events.keys().eq(self.image.events.keys()), "{case}\n{report}");
        for ((position, was), is) in self.image.events.iter().zip(image.events.values()) {
            let is_filler = is.contains(LOST_EVENT);
            assert_eq!(is_filler, lost.contains(position), "{case}: {position}\n{report}");
            assert!(is_filler || was == is, "{case}: {position}\n{report}");
        }
        for (commit, was) in &self.image.records {
            let mut ranges = said.lost.iter().map(|lost| lost.commits);
            let is_lost = ranges.any(|s| (s.first..=s.last.unwrap_or(s.first)).contains(commit));
            assert!(
                is_lost || image.records.get(commit) == Some(was),
                "{case}: {commit}\n{report}"
            );
        }
        // Whatever is lost, no number of a key is given again.
        assert_eq!(image.heads, self.image.heads, "{case}\n{report}");
        if said.lost_commits > 0 {
            return Outcome::Repaired;
        }
        assert_eq!(image, self.image, "{case}\n{report}");
        Outcome::Restored
    }
}

type Damaging = Box<dyn Fn(&mut Vec<u8>)>;

/// Every byte changed, by one of three patterns; cut at every length; every sector and page zeroed, and
/// written over the next and the one before. `every`: how manieth byte and length; of sectors and pages
/// the more as it is less.
fn damages(len: usize, every: usize, start: usize) -> Vec<(String, Damaging)> {
    let mut damages: Vec<(String, Damaging)> = Vec::new();
    for at in (start % every..len).step_by(every) {
        let pattern = [0x01, 0x80, 0xff][at % 3];
        damages.push((format!("byte {at}"), Box::new(move |bytes| bytes[at] ^= pattern)));
        damages.push((format!("cut at {at}"), Box::new(move |bytes| bytes.truncate(at))));
    }
    for size in [512, 4096] {
        for from in (0..len).step_by(size * (every / 64 + 1)) {
            let end = len.min(from + size);
            let zero = move |bytes: &mut Vec<u8>| bytes[from..end].fill(0);
            damages.push((format!("{size} bytes at {from} zeroed"), Box::new(zero)));
            let neighbours = [from.checked_sub(size), Some(from + size).filter(|to| *to < len)];
            for to in neighbours.into_iter().flatten() {
                let count = (end - from).min(len - to);
                let repeat = move |bytes: &mut Vec<u8>| bytes.copy_within(from..from + count, to);
                damages.push((format!("{size} bytes at {from} over {to}"), Box::new(repeat)));
            }
        }
    }
    damages
}

#[tokio::test]
async fn a_damaged_store_is_the_same_or_refuses_and_is_repaired() {
    let every = std::env::var("TIDEGATE_DAMAGE_EVERY").ok();
    let every = every.and_then(|every| every.parse().ok()).unwrap_or(307);
    let store = Store::new().await;
    let mut tally: BTreeMap<(String, Outcome), usize> = BTreeMap::new();
    for (number, path) in store.files().into_iter().enumerate() {
        let len = store.disk.bytes(&path).unwrap().len();
        let kind = path.extension().map_or("other".into(), |e| e.to_string_lossy().into_owned());
        for (what, damage) in damages(len, every, number * 37) {
            let case = format!("{}: {what}", path.display());
            let outcome = store.outcome(&path, &damage, &case).await;
            *tally.entry((kind.clone(), outcome)).or_default() += 1;
        }
    }
    println!("{tally:#?}");
    // Each sort of end was met.
    for outcome in [Outcome::Same, Outcome::Repaired, Outcome::Restored] {
        assert!(tally.keys().any(|(_, of)| *of == outcome), "{outcome:?}: {tally:?}");
    }
    let derived = tally.keys().filter(|(kind, _)| kind != "seg");
    assert!(derived.into_iter().all(|(_, outcome)| *outcome == Outcome::Same), "{tally:?}");
}
