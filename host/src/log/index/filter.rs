//! A blocked Bloom filter over hashes that are uniform already.
//!
//! One check touches one block of 64 bytes, so that it costs one page read and no memory. With 10
//! bits a hash about one absent hash in a hundred passes. (Putze, Sanders, Singler: Cache-, Hash-
//! and Space-Efficient Bloom Filters, 2007.)

/// Bytes of one block.
pub(super) const BLOCK_BYTES: usize = 64;
const BITS_PER_HASH: usize = 10;
const PROBES: u32 = 7;
/// Bits that address a bit of a block: 64 bytes have 512.
const PROBE_BITS: u32 = 9;
const _: () = assert!(1 << PROBE_BITS == BLOCK_BYTES * 8 && PROBES * PROBE_BITS <= 64);

/// The filter over these hashes.
pub(super) fn build(hashes: &[u128]) -> Vec<u8> {
    let blocks = (hashes.len() * BITS_PER_HASH).div_ceil(BLOCK_BYTES * 8);
    let mut filter = vec![0_u8; blocks * BLOCK_BYTES];
    for hash in hashes {
        let Some(start) = block_offset(*hash, filter.len() as u64) else { continue };
        let start = usize::try_from(start).unwrap_or(usize::MAX);
        let block = filter.get_mut(start..).and_then(<[u8]>::first_chunk_mut::<BLOCK_BYTES>);
        let Some(block) = block else { continue };
        for (byte, mask) in probes(*hash) {
            if let Some(byte) = block.get_mut(byte) {
                *byte |= mask;
            }
        }
    }
    filter
}

/// Where the block of a hash starts in a filter of so many bytes; none: the filter is empty.
pub(super) fn block_offset(hash: u128, filter_bytes: u64) -> Option<u64> {
    let blocks = filter_bytes / BLOCK_BYTES as u64;
    let block = (u128::from(low(hash)) * u128::from(blocks)) >> 64;
    (blocks > 0).then(|| low(block) * BLOCK_BYTES as u64)
}

/// Whether the hash may be among those the filter was built from.
pub(super) fn may_hold(hash: u128, block: &[u8]) -> bool {
    probes(hash).all(|(byte, mask)| block.get(byte).is_some_and(|byte| byte & mask != 0))
}

fn probes(hash: u128) -> impl Iterator<Item = (usize, u8)> {
    let high = low(hash >> 64);
    (0..PROBES).map(move |probe| {
        let bit = (high >> (probe * PROBE_BITS)) & ((1 << PROBE_BITS) - 1);
        ((bit / 8) as usize, 1_u8 << (bit % 8))
    })
}

#[allow(clippy::cast_possible_truncation, reason = "taking the low half is the purpose")]
const fn low(value: u128) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::KeyHash;

    fn passes(filter: &[u8], hash: u128) -> bool {
        let Some(start) = block_offset(hash, filter.len() as u64) else { return false };
        may_hold(hash, &filter[usize::try_from(start).unwrap()..][..BLOCK_BYTES])
    }

    #[test]
    fn what_was_put_in_passes_and_of_the_rest_about_one_in_a_hundred() {
        let hashes: Vec<u128> = (0..20_000).map(|n| KeyHash::of(&format!("in-{n}")).0).collect();
        let filter = build(&hashes);
        assert!(hashes.iter().all(|hash| passes(&filter, *hash)));
        let absent = (0..20_000).map(|n| KeyHash::of(&format!("out-{n}")).0);
        let wrong = absent.filter(|hash| passes(&filter, *hash)).count();
        assert!(wrong < 500, "{wrong} of 20000 pass");
    }

    #[test]
    fn an_empty_filter_lets_nothing_pass() {
        assert!(!passes(&build(&[]), 5));
    }
}
