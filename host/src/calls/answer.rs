//! The event that answers a call: pure.

use std::sync::Arc;

use bytes::Bytes;

use super::client::{Answer, Failure};
use crate::bus::deliver::Deliverer;
use crate::bus::private::{self, Content, RESPONSE};
use crate::effects::OutgoingCall;
use crate::event::{Event, NewEvent};
use crate::limits::ATTRIBUTES_BYTES_MAX;
use crate::state::OpenCall;
use crate::state::calls::response_id;

/// Bytes kept of why there is no answer.
const WHY_BYTES_MAX: usize = ATTRIBUTES_BYTES_MAX / 8;

/// The `tidegate.response` of a call, from the last attempt at it. `given_up`: that was no answer,
/// but the end of patience. `input`: the event whose delivery made the call.
pub(super) fn event(
    to: &Deliverer,
    call: &OpenCall,
    request: &OutgoingCall,
    result: Result<Answer, Failure>,
    (attempts, given_up): (u32, bool),
    input: Option<&Event>,
) -> NewEvent {
    let mut attributes: Vec<(Arc<str>, Arc<str>)> = vec![
        ("callattempts".into(), attempts.to_string().into()),
        ("callid".into(), Arc::clone(&call.idempotency_key)),
        ("callname".into(), Arc::clone(&request.name)),
    ];
    let mut add = |name: &str, value: &str| attributes.push((name.into(), value.into()));
    let (content_type, body) = match result {
        Ok(answer) => {
            add("callstatus", &answer.status.to_string());
            if answer.truncated {
                add("calltruncated", "true");
            }
            if given_up {
                add("callerror", "status");
            }
            (answer.content_type, answer.body)
        }
        Err(failure) => {
            add("callstatus", "0");
            add("callerror", failure.fault.name());
            let why = failure.why.replace(char::is_control, " ");
            add(
                "callreason",
                why.get(..why.floor_char_boundary(WHY_BYTES_MAX)).unwrap_or_default(),
            );
            (String::new(), Vec::new())
        }
    };
    for name in ["traceparent", "tracestate"] {
        if let Some(value) = input.and_then(|input| input.attribute(name)) {
            add(name, value);
        }
    }
    if let Some(input) = input {
        add("causationid", &input.id);
        add("correlationid", input.attribute("correlationid").unwrap_or(&input.id));
    }
    attributes.sort();
    let content = Content {
        kind: RESPONSE,
        id: response_id(&call.idempotency_key),
        key: call.key.clone(),
        content_type: content_type.into(),
        data: Bytes::from(body),
        attributes,
    };
    NewEvent {
        causation: Some(call.position),
        // What a chain of calls emits is as deep as what it began with: only emitting goes deeper.
        depth: input.map_or(0, |input| input.depth),
        ..private::event(to, content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calls::policy::Fault;
    use crate::event::{
        Addressee, CommitNumber, Digest, Generation, InstanceId, Key, KeySequence, Position,
    };
    use crate::state::CallPlace;

    fn answered(result: Result<Answer, Failure>, given_up: bool) -> NewEvent {
        let to = Deliverer {
            instance: InstanceId(7),
            generation: Generation(0),
            environment: Digest::default(),
            bus: "main".into(),
            source: "/tidegate/main/hook".into(),
        };
        let call = OpenCall {
            place: CallPlace { commit: CommitNumber(9), index: 0 },
            instance: InstanceId(7),
            generation: Generation(0),
            position: Position(40),
            key: Key::new("o").ok(),
            idempotency_key: "abc".into(),
            opened_ms: 5,
            request: None,
        };
        let request = OutgoingCall {
            idempotency_key: "abc".into(),
            name: "charge".into(),
            method: "POST".into(),
            url: "https://a.example/".into(),
            headers: Vec::new(),
            body: Bytes::new(),
            timeout_ms: 1,
        };
        let input = Event {
            position: Position(40),
            sequence: KeySequence(1),
            recorded_ms: 1,
            commit: CommitNumber(8),
            body: NewEvent { id: "o-1".into(), depth: 3, ..NewEvent::default() },
        };
        event(&to, &call, &request, result, (2, given_up), Some(&input))
    }

    #[test]
    fn an_answer_says_which_call_it_is_of_and_what_caused_it() {
        let answer = Answer { status: 201, body: b"ok".to_vec(), ..Answer::default() };
        let event = answered(Ok(answer), false);
        assert_eq!((&*event.kind, &*event.id), ("tidegate.response", "response-abc"));
        assert_eq!(event.addressee, Some(Addressee::Plugin(InstanceId(7))));
        for (name, value) in [
            ("callname", "charge"),
            ("callstatus", "201"),
            ("callid", "abc"),
            ("callattempts", "2"),
            ("causationid", "o-1"),
            ("correlationid", "o-1"),
        ] {
            assert_eq!(event.attribute(name), Some(value), "{name}");
        }
        assert_eq!(event.attribute("callerror"), None);
        assert_eq!((event.depth, event.causation), (3, Some(Position(40))));
        assert!(event.attributes.is_sorted());
    }

    #[test]
    fn what_was_given_up_says_so() {
        let failure = Failure { fault: Fault::Timeout, why: "too\nlong".to_owned() };
        let event = answered(Err(failure), true);
        assert_eq!(event.attribute("callstatus"), Some("0"));
        assert_eq!(event.attribute("callerror"), Some("timeout"));
        assert_eq!(event.attribute("callreason"), Some("too long"));
        let event = answered(Ok(Answer { status: 503, ..Answer::default() }), true);
        assert_eq!(event.attribute("callstatus"), Some("503"));
        assert_eq!(event.attribute("callerror"), Some("status"));
    }
}
