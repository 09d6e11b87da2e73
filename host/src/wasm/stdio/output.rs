//! What a program writes: one JSON object a line. `wit/STDIO.md` promises every member, and what
//! becomes of a line that is not as it says.
//!
//! The rule that must not break: a line that makes no sense fails the delivery, by its number.
//! Guessing would lose what it meant.

mod line;
mod object;

use super::super::context::Denial;
use super::super::session::Session;
use line::{Line, Member};

/// The verdict a program printed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// None.
    Nothing,
    Ok,
    Retry {
        reason: String,
        after_ms: Option<u64>,
    },
    Reject {
        reason: String,
    },
}

/// What a program printed.
pub(super) struct Printed {
    pub(super) said: Said,
    /// Whether it answered what it was asked.
    pub(super) answered: bool,
}

/// Takes the effects a program printed, and its verdict. A budget that is exceeded is noted in the
/// session, as for any guest.
///
/// # Errors
/// A sentence naming the line that makes no sense.
pub(super) fn take(session: &mut Session, printed: &[u8], asked: bool) -> Result<Printed, String> {
    let mut taken = Printed { said: Said::Nothing, answered: false };
    for (number, line) in lines(printed) {
        take_line(session, line, asked, &mut taken)
            .map_err(|why| format!("standard output, line {number}{why}"))?;
    }
    Ok(taken)
}

/// Takes the log lines alone, of a program that was stopped: what it said until then.
pub(super) fn take_logs(session: &mut Session, printed: &[u8]) {
    for (_, line) in lines(printed) {
        // The last line may be half of one.
        if let Ok(Member::Log(log)) = Line::read(line).and_then(|line| line.member()) {
            log.take(session);
        }
    }
}

/// Lines that are not blank, counted from 1.
fn lines(printed: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let lines = printed.split(|byte| *byte == b'\n').enumerate();
    let lines = lines.filter(|(_, line)| !line.iter().all(u8::is_ascii_whitespace));
    lines.map(|(index, line)| (index + 1, line))
}

fn take_line(
    session: &mut Session,
    line: &[u8],
    asked: bool,
    taken: &mut Printed,
) -> Result<(), String> {
    let effect = match Line::read(line)?.member()? {
        Member::Outcome(_) if taken.said != Said::Nothing => {
            return Err(": a second `outcome`".to_owned());
        }
        Member::Outcome(said) => {
            taken.said = said;
            return Ok(());
        }
        Member::Response(_) if !asked => {
            return Err(": a `response`, but nothing was asked".to_owned());
        }
        Member::Response(_) if taken.answered => return Err(": a second `response`".to_owned()),
        Member::Response(response) => {
            taken.answered = true;
            response.take(session)
        }
        Member::Log(log) => {
            log.take(session);
            return Ok(());
        }
        Member::Emit(emit) => emit.take(session),
        Member::State(state) => state.take(session),
        Member::Timer(timer) => timer.take(session),
        Member::Call(call) => call.take(session),
    };
    match effect {
        Ok(()) | Err(Denial::Exceeded(_)) => Ok(()),
        Err(denial) => Err(format!(": {denial}")),
    }
}

#[cfg(test)]
mod tests;
