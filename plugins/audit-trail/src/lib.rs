//! Who did what, by key and time.
//!
//! Teaches: names of state as an index. Every event of a key is one entry, under a name that sorts by
//! time; who acted on a key stands under a name of its own, which can be asked of all keys without
//! reading their entries. Entries forget themselves after `[config] keep-days`.
//!
//! Who: the CloudEvents attribute `actor`, else the event's `source`. When: when the log took the event,
//! which nobody can say otherwise; what the event says of its time is kept beside it.
//!
//! ```text
//! tidegate query audit-trail trail --key d-1
//! GET /v1/plugins/audit-trail/query/trail?key=d-1&from=1772366400000&to=1772452800000&who=ada&limit=50
//! GET /v1/plugins/audit-trail/query/touched?who=ada&prefix=d-
//! ```

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidegate_sdk::{
    Answer, Event, Failure, Outcome, Request, Response, attribute, config_as, handlers, keys,
    queries, reject, state,
};

const KEEP_DAYS_DEFAULT: u64 = 365;
const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1000;
/// A name of state has at most 255 bytes.
const WHO_BYTES_MAX: usize = 200;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    who: String,
    what: String,
    at_ms: u64,
    /// When it happened, as its source says.
    #[serde(skip_serializing_if = "Option::is_none")]
    said_ms: Option<u64>,
    position: u64,
    id: String,
    source: String,
}

/// What somebody did on a key, in short.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Touch {
    count: u64,
    last_ms: u64,
}

handlers! { "**" => note }

queries! {
    "trail" => trail,
    "touched" => touched,
}

fn note(event: &Event) -> Outcome {
    if event.key().is_none() {
        return Ok(()); // Nothing that an entry could belong to.
    }
    let days = config_as("keep-days")?.unwrap_or(KEEP_DAYS_DEFAULT);
    let keep = Duration::from_secs(days.saturating_mul(86_400));
    let who = attribute("actor").unwrap_or_else(|| event.source().to_owned());
    let at_ms = event.recorded_ms();
    let touch: Touch = state::get(&touch_name(&who))?.unwrap_or_default();
    let touch = Touch { count: touch.count + 1, last_ms: at_ms };
    state::set_for(&touch_name(&who), &touch, keep)?;
    let entry = Entry {
        who,
        what: event.kind().to_owned(),
        at_ms,
        said_ms: event.time_ms(),
        position: event.position(),
        id: event.id().to_owned(),
        source: event.source().to_owned(),
    };
    Ok(state::set_for(&entry_name(at_ms, event.position()), &entry, keep)?)
}

/// Sorts by time, then by place in the log.
fn entry_name(at_ms: u64, position: u64) -> String {
    format!("entry/{at_ms:020}/{position:020}")
}

fn touch_name(who: &str) -> String {
    let mut end = who.len().min(WHO_BYTES_MAX);
    while !who.is_char_boundary(end) {
        end -= 1;
    }
    format!("who/{}", who.get(..end).unwrap_or(who))
}

/// The entries of a key, the oldest first: `from` (included) `to` (not) in milliseconds since the Unix
/// epoch, of `who`, at most `limit`.
fn trail(request: &Request) -> Answer {
    if request.key().is_none() {
        return Err(reject("`trail` needs a key: ask with `--key`"));
    }
    let from = entry_name(number(request, "from")?.unwrap_or(0), 0);
    let to = entry_name(number(request, "to")?.unwrap_or(u64::MAX), 0);
    let (who, limit) = (request.attribute("who"), limit(request)?);
    let mut found: Vec<Entry> = Vec::new();
    let names = state::list("entry/").skip_while(|name| *name < from);
    for name in names.take_while(|name| *name < to) {
        let Some(entry) = state::get::<Entry>(&name)? else { continue };
        if who.is_none_or(|who| who == entry.who) {
            found.push(entry);
        }
        if found.len() == limit {
            break;
        }
    }
    Ok(Response::json(&found)?)
}

#[derive(Serialize)]
struct Touched {
    key: String,
    #[serde(flatten)]
    touch: Touch,
}

/// The keys that `who` acted on, by key, at most `limit`, with the `prefix`.
fn touched(request: &Request) -> Answer {
    let who = request.attribute("who").ok_or_else(|| reject("`touched` needs `who`"))?;
    let limit = limit(request)?;
    let mut found = Vec::new();
    for key in keys::list(request.attribute("prefix").unwrap_or_default()) {
        if let Some(touch) = keys::get(&key, &touch_name(who))? {
            found.push(Touched { key, touch });
        }
        if found.len() == limit {
            break;
        }
    }
    Ok(Response::json(&found)?)
}

fn number(request: &Request, name: &str) -> Result<Option<u64>, Failure> {
    let Some(text) = request.attribute(name) else { return Ok(None) };
    let wrong = |_| reject(format!("`{name}` is a time in milliseconds, found `{text}`"));
    text.parse().map(Some).map_err(wrong)
}

fn limit(request: &Request) -> Result<usize, Failure> {
    let Some(text) = request.attribute("limit") else { return Ok(LIMIT_DEFAULT) };
    match text.parse() {
        Ok(limit) if (1..=LIMIT_MAX).contains(&limit) => Ok(limit),
        _ => Err(reject(format!("`limit` is 1 to {LIMIT_MAX}, found `{text}`"))),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};
    use tidegate_sdk::testing::{Ask, Host, Input, event, request};

    use super::{Entry, handle, read};

    const DAY: Duration = Duration::from_secs(86_400);

    fn act(who: &str, what: &str, key: &str) -> Input {
        event(what).key(key).attribute("actor", who)
    }

    /// Three acts, a day apart.
    fn office() -> Host {
        let mut host = Host::new();
        for input in [
            act("ada", "document.opened", "d-1"),
            act("bob", "document.approved", "d-1"),
            act("ada", "document.opened", "d-2"),
            event("document.archived").key("d-1").source("/archive").time_ms(7),
        ] {
            host.deliver(handle, input).expect_ok();
            host.advance(DAY);
        }
        host
    }

    fn trail(host: &mut Host, ask: Ask) -> Vec<Entry> {
        serde_json::from_slice(host.read(read, ask).unwrap().body()).unwrap()
    }

    fn whats(trail: &[Entry]) -> Vec<(&str, &str)> {
        trail.iter().map(|entry| (&*entry.who, &*entry.what)).collect()
    }

    #[test]
    fn trail_of_a_key_is_in_order_and_can_be_cut_by_time_and_who() {
        let mut host = office();
        let all = trail(&mut host, request("trail").key("d-1"));
        let (opened, approved) = (("ada", "document.opened"), ("bob", "document.approved"));
        assert_eq!(whats(&all), [opened, approved, ("/archive", "document.archived")]);
        assert_eq!((all[0].said_ms, all[2].said_ms), (None, Some(7)));
        let of = |name: &str, value: &dyn ToString| {
            request("trail").key("d-1").attribute(name, &value.to_string())
        };
        assert_eq!(whats(&trail(&mut host, of("from", &all[1].at_ms)))[0], approved);
        assert_eq!(whats(&trail(&mut host, of("to", &all[1].at_ms))), [opened]);
        assert_eq!(whats(&trail(&mut host, of("who", &"bob"))), [approved]);
        assert_eq!(whats(&trail(&mut host, of("limit", &1))), [opened]);
        assert!(host.read(read, of("from", &"yesterday")).is_err());
        assert!(host.read(read, request("trail")).is_err());
    }

    #[test]
    fn who_touched_what_is_found_across_keys() {
        let mut host = office();
        let answer = host.read(read, request("touched").attribute("who", "ada")).unwrap();
        let found: Value = serde_json::from_slice(answer.body()).unwrap();
        let keys: Vec<_> = found.as_array().unwrap().iter().map(|t| &t["key"]).collect();
        assert_eq!((keys, &found[0]["count"]), (vec![&json!("d-1"), &json!("d-2")], &json!(1)));
        assert!(host.read(read, request("touched")).is_err());
    }

    #[test]
    fn what_is_too_old_is_forgotten() {
        let mut host = Host::new().with_config("keep-days", "2");
        host.deliver(handle, act(&"é".repeat(200), "document.opened", "d-1")).expect_ok();
        host.advance(DAY);
        host.deliver(handle, act("bob", "document.closed", "d-1")).expect_ok();
        host.advance(DAY);
        let left = trail(&mut host, request("trail").key("d-1"));
        assert_eq!(whats(&left), [("bob", "document.closed")]);
    }

    #[test]
    fn sample_is_kept_and_what_has_no_key_is_not() {
        let mut host = Host::new();
        let sample = Input::cloud_event(include_str!("../events/document-approved.json"));
        assert_eq!(host.deliver(handle, sample).expect_ok().state.len(), 2);
        assert!(host.deliver(handle, event("document.opened")).expect_ok().state.is_empty());
    }
}
