//! Folding commits into the ledger and the values: the same code at recovery and live.

use std::sync::{Arc, PoisonError};

use smallvec::SmallVec;

use super::timers::{FireId, NAME_ATTRIBUTE};
use super::{Bus, commands, outlets, private};
use crate::effects::OutcomeKind;
use crate::event::{CommitNumber, InstanceId, Key, To};
use crate::log::codec::{AddresseeRef, DecodeError, OUTLINE_OF_ANOTHER, StateRef, TimerRef, kind};
use crate::log::frame::Entry;
use crate::log::record::{Control, ControlRecord, DeadLetterRecord};
use crate::log::{CommitRef, CompletionRef, EventRef, Frame, ReadError, RecordRef};
use crate::state::checkpoint::Checkpoints;
use crate::state::cold::ColdError;
use crate::state::ledger::{Completed, Origin};
use crate::state::timers::Served;
use crate::state::{At, Ledger, Values};

/// Why the fold cannot go on: the host must end then.
#[derive(Debug, thiserror::Error)]
pub enum FoldError {
    /// The log cannot be read.
    #[error("reading the log: {0}")]
    Read(#[from] ReadError),
    /// A record cannot be decoded though its frame is whole: a defect, or a newer format.
    ///
    /// It ends the host, and does not only stop the plugin it is about: what is passed over here is
    /// missing from the fold for good (an event from its key, a completion from what is over), and
    /// whatever is delivered then is recorded on top of it. The log stays as it is, and a version that
    /// can read the record goes on from there. What may be passed over says so itself.
    #[error(
        "commit {commit} has a record that this version cannot read, though its checksum is right: \
         {source}; `tidegate log dump` shows it, and the version that wrote it can go on"
    )]
    Decode {
        /// The commit, or the first of its frame.
        commit: CommitNumber,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// The working state cannot be read or written.
    #[error(transparent)]
    Cold(#[from] ColdError),
}

pub(super) fn unreadable(commit: CommitNumber) -> impl Fn(DecodeError) -> FoldError {
    move |source| FoldError::Decode { commit, source }
}

/// Folds the commits of one frame that come after `applied`.
///
/// # Errors
/// See [`FoldError`].
pub fn fold(
    ledger: &mut Ledger,
    values: &Values,
    frame: &Frame,
    applied: CommitNumber,
) -> Result<Folded, FoldError> {
    let mut folded = Folded::default();
    let unreadable = unreadable(frame.first_commit());
    let mut events = frame.entries().map_err(&unreadable)?;
    for commit in frame.commits() {
        let commit = commit.map_err(&unreadable)?;
        if commit.number > applied {
            fold_commit((ledger, values), &commit, &mut events, &mut folded)?;
        } else {
            events.by_ref().take(commit.events as usize).for_each(drop);
        }
    }
    Ok(folded)
}

/// What was folded since the last checkpoint.
#[derive(Default)]
struct Since {
    bytes: u64,
    commits: u64,
    /// What was folded last.
    last: Option<Arc<Frame>>,
}

impl Since {
    fn add(&mut self, frame: Arc<Frame>) {
        self.bytes += frame.bytes().len() as u64;
        self.commits += frame.last_commit().0.saturating_sub(frame.first_commit().0) + 1;
        self.last = Some(frame);
    }
}

/// What a fold came across that others want to know.
#[derive(Debug, Default)]
pub struct Folded {
    /// Completions by plugin, in order.
    pub completed: Vec<InstanceId>,
    /// Plugins that begin anew.
    pub(super) rewound: Vec<InstanceId>,
    /// Calls that are to be sent now.
    pub calls_opened: usize,
    /// Calls that are answered now.
    pub calls_closed: usize,
    /// Commands and their answers, in order.
    pub(super) commands: Vec<commands::News>,
}

/// What stands beside the end of a delivery in its commit, and counts with it.
#[derive(Default)]
struct Beside<'a> {
    dead: Option<DeadLetterRecord>,
    writes: SmallVec<[StateRef<'a>; 2]>,
    timers: Vec<TimerRef<'a>>,
    controls: Vec<ControlRecord>,
    /// The idempotency keys of its calls.
    calls: Vec<&'a str>,
}

/// Folds a commit; the next ones of `events` are its.
fn fold_commit<'a>(
    (ledger, values): (&mut Ledger, &Values),
    commit: &CommitRef<'_>,
    events: &mut impl Iterator<Item = Entry<'a>>,
    folded: &mut Folded,
) -> Result<(), FoldError> {
    let at = At { commit: commit.number, time_ms: commit.time_ms };
    let mut completion: Option<CompletionRef<'_>> = None;
    let mut beside = Beside::default();
    let unreadable = unreadable(commit.number);
    let mut records = commit.records();
    while let Some(raw) = records.next_raw() {
        let (raw, position) = raw.map_err(&unreadable)?;
        if raw.kind == kind::EVENT {
            let event = events.next().ok_or(OUTLINE_OF_ANOTHER).map_err(&unreadable)?;
            fold_event((ledger, values), at, &event, folded).map_err(&unreadable)?;
            continue;
        }
        match records.read(&raw, position).map_err(&unreadable)? {
            RecordRef::Completion(record) => completion = Some(record),
            RecordRef::State(write) => beside.writes.push(write),
            RecordRef::Call(call) => beside.calls.push(call.idempotency_key),
            RecordRef::Timer(change) => beside.timers.push(change),
            RecordRef::DeadLetter(record) => beside.dead = Some(record),
            RecordRef::Control(record) => {
                apply_to_values(ledger, values, &record.control)?;
                if let Control::Rewind { instance, .. } = record.control {
                    folded.rewound.push(instance);
                }
                values.timers().apply_control(&record.control);
                // What parks a key takes back that its delivery is over: it has to come after it.
                match &completion {
                    Some(_) => beside.controls.push(record),
                    None => ledger.apply_control(at, &record),
                }
            }
            _ => {}
        }
    }
    match completion {
        Some(done) => fold_end((ledger, values), at, &done, beside, folded),
        None => Ok(()),
    }
}

/// Takes the end of a delivery.
fn fold_end(
    (ledger, values): (&mut Ledger, &Values),
    at: At,
    done: &CompletionRef<'_>,
    Beside { dead, writes, timers, controls, calls }: Beside<'_>,
    folded: &mut Folded,
) -> Result<(), FoldError> {
    // Where a rewind carries state over no fire is served.
    let serves = dead.is_none() && done.attempt > 0;
    serve(ledger, values, done, (at.commit, serves), timers);
    commands::fold_completion(ledger, at, done, &mut folded.commands);
    // What comes late of a generation that is over would bring its state back.
    let present = planted!(AcceptsOldGeneration)
        || ledger.instance(done.instance).is_some_and(|i| i.generation == done.generation);
    if let (Some(key), true, false) = (done.key.zip(done.key_hash), present, writes.is_empty()) {
        let whose = (done.instance, done.generation);
        values.apply_logged(whose, key, (done.position, &writes))?;
    }
    // Nothing ran where a rewind carries state over.
    if done.attempt > 0 {
        ledger.apply_completion(
            at,
            &Completed {
                instance: done.instance,
                generation: done.generation,
                position: done.position,
                key: done.key,
                attempt: done.attempt,
                outcome: done.outcome,
                dead: dead.as_ref(),
            },
        );
    }
    controls.iter().for_each(|record| ledger.apply_control(at, record));
    if done.outcome == OutcomeKind::Ok && !done.mode.is_rebuild() {
        folded.calls_opened += ledger.apply_calls(outlets::opened(at, done, &calls));
    }
    folded.completed.push(done.instance);
    Ok(())
}

/// Takes an event. What is for everybody is not even read: its heading says what there is to count.
fn fold_event(
    (ledger, values): (&mut Ledger, &Values),
    at: At,
    event: &Entry<'_>,
    folded: &mut Folded,
) -> Result<(), DecodeError> {
    let heading = event.heading;
    if heading.to == To::Everybody {
        let from = Origin::of(heading.emitter, heading.is_forwarded);
        ledger.apply_event(heading.kind, from, at.time_ms);
        return Ok(());
    }
    let event = event.read()?;
    match event.addressee {
        Some(AddresseeRef::Bus(bus)) => ledger.apply_outbound(bus, event.position),
        Some(AddresseeRef::Plugin(to)) => fold_private((ledger, values), at, to, &event, folded),
        None => {}
    }
    Ok(())
}

/// Takes an event that is for one plugin alone.
fn fold_private(
    (ledger, values): (&mut Ledger, &Values),
    at: At,
    to: InstanceId,
    event: &EventRef<'_>,
    folded: &mut Folded,
) {
    fire((ledger, values), to, event);
    commands::fold_event(ledger, at, to, event, &mut folded.commands);
    let closed = event.kind == private::RESPONSE && ledger.apply_response(to, event.id);
    folded.calls_closed += usize::from(closed);
}

/// Takes a fire of a timer.
fn fire((ledger, values): (&Ledger, &Values), instance: InstanceId, event: &EventRef<'_>) {
    let (Some(key), true) = (event.key, event.kind == private::TIMER) else { return };
    let name = event.attributes.iter().find(|(name, _)| *name == NAME_ATTRIBUTE);
    if let (Some((_, name)), Ok(fire)) = (name, event.id.parse::<FireId>()) {
        let holder = (instance, fire.generation);
        values.timers().fire(holder, (key, name), fire.set, event.position);
        // What a repair says of it stands before it, where both were in one damaged frame.
        if ledger.instance(instance).is_some_and(|plugin| plugin.is_completed(event.position)) {
            values.timers().discard(instance, event.position);
        }
    }
}

/// Takes what the end of a delivery means for the timers of its key.
fn serve(
    ledger: &Ledger,
    values: &Values,
    done: &CompletionRef<'_>,
    (commit, serves): (CommitNumber, bool),
    changes: Vec<TimerRef<'_>>,
) {
    let (Some(key), Some(hash)) = (done.key, done.key_hash) else { return };
    let CompletionRef { instance, generation, position, .. } = *done;
    let holds = ledger.instance(instance).is_some_and(|of| of.generation == generation);
    let served = Served { holder: (instance, generation), key, position, commit, dead: !serves };
    values.timers().end(&served, hash, holds.then_some(changes));
}

/// What a control record means for keyed state.
pub(super) fn apply_to_values(
    ledger: &Ledger,
    values: &Values,
    control: &Control,
) -> Result<(), ColdError> {
    match control {
        Control::Forget { instance } => values.forget(*instance),
        // Of a rewind that was not finished, its values; the generation that serves keeps its own.
        Control::Rewind { instance, .. } => match ledger.instance(*instance) {
            Some(plugin) => values.keep_only(*instance, plugin.serving()),
            None => Ok(()),
        },
        Control::Rebuilt { instance, generation } => match ledger.instance(*instance) {
            Some(plugin) if plugin.generation == *generation => {
                values.keep_only(*instance, *generation)
            }
            _ => Ok(()),
        },
        Control::Expire { instance, generation, until_ms } => {
            let plugin = ledger.instance(*instance);
            // Events of such a key may be of any time before; see `Control::Expire`.
            let keeps = |key: &Key| {
                let state = plugin.and_then(|plugin| plugin.keys.get(key));
                state.is_some_and(|state| state.parked.is_some() || state.held.is_some())
            };
            values.expire((*instance, *generation), *until_ms, keeps)
        }
        _ => Ok(()),
    }
}

impl Bus {
    /// Folds durable frames as they come, until the log is closed; writes checkpoints on the way,
    /// and one at the end. Blocks its thread.
    ///
    /// # Errors
    /// See [`FoldError`].
    pub fn apply_durable(
        &self,
        runtime: &tokio::runtime::Handle,
        checkpoints: &Checkpoints,
    ) -> Result<(), FoldError> {
        let Some(log) = self.log() else { return Ok(()) };
        let next = CommitNumber(self.applied.borrow().0 + 1);
        let mut frames = log.frames_from_commit(next);
        let mut since = Since::default();
        let mut policy = checkpoints.policy();
        loop {
            let frame = match runtime.block_on(frames.next()) {
                Ok(frame) => frame,
                Err(ReadError::Closed) => break,
                Err(error) => return Err(error.into()),
            };
            let applied = *self.applied.borrow();
            self.filled_for(&frame, applied)?;
            let folded = {
                let mut ledger = self.ledger();
                let folded = fold(&mut ledger, &self.values, &frame, applied)?;
                self.note_folded(frame.last_commit(), frame.position_after());
                folded
            };
            self.forget_marks(&folded.rewound);
            self.count(&folded.completed);
            self.outlets.folded(folded.calls_opened, folded.calls_closed);
            // Before others may go on: once the last commit is applied, every answer is told.
            self.desk.tell(folded.commands);
            self.applied.send_replace(frame.last_commit());
            since.add(frame);
            if policy.due(since.bytes, since.commits) && self.values.is_filled() {
                let bytes = self.checkpoint(checkpoints, &since);
                // The fold stands still meanwhile: not for more bytes of state than of log.
                policy.every_bytes = checkpoints.policy().every_bytes.max(bytes);
                since = Since::default();
            }
        }
        // The log was closed in order: with this the next start has nothing to fold. Where the keys were
        // not even there yet, what was folded is little.
        self.count(&[]);
        if self.values.is_filled() {
            self.checkpoint(checkpoints, &since);
        }
        Ok(())
    }

    /// Writes a checkpoint of the fold as it is, if anything was folded, and says how many bytes it has. One
    /// that fails costs time at the next start, and nothing else.
    fn checkpoint(&self, checkpoints: &Checkpoints, since: &Since) -> u64 {
        let Some(last) = &since.last else { return 0 };
        let ledger = self.ledger().clone();
        let ahead = u64::from(planted!(CheckpointsAhead));
        let chain = if planted!(CheckpointsAhead) { [0; 32] } else { last.chain() };
        let commit = CommitNumber(last.last_commit().0 + ahead);
        let at = At { commit, time_ms: last.time_ms() };
        match checkpoints.write(&ledger, &self.values, at, &chain) {
            Ok(written) => {
                tracing::debug!(
                    bus = %self.name, commit = %at.commit, bytes = written.bytes,
                    keys = written.keys, ms = written.took.as_millis(), "checkpoint"
                );
                written.bytes
            }
            Err(error) => {
                tracing::warn!(bus = %self.name, %error, "no checkpoint");
                0
            }
        }
    }

    /// A plugin that nobody has run yet has no progress, and must get none here: what earlier runs
    /// of the host had completed would be counted as this one's.
    fn forget_marks(&self, rewound: &[InstanceId]) {
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        rewound.iter().filter_map(|instance| progress.get(instance)).for_each(|p| p.rewind());
    }

    pub(super) fn count(&self, completed: &[InstanceId]) {
        let (_, folded) = self.folded();
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        for run in completed.chunk_by(|a, b| a == b) {
            let Some(progress) = run.first().and_then(|instance| progress.get(instance)) else {
                continue;
            };
            progress.fold(run.len());
        }
        let safe: Vec<_> = progress
            .iter()
            .filter_map(|(instance, progress)| Some((*instance, progress.take_safe(folded)?)))
            .collect();
        drop(progress);
        let mut ledger = self.ledger();
        for (instance, settled) in &safe {
            ledger.settle(*instance, settled);
        }
    }
}
