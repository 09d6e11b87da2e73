use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

use ecow::EcoBytes;
use futures_util::FutureExt;
use uuid::Uuid;

use super::*;
use crate::effects::StateWrite;
use crate::event::{CommitNumber, Generation, InstanceId, Key, Position};
use crate::log::disk::sim::SimDisk;
use crate::state::cold::KeyValues;
use crate::state::{At, CheckpointError, Checkpoints, Ledger};

const DEADLINE: Duration = Duration::from_secs(60);

fn owner(key: &str) -> Owner {
    Owner { instance: InstanceId(1), generation: Generation(0), key: Key::new(key).unwrap() }
}

fn write(name: &str, value: Option<&[u8]>) -> StateWrite {
    StateWrite { name: name.into(), value: value.map(Into::into), expires_ms: None }
}

fn apply(values: &Values, key: &str, value: &[u8]) {
    let owner = (InstanceId(1), Generation(0), key);
    values.apply(owner, Position(1), [write("n", Some(value))]).unwrap();
}

fn with_cold(dir: &Path, bound: u64) -> Arc<Values> {
    Arc::new(Values::new(Some(Cold::create(&dir.join("sled")).unwrap()), bound))
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        std::thread::yield_now();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(DEADLINE, future).await.unwrap() })
}

#[test]
fn keys_over_the_bound_move_out_and_come_back_whole() {
    let dir = tempfile::tempdir().unwrap();
    let values = with_cold(dir.path(), 10_000);
    for key in 0..500_u64 {
        apply(&values, &format!("k{key}"), key.to_string().as_bytes());
    }
    assert!(values.is_over());
    // Two rounds: the first one only takes the marks away.
    for _ in 0..2 * SHARDS {
        values.evict_some().unwrap();
    }
    assert!(!values.is_over(), "{} bytes are still in memory", values.hot_bytes());
    for key in 0..500_u64 {
        let name = format!("k{key}");
        let found = values.get(&owner(&name), "n", 0).unwrap().unwrap();
        assert_eq!(found.bytes, key.to_string().as_bytes());
        let view = values.view(owner(&name), 0).unwrap();
        assert_eq!(view.get("n").unwrap(), key.to_string().into_bytes());
    }
    assert_eq!(values.cold.as_ref().unwrap().keys(), 0);
}

#[test]
fn a_key_that_a_delivery_has_in_hand_stays() {
    let dir = tempfile::tempdir().unwrap();
    let values = with_cold(dir.path(), 0);
    apply(&values, "k", b"1");
    let view = values.view(owner("k"), 0).unwrap();
    for _ in 0..3 * SHARDS {
        assert_eq!(values.evict_some().unwrap(), 0);
    }
    drop(view);
    let moved: usize = (0..3 * SHARDS).map(|_| values.evict_some().unwrap()).sum();
    assert_eq!(moved, 1);
}

#[test]
fn a_key_taken_up_since_it_was_looked_out_stays() {
    let dir = tempfile::tempdir().unwrap();
    let values = with_cold(dir.path(), 0);
    let move_out = || {
        let (cold, k) = (values.cold.as_ref().unwrap(), owner("k"));
        values.move_out(cold, &mut values.shards.of(k.as_ref()).unwrap(), &[owner("k")]).unwrap()
    };
    let untouch = || {
        let shard = values.shards.of(owner("k").as_ref()).unwrap();
        shard.entries.get(&owner("k").as_ref()).unwrap().0.untouch();
    };
    apply(&values, "k", b"1");
    assert_eq!(move_out(), 0, "touched");
    untouch();
    let view = values.view(owner("k"), 0).unwrap();
    untouch();
    assert_eq!(move_out(), 0, "in hand");
    view.push_pending(Position(2), [write("n", Some(b"2"))].into());
    drop(view);
    assert_eq!(move_out(), 0, "with a pending write");
    let commit = (InstanceId(1), Generation(0), "k");
    values.apply(commit, Position(2), [write("n", Some(b"2"))]).unwrap();
    untouch();
    assert_eq!(move_out(), 1);
}

#[test]
fn the_thread_keeps_memory_within_its_bound_and_stops() {
    let dir = tempfile::tempdir().unwrap();
    let values = with_cold(dir.path(), 10_000);
    let evictor = Evictor::start(Arc::clone(&values), "main").unwrap();
    for round in 0..3 {
        for key in 0..300 {
            apply(&values, &format!("{round}-{key}"), b"1");
        }
        wait_until("within the bound", || !values.is_over());
    }
    drop(evictor);
    assert_eq!(Arc::strong_count(&values), 1, "the thread has ended");
}

#[test]
fn the_thread_looks_at_nothing_while_memory_is_within_its_bound() {
    let dir = tempfile::tempdir().unwrap();
    let values = with_cold(dir.path(), 1_000_000);
    let evictor = Evictor::start(Arc::clone(&values), "main").unwrap();
    (0..1000).for_each(|key| apply(&values, &format!("k{key}"), b"1"));
    drop(evictor);
    assert_eq!(values.next_sweep.load(Ordering::Relaxed), 0);
}

#[test]
fn the_thread_rests_while_all_keys_are_in_use_and_goes_on_when_they_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let values = with_cold(dir.path(), 0);
    let evictor = Evictor::start(Arc::clone(&values), "main").unwrap();
    let view = values.view(owner("k"), 0).unwrap();
    view.push_pending(Position(1), [write("n", Some(b"1"))].into());
    let sweeps = || values.next_sweep.load(Ordering::Relaxed);
    wait_until("two rounds and a rest", || sweeps() > 4 * SHARDS);
    apply(&values, "k", b"1");
    drop(view);
    wait_until("the key moved out", || values.hot_bytes() == 0);
    drop(evictor);
    assert_eq!(values.get(&owner("k"), "n", 0).unwrap().unwrap().bytes, b"1");
}

#[test]
fn deliveries_wait_for_room_a_quarter_over_the_bound_and_no_longer() {
    let dir = tempfile::tempdir().unwrap();
    let values = with_cold(dir.path(), 100_000);
    apply(&values, "a", &[0; 110_000]);
    assert!(values.is_over());
    assert!(values.room().now_or_never().is_some(), "over, but not by a quarter");
    apply(&values, "b", &[0; 20_000]);
    let waiting = Box::pin(values.room());
    let mut waiting = std::pin::pin!(waiting);
    assert!(waiting.as_mut().now_or_never().is_none());
    let evictor = Evictor::start(Arc::clone(&values), "main").unwrap();
    block_on(waiting);
    drop(evictor);
}

#[test]
fn without_a_cold_store_there_is_always_room() {
    let values = Values::new(None, 0);
    apply(&values, "k", &[0; 1000]);
    assert!(!values.is_over());
    assert!(values.room().now_or_never().is_some());
}

/// A write that finds no room does not always come back: whoever waited for it held what all others wait for.
#[test]
fn where_the_disk_has_no_room_nothing_moves_until_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let values = with_cold(dir.path(), 10_000);
    let cold = values.cold.as_ref().unwrap();
    cold.is_short.store(true, Ordering::Relaxed);
    let evictor = Evictor::start(Arc::clone(&values), "main").unwrap();
    for key in 0..500_u64 {
        apply(&values, &format!("k{key}"), b"1");
    }
    wait_until("it is known", || values.lacks_room());
    assert!(values.room().now_or_never().is_none(), "deliveries wait");
    values.restore(vec![(owner("restored"), KeyValues::new())]);
    assert_eq!((cold.keys(), cold.path_exists()), (0, false), "nothing is written");
    cold.is_short.store(false, Ordering::Relaxed);
    block_on(values.room());
    wait_until("keys moved out", || !values.is_over());
    assert!(cold.keys() > 0 && !values.lacks_room());
    drop(evictor);
}

#[test]
fn where_the_cold_store_fails_all_stays_in_memory_and_deliveries_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let values = with_cold(dir.path(), 10_000);
    values.cold.as_ref().unwrap().fails.store(true, Ordering::Relaxed);
    (0..500).for_each(|key| apply(&values, &format!("k{key}"), b"1"));
    let before = values.hot_bytes();
    let waiting = values.room();
    let evictor = Evictor::start(Arc::clone(&values), "main").unwrap();
    block_on(waiting);
    assert!(!values.is_over());
    drop(evictor);
    assert_eq!(values.hot_bytes(), before);
    assert_eq!(values.cold.as_ref().unwrap().keys(), 0);
    for key in 0..500 {
        assert!(values.get(&owner(&format!("k{key}")), "n", 0).unwrap().is_some());
    }
}

// Deliveries, the fold, eviction and checkpoints at once.

const WORKERS: u64 = 3;
const KEYS: u64 = 150;
const STEPS: u64 = 1500;
const CHECKPOINT_EVERY: u64 = 900;

type Model = BTreeMap<String, BTreeMap<String, EcoBytes>>;
type Commit = (String, Position, Arc<[StateWrite]>);

fn change(model: &mut Model, key: &str, writes: &[StateWrite]) {
    let names = model.entry(key.to_owned()).or_default();
    for write in writes {
        match &write.value {
            Some(value) => drop(names.insert(write.name.to_string(), value.clone())),
            None => drop(names.remove(&*write.name)),
        }
    }
    if names.is_empty() {
        model.remove(key);
    }
}

fn dump(values: &Values) -> Model {
    let mut all = Model::new();
    values
        .each(|owner, values| {
            let values = values.iter().map(|(name, value)| (name.to_string(), value.bytes.clone()));
            let twice = all.insert(owner.key.to_string(), values.collect());
            assert!(twice.is_none(), "`{}` was visited twice", owner.key);
            Ok::<_, CheckpointError>(())
        })
        .unwrap();
    all
}

/// Delivers to keys of its own, one after the other, and checks what each delivery sees.
fn deliver(values: &Arc<Values>, worker: u64, seed: u64, commits: &SyncSender<Commit>) {
    let mut random = fastrand::Rng::with_seed(seed + worker);
    let mut seen = Model::new();
    for step in 0..STEPS {
        block_on(values.room());
        let key = format!("{worker}-{}", random.u64(..KEYS));
        let view = values.view(owner(&key), 0).unwrap();
        for name in ["a", "b", "c"] {
            let expected = seen.get(&key).and_then(|names| names.get(name)).map(AsRef::as_ref);
            assert_eq!(view.get(name).as_deref(), expected, "`{key}` at step {step}, seed {seed}");
        }
        let name = ["a", "b", "c"][random.usize(..3)];
        let value = vec![b'x'; random.usize(..400)];
        let writes = [write(name, Some(&value).filter(|_| random.u8(..4) > 0).map(|v| &v[..]))];
        change(&mut seen, &key, &writes);
        let (writes, position) = (Arc::<[StateWrite]>::from(writes), Position(step + 1));
        view.push_pending(position, writes.to_vec());
        commits.send((key, position, writes)).unwrap();
    }
}

/// Applies commits; every now and then writes a checkpoint, which must hold exactly those.
fn fold(values: &Values, commits: Receiver<Commit>) -> Model {
    let checkpoints =
        Checkpoints::open(Arc::new(SimDisk::new()), Path::new("c"), Uuid::from_u128(1)).unwrap();
    let mut model = Model::new();
    for (number, (key, position, writes)) in (1..).zip(commits) {
        let owner = (InstanceId(1), Generation(0), &*key);
        values.apply(owner, position, writes.iter().cloned()).unwrap();
        change(&mut model, &key, &writes);
        if number % CHECKPOINT_EVERY == 0 {
            let at = At { commit: CommitNumber(number), time_ms: 0 };
            checkpoints.write(&Ledger::default(), values, at, &[7; 32]).unwrap();
            let restored = Values::default();
            checkpoints.newest(&restored, at.commit).unwrap().unwrap();
            assert!(dump(&restored) == model, "the checkpoint of commit {number}");
        }
    }
    model
}

#[test]
fn nothing_is_lost_between_deliveries_the_fold_eviction_and_checkpoints() {
    let seed = fastrand::u64(..1 << 32);
    println!("seed {seed}");
    let dir = tempfile::tempdir().unwrap();
    let values = with_cold(dir.path(), 40_000);
    let evictor = Evictor::start(Arc::clone(&values), "main").unwrap();
    let (sender, receiver) = sync_channel(64);
    let model = std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (values, sender) = (&values, sender.clone());
            scope.spawn(move || deliver(values, worker, seed, &sender));
        }
        drop(sender);
        fold(&values, receiver)
    });
    assert!(values.cold.as_ref().unwrap().keys() > 0, "nothing was ever evicted");
    wait_until("within the bound", || !values.is_over());
    drop(evictor);
    assert!(dump(&values) == model);
    values.forget(InstanceId(1)).unwrap();
    assert_eq!((values.hot_bytes(), values.cold.as_ref().unwrap().keys()), (0, 0));
}
