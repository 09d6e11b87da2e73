//! What is counted, claimed and removed.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::effects::{StateWrite, ends_at};
use crate::event::Position;
use crate::state::values::Owner;
use crate::state::view::KeyView;

const WHOSE: Whose = (InstanceId(1), Generation(0));

fn write(name: &str, len: usize, expires_ms: Option<u64>) -> StateWrite {
    let value = (len > 0).then(|| vec![b'x'; len].into());
    StateWrite { name: name.into(), value, expires_ms: expires_ms.map(ends_at) }
}

fn apply(values: &Values, key: &str, position: u64, writes: &[StateWrite]) {
    values.apply((WHOSE.0, WHOSE.1, key), Position(position), writes.iter().cloned()).unwrap();
}

fn view(values: &Arc<Values>, key: &str, quota: StateQuota) -> KeyView {
    let owner = Owner { instance: WHOSE.0, generation: WHOSE.1, key: Key::new(key).unwrap() };
    values.view(owner, 0).unwrap().within(quota)
}

fn usage(values: &Values) -> (u64, u64) {
    let Usage { bytes, keys } = values.usage(WHOSE.0, WHOSE.1);
    (bytes, keys)
}

fn expire(values: &Values, until_ms: u64) {
    values.expire(WHOSE, until_ms, |_| false).unwrap();
}

#[test]
fn usage_is_what_stands_there() {
    let values = Values::default();
    apply(&values, "a", 1, &[write("n", 9, None), write("m", 4, None)]);
    apply(&values, "b", 2, &[write("n", 1, None)]);
    assert_eq!(usage(&values), (17, 2));
    apply(&values, "a", 3, &[write("n", 2, None), write("m", 0, None)]);
    assert_eq!(usage(&values), (5, 2));
    apply(&values, "b", 4, &[write("n", 0, None)]);
    assert_eq!(usage(&values), (3, 1));
    values.forget(WHOSE.0).unwrap();
    assert_eq!(usage(&values), (0, 0));
}

#[test]
fn what_ended_is_removed_in_the_order_of_ends_and_nothing_else_is() {
    let values = Values::default();
    apply(&values, "a", 1, &[write("n", 1, Some(100)), write("m", 1, None)]);
    apply(&values, "b", 2, &[write("n", 1, Some(50))]);
    assert_eq!(values.next_end_ms(WHOSE.0, WHOSE.1), Some(50));
    expire(&values, 99);
    assert_eq!(usage(&values), (4, 1));
    assert_eq!(values.next_end_ms(WHOSE.0, WHOSE.1), Some(100));
    expire(&values, 100);
    assert_eq!(usage(&values), (2, 1));
    assert_eq!(values.next_end_ms(WHOSE.0, WHOSE.1), None);
}

#[test]
fn a_value_that_is_set_again_lives_on() {
    let values = Values::default();
    apply(&values, "a", 1, &[write("n", 1, Some(100))]);
    apply(&values, "a", 2, &[write("n", 1, Some(200))]);
    expire(&values, 150);
    assert_eq!(usage(&values), (2, 1));
    apply(&values, "a", 3, &[write("n", 1, None)]);
    expire(&values, 500);
    assert_eq!(usage(&values), (2, 1));
}

#[test]
fn keys_that_are_to_be_kept_are() {
    let values = Values::default();
    apply(&values, "a", 1, &[write("n", 1, Some(1))]);
    apply(&values, "b", 2, &[write("n", 1, Some(1))]);
    values.expire(WHOSE, 5, |key| key.as_str() == "a").unwrap();
    assert_eq!(usage(&values), (2, 1));
    expire(&values, 5);
    assert_eq!(usage(&values), (0, 0));
}

#[test]
fn two_deliveries_cannot_have_the_same_room() {
    let values = Arc::new(Values::default());
    let quota = StateQuota { bytes: 15, ..StateQuota::default() };
    let (a, b) = (view(&values, "a", quota), view(&values, "b", quota));
    assert_eq!(a.grow("n", None, 10), Ok(()));
    assert_eq!(b.grow("n", None, 6), Err("limits.state"));
    assert_eq!(b.grow("n", None, 5), Ok(()));
    // A delivery that comes to nothing gives its room back.
    drop(a);
    assert_eq!(b.grow("n", Some(5), 15), Ok(()));
    b.push_pending(Position(1), [write("n", 14, None)].into());
    let c = view(&values, "c", quota);
    assert_eq!(c.grow("n", None, 1), Err("limits.state"), "it is pending");
    apply(&values, "b", 1, &[write("n", 14, None)]);
    assert_eq!(c.grow("n", None, 1), Err("limits.state"), "it is durable");
    apply(&values, "b", 2, &[write("n", 0, None)]);
    assert_eq!(c.grow("n", None, 15), Ok(()));
}

#[test]
fn a_delivery_replaces_what_the_one_before_is_about_to_write() {
    let values = Arc::new(Values::default());
    let quota = StateQuota { key_bytes: 10, ..StateQuota::default() };
    let first = view(&values, "a", quota);
    assert_eq!(first.grow("n", None, 10), Ok(()));
    first.push_pending(Position(1), [write("n", 9, None)].into());
    let second = view(&values, "a", quota);
    assert_eq!(second.grow("m", None, 2), Err("limits.state-per-key"));
    assert_eq!(second.grow("n", None, 8), Ok(()));
    assert_eq!(second.grow("m", None, 2), Ok(()));
}

#[test]
fn keys_are_limited_and_what_is_there_may_change() {
    let values = Arc::new(Values::default());
    let quota = StateQuota { keys: 1, ..StateQuota::default() };
    apply(&values, "a", 1, &[write("n", 1, None)]);
    assert_eq!(view(&values, "b", quota).grow("n", None, 2), Err("limits.keys"));
    assert_eq!(view(&values, "a", quota).grow("m", None, 200), Ok(()));
}

#[test]
fn over_a_limit_that_was_lowered_state_can_only_shrink() {
    let values = Arc::new(Values::default());
    apply(&values, "a", 1, &[write("n", 99, None)]);
    let quota = StateQuota { bytes: 50, keys: 1, key_bytes: 50 };
    let view = view(&values, "a", quota);
    assert_eq!(view.grow("n", None, 100), Ok(()));
    assert_eq!(view.grow("n", Some(100), 60), Ok(()));
    assert_eq!(view.grow("m", None, 45), Err("limits.state-per-key"));
}

/// Key, name, bytes, end.
fn step() -> impl Strategy<Value = (u8, u8, usize, Option<u64>, bool)> {
    (0..4_u8, 0..3_u8, 0..30_usize, prop::option::of(0..60_u64), any::<bool>())
}

proptest! {
    /// Deliveries on a moving clock, each applied some time after the next ones have begun.
    #[test]
    fn durable_state_never_exceeds_its_limits_and_is_counted_exactly(
        steps in prop::collection::vec(step(), 1..150),
        (bytes, keys, key_bytes) in (20..120_u64, 1..4_u64, 10..60_u64),
    ) {
        let values = Arc::new(Values::default());
        let quota = StateQuota { bytes, keys, key_bytes };
        let mut on_their_way: std::collections::VecDeque<(String, u64, StateWrite)> =
            std::collections::VecDeque::new();
        for (at, (key, name, len, ttl_ms, lands)) in steps.into_iter().enumerate() {
            let now_ms = at as u64;
            let (key, name) = (format!("k{key}"), format!("n{name}"));
            let owner =
                Owner { instance: WHOSE.0, generation: WHOSE.1, key: Key::new(&key).unwrap() };
            let view = values.view(owner, now_ms).unwrap().within(quota);
            let new = if len > 0 { name.len() + len } else { 0 };
            if view.grow(&name, None, new).is_ok() {
                let write = write(&name, len, ttl_ms.map(|ttl_ms| now_ms + ttl_ms));
                view.push_pending(Position(now_ms + 1), [write.clone()].into());
                on_their_way.push_back((key, now_ms + 1, write));
            }
            while lands && let Some((key, position, write)) = on_their_way.pop_front() {
                apply(&values, &key, position, &[write]);
                let (used_bytes, used_keys) = usage(&values);
                prop_assert!(used_bytes <= bytes && used_keys <= keys);
            }
            if lands {
                expire(&values, now_ms);
                let mut counted = (0, 0);
                values
                    .each(|_, values| {
                        assert!(values.iter().all(|(_, value)| value.lives_at(now_ms)));
                        counted.0 += Measure::of(values).bytes as u64;
                        counted.1 += 1;
                        Ok::<_, ColdError>(())
                    })
                    .unwrap();
                prop_assert_eq!(usage(&values), counted);
                let accounts = values.accounts.lock();
                let claimed = accounts.get(&WHOSE).map(|account| account.claimed);
                prop_assert_eq!(claimed.unwrap_or_default(), Usage::default());
            }
        }
    }
}
