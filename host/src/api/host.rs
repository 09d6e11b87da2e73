//! What the HTTP server asks of the host: the one boundary between `api` and everything else.
//!
//! The rule: nothing here knows about HTTP. Errors say *what* happened; [`super::errors`] alone
//! decides which status that is. Everything a method returns is durable.

use std::sync::Arc;

use bytes::Bytes;
use ecow::{EcoBytes, EcoString};
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

use super::filter::{EventFilter, Point};
pub use super::requests::{Answered, CommandRequest, QueryRequest, RequestError};
use super::view::{
    ActedView, BusKind, BusView, ClockView, DeadLetterView, DeliveryView, DiffView, KeyView,
    LogLineView, PluginView, PluginsView, StatusView, TimersView, TreeView, TypeView,
};
use crate::effects::OutcomeKind;
use crate::event::{Digest, Event, Key, KeySequence, Position};
pub use crate::log::{Appended, Publish};
use crate::plugin::Start;

/// What a method of [`HostApi`] returns.
pub type Answer<'a, T, E = HostError> = BoxFuture<'a, Result<T, E>>;

/// Why a batch was not appended. Nothing of it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// There is no such bus.
    #[error("there is no bus `{0}`")]
    NoBus(String),
    /// An event with this source and id, but different content, is in the log.
    #[error("an event with this source and id, but other content, stands at position {position}")]
    IdConflict {
        /// Index in the batch.
        index: usize,
        /// Where the other one stands; 0: it is in this batch.
        position: Position,
    },
    /// The condition does not hold.
    #[error("the key is at sequence {actual}, not {expected}")]
    SequenceConflict {
        /// Index in the batch.
        index: usize,
        /// What the publisher expected.
        expected: KeySequence,
        /// What is.
        actual: KeySequence,
    },
    /// The batch is larger than one commit may be.
    #[error("the batch takes {actual} bytes in the log, at most {limit} are allowed")]
    TooLarge {
        /// Bytes allowed.
        limit: u64,
        /// Bytes found.
        actual: u64,
    },
    /// The batch has more events than a memory bus that rejects can hold.
    #[error(
        "the batch has {actual} events, and this memory bus holds {limit} (`capacity`): publish \
         fewer at a time"
    )]
    TooMany {
        /// Events that the bus holds.
        limit: u64,
        /// Events found.
        actual: u64,
    },
    /// The ingest lane, or a memory bus that rejects, is full.
    #[error("the append queue is full")]
    QueueFull,
    /// Free space is under the watermark.
    #[error("the disk is too full to append")]
    StorageFull,
    /// The log is poisoned.
    #[error("the log takes no more events: {0}")]
    ReadOnly(String),
    /// The host is draining.
    #[error("the host is shutting down")]
    ShuttingDown,
    /// A broken invariant.
    #[error("{0}")]
    Internal(String),
}

/// Why anything but publishing failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// There is no such thing. The text names it: ``plugin `totals` ``.
    #[error("there is no {0}")]
    NotFound(String),
    /// An argument makes no sense here.
    #[error("`{field}` {why}")]
    Invalid {
        /// Name of the argument.
        field: String,
        /// What is wrong with it.
        why: String,
    },
    /// What is asked for does not go with how things stand: forgetting a plugin whose file is there.
    /// The text says what to do instead.
    #[error("{0}")]
    Conflict(String),
    /// The log takes no control records any more.
    #[error("the log takes no more records: {0}")]
    ReadOnly(String),
    /// Free space is under the watermark.
    #[error("the disk is too full to append")]
    StorageFull,
    /// The host is draining.
    #[error("the host is shutting down")]
    ShuttingDown,
    /// A broken invariant, or damage found while reading.
    #[error("{0}")]
    Internal(String),
}

/// Where a listing or a stream goes on. Clients see it as opaque text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// Epoch of the bus as it was made; 0: not said. One from the future belongs to another log, and so does
    /// one that says its epoch and is beyond the end: [`HostError::Invalid`] with field `cursor`. Of a memory
    /// bus, any other begins anew.
    pub epoch: u32,
    /// Go on after this position; of log lines, after the one with this number.
    pub after: Position,
}

/// Some events, ascending by position.
#[derive(Debug, Clone, Default)]
pub struct EventPage {
    /// Epoch of the bus.
    pub epoch: u32,
    /// At most `limit`; may be fewer, even none, where `next` is set.
    pub events: Vec<Arc<Event>>,
    /// The last position looked at; none: there is nothing more as yet.
    pub next: Option<Position>,
}

/// Events as they become durable.
pub struct EventStream {
    /// Epoch of the bus.
    pub epoch: u32,
    /// After which position it begins, where nobody said: who comes back before anything was seen would begin
    /// later otherwise.
    pub begins_after: Option<Position>,
    /// Ascending by position. Pull based: what is not asked for is not buffered beyond a fixed
    /// number of events. Ends where the bus does, or the reader cannot go on.
    pub events: BoxStream<'static, Arc<Event>>,
}

/// Log lines of a plugin.
pub struct LogStream {
    /// What tells the numbers of this start of the host from those of others; never 0.
    pub epoch: u32,
    /// The number before that of the first line.
    pub begins_after: u64,
    /// Ascending by number. Pull based as [`EventStream::events`]: who lags loses lines, never slows a guest.
    pub lines: BoxStream<'static, (u64, LogLineView)>,
}

/// Which dead letters are asked for, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadLetterFilter {
    /// Of this plugin only.
    pub plugin: Option<String>,
    /// Of this key only.
    pub key: Option<Key>,
    /// With this outcome only.
    pub outcome: Option<OutcomeKind>,
    /// After the dead letter with this id.
    pub after: Option<String>,
    /// At most this many, 1 to [`crate::limits::LIST_MAX`].
    pub limit: usize,
}

/// The dead letters that something is to be done to: those that all of it is true of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadLetterSelection {
    /// This one.
    pub id: Option<String>,
    /// Of this plugin.
    pub plugin: Option<String>,
    /// Of this key.
    pub key: Option<Key>,
    /// With this outcome.
    pub outcome: Option<OutcomeKind>,
}

/// One dead letter with its input.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// What is known of it.
    pub letter: DeadLetterView,
    /// The event that could not be handled; none: it is not to be had any more.
    pub event: Option<Arc<Event>>,
}

/// One state value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateEntry {
    /// Its name.
    pub name: EcoString,
    /// The durable value.
    pub value: EcoBytes,
    /// Log time at which it is gone, milliseconds since the Unix epoch; none: it stays.
    pub expires_ms: Option<u64>,
}

/// Whether every plugin found at start is live or refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Readiness {
    /// What is still waited for, in words: empty once ready. Never goes back to waiting.
    pub waiting_for: Vec<String>,
}

/// On which module past deliveries run again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiffOn {
    /// The one that serves, with its manifest.
    Serving,
    /// Each on the module and manifest that served then.
    Recorded,
    /// One that served once, with the manifest that serves.
    Kept(Digest),
    /// These bytes, with the manifest that serves.
    Given(Bytes),
}

/// Which past deliveries run again, and on what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiffRequest {
    /// On what.
    pub on: DiffOn,
    /// The first input; none: that of the log.
    pub from: Option<Position>,
    /// The last input; none: the last of the log.
    pub to: Option<Position>,
    /// Differences that are told in words, at most
    /// [`crate::limits::REPLAY_DIFFERENCES_MAX`].
    pub differences_max: usize,
}

/// Whether a stream of log lines goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// It ends after the lines that are kept.
    Kept,
    /// It goes on with new lines.
    New,
}

/// The host, as HTTP sees it. `bus: None` is the default bus.
///
/// Cancel safety: every future may be dropped. A dropped `publish` may or may not have appended.
pub trait HostApi: Send + Sync + 'static {
    /// Appends a batch as one commit, all or nothing. Resolves once everything it speaks of is
    /// durable: also duplicates and conflicts.
    fn publish<'a>(
        &'a self,
        bus: Option<&'a str>,
        batch: Vec<Publish>,
    ) -> Answer<'a, Vec<Appended>, PublishError>;

    /// What a bus is; none: there is no such bus.
    fn bus_kind(&self, bus: Option<&str>) -> Option<BusKind>;

    /// The event at a position, public or private.
    fn event<'a>(
        &'a self,
        bus: Option<&'a str>,
        position: Position,
    ) -> Answer<'a, Option<Arc<Event>>>;

    /// Public events that `filter` matches, after `cursor`, at most `limit` (1 to
    /// [`crate::limits::LIST_MAX`]). Looks at a bounded part of the log at a time, and ends a page
    /// that weighs over [`crate::limits::PAGE_BYTES_MAX`]: it may be short, or empty, and still have
    /// a `next`.
    fn events<'a>(
        &'a self,
        bus: Option<&'a str>,
        filter: &'a EventFilter,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Answer<'a, EventPage>;

    /// What caused an event, and what it caused, as far as this bus knows.
    fn tree<'a>(&'a self, bus: Option<&'a str>, position: Position) -> Answer<'a, TreeView>;

    /// Public events that `filter` matches, from `cursor`, else from `filter.from`, else from the
    /// next one on; then as they become durable. Ends after `filter.to`, where set.
    fn stream<'a>(
        &'a self,
        bus: Option<&'a str>,
        filter: EventFilter,
        cursor: Option<Cursor>,
    ) -> Answer<'a, EventStream>;

    /// Types seen or subscribed to by name, ascending. `only`: this type alone, seen or not.
    fn types<'a>(
        &'a self,
        bus: Option<&'a str>,
        only: Option<&'a str>,
    ) -> Answer<'a, Vec<TypeView>>;

    /// Every bus, the default one first.
    fn buses(&self) -> Answer<'_, Vec<BusView>>;

    /// Has the log of a bus follow a wall clock that is ahead; [`HostError::Conflict`] where it is not.
    fn follow_clock<'a>(&'a self, bus: &'a str, actor: &'a str) -> Answer<'a, ClockView>;

    /// Every plugin, ascending by name, and the files that are not one.
    fn plugins(&self) -> Answer<'_, PluginsView>;

    /// One plugin.
    fn plugin<'a>(&'a self, name: &'a str) -> Answer<'a, PluginView>;

    /// Stops deliveries until `resume`. Pausing a paused plugin changes nothing.
    fn pause<'a>(
        &'a self,
        name: &'a str,
        reason: &'a str,
        actor: &'a str,
    ) -> Answer<'a, PluginView>;

    /// Lets deliveries go on; of a `waiting` plugin: registers it as a new one.
    fn resume<'a>(&'a self, name: &'a str, actor: &'a str) -> Answer<'a, PluginView>;

    /// Pins an earlier module; `module: None` is the one before the current.
    fn rollback<'a>(
        &'a self,
        name: &'a str,
        module: Option<Digest>,
        actor: &'a str,
    ) -> Answer<'a, PluginView>;

    /// Delivers the events from a point on once more, for a new state.
    fn rewind<'a>(&'a self, name: &'a str, to: Start, actor: &'a str) -> Answer<'a, PluginView>;

    /// Binds the instance of `name` to `new_name`.
    fn rename<'a>(
        &'a self,
        name: &'a str,
        new_name: &'a str,
        actor: &'a str,
    ) -> Answer<'a, PluginView>;

    /// Runs past deliveries again, and compares them with the record: the answer is a future of what
    /// it comes to, however long that takes. Dropped, it ends.
    fn diff<'a>(
        &'a self,
        name: &'a str,
        request: DiffRequest,
    ) -> Answer<'a, BoxFuture<'static, DiffView>>;

    /// Removes a plugin whose file is gone, with its state.
    fn forget<'a>(&'a self, name: &'a str, actor: &'a str) -> Answer<'a, ()>;

    /// The last `recent` log lines of a plugin, or all that are kept after `last`, of any start; then, with
    /// [`Follow::New`], those that come.
    fn logs<'a>(
        &'a self,
        name: &'a str,
        recent: usize,
        last: Option<Cursor>,
        follow: Follow,
    ) -> Answer<'a, LogStream>;

    /// One durable state value. `at`: as it was after the plugin's deliveries of that key up to a
    /// position, or at a log time; [`HostError::Invalid`] where that lies ahead, or the bus keeps no
    /// past.
    fn state_get<'a>(
        &'a self,
        plugin: &'a str,
        key: &'a Key,
        name: &'a str,
        at: Option<Point>,
    ) -> Answer<'a, Option<StateEntry>>;

    /// Durable state values of a key with `prefix`, ascending by name, after `after`, at most
    /// `limit` (1 to [`crate::limits::LIST_MAX`]). `at` as in [`HostApi::state_get`].
    fn state_list<'a>(
        &'a self,
        plugin: &'a str,
        key: &'a Key,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
        at: Option<Point>,
    ) -> Answer<'a, Vec<StateEntry>>;

    /// Has a plugin carry out a command, and answers once its effects are durable. Goes on where the
    /// future is dropped.
    fn command<'a>(
        &'a self,
        plugin: &'a str,
        request: CommandRequest,
    ) -> Answer<'a, Answered, RequestError>;

    /// Asks a plugin a question, on its durable state.
    fn query<'a>(
        &'a self,
        plugin: &'a str,
        query: QueryRequest,
    ) -> Answer<'a, Answered, RequestError>;

    /// Dead letters of every bus, without `backtrace` and `logs`.
    fn dead_letters<'a>(&'a self, filter: &'a DeadLetterFilter) -> Answer<'a, Vec<DeadLetterView>>;

    /// What it takes to run a dead letter's delivery again; none: there is no such dead letter.
    fn dead_letter_delivery<'a>(&'a self, id: &'a str) -> Answer<'a, Option<DeliveryView>>;

    /// One dead letter with everything that is known of it.
    fn dead_letter<'a>(&'a self, id: &'a str) -> Answer<'a, Option<DeadLetter>>;

    /// Runs dead letters again, oldest first: each is followed by what waits behind it. What runs
    /// already is left as it is; [`HostError::Conflict`] where that is the only one meant.
    fn redrive<'a>(
        &'a self,
        which: &'a DeadLetterSelection,
        actor: &'a str,
    ) -> Answer<'a, ActedView>;

    /// Gives up dead letters for good: their keys go on. As for [`HostApi::redrive`].
    fn discard<'a>(
        &'a self,
        which: &'a DeadLetterSelection,
        reason: &'a str,
        actor: &'a str,
    ) -> Answer<'a, ActedView>;

    /// Pending timers of a plugin, of one key if it is given, the next one due first, at most
    /// `limit`; after a page's `next`.
    fn timers<'a>(
        &'a self,
        plugin: &'a str,
        key: Option<&'a Key>,
        after: Option<&'a str>,
        limit: usize,
    ) -> Answer<'a, TimersView>;

    /// How a key stands with a plugin.
    fn key<'a>(&'a self, plugin: &'a str, key: &'a Key) -> Answer<'a, KeyView>;

    /// Starts no more deliveries of a key until `release`. Holding a held key changes nothing.
    fn hold<'a>(
        &'a self,
        plugin: &'a str,
        key: &'a Key,
        reason: &'a str,
        actor: &'a str,
    ) -> Answer<'a, KeyView>;

    /// Lets a key go on that is held or parked; a dead letter that parked it stays one.
    fn release<'a>(&'a self, plugin: &'a str, key: &'a Key, actor: &'a str) -> Answer<'a, KeyView>;

    /// The whole host at a glance.
    fn status(&self) -> Answer<'_, StatusView>;

    /// Whether every plugin found at start is live or refused. Cheap; never waits.
    fn ready(&self) -> Readiness;

    /// Prometheus text exposition. Cheap; never waits for a log or a guest.
    fn metrics(&self) -> String;
}
