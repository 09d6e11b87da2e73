//! Delivering: from the scheduler's queue through the sandbox into the log.

use std::sync::Arc;

use super::fires::timers_set;
use super::shadow::Beside;
use super::worker::{Delivered, Hand, Worker};
use super::{Runner, Version, WantedPause, breaker};
use crate::bus::deliver::{self, Ended};
use crate::bus::notes::{Line, Note};
use crate::bus::timers::Serves;
use crate::bus::{Outbox, Ticket};
use crate::command;
use crate::effects::{Effects, Outcome, OutcomeKind};
use crate::event::Event;
use crate::log::record::{AttemptRecord, Control, ControlRecord, DeadLetterRecord};
use crate::log::{AppendError, ReadError};
use crate::plugin::manifest::{OnFailure, OnReject};
use crate::schedule::core::{Assignment, Finish};
use crate::schedule::retry::{self, Step};
use crate::state::KeyView;
use crate::state::cold::ColdError;
use crate::state::slots::Suspect;
use crate::wasm::{Delivery, Invocation, Slot};

/// What one attempt came to.
pub(super) struct Attempt {
    pub(super) number: u32,
    /// When the first one began, log time.
    pub(super) first_ms: u64,
    /// Whether it was a dead letter, or stood behind one.
    pub(super) redriven: bool,
    /// Whether its key went on long ago.
    again: bool,
    /// When this one ended, log time. The clock is asked once a delivery: it is everybody's.
    pub(super) ended_ms: u64,
    pub(super) invocation: Box<Invocation>,
    /// A place for the version that runs beside.
    beside: Option<Beside>,
}

/// A delivery that is given up, and what that means for its key.
pub(super) struct GivenUp {
    letter: DeadLetterRecord,
    park: bool,
}

/// What is to be done about a key once its delivery is recorded, and what is to be told.
pub(super) struct Ending {
    finish: Finish,
    told: Option<Told>,
}

impl Ending {
    const fn is_over(&self) -> bool {
        !matches!(self.finish, Finish::RetryAt { .. })
    }
}

/// What people are told of a delivery.
struct Told {
    effects: Effects,
    ticket: Option<Ticket>,
    dead: bool,
    parked: bool,
    again_ms: Option<u64>,
}

/// Runs a guest. One that may take long runs where it can yield, and what else is in hand does not wait
/// for it.
async fn invoke(
    version: &Version,
    slot: &mut Slot,
    delivery: Delivery<'_>,
    hand: &Hand,
) -> Box<Invocation> {
    match version.invoker.invoke_through(slot, delivery) {
        Ok(invocation) => invocation,
        Err(delivery) => {
            delivery.state.start_over();
            hand.let_go();
            version.invoker.invoke(slot, delivery).await
        }
    }
}

/// When a run began that ended at `ended_ms`, log time.
fn began_ms(invocation: &Invocation, ended_ms: u64) -> u64 {
    let took_ms = u64::try_from(invocation.wall.as_millis()).unwrap_or(u64::MAX);
    ended_ms.saturating_sub(took_ms)
}

impl Runner {
    /// Runs a delivery and records what came of it.
    pub(super) async fn deliver(
        &self,
        Worker { slot, notes, pinned, values, tally }: &mut Worker<'_>,
        hand: &Hand,
    ) -> Result<Delivered, Stopped> {
        let Hand { outbox, lease, .. } = hand;
        let assignment = lease.assignment();
        let Some(event) = self.input(assignment).await? else {
            return Ok(self.pass_over_dropped(assignment));
        };
        let (number, redriven) = self.attempt_of(assignment, &event);
        let version = pinned.current(self);
        let refused = self.refused_command(&event).await?;
        // What leaves the host must not rest on what a crash could take back.
        if version.outside.is_some() {
            self.until_it_stands(event.position).await?;
        }
        let shape = self.newest(&event).await?;
        hand.needs(self.room(version, &event, outbox).await?);
        if self.serves(&event).await? == Serves::Nothing {
            self.pass_over(
                &version.deliverer,
                &event,
                (number, self.mode(event.position, redriven)),
                outbox,
            );
            return Ok(Delivered::passed_over());
        }
        if let Some(notes) = notes {
            let (instance, position) = (self.instance, event.position);
            notes.begin(Suspect { instance, position, attempt: number });
        }
        let view = self.view((version, values), &event)?;
        let mut invocation = match (refused, shape) {
            (Some(refused), _) => refused,
            (None, Ok(shape)) => {
                let delivery = self.delivery(version, &shape, (number, redriven), view.as_ref());
                invoke(version, slot, delivery, hand).await
            }
            (None, Err(failed)) => failed,
        };
        // It did not kill the host. A note that stayed until the next one would say so after a crash.
        if let Some(notes) = notes {
            notes.clear();
        }
        self.bus.only_recordable(&version.deliverer, &event, &mut invocation);
        lease.spent(invocation.fuel);
        self.keep_logs(&event, number, &invocation);
        let ended_ms = self.bus.now_ms();
        let first_ms = assignment.first_ms.unwrap_or_else(|| began_ms(&invocation, ended_ms));
        let beside = self.beside(&event, view.as_deref());
        let again = assignment.again;
        let mut attempt =
            Attempt { number, first_ms, redriven, again, ended_ms, invocation, beside };
        // No `await` from here to `finish`: a delivery that is committed must be over, and one that
        // is over must be committed.
        let ending = self.end(version, &event, &mut attempt, view, outbox);
        let lag_ms = ended_ms.saturating_sub(event.recorded_ms);
        tally.add(&attempt.invocation, ending.is_over().then_some(lag_ms));
        if let Some(told) = ending.told {
            self.tell(&event, &attempt, told);
        }
        let went_well = attempt.invocation.outcome == Outcome::Ok;
        let wall = attempt.invocation.wall;
        slot.give_back(attempt.invocation);
        Ok(Delivered { finish: ending.finish, went_well, wall })
    }

    /// Number of the attempt, and whether it is, or stands behind, one at a dead letter.
    fn attempt_of(&self, assignment: &Assignment<Arc<Event>>, event: &Event) -> (u32, bool) {
        // What ran when the host died may be what killed it: that attempt counts.
        let died = if assignment.again { 0 } else { self.before.died_at(event.position) };
        let redriven = assignment.redriven || self.before.is_redriven(event);
        (assignment.attempt.saturating_add(died), redriven)
    }

    /// Decides what the attempt means, and records it.
    fn end(
        &self,
        version: &Version,
        event: &Arc<Event>,
        attempt: &mut Attempt,
        view: Option<Arc<KeyView>>,
        outbox: &Outbox,
    ) -> Ending {
        let kind = attempt.invocation.outcome.kind();
        if command::is_command(event) {
            return self.end_command(version, event, attempt, view, outbox);
        }
        let outcome = &attempt.invocation.outcome;
        let (number, first_ms, now_ms) = (attempt.number, attempt.first_ms, attempt.ended_ms);
        let jitter = fastrand::u64(..);
        let first = number == 1 && !attempt.redriven;
        self.tell_breaker(event, first, outcome, now_ms);
        let mut step = retry::next(&version.retry, number, first_ms, now_ms, outcome, jitter);
        if step == Step::GiveUp
            && breaker::is_failure(outcome)
            && let Some(at_ms) = self.put_off(now_ms)
        {
            step = Step::RetryAt(at_ms);
        }
        if step != Step::Done {
            self.note_failure(now_ms, format!("{} {}", kind.name(), outcome.reason()));
        }
        match step {
            Step::Done => self.complete(version, event, attempt, view, outbox, None),
            Step::RetryAt(due_ms) => self.retry(version, event, attempt, due_ms, outbox),
            Step::GiveUp => {
                let policy = self.policy(version, event, attempt);
                let letter = DeadLetterRecord {
                    reason: outcome.reason(),
                    backtrace: attempt.invocation.backtrace.clone(),
                    logs: attempt.invocation.logs.clone(),
                    first_ms,
                    module: version.digest,
                };
                let given_up = GivenUp { letter, park: policy == OnFailure::Park };
                let ending = self.complete(version, event, attempt, None, outbox, Some(given_up));
                if policy == OnFailure::Pause {
                    let position = event.position;
                    let words = kind.name();
                    self.pause_because(format!("the event at {position} was given up: {words}"));
                }
                ending
            }
        }
    }

    /// What giving up a delivery means for its key. There has to be one that can wait, in a log that
    /// remembers it, and none of its later events may have gone on.
    fn policy(&self, version: &Version, event: &Event, attempt: &Attempt) -> OnFailure {
        let policy = match attempt.invocation.outcome.kind() {
            OutcomeKind::Reject => match version.manifest.on_reject() {
                OnReject::Continue => OnFailure::Continue,
                OnReject::Park => OnFailure::Park,
                OnReject::Pause => OnFailure::Pause,
            },
            _ => version.manifest.on_failure(),
        };
        let can_park = event.key.is_some() && self.bus.log().is_some() && !attempt.again;
        if policy == OnFailure::Park && !can_park { OnFailure::Continue } else { policy }
    }

    /// Stops handing out deliveries at once; the host records it.
    pub(super) fn pause_because(&self, reason: String) {
        self.queue.pause();
        self.say("error", format!("paused: {reason}"));
        let plugin = Arc::clone(&self.name);
        let (bus, instance) = (Arc::clone(self.bus.name()), self.instance);
        if let Err(error) = self.pauses.try_send(WantedPause { plugin, bus, instance, reason }) {
            tracing::warn!(plugin = %self.name, %error, "a pause is not recorded");
        }
    }

    pub(super) fn retry(
        &self,
        version: &Version,
        event: &Arc<Event>,
        attempt: &Attempt,
        due_ms: u64,
        outbox: &Outbox,
    ) -> Ending {
        let outcome = &attempt.invocation.outcome;
        let first_ms = attempt.first_ms;
        let record = ControlRecord {
            actor: "host".into(),
            control: Control::Attempt(AttemptRecord {
                instance: self.instance,
                generation: self.generation,
                position: event.position,
                key: event.key.clone(),
                attempt: attempt.number,
                first_ms,
                outcome: outcome.kind(),
                reason: outcome.reason(),
                due_ms,
            }),
        };
        self.bus.control_untold(outbox, &record);
        tracing::debug!(
            plugin = %self.name, position = %event.position, attempt = attempt.number,
            outcome = outcome.kind().name(), module = %version.digest.short(), "attempt failed"
        );
        let told = self.notes.wanted().then(|| Told {
            effects: Effects::default(),
            ticket: None,
            dead: false,
            parked: false,
            again_ms: Some(due_ms.saturating_sub(attempt.ended_ms)),
        });
        Ending { finish: Finish::RetryAt { at_ms: due_ms, first_ms }, told }
    }

    /// Commits the end of a delivery. The key goes on once the commit is in its lane, on state that
    /// nobody else sees yet.
    pub(super) fn complete(
        &self,
        version: &Version,
        event: &Arc<Event>,
        attempt: &mut Attempt,
        view: Option<Arc<KeyView>>,
        outbox: &Outbox,
        given_up: Option<GivenUp>,
    ) -> Ending {
        let mode = self.mode(event.position, attempt.redriven);
        let effects = &mut attempt.invocation.effects;
        deliver::keep(mode, effects);
        self.consume(event, effects);
        let shown = self.notes.wanted().then(|| effects.clone());
        let dead = given_up.is_some();
        let park = given_up.as_ref().is_some_and(|given_up| given_up.park);
        let ended = Ended {
            attempt: attempt.number,
            outcome: attempt.invocation.outcome.kind(),
            fuel: attempt.invocation.fuel,
            mode,
            dead_letter: given_up.map(|given_up| given_up.letter),
            park,
        };
        let commit = deliver::commit(&version.deliverer, event, ended, effects);
        if let Some(beside) = attempt.beside.take() {
            self.run_beside(beside, event, commit.clone());
        }
        let push_pending = |writes| {
            if let Some(view) = view {
                view.push_pending(event.position, writes);
            }
        };
        self.progress.submit();
        self.note_timers(event, &commit);
        let parks = park && !planted!(ForgetsToPark);
        let finish = if parks { Finish::Park } else { Finish::Done };
        let Some(effects) = shown else {
            self.bus.commit_untold(outbox, commit, push_pending);
            return Ending { finish, told: None };
        };
        let ticket = Some(self.bus.commit(outbox.permit(), commit, push_pending));
        let told = Some(Told { effects, ticket, dead, parked: park, again_ms: None });
        Ending { finish, told }
    }

    fn keep_logs(&self, event: &Event, attempt: u32, invocation: &Invocation) {
        for line in &invocation.logs {
            self.log.push(Line {
                at_ms: self.bus.now_ms(),
                level: line.level.clone(),
                message: line.message.clone(),
                position: Some(event.position),
                key: event.key.as_ref().map(ToString::to_string),
                attempt: Some(attempt),
            });
        }
    }

    /// Notes a delivery for whoever watches, once its effects have their positions.
    fn tell(&self, event: &Arc<Event>, attempt: &Attempt, told: Told) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).chars().take(40).collect();
        let state = told.effects.state.iter().take(3);
        let mut note = Note {
            plugin: Arc::clone(&self.name),
            event: Arc::clone(event),
            outcome: attempt.invocation.outcome.kind(),
            reason: attempt.invocation.outcome.reason(),
            attempt: attempt.number,
            wall: attempt.invocation.wall,
            fuel: attempt.invocation.fuel,
            state: state
                .filter_map(|write| Some((write.name.clone(), text(write.value.as_ref()?))))
                .collect(),
            timers: timers_set(&told.effects, attempt.ended_ms),
            emitted: told.effects.emits.iter().map(|draft| Arc::clone(&draft.kind)).collect(),
            first_position: None,
            again_ms: told.again_ms,
            dead: told.dead,
            parked: told.parked,
            dead_letter: None,
        };
        let notes = self.notes.clone();
        let Some(ticket) = told.ticket else { return notes.tell(note) };
        let (bus, instance, position) = (Arc::clone(&self.bus), self.instance, event.position);
        self.tasks.spawn(async move {
            if let Ok(committed) = ticket.done().await {
                note.first_position = committed.first_position;
                if note.dead {
                    bus.until_applied(committed.commit).await;
                    let ledger = bus.ledger();
                    note.dead_letter = ledger.dead_letter_of(instance, position).map(|l| l.id);
                }
            }
            notes.tell(note);
        });
    }
}

/// Why a worker ends.
pub(super) enum Stopped {
    /// The log takes nothing any more.
    Closing,
    /// The log or the state cannot be read.
    Unreadable(String),
}

impl From<AppendError> for Stopped {
    fn from(_: AppendError) -> Self {
        Self::Closing
    }
}

impl From<ReadError> for Stopped {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Closed => Self::Closing,
            error => Self::Unreadable(error.to_string()),
        }
    }
}

impl From<ColdError> for Stopped {
    fn from(error: ColdError) -> Self {
        match error {
            // The host ends, and who was to fill them said why.
            ColdError::Unfilled => Self::Closing,
            error => Self::Unreadable(error.to_string()),
        }
    }
}
