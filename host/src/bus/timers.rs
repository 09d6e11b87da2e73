//! Firing: from a timer that is due to a private event on its key.
//!
//! One task a bus. It looks at what is folded, appends some fires, and looks again once those are
//! folded too: so no timer has two fires, whenever the host dies.
//!
//! Rule: never before its time on the log clock, whatever the wall clock does.

use std::fmt;
use std::ops::ControlFlow;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::deliver::{self, Deliverer};
use super::{Bus, private};
use crate::effects::OutcomeKind;
use crate::event::{CommitNumber, Digest, Event, Generation, InstanceId, Key, NewEvent, Position};
use crate::limits::{FIRES_AHEAD_MAX, FIRES_BATCH_BYTES_MAX, FIRES_BATCH_MAX};
use crate::log::codec::TimerRef;
use crate::log::{AppendError, Log, ReadError, RecordRef};
use crate::state::timers::{Due, Holder, Pending, SetAt};

/// The attribute of a fire that has the timer's name.
pub const NAME_ATTRIBUTE: &str = "timername";
/// The attribute of a fire that says when it was due: log time, milliseconds since the Unix epoch.
pub const DUE_ATTRIBUTE: &str = "timerdue";

/// The longest sleep: the log clock can be told to follow a wall clock that ran ahead.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// How long to wait where timers are due and their plugins have not read the fires before.
const BEHIND_PAUSE: Duration = Duration::from_millis(20);
/// How long to wait where the log could not be read.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(5);

/// Which timer fired, as the id of the fire says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FireId {
    /// The generation whose timer it is.
    pub generation: Generation,
    /// Where it was set.
    pub set: SetAt,
}

impl fmt::Display for FireId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { generation, set } = self;
        write!(f, "timer-{}-{}-{}", generation.0, set.commit.0, set.index)
    }
}

/// It is not the id of a fire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the id of a timer's fire")]
pub struct NoFireId;

impl FromStr for FireId {
    type Err = NoFireId;

    fn from_str(text: &str) -> Result<Self, NoFireId> {
        let mut parts = text.strip_prefix("timer-").ok_or(NoFireId)?.split('-');
        let mut next = || parts.next().ok_or(NoFireId);
        let generation = Generation(next()?.parse().map_err(|_| NoFireId)?);
        let commit = CommitNumber(next()?.parse().map_err(|_| NoFireId)?);
        let index = next()?.parse().map_err(|_| NoFireId)?;
        let set = SetAt { commit, index };
        parts.next().map_or(Ok(Self { generation, set }), |_| Err(NoFireId))
    }
}

/// What a fire is to the plugin that gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serves {
    /// The handler is to see it; the fold takes the timer away with the completion.
    Its,
    /// As [`Serves::Its`], but the completion has to cancel the timer: it is one of a later
    /// generation than the fire. Several of that name and time may be; see [`is_again`].
    Successor,
    /// The timer was cancelled or replaced, or is served already: the delivery is over.
    Nothing,
}

/// What a fire for the timer `fire`, due at `due_ms`, serves on a plugin of `generation`, where
/// `pending` is the timer of that name.
#[must_use]
pub fn serves(
    fire: FireId,
    due_ms: Option<u64>,
    generation: Generation,
    pending: Option<Pending>,
) -> Serves {
    match pending {
        None => Serves::Nothing,
        Some(timer) if fire.generation == generation => {
            if timer.due.set == fire.set {
                Serves::Its
            } else {
                Serves::Nothing
            }
        }
        // The past is run again: what fired then stands for the timer that was set again.
        Some(timer) if due_ms == Some(timer.due.due_ms) => Serves::Successor,
        Some(_) => Serves::Nothing,
    }
}

/// Whether a timer of a later generation, set at `pending`, is the one that `fire` of an earlier one was of:
/// set by the same event, or with the same data, unless that fire did nothing in its own time. A key can set
/// a timer for the same millisecond more than once, and only one of them is there at a time.
///
/// # Errors
/// The log cannot be read.
pub async fn is_again(
    log: &Log,
    instance: InstanceId,
    (fire, event): (FireId, &Event),
    pending: SetAt,
) -> Result<bool, ReadError> {
    let pending = settings(log, [pending]).await?.pop().flatten();
    let (Some(pending), Some(key)) = (pending, &event.key) else { return Ok(false) };
    if log.ended_in((instance, key), fire.set.commit).await? == Some(pending.input) {
        return Ok(true);
    }
    let position = event.position;
    Ok(pending.data == event.data && !was_passed_over(log, (instance, key), fire, position).await?)
}

/// Whether no guest was handed a fire when it was first delivered: its timer had been replaced or cancelled.
async fn was_passed_over(
    log: &Log,
    (instance, key): (InstanceId, &Key),
    fire: FireId,
    position: Position,
) -> Result<bool, ReadError> {
    log.fold_completions(
        (instance, key),
        fire.set.commit,
        move |entry| entry.position == position,
        false,
        move |passed, commit| {
            for record in commit.records() {
                if let RecordRef::Completion(done) = record?
                    && (done.instance, done.position) == (instance, position)
                {
                    *passed = done.outcome == OutcomeKind::Ok && done.fuel == 0;
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        },
    )
    .await
}

/// The name and due time that a fire carries.
#[must_use]
pub fn name_and_due(event: &Event) -> Option<(&str, Option<u64>)> {
    let due = event.attribute(DUE_ATTRIBUTE).and_then(|due| due.parse().ok());
    Some((event.attribute(NAME_ATTRIBUTE)?, due))
}

/// A timer as it was set, read from the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The key it belongs to.
    pub key: Key,
    /// Its name.
    pub name: Arc<str>,
    /// Handed back when it fires.
    pub data: Bytes,
    /// The event that set it, or the last one of its key before a rewind that carried it over.
    pub input: Position,
}

/// Reads timers where they were set. None: the log does not have it there.
///
/// # Errors
/// The log cannot be read.
pub async fn settings(
    log: &Log,
    sets: impl IntoIterator<Item = SetAt>,
) -> Result<Vec<Option<Setting>>, ReadError> {
    // In the order of the log, so that a frame is read once.
    let mut order: Vec<(usize, SetAt)> = sets.into_iter().enumerate().collect();
    order.sort_by_key(|(_, set)| *set);
    let mut found = vec![None; order.len()];
    let mut frame = None;
    for (place, set) in order {
        let holds = |frame: &Arc<crate::log::Frame>| {
            frame.first_commit() <= set.commit && set.commit <= frame.last_commit()
        };
        if !frame.as_ref().is_some_and(holds) {
            frame = log.frame_of(set.commit).await?;
        }
        let Some(frame) = frame.as_ref().filter(|frame| holds(frame)) else { continue };
        if let Some(slot) = found.get_mut(place) {
            *slot = setting(frame, set)?;
        }
    }
    Ok(found)
}

fn setting(frame: &crate::log::Frame, set: SetAt) -> Result<Option<Setting>, ReadError> {
    let Some(commit) = frame.commit(set.commit)? else { return Ok(None) };
    let (mut key, mut timer, mut index) = (None, None, 0);
    for record in commit.records() {
        match record? {
            RecordRef::Completion(done) => {
                key = done.key.and_then(|key| Some((Key::new(key).ok()?, done.position)));
            }
            RecordRef::Timer(change) => {
                if let (true, TimerRef::Set { name, data, .. }) = (index == set.index, change) {
                    timer = Some((name.into(), Bytes::copy_from_slice(data)));
                }
                index += 1;
            }
            _ => {}
        }
    }
    Ok(key.zip(timer).map(|((key, input), (name, data))| Setting { key, name, data, input }))
}

/// Fires the timers of a durable bus until stopped or the log is closed; a memory bus has none.
pub async fn run(bus: Arc<Bus>, stop: CancellationToken) {
    let Some(log) = bus.log() else { return };
    loop {
        if !until_due(&bus, &stop).await {
            return;
        }
        let pause = match fire_some(&bus, log).await {
            Ok(Fired::All) => continue,
            Ok(Fired::NoneYet) => BEHIND_PAUSE,
            Err(FireError::Append(_) | FireError::Read(ReadError::Closed)) => return,
            Err(FireError::Read(error)) => {
                tracing::error!(bus = %bus.name(), %error, "timers cannot be read, and wait");
                UNREADABLE_PAUSE
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = bus.values().timers().changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Waits until some timer is due. False: stopped.
async fn until_due(bus: &Bus, stop: &CancellationToken) -> bool {
    let timers = bus.values().timers();
    loop {
        let now_ms = if planted!(FiresEarly) { bus.now_ms() + 2000 } else { bus.now_ms() };
        let left_ms = timers.next_due_ms().map(|due_ms| due_ms.saturating_sub(now_ms));
        let sleep = async {
            match left_ms {
                Some(ms) => tokio::time::sleep(Duration::from_millis(ms).min(SLEEP_MAX)).await,
                None => std::future::pending().await,
            }
        };
        if left_ms == Some(0) {
            return !stop.is_cancelled();
        }
        tokio::select! {
            () = stop.cancelled() => return false,
            () = timers.changed() => {}
            () = sleep => {}
        }
    }
}

enum Fired {
    /// Everything that was asked for.
    All,
    /// The plugins whose timers are due have to read first.
    NoneYet,
}

#[derive(Debug, thiserror::Error)]
enum FireError {
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Appends fires for some timers that are due, and waits until they are folded. Dropped, it may have
/// appended them.
async fn fire_some(bus: &Bus, log: &Log) -> Result<Fired, FireError> {
    let timers = bus.values().timers();
    let read = |instance| bus.progress(instance).scanned();
    let mut due = timers.due(bus.now_ms(), FIRES_BATCH_MAX, read, FIRES_AHEAD_MAX);
    // Most of what a rebuild sets has fired once, and that is still to be delivered again.
    let is_rebuilding = |instance| {
        bus.ledger().instance(instance).is_some_and(|plugin| plugin.rebuilding().is_some())
    };
    due.retain(|((instance, _), _)| !is_rebuilding(*instance));
    if due.is_empty() {
        return Ok(Fired::NoneYet);
    }
    due.sort_unstable_by_key(|(_, due)| *due);
    let settings = settings(log, due.iter().map(|(_, due)| due.set)).await?;
    let mut events = Vec::new();
    for ((holder, due), setting) in due.into_iter().zip(settings) {
        if let Some(setting) = setting {
            // None: the plugin was forgotten meanwhile, and its timers with it.
            events.extend(fire(bus, holder, due, setting));
        } else {
            tracing::error!(bus = %bus.name(), commit = %due.set.commit, "a timer is not where it was set");
            timers.give_up(holder, due);
        }
    }
    let mut last = None;
    for some in batches(events) {
        last = Some(bus.append_private(some));
    }
    let Some(last) = last else { return Ok(Fired::All) };
    let committed = last.done().await?;
    bus.until_applied(committed.commit).await;
    Ok(Fired::All)
}

/// Cuts events into commits of a bounded size, in order.
fn batches(events: Vec<NewEvent>) -> Vec<Vec<NewEvent>> {
    let mut batches: Vec<Vec<NewEvent>> = Vec::new();
    let mut bytes = 0;
    for event in events {
        bytes += event.data.len();
        match batches.last_mut() {
            Some(batch) if bytes <= FIRES_BATCH_BYTES_MAX => batch.push(event),
            _ => {
                bytes = event.data.len();
                batches.push(vec![event]);
            }
        }
    }
    batches
}

fn fire(bus: &Bus, holder: Holder, due: Due, setting: Setting) -> Option<NewEvent> {
    let (instance, generation) = holder;
    let source = bus.ledger().instance(instance).map(|i| deliver::source(&bus.name, &i.name))?;
    let to = Deliverer {
        instance,
        generation,
        environment: Digest::default(),
        bus: Arc::clone(&bus.name),
        source,
    };
    let id = FireId { generation, set: due.set };
    let content = private::Content {
        kind: private::TIMER,
        id: id.to_string().into(),
        key: Some(setting.key),
        content_type: Arc::default(),
        data: setting.data,
        attributes: vec![
            (DUE_ATTRIBUTE.into(), due.due_ms.to_string().into()),
            (NAME_ATTRIBUTE.into(), setting.name),
        ],
    };
    Some(private::event(&to, content))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(generation: u32, commit: u64, index: u32) -> FireId {
        let set = SetAt { commit: CommitNumber(commit), index };
        FireId { generation: Generation(generation), set }
    }

    fn pending(commit: u64, due_ms: u64) -> Option<Pending> {
        let due = Due { due_ms, set: id(0, commit, 0).set };
        Some(Pending { due, fired: Some(Position(9)) })
    }

    #[test]
    fn the_id_of_a_fire_says_which_timer_it_is() {
        for fire in [id(0, 1, 0), id(7, u64::MAX, u32::MAX)] {
            assert_eq!(fire.to_string().parse(), Ok(fire));
        }
        for text in ["", "timer-", "timer-1-2", "timer-1-2-3-4", "timer-1-x-3", "1-2-3"] {
            assert_eq!(text.parse::<FireId>(), Err(NoFireId), "{text}");
        }
    }

    #[test]
    fn a_fire_serves_its_own_timer_alone() {
        let serves = |pending| serves(id(0, 5, 0), Some(100), Generation(0), pending);
        assert_eq!(serves(pending(5, 100)), Serves::Its);
        assert_eq!(serves(pending(6, 100)), Serves::Nothing, "replaced");
        assert_eq!(serves(None), Serves::Nothing, "cancelled, or served");
    }

    #[test]
    fn a_fire_of_an_earlier_generation_serves_the_timer_that_was_set_again() {
        let serves = |due, pending| serves(id(0, 5, 0), due, Generation(1), pending);
        assert_eq!(serves(Some(100), pending(50, 100)), Serves::Successor);
        assert_eq!(serves(Some(100), pending(5, 200)), Serves::Nothing);
        assert_eq!(serves(None, pending(5, 200)), Serves::Nothing);
    }

    #[test]
    fn batches_keep_the_order_and_the_bound() {
        let event = |bytes| NewEvent { data: vec![0; bytes].into(), ..NewEvent::default() };
        let large = FIRES_BATCH_BYTES_MAX;
        let sizes = |sizes: &[usize]| -> Vec<usize> {
            batches(sizes.iter().map(|bytes| event(*bytes)).collect())
                .iter()
                .map(Vec::len)
                .collect()
        };
        assert_eq!(sizes(&[1, 2, 3]), [3]);
        assert_eq!(sizes(&[1, large, large - 1, 1, 1]), [1, 1, 2, 1]);
        assert!(sizes(&[]).is_empty());
    }
}
