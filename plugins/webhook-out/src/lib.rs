//! Tells another system over HTTP what happened, and says whether that worked.
//!
//! Teaches: outgoing calls, which the host sends once the delivery is durable; a secret in a header,
//! which the plugin names and never sees; the answer that comes back as an event of the key; and when
//! to ask again. What may pass (no connection, a timeout, "try later") the host tries again by
//! itself; what the other side answers is for the plugin to judge.

use serde::{Deserialize, Serialize};
use tidegate_sdk::{Event, Outcome, calls, config, config_as, emit, handlers, state, warn};

const TRIES_DEFAULT: u32 = 3;

/// What is sent, kept until the other side has taken it.
#[derive(Serialize, Deserialize)]
struct Webhook {
    id: String,
    kind: String,
    key: Option<String>,
    text: String,
}

/// A webhook on its way.
#[derive(Serialize, Deserialize)]
struct Pending {
    webhook: Webhook,
    tries: u32,
}

#[derive(Serialize)]
struct Ended<'a> {
    id: &'a str,
    status: u16,
    tries: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'a str>,
}

handlers! {
    "tidegate.response" => answered,
    "**" => happened,
}

fn happened(event: &Event) -> Outcome {
    // Without a key there is no state to wait for the answer in.
    if event.key().is_none() {
        return Ok(());
    }
    let webhook = Webhook {
        id: event.id().to_owned(),
        kind: event.kind().to_owned(),
        key: event.key().map(ToOwned::to_owned),
        text: String::from_utf8_lossy(event.bytes()).into_owned(),
    };
    send(Pending { webhook, tries: 1 })
}

fn send(pending: Pending) -> Outcome {
    let url = config("url").unwrap_or_default();
    let call = calls::request("webhook", "POST", url)
        .header("authorization", "Bearer {secret:WEBHOOK_TOKEN}")
        // The same in every try: the other side knows by it what it has had already.
        .header("webhook-id", pending.webhook.id.clone())
        .send_json(&pending.webhook)?;
    state::set(&name(&call), &pending)?;
    Ok(())
}

fn answered(_: &Event) -> Outcome {
    let Some(answer) = calls::answer() else { return Ok(()) };
    let name = name(&answer.id);
    let Some(mut pending) = state::get::<Pending>(&name)? else { return Ok(()) };
    state::delete(&name)?;
    let most = config_as("tries")?.unwrap_or(TRIES_DEFAULT);
    // An error of the other side may be gone the next time; one of ours will not. Where the host gave
    // up it has tried for long enough.
    if answer.error.is_none() && answer.status >= 500 && pending.tries < most {
        pending.tries += 1;
        return send(pending);
    }
    let Pending { webhook, tries } = &pending;
    let why = answer.error.as_deref();
    let ended = Ended { id: &webhook.id, status: answer.status, tries: *tries, why };
    if answer.is_success() {
        emit("webhook.delivered").json(&ended)?;
    } else {
        warn!("{} was not delivered: status {} {}", webhook.id, answer.status, why.unwrap_or(""));
        emit("webhook.failed").json(&ended)?;
    }
    Ok(())
}

fn name(call: &str) -> String {
    format!("pending/{call}")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tidegate_sdk::testing::{Effects, Host, Input, answered, event, given_up};

    use super::handle;

    fn host() -> Host {
        Host::new().with_config("url", "https://hooks.example.com/x").with_config("tries", "2")
    }

    fn created(host: &mut Host) -> Effects {
        host.deliver(handle, event("order.created").key("o-1").id("e-1").json(&json!({})))
            .expect_ok()
    }

    #[test]
    fn an_event_becomes_a_call_that_names_a_secret() {
        let effects = created(&mut host());
        let call = &effects.calls[0];
        assert_eq!((&*call.method, &*call.url), ("POST", "https://hooks.example.com/x"));
        let secret = ("authorization".to_owned(), "Bearer {secret:WEBHOOK_TOKEN}".to_owned());
        assert!(call.headers.contains(&secret));
        assert_eq!(effects.kinds(), Vec::<&str>::new());
    }

    #[test]
    fn a_success_is_told_and_nothing_is_left() {
        let mut host = host();
        let call = created(&mut host).calls.remove(0);
        let effects = host.deliver(handle, answered(&call, 204)).expect_ok();
        assert_eq!(effects.kinds(), ["webhook.delivered"]);
        assert_eq!(
            effects.emitted[0].json::<Value>(),
            json!({"id": "e-1", "status": 204, "tries": 1})
        );
        // The same answer once more finds nothing to do.
        assert_eq!(
            host.deliver(handle, answered(&call, 204)).expect_ok().kinds(),
            Vec::<&str>::new()
        );
    }

    #[test]
    fn an_error_of_the_other_side_is_tried_again_and_then_given_up() {
        let mut host = host();
        let call = created(&mut host).calls.remove(0);
        let again = host.deliver(handle, answered(&call, 500)).expect_ok().calls.remove(0);
        assert_eq!(again.body, call.body);
        assert_ne!(again.id, call.id);
        let effects = host.deliver(handle, answered(&again, 500)).expect_ok();
        assert_eq!((effects.kinds(), effects.calls.len()), (vec!["webhook.failed"], 0));
    }

    #[test]
    fn what_is_refused_or_given_up_by_the_host_is_not_tried_again() {
        for (status, error) in [(404, None), (0, Some("timeout"))] {
            let mut host = host();
            let call = created(&mut host).calls.remove(0);
            let answer = error.map_or_else(|| answered(&call, status), |why| given_up(&call, why));
            let effects = host.deliver(handle, answer).expect_ok();
            assert_eq!((effects.kinds(), effects.calls.len()), (vec!["webhook.failed"], 0));
        }
    }

    #[test]
    fn sample_is_sent() {
        let sample = Input::cloud_event(include_str!("../events/order-created.json"));
        assert_eq!(host().deliver(handle, sample).expect_ok().calls.len(), 1);
    }
}
