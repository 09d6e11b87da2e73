//! What follows the sync of a group: index, tail, durable mark, answers. On a thread of its own, so that
//! the next group is on its way to the disk meanwhile.
//!
//! Rule: groups are settled one after the other, as they were written, and an answer is given only
//! behind everything that its group, and those before it, made known.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::oneshot;

use super::assign::{Batch, Item};
use super::codec::Encoded;
use super::error::{AppendError, LogFailure};
use super::frame::Frame;
use super::index::{SegmentBase, SegmentIndexBuilder};
use super::lanes::EffectsPermit;
use super::segment::Durable;
use super::shared::Shared;
use super::ticket::{Committed, IngestReply};
use crate::event::{CommitNumber, Position};

/// Groups that are durable and not settled; the writer waits for more.
const GROUPS_BEHIND_MAX: usize = 2;

/// Somebody who waits for the sync.
pub(super) enum Waiting {
    Effects {
        reply: Option<oneshot::Sender<Result<Committed, AppendError>>>,
        commit: Encoded,
        permit: Option<EffectsPermit>,
        number: u64,
        first: Position,
    },
    Ingest {
        reply: oneshot::Sender<IngestReply>,
        batch: Batch,
        number: u64,
        first: Position,
    },
    /// Nothing of it is in the group, but what the answer speaks of may be.
    Answer {
        reply: oneshot::Sender<IngestReply>,
        answer: IngestReply,
    },
}

/// A frame that is durable, and where it is.
pub(super) struct Written {
    pub(super) frame: Frame,
    /// Where it starts in its segment.
    pub(super) offset: u64,
    /// It is the first of its segment.
    pub(super) begins_segment: bool,
    pub(super) durable: Durable,
    pub(super) synced: Instant,
}

/// A group whose sync is through, or which needed none.
pub(super) struct Group {
    pub(super) waiting: Vec<Waiting>,
    /// None: there are only answers in it.
    pub(super) written: Option<Written>,
    pub(super) started: Instant,
}

enum Step {
    Settle(Group),
    /// Everything before is settled.
    Reached(SyncSender<()>),
}

/// The thread. Dropped, it settles what it has, and ends.
pub(super) struct Settler {
    steps: Option<SyncSender<Step>>,
    thread: Option<JoinHandle<()>>,
}

/// Ends the log if the thread does not end in order.
struct EndGuard(Arc<Shared>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(&LogFailure::WriterGone);
        }
    }
}

impl Settler {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(super) fn start(shared: Arc<Shared>) -> io::Result<Self> {
        let (steps, taken) = sync_channel(GROUPS_BEHIND_MAX);
        let thread = std::thread::Builder::new().name("log-settle".to_owned());
        let thread = thread.spawn(move || {
            let guard = EndGuard(shared);
            run(&guard.0, &taken);
        })?;
        Ok(Self { steps: Some(steps), thread: Some(thread) })
    }

    /// Settles a group, behind those before it.
    pub(super) fn settle(&self, group: Group) {
        // Where the thread has ended the log has failed, and who waits hears of it.
        if let Some(steps) = &self.steps {
            let _ = steps.send(Step::Settle(group));
        }
    }

    /// Waits until everything is settled.
    pub(super) fn finish(&self) {
        let (reached, wait) = sync_channel(1);
        let sent = self.steps.as_ref().map(|steps| steps.send(Step::Reached(reached)));
        if matches!(sent, Some(Ok(()))) {
            let _ = wait.recv();
        }
    }
}

impl Drop for Settler {
    fn drop(&mut self) {
        drop(self.steps.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(shared: &Shared, steps: &Receiver<Step>) {
    while let Ok(step) = steps.recv() {
        match step {
            Step::Settle(group) => settle(shared, group),
            Step::Reached(reached) => drop(reached.send(())),
        }
    }
}

fn settle(shared: &Shared, group: Group) {
    let Group { waiting, written, started } = group;
    let Some(written) = written else { return answer(shared, waiting, None) };
    let Written { frame, offset, begins_segment, durable, synced } = written;
    if let Err(failure) = index(shared, &frame, offset, begins_segment) {
        shared.fail(&failure);
        for one in waiting {
            one.refuse(AppendError::ReadOnly(failure.clone()));
        }
        return;
    }
    let header = *frame.header();
    let counters = &shared.counters;
    counters.groups.fetch_add(1, Ordering::Relaxed);
    counters.commits.fetch_add(header.commit_count.into(), Ordering::Relaxed);
    counters.events.fetch_add(header.event_count.into(), Ordering::Relaxed);
    make_known(shared, frame);
    answer(shared, waiting, Some((durable, header.time_ms)));
    let ended = Instant::now();
    counters.last_append_us.store(span_ns(started, ended) / 1000, Ordering::Relaxed);
    counters.settle_ns.fetch_add(span_ns(synced, ended), Ordering::Relaxed);
}

/// Nanoseconds from one moment to the next.
pub(super) fn span_ns(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.saturating_duration_since(from).as_nanos()).unwrap_or(u64::MAX)
}

fn index(
    shared: &Shared,
    frame: &Frame,
    offset: u64,
    begins_segment: bool,
) -> Result<(), LogFailure> {
    if begins_segment {
        shared.index.begin(SegmentIndexBuilder::new(SegmentBase::of(frame.header())));
    }
    let failed = |why| LogFailure::Index { commit: frame.first_commit(), why };
    let filled = shared.index.fill(|open| open.add_frame(frame, offset, &shared.hasher));
    match filled {
        Some(Ok(())) => Ok(()),
        Some(Err(error)) => Err(failed(error.to_string())),
        None => Err(failed("no segment is open".to_owned())),
    }
}

/// That a group is durable, and its log time, milliseconds since the Unix epoch.
type Proof = (Durable, u64);

fn answer(shared: &Shared, waiting: Vec<Waiting>, committed: Option<Proof>) {
    let mut buffers = Vec::with_capacity(waiting.len());
    let mut room = 0;
    for one in waiting {
        match (one, committed) {
            (Waiting::Answer { reply, answer }, _) => drop(reply.send(answer)),
            (Waiting::Effects { reply, commit, permit, number, first }, Some(proof)) => {
                let answer = committed_as(proof, number, first, !commit.events.is_empty());
                if let Some(reply) = reply {
                    drop(reply.send(Ok(answer)));
                }
                room += permit.map_or(0, |mut permit| permit.take_bytes());
                buffers.push(commit);
            }
            (Waiting::Ingest { reply, batch, number, first }, Some(proof)) => {
                let committed = committed_as(proof, number, first, true);
                let items: Vec<Item> = batch.items;
                drop(reply.send(IngestReply::Committed { committed, items }));
                buffers.push(batch.commit);
            }
            // Something taken makes the frame non-empty: there is a proof.
            (one, None) => one.refuse(AppendError::ReadOnly(LogFailure::WriterGone)),
        }
    }
    shared.lanes.release(room);
    shared.buffers.give(buffers.into_iter());
}

const fn committed_as(
    (durable, recorded_ms): Proof,
    number: u64,
    first: Position,
    has_events: bool,
) -> Committed {
    let first_position = if has_events { Some(first) } else { None };
    Committed { commit: CommitNumber(number), first_position, recorded_ms, durable }
}

impl Waiting {
    /// Says that nothing comes of it.
    pub(super) fn refuse(self, error: AppendError) {
        match self {
            Self::Effects { reply, .. } => drop(reply.map(|reply| reply.send(Err(error)))),
            Self::Ingest { reply, .. } | Self::Answer { reply, .. } => {
                drop(reply.send(IngestReply::Refused(error)));
            }
        }
    }
}

/// Shows a durable frame to everybody.
pub(super) fn make_known(shared: &Shared, frame: Frame) {
    let last = frame.last_commit();
    let position = frame.header().next_position().saturating_sub(1);
    shared.tail.push(Arc::new(frame));
    shared.durable_position.store(position, Ordering::Release);
    shared.durable.send_replace(last);
}
