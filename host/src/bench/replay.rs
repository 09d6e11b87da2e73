//! `bench replay`: how fast a new plugin catches up with an old log.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::event::Position;

use super::append::{Limit, Mark, describe};
use super::events::Events;
use super::guest::{Guest, module};
use super::observe::{Observed, Observer};
use super::place::BenchHost;
use super::report::{Figure, Report, Run};
use super::{BenchError, Settings, cpu};

/// Events published at once to make the old log.
const BATCH: u64 = 500;

/// What only this bench is told.
#[derive(Debug, Clone, Default)]
pub struct ReplayOptions {
    /// The module; none: a built-in one that does nothing.
    pub module: Option<PathBuf>,
}

/// Runs it. Each repetition makes a log and a host of its own: a plugin catches up once.
///
/// # Errors
/// A parameter makes no sense, the module is not taken, or the host fails.
pub async fn run(settings: &Settings, options: &ReplayOptions) -> Result<Report, BenchError> {
    settings.check()?;
    let wasm = module(options.module.as_deref(), &Guest::Idle)?;
    let ticking = settings.ticker.start()?;
    let events = Arc::new(Events::new(settings));
    let mut runs = Vec::new();
    let mut report = Report::new("replay");
    for repetition in 0..settings.repetitions {
        let host = BenchHost::start(settings).await?;
        let published = fill(&host, &events, settings.events).await?;
        let mut limit = Limit::new(host.place(), settings)?;
        let raw = limit.run(settings.events)?;
        runs.push(catch_up(&host, &wasm, &published, raw).await?);
        if repetition + 1 == settings.repetitions {
            limit.report(&mut report);
        }
        host.stop().await?;
    }
    drop(ticking);

    describe(&mut report, settings);
    let module = options.module.as_ref().map(|path| path.display().to_string());
    report.parameter("module", module.unwrap_or_else(|| "built-in, does nothing".to_owned()));
    report.take_runs(runs);
    if let Some(us) = report.cpu_us_per_event {
        report.figures.insert("events_per_second_and_core", Figure(1e6 / us));
    }
    Ok(report)
}

/// Makes the old log; gives where its events stand.
async fn fill(host: &BenchHost, events: &Events, count: u64) -> Result<Vec<Position>, BenchError> {
    let log = host.log()?;
    let mut published = Vec::new();
    for first in (0..count).step_by(usize::try_from(BATCH).unwrap_or(1)) {
        let batch = (first..(first + BATCH).min(count)).map(|number| events.publish(number));
        let appended = log.ingest(batch.collect()).await?;
        published.extend(appended.iter().map(|appended| appended.position));
    }
    Ok(published)
}

/// Drops the module in, and measures from the first durable completions to the last: what comes
/// before is compiling.
#[allow(clippy::cast_precision_loss, reason = "rates need no more digits")]
async fn catch_up(
    host: &BenchHost,
    wasm: &[u8],
    published: &[Position],
    raw: f64,
) -> Result<Run, BenchError> {
    let (log, count) = (host.log()?, published.len() as u64);
    let observer = Observer::of(log, published);
    let mut begun = Observer::of(log, published);
    let before = Mark::new(log);
    host.drop_in(wasm)?;
    let cpu = tokio::spawn(async move {
        begun.first().await?;
        Ok::<_, BenchError>(cpu::process())
    });
    let observed = observer.run(count, None).await?;
    let ended = cpu::process();
    let spent = ended.saturating_sub(cpu.await??);
    let (events, took) = span(&observed);
    let rate = events as f64 / took.as_secs_f64().max(1e-9);
    Ok(Run {
        events_per_second: Figure(rate),
        raw_events_per_second: Figure(raw),
        ratio_to_raw_segment: Figure(rate / raw),
        cpu_us_per_event: Figure(spent.as_secs_f64() * 1e6 / events.max(1) as f64),
        ..before.run(log, count, raw)
    })
}

/// How many ended after the first frame that had some, and in how long.
fn span(observed: &Observed) -> (u64, Duration) {
    let (Some((begun, before)), Some((_, ended))) = (observed.first, observed.done.last()) else {
        return (0, Duration::ZERO);
    };
    (observed.done.len() as u64 - before, ended.saturating_duration_since(begun))
}
