//! Looking at pending timers.

use std::sync::Arc;

use super::{Host, events};
use crate::api::host::HostError;
use crate::api::view::{TimerView, TimersView, Timestamp};
use crate::bus::timers;
use crate::event::{CommitNumber, Key};
use crate::state::timers::{Due, SetAt};

impl Host {
    /// Pending timers of a plugin, the next one due first, after a place that a page ended at.
    pub(super) async fn list_timers(
        &self,
        plugin: &str,
        key: Option<&Key>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<TimersView, HostError> {
        let after = after.map(|text| parse(text).ok_or_else(invalid)).transpose()?;
        let (bus, holder) = self.registered(plugin, |bus, instance| {
            (Arc::clone(bus), (instance.id, instance.generation))
        })?;
        let Some(log) = bus.log() else { return Ok(TimersView::default()) };
        let page = bus.values().timers().page(holder, key.map(Key::hash128), after, limit);
        let last = page.last().filter(|_| page.len() >= limit);
        let next = last.map(|timer| print(timer.due));
        let sets = page.iter().map(|timer| timer.due.set);
        let settings = timers::settings(log, sets).await.map_err(events::read_error)?;
        let views = page.into_iter().zip(settings).filter_map(|(timer, setting)| {
            let setting = setting?;
            // Listed by a part of the key's hash.
            key.is_none_or(|key| *key == setting.key).then(|| TimerView {
                key: setting.key.to_string(),
                name: setting.name.to_string(),
                due: Timestamp(timer.due.due_ms),
                fired: timer.fired.map(|position| position.0),
                bytes: setting.data.len() as u64,
            })
        });
        Ok(TimersView { timers: views.collect(), next })
    }
}

fn invalid() -> HostError {
    let why = "is not where a page of timers ended".to_owned();
    HostError::Invalid { field: "after".to_owned(), why }
}

fn print(Due { due_ms, set }: Due) -> String {
    format!("{due_ms}-{}-{}", set.commit.0, set.index)
}

fn parse(text: &str) -> Option<Due> {
    let mut parts = text.split('-');
    let due_ms = parts.next()?.parse().ok()?;
    let commit = CommitNumber(parts.next()?.parse().ok()?);
    let set = SetAt { commit, index: parts.next()?.parse().ok()? };
    parts.next().is_none().then_some(Due { due_ms, set })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_can_be_named_and_nothing_else_is_a_name() {
        let set = SetAt { commit: CommitNumber(7), index: 3 };
        let due = Due { due_ms: u64::MAX, set };
        assert_eq!(parse(&print(due)), Some(due));
        for text in ["", "1", "1-2", "1-2-x", "1-2-3-4", "-1-2-3"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
