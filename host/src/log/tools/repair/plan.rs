//! Where what is lost belongs: decides, writes nothing.
//!
//! Rule: what is kept keeps its commit numbers and positions; what is lost keeps its own, so that
//! none is ever given again.

use super::known::Known;
use super::survey::{Item, SealAt, Segment, Survey};
use crate::log::segment::Tip;

/// Commits and positions that are lost, in one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) commits: std::ops::Range<u64>,
    pub(super) positions: std::ops::Range<u64>,
}

/// A stretch of a segment as it will be.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "there are a few of them in a damaged segment")]
pub(super) enum Piece {
    Item(Item),
    Gap(Gap),
}

/// A segment as it will be.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) segment: Segment,
    pub(super) pieces: Vec<Piece>,
}

/// Numbers that something starts at: its first commit and position.
type Numbers = (u64, u64);

struct Planner<'k> {
    known: &'k Known,
    segments: Vec<Planned>,
    tip: Tip,
    /// Whether what the tip is behind is made anew, and can be given any chain.
    is_made: bool,
    /// The segment of what the tip is behind; none: nothing, or a seal.
    last: Option<usize>,
    /// The first segment that what comes next can be in.
    open_from: usize,
}

/// Puts everything in its place. The damaged ones among the segments are to be written.
pub(super) fn plan(survey: Survey, known: &Known) -> Vec<Planned> {
    let as_planned = |segment| Planned { segment, pieces: Vec::new() };
    let segments: Vec<_> = survey.segments.into_iter().map(as_planned).collect();
    let tip = Tip::START;
    let mut planner = Planner { known, segments, tip, is_made: false, last: None, open_from: 0 };
    for at in 0..planner.segments.len() {
        planner.segment(at);
    }
    planner.end();
    planner.segments
}

impl Planner<'_> {
    fn segment(&mut self, at: usize) {
        let Some(planned) = self.segments.get_mut(at) else { return };
        let items = std::mem::take(&mut planned.segment.items);
        let seal = planned.segment.seal;
        for item in items {
            self.item(at, item);
        }
        if let Some(seal) = seal {
            self.seal(at, &seal);
        }
    }

    fn item(&mut self, at: usize, item: Item) {
        let first = item.first();
        // It has been there already.
        if first.first_commit < self.tip.next_commit {
            self.damaged(at);
            return;
        }
        self.lead_to(at, (first.first_commit, first.first_position), item.chained_to());
        (self.tip, self.is_made) = match &item {
            Item::Run(run) => (run.after, false),
            Item::Restored { after, .. } => (*after, false),
            Item::Partial { header, .. } => {
                let (next_commit, next_position) = (header.next_commit(), header.next_position());
                let (epoch, time_ms) = (header.epoch, header.time_ms);
                (Tip { next_commit, next_position, epoch, time_ms, ..self.tip }, true)
            }
        };
        (self.last, self.open_from) = (Some(at), at);
        self.push(at, Piece::Item(item));
    }

    fn seal(&mut self, at: usize, seal: &SealAt) {
        let header = &seal.header;
        if header.first_commit < self.tip.next_commit {
            self.damaged(at);
        } else {
            self.lead_to(at, (header.first_commit, header.first_position), Some(header.chain));
        }
        let is_made = self.segments.get(at).is_some_and(|planned| planned.segment.is_damaged);
        // What follows on the seal is still where it was, also where the seal is made anew.
        let tip = Tip { next_commit: self.tip.next_commit, ..seal.after };
        (self.tip, self.is_made) = (tip, is_made);
        (self.last, self.open_from) = (None, at + 1);
    }

    /// Fills what is between the tip and where something starts that is kept.
    fn lead_to(&mut self, at: usize, start: Numbers, chained_to: Option<[u8; 32]>) {
        let fits = chained_to.is_none_or(|chain| chain == self.tip.chain);
        if start.0 == self.tip.next_commit && !fits && !self.is_made {
            self.give_up_last(at);
        }
        if start.0 > self.tip.next_commit {
            self.gaps(at, start);
        }
    }

    /// What comes next names another frame before it than the one that stands there: that one is not
    /// what was written.
    fn give_up_last(&mut self, at: usize) {
        self.is_made = true;
        let Some(last) = self.last else {
            // Behind a seal, or nothing: only that is wrong.
            self.damaged(at.saturating_sub(1));
            return;
        };
        self.damaged(last);
        let Some(planned) = self.segments.get_mut(last) else { return };
        match planned.pieces.pop() {
            Some(Piece::Item(mut item)) => {
                let first = item.first();
                self.tip.next_commit = first.first_commit;
                self.tip.next_position = first.first_position;
                if let Item::Run(run) = &mut item
                    && run.give_up_last()
                {
                    self.tip = run.after;
                    planned.pieces.push(Piece::Item(item));
                }
            }
            Some(gap) => planned.pieces.push(gap),
            None => {}
        }
    }

    /// Makes gaps up to where something in the segment `at` starts: in the damaged segments on the
    /// way, each as far as it is known to have reached.
    fn gaps(&mut self, at: usize, until: Numbers) {
        let is_damaged = |planned: &Planned| planned.segment.is_damaged;
        let mut places: Vec<usize> = (self.open_from..=at)
            .filter(|at| self.segments.get(*at).is_some_and(is_damaged))
            .collect();
        if places.is_empty() {
            self.damaged(at);
            places.push(at);
        }
        let mut left = places.len() as u64;
        for place in places {
            left -= 1;
            // Every segment had a commit: what is not known leaves one to each that follows.
            let most = until.0.saturating_sub(left).max(self.tip.next_commit);
            let end = if left == 0 { until } else { self.end_of(place).unwrap_or((most, until.1)) };
            let start = (self.tip.next_commit, self.tip.next_position);
            let end = (end.0.clamp(start.0, most), end.1.clamp(start.1, until.1.max(start.1)));
            if end.0 > start.0 {
                self.push(
                    place,
                    Piece::Gap(Gap { commits: start.0..end.0, positions: start.1..end.1 }),
                );
                (self.tip.next_commit, self.tip.next_position) = end;
                self.is_made = true;
                (self.last, self.open_from) = (Some(place), place);
            }
        }
    }

    /// Where a segment ended.
    fn end_of(&self, at: usize) -> Option<Numbers> {
        let number = self.segments.get(at)?.segment.number;
        if let Some(span) = self.known.span(number) {
            return Some((span.last_commit.0 + 1, span.last_position.0 + 1));
        }
        let base = self.known.span(number + 1)?.base;
        Some((base.first_commit.0, base.first_position.0))
    }

    /// Fills what the log is known to have had behind everything that is left of it.
    fn end(&mut self) {
        let (commit, position) = self.known.end();
        let until = (commit + 1, (position + 1).max(self.tip.next_position));
        let is_damaged = |planned: &Planned| planned.segment.is_damaged;
        let last = self.segments.iter().rposition(is_damaged);
        if let Some(last) = last.filter(|last| *last >= self.open_from)
            && until.0 > self.tip.next_commit
        {
            self.gaps(last, until);
        }
    }

    fn damaged(&mut self, at: usize) {
        if let Some(planned) = self.segments.get_mut(at) {
            planned.segment.is_damaged = true;
        }
    }

    fn push(&mut self, at: usize, piece: Piece) {
        if let Some(planned) = self.segments.get_mut(at) {
            planned.pieces.push(piece);
        }
    }
}
