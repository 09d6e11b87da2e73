//! Watching deliveries end: completions, as they become durable.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::effects::OutcomeKind;
use crate::event::{CommitNumber, Position};
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
}

impl Observer {
    /// Sees what is committed from now on.
    pub(super) fn new(log: &Log) -> Self {
        let next = CommitNumber(log.durable().0 + 1);
        Self { frames: log.frames_from_commit(next) }
    }

    /// Waits until the first delivery ended.
    pub(super) async fn first(&mut self) -> Result<(), BenchError> {
        let mut observed = Observed::default();
        while observed.done.is_empty() {
            let frame = self.frames.next().await?;
            observed.take_from(&frame, Instant::now())?;
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
            observed.take_from(&frame, now)?;
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

impl Observed {
    fn take_from(&mut self, frame: &Frame, now: Instant) -> Result<(), BenchError> {
        self.take(frame, now).map_err(|error| BenchError::Decode {
            position: Position(frame.header().first_position),
            why: error.to_string(),
        })
    }

    fn take(&mut self, frame: &Frame, now: Instant) -> Result<(), DecodeError> {
        for commit in frame.commits() {
            let mut records = commit?.records();
            while let Some(raw) = records.next_raw() {
                let (raw, position) = raw?;
                if raw.kind == kind::COMPLETION
                    && let RecordRef::Completion(done) = records.read(&raw, position)?
                {
                    self.done.push((done.position, now));
                    self.failed += u64::from(done.outcome != OutcomeKind::Ok);
                }
            }
        }
        Ok(())
    }
}
