//! What of a plugin waits, and why.

use crate::api::view::{PluginView, ThrottleView};
use crate::bus::runner::Runner;
use crate::schedule::core::Throttle;

pub(super) fn add(view: &mut PluginView, runner: &Runner) {
    let cursor = runner.cursor();
    view.waiting = cursor.waiting as u64;
    view.queued = cursor.in_flight.saturating_sub(cursor.running) as u64;
    view.deferred_events = cursor.deferred_events;
    view.retrying = cursor.retrying as u64;
    let show = |(throttle, keys): (Throttle, usize)| ThrottleView {
        limit: throttle.limit.to_owned(),
        prefix: throttle.prefix.map(|prefix| prefix.to_string()),
        keys: keys as u64,
    };
    view.throttled = runner.throttles().into_iter().map(show).collect();
}
