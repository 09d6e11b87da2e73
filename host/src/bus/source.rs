//! Reading a bus in order: from the frames of a log or from the ring of a memory bus.

use std::sync::Arc;

use tokio::sync::watch;

use super::memory::MemoryLog;
use crate::event::{Event, Heading, Position};
use crate::log::{Frame, FrameReader, Log, NumberedFrames, ReadError};

/// Events taken from a ring at a time.
const RING_BATCH_MAX: usize = 1024;

/// A reader of one bus. Cancel safe: nothing is lost where `next` is dropped.
pub struct EventSource {
    from: From,
    /// Events at or below it are passed over: they were asked not to be seen, or have been read.
    after: Position,
}

/// What it reads.
enum From {
    /// Frames of a durable log.
    Durable(FrameReader),
    /// Frames of a durable log, for deliveries: the last one may not be durable yet.
    Numbered(NumberedFrames),
    /// The ring of a memory bus, and what changes with every append.
    Memory(Arc<MemoryLog>, watch::Receiver<Position>),
}

/// Some events in order, and how far they reach.
pub enum Batch {
    /// One frame.
    Frame {
        /// The frame. It has events behind `after`, and what there is of each can be told.
        frame: Arc<Frame>,
        /// Events at or below it were asked not to be seen.
        after: Position,
    },
    /// Events of a ring; at least one.
    Ring(Vec<Arc<Event>>),
}

impl Batch {
    /// Position of its last event, and when the log took that, milliseconds since the Unix epoch.
    #[must_use]
    pub fn last(&self) -> Option<(Position, u64)> {
        match self {
            Self::Frame { frame, .. } => {
                let last = frame.headings().ok()?.next_back()?;
                Some((last.position, last.recorded_ms))
            }
            Self::Ring(events) => events.last().map(|event| (event.position, event.recorded_ms)),
        }
    }

    /// The events whose headings are wanted, ascending by position. The others are not even read.
    ///
    /// # Errors
    /// A record is not what its kind says.
    pub fn select(
        &self,
        mut is_wanted: impl FnMut(&Heading<'_>) -> bool,
    ) -> Result<Vec<Arc<Event>>, ReadError> {
        Ok(match self {
            Self::Frame { frame, after } => {
                frame.select(|heading| heading.position > *after && is_wanted(heading))?
            }
            Self::Ring(events) => {
                events.iter().filter(|event| is_wanted(&event.heading())).cloned().collect()
            }
        })
    }

    /// All events, ascending by position.
    ///
    /// # Errors
    /// A record is not what its kind says.
    pub fn events(&self) -> Result<Vec<Arc<Event>>, ReadError> {
        self.select(|_| true)
    }
}

impl EventSource {
    pub(super) fn durable(log: &Log, after: Position) -> Self {
        Self { from: From::Durable(log.frames_from_position(next(after))), after }
    }

    pub(super) fn numbered(log: &Log, after: Position) -> Self {
        Self { from: From::Numbered(log.numbered_from_position(next(after))), after }
    }

    pub(super) fn memory(log: &Arc<MemoryLog>, after: Position) -> Self {
        Self { from: From::Memory(Arc::clone(log), log.last()), after }
    }

    /// The next events; waits until there are some.
    ///
    /// # Errors
    /// The log cannot be read, or is closed.
    pub async fn next(&mut self) -> Result<Batch, ReadError> {
        let after = &mut self.after;
        match &mut self.from {
            From::Durable(frames) => loop {
                if let Some(batch) = behind(frames.next().await?, *after)? {
                    return Ok(batch);
                }
            },
            From::Numbered(frames) => loop {
                if let Some(batch) = behind(frames.next().await?, *after)? {
                    // A frame may come once more when what came of its events has joined it.
                    *after = batch.last().map_or(*after, |(last, _)| last);
                    return Ok(batch);
                }
            },
            From::Memory(log, last) => loop {
                last.borrow_and_update();
                let events = log.after(*after, RING_BATCH_MAX);
                if let Some(event) = events.last() {
                    *after = event.position;
                    return Ok(Batch::Ring(events));
                }
                if last.changed().await.is_err() {
                    return Err(ReadError::Closed);
                }
            },
        }
    }
}

const fn next(position: Position) -> Position {
    Position(position.0.saturating_add(1))
}

/// The events of a frame behind a position, if there are any.
fn behind(frame: Arc<Frame>, after: Position) -> Result<Option<Batch>, ReadError> {
    let is_behind = frame.headings()?.next_back().is_some_and(|last| last.position > after);
    Ok(is_behind.then_some(Batch::Frame { frame, after }))
}
