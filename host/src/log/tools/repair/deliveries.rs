//! Which deliveries are over although the commits that said so are lost.
//!
//! Events of a key are delivered in order. So where a later one of a plugin and key had ended, the
//! one whose completion is lost had ended too, and what it wrote is overtaken: to make it again, after
//! those behind it, would be wrong. Where no later one had, it is made again, in its turn.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use roaring::RoaringTreemap;

use super::super::ToolError;
use super::identities::Identities;
use super::kept::each_kept;
use super::lost::{Hole, LostCompletion};
use super::plan::Planned;
use crate::event::{CommitNumber, Generation, InstanceId, KeyHash, Position};
use crate::log::codec::{AddresseeRef, CompletionRef, EventRef, RecordRef, kind};
use crate::log::record::LostDeliveries;

type Plugin = (InstanceId, Generation);

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Deliveries {
    /// Who the plugins are.
    pub(super) identities: Identities,
    /// Deliveries that are known to be made again.
    pub(super) again: BTreeSet<(InstanceId, Position)>,
    /// Deliveries that had ended, by plugin.
    completed: HashMap<Plugin, RoaringTreemap>,
    /// The last delivery behind the first hole, by plugin and key.
    later: HashMap<(Plugin, KeyHash), Position>,
}

/// Goes through what is left twice, and notes in each hole what is over.
pub(super) fn decide(
    log_id: [u8; 16],
    segments: &[Planned],
    holes: &mut [Hole],
) -> Result<Deliveries, ToolError> {
    let mut found = Deliveries::default();
    let Some(first) = holes.first().map(|hole| hole.commits.start) else { return Ok(found) };
    let kinds = [kind::COMPLETION, kind::EVENT, kind::CONTROL];
    each_kept(log_id, segments, &kinds, &mut |commit, record| {
        found.note(record, commit.0 >= first);
    })?;
    let plugins: Vec<Plugin> = found.plugins();
    let mut over: Vec<BTreeMap<Plugin, RoaringTreemap>> = vec![BTreeMap::new(); holes.len()];
    let wanted = Wanted::of(holes);
    each_kept(log_id, segments, &[kind::EVENT], &mut |commit, record| {
        let RecordRef::Event(event) = record else { return };
        for plugin in &plugins {
            let judged = found.judge(commit, event, *plugin, holes, &wanted);
            let Some((at, is_over)) = judged else { continue };
            if is_over {
                if let Some(hole) = over.get_mut(at) {
                    hole.entry(*plugin).or_default().insert(event.position.0);
                }
            } else {
                found.again.insert((plugin.0, event.position));
            }
        }
    })?;
    for (hole, over) in holes.iter_mut().zip(over) {
        hole.over = over.into_iter().map(|(plugin, positions)| runs(plugin, &positions)).collect();
    }
    Ok(found)
}

/// Inputs of completions that are known to be lost.
struct Wanted(HashSet<Position>);

impl Wanted {
    fn of(holes: &[Hole]) -> Self {
        Self(holes.iter().flat_map(|hole| &hole.completions).map(|done| done.position).collect())
    }
}

impl Deliveries {
    fn plugins(&self) -> Vec<Plugin> {
        let mut plugins: BTreeSet<Plugin> = self.completed.keys().copied().collect();
        // A plugin all of whose completions are lost has none to tell it by.
        let known: BTreeSet<InstanceId> = plugins.iter().map(|(instance, _)| *instance).collect();
        let others = (1..=self.identities.last.0.min(INSTANCES_MAX)).map(InstanceId);
        plugins.extend(others.filter(|id| !known.contains(id)).map(|id| (id, Generation(0))));
        plugins.into_iter().collect()
    }

    fn note(&mut self, record: &RecordRef<'_>, is_later: bool) {
        match record {
            RecordRef::Completion(done) => self.completion(done, is_later),
            RecordRef::Event(event) => self.identities.event(event),
            RecordRef::Control(record) => self.identities.control(&record.control),
            _ => {}
        }
    }

    fn completion(&mut self, done: &CompletionRef<'_>, is_later: bool) {
        let plugin = (done.instance, done.generation);
        self.identities.completion(done);
        self.completed.entry(plugin).or_default().insert(done.position.0);
        if let (true, Some(key)) = (is_later, done.key_hash) {
            let last = self.later.entry((plugin, key)).or_default();
            *last = done.position.max(*last);
        }
    }

    /// The hole in which the end of a delivery is lost, and whether the delivery is over; none: its
    /// end is not lost, as far as it is known.
    fn judge(
        &self,
        commit: CommitNumber,
        event: &EventRef<'_>,
        plugin: Plugin,
        holes: &[Hole],
        wanted: &Wanted,
    ) -> Option<(usize, bool)> {
        let key = event.key_hash?;
        if self.identities.is_before(plugin.0, event.position) {
            return None;
        }
        match event.addressee {
            None => {}
            Some(AddresseeRef::Plugin(to)) if to == plugin.0 => {}
            Some(_) => return None,
        }
        let ended = self.completed.get(&plugin);
        if ended.is_some_and(|ended| ended.contains(event.position.0)) {
            return None;
        }
        let is_over = self.later.get(&(plugin, key)).is_some_and(|last| *last > event.position);
        let is_wanted = wanted.0.contains(&event.position);
        let behind = holes.iter().enumerate().filter(|(_, hole)| hole.commits.end > commit.0);
        for (at, hole) in behind {
            let is_of = |done: &LostCompletion| is_of(done, plugin, key, event.position);
            if is_wanted && hole.completions.iter().any(is_of) {
                return Some((at, is_over));
            }
            // Nothing tells whether it ended here, but a later one that did.
            if !hole.is_exact && is_over {
                return Some((at, true));
            }
        }
        None
    }
}

/// Plugins that are looked for though nothing they did is left.
const INSTANCES_MAX: u32 = 4096;

fn is_of(done: &LostCompletion, plugin: Plugin, key: KeyHash, position: Position) -> bool {
    done.position == position
        && done.generation == plugin.1
        && match (done.instance, done.indexed) {
            (Some(instance), _) => instance == plugin.0,
            (None, Some(row)) => row.is_of(plugin.0, key),
            (None, None) => false,
        }
}

fn runs((instance, generation): Plugin, positions: &RoaringTreemap) -> LostDeliveries {
    let mut runs: Vec<(Position, Position)> = Vec::new();
    for position in positions {
        match runs.last_mut() {
            Some((_, last)) if last.0 + 1 == position => *last = Position(position),
            _ => runs.push((Position(position), Position(position))),
        }
    }
    LostDeliveries { instance, generation, positions: runs }
}
