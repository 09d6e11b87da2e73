//! What a log adds up to, as far as the oracle judges it: a second, plain telling of the rules.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::history::{Change, Commit, Done, Event};
use super::lost::{self, Lost};
use super::{Counting, FIRED, History, Rule, Shown, Verdict};

const TIMER: &str = "tidegate.timer";

/// A timer that waits for its time or for the end of its delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Timer {
    set: (u64, u32),
    due_ms: u64,
}

#[derive(Debug, Default)]
struct Plugin {
    after: u64,
    generation: u32,
    /// What people see.
    serving: u32,
    /// By generation, key and name.
    state: BTreeMap<(u32, String, String), String>,
    /// Deliveries of this generation that are over.
    over: BTreeSet<u64>,
    dead: BTreeSet<u64>,
    redriving: BTreeSet<u64>,
    /// By key: the last delivery that ended.
    last: BTreeMap<String, u64>,
    parked: BTreeMap<String, u64>,
    held: BTreeSet<String>,
    ended: u64,
    /// By key and name.
    timers: BTreeMap<(String, String), Timer>,
    /// Everything that was ever set: key, name and due time, by generation and place.
    set: BTreeMap<(u32, u64, u32), (String, String, u64)>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Fold {
    plugins: BTreeMap<u32, Plugin>,
}

/// What a timer's fire says: generation and place of the timer, its name, when it was due.
fn fire(event: &Event) -> Option<((u32, u64, u32), &str, u64)> {
    let mut parts = event.id.strip_prefix("timer-")?.split('-');
    let place =
        (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let due_ms = event.attributes.get("timerdue")?.parse().ok()?;
    Some((place, event.attributes.get("timername")?, due_ms))
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_default()
}

fn small(value: &Value, name: &str) -> u32 {
    number(value, name).try_into().unwrap_or(u32::MAX)
}

impl Fold {
    pub(super) fn of(
        history: &History,
        counting: &[Counting],
        lost: &Lost,
        verdict: &mut Verdict,
    ) -> Self {
        let mut fold = Self::default();
        let mut unasked = Verdict::default();
        for commit in history.commits() {
            // On what is left of a log, what was right before may look as if it were not.
            let was_judged = lost.was_judged(commit.number);
            let verdict = if was_judged { &mut unasked } else { &mut *verdict };
            fold.fires(commit, lost, verdict);
            if let Some(done) = &commit.done
                && let Some(plugin) = fold.plugins.get_mut(&done.instance)
                && plugin.generation == done.generation
            {
                let is_counting = counting.iter().any(|of| of.instance == done.instance);
                plugin.serve(commit, done, history, is_counting, verdict);
                if done.attempt > 0 {
                    plugin.end(commit, done, verdict);
                }
                plugin.change(commit, done);
            }
            for (kind, control) in &commit.controls {
                fold.control(kind, control, history);
            }
        }
        fold
    }

    /// Timers that fire with this commit.
    fn fires(&self, commit: &Commit, lost: &Lost, verdict: &mut Verdict) {
        for event in commit.events.iter().filter(|event| event.kind == TIMER) {
            let plugin = event.addressee.and_then(|to| self.plugins.get(&to));
            let (Some(plugin), Some((place, name, due_ms))) = (plugin, fire(event)) else {
                verdict.add(Rule::Timers, format!("{} fires nothing", event.position));
                continue;
            };
            if event.time_ms < due_ms {
                let early = due_ms - event.time_ms;
                verdict.add(Rule::Timers, format!("{} fires {early} ms early", event.position));
            }
            let known = plugin.set.get(&place).is_some_and(|(key, set_name, set_ms)| {
                Some(key) == event.key.as_ref() && set_name == name && *set_ms == due_ms
            });
            if !known && !lost.has_commit(place.1) {
                verdict.add(Rule::Timers, format!("{} fires what was not set", event.position));
            }
        }
    }

    fn control(&mut self, kind: &str, control: &Value, history: &History) {
        if kind == "Lost" {
            for (instance, generation, position) in lost::over(control) {
                let plugin = self.plugins.get_mut(&instance);
                let plugin = plugin.filter(|plugin| plugin.generation == generation);
                plugin.into_iter().for_each(|plugin| plugin.discard(position, history));
            }
        }
        let instance = small(control, "instance");
        if kind == "Register" {
            let after = number(control, "after");
            self.plugins.insert(instance, Plugin { after, ..Plugin::default() });
        }
        if kind == "Forget" {
            self.plugins.remove(&instance);
        }
        let Some(plugin) = self.plugins.get_mut(&instance) else { return };
        let (position, key) = (number(control, "position"), control["key"].as_str());
        match (kind, key) {
            ("Rewind", _) => plugin.rewind(small(control, "generation"), number(control, "after")),
            ("Rebuilt", _) if small(control, "generation") == plugin.generation => {
                plugin.serving = plugin.generation;
                plugin.state.retain(|(generation, ..), _| *generation == plugin.serving);
            }
            ("Park", Some(key)) => drop(plugin.parked.insert(key.to_owned(), position)),
            ("Hold", Some(key)) => drop(plugin.held.insert(key.to_owned())),
            ("Release", Some(key)) => {
                plugin.held.remove(key);
                plugin.parked.remove(key);
            }
            ("Redrive", _) => drop(plugin.redriving.insert(position)),
            ("Discard", _) => plugin.discard(position, history),
            _ => {}
        }
    }

    fn plugin(&self, instance: u32) -> Option<&Plugin> {
        self.plugins.get(&instance)
    }

    /// Whether a delivery is over, and whether it is a dead letter.
    pub(super) fn delivery(&self, instance: u32, position: u64) -> (bool, bool) {
        self.plugin(instance).map_or((true, false), |plugin| {
            let is_over = plugin.over.contains(&position) || position <= plugin.after;
            (is_over, plugin.dead.contains(&position))
        })
    }

    /// Whether an event's key waits for a person.
    pub(super) fn waits(&self, instance: u32, event: &Event) -> bool {
        let (Some(plugin), Some(key)) = (self.plugin(instance), &event.key) else { return false };
        plugin.held.contains(key) || plugin.parked.get(key).is_some_and(|at| event.position >= *at)
    }

    /// The value `count` of each key, while no rewind is under way.
    pub(super) fn counts(&self, instance: u32) -> Vec<(String, u64)> {
        let Some(plugin) = self.plugin(instance) else { return Vec::new() };
        if plugin.serving != plugin.generation {
            return Vec::new();
        }
        let counts = plugin
            .state
            .iter()
            .filter(|((generation, _, name), _)| *generation == plugin.serving && name == "count");
        counts.map(|((_, key, _), value)| (key.clone(), value.parse().unwrap_or(0))).collect()
    }

    pub(super) fn count(&self, instance: u32, key: &str) -> u64 {
        let counts = self.counts(instance);
        counts.iter().find(|(of, _)| of == key).map_or(0, |(_, count)| *count)
    }

    /// What the host says of itself is what its log says.
    pub(super) fn compare(&self, shown: &Shown, counting: &[Counting], verdict: &mut Verdict) {
        let mut state = BTreeMap::new();
        let mut dead = BTreeSet::new();
        let judged = |instance: &u32| counting.iter().any(|of| of.instance == *instance);
        for (instance, plugin) in self.plugins.iter().filter(|(instance, _)| judged(instance)) {
            for ((generation, key, name), value) in &plugin.state {
                if *generation == plugin.serving {
                    state.insert((*instance, key.clone(), name.clone()), value.clone());
                }
            }
            dead.extend(plugin.dead.iter().map(|position| (*instance, *position)));
            if let Some(ended) = shown.ended.get(instance)
                && *ended != plugin.ended
            {
                let what = format!("{} deliveries ended, it counts {ended}", plugin.ended);
                verdict.add(Rule::State, what);
            }
            let timers = shown.timers.get(instance).copied().unwrap_or_default();
            if timers != plugin.timers.len() as u64 {
                let pending = &plugin.timers;
                verdict.add(Rule::Timers, format!("{timers} are shown, pending are {pending:?}"));
            }
        }
        for (place, value) in &state {
            if shown.state.get(place) != Some(value) {
                let is = shown.state.get(place);
                verdict.add(Rule::State, format!("{place:?} is {value}, shown is {is:?}"));
            }
        }
        for place in shown.state.keys().filter(|place| !state.contains_key(*place)) {
            verdict.add(Rule::State, format!("{place:?} is shown, and never was written"));
        }
        if dead != shown.dead_letters {
            let what = format!("{dead:?} were given up, shown are {:?}", shown.dead_letters);
            verdict.add(Rule::DeadLetters, what);
        }
    }

    /// Timers that were due by then and are still pending.
    pub(super) fn overdue(&self, until_ms: u64, verdict: &mut Verdict) {
        for plugin in self.plugins.values() {
            let due = plugin.timers.iter().filter(|(_, timer)| timer.due_ms <= until_ms);
            for ((key, name), timer) in due {
                let what = format!("`{name}` of `{key}`, due at {}, is lost", timer.due_ms);
                verdict.add(Rule::Timers, what);
            }
        }
    }
}

impl Plugin {
    /// The end of a delivery, as such.
    fn end(&mut self, commit: &Commit, done: &Done, verdict: &mut Verdict) {
        let at = done.position;
        self.ended += 1;
        let again = self.dead.contains(&at);
        if self.over.contains(&at) || again && !self.redriving.contains(&at) {
            verdict.add(Rule::Deliveries, format!("the delivery of {at} ended twice"));
        }
        if commit.dead == (done.outcome == "ok") {
            let what = format!("{at} ended with {}, dead letter: {}", done.outcome, commit.dead);
            verdict.add(Rule::DeadLetters, what);
        }
        if let Some(key) = &done.key {
            let last = self.last.entry(key.clone()).or_default();
            if at < *last && !again {
                verdict.add(Rule::Deliveries, format!("`{key}`: {at} ended after {last}"));
            }
            *last = at.max(*last);
            match self.parked.get(key) {
                Some(parked) if at > *parked => {
                    verdict.add(Rule::Deliveries, format!("`{key}`: {at} went past {parked}"));
                }
                Some(parked) if at == *parked => drop(self.parked.remove(key)),
                _ => {}
            }
        }
        // One whose event is lost has no key any more, and is over once it is redriven.
        if done.key.is_none() {
            self.parked.retain(|_, parked| *parked != at);
        }
        self.redriving.remove(&at);
        if commit.dead {
            self.dead.insert(at);
        } else {
            self.dead.remove(&at);
            self.over.insert(at);
        }
    }

    /// The end of a delivery of a fire: it serves the timer that is pending, or nothing.
    fn serve(
        &mut self,
        commit: &Commit,
        done: &Done,
        history: &History,
        is_counting: bool,
        verdict: &mut Verdict,
    ) {
        let event = history.event(done.position).filter(|event| event.kind == TIMER);
        let Some(((generation, at, index), name, due_ms)) = event.and_then(fire) else { return };
        let place = (done.key.clone().unwrap_or_default(), name.to_owned());
        let pending = self.timers.get(&place);
        let serves = pending.is_some_and(|timer| {
            if generation == self.generation {
                timer.set == (at, index)
            } else {
                timer.due_ms == due_ms
            }
        });
        let fired = commit.events.iter().filter(|event| event.kind == FIRED).count();
        let expected = usize::from(serves && !commit.dead && done.mode != "rebuild");
        if is_counting && fired != expected || !serves && !commit.events.is_empty() {
            let what = format!("{} told {fired} fires of `{name}`, not {expected}", done.position);
            verdict.add(Rule::Timers, what);
        }
        if serves && !commit.dead {
            self.timers.remove(&place);
        }
    }

    /// State and timers of a delivery.
    fn change(&mut self, commit: &Commit, done: &Done) {
        let Some(key) = &done.key else { return };
        for (name, value) in &commit.state {
            let place = (done.generation, key.clone(), name.clone());
            match value {
                Some(value) => drop(self.state.insert(place, value.clone())),
                None => drop(self.state.remove(&place)),
            }
        }
        for (index, change) in (0_u32..).zip(&commit.timers) {
            match change {
                Change::Set { name, due_ms } => {
                    let (set, due_ms) = ((commit.number, index), *due_ms);
                    let all = (done.generation, commit.number, index);
                    self.set.insert(all, (key.clone(), name.clone(), due_ms));
                    self.timers.insert((key.clone(), name.clone()), Timer { set, due_ms });
                }
                Change::Cancel { name } => {
                    self.timers.remove(&(key.clone(), name.clone()));
                }
            }
        }
    }

    fn rewind(&mut self, generation: u32, after: u64) {
        self.generation = generation;
        self.over.retain(|position| *position <= after);
        self.dead.retain(|position| *position <= after);
        self.redriving.retain(|position| *position <= after);
        self.parked.retain(|_, position| *position <= after);
        self.last.clear();
        self.timers.clear();
        self.state.retain(|(of, ..), _| *of == self.serving);
    }

    fn discard(&mut self, position: u64, history: &History) {
        self.dead.remove(&position);
        self.over.insert(position);
        self.parked.retain(|_, parked| *parked != position);
        if let Some((place, name, _)) = history.event(position).and_then(fire) {
            let key = history.event(position).and_then(|event| event.key.clone());
            let of = (key.unwrap_or_default(), name.to_owned());
            if self.timers.get(&of).is_some_and(|timer| timer.set == (place.1, place.2)) {
                self.timers.remove(&of);
            }
        }
    }
}
