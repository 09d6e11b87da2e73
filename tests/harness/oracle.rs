//! What must be true of a log, judged from outside.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

fn text<'a>(event: &'a Value, name: &str) -> &'a str {
    event[name].as_str().unwrap_or_else(|| panic!("no `{name}` in {event}"))
}

fn number(event: &Value, name: &str) -> u64 {
    text(event, name).parse().unwrap()
}

/// Events by key, in the order of the log.
pub(crate) fn by_key(events: &[Value]) -> BTreeMap<String, Vec<&Value>> {
    let mut keys: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for event in events {
        if event["partitionkey"].is_string() {
            keys.entry(text(event, "partitionkey").to_owned()).or_default().push(event);
        }
    }
    keys
}

/// Positions increase, identities are unique, and the events of every key are numbered without a
/// gap, from 1.
pub(crate) fn sequences_are_dense(log: &[Value]) {
    let positions: Vec<u64> = log.iter().map(|event| number(event, "tidegateposition")).collect();
    assert!(positions.is_sorted_by(|a, b| a < b), "positions do not increase");
    let identities: BTreeSet<_> =
        log.iter().map(|event| (text(event, "source"), text(event, "id"))).collect();
    assert_eq!(identities.len(), log.len(), "an identity stands in the log twice");
    for (key, events) in by_key(log) {
        for (index, event) in events.iter().enumerate() {
            assert_eq!(number(event, "tidegatesequence"), index as u64 + 1, "{key}: {event}");
        }
    }
}

/// For every key with n events `counts[key]`: floor(n / 10) milestones, at 10, 20, ... each once.
pub(crate) fn milestones_are_exact(milestones: &[Value], counts: &BTreeMap<String, u64>) {
    let by_key = by_key(milestones);
    for (key, count) in counts {
        let found: Vec<u64> = by_key.get(key).map_or(Vec::new(), |events| {
            events.iter().map(|event| event["data"]["count"].as_u64().unwrap()).collect()
        });
        let expected: Vec<u64> = (1..=count / 10).map(|tens| tens * 10).collect();
        assert_eq!(found, expected, "milestones of {key} with {count} events");
    }
    let all: usize = by_key.values().map(Vec::len).sum();
    let expected: u64 = counts.values().map(|count| count / 10).sum();
    assert_eq!((all, all as u64), (milestones.len(), expected));
}
