//! Which (source, id) the log has already taken, within a window of time and count.
//!
//! The table knows hashes, not identities: a hit is a *candidate*, and whoever asks compares it with
//! the stored event before calling anything a duplicate. Entries stand in a ring in the order of
//! their positions, so that the oldest can go first; the hash tables only point into it.
//!
//! Rule: an entry is never dropped before its time unless the count forces it, and then
//! [`Dedup::window`] says so.

mod ring;

use std::collections::VecDeque;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use hashbrown::HashTable;
use ring::{CHUNK_ENTRIES, Ring, low_bits};

use crate::event::Position;

/// Hash tables: growing one of them stops the writer for 1/64 of what growing a single one would.
const SHARDS: usize = 64;

/// Entries that a refill gathers before it enters them into the tables.
const REFILL_ENTRIES: usize = 1 << 20;

/// Entries within this much time share one mark, so expiry is exact to it.
const MARK_MS: u64 = 1000;

/// Most entries a table can hold: they are told apart by the low 32 bits of their serial number.
pub const DEDUP_COUNT_LIMIT: usize = 1 << 31;

/// Hash of an event's identity (source, id), salted with the log's id.
///
/// Truncated keyed BLAKE3: a publisher cannot prepare ids that collide, which would make each of
/// them cost a read. Only [`IdHasher`] makes them: index files hold the same hashes, and one made
/// in another way would find nothing after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdHash(pub(in crate::log) u64);

/// Makes the [`IdHash`]es of one log.
#[derive(Debug, Clone)]
pub struct IdHasher {
    key: [u8; 32],
}

impl IdHasher {
    /// The hasher of the log with this id.
    #[must_use]
    pub fn new(log_id: &[u8; 16]) -> Self {
        Self { key: blake3::derive_key("tidegate 2026 event identity", log_id) }
    }

    /// Hash of (source, id).
    #[must_use]
    pub fn of(&self, source: &str, id: &str) -> IdHash {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        // The length keeps ("ab", "c") and ("a", "bc") apart.
        hasher.update(&(source.len() as u64).to_le_bytes());
        hasher.update(source.as_bytes());
        hasher.update(id.as_bytes());
        let mut low = [0_u8; 8];
        low.copy_from_slice(hasher.finalize().as_bytes().split_at(8).0);
        IdHash(u64::from_le_bytes(low))
    }
}

/// One identity the log holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DedupEntry {
    /// Hash of its (source, id).
    pub hash: IdHash,
    /// Where the event is.
    pub position: Position,
    /// Log time at which it was taken, milliseconds since the Unix epoch.
    pub time_ms: u64,
}

/// How far back duplicates are found for sure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DedupWindow {
    /// Milliseconds: the configured window, or less where the count was the tighter bound.
    pub ms: u64,
    /// Identities held.
    pub count: usize,
}

/// The identities of recent events. One writer, any number of readers.
///
/// Memory: 12 bytes an entry in the ring and 5.7 to 11.4 in the tables, so 18 to 24 bytes an entry
/// (20.4 at 10 million).
#[derive(Debug)]
pub struct Dedup {
    window_ms: u64,
    count_max: usize,
    inner: RwLock<Inner>,
}

/// Entries from `serial` on were taken at `ms`, until the next mark.
#[derive(Debug, Clone, Copy)]
struct Mark {
    serial: u64,
    ms: u64,
}

/// See [`Dedup::glance`].
pub(in crate::log) struct Glance<'a>(RwLockReadGuard<'a, Inner>);

#[derive(Debug)]
struct Inner {
    ring: Ring,
    tables: Vec<HashTable<u32>>,
    marks: VecDeque<Mark>,
    count: usize,
    /// Time of the newest entry that the count pushed out.
    pushed_out_ms: Option<u64>,
}

/// Entries in the ring that are in no table yet, by the table they go into.
#[derive(Debug)]
struct Waiting {
    shards: Vec<Vec<(IdHash, u64)>>,
    count: usize,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Vec::new()).collect(), count: 0 }
    }
}

impl Waiting {
    fn push(&mut self, hash: IdHash, serial: u64) {
        if let Some(entries) = self.shards.get_mut(shard(hash)) {
            entries.push((hash, serial));
            self.count += 1;
        }
    }
}

impl Dedup {
    /// An empty table that keeps entries for `window_ms` milliseconds and at most `count_max` of
    /// them ([`DEDUP_COUNT_LIMIT`] where more is asked for).
    #[must_use]
    pub fn new(window_ms: u64, count_max: usize) -> Self {
        let inner = Inner {
            ring: Ring::default(),
            tables: (0..SHARDS).map(|_| HashTable::new()).collect(),
            marks: VecDeque::new(),
            count: 0,
            pushed_out_ms: None,
        };
        let count_max = count_max.min(DEDUP_COUNT_LIMIT);
        Self { window_ms, count_max, inner: RwLock::new(inner) }
    }

    /// Positions of the events whose identity may be the one with this hash, ascending. Allocates
    /// only where there is one.
    #[must_use]
    pub fn lookup(&self, hash: IdHash) -> Vec<Position> {
        self.read().lookup(hash)
    }

    /// A look at the table for whoever asks about many hashes, one right after the other. The writer waits
    /// while it is held.
    pub(in crate::log) fn glance(&self) -> Glance<'_> {
        Glance(self.read())
    }

    /// Takes one entry. Positions must ascend; a time before that of the entry before counts as
    /// that one.
    pub fn insert(&self, hash: IdHash, position: Position, time_ms: u64) {
        self.insert_all([DedupEntry { hash, position, time_ms }]);
    }

    /// Takes the entries of a group under one lock, oldest first; see [`Dedup::insert`].
    pub fn insert_all(&self, entries: impl IntoIterator<Item = DedupEntry>) {
        let mut inner = self.write();
        for entry in entries {
            inner.push(entry);
            inner.push_out_beyond(self.count_max);
        }
    }

    /// Takes many entries at once, oldest first, as when a log is opened: several times faster an
    /// entry than [`Dedup::insert_all`], at the price of some 20 MiB while it runs. `feed` gets a
    /// function that takes one entry; of more than `expected` the tables grow step by step. No
    /// reader sees any of them before the end.
    ///
    /// # Errors
    /// What `feed` fails with; what it fed until then is there.
    pub fn refill<E>(
        &self,
        expected: usize,
        feed: impl FnOnce(&mut dyn FnMut(DedupEntry)) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut inner = self.write();
        inner.reserve(expected.min(self.count_max));
        let mut waiting = Waiting::default();
        let fed = feed(&mut |entry| {
            waiting.push(entry.hash, inner.append(entry));
            if waiting.count >= REFILL_ENTRIES {
                inner.enter(&mut waiting);
                inner.push_out_beyond(self.count_max);
            }
        });
        inner.enter(&mut waiting);
        inner.push_out_beyond(self.count_max);
        fed
    }

    /// Drops what is older than the window at `now_ms`, exact to a second, never early.
    pub fn expire(&self, now_ms: u64) {
        // Most calls find nothing to do; those must not hold up the readers.
        if !self.read().expires(self.window_ms, now_ms) {
            return;
        }
        let mut inner = self.write();
        while inner.expires(self.window_ms, now_ms) {
            inner.expire_mark();
        }
        inner.shrink();
    }

    /// How far back duplicates are found for sure at `now_ms`.
    #[must_use]
    pub fn window(&self, now_ms: u64) -> DedupWindow {
        let inner = self.read();
        let reach = inner.pushed_out_ms.map_or(u64::MAX, |ms| now_ms.saturating_sub(ms));
        DedupWindow { ms: reach.min(self.window_ms), count: inner.count }
    }

    /// Every entry held, oldest first; times are exact to a second. Readers may go on meanwhile, the
    /// writer waits.
    pub fn for_each(&self, mut visit: impl FnMut(DedupEntry)) {
        let inner = self.read();
        let mut marks = inner.marks.iter().copied().peekable();
        let mut time_ms = 0;
        for serial in inner.ring.head..inner.ring.next {
            while let Some(mark) = marks.next_if(|mark| mark.serial <= serial) {
                time_ms = mark.ms;
            }
            if let Some((hash, position)) = inner.ring.get(serial) {
                visit(DedupEntry { hash, position, time_ms });
            }
        }
    }

    /// Milliseconds that entries are kept.
    #[must_use]
    pub const fn window_ms(&self) -> u64 {
        self.window_ms
    }

    /// Entries kept at most.
    #[must_use]
    pub const fn count_max(&self) -> usize {
        self.count_max
    }

    /// Entries held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.read().count
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory the entries take.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let inner = self.read();
        let tables: usize = inner.tables.iter().map(HashTable::allocation_size).sum();
        inner.ring.memory_bytes() + inner.marks.capacity() * size_of::<Mark>() + tables
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Glance<'_> {
    /// Whether [`Dedup::lookup`] may find anything. Up to one in eight of the hashes that it does not find
    /// may be. Reads one place of memory that depends on the hash alone, so that a processor reads those of
    /// several hashes at once.
    pub(in crate::log) fn may_hold(&self, hash: IdHash) -> bool {
        let table = self.0.tables.get(shard(hash));
        table.is_some_and(|table| table.iter_hash(hash.0).next().is_some())
    }
}

impl Inner {
    fn lookup(&self, hash: IdHash) -> Vec<Position> {
        let Some(table) = self.tables.get(shard(hash)) else { return Vec::new() };
        let mut positions: Vec<Position> = table
            .iter_hash(hash.0)
            .filter_map(|low| self.ring.get(self.ring.serial(*low)))
            .filter_map(|(found, position)| (found == hash).then_some(position))
            .collect();
        positions.sort_unstable();
        positions
    }

    /// Puts an entry into the ring, where no lookup finds it yet; gives its serial number.
    fn append(&mut self, entry: DedupEntry) -> u64 {
        let serial = self.ring.push(entry.hash, entry.position);
        let is_new_mark = self.marks.back().is_none_or(|last| entry.time_ms >= last.ms + MARK_MS);
        if is_new_mark {
            self.marks.push_back(Mark { serial, ms: entry.time_ms });
        }
        self.count += 1;
        serial
    }

    fn push(&mut self, entry: DedupEntry) {
        let serial = self.append(entry);
        let ring = &self.ring;
        if let Some(table) = self.tables.get_mut(shard(entry.hash)) {
            let rehash = |low: &u32| ring.get(ring.serial(*low)).map_or(0, |(hash, _)| hash.0);
            table.insert_unique(entry.hash.0, low_bits(serial), rehash);
        }
    }

    /// Makes room for so many entries in all.
    fn reserve(&mut self, entries: usize) {
        let ring = &self.ring;
        for table in &mut self.tables {
            let rehash = |low: &u32| ring.get(ring.serial(*low)).map_or(0, |(hash, _)| hash.0);
            // Hashes spread evenly, but for a little.
            let share = entries / SHARDS + entries / SHARDS / 32;
            table.reserve(share.saturating_sub(table.len()), rehash);
        }
    }

    /// Enters appended entries into the tables, one table after the other: each fits the cache, all
    /// together do not.
    fn enter(&mut self, waiting: &mut Waiting) {
        let ring = &self.ring;
        for (table, entries) in self.tables.iter_mut().zip(&mut waiting.shards) {
            let rehash = |low: &u32| ring.get(ring.serial(*low)).map_or(0, |(hash, _)| hash.0);
            for (hash, serial) in entries.drain(..) {
                table.insert_unique(hash.0, low_bits(serial), rehash);
            }
        }
        waiting.count = 0;
    }

    fn push_out_beyond(&mut self, count_max: usize) {
        while self.count > count_max {
            self.push_out();
        }
    }

    /// Drops the oldest entry because there are too many.
    fn push_out(&mut self) {
        let Some(mark) = self.marks.front().copied() else { return };
        // What is gone may be as young as the mark's last moment.
        self.pushed_out_ms = Some(mark.ms + MARK_MS - 1);
        self.drop_oldest();
        while self.marks.get(1).is_some_and(|next| next.serial <= self.ring.head) {
            self.marks.pop_front();
        }
        if self.count == 0 {
            self.marks.clear();
        }
    }

    fn expires(&self, window_ms: u64, now_ms: u64) -> bool {
        self.marks
            .front()
            .is_some_and(|mark| mark.ms.saturating_add(MARK_MS).saturating_add(window_ms) <= now_ms)
    }

    fn expire_mark(&mut self) {
        self.marks.pop_front();
        let end = self.marks.front().map_or(self.ring.next, |mark| mark.serial);
        while self.ring.head < end {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let serial = self.ring.head;
        if let Some((hash, _)) = self.ring.get(serial) {
            if let Some(table) = self.tables.get_mut(shard(hash))
                && let Ok(found) = table.find_entry(hash.0, |low| *low == low_bits(serial))
            {
                found.remove();
            }
            self.count -= 1;
        }
        self.ring.drop_head();
    }

    /// Gives back what a burst left behind.
    fn shrink(&mut self) {
        let ring = &self.ring;
        for table in &mut self.tables {
            if table.capacity() > CHUNK_ENTRIES && table.len() < table.capacity() / 8 {
                let rehash = |low: &u32| ring.get(ring.serial(*low)).map_or(0, |(hash, _)| hash.0);
                table.shrink_to(table.len() * 2, rehash);
            }
        }
    }
}

fn shard(hash: IdHash) -> usize {
    // Away from the low bits and the top seven, which the tables use themselves.
    low_bits(hash.0 >> 40) as usize % SHARDS
}

#[cfg(test)]
mod tests;
