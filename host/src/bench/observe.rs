//! Watching deliveries end: completions, as they become durable.
//!
//! Rule: only deliveries of events that were published count, each once. A guest's timers and what it
//! emits end too, and would open the window for events that nobody is done with.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::effects::OutcomeKind;
use crate::event::{CommitNumber, Heading, Position, To};
use crate::log::codec::{DecodeError, kind};
use crate::log::{Frame, FrameReader, Log, RecordRef};

use super::BenchError;

/// How long nothing may end before the bench gives up.
const STALL: Duration = Duration::from_secs(10);

/// What ended.
#[derive(Default)]
pub(super) struct Observed {
    /// The inputs, and when their effects were seen to be durable.
    pub(super) done: Vec<(Position, Instant)>,
    /// How many of them were given up.
    pub(super) failed: u64,
    /// When the first frame with completions was seen, and how many it had.
    pub(super) first: Option<(Instant, u64)>,
}

/// A look at a log from some moment on.
pub(super) struct Observer {
    frames: FrameReader,
    awaited: Awaited,
}

/// The published events whose deliveries have not ended: a mark for each position from the first of
/// them on, since a set of so many would cost more than to read their completions.
#[derive(Debug, Default)]
struct Awaited {
    first: u64,
    marks: Vec<bool>,
}

impl Observer {
    /// Sees what is committed from now on.
    pub(super) fn new(log: &Log) -> Self {
        let next = CommitNumber(log.durable().0 + 1);
        Self { frames: log.frames_from_commit(next), awaited: Awaited::default() }
    }

    /// The same, where these are the events that were published before.
    pub(super) fn of(log: &Log, published: &[Position]) -> Self {
        let mut this = Self::new(log);
        published.iter().for_each(|position| this.awaited.add(*position));
        this
    }

    /// Waits until the first delivery ended.
    pub(super) async fn first(&mut self) -> Result<(), BenchError> {
        let mut observed = Observed::default();
        while observed.done.is_empty() {
            let frame = self.frames.next().await?;
            observed.take_from(&frame, &mut self.awaited, Instant::now())?;
        }
        Ok(())
    }

    /// Waits until `count` deliveries ended; opens `window` by one for each.
    pub(super) async fn run(
        mut self,
        count: u64,
        window: Option<Arc<Semaphore>>,
    ) -> Result<Observed, BenchError> {
        let mut observed = Observed::default();
        let mut since = Instant::now();
        while (observed.done.len() as u64) < count {
            let done = observed.done.len() as u64;
            let frame = match tokio::time::timeout(STALL, self.frames.next()).await {
                Ok(frame) => frame?,
                Err(_) => {
                    let seconds = STALL.as_secs();
                    return Err(BenchError::Stuck { seconds, done, events: count });
                }
            };
            let now = Instant::now();
            observed.take_from(&frame, &mut self.awaited, now)?;
            let ended = observed.done.len() as u64 - done;
            if ended > 0 {
                since = now;
                observed.first.get_or_insert((now, ended));
                if let Some(window) = &window {
                    window.add_permits(usize::try_from(ended).unwrap_or(0));
                }
            } else if now.duration_since(since) > STALL {
                // Frames come, but no delivery ends: retries, without end.
                return Err(BenchError::Stuck { seconds: STALL.as_secs(), done, events: count });
            }
        }
        Ok(observed)
    }
}

impl Awaited {
    fn add(&mut self, position: Position) {
        if self.marks.is_empty() {
            self.first = position.0;
        }
        let Some(index) = self.index(position) else { return };
        if index >= self.marks.len() {
            self.marks.resize(index + 1, false);
        }
        if let Some(mark) = self.marks.get_mut(index) {
            *mark = true;
        }
    }

    /// Whether the delivery of this event was awaited; it is not any more.
    fn take(&mut self, position: Position) -> bool {
        let mark = self.index(position).and_then(|index| self.marks.get_mut(index));
        mark.is_some_and(std::mem::take)
    }

    fn index(&self, position: Position) -> Option<usize> {
        usize::try_from(position.0.checked_sub(self.first)?).ok()
    }
}

/// Whether it is one of those that the bench publishes: no timer, nothing that a guest emitted.
fn is_published(heading: &Heading<'_>) -> bool {
    heading.to == To::Everybody && heading.emitter.is_none() && !heading.is_forwarded
}

impl Observed {
    fn take_from(
        &mut self,
        frame: &Frame,
        awaited: &mut Awaited,
        now: Instant,
    ) -> Result<(), BenchError> {
        self.take(frame, awaited, now).map_err(|error| BenchError::Decode {
            position: Position(frame.header().first_position),
            why: error.to_string(),
        })
    }

    fn take(
        &mut self,
        frame: &Frame,
        awaited: &mut Awaited,
        now: Instant,
    ) -> Result<(), DecodeError> {
        // What is read of them here, whoever delivers them has read before.
        for heading in frame.headings()? {
            if is_published(&heading) {
                awaited.add(heading.position);
            }
        }
        for commit in frame.commits() {
            let mut records = commit?.records();
            while let Some(raw) = records.next_raw() {
                let (raw, position) = raw?;
                if raw.kind == kind::COMPLETION
                    && let RecordRef::Completion(done) = records.read(&raw, position)?
                    && awaited.take(done.position)
                {
                    self.done.push((done.position, now));
                    self.failed += u64::from(done.outcome != OutcomeKind::Ok);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::InstanceId;

    #[test]
    fn an_awaited_event_ends_once_and_others_never() {
        let mut awaited = Awaited::default();
        assert!(!awaited.take(Position(7)));
        [7, 9, 12].map(Position).into_iter().for_each(|position| awaited.add(position));
        let ended = [6, 7, 7, 8, 9, 12, 13].map(|position| awaited.take(Position(position)));
        assert_eq!(ended, [false, true, false, false, true, true, false]);
    }

    #[test]
    fn timers_and_emitted_events_are_not_published_ones() {
        let published = Heading {
            position: Position(1),
            recorded_ms: 0,
            kind: "bench.happened",
            to: To::Everybody,
            emitter: None,
            is_forwarded: false,
        };
        assert!(is_published(&published));
        assert!(!is_published(&Heading { to: To::Plugin(InstanceId(1)), ..published }));
        assert!(!is_published(&Heading { emitter: Some(InstanceId(1)), ..published }));
    }
}
