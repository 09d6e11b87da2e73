//! `bench invoke`: one call of a guest, by the host and by wasmtime alone.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::effects::Outcome;
use crate::event::{CommitNumber, Event, KeySequence, Position};
use crate::wasm::engine::HostEngineOptions;
use crate::wasm::load::{Compiler, LoaderOptions};
use crate::wasm::{Delivery, GuestLimits, Module, Sandbox, SandboxOptions, Seed, Slot, StateView};

use super::bare::{Bare, Fuel};
use super::events::Events;
use super::guest::{Guest, module};
use super::place::Place;
use super::report::{Call, Figure, Report, median};
use super::{BenchError, Settings, cpu};

/// Calls of a fresh instance: one in so many of the others.
const FRESH_SHARE: u64 = 20;

/// What only this bench is told.
#[derive(Debug, Clone, Default)]
pub struct InvokeOptions {
    /// The module; none: the built-in one, which reads and writes one value and emits one event.
    pub module: Option<PathBuf>,
}

/// State of every key: the same eight bytes under every name.
struct Eight;

impl StateView for Eight {
    fn get(&self, _name: &str) -> Option<Vec<u8>> {
        Some(vec![7, 0, 0, 0, 0, 0, 0, 0])
    }

    fn list(&self, _prefix: &str, _after: Option<&str>, _limit: usize) -> Vec<String> {
        Vec::new()
    }
}

/// A guest as the host runs it.
pub(super) struct Hosted {
    module: Arc<Module>,
    delivery: Delivery,
}

impl Hosted {
    /// Loads a module as the host does; its code is cached in `place`.
    pub(super) async fn load(
        place: &Place,
        events: &Events,
        wasm: &[u8],
    ) -> Result<Self, BenchError> {
        let compiler = std::env::current_exe().map_or(Compiler::InProcess, Compiler::Child);
        let loader = LoaderOptions::new(place.path().join("invoke-cache"), compiler);
        let engine = HostEngineOptions { workers: 1, plugins_max: 1, ..Default::default() };
        let sandbox = Sandbox::new(SandboxOptions { loader, engine })?;
        let module = sandbox.load("bench", Bytes::copy_from_slice(wasm)).await?;
        let delivery = Delivery {
            event: Arc::new(event(events)),
            attempt: 1,
            redriven: false,
            seed: Seed::default(),
            config: Arc::default(),
            limits: Arc::new(GuestLimits::default()),
            state: Arc::new(Eight),
            outside: None,
        };
        Ok(Self { module, delivery })
    }

    /// The same with an instance for each call.
    fn fresh(&self) -> Self {
        let limits = GuestLimits { reuse: false, ..GuestLimits::clone(&self.delivery.limits) };
        let delivery = Delivery { limits: Arc::new(limits), ..self.delivery.clone() };
        Self { module: Arc::clone(&self.module), delivery }
    }

    /// Processor time of one call, microseconds. Gives the outcome of the last one where it failed.
    #[allow(clippy::cast_precision_loss, reason = "a mean needs no more digits")]
    pub(super) async fn us(&self, calls: u64) -> (f64, Option<Outcome>) {
        let mut slot = Slot::default();
        let mut failed = None;
        let begun = cpu::thread();
        for _ in 0..calls {
            let invocation = self.module.handle(&mut slot, self.delivery.clone()).await;
            if invocation.outcome != Outcome::Ok {
                failed = Some(invocation.outcome);
            }
        }
        let spent = cpu::thread().saturating_sub(begun);
        (spent.as_secs_f64() * 1e6 / calls.max(1) as f64, failed)
    }
}

/// An event as it stands in a log.
pub(super) fn event(events: &Events) -> Event {
    Event {
        position: Position(1_000_000),
        sequence: KeySequence(7),
        recorded_ms: 1_700_000_000_000,
        commit: CommitNumber(1_000_000),
        body: events.event(0),
    }
}

/// Runs it: all on one thread, in turns.
///
/// # Errors
/// The module is not taken, or makes no sense here.
pub async fn run(settings: &Settings, options: &InvokeOptions) -> Result<Report, BenchError> {
    settings.check()?;
    let place = Place::new(settings)?;
    let wasm = module(options.module.as_deref(), &Guest::Counting)?;
    let events = Events::new(settings);
    let reuse = Hosted::load(&place, &events, &wasm).await?;
    let fresh = reuse.fresh();
    let mut bare = Bare::load(&wasm, Fuel::Off)?;
    let mut metered = Bare::load(&wasm, Fuel::On)?;
    let event = event(&events);

    let mut found: [Vec<f64>; 4] = Default::default();
    let mut failed = None;
    for repetition in 0..=settings.repetitions {
        let calls = if repetition == 0 { settings.events.div_ceil(10) } else { settings.events };
        let (reused, one) = reuse.us(calls).await;
        let bares = bare.as_mut().map(|bare| bare.us(&event, calls)).transpose()?;
        let (made, other) = fresh.us(calls.div_ceil(FRESH_SHARE)).await;
        let metered = metered.as_mut().map(|bare| bare.us(&event, calls)).transpose()?;
        failed = failed.or(one).or(other);
        if repetition > 0 {
            let all = [bares, metered, Some(reused), Some(made)];
            found.iter_mut().zip(all).for_each(|(found, one)| found.extend(one));
        }
    }

    let mut report = Report::new("invoke");
    report.parameter("calls", settings.events);
    report.parameter("size", settings.payload_bytes());
    report.parameter("repetitions", settings.repetitions);
    let module = options.module.as_ref().map(|path| path.display().to_string());
    report.parameter("module", module.unwrap_or_else(|| "built-in".to_owned()));
    if let Some(outcome) = failed {
        report.parameter("outcome", format!("{} {}", outcome.kind().name(), outcome.reason()));
    }
    report.calls = calls(found);
    Ok(report)
}

fn calls(found: [Vec<f64>; 4]) -> Vec<Call> {
    let names = ["bare, fuel off", "bare, fuel on", "host, reuse", "host, fresh"];
    let medians = found.map(median);
    let bare = medians[0];
    let calls = names.into_iter().zip(medians).filter_map(|(call, us)| {
        let us = us?;
        Some(Call { call, us: Figure(us), ratio_to_bare: bare.map(|bare| Figure(us / bare)) })
    });
    calls.collect()
}
