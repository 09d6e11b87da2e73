use bytes::Bytes;

use super::again::verdict;
use super::*;
use crate::effects::{Effects, OutgoingCall, Response, StateWrite, TimerChange, ends_at};
use crate::event::{CommitNumber, KeySequence, NewEvent};
use crate::log::record::{Completion, Mode};
use crate::state::Value;
use crate::wasm::StateView;

fn input(kind: &str, attributes: &[(&str, &str)]) -> Event {
    let attributes = attributes.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
    Event {
        position: Position(4),
        sequence: KeySequence(1),
        recorded_ms: 1,
        commit: CommitNumber(4),
        body: NewEvent {
            kind: kind.into(),
            key: Key::new("k").ok(),
            attributes,
            ..NewEvent::default()
        },
    }
}

fn commit(outcome: OutcomeKind, effects: Effects) -> DeliveryCommit {
    let completion = Completion {
        instance: InstanceId(1),
        generation: Generation(0),
        position: Position(4),
        key: Key::new("k").ok(),
        environment: Digest::default(),
        attempt: 1,
        mode: Mode::Live,
        outcome,
        fuel: 7,
        response: effects.response,
    };
    let emits = effects.emits.into_iter().map(|draft| NewEvent {
        id: draft.id,
        kind: draft.kind,
        data: draft.data,
        attributes: draft.attributes,
        ..NewEvent::default()
    });
    DeliveryCommit {
        completion,
        emits: emits.collect(),
        state: effects.state,
        timers: effects.timers,
        calls: effects.calls,
        dead_letter: None,
        park: false,
    }
}

fn full() -> Effects {
    let value = Some(b"40".into());
    Effects {
        emits: vec![crate::effects::Draft {
            id: "1".into(),
            kind: "order.totalled".into(),
            key: None,
            bus: None,
            content_type: "".into(),
            data: Bytes::from_static(b"{}"),
            attributes: vec![("causationid".into(), "o-1".into()), ("tone".into(), "high".into())],
        }],
        state: vec![StateWrite { name: "sum".into(), value, expires_ms: Some(ends_at(9)) }],
        timers: vec![TimerChange::Set { name: "check".into(), due_ms: 5, data: Bytes::new() }],
        calls: vec![OutgoingCall {
            idempotency_key: "a".into(),
            name: "hook".into(),
            method: "POST".into(),
            url: "https://example.com".into(),
            headers: Vec::new(),
            body: Bytes::from_static(b"x"),
            timeout_ms: 5,
        }],
        response: Some(Response { data: Bytes::from_static(b"41"), ..Response::default() }),
    }
}

fn told(again: Effects) -> Vec<String> {
    let (was, is) = (commit(OutcomeKind::Ok, full()), commit(OutcomeKind::Ok, again));
    changes(&input("a.b", &[]), &was, &is)
        .into_iter()
        .map(|change| format!("{}: {} -> {}", change.what, change.before, change.after))
        .collect()
}

#[test]
fn what_only_follows_from_the_delivery_is_not_compared() {
    let mut again = full();
    again.emits[0].id = "2".into();
    again.emits[0].attributes[0].1 = "o-2".into();
    again.calls[0].idempotency_key = "b".into();
    assert_eq!(told(again), Vec::<String>::new());
}

#[test]
fn every_effect_that_differs_is_told_in_words() {
    let mut again = full();
    again.state[0].value = Some(b"41".into());
    again.state.push(StateWrite { name: "new".into(), value: None, expires_ms: None });
    again.emits.clear();
    again.timers[0] = TimerChange::Cancel { name: "check".into() };
    again.calls[0].body = Bytes::from_static(b"\xff");
    again.response = None;
    assert_eq!(
        told(again),
        [
            "state `new`: not written -> deleted",
            "state `sum`: 40 until 9 ms -> 41 until 9 ms",
            "timer change 1: set `check` for 5 ms with  -> cancel `check`",
            "emitted event 1: order.totalled tone=high  {} -> nothing",
            "call 1: `hook` POST https://example.com [] within 5 ms x -> \
             `hook` POST https://example.com [] within 5 ms 0xff",
            "response:  [] 41 -> nothing",
        ]
    );
}

#[test]
fn another_outcome_is_the_difference_and_failures_are_alike() {
    let event = input("a.b", &[]);
    let (ok, trap) = (commit(OutcomeKind::Ok, full()), commit(OutcomeKind::Trap, full()));
    assert_eq!(changes(&event, &ok, &trap).len(), 1);
    assert_eq!(changes(&event, &trap, &commit(OutcomeKind::Trap, Effects::default())), []);
}

#[test]
fn the_timer_that_the_host_took_away_is_no_change() {
    let fire = input(private::TIMER, &[("timername", "check")]);
    let mut effects = full();
    effects.timers.insert(0, TimerChange::Cancel { name: "check".into() });
    let was = commit(OutcomeKind::Ok, effects);
    let is = commit(OutcomeKind::Ok, full());
    assert_eq!(changes(&fire, &was, &is), []);
    assert_ne!(changes(&input("a.b", &[]), &was, &is), []);
}

#[test]
fn limits_that_the_machine_or_the_instance_decides_prove_nothing() {
    let event = input("a.b", &[]);
    let of = |kind| commit(kind, Effects::default());
    let judge = |was, is, same| verdict(&event, &of(was), &of(is), same);
    let timeout = Verdict::NotReplayable(Obstacle::Timeout);
    assert_eq!(judge(OutcomeKind::Timeout, OutcomeKind::Ok, true), timeout);
    assert_eq!(judge(OutcomeKind::Ok, OutcomeKind::Timeout, false), timeout);
    let instance = Verdict::NotReplayable(Obstacle::Instance);
    assert_eq!(judge(OutcomeKind::Memory, OutcomeKind::Ok, true), instance);
    assert_eq!(judge(OutcomeKind::Fuel, OutcomeKind::Fuel, true), Verdict::Equal);
    assert!(matches!(judge(OutcomeKind::Ok, OutcomeKind::Fuel, false), Verdict::Different(_)));
}

#[test]
fn room_that_was_asked_for_is_refused_bound_by_bound_when_it_is_run_as_if_there_were_none() {
    let value = Value { bytes: b"40".into(), expires_ms: None };
    let refusals = |seen: &Seen, ask: &dyn Fn(&Seen) -> Result<(), &'static str>| -> Vec<_> {
        assert_eq!(ask(seen), Ok(()));
        seen.without_room().filter_map(|seen| ask(&seen).err()).collect()
    };
    let has_state = || Seen::of([("sum".into(), value.clone())].into_iter().collect());
    let grows = |seen: &Seen| seen.grow("sum", None, 6);
    assert_eq!(refusals(&has_state(), &grows), ["limits.state", "limits.state-per-key"]);
    let every = ["limits.state", "limits.keys", "limits.state-per-key"];
    assert_eq!(refusals(&Seen::default(), &grows), every, "the key is new");
    let stays = |seen: &Seen| seen.grow("sum", None, 5);
    assert_eq!(has_state().without_room().count(), 0, "nothing was asked for");
    assert_eq!(refusals(&has_state(), &stays), [""; 0]);
    let timer = |seen: &Seen| match seen.other_timers("check") {
        0 => Ok(()),
        _ => Err("limits.timers"),
    };
    assert_eq!(refusals(&has_state(), &timer), ["limits.timers"]);
}
