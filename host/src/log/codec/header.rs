//! The fixed header of a frame, its checksums and its place in the hash chain.

use super::{DecodeError, number};

/// Bytes of a frame header.
pub const HEADER_BYTES: usize = 128;
/// Frames start at multiples of this; the padding is zero and covered by the payload's checksum.
pub const FRAME_ALIGN: usize = 8;
/// Bytes of a frame, header and padding included: what a decoder may be made to allocate.
pub const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The frame holds a seal and no commit.
pub const FLAG_SEAL: u16 = 0x0100;
/// The frame was written by a repair, in the place of others: what the next frame has as its chain is
/// in its last record, since that frame was chained to what is lost.
pub const FLAG_MENDED: u16 = 0x0200;

const MAGIC: [u8; 4] = *b"TDGF";
const VERSION: u8 = 1;
const MINOR: u8 = 0;
const FLAGS_KNOWN: u16 = FLAG_SEAL | FLAG_MENDED;
/// Everything before this is covered by the next frame's chain.
const CHAINED_BYTES: usize = 112;
const HEADER_CRC_AT: usize = 124;
const FLAGS_AT: usize = 6;
const METADATA_CRC_AT: usize = 112;
const PAYLOAD_CRC_AT: usize = 116;

const _: () = assert!(HEADER_BYTES.is_multiple_of(FRAME_ALIGN));
const _: () = assert!(FRAME_BYTES_MAX < u32::MAX as usize);

/// What checksums start from, so that bytes of another log or segment never pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Salt {
    /// The log.
    pub log_id: [u8; 16],
    /// The segment.
    pub segment: u32,
    seed: u32,
}

impl Salt {
    /// The salt of one segment of one log.
    #[must_use]
    pub fn new(log_id: [u8; 16], segment: u32) -> Self {
        let seed = crc32c::crc32c_append(crc32c::crc32c(&log_id), &segment.to_le_bytes());
        Self { log_id, segment, seed }
    }

    fn crc(self, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(self.seed, bytes)
    }
}

/// The parts of a frame behind its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// The records.
    Metadata,
    /// Their payloads, and padding.
    Payload,
}

/// A frame header, less its checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    /// See `FLAG_SEAL`; the low byte names compression (0: none) and checksum kind (0: CRC32C).
    pub flags: u16,
    /// The log.
    pub log_id: [u8; 16],
    /// Number of the host's start that wrote it, from 1.
    pub epoch: u32,
    /// Term of the writer, for replicated logs; 0 in a local one.
    pub writer_term: u32,
    /// The segment, from 1.
    pub segment: u32,
    /// Commits in the frame; 0 in a seal.
    pub commit_count: u32,
    /// Number of the first commit; in a seal, of the next one.
    pub first_commit: u64,
    /// Position of the first event; with no event, the next position.
    pub first_position: u64,
    /// Events in the frame.
    pub event_count: u32,
    /// Records in the frame.
    pub record_count: u32,
    /// Log time, milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// Bytes of the metadata section.
    pub metadata_bytes: u32,
    /// Bytes of the payload section, less padding.
    pub payload_bytes: u32,
    /// BLAKE3 over the chained bytes of the frame before and its metadata; zero in the first.
    pub chain: [u8; 32],
}

impl Header {
    /// Bytes of the whole frame, padding included.
    #[must_use]
    pub const fn frame_bytes(&self) -> u64 {
        let body = self.metadata_bytes as u64 + self.payload_bytes as u64;
        (HEADER_BYTES as u64 + body).next_multiple_of(FRAME_ALIGN as u64)
    }

    /// Whether the frame is a seal.
    #[must_use]
    pub const fn is_seal(&self) -> bool {
        self.flags & FLAG_SEAL != 0
    }

    /// Number of the commit after this frame.
    #[must_use]
    pub const fn next_commit(&self) -> u64 {
        self.first_commit.saturating_add(self.commit_count as u64)
    }

    /// Position of the event after this frame.
    #[must_use]
    pub const fn next_position(&self) -> u64 {
        self.first_position.saturating_add(self.event_count as u64)
    }

    /// Writes the header with the checksums of `metadata` and of `payload`, which includes padding.
    #[must_use]
    pub fn encode(&self, salt: Salt, metadata: &[u8], payload: &[u8]) -> [u8; HEADER_BYTES] {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[VERSION, MINOR]);
        out.extend_from_slice(&self.flags.to_le_bytes());
        out.extend_from_slice(&self.log_id);
        for value in [self.epoch, self.writer_term, self.segment, self.commit_count] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        out.extend_from_slice(&self.first_commit.to_le_bytes());
        out.extend_from_slice(&self.first_position.to_le_bytes());
        out.extend_from_slice(&self.event_count.to_le_bytes());
        out.extend_from_slice(&self.record_count.to_le_bytes());
        out.extend_from_slice(&self.time_ms.to_le_bytes());
        out.extend_from_slice(&self.metadata_bytes.to_le_bytes());
        out.extend_from_slice(&self.payload_bytes.to_le_bytes());
        out.extend_from_slice(&self.chain);
        out.extend_from_slice(&salt.crc(metadata).to_le_bytes());
        out.extend_from_slice(&salt.crc(payload).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&salt.crc(&out).to_le_bytes());
        let mut header = [0; HEADER_BYTES];
        header.copy_from_slice(&out);
        header
    }

    /// Reads a header and checks everything about it that needs no other bytes.
    ///
    /// # Errors
    /// Magic, version, flags, checksum, log, segment or lengths are not right.
    pub fn decode(bytes: &[u8], salt: Salt) -> Result<Self, DecodeError> {
        let header = Self::decode_any(bytes)?;
        if header.log_id != salt.log_id || header.segment != salt.segment {
            return Err(DecodeError::Foreign { segment: header.segment });
        }
        Ok(header)
    }

    /// As [`Self::decode`], of whatever log and segment the header itself names.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub fn decode_any(bytes: &[u8]) -> Result<Self, DecodeError> {
        let short =
            DecodeError::Short { needed: HEADER_BYTES as u64, available: bytes.len() as u64 };
        let bytes: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(short)?;
        if bytes.first_chunk() != Some(&MAGIC) {
            return Err(DecodeError::Magic);
        }
        let header = Self::fields(bytes).ok_or(DecodeError::Magic)?;
        let salt = Salt::new(header.log_id, header.segment);
        let (covered, stored) = bytes.split_at(HEADER_CRC_AT);
        if salt.crc(covered).to_le_bytes() != stored {
            return Err(DecodeError::Checksum { part: "header" });
        }
        let version = bytes.get(4).copied().unwrap_or_default();
        if version != VERSION {
            return Err(DecodeError::Version { found: version, supported: VERSION });
        }
        if header.flags & !FLAGS_KNOWN != 0 {
            return Err(DecodeError::Flags { found: header.flags });
        }
        header.plausible()?;
        Ok(header)
    }

    fn fields(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let u32_at = |at| number(bytes, at).map(u32::from_le_bytes);
        let u64_at = |at| number(bytes, at).map(u64::from_le_bytes);
        Some(Self {
            flags: u16::from_le_bytes(number(bytes, FLAGS_AT)?),
            log_id: number(bytes, 8)?,
            epoch: u32_at(24)?,
            writer_term: u32_at(28)?,
            segment: u32_at(32)?,
            commit_count: u32_at(36)?,
            first_commit: u64_at(40)?,
            first_position: u64_at(48)?,
            event_count: u32_at(56)?,
            record_count: u32_at(60)?,
            time_ms: u64_at(64)?,
            metadata_bytes: u32_at(72)?,
            payload_bytes: u32_at(76)?,
            chain: number(bytes, 80)?,
        })
    }

    fn plausible(&self) -> Result<(), DecodeError> {
        let inconsistent = |what| Err(DecodeError::Inconsistent { what });
        if self.frame_bytes() > FRAME_BYTES_MAX as u64 {
            return inconsistent("frame length and its limit");
        }
        if self.commit_count > self.record_count || self.event_count > self.record_count {
            return inconsistent("counts of records, commits and events");
        }
        if u64::from(self.record_count) * super::PREFIX_BYTES as u64
            > u64::from(self.metadata_bytes)
        {
            return inconsistent("record count and metadata length");
        }
        if self.is_seal() == (self.commit_count > 0) {
            return inconsistent("seal flag and commit count");
        }
        Ok(())
    }

    /// What the checksum of a section of `frame`, which starts with the header's bytes, differs by; 0: it
    /// is right. None: the frame is cut short.
    #[must_use]
    pub fn difference(&self, frame: &[u8], salt: Salt, section: Section) -> Option<u32> {
        let bytes = frame.get(self.range(section))?;
        let at = if section == Section::Metadata { METADATA_CRC_AT } else { PAYLOAD_CRC_AT };
        Some(number(frame, at).map(u32::from_le_bytes)? ^ salt.crc(bytes))
    }

    /// Where in the frame a section stands; that of the payload goes on to the end of the padding.
    #[must_use]
    pub fn range(&self, section: Section) -> std::ops::Range<usize> {
        let metadata_end = HEADER_BYTES + self.metadata_bytes as usize;
        match section {
            Section::Metadata => HEADER_BYTES..metadata_end,
            Section::Payload => {
                metadata_end..usize::try_from(self.frame_bytes()).unwrap_or(usize::MAX)
            }
        }
    }

    /// What the checksum of a header's bytes differs by.
    #[must_use]
    pub fn header_difference(bytes: &[u8; HEADER_BYTES], salt: Salt) -> u32 {
        let (covered, stored) = bytes.split_at(HEADER_CRC_AT);
        number(stored, 0).map_or(0, u32::from_le_bytes) ^ salt.crc(covered)
    }

    /// Checks the sections that belong to the header in `frame`, which starts with its bytes.
    /// Gives (metadata, payload without padding).
    ///
    /// # Errors
    /// The frame is cut short or a checksum does not match.
    pub fn sections<'a>(
        &self,
        frame: &'a [u8],
        salt: Salt,
    ) -> Result<(&'a [u8], &'a [u8]), DecodeError> {
        let short =
            DecodeError::Short { needed: self.frame_bytes(), available: frame.len() as u64 };
        let frame_bytes = usize::try_from(self.frame_bytes()).map_err(|_| short.clone())?;
        let frame = frame.get(..frame_bytes).ok_or_else(|| short.clone())?;
        let (header, body) = frame.split_at_checked(HEADER_BYTES).ok_or_else(|| short.clone())?;
        let (metadata, padded) =
            body.split_at_checked(self.metadata_bytes as usize).ok_or_else(|| short.clone())?;
        let stored = |at| number(header, at).map(u32::from_le_bytes);
        if stored(METADATA_CRC_AT) != Some(salt.crc(metadata)) {
            return Err(DecodeError::Checksum { part: "metadata" });
        }
        if stored(PAYLOAD_CRC_AT) != Some(salt.crc(padded)) {
            return Err(DecodeError::Checksum { part: "payload" });
        }
        let payload = padded.get(..self.payload_bytes as usize).ok_or(short)?;
        Ok((metadata, payload))
    }
}

/// What the frame after one with these header bytes and metadata must have as its `chain`.
#[must_use]
pub fn chain(header: &[u8], metadata: &[u8]) -> [u8; 32] {
    let flags = number(header, FLAGS_AT).map_or(0, u16::from_le_bytes);
    if let (true, Some(said)) = (flags & FLAG_MENDED != 0, metadata.last_chunk()) {
        return *said;
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(header.get(..CHAINED_BYTES).unwrap_or(header));
    hasher.update(metadata);
    *hasher.finalize().as_bytes()
}
