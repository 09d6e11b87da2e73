//! How far is each case? Counts the events of every key, whatever their type.
//!
//! Teaches: state per key, and that it is exact. The count is written together with the completion
//! of the delivery: killed hosts, retries and replays neither lose nor repeat one. It also shows a
//! typed string of `[config]`, and values as bytes beside values as JSON.

use serde::Serialize;
use tidegate_sdk::{Event, Outcome, config_as, emit, handlers, info, state};

const EVERY_DEFAULT: u64 = 10;

#[derive(Serialize)]
struct Milestone<'a> {
    count: u64,
    last: &'a str,
}

handlers! { "**" => progress }

fn progress(event: &Event) -> Outcome {
    let Some(key) = event.key() else {
        return Ok(()); // An event without a key belongs to no case.
    };
    let count = state::get("events")?.unwrap_or(0_u64) + 1;
    state::set("events", &count)?;
    state::set_bytes("last", event.kind(), None)?;
    if count.is_multiple_of(config_as("every")?.unwrap_or(EVERY_DEFAULT)) {
        info!("{key} reached {count} events");
        emit("case.milestone").json(&Milestone { count, last: event.kind() })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tidegate_sdk::testing::{Host, Input, event};

    use super::handle;

    #[test]
    fn counts_every_type_per_key() {
        let mut host = Host::new();
        for (kind, key) in [("permit.filed", "a"), ("order.created", "a"), ("permit.filed", "b")] {
            let effects = host.deliver(handle, event(kind).key(key)).expect_ok();
            assert!(effects.emitted.is_empty());
        }
        assert_eq!(host.state_bytes("a", "events"), Some(&b"2"[..]));
        assert_eq!(host.state_bytes("a", "last"), Some(&b"order.created"[..]));
        assert_eq!(host.state_bytes("b", "events"), Some(&b"1"[..]));
    }

    #[test]
    fn every_tenth_event_is_a_milestone() {
        let mut host = Host::new();
        let mut milestones = Vec::new();
        for _ in 0..25 {
            let effects = host.deliver(handle, event("permit.checked").key("a")).expect_ok();
            milestones.extend(effects.emitted);
        }
        let data: Vec<_> = milestones.iter().map(|e| String::from_utf8_lossy(&e.data)).collect();
        assert_eq!(
            data,
            [r#"{"count":10,"last":"permit.checked"}"#, r#"{"count":20,"last":"permit.checked"}"#]
        );
        assert_eq!(milestones[0].kind, "case.milestone");
        assert_eq!(milestones[0].key.as_deref(), Some("a"));
    }

    #[test]
    fn events_without_a_key_are_left_alone() {
        let effects = Host::new().deliver(handle, event("permit.filed")).expect_ok();
        assert!(effects.emitted.is_empty() && effects.state.is_empty());
    }

    #[test]
    fn the_distance_is_configurable() {
        let mut host = Host::new().with_config("every", "1");
        let sample = Input::cloud_event(include_str!("../events/permit-received.json"));
        assert_eq!(host.deliver(handle, sample).expect_ok().kinds(), ["case.milestone"]);
    }
}
