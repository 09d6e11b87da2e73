use std::time::Duration;

use serde_json::json;

use super::{Host, Input, TimerChange, Verdict, event, request};
use crate::{
    Answer, Error, Event, Failure, Level, Outcome, Request, Response, calls, emit, keys, reject,
    retry_after, state, timers,
};

fn count(_: &Event) -> Outcome {
    let events: u64 = state::get("events")?.unwrap_or_default();
    state::set("events", &(events + 1))?;
    Ok(())
}

#[test]
fn state_is_kept_per_key() {
    let mut host = Host::new();
    for key in ["a", "b", "a"] {
        host.deliver(count, event("x.happened").key(key)).expect_ok();
    }
    assert_eq!(host.state::<u64>("a", "events"), Some(2));
    assert_eq!(host.state::<u64>("b", "events"), Some(1));
    assert_eq!(host.state_bytes("a", "events"), Some(&b"2"[..]));
}

#[test]
fn failed_delivery_leaves_only_its_log() {
    let mut host = Host::new();
    let effects = host.deliver(
        |_: &Event| {
            state::set("x", &1)?;
            emit("x.done").empty()?;
            crate::warn!("half way");
            Err(retry_after("not yet", Duration::from_secs(3)))
        },
        event("x.asked").key("k"),
    );
    let after = Some(Duration::from_secs(3));
    assert_eq!(effects.outcome, Verdict::Retry { reason: "not yet".into(), after });
    assert!(effects.emitted.is_empty() && effects.state.is_empty());
    assert_eq!(effects.logs, [(Level::Warn, "half way".to_owned())]);
    assert_eq!(host.state_bytes("k", "x"), None);
}

#[test]
fn reads_see_own_writes_and_listing_pages_through() {
    let host = Host::new().with_state("k", "n-0000", &0).with_state("k", "other", &0);
    let effects = host.clone().deliver(
        |_: &Event| {
            for n in 1..600 {
                state::set(&format!("n-{n:04}"), &n)?;
            }
            state::delete("n-0001")?;
            assert_eq!(state::get::<u32>("n-0002")?, Some(2));
            assert_eq!(state::get::<u32>("n-0001")?, None);
            let names: Vec<_> = state::list("n-").collect();
            assert_eq!(names.len(), 599);
            assert!(names.is_sorted());
            Ok(())
        },
        event("x.asked").key("k"),
    );
    assert_eq!(effects.expect_ok().state.len(), 599);
}

#[test]
fn ttl_counts_from_the_input() {
    let mut host = Host::new();
    let set = |_: &Event| Ok(state::set_for("x", &1, Duration::from_secs(1))?);
    host.deliver(set, event("x.asked").key("k")).expect_ok();
    host.advance(Duration::from_millis(999));
    assert_eq!(host.state::<u32>("k", "x"), Some(1));
    host.advance(Duration::from_millis(1));
    assert_eq!(host.state::<u32>("k", "x"), None);
}

#[test]
fn data_that_does_not_fit_is_rejected_with_its_place() {
    #[derive(serde::Deserialize)]
    struct Order {
        #[allow(dead_code, reason = "only its absence matters")]
        amount: u64,
    }
    fn typed(_: &Event, _: Order) -> Outcome {
        Ok(())
    }
    let handle = |event: &Event| crate::Handler::call(&typed, event);
    let effects = Host::new().deliver(handle, event("order.created").json(&json!({ "amuont": 4 })));
    let reason = "data of `order.created` is not what the handler takes: \
                  missing field `amount` at line 1 column 12";
    assert_eq!(effects.outcome, Verdict::Reject { reason: reason.into() });
}

#[test]
fn exceeded_budget_becomes_output_only_if_the_handler_says_ok() {
    let swallow = |_: &Event| {
        while emit("x.done").empty().is_ok() {}
        Ok(())
    };
    let effects = Host::new().deliver(swallow, event("x.asked"));
    assert_eq!(effects.outcome, Verdict::Output { budget: "limits.emits".into() });
    let pass_on = |_: &Event| Ok(state::set("x", &"12345")?);
    let effects = Host::new().with_limits(1, 4).deliver(pass_on, event("x.asked").key("k"));
    assert_eq!(effects.outcome, Verdict::Reject { reason: "`limits.output` is used up".into() });
}

#[test]
fn output_is_counted_as_in_the_real_host() {
    let handle = |_: &Event| {
        for _ in 0..3 {
            state::set("x", &"12345678")?; // 11 bytes, once
        }
        emit("a").key("k2").bytes("t/t", "1234567")?; // 13 bytes
        timers::cancel("t")?; // 1 byte
        assert!(matches!(state::delete("y"), Err(Error::Exceeded(_))));
        Ok(())
    };
    let effects = Host::new().with_limits(1, 25).deliver(handle, event("x.asked").key("k"));
    assert_eq!(effects.outcome, Verdict::Output { budget: "limits.output".into() });
}

#[test]
fn malformed_arguments_are_refused() {
    let handle = |_: &Event| {
        assert!(matches!(emit("").empty(), Err(Error::Invalid(_))));
        assert!(matches!(emit("tidegate.x").empty(), Err(Error::Invalid(_))));
        assert!(matches!(emit("x.y").key("a\nb").empty(), Err(Error::Invalid(_))));
        assert!(matches!(emit("x.y").attribute("A", "").empty(), Err(Error::Invalid(_))));
        assert_eq!(state::set("x", &1), Err(Error::Unkeyed));
        assert_eq!(timers::cancel("x"), Err(Error::Unkeyed));
        assert!(matches!(calls::request("c", "GET", "/x").send(""), Err(Error::Invalid(_))));
        Ok(())
    };
    Host::new().deliver(handle, event("x.asked")).expect_ok();
}

#[test]
fn context_is_deterministic() {
    let seen = std::cell::RefCell::new(Vec::new());
    let handle = |event: &Event| {
        seen.borrow_mut().push((crate::now_ms(), crate::random_u64(), crate::random_u64()));
        assert_eq!(crate::now_ms(), event.recorded_ms());
        assert_eq!(crate::config("currency").as_deref(), Some("EUR"));
        assert_eq!(crate::config_as::<u32>("limit")?, Some(3));
        assert!(crate::config_as::<u32>("currency").is_err());
        assert_eq!(crate::attribute("correlationid").as_deref(), Some("c-1"));
        assert_eq!((crate::attempt(), crate::redriven()), (1, false));
        Ok(())
    };
    for _ in 0..2 {
        let mut host = Host::new().with_config("currency", "EUR").with_config("limit", "3");
        let asked = event("x.asked").attribute("correlationid", "c-1");
        host.deliver(handle, asked).expect_ok();
    }
    let seen = seen.take();
    assert_eq!(seen[0], seen[1]);
    assert_ne!(seen[0].1, seen[0].2);
}

#[test]
fn cascade_follows_emitted_events() {
    let handle = |event: &Event| {
        match event.kind() {
            "a.asked" => emit("b.done").json(&1)?,
            "b.done" => emit("c.done").key("other").empty()?,
            _ => String::new(),
        };
        Ok(())
    };
    let all = Host::new().cascade(handle, event("a.asked").key("k"));
    let kinds: Vec<_> = all.iter().map(|effects| effects.kinds()).collect();
    assert_eq!(kinds, [vec!["b.done"], vec!["c.done"], vec![]]);
    assert_eq!(all[0].emitted[0].key.as_deref(), Some("k"));
    assert_eq!(all[0].emitted[0].json::<u32>(), 1);
}

#[test]
fn timers_and_calls_are_recorded() {
    let handle = |_: &Event| {
        timers::set_after("remind", Duration::from_secs(1), b"d")?;
        timers::cancel("old")?;
        calls::request("hook", "POST", "https://example.com/").send_json(&1)?;
        Ok(())
    };
    let effects = Host::new().deliver(handle, event("x.asked").key("k")).expect_ok();
    assert!(matches!(&effects.timers[0], TimerChange::Set { due_ms: 1_700_000_001_001, .. }));
    assert_eq!(effects.timers[1], TimerChange::Cancel { name: "old".into() });
    assert_eq!(effects.calls[0].headers[0].1, "application/json");
}

#[test]
fn queries_read_across_keys_and_have_no_effects() {
    fn total(_: &Request) -> Answer {
        assert_eq!(emit("x.y").empty(), Err(Error::ReadOnly));
        Ok(Response::json(
            &keys::list("").filter_map(|k| keys::get::<u32>(&k, "n").ok()?).sum::<u32>(),
        )?)
    }
    let mut host = Host::new().with_state("a", "n", &1).with_state("b", "n", &2);
    assert_eq!(host.read(total, request("total")).map(|r| r.body().to_vec()), Ok(b"3".to_vec()));
    let in_handler = |_: &Event| {
        assert_eq!(keys::list("").count(), 0);
        Ok(())
    };
    host.deliver(in_handler, event("x.asked")).expect_ok();
}

#[test]
fn unknown_operations_name_the_known_ones() {
    mod plugin {
        use crate::{Answer, Request, Response, commands};
        commands! { "reserve" => answer, "release" => answer }
        fn answer(_: &Request) -> Answer {
            Ok(Response::empty())
        }
    }
    let (answer, _) = Host::new().execute(plugin::execute, request("burn").key("k"));
    assert_eq!(answer, Err(reject("unknown operation `burn`; known: reserve, release")));
}

#[test]
fn samples_are_read_as_cloud_events() {
    let sample = r#"{"specversion":"1.0","id":"1","source":"/s","type":"a.b","subject":"k",
        "time":"2026-01-01T00:00:00Z","trace":7,"data":{"x":1}}"#;
    let handle = |event: &Event| {
        assert_eq!((event.id(), event.source(), event.kind()), ("1", "/s", "a.b"));
        assert_eq!((event.key(), event.content_type()), (Some("k"), "application/json"));
        assert_eq!(event.bytes(), br#"{"x":1}"#);
        assert_eq!(crate::attributes(), [("trace".to_owned(), "7".to_owned())]);
        Ok::<(), Failure>(())
    };
    Host::new().deliver(handle, Input::cloud_event(sample)).expect_ok();
}

#[test]
fn timers_fire_when_they_are_due_in_order_unless_cancelled() {
    let handle = |event: &Event| {
        match event.kind() {
            "x.asked" => {
                timers::set_after("late", Duration::from_secs(9), b"d")?;
                timers::set_after("soon", Duration::from_secs(1), b"")?;
                timers::set_after("never", Duration::from_secs(1), b"")?;
                timers::cancel("never")?;
            }
            timers::FIRED => {
                assert_eq!((event.key(), event.sequence()), (Some("k"), 0));
                let name = crate::attribute("timername").unwrap_or_default();
                emit("x.fired").json(&(name.as_str(), event.bytes()))?;
                if name == "soon" {
                    timers::set_at("again", 0, b"")?;
                }
            }
            _ => {}
        }
        Ok(())
    };
    let mut host = Host::new();
    host.deliver(handle, event("x.asked").key("k")).expect_ok();
    assert_eq!(host.timers("k")[0], ("late".to_owned(), 1_700_000_009_001));
    assert!(host.fire(handle).is_empty());
    host.advance(Duration::from_secs(1));
    let fired: Vec<(String, Vec<u8>)> =
        host.fire(handle).into_iter().map(|e| e.expect_ok().emitted[0].json()).collect();
    assert_eq!(fired, [("soon".to_owned(), vec![]), ("again".to_owned(), vec![])]);
    host.advance(Duration::from_secs(8));
    assert_eq!(host.fire(handle)[0].emitted[0].json::<(String, Vec<u8>)>().1, b"d");
    assert!(host.timers("k").is_empty() && host.fire(handle).is_empty());
}
