//! A log as `log dump` writes it, one JSON object a line.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Rule, Verdict};

/// An event of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) position: u64,
    pub(crate) sequence: Option<u64>,
    pub(crate) id: String,
    pub(crate) source: String,
    pub(crate) kind: String,
    pub(crate) key: Option<String>,
    pub(crate) data: String,
    pub(crate) emitter: Option<u32>,
    pub(crate) causation: Option<u64>,
    /// The plugin that alone gets it.
    pub(crate) addressee: Option<u32>,
    pub(crate) attributes: BTreeMap<String, String>,
    pub(crate) time_ms: u64,
}

/// The end of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) instance: u32,
    pub(crate) generation: u32,
    pub(crate) position: u64,
    pub(crate) key: Option<String>,
    /// 0: nothing ran.
    pub(crate) attempt: u64,
    pub(crate) mode: String,
    pub(crate) outcome: String,
}

/// A timer that was set or cancelled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Set { name: String, due_ms: u64 },
    Cancel { name: String },
}

/// One commit.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Commit {
    pub(crate) number: u64,
    pub(crate) time_ms: u64,
    pub(crate) events: Vec<Event>,
    pub(crate) done: Option<Done>,
    /// Name and value; none: removed.
    pub(crate) state: Vec<(String, Option<String>)>,
    pub(crate) timers: Vec<Change>,
    pub(crate) dead: bool,
    /// Control records: kind, then fields.
    pub(crate) controls: Vec<(String, Value)>,
}

/// The commits of one bus, in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct History {
    commits: Vec<Commit>,
    /// Where each position stands: commit and event, as indexes.
    places: BTreeMap<u64, (usize, usize)>,
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

fn small(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|number| number.try_into().ok())
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(ToOwned::to_owned)
}

impl History {
    /// Reads what `log dump` wrote for one bus.
    pub(crate) fn read(dump: &str) -> Self {
        let mut history = Self::default();
        for line in dump.lines() {
            let line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
            if let Some(commit) = line["commit"].as_u64() {
                history.take(commit, &line);
            }
        }
        history
    }

    fn take(&mut self, number: u64, line: &Value) {
        if self.commits.last().is_none_or(|last| last.number != number) {
            let time_ms = self::number(&line["log_time_ms"]);
            self.commits.push(Commit { number, time_ms, ..Commit::default() });
        }
        let index = self.commits.len() - 1;
        let Some(commit) = self.commits.last_mut() else { return };
        match line["record"].as_str().unwrap_or_default() {
            "event" => {
                let event = event(line, commit.time_ms);
                self.places.insert(event.position, (index, commit.events.len()));
                commit.events.push(event);
            }
            "completion" => commit.done = Some(done(line)),
            "state" => {
                let name = text(&line["name"]).unwrap_or_default();
                let value =
                    (line["removed"] != true).then(|| text(&line["value"]).unwrap_or_default());
                commit.state.push((name, value));
            }
            "timer" => {
                let name = text(&line["name"]).unwrap_or_default();
                commit.timers.push(match line["due_ms"].as_u64() {
                    Some(due_ms) => Change::Set { name, due_ms },
                    None => Change::Cancel { name },
                });
            }
            "dead-letter" => commit.dead = true,
            "control" => {
                let control = line["control"].as_object().into_iter().flatten();
                commit.controls.extend(control.map(|(kind, of)| (kind.clone(), of.clone())));
            }
            _ => {}
        }
    }

    pub(crate) fn commits(&self) -> &[Commit] {
        &self.commits
    }

    pub(crate) fn events(&self) -> impl Iterator<Item = &Event> {
        self.commits.iter().flat_map(|commit| &commit.events)
    }

    pub(crate) fn event(&self, position: u64) -> Option<&Event> {
        let (commit, event) = self.places.get(&position)?;
        self.commits.get(*commit)?.events.get(*event)
    }

    /// The part up to a commit.
    pub(crate) fn up_to(mut self, commit: u64) -> Self {
        self.commits.retain(|made| made.number <= commit);
        let count = self.commits.len();
        self.places.retain(|_, (commit, _)| *commit < count);
        self
    }

    /// What was there before must still be, unchanged.
    pub(super) fn goes_on_from(&self, before: &Self, verdict: &mut Verdict) {
        for (index, commit) in before.commits.iter().enumerate() {
            match self.commits.get(index) {
                Some(now) if now == commit => {}
                Some(_) => {
                    let what = format!("commit {} is another than it was", commit.number);
                    return verdict.add(Rule::Shown, what);
                }
                None => {
                    let what = format!("commit {} was there, and is not", commit.number);
                    return verdict.add(Rule::Shown, what);
                }
            }
        }
    }
}

fn event(line: &Value, time_ms: u64) -> Event {
    let pairs = line["attributes"].as_array().into_iter().flatten();
    let attributes = pairs.filter_map(|pair| Some((text(&pair[0])?, text(&pair[1])?))).collect();
    Event {
        position: number(&line["position"]),
        sequence: line["sequence"].as_u64(),
        id: text(&line["id"]).unwrap_or_default(),
        source: text(&line["source"]).unwrap_or_default(),
        kind: text(&line["type"]).unwrap_or_default(),
        key: text(&line["key"]),
        data: text(&line["data"]).unwrap_or_default(),
        emitter: small(&line["emitter"]),
        causation: line["causation"].as_u64(),
        addressee: small(&line["addressee_plugin"]),
        attributes,
        time_ms,
    }
}

fn done(line: &Value) -> Done {
    Done {
        instance: small(&line["instance"]).unwrap_or_default(),
        generation: small(&line["generation"]).unwrap_or_default(),
        position: number(&line["position"]),
        key: text(&line["key"]),
        attempt: number(&line["attempt"]),
        mode: text(&line["mode"]).unwrap_or_default(),
        outcome: text(&line["outcome"]).unwrap_or_default(),
    }
}
