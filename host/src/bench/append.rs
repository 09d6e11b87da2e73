//! `bench append`: from a publish to its durability, in this process, without HTTP.

use std::path::Path;
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
        limit.run_own_groups(&place, run.group_events, count, count)?;
        if repetition > 0 {
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
    let folder = settings.folder();
    report.parameter("dir", folder.display().to_string());
    // Where the system does not say, it is a disk as far as anybody knows.
    if OsDisk.is_in_memory(&folder).unwrap_or(false) {
        report.notes.push(format!(
            "ATTENTION: the folder `{}` is in memory: syncs are free there, and the figures are those of no \
             host that keeps anything; name a folder on a disk with --dir",
            folder.display()
        ));
    }
}

/// Groups of a run from which on the limit at their size says something: fewer syncs are chance.
const GROUPS_MIN: f64 = 10.0;

/// The limit, measured in turns with the host: with groups as large as what may be in flight, and
/// after each run of the host with groups as large as the log made them in it.
///
/// Rule: the first run of each side warms it up, and does not count.
pub(super) struct Limit {
    window: Side,
    zeroed_before: Side,
    /// None: the size of the log's own groups is not known.
    own: Option<OwnGroups>,
    event_bytes: usize,
}

/// The limit at the group sizes of the log's own runs.
struct OwnGroups {
    side: Side,
    /// Of each run.
    sizes: Vec<u64>,
    /// The fewest groups of a run behind the first one.
    groups_min: f64,
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
            window: Side::new(&place.path(), Zeroing::Ahead, in_flight, event_bytes)?,
            zeroed_before: Side::new(&place.path(), Zeroing::Before, in_flight, event_bytes)?,
            own: None,
            event_bytes,
        })
    }

    /// One run with groups of the size that the log made them in a run of `ended` events, where that is
    /// known.
    pub(super) fn run_own_groups(
        &mut self,
        place: &Place,
        group_events: Option<Figure>,
        ended: u64,
        events: u64,
    ) -> Result<(), BenchError> {
        let Some(Figure(group_events)) = group_events else { return Ok(()) };
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a number of events, of which there are not so many"
        )]
        let group = group_events.round() as usize;
        let own = match &mut self.own {
            Some(own) => own,
            none => none.insert(OwnGroups::new(place, group, self.event_bytes)?),
        };
        own.run(group, events)?;
        if own.sizes.len() > 1 {
            #[allow(clippy::cast_precision_loss, reason = "compared with a few")]
            let groups = ended as f64 / group_events.max(1.0);
            own.groups_min = own.groups_min.min(groups);
        }
        Ok(())
    }

    /// One run; gives events a second with the groups of the window.
    pub(super) fn run(&mut self, events: u64) -> Result<f64, BenchError> {
        self.zeroed_before.run(events)?;
        self.window.run(events)
    }

    /// Puts what was found into the report, whose own figures stand already.
    pub(super) fn report(&self, report: &mut Report) {
        let telling = self.own.as_ref().filter(|own| own.groups_min >= GROUPS_MIN);
        let same_group = telling.map(|own| warm(&own.side.rates));
        report.take_limits(same_group, warm(&self.zeroed_before.rates));
        report.raw_segment = vec![self.window.figures()];
        let window = self.window.raw.group();
        let differ = |own: &&OwnGroups| warm(&own.sizes).iter().any(|size| *size != window);
        report.raw_segment.extend(telling.filter(differ).map(OwnGroups::figures));
        report.raw_segment.push(self.zeroed_before.figures());
        if let (Some(own), None) = (&self.own, telling) {
            report.notes.push(format!(
                "no ratio at the log's own groups: there were {:.0} of them in a repetition, and fewer \
                 than {GROUPS_MIN} tell nothing; ask for more with --events",
                own.groups_min
            ));
        }
    }
}

impl OwnGroups {
    fn new(place: &Place, group: usize, event_bytes: usize) -> Result<Self, BenchError> {
        let dir = place.path().join("own-groups");
        std::fs::create_dir_all(&dir).map_err(super::place::at(&dir))?;
        let side = Side::new(&dir, Zeroing::Ahead, group, event_bytes)?;
        Ok(Self { side, sizes: Vec::new(), groups_min: f64::INFINITY })
    }

    fn run(&mut self, group: usize, events: u64) -> Result<(), BenchError> {
        self.side.raw.regroup(group);
        self.sizes.push(self.side.raw.group());
        self.side.run(events)?;
        Ok(())
    }

    /// At the size in the middle of those of the repetitions.
    fn figures(&self) -> RawFigures {
        let mut sizes = warm(&self.sizes).to_vec();
        sizes.sort_unstable();
        let group_events = sizes.get(sizes.len() / 2).copied().unwrap_or_default();
        RawFigures { group_events, ..self.side.figures() }
    }
}

impl Side {
    fn new(
        dir: &Path,
        zeroing: Zeroing,
        group: usize,
        event_bytes: usize,
    ) -> Result<Self, BenchError> {
        let raw = RawSegment::new(dir, zeroing, group, event_bytes)?;
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
        for _ in 0..2 {
            limit.run(8).unwrap();
            limit.run_own_groups(&place, Some(Figure(2.2)), 8, 8).unwrap();
        }
        let own = &mut limit.own.as_mut().unwrap().side;
        assert_eq!((own.raw.group(), own.rates.len(), own.groups.len()), (2, 2, 2));
        found(9000.0, &[100.0, 300.0, 200.0], own);
        found(1.0, &[1000.0, 1100.0, 5000.0], &mut limit.window);
        assert!((own_figures(&limit).events_per_second.0 - 200.0).abs() < 0.1);
        assert!((limit.window.figures().events_per_second.0 - 1100.0).abs() < 0.1);
    }

    fn own_figures(limit: &Limit) -> RawFigures {
        limit.own.as_ref().unwrap().figures()
    }

    #[test]
    fn the_limit_has_the_groups_of_each_run_and_few_of_them_tell_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Some(dir.path().to_owned());
        let settings = Settings { dir, ticker: Ticker::Off, in_flight: 8, ..Settings::default() };
        let place = Place::new(&settings).unwrap();
        let mut limit = Limit::new(&place, &settings).unwrap();
        // What warms up, says nothing of the groups of the repetitions.
        for (group, events) in [(1.0, 3), (3.0, 60), (4.4, 60), (2.0, 60)] {
            limit.run_own_groups(&place, Some(Figure(group)), events, events).unwrap();
        }
        assert_eq!(limit.own.as_ref().unwrap().sizes, [1, 3, 4, 2]);
        assert_eq!(own_figures(&limit).group_events, 3);
        let mut report = Report::new("append");
        limit.report(&mut report);
        let groups: Vec<_> = report.raw_segment.iter().map(|raw| raw.group_events).collect();
        assert_eq!((groups, report.notes.len()), (vec![8, 3, 8], 0));
        limit.run_own_groups(&place, Some(Figure(40.0)), 60, 60).unwrap();
        let mut report = Report::new("append");
        limit.report(&mut report);
        assert_eq!(report.raw_segment.len(), 2);
        assert!(report.notes[0].contains("there were 2 of them"), "{:?}", report.notes);
    }
}
