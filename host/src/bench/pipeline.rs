//! `bench pipeline`: from a publish through the guest to the durability of its effects.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Semaphore;

use super::append::{Limit, Mark, describe};
use super::events::Events;
use super::guest::{Guest, module};
use super::latency::Latencies;
use super::observe::{Observed, Observer};
use super::place::BenchHost;
use super::publish::{Lanes, Pace, Publishers, Release, Sent};
use super::report::{Figure, Percentiles, Report, Run, median_percentiles};
use super::stages::{Alone, Watch};
use super::{BenchError, Settings};

/// What only this bench is told.
#[derive(Debug, Clone, Default)]
pub struct PipelineOptions {
    /// The module; none: the built-in one, which writes one value and emits one event.
    pub module: Option<PathBuf>,
    /// Events a second; none: as many as go through with so many in flight.
    pub rate: Option<u64>,
}

/// What the repetitions came to.
#[derive(Default)]
struct Runs {
    runs: Vec<Run>,
    acknowledged: Vec<Percentiles>,
    finished: Vec<Percentiles>,
    failed: u64,
}

/// Runs it.
///
/// # Errors
/// A parameter makes no sense, the module is not taken, or the host fails.
pub async fn run(settings: &Settings, options: &PipelineOptions) -> Result<Report, BenchError> {
    settings.check()?;
    let wasm = module(options.module.as_deref(), &Guest::Counting)?;
    let host = BenchHost::with_plugin(settings, &wasm).await?;
    let ticking = settings.ticker.start()?;
    let events = Arc::new(Events::new(settings));
    let alone = Alone::measure(host.place(), &events, &wasm).await?;
    let lanes = Lanes::new(events);

    let mut limit = Limit::new(host.place(), settings)?;
    let mut watch = Watch::default();
    let mut runs = Runs::default();
    let mut first = 0;
    for repetition in 0..=settings.repetitions {
        let count = if repetition == 0 { settings.events.div_ceil(10) } else { settings.events };
        let raw = limit.run(count)?;
        let before = Mark::new(host.log()?);
        let started = watch.begin(&host)?;
        let (sent, observed) =
            deliver(&host, &lanes, first..first + count, settings, options.rate).await?;
        let run = before.run(host.log()?, count, raw);
        first += count;
        if repetition == 0 {
            limit.learn(host.place(), settings, &run)?;
            continue;
        }
        watch.end(&host, &started, count, sent.latencies.mean_us())?;
        runs.take(run, sent, observed);
    }
    host.stop().await?;
    drop(ticking);

    let mut report = Report::new("pipeline");
    describe(&mut report, settings);
    report.parameter("rate", options.rate);
    let module = options.module.as_ref().map(|path| path.display().to_string());
    report.parameter("module", module.unwrap_or_else(|| "built-in".to_owned()));
    runs.report(&mut report);
    limit.report(&mut report);
    if let (Some(cpu), Some(guest)) = (report.cpu_us_per_event, alone.guest_us()) {
        let handler_excluded = (cpu - guest).max(0.0);
        report.figures.insert("cpu_us_per_event_handler_excluded", Figure(handler_excluded));
    }
    report.stages = alone.stages();
    report.stages.extend(watch.stages());
    Ok(report)
}

/// Publishes events and waits until the effects of all are durable.
async fn deliver(
    host: &BenchHost,
    lanes: &Lanes,
    numbers: std::ops::Range<u64>,
    settings: &Settings,
    rate: Option<u64>,
) -> Result<(Sent, Observed), BenchError> {
    let log = host.log()?;
    let count = numbers.end - numbers.start;
    let observer = Observer::new(log);
    let pace = rate.map(Pace::new);
    let room = if pace.is_some() { 0 } else { settings.in_flight.max(1) };
    let window = Arc::new(Semaphore::new(room));
    let opened = pace.is_none().then(|| Arc::clone(&window));
    let publishers =
        Publishers::new(log, lanes, numbers, Arc::clone(&window), Release::Elsewhere, pace);
    let paced = tokio::task::spawn_blocking(move || {
        if let Some(pace) = pace {
            pace.open(count, &window);
        }
    });
    let observed = tokio::spawn(observer.run(count, opened));
    // Whichever fails first ends both.
    let (sent, observed) = tokio::try_join!(publishers.run(), async { observed.await? })?;
    paced.await?;
    Ok((sent, observed))
}

impl Runs {
    fn take(&mut self, run: Run, sent: Sent, observed: Observed) {
        self.runs.push(run);
        self.acknowledged.extend(sent.latencies.percentiles());
        self.finished.extend(latencies(sent.begun, observed.done).percentiles());
        self.failed += observed.failed;
    }

    fn report(self, report: &mut Report) {
        report.latency.insert("publish_to_durable", median_percentiles(&self.acknowledged));
        report.latency.insert("publish_to_effects_durable", median_percentiles(&self.finished));
        report.take_runs(self.runs);
        #[allow(clippy::cast_precision_loss, reason = "a count far below 2^52")]
        report.figures.insert("deliveries_given_up", Figure(self.failed as f64));
    }
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
}
