//! The bytes of a checkpoint, as `CHECKPOINT.md` has them.
//!
//! Rule: reading never panics, and every length is checked against the bytes that are there.

use ecow::EcoString;
use uuid::Uuid;

use crate::effects::ends_at;
use crate::event::{CommitNumber, Generation, InstanceId, Key, Position};
use crate::limits::CHECKPOINT_CHUNK_BYTES;
use crate::log::codec::FRAME_BYTES_MAX;
use crate::state::ledger::At;
use crate::state::timers::{self, Due, Pending, SetAt};
use crate::state::values::{Owner, Value};

pub(super) const HEADER_BYTES: usize = 64;
pub(super) const CHUNK_HEADER_BYTES: usize = 12;
pub(super) const HASH_BYTES: usize = 32;
/// A value came in a frame, so it is smaller than one.
pub(super) const CHUNK_BYTES_MAX: usize = CHECKPOINT_CHUNK_BYTES + FRAME_BYTES_MAX;

const MAGIC: &[u8; 8] = b"TIDECKP\0";
const VERSION: u16 = 4;
/// What the CRC of the header covers.
const HEADER_CHECKED_BYTES: usize = 60;
/// How much of a chain the header has.
const CHAIN_BYTES: usize = 12;
const ROW_GOES_ON: u8 = 1;
const VALUE_ENDS: u8 = 1;
/// Bytes of a value beside its name and itself, at most.
const VALUE_HEADER_BYTES_MAX: usize = 17;
const NOT_A_KEY: FormatError = FormatError::Damaged("a key is not one");
/// Bytes of a value with its name, at least.
pub(super) const VALUE_BYTES_MIN: usize = 9;
/// Bytes of a timer.
pub(super) const TIMER_BYTES: usize = 60;

/// Why bytes are not a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum FormatError {
    #[error("{0}")]
    Damaged(&'static str),
    #[error("it has version {0}, this host reads version {VERSION}")]
    Version(u16),
}

/// What is in a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Ledger = 1,
    Values = 2,
    End = 3,
    Timers = 4,
}

/// The header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) log_id: Uuid,
    pub(super) at: At,
    pub(super) chain: ChainStart,
}

/// The beginning of the chain behind the frame that holds the last commit: tells one history of a log from
/// another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChainStart([u8; CHAIN_BYTES]);

/// The start of a chunk.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChunkHeader {
    pub(super) kind: Kind,
    pub(super) bytes: usize,
    crc: u32,
}

/// What a checkpoint holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) ledger_bytes: u64,
    pub(super) keys: u64,
    pub(super) values: u64,
    pub(super) value_bytes: u64,
    pub(super) timers: u64,
}

impl Header {
    pub(super) fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 6]);
        bytes.extend_from_slice(self.log_id.as_bytes());
        bytes.extend_from_slice(&self.at.commit.0.to_le_bytes());
        bytes.extend_from_slice(&self.at.time_ms.to_le_bytes());
        bytes.extend_from_slice(&self.chain.0);
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let (checked, crc) = bytes
            .get(..HEADER_BYTES)
            .and_then(|bytes| bytes.split_at_checked(HEADER_CHECKED_BYTES))
            .ok_or(FormatError::Damaged("it ends in its header"))?;
        if crc != crc32c::crc32c(checked).to_le_bytes() {
            return Err(FormatError::Damaged("the checksum of its header is wrong"));
        }
        let mut from = Cursor { rest: checked };
        if from.take(MAGIC.len())? != MAGIC {
            return Err(FormatError::Damaged("it does not start as a checkpoint does"));
        }
        let version = u16::from_le_bytes(from.array()?);
        if version != VERSION {
            return Err(FormatError::Version(version));
        }
        from.take(6)?;
        let log_id = Uuid::from_bytes(from.array()?);
        let commit = CommitNumber(u64::from_le_bytes(from.array()?));
        let at = At { commit, time_ms: u64::from_le_bytes(from.array()?) };
        Ok(Self { log_id, at, chain: ChainStart(from.array()?) })
    }

    /// What the CRCs of chunks go on from, so that a chunk of another checkpoint never passes.
    pub(super) fn salt(&self) -> u32 {
        let of_log = crc32c::crc32c(self.log_id.as_bytes());
        crc32c::crc32c_append(of_log, &self.at.commit.0.to_le_bytes())
    }
}

impl ChainStart {
    /// Of a chain.
    #[must_use]
    pub fn of(chain: &[u8; 32]) -> Self {
        let mut start = [0; CHAIN_BYTES];
        start.iter_mut().zip(chain).for_each(|(to, from)| *to = *from);
        Self(start)
    }

    /// Whether it may be of a chain. A host that did not note any left zeros.
    #[must_use]
    pub fn fits(self, chain: &[u8; 32]) -> bool {
        self == Self::default() || self == Self::of(chain)
    }
}

/// Fills in the header that `chunk` starts with; none where it is too long for one.
pub(super) fn seal_chunk(chunk: &mut [u8], kind: Kind, salt: u32) -> Option<()> {
    let (header, content) = chunk.split_at_mut_checked(CHUNK_HEADER_BYTES)?;
    let bytes = u32::try_from(content.len()).ok().filter(|_| content.len() <= CHUNK_BYTES_MAX)?;
    let (start, crc) = header.split_at_mut_checked(8)?;
    start.copy_from_slice(&(u64::from(bytes) << 32 | kind as u64).to_le_bytes());
    crc.copy_from_slice(&chunk_crc(salt, start, content).to_le_bytes());
    Some(())
}

fn chunk_crc(salt: u32, start: &[u8], content: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(salt, start), content)
}

impl ChunkHeader {
    /// Reads a header; `rest` are the bytes there are behind it.
    pub(super) fn decode(header: &[u8], rest: u64) -> Result<Self, FormatError> {
        let mut from = Cursor { rest: header };
        let start = u64::from_le_bytes(from.array()?);
        let kind = match start & 0xffff_ffff {
            1 => Kind::Ledger,
            2 => Kind::Values,
            3 => Kind::End,
            4 => Kind::Timers,
            _ => return Err(FormatError::Damaged("a chunk has an unknown kind")),
        };
        let bytes = start >> 32;
        if bytes > rest {
            return Err(FormatError::Damaged("it ends in a chunk"));
        }
        let bytes = usize::try_from(bytes).ok().filter(|bytes| *bytes <= CHUNK_BYTES_MAX);
        let bytes = bytes.ok_or(FormatError::Damaged("a chunk is too long"))?;
        Ok(Self { kind, bytes, crc: u32::from_le_bytes(from.array()?) })
    }

    pub(super) fn check(&self, salt: u32, content: &[u8]) -> Result<(), FormatError> {
        let start = ((self.bytes as u64) << 32 | self.kind as u64).to_le_bytes();
        if chunk_crc(salt, &start, content) == self.crc {
            return Ok(());
        }
        Err(FormatError::Damaged("the checksum of a chunk is wrong"))
    }
}

impl Counts {
    pub(super) fn put(self, out: &mut Vec<u8>) {
        for count in [self.ledger_bytes, self.keys, self.values, self.value_bytes, self.timers] {
            out.extend_from_slice(&count.to_le_bytes());
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut from = Cursor { rest: bytes };
        let mut next = || from.array().map(u64::from_le_bytes);
        let (ledger_bytes, keys, values) = (next()?, next()?, next()?);
        let (value_bytes, timers) = (next()?, next()?);
        if !from.rest.is_empty() {
            return Err(FormatError::Damaged("its last chunk is too long"));
        }
        Ok(Self { ledger_bytes, keys, values, value_bytes, timers })
    }
}

/// How many of `values` a row of at most `room` bytes takes; at least one.
pub(super) fn fitting(values: &[(EcoString, Value)], mut room: usize) -> usize {
    let fitting = values.iter().take_while(|(name, value)| {
        let bytes = VALUE_HEADER_BYTES_MAX + name.len() + value.bytes.len();
        let fits = bytes <= room;
        room = room.saturating_sub(bytes);
        fits
    });
    fitting.count().max(1)
}

/// Appends a row. Lengths that do not fit their field make a chunk that [`seal_chunk`] refuses.
pub(super) fn put_row(out: &mut Vec<u8>, row: &Row<'_>) {
    let key = row.owner.key.as_str();
    out.push(if row.goes_on { ROW_GOES_ON } else { 0 });
    out.extend_from_slice(&row.owner.instance.0.to_le_bytes());
    out.extend_from_slice(&row.owner.generation.0.to_le_bytes());
    // A key has at most 1 KiB.
    out.extend_from_slice(&u16::try_from(key.len()).unwrap_or(u16::MAX).to_le_bytes());
    put_u32(out, row.values.len());
    out.extend_from_slice(key.as_bytes());
    for (name, value) in row.values {
        out.push(if value.expires_ms.is_some() { VALUE_ENDS } else { 0 });
        put_u32(out, name.len());
        put_u32(out, value.bytes.len());
        if let Some(expires_ms) = value.expires_ms {
            out.extend_from_slice(&expires_ms.get().to_le_bytes());
        }
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(&value.bytes);
    }
}

/// Appends a timer: [`TIMER_BYTES`].
pub(super) fn put_timer(out: &mut Vec<u8>, row: &timers::Row) {
    let (instance, generation) = row.holder;
    let Pending { due, fired } = row.pending;
    out.extend_from_slice(&instance.0.to_le_bytes());
    out.extend_from_slice(&generation.0.to_le_bytes());
    for part in row.id.0 {
        out.extend_from_slice(&part.to_le_bytes());
    }
    out.extend_from_slice(&due.due_ms.to_le_bytes());
    out.extend_from_slice(&due.set.commit.0.to_le_bytes());
    out.extend_from_slice(&due.set.index.to_le_bytes());
    out.extend_from_slice(&fired.unwrap_or_default().0.to_le_bytes());
}

fn put_u32(out: &mut Vec<u8>, value: usize) {
    out.extend_from_slice(&u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes());
}

/// Values of a key that stand together.
#[derive(Debug)]
pub(super) struct Row<'a> {
    pub(super) owner: &'a Owner,
    pub(super) values: &'a [(EcoString, Value)],
    pub(super) goes_on: bool,
}

/// The start of a row being read: its values are next in the cursor.
#[derive(Debug)]
pub(super) struct RowHeader<'a> {
    pub(super) instance: InstanceId,
    pub(super) generation: Generation,
    /// Any text.
    pub(super) key: &'a str,
    pub(super) values: u32,
    pub(super) goes_on: bool,
}

/// A value being read, with its name.
#[derive(Debug)]
pub(super) struct NamedValue<'a> {
    pub(super) name: &'a str,
    pub(super) bytes: &'a [u8],
    pub(super) expires_ms: Option<u64>,
}

impl RowHeader<'_> {
    /// Whether it is a row of that key.
    pub(super) fn is_of(&self, owner: &Owner) -> bool {
        self.instance == owner.instance
            && self.generation == owner.generation
            && self.key == owner.key.as_str()
    }

    pub(super) fn owner(&self) -> Result<Owner, FormatError> {
        let RowHeader { instance, generation, .. } = *self;
        let key = Key::new(self.key).map_err(|_invalid| NOT_A_KEY)?;
        Ok(Owner { instance, generation, key })
    }

    pub(super) fn check_key(&self) -> Result<(), FormatError> {
        Key::check(self.key).map_err(|_invalid| NOT_A_KEY)
    }
}

impl NamedValue<'_> {
    /// A copy: a slice would keep the whole chunk in memory as long as one value of it lives.
    pub(super) fn value(&self) -> Value {
        Value { bytes: self.bytes.into(), expires_ms: self.expires_ms.map(ends_at) }
    }
}

/// Bytes being read from front to end.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    pub(super) rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], FormatError> {
        let (head, tail) = self
            .rest
            .split_at_checked(len)
            .ok_or(FormatError::Damaged("a length goes beyond its chunk"))?;
        self.rest = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32, FormatError> {
        self.array().map(u32::from_le_bytes)
    }

    fn text(&mut self, len: usize) -> Result<&'a str, FormatError> {
        let bytes = self.take(len)?;
        std::str::from_utf8(bytes).map_err(|_| FormatError::Damaged("a text is not UTF-8"))
    }

    /// A byte of which only the lowest bit may be set.
    fn flag(&mut self) -> Result<bool, FormatError> {
        match self.array()? {
            [flags @ 0..=1] => Ok(flags == 1),
            _ => Err(FormatError::Damaged("an unknown flag is set")),
        }
    }

    pub(super) fn row(&mut self) -> Result<RowHeader<'a>, FormatError> {
        let goes_on = self.flag()?;
        let (instance, generation) = (InstanceId(self.u32()?), Generation(self.u32()?));
        let key_bytes = usize::from(u16::from_le_bytes(self.array()?));
        let values = self.u32()?;
        Ok(RowHeader { instance, generation, key: self.text(key_bytes)?, values, goes_on })
    }

    pub(super) fn timer(&mut self) -> Result<timers::Row, FormatError> {
        let holder = (InstanceId(self.u32()?), Generation(self.u32()?));
        let id = timers::Id([self.u64()?, self.u64()?, self.u64()?]);
        let due_ms = self.u64()?;
        let set = SetAt { commit: CommitNumber(self.u64()?), index: self.u32()? };
        let fired = Some(Position(self.u64()?)).filter(|fired| fired.0 > 0);
        Ok(timers::Row { holder, id, pending: Pending { due: Due { due_ms, set }, fired } })
    }

    fn u64(&mut self) -> Result<u64, FormatError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A name and its value.
    pub(super) fn value(&mut self) -> Result<NamedValue<'a>, FormatError> {
        let ends = self.flag()?;
        let (name_bytes, value_bytes) = (self.u32()? as usize, self.u32()? as usize);
        let expires_ms = if ends { Some(u64::from_le_bytes(self.array()?)) } else { None };
        let name = self.text(name_bytes)?;
        Ok(NamedValue { name, bytes: self.take(value_bytes)?, expires_ms })
    }
}
