//! What a log can say: the records of a commit, owned for writing and borrowed for reading.
//!
//! The bytes are the business of the codec; this file is the vocabulary that the codec, the state
//! and the schedulers share. Adding a field here means adding it to the grammar in `log/FORMAT.md`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::effects::{OutcomeKind, OutgoingCall, Response, StateWrite, TimerChange};
use crate::event::{CommitNumber, Digest, Generation, InstanceId, Key, NewEvent, Position};

/// Under which circumstances a delivery ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Mode {
    /// In its turn.
    #[default]
    Live = 0,
    /// As a dead letter, or from the backlog behind one.
    Redrive = 1,
    /// While rebuilding state after a rewind: emits and calls are suppressed.
    Rebuild = 2,
    /// Both at once.
    #[serde(rename = "rebuild-redrive")]
    RebuildRedrive = 3,
}

impl Mode {
    /// Whether it repeats a delivery to an earlier generation.
    #[must_use]
    pub const fn is_rebuild(self) -> bool {
        matches!(self, Self::Rebuild | Self::RebuildRedrive)
    }

    /// Whether its guest is told that it is redriven.
    #[must_use]
    pub const fn is_redriven(self) -> bool {
        matches!(self, Self::Redrive | Self::RebuildRedrive)
    }
}

/// A delivery has ended: for good, unless [`Control::Park`] stands in the same commit. Written once
/// for each (instance, generation, position), and once more each time a dead letter is redriven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion {
    /// The plugin.
    pub instance: InstanceId,
    /// Its generation.
    pub generation: Generation,
    /// The input event.
    pub position: Position,
    /// The input's key: state writes and timers of the same commit belong to it.
    pub key: Option<Key>,
    /// Digest over module digest, manifest, configuration and host ABI: what the run depended on.
    pub environment: Digest,
    /// The attempt that ended it, from 1. 0: nothing ran; a rewind carried the state of the key over
    /// from the generation before, as it was after this position.
    pub attempt: u32,
    /// Why it ran.
    pub mode: Mode,
    /// How it ended. Anything but `Ok` comes with a dead letter, or with the response to a command.
    pub outcome: OutcomeKind,
    /// Fuel the attempt used.
    pub fuel: u64,
    /// Answer to a command, or how it failed; none: the input is no command.
    pub response: Option<Response>,
}

/// One commit of the effects lane: a completion with its effects, all or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryCommit {
    /// What is over.
    pub completion: Completion,
    /// Events it emitted: public ones of this bus, or addressed to another bus.
    pub emits: Vec<NewEvent>,
    /// State it wrote.
    pub state: Vec<StateWrite>,
    /// Timers it set or cancelled.
    pub timers: Vec<TimerChange>,
    /// Requests it wants sent.
    pub calls: Vec<OutgoingCall>,
    /// Set where the delivery was given up.
    pub dead_letter: Option<DeadLetterRecord>,
    /// Whether it was given up and its key, which it must have, waits behind it: adds
    /// [`Control::Park`], by `host`.
    pub park: bool,
}

/// An attempt that failed and is to be repeated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// The plugin.
    pub instance: InstanceId,
    /// Its generation.
    pub generation: Generation,
    /// The input event.
    pub position: Position,
    /// Its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Key>,
    /// Number of the attempt that failed, from 1.
    pub attempt: u32,
    /// Log time of the first attempt.
    pub first_ms: u64,
    /// How it failed.
    pub outcome: OutcomeKind,
    /// Why, for people.
    pub reason: String,
    /// Log time before which it is not tried again.
    pub due_ms: u64,
}

/// One line a guest logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// `trace`, `debug`, `info`, `warn` or `error`.
    pub level: String,
    /// The text.
    pub message: String,
}

impl LogLine {
    /// Whether it tells of an error.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.level == "error"
    }
}

/// A delivery that was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterRecord {
    /// Why, for people.
    pub reason: String,
    /// The guest's call stack, innermost first; empty where there is none.
    #[serde(default)]
    pub backtrace: String,
    /// What the guest logged in the last attempt.
    #[serde(default)]
    pub logs: Vec<LogLine>,
    /// Log time of the first attempt.
    pub first_ms: u64,
    /// Digest of the module that failed.
    pub module: Digest,
}

/// Everything that changes how a bus runs, as opposed to what it carries. Each stands in the log
/// with the actor who asked for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlRecord {
    /// Who asked: an authenticated name, `host`, or `operator`.
    pub actor: Arc<str>,
    /// What is to change.
    pub control: Control,
}

/// Deliveries of one plugin whose completions are lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostDeliveries {
    /// The plugin.
    pub instance: InstanceId,
    /// Its generation.
    pub generation: Generation,
    /// Input positions as runs, ascending: the first and the last of each.
    pub positions: Vec<(Position, Position)>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

/// What a [`ControlRecord`] changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Control {
    /// A plugin gets an instance id and its resolved start.
    Register {
        /// The new identity.
        instance: InstanceId,
        /// The name it is bound to.
        name: String,
        /// Events up to and including this position are not delivered.
        after: Position,
    },
    /// A module and manifest begin to serve.
    Activate {
        /// The plugin.
        instance: InstanceId,
        /// Its generation.
        generation: Generation,
        /// The module.
        module: Digest,
        /// See [`Completion::environment`].
        environment: Digest,
        /// The manifest as it was resolved, as TOML.
        manifest: String,
        /// The subscription holds for positions after this one.
        after: Position,
        /// A rollback ends with it, also where it pinned this very module. Hosts before did not say.
        #[serde(default, skip_serializing_if = "is_false")]
        unpins: bool,
    },
    /// No more deliveries until `Resume`.
    Pause {
        /// The plugin.
        instance: InstanceId,
        /// Why.
        reason: String,
    },
    /// Deliveries go on.
    Resume {
        /// The plugin.
        instance: InstanceId,
    },
    /// The instance is bound to another name.
    Rename {
        /// The plugin.
        instance: InstanceId,
        /// Its new name.
        name: String,
    },
    /// State is rebuilt from the events after a position.
    Rewind {
        /// The plugin.
        instance: InstanceId,
        /// The new generation.
        generation: Generation,
        /// Events after this one are delivered again.
        after: Position,
        /// Events after this one wait until the new generation has come to it, and serves.
        until: Position,
        /// Everything the plugin subscribed to at or below this one had been delivered. Like other
        /// deliveries that had ended, these are repeated as rebuild.
        #[serde(default)]
        done: Position,
    },
    /// The state up to where a generation begins is in place: what was carried over stands in
    /// completions of attempt 0.
    Carried {
        /// The plugin.
        instance: InstanceId,
        /// The generation.
        generation: Generation,
    },
    /// A generation has come to the end of its rewind, and serves.
    Rebuilt {
        /// The plugin.
        instance: InstanceId,
        /// The generation.
        generation: Generation,
    },
    /// The plugin runs this module until its file changes.
    Rollback {
        /// The plugin.
        instance: InstanceId,
        /// The pinned module.
        module: Digest,
    },
    /// A failed attempt.
    Attempt(AttemptRecord),
    /// The events of a key wait behind a dead letter. In the commit that gave it up: that delivery
    /// is not over, it runs again before they do.
    Park {
        /// The plugin.
        instance: InstanceId,
        /// The key.
        key: Key,
        /// The first position that waits.
        position: Position,
    },
    /// The events of a key wait because an operator says so.
    Hold {
        /// The plugin.
        instance: InstanceId,
        /// The key.
        key: Key,
        /// Why.
        reason: String,
    },
    /// The end of `Park` and `Hold`: the key goes on, and a dead letter that parked it stays one.
    Release {
        /// The plugin.
        instance: InstanceId,
        /// The key.
        key: Key,
    },
    /// A dead letter runs again; then what stands behind it, where it parks its key.
    Redrive {
        /// The plugin.
        instance: InstanceId,
        /// The dead letter's input.
        position: Position,
    },
    /// A dead letter is given up; the key goes on, where it was parked by it.
    Discard {
        /// The plugin.
        instance: InstanceId,
        /// The dead letter's input.
        position: Position,
        /// Why.
        reason: String,
    },
    /// The plugin and its state are gone; the name is free.
    Forget {
        /// The plugin.
        instance: InstanceId,
    },
    /// Values of a plugin that ended by a time are removed: no delivery of it to come is of an earlier
    /// one, but for keys that are parked or held. Those are passed over.
    Expire {
        /// The plugin.
        instance: InstanceId,
        /// Its generation.
        generation: Generation,
        /// Log time, milliseconds since the Unix epoch.
        until_ms: u64,
    },
    /// The log follows a wall clock that is ahead of it: what waits for log time sees all of that time
    /// pass at once.
    FollowClock {
        /// Log time, milliseconds since the Unix epoch.
        from_ms: u64,
        /// What the wall clock says, milliseconds since the Unix epoch.
        to_ms: u64,
    },
    /// Events of another bus arrived up to here; stands in the commit that brought them.
    Forwarded {
        /// The source bus.
        bus: String,
        /// Last position taken there.
        position: Position,
        /// Which log that bus had: a hash of its id, of zeros for a memory bus. Hosts before did not say.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        log: Option<Digest>,
    },
    /// A host started.
    Epoch {
        /// From 1, one more for each start.
        epoch: u32,
        /// Version of the host.
        host: String,
    },
    /// A checkpoint file was published.
    Checkpoint {
        /// The commit it stands for.
        commit: CommitNumber,
    },
    /// Payloads of a key were erased.
    Erase {
        /// The key.
        key: Key,
    },
    /// Commits were damaged and are lost, in whole or in part; stands in the place of the first of
    /// them. Their positions are held by events of type [`crate::event::LOST_EVENT`].
    Lost {
        /// The first commit of which something is lost.
        first: CommitNumber,
        /// The last.
        last: CommitNumber,
        /// Positions in them that are lost.
        events: u64,
        /// No plugin registered later has this identity, or a lower one.
        #[serde(default)]
        instances: InstanceId,
        /// Deliveries whose completion is lost and which are over nevertheless: later ones of their
        /// keys had ended.
        #[serde(default)]
        over: Vec<LostDeliveries>,
    },
    /// Segments up to a position were moved away.
    Archive {
        /// The last position moved.
        until: Position,
    },
}
