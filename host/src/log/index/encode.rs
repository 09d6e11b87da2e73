//! Turns a builder into the bytes of an index file.

use super::builder::SegmentIndexBuilder;
use super::groups::Sorted;
use super::page::PageSalt;
use super::row::{EventRow, GroupRow, MarkRow, Row, TypeRow};
use super::{IndexError, SegmentBase, SegmentSeal, SegmentSpan, filter};
use crate::event::{CommitNumber, Position};

pub(super) const MAGIC: [u8; 8] = *b"TIDEIDX\0";
pub(super) const VERSION: u16 = 1;
/// Bytes of the header: the fixed part and one (offset, length) for each section.
pub(super) const HEADER_BYTES: usize = 136 + SECTIONS * 16;
pub(super) const SECTIONS: usize = 12;
/// Groups of one prefix of the hash, on average at most: what a lookup reads.
const GROUPS_PER_PREFIX: usize = 64;

/// The sections of an index file, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    /// Blocks of the filter over the hashes of both group tables.
    Filter = 0,
    /// For each prefix of the hash, and once more, the number of its first group in `KeyGroups`.
    KeyPrefixes = 1,
    /// One [`GroupRow`] a key, ascending by hash, and one past the end.
    KeyGroups = 2,
    /// One [`EventRow`] a keyed event, by key, then by position.
    KeyEvents = 3,
    /// As `KeyPrefixes`, of `CompletionGroups`.
    CompletionPrefixes = 4,
    /// One [`GroupRow`] a plugin and key, ascending by hash, and one past the end.
    CompletionGroups = 5,
    /// One [`super::row::CompletionRow`] each, by plugin and key, then by commit.
    Completions = 6,
    /// One [`TypeRow`] a type, ascending by name.
    Types = 7,
    /// Names of the types, one after the other.
    TypeNames = 8,
    /// Positions of all events, by type, then ascending.
    TypePositions = 9,
    /// One [`super::row::IdRow`] an identity, ascending by position.
    Ids = 10,
    /// One [`MarkRow`] a marked frame, ascending.
    Marks = 11,
}

/// The salt of the pages of a segment's index.
pub(super) fn salt(log_id: &[u8; 16], segment: u32) -> PageSalt {
    PageSalt::new(b"tidegate index", log_id, segment.into())
}

/// The header: what it spans, and where its sections are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) span: SegmentSpan,
    /// Offset and length of each section, in bytes of content.
    pub(super) sections: [(u64, u64); SECTIONS],
}

impl Header {
    fn write(&self) -> Vec<u8> {
        let SegmentSpan { base, last_commit, last_position, last_ms, events, seal } = self.span;
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 6]);
        out.extend_from_slice(&base.log_id);
        let numbers = [
            base.segment.into(),
            base.first_commit.0,
            last_commit.0,
            base.first_position.0,
            last_position.0,
            base.first_ms,
            last_ms,
            events,
            seal.bytes,
        ];
        numbers.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
        out.extend_from_slice(&seal.chain);
        for (offset, len) in self.sections {
            out.extend_from_slice(&offset.to_le_bytes());
            out.extend_from_slice(&len.to_le_bytes());
        }
        out
    }

    /// Reads a header; none: it is not one that this version wrote.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<8>()?;
        let (version, rest) = rest.split_first_chunk::<8>()?;
        let (log_id, rest) = rest.split_first_chunk::<16>()?;
        if *magic != MAGIC || version.first_chunk() != Some(&VERSION.to_le_bytes()) {
            return None;
        }
        let (numbers, rest) = rest.split_at_checked(9 * 8)?;
        let mut numbers = numbers.as_chunks::<8>().0.iter().map(|n| u64::from_le_bytes(*n));
        let segment = u32::try_from(numbers.next()?).ok()?;
        let first_commit = CommitNumber(numbers.next()?);
        let last_commit = CommitNumber(numbers.next()?);
        let first_position = Position(numbers.next()?);
        let last_position = Position(numbers.next()?);
        let (first_ms, last_ms) = (numbers.next()?, numbers.next()?);
        let (events, bytes) = (numbers.next()?, numbers.next()?);
        let (chain, rest) = rest.split_first_chunk::<32>()?;
        let mut sections = [(0, 0); SECTIONS];
        let rows = rest.as_chunks::<16>().0;
        for (section, row) in sections.iter_mut().zip(rows.get(..SECTIONS)?) {
            let (offset, len) = row.split_first_chunk::<8>()?;
            let len = len.first_chunk::<8>()?;
            *section = (u64::from_le_bytes(*offset), u64::from_le_bytes(*len));
        }
        let base = SegmentBase { log_id: *log_id, segment, first_commit, first_position, first_ms };
        let seal = SegmentSeal { bytes, chain: *chain };
        let span = SegmentSpan { base, last_commit, last_position, last_ms, events, seal };
        Some(Self { span, sections })
    }
}

struct Content {
    bytes: Vec<u8>,
    sections: [(u64, u64); SECTIONS],
    segment: u32,
}

pub(super) fn encode(
    builder: &SegmentIndexBuilder,
    seal: SegmentSeal,
) -> Result<Vec<u8>, IndexError> {
    let base = builder.base;
    let mut content = Content {
        bytes: vec![0; HEADER_BYTES],
        sections: [(0, 0); SECTIONS],
        segment: base.segment,
    };
    let keys = builder.keys.sorted();
    let completions = builder.completion_groups.sorted();
    let hashes: Vec<u128> = keys.iter().chain(completions.iter()).map(|(hash, _)| hash).collect();
    content.section(Section::Filter, |out| out.extend_from_slice(&filter::build(&hashes)));

    let order = type_order(builder);
    content.groups(Section::KeyPrefixes, Section::KeyGroups, &keys, |members| {
        builder.head(members).copied()
    })?;
    content.section(Section::KeyEvents, |out| {
        let members = keys.members().iter();
        for row in members.filter_map(|number| builder.events.get(*number as usize)) {
            let kind = order.numbers.get(row.kind as usize).copied().unwrap_or_default();
            EventRow { kind, ..*row }.write(out);
        }
    });
    let (prefixes, groups) = (Section::CompletionPrefixes, Section::CompletionGroups);
    content.groups(prefixes, groups, &completions, |_| None)?;
    content.section(Section::Completions, |out| {
        let members = completions.members().iter();
        let rows = members.filter_map(|number| builder.completions.get(*number as usize));
        rows.for_each(|row| row.write(out));
    });
    content.types(builder, &order)?;
    content.section(Section::Ids, |out| builder.ids.iter().for_each(|row| row.write(out)));
    content.marks(builder)?;

    let header =
        Header { span: SegmentSpan { seal, ..builder.span() }, sections: content.sections };
    let mut bytes = content.bytes;
    bytes.splice(..HEADER_BYTES, header.write());
    Ok(salt(&base.log_id, base.segment).seal(bytes))
}

/// Types in the order of names, and for each type of the builder its number in that order.
struct TypeOrder {
    sorted: Vec<usize>,
    numbers: Vec<u32>,
}

fn type_order(builder: &SegmentIndexBuilder) -> TypeOrder {
    let mut sorted: Vec<usize> = (0..builder.types.len()).collect();
    sorted.sort_unstable_by_key(|number| builder.types.get(*number).map(|known| &known.kind));
    let mut numbers = vec![0; sorted.len()];
    for (new, old) in (0_u32..).zip(&sorted) {
        if let Some(number) = numbers.get_mut(*old) {
            *number = new;
        }
    }
    TypeOrder { sorted, numbers }
}

impl Content {
    fn section(&mut self, section: Section, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        write(&mut self.bytes);
        if let Some(place) = self.sections.get_mut(section as usize) {
            *place = (start as u64, (self.bytes.len() - start) as u64);
        }
    }

    fn number(&self, count: usize) -> Result<u32, IndexError> {
        let segment = self.segment;
        u32::try_from(count).map_err(|_| IndexError::OutOfRange { segment, what: "count" })
    }

    fn groups(
        &mut self,
        prefixes: Section,
        rows: Section,
        groups: &Sorted,
        head: impl Fn(&[u32]) -> Option<EventRow>,
    ) -> Result<(), IndexError> {
        self.number(groups.len())?;
        let bits = prefix_bits(groups.len());
        self.section(prefixes, |out| {
            for prefix in 0..=(1_u64 << bits) {
                let first = groups.count_before(|hash| prefix_of(hash, bits) < prefix);
                u32::try_from(first).unwrap_or(u32::MAX).write(out);
            }
        });
        let end = self.number(groups.members().len())?;
        self.section(rows, |out| {
            let mut first = 0_u32;
            for (hash, members) in groups.iter() {
                let head = head(members);
                GroupRow {
                    hash,
                    first,
                    head_position: head.map_or(0, |row| row.position),
                    head_sequence: head.map_or(0, |row| row.sequence),
                }
                .write(out);
                first += u32::try_from(members.len()).unwrap_or(u32::MAX);
            }
            let past = GroupRow { hash: u128::MAX, first: end, head_position: 0, head_sequence: 0 };
            past.write(out);
        });
        Ok(())
    }

    fn types(
        &mut self,
        builder: &SegmentIndexBuilder,
        order: &TypeOrder,
    ) -> Result<(), IndexError> {
        let types = || order.sorted.iter().filter_map(|number| builder.types.get(*number));
        let position = |number: Option<&u32>| {
            let row = number.and_then(|number| builder.events.get(*number as usize));
            row.map_or(0, |row| row.position)
        };
        let mut rows = Vec::with_capacity(types().count());
        let (mut name_offset, mut first) = (0, 0);
        for known in types() {
            let members = known.members.len();
            rows.push(TypeRow {
                name_offset: self.number(name_offset)?,
                name_bytes: self.number(known.kind.len())?,
                first: self.number(first)?,
                count: self.number(members - known.private_count as usize)?,
                private_count: known.private_count,
                first_position: position(known.members.first()),
                last_position: position(known.members.last()),
                last_ms: known.last_ms,
            });
            name_offset += known.kind.len();
            first += members;
        }
        self.section(Section::Types, |out| rows.iter().for_each(|row| row.write(out)));
        self.section(Section::TypeNames, |out| {
            types().for_each(|known| out.extend_from_slice(known.kind.as_bytes()));
        });
        self.section(Section::TypePositions, |out| {
            let members = types().flat_map(|known| &known.members);
            members.for_each(|number| position(Some(number)).write(out));
        });
        Ok(())
    }

    fn marks(&mut self, builder: &SegmentIndexBuilder) -> Result<(), IndexError> {
        let (base, segment) = (builder.base, self.segment);
        let out_of_range = |what| IndexError::OutOfRange { segment, what };
        let mut rows = Vec::with_capacity(builder.marks.len());
        for mark in &builder.marks {
            let commit = base.commit_above(mark.first_commit);
            let position = base.position_above(mark.first_position);
            rows.push(MarkRow {
                offset: mark.offset,
                time_ms: mark.time_ms,
                commit: commit.ok_or_else(|| out_of_range("commit"))?,
                position: position.ok_or_else(|| out_of_range("position"))?,
            });
        }
        self.section(Section::Marks, |out| rows.iter().for_each(|row| row.write(out)));
        Ok(())
    }
}

/// Bits of the hash that tell prefixes apart, for so many groups.
fn prefix_bits(groups: usize) -> u32 {
    groups.div_ceil(GROUPS_PER_PREFIX).max(1).next_power_of_two().trailing_zeros()
}

/// The prefix of a hash.
pub(super) fn prefix_of(hash: u128, bits: u32) -> u64 {
    let prefix = hash.checked_shr(128 - bits).unwrap_or(0);
    u64::try_from(prefix).unwrap_or(u64::MAX)
}
