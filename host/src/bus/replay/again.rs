//! One past delivery run again, and what to make of it.

use std::sync::Arc;

use super::carried::Seen;
use super::compare::changes;
use super::{Judged, Obstacle, Verdict};
use crate::bus::Bus;
use crate::bus::deliver::{self, Ended};
use crate::bus::runner::Version;
use crate::effects::{Outcome, OutcomeKind};
use crate::event::{Digest, Event};
use crate::log::record::{DeadLetterRecord, DeliveryCommit};
use crate::wasm::{Delivery, Invocation, Seed, Slot};

/// One delivery about to run again.
pub(in crate::bus) struct Again {
    pub(in crate::bus) bus: Arc<Bus>,
    pub(in crate::bus) version: Arc<Version>,
    /// As it stands in the log.
    pub(in crate::bus) input: Arc<Event>,
    /// How it ended.
    pub(in crate::bus) done: DeliveryCommit,
    /// What it saw of its key.
    pub(in crate::bus) seen: Arc<Seen>,
}

impl Again {
    /// Runs it on an instance of its own, and compares.
    pub(in crate::bus) async fn run(self) -> Judged {
        let completion = &self.done.completion;
        let (position, key) = (completion.position, completion.key.clone());
        let verdict = match self.bus.upcasters().lift(&self.input).await {
            Ok(shape) => self.judge(shape).await,
            Err(failed) if failed.outcome.kind() == OutcomeKind::Retry => {
                Verdict::NotReplayable(Obstacle::Upcaster)
            }
            Err(failed) => self.verdict(&self.ended(failed)),
        };
        Judged { position, key, verdict }
    }

    async fn judge(&self, shape: Arc<Event>) -> Verdict {
        let again = self.invoke(Arc::clone(&shape), Arc::clone(&self.seen)).await;
        let verdict = self.verdict(&again);
        if matches!(verdict, Verdict::Different(_)) && has_failed(&self.done) {
            for seen in self.seen.without_room() {
                let refused = self.invoke(Arc::clone(&shape), Arc::new(seen)).await;
                if fails_alike(&self.done, &refused) {
                    return Verdict::NotReplayable(Obstacle::Room);
                }
            }
        }
        verdict
    }

    async fn invoke(&self, event: Arc<Event>, seen: Arc<Seen>) -> DeliveryCommit {
        let (completion, version) = (&self.done.completion, &self.version);
        let delivery = Delivery {
            event: &event,
            attempt: completion.attempt,
            redriven: completion.mode.is_redriven(),
            seed: Seed {
                log_id: self.bus.log_id(),
                instance: completion.instance,
                generation: completion.generation,
                recorded_ms: self.input.recorded_ms,
            },
            config: &version.config,
            limits: &version.limits,
            state: seen,
            outside: None,
        };
        self.ended(version.invoker.invoke(&mut Slot::default(), delivery).await)
    }

    /// What would be recorded of it.
    fn ended(&self, mut invocation: Box<Invocation>) -> DeliveryCommit {
        let (completion, version) = (&self.done.completion, &self.version);
        self.bus.only_recordable(&version.deliverer, &self.input, &mut invocation);
        let outcome = invocation.outcome;
        let kind = outcome.kind();
        let ended = Ended {
            attempt: completion.attempt,
            outcome: kind,
            fuel: invocation.fuel,
            mode: completion.mode,
            dead_letter: (kind != OutcomeKind::Ok).then(|| failure(&outcome, version.digest)),
            park: false,
        };
        deliver::commit(&version.deliverer, &self.input, ended, &mut invocation.effects)
    }

    fn verdict(&self, again: &DeliveryCommit) -> Verdict {
        let same_version = self.version.deliverer.environment == self.done.completion.environment;
        verdict(&self.input, &self.done, again, same_version)
    }
}

fn failure(outcome: &Outcome, module: Digest) -> DeadLetterRecord {
    DeadLetterRecord {
        reason: outcome.reason(),
        backtrace: String::new(),
        logs: Vec::new(),
        first_ms: 0,
        module,
    }
}

fn has_failed(commit: &DeliveryCommit) -> bool {
    commit.completion.outcome != OutcomeKind::Ok
}

/// Whether a delivery that ran again has ended as the one that failed then, also in its words.
fn fails_alike(recorded: &DeliveryCommit, again: &DeliveryCommit) -> bool {
    let words = again.dead_letter.as_ref().map(|dead| &dead.reason);
    recorded.completion.outcome == again.completion.outcome
        && recorded.dead_letter.as_ref().is_none_or(|dead| words == Some(&dead.reason))
}

/// What to make of a delivery that ran again.
pub(super) fn verdict(
    input: &Event,
    recorded: &DeliveryCommit,
    again: &DeliveryCommit,
    same_version: bool,
) -> Verdict {
    let outcomes = [recorded.completion.outcome, again.completion.outcome];
    if outcomes.contains(&OutcomeKind::Timeout) {
        return Verdict::NotReplayable(Obstacle::Timeout);
    }
    let [was, is] = outcomes;
    let by_instance = |kind| matches!(kind, OutcomeKind::Fuel | OutcomeKind::Memory);
    if same_version && was != is && (by_instance(was) || by_instance(is)) {
        return Verdict::NotReplayable(Obstacle::Instance);
    }
    let changes = changes(input, recorded, again);
    if changes.is_empty() { Verdict::Equal } else { Verdict::Different(changes) }
}
