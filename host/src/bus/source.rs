//! Reading a bus in order: from the frames of a log or from the ring of a memory bus.

use std::sync::Arc;

use tokio::sync::watch;

use super::memory::MemoryLog;
use crate::event::{Event, Position};
use crate::log::{Frame, FrameReader, Log, ReadError};

/// Events taken from a ring at a time.
const RING_BATCH_MAX: usize = 1024;

/// A reader of one bus. Cancel safe: nothing is lost where `next` is dropped.
pub enum EventSource<'a> {
    /// Frames of a durable log.
    Durable {
        /// Where they come from.
        frames: FrameReader,
        /// Events at or below it were asked not to be seen.
        after: Position,
    },
    /// The ring of a memory bus.
    Memory {
        /// The ring.
        log: &'a MemoryLog,
        /// Changes with every append.
        last: watch::Receiver<Position>,
        /// The last position read.
        after: Position,
    },
}

/// Some events in order, and how far they reach.
pub enum Batch {
    /// One frame.
    Frame {
        /// The frame; decoded.
        frame: Arc<Frame>,
        /// Index of its first event that was asked for.
        from: usize,
    },
    /// Events of a ring.
    Ring(Vec<Arc<Event>>),
}

impl Batch {
    /// The events, ascending by position.
    #[must_use]
    pub fn events(&self) -> &[Arc<Event>] {
        match self {
            // `next` has decoded it: an error was returned there.
            Self::Frame { frame, from } => {
                frame.events().ok().and_then(|events| events.get(*from..)).unwrap_or_default()
            }
            Self::Ring(events) => events,
        }
    }
}

impl<'a> EventSource<'a> {
    pub(super) fn durable(log: &Log, after: Position) -> Self {
        let frames = log.frames_from_position(Position(after.0.saturating_add(1)));
        Self::Durable { frames, after }
    }

    pub(super) fn memory(log: &'a MemoryLog, after: Position) -> Self {
        Self::Memory { log, last: log.last(), after }
    }

    /// The next events; waits until there are some.
    ///
    /// # Errors
    /// The log cannot be read, or is closed.
    pub async fn next(&mut self) -> Result<Batch, ReadError> {
        match self {
            Self::Durable { frames, after } => loop {
                let frame = frames.next().await?;
                let events = frame.events()?;
                let from = events.partition_point(|event| event.position <= *after);
                if from < events.len() {
                    return Ok(Batch::Frame { frame, from });
                }
            },
            Self::Memory { log, last, after } => loop {
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
