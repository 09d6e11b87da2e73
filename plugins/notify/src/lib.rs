//! Turns facts that end something into `notification.requested`.
//!
//! Teaches: routing several types, also whole families of them, to functions; following other
//! plugins through the events they emit; state that forgets by itself; and a key of its own for what
//! is emitted, so that the notifications of one channel have one order.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidegate_sdk::{Event, Outcome, config, config_as, debug, emit, handlers, state};

const QUIET_SECONDS_DEFAULT: u64 = 3600;

#[derive(Serialize)]
struct Notification<'a> {
    about: &'a str,
    text: String,
}

#[derive(Deserialize)]
struct Cancelled {
    why: String,
}

#[derive(Deserialize)]
struct Milestone {
    count: u64,
    last: String,
}

handlers! {
    "payment.processed" => paid,
    "order.cancelled" => cancelled,
    "*.milestone" => milestone,
}

fn paid(event: &Event) -> Outcome {
    request(event, "is paid and on its way".to_owned())
}

fn cancelled(event: &Event, data: Cancelled) -> Outcome {
    request(event, format!("is cancelled: {}", data.why))
}

fn milestone(event: &Event, data: Milestone) -> Outcome {
    request(event, format!("has seen {} events, the last is {}", data.count, data.last))
}

fn request(event: &Event, text: String) -> Outcome {
    // Without a key there is nobody to tell.
    let Some(about) = event.key() else { return Ok(()) };
    if state::get::<String>(event.kind())?.as_ref() == Some(&text) {
        debug!("{about} was told already");
        return Ok(());
    }
    let quiet = Duration::from_secs(config_as("quiet-seconds")?.unwrap_or(QUIET_SECONDS_DEFAULT));
    state::set_for(event.kind(), &text, quiet)?;
    let channel = config("channel").unwrap_or_else(|| "mail".to_owned());
    let text = format!("{about} {text}");
    emit("notification.requested").key(channel).json(&Notification { about, text })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};
    use tidegate_sdk::testing::{Host, Input, Verdict, event};

    use super::handle;

    fn cancelled(why: &str) -> Input {
        event("order.cancelled").key("o-1").json(&json!({ "why": why }))
    }

    #[test]
    fn completed_facts_become_requests_of_the_channel() {
        let mut host = Host::new().with_config("channel", "sms");
        let effects = host.deliver(handle, cancelled("sold out")).expect_ok();
        assert_eq!(effects.kinds(), ["notification.requested"]);
        let emitted = &effects.emitted[0];
        assert_eq!(emitted.key.as_deref(), Some("sms"));
        let text = "o-1 is cancelled: sold out";
        assert_eq!(emitted.json::<Value>(), json!({ "about": "o-1", "text": text }));
    }

    #[test]
    fn the_same_fact_is_told_once_until_it_is_forgotten() {
        let mut host = Host::new();
        assert_eq!(host.deliver(handle, cancelled("a")).expect_ok().emitted.len(), 1);
        assert_eq!(host.deliver(handle, cancelled("a")).expect_ok().emitted.len(), 0);
        assert_eq!(host.deliver(handle, cancelled("b")).expect_ok().emitted.len(), 1);
        host.advance(Duration::from_secs(3600));
        assert_eq!(host.deliver(handle, cancelled("b")).expect_ok().emitted.len(), 1);
    }

    #[test]
    fn data_of_another_shape_is_rejected() {
        let effects = Host::new().deliver(handle, event("case.milestone").key("k").json(&7));
        assert!(matches!(effects.outcome, Verdict::Reject { .. }));
    }

    #[test]
    fn sample_asks_for_a_notification() {
        let sample = Input::cloud_event(include_str!("../events/payment-processed.json"));
        let effects = Host::new().deliver(handle, sample).expect_ok();
        assert_eq!(effects.kinds(), ["notification.requested"]);
    }
}
