//! Commands: from a plugin's name to its bus, and from what the log says to an answer.

use std::sync::Arc;

use crate::api::requests::{Answered, CommandRequest, RequestError};
use crate::bus::Bus;
use crate::bus::commands::{Answer, CommandError};
use crate::bus::runner::Runner;
use crate::command::Verdict;
use crate::event::Key;
use crate::limits::{COMMAND_KEY_LAG_MAX, COMMAND_KEY_WAIT_MS_MAX, COMMAND_LAG_EVENTS_MAX};
use crate::log::{AppendError, LogStats};
use crate::schedule::core::Until;

/// Has a command run, and says what came of it.
pub(super) async fn run(
    runner: Arc<Runner>,
    command: CommandRequest,
) -> Result<Answered, RequestError> {
    let bus = runner.bus();
    let to = runner.version().deliverer.clone();
    let (key, recorded) = (command.key.clone(), command.idempotency_key.is_some());
    let may_run = || may_run(bus, &runner, &key);
    let answer = bus.command(&to, command, may_run).await.map_err(request_error)?;
    let repeated = answer.repeated;
    answered(answer).map_err(|error| match recorded {
        true => RequestError::Recorded { error: Box::new(error), repeated },
        false => error,
    })
}

/// Whether a command would be delivered soon.
fn may_run(bus: &Bus, runner: &Runner, key: &Key) -> Result<(), CommandError> {
    if let Some(stats) = bus.log().map(crate::log::Log::stats).filter(LogStats::is_full) {
        let (free, needed) = (stats.free_bytes, stats.keep_free_bytes);
        return Err(AppendError::StorageFull { free, needed }.into());
    }
    let (name, standing) = (runner.name(), runner.standing(key));
    if standing.paused {
        return Err(CommandError::Unavailable(format!(
            "the plugin is paused, or fails too broadly: `tidegate plugins show {name}` says which, and \
             `tidegate plugins resume {name}` lets it go on"
        )));
    }
    if bus.ledger().instance(runner.instance()).is_some_and(|i| i.rebuilding().is_some()) {
        let why = "the plugin is being rebuilt: new events wait until that is over";
        return Err(CommandError::Unavailable(why.to_owned()));
    }
    let behind = bus.last_position().0.saturating_sub(standing.scanned.0);
    if behind > COMMAND_LAG_EVENTS_MAX {
        let why = format!(
            "the plugin is {behind} events behind, at most {COMMAND_LAG_EVENTS_MAX} are allowed"
        );
        return Err(CommandError::Unavailable(why));
    }
    let Some(view) = standing.key else { return Ok(()) };
    let waits = match view.until {
        _ if view.held => {
            Some(format!("is held by an operator: `tidegate keys release {name} {key}` ends that"))
        }
        Some(Until::Parked) => Some(format!(
            "is parked behind a dead letter: `tidegate dead-letters list --plugin {name} --key {key}`"
        )),
        Some(Until::Due(at_ms)) if at_ms > bus.now_ms().saturating_add(COMMAND_KEY_WAIT_MS_MAX) => {
            Some("waits for another attempt of a delivery".to_owned())
        }
        _ => view
            .deferred
            .filter(|deferred| deferred.count > COMMAND_KEY_LAG_MAX)
            .map(|deferred| format!("has {} deliveries before it", deferred.count)),
    };
    match waits {
        Some(waits) => Err(CommandError::Unavailable(format!("key `{key}` {waits}"))),
        None => Ok(()),
    }
}

fn answered(answer: Answer) -> Result<Answered, RequestError> {
    let Answer { commit, last_position: position, sequence, repeated, .. } = answer;
    match answer.verdict {
        Verdict::Answered(response) => Ok(Answered {
            content_type: response.content_type,
            data: response.data,
            attributes: response.attributes,
            commit,
            position,
            sequence,
            repeated,
        }),
        Verdict::SequenceConflict { expected, actual } => {
            Err(RequestError::SequenceConflict { expected, actual })
        }
        Verdict::Failed { outcome, reason } => Err(RequestError::Failed { outcome, reason }),
    }
}

fn request_error(error: CommandError) -> RequestError {
    let message = error.to_string();
    match error {
        CommandError::Unavailable(why) => RequestError::KeyUnavailable(why),
        CommandError::IdempotencyConflict { position } => {
            RequestError::IdempotencyConflict { message, position }
        }
        CommandError::NoLog { .. } => RequestError::Conflict(message),
        CommandError::Busy => RequestError::Busy(message),
        CommandError::NotAnswered { position } => RequestError::AnswerTimeout { message, position },
        CommandError::Stopped { position } => RequestError::Stopped { message, position },
        CommandError::Append(AppendError::StorageFull { .. }) => RequestError::StorageFull,
        CommandError::Append(AppendError::ShuttingDown) => RequestError::ShuttingDown,
        CommandError::Append(AppendError::ReadOnly(why)) => RequestError::ReadOnly(why.to_string()),
        CommandError::Append(_) | CommandError::Read(_) => RequestError::Internal(message),
    }
}
