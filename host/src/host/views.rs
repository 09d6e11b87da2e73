//! From what the host knows to what its API shows: pure, but for reading a commit again.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::api::host::DeadLetterFilter;
use crate::api::view::{
    AttemptView, BusKind, BusState, BusView, DeadLetterView, LogLineView, LogView, Timestamp,
    TypeView,
};
use crate::bus::Bus;
use crate::bus::notes::Line;
use crate::event::{Digest, Event};
use crate::log::record::DeadLetterRecord;
use crate::log::{Log, LogStats, ReadError, RecordRef};
use crate::metrics::BusStanding;
use crate::state::{DeadLetter, Ledger};

pub(super) fn log_line(line: &Arc<Line>) -> LogLineView {
    LogLineView {
        at: Timestamp(line.at_ms),
        level: line.level.clone(),
        message: line.message.clone(),
        position: line.position.map(|position| position.0),
        key: line.key.clone(),
        attempt: line.attempt,
    }
}

pub(super) fn bus_kind(bus: &Bus) -> BusKind {
    if bus.log().is_some() { BusKind::Durable } else { BusKind::Memory }
}

pub(super) fn bus_standing(bus: &Bus) -> BusStanding {
    let last_position = bus.last_position().0;
    // A memory bus begins anew with each start.
    let appended = bus.log().map_or(last_position, Log::appended_events);
    BusStanding { name: bus.name().to_string(), last_position, appended }
}

pub(super) fn bus(bus: &Bus, default: bool, draining: bool, plugins: Vec<String>) -> BusView {
    let stats = bus.log().map(crate::log::Log::stats);
    let state = match &stats {
        _ if draining => BusState::Draining,
        Some(stats) if stats.failure.is_some() => BusState::ReadOnly,
        Some(stats) if stats.is_full() => BusState::StorageFull,
        Some(_) | None => BusState::Open,
    };
    let BusStanding { name, last_position, appended } = bus_standing(bus);
    let log = bus.log().zip(stats).map(|(log, stats)| log_view(log, &stats));
    BusView {
        name,
        kind: bus_kind(bus),
        default,
        state,
        last_position,
        appended,
        plugins,
        log,
        capacity: bus.ring().map(|ring| ring.capacity() as u64),
    }
}

fn log_view(log: &Log, stats: &LogStats) -> LogView {
    // The id itself salts the checksums, and stays inside.
    let id: String = Digest::of(log.id().as_bytes()).to_string().chars().take(16).collect();
    LogView {
        id,
        epoch: log.epoch(),
        last_commit: stats.last_commit.0,
        segments: stats.segments,
        bytes: stats.bytes,
        free_bytes: stats.free_bytes,
        last_append_us: stats.last_append_us,
        dedup_ids: stats.dedup.count as u64,
        dedup_since: Some(Timestamp(log.now_ms().saturating_sub(stats.dedup.ms))),
        clock_alarm: stats.clock_alarm.map(|alarm| alarm.to_string()),
    }
}

/// Types seen on a bus, by name. `only`: this one alone, seen or not.
pub(super) fn types(bus: &Bus, only: Option<&str>) -> BTreeMap<String, TypeView> {
    let view = |kind: &str| TypeView {
        kind: kind.to_owned(),
        count: 0,
        last_seen: None,
        emitted_only: false,
        subscribers: Vec::new(),
    };
    let mut types: BTreeMap<String, TypeView> =
        only.map(|kind| (kind.to_owned(), view(kind))).into_iter().collect();
    let ledger = bus.ledger();
    for (kind, seen) in ledger.types().filter(|(kind, _)| only.is_none_or(|only| only == *kind)) {
        let view = types.entry(kind.to_owned()).or_insert_with(|| view(kind));
        view.count = seen.count;
        view.last_seen = Some(Timestamp(seen.last_ms));
        view.emitted_only = seen.ingested == 0;
    }
    types
}

/// Dead letters of a bus that a filter asks for, each with the name of its plugin.
pub(super) fn matching(
    bus: &Bus,
    filter: &DeadLetterFilter,
    after: u64,
    limit: usize,
) -> Vec<(DeadLetter, String)> {
    let ledger = bus.ledger();
    meant(&ledger, filter)
        .filter(|(letter, _)| letter.id > after)
        .take(limit)
        .map(|(letter, name)| (letter.clone(), name.to_owned()))
        .collect()
}

/// As [`matching`], the numbers alone.
pub(super) fn matching_numbers(bus: &Bus, filter: &DeadLetterFilter) -> Vec<(u64, String)> {
    let ledger = bus.ledger();
    meant(&ledger, filter).map(|(letter, name)| (letter.id, name.to_owned())).collect()
}

fn meant<'a>(
    ledger: &'a Ledger,
    filter: &'a DeadLetterFilter,
) -> impl Iterator<Item = (&'a DeadLetter, &'a str)> {
    ledger
        .dead_letters()
        .filter(|letter| filter.key.is_none() || letter.key == filter.key)
        .filter(|letter| filter.outcome.is_none_or(|outcome| letter.outcome == outcome))
        .map(|letter| {
            let name = ledger.instance(letter.instance).map(|instance| instance.name.as_str());
            (letter, name.unwrap_or_default())
        })
        .filter(|(_, name)| filter.plugin.as_ref().is_none_or(|plugin| plugin == name))
}

/// The whole record of a dead letter, from its commit.
pub(super) async fn dead_letter_record(
    bus: &Bus,
    letter: &DeadLetter,
) -> Result<Option<DeadLetterRecord>, ReadError> {
    let Some(log) = bus.log() else { return Ok(None) };
    log.read_commit(letter.at.commit, |commit| {
        for record in commit.records() {
            if let RecordRef::DeadLetter(record) = record? {
                return Ok(Some(record));
            }
        }
        Ok(None)
    })
    .await
}

/// Whether a dead letter parks its key, and whether it runs again.
fn standing(bus: &Bus, letter: &DeadLetter) -> (bool, bool) {
    let ledger = bus.ledger();
    ledger.instance(letter.instance).map_or((false, false), |plugin| {
        let parked = plugin.is_parked_by(letter.key.as_ref(), letter.position);
        (parked, plugin.redriving.contains(&letter.position))
    })
}

pub(super) fn dead_letter(
    bus: &Bus,
    id: String,
    plugin: String,
    letter: &DeadLetter,
    event: Option<&Event>,
    record: Option<&DeadLetterRecord>,
) -> DeadLetterView {
    let given_up = Timestamp(letter.at.time_ms);
    let (parked, redriving) = standing(bus, letter);
    let tried = record.map_or(&[][..], |_| &letter.tried).iter();
    let logs = record.map_or(&[][..], |record| &record.logs).iter();
    DeadLetterView {
        id,
        plugin,
        bus: bus.name().to_string(),
        position: letter.position.0,
        kind: event.map(|event| event.kind.to_string()).unwrap_or_default(),
        source: event.map(|event| event.source.to_string()).unwrap_or_default(),
        event_id: event.map(|event| event.id.to_string()).unwrap_or_default(),
        key: letter.key.as_ref().map(ToString::to_string),
        outcome: letter.outcome.name().to_owned(),
        reason: record.map_or_else(|| letter.reason.clone(), |record| record.reason.clone()),
        attempts: letter.attempts,
        first_attempt: Timestamp(letter.first_ms),
        given_up,
        module: letter.module.to_string(),
        parked,
        redriving,
        tried: tried
            .map(|tried| AttemptView {
                attempt: tried.attempt,
                at: Timestamp(tried.at_ms),
                outcome: tried.outcome.name().to_owned(),
            })
            .collect(),
        state: Vec::new(),
        backtrace: record.map(|record| record.backtrace.clone()).unwrap_or_default(),
        logs: logs
            .map(|line| LogLineView {
                at: given_up,
                level: line.level.clone(),
                message: line.message.clone(),
                position: Some(letter.position.0),
                key: None,
                attempt: Some(letter.attempts),
            })
            .collect(),
    }
}
