//! `bench pipeline`: from a publish through the guest to the durability of its effects.

use std::sync::{Arc, Weak};
use std::time::Instant;

use tokio::sync::Semaphore;

use super::append::{Limit, Mark, describe};
use super::events::Events;
use super::guest::{self, Given, Guest, Plugin};
use super::lane::{Sent, Window};
use super::latency::Latencies;
use super::observe::{GivenUp, Observed, Observer};
use super::place::{BenchHost, Place};
use super::publish::{Lanes, Pace, Publishers};
use super::report::{Figure, Percentiles, Report, Run, median_percentiles};
use super::stages::{Alone, Watch};
use super::{BenchError, Settings};

/// Events of a run of the limit where each is written alone, at most: as many as tell how long one takes.
const LONE_EVENTS_MAX: u64 = 500;
/// Share of a rate from which on it was held: a run lasts until the effects of its last event are durable.
const HELD_SHARE_MIN: f64 = 0.9;

/// What only this bench is told.
#[derive(Debug, Clone, Default)]
pub struct PipelineOptions {
    /// The module; none: the built-in one, which writes one value and emits one event.
    pub module: Option<Given>,
    /// Events a second; none: as many as go through with so many in flight.
    pub rate: Option<u64>,
}

/// What the repetitions came to.
#[derive(Default)]
struct Runs {
    runs: Vec<Run>,
    acknowledged: Vec<Percentiles>,
    finished: Vec<Percentiles>,
    events: u64,
    given_up: GivenUp,
}

/// All that a run needs, made before its clock starts.
struct Ready {
    publishers: Publishers,
    observer: Observer,
    count: u64,
    /// What each end of a delivery opens; none: events come at a rate.
    opened: Option<Arc<Semaphore>>,
    /// The rate, and what it opens. Only the publishers hold that: the pace ends with them, however they
    /// end.
    paced: Option<(u64, Weak<Semaphore>)>,
}

/// Runs it.
///
/// # Errors
/// A parameter makes no sense, the module is not taken, or the host fails.
pub async fn run(settings: &Settings, options: &PipelineOptions) -> Result<Report, BenchError> {
    settings.check()?;
    let plugin = Plugin::of(options.module.as_ref(), &Guest::Counting, settings)?;
    let host = BenchHost::with_plugin(settings, &plugin).await?;
    let ticking = settings.ticker.start()?;
    let events = Arc::new(Events::new(settings));
    let alone = Alone::measure(host.place(), &events, &plugin).await?;
    let lanes = Lanes::new(events);

    let mut limit = limit(host.place(), settings, options)?;
    let mut watch = Watch::default();
    let mut runs = Runs::default();
    let mut first = 0;
    for repetition in 0..=settings.repetitions {
        let count = if repetition == 0 { settings.events.div_ceil(10) } else { settings.events };
        let raw_events = options.rate.map_or(count, |_| count.min(LONE_EVENTS_MAX));
        let raw = limit.run(raw_events)?;
        let ready = Ready::new(&host, &lanes, first..first + count, settings, options.rate)?;
        let before = Mark::new(host.log()?);
        let started = watch.begin(&host)?;
        let (sent, observed) = ready.deliver(&host).await?;
        let run = before.run(host.log()?, count, raw);
        let sent = Sent::all(sent);
        observed.given_up.check(count)?;
        first += count;
        if repetition > 0 {
            watch.end(&host, &started, count, sent.latencies.mean_us())?;
        }
        limit.run_own_groups(host.place(), run.group_events, count, raw_events)?;
        if repetition == 0 {
            continue;
        }
        runs.take(run, sent, observed, count);
    }
    host.stop().await?;
    drop(ticking);

    let mut report = Report::new("pipeline");
    describe(&mut report, settings);
    guest::describe(&mut report, options.module.as_ref(), "built-in");
    runs.report(&mut report);
    limit.report(&mut report);
    if let Some(rate) = options.rate {
        at_rate(&mut report, rate);
    }
    without_handler(&mut report, alone.guest_us());
    report.stages = alone.stages();
    report.stages.extend(watch.stages());
    Ok(report)
}

/// The limit. What comes at its own pace, mostly comes alone: so does what it is held against.
fn limit(
    place: &Place,
    settings: &Settings,
    options: &PipelineOptions,
) -> Result<Limit, BenchError> {
    let in_flight = options.rate.map_or(settings.in_flight, |_| 1);
    Limit::new(place, &Settings { in_flight, ..settings.clone() })
}

/// Leaves out what says nothing where events come at their own pace.
fn at_rate(report: &mut Report, rate: u64) {
    report.parameter("rate", rate);
    report.parameters.remove("in_flight");
    let why = match report.events_per_second {
        Some(found) if found < HELD_SHARE_MIN * precise(rate) => format!(
            "the rate was not held: {found:.0} of {rate} events a second went through. There is no ratio to \
             the raw segment file, which took events that come alone"
        ),
        _ => "at a fixed rate there is no ratio to the raw segment file: what limits is the rate"
            .to_owned(),
    };
    report.without_ratios(&why);
}

#[allow(clippy::cast_precision_loss, reason = "no rate needs more digits")]
const fn precise(rate: u64) -> f64 {
    rate as f64
}

/// Adds the processor time beside the handler, where the two measurements allow it.
fn without_handler(report: &mut Report, handler_us: Result<f64, &str>) {
    let Some(cpu_us) = report.cpu_us_per_event else { return };
    let handler_us = match handler_us {
        Ok(us) => us,
        Err(why) => {
            let why = format!("no processor time without the handler: called alone, it {why}");
            return report.notes.push(why);
        }
    };
    if cpu_us > handler_us {
        let figure = Figure(cpu_us - handler_us);
        report.figures.insert("cpu_us_per_event_handler_excluded", figure);
    } else {
        report.notes.push(format!(
            "no processor time without the handler: alone it took {handler_us:.2} us a call, which is \
             more than an event in the run, {cpu_us:.2} us"
        ));
    }
}

impl Ready {
    fn new(
        host: &BenchHost,
        lanes: &Lanes,
        numbers: std::ops::Range<u64>,
        settings: &Settings,
        rate: Option<u64>,
    ) -> Result<Self, BenchError> {
        let (log, count) = (host.log()?, numbers.end - numbers.start);
        let room = if rate.is_some() { 0 } else { settings.in_flight.max(1) };
        let window = Arc::new(Semaphore::new(room));
        let paced = rate.map(|rate| (rate, Arc::downgrade(&window)));
        let opened = rate.is_none().then(|| Arc::clone(&window));
        let publishers = Publishers::new(log, lanes, numbers, &Window::Elsewhere(window));
        Ok(Self { publishers, observer: Observer::new(log, count), count, opened, paced })
    }

    /// Publishes the events and waits until the effects of all are durable.
    async fn deliver(self, host: &BenchHost) -> Result<(Vec<Sent>, Observed), BenchError> {
        let Self { publishers, observer, count, opened, paced } = self;
        let paced = paced.map(|(rate, window)| (Pace::new(rate), window));
        let pace = paced.as_ref().map(|(pace, _)| *pace);
        let paced = tokio::task::spawn_blocking(move || {
            if let Some((pace, window)) = paced {
                pace.open(count, &window);
            }
        });
        let observed = tokio::spawn(observer.run(opened, std::future::ready(Ok(()))));
        // Whichever fails first ends both.
        let ended = tokio::try_join!(publishers.run(pace), async { observed.await? });
        let ended = ended.map_err(|error| host.explain(error))?;
        paced.await?;
        Ok(ended)
    }
}

impl Runs {
    fn take(&mut self, run: Run, sent: Sent, observed: Observed, events: u64) {
        self.runs.push(run);
        self.acknowledged.extend(sent.latencies.percentiles());
        self.finished.extend(latencies(sent.begun, observed.done).percentiles());
        self.events += events;
        self.given_up.merge(observed.given_up);
    }

    fn report(self, report: &mut Report) {
        report.latency.insert("publish_to_durable", median_percentiles(&self.acknowledged));
        report.latency.insert("publish_to_effects_durable", median_percentiles(&self.finished));
        report.take_runs(self.runs);
        given_up(report, &self.given_up, self.events);
    }
}

/// Notes how many deliveries of so many were given up. Not a median: one that was is to be seen.
#[allow(clippy::cast_precision_loss, reason = "a count far below 2^52")]
pub(super) fn given_up(report: &mut Report, given_up: &GivenUp, events: u64) {
    let figure = Figure(given_up.count as f64);
    report.figures.insert("deliveries_given_up_in_all_repetitions", figure);
    let words = given_up.of_all(events);
    report.notes.extend(
        words.map(|words| {
            format!("ATTENTION: {words}. These are in the figures, and have no effects")
        }),
    );
}

/// From the publish of each event to the durability of its effects.
fn latencies(
    mut begun: Vec<(crate::event::Position, Instant)>,
    mut done: Vec<(crate::event::Position, Instant)>,
) -> Latencies {
    begun.sort_unstable_by_key(|(position, _)| *position);
    done.sort_unstable_by_key(|(position, _)| *position);
    let mut latencies = Latencies::default();
    let mut done = done.into_iter().peekable();
    for (position, begun) in begun {
        while done.next_if(|(other, _)| *other < position).is_some() {}
        if let Some((_, ended)) = done.next_if(|(other, _)| *other == position) {
            latencies.add(ended.saturating_duration_since(begun));
        }
    }
    latencies
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::event::Position;

    #[test]
    fn events_are_matched_by_position() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let begun = vec![(Position(5), at(1)), (Position(2), at(0)), (Position(9), at(0))];
        let done = vec![(Position(2), at(10)), (Position(3), at(50)), (Position(5), at(11))];
        let found = latencies(begun, done).percentiles().unwrap();
        assert!((found.p50_us - 10_000.0).abs() < 200.0, "{found:?}");
        assert!((found.p999_us - 10_000.0).abs() < 200.0, "{found:?}");
    }

    #[test]
    fn a_rate_is_only_called_the_limit_where_it_was_held() {
        let said = |found: f64| {
            let events_per_second = Some(found);
            let mut report = Report { events_per_second, ..Report::default() };
            at_rate(&mut report, 400_000);
            report.notes.join(" ")
        };
        assert!(said(399_000.0).ends_with("what limits is the rate"), "{}", said(399_000.0));
        let not_held = said(100_836.0);
        assert!(not_held.contains("was not held: 100836 of 400000"), "{not_held}");
        assert!(!not_held.contains("what limits"), "{not_held}");
    }

    #[test]
    fn a_handler_that_alone_takes_longer_than_the_run_is_not_taken_off() {
        let mut report = Report { cpu_us_per_event: Some(12.0), ..Report::default() };
        without_handler(&mut report, Ok(5.0));
        assert_eq!(report.figures.get("cpu_us_per_event_handler_excluded"), Some(&Figure(7.0)));
        let mut report = Report { cpu_us_per_event: Some(12.0), ..Report::default() };
        without_handler(&mut report, Ok(12.5));
        assert!(report.figures.is_empty());
        assert!(report.notes[0].contains("12.50 us a call"), "{:?}", report.notes);
        without_handler(&mut report, Err("ends with `trap` on an event of the bench: odd"));
        assert!(
            report.notes[1].ends_with("alone, it ends with `trap` on an event of the bench: odd")
        );
    }
}
