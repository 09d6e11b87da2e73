//! The judge of every crash test: reads what clients noted and what the log holds, and says what is
//! wrong. It shares no code with the host and writes nothing.
//!
//! It folds the log by itself (`fold.rs`) from the lines that `log dump` writes (`history.rs`), and
//! holds that against the client's own notes (`journal.rs`) and against what the host says of itself
//! (`Shown`). `cargo test -p tidegate-tests --features planted-bugs --test planted` shows that it
//! sees what it should.

mod fold;
mod history;
mod journal;
#[allow(dead_code, reason = "only real hosts are damaged and repaired")]
mod lost;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value;
use uuid::Uuid;

pub(crate) use fold::Fold;
pub(crate) use history::History;
pub(crate) use journal::Journal;
pub(crate) use lost::Lost;

/// The promise that is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rule {
    /// The host comes back after a crash.
    Starts,
    /// Acknowledged events are in the log, where the answer said.
    Acknowledged,
    /// What somebody was shown is still there.
    Shown,
    /// The log holds nothing that nobody wrote.
    Written,
    /// Per key: the order of writing, without a gap.
    KeyOrder,
    /// Commits, positions and sequences are dense; time does not go back.
    Numbers,
    /// Every identity once.
    Identity,
    /// Deliveries end once, and per key in the order of the log.
    Deliveries,
    /// Every effect once, with the id it must have.
    Effects,
    /// State, distinct events and effects of a counting handler are one number.
    Counts,
    /// Timers once, never early, none lost.
    Timers,
    /// Every delivery given up is accounted for.
    DeadLetters,
    /// The host's own state is what its log says.
    State,
    /// Everything is delivered.
    Delivered,
    /// A repair loses what it says, and nothing else.
    #[allow(dead_code, reason = "only real hosts are damaged and repaired")]
    Lost,
}

/// One broken promise.
#[derive(Debug, Clone)]
pub(crate) struct Violation {
    pub(crate) rule: Rule,
    pub(crate) what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.what)
    }
}

/// What is found wrong; grows.
#[derive(Debug, Default)]
pub(crate) struct Verdict(Vec<Violation>);

/// Violations kept of each rule: one defect breaks the same promise a thousand times, and must not hide
/// that it breaks others, too.
const KEPT_MAX: usize = 20;

impl Verdict {
    pub(crate) fn add(&mut self, rule: Rule, what: impl Into<String>) {
        let known = self.0.iter().filter(|violation| violation.rule == rule).count();
        if known < KEPT_MAX {
            self.0.push(Violation { rule, what: what.into() });
        }
    }

    /// Takes what else is wrong.
    #[allow(dead_code, reason = "only real hosts are damaged and repaired")]
    pub(crate) fn join(&mut self, other: Self) {
        other.0.into_iter().for_each(|violation| self.add(violation.rule, violation.what));
    }

    pub(crate) fn is_sound(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn rules(&self) -> BTreeSet<Rule> {
        self.0.iter().map(|violation| violation.rule).collect()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|violation| writeln!(f, "{violation}"))
    }
}

/// What a host at rest says of itself.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    /// Values of counting plugins: (plugin, key, name).
    pub(crate) state: BTreeMap<(u32, String, String), String>,
    /// Plugin and position of each dead letter.
    pub(crate) dead_letters: BTreeSet<(u32, u64)>,
    /// Deliveries that ended, by plugin, as far as it counts them; none: not asked for.
    pub(crate) ended: BTreeMap<u32, u64>,
    /// Log time by which everything due had time to fire.
    pub(crate) log_time_ms: u64,
    /// Pending timers by plugin.
    pub(crate) timers: BTreeMap<u32, u64>,
}

/// A handler that counts: for every event of its key it adds one to the value `count` and emits one
/// event of type `witness.counted`, whose data is `{"count", "input"}`. A timer that fires makes it
/// emit one `witness.fired` instead.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counting {
    pub(crate) instance: u32,
    /// What it subscribes to: types that begin so.
    pub(crate) kinds: &'static str,
}

pub(crate) const COUNTED: &str = "witness.counted";
pub(crate) const FIRED: &str = "witness.fired";
/// The source of every client's events.
pub(crate) const CLIENT: &str = "/test";

/// Everything the oracle knows of one moment.
pub(crate) struct Case<'a> {
    pub(crate) journal: &'a Journal,
    pub(crate) history: &'a History,
    pub(crate) log_id: Uuid,
    pub(crate) counting: &'a [Counting],
    /// What repairs of this log lost.
    pub(crate) lost: &'a Lost,
}

impl Case<'_> {
    /// Right after a recovery, before anything is written: all that is durable is there, and nothing
    /// else. `seen` is what the log held the last time that somebody looked.
    pub(crate) fn after_recovery(&self, seen: Option<&History>) -> Verdict {
        let mut verdict = Verdict::default();
        self.numbers(&mut verdict);
        self.client(&mut verdict);
        if let Some(seen) = seen {
            self.history.goes_on_from(seen, &mut verdict);
        }
        let fold = Fold::of(self.history, self.counting, self.lost, &mut verdict);
        self.effects(&mut verdict);
        self.counts(&fold, &mut verdict);
        verdict
    }

    /// At rest, with everything published and acknowledged, no timer due and no retry waiting.
    pub(crate) fn at_rest(&self, seen: Option<&History>, shown: &Shown) -> Verdict {
        let mut verdict = self.after_recovery(seen);
        let fold = Fold::of(self.history, self.counting, self.lost, &mut Verdict::default());
        for entry in self.journal.entries() {
            if entry.acknowledged.is_none() {
                verdict.add(Rule::Acknowledged, format!("`{}` was never acknowledged", entry.id));
            }
        }
        for counting in self.counting {
            self.delivered(*counting, &fold, &mut verdict);
        }
        fold.compare(shown, self.counting, &mut verdict);
        fold.overdue(shown.log_time_ms, &mut verdict);
        verdict
    }

    fn numbers(&self, verdict: &mut Verdict) {
        let (mut commit, mut position, mut time_ms) = (0, 0, 0);
        let mut sequences: BTreeMap<&str, u64> = BTreeMap::new();
        let mut identities = BTreeSet::new();
        for made in self.history.commits() {
            if made.number != commit + 1 {
                verdict.add(Rule::Numbers, format!("commit {} follows {commit}", made.number));
            }
            if made.time_ms < time_ms {
                verdict.add(Rule::Numbers, format!("commit {}: time goes back", made.number));
            }
            (commit, time_ms) = (made.number, made.time_ms);
            for event in &made.events {
                if event.position != position + 1 {
                    let what = format!("position {} follows {position}", event.position);
                    verdict.add(Rule::Numbers, what);
                }
                position = event.position;
                if !identities.insert((&event.source, &event.id)) {
                    let what = format!("`{}` of {} again at {position}", event.id, event.source);
                    verdict.add(Rule::Identity, what);
                }
                let (Some(key), Some(sequence)) = (&event.key, event.sequence) else { continue };
                let last = sequences.entry(key).or_default();
                // A gap may be what is lost; what it is known to have had is not given again.
                let lost = self.lost.events().filter(|event| event.key.as_ref() == Some(key));
                let lost = lost.filter(|event| event.sequence > Some(*last)).count() as u64;
                if sequence <= *last || sequence > *last + 1 + lost {
                    let what = format!("`{key}`: sequence {sequence} follows {last}");
                    verdict.add(Rule::Numbers, what);
                }
                *last = sequence;
            }
        }
    }

    /// The client's events: acknowledged ones are there, in its order, and only what it sent.
    fn client(&self, verdict: &mut Verdict) {
        let mut found: BTreeMap<&str, u64> = BTreeMap::new();
        let mut by_key: BTreeMap<Option<&str>, Vec<&str>> = BTreeMap::new();
        for event in self.history.events().filter(|event| event.source == CLIENT) {
            let Some(sent) = self.journal.entry(&event.id) else {
                verdict.add(Rule::Written, format!("`{}` was never sent", event.id));
                continue;
            };
            let data: Option<Value> = serde_json::from_str(&event.data).ok();
            if data.as_ref() != Some(&sent.data) || event.key != sent.key {
                verdict.add(Rule::Written, format!("`{}` is not what was sent", event.id));
            }
            found.insert(&event.id, event.position);
            by_key.entry(event.key.as_deref()).or_default().push(&event.id);
        }
        for sent in self.journal.entries() {
            let Some(position) = sent.acknowledged else { continue };
            match found.get(&*sent.id) {
                Some(at) if *at == position => {}
                Some(at) => verdict.add(
                    Rule::Acknowledged,
                    format!("`{}` is at {at}, the answer said {position}", sent.id),
                ),
                None if self.lost.event(position).is_some_and(|event| event.id == sent.id) => {}
                None => verdict.add(Rule::Acknowledged, format!("`{}` is lost", sent.id)),
            }
        }
        let lost = self.lost.events().filter(|event| event.source == CLIENT);
        let lost: BTreeSet<&str> = lost.map(|event| &*event.id).collect();
        for (key, ids) in by_key {
            let Some(key) = key else { continue };
            let sent = self.journal.of_key(key).iter().map(String::as_str);
            let sent: Vec<&str> =
                sent.filter(|id| !lost.contains(id) || found.contains_key(id)).collect();
            let is_other = |(at, id): &(usize, &&str)| sent.get(*at) != Some(id);
            if let Some((at, id)) = ids.iter().enumerate().find(is_other) {
                let what = format!("`{key}`: number {at} is `{id}`, sent was {:?}", sent.get(at));
                verdict.add(Rule::KeyOrder, what);
            }
        }
        for conflict in self.journal.conflicts() {
            verdict.add(Rule::Acknowledged, conflict);
        }
    }

    /// Emitted events: of a delivery that the log knows, under the id they must have, once.
    fn effects(&self, verdict: &mut Verdict) {
        let mut caused = BTreeSet::new();
        for commit in self.history.commits() {
            let emitted = commit.events.iter().filter(|event| event.emitter.is_some());
            for (index, event) in (0_u32..).zip(emitted) {
                let Some(done) = &commit.done else {
                    verdict.add(Rule::Effects, format!("{} has no delivery", event.position));
                    continue;
                };
                let Some(input) = self.input(done.position) else {
                    let what = format!("{} is of no event: {}", event.position, done.position);
                    verdict.add(Rule::Effects, what);
                    continue;
                };
                let id = effect_id(self.log_id, (done.instance, done.generation), input, index);
                if event.id != id {
                    let what = format!("{} has the id `{}`, not `{id}`", event.position, event.id);
                    verdict.add(Rule::Effects, what);
                }
                let is_of =
                    event.emitter == Some(done.instance) && event.causation == Some(done.position);
                if !is_of {
                    verdict.add(Rule::Effects, format!("{}: cause is not told", event.position));
                }
                // Over all generations: a rebuild emits nothing again.
                if !caused.insert((done.instance, done.position, index)) {
                    let what = format!("delivery of {} has effect {index} again", done.position);
                    verdict.add(Rule::Effects, what);
                }
            }
        }
    }

    /// Counting handlers: the n-th effect of a key says n, and so does its state. Where some are lost
    /// in between, what is left was counted before they were.
    fn counts(&self, fold: &Fold, verdict: &mut Verdict) {
        for counting in self.counting {
            let mut last: BTreeMap<&str, u64> = BTreeMap::new();
            let events = self.history.commits().iter();
            let events = events.flat_map(|commit| commit.events.iter().map(move |e| (commit, e)));
            for (commit, event) in events {
                if event.emitter != Some(counting.instance) || event.kind != COUNTED {
                    continue;
                }
                let data: Value = serde_json::from_str(&event.data).unwrap_or_default();
                let key = event.key.as_deref().unwrap_or_default();
                let last = last.entry(key).or_default();
                let count = data["count"].as_u64().unwrap_or_default();
                let follows =
                    count == *last + 1 || self.lost.was_judged(commit.number) && count > *last;
                *last = count;
                let input = event.causation.and_then(|at| self.input(at));
                if !follows || input.is_none_or(|input| data["input"] != *input.id) {
                    verdict.add(Rule::Counts, format!("`{key}`: an effect says {data}"));
                }
            }
            for (key, count) in fold.counts(counting.instance) {
                let told = last.get(&*key).copied().unwrap_or_default();
                if count != told {
                    let what = format!("`{key}`: the state says {count}, the last effect {told}");
                    verdict.add(Rule::Counts, what);
                }
            }
        }
    }

    /// An event, also one that is lost since.
    fn input(&self, position: u64) -> Option<&history::Event> {
        self.lost.event(position).or_else(|| self.history.event(position))
    }

    /// Everything a plugin subscribes to has been delivered, and counted unless it was given up.
    fn delivered(&self, counting: Counting, fold: &Fold, verdict: &mut Verdict) {
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        // Deliveries that may be in the count of a key although nothing tells any more.
        let mut perhaps: BTreeMap<&str, u64> = BTreeMap::new();
        for event in self.lost.events().filter(|event| event.kind.starts_with(counting.kinds)) {
            *perhaps.entry(event.key.as_deref().unwrap_or_default()).or_default() += 1;
        }
        for event in self.history.events() {
            let is_its = event.emitter.is_none()
                && event.addressee.is_none_or(|to| to == counting.instance)
                && (event.addressee.is_some() || event.kind.starts_with(counting.kinds));
            if !is_its {
                continue;
            }
            let (is_over, is_dead) = fold.delivery(counting.instance, event.position);
            if !is_over && !is_dead && !fold.waits(counting.instance, event) {
                verdict.add(Rule::Delivered, format!("{} is not delivered", event.position));
            }
            if is_over && !is_dead && event.addressee.is_none() {
                let is_unsure = self.lost.is_over(counting.instance, event.position);
                let to = if is_unsure { &mut perhaps } else { &mut counts };
                *to.entry(event.key.as_deref().unwrap_or_default()).or_default() += 1;
            }
        }
        for (key, count) in &counts {
            let state = fold.count(counting.instance, key);
            let most = count + perhaps.get(key).copied().unwrap_or_default();
            if !(*count..=most).contains(&state) {
                let what =
                    format!("`{key}`: {count} to {most} events delivered, the state says {state}");
                verdict.add(Rule::Counts, what);
            }
        }
    }
}

/// UUIDv5 of log id, instance, generation, position and log time of the input, and index.
fn effect_id(
    log_id: Uuid,
    (instance, generation): (u32, u32),
    input: &history::Event,
    index: u32,
) -> String {
    let mut name = Vec::new();
    name.extend(instance.to_le_bytes());
    name.extend(generation.to_le_bytes());
    name.extend(input.position.to_le_bytes());
    name.extend(input.time_ms.to_le_bytes());
    name.extend(index.to_le_bytes());
    Uuid::new_v5(&log_id, &name).to_string()
}
