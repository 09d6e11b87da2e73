//! One wrong byte among bytes whose CRC32C is known: which one, and what it was.
//!
//! CRC32C is linear: what the checksum is off by depends on the error and its distance from the end
//! alone. So the error is looked for by winding that difference back, byte by byte, until it is what
//! one wrong byte makes. In a long section another byte may fit by chance: whoever asks has to prove
//! the answer by something else.

/// Reflected CRC32C: what a register holds after one byte.
const TABLE: [u32; 256] = table();

#[allow(clippy::cast_possible_truncation, clippy::indexing_slicing, reason = "counts to 256")]
const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut register = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            let feedback = if register & 1 == 1 { 0x82f6_3b78 } else { 0 };
            register = (register >> 1) ^ feedback;
            bit += 1;
        }
        table[byte] = register;
        byte += 1;
    }
    table
}

/// By its top byte, the byte that makes an entry: there is one for each.
const BY_TOP: [u8; 256] = by_top();

#[allow(clippy::cast_possible_truncation, clippy::indexing_slicing, reason = "counts to 256")]
const fn by_top() -> [u8; 256] {
    let mut by_top = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        by_top[(TABLE[byte] >> 24) as usize] = byte as u8;
        byte += 1;
    }
    by_top
}

/// Where among `len` bytes a single wrong one is, and what it differs by, given what their checksum
/// differs by; each that fits.
pub(super) fn wrong_bytes(difference: u32, len: usize) -> impl Iterator<Item = (usize, u8)> {
    let mut register = difference;
    (0..len).rev().filter_map(move |at| {
        let (byte, value) = entry(register);
        let is_it = value == register;
        // What the register was before a zero byte.
        register = ((register ^ value) << 8) | u32::from(byte);
        is_it.then_some((at, byte))
    })
}

/// The byte whose entry has the same top byte, and the entry.
fn entry(register: u32) -> (u8, u32) {
    let [.., top] = register.to_le_bytes();
    let byte = BY_TOP.get(usize::from(top)).copied().unwrap_or_default();
    (byte, TABLE.get(usize::from(byte)).copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_single_wrong_byte_is_found() {
        let bytes: Vec<u8> = (0..=250).chain(0..50).collect();
        let right = crc32c::crc32c_append(77, &bytes);
        for at in 0..bytes.len() {
            for error in [0x01, 0x40, 0xff] {
                let mut wrong = bytes.clone();
                wrong[at] ^= error;
                let difference = crc32c::crc32c_append(77, &wrong) ^ right;
                let found: Vec<_> = wrong_bytes(difference, bytes.len()).collect();
                assert_eq!(found, [(at, error)]);
            }
        }
    }
}
