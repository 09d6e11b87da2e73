//! Keeps keyed state within its memory: a thread that moves keys to the cold store while there is
//! too much of it, and a gate at which deliveries wait while there is far too much.
//!
//! Rule: eviction is a convenience. Where the cold store fails it ends, with one message, and all
//! that is in memory stays there. Where the disk has no room it waits, and so do deliveries in the end.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::Notify;

use super::cold::{Cold, ColdError};
use super::entry::ByOwner;
use super::values::{KEY_OVERHEAD_BYTES, Owner, SHARDS, Shard, Values, lock};
use crate::limits::COLD_FREE_BYTES_MIN;

#[cfg(test)]
mod tests;

/// Keys moved out at a time: a shard is locked meanwhile.
const BATCH_MAX: usize = 32;
/// Keys looked out in one pass over a shard.
const IDLE_MAX: usize = 1024;
/// How long to wait where memory is over its bound and every key is in use: nobody says when a
/// delivery lets go of one.
const IN_USE_PAUSE: Duration = Duration::from_millis(50);

/// How often it is looked whether the disk has room again.
const NO_ROOM_PAUSE: Duration = Duration::from_secs(1);

/// How much keyed state is in memory, and who waits for that to change.
#[derive(Debug)]
pub(super) struct Budget {
    bytes: AtomicU64,
    /// Above: keys move out.
    max: u64,
    /// Down to here, so that the thread is not woken for every key.
    goal: u64,
    /// Above: deliveries wait.
    full: u64,
    given_up: AtomicBool,
    /// The disk has no room for what is too much.
    lacks_room: AtomicBool,
    room: Notify,
    sleep: Mutex<()>,
    wake: Condvar,
}

impl Budget {
    pub(super) fn new(max: u64) -> Self {
        Self {
            bytes: AtomicU64::new(0),
            max,
            goal: max - max / 16,
            full: max.saturating_add(max / 4),
            given_up: AtomicBool::new(false),
            lacks_room: AtomicBool::new(false),
            room: Notify::new(),
            sleep: Mutex::default(),
            wake: Condvar::new(),
        }
    }

    /// Keys that memory has room for, at most.
    pub(super) fn keys_max(&self) -> usize {
        usize::try_from(self.max / KEY_OVERHEAD_BYTES as u64).unwrap_or(usize::MAX)
    }

    pub(super) fn grow(&self, bytes: usize) {
        // A value that is only replaced, as most are: the count is everybody's.
        if bytes == 0 {
            return;
        }
        let before = self.bytes.fetch_add(bytes as u64, Ordering::SeqCst);
        if before <= self.max && before + bytes as u64 > self.max {
            self.wake();
        }
    }

    pub(super) fn shrink(&self, bytes: usize) {
        let before = self.bytes.fetch_sub(bytes as u64, Ordering::SeqCst);
        if before > self.full && before - bytes as u64 <= self.full {
            self.room.notify_waiters();
        }
    }

    /// Ends eviction for good, and says why, once.
    pub(super) fn give_up(&self, error: &ColdError) {
        if !self.given_up.swap(true, Ordering::SeqCst) {
            tracing::error!(%error, "keyed state stays in memory from now on, whatever it takes");
            self.room.notify_waiters();
        }
    }

    fn exceeds(&self, bound: u64) -> bool {
        self.bytes.load(Ordering::SeqCst) > bound && !self.given_up.load(Ordering::SeqCst)
    }

    fn wake(&self) {
        // Who looked before this lock was taken is asleep once it is had.
        drop(lock(&self.sleep));
        self.wake.notify_all();
    }

    /// Sleeps until memory is over its bound. False: to stop.
    fn wait_until_over(&self, stop: &AtomicBool) -> bool {
        let mut asleep = lock(&self.sleep);
        while !stop.load(Ordering::SeqCst) {
            if self.exceeds(self.max) {
                return true;
            }
            asleep = self.wake.wait(asleep).unwrap_or_else(PoisonError::into_inner);
        }
        false
    }

    fn pause(&self, stop: &AtomicBool, pause: Duration) {
        let asleep = lock(&self.sleep);
        if !stop.load(Ordering::SeqCst) {
            drop(self.wake.wait_timeout(asleep, pause));
        }
    }

    /// Notes whether the disk has room, and tells where that changes.
    fn note_room(&self, lacks_room: bool) {
        if self.lacks_room.swap(lacks_room, Ordering::SeqCst) != lacks_room {
            if lacks_room {
                tracing::error!(
                    free_bytes_min = COLD_FREE_BYTES_MIN,
                    "the disk has no room for keyed state that memory has no room for: deliveries wait"
                );
            } else {
                tracing::info!("the disk has room again: keyed state moves out of memory");
            }
        }
    }
}

impl Values {
    /// Whether memory is over its bound, and eviction can change that.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.budget.exceeds(self.budget.max)
    }

    /// Whether memory is over its bound and the disk has no room for what is too much.
    #[must_use]
    pub fn lacks_room(&self) -> bool {
        self.is_over() && self.budget.lacks_room.load(Ordering::SeqCst)
    }

    /// Bytes of durable values in memory, about.
    #[cfg(test)]
    pub(super) fn hot_bytes(&self) -> u64 {
        self.budget.bytes.load(Ordering::Relaxed)
    }

    /// Whether [`Self::room`] waits for nothing.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.budget.exceeds(self.budget.full)
    }

    /// Waits while memory is more than a quarter over its bound. To be asked before a view is made:
    /// a key that is in hand cannot move out. Needs a running [`Evictor`]. Cancel safe.
    pub async fn room(&self) {
        while self.budget.exceeds(self.budget.full) {
            let mut room = std::pin::pin!(self.budget.room.notified());
            room.as_mut().enable();
            if self.budget.exceeds(self.budget.full) {
                room.await;
            }
        }
    }

    /// Looks at one shard: moves out keys that were not touched since it was looked at last, while
    /// there is too much in memory, and marks the others. Returns how many were moved out. Waits
    /// for the end of a checkpoint that is being written.
    ///
    /// # Errors
    /// The cold store cannot be written: what was not moved stays in memory, and no later call
    /// moves anything.
    pub fn evict_some(&self) -> Result<usize, ColdError> {
        let Some(cold) = &self.cold else { return Ok(0) };
        let shards = self.shards.all()?;
        let _sweep = lock(&self.sweep);
        let at = self.next_sweep.fetch_add(1, Ordering::Relaxed) % shards.len();
        let Some(shard) = shards.get(at) else { return Ok(0) };
        let mut moved = 0;
        // The lock is let go of before the batches take it again.
        let idle = idle(&mut lock(shard));
        for keys in idle.chunks(BATCH_MAX) {
            if !self.budget.exceeds(self.budget.goal) {
                break;
            }
            let batch = self.move_out(cold, &mut lock(shard), keys);
            moved += batch.inspect_err(|error| self.budget.give_up(error))?;
        }
        Ok(moved)
    }

    fn move_out(&self, cold: &Cold, shard: &mut Shard, keys: &[Owner]) -> Result<usize, ColdError> {
        let still_idle: Vec<_> = keys
            .iter()
            .filter_map(|owner| {
                let ByOwner(entry) = shard.entries.get(&owner.as_ref())?;
                let in_hand = Arc::strong_count(entry) > 1;
                let layers = entry.lock();
                let idle = !in_hand && !entry.is_touched() && layers.is_movable();
                idle.then(|| (owner.clone(), layers.durable.clone()))
            })
            .collect();
        if still_idle.is_empty() {
            return Ok(0);
        }
        cold.put(&still_idle)?;
        for (owner, _) in &still_idle {
            if let Some(ByOwner(entry)) = shard.entries.take(&owner.as_ref()) {
                self.leaves(&mut entry.lock());
            }
        }
        Ok(still_idle.len())
    }
}

/// Some keys that were not touched since this was last asked; takes all marks away.
fn idle(shard: &mut Shard) -> Vec<Owner> {
    let mut idle = Vec::new();
    for ByOwner(entry) in &shard.entries {
        // More than one reference: a delivery has it in hand.
        if Arc::strong_count(entry) > 1 {
            continue;
        }
        if !entry.untouch() && entry.lock().is_movable() && idle.len() < IDLE_MAX {
            idle.push(entry.to_owner());
        }
    }
    idle
}

/// The thread that moves keys out, as long as this lives. It sleeps while memory is within its
/// bound. Dropping it waits for the end of the batch at hand, or of a checkpoint.
#[derive(Debug)]
pub struct Evictor {
    values: Arc<Values>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Evictor {
    /// Starts it for the values of `bus`.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(values: Arc<Values>, bus: &str) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (of_thread, stop_of_thread) = (Arc::clone(&values), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name(format!("evict-{bus}"))
            .spawn(move || run(&of_thread, &stop_of_thread))?;
        Ok(Self { values, stop, thread: Some(thread) })
    }
}

impl Drop for Evictor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.values.budget.wake();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that moves keyed state out of memory panicked");
        }
    }
}

fn run(values: &Values, stop: &AtomicBool) {
    let budget = &values.budget;
    // Who fills it puts what is too much into the cold store as it comes.
    if values.until_filled().is_err() {
        return;
    }
    let mut fruitless = 0;
    while budget.wait_until_over(stop) {
        while budget.exceeds(budget.goal) && !stop.load(Ordering::SeqCst) {
            let lacks_room = values.cold.as_ref().is_some_and(Cold::lacks_room);
            budget.note_room(lacks_room);
            if lacks_room {
                budget.pause(stop, NO_ROOM_PAUSE);
                continue;
            }
            // An error was logged, and nothing exceeds anything any more.
            let moved = values.evict_some().unwrap_or(0);
            fruitless = if moved == 0 { fruitless + 1 } else { 0 };
            // The first round only takes the marks away.
            if fruitless > 2 * SHARDS {
                fruitless = 0;
                budget.pause(stop, IN_USE_PAUSE);
            }
        }
    }
}
