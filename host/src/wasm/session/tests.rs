use std::sync::Arc;

use super::super::context::CallIn;
use super::super::delivery::{Delivery, GuestLimits, StateView};
use super::super::fixtures::{context, event};
use super::super::seed::Seed;
use super::*;
use crate::effects::{OutcomeKind, TimerChange};
use crate::event::Position;

struct Stored(Vec<&'static str>);

impl StateView for Stored {
    fn get(&self, name: &str) -> Option<Vec<u8>> {
        self.0.contains(&name).then(|| name.into())
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
        let names = self.0.iter().filter(|name| name.starts_with(prefix));
        let names = names.filter(|name| after.is_none_or(|after| **name > after));
        names.take(limit).map(|name| (*name).to_owned()).collect()
    }
}

fn session_with(limits: GuestLimits, key: Option<&str>, access: Access) -> Session {
    let stored = Arc::new(Stored(vec!["a", "b", "c", "d"]));
    Session::new(context(key, limits, stored, access))
}

fn session() -> Session {
    session_with(GuestLimits::default(), Some("k"), Access::Write)
}

fn draft(kind: &str) -> DraftIn<'_> {
    DraftIn { kind, key: None, bus: None, content_type: "", data: b"", attributes: Vec::new() }
}

fn set(session: &mut Session, name: &str, value: &str) -> Result<(), Denial> {
    let write = session.draft_write(name, Some(value.as_bytes()), None);
    session.write(write)
}

fn delete(session: &mut Session, name: &str) -> Result<(), Denial> {
    let write = session.draft_write(name, None, None);
    session.write(write)
}

fn emit(session: &mut Session, draft: DraftIn<'_>) -> Result<Text, Denial> {
    let draft = session.draft_emit(draft);
    session.emit(draft)
}

fn call<'a>(url: &'a str) -> CallIn<'a> {
    let (headers, body) = (Vec::new(), &b"hello"[..]);
    CallIn { name: "greet", method: "POST", url, headers, body, timeout_ms: 1000 }
}

#[test]
fn a_session_that_is_finished_serves_another_delivery_as_a_new_one() {
    let limits = GuestLimits { emits_max: 1, ..GuestLimits::default() };
    let mut session = session_with(limits, Some("k"), Access::Write);
    for n in 0..=WRITES_SEARCHED_MAX {
        set(&mut session, &format!("n{n}"), "v").unwrap();
    }
    let first = emit(&mut session, draft("a.b")).unwrap();
    emit(&mut session, draft("a.b")).unwrap_err();
    session.log("info", "heard");
    let random = session.random();
    (0..HOST_CALLS_MAX).for_each(|_| session.host_call().unwrap());
    let record = session.finish();
    assert_eq!(record.exceeded, Some(Exceeded::EMITS));
    assert_eq!((record.invocation.effects.emits.len(), record.invocation.logs.len()), (1, 1));
    assert!(session.context.let_go().is_some());
    assert_eq!(session.state("a"), None, "the state was let go of");

    let (limits, config) = (Arc::clone(&session.context.limits), Arc::default());
    session.context.turn_to(Delivery {
        event: &event(Some("l")),
        attempt: 1,
        redriven: true,
        seed: Seed::default(),
        config: &config,
        limits: &limits,
        state: Arc::new(Stored(vec!["n0"])),
        outside: None,
    });
    assert_eq!(session.context.key(), Some(&Key::new("l").unwrap()));
    assert!(session.context.redriven && Arc::ptr_eq(&session.context.config, &config));
    assert_eq!(session.state("n0").as_deref(), Some(&b"n0"[..]), "not what the other one wrote");
    set(&mut session, "n1", "w").unwrap();
    assert_eq!(emit(&mut session, draft("a.b")).unwrap(), first, "its first event");
    assert_eq!(session.random(), random);
    session.host_call().unwrap();
    let record = session.finish();
    assert_eq!(record.exceeded, None);
    let Invocation { effects, logs, .. } = *record.invocation;
    assert_eq!((effects.emits.len(), effects.state.len(), logs.len()), (1, 1, 0));
}

#[test]
fn own_writes_are_read_back_and_listed() {
    let mut session = session();
    assert_eq!(session.state("a").as_deref(), Some(&b"a"[..]));
    set(&mut session, "a", "new").unwrap();
    set(&mut session, "bb", "1").unwrap();
    delete(&mut session, "c").unwrap();
    assert_eq!(session.state("a").as_deref(), Some(&b"new"[..]));
    assert_eq!(session.state("c"), None);
    assert_eq!(session.state_names("", None, 10), ["a", "b", "bb", "d"]);
    assert_eq!(session.state_names("b", None, 10), ["b", "bb"]);
    assert_eq!(session.state_names("", Some("b"), 1), ["bb"]);
    assert_eq!(session.state_names("", Some("bb"), 1), ["d"], "a removed name takes no place");
    assert_eq!(session.state_names("", None, 0), Vec::<String>::new());
    set(&mut session, "c", "back").unwrap();
    assert_eq!(session.state("c").as_deref(), Some(&b"back"[..]));
}

#[test]
fn the_last_write_of_each_name_is_kept_in_the_order_of_the_first() {
    let mut session = session();
    let names: Vec<String> = (0..100).map(|number| format!("n{number}")).collect();
    for round in ["x", "y"] {
        for name in &names {
            set(&mut session, name, round).unwrap();
        }
    }
    assert_eq!(session.state("n99").as_deref(), Some(&b"y"[..]));
    let writes = session.finish().invocation.effects.state;
    assert!(writes.iter().all(|write| write.value.as_deref() == Some(b"y")));
    assert!(writes.iter().map(|write| &*write.name).eq(names.iter().map(String::as_str)));
}

#[test]
fn a_value_that_lives_no_time_is_gone_at_once() {
    let mut session = session();
    for (ttl_ms, there) in [(0, false), (1, true)] {
        let write = session.draft_write("a", Some(b"new"), Some(ttl_ms));
        session.write(write).unwrap();
        assert_eq!(session.state("a").is_some(), there);
        assert_eq!(session.state_names("a", None, 9).is_empty(), !there);
    }
    assert_eq!(
        session.finish().invocation.effects.state.first().unwrap().expires_ms,
        Some(ends_at(1001))
    );
}

#[test]
fn output_is_counted_to_the_byte_and_overwriting_gives_room_back() {
    let limits = GuestLimits { output_bytes_max: 10, ..GuestLimits::default() };
    let mut session = session_with(limits, Some("k"), Access::Write);
    let full = Err(Denial::Exceeded(Exceeded::OUTPUT));
    set(&mut session, "n", "123456789").unwrap();
    assert_eq!(set(&mut session, "m", ""), full);
    set(&mut session, "n", "1234").unwrap();
    set(&mut session, "m", "1234").unwrap();
    assert_eq!(emit(&mut session, draft("a")), Err(Denial::Exceeded(Exceeded::OUTPUT)));
    assert_eq!(session.finish().exceeded, Some(Exceeded::OUTPUT));
}

#[test]
fn the_first_exceeded_budget_is_the_one_reported() {
    let limits = GuestLimits { emits_max: 1, output_bytes_max: 9, ..GuestLimits::default() };
    let mut session = session_with(limits, Some("k"), Access::Write);
    emit(&mut session, draft("a")).unwrap();
    emit(&mut session, draft("b")).unwrap_err();
    set(&mut session, "a", "too long now").unwrap_err();
    assert_eq!(session.finish().exceeded, Some(Exceeded::EMITS));
}

#[test]
fn an_invalid_argument_exceeds_nothing_and_takes_no_number() {
    let mut session = session();
    let long = "x".repeat(256);
    for kind in ["", "tidegate.x", long.as_str(), "a\u{7}"] {
        assert!(matches!(emit(&mut session, draft(kind)), Err(Denial::Invalid(_))), "{kind}");
    }
    for key in ["", "a\nb", &"x".repeat(1025)] {
        let refused = emit(&mut session, DraftIn { key: Some(key), ..draft("a") });
        assert!(matches!(refused, Err(Denial::Invalid(_))), "{key}");
    }
    for name in ["", "a\u{1b}", long.as_str()] {
        assert!(matches!(set(&mut session, name, ""), Err(Denial::Invalid(_))), "{name}");
        assert_eq!(session.state(name), None);
    }
    let id = emit(&mut session, draft("a")).unwrap();
    assert_eq!(id, Seed::default().event_id(Position(7), 0));
    assert_eq!(session.finish().exceeded, None);
}

#[test]
fn emits_go_to_known_buses_alone() {
    let limits = GuestLimits { buses: ["live".to_owned()].into(), ..GuestLimits::default() };
    let mut session = session_with(limits, Some("k"), Access::Write);
    emit(&mut session, DraftIn { bus: Some("live"), ..draft("a") }).unwrap();
    let unknown = emit(&mut session, DraftIn { bus: Some("moon"), ..draft("a") });
    assert!(matches!(unknown, Err(Denial::Invalid(why)) if why.contains("`moon`")));
    assert_eq!(
        session.finish().invocation.effects.emits.first().unwrap().bus.as_deref(),
        Some("live")
    );
}

#[test]
fn a_subject_is_the_key_of_an_event_that_has_no_other() {
    let about = |text: &str| DraftIn {
        attributes: vec![("subject".into(), text.into())],
        ..draft("order.created")
    };
    let mut unkeyed = session_with(GuestLimits::default(), None, Access::Write);
    emit(&mut unkeyed, about("o-1")).unwrap();
    emit(&mut unkeyed, DraftIn { key: Some("k"), ..about("o-1") }).unwrap();
    emit(&mut unkeyed, draft("order.created")).unwrap();
    assert!(matches!(emit(&mut unkeyed, about("")), Err(Denial::Invalid(_))));
    let mut keyed = session();
    emit(&mut keyed, about("o-1")).unwrap();
    let keys = |session: &mut Session| {
        let emits = session.finish().invocation.effects.emits;
        emits.iter().map(|draft| draft.key.as_ref().map(ToString::to_string)).collect::<Vec<_>>()
    };
    assert_eq!(keys(&mut unkeyed), [Some("o-1".to_owned()), Some("k".to_owned()), None]);
    assert_eq!(keys(&mut keyed), [Some("k".to_owned())]);
}

#[test]
fn an_unkeyed_input_has_no_state_and_no_timers() {
    let mut session = session_with(GuestLimits::default(), None, Access::Write);
    assert_eq!(session.state("a"), None);
    assert!(session.state_names("", None, 9).is_empty());
    assert_eq!(set(&mut session, "a", ""), Err(Denial::Unkeyed));
    assert_eq!(delete(&mut session, "a"), Err(Denial::Unkeyed));
    assert_eq!(session.draft_timer("a", 1, b""), Err(Denial::Unkeyed));
    emit(&mut session, draft("a")).unwrap();
    assert_eq!(session.finish().invocation.effects.emits.first().unwrap().key, None);
}

#[test]
fn a_memory_bus_refuses_timers() {
    let limits = GuestLimits { timers_max: 0, ..GuestLimits::default() };
    let session = session_with(limits, Some("k"), Access::Write);
    for refused in [session.draft_timer("a", 1, b""), session.draft_cancel("a")] {
        assert!(matches!(refused, Err(Denial::Invalid(why)) if why.contains("memory bus")));
    }
}

#[test]
fn where_nothing_may_be_written_nothing_is() {
    let mut session = session_with(GuestLimits::default(), Some("k"), Access::Read);
    assert_eq!(set(&mut session, "a", ""), Err(Denial::ReadOnly));
    assert_eq!(emit(&mut session, draft("a")), Err(Denial::ReadOnly));
    assert_eq!(session.draft_cancel("a"), Err(Denial::ReadOnly));
    assert_eq!(session.draft_call(call("https://a.example/")), Err(Denial::ReadOnly));
    assert!(session.finish().invocation.effects.is_empty());
}

#[test]
fn timers_are_buffered_in_order() {
    let mut session = session();
    let change = session.draft_timer("t", 5, b"data");
    session.change_timer(change).unwrap();
    let change = session.draft_cancel("t");
    session.change_timer(change).unwrap();
    let large = vec![0; limits::TIMER_DATA_BYTES_MAX + 1];
    assert!(matches!(session.draft_timer("t", 5, &large), Err(Denial::Invalid(_))));
    let timers = session.finish().invocation.effects.timers;
    assert!(matches!(timers.as_slice(), [TimerChange::Set { .. }, TimerChange::Cancel { .. }]));
}

#[test]
fn a_timer_over_the_limit_is_refused() {
    let limits = GuestLimits { timers_max: 1, ..GuestLimits::default() };
    let mut session = session_with(limits, Some("k"), Access::Write);
    let change = session.draft_timer("a", 1, b"");
    session.change_timer(change).unwrap();
    let change = session.draft_timer("b", 1, b"");
    assert_eq!(session.change_timer(change), Err(Denial::Exceeded(Exceeded::TIMERS)));
    assert_eq!(session.finish().invocation.effects.timers.len(), 1);
}

#[test]
fn calls_need_a_grant_and_get_a_key_of_their_own() {
    let limits = GuestLimits {
        http: ["a.example".parse().unwrap()].into(),
        secrets: ["PAY".parse().unwrap()].into(),
        ..GuestLimits::default()
    };
    let mut session = session_with(limits, Some("k"), Access::Write);
    let made = session.draft_call(call("https://a.example/x"));
    let key = session.call(made).unwrap();
    assert_eq!(key, Seed::default().call_id(Position(7), 0));
    let denied = session.draft_call(call("https://b.example/x"));
    assert_eq!(denied, Err(Denial::Denied("grants.http")));
    for url in ["/x", "ftp://a.example/", "https://"] {
        assert!(matches!(session.draft_call(call(url)), Err(Denial::Invalid(_))), "{url}");
    }
    let slow = session.draft_call(CallIn { timeout_ms: 60_001, ..call("https://a.example/") });
    assert!(matches!(slow, Err(Denial::Invalid(_))));
    for (name, value, expected) in [
        ("authorization", "Bearer {secret:PAY}", None),
        ("authorization", "{secret:OTHER}", Some(Denial::Denied("grants.secrets"))),
        ("Host", "b.example", Some(Denial::Invalid("header `Host` is the host's to set".into()))),
    ] {
        let headers = vec![(name.into(), value.into())];
        let made = session.draft_call(CallIn { headers, ..call("https://a.example/") });
        assert_eq!(made.err(), expected, "{name}: {value}");
    }
}

#[test]
fn effects_are_bounded_in_number_too() {
    let limits = GuestLimits {
        output_bytes_max: usize::MAX,
        http: ["a.example".parse().unwrap()].into(),
        ..GuestLimits::default()
    };
    let check = |says: &str, effect: fn(&mut Session, usize) -> Result<(), Denial>| {
        let mut session = session_with(limits.clone(), Some("k"), Access::Write);
        for number in 0..limits::EFFECTS_MAX {
            effect(&mut session, number).unwrap();
        }
        let denied = effect(&mut session, limits::EFFECTS_MAX).unwrap_err();
        assert_eq!(denied.to_string(), says);
        let outcome = session.finish().exceeded.unwrap().outcome();
        assert_eq!((outcome.kind(), outcome.reason().as_str()), (OutcomeKind::Output, says));
        session
    };
    let mut session = check("`10000 state writes` was exceeded", |session, number| {
        set(session, &number.to_string(), "")?;
        set(session, "0", "again")
    });
    set(&mut session, "0", "again").unwrap();
    check("`10000 timer changes` was exceeded", |session, _| {
        let change = session.draft_cancel("t");
        session.change_timer(change)
    });
    check("`10000 calls` was exceeded", |session, _| {
        let made = session.draft_call(call("https://a.example/"));
        session.call(made).map(drop)
    });
}

#[test]
fn random_numbers_are_a_sequence_of_the_attempt() {
    let (mut one, mut other) = (session(), session());
    let first = one.random();
    assert_ne!(first, one.random());
    assert_eq!(first, other.random());
}
