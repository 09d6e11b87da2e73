//! What can be kept of a frame whose sections are damaged.
//!
//! Rule: a commit is kept only if every byte of it is proven by a checksum or digest.

use bytes::Bytes;

use super::survey::Item;
use crate::log::codec::{CommitRef, Commits, HEADER_BYTES, Header, Salt, kind, payload_digest};
use crate::log::frame::Frame;
use crate::log::segment::Tip;

/// What is left of a frame whose header holds; none: nothing that can be proven.
pub(super) fn restored(header: &Header, bytes: &Bytes, salt: Salt) -> Option<Item> {
    let whole = usize::try_from(header.frame_bytes()).ok()?;
    let bytes = bytes.get(..whole)?;
    let (metadata, payload) = sections(header, bytes)?;
    if !header.holds_metadata(bytes, salt) {
        return None;
    }
    let mut rebuilt = bytes.to_vec();
    // Where the payloads are right it is the padding that is not; it is zeros.
    rebuilt.get_mut(HEADER_BYTES + metadata.len() + payload.len()..)?.fill(0);
    let rebuilt = Bytes::from(rebuilt);
    if let Ok(frame) = Frame::open(&rebuilt, salt) {
        return Some(Item::Restored { header: *header, bytes: rebuilt, after: Tip::after(&frame) });
    }
    let is_readable = Commits::new(header, metadata, payload).all(|commit| commit.is_ok());
    is_readable.then(|| Item::Partial { header: *header, bytes: Bytes::copy_from_slice(bytes) })
}

/// Metadata and payload of a frame, unchecked.
pub(super) fn sections<'b>(header: &Header, bytes: &'b [u8]) -> Option<(&'b [u8], &'b [u8])> {
    let body = bytes.get(HEADER_BYTES..)?;
    let (metadata, padded) = body.split_at_checked(header.metadata_bytes as usize)?;
    Some((metadata, padded.get(..header.payload_bytes as usize)?))
}

/// Which records of a commit are whole, given that its metadata is: those of events stand for
/// themselves; what a delivery did is whole or lost.
pub(super) fn is_whole(commit: &CommitRef<'_>) -> bool {
    let mut records = commit.records();
    while let Some(raw) = records.next_raw() {
        let is_right = raw.is_ok_and(|(raw, _)| {
            raw.digest.is_none_or(|digest| digest == payload_digest(raw.payload))
        });
        if !is_right {
            return false;
        }
    }
    true
}

/// Whether a commit holds a delivery's end.
pub(super) fn has_completion(commit: &CommitRef<'_>) -> bool {
    let mut records = commit.records();
    let mut raw = std::iter::from_fn(|| records.next_raw());
    raw.any(|raw| raw.is_ok_and(|(raw, _)| raw.kind == kind::COMPLETION))
}
