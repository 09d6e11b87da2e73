//! Checkpoints whose checksums are right, whatever is in them.

use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;

use super::format::{CHUNK_HEADER_BYTES, Counts, Header, Kind, seal_chunk};
use super::{ChainStart, Checkpoints};
use crate::event::CommitNumber;
use crate::log::disk::sim::SimDisk;
use crate::log::disk::{Disk, publish_file};
use crate::state::ledger::At;
use crate::state::values::Values;

const LOG: Uuid = Uuid::from_u128(7);
const COMMIT: CommitNumber = CommitNumber(9);

fn put_chunk(out: &mut Vec<u8>, kind: Kind, content: &[u8], salt: u32) -> Option<()> {
    let mut chunk = vec![0; CHUNK_HEADER_BYTES];
    chunk.extend_from_slice(content);
    seal_chunk(&mut chunk, kind, salt)?;
    out.extend_from_slice(&chunk);
    Some(())
}

fn file(bytes: &[u8]) -> Option<Vec<u8>> {
    let (first, content) = bytes.split_first()?;
    let header = Header {
        log_id: LOG,
        at: At { commit: COMMIT, time_ms: 90 },
        chain: ChainStart::default(),
    };
    let (mut out, salt) = (header.encode(), header.salt());
    let mut counts = Counts::default();
    let kind = match first % 3 {
        0 => {
            counts.ledger_bytes = content.len() as u64;
            Kind::Ledger
        }
        1 => Kind::Values,
        _ => Kind::Timers,
    };
    put_chunk(&mut out, kind, content, salt)?;
    let mut end = Vec::new();
    counts.put(&mut end);
    put_chunk(&mut out, Kind::End, &end, salt)?;
    let hash = blake3::hash(&out);
    out.extend_from_slice(hash.as_bytes());
    Some(out)
}

/// Reads a checkpoint of one chunk: the first byte says of which kind, the others are its content.
pub(crate) fn fuzz(bytes: &[u8]) {
    let Some(file) = file(bytes) else { return };
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
    let dir = Path::new("checkpoints");
    let Ok(checkpoints) = Checkpoints::open(Arc::clone(&disk), dir, LOG) else { return };
    let path = dir.join(format!("{:020}.checkpoint", COMMIT.0));
    if publish_file(&*disk, &path, &file).is_ok() {
        let _ = checkpoints.newest(&Values::default(), COMMIT);
    }
}
