//! `bench invoke`: one call of a guest, by the host and by wasmtime alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::effects::Outcome;
use crate::event::{CommitNumber, Event, KeySequence, Position};
use crate::wasm::engine::HostEngineOptions;
use crate::wasm::load::{Compiler, LoaderOptions};
use crate::wasm::{
    Delivery, Exports, GuestLimits, Invocation, Invoker, Module, Sandbox, SandboxOptions, Seed,
    Slot, StateView,
};

use super::alone::Asked;
use super::bare::{Bare, Fuel};
use super::events::Events;
use super::guest::{self, Given, Guest, Plugin};
use super::kept::{Kept, Noting};
use super::place::{Place, no_handler};
use super::report::{Call, Figure, Report, median};
use super::{BenchError, Settings, cpu};

/// Calls of a fresh instance: one in so many of the others.
const FRESH_SHARE: u64 = 20;
/// Why there are no rows of bare calls where [`Bare::load`] takes no module.
const NOT_BARE: &str = "no bare calls: without the host only components and typed core modules are called, \
                        and those that need nothing but `tidegate:plugin`";
/// Deliveries after which a guest finds its state as it leaves it: the first one finds none, the second
/// one what the first one makes of that.
const DELIVERIES_TO_SETTLE: u32 = 2;

/// What only this bench is told.
#[derive(Debug, Clone, Default)]
pub struct InvokeOptions {
    /// The module; none: the built-in one, which reads and writes one value and emits one event.
    pub module: Option<Given>,
}

/// A guest as the host runs it.
pub(super) struct Hosted {
    module: Arc<Module>,
    event: Arc<Event>,
    config: Arc<BTreeMap<String, String>>,
    limits: Arc<GuestLimits>,
    state: Kept,
    view: Arc<dyn StateView>,
}

/// A call of a guest that finds state of its own making.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// Processor time, microseconds.
    pub(super) us: f64,
    /// What it did.
    pub(super) asked: Asked,
}

impl Hosted {
    /// Loads a module as the host does; its code is cached in `place`. Its key has no state.
    pub(super) async fn load(
        place: &Place,
        events: &Events,
        plugin: &Plugin,
    ) -> Result<Self, BenchError> {
        let compiler = std::env::current_exe().map_or(Compiler::InProcess, Compiler::Child);
        Self::compiled_by(compiler, place, events, plugin).await
    }

    async fn compiled_by(
        compiler: Compiler,
        place: &Place,
        events: &Events,
        plugin: &Plugin,
    ) -> Result<Self, BenchError> {
        let loader = LoaderOptions::new(place.path().join("invoke-cache"), compiler);
        let engine = HostEngineOptions { workers: 1, plugins_max: 1, ..Default::default() };
        let sandbox = Sandbox::new(SandboxOptions { loader, engine })?;
        let module = sandbox.load("bench", Bytes::copy_from_slice(&plugin.wasm)).await?;
        if !module.exports.handler {
            return Err(no_handler(&exported(&module)));
        }
        let state = Kept::default();
        Ok(Self {
            module,
            event: Arc::new(event(events)),
            config: Arc::new(plugin.manifest.config.clone()),
            limits: Arc::new(plugin.limits()),
            view: Arc::new(state.clone()),
            state,
        })
    }

    fn delivery(&self) -> Delivery<'_> {
        Delivery {
            event: &self.event,
            attempt: 1,
            redriven: false,
            seed: Seed::default(),
            config: &self.config,
            limits: &self.limits,
            state: Arc::clone(&self.view),
            outside: None,
        }
    }

    /// Calls the guest as a worker of a plugin does.
    async fn call(&self, slot: &mut Slot) -> Box<Invocation> {
        match self.module.invoke_through(slot, self.delivery()) {
            Ok(invocation) => invocation,
            Err(delivery) => self.module.invoke(slot, delivery).await,
        }
    }

    /// Delivers as often as it takes for the guest to find state of its own making. Gives the last of
    /// these calls.
    ///
    /// # Errors
    /// How a delivery ended that is not ok.
    pub(super) async fn settle(&mut self) -> Result<Settled, Outcome> {
        let mut slot = Slot::default();
        let mut settled = Settled::default();
        for _ in 0..DELIVERIES_TO_SETTLE {
            let noting = Arc::new(Noting::new(self.state.clone()));
            self.view = Arc::clone(&noting) as Arc<dyn StateView>;
            let begun = cpu::thread();
            let invocation = self.call(&mut slot).await;
            let us = cpu::thread().saturating_sub(begun).as_secs_f64() * 1e6;
            if invocation.outcome != Outcome::Ok {
                return Err(invocation.outcome);
            }
            self.state.take(invocation.effects.state.clone());
            let asked = Asked { read: noting.read(), effects: invocation.effects };
            settled = Settled { us, asked };
        }
        self.view = Arc::new(self.state.clone());
        Ok(settled)
    }

    /// The state that the guest is measured on.
    pub(super) const fn state(&self) -> &Kept {
        &self.state
    }

    /// The same with an instance for each call.
    fn fresh(&self) -> Self {
        Self {
            module: Arc::clone(&self.module),
            event: Arc::clone(&self.event),
            config: Arc::clone(&self.config),
            limits: Arc::new(GuestLimits { reuse: false, ..GuestLimits::clone(&self.limits) }),
            state: self.state.clone(),
            view: Arc::clone(&self.view),
        }
    }

    /// Processor time of one call, microseconds. Gives the outcome of the last one where it failed.
    #[allow(clippy::cast_precision_loss, reason = "a mean needs no more digits")]
    pub(super) async fn us(&self, calls: u64) -> (f64, Option<Outcome>) {
        let mut slot = Slot::default();
        let mut failed = None;
        let begun = cpu::thread();
        for _ in 0..calls {
            let invocation = self.call(&mut slot).await;
            if invocation.outcome != Outcome::Ok {
                failed = Some(invocation.outcome.clone());
            }
            slot.give_back(invocation);
        }
        let spent = cpu::thread().saturating_sub(begun);
        (spent.as_secs_f64() * 1e6 / calls.max(1) as f64, failed)
    }
}

/// What a module that takes no events can be asked.
fn exported(module: &Module) -> Vec<String> {
    let Exports { handler: _, command, query, upcaster } = module.exports;
    let all = [("command", command), ("query", query), ("upcaster", upcaster)];
    all.iter().filter(|(_, is)| *is).map(|(name, _)| (*name).to_owned()).collect()
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
    let plugin = Plugin::of(options.module.as_ref(), &Guest::Counting, settings)?;
    let events = Events::new(settings);
    let mut reuse = Hosted::load(&place, &events, &plugin).await?;
    reuse.settle().await.map_err(|outcome| unfit(&outcome))?;
    let reuses = reuse.limits.reuse;
    let fresh = reuse.fresh();
    let mut bare = Bare::load(&plugin, Fuel::Off, reuse.state())?;
    let mut metered = Bare::load(&plugin, Fuel::On, reuse.state())?;
    let event = event(&events);

    let mut found: [Vec<f64>; 4] = Default::default();
    let mut failed = None;
    let mut notes: Vec<_> = not_bare(bare.as_ref()).into_iter().collect();
    for repetition in 0..=settings.repetitions {
        let calls = if repetition == 0 { settings.events.div_ceil(10) } else { settings.events };
        let (reused, one) = match reuses {
            true => Some(reuse.us(calls).await).unzip(),
            false => (None, None),
        };
        let bares = us(&mut bare, &event, calls, &mut notes);
        let (made, other) = fresh.us(calls.div_ceil(FRESH_SHARE)).await;
        let metered = us(&mut metered, &event, calls, &mut notes);
        failed = failed.or(one.flatten()).or(other);
        if repetition > 0 {
            let all = [bares, metered, reused, Some(made)];
            found.iter_mut().zip(all).for_each(|(found, one)| found.extend(one));
        }
    }

    let mut report = Report::new("invoke");
    report.parameter("calls", settings.events);
    report.parameter("size", settings.payload_bytes());
    report.parameter("repetitions", settings.repetitions);
    guest::describe(&mut report, options.module.as_ref(), "built-in");
    if let Some(outcome) = failed {
        report.parameter("outcome", format!("{} {}", outcome.kind().name(), outcome.reason()));
    }
    if !reuses {
        notes.push("no calls with reuse: the manifest wants `instance = \"fresh\"`".to_owned());
    }
    report.calls = calls(found, [bare.is_some(), metered.is_some()]);
    report.notes = notes;
    Ok(report)
}

/// Says why there are no bare calls.
fn not_bare(bare: Option<&Bare>) -> Option<String> {
    bare.is_none().then(|| NOT_BARE.to_owned())
}

/// One run of bare calls; one that fails is the last.
fn us(bare: &mut Option<Bare>, event: &Event, calls: u64, notes: &mut Vec<String>) -> Option<f64> {
    match bare.as_mut()?.us(event, calls) {
        Ok(us) => Some(us),
        Err(error) => {
            *bare = None;
            let why = error.to_string();
            let why = why.lines().next().unwrap_or_default();
            notes.push(format!("a kind of bare call is left out, since one failed: {why}"));
            None
        }
    }
}

/// Words for a module that does not take the events of the bench.
fn unfit(outcome: &Outcome) -> BenchError {
    let hint = "choose an event that it takes with --type and --data-file";
    BenchError::Module { why: format!("{}; {hint}", ends_with(outcome)) }
}

/// Words for how a call ended that should have ended well.
pub(super) fn ends_with(outcome: &Outcome) -> String {
    let (kind, reason) = (outcome.kind().name(), outcome.reason());
    let said = reason.lines().next().filter(|reason| *reason != kind);
    let said = said.map_or_else(String::new, |reason| format!(": {reason}"));
    format!("ends with `{kind}` on an event of the bench{said}")
}

/// The rows of the table. What failed later was measured before, and is left out all the same.
fn calls(found: [Vec<f64>; 4], bares: [bool; 2]) -> Vec<Call> {
    let names = ["bare, fuel off", "bare, fuel on", "host, reuse", "host, fresh"];
    let mut medians = found.map(median);
    for (median, is_whole) in medians.iter_mut().zip(bares) {
        *median = median.filter(|_| is_whole);
    }
    let bare = medians[0];
    let calls = names.into_iter().zip(medians).filter_map(|(call, us)| {
        let us = us?;
        Some(Call { call, us: Figure(us), ratio_to_bare: bare.map(|bare| Figure(us / bare)) })
    });
    calls.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_guest_is_measured_on_state_of_its_own_making() {
        let settings = Settings::default();
        let place = Place::new(&settings).unwrap();
        let plugin = Plugin::of(None, &Guest::Counting, &settings).unwrap();
        let events = Events::new(&settings);
        let loaded = Hosted::compiled_by(Compiler::InProcess, &place, &events, &plugin).await;
        let mut hosted = loaded.unwrap();
        assert_eq!(hosted.state().get("n"), None);
        let settled = hosted.settle().await.unwrap();
        let effects = &settled.asked.effects;
        assert_eq!((effects.emits.len(), effects.state.len()), (1, 1));
        assert_eq!(settled.asked.read, ["n"]);
        assert!(settled.us > 0.0);
        assert_eq!(hosted.state().get("n"), Some(2_u64.to_le_bytes().to_vec()));
        // What is measured changes nothing.
        assert_eq!(hosted.us(3).await.1, None);
        assert_eq!(hosted.state().get("n"), Some(2_u64.to_le_bytes().to_vec()));
    }

    #[test]
    fn a_module_that_cannot_be_called_without_the_host_is_told_so() {
        let mut plugin = Plugin::of(None, &Guest::Counting, &Settings::default()).unwrap();
        let noted = |plugin: &Plugin| {
            let bare = Bare::load(plugin, Fuel::Off, &Kept::default()).unwrap();
            not_bare(bare.as_ref())
        };
        assert_eq!(noted(&plugin), None);
        plugin.wasm =
            b"(module (memory (export \"memory\") 1) (func (export \"_start\")))".to_vec();
        assert!(noted(&plugin).unwrap().starts_with("no bare calls: "));
    }

    #[test]
    fn rows_are_what_was_measured_to_the_end() {
        let found = || [vec![2.0], vec![3.0], Vec::new(), vec![8.0]];
        let names = |bares| calls(found(), bares).iter().map(|call| call.call).collect::<Vec<_>>();
        assert_eq!(names([true, true]), ["bare, fuel off", "bare, fuel on", "host, fresh"]);
        assert_eq!(names([false, true]), ["bare, fuel on", "host, fresh"]);
        assert_eq!(calls(found(), [true, true])[2].ratio_to_bare, Some(Figure(4.0)));
        assert_eq!(calls(found(), [false, true])[1].ratio_to_bare, None);
    }

    #[test]
    fn a_module_that_does_not_take_the_event_is_told_so_in_words() {
        let said = |outcome| unfit(&outcome).to_string();
        let rejected = said(Outcome::Reject { reason: "no amount".to_owned() });
        assert!(rejected.starts_with("the module ends with `reject` on an event"), "{rejected}");
        assert!(rejected.contains(": no amount; choose"), "{rejected}");
        assert!(said(Outcome::Fuel).contains("`fuel`"));
    }
}
