//! What appending comes to: answers that exist only once an fdatasync has covered what they speak of.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use super::assign::{Each, Item};
use super::codec::{EncodeError, Encoded};
use super::error::{AppendError, LogFailure};
use super::segment::Durable;
use crate::event::{CommitNumber, KeySequence, Position};

/// A commit that is durable. Only the writer can make it: it holds the proof of the sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// Its number.
    pub commit: CommitNumber,
    /// Position of its first event, where it has one.
    pub first_position: Option<Position>,
    /// Its log time, milliseconds since the Unix epoch.
    pub recorded_ms: u64,
    /// The proof.
    pub durable: Durable,
}

/// One event of a batch, as it stands in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Where it is.
    pub position: Position,
    /// Its number within its key; 0: unkeyed.
    pub sequence: KeySequence,
    /// It was there before.
    pub duplicate: bool,
}

/// The writer's answer to a batch.
#[derive(Debug)]
pub(super) enum IngestReply {
    /// In the log. `items` have their key sequences.
    Committed { committed: Committed, items: Each<Item> },
    /// An identity of the batch may be in the log by now: look again. What it collided with is
    /// durable.
    Recheck,
    /// Not in the log. What the error speaks of is durable.
    Refused(AppendError),
}

/// An answer to come. Dropping it changes nothing: the commit takes its course.
#[derive(Debug)]
pub struct CommitTicket(State);

#[derive(Debug)]
enum State {
    Waiting(oneshot::Receiver<Result<Committed, AppendError>>),
    Refused(Option<AppendError>),
}

impl CommitTicket {
    pub(super) fn pair() -> (oneshot::Sender<Result<Committed, AppendError>>, Self) {
        let (sender, receiver) = oneshot::channel();
        (sender, Self(State::Waiting(receiver)))
    }

    pub(super) const fn refused(error: AppendError) -> Self {
        Self(State::Refused(Some(error)))
    }
}

impl Future for CommitTicket {
    type Output = Result<Committed, AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let gone = || AppendError::ReadOnly(LogFailure::WriterGone);
        match &mut self.0 {
            State::Waiting(receiver) => {
                Pin::new(receiver).poll(context).map(|reply| reply.unwrap_or_else(|_| Err(gone())))
            }
            State::Refused(error) => Poll::Ready(Err(error.take().unwrap_or_else(gone))),
        }
    }
}

/// Buffers of commits that were written, to be used again.
#[derive(Debug, Default)]
pub(super) struct Buffers(Mutex<Vec<Encoded>>);

/// Buffers kept at most.
const BUFFERS_MAX: usize = 1024;
/// Bytes of a buffer worth keeping: a rare large commit does not stay for good.
const BUFFER_BYTES_MAX: usize = 16 * 1024;
/// Buffers that a thread takes at a time.
const TAKEN_AT_ONCE: usize = 16;

thread_local! {
    /// Buffers that this thread took and has not used yet, of whichever log: all threads that commit
    /// would wait for each other, did each of them take one at a time.
    static TAKEN: RefCell<Vec<Encoded>> = const { RefCell::new(Vec::new()) };
}

impl Buffers {
    /// A commit, of what `fill` puts into a buffer.
    ///
    /// # Errors
    /// It cannot be encoded.
    pub(super) fn encode(
        &self,
        fill: impl FnOnce(&mut Encoded) -> Result<(), EncodeError>,
    ) -> Result<Encoded, EncodeError> {
        let mut commit = self.take();
        fill(&mut commit).and_then(|()| commit.finish())?;
        Ok(commit)
    }

    pub(super) fn take(&self) -> Encoded {
        TAKEN.with_borrow_mut(|taken| {
            if taken.is_empty() {
                let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                let rest = kept.len().saturating_sub(TAKEN_AT_ONCE);
                taken.extend(kept.drain(rest..));
            }
            taken.pop().unwrap_or_default()
        })
    }

    pub(super) fn give(&self, buffers: impl Iterator<Item = Encoded>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for mut buffer in buffers {
            if kept.len() < BUFFERS_MAX && buffer.capacity() <= BUFFER_BYTES_MAX {
                buffer.clear();
                kept.push(buffer);
            }
        }
    }
}
