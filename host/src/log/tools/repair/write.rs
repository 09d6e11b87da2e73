//! Writes a segment anew: what is kept byte by byte, what is lost as what stands in its place.
//!
//! Rule: the file is read back and proven before it gets its name.

use std::path::Path;
use std::sync::Arc;

use super::super::ToolError;
use super::super::files::{SegmentFile, SegmentReader, io_error};
use super::RepairError;
use super::lost::{Filling, Hole, Made};
use super::plan::{Piece, Planned};
use super::survey::{Item, Run};
use crate::event::InstanceId;
use crate::log::codec::{Encoded, FLAG_MENDED, FLAG_SEAL, HEADER_BYTES, Header, Salt, Seal};
use crate::log::disk::{Disk, DiskFile};
use crate::log::frame::{Frame, FrameBuilder};
use crate::log::segment::{Scan, ScanEnd, SegmentScan, Tip, count_frame, sealed_len};

/// Bytes from which on a frame of what is lost takes no further commit.
const FRAME_BYTES: usize = 1 << 20;
/// Bytes copied at once.
const COPY_BYTES: u64 = 1 << 20;

/// What a segment that is written anew follows on, and what follows on it.
pub(super) struct Around<'a> {
    pub(super) bus: &'a str,
    pub(super) log_id: [u8; 16],
    pub(super) before: Tip,
    /// What the first frame of the next segment is chained to, where that is kept.
    pub(super) next_chain: Option<[u8; 32]>,
    /// The highest identity a plugin has.
    pub(super) instances: InstanceId,
}

/// A segment being written.
struct Output<'o> {
    path: &'o Path,
    file: Arc<dyn DiskFile>,
    salt: Salt,
    end: u64,
    tip: Tip,
    counts: Seal,
}

/// Writes a segment to `path`, which nobody reads under that name; gives what follows on it.
pub(super) fn write_segment(
    disk: &dyn Disk,
    path: &Path,
    planned: &Planned,
    holes: &mut std::slice::Iter<'_, Hole>,
    around: &Around<'_>,
) -> Result<Tip, RepairError> {
    let failed = |source| io_error(path, source);
    let _ = disk.remove(path);
    let file = disk.create_new(path).map_err(failed)?;
    let salt = Salt::new(around.log_id, planned.segment.number);
    let counts = Seal {
        first_commit: around.before.next_commit,
        first_position: around.before.next_position,
        ..Seal::default()
    };
    let mut output = Output { path, file: file.clone(), salt, end: 0, tip: around.before, counts };
    let mut pieces = planned.pieces.iter().peekable();
    while let Some(piece) = pieces.next() {
        // Where a made piece follows, or the seal, which is made as well, no chain is asked for.
        let next_chain = match pieces.peek() {
            Some(Piece::Item(item)) => item.chained_to(),
            Some(Piece::Gap(_)) | None => None,
        };
        let filling = |hole| Filling { bus: around.bus, hole, instances: around.instances };
        match piece {
            Piece::Item(Item::Run(run)) => {
                output.run(planned.segment.file.as_ref(), run)?;
            }
            Piece::Item(Item::Restored { header, bytes, after }) => {
                output.bytes(bytes)?;
                output.restored(header, bytes, after);
            }
            Piece::Item(Item::Partial { header, bytes }) => {
                let Some(hole) = holes.next() else { break };
                output.made(filling(hole).frame(header, bytes), Some(header), next_chain)?;
            }
            Piece::Gap(_) => {
                let Some(hole) = holes.next() else { break };
                output.made(filling(hole).gap(), None, next_chain)?;
            }
        }
    }
    output.seal(planned, around.next_chain)?;
    let len = sealed_len(output.end);
    file.set_len(len).and_then(|()| file.sync_data()).map_err(failed)?;
    output.prove(around.before)?;
    Ok(output.tip)
}

impl Output<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), ToolError> {
        self.file.write_at(bytes, self.end).map_err(|source| io_error(self.path, source))?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    fn run(&mut self, from: Option<&SegmentFile>, run: &Run) -> Result<(), RepairError> {
        let Some(from) = from else { return Ok(()) };
        let mut reader = SegmentReader::new(from);
        let mut at = run.from;
        while at < run.to {
            let bytes = reader.read(at, COPY_BYTES.min(run.to - at))?;
            if bytes.is_empty() {
                return Err(RepairError::Changed { path: from.path.clone() });
            }
            self.bytes(&bytes)?;
            at += bytes.len() as u64;
        }
        self.add(&run.counts);
        self.tip = run.after;
        Ok(())
    }

    fn restored(&mut self, header: &Header, bytes: &bytes::Bytes, after: &Tip) {
        let mut counts = Seal::default();
        if let Ok(frame) = Frame::open(bytes, self.salt) {
            count_frame(&mut counts, &frame);
        }
        debug_assert_eq!(header.first_commit, counts.first_commit);
        self.add(&counts);
        self.tip = *after;
    }

    fn add(&mut self, counts: &Seal) {
        if self.counts.frames == 0 {
            self.counts.first_ms = counts.first_ms;
        }
        self.counts.frames += counts.frames;
        self.counts.commits += counts.commits;
        self.counts.events += counts.events;
        self.counts.last_ms = counts.last_ms;
    }

    /// Writes commits as frames; the last of them names what follows as chained to it.
    fn made(
        &mut self,
        commits: impl Iterator<Item = Result<Made, crate::log::codec::EncodeError>>,
        like: Option<&Header>,
        next_chain: Option<[u8; 32]>,
    ) -> Result<(), RepairError> {
        let mut builder = FrameBuilder::default();
        let mut commits = commits.peekable();
        while let Some(commit) = commits.next() {
            let (mut encoded, sequences) = commit?;
            let is_last = commits.peek().is_none();
            if let Some(chain) = next_chain.filter(|_| is_last) {
                encoded.chain(chain)?;
                encoded.finish()?;
            }
            builder.push(&encoded, sequences.into_iter());
            // A frame that is kept in part stays one: its commits have times of their own.
            let is_full = like.is_none() && builder.frame_bytes() >= FRAME_BYTES;
            if is_last || is_full {
                let flags = if is_last && next_chain.is_some() { FLAG_MENDED } else { 0 };
                let header = self.header(flags, like);
                self.frame(&mut builder, header)?;
            }
        }
        Ok(())
    }

    fn header(&self, flags: u16, like: Option<&Header>) -> Header {
        let (epoch, time_ms) =
            like.map_or((self.tip.epoch, self.tip.time_ms), |like| (like.epoch, like.time_ms));
        Header {
            flags,
            log_id: self.salt.log_id,
            epoch: epoch.max(1),
            segment: self.salt.segment,
            first_commit: self.tip.next_commit,
            first_position: self.tip.next_position,
            time_ms,
            chain: self.tip.chain,
            ..Header::default()
        }
    }

    fn frame(&mut self, builder: &mut FrameBuilder, header: Header) -> Result<(), RepairError> {
        let frame = builder.build(header, self.salt);
        self.bytes(frame.bytes())?;
        if !frame.header().is_seal() {
            count_frame(&mut self.counts, &frame);
        }
        self.tip = Tip::after(&frame);
        Ok(())
    }

    fn seal(&mut self, planned: &Planned, next_chain: Option<[u8; 32]>) -> Result<(), RepairError> {
        let seal = Seal { bytes: self.end, clean_stop: false, ..self.counts };
        let like = planned.segment.seal.map(|seal| seal.header);
        let plain = self.seal_with(&seal, None, like.as_ref())?;
        // Where it is as it was, nothing needs to be said.
        let frame = match next_chain.filter(|chain| plain.chain() != *chain) {
            None => plain,
            chain => self.seal_with(&seal, chain, like.as_ref())?,
        };
        self.bytes(frame.bytes())?;
        self.tip = Tip::after(&frame);
        Ok(())
    }

    fn seal_with(
        &self,
        seal: &Seal,
        next_chain: Option<[u8; 32]>,
        like: Option<&Header>,
    ) -> Result<Frame, RepairError> {
        let mut encoded = Encoded::default();
        encoded.seal(seal)?;
        if let Some(chain) = next_chain {
            encoded.chain(chain)?;
        }
        encoded.finish()?;
        let mut builder = FrameBuilder::default();
        builder.push(&encoded, std::iter::empty());
        let mended = if next_chain.is_some() { FLAG_MENDED } else { 0 };
        Ok(builder.build(self.header(FLAG_SEAL | mended, like), self.salt))
    }

    /// Reads everything back.
    fn prove(&self, before: Tip) -> Result<(), RepairError> {
        let mut scan = SegmentScan::new(self.file.clone(), self.salt, 0);
        let mut tip = before;
        loop {
            match scan.next_after(&mut tip).map_err(|source| io_error(self.path, source))? {
                Scan::Frame { .. } => {}
                Scan::End(ScanEnd::Blank) if scan.offset() == self.end && tip == self.tip => {
                    return Ok(());
                }
                Scan::End(_) => {
                    let path = self.path.to_owned();
                    return Err(RepairError::Unproven { path, offset: scan.offset() });
                }
            }
        }
    }
}

const _: () = assert!(FRAME_BYTES > HEADER_BYTES);
