//! Goes through the segments of a log, frame by frame, past damage, and tells what it meets.
//!
//! Rule: nothing is skipped in silence. Every byte of every segment file is part of a frame whose
//! checksums hold, a zero behind the end, or named in a [`Damage`].

mod seal;

use bytes::Bytes;

use super::ToolError;
use super::damage::{Damage, DamageKind, LogEnd, Span};
use super::files::{SegmentFile, SegmentReader, io_error};
use super::missing::{missing, missing_last};
use super::narrow::narrow;
use crate::log::codec::{DecodeError, FRAME_ALIGN, HEADER_BYTES, Header, Salt, Seal, chain};
use crate::log::frame::Frame;
use crate::log::recovery::is_torn_tail;
use crate::log::segment::{CLAIM_ALIGN, SEAL_BYTES_MAX};

/// What a walk meets, in the order of the log.
pub(super) enum Met<'a> {
    /// A segment file begins.
    Segment(&'a SegmentFile),
    /// A frame whose checksums hold; `follows` where nothing is wrong between it and the one before.
    Frame { file: &'a SegmentFile, offset: u64, frame: &'a Frame, follows: bool },
    /// A frame whose header holds and whose sections do not; its damage follows. The bytes end where
    /// the file does.
    Broken { offset: u64, header: &'a Header, bytes: &'a Bytes },
    /// Something is wrong.
    Damage(Damage),
    /// The segment is over.
    End(SegmentEnd),
}

/// How a segment ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentEnd {
    /// Its seal, with the end of the sealed bytes and the chain behind it.
    pub(super) seal: Option<(Seal, u64, [u8; 32])>,
    pub(super) end: LogEnd,
    /// Whether nothing in it is damaged.
    pub(super) is_whole: bool,
    /// Whether nothing was written to it: the log ends before it.
    pub(super) is_blank: bool,
}

impl SegmentEnd {
    const OPEN: Self = Self { seal: None, end: LogEnd::Open, is_whole: true, is_blank: false };
    const BLANK: Self = Self { is_blank: true, ..Self::OPEN };
}

/// Takes what a walk meets.
pub(super) type Visit<'v> = dyn FnMut(Met<'_>) -> Result<(), ToolError> + 'v;

/// What the next frame must say.
#[derive(Debug, Clone, Copy, Default)]
struct Expected {
    /// None: unknown, because what came before is damaged.
    chain: Option<[u8; 32]>,
    commit: Option<u64>,
    position: Option<u64>,
    epoch: u32,
    time_ms: u64,
}

/// Walks all segments.
pub(super) fn walk(
    log_id: [u8; 16],
    segments: &[SegmentFile],
    visit: &mut Visit<'_>,
) -> Result<(), ToolError> {
    let mut expected = Expected {
        chain: Some([0; 32]),
        commit: Some(1),
        position: Some(1),
        ..Expected::default()
    };
    let mut next = 1;
    let last = last_used(segments)?;
    let mut ends_claimed = None;
    for (index, file) in segments.iter().enumerate() {
        if file.number != next {
            visit(Met::Damage(missing(file, next, (expected.commit, expected.position))))?;
            expected = Expected { epoch: expected.epoch, ..Expected::default() };
        }
        next = file.number.saturating_add(1);
        if last.is_none_or(|last| index > last) {
            visit(Met::Segment(file))?;
            visit(Met::End(SegmentEnd::BLANK))?;
            continue;
        }
        let mut walk = SegmentWalk {
            file,
            salt: Salt::new(log_id, file.number),
            reader: SegmentReader::new(file),
            is_last: Some(index) == last,
            expected,
            tally: Seal::default(),
            damages: 0,
            visit: &mut *visit,
        };
        (walk.visit)(Met::Segment(file))?;
        let end = walk.run()?;
        expected = walk.expected;
        // The next segment is claimed before one is sealed, but at a clean stop.
        let is_sealed = end.seal.is_some_and(|(seal, ..)| !seal.clean_stop);
        ends_claimed = (is_sealed && index + 1 == segments.len()).then_some(file);
    }
    match ends_claimed {
        Some(file) => visit(Met::Damage(missing_last(file, (expected.commit, expected.position)))),
        None => Ok(()),
    }
}

/// The last segment that anything was written to: the writer claims the next one ahead, blank.
fn last_used(segments: &[SegmentFile]) -> Result<Option<usize>, ToolError> {
    for (index, file) in segments.iter().enumerate().rev() {
        // One that is claimed and blank is as long as one that is open.
        if !file.bytes.is_multiple_of(CLAIM_ALIGN) || !SegmentReader::new(file).is_zero_from(0)? {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

struct SegmentWalk<'w, 'v> {
    file: &'w SegmentFile,
    salt: Salt,
    reader: SegmentReader<'w>,
    is_last: bool,
    expected: Expected,
    /// What the seal has to say.
    tally: Seal,
    damages: u64,
    visit: &'w mut Visit<'v>,
}

impl SegmentWalk<'_, '_> {
    fn run(&mut self) -> Result<SegmentEnd, ToolError> {
        let mut offset = 0;
        let mut end = SegmentEnd::OPEN;
        while offset < self.file.bytes {
            if self.reader.is_zero_from(offset)? {
                break;
            }
            let head = self.reader.read(offset, HEADER_BYTES as u64)?;
            let (reached, torn) = match Header::decode(&head, self.salt) {
                Ok(header) => self.frame(offset, &header, &mut end)?,
                Err(error) => self.lost(offset, &error)?,
            };
            if let Some(torn) = torn {
                end.end = torn;
                break;
            }
            offset = reached;
            if end.seal.is_some() {
                self.behind_seal(offset)?;
                break;
            }
        }
        let is_open = self.is_last && (end.end != LogEnd::Open || self.is_open_at(offset));
        if end.seal.is_none() && !is_open {
            self.not_sealed(offset)?;
        }
        end.is_whole = self.damages == 0;
        (self.visit)(Met::End(end))?;
        Ok(end)
    }

    /// One frame whose header holds: where the next starts, or that the log is torn here.
    fn frame(
        &mut self,
        offset: u64,
        header: &Header,
        end: &mut SegmentEnd,
    ) -> Result<(u64, Option<LogEnd>), ToolError> {
        let next = offset.saturating_add(header.frame_bytes());
        let bytes = self.reader.read(offset, header.frame_bytes())?;
        let before = self.damages;
        let frame = match Frame::open(&bytes, self.salt) {
            Ok(frame) => frame,
            Err(error) => return self.broken(offset, header, &bytes, &error),
        };
        if !self.follows(offset, header)? {
            return Ok((next, None));
        }
        self.advance(header, Some(frame.chain()));
        let follows = before == self.damages;
        if header.is_seal() {
            end.end = LogEnd::Sealed;
            if self.tally.frames == 0 {
                self.tally.first_commit = header.first_commit;
                self.tally.first_position = header.first_position;
            }
            let seal = self.seal(offset, &frame)?;
            end.seal = Some((seal, next, frame.chain()));
        } else {
            self.count(header);
        }
        let file = self.file;
        (self.visit)(Met::Frame { file, offset, frame: &frame, follows })?;
        self.tally.bytes = next;
        Ok((next, None))
    }

    /// A frame whose header holds and whose sections do not.
    fn broken(
        &mut self,
        offset: u64,
        header: &Header,
        bytes: &Bytes,
        error: &DecodeError,
    ) -> Result<(u64, Option<LogEnd>), ToolError> {
        let next = offset.saturating_add(header.frame_bytes());
        if let Some(torn) = self.torn(offset, error)? {
            return Ok((next, Some(torn)));
        }
        let metadata_at = offset + HEADER_BYTES as u64;
        let payload_at = metadata_at + u64::from(header.metadata_bytes);
        let mut damage = Damage {
            kind: DamageKind::Checksum,
            file: self.file.path.clone(),
            offset: metadata_at,
            bytes: Some(header.metadata_bytes.into()),
            what: error.to_string(),
            commits: Span::of(header.first_commit, header.commit_count.into()),
            positions: Span::of(header.first_position, header.event_count.into()),
        };
        let mut chained = None;
        match error {
            DecodeError::Short { .. } => {
                damage.kind = DamageKind::Cut;
                damage.offset = offset;
                damage.bytes = Some(self.file.bytes - offset);
            }
            DecodeError::Checksum { part: "metadata" } => {}
            _ => {
                let body = bytes.get(HEADER_BYTES..).unwrap_or_default();
                let sections = body.split_at_checked(header.metadata_bytes as usize);
                let (metadata, payload) = sections.unwrap_or_default();
                chained = Some(chain(bytes, metadata));
                let payload = payload.get(..header.payload_bytes as usize).unwrap_or_default();
                damage.offset = payload_at;
                damage.bytes = Some(next - payload_at);
                if let Some(narrowed) = narrow(header, metadata, payload) {
                    damage.offset += narrowed.offset;
                    damage.bytes = Some(narrowed.bytes);
                    damage.commits = Some(narrowed.commits);
                    damage.positions = narrowed.positions;
                }
            }
        }
        (self.visit)(Met::Broken { offset, header, bytes })?;
        self.damage(damage)?;
        self.advance(header, chained);
        self.count(header);
        self.tally.bytes = next;
        Ok((next.min(self.file.bytes), None))
    }

    /// No frame where one should be: looks for the next.
    fn lost(
        &mut self,
        offset: u64,
        error: &DecodeError,
    ) -> Result<(u64, Option<LogEnd>), ToolError> {
        if let Some(torn) = self.torn(offset, error)? {
            return Ok((offset, Some(torn)));
        }
        let found = self.reader.next_frame(offset + FRAME_ALIGN as u64, self.salt)?;
        let (reached, header) = found.map_or((self.file.bytes, None), |(at, h)| (at, Some(h)));
        let (kind, what) = match error {
            DecodeError::Version { .. } | DecodeError::Flags { .. } => {
                (DamageKind::Version, error.to_string())
            }
            DecodeError::Foreign { .. } => (DamageKind::Foreign, self.foreign(offset)?),
            DecodeError::Checksum { .. } => (DamageKind::Checksum, error.to_string()),
            DecodeError::Short { .. } => (DamageKind::Cut, error.to_string()),
            _ => (DamageKind::NotAFrame, error.to_string()),
        };
        let lost = |expected: Option<u64>, next: Option<u64>| match (expected, next) {
            (Some(first), Some(end)) => Span::until(first, end),
            (Some(first), None) => Some(Span { first, last: None }),
            (None, _) => None,
        };
        self.damage(Damage {
            kind,
            file: self.file.path.clone(),
            offset,
            bytes: Some(reached - offset),
            what,
            commits: lost(self.expected.commit, header.map(|header| header.first_commit)),
            positions: lost(self.expected.position, header.map(|header| header.first_position)),
        })?;
        self.expected.chain = None;
        // One that has been there already says nothing about what is lost.
        let is_again = |header: &Header| self.expected.commit > Some(header.first_commit);
        if !header.as_ref().is_some_and(is_again) {
            self.expected.commit = header.map(|header| header.first_commit);
            self.expected.position = header.map(|header| header.first_position);
        }
        Ok((reached, None))
    }

    fn foreign(&mut self, offset: u64) -> Result<String, ToolError> {
        let head = self.reader.read(offset, HEADER_BYTES as u64)?;
        Ok(match Header::decode_any(&head) {
            Ok(header) if header.log_id == self.salt.log_id => {
                format!("this is segment {}, not {}", header.segment, self.file.number)
            }
            _ => "this belongs to another log".to_owned(),
        })
    }

    /// Whether what starts here is what a crash leaves, by recovery's own judgement.
    fn torn(&mut self, offset: u64, why: &DecodeError) -> Result<Option<LogEnd>, ToolError> {
        let Expected { chain, commit, position, .. } = self.expected;
        let follows = |header: &Header| {
            commit.is_none_or(|commit| commit == header.first_commit)
                && position.is_none_or(|position| position == header.first_position)
                && chain.is_none_or(|chain| chain == header.chain)
        };
        let is_torn = self.is_last
            && is_torn_tail(&self.file.file, self.salt, offset, Some(why), follows)
                .map_err(|source| io_error(&self.file.path, source))?;
        let bytes = self.file.bytes.saturating_sub(offset);
        Ok(is_torn.then_some(LogEnd::Torn { offset, bytes }))
    }

    /// Whether the file is as long as one is that is being written and whose frames end here.
    const fn is_open_at(&self, end: u64) -> bool {
        let bytes = self.file.bytes;
        bytes.is_multiple_of(CLAIM_ALIGN) && end.saturating_add(SEAL_BYTES_MAX) <= bytes
    }

    /// Checks the numbers of a whole frame; false: it has been there already and is passed over.
    fn follows(&mut self, offset: u64, header: &Header) -> Result<bool, ToolError> {
        let Expected { chain, commit, position, epoch, time_ms } = self.expected;
        let own = Span::of(header.first_commit, header.commit_count.into());
        let order = |what: &str, found: u64, expected: u64| {
            format!("{what} is {found}, expected {expected}")
        };
        let (kind, what, commits) = if commit.is_some_and(|commit| header.first_commit < commit) {
            let what = format!("commit {} stands here again", header.first_commit);
            (DamageKind::Repeated, what, own)
        } else if let Some(commit) = commit.filter(|commit| header.first_commit > *commit) {
            let what = order("first commit", header.first_commit, commit);
            (DamageKind::Gap, what, Span::until(commit, header.first_commit))
        } else if chain.is_some_and(|chain| chain != header.chain) {
            (DamageKind::Chain, DecodeError::Chain.to_string(), own)
        } else if let Some(position) = position.filter(|p| *p != header.first_position) {
            (DamageKind::Order, order("first position", header.first_position, position), own)
        } else if header.epoch < epoch {
            (DamageKind::Order, order("epoch", header.epoch.into(), epoch.into()), own)
        } else if header.time_ms < time_ms {
            (DamageKind::Order, order("log time", header.time_ms, time_ms), own)
        } else {
            return Ok(true);
        };
        self.damage(Damage {
            kind,
            file: self.file.path.clone(),
            offset,
            bytes: Some(header.frame_bytes()),
            what,
            commits,
            positions: Span::of(header.first_position, header.event_count.into()),
        })?;
        Ok(kind != DamageKind::Repeated)
    }

    fn advance(&mut self, header: &Header, chain: Option<[u8; 32]>) {
        self.expected = Expected {
            chain,
            commit: Some(header.next_commit()),
            position: Some(header.next_position()),
            epoch: header.epoch,
            time_ms: header.time_ms,
        };
    }

    fn count(&mut self, header: &Header) {
        if self.tally.frames == 0 {
            self.tally.first_commit = header.first_commit;
            self.tally.first_position = header.first_position;
            self.tally.first_ms = header.time_ms;
        }
        self.tally.frames += 1;
        self.tally.commits += u64::from(header.commit_count);
        self.tally.events += u64::from(header.event_count);
        self.tally.last_ms = header.time_ms;
    }

    fn damage(&mut self, damage: Damage) -> Result<(), ToolError> {
        self.damages += 1;
        (self.visit)(Met::Damage(damage))
    }
}
