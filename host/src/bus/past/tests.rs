use std::num::NonZeroU64;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ecow::EcoBytes;

use super::*;
use crate::clock::Clock;
use crate::effects::{OutcomeKind, StateWrite};
use crate::event::{Digest, KeyVariant, NewEvent};
use crate::log::disk::sim::SimDisk;
use crate::log::record::{Completion, DeliveryCommit, Mode};
use crate::log::{Log, LogOptions, Publish};
use crate::state::{Ledger, Values};

/// Every look at the wall moves it on.
struct Ticking(AtomicU64);

impl Clock for Ticking {
    fn wall_ms(&self) -> u64 {
        self.0.fetch_add(3, Ordering::Relaxed)
    }
    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.wall_ms())
    }
}

fn open(disk: &SimDisk, state: &Path, tail_bytes: usize) -> Bus {
    let options = LogOptions {
        segment_bytes: 64 * 1024,
        tail_bytes,
        watermark_ingest_bytes: 2000,
        watermark_effects_bytes: 1000,
        ..LogOptions::default()
    };
    let clock = Arc::new(Ticking(AtomicU64::new(1_700_000_000_000)));
    let opened = Log::open(Arc::new(disk.clone()), Path::new("bus"), options, clock).unwrap();
    let fold = (Ledger::default(), Arc::<Values>::default(), CommitNumber(0));
    Bus::durable("main", opened.log, fold, state).unwrap()
}

fn owner(instance: u32, key: &str) -> Owner {
    Owner { instance: InstanceId(instance), generation: Generation(0), key: Key::new(key).unwrap() }
}

/// A delivery that was recorded: of which plugin and key, where, when, and what it wrote.
struct Done {
    owner: Owner,
    position: Position,
    commit: CommitNumber,
    time_ms: u64,
    writes: Vec<StateWrite>,
}

async fn publish(bus: &Bus, id: usize, key: &Key) -> Position {
    let event = NewEvent {
        id: id.to_string().into(),
        source: "/test".into(),
        kind: "thing.happened".into(),
        key: Some(key.clone()),
        key_variant: KeyVariant::PartitionKey,
        data: vec![b'x'; 50].into(),
        ..NewEvent::default()
    };
    bus.publish(vec![Publish { event, expected: None }]).await.unwrap()[0].position
}

async fn complete(bus: &Bus, owner: Owner, position: Position, writes: Vec<StateWrite>) -> Done {
    let completion = Completion {
        instance: owner.instance,
        generation: owner.generation,
        position,
        key: Some(owner.key.clone()),
        environment: Digest::default(),
        attempt: 1,
        mode: Mode::Live,
        outcome: OutcomeKind::Ok,
        fuel: 1,
        response: None,
    };
    let commit = DeliveryCommit {
        completion,
        emits: Vec::new(),
        state: writes.clone(),
        timers: Vec::new(),
        calls: Vec::new(),
        dead_letter: None,
        park: false,
    };
    let permit = bus.reserve(owner.instance, 10_000).await.unwrap();
    let committed = bus.commit(permit, commit, drop).done().await.unwrap();
    Done { owner, position, commit: committed.commit, time_ms: committed.recorded_ms, writes }
}

fn writes(rng: &mut fastrand::Rng, now_ms: u64) -> Vec<StateWrite> {
    (0..rng.usize(..3))
        .map(|_| StateWrite {
            name: ["a", "b", "c"][rng.usize(..3)].into(),
            value: (rng.u8(..) > 50).then(|| rng.u64(..).to_string().into_bytes().into()),
            expires_ms: rng.bool().then(|| ends_at(now_ms + rng.u64(..5000))),
        })
        .collect()
}

fn expected(
    done: &[Done],
    owner: &Owner,
    now_ms: u64,
    counts: impl Fn(&Done) -> bool,
) -> PastState {
    let mut state = PastState { values: BTreeMap::new(), now_ms };
    for done in done.iter().filter(|done| done.owner == *owner && counts(done)) {
        for write in &done.writes {
            let ends_ms = write.expires_ms.map(NonZeroU64::get);
            state.write(&write.name, write.value.as_deref(), ends_ms);
        }
    }
    state
}

fn shown(state: &PastState) -> Vec<(String, EcoBytes)> {
    state.values().map(|(name, value)| (name.to_string(), value.bytes.clone())).collect()
}

async fn check(bus: &Bus, done: &[Done], rng: &mut fastrand::Rng, times: &[u64]) {
    for _ in 0..150 {
        let Done { owner, commit, .. } = &done[rng.usize(..done.len())];
        let count = rng.usize(..=times.len());
        let position = Position(count as u64);
        let now_ms = times[..count].last().copied().unwrap_or_default();
        let want = expected(done, owner, now_ms, |done| done.position <= position);
        let found = bus.past(owner, Moment::After(position)).await.unwrap();
        assert_eq!(shown(&found), shown(&want), "after {position}");

        let ms = done[rng.usize(..done.len())].time_ms + rng.u64(..2) - 1;
        let want = expected(done, owner, ms, |done| done.time_ms <= ms);
        let found = bus.past(owner, Moment::At(ms)).await.unwrap();
        assert_eq!(shown(&found), shown(&want), "at {ms}");

        let before = Moment::Before { commit: *commit, input_ms: now_ms };
        let want = expected(done, owner, now_ms, |done| done.commit < *commit);
        assert_eq!(shown(&bus.past(owner, before).await.unwrap()), shown(&want));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_past_is_what_a_fold_of_everything_says() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let (disk, state) = (SimDisk::new(), tempfile::tempdir().unwrap());
    // So small a tail that nearly everything is read from segments.
    let bus = open(&disk, state.path(), 2000);
    let (mut done, mut times) = (Vec::new(), Vec::new());
    for id in 0..900 {
        let key = format!("k-{}", rng.usize(..8));
        let owner = owner(rng.u32(1..3), &key);
        let position = publish(&bus, id, &owner.key).await;
        times.push(bus.event(position).await.unwrap().unwrap().recorded_ms);
        let writes = writes(&mut rng, *times.last().unwrap());
        done.push(complete(&bus, owner, position, writes).await);
    }
    assert!(bus.log().unwrap().stats().segments > 3);
    check(&bus, &done, &mut rng, &times).await;
    bus.log().unwrap().close().await.unwrap();
    drop(bus);
    let bus = open(&disk, state.path(), 1 << 20);
    check(&bus, &done, &mut rng, &times).await;
}

#[tokio::test]
async fn what_lies_ahead_has_no_state_yet() {
    let (disk, state) = (SimDisk::new(), tempfile::tempdir().unwrap());
    let bus = open(&disk, state.path(), 1 << 20);
    let owner = owner(1, "k");
    let position = publish(&bus, 1, &owner.key).await;
    assert_eq!(shown(&bus.past(&owner, Moment::After(Position(0))).await.unwrap()), []);
    assert!(bus.past(&owner, Moment::After(position)).await.is_ok());
    let ahead = bus.past(&owner, Moment::After(Position(position.0 + 1))).await;
    assert!(matches!(ahead, Err(PastError::PositionAhead(last)) if last == position));
    let ahead = bus.past(&owner, Moment::At(u64::MAX)).await;
    assert!(matches!(ahead, Err(PastError::TimeAhead)));
}

/// It stood on what later events had left, and so did what was shown.
#[tokio::test]
async fn what_was_delivered_late_is_of_a_later_moment() {
    let (disk, state) = (SimDisk::new(), tempfile::tempdir().unwrap());
    let bus = open(&disk, state.path(), 1 << 20);
    let (k, other) = (owner(1, "k"), owner(1, "other"));
    for (id, owner) in [&k, &k, &other].into_iter().enumerate() {
        publish(&bus, id, &owner.key).await;
    }
    let write = |text: &'static str| {
        let value = Some(EcoBytes::from(text.as_bytes()));
        vec![StateWrite { name: "a".into(), value, expires_ms: None }]
    };
    for (owner, position, text) in [(&other, 3, "other"), (&k, 2, "2"), (&k, 1, "2 and 1")] {
        complete(&bus, owner.clone(), Position(position), write(text)).await;
    }
    let at = async |position| {
        let past = bus.past(&k, Moment::After(Position(position))).await.unwrap();
        past.get("a").map(|value| value.bytes.clone())
    };
    assert_eq!(at(1).await, None, "it was given up then");
    assert_eq!(at(2).await, Some(EcoBytes::from(b"2 and 1")));
}
