use proptest::prelude::*;

use super::*;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

fn at(positions: &[u64]) -> Vec<Position> {
    positions.iter().copied().map(Position).collect()
}

#[test]
fn an_identity_is_found_where_it_was_taken() {
    let hasher = IdHasher::new(&[7; 16]);
    let dedup = Dedup::new(DAY_MS, 100);
    dedup.insert(hasher.of("shop", "1"), Position(3), 1000);
    assert_eq!(dedup.lookup(hasher.of("shop", "1")), at(&[3]));
    assert_eq!(dedup.lookup(hasher.of("shop", "2")), at(&[]));
}

#[test]
fn source_and_id_do_not_run_together_and_logs_differ() {
    let hasher = IdHasher::new(&[7; 16]);
    assert_ne!(hasher.of("ab", "c"), hasher.of("a", "bc"));
    assert_ne!(hasher.of("ab", "c"), IdHasher::new(&[8; 16]).of("ab", "c"));
}

#[test]
fn identities_with_one_hash_are_all_candidates() {
    let dedup = Dedup::new(DAY_MS, 100);
    dedup.insert_all([9, 4, 9, 9].iter().zip(1..).map(|(hash, position)| DedupEntry {
        hash: IdHash(*hash),
        position: Position(position),
        time_ms: 0,
    }));
    assert_eq!(dedup.lookup(IdHash(9)), at(&[1, 3, 4]));
    assert_eq!(dedup.lookup(IdHash(4)), at(&[2]));
    assert_eq!(dedup.lookup(IdHash(1)), at(&[]));
}

#[test]
fn few_are_suspected_at_a_glance_that_are_not_there() {
    let hasher = IdHasher::new(&[7; 16]);
    let dedup = Dedup::new(DAY_MS, 100_000);
    for number in 0..10_000 {
        dedup.insert(hasher.of("shop", &number.to_string()), Position(number + 1), 1000);
    }
    let glance = dedup.glance();
    let suspected = |source: &str| {
        let hash = |number: u64| hasher.of(source, &number.to_string());
        (0..10_000).filter(|number| glance.may_hold(hash(*number))).count()
    };
    assert_eq!(suspected("shop"), 10_000);
    assert!(suspected("mill") < 2000, "{}", suspected("mill"));
}

#[test]
fn time_drops_an_entry_within_a_second_after_its_window_and_never_early() {
    let dedup = Dedup::new(DAY_MS, 100);
    dedup.insert(IdHash(1), Position(1), 5_000);
    dedup.insert(IdHash(2), Position(2), 5_999);
    dedup.insert(IdHash(3), Position(3), 6_000);
    dedup.expire(5_999 + DAY_MS);
    assert_eq!(dedup.len(), 3);
    dedup.expire(6_000 + DAY_MS);
    assert_eq!(dedup.len(), 1);
    assert_eq!(dedup.lookup(IdHash(2)), at(&[]));
    assert_eq!(dedup.lookup(IdHash(3)), at(&[3]));
    assert_eq!(dedup.window(6_000 + DAY_MS), DedupWindow { ms: DAY_MS, count: 1 });
    dedup.expire(7_000 + DAY_MS);
    assert!(dedup.is_empty());
}

#[test]
fn the_count_pushes_out_the_oldest_and_the_window_says_so() {
    let dedup = Dedup::new(DAY_MS, 2);
    for n in 1..=3 {
        dedup.insert(IdHash(n), Position(n), n * 10_000);
    }
    assert_eq!(dedup.lookup(IdHash(1)), at(&[]));
    assert_eq!(dedup.lookup(IdHash(2)), at(&[2]));
    assert_eq!(dedup.window(40_000), DedupWindow { ms: 40_000 - 10_999, count: 2 });
    assert_eq!(dedup.window(40_000 + DAY_MS).ms, DAY_MS);
}

#[test]
fn positions_far_apart_are_kept_exactly() {
    let dedup = Dedup::new(DAY_MS, 100);
    let far = [1, 1 << 40, (1 << 40) + 1, u64::MAX];
    for (n, position) in far.iter().enumerate() {
        dedup.insert(IdHash(n as u64), Position(*position), 0);
    }
    for (n, position) in far.iter().enumerate() {
        assert_eq!(dedup.lookup(IdHash(n as u64)), at(&[*position]));
    }
    dedup.expire(DAY_MS + 1000);
    assert!(dedup.is_empty());
    dedup.insert(IdHash(1), Position(5), DAY_MS);
    assert_eq!(dedup.lookup(IdHash(1)), at(&[5]));
}

#[test]
fn an_entry_takes_at_most_24_bytes_and_a_burst_is_given_back() {
    let dedup = Dedup::new(1000, 10_000_000);
    let hash = |n: u64| IdHash(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    dedup.insert_all((0..300_000).map(|n| DedupEntry {
        hash: hash(n),
        position: Position(n),
        time_ms: 0,
    }));
    let bytes = dedup.memory_bytes() / dedup.len();
    assert!((12..=24).contains(&bytes), "{bytes} bytes an entry");
    dedup.insert(hash(300_000), Position(300_000), 1500);
    dedup.expire(2000);
    assert_eq!(dedup.len(), 1);
    assert!(dedup.memory_bytes() < 200_000, "{} bytes", dedup.memory_bytes());
}

#[test]
fn a_refill_keeps_the_newest_and_says_how_far_they_reach() {
    let dedup = Dedup::new(DAY_MS, 2);
    let fed: Result<(), &str> = dedup.refill(4, |take| {
        (1..=4).for_each(|n| {
            take(DedupEntry { hash: IdHash(n), position: Position(n), time_ms: n * 10_000 });
        });
        Err("the file ends early")
    });
    assert_eq!(fed, Err("the file ends early"));
    assert_eq!(dedup.lookup(IdHash(2)), at(&[]));
    assert_eq!(dedup.lookup(IdHash(3)), at(&[3]));
    assert_eq!(dedup.window(50_000), DedupWindow { ms: 50_000 - 20_999, count: 2 });
}

#[derive(Debug, Clone)]
enum Step {
    Insert { hash: u64, gap: u64, pause_ms: u64 },
    Expire { pause_ms: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let gap = prop_oneof![8 => 1..4_u64, 1 => Just(1_u64 << 33)];
    prop_oneof![
        6 => (0..12_u64, gap, 0..900_u64)
            .prop_map(|(hash, gap, pause_ms)| Step::Insert { hash, gap, pause_ms }),
        1 => (0..9_000_u64).prop_map(|pause_ms| Step::Expire { pause_ms }),
    ]
}

/// The model: a list, with the mark rule spelled out.
#[derive(Default)]
struct Model {
    entries: Vec<(DedupEntry, u64)>,
    mark_ms: Option<u64>,
}

impl Model {
    fn insert(&mut self, entry: DedupEntry, count_max: usize) {
        let is_new = self.mark_ms.is_none_or(|ms| entry.time_ms >= ms + 1000);
        let mark_ms = if is_new { entry.time_ms } else { self.mark_ms.unwrap() };
        self.mark_ms = Some(mark_ms);
        self.entries.push((entry, mark_ms));
        let excess = self.entries.len().saturating_sub(count_max);
        self.entries.drain(..excess);
    }

    fn expire(&mut self, now_ms: u64, window_ms: u64) {
        self.entries.retain(|(_, mark_ms)| mark_ms + 1000 + window_ms > now_ms);
        if self.entries.is_empty() {
            self.mark_ms = None;
        }
    }
}

proptest! {
    #[test]
    fn behaves_like_a_list(steps in proptest::collection::vec(step(), 0..400), count_max in 1..60_usize) {
        let window_ms = 5_000;
        let dedup = Dedup::new(window_ms, count_max);
        let mut model = Model::default();
        let (mut now_ms, mut position) = (1_000, 0);
        for step in steps {
            match step {
                Step::Insert { hash, gap, pause_ms } => {
                    now_ms += pause_ms;
                    position += gap;
                    let entry = DedupEntry { hash: IdHash(hash), position: Position(position), time_ms: now_ms };
                    dedup.insert_all([entry]);
                    model.insert(entry, count_max);
                }
                Step::Expire { pause_ms } => {
                    now_ms += pause_ms;
                    dedup.expire(now_ms);
                    model.expire(now_ms, window_ms);
                }
            }
            prop_assert_eq!(dedup.len(), model.entries.len());
            for hash in 0..12 {
                let expected: Vec<Position> = model.entries.iter()
                    .filter(|(entry, _)| entry.hash.0 == hash).map(|(entry, _)| entry.position).collect();
                prop_assert!(expected.is_empty() || dedup.glance().may_hold(IdHash(hash)));
                prop_assert_eq!(dedup.lookup(IdHash(hash)), expected);
            }
        }
        let refilled = Dedup::new(window_ms, count_max);
        let fed: Result<(), ()> = refilled.refill(model.entries.len() / 2, |take| {
            model.entries.iter().for_each(|(entry, _)| take(*entry));
            Ok(())
        });
        prop_assert_eq!(fed, Ok(()));
        for hash in 0..12 {
            prop_assert_eq!(refilled.lookup(IdHash(hash)), dedup.lookup(IdHash(hash)));
        }
        let mut held = Vec::new();
        dedup.for_each(|entry| held.push(entry));
        let expected: Vec<DedupEntry> = model.entries.iter()
            .map(|(entry, mark_ms)| DedupEntry { time_ms: *mark_ms, ..*entry }).collect();
        prop_assert_eq!(held, expected);
    }
}
