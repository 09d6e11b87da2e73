//! What a test expects of a step, and how that differs from what came: pure.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value as Json;

use super::case::{Payload, json_of, read_payload, required};
use super::print::value;
use crate::config::TimeSpan;
use crate::config::reader::Section;
use crate::effects::{Draft, Effects, OutcomeKind, OutgoingCall, TimerChange};
use crate::wasm::Invocation;

/// Differences within one payload that are shown.
const DIFFERENCES_MAX: usize = 20;
/// Expected effects of one kind in a step.
const EXPECTED_MAX: usize = 10_000;

/// What is expected. None: it does not matter.
#[derive(Debug)]
pub(super) struct Expect {
    /// `ok` unless said.
    pub(super) outcome: OutcomeKind,
    /// Part of the reason.
    reason: Option<String>,
    /// All events emitted, in order.
    emits: Option<Vec<Emit>>,
    /// All state of the key, after the step.
    state: Option<BTreeMap<String, Json>>,
    /// All timers set and cancelled.
    timers: Option<BTreeMap<String, Timer>>,
    /// All calls, in order.
    calls: Option<Vec<Call>>,
    /// Each is part of some line of the log.
    logs: Option<Vec<String>>,
    /// Of a command or a query.
    answer: Option<Payload>,
    /// What the module's own upcaster made of the data.
    lifted: Option<Payload>,
}

#[derive(Debug)]
struct Emit {
    kind: String,
    key: Option<String>,
    bus: Option<String>,
    data: Payload,
    attributes: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Call {
    name: Option<String>,
    method: Option<String>,
    url: Option<String>,
    body: Payload,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Timer {
    /// Set, so many milliseconds after the step.
    After(u64),
    Cancelled,
}

/// What came of a step.
pub(super) struct Came<'a> {
    pub(super) invocation: &'a Invocation,
    /// All state of the key, after the step.
    pub(super) state: &'a BTreeMap<String, Bytes>,
    /// Data of the event after the module lifted it.
    pub(super) lifted: Option<&'a Bytes>,
    /// Log time of the step, milliseconds since the Unix epoch.
    pub(super) now_ms: u64,
}

/// One thing that is not as expected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Difference {
    /// Where: `emits[0].data.sum`.
    pub(super) place: String,
    /// None: it should not be there.
    pub(super) expected: Option<String>,
    /// None: it is not there.
    pub(super) got: Option<String>,
}

/// Reads `expect`. Every name is asked for, there or not, so that misspelt ones find theirs.
pub(super) fn read_expect(mut section: Section<'_>) -> Expect {
    let words: Vec<(&str, OutcomeKind)> =
        OutcomeKind::ALL.into_iter().map(|kind| (kind.name(), kind)).collect();
    let there = |section: &Section<'_>, name| section.has(name).then_some(());
    let (emits, calls) = (there(&section, "emits"), there(&section, "calls"));
    let (state, timers) = (there(&section, "state"), there(&section, "timers"));
    let (answer, lifted) = (there(&section, "answer"), there(&section, "lifted"));
    let logs = there(&section, "logs");
    let emit_list = section.tables("emits", EXPECTED_MAX);
    let call_list = section.tables("calls", EXPECTED_MAX);
    let state_table = section.section("state").take_rest();
    let timer_table = read_timers(section.section("timers"));
    let answer_data = read_payload(&mut section.section("answer"));
    let lifted_data = read_payload(&mut section.section("lifted"));
    let log_list = section.parsed_list("logs");
    Expect {
        outcome: section.choice("outcome", &words).unwrap_or(OutcomeKind::Ok),
        reason: section.text("reason"),
        emits: emits.map(|()| emit_list.into_iter().filter_map(read_emit).collect()),
        state: state.map(|()| state_table.iter().map(|(n, v)| (n.clone(), json_of(v))).collect()),
        timers: timers.map(|()| timer_table),
        calls: calls.map(|()| call_list.into_iter().filter_map(read_call).collect()),
        logs: logs.map(|()| log_list),
        answer: answer.and(answer_data),
        lifted: lifted.and(lifted_data),
    }
}

fn read_emit(mut section: Section<'_>) -> Option<Emit> {
    let kind = required(&mut section, "type");
    let (key, bus) = (section.text("key"), section.text("bus"));
    let attributes = section.pairs("attributes");
    let data = read_payload(&mut section)?;
    Some(Emit { kind: kind?, key, bus, data, attributes })
}

fn read_call(mut section: Section<'_>) -> Option<Call> {
    let (name, method, url) = (section.text("name"), section.text("method"), section.text("url"));
    let body = read_payload(&mut section)?;
    Some(Call { name, method, url, body })
}

fn read_timers(mut section: Section<'_>) -> BTreeMap<String, Timer> {
    let mut timers = BTreeMap::new();
    for (name, found) in section.take_rest() {
        let text = found.as_str().unwrap_or_default();
        if text == "cancelled" {
            timers.insert(name, Timer::Cancelled);
        } else if let Ok(after) = text.parse::<TimeSpan>() {
            timers.insert(name, Timer::After(after.ms()));
        } else {
            section.not_allowed(
                &name,
                &found,
                "how long after the step, as \"90s\", or \"cancelled\"",
            );
        }
    }
    timers
}

impl Expect {
    /// Everything that is not as expected, in the order of the fields.
    pub(super) fn compare(&self, came: &Came<'_>) -> Vec<Difference> {
        let mut found = Found(Vec::new());
        let outcome = &came.invocation.outcome;
        let reason = outcome.reason();
        if outcome.kind() != self.outcome {
            let got = outcome.kind().name();
            let got = if reason.is_empty() { got.to_owned() } else { format!("{got}: {reason}") };
            found.differs("outcome", self.outcome.name(), got);
        } else if let Some(part) = self.reason.as_ref().filter(|part| !reason.contains(*part)) {
            found.differs("reason", format!("{part:?}, or a text with it"), format!("{reason:?}"));
        }
        let effects = &came.invocation.effects;
        if let Some(emits) = &self.emits {
            found.emits(emits, &effects.emits);
        }
        if let Some(state) = &self.state {
            found.state(state, came.state);
        }
        if let Some(timers) = &self.timers {
            found.timers(timers, effects, came.now_ms);
        }
        if let Some(calls) = &self.calls {
            found.calls(calls, &effects.calls);
        }
        for part in self.logs.iter().flatten() {
            if !came.invocation.logs.iter().any(|line| line.message.contains(part)) {
                found.missing("logs", format!("a line with {part:?}"));
            }
        }
        if let Some(expected) = &self.answer {
            let got = effects.response.as_ref().map(|response| &response.data);
            found.payload("answer", expected, got);
        }
        if let Some(expected) = &self.lifted {
            found.payload("lifted", expected, came.lifted);
        }
        found.0
    }
}

struct Found(Vec<Difference>);

impl Found {
    fn differs(&mut self, place: &str, expected: impl Into<String>, got: impl Into<String>) {
        let (expected, got) = (Some(expected.into()), Some(got.into()));
        self.0.push(Difference { place: place.to_owned(), expected, got });
    }

    fn missing(&mut self, place: &str, expected: impl Into<String>) {
        let expected = Some(expected.into());
        self.0.push(Difference { place: place.to_owned(), expected, got: None });
    }

    fn surplus(&mut self, place: &str, got: impl Into<String>) {
        let got = Some(got.into());
        self.0.push(Difference { place: place.to_owned(), expected: None, got });
    }

    fn text(&mut self, place: &str, expected: Option<&str>, got: Option<&str>) {
        if let Some(expected) = expected.filter(|expected| Some(*expected) != got) {
            self.differs(place, expected, got.unwrap_or("none"));
        }
    }

    fn emits(&mut self, expected: &[Emit], got: &[Draft]) {
        for (index, emit) in expected.iter().enumerate() {
            let place = format!("emits[{index}]");
            let Some(draft) = got.get(index) else {
                self.missing(&place, &emit.kind);
                continue;
            };
            self.text(&format!("{place}.type"), Some(&emit.kind), Some(&draft.kind));
            let key = draft.key.as_ref().map(crate::event::Key::as_str);
            self.text(&format!("{place}.key"), emit.key.as_deref(), key);
            self.text(&format!("{place}.bus"), emit.bus.as_deref(), draft.bus.as_deref());
            for (name, value) in &emit.attributes {
                let got = draft.attributes.iter().find(|(n, _)| **n == **name).map(|(_, v)| &**v);
                self.text(&format!("{place}.attributes.{name}"), Some(value), got);
            }
            self.payload(&format!("{place}.data"), &emit.data, Some(&draft.data));
        }
        for (index, draft) in got.iter().enumerate().skip(expected.len()) {
            let shown = format!("{} {}", draft.kind, value(&draft.data));
            self.surplus(&format!("emits[{index}]"), shown);
        }
    }

    fn state(&mut self, expected: &BTreeMap<String, Json>, got: &BTreeMap<String, Bytes>) {
        let names: BTreeSet<&String> = expected.keys().chain(got.keys()).collect();
        for name in names {
            let place = format!("state.{name}");
            match (expected.get(name), got.get(name)) {
                (Some(expected), got) => self.json(&place, expected, got.map(|got| value(got))),
                (None, Some(got)) => self.surplus(&place, value(got).to_string()),
                (None, None) => {}
            }
        }
    }

    fn timers(&mut self, expected: &BTreeMap<String, Timer>, effects: &Effects, now_ms: u64) {
        let mut got = BTreeMap::new();
        for change in &effects.timers {
            match change {
                TimerChange::Set { name, due_ms, .. } => {
                    got.insert(name.to_string(), Timer::After(due_ms.saturating_sub(now_ms)))
                }
                TimerChange::Cancel { name } => got.insert(name.to_string(), Timer::Cancelled),
            };
        }
        let names: BTreeSet<&String> = expected.keys().chain(got.keys()).collect();
        for name in names {
            let (expected, got) = (expected.get(name), got.get(name));
            if expected != got {
                self.0.push(Difference {
                    place: format!("timers.{name}"),
                    expected: expected.map(|timer| timer.in_words()),
                    got: got.map(|timer| timer.in_words()),
                });
            }
        }
    }

    fn calls(&mut self, expected: &[Call], got: &[OutgoingCall]) {
        for (index, call) in expected.iter().enumerate() {
            let place = format!("calls[{index}]");
            let Some(sent) = got.get(index) else {
                self.missing(&place, call.name.as_deref().unwrap_or("a call"));
                continue;
            };
            self.text(&format!("{place}.name"), call.name.as_deref(), Some(&sent.name));
            self.text(&format!("{place}.method"), call.method.as_deref(), Some(&sent.method));
            self.text(&format!("{place}.url"), call.url.as_deref(), Some(&sent.url));
            self.payload(&format!("{place}.data"), &call.body, Some(&sent.body));
        }
        for (index, sent) in got.iter().enumerate().skip(expected.len()) {
            let shown = format!("{} {} {}", sent.name, sent.method, sent.url);
            self.surplus(&format!("calls[{index}]"), shown);
        }
    }

    fn payload(&mut self, place: &str, expected: &Payload, got: Option<&Bytes>) {
        let Some(bytes) = got else {
            return if *expected != Payload::Nothing {
                self.missing(place, value(&expected.bytes()).to_string());
            };
        };
        match expected {
            Payload::Nothing => {}
            Payload::Json(expected) => self.json(place, expected, Some(value(bytes))),
            // JSON by value, whoever wrote it; anything else as it is.
            Payload::Text(_) | Payload::Bytes(_) => {
                let wanted = expected.bytes();
                if wanted != *bytes {
                    self.json(place, &value(&wanted), Some(value(bytes)));
                }
            }
        }
    }

    /// The places where two documents differ, each with what stands there.
    fn json(&mut self, place: &str, expected: &Json, got: Option<Json>) {
        let Some(got) = got else { return self.missing(place, expected.to_string()) };
        let end = self.0.len() + DIFFERENCES_MAX;
        self.json_below(place, expected, &got, end);
    }

    fn json_below(&mut self, place: &str, expected: &Json, got: &Json, end: usize) {
        if self.0.len() >= end {
            return;
        }
        match (expected, got) {
            (Json::Object(expected), Json::Object(got)) => {
                let names: BTreeSet<&String> = expected.keys().chain(got.keys()).collect();
                for name in names {
                    let place = format!("{place}.{name}");
                    match (expected.get(name), got.get(name)) {
                        (Some(expected), Some(got)) => self.json_below(&place, expected, got, end),
                        (Some(expected), None) => self.missing(&place, expected.to_string()),
                        (None, got) => self.surplus(&place, got.unwrap_or(&Json::Null).to_string()),
                    }
                }
            }
            (Json::Array(expected), Json::Array(got)) if expected.len() == got.len() => {
                for (index, (expected, got)) in expected.iter().zip(got).enumerate() {
                    self.json_below(&format!("{place}[{index}]"), expected, got, end);
                }
            }
            (expected, got) if same(expected, got) => {}
            (expected, got) => self.differs(place, expected.to_string(), got.to_string()),
        }
    }
}

/// Numbers by value: languages with one kind of number write `42.0` for 42, or the other way.
fn same(expected: &Json, got: &Json) -> bool {
    let numbers = expected.as_f64().zip(got.as_f64());
    expected == got || numbers.is_some_and(|(expected, got)| expected.total_cmp(&got).is_eq())
}

impl Timer {
    fn in_words(self) -> String {
        match self {
            Self::Cancelled => "cancelled".to_owned(),
            Self::After(ms) => {
                const UNITS: [(u64, &str); 4] =
                    [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
                let whole = UNITS.into_iter().find(|(unit, _)| ms > 0 && ms % unit == 0);
                let (unit, name) = whole.unwrap_or((1, "ms"));
                format!("{}{name} after the step", ms / unit)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(expected: &str, got: &str) -> Vec<Difference> {
        let mut found = Found(Vec::new());
        let parsed = |text: &str| serde_json::from_str::<Json>(text).unwrap();
        found.json("d", &parsed(expected), Some(parsed(got)));
        found.0
    }

    fn difference(place: &str, expected: Option<&str>, got: Option<&str>) -> Difference {
        let owned = |text: Option<&str>| text.map(ToOwned::to_owned);
        Difference { place: place.to_owned(), expected: owned(expected), got: owned(got) }
    }

    #[test]
    fn differences_are_named_where_they_are() {
        assert_eq!(json(r#"{"a":{"b":[1,2]}}"#, r#"{"a":{"b":[1,2.0]}}"#), []);
        let found = json(r#"{"a":{"b":[1,2]},"c":null}"#, r#"{"a":{"b":[1,3]},"d":"x"}"#);
        let expected = [
            difference("d.a.b[1]", Some("2"), Some("3")),
            difference("d.c", Some("null"), None),
            difference("d.d", None, Some("\"x\"")),
        ];
        assert_eq!(found, expected);
        assert_eq!(json("[1]", "[1,2]"), [difference("d", Some("[1]"), Some("[1,2]"))]);
    }

    #[test]
    fn state_is_compared_whole() {
        let mut found = Found(Vec::new());
        let expected =
            BTreeMap::from([("sum".to_owned(), Json::from(4)), ("who".into(), "me".into())]);
        let got = BTreeMap::from([("who".to_owned(), Bytes::from("me")), ("x".into(), "1".into())]);
        found.state(&expected, &got);
        let expected =
            [difference("state.sum", Some("4"), None), difference("state.x", None, Some("1"))];
        assert_eq!(found.0, expected);
    }

    #[test]
    fn many_differences_are_cut() {
        let numbers = |n: i32| Json::from((0..100).map(|i| i + n).collect::<Vec<_>>()).to_string();
        assert_eq!(json(&numbers(0), &numbers(1)).len(), DIFFERENCES_MAX);
    }
}
