use super::*;

fn owner(key: &str) -> Owner {
    Owner { instance: InstanceId(1), generation: Generation(0), key: Key::new(key).unwrap() }
}

fn text(values: &Values, now_ms: u64) -> Option<EcoBytes> {
    values.get(&owner("k"), "n", now_ms).unwrap().map(|value| value.bytes)
}

fn set(name: &str, value: &str) -> StateWrite {
    let value = Some(EcoBytes::from(value.as_bytes()));
    StateWrite { name: name.into(), value, expires_ms: None }
}

fn apply(values: &Values, key: &str, position: u64, writes: &[StateWrite]) {
    let owner = (InstanceId(1), Generation(0), key);
    values.apply(owner, Position(position), writes.iter().cloned()).unwrap();
}

#[test]
fn pending_writes_are_seen_by_the_next_delivery_alone() {
    let values = Arc::new(Values::default());
    values.view(owner("k"), 0).unwrap().push_pending(Position(1), [set("n", "1")].into());
    assert_eq!(values.view(owner("k"), 0).unwrap().get("n").as_deref(), Some(&b"1"[..]));
    assert_eq!(values.view(owner("k"), 0).unwrap().list("", None, 10), ["n"]);
    assert_eq!(text(&values, 0), None);
    apply(&values, "k", 1, &[set("n", "1")]);
    assert_eq!(text(&values, 0).as_deref(), Some(&b"1"[..]));
}

#[test]
fn all_of_a_key_in_one_go_is_what_each_name_stands_for() {
    let values = Arc::new(Values::default());
    let until = |name: &str, end: u64| StateWrite {
        expires_ms: std::num::NonZeroU64::new(end),
        ..set(name, "x")
    };
    let gone = |name: &str| StateWrite { name: name.into(), value: None, expires_ms: None };
    let durable = [set("c", "1"), set("a", "1"), set("d", "1"), until("e", 5), until("f", 50)];
    apply(&values, "k", 1, &durable);
    let push = |position: u64, writes: &[StateWrite]| {
        values.view(owner("k"), 9).unwrap().push_pending(Position(position), writes.to_vec());
    };
    push(2, &[set("a", "2"), gone("d"), set("b", "2"), set("g", "2")]);
    push(3, &[set("a", "3"), gone("g"), set("d", "3"), until("b", 8)]);
    let view = values.view(owner("k"), 9).unwrap();
    let all = view.all(10).unwrap();
    assert_eq!(view.list("", None, 10), ["a", "c", "d", "f"]);
    let each = |name: String| (name.clone(), view.get(&name).unwrap());
    assert_eq!(all, view.list("", None, 10).into_iter().map(each).collect::<Vec<_>>());
    assert_eq!(view.all(8).as_ref(), Some(&all));
    assert_eq!(view.all(7), None);
    assert_eq!(values.view(owner("other"), 9).unwrap().all(0), Some(Vec::new()));
}

#[test]
fn applying_an_older_commit_leaves_newer_pending_writes_in_front() {
    let values = Arc::new(Values::default());
    values.view(owner("k"), 0).unwrap().push_pending(Position(1), [set("n", "1")].into());
    values.view(owner("k"), 0).unwrap().push_pending(Position(2), [set("n", "2")].into());
    apply(&values, "k", 1, &[set("n", "1")]);
    assert_eq!(values.view(owner("k"), 0).unwrap().get("n").as_deref(), Some(&b"2"[..]));
    assert_eq!(text(&values, 0).as_deref(), Some(&b"1"[..]));
}

#[test]
fn a_key_without_values_costs_nothing() {
    let values = Arc::new(Values::default());
    let _ = values.view(owner("seen"), 0).unwrap().get("n");
    apply(&values, "k", 1, &[set("n", "1")]);
    apply(&values, "k", 2, &[StateWrite { name: "n".into(), value: None, expires_ms: None }]);
    let entries: usize =
        values.shards.all().unwrap().iter().map(|shard| lock(shard).entries.len()).sum();
    assert_eq!(entries, 0);
}

#[test]
fn a_view_made_before_its_entry_went_away_still_writes_where_the_next_one_reads() {
    let values = Arc::new(Values::default());
    apply(&values, "k", 1, &[set("n", "1")]);
    let view = values.view(owner("k"), 0).unwrap();
    apply(&values, "k", 2, &[StateWrite { name: "n".into(), value: None, expires_ms: None }]);
    view.push_pending(Position(3), [set("n", "3")].into());
    assert_eq!(values.view(owner("k"), 0).unwrap().get("n").as_deref(), Some(&b"3"[..]));
}

#[test]
fn bytes_in_memory_come_back_to_nothing() {
    let values = Arc::new(Values::default());
    apply(&values, "k", 1, &[set("n", "12345"), set("m", "1")]);
    apply(&values, "k", 2, &[set("n", "1")]);
    assert!(values.hot_bytes() > 0);
    values.forget(InstanceId(1)).unwrap();
    assert_eq!(values.hot_bytes(), 0);
}

#[test]
fn a_value_is_gone_at_its_end() {
    let values = Arc::new(Values::default());
    let mut write = set("n", "1");
    write.expires_ms = NonZeroU64::new(100);
    apply(&values, "k", 1, &[write]);
    assert!(text(&values, 99).is_some());
    assert!(text(&values, 100).is_none());
    assert!(values.view(owner("k"), 100).unwrap().list("", None, 10).is_empty());
}

#[test]
fn what_the_log_says_counts_whatever_is_pending() {
    let values = Arc::new(Values::default());
    for (number, pending, logged) in [(1, "1", "1"), (2, "2", "other")] {
        let position = Position(number);
        values.view(owner("k"), 0).unwrap().push_pending(position, vec![set("n", pending)]);
        let (whose, written) = ((InstanceId(1), Generation(0)), set("n", logged));
        let logged_writes = [StateRef::of(&written)];
        let key = ("k", KeyHash::of("k"));
        values.apply_logged(whose, key, (position, &logged_writes)).unwrap();
        assert_eq!(text(&values, 0).as_deref(), Some(logged.as_bytes()));
        let seen = values.view(owner("k"), 0).unwrap().get("n");
        assert_eq!(seen.as_deref(), Some(logged.as_bytes()), "nothing is pending any more");
    }
}
