//! Taking emitted events to the bus they are addressed to, in order, each once.
//!
//! The source log already holds the event; the target takes it together with a mark of how far it
//! has come, in one commit. After a restart the mark says where to go on. It is of the log and not of the
//! bus: that may get another name, or another log.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Bus;
use crate::event::{Addressee, Digest, Event, NewEvent, Origin, Position, To};
use crate::limits::GROUP_BYTES_MAX;
use crate::log::record::{Control, ControlRecord};
use crate::log::{AppendError, Log, ReadError};

/// Events taken over in one commit, at most.
const FORWARD_BATCH_MAX: usize = 256;
/// Bytes of these, about; one event may be larger. Many large ones would not fit a commit at all.
const FORWARD_BATCH_BYTES_MAX: usize = GROUP_BYTES_MAX;
/// How long to wait where the source could not be read.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(5);

/// Why a forwarder gave up.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The source cannot be read.
    #[error("reading the source: {0}")]
    Read(#[from] ReadError),
    /// The target takes nothing any more.
    #[error("appending to the target: {0}")]
    Append(#[from] AppendError),
}

/// Forwards from `source` to `target` until either is closed or `stop` is cancelled. Where the source
/// cannot be read it is read again a moment later, from where it was.
///
/// # Errors
/// See [`ForwardError`]; a closed log is none.
pub async fn run(
    source: Arc<Bus>,
    target: Arc<Bus>,
    stop: CancellationToken,
) -> Result<(), ForwardError> {
    set_back(&source, &target).await?;
    let mut after = start(&source, &target);
    loop {
        match forward(&source, &target, &mut after, &stop).await {
            Ok(())
            | Err(ForwardError::Read(ReadError::Closed))
            | Err(ForwardError::Append(AppendError::ShuttingDown)) => return Ok(()),
            Err(ForwardError::Read(error)) => {
                let (from, to) = (source.name(), target.name());
                tracing::error!(%from, %to, %after, %error, "events cannot be read, and wait");
            }
            Err(error) => return Err(error),
        }
        if stop.run_until_cancelled(tokio::time::sleep(UNREADABLE_PAUSE)).await.is_none() {
            return Ok(());
        }
    }
}

/// As [`run`], until the source cannot be read. `after` is where that is.
async fn forward(
    source: &Bus,
    target: &Bus,
    after: &mut Position,
    stop: &CancellationToken,
) -> Result<(), ForwardError> {
    let mut events = source.read_after(*after);
    // A memory bus takes each by itself: where there is room for some, the others do not take these along.
    let count_max = target.log().map_or(1, |_| FORWARD_BATCH_MAX);
    loop {
        let batch = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            batch = events.next() => batch?,
        };
        let mut due = batch.select(|heading| heading.to == To::Bus)?;
        due.retain(|event| is_for(event, target.name()));
        let mut dropped = 0;
        for chunk in chunks(&due, count_max) {
            let Some(last) = chunk.last() else { continue };
            let forwarded = chunk.iter().map(|event| moved(event, source.name())).collect();
            let mark = mark(source, last.position);
            match target.forward(forwarded, &mark).done().await {
                Ok(_) => {}
                // From a memory bus, or to one, at most once: who is full loses them.
                Err(AppendError::QueueFull { .. }) if target.log().is_none() => {
                    dropped += chunk.len();
                }
                Err(error) => return Err(error.into()),
            }
            *after = last.position;
        }
        if dropped > 0 {
            tracing::warn!(
                from = %source.name(), to = %target.name(), events = dropped,
                "the memory bus is full: forwarded events were dropped"
            );
        }
        tracing::trace!(from = %source.name(), to = %target.name(), position = %after, "forwarded");
    }
}

/// Sets the mark back to where the source ends, if that is before it: an older copy of the log was put in its
/// place, and gives the positions up to the mark once more.
async fn set_back(source: &Bus, target: &Bus) -> Result<(), AppendError> {
    let (Some(_), Some(_)) = (source.log(), target.log()) else { return Ok(()) };
    let (last, taken) = (source.last_position(), taken(source, target));
    if taken <= last {
        return Ok(());
    }
    tracing::warn!(
        from = %source.name(), to = %target.name(), position = %last, forwarded = %taken,
        "the log ends before what was forwarded of it: what it gets from here on is forwarded as new"
    );
    let committed = match target.control(&[mark(source, last)]).done().await {
        Err(AppendError::ShuttingDown) => return Ok(()),
        committed => committed?,
    };
    target.until_applied(committed.commit).await;
    Ok(())
}

/// Where to go on. Where nothing is outstanding, at the end of what is folded: the log need not be read for
/// nothing, and what is durable and not folded yet may be for the target.
fn start(source: &Bus, target: &Bus) -> Position {
    if source.log().is_none() || target.log().is_none() {
        // A memory bus forgot what it sent or took.
        return source.last_position();
    }
    let taken = taken(source, target);
    let ledger = source.ledger();
    let (meant, (_, folded)) = (ledger.outbound(target.name()), source.folded());
    if taken >= meant { taken.max(folded) } else { taken }
}

/// Cuts events into commits of a bounded size, in order.
fn chunks(events: &[Arc<Event>], count_max: usize) -> impl Iterator<Item = &[Arc<Event>]> {
    let mut rest = events;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |event: &&Arc<Event>| {
            bytes += event.weight();
            bytes <= FORWARD_BATCH_BYTES_MAX
        };
        let count = rest.iter().take(count_max).take_while(fits).count();
        let (chunk, after) = rest.split_at(count.max(1).min(rest.len()));
        rest = after;
        (!chunk.is_empty()).then_some(chunk)
    })
}

fn is_for(event: &Event, target: &str) -> bool {
    matches!(&event.addressee, Some(Addressee::Bus(bus)) if **bus == *target)
}

fn moved(event: &Event, source: &Arc<str>) -> NewEvent {
    let origin =
        Origin { region: Arc::default(), bus: Arc::clone(source), position: event.position };
    NewEvent {
        addressee: None,
        // Instances and positions of one log mean nothing in another.
        emitter: None,
        causation: None,
        origin: Some(origin),
        ..event.body.clone()
    }
}

/// The last position that the target took.
pub(super) fn taken(source: &Bus, target: &Bus) -> Position {
    target.ledger().forwarded(source.name(), &log_of(source))
}

/// Tells logs apart in marks. A log's id itself stands nowhere else.
fn log_of(source: &Bus) -> Digest {
    let id = source.log().map_or(Uuid::nil(), Log::id);
    Digest::of(id.as_bytes())
}

fn mark(source: &Bus, position: Position) -> ControlRecord {
    let (bus, log) = (source.name().to_string(), Some(log_of(source)));
    ControlRecord { actor: "host".into(), control: Control::Forwarded { bus, position, log } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{CommitNumber, KeySequence};

    /// The sizes of the chunks of events with payloads of so many bytes.
    fn cut(payloads: &[usize], count_max: usize) -> Vec<usize> {
        let event = |bytes: &usize| {
            let body = NewEvent { data: vec![7; *bytes].into(), ..NewEvent::default() };
            let (position, commit, sequence) = (Position(1), CommitNumber(1), KeySequence(0));
            Arc::new(Event { position, sequence, recorded_ms: 0, commit, body })
        };
        let events: Vec<_> = payloads.iter().map(event).collect();
        chunks(&events, count_max).map(<[_]>::len).collect()
    }

    #[test]
    fn chunks_are_bounded_in_events_and_in_bytes() {
        const MIB: usize = 1024 * 1024;
        assert_eq!(cut(&[], 2), [0; 0]);
        assert_eq!(cut(&[1, 1, 1, 1, 1], 2), [2, 2, 1]);
        assert_eq!(cut(&[1, 1], 1), [1, 1]);
        assert_eq!(cut(&[MIB; 8], 256), [3, 3, 2]);
        assert_eq!(cut(&[1, FORWARD_BATCH_BYTES_MAX, 1, 1], 256), [1, 1, 2], "it goes alone");
    }
}
