//! What is lost with each gap, as far as anything still knows, and what stands in its place.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::super::ToolError;
use super::known::Known;
use super::plan::{Gap, Piece, Planned};
use super::restore::{has_completion, is_whole, sections};
use super::survey::Item;
use crate::event::{
    Addressee, CommitNumber, Generation, InstanceId, Key, KeyHash, KeySequence, KeyVariant,
    LOST_EVENT, NewEvent, Position,
};
use crate::log::codec::{
    CommitMeta, CommitRef, Commits, EncodeError, Encoded, EventRef, Header, RecordRef, kind,
    payload_digest,
};
use crate::log::index::{IndexedCompletion, IndexedEvent};
use crate::log::record::{Control, ControlRecord, LostDeliveries};

/// Who the records of a repair are by.
const ACTOR: &str = "repair";
/// Nobody: instances count from 1.
const NOBODY: InstanceId = InstanceId(0);

/// An event that is lost, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct LostEvent {
    pub(super) kind: Option<String>,
    pub(super) id: Option<String>,
    pub(super) source: Option<String>,
    pub(super) key: Option<String>,
    pub(super) key_hash: Option<KeyHash>,
    pub(super) sequence: u64,
}

/// A completion that is lost, of what plugin it is known by one of the two.
#[derive(Debug, Clone, Copy)]
pub(super) struct LostCompletion {
    pub(super) instance: Option<InstanceId>,
    pub(super) indexed: Option<IndexedCompletion>,
    pub(super) generation: Generation,
    pub(super) position: Position,
}

/// Commits that are lost, together.
#[derive(Debug)]
pub(super) struct Hole {
    pub(super) segment: u32,
    pub(super) commits: Range<u64>,
    /// Commits among them that are lost; the others are whole.
    pub(super) lost_commits: u64,
    /// Every position that is lost.
    pub(super) events: BTreeMap<Position, LostEvent>,
    pub(super) completions: Vec<LostCompletion>,
    /// Whether `completions` are all there were, but for those of unkeyed events.
    pub(super) is_exact: bool,
    /// Deliveries that are taken to be over.
    pub(super) over: Vec<LostDeliveries>,
    /// Records that bring back what is known of lost ones.
    pub(super) controls: Vec<Control>,
}

impl LostEvent {
    fn of(event: &EventRef<'_>) -> Self {
        Self {
            kind: Some(event.kind.to_owned()),
            id: Some(event.id.to_owned()),
            source: Some(event.source.to_owned()),
            key: event.key.map(str::to_owned),
            key_hash: event.key_hash,
            sequence: event.sequence.0,
        }
    }

    fn indexed(event: &IndexedEvent) -> Self {
        Self {
            kind: Some(event.kind.to_string()),
            key_hash: event.key,
            sequence: event.sequence.0,
            ..Self::default()
        }
    }

    /// What stands at its position.
    fn filler(&self, bus: &str, position: Position) -> NewEvent {
        let known = [
            ("lostid", &self.id),
            ("lostkey", &self.key),
            ("lostsource", &self.source),
            ("losttype", &self.kind),
        ];
        let attributes = known.into_iter().filter_map(|(name, value)| {
            value.as_ref().map(|value| (Arc::from(name), Arc::from(value.as_str())))
        });
        NewEvent {
            id: format!("lost-{position}").into(),
            source: format!("/tidegate/{bus}").into(),
            kind: LOST_EVENT.into(),
            key: None::<Key>,
            key_variant: KeyVariant::None,
            attributes: attributes.collect(),
            addressee: Some(Addressee::Plugin(NOBODY)),
            ..NewEvent::default()
        }
    }
}

/// What is lost with each gap and each frame that is kept in part, in the order of the log.
pub(super) fn holes(segments: &[Planned], known: &Known) -> Result<Vec<Hole>, ToolError> {
    let mut holes = Vec::new();
    for planned in segments.iter().filter(|planned| planned.segment.is_damaged) {
        for piece in &planned.pieces {
            match piece {
                Piece::Gap(gap) => holes.push(Hole::of_gap(planned.segment.number, gap, known)),
                Piece::Item(Item::Partial { header, bytes }) => {
                    holes.push(Hole::of_frame(planned.segment.number, header, bytes));
                }
                Piece::Item(_) => {}
            }
        }
    }
    Ok(holes)
}

impl Hole {
    fn new(segment: u32, commits: Range<u64>) -> Self {
        Self {
            segment,
            commits,
            lost_commits: 0,
            events: BTreeMap::new(),
            completions: Vec::new(),
            is_exact: true,
            over: Vec::new(),
            controls: Vec::new(),
        }
    }

    fn of_gap(segment: u32, gap: &Gap, known: &Known) -> Self {
        let mut hole = Self::new(segment, gap.commits.clone());
        hole.lost_commits = gap.commits.end - gap.commits.start;
        let rows = known.rows(segment, gap.commits.clone(), gap.positions.clone());
        hole.is_exact = rows.is_some();
        let rows = rows.unwrap_or_default();
        for position in gap.positions.clone().map(Position) {
            let event = rows.events.get(&position).map(LostEvent::indexed);
            hole.events.insert(position, event.unwrap_or_default());
        }
        hole.completions = rows
            .completions
            .into_iter()
            .map(|row| LostCompletion {
                instance: None,
                generation: row.generation,
                position: row.position,
                indexed: Some(row),
            })
            .collect();
        hole
    }

    fn of_frame(segment: u32, header: &Header, bytes: &[u8]) -> Self {
        let mut hole = Self::new(segment, header.first_commit..header.next_commit());
        let Some((metadata, payload)) = sections(header, bytes) else { return hole };
        for commit in Commits::new(header, metadata, payload).map_while(Result::ok) {
            if !is_whole(&commit) {
                hole.commit(&commit);
            }
        }
        hole
    }

    fn commit(&mut self, commit: &CommitRef<'_>) {
        let is_delivery = has_completion(commit);
        self.lost_commits += 1;
        let mut records = commit.records();
        while let Some(Ok((raw, position))) = records.next_raw() {
            let is_right = raw.digest.is_none_or(|digest| digest == payload_digest(raw.payload));
            match records.read(&raw, position) {
                Ok(RecordRef::Event(event)) if is_delivery || !is_right => {
                    self.events.insert(position, LostEvent::of(&event));
                }
                Ok(RecordRef::Completion(done)) => self.completions.push(LostCompletion {
                    instance: Some(done.instance),
                    indexed: None,
                    generation: done.generation,
                    position: done.position,
                }),
                _ => {}
            }
        }
    }

    /// Whether anything is lost: a frame may be damaged only where it says nothing.
    pub(super) const fn is_empty(&self) -> bool {
        self.lost_commits == 0
    }

    /// The record that says what is lost.
    fn record(&self, instances: InstanceId) -> ControlRecord {
        let control = Control::Lost {
            first: CommitNumber(self.commits.start),
            last: CommitNumber(self.commits.end.saturating_sub(1)),
            events: self.events.len() as u64,
            instances,
            over: self.over.clone(),
        };
        ControlRecord { actor: ACTOR.into(), control }
    }
}

/// A commit to be written, and the key sequences of its events.
pub(super) type Made = (Encoded, Vec<KeySequence>);

/// Makes the commits that stand in the place of lost ones.
pub(super) struct Filling<'f> {
    pub(super) bus: &'f str,
    pub(super) hole: &'f Hole,
    /// The highest identity a plugin has.
    pub(super) instances: InstanceId,
}

impl Filling<'_> {
    /// The commits of a gap: as many as were lost, with the events spread over them.
    pub(super) fn gap(&self) -> impl Iterator<Item = Result<Made, EncodeError>> {
        let commits = self.hole.commits.end - self.hole.commits.start;
        let positions: Vec<_> = self.hole.events.keys().copied().collect();
        (0..commits).map(move |n| {
            let share = |n: u64| {
                let place = u128::from(n) * positions.len() as u128 / u128::from(commits.max(1));
                usize::try_from(place).unwrap_or(usize::MAX)
            };
            let mut made = self.begin(n == 0)?;
            for position in positions.get(share(n)..share(n + 1)).unwrap_or_default() {
                self.event(&mut made, *position)?;
            }
            finish(made)
        })
    }

    /// The commits of a frame that is kept in part.
    pub(super) fn frame(
        &self,
        header: &Header,
        bytes: &[u8],
    ) -> impl Iterator<Item = Result<Made, EncodeError>> {
        let (metadata, payload) = sections(header, bytes).unwrap_or_default();
        let mut is_first = true;
        Commits::new(header, metadata, payload).map_while(Result::ok).map(move |commit| {
            if is_whole(&commit) {
                return finish(copied(&commit));
            }
            let mut made = self.begin(std::mem::take(&mut is_first))?;
            let is_delivery = has_completion(&commit);
            let mut records = commit.records();
            while let Some(Ok((raw, position))) = records.next_raw() {
                if self.hole.events.contains_key(&position) && raw.kind == kind::EVENT {
                    self.event(&mut made, position)?;
                } else if !is_delivery {
                    made.0.copy(&raw);
                    if raw.kind == kind::EVENT {
                        made.1.push(raw.sequence);
                    }
                }
            }
            finish(made)
        })
    }

    fn begin(&self, is_first: bool) -> Result<Made, EncodeError> {
        let mut encoded = Encoded::default();
        if is_first {
            encoded.control(&self.hole.record(self.instances))?;
            for control in &self.hole.controls {
                let (actor, control) = (ACTOR.into(), control.clone());
                encoded.control(&ControlRecord { actor, control })?;
            }
        }
        Ok((encoded, Vec::new()))
    }

    fn event(&self, made: &mut Made, position: Position) -> Result<(), EncodeError> {
        let Some(event) = self.hole.events.get(&position) else { return Ok(()) };
        made.1.push(KeySequence(event.sequence));
        made.0.filler(&event.filler(self.bus, position), event.key_hash)
    }
}

fn copied(commit: &CommitRef<'_>) -> Made {
    let mut made = Made::default();
    let mut records = commit.records();
    while let Some(Ok((raw, _))) = records.next_raw() {
        made.0.copy(&raw);
        if raw.kind == kind::EVENT {
            made.1.push(raw.sequence);
        }
    }
    made
}

/// A commit has a record: one that says nothing where nothing is left to say.
fn finish(mut made: Made) -> Result<Made, EncodeError> {
    if made.0.records == 0 {
        made.0.commit_meta(CommitMeta::default())?;
    }
    made.0.finish()?;
    Ok(made)
}
