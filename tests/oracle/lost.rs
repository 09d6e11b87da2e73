//! What repairs of a log could not keep: held against what the log held before, and remembered for
//! whoever judges what the log became.
//!
//! Whatever is left of the damaged part must be as it was, and that was judged already; so rules about
//! how its commits follow on each other are not asked again there (`was_judged`). What a repaired host
//! did since is judged like anything else, on what the repair left.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::history::{Commit, Done, Event};
use super::{CLIENT, History, Rule, Verdict};

/// The type of what holds the place of an event that is lost.
const FILLER: &str = "tidegate.lost";

type Delivery = (u32, u32, u64);

/// See the module. Nothing is lost of a log that was never repaired.
#[derive(Debug, Clone)]
pub(crate) struct Lost {
    /// Events as they were, by position.
    events: BTreeMap<u64, Event>,
    /// Deliveries whose ends are gone and that are not made again.
    over: BTreeSet<Delivery>,
    /// Commits of repaired logs, from the first that is not whole to the end there was.
    judged: Vec<(u64, u64)>,
    /// Commits of which something is gone.
    commits: BTreeSet<u64>,
}

/// What one repair says, on the command line and in the log.
struct Said {
    /// Commits: the first and the last of each range.
    ranges: Vec<(u64, u64)>,
    /// Events, as far as they are known.
    events: BTreeMap<u64, Value>,
    again: BTreeSet<(u32, u64)>,
    over: BTreeSet<Delivery>,
}

impl Said {
    fn read(report: &Value, after: &History, differing: &BTreeSet<u64>) -> Self {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        let ranges = list(&report["lost"]);
        let events = ranges.iter().flat_map(|range| list(&range["events"]));
        let again = list(&report["again"]);
        let again = again.iter().filter_map(|of| Some((small(&of[0])?, of[1].as_u64()?)));
        let new = after.commits().iter().filter(|commit| differing.contains(&commit.number));
        let records = new.flat_map(|commit| &commit.controls).filter(|(kind, _)| kind == "Lost");
        Self {
            ranges: ranges
                .iter()
                .map(|range| {
                    (number(&range["commits"]["first"]), number(&range["commits"]["last"]))
                })
                .collect(),
            events: events.map(|event| (number(&event["position"]), event)).collect(),
            again: again.collect(),
            over: records.flat_map(|(_, record)| over(record)).collect(),
        }
    }
}

fn small(value: &Value) -> Option<u32> {
    value.as_u64()?.try_into().ok()
}

/// The deliveries that a record of a repair takes to be over.
pub(super) fn over(record: &Value) -> Vec<Delivery> {
    let plugins = record["over"].as_array().into_iter().flatten();
    let runs = plugins.flat_map(|of| {
        let plugin = small(&of["instance"]).zip(small(&of["generation"])).unwrap_or_default();
        let runs = of["positions"].as_array().cloned().unwrap_or_default();
        runs.into_iter().map(move |run| (plugin, run))
    });
    let positions = runs.flat_map(|((instance, generation), run)| {
        let (first, last) = (run[0].as_u64().unwrap_or(1), run[1].as_u64().unwrap_or(0));
        (first..=last).map(move |position| (instance, generation, position))
    });
    positions.collect()
}

fn ends(history: &History) -> BTreeMap<Delivery, &Done> {
    let done = history.commits().iter().filter_map(|commit| commit.done.as_ref());
    let done = done.filter(|done| done.attempt > 0);
    done.map(|done| ((done.instance, done.generation, done.position), done)).collect()
}

impl Lost {
    /// Of a log that was never repaired.
    pub(crate) const NOTHING: Self = Self {
        events: BTreeMap::new(),
        over: BTreeSet::new(),
        judged: Vec::new(),
        commits: BTreeSet::new(),
    };

    /// Judges a repair by what the log held before the damage and what it holds now, and remembers
    /// what is lost. `report` is what `log repair` said of this bus.
    pub(crate) fn take(&mut self, before: &History, after: &History, report: &Value) -> Verdict {
        let mut verdict = Verdict::default();
        let differing = differing(before, after, &mut verdict);
        let said = Said::read(report, after, &differing);
        for commit in &differing {
            if !said.ranges.iter().any(|(first, last)| (first..=last).contains(&commit)) {
                verdict.add(Rule::Lost, format!("commit {commit} is changed, and nobody says so"));
            }
        }
        self.lost_events(before, after, &said, &mut verdict);
        self.lost_ends(before, after, &said, &mut verdict);
        let last = before.commits().last().map_or(0, |commit| commit.number);
        if let Some(first) = differing.first() {
            self.judged.push((*first, last));
        }
        self.commits.extend(differing);
        verdict
    }

    fn lost_events(
        &mut self,
        before: &History,
        after: &History,
        said: &Said,
        verdict: &mut Verdict,
    ) {
        for was in before.events() {
            let at = was.position;
            let Some(is) = after.event(at) else {
                verdict.add(Rule::Lost, format!("nothing stands at position {at}"));
                continue;
            };
            let listed = said.events.get(&at);
            match (is == was, listed) {
                (true, None) => {}
                // What held a place is lost, and the same holds it again.
                (true, Some(_)) if was.kind == FILLER => {}
                (true, Some(_)) => {
                    verdict.add(Rule::Lost, format!("{at} is said to be lost, and is there"));
                }
                (false, None) => verdict.add(Rule::Lost, format!("{at} is lost, nobody says so")),
                (false, Some(said)) => {
                    // One that held a place already says less than it did.
                    let is_right = was.kind == FILLER || says_what_was(was, is, said);
                    if is.kind != FILLER || !is_right {
                        let what = format!("{at} was {was:?}, now {is:?}, said {said}");
                        verdict.add(Rule::Lost, what);
                    }
                    self.events.entry(at).or_insert_with(|| was.clone());
                }
            }
        }
    }

    /// Ends of deliveries: each that is gone is over if a later one of its key had ended, and
    /// otherwise made again.
    fn lost_ends(&mut self, before: &History, after: &History, said: &Said, verdict: &mut Verdict) {
        let (had, has) = (ends(before), ends(after));
        let mut last: BTreeMap<(u32, u32, &str), u64> = BTreeMap::new();
        for (&(instance, generation, position), done) in &has {
            let Some(key) = &done.key else { continue };
            let last = last.entry((instance, generation, key)).or_default();
            *last = position.max(*last);
        }
        for (delivery, done) in had.iter().filter(|(delivery, _)| !has.contains_key(delivery)) {
            let (instance, generation, position) = *delivery;
            let is_there = after.event(position).is_some_and(|event| event.kind != FILLER);
            let (Some(key), true) = (&done.key, is_there) else { continue };
            let later = last.get(&(instance, generation, key)).is_some_and(|at| *at > position);
            let is_over = said.over.contains(delivery) || self.over.contains(delivery);
            if later != is_over {
                let what = format!(
                    "the end of {position} is lost; later ones of `{key}` had ended: {later}; it \
                     is over: {is_over}"
                );
                verdict.add(Rule::Lost, what);
            }
            if is_over && said.again.contains(&(instance, position)) {
                verdict.add(Rule::Lost, format!("{position} is over, and said to be made again"));
            }
        }
        for (instance, _, position) in
            said.over.difference(&self.over).filter(|of| !had.contains_key(of))
        {
            // What the plugin never was to get may be taken for over.
            let event = after.event(*position);
            if event.is_some_and(|event| event.source == CLIENT || event.addressee.is_some()) {
                let what = format!("{position} is over for {instance}, and never had ended");
                verdict.add(Rule::Lost, what);
            }
        }
        self.over.extend(&said.over);
    }

    /// Whether the events around this commit are of a part that was judged before the damage.
    pub(super) fn was_judged(&self, commit: u64) -> bool {
        self.judged.iter().any(|(first, last)| (first..=last).contains(&&commit))
    }

    /// Whether something of this commit is gone.
    pub(super) fn has_commit(&self, commit: u64) -> bool {
        self.commits.contains(&commit)
    }

    /// An event that is lost, as it was.
    pub(super) fn event(&self, position: u64) -> Option<&Event> {
        self.events.get(&position)
    }

    pub(super) fn events(&self) -> impl Iterator<Item = &Event> {
        self.events.values()
    }

    /// Whether a delivery is over only because a repair says so.
    pub(super) fn is_over(&self, instance: u32, position: u64) -> bool {
        self.over.iter().any(|(of, _, at)| (*of, *at) == (instance, position))
    }

    /// How much is lost: events, and deliveries that were not made again.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.events.len(), self.over.len())
    }
}

/// The commits that are not what they were.
fn differing(before: &History, after: &History, verdict: &mut Verdict) -> BTreeSet<u64> {
    let numbers = |history: &History| -> Vec<u64> {
        history.commits().iter().map(|commit| commit.number).collect()
    };
    if numbers(before) != numbers(after) {
        let ends = [before, after].map(|history| numbers(history).last().copied());
        verdict.add(Rule::Lost, format!("there are other commits than before: up to {ends:?}"));
    }
    let now: BTreeMap<u64, &Commit> = after.commits().iter().map(|of| (of.number, of)).collect();
    let was = before.commits().iter();
    let other = was.filter(|commit| now.get(&commit.number) != Some(commit));
    other.map(|commit| commit.number).collect()
}

/// What is said of a lost event, by the report and by what stands in its place, is what it was.
fn says_what_was(was: &Event, is: &Event, said: &Value) -> bool {
    let attribute = |name: &str| is.attributes.get(name).map(String::as_str);
    let agree = |known: Option<&str>, was: Option<&str>| known.is_none() || known == was;
    let texts = [
        (attribute("lostid"), said["id"].as_str(), Some(was.id.as_str())),
        (attribute("lostsource"), said["source"].as_str(), Some(was.source.as_str())),
        (attribute("losttype"), said["type"].as_str(), Some(was.kind.as_str())),
        (attribute("lostkey"), said["key"].as_str(), was.key.as_deref()),
    ];
    let sequence = said["sequence"].as_u64();
    texts.iter().all(|(filler, said, was)| agree(*filler, *was) && agree(*said, *was))
        && (sequence.is_none() || sequence == was.sequence)
}
