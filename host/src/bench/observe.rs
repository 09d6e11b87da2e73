//! Watching deliveries end: completions, as they become durable.
//!
//! Rule: only deliveries of events that were published count, each once. A guest's timers and what it
//! emits end too, and would open the window for events that nobody is done with.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::effects::OutcomeKind;
use crate::event::{CommitNumber, Heading, Key, Position, To};
use crate::log::codec::{DecodeError, Ended, kind};
use crate::log::{Frame, FrameReader, Log, RecordRef};

use super::touched::touched;
use super::{BenchError, cpu};

/// How long nothing may end before the bench gives up.
const STALL: Duration = Duration::from_secs(10);
/// Events whose keys are named where deliveries were given up, at most.
const NAMED_MAX: usize = 3;

/// Percent of the deliveries given up from which on a run tells how fast they fail, and nothing else.
const FAILED_PERCENT: u64 = 90;

/// Positions that a published event takes with what its delivery emits, where the guest is the bench's
/// own. Others may take more: then there is memory to be made while the clock runs.
const POSITIONS_OF_EVENT: usize = 2;

/// What ended.
#[derive(Default)]
pub(super) struct Observed {
    /// The inputs, and when their effects were seen to be durable.
    pub(super) done: Vec<(Position, Instant)>,
    /// Those of them that were given up.
    pub(super) given_up: GivenUp,
    /// The first frame in which deliveries ended.
    pub(super) first: Option<First>,
    /// Frames in which deliveries ended.
    pub(super) frames: u64,
    /// Bytes of these.
    pub(super) frame_bytes: u64,
}

/// When deliveries began to end.
#[derive(Debug, Clone, Copy)]
pub(super) struct First {
    /// When the frame was seen.
    pub(super) at: Instant,
    /// Processor time of the process until then.
    pub(super) cpu: Duration,
    /// How many ended in it.
    pub(super) ended: u64,
}

/// Deliveries that failed for good.
#[derive(Debug, Default)]
pub(super) struct GivenUp {
    /// How many.
    pub(super) count: u64,
    /// The first of their events.
    positions: Vec<Position>,
    /// Why the first one was given up, as its dead letter says.
    reason: Option<String>,
}

/// A look at a log from some moment on.
pub(super) struct Observer {
    log: Log,
    frames: FrameReader,
    awaited: Awaited,
    count: u64,
    observed: Observed,
}

/// The published events whose deliveries have not ended: a mark for each position from the first of
/// them on, since a set of so many would cost more than to read their completions.
#[derive(Debug, Default)]
struct Awaited {
    first: u64,
    marks: Vec<bool>,
}

impl Observer {
    /// Sees what is committed from now on, until so many deliveries ended. To be made before the clock
    /// starts: this has the memory for them.
    pub(super) fn new(log: &Log, count: u64) -> Self {
        let next = CommitNumber(log.durable().0 + 1);
        let frames = log.frames_from_commit(next);
        let room = usize::try_from(count).unwrap_or(0);
        let any = (Position(u64::MAX), Instant::now());
        let observed = Observed { done: touched(room, any), ..Observed::default() };
        let marks = touched(room.saturating_mul(POSITIONS_OF_EVENT), true);
        let awaited = Awaited { first: 0, marks };
        Self { log: log.clone(), frames, awaited, count, observed }
    }

    /// The same, where these are the events that were published before.
    pub(super) fn of(log: &Log, published: &[Position]) -> Self {
        let mut this = Self::new(log, published.len() as u64);
        published.iter().for_each(|position| this.awaited.add(*position));
        this
    }

    /// Waits until all of them ended; opens `window` by one for each. How long nothing ends counts
    /// from when `serving` is ready: a large module compiles for longer than any delivery may take.
    pub(super) async fn run(
        mut self,
        window: Option<Arc<Semaphore>>,
        serving: impl Future<Output = Result<(), BenchError>>,
    ) -> Result<Observed, BenchError> {
        let mut serving = std::pin::pin!(serving);
        let mut since = None;
        while (self.observed.done.len() as u64) < self.count {
            let frame = tokio::select! {
                biased;
                serves = &mut serving, if since.is_none() => {
                    serves?;
                    since = Some(Instant::now());
                    continue;
                }
                frame = self.frames.next() => frame?,
                () = stalled(since) => return Err(self.stuck().await),
            };
            let now = Instant::now();
            let ended = self.observed.take_from(&frame, &mut self.awaited, now)?;
            if ended > 0 {
                since = since.map(|_| now);
                if let Some(window) = &window {
                    window.add_permits(usize::try_from(ended).unwrap_or(0));
                }
            } else if since.is_some_and(|since| now.duration_since(since) > STALL) {
                // Frames come, but no delivery ends: retries, without end.
                return Err(self.stuck().await);
            }
        }
        Ok(self.observed)
    }

    /// That nothing ends any more, and what is known of why.
    async fn stuck(&self) -> BenchError {
        let (observed, events) = (&self.observed, self.count);
        let mut keys = Vec::new();
        for position in &observed.given_up.positions {
            // Without its key it is one of those that are counted.
            let event = self.log.event(*position).await.ok().flatten();
            let key = event.and_then(|event| event.body.key.clone());
            keys.extend(key.filter(|key| !keys.contains(key)));
        }
        let (seconds, done) = (STALL.as_secs(), observed.done.len() as u64);
        let keys: Vec<_> = keys.iter().map(Key::as_str).collect();
        BenchError::Stuck { seconds, done, events, why: observed.given_up.words(&keys) }
    }
}

/// Ends when nothing has ended for too long; never where that does not count yet.
async fn stalled(since: Option<Instant>) {
    match since {
        Some(since) => tokio::time::sleep_until((since + STALL).into()).await,
        None => std::future::pending().await,
    }
}

impl GivenUp {
    fn add(&mut self, position: Position) {
        self.count += 1;
        if self.positions.len() < NAMED_MAX {
            self.positions.push(position);
        }
    }

    /// The first line of why the first one was given up.
    fn first_line(&self) -> Option<&str> {
        self.reason.as_deref().and_then(|reason| reason.lines().next())
    }

    /// Words for how many of so many events were given up, and why the first one was; none: none was.
    pub(super) fn of_all(&self, events: u64) -> Option<String> {
        if self.count == 0 {
            return None;
        }
        let first =
            self.first_line().map_or_else(String::new, |line| format!(" (the first: {line})"));
        Some(format!("{} of {events} deliveries were given up{first}", self.count))
    }

    /// Refuses a run of so many events of which too few were delivered.
    ///
    /// # Errors
    /// [`BenchError::GivenUp`].
    pub(super) fn check(&self, events: u64) -> Result<(), BenchError> {
        match self.of_all(events) {
            Some(why)
                if self.count.saturating_mul(100) >= events.saturating_mul(FAILED_PERCENT) =>
            {
                Err(BenchError::GivenUp { why })
            }
            _ => Ok(()),
        }
    }

    /// Takes those of another run.
    pub(super) fn merge(&mut self, other: Self) {
        self.count += other.count;
        self.reason = self.reason.take().or(other.reason);
    }

    /// Why deliveries may stand still, where the first of those that were given up have these keys.
    fn words(&self, keys: &[&str]) -> String {
        if self.count == 0 {
            return "does the module fail, or wait? Try it with `tidegate test`".to_owned();
        }
        let mut words = format!("{} of these were given up", self.count);
        if let Some(line) = self.first_line() {
            words.push_str(&format!(" (the first: {line})"));
        }
        if !keys.is_empty() {
            let more = if self.count > keys.len() as u64 { ", .." } else { "" };
            let keys = keys.join("`, `");
            words.push_str(&format!("; parked keys hold back what is behind: `{keys}`{more}"));
        }
        words
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
    /// Takes what ended in a frame, and says how much that is.
    fn take_from(
        &mut self,
        frame: &Frame,
        awaited: &mut Awaited,
        now: Instant,
    ) -> Result<u64, BenchError> {
        let before = self.done.len();
        self.take(frame, awaited, now).map_err(|error| BenchError::Decode {
            position: Position(frame.header().first_position),
            why: error.to_string(),
        })?;
        let ended = (self.done.len() - before) as u64;
        if ended > 0 {
            self.first.get_or_insert_with(|| First { at: now, cpu: cpu::process(), ended });
            self.frames += 1;
            self.frame_bytes += frame.header().frame_bytes();
        }
        Ok(ended)
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
                // State and events are most of it, and are not read.
                match raw.kind {
                    kind::COMPLETION => {
                        let Ended { position, outcome } = Ended::of(&raw)?;
                        if awaited.take(position) {
                            self.done.push((position, now));
                            if outcome != OutcomeKind::Ok {
                                self.given_up.add(position);
                            }
                        }
                    }
                    kind::DEAD_LETTER => {
                        if let RecordRef::DeadLetter(letter) = records.read(&raw, position)? {
                            self.given_up.reason.get_or_insert(letter.reason);
                        }
                    }
                    _ => {}
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

    #[test]
    fn a_run_that_only_fails_is_an_error_with_the_first_reason() {
        let mut given_up = GivenUp { count: 89, ..GivenUp::default() };
        given_up.reason = Some("no amount\nand more".to_owned());
        given_up.check(100).unwrap();
        let mut all = GivenUp::default();
        assert_eq!(all.of_all(100), None);
        all.merge(given_up);
        let words = "89 of 200 deliveries were given up (the first: no amount)";
        assert_eq!(all.of_all(200).as_deref(), Some(words));
        all.count = 90;
        let error = all.check(100).unwrap_err().to_string();
        assert!(error.starts_with("90 of 100 deliveries were given up"), "{error}");
        assert!(error.contains("--data-file"), "{error}");
        GivenUp::default().check(0).unwrap();
    }

    #[test]
    fn who_is_stuck_hears_what_was_given_up_and_which_keys_are_parked() {
        let mut given_up = GivenUp::default();
        assert!(given_up.words(&[]).contains("`tidegate test`"));
        (1..=14).map(Position).for_each(|position| given_up.add(position));
        given_up.reason = Some("division by zero\nand more".to_owned());
        let words = given_up.words(&["a", "b"]);
        let expected = "14 of these were given up (the first: division by zero); parked \
                        keys hold back what is behind: `a`, `b`, ..";
        assert_eq!(words, expected);
        assert_eq!(given_up.positions.len(), NAMED_MAX);
    }
}
