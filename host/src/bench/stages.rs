//! Where the time of a delivery goes, found without slowing it: the code of each stage called alone
//! before the run, and during the run what threads and writer count anyway.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::api::host::HostApi;
use crate::log::LogStats;

use super::events::Events;
use super::guest::Plugin;
use super::invoke::{Hosted, Settled, ends_with};
use super::place::{BenchHost, Place};
use super::report::{Figure, Measure, Stage, median};
use super::{BenchError, alone, cpu};

/// Turns of each stage alone, at most.
const TURNS: u64 = 5000;
/// Bytes of payload that these turns have at the same time, at most, or a little more.
const TURNS_BYTES: u64 = 64 << 20;
/// Microseconds that the calls of one round take, about: some guests take milliseconds for each.
const GUEST_ROUND_US_MAX: f64 = 500_000.0;
/// How often each is measured.
const ROUNDS: usize = 3;

/// What each stage takes when nothing else runs, microseconds of processor time for an event.
pub(super) struct Alone {
    stages: Vec<(&'static str, f64)>,
    /// Or why there is none, in words.
    guest_us: Result<f64, String>,
}

impl Alone {
    /// Measures all of them.
    pub(super) async fn measure(
        place: &Place,
        events: &Arc<Events>,
        plugin: &Plugin,
    ) -> Result<Self, BenchError> {
        let mut hosted = Hosted::load(place, events, plugin).await?;
        let turns = turns(events.data().len());
        let settled = hosted.settle().await;
        let guest_us = match &settled {
            Ok(settled) => guest_us(&hosted, settled.us, turns).await,
            Err(outcome) => Err(ends_with(outcome)),
        };
        let mut stages = vec![
            ("encode", often(turns, || alone::encode(events, turns, cpu::thread))),
            ("decode", often(turns, || alone::decode(events, turns, cpu::thread))),
        ];
        // What the guest did is all that tells what is to be done for it.
        if let Ok(Settled { asked, .. }) = &settled {
            let state = often(turns, || asked.state(events, turns, cpu::thread));
            stages.push(("state, read and write", state));
        }
        stages.extend(guest_us.iter().map(|us| ("wasm", *us)));
        if let Ok(Settled { asked, .. }) = &settled {
            let effects = often(turns, || asked.effects(events, turns, cpu::thread));
            stages.push(("effects, made and encoded", effects));
        }
        Ok(Self { stages, guest_us })
    }

    /// Of the guest and the host's work around one call; or how one of them ended: the guest does not
    /// take the events of the bench, or not all of them.
    pub(super) fn guest_us(&self) -> Result<f64, &str> {
        self.guest_us.as_ref().copied().map_err(String::as_str)
    }

    /// For the report.
    pub(super) fn stages(&self) -> Vec<Stage> {
        let alone = self.stages.iter().map(|(stage, us)| Stage {
            stage: (*stage).to_owned(),
            us_per_event: Figure(*us),
            measure: Measure::CpuAlone,
        });
        alone.collect()
    }
}

/// Of the guest and the host's work around one call, microseconds, where one took about so many.
///
/// # Errors
/// How one ended that was not ok.
async fn guest_us(hosted: &Hosted, once_us: f64, turns: u64) -> Result<f64, String> {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a number of calls, bounded by the next line"
    )]
    let affordable = (GUEST_ROUND_US_MAX / once_us.max(0.01)) as u64;
    let turns = affordable.clamp(1, turns);
    let mut rounds = Vec::new();
    // The first one warms up.
    for round in 0..=ROUNDS {
        let turns = if round == 0 { turns.div_ceil(10) } else { turns };
        let (us, failed) = hosted.us(turns).await;
        if let Some(outcome) = failed {
            return Err(ends_with(&outcome));
        }
        rounds.extend((round > 0).then_some(us));
    }
    Ok(median(rounds).unwrap_or_default())
}

/// How many turns, for payloads of so many bytes: some stages prepare an event for each.
fn turns(payload_bytes: usize) -> u64 {
    (TURNS_BYTES / (payload_bytes as u64).max(1)).clamp(TURNS / 50, TURNS)
}

fn often(turns: u64, measure: impl Fn() -> Duration) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "a mean needs no more digits")]
    let us = |spent: Duration| spent.as_secs_f64() * 1e6 / turns as f64;
    median((0..ROUNDS).map(|_| us(measure()))).unwrap_or_default()
}

/// Sums over the runs.
#[derive(Default)]
pub(super) struct Watch {
    events: u64,
    threads: BTreeMap<String, Duration>,
    guest_wall_s: f64,
    writer: Writer,
    publish_us: Vec<f64>,
}

#[derive(Default)]
struct Writer {
    groups: u64,
    gather: Duration,
    sync: Duration,
    settle: Duration,
}

/// How things stood before a run.
pub(super) struct Started {
    threads: BTreeMap<String, Duration>,
    guest_wall_s: f64,
    stats: LogStats,
}

impl Watch {
    /// Before a run.
    pub(super) fn begin(&self, host: &BenchHost) -> Result<Started, BenchError> {
        Ok(Started {
            threads: cpu::threads(),
            guest_wall_s: guest_wall_s(host),
            stats: host.log()?.stats(),
        })
    }

    /// After it.
    pub(super) fn end(
        &mut self,
        host: &BenchHost,
        started: &Started,
        events: u64,
        publish_us: f64,
    ) -> Result<(), BenchError> {
        for (name, spent) in cpu::between(&started.threads, cpu::threads()) {
            *self.threads.entry(name).or_default() += spent;
        }
        let stats = host.log()?.stats();
        self.events += events;
        self.guest_wall_s += guest_wall_s(host) - started.guest_wall_s;
        self.writer.groups += stats.groups - started.stats.groups;
        self.writer.gather += stats.gather.saturating_sub(started.stats.gather);
        self.writer.sync += stats.sync.saturating_sub(started.stats.sync);
        self.writer.settle += stats.settle.saturating_sub(started.stats.settle);
        self.publish_us.push(publish_us);
        Ok(())
    }

    /// For the report.
    #[allow(clippy::cast_precision_loss, reason = "means need no more digits")]
    pub(super) fn stages(&self) -> Vec<Stage> {
        let mut stages = Vec::new();
        let mut add = |stage: String, us: f64, measure: Measure| {
            stages.push(Stage { stage, us_per_event: Figure(us), measure });
        };
        let events = self.events.max(1) as f64;
        let groups = self.writer.groups.max(1) as f64;
        for (name, spent) in &self.threads {
            let us = spent.as_secs_f64() * 1e6 / events;
            if us >= 0.01 {
                add(named(name), us, Measure::CpuOfThread);
            }
        }
        let writer = &self.writer;
        let spans = [("gather", writer.gather), ("sync", writer.sync), ("settle", writer.settle)];
        for (name, span) in spans {
            add(format!("writer: {name}"), span.as_secs_f64() * 1e6 / events, Measure::WallShared);
        }
        add("wasm".to_owned(), self.guest_wall_s * 1e6 / events, Measure::WallEach);
        let group_us = (writer.gather + writer.sync + writer.settle).as_secs_f64() * 1e6 / groups;
        add("a group of the writer".to_owned(), group_us, Measure::WallEach);
        let publish_us = median(self.publish_us.iter().copied()).unwrap_or_default();
        let queue = (publish_us - group_us).max(0.0);
        add("queue before the writer, of a publish".to_owned(), queue, Measure::WallEach);
        stages
    }
}

/// What the threads of a name do.
fn named(thread: &str) -> String {
    match thread {
        "log-writer" => "writer: numbers, writes, syncs, indexes".to_owned(),
        "io" => "io: publishing, decoding, scheduling; the bench".to_owned(),
        "guest" => "guest: state, wasm, effects".to_owned(),
        "fold" | "fold-main" => "fold: decodes effects, applies state".to_owned(),
        other => other.to_owned(),
    }
}

/// Time in guests since the start, as the metrics have it.
fn guest_wall_s(host: &BenchHost) -> f64 {
    let metrics = host.host().metrics();
    let line =
        metrics.lines().find(|line| line.starts_with("tidegate_delivery_duration_seconds_sum"));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_default()
}
