//! Commands on a durable bus: taken once, run in the order of their key, answered from the log.
//!
//! A command is appended as a private event and delivered like any other. Its answer is what its
//! completion says, read back from the log once that is durable and folded: so whoever asks again
//! gets the same answer, in this run of the host or in a later one.
//!
//! Rule: between looking for an identity in the ledger and noting that a command of it is under way
//! the desk stays locked, and the fold tells the desk only after the ledger. So no command is missed
//! by its repetition, and no answer by who waits for it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use uuid::Uuid;

use super::Bus;
use super::deliver::Deliverer;
use super::private;
use crate::command::{self, Command, Identity, RequestHash, Verdict};
use crate::event::{CommitNumber, InstanceId, KeySequence, Position};
use crate::limits::{COMMAND_ANSWER_MS_MAX, COMMANDS_WAITING_MAX};
use crate::log::{AppendError, CommitRef, CompletionRef, EventRef, Log, ReadError, RecordRef};
use crate::state::commands::Known;
use crate::state::{At, Ledger};

/// Why a command has no answer. Where nothing else is said, it was not appended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// It would not be delivered now.
    #[error("{0}")]
    Unavailable(String),
    /// The `Idempotency-Key` belongs to another request.
    #[error(
        "this `Idempotency-Key` came with another request, which stands at position {position}"
    )]
    IdempotencyConflict {
        /// Where the other one stands; 0: on its way into the log.
        position: Position,
    },
    /// The bus has no log.
    #[error("commands need a durable bus, and `{bus}` is a memory bus")]
    NoLog {
        /// The bus.
        bus: String,
    },
    /// As many clients wait for answers as may.
    #[error("{COMMANDS_WAITING_MAX} commands wait for their answers already")]
    Busy,
    /// It is in the log and will run, but has not in the time that clients wait.
    #[error(
        "the command stands at position {position} and has not run within {COMMAND_ANSWER_MS_MAX} \
         ms; it will: ask again with the same `Idempotency-Key` for its answer"
    )]
    NotAnswered {
        /// Where it stands.
        position: Position,
    },
    /// It is in the log, and the host stops before it has run.
    #[error(
        "the host is shutting down; the command stands at position {position} and runs after the next \
         start: ask again with the same `Idempotency-Key` for its answer"
    )]
    Stopped {
        /// Where it stands.
        position: Position,
    },
    /// The log takes nothing, or fell silent before the answer was in it.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The answer is in the log, and cannot be read.
    #[error("the answer cannot be read: {0}")]
    Read(String),
}

/// What a command came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The commit that ended it, with its effects.
    pub commit: CommitNumber,
    /// Where it stands itself.
    pub position: Position,
    /// The last event it emitted on this bus; itself where it emitted none.
    pub last_position: Position,
    /// Number of the last event that it emitted for its own key.
    pub sequence: Option<KeySequence>,
    /// How it went.
    pub verdict: Verdict,
    /// Whether it had been sent before.
    pub repeated: bool,
}

/// What the fold came across.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    /// A command is in the log.
    Placed { id: Box<str>, position: Position },
    /// The answer to a command is.
    Answered { position: Position, commit: CommitNumber },
}

/// Takes a private event into the ledger, where it is a command.
pub(super) fn fold_event(
    ledger: &mut Ledger,
    at: At,
    instance: InstanceId,
    event: &EventRef<'_>,
    news: &mut Vec<News>,
) {
    if event.kind != private::COMMAND {
        return;
    }
    let position = event.position;
    let content = (event.content_type, event.data);
    let attributes = event.attributes.iter();
    if let Some((identity, request)) =
        command::identity_of(instance, event.key, content, attributes)
    {
        let time_ms = at.time_ms;
        let known = Known { instance, position, request, answered: None, time_ms };
        ledger.commands_mut().apply_command(identity, known);
    }
    news.push(News::Placed { id: event.id.into(), position });
}

/// Takes a completion into the ledger, where it is that of a command: only those have an answer.
pub(super) fn fold_completion(
    ledger: &mut Ledger,
    at: At,
    done: &CompletionRef<'_>,
    news: &mut Vec<News>,
) {
    if done.response.is_none() {
        return;
    }
    if ledger.commands().is_open(done.position) {
        ledger.commands_mut().apply_completion(done.position, at.commit);
    }
    news.push(News::Answered { position: done.position, commit: at.commit });
}

type Told = Result<CommitNumber, CommandError>;

/// Who waits for the answers of one bus.
#[derive(Debug)]
pub(super) struct Desk {
    waiting: Mutex<Waiting>,
    room: Semaphore,
}

#[derive(Debug, Default)]
struct Waiting {
    /// For commands whose place is not known yet, by the id of their event.
    by_id: HashMap<Box<str>, Vec<oneshot::Sender<Told>>>,
    by_position: HashMap<Position, Vec<oneshot::Sender<Told>>>,
    /// On their way into the log and its fold.
    under_way: HashMap<Identity, RequestHash>,
}

/// What a command is, as far as one knows.
enum Begun {
    /// It was answered.
    Over { position: Position, commit: CommitNumber },
    /// It is in the log, or on its way there.
    UnderWay { position: Position, told: oneshot::Receiver<Told> },
    /// It was never seen.
    New { told: oneshot::Receiver<Told> },
}

impl Default for Desk {
    fn default() -> Self {
        Self { waiting: Mutex::default(), room: Semaphore::new(COMMANDS_WAITING_MAX) }
    }
}

impl Desk {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes on what the fold came across; the ledger has it already.
    pub(super) fn tell(&self, news: Vec<News>) {
        if news.is_empty() {
            return;
        }
        let mut waiting = self.waiting();
        for news in news {
            match news {
                News::Placed { id, position } => {
                    if let Some(mut found) = waiting.by_id.remove(&id) {
                        found.retain(|who| !who.is_closed());
                        waiting.by_position.entry(position).or_default().append(&mut found);
                    }
                }
                News::Answered { position, commit } => {
                    for who in waiting.by_position.remove(&position).unwrap_or_default() {
                        // Who does not wait any more is not told.
                        let _ = who.send(Ok(commit));
                    }
                }
            }
        }
    }

    fn begin(
        &self,
        bus: &Bus,
        id: &str,
        identity: Option<(Identity, RequestHash)>,
    ) -> Result<Begun, CommandError> {
        let mut waiting = self.waiting();
        waiting.sweep();
        let (tell, told) = oneshot::channel();
        let Some((identity, request)) = identity else {
            waiting.by_id.entry(id.into()).or_default().push(tell);
            return Ok(Begun::New { told });
        };
        if let Some(known) = bus.ledger().commands().get(identity) {
            let position = known.position;
            if known.request != request {
                return Err(CommandError::IdempotencyConflict { position });
            }
            if let Some(commit) = known.answered {
                return Ok(Begun::Over { position, commit });
            }
            waiting.by_position.entry(position).or_default().push(tell);
            return Ok(Begun::UnderWay { position, told });
        }
        let under_way = waiting.under_way.get(&identity).copied();
        if under_way.is_some_and(|other| other != request) {
            return Err(CommandError::IdempotencyConflict { position: Position(0) });
        }
        waiting.by_id.entry(id.into()).or_default().push(tell);
        if under_way.is_some() {
            return Ok(Begun::UnderWay { position: Position(0), told });
        }
        waiting.under_way.insert(identity, request);
        Ok(Begun::New { told })
    }
}

impl Waiting {
    /// Forgets who does not wait any more, once there are many.
    fn sweep(&mut self) {
        if self.by_id.len() + self.by_position.len() <= 2 * COMMANDS_WAITING_MAX {
            return;
        }
        let waits = |who: &oneshot::Sender<Told>| !who.is_closed();
        self.by_id.retain(|_, all| all.iter().any(waits));
        self.by_position.retain(|_, all| all.iter().any(waits));
    }
}

/// Ends the note that a command is under way, once the ledger has it or never will.
struct UnderWay<'a> {
    desk: &'a Desk,
    /// None: it has none, or the note has ended.
    identity: Option<Identity>,
}

impl UnderWay<'_> {
    /// The command will never be in the log: whoever waits for it is told why, and whoever comes after
    /// that finds nothing under way. Otherwise a repetition in between would wait for nobody.
    fn abandon(mut self, id: &str, why: &CommandError) {
        let mut waiting = self.desk.waiting();
        // Taken: the next note of this identity is that of a repetition, and not to be ended here.
        if let Some(identity) = self.identity.take() {
            waiting.under_way.remove(&identity);
        }
        for who in waiting.by_id.remove(id).unwrap_or_default() {
            let _ = who.send(Err(why.clone()));
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if let Some(identity) = &self.identity {
            self.desk.waiting().under_way.remove(identity);
        }
    }
}

impl Bus {
    /// Has a command run by the plugin of `to`, and waits for what it comes to. `may_run` is asked
    /// before a command is appended, not before one that is known is answered.
    ///
    /// To be run to its end: dropped before it is in the log, a command may run twice where it is
    /// sent again at that moment.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn command(
        &self,
        to: &Deliverer,
        command: Command,
        may_run: impl FnOnce() -> Result<(), CommandError> + Send,
    ) -> Result<Answer, CommandError> {
        let log = self.log().ok_or_else(|| CommandError::NoLog { bus: self.name().to_string() })?;
        let _room = self.desk.room.try_acquire().map_err(|_| CommandError::Busy)?;
        let identity = command.identity(to.instance);
        let id = event_id(log, identity.map(|(identity, _)| identity));
        match self.desk.begin(self, &id, identity)? {
            Begun::Over { position, commit } => read(log, position, commit, true).await,
            Begun::UnderWay { position, told } => {
                let (position, commit) = self.answered(log, position, told).await?;
                read(log, position, commit, true).await
            }
            Begun::New { told } => {
                let identity = identity.map(|(identity, _)| identity);
                let under_way = UnderWay { desk: &self.desk, identity };
                let appended = match may_run() {
                    Ok(()) => self.append_command(to, command, &id).await,
                    Err(error) => Err(error),
                };
                let position = match appended {
                    Ok(position) => position,
                    Err(error) => {
                        under_way.abandon(&id, &error);
                        return Err(error);
                    }
                };
                drop(under_way);
                let (position, commit) = self.answered(log, position, told).await?;
                read(log, position, commit, false).await
            }
        }
    }

    /// Appends a command, and waits until the ledger knows of it.
    async fn append_command(
        &self,
        to: &Deliverer,
        command: Command,
        id: &str,
    ) -> Result<Position, CommandError> {
        let mut event = private::event(to, command.clone().content(id.into()));
        event.principal = command.principal;
        let committed = self.append_private(vec![event]).done().await?;
        self.until_applied(committed.commit).await;
        Ok(committed.first_position.unwrap_or_default())
    }

    /// Waits until a command is answered; position 0: it is on its way into the log.
    async fn answered(
        &self,
        log: &Log,
        position: Position,
        told: oneshot::Receiver<Told>,
    ) -> Result<(Position, CommitNumber), CommandError> {
        let limit = Duration::from_millis(COMMAND_ANSWER_MS_MAX);
        let stopped = match position {
            Position(0) => CommandError::Append(AppendError::ShuttingDown),
            position => CommandError::Stopped { position },
        };
        let told = async {
            tokio::select! {
                biased;
                told = told => told.unwrap_or(Err(stopped.clone())),
                failure = log.failed() => Err(CommandError::Append(AppendError::ReadOnly(failure))),
                () = self.closing.cancelled() => Err(stopped.clone()),
            }
        };
        match tokio::time::timeout(limit, told).await {
            Ok(told) => Ok((position, told?)),
            Err(_) => Err(CommandError::NotAnswered { position }),
        }
    }
}

/// Made again for a repetition it is the same.
fn event_id(log: &Log, identity: Option<Identity>) -> String {
    let id = match identity {
        Some(Identity(identity)) => Uuid::new_v5(&log.id(), &identity.to_le_bytes()),
        None => Uuid::new_v4(),
    };
    id.to_string()
}

/// The answer as the log has it.
async fn read(
    log: &Log,
    position: Position,
    commit: CommitNumber,
    repeated: bool,
) -> Result<Answer, CommandError> {
    let answer = log.read_commit(commit, answer_of).await;
    let answer = answer.map_err(|error| CommandError::Read(error.to_string()))?;
    let answer = answer.filter(|answer| position.0 == 0 || answer.position == position);
    answer
        .map(|answer| Answer { repeated, ..answer })
        .ok_or_else(|| CommandError::Read(format!("commit {commit} holds none")))
}

fn answer_of(commit: &CommitRef<'_>) -> Result<Option<Answer>, ReadError> {
    let mut completion: Option<CompletionRef<'_>> = None;
    let mut events: Vec<(Position, KeySequence, Option<&str>)> = Vec::new();
    for record in commit.records() {
        match record? {
            RecordRef::Completion(done) => completion = Some(done),
            RecordRef::Event(event) if event.addressee.is_none() => {
                events.push((event.position, event.sequence, event.key));
            }
            _ => {}
        }
    }
    let Some(done) = completion else { return Ok(None) };
    let last = events.last().map(|(position, ..)| *position);
    let own = events.iter().rev().find(|(_, _, key)| *key == done.key);
    let response = done.response.map(|response| response.to_owned());
    Ok(Some(Answer {
        commit: commit.number,
        position: done.position,
        last_position: last.unwrap_or(done.position),
        sequence: own.map(|(_, sequence, _)| *sequence),
        verdict: command::verdict(done.outcome, response),
        repeated: false,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::memory::{MemoryOptions, Order, Overflow};
    use crate::clock::SystemClock;

    #[test]
    fn who_repeats_an_abandoned_command_does_not_wait_for_it() {
        let options = MemoryOptions { capacity: 4, overflow: Overflow::Reject, order: Order::Key };
        let bus = Bus::memory("m", options, std::sync::Arc::new(SystemClock::new()));
        let identity = Identity(1);
        let begin = || bus.desk.begin(&bus, "id", Some((identity, RequestHash(2)))).unwrap();
        let note = || UnderWay { desk: &bus.desk, identity: Some(identity) };
        let Begun::New { told: mut first } = begin() else { panic!("it was never seen") };
        note().abandon("id", &CommandError::Busy);
        assert_eq!(first.try_recv(), Ok(Err(CommandError::Busy)));
        let again = begin();
        assert!(matches!(again, Begun::New { .. }), "nobody would ever tell it");
        // The note that was given up is not the one that stands now.
        assert!(matches!(begin(), Begun::UnderWay { .. }), "the repetition is under way");
        drop(note());
        assert!(matches!(begin(), Begun::New { .. }), "it is not any more");
    }
}
