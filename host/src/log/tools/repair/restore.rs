//! What can be kept of a frame whose sections are damaged.
//!
//! Rule: a commit is kept only if every byte of it is proven by a checksum or digest.

use bytes::Bytes;

use super::byte::wrong_bytes;
use super::survey::Item;
use crate::log::codec::{
    CommitRef, Commits, HEADER_BYTES, Header, Salt, Section, chain, kind, payload_digest,
};
use crate::log::frame::Frame;
use crate::log::segment::Tip;

/// Bytes of the checksum at the end of a header.
const CRC_BYTES: usize = 4;
/// Bytes that are tried in one section: of 16 MiB, one more than the right one fits by chance.
const CANDIDATES_MAX: usize = 16;

/// What is left of a frame whose header holds; none: nothing that can be proven. `next_chain`: what the
/// frame behind it is chained to.
pub(super) fn restored(
    header: &Header,
    bytes: &Bytes,
    salt: Salt,
    next_chain: Option<[u8; 32]>,
) -> Option<Item> {
    let whole = usize::try_from(header.frame_bytes()).ok()?;
    let mut bytes = bytes.get(..whole)?.to_vec();
    if header.difference(&bytes, salt, Section::Metadata)? != 0 {
        // Only that the next frame was chained to these very bytes proves them.
        let next_chain = next_chain?;
        let is_proven = |bytes: &[u8]| {
            sections(header, bytes)
                .is_some_and(|(metadata, _)| chain(bytes, metadata) == next_chain)
        };
        mend(header, &mut bytes, salt, Section::Metadata, is_proven)?;
    }
    let (metadata, payload) = sections(header, &bytes)?;
    // Where the payloads are right it is the padding that is not; it is zeros.
    let padding = HEADER_BYTES + metadata.len() + payload.len();
    bytes.get_mut(padding..)?.fill(0);
    if header.difference(&bytes, salt, Section::Payload)? != 0 {
        let holds_digests = |bytes: &[u8]| {
            let (metadata, payload) = sections(header, bytes).unwrap_or_default();
            Commits::new(header, metadata, payload)
                .all(|commit| commit.is_ok_and(|commit| is_whole(&commit)))
        };
        // Without it some commits may be whole.
        let _ = mend(header, &mut bytes, salt, Section::Payload, holds_digests);
    }
    let bytes = Bytes::from(bytes);
    if let Ok(frame) = Frame::open(&bytes, salt) {
        return Some(Item::Restored { header: *header, bytes, after: Tip::after(&frame) });
    }
    let (metadata, payload) = sections(header, &bytes)?;
    let is_readable = Commits::new(header, metadata, payload).all(|commit| commit.is_ok());
    is_readable.then_some(Item::Partial { header: *header, bytes })
}

/// Puts a single wrong byte of a section right; none: there is none such that what is right then can be
/// proven.
fn mend(
    header: &Header,
    bytes: &mut [u8],
    salt: Salt,
    section: Section,
    is_proven: impl Fn(&[u8]) -> bool,
) -> Option<()> {
    let range = header.range(section);
    let difference = header.difference(bytes, salt, section)?;
    for (at, error) in wrong_bytes(difference, range.len()).take(CANDIDATES_MAX) {
        *bytes.get_mut(range.start + at)? ^= error;
        if is_proven(bytes) {
            return Some(());
        }
        *bytes.get_mut(range.start + at)? ^= error;
    }
    None
}

/// The frame at the start of `bytes`, one byte of whose header is wrong; none: it cannot be proven by
/// what it follows on, or more is wrong.
pub(super) fn with_header(bytes: &[u8], salt: Salt, before: &Tip) -> Option<Item> {
    let head: [u8; HEADER_BYTES] = *bytes.first_chunk()?;
    let difference = Header::header_difference(&head, salt);
    // The checksum itself may be what is wrong: then it is made anew, and everything else is right.
    let errors = wrong_bytes(difference, HEADER_BYTES - CRC_BYTES).map(|(at, error)| {
        let mut fixed = head;
        if let Some(byte) = fixed.get_mut(at) {
            *byte ^= error;
        }
        fixed
    });
    let mut own = head;
    if let Some(crc) = own.last_chunk_mut::<CRC_BYTES>() {
        *crc = (u32::from_le_bytes(*crc) ^ difference).to_le_bytes();
    }
    errors.chain([own]).find_map(|head| {
        let header = Header::decode(&head, salt).ok()?;
        let mut whole = bytes.get(..usize::try_from(header.frame_bytes()).ok()?)?.to_vec();
        whole.get_mut(..HEADER_BYTES)?.copy_from_slice(&head);
        let (bytes, mut after) = (Bytes::from(whole), *before);
        let frame = Frame::open(&bytes, salt).ok()?;
        after.follow(&frame).ok()?;
        (!header.is_seal()).then_some(Item::Restored { header, bytes, after })
    })
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
