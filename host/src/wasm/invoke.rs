//! The one place that runs a guest.
//!
//! The rule that must not break: every limit is armed here, each time, before any code of the guest
//! runs (a `start` function is code too); and an instance that did not return in order is never
//! entered again.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use wasmtime::Store;
use wasmtime::component::{Instance, InstancePre};

use super::arguments::{event, lower, lower_attributes, lower_request, respond};
use super::bindings::direct::exports::tidegate::plugin::handler as direct_handler;
use super::bindings::exports::tidegate::plugin::{command, handler, query, upcaster};
use super::bindings::tidegate::plugin::types::Failure;
use super::context::Context;
use super::delivery::{Delivery, GuestLimits, Invocation, Lifted, Request};
use super::drafts::messaging::exports::wasi::messaging::incoming_handler;
use super::limits::Breach;
use super::module::{Linked, Module, Probed};
use super::session::Record;
use super::store::{self, Input, Pace, StoreData};
use super::{messaging, stdio, verdict};
use crate::effects::{Effects, Outcome};

/// Deliveries of a worker that begin where they can yield, after one that had to and could not.
const YIELDING_AFTER_LONG: u32 = 1000;
/// About what a guest can burn in a microsecond: a tight loop took 8.2 units of fuel a nanosecond.
const FUEL_PER_US: u64 = 8000;

/// Which export is called, with what the context does not say.
pub(super) enum Entry {
    /// `handler.handle`, with the event of the context.
    Handle,
    /// `command.execute`.
    Execute(Request),
    /// `query.read`.
    Read(Request),
    /// `upcaster.upcast`, with the event of the context at this schema version.
    Upcast(u32),
}

impl Entry {
    const fn interface(&self) -> &'static str {
        match self {
            Self::Handle => "handler",
            Self::Execute(_) => "command",
            Self::Read(_) => "query",
            Self::Upcast(_) => "upcaster",
        }
    }
}

/// How a guest came to its end in order.
pub(super) enum Returned {
    /// With ok; an answer is already in the session.
    Done,
    /// With the next shape of an event.
    Lifted(Lifted),
    /// With a failure of its own choice.
    Failed(Failure),
    /// With something that makes no sense; why.
    Broken(String),
    /// With an exit code that is not 0, and no word of an outcome.
    Exited(i32),
}

/// An invocation, with what only an upcaster gives.
pub(super) type Finished = (Box<Invocation>, Option<Lifted>);

/// What of a delivery's limits counts at its end, and when it began.
#[derive(Clone, Copy)]
struct Terms {
    started: Instant,
    fuel: u64,
    reuse: bool,
    recycle_after: u32,
}

impl Terms {
    const fn new(limits: &GuestLimits, started: Instant) -> Self {
        let GuestLimits { fuel, reuse, recycle_after, .. } = *limits;
        Self { started, fuel, reuse, recycle_after }
    }
}

/// What a worker keeps between deliveries of one plugin: the instance, where it may serve again.
/// Empty at first.
#[derive(Default)]
pub struct Slot {
    live: Option<Box<Live>>,
    /// Deliveries still to begin where they can yield.
    yielding: u32,
    /// When the delivery began that turned out to take long, and is to run once more.
    began: Option<Instant>,
    /// Memory of an invocation that nobody needs any more.
    spare: Option<Box<Invocation>>,
}

impl Slot {
    /// Takes back what a delivery came to: the next one is noted in the same memory.
    pub fn give_back(&mut self, mut invocation: Box<Invocation>) {
        self.spare = invocation.clear().then_some(invocation);
    }

    /// Whether the next delivery may run on the caller's stack: all the guest can do is compute, and
    /// none of late took long.
    fn runs_through(&self, module: &Module, delivery: &Delivery) -> bool {
        self.yielding == 0
            && self.live.as_ref().is_some_and(|live| {
                live.exports.as_ref().is_some_and(|exports| exports.direct.is_some())
                    && live.fits(module, delivery.config, delivery.limits)
            })
    }
}

fn is_long(error: &wasmtime::Error) -> bool {
    matches!(error.downcast_ref(), Some(Breach::Long))
}

#[cfg(test)]
impl Slot {
    pub(super) fn is_empty(&self) -> bool {
        self.live.is_none()
    }

    pub(super) const fn yielding(&self) -> u32 {
        self.yielding
    }

    pub(super) fn served(&self) -> u32 {
        self.live.as_ref().map_or(0, |live| live.served)
    }
}

/// One instance with its store.
struct Live {
    store: Store<StoreData>,
    exports: Option<GuestExports>,
    /// [`Module::serial`] of the module it is an instance of.
    module: u64,
    config: Arc<BTreeMap<String, String>>,
    served: u32,
}

/// The exports of one instance.
struct GuestExports {
    handler: Option<handler::Guest>,
    direct: Option<direct_handler::Guest>,
    messaging: Option<incoming_handler::Guest>,
    command: Option<command::Guest>,
    query: Option<query::Guest>,
    upcaster: Option<upcaster::Guest>,
}

/// Hands an event to the handler on the stack of the caller, where that can be: most deliveries are done
/// with in less time than it takes to set up another stack. Gives the delivery back where it cannot, or
/// where it turned out to take long; of what was run then nothing is left but the time it took.
pub(super) fn invoke_through<'a>(
    module: &Module,
    slot: &mut Slot,
    delivery: Delivery<'a>,
) -> Result<Box<Invocation>, Delivery<'a>> {
    if !slot.runs_through(module, &delivery) {
        return Err(delivery);
    }
    let Some(mut live) = slot.live.take() else { return Err(delivery) };
    let terms = Terms::new(delivery.limits, store::now());
    let Delivery { event, attempt, redriven, seed, config, limits, outside, .. } = delivery;
    let ended = live.run_through(delivery, terms.started);
    if ended.as_ref().is_err_and(is_long)
        && let Some(state) = live.store.data_mut().take_back()
    {
        (slot.yielding, slot.began) = (YIELDING_AFTER_LONG, Some(terms.started));
        return Err(Delivery { event, attempt, redriven, seed, config, limits, state, outside });
    }
    let (invocation, _) = live.finish(module, slot, ended, terms);
    Ok(invocation)
}

/// Runs one entry of a module under every limit of the delivery, where it can yield to others.
///
/// Cancel safe: the instance is in the slot only between invocations.
pub(super) async fn invoke(
    module: &Module,
    slot: &mut Slot,
    context: Context,
    entry: Entry,
) -> Finished {
    let now = store::now();
    slot.yielding = slot.yielding.saturating_sub(1);
    let terms = Terms::new(&context.limits, slot.began.take().unwrap_or(now));
    let mut live = match slot.live.take() {
        Some(live) if live.fits(module, &context.config, &context.limits) => live,
        _ => Box::new(Live::new(module, &context)),
    };
    // Boxed, so that the future of a delivery fits where the allocator has memory at hand.
    let ended = Box::pin(live.run(module, context, (now, &entry))).await;
    live.finish(module, slot, ended, terms)
}

/// Runs a future until a deadline. A guest that computes yields at epoch ticks and is judged by
/// the store's own callback; this one is for guests that sleep in a host call. A timer is set only
/// once the future has waited at all, which most never do.
async fn within<T>(
    deadline: Instant,
    work: impl Future<Output = wasmtime::Result<T>>,
) -> wasmtime::Result<T> {
    let mut work = pin!(work);
    let mut sleep = None;
    poll_fn(|context| {
        if let Poll::Ready(done) = work.as_mut().poll(context) {
            return Poll::Ready(done);
        }
        let sleep =
            sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline.into())));
        // The clock is asked beside the timer, which fires only where its driver gets to run.
        if store::now() < deadline && sleep.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        // A guest that yielded just before goes on to its next tick, ends there, and says where it was.
        match work.as_mut().poll(context) {
            Poll::Ready(done) => Poll::Ready(done),
            Poll::Pending => Poll::Ready(Err(Breach::Timeout.into())),
        }
    })
    .await
}

/// About what a guest burns that computes for so long.
fn fuel_in(computed: Duration) -> u64 {
    let us = u64::try_from(computed.as_micros()).unwrap_or(u64::MAX);
    us.saturating_mul(FUEL_PER_US)
}

impl Live {
    fn new(module: &Module, context: &Context) -> Self {
        let store = store::new_store(module.engine());
        let config = context.config.clone();
        Self { store, exports: None, module: module.serial(), config, served: 0 }
    }

    /// Whether the instance may serve a delivery with this configuration and these limits.
    fn fits(
        &self,
        module: &Module,
        config: &Arc<BTreeMap<String, String>>,
        limits: &GuestLimits,
    ) -> bool {
        let same_config = Arc::ptr_eq(&self.config, config) || self.config == *config;
        self.module == module.serial()
            && same_config
            && limits.reuse
            && self.store.data().memory_bytes() <= limits.memory_bytes
    }

    /// Runs a delivery where it can yield to others.
    async fn run(
        &mut self,
        module: &Module,
        context: Context,
        (started, entry): (Instant, &Entry),
    ) -> wasmtime::Result<Returned> {
        let input = Input::Context(context);
        let deadline = store::begin(&mut self.store, input, (started, Pace::Yielding))?;
        let run = async {
            match module.linked() {
                Linked::Stdio(pre) => stdio::run(&mut self.store, pre, entry).await,
                Linked::Component { pre, probed } => self.enter(pre, probed, entry).await,
            }
        };
        within(deadline, run).await
    }

    /// Runs a delivery of the handler on the stack of the caller. Ends with [`Breach::Long`] where it
    /// should yield.
    fn run_through(
        &mut self,
        delivery: Delivery<'_>,
        started: Instant,
    ) -> wasmtime::Result<Returned> {
        let event = delivery.event;
        store::begin(&mut self.store, Input::Delivery(delivery), (started, Pace::Through))?;
        let direct = self.exports.as_ref().and_then(|exports| exports.direct.as_ref());
        let guest = direct.ok_or(Breach::Idle)?;
        let returned = guest.call_handle(&mut self.store, lower(event))?;
        Ok(returned.map_or_else(Returned::Failed, |()| Returned::Done))
    }

    /// Judges how a delivery ended, and keeps the instance for the next one where it may serve again.
    fn finish(
        mut self: Box<Self>,
        module: &Module,
        slot: &mut Slot,
        ended: wasmtime::Result<Returned>,
        terms: Terms,
    ) -> Finished {
        self.served = self.served.saturating_add(1);
        let in_order = ended.is_ok();
        // What it still asks must not go on, nor be answered to another delivery: it ends with it.
        let is_spent = self.store.data().has_asked();
        let counted = terms.fuel.saturating_sub(self.store.get_fuel().unwrap_or(0));
        let stopped_after = self.store.data().stopped_after();
        let next = slot.spare.take().unwrap_or_default();
        let Record { mut invocation, exceeded } = self.store.data_mut().finish(next);
        invocation.memory_bytes = self.store.data().memory_bytes();
        let lifted = match ended {
            // As an invocation begins.
            Ok(Returned::Done) if exceeded.is_none() => None,
            ended => {
                let verdict = verdict::of(ended, exceeded, &invocation.logs);
                (invocation.outcome, invocation.backtrace) = (verdict.outcome, verdict.backtrace);
                if invocation.outcome != Outcome::Ok {
                    invocation.effects = Effects::default();
                }
                verdict.lifted
            }
        };
        // Where the clock stopped the guest, what it burnt since its last call is not in the count.
        let burnt = stopped_after.map_or(0, fuel_in);
        invocation.fuel = counted.max(burnt).min(terms.fuel);
        let is_fresh = !is_spent && self.served < terms.recycle_after;
        if in_order && module.keeps_instances() && terms.reuse && is_fresh {
            slot.live = Some(self);
        }
        invocation.wall = store::now().saturating_duration_since(terms.started);
        (invocation, lifted)
    }

    async fn enter(
        &mut self,
        pre: &InstancePre<StoreData>,
        probed: &Probed,
        entry: &Entry,
    ) -> wasmtime::Result<Returned> {
        if self.exports.is_none() {
            let instance = pre.instantiate_async(&mut self.store).await?;
            self.exports = Some(GuestExports::load(probed, &mut self.store, &instance)?);
        }
        let store = &mut self.store;
        let exports = self.exports.as_ref();
        match entry {
            Entry::Handle => {
                if let Some(guest) = exports.and_then(|exports| exports.handler.as_ref()) {
                    let event = event(store)?;
                    let returned = guest.call_handle(&mut *store, lower(&event)).await?;
                    return Ok(returned.map_or_else(Returned::Failed, |()| Returned::Done));
                }
                if let Some(guest) = exports.and_then(|exports| exports.messaging.as_ref()) {
                    let event = event(store)?;
                    return messaging::handle(guest, store, &event).await;
                }
            }
            Entry::Execute(request) => {
                if let Some(guest) = exports.and_then(|exports| exports.command.as_ref()) {
                    let attributes = lower_attributes(request);
                    let request = lower_request(request, &attributes);
                    return respond(guest.call_execute(&mut *store, request).await?, store);
                }
            }
            Entry::Read(request) => {
                if let Some(guest) = exports.and_then(|exports| exports.query.as_ref()) {
                    let attributes = lower_attributes(request);
                    let request = lower_request(request, &attributes);
                    return respond(guest.call_read(&mut *store, request).await?, store);
                }
            }
            Entry::Upcast(version) => {
                if let Some(guest) = exports.and_then(|exports| exports.upcaster.as_ref()) {
                    let event = event(store)?;
                    let returned = guest.call_upcast(&mut *store, lower(&event), *version).await?;
                    return Ok(verdict::lifted(returned, *version));
                }
            }
        }
        Ok(Returned::Broken(format!("the module does not export `{}`", entry.interface())))
    }
}

impl GuestExports {
    fn load(
        probed: &Probed,
        store: &mut Store<StoreData>,
        instance: &Instance,
    ) -> wasmtime::Result<Self> {
        let (handler, command) = (probed.handler.as_ref(), probed.command.as_ref());
        let (messaging, direct) = (probed.messaging.as_ref(), probed.direct.as_ref());
        let (query, upcaster) = (probed.query.as_ref(), probed.upcaster.as_ref());
        Ok(Self {
            handler: handler.map(|found| found.load(&mut *store, instance)).transpose()?,
            direct: direct.map(|found| found.load(&mut *store, instance)).transpose()?,
            messaging: messaging.map(|found| found.load(&mut *store, instance)).transpose()?,
            command: command.map(|found| found.load(&mut *store, instance)).transpose()?,
            query: query.map(|found| found.load(&mut *store, instance)).transpose()?,
            upcaster: upcaster.map(|found| found.load(&mut *store, instance)).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Ends at a poll by this number, from 1.
    async fn ended_at(poll: u32) -> Option<u32> {
        let mut polls = 0;
        let work = poll_fn(|context| {
            polls += 1;
            context.waker().wake_by_ref();
            if polls < poll { Poll::Pending } else { Poll::Ready(Ok(polls)) }
        });
        let past = store::now();
        let done = tokio::time::timeout(Duration::from_secs(60), within(past, work)).await;
        let done = done.expect("past the deadline nothing is waited for");
        done.map_err(|error| assert!(matches!(error.downcast_ref(), Some(Breach::Timeout)))).ok()
    }

    #[tokio::test]
    async fn a_guest_that_yielded_as_its_time_ran_out_is_heard_once_more() {
        assert_eq!(ended_at(1).await, Some(1));
        assert_eq!(ended_at(2).await, Some(2));
        assert_eq!(ended_at(3).await, None);
    }
}
