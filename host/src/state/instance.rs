//! One plugin, as the log knows it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use roaring::RoaringTreemap;
use serde::{Deserialize, Serialize};

use super::keys::KeyState;
use super::letters::Tried;
use super::rewind::Rewound;
use crate::event::{Digest, Generation, InstanceId, Key, Position};

/// A module and manifest that served, or serves, from a position on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activation {
    /// The subscription holds for positions after this one.
    pub after: Position,
    /// The module.
    pub module: Digest,
    /// See [`crate::log::record::Completion::environment`].
    pub environment: Digest,
    /// The resolved manifest as TOML.
    pub manifest: Arc<str>,
    /// Log time of the activation.
    pub at_ms: u64,
    /// The generation whose deliveries it is for.
    #[serde(default)]
    pub generation: Generation,
}

/// Failed attempts of a delivery that is still to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptState {
    /// The key of the input.
    pub key: Option<Key>,
    /// Attempts made.
    pub attempts: u32,
    /// Log time of the first one.
    pub first_ms: u64,
    /// Log time before which the next is not made.
    pub due_ms: u64,
    /// The last of them; see [`Tried::KEPT`].
    #[serde(default)]
    pub tried: Vec<Tried>,
}

/// One plugin, as the log knows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Instance {
    /// Its identity.
    pub id: InstanceId,
    /// The name it is bound to.
    pub name: String,
    /// How often its state was rebuilt.
    pub generation: Generation,
    /// Modules and manifests, oldest first. The last one serves.
    pub activations: Vec<Activation>,
    /// Why it is paused; none: it is not.
    pub paused: Option<String>,
    /// The module it keeps until its file changes.
    pub pinned: Option<Digest>,
    /// The module of its file when that was last activated; a rollback leaves it as it is.
    pub file: Option<Digest>,
    /// Everything the plugin subscribes to at or below this position is completed.
    pub low: Position,
    /// Completed positions above `low`.
    #[serde(with = "bitmap")]
    pub completed: RoaringTreemap,
    /// Deliveries that failed and are to be repeated.
    pub attempts: BTreeMap<Position, AttemptState>,
    /// Completions so far, by code of their outcome.
    pub outcomes: [u64; 9],
    /// Everything the plugin subscribes to at or below this position is completed, or of a key in
    /// `keys`: a restart reads on from here. At least `low`.
    #[serde(default)]
    pub seen: Position,
    /// Keys that are parked or held, or were and have not caught up yet.
    #[serde(default)]
    pub keys: BTreeMap<Key, KeyState>,
    /// Dead letters, by input: their numbers.
    #[serde(default)]
    pub letters: BTreeMap<Position, u64>,
    /// Dead letters that run again, and have not ended as yet.
    #[serde(default)]
    pub redriving: BTreeSet<Position>,
    /// Its rewinds, oldest first.
    #[serde(default)]
    pub rewinds: Vec<Rewound>,
    /// Whatever was delivered at or below this position was so by an earlier generation.
    #[serde(default)]
    pub repeats_low: Position,
    /// Positions above `repeats_low` whose delivery had ended in an earlier generation.
    #[serde(default, with = "bitmap")]
    pub repeats: RoaringTreemap,
    /// Positions among those whose delivery was given up there: nothing came of it as yet.
    #[serde(default, with = "bitmap")]
    pub given_up: RoaringTreemap,
}

impl Instance {
    /// One that is registered and was never activated.
    pub(super) fn new(id: InstanceId, name: &str, after: Position) -> Self {
        Self {
            id,
            name: name.to_owned(),
            generation: Generation(0),
            activations: Vec::new(),
            paused: None,
            pinned: None,
            file: None,
            low: after,
            completed: RoaringTreemap::new(),
            attempts: BTreeMap::new(),
            outcomes: [0; 9],
            seen: after,
            keys: BTreeMap::new(),
            letters: BTreeMap::new(),
            redriving: BTreeSet::new(),
            rewinds: Vec::new(),
            repeats_low: Position(0),
            repeats: RoaringTreemap::new(),
            given_up: RoaringTreemap::new(),
        }
    }

    /// Whether the delivery of `position` is over.
    #[must_use]
    pub fn is_completed(&self, position: Position) -> bool {
        position <= self.low || self.completed.contains(position.0)
    }

    /// The module and manifest that serve.
    #[must_use]
    pub fn active(&self) -> Option<&Activation> {
        self.activations.last()
    }

    pub(super) fn activate(&mut self, activation: Activation) {
        // Two activations from the same position on: nobody was judged by the earlier one, but its
        // module stays in the history, for people and for rollback.
        self.activations.push(activation);
        self.forget_activations();
    }

    /// Forgets the oldest activations, but none that judges what is still to be delivered, nor what
    /// queries run on while a rewind is under way.
    fn forget_activations(&mut self) {
        let mut excess = self.activations.len().saturating_sub(ACTIVATIONS_KEPT);
        let mut at = 0;
        let serving = self.serving();
        while excess > 0
            && let Some([one, next]) = self.activations.get(at..at + 2)
        {
            let judges = one.generation == self.generation
                && next.after > self.low
                && next.after > one.after;
            // The next one judges alike: it goes in its place, unless it is what serves.
            let goes_on = judges && one.manifest == next.manifest;
            let answers = one.generation == serving && next.generation != serving;
            match (judges || answers, goes_on && at + 2 < self.activations.len()) {
                (false, _) => drop(self.activations.remove(at)),
                (true, true) => drop(self.activations.remove(at + 1)),
                (true, false) => {
                    at += 1;
                    continue;
                }
            }
            excess -= 1;
        }
    }
}

/// Activations kept of one plugin, its history as people see it; more where they still judge events.
const ACTIVATIONS_KEPT: usize = 64;

mod bitmap {
    //! A bitmap in roaring's own portable format.

    use roaring::RoaringTreemap;
    use serde::{Deserialize, Deserializer, Serializer, de::Error, ser::Error as _};

    pub(super) fn serialize<S: Serializer>(map: &RoaringTreemap, to: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::with_capacity(map.serialized_size());
        map.serialize_into(&mut bytes).map_err(S::Error::custom)?;
        serde_bytes::serialize(&bytes, to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<RoaringTreemap, D::Error> {
        let bytes = serde_bytes::ByteBuf::deserialize(from)?;
        RoaringTreemap::deserialize_from(bytes.as_slice()).map_err(D::Error::custom)
    }
}
