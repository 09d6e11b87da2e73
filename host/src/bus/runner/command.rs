//! Delivering a command: its condition, its attempts, and that it ends with an answer whatever
//! becomes of it.
//!
//! Rule: a command never makes its key wait for longer than [`COMMAND_RETRY_MS_MAX`], and never
//! becomes a dead letter: whoever sent it is told how it failed, so there is nothing to redrive.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::work::{Attempt, Ending, Stopped};
use super::{Runner, Version};
use crate::bus::Outbox;
use crate::command::{self, Verdict};
use crate::effects::{Effects, Outcome, OutcomeKind};
use crate::event::{CommitNumber, Event, Key, KeySequence, Position};
use crate::limits::COMMAND_RETRY_MS_MAX;
use crate::log::{ReadError, RecordRef};
use crate::schedule::core::KeyView as SchedulerView;
use crate::schedule::retry::{self, RetryPolicy, Step};
use crate::state::KeyView;
use crate::wasm::Invocation;

/// How a command for a key would fare.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Whether the plugin is paused, or stands still because it fails broadly.
    pub paused: bool,
    /// How far it has read.
    pub scanned: Position,
    /// What is incomplete of the key.
    pub key: Option<SchedulerView>,
}

impl Runner {
    /// How a command for a key would fare.
    #[must_use]
    pub fn standing(&self, key: &Key) -> Standing {
        let broken = self.broken().is_some();
        self.queue.with(|core| Standing {
            paused: core.is_paused() || broken,
            scanned: core.cursor().scanned,
            key: core.look(key),
        })
    }

    /// Why a command is not to be executed: the end of it. None: it is, or the event is none.
    pub(super) async fn refused_command(
        &self,
        event: &Event,
    ) -> Result<Option<Box<Invocation>>, Stopped> {
        let Some(expected) = command::expected(event).filter(|_| command::is_command(event)) else {
            return Ok(None);
        };
        let Some(actual) = self.conflicting(event, expected).await? else { return Ok(None) };
        let response = Some(command::sequence_conflict(expected, actual));
        let reason = format!("the key is at sequence {actual}, not {expected}");
        let effects = Effects { response, ..Effects::default() };
        let refused = Invocation { effects, ..Invocation::unrun(Outcome::Reject { reason }) };
        Ok(Some(Box::new(refused)))
    }

    /// The sequence of the key, where that is not what a command expects. One that runs once more is
    /// judged as it was then: by now the key has gone on, by what came of that very command, too.
    async fn conflicting(
        &self,
        event: &Event,
        expected: KeySequence,
    ) -> Result<Option<KeySequence>, Stopped> {
        if self.repeats(event.position) {
            return Ok(self.recorded_conflict(event).await?);
        }
        self.until_it_stands(event.position).await?;
        let actual = event.key.as_ref().map_or(KeySequence(0), |key| self.bus.head(key));
        Ok((actual != expected).then_some(actual))
    }

    /// The sequence that kept a command from being executed, by the answer it got; none: it was.
    async fn recorded_conflict(&self, event: &Event) -> Result<Option<KeySequence>, ReadError> {
        let (Some(log), Some(key)) = (self.bus.log(), &event.key) else { return Ok(None) };
        let (instance, position) = (self.instance, event.position);
        let answer = log.fold_completions(
            (instance, key),
            // An answer stands behind its command.
            CommitNumber(event.commit.0.saturating_sub(1)),
            move |entry| entry.position == position,
            None,
            move |answer, commit| {
                for record in commit.records() {
                    if let RecordRef::Completion(done) = record?
                        && done.position == position
                        && let Some(response) = done.response
                    {
                        *answer = Some(command::verdict(done.outcome, Some(response.to_owned())));
                        return Ok(ControlFlow::Break(()));
                    }
                }
                Ok(ControlFlow::Continue(()))
            },
        );
        Ok(match answer.await? {
            Some(Verdict::SequenceConflict { actual, .. }) => Some(actual),
            _ => None,
        })
    }

    /// Waits until a delivery rests on nothing that a crash could take back: its event is durable, and
    /// everything that this plugin has committed so far is so and folded. The key's own earlier deliveries
    /// are among it, as this delivery owns the key.
    pub(super) async fn until_it_stands(&self, position: Position) -> Result<(), Stopped> {
        let Some(log) = self.bus.log() else { return Ok(()) };
        log.until_durable(position).await?;
        let mut applied = self.bus.applied();
        let (submitted, _) = self.progress.counts();
        let folded = async {
            while self.progress.counts().1 < submitted && applied.changed().await.is_ok() {}
        };
        tokio::select! {
            () = folded => Ok(()),
            _ = log.failed() => Err(Stopped::Closing),
        }
    }

    /// Decides what the attempt means, and records it.
    pub(super) fn end_command(
        &self,
        version: &Version,
        event: &Arc<Event>,
        attempt: &mut Attempt,
        view: Option<Arc<KeyView>>,
        outbox: &Outbox,
    ) -> Ending {
        let outcome = &attempt.invocation.outcome;
        let (number, first_ms, now_ms) = (attempt.number, attempt.first_ms, attempt.ended_ms);
        let jitter = fastrand::u64(..);
        self.tell_breaker(event, number == 1 && !attempt.redriven, outcome, now_ms);
        let step = step(&version.retry, number, first_ms, now_ms, outcome, jitter);
        if let Step::RetryAt(due_ms) = step {
            return self.retry(version, event, attempt, due_ms, outbox);
        }
        let kind = outcome.kind();
        let reason = outcome.reason();
        if kind != OutcomeKind::Ok {
            if kind != OutcomeKind::Reject {
                self.note_failure(now_ms, format!("{} {reason}", kind.name()));
                let name = command::name(event).unwrap_or_default();
                let backtrace = &attempt.invocation.backtrace;
                self.say(
                    "error",
                    format!("command `{name}`: {} {reason}\n{backtrace}", kind.name()),
                );
            }
            // A conflict is there already.
            let effects = &mut attempt.invocation.effects;
            effects.response.get_or_insert_with(|| command::failure(&reason));
        }
        self.complete(version, event, attempt, view, outbox, None)
    }
}

/// What a command gets next: as an event would, but for three things. Nobody waits for it past
/// [`COMMAND_RETRY_MS_MAX`]; a time that comes after that is not waited for; and what the same input
/// brings about again, or took all its time, is told at once.
fn step(
    policy: &RetryPolicy,
    attempt: u32,
    first_ms: u64,
    now_ms: u64,
    outcome: &Outcome,
    jitter: u64,
) -> Step {
    if !matches!(outcome, Outcome::Retry { .. }) {
        return if *outcome == Outcome::Ok { Step::Done } else { Step::GiveUp };
    }
    let give_up_after_ms = policy.give_up_after_ms.min(COMMAND_RETRY_MS_MAX);
    let policy = RetryPolicy { give_up_after_ms, ..*policy };
    match retry::next(&policy, attempt, first_ms, now_ms, outcome, jitter) {
        Step::RetryAt(due_ms) if due_ms > first_ms.saturating_add(give_up_after_ms) => Step::GiveUp,
        step => step,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(first_ms: u64, now_ms: u64, outcome: &Outcome) -> Step {
        step(&RetryPolicy::default(), 1, first_ms, now_ms, outcome, u64::MAX)
    }

    fn retry(after_ms: Option<u64>) -> Outcome {
        Outcome::Retry { reason: String::new(), after_ms }
    }

    #[test]
    fn only_a_wish_to_be_tried_again_is_granted_and_only_for_a_while() {
        let reject = Outcome::Reject { reason: String::new() };
        let trap = Outcome::Trap { reason: String::new() };
        for outcome in [reject, trap, Outcome::Fuel, Outcome::Timeout, Outcome::Memory] {
            assert_eq!(next(1000, 1000, &outcome), Step::GiveUp, "{outcome:?}");
        }
        assert_eq!(next(1000, 1000, &Outcome::Ok), Step::Done);
        assert_eq!(next(1000, 1000, &retry(None)), Step::RetryAt(1100));
        assert_eq!(next(1000, 1000, &retry(Some(500))), Step::RetryAt(1500));
        let end = 1000 + COMMAND_RETRY_MS_MAX;
        assert_eq!(next(1000, end - 10, &retry(None)), Step::RetryAt(end));
        assert_eq!(next(1000, end, &retry(None)), Step::GiveUp);
        assert_eq!(next(1000, 1000, &retry(Some(COMMAND_RETRY_MS_MAX + 1))), Step::GiveUp);
    }
}
