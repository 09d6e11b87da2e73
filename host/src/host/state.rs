//! Looking at keyed state: as it is, and as it was.

use std::sync::Arc;

use super::{Host, events};
use crate::api::filter::Point;
use crate::api::host::{HostError, StateEntry};
use crate::bus::past::{Moment, PastError};
use crate::event::Key;
use crate::state::Value;

impl Host {
    /// Values of a key that `wanted` picks by name, ascending, at most `limit`; now, or as they were.
    pub(super) async fn state_entries(
        &self,
        plugin: &str,
        key: &Key,
        at: Option<Point>,
        wanted: &(dyn Fn(&str) -> bool + Sync),
        limit: usize,
    ) -> Result<Vec<StateEntry>, HostError> {
        let (bus, owner) = self.owner(plugin, key)?;
        let Some(at) = at else {
            let all = bus.values().all(&owner, bus.now_ms());
            let all = all.map_err(|error| HostError::Internal(error.to_string()))?;
            let all = all.into_iter().filter(|(name, _)| wanted(name)).take(limit);
            return Ok(all.map(|(name, value)| entry(name, value)).collect());
        };
        let moment = match at {
            Point::Position(position) => Moment::After(position),
            Point::TimeMs(ms) => Moment::At(ms),
        };
        let past = bus.past(&owner, moment).await.map_err(past_error)?;
        let values = past.values().filter(|(name, _)| wanted(name)).take(limit);
        Ok(values.map(|(name, value)| entry(Arc::clone(name), value.clone())).collect())
    }
}

fn entry(name: Arc<str>, value: Value) -> StateEntry {
    StateEntry { name, value: value.bytes, expires_ms: value.expires_ms }
}

fn past_error(error: PastError) -> HostError {
    match error {
        PastError::Read(error) => events::read_error(error),
        error @ PastError::Forgotten(_) => {
            HostError::Invalid { field: "at".to_owned(), why: format!("cannot be asked: {error}") }
        }
        error @ (PastError::PositionAhead(_) | PastError::TimeAhead) => {
            HostError::Invalid { field: "at".to_owned(), why: error.to_string() }
        }
    }
}
