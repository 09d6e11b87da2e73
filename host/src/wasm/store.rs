//! What stands behind a running guest: its session, its limiter, its part of WASI.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::{Engine, Store, UpdateDeadline};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtxView, WasiHttpView};

use super::EPOCH_TICK;
use super::context::{Access, Context};
use super::delivery::{Delivery, GuestLimits, Invocation, StateView};
use super::http::Http;
use super::limits::{Breach, HANDLES_MAX, Limiter};
use super::session::{Record, Session};
use super::shelf::Shelf;
use super::stdio::Stdio;
use super::wasi::Wasi;

/// Ticks of the epoch after which a guest yields to others; a tick is
/// [`super::EPOCH_TICK`].
const YIELD_TICKS: u64 = 1;
/// Ticks after which a guest that cannot yield is stopped: at least one whole tick has passed then.
const THROUGH_TICKS: u64 = 2;
/// Bytes one call into the host, or one return, may carry beside what fits the guest's memory.
const HOST_CALL_SLACK_BYTES: usize = 64 * 1024;

/// What a guest does when its time has come to let others run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// It yields: it was called on a stack of its own.
    Yielding,
    /// It cannot, as it runs on the stack of its caller: it ends with [`Breach::Long`].
    Through,
}

/// What a delivery begins with.
pub(super) enum Input<'a> {
    /// An event for the handler.
    Delivery(Delivery<'a>),
    /// Whatever else a guest is called for.
    Context(Context),
}

/// What every host function can reach.
pub(super) struct StoreData {
    /// The running delivery, or the last one: a session stays where it is, for the next one.
    session: Option<Session>,
    /// No delivery is running.
    is_idle: bool,
    pub(super) limiter: Limiter,
    /// What the guest has handles to, beside WASI.
    pub(super) shelf: Shelf,
    deadline: Instant,
    pace: Pace,
    /// Ticks of the epoch that found the guest computing in the running delivery.
    ticks: u32,
    /// The last of them was past its deadline.
    is_stopped: bool,
    /// Made when the guest first asks WASI for anything.
    wasi: Option<Box<Wasi>>,
    /// Made when the delivery first uses `wasi:http`.
    http: Option<Box<Http>>,
    /// Set for stdio modules alone.
    stdio: Option<Box<Stdio>>,
}

impl StoreData {
    fn new() -> Self {
        Self {
            session: None,
            is_idle: true,
            limiter: Limiter::default(),
            shelf: Shelf::default(),
            deadline: now(),
            pace: Pace::Yielding,
            ticks: 0,
            is_stopped: false,
            wasi: None,
            http: None,
            stdio: None,
        }
    }

    /// What stands behind a guest in a delivery, without the guest.
    #[cfg(test)]
    pub(super) fn within(context: Context) -> Self {
        let mut data = Self::new();
        data.limiter.arm(context.limits.memory_bytes);
        data.begin(Input::Context(context));
        data
    }

    /// The running delivery.
    pub(super) fn session(&self) -> Result<&Session, Breach> {
        self.session.as_ref().filter(|_| !self.is_idle).ok_or(Breach::Idle)
    }

    /// The running delivery, to be changed.
    pub(super) fn session_mut(&mut self) -> Result<&mut Session, Breach> {
        self.session.as_mut().filter(|_| !self.is_idle).ok_or(Breach::Idle)
    }

    /// Counts a call into the host. The first thing that every function here does.
    pub(super) fn called(&mut self) -> Result<(), Breach> {
        self.session_mut()?.host_call()
    }

    /// Bytes of linear memory and tables, and of what the host holds.
    pub(super) const fn memory_bytes(&self) -> usize {
        self.limiter.bytes()
    }

    /// For how long the guest has computed, to a tick, where the clock stopped it at that.
    pub(super) fn stopped_after(&self) -> Option<Duration> {
        self.is_stopped.then(|| EPOCH_TICK.saturating_mul(self.ticks))
    }

    /// Gives a stdio module its input and output.
    pub(super) fn set_stdio(&mut self, stdio: Stdio) {
        self.stdio = Some(Box::new(stdio));
    }

    /// WASI preview 1 of a stdio module.
    pub(super) fn preview1(&mut self) -> &mut WasiP1Ctx {
        self.stdio.get_or_insert_with(|| Box::new(Stdio::closed())).preview1()
    }

    /// Whether the delivery asked anything outside and waits for it.
    pub(super) fn has_asked(&self) -> bool {
        self.http.as_ref().is_some_and(|http| http.has_asked())
    }

    /// Ends the delivery: what it asked for, with what it printed among its logs. `next` is the memory for
    /// the one after it, an invocation as new.
    pub(super) fn finish(&mut self, next: Box<Invocation>) -> Record {
        let Some(session) = self.session.as_mut().filter(|_| !self.is_idle) else {
            return Record::default();
        };
        if let Some(wasi) = &self.wasi {
            wasi.printed(session);
        }
        if let Some(http) = &self.http {
            http.say(session);
        }
        if let Some(stdio) = &self.stdio {
            stdio.printed(session);
        }
        session.context.let_go();
        self.is_idle = true;
        session.finish_into(next)
    }

    /// Ends the delivery as if it had not begun. Gives the view of the state that it began with.
    pub(super) fn take_back(&mut self) -> Option<Arc<dyn StateView>> {
        self.is_idle = true;
        let session = self.session.as_mut()?;
        session.finish();
        session.context.let_go()
    }

    fn begin(&mut self, input: Input<'_>) {
        match (input, &mut self.session) {
            (Input::Delivery(delivery), Some(session)) => session.context.turn_to(delivery),
            (Input::Delivery(delivery), session) => {
                *session = Some(Session::new(Context::of_delivery(delivery, Access::Write)));
            }
            (Input::Context(context), session) => *session = Some(Session::new(context)),
        }
        self.is_idle = false;
        if let (Some(wasi), Some(session)) = (&self.wasi, &self.session) {
            wasi.begin(&session.context);
        }
    }
}

impl WasiView for StoreData {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let session = self.session.as_ref().filter(|_| !self.is_idle);
        let wasi = self
            .wasi
            .get_or_insert_with(|| Box::new(Wasi::new(session.map(|session| &session.context))));
        wasi.view()
    }
}

impl WasiHttpView for StoreData {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let session = self.session.as_ref().filter(|_| !self.is_idle);
        let context = session.map(|session| &session.context);
        let deadline = self.deadline;
        let wasi = self.wasi.get_or_insert_with(|| Box::new(Wasi::new(context)));
        let http = self.http.get_or_insert_with(|| Box::new(Http::new(context, deadline)));
        http.view(wasi.table())
    }
}

/// A store for one instance.
pub(super) fn new_store(engine: &Engine) -> Store<StoreData> {
    let mut store = Store::new(engine, StoreData::new());
    store.limiter(|data| &mut data.limiter);
    store.epoch_deadline_callback(|mut context| {
        let data = context.data_mut();
        data.ticks = data.ticks.saturating_add(1);
        if now() >= data.deadline {
            data.is_stopped = true;
            return Err(Breach::Timeout.into());
        }
        match data.pace {
            Pace::Yielding => Ok(UpdateDeadline::Yield(YIELD_TICKS)),
            Pace::Through => Err(Breach::Long.into()),
        }
    });
    store
}

/// Begins a delivery with every limit armed. Called by `invoke` alone, each time. Gives its deadline.
pub(super) fn begin(
    store: &mut Store<StoreData>,
    input: Input<'_>,
    (started, pace): (Instant, Pace),
) -> wasmtime::Result<Instant> {
    let limits: &GuestLimits = match &input {
        Input::Delivery(delivery) => delivery.limits,
        Input::Context(context) => &context.limits,
    };
    // A timeout beyond what the clock can express never comes: a year is as good.
    let deadline = started.checked_add(limits.timeout).unwrap_or_else(|| started + YEAR);
    store.set_fuel(limits.fuel)?;
    store.set_epoch_deadline(match pace {
        Pace::Yielding => YIELD_TICKS,
        Pace::Through => THROUGH_TICKS,
    });
    store.set_hostcall_fuel(limits.memory_bytes.saturating_add(HOST_CALL_SLACK_BYTES));
    store.set_max_component_handles(HANDLES_MAX);
    let data = store.data_mut();
    data.limiter.arm(limits.memory_bytes);
    (data.deadline, data.pace) = (deadline, pace);
    (data.ticks, data.is_stopped) = (0, false);
    data.http = None;
    data.begin(input);
    Ok(deadline)
}

const YEAR: std::time::Duration = std::time::Duration::from_secs(365 * 24 * 60 * 60);

/// Time as timeouts measure it. Never seen by a guest.
#[allow(clippy::disallowed_methods, reason = "a guest that spins is stopped in real time")]
pub(super) fn now() -> Instant {
    Instant::now()
}
