//! What is written comes back.

use ecow::EcoBytes;
use proptest::prelude::*;

use super::*;
use crate::state::timers::{self, Due, Pending, SetAt};

/// Values with a cold store that takes what is over `bound` bytes.
fn with_cold(dir: &Path, bound: u64) -> Values {
    Values::new(Some(Cold::create(dir).unwrap()), bound)
}

fn evict_all(values: &Values) {
    // Two rounds: the first one only takes the marks away.
    for _ in 0..2 * values.shards.all().unwrap().len() {
        values.evict_some().unwrap();
    }
}

fn ledger(steps: &[(u32, u64, u8)]) -> Ledger {
    let mut ledger = Ledger::default();
    for (commit, (instance, position, step)) in (1..).zip(steps) {
        let (id, position, place) = (InstanceId(*instance), Position(*position), at(commit));
        let control = match step % 8 {
            0 => Control::Register { instance: id, name: format!("p{instance}"), after: position },
            1 => Control::Activate {
                instance: id,
                generation: Generation(0),
                module: Digest::of(&[*step]),
                environment: Digest::of(b"e"),
                manifest: "x = 1".to_owned(),
                after: position,
                unpins: false,
            },
            2 => Control::Attempt(AttemptRecord {
                instance: id,
                generation: Generation(0),
                position,
                key: Key::new("k").ok(),
                attempt: 2,
                first_ms: 1,
                due_ms: u64::MAX,
                outcome: OutcomeKind::Trap,
                reason: "unreachable".to_owned(),
            }),
            3 => Control::Pause { instance: id, reason: "because".to_owned() },
            4 => Control::Forwarded {
                bus: format!("b{instance}"),
                position,
                log: (position.0 % 2 == 0).then(|| Digest::of(&position.0.to_le_bytes())),
            },
            dead_or_not => {
                let dead = DeadLetterRecord {
                    reason: "no".to_owned(),
                    backtrace: String::new(),
                    logs: Vec::new(),
                    first_ms: 3,
                    module: Digest::of(b"m"),
                };
                let done = Completed {
                    instance: id,
                    generation: Generation(0),
                    position,
                    key: Some("k"),
                    attempt: 1,
                    outcome: OutcomeKind::ALL[usize::from(*step) % 9],
                    dead: (dead_or_not == 5).then_some(&dead),
                };
                ledger.apply_completion(place, &done);
                ledger.apply_event(&format!("t{position}"), Origin::Outside, commit);
                ledger.apply_outbound("other", position);
                continue;
            }
        };
        ledger.apply_control(place, &ControlRecord { actor: "test".into(), control });
    }
    ledger
}

type Write = (u32, u8, String, Vec<u8>, Option<u64>);

fn writes() -> impl Strategy<Value = Vec<Write>> {
    let name = "[a-zé]{1,3}|[a-z]{255}";
    let value = prop::collection::vec(any::<u8>(), 0..300);
    prop::collection::vec((0..3_u32, 0..40_u8, name, value, any::<Option<u64>>()), 0..200)
}

fn timer() -> impl Strategy<Value = timers::Row> {
    let set = (any::<u64>(), any::<u32>());
    let fired = prop::option::of(1..u64::MAX);
    (0..3_u32, any::<[u64; 3]>(), any::<u64>(), set, fired).prop_map(
        |(instance, id, due_ms, (commit, index), fired)| {
            let set = SetAt { commit: CommitNumber(commit), index };
            let pending = Pending { due: Due { due_ms, set }, fired: fired.map(Position) };
            timers::Row {
                holder: (InstanceId(instance), Generation(instance)),
                id: timers::Id(id),
                pending,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn ledger_and_values_come_back_as_they_were(
        steps in prop::collection::vec((1..5_u32, 0..1_000_000_u64, 0..64_u8), 0..120),
        writes in writes(),
        timers in prop::collection::vec(timer(), 0..300),
        bounds in (0..20_000_u64, 0..20_000_u64),
        commit in 1..=LAST.0,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let values = with_cold(&dir.path().join("before"), bounds.0);
        let mut model = Model::new();
        for (instance, key, name, value, expires_ms) in writes {
            let key = format!("key-{key}");
            let owner = (InstanceId(instance), Generation(instance), key.as_str());
            let bytes = EcoBytes::from(value);
            let expires_ms = expires_ms.map(ends_at);
            let write =
                StateWrite { name: name.as_str().into(), value: Some(bytes.clone()), expires_ms };
            values.apply(owner, Position(1), [write]).unwrap();
            let kept = model.entry((instance, instance, key)).or_default();
            kept.insert(name, Value { bytes, expires_ms });
        }
        if values.is_over() {
            evict_all(&values);
        }
        values.timers().restore(timers);
        let ledger = ledger(&steps);
        let disk = SimDisk::new();
        let written = open(&disk).write(&ledger, &values, at(commit), &[7; 32]).unwrap();
        prop_assert_eq!(written.keys, model.len() as u64);
        prop_assert_eq!(written.bytes, disk.bytes(&file(commit, "")).unwrap().len() as u64);

        let restored = Arc::new(with_cold(&dir.path().join("after"), bounds.1));
        let (found, place, fill) = open(&disk).find(&restored, LAST).unwrap().unwrap();
        let plugins = || (0..3).map(|number| (InstanceId(number), Generation(number)));
        for (instance, generation) in plugins() {
            let used = values.usage(instance, generation);
            prop_assert_eq!(restored.usage(instance, generation), used);
        }
        fill.run().unwrap();
        for (instance, generation) in plugins() {
            let ends = values.next_end_ms(instance, generation);
            prop_assert_eq!(restored.next_end_ms(instance, generation), ends);
        }
        prop_assert_eq!(place, at(commit));
        prop_assert_eq!(json(&found), json(&ledger));
        prop_assert_eq!(dump(&restored), model);
        let rows = |values: &Values| values.timers().rows(None, usize::MAX);
        prop_assert_eq!(rows(&restored), rows(&values));
    }
}

#[test]
fn a_key_larger_than_a_chunk_comes_back_whole() {
    let values = Values::default();
    let size = CHECKPOINT_CHUNK_BYTES;
    for (number, bytes) in [3 * size, 1, size / 2, size - 17, size, 0].into_iter().enumerate() {
        apply(&values, "k", &format!("n{number}"), &vec![7; bytes]);
    }
    apply(&values, "other", "n", b"1");
    let disk = SimDisk::new();
    open(&disk).write(&Ledger::default(), &values, at(5), &[7; 32]).unwrap();
    let restored = Values::default();
    open(&disk).newest(&restored, LAST).unwrap().unwrap();
    assert!(dump(&restored) == dump(&values));
}

#[test]
fn a_ledger_larger_than_a_chunk_comes_back_whole() {
    let mut ledger = Ledger::default();
    for number in 0..9_000 {
        ledger.apply_event(&format!("{number:0>250}"), Origin::Plugin, number);
    }
    let disk = SimDisk::new();
    let written = open(&disk).write(&ledger, &Values::default(), at(5), &[7; 32]).unwrap();
    assert!(written.bytes > 2 * CHECKPOINT_CHUNK_BYTES as u64);
    let (found, _) = open(&disk).newest(&Values::default(), LAST).unwrap().unwrap();
    assert_eq!(json(&found), json(&ledger));
}

#[test]
fn a_read_that_fails_empties_the_cold_store_too() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SimDisk::new();
    let values = Values::default();
    (0..300).for_each(|key| apply(&values, &format!("k{key}"), "n", b"1"));
    open(&disk).write(&Ledger::default(), &values, at(5), &[7; 32]).unwrap();
    let len = disk.bytes(&file(5, "")).unwrap().len();
    disk.damage(&file(5, ""), |bytes| bytes[len - 1] ^= 1);
    let restored = with_cold(&dir.path().join("cold"), 1_000);
    assert!(open(&disk).newest(&restored, LAST).unwrap().is_none());
    assert!(dump(&restored).is_empty());
    assert_eq!((restored.hot_bytes(), restored.cold.as_ref().unwrap().keys()), (0, 0));
}

#[test]
fn keys_asked_for_while_it_is_written_are_in_it_once_and_then_in_memory_alone() {
    let dir = tempfile::tempdir().unwrap();
    let values = Arc::new(with_cold(&dir.path().join("cold"), 0));
    (0..300).for_each(|key| apply(&values, &format!("k{key}"), "n", b"1"));
    evict_all(&values);
    assert_eq!(values.cold.as_ref().unwrap().keys(), 300);
    (0..10).for_each(|key| apply(&values, &format!("k{key}"), "n", b"2"));
    let before = dump(&values);

    let mut visited = BTreeMap::new();
    let mut next = 0..300;
    values
        .each(|owner, values_of| {
            for key in next.by_ref().take(20) {
                let view = values.view(self::owner(&format!("k{key}")), 0).unwrap();
                assert!(view.get("n").is_some());
            }
            *visited.entry(owner.key.to_string()).or_insert(0) += values_of.len();
            Ok::<_, CheckpointError>(())
        })
        .unwrap();
    assert_eq!(visited.len(), 300);
    assert!(visited.values().all(|times| *times == 1));

    assert_eq!(values.cold.as_ref().unwrap().keys(), 0);
    assert_eq!(dump(&values), before);
    // Removed for good: no copy comes back from the cold store.
    for key in 0..300 {
        let write = StateWrite { name: "n".into(), value: None, expires_ms: None };
        let owner = (InstanceId(1), Generation(0), &*format!("k{key}"));
        values.apply(owner, Position(1), [write]).unwrap();
    }
    assert!(dump(&values).is_empty());
    assert_eq!(values.hot_bytes(), 0);
}
