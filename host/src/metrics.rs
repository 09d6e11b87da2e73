//! What the host counts, under the names of its documentation.
//!
//! Handles are fetched once per bus and plugin, so that the hot path neither looks up labels nor
//! takes a shared lock for them. Gauges are set when somebody asks.

mod gauges;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::effects::OutcomeKind;

use self::gauges::PluginGauges;

pub use self::gauges::PluginStanding;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BusLabel {
    bus: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PluginLabel {
    plugin: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    plugin: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabel {
    plugin: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabel {
    plugin: String,
    result: &'static str,
}

/// How an attempt at an outgoing call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum CallResult {
    /// With an answer.
    Answered = 0,
    /// In another attempt.
    Retried = 1,
    /// Without an answer, and without another attempt.
    GivenUp = 2,
}

impl CallResult {
    const ALL: [Self; 3] = [Self::Answered, Self::Retried, Self::GivenUp];

    const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Retried => "retried",
            Self::GivenUp => "given_up",
        }
    }
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// Every metric of the host.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    appended: Family<BusLabel, Counter>,
    append_duration: Histograms<BusLabel>,
    last_position: Family<BusLabel, Gauge>,
    deliveries: Family<OutcomeLabel, Counter>,
    delivery_duration: Histograms<PluginLabel>,
    delivery_lag: Histograms<PluginLabel>,
    fuel: Family<PluginLabel, Counter>,
    gauges: PluginGauges,
    reloads: Family<ReloadLabel, Counter>,
    calls: Family<CallLabel, Counter>,
    call_duration: Histograms<PluginLabel>,
    commands: Family<OutcomeLabel, Counter>,
    command_duration: Histograms<PluginLabel>,
    queries: Family<OutcomeLabel, Counter>,
    query_duration: Histograms<PluginLabel>,
}

/// The counters of one plugin. Cheap to clone and to use from many threads.
#[derive(Debug, Clone)]
pub struct PluginMetrics {
    outcomes: Arc<[Counter]>,
    duration: Histogram,
    lag: Histogram,
    fuel: Counter,
    calls: Arc<[Counter]>,
    call_duration: Histogram,
}

/// What is measured of one bus.
#[derive(Debug, Clone)]
pub struct BusMetrics {
    duration: Histogram,
}

/// How things stand when somebody asks.
#[derive(Debug, Default, Clone)]
pub struct Standing {
    /// By bus.
    pub buses: Vec<BusStanding>,
    /// By plugin.
    pub plugins: Vec<PluginStanding>,
}

/// How one bus stands.
#[derive(Debug, Default, Clone)]
pub struct BusStanding {
    /// Its name.
    pub name: String,
    /// The last durable position.
    pub last_position: u64,
    /// Events appended since the start, whoever they are from.
    pub appended: u64,
}

/// 10 us to 10 s: from a fast handler to one that is about to time out.
fn durations() -> Histogram {
    Histogram::new([
        0.000_01, 0.000_03, 0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0,
    ])
}

/// 1 ms to 1 h: from a plugin that keeps up to one that catches up.
fn lags() -> Histogram {
    Histogram::new([0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 60.0, 600.0, 3600.0])
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Mutex::new(Registry::with_prefix("tidegate")),
            appended: Family::default(),
            append_duration: Family::new_with_constructor(durations),
            last_position: Family::default(),
            deliveries: Family::default(),
            delivery_duration: Family::new_with_constructor(durations),
            delivery_lag: Family::new_with_constructor(lags),
            fuel: Family::default(),
            gauges: PluginGauges::default(),
            reloads: Family::default(),
            calls: Family::default(),
            call_duration: Family::new_with_constructor(durations),
            commands: Family::default(),
            command_duration: Family::new_with_constructor(durations),
            queries: Family::default(),
            query_duration: Family::new_with_constructor(durations),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&self) {
        let mut to = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let appended = "Events appended since the start: published, emitted and forwarded";
        to.register("events_appended", appended, self.appended.clone());
        to.register_with_unit(
            "append_duration",
            "From a publish to its durability",
            Unit::Seconds,
            self.append_duration.clone(),
        );
        to.register("log_last_position", "Last durable position", self.last_position.clone());
        to.register("deliveries", "Delivery attempts", self.deliveries.clone());
        to.register_with_unit(
            "delivery_duration",
            "Time in the guest",
            Unit::Seconds,
            self.delivery_duration.clone(),
        );
        to.register_with_unit(
            "delivery_lag",
            "From append to completion",
            Unit::Seconds,
            self.delivery_lag.clone(),
        );
        to.register("plugin_fuel", "Fuel used", self.fuel.clone());
        self.gauges.register(&mut to);
        to.register("reloads", "Modules tried", self.reloads.clone());
        to.register("calls", "Attempts at outgoing calls", self.calls.clone());
        to.register_with_unit(
            "call_duration",
            "Time of an attempt at an outgoing call",
            Unit::Seconds,
            self.call_duration.clone(),
        );
        to.register("commands", "Commands of clients", self.commands.clone());
        to.register_with_unit(
            "command_duration",
            "From a command to its answer",
            Unit::Seconds,
            self.command_duration.clone(),
        );
        to.register("queries", "Queries of clients", self.queries.clone());
        to.register_with_unit(
            "query_duration",
            "From a query to its answer",
            Unit::Seconds,
            self.query_duration.clone(),
        );
    }

    /// Handles for a plugin.
    #[must_use]
    pub fn plugin(&self, name: &str) -> PluginMetrics {
        let label = PluginLabel { plugin: name.to_owned() };
        let outcome = |kind: OutcomeKind| {
            let label = OutcomeLabel { plugin: name.to_owned(), outcome: kind.name() };
            self.deliveries.get_or_create_owned(&label)
        };
        let call = |result: CallResult| {
            let label = CallLabel { plugin: name.to_owned(), result: result.name() };
            self.calls.get_or_create_owned(&label)
        };
        PluginMetrics {
            calls: CallResult::ALL.into_iter().map(call).collect(),
            call_duration: self.call_duration.get_or_create_owned(&label),
            outcomes: OutcomeKind::ALL.into_iter().map(outcome).collect(),
            duration: self.delivery_duration.get_or_create_owned(&label),
            lag: self.delivery_lag.get_or_create_owned(&label),
            fuel: self.fuel.get_or_create_owned(&label),
        }
    }

    /// Counters of the requests to a plugin.
    #[must_use]
    pub fn requests(&self, plugin: &str) -> RequestMetrics<'_> {
        RequestMetrics { metrics: self, plugin: plugin.to_owned() }
    }

    /// Handles for a bus.
    #[must_use]
    pub fn bus(&self, name: &str) -> BusMetrics {
        let label = BusLabel { bus: name.to_owned() };
        BusMetrics { duration: self.append_duration.get_or_create_owned(&label) }
    }

    /// Counts a module that was tried: `ok` or `refused`.
    pub fn reloaded(&self, plugin: &str, result: &'static str) {
        self.reloads.get_or_create(&ReloadLabel { plugin: plugin.to_owned(), result }).inc();
    }

    /// Drops what was counted of a plugin that was forgotten.
    pub fn forget(&self, plugin: &str) {
        let label = PluginLabel { plugin: plugin.to_owned() };
        for kind in OutcomeKind::ALL {
            self.deliveries
                .remove(&OutcomeLabel { plugin: plugin.to_owned(), outcome: kind.name() });
        }
        for result in ["ok", "refused"] {
            self.reloads.remove(&ReloadLabel { plugin: plugin.to_owned(), result });
        }
        for result in CallResult::ALL {
            self.calls.remove(&CallLabel { plugin: plugin.to_owned(), result: result.name() });
        }
        self.call_duration.remove(&label);
        let outcomes = crate::api::errors::Code::ALL.map(crate::api::errors::Code::name);
        for outcome in outcomes.into_iter().chain(["ok"]) {
            let label = OutcomeLabel { plugin: plugin.to_owned(), outcome };
            self.commands.remove(&label);
            self.queries.remove(&label);
        }
        self.command_duration.remove(&label);
        self.query_duration.remove(&label);
        self.delivery_duration.remove(&label);
        self.delivery_lag.remove(&label);
        self.fuel.remove(&label);
    }

    /// The Prometheus text exposition, with the gauges as they stand.
    #[must_use]
    pub fn encode(&self, standing: &Standing) -> String {
        // Held from here on, so that nobody sees gauges that another is setting.
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        for bus in &standing.buses {
            let label = BusLabel { bus: bus.name.clone() };
            self.last_position.get_or_create(&label).set(signed(bus.last_position));
            // Another who asks may have seen more by now.
            self.appended.get_or_create(&label).inner().fetch_max(bus.appended, Ordering::Relaxed);
        }
        self.gauges.set(&standing.plugins);
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = text::encode(&mut out, &registry);
        out
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl PluginMetrics {
    /// Counts an attempt.
    pub fn delivered(&self, outcome: OutcomeKind, wall: Duration, fuel: u64) {
        if let Some(counter) = self.outcomes.get(outcome as usize) {
            counter.inc();
        }
        self.duration.observe(wall.as_secs_f64());
        self.fuel.inc_by(fuel);
    }

    /// Counts an attempt at an outgoing call.
    pub fn called(&self, result: CallResult, took: Duration) {
        if let Some(counter) = self.calls.get(result as usize) {
            counter.inc();
        }
        self.call_duration.observe(took.as_secs_f64());
    }

    /// Notes how long an event waited from append to completion.
    pub fn lag(&self, ms: u64) {
        self.lag.observe(Duration::from_millis(ms).as_secs_f64());
    }
}

/// Counters of the requests to one plugin.
#[derive(Debug)]
pub struct RequestMetrics<'a> {
    metrics: &'a Metrics,
    plugin: String,
}

impl RequestMetrics<'_> {
    /// Counts a command: `ok`, or the code of its error.
    pub fn command(self, outcome: &'static str, took: Duration) {
        let Self { metrics, plugin } = self;
        count(plugin, outcome, took, (&metrics.commands, &metrics.command_duration));
    }

    /// Counts a query: `ok`, or the code of its error.
    pub fn query(self, outcome: &'static str, took: Duration) {
        let Self { metrics, plugin } = self;
        count(plugin, outcome, took, (&metrics.queries, &metrics.query_duration));
    }
}

fn count(
    plugin: String,
    outcome: &'static str,
    took: Duration,
    (requests, duration): (&Family<OutcomeLabel, Counter>, &Histograms<PluginLabel>),
) {
    duration.get_or_create(&PluginLabel { plugin: plugin.clone() }).observe(took.as_secs_f64());
    requests.get_or_create(&OutcomeLabel { plugin, outcome }).inc();
}

impl BusMetrics {
    /// Notes how long it took until what a client published was durable.
    pub fn published(&self, took: Duration) {
        self.duration.observe(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exposition_uses_the_documented_names() {
        let metrics = Metrics::default();
        metrics.bus("main").published(Duration::from_millis(2));
        let plugin = metrics.plugin("totals");
        plugin.delivered(OutcomeKind::Ok, Duration::from_micros(38), 11_000);
        plugin.lag(4);
        plugin.called(CallResult::Answered, Duration::from_millis(9));
        metrics.reloaded("totals", "ok");
        let standing = Standing {
            buses: vec![BusStanding { name: "main".to_owned(), last_position: 4, appended: 3 }],
            plugins: vec![PluginStanding { name: "totals".to_owned(), ..Default::default() }],
        };
        let text = metrics.encode(&standing);
        for line in [
            "tidegate_events_appended_total{bus=\"main\"} 3",
            "tidegate_append_duration_seconds_count{bus=\"main\"} 1",
            "tidegate_log_last_position{bus=\"main\"} 4",
            "tidegate_deliveries_total{plugin=\"totals\",outcome=\"ok\"} 1",
            "tidegate_delivery_duration_seconds_count{plugin=\"totals\"} 1",
            "tidegate_delivery_lag_seconds_count{plugin=\"totals\"} 1",
            "tidegate_plugin_lag_events{plugin=\"totals\"} 0",
            "tidegate_plugin_fuel_total{plugin=\"totals\"} 11000",
            "tidegate_plugin_parked_keys{plugin=\"totals\"} 0",
            "tidegate_timers_pending{plugin=\"totals\"} 0",
            "tidegate_dead_letters{plugin=\"totals\"} 0",
            "tidegate_plugin_state_bytes{plugin=\"totals\"} 0",
            "tidegate_plugin_state_keys{plugin=\"totals\"} 0",
            "tidegate_oldest_dead_letter_seconds{plugin=\"totals\"} 0.0",
            "tidegate_calls_total{plugin=\"totals\",result=\"answered\"} 1",
            "tidegate_call_duration_seconds_count{plugin=\"totals\"} 1",
            "tidegate_calls_open{plugin=\"totals\"} 0",
            "tidegate_reloads_total{plugin=\"totals\",result=\"ok\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} not in\n{text}");
        }
    }

    #[test]
    fn a_forgotten_plugin_is_gone_from_the_exposition() {
        let metrics = Metrics::default();
        metrics.plugin("totals").delivered(OutcomeKind::Ok, Duration::ZERO, 1);
        metrics.forget("totals");
        assert!(!metrics.encode(&Standing::default()).contains("totals"));
    }

    /// Those of the old name once stood for ever.
    #[test]
    fn a_plugin_with_another_name_leaves_no_gauges_under_its_old_one() {
        let metrics = Metrics::default();
        let standing = |name: &str| {
            let plugin =
                PluginStanding { name: name.to_owned(), dead_letters: 3, ..Default::default() };
            Standing { plugins: vec![plugin], ..Default::default() }
        };
        assert!(metrics.encode(&standing("old")).contains("\"old\""));
        let text = metrics.encode(&standing("new"));
        assert!(text.contains("tidegate_dead_letters{plugin=\"new\"} 3"), "{text}");
        assert!(!text.contains("\"old\""), "{text}");
    }
}
