//! What is set when somebody asks: how plugins stand.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::{PluginLabel, signed};

type Count = Family<PluginLabel, Gauge>;
type Seconds = Family<PluginLabel, Gauge<f64, AtomicU64>>;

/// How one plugin stands.
#[derive(Debug, Default, Clone)]
pub struct PluginStanding {
    /// Its name.
    pub name: String,
    /// Events it has not read yet.
    pub lag_events: u64,
    /// Keys parked behind a dead letter.
    pub parked_keys: u64,
    /// Timers that are pending.
    pub timers: u64,
    /// Keys held by an operator.
    pub held_keys: u64,
    /// Events outside memory that stand behind keys which wait.
    pub deferred_events: u64,
    /// Whether the breaker stopped it.
    pub is_broken: bool,
    /// Dead letters that stand.
    pub dead_letters: u64,
    /// Bytes of its keyed state.
    pub state_bytes: u64,
    /// Keys with state.
    pub state_keys: u64,
    /// Outgoing calls without an answer.
    pub calls_open: u64,
    /// Age of the oldest dead letter.
    pub oldest_dead_letter: Option<Duration>,
}

/// The gauges of all plugins.
#[derive(Debug, Default)]
pub(super) struct PluginGauges {
    lag_events: Count,
    parked_keys: Count,
    timers: Count,
    held_keys: Count,
    deferred_events: Count,
    breaker_open: Count,
    dead_letters: Count,
    state_bytes: Count,
    state_keys: Count,
    calls_open: Count,
    oldest_dead_letter: Seconds,
}

impl PluginGauges {
    /// Names, helps and gauges that count.
    fn counts(&self) -> [(&'static str, &'static str, &Count); 10] {
        [
            (
                "plugin_lag_events",
                "Events not read yet, or read and not begun with",
                &self.lag_events,
            ),
            ("plugin_parked_keys", "Keys behind a dead letter", &self.parked_keys),
            ("timers_pending", "Timers set and not served", &self.timers),
            ("plugin_held_keys", "Keys that somebody holds", &self.held_keys),
            (
                "plugin_deferred_events",
                "Events outside memory behind keys that wait",
                &self.deferred_events,
            ),
            ("plugin_breaker_open", "1: stopped by its breaker", &self.breaker_open),
            ("dead_letters", "Dead letters that stand", &self.dead_letters),
            ("plugin_state_bytes", "Keyed state", &self.state_bytes),
            ("plugin_state_keys", "Keys with state", &self.state_keys),
            ("calls_open", "Outgoing calls without an answer", &self.calls_open),
        ]
    }

    /// Makes them known under their names.
    pub(super) fn register(&self, to: &mut Registry) {
        for (name, help, count) in self.counts() {
            to.register(name, help, count.clone());
        }
        let (help, oldest) = ("Age of the oldest dead letter", self.oldest_dead_letter.clone());
        to.register_with_unit("oldest_dead_letter", help, Unit::Seconds, oldest);
    }

    /// Sets those of the plugins that stand; one that is forgotten or has another name has none.
    pub(super) fn set(&self, plugins: &[PluginStanding]) {
        self.counts().into_iter().for_each(|(_, _, count)| count.clear());
        self.oldest_dead_letter.clear();
        plugins.iter().for_each(|plugin| self.set_one(plugin));
    }

    fn set_one(&self, plugin: &PluginStanding) {
        let label = PluginLabel { plugin: plugin.name.clone() };
        let set = |count: &Count, to: u64| {
            count.get_or_create(&label).set(signed(to));
        };
        set(&self.lag_events, plugin.lag_events);
        set(&self.parked_keys, plugin.parked_keys);
        set(&self.timers, plugin.timers);
        set(&self.held_keys, plugin.held_keys);
        set(&self.deferred_events, plugin.deferred_events);
        set(&self.breaker_open, plugin.is_broken.into());
        set(&self.dead_letters, plugin.dead_letters);
        set(&self.state_bytes, plugin.state_bytes);
        set(&self.state_keys, plugin.state_keys);
        set(&self.calls_open, plugin.calls_open);
        let age = plugin.oldest_dead_letter.unwrap_or_default();
        self.oldest_dead_letter.get_or_create(&label).set(age.as_secs_f64());
    }
}
