//! What of each segment is whole: the runs of frames that a repair keeps as they are.

use bytes::Bytes;

use super::super::ToolError;
use super::super::damage::{Damage, DamageKind, LogEnd};
use super::super::files::{BusFiles, SegmentFile, SegmentReader};
use super::super::walk::{Met, walk};
use super::restore::{restored, with_header};
use crate::event::CommitNumber;
use crate::log::codec::{FRAME_ALIGN, FRAME_BYTES_MAX, HEADER_BYTES, Header, Salt, Seal};
use crate::log::frame::Frame;
use crate::log::index::IndexFile;
use crate::log::segment::Tip;

const ALIGN: u64 = FRAME_ALIGN as u64;

/// Frames that follow on each other, end to end in their file.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) first: Header,
    pub(super) counts: Seal,
    /// Behind its last frame.
    pub(super) after: Tip,
    /// Where its last frame starts, and what was before that.
    last_at: u64,
    before_last: (Tip, Seal),
}

/// A stretch of a segment, in the order of the log.
#[derive(Debug, Clone)]
pub(super) enum Item {
    /// Kept byte by byte.
    Run(Run),
    /// A frame whose damage could be undone, with its right bytes.
    Restored { header: Header, bytes: Bytes, after: Tip },
    /// A frame of which some commits are lost: header and metadata are whole, payloads are not.
    Partial { header: Header, bytes: Bytes },
}

/// The seal of a segment, as far as the log before and after it is concerned.
#[derive(Debug, Clone, Copy)]
pub(super) struct SealAt {
    pub(super) header: Header,
    pub(super) seal: Seal,
    pub(super) after: Tip,
}

/// A segment as it is.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) number: u32,
    /// None: the file is missing.
    pub(super) file: Option<SegmentFile>,
    pub(super) items: Vec<Item>,
    pub(super) seal: Option<SealAt>,
    /// Whether it is to be written anew.
    pub(super) is_damaged: bool,
    /// Bytes at its end that the next start would cut off.
    pub(super) torn: Option<(u64, u64)>,
    /// Nothing was written to it.
    pub(super) is_blank: bool,
}

/// A log as it is.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub(super) segments: Vec<Segment>,
    pub(super) damages: Vec<Damage>,
    /// The last commit and the last position that a header which is whole tells of, also where the rest
    /// of its frame is not.
    pub(super) reached: (u64, u64),
    /// What comes next follows on, where that is proven.
    tip: Option<Tip>,
}

impl Item {
    /// The header of its first frame.
    pub(super) const fn first(&self) -> &Header {
        match self {
            Self::Run(run) => &run.first,
            Self::Restored { header, .. } | Self::Partial { header, .. } => header,
        }
    }

    /// What the frame before it must have as its chain; none: it is written anew.
    pub(super) const fn chained_to(&self) -> Option<[u8; 32]> {
        match self {
            Self::Partial { .. } => None,
            kept => Some(kept.first().chain),
        }
    }
}

impl Item {
    /// Where it ends in its file, as far as that is known.
    const fn end(&self) -> u64 {
        match self {
            Self::Run(run) => run.to,
            Self::Restored { .. } | Self::Partial { .. } => 0,
        }
    }
}

impl Run {
    fn of(offset: u64, frame: &Frame) -> Self {
        let mut run = Self {
            from: offset,
            to: offset,
            first: *frame.header(),
            counts: Seal::default(),
            after: Tip::START,
            last_at: offset,
            before_last: (Tip::START, Seal::default()),
        };
        run.add(offset, frame);
        run
    }

    fn add(&mut self, offset: u64, frame: &Frame) {
        self.before_last = (self.after, self.counts);
        self.last_at = offset;
        crate::log::segment::count_frame(&mut self.counts, frame);
        self.after = Tip::after(frame);
        self.to = offset + frame.bytes().len() as u64;
    }

    fn holds(&self, commit: u64) -> bool {
        (self.first.first_commit..self.after.next_commit).contains(&commit)
    }

    /// Gives up its last frame; false: it has no other, and is to go as a whole.
    pub(super) fn give_up_last(&mut self) -> bool {
        if self.last_at == self.from {
            return false;
        }
        (self.after, self.counts) = self.before_last;
        self.to = self.last_at;
        // What was before the frame that is the last now is not known: it may not go as well.
        self.last_at = self.from;
        true
    }
}

impl Segment {
    /// The last commit of what is left of it; 0: nothing.
    pub(super) fn last_commit(&self) -> u64 {
        let next = match (&self.seal, self.items.last()) {
            (Some(seal), _) => seal.header.first_commit,
            (None, Some(Item::Run(Run { after, .. }) | Item::Restored { after, .. })) => {
                after.next_commit
            }
            (None, Some(Item::Partial { header, .. })) => header.next_commit(),
            (None, None) => 1,
        };
        next.saturating_sub(1)
    }

    /// The chain behind the frame of a commit; none: what is left does not tell.
    fn chain_behind(&self, log_id: [u8; 16], commit: u64) -> Option<[u8; 32]> {
        let sealed = self.seal.filter(|seal| seal.header.first_commit == commit + 1);
        let of_seal = sealed.map(|seal| seal.header.chain);
        let of_item = |item: &Item| match item {
            item if item.first().first_commit == commit + 1 => Some(item.first().chain),
            Item::Run(run) if run.holds(commit) => {
                self.chain_within(run, Salt::new(log_id, self.number), commit)
            }
            Item::Restored { header, after, .. } => {
                (header.first_commit..after.next_commit).contains(&commit).then_some(after.chain)
            }
            Item::Run(_) | Item::Partial { .. } => None,
        };
        of_seal.or_else(|| self.items.iter().find_map(of_item))
    }

    /// The same, where the frame is in a run: what the next one is chained to.
    fn chain_within(&self, run: &Run, salt: Salt, commit: u64) -> Option<[u8; 32]> {
        let mut reader = SegmentReader::new(self.file.as_ref()?);
        let mut at = run.from;
        while at < run.to {
            let header = Header::decode(&reader.read(at, HEADER_BYTES as u64).ok()?, salt).ok()?;
            if header.first_commit > commit {
                return Some(header.chain);
            }
            at += header.frame_bytes();
        }
        Some(run.after.chain)
    }

    fn read(&self, offset: u64, len: u64) -> Option<Bytes> {
        SegmentReader::new(self.file.as_ref()?).read(offset, len).ok()
    }

    /// What the frame at an offset is chained to.
    fn next_header(&self, offset: u64, salt: Salt) -> Option<[u8; 32]> {
        let head = self.read(offset, HEADER_BYTES as u64)?;
        Header::decode(&head, salt).ok().map(|header| header.chain)
    }

    fn missing(number: u32) -> Self {
        Self { is_damaged: true, ..Self::new(number, None) }
    }

    fn new(number: u32, file: Option<SegmentFile>) -> Self {
        let (items, seal, torn) = (Vec::new(), None, None);
        Self { number, file, items, seal, is_damaged: false, torn, is_blank: false }
    }
}

/// Reads all segments.
pub(super) fn survey(log_id: [u8; 16], files: &[SegmentFile]) -> Result<Survey, ToolError> {
    let mut survey = Survey { tip: Some(Tip::START), ..Survey::default() };
    // Damage is told before the segment it is found at begins.
    let mut is_begun = false;
    walk(log_id, files, &mut |met| {
        match met {
            Met::Segment(file) => {
                survey.add_missing(file.number);
                survey.segments.push(Segment::new(file.number, Some(file.clone())));
                is_begun = true;
            }
            Met::Frame { offset, frame, follows, .. } => survey.frame(offset, frame, follows),
            Met::Broken { offset, header, bytes } => survey.broken(log_id, offset, header, bytes),
            Met::Damage(damage) => {
                if is_begun && damage.kind != DamageKind::MissingSegment {
                    survey.last_is_damaged();
                    survey.headless(log_id, &damage);
                }
                survey.damages.push(damage);
            }
            Met::End(end) => {
                if let Some(segment) = survey.segments.last_mut() {
                    segment.is_blank = end.is_blank;
                    if let LogEnd::Torn { offset, bytes } = end.end {
                        segment.torn = Some((offset, bytes));
                    }
                }
                is_begun = false;
            }
        }
        Ok(())
    })?;
    survey.add_missing_last();
    Ok(survey)
}

impl Survey {
    /// A segment has an index once it was sealed: one that has an index and no seal lost its end.
    pub(super) fn hold_against_indexes(&mut self, files: &BusFiles<'_>, log_id: &[u8; 16]) {
        for segment in self.segments.iter_mut().filter(|segment| segment.seal.is_none()) {
            let Some(file) = segment.file.as_ref().filter(|_| !segment.is_damaged) else {
                continue;
            };
            let path = files.index_path(segment.number);
            let Ok(Some(index)) = IndexFile::open(files.disk, &path, log_id, segment.number) else {
                continue;
            };
            let last = index.span().last_commit;
            self.damages.push(Damage {
                kind: DamageKind::NotSealed,
                file: file.path.clone(),
                offset: segment.items.last().map_or(0, Item::end),
                bytes: None,
                what: format!("the segment ends without its seal, which stood up to commit {last}"),
                commits: None,
                positions: None,
            });
            (segment.is_damaged, segment.is_blank) = (true, false);
        }
    }

    /// The chain behind the frame of a commit; none: what is left does not tell.
    pub(super) fn chain_behind(&self, log_id: [u8; 16], commit: CommitNumber) -> Option<[u8; 32]> {
        self.segments.iter().find_map(|segment| segment.chain_behind(log_id, commit.0))
    }

    pub(super) fn add_missing(&mut self, until: u32) {
        let next = self.segments.last().map_or(1, |segment| segment.number.saturating_add(1));
        self.segments.extend((next..until).map(Segment::missing));
    }

    /// The segment that an unclean seal says is there.
    fn add_missing_last(&mut self) {
        let Some(last) = self.segments.last().filter(|last| last.file.is_some()) else { return };
        if last.seal.is_some_and(|seal| !seal.seal.clean_stop) {
            let number = last.number.saturating_add(1);
            self.segments.push(Segment::missing(number));
        }
    }

    fn last_is_damaged(&mut self) {
        if let Some(segment) = self.segments.last_mut() {
            segment.is_damaged = true;
        }
    }

    fn frame(&mut self, offset: u64, frame: &Frame, follows: bool) {
        self.tip = Some(Tip::after(frame));
        let Some(segment) = self.segments.last_mut() else { return };
        if frame.header().is_seal() {
            let seal = crate::log::recovery::seal_of(frame).unwrap_or_default();
            segment.seal = Some(SealAt { header: *frame.header(), seal, after: Tip::after(frame) });
            return;
        }
        match segment.items.last_mut() {
            Some(Item::Run(run)) if follows && run.to == offset => run.add(offset, frame),
            _ => segment.items.push(Item::Run(Run::of(offset, frame))),
        }
    }

    fn broken(&mut self, log_id: [u8; 16], offset: u64, header: &Header, bytes: &Bytes) {
        self.tip = None;
        self.reached.0 = self.reached.0.max(header.next_commit().saturating_sub(1));
        self.reached.1 = self.reached.1.max(header.next_position().saturating_sub(1));
        let Some(segment) = self.segments.last_mut() else { return };
        // A seal says only what its segment does: it is made anew.
        if header.is_seal() {
            return;
        }
        let salt = Salt::new(log_id, segment.number);
        let next_chain = segment.next_header(offset + header.frame_bytes(), salt);
        let item = restored(header, bytes, salt, next_chain);
        if let Some(Item::Restored { after, .. }) = &item {
            self.tip = Some(*after);
        }
        segment.items.extend(item);
    }

    /// A frame may stand where only its header cannot be read.
    fn headless(&mut self, log_id: [u8; 16], damage: &Damage) {
        let is_headless = matches!(damage.kind, DamageKind::Checksum | DamageKind::NotAFrame);
        let tip = self.tip.filter(|_| is_headless && damage.offset.is_multiple_of(ALIGN));
        let (Some(segment), Some(tip)) = (self.segments.last_mut(), tip) else { return };
        let salt = Salt::new(log_id, segment.number);
        let len = damage.bytes.unwrap_or_default().min(FRAME_BYTES_MAX as u64);
        let Some(bytes) = segment.read(damage.offset, len) else { return };
        if let Some(item) = with_header(&bytes, salt, &tip) {
            if let Item::Restored { after, .. } = &item {
                self.tip = Some(*after);
            }
            segment.items.push(item);
        }
    }
}
