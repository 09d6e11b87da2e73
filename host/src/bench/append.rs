//! `bench append`: from a publish to its durability, in this process, without HTTP.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::SystemClock;
use crate::log::disk::OsDisk;
use crate::log::{Log, LogOptions, LogStats};

use super::events::Events;
use super::lane::{Sent, Window};
use super::place::Place;
use super::publish::{Lanes, Publishers};
use super::raw::{RawSegment, Zeroing};
use super::report::{Figure, Percentiles, RawFigures, Report, Run, median, median_percentiles};
use super::{BenchError, ENVELOPE_BYTES, Settings, cpu};

/// Longest that one run of the limit takes.
const RAW_TIME_MAX: Duration = Duration::from_secs(5);

/// Runs it.
///
/// # Errors
/// A parameter makes no sense, or the log fails.
pub async fn run(settings: &Settings) -> Result<Report, BenchError> {
    settings.check()?;
    let place = Place::new(settings)?;
    let ticking = settings.ticker.start()?;
    let clock = Arc::new(SystemClock::new());
    let bus = place.path().join("bus");
    std::fs::create_dir_all(&bus).map_err(super::place::at(&bus))?;
    let opened = Log::open(Arc::new(OsDisk), &bus, LogOptions::default(), clock)?;
    let log = opened.log;
    let lanes = Lanes::new(Arc::new(Events::new(settings)));
    let mut limit = Limit::new(&place, settings)?;

    let mut first = 0;
    let (mut runs, mut percentiles) = (Vec::new(), Vec::new());
    // The first one warms up: files are new, memory is cold.
    for repetition in 0..=settings.repetitions {
        let count = if repetition == 0 { settings.events.div_ceil(10) } else { settings.events };
        let raw = limit.run(count)?;
        let window = Window::Durable(settings.in_flight.max(1));
        let publishers = Publishers::new(&log, &lanes, first..first + count, &window);
        let before = Mark::new(&log);
        let sent = publishers.run(None).await?;
        let run = before.run(&log, count, raw);
        first += count;
        if repetition == 0 {
            limit.learn(&place, run.group_events, count)?;
        } else {
            runs.push(run);
            percentiles.extend(Sent::all(sent).latencies.percentiles());
        }
    }
    log.close().await?;
    drop(ticking);

    let mut report = Report::new("append");
    describe(&mut report, settings);
    report.latency.insert("publish_to_durable", median_percentiles(&percentiles));
    report.take_runs(runs);
    limit.report(&mut report);
    Ok(report)
}

/// Notes what the bench was told.
pub(super) fn describe(report: &mut Report, settings: &Settings) {
    report.parameter("events", settings.events);
    report.parameter("size", settings.payload_bytes());
    report.parameter("in_flight", settings.in_flight);
    report.parameter("keys", settings.keys);
    report.parameter("repetitions", settings.repetitions);
    report.parameter("ticker", format!("{:?}", settings.ticker).to_lowercase());
    report.parameter("processors", std::thread::available_parallelism().map_or(1, usize::from));
}

/// The limit, measured in turns with the host: with groups as large as what may be in flight, and
/// with groups as large as the log made them while it warmed up.
///
/// Rule: the first run of each side warms it up, and does not count.
pub(super) struct Limit {
    window: Side,
    zeroed_before: Side,
    /// None: they are as large as the window, or their size is not known.
    same_group: Option<Side>,
    has_learned: bool,
    event_bytes: usize,
}

/// The limit at one group size.
struct Side {
    raw: RawSegment,
    rates: Vec<f64>,
    groups: Vec<Percentiles>,
}

impl Limit {
    /// For a log that writes each event as it was published.
    pub(super) fn new(place: &Place, settings: &Settings) -> Result<Self, BenchError> {
        Self::of(place, settings.in_flight, settings.payload_bytes() + ENVELOPE_BYTES)
    }

    /// For a log that writes so many bytes for each event.
    pub(super) fn of(
        place: &Place,
        in_flight: usize,
        event_bytes: usize,
    ) -> Result<Self, BenchError> {
        Ok(Self {
            window: Side::new(place, Zeroing::Ahead, in_flight, event_bytes)?,
            zeroed_before: Side::new(place, Zeroing::Before, in_flight, event_bytes)?,
            same_group: None,
            has_learned: false,
            event_bytes,
        })
    }

    /// Takes the size of the groups of a run of the host, where it is known, and warms up with so many events.
    pub(super) fn learn(
        &mut self,
        place: &Place,
        group_events: Option<Figure>,
        events: u64,
    ) -> Result<(), BenchError> {
        let Some(group_events) = group_events else { return Ok(()) };
        self.has_learned = true;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a number of events, of which there are not so many"
        )]
        let group = group_events.0.round() as usize;
        let group = RawSegment::group_of(group, self.event_bytes);
        if group as u64 != self.window.raw.group() {
            let mut side = Side::new(place, Zeroing::Ahead, group, self.event_bytes)?;
            side.run(events)?;
            self.same_group = Some(side);
        }
        Ok(())
    }

    /// One run; gives events a second with the groups of the window.
    pub(super) fn run(&mut self, events: u64) -> Result<f64, BenchError> {
        self.zeroed_before.run(events)?;
        if let Some(side) = &mut self.same_group {
            side.run(events)?;
        }
        self.window.run(events)
    }

    /// Puts what was found into the report, whose own figures stand already.
    pub(super) fn report(&self, report: &mut Report) {
        let same_group = self.same_group.as_ref().unwrap_or(&self.window);
        let same_group = self.has_learned.then(|| warm(&same_group.rates));
        report.take_limits(same_group, warm(&self.zeroed_before.rates));
        report.raw_segment = vec![self.window.figures()];
        report.raw_segment.extend(self.same_group.as_ref().map(Side::figures));
        report.raw_segment.push(self.zeroed_before.figures());
    }
}

impl Side {
    fn new(
        place: &Place,
        zeroing: Zeroing,
        group: usize,
        event_bytes: usize,
    ) -> Result<Self, BenchError> {
        let raw = RawSegment::new(&place.path(), zeroing, group, event_bytes)?;
        Ok(Self { raw, rates: Vec::new(), groups: Vec::new() })
    }

    fn run(&mut self, events: u64) -> Result<f64, BenchError> {
        let run = self.raw.run(events, RAW_TIME_MAX)?;
        self.rates.push(run.events_per_second);
        self.groups.extend(run.groups.percentiles());
        Ok(run.events_per_second)
    }

    fn figures(&self) -> RawFigures {
        let rate = median(warm(&self.rates).iter().copied());
        RawFigures {
            zeroed_before: self.raw.zeroing() == Zeroing::Before,
            group_events: self.raw.group(),
            event_bytes: self.raw.event_bytes(),
            events_per_second: Figure(rate.unwrap_or_default()),
            group: median_percentiles(warm(&self.groups)),
        }
    }
}

/// All but what was found while it warmed up.
fn warm<T>(found: &[T]) -> &[T] {
    found.get(1..).unwrap_or_default()
}

/// How things stood before a run.
pub(super) struct Mark {
    stats: LogStats,
    cpu: Duration,
    at: Instant,
}

impl Mark {
    pub(super) fn new(log: &Log) -> Self {
        Self { stats: log.stats(), cpu: cpu::process(), at: Instant::now() }
    }

    /// What a run of `events` came to that ends now.
    #[allow(clippy::cast_precision_loss, reason = "rates need no more digits")]
    pub(super) fn run(&self, log: &Log, events: u64, raw: f64) -> Run {
        let (took, cpu) = (self.at.elapsed(), cpu::process().saturating_sub(self.cpu));
        let groups = log.stats().groups.saturating_sub(self.stats.groups).max(1);
        let rate = events as f64 / took.as_secs_f64();
        Run {
            events_per_second: Figure(rate),
            raw_events_per_second: Figure(raw),
            ratio_to_raw_segment: Figure(rate / raw),
            cpu_us_per_event: Figure(cpu.as_secs_f64() * 1e6 / events as f64),
            group_events: Some(Figure(events as f64 / groups as f64)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Ticker;

    fn found(warming: f64, rates: &[f64], side: &mut Side) {
        side.rates = [&[warming], rates].concat();
    }

    #[test]
    fn the_limit_is_the_median_of_the_repetitions_without_what_warmed_it_up() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Some(dir.path().to_owned());
        let settings = Settings { dir, ticker: Ticker::Off, in_flight: 4, ..Settings::default() };
        let place = Place::new(&settings).unwrap();
        let mut limit = Limit::new(&place, &settings).unwrap();
        limit.run(8).unwrap();
        limit.learn(&place, Some(Figure(2.2)), 8).unwrap();
        limit.run(8).unwrap();
        let learnt = limit.same_group.as_mut().unwrap();
        assert_eq!((learnt.raw.group(), learnt.rates.len(), learnt.groups.len()), (2, 2, 2));
        found(9000.0, &[100.0, 300.0, 200.0], learnt);
        found(1.0, &[1000.0, 1100.0, 5000.0], &mut limit.window);
        assert!((learnt_figures(&limit) - 200.0).abs() < 0.1);
        assert!((limit.window.figures().events_per_second.0 - 1100.0).abs() < 0.1);
    }

    fn learnt_figures(limit: &Limit) -> f64 {
        limit.same_group.as_ref().unwrap().figures().events_per_second.0
    }
}
