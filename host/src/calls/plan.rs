//! Which call is sent next. Pure: calls go in, ends go in, what to send comes out.
//!
//! Calls of one key of a plugin make a line: in order, one at a time. Unkeyed calls stand alone. A
//! line that waits for its next attempt holds up nothing but itself.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use crate::event::{InstanceId, Key};
use crate::limits::{CALLS_SENDING_BUS_MAX, CALLS_SENDING_MAX};
use crate::state::{CallPlace, OpenCall};

/// What is sent in order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Line {
    Key(Key),
    Alone(CallPlace),
}

#[derive(Debug, Default)]
struct Waiting {
    calls: VecDeque<Arc<OpenCall>>,
    /// Attempts at the first of them.
    attempts: u32,
}

#[derive(Debug, Default)]
struct Plugin {
    lines: HashMap<Line, Waiting>,
    ready: VecDeque<Line>,
    sending: usize,
}

/// A call to be sent now.
#[derive(Debug, Clone)]
pub(super) struct Due {
    pub(super) call: Arc<OpenCall>,
    /// Number of this attempt in this run of the host, from 1.
    pub(super) attempt: u32,
}

/// How sending ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It is answered, or not open any more.
    Closed,
    /// Another attempt, not before this log time in milliseconds.
    RetryAt(u64),
    /// It was not sent, and that was no attempt: the plugin has stopped meanwhile.
    Unsent,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Plan {
    plugins: BTreeMap<InstanceId, Plugin>,
    /// By log time and a number.
    later: BTreeMap<(u64, u64), (InstanceId, Line)>,
    retries: u64,
    sending: usize,
}

impl Plan {
    /// Takes a call; those of one plugin in the order in which they were recorded.
    pub(super) fn add(&mut self, call: Arc<OpenCall>) {
        let plugin = self.plugins.entry(call.instance).or_default();
        let line = line(&call);
        let waiting = plugin.lines.entry(line.clone()).or_default();
        if waiting.calls.is_empty() {
            plugin.ready.push_back(line);
        }
        waiting.calls.push_back(call);
    }

    /// The next call to be sent at log time `now_ms`, of a plugin that may send; of several, of the
    /// one that sends the fewest.
    pub(super) fn next(&mut self, now_ms: u64, may: impl Fn(InstanceId) -> bool) -> Option<Due> {
        while let Some(later) = self.later.first_entry().filter(|later| later.key().0 <= now_ms) {
            let (instance, line) = later.remove();
            if let Some(plugin) = self.plugins.get_mut(&instance) {
                plugin.ready.push_back(line);
            }
        }
        if self.sending >= CALLS_SENDING_BUS_MAX {
            return None;
        }
        let (_, plugin) = self
            .plugins
            .iter_mut()
            .filter(|(_, plugin)| !plugin.ready.is_empty() && plugin.sending < CALLS_SENDING_MAX)
            .filter(|(instance, _)| may(**instance))
            .min_by_key(|(_, plugin)| plugin.sending)?;
        let waiting = plugin.lines.get_mut(&plugin.ready.pop_front()?)?;
        let call = Arc::clone(waiting.calls.front()?);
        waiting.attempts = waiting.attempts.saturating_add(1);
        plugin.sending += 1;
        self.sending += 1;
        Some(Due { call, attempt: waiting.attempts })
    }

    /// Takes the end of what [`Plan::next`] gave.
    pub(super) fn end(&mut self, call: &OpenCall, end: End) {
        self.sending = self.sending.saturating_sub(1);
        let Some(plugin) = self.plugins.get_mut(&call.instance) else { return };
        plugin.sending = plugin.sending.saturating_sub(1);
        let line = line(call);
        let Some(waiting) = plugin.lines.get_mut(&line) else { return };
        match end {
            End::Closed => {
                waiting.calls.pop_front();
                waiting.attempts = 0;
                if waiting.calls.is_empty() {
                    plugin.lines.remove(&line);
                } else {
                    plugin.ready.push_back(line);
                }
            }
            End::RetryAt(at_ms) => {
                self.retries += 1;
                self.later.insert((at_ms, self.retries), (call.instance, line));
            }
            End::Unsent => {
                waiting.attempts = waiting.attempts.saturating_sub(1);
                plugin.ready.push_back(line);
            }
        }
        if plugin.lines.is_empty() && plugin.sending == 0 {
            self.plugins.remove(&call.instance);
        }
    }

    /// Log time in milliseconds at which [`Plan::next`] may give something though nothing else
    /// happens.
    pub(super) fn due_ms(&self) -> Option<u64> {
        self.later.first_key_value().map(|((at_ms, _), _)| *at_ms)
    }
}

fn line(call: &OpenCall) -> Line {
    call.key.clone().map_or(Line::Alone(call.place), Line::Key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{CommitNumber, Generation, Position};

    fn call(number: u64, instance: u32, key: Option<&str>) -> Arc<OpenCall> {
        Arc::new(OpenCall {
            place: CallPlace { commit: CommitNumber(number), index: 0 },
            instance: InstanceId(instance),
            generation: Generation(0),
            position: Position(number),
            key: key.map(|key| Key::new(key).unwrap()),
            idempotency_key: number.to_string().into(),
            opened_ms: 0,
            request: None,
        })
    }

    fn plan(calls: &[(u64, u32, Option<&str>)]) -> Plan {
        let mut plan = Plan::default();
        calls.iter().for_each(|(number, instance, key)| plan.add(call(*number, *instance, *key)));
        plan
    }

    fn all(plan: &mut Plan, now_ms: u64) -> Vec<(u64, u32)> {
        std::iter::from_fn(|| plan.next(now_ms, |_| true))
            .map(|due| (due.call.position.0, due.attempt))
            .collect()
    }

    #[test]
    fn calls_of_a_key_go_one_after_the_other_and_keys_side_by_side() {
        let mut plan = plan(&[
            (1, 1, Some("a")),
            (2, 1, Some("a")),
            (3, 1, Some("b")),
            (4, 1, None),
            (5, 1, None),
        ]);
        assert_eq!(all(&mut plan, 0), [(1, 1), (3, 1), (4, 1), (5, 1)]);
        plan.end(&call(1, 1, Some("a")), End::Closed);
        assert_eq!(all(&mut plan, 0), [(2, 1)]);
    }

    #[test]
    fn a_line_that_waits_holds_up_only_itself() {
        let mut plan = plan(&[(1, 1, Some("a")), (2, 1, Some("a")), (3, 1, Some("b"))]);
        assert_eq!(all(&mut plan, 0), [(1, 1), (3, 1)]);
        plan.end(&call(1, 1, Some("a")), End::RetryAt(50));
        plan.end(&call(3, 1, Some("b")), End::Closed);
        assert_eq!((plan.due_ms(), all(&mut plan, 49)), (Some(50), vec![]));
        assert_eq!(all(&mut plan, 50), [(1, 2)]);
        plan.end(&call(1, 1, Some("a")), End::Closed);
        assert_eq!(all(&mut plan, 50), [(2, 1)], "attempts are counted call by call");
    }

    #[test]
    fn who_may_not_send_waits_without_an_attempt() {
        let mut plan = plan(&[(1, 1, None), (2, 2, None)]);
        assert_eq!(plan.next(0, |instance| instance.0 == 2).unwrap().call.position.0, 2);
        let due = plan.next(0, |_| true).unwrap();
        plan.end(&due.call, End::Unsent);
        assert_eq!(all(&mut plan, 0), [(1, 1)]);
    }

    #[test]
    fn no_plugin_sends_more_than_its_share() {
        let mut plan = Plan::default();
        for number in 0..100 {
            plan.add(call(number, 1, None));
        }
        plan.add(call(100, 2, None));
        let first = all(&mut plan, 0);
        assert_eq!(first.len(), CALLS_SENDING_MAX + 1);
        assert!(first.contains(&(100, 1)));
        plan.end(&call(0, 1, None), End::Closed);
        assert_eq!(all(&mut plan, 0).len(), 1);
    }

    #[test]
    fn nothing_is_left_of_what_is_closed() {
        let mut plan = plan(&[(1, 1, Some("a")), (2, 2, None)]);
        for (number, instance, key) in [(1, 1, Some("a")), (2, 2, None)] {
            let _ = plan.next(0, |one| one.0 == instance).unwrap();
            plan.end(&call(number, instance, key), End::Closed);
        }
        assert!(plan.plugins.is_empty() && plan.later.is_empty() && plan.sending == 0);
    }
}
