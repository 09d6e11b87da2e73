//! Past deliveries run again, on the module that served or on another one, and compared with the
//! record. Commits nothing and reaches nothing outside.
//!
//! Each delivery sees exactly what it saw then: its event, its attempt, its log time, and the state
//! that the *recorded* deliveries before it left. So one that differs makes no later one differ.
//!
//! Rule: what depended on an answer that is not in the record is never called equal.

mod again;
mod carried;
mod compare;
mod recorded;

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use roaring::RoaringTreemap;

pub use self::carried::CarryError;
pub use self::compare::{Change, changes};
pub use self::recorded::completion as recorded_completion;

pub(super) use self::again::Again;
use self::carried::Carried;
pub(super) use self::carried::Seen;
use super::Bus;
use super::private;
use super::runner::Version;
use super::subscribed::{Subscriptions, may_want, wants};
use crate::effects::OutcomeKind;
use crate::event::{Digest, Event, Generation, Heading, InstanceId, Key, LOST_EVENT, Position};
use crate::limits::REPLAY_FRAMES_BYTES_MAX;
use crate::log::record::DeliveryCommit;
use crate::log::{Frame, ReadError};
use crate::schedule::pool::{JoinHandle, Tenant};
use crate::state::Owner;

/// What is run again, and on what.
pub struct Plan {
    /// The bus; a durable one.
    pub bus: Arc<Bus>,
    /// The plugin.
    pub instance: InstanceId,
    /// The generation whose deliveries are run again.
    pub generation: Generation,
    /// The first input.
    pub from: Position,
    /// The last input.
    pub to: Position,
    /// On what.
    pub on: On,
    /// Which events were the plugin's, oldest subscription first.
    pub subscriptions: Subscriptions,
    /// Runs the guests.
    pub tenant: Tenant,
    /// Deliveries that run at the same time.
    pub tasks_max: usize,
    /// A folder of its own, for state that does not fit into memory.
    pub scratch: PathBuf,
}

/// The module and manifest that past deliveries run on.
pub enum On {
    /// One for all.
    One(Arc<Version>),
    /// Each on its own, by what the record says it ran on.
    Recorded(HashMap<Digest, Arc<Version>>),
}

impl On {
    fn version(&self, environment: Digest) -> Option<&Arc<Version>> {
        match self {
            Self::One(version) => Some(version),
            Self::Recorded(versions) => versions.get(&environment),
        }
    }
}

/// Why a delivery cannot be run again as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Obstacle {
    /// What it ran on is not kept.
    #[error("the module or manifest it ran on is not kept")]
    Version,
    /// Its event is gone.
    #[error("its event is not to be had any more")]
    Input,
    /// Wall time decided, then or now.
    #[error("it ran into `limits.timeout`, which depends on the machine")]
    Timeout,
    /// What the instance had served before decided.
    #[error("it ran into a limit that depends on what its instance had served before")]
    Instance,
    /// What other deliveries had left of a bound decided.
    #[error(
        "it was refused room for its state or timers, and how full the plugin's `limits` were is not recorded"
    )]
    Room,
    /// What it was handed then is not to be had now.
    #[error("its event cannot be lifted for now: the upcaster does not run, or takes too long")]
    Upcaster,
    /// The module may ask the network and wait for the answer.
    #[error("its module can call out with `wasi:http`, and answers are not recorded")]
    Outside,
}

/// What became of one delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The same outcome and effects.
    Equal,
    /// What differs.
    Different(Vec<Change>),
    /// It cannot be told.
    NotReplayable(Obstacle),
    /// No guest ran then: the host decided alone.
    PassedOver,
}

/// One delivery that was run again.
#[derive(Debug)]
pub struct Judged {
    /// Its input.
    pub position: Position,
    /// The key of the input.
    pub key: Option<Key>,
    /// What became of it.
    pub verdict: Verdict,
}

/// Why a replay does not go on.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// State on the way.
    #[error(transparent)]
    Carry(#[from] CarryError),
    /// A memory bus forgets.
    #[error("a memory bus keeps no past")]
    Forgotten,
    /// The host ends, or a task of the pool panicked.
    #[error("a delivery was cut off: {0}")]
    Cut(#[from] crate::schedule::pool::JoinError),
}

impl From<crate::log::codec::DecodeError> for ReplayError {
    fn from(error: crate::log::codec::DecodeError) -> Self {
        Self::Read(error.into())
    }
}

/// Runs the plan: `judged` hears of each delivery, in the order of their commits. May be dropped at
/// any time.
///
/// # Errors
/// See [`ReplayError`].
pub async fn run(plan: &Plan, mut judged: impl FnMut(Judged) + Send) -> Result<(), ReplayError> {
    let log = plan.bus.log().ok_or(ReplayError::Forgotten)?;
    let end = log.durable();
    let from_start = plan.from <= Position(1);
    let mut way = Way {
        plan,
        carried: Carried::new(&plan.scratch, from_start)?,
        recent: Recent::default(),
        outstanding: RoaringTreemap::new(),
        running: VecDeque::new(),
    };
    let mut frames = log.frames_from_position(plan.from);
    while plan.from <= log.last_position() {
        let frame = frames.next().await?;
        way.expect(&frame)?;
        for commit in frame.commits() {
            let commit = commit?;
            if commit.number > end {
                break;
            }
            let Some(done) = recorded::delivery(&commit, plan.instance, plan.generation)? else {
                continue;
            };
            let position = done.completion.position;
            if (plan.from..=plan.to).contains(&position) {
                way.take(done, commit.number, &mut judged).await?;
            } else {
                way.pass(done)?;
            }
        }
        if frame.last_commit() >= end || way.is_over(&frame) {
            break;
        }
    }
    while !way.running.is_empty() {
        way.join(&mut judged).await?;
    }
    Ok(())
}

/// A replay on its way through the log.
struct Way<'a> {
    plan: &'a Plan,
    carried: Carried,
    recent: Recent,
    /// Inputs in the range whose successful end was not seen.
    outstanding: RoaringTreemap,
    running: VecDeque<Running>,
}

/// A delivery whose verdict is to come, or is known but has its turn.
enum Running {
    Task(JoinHandle<Judged>),
    Known(Judged),
}

impl Way<'_> {
    /// Notes which inputs of a frame must end later on.
    fn expect(&mut self, frame: &Arc<Frame>) -> Result<(), ReplayError> {
        let plan = self.plan;
        if frame.header().first_position > plan.to.0 || frame.first_position().is_none() {
            return Ok(());
        }
        let may_be_wanted = |heading: &Heading<'_>| {
            let is_in_range = (plan.from..=plan.to).contains(&heading.position);
            is_in_range && may_want(&plan.subscriptions, plan.instance, heading)
        };
        for event in frame.select(may_be_wanted)? {
            if wants(&plan.subscriptions, plan.instance, &event) {
                self.outstanding.insert(event.position.0);
            }
        }
        self.recent.push(Arc::clone(frame));
        Ok(())
    }

    /// Whether nothing in the range can end after this frame.
    fn is_over(&self, frame: &Frame) -> bool {
        frame.header().next_position() > self.plan.to.0 && self.outstanding.is_empty()
    }

    /// Takes what a delivery outside the range has left of its key: a dead letter that was redriven late
    /// stands between two of the range, or sees what came of later events.
    fn pass(&mut self, done: DeliveryCommit) -> Result<(), ReplayError> {
        let (instance, generation) = (self.plan.instance, self.plan.generation);
        let Some(key) = done.completion.key else { return Ok(()) };
        let owner = Owner { instance, generation, key };
        let writes = done.state.into_iter();
        Ok(self.carried.pass(&owner, done.completion.position, writes)?)
    }

    async fn take(
        &mut self,
        done: DeliveryCommit,
        commit: crate::event::CommitNumber,
        judged: &mut (impl FnMut(Judged) + Send),
    ) -> Result<(), ReplayError> {
        let plan = self.plan;
        let completion = &done.completion;
        let (position, key) = (completion.position, completion.key.clone());
        if done.dead_letter.is_none() {
            self.outstanding.remove(position.0);
        }
        let owner = key.clone().map(|key| Owner {
            instance: plan.instance,
            generation: plan.generation,
            key,
        });
        let input = match self.recent.find(position)? {
            Some(input) => Some(input),
            None => plan.bus.event(position).await?,
        };
        let input_ms = input.as_ref().map_or(0, |input| input.recorded_ms);
        let seen = match &owner {
            Some(owner) => self.carried.before(&plan.bus, owner, commit, input_ms).await?,
            None => Seen::default(),
        };
        if let Some(owner) = owner.filter(|_| !done.state.is_empty()) {
            let writes = done.state.iter().cloned();
            self.carried.apply(&owner, position, writes).map_err(CarryError::from)?;
        }
        if completion.attempt == 0 {
            // State that a rewind carried over: no delivery.
            return Ok(());
        }
        let running = match self.prepare(input, done, seen) {
            Ok(again) => Running::Task(plan.tenant.spawn(again.run())),
            Err(verdict) => Running::Known(Judged { position, key, verdict }),
        };
        self.running.push_back(running);
        while self.running.len() >= plan.tasks_max.max(1) {
            self.join(judged).await?;
        }
        Ok(())
    }

    /// What is to be run; or why nothing is.
    fn prepare(
        &self,
        input: Option<Arc<Event>>,
        done: DeliveryCommit,
        seen: Seen,
    ) -> Result<Again, Verdict> {
        let completion = &done.completion;
        // Where a repair could not keep it, something else stands there.
        let Some(input) = input.filter(|input| &*input.kind != LOST_EVENT) else {
            return Err(Verdict::NotReplayable(Obstacle::Input));
        };
        // A fire or answer that served nothing any more, a command whose condition did not hold.
        if completion.fuel == 0 && done.dead_letter.is_none() && private::is_private(&input.kind) {
            return Err(Verdict::PassedOver);
        }
        if completion.outcome == OutcomeKind::Timeout {
            return Err(Verdict::NotReplayable(Obstacle::Timeout));
        }
        let version = self.plan.on.version(completion.environment);
        let version = version.ok_or(Verdict::NotReplayable(Obstacle::Version))?;
        if version.invoker.asks_outside() {
            return Err(Verdict::NotReplayable(Obstacle::Outside));
        }
        let (bus, version) = (Arc::clone(&self.plan.bus), Arc::clone(version));
        Ok(Again { bus, version, input, done, seen: Arc::new(seen) })
    }

    async fn join(&mut self, judged: &mut (impl FnMut(Judged) + Send)) -> Result<(), ReplayError> {
        match self.running.pop_front() {
            Some(Running::Task(task)) => judged(task.await?),
            Some(Running::Known(known)) => judged(known),
            None => {}
        }
        Ok(())
    }
}

/// The newest frames that were read, bounded in bytes: most deliveries end soon after their input.
#[derive(Default)]
struct Recent {
    frames: VecDeque<Arc<Frame>>,
    bytes: usize,
}

impl Recent {
    fn push(&mut self, frame: Arc<Frame>) {
        self.bytes += frame.bytes().len();
        self.frames.push_back(frame);
        while self.bytes > REPLAY_FRAMES_BYTES_MAX && self.frames.len() > 1 {
            let oldest = self.frames.pop_front();
            self.bytes -= oldest.map_or(0, |frame| frame.bytes().len());
        }
    }

    fn find(&self, position: Position) -> Result<Option<Arc<Event>>, ReplayError> {
        let behind =
            self.frames.partition_point(|frame| frame.header().first_position <= position.0);
        let Some(frame) = behind.checked_sub(1).and_then(|at| self.frames.get(at)) else {
            return Ok(None);
        };
        Ok(frame.select(|heading| heading.position == position)?.pop())
    }
}

#[cfg(test)]
mod tests;
