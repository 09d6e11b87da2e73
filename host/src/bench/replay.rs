//! `bench replay`: how fast a new plugin catches up with an old log.

use std::sync::Arc;
use std::time::Duration;

use crate::event::Position;
use crate::limits::GROUP_BYTES_MAX;

use super::append::{Limit, describe};
use super::events::Events;
use super::guest::{self, Given, Guest, Plugin};
use super::observe::{GivenUp, Observed, Observer};
use super::pipeline::given_up;
use super::place::{BenchHost, Place};
use super::report::{Figure, Report, Run};
use super::{BenchError, ENVELOPE_BYTES, Settings, cpu};

/// Events published at once to make the old log, at most.
const BATCH: u64 = 500;

/// Events behind the first group, and groups they end in, at least. What runs while the first group is
/// made durable ends in the second one, and has had its time before the clock starts: about as much as is
/// in the first, which among fewer than so many times as many is a flattery.
const BEHIND_MIN: u64 = 100;
const BEHIND_FIRST_MIN: u64 = 10;
const GROUPS_MIN: u64 = 10;

/// What only this bench is told.
#[derive(Debug, Clone, Default)]
pub struct ReplayOptions {
    /// The module; none: a built-in one that does nothing.
    pub module: Option<Given>,
}

/// What one plugin came to that caught up.
#[derive(Debug, Clone, Copy)]
struct CaughtUp {
    events_per_second: f64,
    cpu_us_per_event: f64,
    /// Of the log, on average, where deliveries ended.
    group_events: f64,
    /// Bytes that the log wrote for the end of a delivery, effects included.
    event_bytes: f64,
}

/// Runs it. Each repetition makes a log and a host of its own: a plugin catches up once.
///
/// # Errors
/// A parameter makes no sense, the module is not taken, or the host fails.
pub async fn run(settings: &Settings, options: &ReplayOptions) -> Result<Report, BenchError> {
    settings.check()?;
    let plugin = Plugin::of(options.module.as_ref(), &Guest::Idle, settings)?;
    let place = Place::new(settings)?;
    let ticking = settings.ticker.start()?;
    let events = Arc::new(Events::new(settings));
    let (mut runs, mut failed) = (Vec::new(), GivenUp::default());
    let mut limit = None;
    for _ in 0..settings.repetitions {
        let host = BenchHost::start(settings).await?;
        let published = fill(&host, &events, settings).await?;
        let (found, given_up) = catch_up(&host, &plugin, &published).await?;
        host.stop().await?;
        let limit = match &mut limit {
            Some(limit) => limit,
            none => none.insert(learnt(&place, settings, &found)?),
        };
        runs.push(found.beside(limit.run(settings.events)?));
        let group_events = Some(Figure(found.group_events));
        limit.run_own_groups(&place, group_events, settings.events, settings.events)?;
        failed.merge(given_up);
    }
    drop(ticking);

    let mut report = Report::new("replay");
    describe(&mut report, settings);
    guest::describe(&mut report, options.module.as_ref(), "built-in, does nothing");
    report.take_runs(runs);
    limit.iter().for_each(|limit| limit.report(&mut report));
    if let Some(us) = report.cpu_us_per_event {
        report.figures.insert("events_per_second_and_core", Figure(1e6 / us));
    }
    given_up(&mut report, &failed, settings.events * settings.repetitions as u64);
    Ok(report)
}

/// The limit of what is written to catch up: ends of deliveries and effects, not the events.
fn learnt(place: &Place, settings: &Settings, found: &CaughtUp) -> Result<Limit, BenchError> {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "no more bytes than a frame has"
    )]
    let event_bytes = found.event_bytes.round() as usize;
    let mut limit = Limit::of(place, settings.in_flight, event_bytes.max(1))?;
    let warming_up = settings.events.div_ceil(10);
    limit.run(warming_up)?;
    let group_events = Some(Figure(found.group_events));
    limit.run_own_groups(place, group_events, settings.events, warming_up)?;
    Ok(limit)
}

/// Makes the old log; gives where its events stand.
async fn fill(
    host: &BenchHost,
    events: &Events,
    settings: &Settings,
) -> Result<Vec<Position>, BenchError> {
    let (log, count) = (host.log()?, settings.events);
    let batch = batch(settings.payload_bytes());
    let mut published = Vec::new();
    let mut first = 0;
    while first < count {
        let end = (first + batch).min(count);
        let appended = log.ingest((first..end).map(|number| events.publish(number)).collect());
        published.extend(appended.await?.iter().map(|appended| appended.position));
        first = end;
    }
    Ok(published)
}

/// How many events with payloads of so many bytes are published at once: no more than make a group.
fn batch(payload_bytes: usize) -> u64 {
    let fit = GROUP_BYTES_MAX / (payload_bytes + ENVELOPE_BYTES);
    (fit as u64).clamp(1, BATCH)
}

/// Drops the module in, and measures from the first durable completions to the last: what comes
/// before is compiling.
async fn catch_up(
    host: &BenchHost,
    plugin: &Plugin,
    published: &[Position],
) -> Result<(CaughtUp, GivenUp), BenchError> {
    let observer = Observer::of(host.log()?, published);
    host.drop_in(plugin)?;
    let observed = observer.run(None, host.serves()).await;
    let ended = cpu::process();
    let observed = observed.map_err(|error| host.explain(error))?;
    observed.given_up.check(published.len() as u64)?;
    Ok((caught_up(&observed, ended)?, observed.given_up))
}

/// What was observed until this processor time.
#[allow(clippy::cast_precision_loss, reason = "rates need no more digits")]
fn caught_up(observed: &Observed, cpu: Duration) -> Result<CaughtUp, BenchError> {
    let all = observed.done.len() as u64;
    let in_first = observed.first.map_or(all, |first| first.ended);
    let (behind, groups) = (all - in_first, observed.frames.saturating_sub(1));
    let too_few = BenchError::TooFew { events: all, behind, groups };
    let (Some(first), Some((_, last))) = (observed.first, observed.done.last()) else {
        return Err(too_few);
    };
    let tells = behind >= BEHIND_MIN.max(in_first * BEHIND_FIRST_MIN) && groups >= GROUPS_MIN;
    let took = last.saturating_duration_since(first.at);
    if !tells || took.is_zero() {
        return Err(too_few);
    }
    Ok(CaughtUp {
        events_per_second: behind as f64 / took.as_secs_f64(),
        cpu_us_per_event: cpu.saturating_sub(first.cpu).as_secs_f64() * 1e6 / behind as f64,
        group_events: all as f64 / observed.frames.max(1) as f64,
        event_bytes: observed.frame_bytes as f64 / all as f64,
    })
}

impl CaughtUp {
    /// Beside so many events a second of the limit.
    fn beside(&self, raw: f64) -> Run {
        Run {
            events_per_second: Figure(self.events_per_second),
            raw_events_per_second: Figure(raw),
            ratio_to_raw_segment: Figure(self.events_per_second / raw),
            cpu_us_per_event: Figure(self.cpu_us_per_event),
            group_events: Some(Figure(self.group_events)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::bench::observe::First;

    #[test]
    fn a_batch_is_bounded_in_bytes() {
        assert_eq!(batch(256), BATCH);
        for payload_bytes in [100_000, 262_144, 1 << 20] {
            let bytes = batch(payload_bytes) * payload_bytes as u64;
            assert!(
                bytes <= GROUP_BYTES_MAX as u64 && bytes * 3 > GROUP_BYTES_MAX as u64,
                "{bytes}"
            );
        }
        assert_eq!(batch(usize::MAX / 2), 1);
    }

    #[test]
    fn what_ended_in_one_group_does_not_tell_how_fast() {
        let at = Instant::now();
        let later = at + Duration::from_secs(1);
        let cpu = Duration::from_secs(2);
        let mut observed = Observed {
            done: vec![(Position(1), at), (Position(2), at)],
            first: Some(First { at, cpu, ended: 2 }),
            frames: 1,
            frame_bytes: 200,
            ..Observed::default()
        };
        let refused = caught_up(&observed, cpu).unwrap_err().to_string();
        assert!(refused.contains("`--events` is 2"), "{refused}");

        observed.done.extend((3..=102).map(|position| (Position(position), later)));
        for (frames, ended) in [(10, 2), (11, 11)] {
            observed.frames = frames;
            observed.first = Some(First { at, cpu, ended });
            assert!(caught_up(&observed, cpu).is_err(), "{frames} frames, {ended} in the first");
        }
        (observed.frames, observed.frame_bytes) = (17, 10_200);
        observed.first = Some(First { at, cpu, ended: 2 });
        let found = caught_up(&observed, cpu + Duration::from_millis(1)).unwrap();
        let figures = [found.events_per_second, found.cpu_us_per_event, found.group_events];
        assert_eq!(figures.map(f64::round), [100.0, 10.0, 6.0]);
        assert!((found.event_bytes - 100.0).abs() < 1e-9);
    }
}
