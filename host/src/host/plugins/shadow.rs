//! A new version runs beside the one that serves before it takes over: `run.shadow`.
//!
//! The plugin's turn is free meanwhile, so that it can be paused, rolled back or given yet another
//! module: whatever comes first ends the trial.

use std::fmt::Write as _;
use std::sync::Arc;

use super::diff::unhurried;
use super::install::Candidate;
use super::{Plugins, lock};
use crate::bus::replay::Change;
use crate::bus::runner::{Tally, Trial};
use crate::event::Digest;
use crate::schedule::pool::Share;

/// A version that has passed its trial.
#[derive(Debug, Clone)]
pub(super) struct Passed {
    /// See [`crate::log::record::Completion::environment`].
    environment: Digest,
    /// How it went, for people.
    pub(super) words: String,
}

impl Plugins {
    /// Begins a trial where one is asked for and was not passed: then this change is not installed
    /// now, but when the trial is over. Returns what happens, for people.
    ///
    /// # Errors
    /// The version cannot be compared with anything, in words for people.
    pub(super) fn try_beside(
        self: &Arc<Self>,
        candidate: &Candidate,
        change: u64,
    ) -> Result<Option<String>, String> {
        let Candidate { name, module, manifest, .. } = candidate;
        let environment = manifest.environment(module.digest);
        let deliveries = manifest.run.shadow;
        let runner = {
            let entries = lock(&self.entries);
            let Some(entry) = entries.get(name) else { return Ok(None) };
            let has_passed =
                entry.passed.as_ref().is_some_and(|passed| passed.environment == environment);
            entry.runner.clone().filter(|_| deliveries > 0 && !has_passed)
        };
        let Some(runner) = runner else { return Ok(None) };
        if runner.version().deliverer.environment == environment {
            return Ok(None);
        }
        let version = self.version(candidate, runner.instance(), runner.generation());
        if version.invoker.asks_outside() {
            let why = "`run.shadow` cannot be had for a module with `wasi:http`: what it asks outside \
                       would be asked twice";
            return Err(why.to_owned());
        }
        let trial = Trial {
            // At a low share a guest is slow for no fault of its own.
            version: Arc::new(unhurried(&version)),
            deliveries,
            differences: manifest.run.shadow_differences,
            tenant: self.means.pool.tenant_with(name, Share::Low),
        };
        let shown = format!("{} runs beside for {deliveries} deliveries", module.digest.short());
        let (plugins, name, digest) = (Arc::clone(self), name.clone(), module.digest);
        let differences = trial.differences;
        self.tasks.spawn(async move {
            let tally = runner.try_beside(trial).await;
            if tally.is_abandoned {
                return;
            }
            let words = words(&tally, differences);
            if tally.different > differences {
                plugins.fail_trial(&name, change, digest, words).await;
            } else {
                plugins.pass_trial(&name, change, Passed { environment, words }).await;
            }
        });
        Ok(Some(shown))
    }

    /// Ends the trial of a plugin, if there is one: there is something newer.
    pub(super) fn end_trial(&self, name: &str) {
        let runner = lock(&self.entries).get(name).and_then(|entry| entry.runner.clone());
        if let Some(runner) = runner {
            runner.end_trial();
        }
    }

    async fn pass_trial(self: &Arc<Self>, name: &str, change: u64, passed: Passed) {
        if let Some(entry) = lock(&self.entries).get_mut(name).filter(|e| e.change == change) {
            entry.passed = Some(passed);
        }
        self.install_change(name, change).await;
    }

    async fn fail_trial(&self, name: &str, change: u64, digest: Digest, words: String) {
        let Some(turn) = self.turn(name) else { return };
        let _turn = turn.lock().await;
        let is_newest = lock(&self.entries).get(name).is_some_and(|entry| entry.change == change);
        if is_newest {
            self.refuse(name, Some(digest), words);
        }
    }
}

/// How a trial went, for people.
fn words(tally: &Tally, allowed: u32) -> String {
    let all = tally.equal.saturating_add(tally.different);
    let mut words = format!("shadow: {} of {all} deliveries differ", tally.different);
    if tally.undecided > 0 {
        let _ = write!(words, " ({} prove nothing)", tally.undecided);
    }
    if tally.different > allowed {
        let _ = write!(words, ", `run.shadow-differences` allows {allowed}");
    }
    for (position, key, changes) in &tally.examples {
        let key = key.as_ref().map(|key| format!(" {key}")).unwrap_or_default();
        for Change { what, before, after } in changes.iter().take(2) {
            let _ = write!(words, "; #{position}{key} {what}: {before} -> {after}");
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Key, Position};

    #[test]
    fn words_name_what_differs_and_what_is_allowed() {
        let change = Change {
            what: "state `sum`".to_owned(),
            before: "40".to_owned(),
            after: "41".to_owned(),
        };
        let tally = Tally {
            equal: 7,
            different: 2,
            undecided: 1,
            examples: vec![(Position(12), Key::new("o-1").ok(), vec![change])],
            is_abandoned: false,
        };
        assert_eq!(
            words(&tally, 1),
            "shadow: 2 of 9 deliveries differ (1 prove nothing), `run.shadow-differences` allows 1; \
             #12 o-1 state `sum`: 40 -> 41"
        );
        assert!(!words(&tally, 2).contains("allows"));
    }
}
