//! The `[limits]` section: budgets of a delivery, and quotas of the plugin.

use std::ops::RangeInclusive;

use serde::Serialize;

use crate::config::reader::Section;
use crate::config::{ByteSize, TimeSpan};
use crate::limits;
use crate::state::StateQuota;

/// The `[limits]` section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Limits {
    /// Fuel of a delivery.
    pub fuel: u64,
    /// Fuel of the plugin per second; 0: no quota.
    pub fuel_per_second: u64,
    /// Linear memory.
    pub memory: ByteSize,
    /// Wall time of a delivery.
    pub timeout: TimeSpan,
    /// Events emitted by a delivery.
    pub emits: u32,
    /// Bytes of emitted events, state, calls, timers and response of a delivery.
    pub output: ByteSize,
    /// Deliveries begun per second; 0: no quota.
    #[serde(skip_serializing_if = "is_zero")]
    pub rate: u32,
    /// Deliveries at the same time, below what `run.workers` allows; 0: no quota.
    #[serde(skip_serializing_if = "is_zero")]
    pub concurrency: u32,
    /// Bytes of state over all keys; none: no quota.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<ByteSize>,
    /// Bytes of state of one key; none: no quota.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_per_key: Option<ByteSize>,
    /// Keys with state; 0: no quota.
    #[serde(skip_serializing_if = "is_zero")]
    pub keys: u32,
    /// Pending timers, which the host keeps in memory.
    #[serde(skip_serializing_if = "is_default_timers")]
    pub timers: u64,
    /// Quotas of keys by their prefix.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prefixes: Vec<PrefixLimit>,
}

/// One of `[[limits.prefixes]]`: what the deliveries of some keys may do together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PrefixLimit {
    /// What the keys begin with; where several fit, the longest counts.
    pub prefix: String,
    /// Deliveries begun per second; 0: no quota.
    pub rate: u32,
    /// Deliveries at the same time; 0: no quota.
    pub concurrency: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            fuel: 50_000_000,
            fuel_per_second: 0,
            memory: ByteSize::mib(64),
            timeout: TimeSpan::from_secs(2),
            emits: 1000,
            output: ByteSize::kib(512),
            rate: 0,
            concurrency: 0,
            state: None,
            state_per_key: None,
            keys: 0,
            timers: limits::TIMERS_PENDING_DEFAULT as u64,
            prefixes: Vec::new(),
        }
    }
}

impl Limits {
    /// How much state the plugin may keep.
    #[must_use]
    pub fn state_quota(&self) -> StateQuota {
        let bytes = |size: Option<ByteSize>| size.map_or(0, |size| size.bytes());
        StateQuota {
            bytes: bytes(self.state),
            keys: u64::from(self.keys),
            key_bytes: bytes(self.state_per_key),
        }
    }
}

/// A quota that is not there is not written, so that manifests of before keep their text.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
const fn is_default_timers(timers: &u64) -> bool {
    *timers == limits::TIMERS_PENDING_DEFAULT as u64
}

const STATES: RangeInclusive<ByteSize> = ByteSize::kib(1)..=ByteSize::gib(1024);
const RATES: RangeInclusive<u32> = 0..=limits::RATE_MAX;
const CONCURRENCIES: RangeInclusive<u32> = 0..=limits::WORKERS_MAX;

pub(super) fn read(mut section: Section<'_>) -> Limits {
    let default = Limits::default();
    let memory = ByteSize::kib(64)..=limits::GUEST_MEMORY_MAX;
    let timeout = TimeSpan::from_ms(1)..=limits::GUEST_TIMEOUT_MAX;
    let output = ByteSize::kib(1)..=limits::GUEST_OUTPUT_MAX;
    Limits {
        fuel: section.integer("fuel", default.fuel, 1..=limits::GUEST_FUEL_MAX),
        fuel_per_second: section.integer(
            "fuel-per-second",
            default.fuel_per_second,
            0..=limits::GUEST_FUEL_MAX,
        ),
        memory: section.byte_size("memory", default.memory, memory),
        timeout: section.time_span("timeout", default.timeout, timeout),
        emits: section.integer("emits", default.emits, 0..=limits::GUEST_EMITS_MAX),
        output: section.byte_size("output", default.output, output),
        rate: section.integer("rate", default.rate, RATES),
        concurrency: section.integer("concurrency", default.concurrency, CONCURRENCIES),
        state: section.optional_size("state", &STATES),
        state_per_key: section.optional_size("state-per-key", &STATES),
        keys: section.integer("keys", default.keys, 0..=u32::MAX),
        timers: section.integer("timers", default.timers, 1..=limits::TIMERS_PENDING_MAX),
        prefixes: read_prefixes(&mut section),
    }
}

fn read_prefixes(section: &mut Section<'_>) -> Vec<PrefixLimit> {
    let mut prefixes: Vec<PrefixLimit> = Vec::new();
    for mut entry in section.tables("prefixes", limits::PREFIXES_MAX) {
        let limit = PrefixLimit {
            prefix: entry.text("prefix").unwrap_or_default(),
            rate: entry.integer("rate", 0, RATES),
            concurrency: entry.integer("concurrency", 0, CONCURRENCIES),
        };
        let prefix = &limit.prefix;
        if prefix.is_empty() || prefix.len() > limits::KEY_BYTES_MAX {
            let most = limits::KEY_BYTES_MAX;
            entry.rule(format!(
                "`{}` is {prefix:?}; allowed: what keys begin with, 1 to {most} bytes",
                entry.key("prefix")
            ));
        }
        if limit.rate == 0 && limit.concurrency == 0 {
            entry.rule(format!(
                "`{}` or `{}` must be above 0: else prefix {prefix:?} has no limit",
                entry.key("rate"),
                entry.key("concurrency")
            ));
        }
        if prefixes.iter().any(|other| other.prefix == *prefix) {
            entry.rule(format!("`{}` names {prefix:?} a second time", entry.key("prefix")));
        }
        prefixes.push(limit);
    }
    prefixes
}
