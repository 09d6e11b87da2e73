//! Looking at events: listings, streams and trees of causes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream;

use crate::api::filter::{EventFilter, Point};
use crate::api::host::{Cursor, EventPage, EventStream, HostError};
use crate::api::view::{Timestamp, TreeEventView, TreeView};
use crate::bus::Bus;
use crate::event::{Addressee, Event, Key, Position};
use crate::limits::PAGE_BYTES_MAX;
use crate::log::ReadError;
use crate::plugin::TypePattern;

/// Events that one page looks at, at most.
const PAGE_SCAN_MAX: usize = 20_000;
/// Events without a wanted one that a page looks at before it asks the index where the next may be.
const BARREN_MAX: usize = 1000;
/// Events of one tree, at most.
const TREE_EVENTS_MAX: usize = 1000;
/// Events that a tree looks through for consequences, at most.
const TREE_SCAN_MAX: usize = 200_000;

/// Reads as the API's error: what a reader finds damaged is the host's fault, not the client's.
pub(super) fn read_error(error: ReadError) -> HostError {
    match error {
        ReadError::Closed => HostError::ShuttingDown,
        other => HostError::Internal(other.to_string()),
    }
}

/// A page of public events.
pub(super) async fn page(
    bus: &Bus,
    epoch: u32,
    filter: &EventFilter,
    cursor: Option<Cursor>,
    limit: usize,
) -> Result<EventPage, HostError> {
    let after = start_after(bus, epoch, filter, cursor, Position(0)).await?;
    if let Some(key) = &filter.key {
        return page_of_key(bus, epoch, filter, key, after, limit).await;
    }
    let end = bus.last_position();
    let mut page = EventPage { epoch, ..EventPage::default() };
    let mut seen = after;
    let (mut looked_at, mut barren, mut bytes) = (0, 0, 0);
    let mut source = bus.read_after(after);
    while seen < end && looked_at < PAGE_SCAN_MAX {
        if barren > BARREN_MAX {
            barren = 0;
            let on = pass_over(bus, filter, seen, end).await.map_err(read_error)?;
            if on > seen {
                (seen, source) = (on, bus.read_after(on));
                continue;
            }
        }
        let batch = source.next().await.map_err(read_error)?;
        let (mut last, mut has_ended) = (seen, false);
        let selected = batch.select(|heading| {
            has_ended |= heading.position > end || filter.has_ended(heading);
            last = if has_ended { last } else { heading.position };
            looked_at += 1;
            barren += 1;
            !has_ended && filter.may_match(heading)
        });
        for event in selected.map_err(read_error)? {
            if filter.matches(&event) {
                (seen, barren) = (event.position, 0);
                bytes += event.weight();
                page.events.push(event);
                if page.events.len() == limit || bytes > PAGE_BYTES_MAX {
                    page.next = (seen < end).then_some(seen);
                    return Ok(page);
                }
            }
        }
        if has_ended {
            return Ok(page);
        }
        seen = last;
    }
    page.next = (seen < end).then_some(seen);
    Ok(page)
}

/// A position that a page may go on after: what stands between is not of the one type that it is about.
async fn pass_over(
    bus: &Bus,
    filter: &EventFilter,
    seen: Position,
    end: Position,
) -> Result<Position, ReadError> {
    let kind = filter.kind.as_ref().and_then(TypePattern::exact);
    let (Some(log), Some(kind)) = (bus.log(), kind) else { return Ok(seen) };
    let next = log.type_positions(kind, Position(seen.0.saturating_add(1)), 1).await?;
    Ok(next.first().map_or(end, |next| Position(next.0.saturating_sub(1))).min(end))
}

async fn page_of_key(
    bus: &Bus,
    epoch: u32,
    filter: &EventFilter,
    key: &Key,
    after: Position,
    limit: usize,
) -> Result<EventPage, HostError> {
    let from = Position(after.0.saturating_add(1));
    let positions = bus.key_positions(key, from, limit).await.map_err(read_error)?;
    let mut more = positions.len() == limit;
    let mut page = EventPage { epoch, ..EventPage::default() };
    let mut bytes = 0;
    for position in positions {
        if bytes > PAGE_BYTES_MAX {
            more = true;
            break;
        }
        page.next = Some(position);
        let Some(event) = bus.event(position).await.map_err(read_error)? else { continue };
        if filter.has_ended(&event.heading()) {
            return Ok(EventPage { next: None, ..page });
        }
        if filter.matches(&event) && filter.has_begun(&event.heading()) {
            bytes += event.weight();
            page.events.push(event);
        }
    }
    page.next = page.next.filter(|_| more);
    Ok(page)
}

async fn start_after(
    bus: &Bus,
    epoch: u32,
    filter: &EventFilter,
    cursor: Option<Cursor>,
    default: Position,
) -> Result<Position, HostError> {
    if let Some(cursor) = cursor {
        let is_said = cursor.epoch != 0;
        if bus.log().is_none() && is_said && cursor.epoch != epoch {
            // What it had seen is gone, and positions began anew: nothing that is there has been seen.
            return Ok(Position(0));
        }
        if cursor.epoch > epoch {
            let why = "is of another log".to_owned();
            return Err(HostError::Invalid { field: "cursor".to_owned(), why });
        }
        // Nobody was shown more than there is: this is an older copy, or what was left of a damaged one.
        let last = bus.last_position();
        if is_said && cursor.after > last {
            let why = format!("is of another log: this one ends with {last}");
            return Err(HostError::Invalid { field: "cursor".to_owned(), why });
        }
        return Ok(cursor.after);
    }
    Ok(match filter.from {
        None => default,
        Some(Point::Position(position)) => Position(position.0.saturating_sub(1)),
        Some(Point::TimeMs(ms)) => bus.position_before(ms).await.map_err(read_error)?,
    })
}

/// Public events as they become durable.
pub(super) async fn follow(
    bus: Arc<Bus>,
    epoch: u32,
    filter: EventFilter,
    cursor: Option<Cursor>,
) -> Result<EventStream, HostError> {
    let last = bus.last_position();
    let begins_after = (cursor.is_none() && filter.from.is_none()).then_some(last);
    let after = start_after(&bus, epoch, &filter, cursor, last).await?;
    let batches = stream::unfold(Some((bus.read_after(after), filter)), |going| async move {
        let (mut source, filter) = going?;
        let mut has_ended = false;
        let batch = source.next().await;
        let selected = batch.and_then(|batch| {
            batch.select(|heading| {
                has_ended |= filter.has_ended(heading);
                !has_ended && filter.may_match(heading)
            })
        });
        match selected {
            Ok(mut events) => {
                events.retain(|event| filter.matches(event));
                Some((stream::iter(events), (!has_ended).then_some((source, filter))))
            }
            Err(error) => {
                tracing::debug!(%error, "an event stream ends");
                None
            }
        }
    });
    Ok(EventStream { epoch, begins_after, events: batches.flatten().boxed() })
}

/// What caused an event and what it caused, on its own bus.
pub(super) async fn tree(bus: &Bus, position: Position) -> Result<TreeView, HostError> {
    let asked = bus.event(position).await.map_err(read_error)?;
    let Some(mut root) = asked else {
        return Err(HostError::NotFound(format!("event at position {position}")));
    };
    while let Some(cause) = root.causation {
        match bus.event(cause).await.map_err(read_error)? {
            Some(event) if cause < root.position => root = event,
            _ => break,
        }
    }
    let mut found = BTreeMap::from([(root.position, Arc::clone(&root))]);
    let mut causes = BTreeSet::from([root.position]);
    let end = bus.last_position();
    let mut source = bus.read_after(root.position);
    let (mut seen, mut looked_at) = (root.position, 0);
    while seen < end && looked_at < TREE_SCAN_MAX && found.len() < TREE_EVENTS_MAX {
        let batch = source.next().await.map_err(read_error)?;
        for event in batch.events().map_err(read_error)? {
            seen = event.position;
            looked_at += 1;
            if event.causation.is_some_and(|cause| causes.contains(&cause)) {
                causes.insert(event.position);
                found.insert(event.position, event);
            }
        }
    }
    let events = found.values().map(|event| tree_event(bus, event)).collect();
    Ok(TreeView { position: position.0, events, truncated: seen < end })
}

fn tree_event(bus: &Bus, event: &Event) -> TreeEventView {
    let emitter = event
        .emitter
        .and_then(|id| bus.ledger().instance(id).map(|instance| instance.name.clone()));
    let to = match &event.addressee {
        Some(Addressee::Bus(name)) => name.to_string(),
        _ => bus.name().to_string(),
    };
    TreeEventView {
        bus: to,
        position: event.position.0,
        cause: event.causation.map(|cause| cause.0),
        kind: event.kind.to_string(),
        source: event.source.to_string(),
        id: event.id.to_string(),
        key: event.key.as_ref().map(ToString::to_string),
        sequence: event.sequence.0,
        emitter,
        recorded: Timestamp(event.recorded_ms),
    }
}

#[cfg(test)]
mod tests;
