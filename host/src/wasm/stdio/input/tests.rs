use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use super::*;
use crate::event::{CommitNumber, EventTime, Key, KeySequence, NewEvent, Position};
use crate::wasm::context::Access;
use crate::wasm::delivery::{GuestLimits, StateView};
use crate::wasm::fixtures::context;

fn event(body: NewEvent) -> Event {
    Event {
        position: Position(1),
        sequence: KeySequence(1),
        recorded_ms: 0,
        commit: CommitNumber(1),
        body,
    }
}

fn read(body: NewEvent) -> Value {
    let text = cloud_event(&event(body), |_| true);
    assert!(!text.contains('\n'), "one line: {text}");
    serde_json::from_str(&text).unwrap()
}

fn with_data(content_type: &str, data: &[u8]) -> Value {
    read(NewEvent {
        content_type: content_type.into(),
        data: Bytes::copy_from_slice(data),
        ..NewEvent::default()
    })
}

#[test]
fn data_is_embedded_by_its_type() {
    let json = with_data("application/json; charset=utf-8", b"{\n\"a\":\r\n1.0e2}");
    assert_eq!(json["data"]["a"], 100.0);
    assert_eq!(with_data("application/vnd.x+json", b"[1]")["data"][0], 1);
    assert_eq!(with_data("text/plain", "é\n".as_bytes())["data"], "é\n");
    assert_eq!(with_data("text/plain", b"\xff")["data_base64"], "/w==");
    assert_eq!(with_data("application/json", b"{broken")["data_base64"], "e2Jyb2tlbg==");
    assert_eq!(with_data("", b"25")["data"], 25);
    assert!(with_data("", b"").get("data").is_none());
}

#[test]
fn the_key_goes_where_it_came_from() {
    let key = Some(Key::new("o-1").unwrap());
    let subject =
        NewEvent { key: key.clone(), key_variant: KeyVariant::Subject, ..NewEvent::default() };
    assert_eq!(read(subject)["subject"], "o-1");
    let attributes: Vec<(Arc<str>, Arc<str>)> = vec![("subject".into(), "other".into())];
    let both = read(NewEvent {
        key,
        key_variant: KeyVariant::PartitionKey,
        attributes,
        time: Some(EventTime { text: "2024-01-01T00:00:00+02:00".into(), ms: 0 }),
        ..NewEvent::default()
    });
    assert_eq!((&both["partitionkey"], &both["subject"]), (&"o-1".into(), &"other".into()));
    assert_eq!(both["time"], "2024-01-01T00:00:00+02:00", "as it was sent");
}

#[test]
fn state_of_any_kind_can_be_read() {
    assert_eq!(json_value(b"{\"a\":\n1}"), "{\"a\": 1}");
    assert_eq!(json_value(b"plain"), "\"plain\"");
    assert_eq!(json_value(b"\xff"), "{\"base64\":\"/w==\"}");
}

/// So many names, which can be looked through once.
struct Once {
    names: usize,
    looks: AtomicUsize,
}

impl StateView for Once {
    fn get(&self, name: &str) -> Option<Vec<u8>> {
        Some(name.into())
    }

    fn list(&self, _prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
        assert_eq!(self.looks.fetch_add(1, Ordering::Relaxed), 0, "another look at all names");
        let names = (0..self.names).map(|number| format!("{number:06}"));
        names.filter(|name| after.is_none_or(|after| &**name > after)).take(limit).collect()
    }
}

/// Pages of a thousand took a key with 200,000 names 2.7 seconds of each attempt, which no timeout ended.
#[test]
fn the_names_of_a_key_are_looked_through_once() {
    let handed = |names: usize| {
        let state = Arc::new(Once { names, looks: AtomicUsize::new(0) });
        let context = context(Some("k"), GuestLimits::default(), state, Access::Write);
        input(&Session::new(context), &Asked::Event)
    };
    let text = handed(5000).unwrap();
    let rest: Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
    assert_eq!(rest["state"].as_object().unwrap().len(), 5000);
    assert_eq!(rest["state"]["004999"], "004999");
    assert!(handed(limits::STDIO_STATE_BYTES_MAX / 12 + 1).unwrap_err().contains("8388608 bytes"));
}
