//! Answers to calls, as the host would append them.

use super::input::{Input, event};
use super::record::Called;
use crate::calls::ANSWERED;

/// The answer to a call that a delivery recorded, with this status and no body; add one with
/// [`Input::json`] or [`Input::bytes`].
pub fn answered(call: &Called, status: u16) -> Input {
    let input = event(ANSWERED)
        .id(&format!("response-{}", call.id))
        .attribute("callattempts", "1")
        .attribute("callid", &call.id)
        .attribute("callname", &call.name)
        .attribute("callstatus", &status.to_string());
    match &call.key {
        Some(key) => input.key(key),
        None => input,
    }
}

/// The end of a call that the host gave up without an answer: `timeout`, `connect`, `dns`, ... as
/// [`calls::Answer::error`](crate::calls::Answer::error) has them.
pub fn given_up(call: &Called, error: &str) -> Input {
    answered(call, 0).attribute("callerror", error)
}
