//! What differs between two ends of the same delivery: pure.
//!
//! Rule: everything that a guest decides is compared, and nothing that only follows from it (ids of
//! emitted events, idempotency keys, what the host fills in) or that nobody can see (fuel, time).

use std::collections::BTreeMap;

use ecow::EcoString;

use crate::bus::deliver::HOST_ATTRIBUTES;
use crate::bus::private;
use crate::effects::{OutcomeKind, OutgoingCall, Response, TimerChange};
use crate::event::{Addressee, Event, NewEvent};
use crate::log::record::DeliveryCommit;

/// Characters that are shown of a value.
const SHOWN_CHARS_MAX: usize = 200;
/// Changes of one delivery that are shown.
const CHANGES_MAX: usize = 20;
/// What stands for something that is not there.
const NOTHING: &str = "nothing";

/// Something that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What, in words: ``state `sum` ``, `emitted event 1`.
    pub what: String,
    /// How it was.
    pub before: String,
    /// How it is now.
    pub after: String,
}

/// How `again` differs from `recorded`, both ends of the delivery of `input`. At most
/// `CHANGES_MAX` changes.
#[must_use]
pub fn changes(input: &Event, recorded: &DeliveryCommit, again: &DeliveryCommit) -> Vec<Change> {
    let (was, is) = (recorded.completion.outcome, again.completion.outcome);
    if was != is {
        let words = |commit: &DeliveryCommit| {
            let name = commit.completion.outcome.name();
            let reason = commit.dead_letter.as_ref().map_or("", |dead| dead.reason.as_str());
            shortened(format!("{name} {reason}").trim_end())
        };
        let (before, after) = (words(recorded), words(again));
        return vec![Change { what: "outcome".to_owned(), before, after }];
    }
    // A failure has no effects of the guest's own.
    if was != OutcomeKind::Ok {
        return Vec::new();
    }
    let mut changes = Vec::new();
    state(recorded, again, &mut changes);
    timers(input, recorded, again, &mut changes);
    // A rebuild records neither.
    if !recorded.completion.mode.is_rebuild() {
        events(recorded, again, &mut changes);
        list("call", &recorded.calls, &again.calls, call, &mut changes);
    }
    let answer = |commit: &DeliveryCommit| commit.completion.response.as_ref().map(response);
    one("response", answer(recorded), answer(again), &mut changes);
    changes.truncate(CHANGES_MAX);
    changes
}

fn one(what: &str, before: Option<String>, after: Option<String>, changes: &mut Vec<Change>) {
    if before != after {
        let words = |text: Option<String>| text.map_or(NOTHING.to_owned(), |t| shortened(&t));
        changes.push(Change { what: what.to_owned(), before: words(before), after: words(after) });
    }
}

/// Compares two lists place by place, by what `words` says of an item.
fn list<T>(
    what: &str,
    before: &[T],
    after: &[T],
    words: impl Fn(&T) -> String,
    changes: &mut Vec<Change>,
) {
    for at in 0..before.len().max(after.len()) {
        let what = format!("{what} {}", at + 1);
        one(&what, before.get(at).map(&words), after.get(at).map(&words), changes);
    }
}

fn state(recorded: &DeliveryCommit, again: &DeliveryCommit, changes: &mut Vec<Change>) {
    let writes = |commit: &DeliveryCommit| -> BTreeMap<EcoString, String> {
        let words = commit.state.iter().map(|write| {
            let value = write.value.as_ref().map_or("deleted".to_owned(), |value| bytes(value));
            let end = write.expires_ms.map(|ms| format!(" until {ms} ms"));
            (write.name.clone(), format!("{value}{}", end.unwrap_or_default()))
        });
        words.collect()
    };
    let (before, after) = (writes(recorded), writes(again));
    let names: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    for name in names {
        let words = |writes: &BTreeMap<EcoString, String>| {
            Some(writes.get(name).cloned().unwrap_or_else(|| "not written".to_owned()))
        };
        one(&format!("state `{name}`"), words(&before), words(&after), changes);
    }
}

fn timers(
    input: &Event,
    recorded: &DeliveryCommit,
    again: &DeliveryCommit,
    changes: &mut Vec<Change>,
) {
    let mut before = recorded.timers.as_slice();
    // The host itself may have taken away the timer that fired.
    if &*input.kind == private::TIMER
        && before.len() == again.timers.len() + 1
        && let [TimerChange::Cancel { name }, rest @ ..] = before
        && input.attribute("timername") == Some(name)
    {
        before = rest;
    }
    list("timer change", before, &again.timers, timer, changes);
}

fn timer(change: &TimerChange) -> String {
    match change {
        TimerChange::Set { name, due_ms, data } => {
            format!("set `{name}` for {due_ms} ms with {}", bytes(data))
        }
        TimerChange::Cancel { name } => format!("cancel `{name}`"),
    }
}

fn events(recorded: &DeliveryCommit, again: &DeliveryCommit, changes: &mut Vec<Change>) {
    list("emitted event", &recorded.emits, &again.emits, event, changes);
}

fn event(event: &NewEvent) -> String {
    use std::fmt::Write as _;
    let mut words = format!("{}", event.kind);
    if let Some(key) = &event.key {
        let _ = write!(words, " key `{key}`");
    }
    if let Some(Addressee::Bus(bus)) = &event.addressee {
        let _ = write!(words, " to bus `{bus}`");
    }
    if event.schema_version != 0 {
        let _ = write!(words, " version {}", event.schema_version);
    }
    for (name, value) in &event.attributes {
        if !HOST_ATTRIBUTES.contains(&&**name) {
            let _ = write!(words, " {name}={value}");
        }
    }
    let _ = write!(words, " {} {}", event.content_type, bytes(&event.data));
    words
}

fn call(call: &OutgoingCall) -> String {
    let OutgoingCall { name, method, url, headers, body, timeout_ms, .. } = call;
    format!("`{name}` {method} {url} {headers:?} within {timeout_ms} ms {}", bytes(body))
}

fn response(response: &Response) -> String {
    let Response { content_type, data, attributes } = response;
    format!("{content_type} {attributes:?} {}", bytes(data))
}

/// Bytes as people and comparisons see them: nothing is lost, so what reads the same is the same.
fn bytes(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("0x{}", bytes.iter().map(|b| format!("{b:02x}")).collect::<String>()),
    }
}

fn shortened(text: &str) -> String {
    let mut chars = text.chars();
    let mut short: String = chars.by_ref().take(SHOWN_CHARS_MAX).collect();
    if chars.next().is_some() {
        short.push('…');
    }
    short
}
