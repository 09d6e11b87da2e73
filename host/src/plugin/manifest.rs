//! What a plugin's author says about it: every key of a manifest, with its default and its range.
//!
//! The text that [`Manifest::to_toml`] writes is stored in the log and read again years later:
//! every manifest survives the round trip, and a new key needs a default that means "as before".

mod limits;
mod whole;

use std::collections::BTreeMap;

use serde::Serialize;
use toml::Value;

pub use self::limits::{Limits, PrefixLimit};
use super::check_name;
use super::grants::Grants;
use super::subscription::{InvalidStart, Start, Subscription};
use crate::config::reader::{Document, Section};
use crate::config::syntax::parse;
use crate::config::{FailureShare, Invalid, TimeSpan};
use crate::event::Digest;

/// What modules are built against; part of every environment id.
pub const HOST_ABI: &str = "tidegate:plugin@0.1.0";

/// A manifest with every default filled in.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Manifest {
    /// For people.
    pub description: String,
    /// File name of the module, within the plugin's folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// Which events it wants.
    pub subscribe: Subscription,
    /// Budgets of a delivery.
    pub limits: Limits,
    /// How it runs.
    pub run: Run,
    /// What happens when a delivery fails.
    pub retry: Retry,
    /// Schema versions that each type is lifted from.
    pub upcast: BTreeMap<String, Vec<u32>>,
    /// What it may reach outside.
    pub grants: Grants,
    /// Free strings for the handler.
    pub config: BTreeMap<String, String>,
}

/// Whether instances serve more than one delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Instance {
    /// A worker keeps its instance; linear memory is a cache.
    #[default]
    Reuse,
    /// Each delivery has its own.
    Fresh,
}

/// Manifests of before there was such a key are digested as they were.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// The `[run]` section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Run {
    /// Deliveries at the same time; 0: one per core. Counts from the next start of the plugin.
    pub workers: u32,
    /// Whether instances are reused.
    pub instance: Instance,
    /// Deliveries after which an instance is discarded.
    pub recycle_after: u32,
    /// Deliveries in progress.
    pub in_flight: u32,
    /// Keys waiting; past it the plugin pauses.
    pub waiting_max: u32,
    /// Deliveries to run beside before a new version goes live.
    pub shadow: u32,
    /// How many of those may differ from what the version that serves does.
    #[serde(skip_serializing_if = "is_zero")]
    pub shadow_differences: u32,
    /// A change across it needs a rewind.
    pub state_version: u32,
}

/// What a failed delivery means for its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// Its later events wait behind the dead letter.
    Park,
    /// Its later events go on.
    Continue,
    /// The plugin pauses.
    Pause,
}

/// What a rejected delivery means for its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnReject {
    /// Its later events go on.
    #[default]
    Continue,
    /// Its later events wait behind the dead letter.
    Park,
    /// The plugin pauses.
    Pause,
}

/// The `[retry]` section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Retry {
    /// Attempts at a delivery that ends in trap, fuel, memory, output or depth.
    pub attempts_fault: u32,
    /// First pause after retry and timeout; doubles, with jitter.
    pub backoff: TimeSpan,
    /// Longest pause.
    pub backoff_max: TimeSpan,
    /// Time since the first attempt after which a delivery is given up.
    pub give_up_after: TimeSpan,
    /// As written, none where it is not; see [`Manifest::on_failure`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<OnFailure>,
    /// What a reject means for the key.
    pub on_reject: OnReject,
    /// Share of failures at which the plugin pauses and probes.
    pub breaker: FailureShare,
}

impl Default for Run {
    fn default() -> Self {
        Self {
            workers: 0,
            instance: Instance::Reuse,
            recycle_after: 100_000,
            in_flight: 4096,
            waiting_max: 1_000_000,
            shadow: 0,
            shadow_differences: 0,
            state_version: 1,
        }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts_fault: 2,
            backoff: TimeSpan::from_ms(100),
            backoff_max: TimeSpan::from_secs(30),
            give_up_after: TimeSpan::from_minutes(15),
            on_failure: None,
            on_reject: OnReject::Continue,
            breaker: FailureShare { percent: 50, window: TimeSpan::from_minutes(1) },
        }
    }
}

impl Manifest {
    /// Reads a manifest; `file` is its name for people.
    ///
    /// # Errors
    /// Everything that is wrong with it: one sentence each, with file and full key.
    pub fn parse(file: &str, text: &str) -> Result<Self, Invalid> {
        let label = format!("manifest `{file}`");
        let table = parse(&label, text)?;
        let document = Document::new(&label);
        let manifest = read(&mut document.root(table));
        document.finish()?;
        Ok(manifest)
    }

    /// The manifest as TOML, with every default written out. [`Manifest::parse`] reads it back.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a manifest is made of tables, texts and integers up to 2^63")
    }

    /// Identifies everything a delivery depends on beside its input and state: the module, the
    /// manifest with its configuration, and the host's interface.
    #[must_use]
    pub fn environment(&self, module: Digest) -> Digest {
        let mut hasher = blake3::Hasher::new();
        for part in [&module.0[..], HOST_ABI.as_bytes(), self.to_toml().as_bytes()] {
            // Lengths keep the parts from running into each other.
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Digest(*hasher.finalize().as_bytes())
    }

    /// What a failed delivery means for its key: `park` where nothing is written. Events without a
    /// key, and those of a memory bus, go on instead.
    #[must_use]
    pub fn on_failure(&self) -> OnFailure {
        self.retry.on_failure.unwrap_or(OnFailure::Park)
    }

    /// What a rejected delivery means for its key; `park` as for [`Manifest::on_failure`].
    #[must_use]
    pub fn on_reject(&self) -> OnReject {
        self.retry.on_reject
    }

    /// What an operator should know once, when the plugin is loaded: keys that do not act as
    /// written.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.subscribe.own && self.subscribe.types.is_empty() {
            warnings.push(
                "`subscribe.own` has no effect without `subscribe.types`: a subscription without \
                 types gets ingested events only"
                    .to_owned(),
            );
        }
        warnings
    }
}

fn read(root: &mut Section<'_>) -> Manifest {
    let manifest = Manifest {
        description: root.text("description").unwrap_or_default(),
        module: read_module(root),
        subscribe: read_subscription(root.section("subscribe")),
        limits: limits::read(root.section("limits")),
        run: read_run(root.section("run")),
        retry: read_retry(root.section("retry")),
        upcast: read_upcast(root.section("upcast")),
        grants: read_grants(&mut root.section("grants")),
        config: root.pairs("config"),
    };
    if manifest.grants.is_outbound() && manifest.subscribe.start.is_none() {
        root.rule(
            "a plugin with an outbound grant must write `start`: `subscribe.start` is \"earliest\" \
             (old events cause requests too), \"latest\", a position or an RFC 3339 time",
        );
    }
    manifest
}

fn read_module(root: &mut Section<'_>) -> Option<String> {
    let module = root.text("module")?;
    let inside = module.split('/').all(|part| !matches!(part, "" | "." | ".."));
    let kind = module.ends_with(".wasm") || module.ends_with(".wat");
    if inside && kind && !module.contains('\\') {
        return Some(module);
    }
    let allowed = "a `.wasm` or `.wat` file within the plugin's folder";
    root.not_allowed("module", &Value::String(module), allowed);
    None
}

fn read_subscription(mut section: Section<'_>) -> Subscription {
    let bus = section.text("bus");
    if let Some(invalid) = bus.as_deref().and_then(|name| check_name(name).err()) {
        section.rule(format!("`subscribe.bus`: {invalid}"));
    }
    Subscription {
        bus,
        types: section.parsed_list("types"),
        sources: section.parsed_list("sources"),
        own: section.flag("own", false),
        start: read_start(&mut section),
        attributes: section.pairs("where"),
    }
}

/// A position may be an integer and a time a TOML date-time, as people would write them.
fn read_start(section: &mut Section<'_>) -> Option<Start> {
    let found = section.take("start")?;
    let start = match &found {
        Value::String(text) => text.parse::<Start>(),
        Value::Integer(number) => number.to_string().parse(),
        Value::Datetime(time) => time.to_string().parse(),
        _ => Err(InvalidStart),
    };
    start.map_err(|why| section.not_allowed("start", &found, &why.to_string())).ok()
}

fn read_run(mut section: Section<'_>) -> Run {
    let default = Run::default();
    let instances = [("reuse", Instance::Reuse), ("fresh", Instance::Fresh)];
    Run {
        workers: section.integer("workers", default.workers, 0..=crate::limits::WORKERS_MAX),
        instance: section.choice("instance", &instances).unwrap_or_default(),
        recycle_after: section.integer("recycle-after", default.recycle_after, 1..=u32::MAX),
        in_flight: section.integer(
            "in-flight",
            default.in_flight,
            1..=crate::limits::IN_FLIGHT_MAX,
        ),
        waiting_max: section.integer(
            "waiting-max",
            default.waiting_max,
            1..=crate::limits::WAITING_MAX,
        ),
        shadow: section.integer("shadow", default.shadow, 0..=crate::limits::SHADOW_MAX),
        shadow_differences: section.integer(
            "shadow-differences",
            default.shadow_differences,
            0..=crate::limits::SHADOW_MAX,
        ),
        state_version: section.integer("state-version", default.state_version, 0..=u32::MAX),
    }
}

fn read_retry(mut section: Section<'_>) -> Retry {
    let default = Retry::default();
    let pause = TimeSpan::from_ms(1)..=TimeSpan::from_hours(24);
    let give_up = TimeSpan::from_ms(0)..=TimeSpan::from_days(365);
    let on_failure =
        [("park", OnFailure::Park), ("continue", OnFailure::Continue), ("pause", OnFailure::Pause)];
    let on_reject =
        [("continue", OnReject::Continue), ("park", OnReject::Park), ("pause", OnReject::Pause)];
    let retry = Retry {
        attempts_fault: section.integer(
            "attempts-fault",
            default.attempts_fault,
            1..=crate::limits::ATTEMPTS_FAULT_MAX,
        ),
        backoff: section.time_span("backoff", default.backoff, pause.clone()),
        backoff_max: section.time_span("backoff-max", default.backoff_max, pause),
        give_up_after: section.time_span("give-up-after", default.give_up_after, give_up),
        on_failure: section.choice("on-failure", &on_failure),
        on_reject: section.choice("on-reject", &on_reject).unwrap_or_default(),
        breaker: section.parsed("breaker").unwrap_or(default.breaker),
    };
    if retry.backoff > retry.backoff_max {
        let (first, longest) = (retry.backoff, retry.backoff_max);
        section.rule(format!(
            "`retry.backoff` is \"{first}\", over `retry.backoff-max` of \"{longest}\""
        ));
    }
    retry
}

fn read_upcast(mut section: Section<'_>) -> BTreeMap<String, Vec<u32>> {
    let allowed = "a list of schema versions, whole numbers from 1 to 4294967295";
    let mut upcast = BTreeMap::new();
    for (kind, found) in section.take_rest() {
        if kind.starts_with("tidegate.") || kind.contains('*') {
            let why = "names one type, and none of the host's own (`tidegate.*`)";
            section.rule(format!("`upcast.\"{kind}\"` is not allowed: each key {why}"));
            continue;
        }
        let version = |item: &Value| {
            item.as_integer().and_then(|n| u32::try_from(n).ok()).filter(|version| *version > 0)
        };
        let versions = found.as_array().and_then(|items| items.iter().map(version).collect());
        match versions {
            Some(versions) => {
                upcast.insert(kind, versions);
            }
            None => section.not_allowed(&kind, &found, allowed),
        }
    }
    upcast
}

/// Also reads the operator's `allow`, which has the same keys.
pub(crate) fn read_grants(section: &mut Section<'_>) -> Grants {
    Grants {
        http: section.parsed_list("http"),
        env: section.parsed_list("env"),
        secrets: section.parsed_list("secrets"),
        private: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
