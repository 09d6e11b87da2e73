//! Calls that are recorded and not answered: what is still to be sent, as a function of the log.
//!
//! A completion opens its calls; the appended `tidegate.response` of a call closes it. What is kept
//! of a call is where it stands: its request is read again from there when it is sent.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::effects::OutgoingCall;
use crate::event::{CommitNumber, Generation, InstanceId, Key, Position};

/// What the id of a response begins with; the idempotency key of its call follows.
const RESPONSE_ID_PREFIX: &str = "response-";

/// Where a call stands. Ascending in the order in which calls were recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CallPlace {
    /// The commit of its delivery; on a memory bus, which has none, a number of its own.
    pub commit: CommitNumber,
    /// Its number among the calls of the commit, from 0.
    pub index: u32,
}

/// A call that is not answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenCall {
    /// Where it stands.
    pub place: CallPlace,
    /// The plugin that made it.
    pub instance: InstanceId,
    /// The generation of the plugin that made it.
    pub generation: Generation,
    /// The input of the delivery that made it.
    pub position: Position,
    /// The key of that input: the answer comes back on it.
    pub key: Option<Key>,
    /// Sent with every attempt.
    pub idempotency_key: Arc<str>,
    /// Log time at which it was recorded.
    pub opened_ms: u64,
    /// The request, where no log has it: on a memory bus.
    #[serde(skip)]
    pub request: Option<Arc<OutgoingCall>>,
}

/// The open calls of a bus.
#[derive(Debug, Clone, Default)]
pub struct OpenCalls {
    open: BTreeMap<CallPlace, Arc<OpenCall>>,
    places: HashMap<Arc<str>, CallPlace>,
    counts: HashMap<InstanceId, usize>,
}

/// The id of the event that answers the call with this idempotency key.
#[must_use]
pub fn response_id(idempotency_key: &str) -> Arc<str> {
    format!("{RESPONSE_ID_PREFIX}{idempotency_key}").into()
}

impl OpenCalls {
    /// Takes a call that was recorded. One that is open already changes nothing.
    pub fn open(&mut self, call: OpenCall) {
        if self.places.contains_key(&call.idempotency_key) || self.open.contains_key(&call.place) {
            return;
        }
        self.places.insert(Arc::clone(&call.idempotency_key), call.place);
        *self.counts.entry(call.instance).or_default() += 1;
        self.open.insert(call.place, Arc::new(call));
    }

    /// Takes the response to a call of this plugin, by the id of the event; true: it was open.
    pub fn answered(&mut self, instance: InstanceId, response_id: &str) -> bool {
        let Some(key) = response_id.strip_prefix(RESPONSE_ID_PREFIX) else { return false };
        let Some(place) = self.places.get(key).copied() else { return false };
        if self.open.get(&place).is_none_or(|call| call.instance != instance) {
            return false;
        }
        self.places.remove(key);
        self.open.remove(&place);
        if let Some(count) = self.counts.get_mut(&instance) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&instance);
            }
        }
        true
    }

    /// Drops the calls of a plugin that is forgotten.
    pub fn forget(&mut self, instance: InstanceId) {
        if self.counts.remove(&instance).is_none() {
            return;
        }
        self.open.retain(|_, call| call.instance != instance);
        let open = &self.open;
        self.places.retain(|_, place| open.contains_key(place));
    }

    /// The open call at a place.
    #[must_use]
    pub fn get(&self, place: CallPlace) -> Option<&Arc<OpenCall>> {
        self.open.get(&place)
    }

    /// Those recorded after `place`, in the order of the log; from the first one where it is none.
    pub fn after(&self, place: Option<CallPlace>) -> impl Iterator<Item = &Arc<OpenCall>> {
        use std::ops::Bound;
        let from = place.map_or(Bound::Unbounded, Bound::Excluded);
        self.open.range((from, Bound::Unbounded)).map(|(_, call)| call)
    }

    /// How many a plugin has.
    #[must_use]
    pub fn count(&self, instance: InstanceId) -> usize {
        self.counts.get(&instance).copied().unwrap_or_default()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

impl Serialize for OpenCalls {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.open.values())
    }
}

impl<'de> Deserialize<'de> for OpenCalls {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut calls = Self::default();
        Vec::<OpenCall>::deserialize(deserializer)?.into_iter().for_each(|call| calls.open(call));
        Ok(calls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(commit: u64, index: u32, instance: u32) -> OpenCall {
        OpenCall {
            place: CallPlace { commit: CommitNumber(commit), index },
            instance: InstanceId(instance),
            generation: Generation(0),
            position: Position(commit),
            key: Key::new("k").ok(),
            idempotency_key: format!("{commit}-{index}").into(),
            opened_ms: commit * 10,
            request: None,
        }
    }

    fn some() -> OpenCalls {
        let mut calls = OpenCalls::default();
        for (commit, index, instance) in [(3, 0, 1), (3, 1, 1), (5, 0, 2), (9, 0, 1)] {
            calls.open(call(commit, index, instance));
        }
        calls
    }

    fn left(calls: &OpenCalls) -> Vec<&str> {
        calls.after(None).map(|call| &*call.idempotency_key).collect()
    }

    #[test]
    fn a_response_closes_its_call_and_no_other() {
        let mut calls = some();
        assert!(calls.answered(InstanceId(1), &response_id("3-1")));
        assert!(!calls.answered(InstanceId(1), &response_id("3-1")), "it is closed already");
        assert!(!calls.answered(InstanceId(2), &response_id("3-0")), "it is another plugin's");
        assert!(!calls.answered(InstanceId(1), "3-0"), "it is no response");
        assert_eq!(left(&calls), ["3-0", "5-0", "9-0"]);
        assert_eq!((calls.count(InstanceId(1)), calls.count(InstanceId(2))), (2, 1));
    }

    #[test]
    fn a_call_is_open_once() {
        let mut calls = some();
        calls.open(call(3, 0, 1));
        assert_eq!((calls.len(), calls.count(InstanceId(1))), (4, 3));
    }

    #[test]
    fn who_is_forgotten_has_no_calls() {
        let mut calls = some();
        calls.forget(InstanceId(1));
        assert_eq!(left(&calls), ["5-0"]);
        assert!(!calls.answered(InstanceId(1), &response_id("9-0")));
        calls.open(call(9, 0, 1));
        assert_eq!(calls.count(InstanceId(1)), 1);
    }

    #[test]
    fn what_comes_after_a_place_is_found_though_that_is_closed() {
        let mut calls = some();
        calls.answered(InstanceId(1), &response_id("3-1"));
        let place = CallPlace { commit: CommitNumber(3), index: 1 };
        let after: Vec<_> = calls.after(Some(place)).map(|call| call.place.commit.0).collect();
        assert_eq!(after, [5, 9]);
    }

    #[test]
    fn they_survive_a_checkpoint() {
        let calls = some();
        let bytes = rmp_serde::to_vec_named(&calls).unwrap();
        let mut back: OpenCalls = rmp_serde::from_slice(&bytes).unwrap();
        assert_eq!(left(&back), left(&calls));
        assert!(back.answered(InstanceId(2), &response_id("5-0")));
        assert_eq!(back.count(InstanceId(1)), 3);
    }
}
