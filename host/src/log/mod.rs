//! The durable log: the only truth of a bus.
//!
//! One writer thread a log; any number of tasks publish, commit and read. `FORMAT.md` beside this
//! file has the bytes.
//!
//! Rule: what is acknowledged is durable, and what is not durable is seen by nobody but deliveries, whose
//! effects stand behind it.

pub mod clock;
pub mod codec;
pub mod dedup;
pub mod disk;
pub mod error;
pub mod frame;
pub mod heads;
pub mod index;
pub mod options;
pub mod pack;
pub mod record;
pub mod recovery;
pub mod segment;
pub mod tools;

mod assign;
mod behind;
mod commits;
mod derived;
mod follow;
mod identity;
mod ingest;
mod lanes;
mod linger;
mod moment;
mod outbox;
mod permits;
mod reader;
mod shared;
mod start;
mod stats;
mod tail;
mod ticket;
mod waiting;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

pub use clock::ClockAlarm;
pub use codec::{CommitRef, CompletionRef, EventRef, RecordRef};
pub use error::{AppendError, Damage, LogFailure, OpenError, ReadError};
pub use frame::Frame;
pub use ingest::Publish;
pub use lanes::EffectsPermit;
pub use options::{CheckRest, ClockGap, Linger, LogOptions};
pub use outbox::{OUTBOX_BYTES, Outbox};
pub use reader::{FrameReader, NumberedFrames};
pub use recovery::CutReport;
pub use start::{OpenTimes, Opened};
pub use stats::LogStats;
pub use ticket::{Appended, CommitTicket, Committed};

use crate::clock::Clock;
use crate::event::{CommitNumber, Event, InstanceId, Key, KeySequence, NewEvent, Position};
use codec::{EncodeError, Encoded};
use disk::Disk;
use index::LogIndex;
use lanes::EffectsEntry;
use record::{ControlRecord, DeliveryCommit};
use shared::{Shared, blocking};

/// A handle on the log of a durable bus; clones are the same log. Dropping the last one without
/// [`Log::close`] ends the writer as a crash would, but for what was already in the lanes.
#[derive(Debug, Clone)]
pub struct Log {
    handle: Arc<Handle>,
}

/// Counts the holders.
#[derive(Debug)]
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.lanes.close();
    }
}

impl Log {
    fn new(shared: Arc<Shared>) -> Self {
        Self { handle: Arc::new(Handle(shared)) }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.0
    }

    /// Opens the log in a bus folder (`DATA/buses/BUS`): takes its lock, proves what is there, makes
    /// the end writable, records the start. Makes an empty log where there is none. Blocking.
    ///
    /// # Errors
    /// [`OpenError`]; the files are as they were then, but for a torn tail kept aside.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: LogOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Opened, OpenError> {
        Self::open_beside(disk, dir, options, clock, |_, _| ()).map(|(opened, ())| opened)
    }

    /// As [`Log::open`]. Runs `beside` in a thread, while the tables are filled, with the log's id and
    /// the last commit it will have: the end of the log is proven by then, and its lock is held.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open_beside<T: Send>(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: LogOptions,
        clock: Arc<dyn Clock>,
        beside: impl FnOnce(uuid::Uuid, CommitNumber) -> T + Send,
    ) -> Result<(Opened, T), OpenError> {
        start::open(disk, dir, options, clock, beside)
    }

    /// Begins to check what was not checked before the log opened, where that waits to be told: see
    /// [`CheckRest`]. Damage ends the log.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn check_rest(&self) -> std::io::Result<()> {
        behind::check_rest(self.shared())
    }

    /// Appends a batch as one commit, all or nothing, and answers once it is durable; so do
    /// duplicates and conflicts, once what they speak of is. An empty batch does nothing. If the
    /// future is dropped, the batch may or may not be appended.
    ///
    /// # Errors
    /// [`AppendError`].
    pub async fn ingest(&self, batch: Vec<Publish>) -> Result<Vec<Appended>, AppendError> {
        ingest::ingest(self.shared(), &batch).await
    }

    /// From now on `heard` is told of each batch that was published, once it is durable, how long that
    /// took; also where its publisher has gone away. The writer calls it, so it must not wait. Only the
    /// first one is heard.
    pub fn on_ingested(&self, heard: impl Fn(Duration) + Send + Sync + 'static) {
        let _ = self.shared().ingested.set(Box::new(heard));
    }

    /// Reserves room in the effects lane, before a guest runs. Waits for it in turn with other
    /// plugins; dropping the future gives up the place.
    ///
    /// # Errors
    /// [`AppendError::ShuttingDown`], [`AppendError::ReadOnly`].
    pub async fn reserve(
        &self,
        instance: InstanceId,
        bytes: usize,
    ) -> Result<EffectsPermit, AppendError> {
        self.shared().lanes.reserve(instance, bytes).await
    }

    /// Commits a delivery: unconditional, in the order of the calls. Encodes here; never blocks.
    pub fn commit(&self, permit: EffectsPermit, commit: &DeliveryCommit) -> CommitTicket {
        self.effects(Some(permit), |encoded| encoded.delivery(commit))
    }

    /// Where commits go that nobody waits for, in the order in which they are put there.
    #[must_use]
    pub fn outbox(&self) -> Outbox {
        Outbox::new(self.shared())
    }

    /// Commits control records, at least one, through the effects lane.
    pub fn control(&self, records: &[ControlRecord]) -> CommitTicket {
        self.effects(None, |encoded| records.iter().try_for_each(|record| encoded.control(record)))
    }

    /// Appends events that another bus forwards, with the mark that says how far, in one commit. They
    /// do not pass deduplication: the mark makes them unique.
    pub fn forward(&self, events: &[NewEvent], mark: &ControlRecord) -> CommitTicket {
        self.effects(None, |encoded| {
            events.iter().try_for_each(|event| encoded.event(event))?;
            encoded.control(mark)
        })
    }

    /// Appends private events through the effects lane, all in one commit: timer fires, commands and
    /// responses. They do not pass deduplication. Nothing bounds them but the caller.
    pub fn private(&self, events: &[NewEvent]) -> CommitTicket {
        self.effects(None, |encoded| events.iter().try_for_each(|event| encoded.event(event)))
    }

    /// Commits a record that only a later version can read.
    #[cfg(test)]
    pub(crate) fn foreign(&self) -> CommitTicket {
        self.effects(None, |encoded| {
            encoded.foreign(77, 0, b"whatever");
            Ok(())
        })
    }

    fn effects(
        &self,
        permit: Option<EffectsPermit>,
        fill: impl FnOnce(&mut Encoded) -> Result<(), EncodeError>,
    ) -> CommitTicket {
        let commit = match self.shared().buffers.encode(fill) {
            Ok(commit) => commit,
            Err(error) => return CommitTicket::refused(error.into()),
        };
        let (reply, ticket) = CommitTicket::pair();
        self.shared().lanes.push_effects(EffectsEntry { commit, reply: Some(reply), permit });
        ticket
    }

    /// The last durable commit.
    #[must_use]
    pub fn durable(&self) -> CommitNumber {
        self.shared().durable_commit()
    }

    /// The last durable event; 0: none.
    #[must_use]
    pub fn last_position(&self) -> Position {
        self.shared().durable_position()
    }

    /// Log time, milliseconds since the Unix epoch.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.shared().clock.now_ms()
    }

    /// What the wall clock says, milliseconds since the Unix epoch.
    #[must_use]
    pub fn wall_ms(&self) -> u64 {
        self.shared().clock.wall_ms()
    }

    /// Follows a wall clock that ran ahead, see [`LogStats::clock_alarm`], and answers with the log time
    /// that is then. Nobody is told: that is [`crate::bus::Bus::follow_clock`].
    pub fn follow_wall_clock(&self) -> u64 {
        self.shared().clock.follow_wall()
    }

    /// The log's id. Never show it: checksums rest on its being unknown outside.
    #[must_use]
    pub fn id(&self) -> uuid::Uuid {
        uuid::Uuid::from_bytes(self.shared().log_id)
    }

    /// Number of this start, from 1.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.shared().epoch
    }

    /// Reads durable frames from the one that holds a commit.
    #[must_use]
    pub fn frames_from_commit(&self, commit: CommitNumber) -> FrameReader {
        FrameReader::from_commit(self.shared().clone(), commit)
    }

    /// Reads durable frames from the one that holds a position.
    #[must_use]
    pub fn frames_from_position(&self, position: Position) -> FrameReader {
        FrameReader::from_position(self.shared().clone(), position)
    }

    /// Reads frames from the one that holds a position, each as soon as it is numbered.
    #[must_use]
    pub fn numbered_from_position(&self, position: Position) -> NumberedFrames {
        NumberedFrames::from_position(self.shared().clone(), position)
    }

    /// Waits until a position that was numbered is durable. Cancel safe.
    ///
    /// # Errors
    /// [`ReadError::Closed`]: it never will be.
    pub async fn until_durable(&self, position: Position) -> Result<(), ReadError> {
        let shared = self.shared();
        if shared.durable_position() >= position {
            return Ok(());
        }
        let (mut durable, mut ended) = (shared.durable.subscribe(), shared.ended.subscribe());
        tokio::select! {
            biased;
            _ = durable.wait_for(|_| shared.durable_position() >= position) => Ok(()),
            _ = ended.wait_for(|ended| *ended) => Err(ReadError::Closed),
        }
    }

    /// The durable frame that holds a commit; none: it is not durable, or not there.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn frame_of(&self, commit: CommitNumber) -> Result<Option<Arc<Frame>>, ReadError> {
        self.shared().frame_of(commit).await
    }

    /// The event at a position; none: it is not durable, or not there.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn event(&self, position: Position) -> Result<Option<Arc<Event>>, ReadError> {
        self.shared().event(position).await
    }

    /// The events at ascending positions that are durable and there; cheaper than one by one.
    ///
    /// # Errors
    /// The disk's, and damage.
    pub async fn events(&self, positions: Vec<Position>) -> Result<Vec<Arc<Event>>, ReadError> {
        self.shared().events(positions).await
    }

    /// Positions of a key's durable events from one on, ascending, at most `limit`; private ones
    /// included.
    ///
    /// # Errors
    /// An index cannot be read.
    pub async fn key_positions(
        &self,
        key: &Key,
        from: Position,
        limit: usize,
    ) -> Result<Vec<Position>, ReadError> {
        let (shared, hash) = (self.shared().clone(), key.hash128());
        let after = Position(from.0.saturating_sub(1));
        let until = shared.durable_position();
        blocking(move || {
            let entries = shared.index.key_entries(hash, after, until, limit)?;
            Ok(entries.into_iter().map(|entry| entry.position).collect())
        })
        .await
    }

    /// Positions of a type's durable events from one on, ascending, at most `limit`; private ones
    /// included.
    ///
    /// # Errors
    /// An index cannot be read.
    pub async fn type_positions(
        &self,
        kind: &str,
        from: Position,
        limit: usize,
    ) -> Result<Vec<Position>, ReadError> {
        let (shared, kind) = (self.shared().clone(), kind.to_owned());
        let after = Position(from.0.saturating_sub(1));
        let until = shared.durable_position();
        blocking(move || Ok(shared.index.type_positions(&kind, after, until, limit)?)).await
    }

    /// The published event with this identity, within the deduplication window.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn find(&self, source: &str, id: &str) -> Result<Option<Arc<Event>>, ReadError> {
        let shared = self.shared();
        let Some(recent) = shared.recent.filled().await else { return Ok(None) };
        for position in recent.lookup(shared.hasher.of(source, id)) {
            if let Some(event) = shared.event(position).await?
                && &*event.source == source
                && &*event.id == id
            {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// The last durable event of a key that has a key sequence.
    #[must_use]
    pub fn head(&self, key: &Key) -> Option<(KeySequence, Position)> {
        let head = self.shared().heads.get(key.hash128())?;
        Some((head.sequence, head.position))
    }

    /// The index, for questions that have no method here. It may know a moment more than is durable
    /// to readers: bound what you ask by [`Log::last_position`]. Its lookups block.
    #[must_use]
    pub fn index(&self) -> &LogIndex {
        &self.shared().index
    }

    /// Resolves once the log is poisoned: the host is to end then. Never otherwise. Cancel safe.
    pub fn failed(&self) -> impl Future<Output = LogFailure> + Send + 'static {
        let mut failure = self.shared().failure.subscribe();
        async move {
            let failed = failure.wait_for(Option::is_some).await;
            let known = failed.ok().and_then(|failure| failure.clone());
            match known {
                Some(failure) => failure,
                // The log is gone and nothing was wrong with it.
                None => std::future::pending().await,
            }
        }
    }

    /// Stops in order: takes no more, writes what waits and what has room reserved, seals the log.
    /// Resolves when the files are closed. Cancel safe: the stop goes on.
    ///
    /// # Errors
    /// The log failed, before or now.
    pub async fn close(&self) -> Result<(), LogFailure> {
        let shared = self.shared();
        shared.stops_clean.store(true, Ordering::Release);
        shared.lanes.close();
        let mut ended = shared.ended.subscribe();
        // The sender lives as long as `shared`.
        let _ = ended.wait_for(|ended| *ended).await;
        let failure = shared.failure.borrow().clone();
        failure.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests;
