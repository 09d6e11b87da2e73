//! From the way a guest ended to the outcome of its delivery. Decides by type, never by text.

use wasmtime::{PoolConcurrencyLimitError, Trap};
use wasmtime_wasi::I32Exit;

use super::backtrace;
use super::bindings::exports::tidegate::plugin::upcaster;
use super::bindings::tidegate::plugin::types::Failure;
use super::check;
use super::context::{Denial, Exceeded};
use super::delivery::Lifted;
use super::invoke::Returned;
use super::limits::Breach;
use crate::effects::Outcome;
use crate::limits;
use crate::log::record::LogLine;

/// Lines of a guest's last words that its reason takes: what happened, and where.
const LAST_WORDS_LINES: usize = 2;

/// What became of a delivery, its effects aside.
pub(super) struct Verdict {
    pub(super) outcome: Outcome,
    pub(super) lifted: Option<Lifted>,
    pub(super) backtrace: String,
}

impl From<Outcome> for Verdict {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, lifted: None, backtrace: String::new() }
    }
}

/// Judges how a guest ended that logged this. A budget that was exceeded turns an ok into `output` or
/// `depth`; a failure of the guest's own choice stands.
pub(super) fn of(
    ended: wasmtime::Result<Returned>,
    exceeded: Option<Exceeded>,
    logs: &[LogLine],
) -> Verdict {
    match ended {
        Ok(Returned::Done) => exceeded.map_or(Outcome::Ok, Exceeded::outcome).into(),
        Ok(Returned::Lifted(lifted)) => {
            Verdict { lifted: Some(lifted), ..Verdict::from(Outcome::Ok) }
        }
        Ok(Returned::Failed(failure)) => failed(failure).into(),
        Ok(Returned::Broken(why)) => trap(&why).into(),
        Ok(Returned::Exited(code)) => exited(code, logs).into(),
        Err(error) => Verdict { backtrace: backtrace::of(&error), ..stopped(&error, logs).into() },
    }
}

/// What an upcaster returned, checked against what it promises.
pub(super) fn lifted(returned: Result<upcaster::Lifted, String>, version: u32) -> Returned {
    let lifted = match returned {
        Ok(lifted) => lifted,
        Err(why) => return Returned::Failed(Failure::Reject(why)),
    };
    let checked = check::content_type(&lifted.content_type).and_then(|()| {
        check::bytes("`data`", lifted.data.len(), limits::EVENT_DATA_BYTES_MAX)?;
        if lifted.version <= version {
            return Err(format!("version {} is not above {version}", lifted.version));
        }
        Ok(())
    });
    match checked {
        Ok(()) => Returned::Lifted(Lifted {
            version: lifted.version,
            content_type: lifted.content_type,
            data: lifted.data.into(),
        }),
        Err(why) => Returned::Broken(format!("upcast: {why}")),
    }
}

/// Whether a response was taken. One that is too large has been noted in the session.
pub(super) fn responded(taken: Result<(), Denial>) -> Returned {
    match taken {
        Ok(()) | Err(Denial::Exceeded(_)) => Returned::Done,
        Err(denial) => Returned::Broken(format!("response: {denial}")),
    }
}

fn failed(failure: Failure) -> Outcome {
    match failure {
        Failure::Retry(retry) => Outcome::Retry {
            reason: kept(&retry.reason),
            after_ms: retry.after_ms.map(|after_ms| after_ms.min(limits::RETRY_AFTER_MS_MAX)),
        },
        Failure::Reject(reason) => Outcome::Reject { reason: kept(&reason) },
    }
}

fn stopped(error: &wasmtime::Error, logs: &[LogLine]) -> Outcome {
    if let Some(breach) = error.downcast_ref::<Breach>() {
        return match breach {
            Breach::Memory => Outcome::Memory,
            Breach::Output { budget } => Outcome::Output { budget: (*budget).to_owned() },
            Breach::Timeout => Outcome::Timeout,
            Breach::Long | Breach::Idle => trap(&breach.to_string()),
        };
    }
    if let Some(code) = error.downcast_ref::<Trap>() {
        return match code {
            Trap::OutOfFuel => Outcome::Fuel,
            Trap::Interrupt => Outcome::Timeout,
            Trap::UnreachableCodeReached => {
                trap(&last_words(logs).unwrap_or_else(|| code.to_string()))
            }
            other => trap(&other.to_string()),
        };
    }
    if let Some(I32Exit(code)) = error.downcast_ref::<I32Exit>() {
        return exited(*code, logs);
    }
    if error.downcast_ref::<PoolConcurrencyLimitError>().is_some() {
        // Not the guest's doing: the same delivery runs once others have let go.
        let reason = "no room for another instance in the pool".to_owned();
        return Outcome::Retry { reason, after_ms: None };
    }
    trap(&error.root_cause().to_string())
}

/// Of a guest that ended itself.
fn exited(code: i32, logs: &[LogLine]) -> Outcome {
    let mut reason = format!("exited with code {code}");
    if let Some(words) = last_words(logs) {
        reason.push_str(": ");
        reason.push_str(&words);
    }
    trap(&reason)
}

/// What a guest said of an error before it gave up: a panic, an exception that nobody caught. To
/// WebAssembly all of them are the same instruction.
fn last_words(logs: &[LogLine]) -> Option<String> {
    let last = logs.iter().rfind(|line| line.is_error())?;
    let lines = last.message.lines().map(str::trim).filter(|line| !line.is_empty());
    let words: Vec<&str> = lines.take(LAST_WORDS_LINES).collect();
    (!words.is_empty()).then(|| words.join(" "))
}

fn trap(reason: &str) -> Outcome {
    Outcome::Trap { reason: kept(reason) }
}

fn kept(reason: &str) -> String {
    check::cut(reason, limits::REASON_BYTES_MAX).to_owned()
}
