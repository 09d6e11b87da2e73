//! What Prometheus gets to see, under the names of the interface.
//!
//! Counting is on the path of every event, so counters are split by thread: no two busy threads
//! write to the same cache line. Adding up is left to the scrape. A bus or plugin is shown as long as
//! somebody holds its handle. Keys never become labels: there may be millions.

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::effects::OutcomeKind;

/// Parts that a counter is split into.
const SHARDS: usize = 8;

/// Upper bounds of the buckets of all durations, in nanoseconds: 10 us to 10 min.
const BUCKETS_NS: [u64; 20] = [
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    10_000_000_000,
    60_000_000_000,
    600_000_000_000,
];

static NEXT_SHARD: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static SHARD: Cell<usize> = Cell::new(NEXT_SHARD.fetch_add(1, Ordering::Relaxed) % SHARDS);
}

/// Alone on its cache lines (two, because processors fetch them in pairs).
#[derive(Debug, Default)]
#[repr(align(128))]
struct Alone<T>(T);

/// A number that only grows, added to by many threads at once.
#[derive(Debug, Default)]
pub struct Counter([Alone<AtomicU64>; SHARDS]);

impl Counter {
    /// Adds to it.
    pub fn add(&self, count: u64) {
        if let Some(Alone(shard)) = self.0.get(SHARD.get()) {
            shard.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// All that was added.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.iter().map(|Alone(shard)| shard.load(Ordering::Relaxed)).sum()
    }
}

#[derive(Debug, Default)]
struct Shard {
    buckets: [AtomicU64; BUCKETS_NS.len()],
    over: AtomicU64,
    sum_ns: AtomicU64,
}

/// How long things took, noted by many threads at once.
#[derive(Debug, Default)]
pub struct Durations([Alone<Shard>; SHARDS]);

impl Durations {
    /// Notes one.
    pub fn observe(&self, duration: Duration) {
        let Some(Alone(shard)) = self.0.get(SHARD.get()) else { return };
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_NS.partition_point(|bound| *bound < nanos);
        let count = shard.buckets.get(bucket).unwrap_or(&shard.over);
        count.fetch_add(1, Ordering::Relaxed);
        shard.sum_ns.fetch_add(nanos, Ordering::Relaxed);
    }

    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let shards = || self.0.iter().map(|Alone(shard)| shard);
        let sum = |count: &dyn Fn(&Shard) -> Option<&AtomicU64>| {
            let loaded = shards().filter_map(count).map(|count| count.load(Ordering::Relaxed));
            loaded.sum::<u64>()
        };
        let mut buckets: Vec<(f64, u64)> = BUCKETS_NS
            .iter()
            .enumerate()
            .map(|(at, bound)| (seconds(*bound), sum(&|shard| shard.buckets.get(at))))
            .collect();
        buckets.push((f64::INFINITY, sum(&|shard| Some(&shard.over))));
        let count = buckets.iter().map(|(_, count)| count).sum();
        let total = seconds(sum(&|shard| Some(&shard.sum_ns)));
        encoder.encode_histogram::<NoLabelSet>(total, count, &buckets, None)
    }
}

fn seconds(nanos: u64) -> f64 {
    Duration::from_nanos(nanos).as_secs_f64()
}

/// How a reload ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// The new module serves.
    Ok,
    /// The old one, if any, goes on.
    Refused,
}

/// What is read of a bus at a scrape.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct BusGauges {
    /// Position of the last durable event.
    pub last_position: u64,
}

/// What is read of a plugin at a scrape.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PluginGauges {
    /// Events it has yet to complete.
    pub lag_events: u64,
    /// Keys parked behind a dead letter.
    pub parked_keys: u64,
    /// Dead letters neither redriven nor discarded.
    pub dead_letters: u64,
    /// Age of the oldest of them, in seconds; 0: there is none.
    pub oldest_dead_letter_seconds: f64,
}

/// Reads gauges; must neither block nor hold on to the handle it is given to.
type Read<G> = Box<dyn Fn() -> G + Send + Sync>;

/// What one bus counts.
pub struct BusMetrics {
    name: String,
    gauges: Read<BusGauges>,
    /// Events appended.
    pub appended: Counter,
    /// From the arrival of a batch to its durability.
    pub append_duration: Durations,
}

/// What one plugin counts.
pub struct PluginMetrics {
    name: String,
    gauges: Read<PluginGauges>,
    deliveries: [Counter; OutcomeKind::ALL.len()],
    reloads_ok: Counter,
    reloads_refused: Counter,
    /// Fuel used.
    pub fuel: Counter,
    /// Time in the guest, for each attempt.
    pub delivery_duration: Durations,
    /// From the append of an event to its completion.
    pub delivery_lag: Durations,
}

impl PluginMetrics {
    /// Counts an attempt by its outcome.
    pub fn delivered(&self, outcome: OutcomeKind) {
        if let Some(count) = self.deliveries.get(outcome as usize) {
            count.add(1);
        }
    }

    /// Counts a reload by its result.
    pub fn reloaded(&self, reload: Reload) {
        match reload {
            Reload::Ok => self.reloads_ok.add(1),
            Reload::Refused => self.reloads_refused.add(1),
        }
    }
}

impl fmt::Debug for BusMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BusMetrics").field("name", &self.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for PluginMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginMetrics").field("name", &self.name).finish_non_exhaustive()
    }
}

/// All that is counted. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    shown: Arc<Shown>,
    registry: Arc<Registry>,
}

#[derive(Debug, Default)]
struct Shown {
    buses: Mutex<Vec<Weak<BusMetrics>>>,
    plugins: Mutex<Vec<Weak<PluginMetrics>>>,
}

impl Metrics {
    /// Shows nothing yet.
    #[must_use]
    pub fn new() -> Self {
        let shown = Arc::<Shown>::default();
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Arc::clone(&shown)));
        Self { shown, registry: Arc::new(registry) }
    }

    /// The handle of a bus, shown until it is dropped. To be fetched once.
    pub fn bus(
        &self,
        name: &str,
        gauges: impl Fn() -> BusGauges + Send + Sync + 'static,
    ) -> Arc<BusMetrics> {
        let bus = Arc::new(BusMetrics {
            name: name.to_owned(),
            gauges: Box::new(gauges),
            appended: Counter::default(),
            append_duration: Durations::default(),
        });
        show(&self.shown.buses, &bus);
        bus
    }

    /// The handle of a plugin, shown until it is dropped. To be fetched once for each plugin: it
    /// outlives reloads.
    pub fn plugin(
        &self,
        name: &str,
        gauges: impl Fn() -> PluginGauges + Send + Sync + 'static,
    ) -> Arc<PluginMetrics> {
        let plugin = Arc::new(PluginMetrics {
            name: name.to_owned(),
            gauges: Box::new(gauges),
            deliveries: Default::default(),
            reloads_ok: Counter::default(),
            reloads_refused: Counter::default(),
            fuel: Counter::default(),
            delivery_duration: Durations::default(),
            delivery_lag: Durations::default(),
        });
        show(&self.shown.plugins, &plugin);
        plugin
    }

    /// Everything as OpenMetrics text, which Prometheus reads as well.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = text::encode(&mut text, &self.registry);
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn show<M>(shown: &Mutex<Vec<Weak<M>>>, metrics: &Arc<M>) {
    let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
    shown.retain(|metrics| metrics.strong_count() > 0);
    shown.push(Arc::downgrade(metrics));
}

fn list<M>(shown: &Mutex<Vec<Weak<M>>>) -> Vec<Arc<M>> {
    let shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
    shown.iter().filter_map(Weak::upgrade).collect()
}

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        encode_buses(&mut encoder, &list(&self.buses))?;
        let plugins = list(&self.plugins);
        encode_plugins(&mut encoder, &plugins)?;
        encode_plugin_gauges(&mut encoder, &plugins)
    }
}

fn encode_buses(encoder: &mut DescriptorEncoder<'_>, buses: &[Arc<BusMetrics>]) -> fmt::Result {
    let name = "tidegate_events_appended";
    let mut metric =
        encoder.encode_descriptor(name, "Events appended", None, MetricType::Counter)?;
    for bus in buses {
        counter(&mut metric.encode_family(&[("bus", &*bus.name)])?, &bus.appended)?;
    }
    let name = "tidegate_append_duration_seconds";
    let help = "From the arrival of a batch to its durability";
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    for bus in buses {
        bus.append_duration.encode(metric.encode_family(&[("bus", &*bus.name)])?)?;
    }
    let name = "tidegate_log_last_position";
    let help = "Position of the last durable event";
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for bus in buses {
        let last = (bus.gauges)().last_position;
        metric.encode_family(&[("bus", &*bus.name)])?.encode_gauge(&last)?;
    }
    Ok(())
}

fn encode_plugins(
    encoder: &mut DescriptorEncoder<'_>,
    plugins: &[Arc<PluginMetrics>],
) -> fmt::Result {
    let name = "tidegate_deliveries";
    let help = "Attempts to deliver an event, by outcome";
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for plugin in plugins {
        for (outcome, count) in OutcomeKind::ALL.iter().zip(&plugin.deliveries) {
            let labels = [("plugin", &*plugin.name), ("outcome", outcome.name())];
            counter(&mut metric.encode_family(&labels)?, count)?;
        }
    }
    let name = "tidegate_reloads";
    let mut metric =
        encoder.encode_descriptor(name, "Modules loaded, by result", None, MetricType::Counter)?;
    for plugin in plugins {
        for (result, count) in [("ok", &plugin.reloads_ok), ("refused", &plugin.reloads_refused)] {
            let labels = [("plugin", &*plugin.name), ("result", result)];
            counter(&mut metric.encode_family(&labels)?, count)?;
        }
    }
    let name = "tidegate_plugin_fuel";
    let mut metric = encoder.encode_descriptor(name, "Fuel used", None, MetricType::Counter)?;
    for plugin in plugins {
        counter(&mut metric.encode_family(&[("plugin", &*plugin.name)])?, &plugin.fuel)?;
    }
    type Of = fn(&PluginMetrics) -> &Durations;
    let durations: [(&str, &str, Of); 2] = [
        ("tidegate_delivery_duration_seconds", "Time in the guest", |p| &p.delivery_duration),
        ("tidegate_delivery_lag_seconds", "From append to completion", |p| &p.delivery_lag),
    ];
    for (name, help, of) in durations {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for plugin in plugins {
            of(plugin).encode(metric.encode_family(&[("plugin", &*plugin.name)])?)?;
        }
    }
    Ok(())
}

fn encode_plugin_gauges(
    encoder: &mut DescriptorEncoder<'_>,
    plugins: &[Arc<PluginMetrics>],
) -> fmt::Result {
    let read: Vec<_> = plugins.iter().map(|plugin| (&*plugin.name, (plugin.gauges)())).collect();
    type Of = fn(&PluginGauges) -> u64;
    let counts: [(&str, &str, Of); 3] = [
        ("tidegate_plugin_lag_events", "Events yet to be completed", |g| g.lag_events),
        ("tidegate_plugin_parked_keys", "Keys parked behind a dead letter", |g| g.parked_keys),
        ("tidegate_dead_letters", "Dead letters", |g| g.dead_letters),
    ];
    for (name, help, of) in counts {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (plugin, gauges) in &read {
            metric.encode_family(&[("plugin", *plugin)])?.encode_gauge(&of(gauges))?;
        }
    }
    let name = "tidegate_oldest_dead_letter_seconds";
    let help = "Age of the oldest dead letter";
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (plugin, gauges) in &read {
        let age = gauges.oldest_dead_letter_seconds;
        metric.encode_family(&[("plugin", *plugin)])?.encode_gauge(&age)?;
    }
    Ok(())
}

fn counter(encoder: &mut MetricEncoder<'_>, count: &Counter) -> fmt::Result {
    encoder.encode_counter::<NoLabelSet, _, u64>(&count.get(), None)
}
