//! The way to keyed state, which is closed while a checkpoint is read into it behind the start of a host.
//!
//! Rule: nobody gets by before all keys are there, but who puts them in: a key that is only late is
//! never taken for one that has no state. Once the gate is open it stays so.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crossbeam_utils::CachePadded;
use tokio::sync::Notify;

use super::cold::ColdError;
use super::values::{OwnerRef, SHARDS, Shard, Values, lock};

/// Whether all keys are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keys {
    All,
    NotYet,
    /// Who was to put them in has ended without.
    Never,
}

#[derive(Debug)]
pub(super) struct Gate {
    /// Whether all are there, without a lock.
    open: AtomicBool,
    keys: Mutex<Keys>,
    ended: Condvar,
    told: Notify,
}

impl Gate {
    fn new() -> Self {
        Self {
            open: AtomicBool::new(true),
            keys: Mutex::new(Keys::All),
            ended: Condvar::new(),
            told: Notify::new(),
        }
    }

    /// Closes it. For who has it alone: whoever came by before goes on.
    pub(super) fn close(&self) {
        self.open.store(false, Ordering::Release);
        *lock(&self.keys) = Keys::NotYet;
    }

    /// Lets everybody in. Says whether it was still waited for.
    pub(super) fn open(&self) -> bool {
        self.end(Keys::All)
    }

    /// Turns everybody away who waits, and who comes.
    pub(super) fn give_up(&self) -> bool {
        self.end(Keys::Never)
    }

    fn end(&self, now: Keys) -> bool {
        let mut keys = lock(&self.keys);
        if *keys != Keys::NotYet {
            return false;
        }
        *keys = now;
        self.open.store(now == Keys::All, Ordering::Release);
        drop(keys);
        self.ended.notify_all();
        self.told.notify_waiters();
        true
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Whether it is closed, and who was to open it has neither done so nor given up.
    pub(super) fn is_waited_for(&self) -> bool {
        *lock(&self.keys) == Keys::NotYet
    }

    /// What it has come to; none: nothing yet.
    fn now(&self) -> Option<Result<(), ColdError>> {
        if self.is_open() {
            return Some(Ok(()));
        }
        answer(*lock(&self.keys))
    }

    /// Blocks until it is open.
    fn wait(&self) -> Result<(), ColdError> {
        if self.is_open() {
            return Ok(());
        }
        let mut keys = lock(&self.keys);
        loop {
            if let Some(answer) = answer(*keys) {
                return answer;
            }
            keys = self.ended.wait(keys).unwrap_or_else(PoisonError::into_inner);
        }
    }

    async fn waited(&self) -> Result<(), ColdError> {
        if self.is_open() {
            return Ok(());
        }
        loop {
            let mut told = std::pin::pin!(self.told.notified());
            told.as_mut().enable();
            if let Some(answer) = self.now() {
                return answer;
            }
            told.await;
        }
    }
}

fn answer(keys: Keys) -> Option<Result<(), ColdError>> {
    match keys {
        Keys::All => Some(Ok(())),
        Keys::NotYet => None,
        Keys::Never => Some(Err(ColdError::Unfilled)),
    }
}

/// A part of the keys. Apart from the next one: its lock is not taken from who holds that.
pub(super) type Part = CachePadded<Mutex<Shard>>;

/// All keys in memory, behind their gate.
#[derive(Debug)]
pub(super) struct Shards {
    gate: Gate,
    shards: Box<[Part; SHARDS]>,
}

impl Shards {
    pub(super) fn new() -> Self {
        Self { gate: Gate::new(), shards: Box::new(std::array::from_fn(|_| Part::default())) }
    }

    pub(super) const fn gate(&self) -> &Gate {
        &self.gate
    }

    /// All of them, once all keys are there. Blocks.
    pub(super) fn all(&self) -> Result<&[Part], ColdError> {
        self.gate.wait()?;
        Ok(&*self.shards)
    }

    /// The one that a key belongs to, once all keys are there. Blocks.
    pub(super) fn of(&self, owner: OwnerRef<'_>) -> Result<MutexGuard<'_, Shard>, ColdError> {
        self.gate.wait()?;
        Ok(self.of_unfilled(owner))
    }

    /// For who fills them.
    pub(super) fn all_unfilled(&self) -> &[Part] {
        &*self.shards
    }

    /// For who fills them, and for who came by the gate before.
    pub(super) fn of_unfilled(&self, owner: OwnerRef<'_>) -> MutexGuard<'_, Shard> {
        // By what is the same in every run: a checkpoint, which is written shard by shard, fills one
        // after the other again, and each fits a cache.
        #[allow(clippy::cast_possible_truncation, reason = "the upper half fits")]
        let hash = ((owner.hash.0 >> 64) as u64).wrapping_add(owner.instance.0.into());
        #[allow(clippy::cast_possible_truncation, reason = "it is reduced to the length")]
        let index = (hash % SHARDS as u64) as usize;
        #[allow(clippy::indexing_slicing, reason = "the index was reduced to the length")]
        lock(&self.shards[index])
    }
}

impl Values {
    /// Whether all keys are there: always, but while a checkpoint is read in behind a start.
    #[must_use]
    pub fn is_filled(&self) -> bool {
        self.shards.gate.is_open()
    }

    /// Blocks until all keys are there. So does everything else that looks at keys: who must not be
    /// blocked awaits [`Values::filled`] before.
    ///
    /// # Errors
    /// They never will be: the host ends.
    pub fn until_filled(&self) -> Result<(), ColdError> {
        self.shards.gate.wait()
    }

    /// Waits until all keys are there. Cancel safe.
    ///
    /// # Errors
    /// They never will be: the host ends.
    pub async fn filled(&self) -> Result<(), ColdError> {
        self.shards.gate.waited().await
    }

    /// Ends filling, if it goes on: whoever waits for a key is told that there is none to be had.
    pub fn stop_filling(&self) {
        self.shards.gate.give_up();
    }
}
