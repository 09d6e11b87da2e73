//! Reads everything a log has and says what is not as it was written.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::content::ContentCheck;
use super::damage::{Damage, DamageKind, LogEnd, Span};
use super::files::{BusFiles, SegmentFile, io_error};
use super::walk::{Met, SegmentEnd, walk};
use super::{ToolError, hex};
use crate::event::CommitNumber;
use crate::log::dedup::IdHasher;
use crate::log::disk::Disk;
use crate::log::frame::Frame;
use crate::log::heads::Heads;
use crate::log::index::{
    HeadsFile, HeadsMark, IndexError, IndexFile, SegmentBase, SegmentIndexBuilder, SegmentSeal,
};
use crate::log::recovery::{End, Proof, judge_all};

/// Damages listed in full; the rest is counted.
const DAMAGES_LISTED_MAX: usize = 1000;

/// What [`verify`] found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Each bus, by name.
    pub buses: Vec<BusVerified>,
}

/// What [`verify`] found in the log of one bus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BusVerified {
    /// The bus.
    pub bus: String,
    /// The log's id, as 32 hex digits.
    pub log_id: String,
    /// Segment files.
    pub segments: u64,
    /// Whole frames, seals not counted.
    pub frames: u64,
    /// Commits in them.
    pub commits: u64,
    /// Events in them, private ones included.
    pub events: u64,
    /// Bytes of the segment files.
    pub bytes: u64,
    /// Last commit.
    pub last_commit: u64,
    /// Payloads that were erased on purpose.
    pub erased_payloads: u64,
    /// How the log ends.
    pub end: LogEnd,
    /// What is damaged, in the order of the log; the first thousand.
    pub damages: Vec<Damage>,
    /// Further damages.
    pub damages_unlisted: u64,
    /// Sealed segments without an index file; the next start makes them.
    pub indexes_missing: u64,
}

impl VerifyReport {
    /// Whether nothing is damaged.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.buses.iter().all(|bus| bus.damages.is_empty())
    }
}

/// Reads all segments and index files of a data directory, of one bus where it is named: checksums,
/// numbers, hash chain, digests, records, seals, and whether the indexes say the same.
///
/// # Errors
/// There is no log, a host has it open, or a file cannot be read. Damage is no error.
pub fn verify(disk: &dyn Disk, data: &Path, bus: Option<&str>) -> Result<VerifyReport, ToolError> {
    let buses = BusFiles::find(disk, data, bus)?;
    let buses = buses.iter().map(verify_bus).collect::<Result<_, _>>()?;
    Ok(VerifyReport { buses })
}

fn verify_bus(files: &BusFiles<'_>) -> Result<BusVerified, ToolError> {
    let segments = files.segments()?;
    let log_id = files.log_id(&segments)?;
    let report = BusVerified {
        bus: files.name.clone(),
        log_id: hex(log_id),
        segments: segments.len() as u64,
        frames: 0,
        commits: 0,
        events: 0,
        bytes: segments.iter().map(|segment| segment.bytes).sum(),
        last_commit: 0,
        erased_payloads: 0,
        end: LogEnd::Open,
        damages: Vec::new(),
        damages_unlisted: 0,
        indexes_missing: 0,
    };
    let mut verifier = Verifier {
        files,
        log_id,
        last_segment: segments.last().map_or(0, |segment| segment.number),
        ids: IdHasher::new(&log_id),
        content: ContentCheck::default(),
        segment: None,
        chain: None,
        report,
    };
    walk(log_id, &segments, &mut |met| verifier.meet(met))?;
    verifier.heads()?;
    verifier.start()?;
    verifier.report.erased_payloads = verifier.content.erased;
    Ok(verifier.report)
}

struct Verifier<'f> {
    files: &'f BusFiles<'f>,
    log_id: [u8; 16],
    last_segment: u32,
    ids: IdHasher,
    content: ContentCheck,
    segment: Option<SegmentState>,
    /// Chain at the end of the log, where that is a seal.
    chain: Option<[u8; 32]>,
    report: BusVerified,
}

/// What is known of the segment that is being read.
struct SegmentState {
    file: SegmentFile,
    index: Result<Option<IndexFile>, IndexError>,
    /// None until the first frame, and again once it cannot be filled.
    builder: Option<SegmentIndexBuilder>,
    is_fillable: bool,
}

impl Verifier<'_> {
    fn meet(&mut self, met: Met<'_>) -> Result<(), ToolError> {
        match met {
            Met::Segment(file) => {
                let path = self.files.index_path(file.number);
                let index = IndexFile::open(self.files.disk, &path, &self.log_id, file.number);
                let (builder, is_fillable) = (None, true);
                self.segment =
                    Some(SegmentState { file: file.clone(), index, builder, is_fillable });
            }
            Met::Frame { file, offset, frame, follows } => {
                if !follows {
                    self.content.doubt();
                }
                self.frame(file, offset, frame);
            }
            Met::Broken { .. } => {}
            Met::Damage(damage) => {
                self.content.doubt();
                self.damage(damage);
            }
            Met::End(end) => self.end(&end)?,
        }
        Ok(())
    }

    fn frame(&mut self, file: &SegmentFile, offset: u64, frame: &Frame) {
        for wrong in self.content.check(frame) {
            self.damage(Damage {
                kind: DamageKind::Content,
                file: file.path.clone(),
                offset,
                bytes: Some(frame.header().frame_bytes()),
                what: wrong.what,
                commits: wrong.commits,
                positions: wrong.positions,
            });
        }
        let header = frame.header();
        self.report.frames += u64::from(!header.is_seal());
        self.report.commits += u64::from(header.commit_count);
        self.report.events += u64::from(header.event_count);
        self.report.last_commit = frame.last_commit().0;
        if let Some(segment) = self.segment.as_mut().filter(|segment| segment.is_fillable) {
            let own = SegmentBase::of(header);
            let base = match &segment.index {
                // Which log time a segment begins at is the writer's choice.
                Ok(Some(index)) => {
                    SegmentBase { first_ms: index.span().base.first_ms.min(own.first_ms), ..own }
                }
                _ => own,
            };
            let builder = segment.builder.get_or_insert_with(|| SegmentIndexBuilder::new(base));
            segment.is_fillable = builder.add_frame(frame, offset, &self.ids).is_ok();
        }
    }

    fn end(&mut self, end: &SegmentEnd) -> Result<(), ToolError> {
        if !end.is_blank {
            self.report.end = end.end;
        }
        self.chain = end.seal.map(|(_, _, chain)| chain);
        let Some(segment) = self.segment.take() else { return Ok(()) };
        let path = self.files.index_path(segment.file.number);
        let index = match segment.index {
            Err(error) => return self.index_error(&path, error),
            Ok(None) => {
                self.report.indexes_missing += u64::from(end.seal.is_some());
                return Ok(());
            }
            Ok(Some(index)) => index,
        };
        if let Err(error) = index.verify() {
            return self.index_error(&path, error);
        }
        let Some((_, bytes, chain)) = end.seal else {
            self.lost_behind(&segment.file, &index, *end);
            return Ok(());
        };
        // What the index should say is known only of a segment that is whole.
        let expected = segment.builder.filter(|_| segment.is_fillable && end.is_whole);
        let Some(builder) = expected else { return Ok(()) };
        let expected = builder.encode(SegmentSeal { bytes, chain })?;
        let found = self.files.read_derived(&path)?;
        if found != expected {
            let same = found.iter().zip(&expected).take_while(|(a, b)| a == b).count();
            let what = "the index does not say what its segment does; \
                        `tidegate log reindex` rebuilds it";
            self.index_damage(&path, same as u64, what.to_owned());
        }
        Ok(())
    }

    /// Holds the snapshot of key heads against what was read, where it stands for this end.
    fn heads(&mut self) -> Result<(), ToolError> {
        let Some(chain) = self.chain.filter(|_| self.report.damages.is_empty()) else {
            return Ok(());
        };
        let path = self.files.heads_path();
        let commit = CommitNumber(self.report.last_commit);
        let mark = HeadsMark { log_id: self.log_id, commit, chain };
        let heads = Heads::new();
        match HeadsFile::open(self.files.disk, &path, &mark) {
            Ok(None) => return Ok(()),
            Ok(Some(file)) => {
                if let Err(error) = file.load(&heads) {
                    return self.index_error(&path, error);
                }
            }
            Err(error) => return self.index_error(&path, error),
        }
        if !self.content.agrees(&heads) {
            let what = "the snapshot of key heads does not say what the log does; remove it";
            self.index_damage(&path, 0, what.to_owned());
        }
        Ok(())
    }

    /// Whatever a start refuses is damage, whether or not anything else has told of it.
    fn start(&mut self) -> Result<(), ToolError> {
        let (disk, folders) = (self.files.disk, &self.files.folders);
        let refusal = if self.report.damages.is_empty() {
            judge_all(disk, folders).err()
        } else {
            // A start stops at what was found already, and does not come to this.
            let segment = self.last_segment.saturating_add(1);
            let end = End { segment, commit: CommitNumber(self.report.last_commit) };
            let proof = Proof::beyond(disk, folders, self.log_id, end);
            proof.map_or_else(Some, |proof| Some(proof?.refusal(folders, end).into()))
        };
        if let Some(refusal) = refusal {
            self.damage(Damage::of_refusal(refusal)?);
        }
        Ok(())
    }

    /// A segment without a seal that has an index was sealed once: its end is gone.
    fn lost_behind(&mut self, file: &SegmentFile, index: &IndexFile, end: SegmentEnd) {
        let CommitNumber(last) = index.span().last_commit;
        let offset = match end {
            SegmentEnd { is_blank: true, .. } => 0,
            SegmentEnd { end: LogEnd::Torn { offset, .. }, .. } => offset,
            _ => file.bytes,
        };
        let next = self.report.last_commit + 1;
        self.damage(Damage {
            kind: DamageKind::NotSealed,
            file: file.path.clone(),
            offset,
            bytes: None,
            what: format!("the segment ends without its seal, which stood up to commit {last}"),
            commits: Span::until(next, last + 1),
            positions: None,
        });
    }

    fn index_error(&mut self, path: &Path, error: IndexError) -> Result<(), ToolError> {
        match error {
            IndexError::Io { path, source } => return Err(io_error(&path, source)),
            IndexError::Damaged { offset, .. } => {
                self.index_damage(path, offset, error.to_string());
            }
            IndexError::Version { .. }
            | IndexError::Frame { .. }
            | IndexError::OutOfRange { .. } => {
                self.index_damage(path, 0, error.to_string());
            }
        }
        Ok(())
    }

    fn index_damage(&mut self, path: &Path, offset: u64, what: String) {
        let (file, kind) = (path.to_owned(), DamageKind::Index);
        let (commits, positions) = (None, None);
        self.damage(Damage { kind, file, offset, bytes: None, what, commits, positions });
    }

    fn damage(&mut self, damage: Damage) {
        if self.report.damages.len() < DAMAGES_LISTED_MAX {
            self.report.damages.push(damage);
        } else {
            self.report.damages_unlisted += 1;
        }
    }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.buses.iter().try_for_each(|bus| bus.fmt(f))
    }
}

impl fmt::Display for BusVerified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {} segments, {} bytes, {} frames, {} commits, {} events",
            self.bus, self.segments, self.bytes, self.frames, self.commits, self.events
        )?;
        match self.end {
            LogEnd::Sealed => writeln!(f, "  ends with a seal at commit {}", self.last_commit)?,
            LogEnd::Open => writeln!(f, "  ends open at commit {}", self.last_commit)?,
            LogEnd::Torn { offset, bytes } => writeln!(
                f,
                "  ends at commit {} with a torn frame at byte {offset} ({bytes} bytes), \
                 which the next start cuts off",
                self.last_commit
            )?,
        }
        if self.erased_payloads > 0 {
            writeln!(f, "  {} payloads were erased on purpose", self.erased_payloads)?;
        }
        if self.indexes_missing > 0 {
            let missing = self.indexes_missing;
            writeln!(f, "  {missing} index files are missing; the next start makes them")?;
        }
        for damage in &self.damages {
            writeln!(f, "  DAMAGED {damage}")?;
        }
        match (self.damages.len(), self.damages_unlisted) {
            (0, _) => writeln!(f, "  nothing is damaged"),
            (_, 0) => Ok(()),
            (_, unlisted) => writeln!(f, "  and {unlisted} more"),
        }
    }
}
