//! The two lanes in front of the writer: what waits to be written, and who may wait.
//!
//! Effects go first and never wait behind ingest; ingest keeps at least a quarter of each group.
//! Room in the effects lane is reserved before a guest runs, in turn among plugins, so that a
//! finished delivery always has its place.
//!
//! Rule: the one lock here is held for pushing, taking and counting, and never across I/O.

mod group;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;
use tokio::sync::oneshot;

use super::assign::Batch;
use super::codec::Encoded;
use super::error::{AppendError, LogFailure};
use super::permits::Waiters;
use super::ticket::{Committed, IngestReply};
use crate::event::InstanceId;
use crate::limits::{EFFECTS_LANE_BYTES_MAX, GROUP_BYTES_MAX, INGEST_LANE_BYTES_MAX};

/// A commit of the effects lane.
#[derive(Debug)]
pub(super) struct EffectsEntry {
    pub(super) commit: Encoded,
    /// Absent where nobody wants to know.
    pub(super) reply: Option<oneshot::Sender<Result<Committed, AppendError>>>,
    /// Given back once the commit is durable.
    pub(super) permit: Option<EffectsPermit>,
}

/// A batch of the ingest lane.
#[derive(Debug)]
pub(super) struct IngestEntry {
    pub(super) batch: Batch,
    /// When it was published.
    pub(super) begun: Instant,
    pub(super) reply: oneshot::Sender<IngestReply>,
}

/// What one group is made of.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) effects: Vec<EffectsEntry>,
    pub(super) ingest: Vec<IngestEntry>,
    /// Bytes of both together.
    pub(super) bytes: usize,
}

/// What is kept of the room that was reserved for commits, once they are in the lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// So many bytes of what is left: a delivery is under way that may take them.
    AtMost(usize),
    /// So many bytes for what comes next, where nobody waits for them; what is missing is reserved where
    /// it can be had at once.
    Refilled(usize),
}

/// Whether the lanes take more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Status {
    /// They do.
    Open,
    /// They are being drained: the host stops.
    Closing,
    /// The log failed.
    Failed(LogFailure),
}

#[derive(Debug)]
struct State {
    status: Status,
    effects: VecDeque<EffectsEntry>,
    effects_bytes: usize,
    ingest: VecDeque<IngestEntry>,
    ingest_bytes: usize,
    /// The last group had no room for the ingest commit that is first in line.
    ingest_skipped: bool,
    reserved: usize,
    waiters: Waiters,
    writer_waits: bool,
}

/// Both lanes.
#[derive(Debug)]
pub(super) struct Lanes {
    state: Mutex<State>,
    work: Condvar,
    /// They are not open any more. Asked before each publish, by many at once.
    refuses: CachePadded<AtomicBool>,
}

/// Room in the effects lane, given back when dropped or when its commit is durable.
#[derive(Debug)]
pub struct EffectsPermit {
    lanes: Arc<Lanes>,
    bytes: usize,
}

impl Drop for EffectsPermit {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.lanes.release(self.bytes);
        }
    }
}

impl EffectsPermit {
    pub(super) fn new(lanes: &Arc<Lanes>, bytes: usize) -> Self {
        Self { lanes: lanes.clone(), bytes }
    }

    /// Bytes reserved.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes the room out of it, for whoever gives back that of many at once.
    pub(super) fn take_bytes(&mut self) -> usize {
        std::mem::take(&mut self.bytes)
    }
}

impl Taken {
    /// Bytes of (metadata, payload).
    pub(super) fn section_bytes(&self) -> (usize, usize) {
        let effects = self.effects.iter().map(|entry| &entry.commit);
        let commits = effects.chain(self.ingest.iter().map(|entry| &entry.batch.commit));
        commits.fold((0, 0), |(metadata, payload), commit| {
            (metadata + commit.metadata.len(), payload + commit.payload.len())
        })
    }
}

impl EffectsEntry {
    /// Says how it went, where somebody wants to know.
    pub(super) fn answer(self, answer: Result<Committed, AppendError>) {
        if let Some(reply) = self.reply {
            let _ = reply.send(answer);
        }
    }
}

impl State {
    fn refusal(&self) -> Option<AppendError> {
        match &self.status {
            Status::Open => None,
            Status::Closing => Some(AppendError::ShuttingDown),
            Status::Failed(failure) => Some(AppendError::ReadOnly(failure.clone())),
        }
    }
}

impl Lanes {
    pub(super) fn new() -> Arc<Self> {
        let state = State {
            status: Status::Open,
            effects: VecDeque::new(),
            effects_bytes: 0,
            ingest: VecDeque::new(),
            ingest_bytes: 0,
            ingest_skipped: false,
            reserved: 0,
            waiters: Waiters::default(),
            writer_waits: false,
        };
        let refuses = CachePadded::default();
        Arc::new(Self { state: Mutex::new(state), work: Condvar::new(), refuses })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the writer where it waits for work. What ends the lanes wakes it in any case: it may wait for
    /// nothing else.
    fn wake(&self, state: MutexGuard<'_, State>) {
        let writer_waits = state.writer_waits;
        drop(state);
        if writer_waits {
            self.work.notify_one();
        }
    }

    /// Queues effects, and gives back what the commit turned out not to need of its room. A refused
    /// entry is answered here.
    pub(super) fn push_effects(self: &Arc<Self>, mut entry: EffectsEntry) {
        let mut state = self.state();
        // What was reserved before the host began to stop still has its place.
        let refusal = match &state.status {
            Status::Closing if entry.permit.is_some() => None,
            _ => state.refusal(),
        };
        if let Some(error) = refusal {
            drop(state);
            entry.answer(Err(error));
            return;
        }
        let bytes = entry.commit.bytes();
        if let Some(permit) = &mut entry.permit {
            let surplus = permit.bytes.saturating_sub(bytes);
            permit.bytes -= surplus;
            self.give_back(&mut state, surplus);
        }
        state.effects_bytes += bytes;
        state.effects.push_back(entry);
        self.wake(state);
    }

    /// Queues effects that nobody waits for, in their order, in place of so much of `room`. Answers with what
    /// is then kept of that. Refused commits are dropped.
    pub(super) fn push_commits(
        self: &Arc<Self>,
        commits: &mut Vec<Encoded>,
        room: Option<EffectsPermit>,
        keep: Keep,
    ) -> Option<EffectsPermit> {
        let mut state = self.state();
        let is_refused = match &state.status {
            Status::Closing => room.is_none(),
            Status::Open => false,
            Status::Failed(_) => true,
        };
        if is_refused {
            // Dropping a permit takes the lock.
            drop(state);
            commits.clear();
            return None;
        }
        let bytes = commits.iter().map(Encoded::bytes).sum();
        let mut room = room.unwrap_or_else(|| EffectsPermit::new(self, 0));
        let used = room.bytes.min(bytes);
        room.bytes -= used;
        let count = commits.len();
        state.effects.extend(commits.drain(..).enumerate().map(|(index, commit)| {
            // They are written in order: the last one gives back what all of them took.
            let is_last = index + 1 == count && used > 0;
            let permit = is_last.then(|| EffectsPermit::new(self, used));
            EffectsEntry { commit, reply: None, permit }
        }));
        state.effects_bytes += bytes;
        self.keep(&mut state, &mut room, keep);
        self.wake(state);
        (room.bytes > 0).then_some(room)
    }

    fn keep(self: &Arc<Self>, state: &mut State, room: &mut EffectsPermit, keep: Keep) {
        let kept = match keep {
            Keep::AtMost(bytes) => room.bytes.min(bytes),
            Keep::Refilled(_) if !state.waiters.is_empty() || state.status != Status::Open => 0,
            Keep::Refilled(bytes) => {
                let missing = bytes.saturating_sub(room.bytes);
                if state.reserved + missing <= EFFECTS_LANE_BYTES_MAX {
                    state.reserved += missing;
                    room.bytes += missing;
                }
                room.bytes
            }
        };
        let surplus = room.bytes - kept;
        room.bytes = kept;
        self.give_back(state, surplus);
    }

    /// Queues a batch.
    ///
    /// # Errors
    /// The lane is full, closing or failed.
    pub(super) fn push_ingest(&self, entry: IngestEntry) -> Result<(), AppendError> {
        let mut state = self.state();
        if let Some(error) = state.refusal() {
            return Err(error);
        }
        let bytes = state.ingest_bytes.saturating_add(entry.batch.commit.bytes());
        if bytes > INGEST_LANE_BYTES_MAX && !state.ingest.is_empty() {
            return Err(AppendError::QueueFull { limit: INGEST_LANE_BYTES_MAX });
        }
        state.ingest_bytes = bytes;
        state.ingest.push_back(entry);
        self.wake(state);
        Ok(())
    }

    /// Waits for work, and takes what makes one group. None: the lanes are closed and drained, or
    /// failed.
    pub(super) fn take(&self) -> Option<Taken> {
        let mut state = self.state();
        loop {
            if !state.effects.is_empty() || !state.ingest.is_empty() {
                return Some(state.take_group());
            }
            // Who holds a permit may still commit; the deliveries' grace period bounds the wait.
            if state.status != Status::Open && state.reserved == 0 {
                return None;
            }
            if matches!(state.status, Status::Failed(_)) {
                return None;
            }
            state.writer_waits = true;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.writer_waits = false;
        }
    }

    /// What is in the effects lane once there is something, up to so many bytes. Nothing, where nothing
    /// comes for a while, where something is published meanwhile, where the lanes take no more, and where
    /// what comes is too late: `is_timely` is asked once it is there.
    pub(super) fn take_effects(
        &self,
        pause: Duration,
        bytes_max: usize,
        is_timely: impl FnOnce() -> bool,
    ) -> Vec<EffectsEntry> {
        let mut state = self.state();
        state.writer_waits = true;
        let waited = self.work.wait_timeout_while(state, pause, |state| {
            state.effects.is_empty() && state.ingest.is_empty() && state.status == Status::Open
        });
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.writer_waits = false;
        let (mut taken, mut room) = (Vec::new(), bytes_max);
        if state.effects.is_empty() || !is_timely() {
            return taken;
        }
        while let Some(bytes) = state.effects.front().map(|entry| entry.commit.bytes())
            && bytes <= room
            && let Some(entry) = state.effects.pop_front()
        {
            room -= bytes;
            state.effects_bytes -= bytes;
            taken.push(entry);
        }
        taken
    }

    /// What is in the ingest lane, as much as makes one group, after `pause` or once the lanes take no
    /// more.
    pub(super) fn take_ingest(&self, pause: Duration) -> Taken {
        let is_open = |state: &mut State| state.status == Status::Open;
        let state = self.state();
        let waited = self.work.wait_timeout_while(state, pause, is_open);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let mut taken = Taken::default();
        state.take_ingest_while(&mut taken, |taken, bytes| {
            taken.ingest.is_empty() || taken.bytes + bytes <= GROUP_BYTES_MAX
        });
        taken
    }

    /// Takes no more; what is in the lanes, or has room reserved, is still written.
    pub(super) fn close(&self) {
        let mut state = self.state();
        if state.status == Status::Open {
            state.status = Status::Closing;
        }
        self.refuses.store(true, Ordering::Release);
        state.waiters.clear();
        drop(state);
        self.work.notify_one();
    }

    /// Takes no more, and answers all that waits with the failure.
    pub(super) fn fail(&self, failure: &LogFailure) {
        let mut state = self.state();
        if !matches!(state.status, Status::Failed(_)) {
            state.status = Status::Failed(failure.clone());
        }
        self.refuses.store(true, Ordering::Release);
        state.waiters.clear();
        let effects = std::mem::take(&mut state.effects);
        let ingest = std::mem::take(&mut state.ingest);
        (state.effects_bytes, state.ingest_bytes) = (0, 0);
        drop(state);
        self.work.notify_one();
        // Outside the lock: dropping a permit takes it.
        for entry in effects {
            entry.answer(Err(AppendError::ReadOnly(failure.clone())));
        }
        for entry in ingest {
            let error = AppendError::ReadOnly(failure.clone());
            let _ = entry.reply.send(IngestReply::Refused(error));
        }
    }

    /// Why the lanes take no more; none: they do.
    pub(super) fn refusal(&self) -> Option<AppendError> {
        if self.refuses.load(Ordering::Acquire) { self.state().refusal() } else { None }
    }

    /// Commits that wait in both lanes.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        let state = self.state();
        state.effects.len() + state.ingest.len()
    }

    /// Bytes that wait in (effects, ingest).
    pub(super) fn waiting_bytes(&self) -> (usize, usize) {
        let state = self.state();
        (state.effects_bytes, state.ingest_bytes)
    }

    /// Reserves room, waiting for it in turn with other plugins. Dropping the future gives up the
    /// place in line.
    ///
    /// # Errors
    /// The lanes are closing or failed.
    pub(super) async fn reserve(
        self: &Arc<Self>,
        instance: InstanceId,
        bytes: usize,
    ) -> Result<EffectsPermit, AppendError> {
        // More than the lane has is granted when nothing else is.
        let bytes = bytes.min(EFFECTS_LANE_BYTES_MAX);
        let granted = {
            let mut state = self.state();
            if let Some(error) = state.refusal() {
                return Err(error);
            }
            if state.waiters.is_empty() && state.reserved + bytes <= EFFECTS_LANE_BYTES_MAX {
                state.reserved += bytes;
                return Ok(EffectsPermit::new(self, bytes));
            }
            state.waiters.push(instance, bytes)
        };
        granted.await.map_err(|_| self.refusal().unwrap_or(AppendError::ShuttingDown))
    }

    /// Gives room back.
    pub(super) fn release(self: &Arc<Self>, bytes: usize) {
        let mut state = self.state();
        self.give_back(&mut state, bytes);
        if state.status != Status::Open && state.reserved == 0 {
            self.wake(state);
        }
    }

    fn give_back(self: &Arc<Self>, state: &mut State, bytes: usize) {
        state.reserved = state.reserved.saturating_sub(bytes);
        while let Some(bytes) = state.waiters.next_bytes()
            && state.reserved + bytes <= EFFECTS_LANE_BYTES_MAX
        {
            match state.waiters.grant(EffectsPermit::new(self, bytes)) {
                None => state.reserved += bytes,
                // Whoever was next has gone. Dropping a permit takes the lock, unless it is empty.
                Some(mut permit) => permit.bytes = 0,
            }
        }
    }
}

#[cfg(test)]
mod tests;
