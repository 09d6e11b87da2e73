//! Which events a damaged payload section concerns, as the digests in the metadata tell.

use super::damage::Span;
use crate::log::codec::{Commits, Header, kind, payload_digest};

/// The part of a payload section that is not what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Narrowed {
    /// Where it starts in the section, in bytes.
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) commits: Span,
    /// Of the events among the records concerned.
    pub(super) positions: Option<Span>,
}

/// Holds each payload against its digest. None: all match, so that only padding is damaged, or the
/// metadata cannot be read.
pub(super) fn narrow(header: &Header, metadata: &[u8], payload: &[u8]) -> Option<Narrowed> {
    let mut found: Option<Narrowed> = None;
    let mut offset = 0_u64;
    for commit in Commits::new(header, metadata, payload).map_while(Result::ok) {
        let mut records = commit.records();
        while let Some(Ok((raw, position))) = records.next_raw() {
            let bytes = raw.payload.len() as u64;
            let start = offset;
            offset += bytes;
            if raw.digest.is_none_or(|digest| digest == payload_digest(raw.payload)) {
                continue;
            }
            let number = commit.number.0;
            let all = found.get_or_insert(Narrowed {
                offset: start,
                bytes,
                commits: Span { first: number, last: Some(number) },
                positions: None,
            });
            all.bytes = offset - all.offset;
            all.commits.last = Some(number);
            if raw.kind == kind::EVENT {
                let first = all.positions.map_or(position.0, |span| span.first);
                all.positions = Some(Span { first, last: Some(position.0) });
            }
        }
    }
    found
}
