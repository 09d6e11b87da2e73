//! What the world outside may know of a plugin's state, and at which point of the log.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Runner;
use crate::effects::OutcomeKind;
use crate::event::{CommitNumber, Generation, Key, KeySequence, Position};
use crate::log::ReadError;
use crate::state::Owner;
use crate::state::cold::{ColdError, KeyValues};
use crate::wasm::Invocation;

/// How often is looked whether a position is completed, beside whenever something is folded: what
/// was only passed over is not.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Longest wait for the fold to come to the head of a key.
const LOOK_MAX: Duration = Duration::from_secs(1);
/// Looks at a key whose head the fold has not come to.
const LOOKS_MAX: u32 = 8;

/// The durable state of a plugin, for one key, at one commit.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The commit: everything up to it is in here, and nothing after it.
    pub commit: CommitNumber,
    /// The plugin has completed everything that is for it up to here; what came of that is in here.
    pub position: Position,
    /// Sequence of the key at the commit; 0: it has none. None: no key, or not known.
    pub sequence: Option<KeySequence>,
    /// The generation it is of.
    pub generation: Generation,
    /// Log time.
    pub now_ms: u64,
    /// Values of the key, ascending by name; those that are gone are not among them.
    pub values: KeyValues,
}

impl Runner {
    /// The durable state of a key, or of none.
    ///
    /// # Errors
    /// The state cannot be read.
    pub async fn snapshot(&self, key: Option<&Key>) -> Result<Snapshot, ColdError> {
        // Here, because nobody may be blocked further on, nor the ledger be locked for so long.
        self.bus.values().filled().await?;
        let mut applied = self.bus.applied();
        let mut looks = 0;
        loop {
            applied.borrow_and_update();
            let snapshot = self.look_at_state(key)?;
            looks += 1;
            if key.is_none() || snapshot.sequence.is_some() || looks == LOOKS_MAX {
                return Ok(snapshot);
            }
            // What the head speaks of is durable, so it is folded in a moment; unless the log ends.
            let folded = tokio::time::timeout(LOOK_MAX, applied.changed()).await;
            if !matches!(folded, Ok(Ok(()))) {
                return Ok(snapshot);
            }
        }
    }

    fn look_at_state(&self, key: Option<&Key>) -> Result<Snapshot, ColdError> {
        // The scheduler first: what it knows to be over was handed to the log before.
        let low = self.cursor().low;
        self.note_progress();
        let (submitted, _) = self.progress.counts();
        // While the ledger is locked nothing is folded, so values and ledger are of one commit.
        let ledger = self.bus.ledger();
        let (commit, last) = self.bus.folded();
        let folded = self.progress.counts().1 >= submitted || self.bus.log().is_none();
        let plugin = ledger.instance(self.instance);
        let rebuilding = plugin.and_then(crate::state::Instance::rebuilding).copied();
        let known = plugin.map_or(Position(0), |plugin| plugin.low);
        let reached = if folded { known.max(low) } else { known };
        // While a rewind is under way, what was there before it.
        let generation = plugin.map_or(self.generation, crate::state::Instance::serving);
        let now_ms = self.bus.now_ms();
        let values = match key {
            None => KeyValues::new(),
            Some(key) => {
                let owner = Owner { instance: self.instance, generation, key: key.clone() };
                self.bus.values().all(&owner, now_ms)?
            }
        };
        let sequence = key.and_then(|key| match self.bus.log() {
            None => Some(self.bus.head(key)),
            Some(log) => match log.head(key) {
                None => Some(KeySequence(0)),
                // What the values do not know of yet would promise too much.
                Some((sequence, position)) => (position <= last).then_some(sequence),
            },
        });
        drop(ledger);
        Ok(Snapshot {
            commit,
            position: self.shown(rebuilding.map_or(reached, |rewound| rewound.shown)),
            sequence,
            generation,
            now_ms,
            values,
        })
    }

    /// What was shown once is never taken back.
    fn shown(&self, position: Position) -> Position {
        let before = self.shown.fetch_max(position.0, Ordering::SeqCst);
        Position(before.max(position.0))
    }

    /// Keeps what a query logged, and how it failed.
    pub fn keep_query_logs(&self, invocation: &Invocation) {
        for line in &invocation.logs {
            self.say(&line.level, line.message.clone());
        }
        let kind = invocation.outcome.kind();
        if !matches!(kind, OutcomeKind::Ok | OutcomeKind::Reject | OutcomeKind::Retry) {
            let (reason, backtrace) = (invocation.outcome.reason(), &invocation.backtrace);
            self.say("error", format!("query: {} {reason}\n{backtrace}", kind.name()));
        }
    }

    /// Waits until a position is completed, and its effects folded; or is passed over, as it is not
    /// for this plugin. Cancel safe.
    ///
    /// # Errors
    /// The log cannot be read. [`ReadError::Closed`]: the host stops before that.
    pub async fn until_completed(&self, position: Position) -> Result<(), ReadError> {
        let mut applied = self.bus.applied();
        loop {
            let closing = self.bus.closing.is_cancelled();
            applied.borrow_and_update();
            if self.is_completed(position).await? {
                return Ok(());
            }
            if closing {
                return Err(ReadError::Closed);
            }
            // Whatever it was that woke us: look again.
            let _ = tokio::time::timeout(LOOK_EVERY, applied.changed()).await;
        }
    }

    async fn is_completed(&self, position: Position) -> Result<bool, ReadError> {
        let (is_known, is_rebuilding) = match self.bus.ledger().instance(self.instance) {
            Some(plugin) => (plugin.shows(position), plugin.rebuilding().is_some()),
            None => (false, false),
        };
        if is_known || position == Position(0) {
            return Ok(true);
        }
        if is_rebuilding || self.cursor().scanned < position {
            return Ok(false);
        }
        let subscriptions = self.subscriptions.load_full();
        let event = self.bus.event(position).await?;
        Ok(event.is_none_or(|event| !self.wants(&subscriptions, &event)))
    }
}
