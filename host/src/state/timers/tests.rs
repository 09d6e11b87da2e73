use super::*;

const HOLDER: Holder = (InstanceId(1), Generation(0));

fn set(name: &str, due_ms: u64) -> TimerRef<'_> {
    TimerRef::Set { name, due_ms, data: b"" }
}

fn served(commit: u64, key: &str, position: u64) -> Served<'_> {
    let (commit, position) = (CommitNumber(commit), Position(position));
    Served { holder: HOLDER, key, position, commit, dead: false }
}

fn due(due_ms: u64, commit: u64, index: u32) -> Due {
    Due { due_ms, set: SetAt { commit: CommitNumber(commit), index } }
}

/// The parts of a pile that follow from its names are what they should be.
fn check(timers: &Timers) {
    let rebuilt = Timers::default();
    rebuilt.restore(timers.rows(None, usize::MAX));
    let (piles, again) = (lock(&timers.piles), lock(&rebuilt.piles));
    assert_eq!(piles.keys().collect::<Vec<_>>(), again.keys().collect::<Vec<_>>());
    for (pile, other) in piles.values().zip(again.values()) {
        assert_eq!((&pile.order, &pile.fired), (&other.order, &other.fired));
        assert_eq!(pile.order.len() + pile.fired.len(), pile.by_name.len());
    }
}

fn at_hand(timers: &Timers, now_ms: u64) -> Vec<Due> {
    let due = timers.due(now_ms, 100, |_| Position(0), 100);
    due.into_iter().map(|(_, due)| due).collect()
}

#[test]
fn set_replaces_and_cancel_removes_by_key_and_name() {
    let timers = Timers::default();
    timers.apply(&served(1, "a", 1), [set("t", 10), set("u", 5), set("t", 20)]);
    timers.apply(&served(2, "b", 2), [set("t", 7), TimerRef::Cancel { name: "u" }]);
    assert_eq!(at_hand(&timers, 100), [due(5, 1, 1), due(7, 2, 0), due(20, 1, 2)]);
    timers.apply(&served(3, "a", 3), [TimerRef::Cancel { name: "t" }]);
    assert_eq!(at_hand(&timers, 100), [due(5, 1, 1), due(7, 2, 0)]);
    assert_eq!((timers.count(InstanceId(1)), timers.next_due_ms()), (2, Some(5)));
    check(&timers);
}

#[test]
fn a_timer_that_is_set_again_is_not_counted_beside_itself() {
    let timers = Timers::default();
    timers.apply(&served(1, "a", 1), [set("t", 10), set("u", 5)]);
    let others = |key, name| timers.others(HOLDER, key, name);
    assert_eq!((others("a", "t"), others("a", "v"), others("b", "t")), (1, 2, 2));
    assert_eq!(timers.others((InstanceId(1), Generation(1)), "a", "t"), 0);
}

#[test]
fn only_what_is_due_is_at_hand_and_no_more_than_there_is_room_for() {
    let timers = Timers::default();
    timers.apply(&served(1, "a", 1), [set("t", 10), set("u", 11), set("v", 12)]);
    assert_eq!(at_hand(&timers, 9), []);
    assert_eq!(at_hand(&timers, 11).len(), 2);
    timers.fire(HOLDER, ("a", "t"), due(10, 1, 0).set, Position(50));
    let room = |read, ahead_max| timers.due(100, 10, |_| Position(read), ahead_max).len();
    assert_eq!((room(49, 1), room(49, 2), room(50, 1), room(50, 5)), (0, 1, 1, 2));
}

#[test]
fn the_end_of_a_fire_takes_away_that_very_timer() {
    let timers = Timers::default();
    timers.apply(&served(1, "a", 1), [set("t", 10), set("u", 10)]);
    for (name, index) in [("t", 0), ("u", 1)] {
        timers.fire(HOLDER, ("a", name), due(10, 1, index).set, Position(50 + u64::from(index)));
    }
    assert_eq!(at_hand(&timers, 100), [], "at most one fire each");
    timers.apply(&served(2, "a", 40), [set("t", 30)]);
    timers.apply(&served(3, "a", 50), []);
    assert_eq!(timers.pending(HOLDER, "a", "t").map(|t| t.due), Some(due(30, 2, 0)), "replaced");
    timers.apply(&Served { dead: true, ..served(4, "a", 51) }, []);
    assert!(timers.pending(HOLDER, "a", "u").is_some(), "given up is not over");
    timers.apply(&served(5, "a", 51), [set("u", 99)]);
    assert_eq!(timers.pending(HOLDER, "a", "u").map(|t| t.due), Some(due(99, 5, 0)));
    check(&timers);
}

#[test]
fn a_generation_starts_with_its_own_and_a_plugin_goes_with_all() {
    let timers = Timers::default();
    timers.apply(&served(1, "a", 1), [set("t", 10)]);
    let next = (InstanceId(1), Generation(1));
    let other = (InstanceId(2), Generation(0));
    for holder in [next, other] {
        timers.apply(&Served { holder, ..served(2, "a", 1) }, [set("t", 20)]);
    }
    timers.apply(&served(3, "b", 2), [set("t", 10), set("u", 10), set("v", 10)]);
    for (index, name) in (0_u32..).zip(["t", "u"]) {
        timers.fire(HOLDER, ("b", name), due(10, 3, index).set, Position(50 + u64::from(index)));
    }
    let generation = Generation(1);
    timers.rewind((InstanceId(1), generation), Position(50));
    assert_eq!(timers.pending(HOLDER, "a", "t"), None);
    let kept = |name| timers.pending((InstanceId(1), generation), "b", name).map(|t| t.fired);
    assert_eq!(["t", "u", "v"].map(kept), [Some(Some(Position(50))), None, None]);
    assert!(timers.pending(next, "a", "t").is_some());
    timers.forget(InstanceId(1));
    assert_eq!((timers.count(InstanceId(1)), timers.count(InstanceId(2))), (0, 1));
    check(&timers);
}

#[test]
fn pages_go_on_where_the_last_one_ended() {
    let timers = Timers::default();
    for n in 0..50 {
        let key = if n % 2 == 0 { "even" } else { "odd" };
        timers.apply(&served(n + 1, key, n), [set(&n.to_string(), n * 7 % 50)]);
    }
    timers.fire(HOLDER, ("even", "0"), due(0, 1, 0).set, Position(99));
    for key in [None, Some("odd")] {
        let hash = key.map(KeyHash::of);
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = timers.page(HOLDER, hash, after, 7);
            let Some(last) = page.last() else { break };
            after = Some(last.due);
            all.extend(page);
        }
        assert!(all.is_sorted_by_key(|timer| timer.due));
        assert_eq!(all.len(), if key.is_some() { 25 } else { 50 });
        assert_eq!(all[0].fired.is_some(), key.is_none());
    }
}

#[test]
fn a_key_is_settled_once_its_last_delivery_is() {
    let (timers, key) = (Timers::default(), KeyHash::of("a"));
    timers.submit(InstanceId(1), key, Position(1));
    timers.submit(InstanceId(1), key, Position(2));
    timers.settle(InstanceId(1), key, Position(1));
    assert!(!timers.is_settled(InstanceId(1), key));
    assert!(timers.is_settled(InstanceId(1), KeyHash::of("b")));
    timers.settle(InstanceId(1), key, Position(2));
    assert!(timers.is_settled(InstanceId(1), key));
}

/// A delivery was once settled before its changes held: a fire that looked in between found a timer
/// pending that had just been cancelled.
#[test]
fn who_finds_a_delivery_settled_finds_what_it_changed() {
    const ROUNDS: u64 = 20_000;
    let mut wrong = 0;
    let (timers, key) = (Timers::default(), KeyHash::of("a"));
    let turn = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=ROUNDS {
                let at = 2 * round;
                timers.end(&served(at, "a", at), key, Some([set("t", 10)]));
                timers.submit(InstanceId(1), key, Position(at + 1));
                turn.store(round, Ordering::SeqCst);
                let cancel = TimerRef::Cancel { name: "t" };
                timers.end(&served(at + 1, "a", at + 1), key, Some([cancel]));
                while turn.load(Ordering::SeqCst) == round {
                    std::thread::yield_now();
                }
            }
        });
        for round in 1..=ROUNDS {
            while turn.load(Ordering::SeqCst) != round || !timers.is_settled(InstanceId(1), key) {
                std::thread::yield_now();
            }
            wrong += usize::from(timers.pending(HOLDER, "a", "t").is_some());
            turn.store(0, Ordering::SeqCst);
        }
    });
    assert_eq!(wrong, 0);
}

#[test]
fn a_fire_that_a_repair_takes_to_be_over_has_served_its_timer() {
    let timers = Timers::default();
    timers.apply(&served(1, "a", 1), [set("t", 10), set("u", 10), set("v", 99)]);
    for (name, index) in [("t", 0), ("u", 1)] {
        timers.fire(HOLDER, ("a", name), due(10, 1, index).set, Position(50 + u64::from(index)));
    }
    let over = |generation, first, last| Control::Lost {
        first: CommitNumber(2),
        last: CommitNumber(3),
        events: 0,
        instances: InstanceId(1),
        over: vec![LostDeliveries {
            instance: InstanceId(1),
            generation: Generation(generation),
            positions: vec![(Position(first), Position(last))],
        }],
    };
    timers.apply_control(&over(1, 1, 100));
    timers.apply_control(&over(0, 100, 1));
    assert_eq!(timers.count(InstanceId(1)), 3, "another generation, and a run of nothing");
    timers.apply_control(&over(0, 2, 50));
    let pending = |name| timers.pending(HOLDER, "a", name).is_some();
    assert_eq!((pending("t"), pending("u"), pending("v")), (false, true, true));
    check(&timers);
}
