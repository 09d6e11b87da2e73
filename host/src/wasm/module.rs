//! A module ready to run: linked, its exports probed, its identity known.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use wasmtime::Engine;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{ComponentNamedList, InstancePre, Lift, Lower, Resource};

use super::bindings::direct::exports::tidegate::plugin::handler as direct_handler;
use super::bindings::exports::tidegate::plugin::{command, handler, query, upcaster};
use super::bindings::tidegate::plugin::types::{Event, Failure, Request as GuestRequest, Response};
use super::context::{Access, Context};
use super::delivery::{Delivery, Invocation, Invoker, Question, Request, Upcast};
use super::drafts::messaging::exports::wasi::messaging::incoming_handler;
use super::drafts::messaging::wasi::messaging::types as messaging_types;
use super::invoke::{Entry, Slot, invoke, invoke_through};
use super::load::{Code, Loaded};
use super::messaging::Message;
use super::recognise::ModuleKind;
use super::refusal::Refusal;
use super::sandbox::Linkers;
use super::shape::{INCOMING_HANDLER, Verdict, verdict};
use super::store::StoreData;
use crate::command::is_command;
use crate::event::Digest;

/// Which of the interfaces of `tidegate:plugin` a module exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Exports {
    /// `handler`: takes events.
    pub handler: bool,
    /// `command`: takes commands.
    pub command: bool,
    /// `query`: answers questions.
    pub query: bool,
    /// `upcaster`: lifts old events.
    pub upcaster: bool,
}

/// An import that only some plugins get.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("imports `{import}`, which needs `{grant}`: {why}")]
pub struct Needed {
    /// As the module names it.
    pub import: String,
    /// The manifest key.
    pub grant: &'static str,
    /// What to do.
    pub why: String,
}

impl Exports {
    /// Of a stdio module: whether it answers what it is asked shows when it is.
    pub(super) const STDIO: Self =
        Self { handler: true, command: true, query: true, upcaster: false };
}

/// A loaded module. Instances of it live in the [`Slot`]s of workers.
pub struct Module {
    /// Digest of the file as it was dropped.
    pub digest: Digest,
    /// What the file was.
    pub kind: ModuleKind,
    /// What can be called.
    pub exports: Exports,
    /// Interfaces of a component, `module.name` of a stdio module; ascending.
    pub imports: Vec<String>,
    /// Bytes of the file.
    pub size_bytes: usize,
    /// Time it took to compile; zero where the code came from the cache.
    pub compile: Duration,
    /// Whether the code came from the cache.
    pub from_cache: bool,
    engine: Engine,
    linked: Linked,
    serial: u64,
}

/// Code with its imports resolved.
pub(super) enum Linked {
    /// Of a component.
    Component {
        /// To be instantiated once for each worker.
        pre: Box<InstancePre<StoreData>>,
        /// Where its exports are.
        probed: Box<Probed>,
    },
    /// Of a WASI command, to be instantiated for each delivery.
    Stdio(Box<wasmtime::InstancePre<StoreData>>),
}

/// Where the exports of a component are.
#[derive(Default)]
pub(super) struct Probed {
    pub(super) handler: Option<handler::GuestIndices>,
    /// The same, where nothing that the module imports ever waits.
    pub(super) direct: Option<direct_handler::GuestIndices>,
    /// Of `wasi:messaging`: called where there is no `handler`.
    pub(super) messaging: Option<incoming_handler::GuestIndices>,
    pub(super) command: Option<command::GuestIndices>,
    pub(super) query: Option<query::GuestIndices>,
    pub(super) upcaster: Option<upcaster::GuestIndices>,
}

impl Module {
    /// Links loaded code and checks the types of everything it imports and exports, before any of
    /// it runs.
    pub(super) fn link(linkers: &Linkers, loaded: Loaded) -> Result<Self, Refusal> {
        let (linked, exports) = match &loaded.code {
            Code::Component(component) => {
                let pre =
                    linkers.component.instantiate_pre(component).map_err(|error| misfit(&error))?;
                let probed = Probed::probe(&pre, &loaded.imports)?;
                let exports = probed.exports();
                (Linked::Component { pre: Box::new(pre), probed: Box::new(probed) }, exports)
            }
            Code::Stdio(module) => {
                let pre = linkers.stdio.instantiate_pre(module).map_err(|error| misfit(&error))?;
                (Linked::Stdio(Box::new(pre)), Exports::STDIO)
            }
        };
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        Ok(Self {
            digest: loaded.digest,
            kind: loaded.kind,
            exports,
            imports: loaded.imports,
            size_bytes: loaded.size_bytes,
            compile: loaded.compile,
            from_cache: loaded.from_cache,
            engine: linkers.component.engine().clone(),
            linked,
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
        })
    }

    /// The imports that take a grant of the plugin it serves as, one for each grant. Who puts it to
    /// work checks them.
    pub fn needed(&self) -> impl Iterator<Item = Needed> {
        let mut last = None;
        self.imports.iter().filter_map(move |import| {
            let Verdict::NeedsGrant { grant, why } = verdict(self.kind, import) else {
                return None;
            };
            (last.replace(grant) != Some(grant)).then(|| Needed {
                import: import.clone(),
                grant,
                why,
            })
        })
    }

    /// Hands one event to the handler. See [`Invoker::invoke`].
    pub async fn handle(&self, slot: &mut Slot, delivery: Delivery<'_>) -> Box<Invocation> {
        let delivery = match invoke_through(self, slot, delivery) {
            Ok(invocation) => return invocation,
            Err(delivery) => delivery,
        };
        let context = Context::of_delivery(delivery, Access::Write);
        invoke(self, slot, context, Entry::Handle).await.0
    }

    /// Runs a command; `delivery` holds the private event that carries it. The answer is in the
    /// effects. Cancel safe as [`Invoker::invoke`] is.
    pub async fn execute(
        &self,
        slot: &mut Slot,
        delivery: Delivery<'_>,
        request: Request,
    ) -> Box<Invocation> {
        let context = Context::of_delivery(delivery, Access::Write);
        invoke(self, slot, context, Entry::Execute(request)).await.0
    }

    /// Asks a question: every effect is refused, the answer is in the effects. Cancel safe as
    /// [`Invoker::invoke`] is.
    pub async fn read(&self, slot: &mut Slot, question: Question) -> Box<Invocation> {
        let request = question.request.clone();
        let context = Context::of_question(question);
        invoke(self, slot, context, Entry::Read(request)).await.0
    }

    async fn lift(&self, slot: &mut Slot, delivery: Delivery<'_>, version: u32) -> Upcast {
        let context = Context::of_delivery(delivery, Access::Read);
        let (invocation, lifted) = invoke(self, slot, context, Entry::Upcast(version)).await;
        Upcast { invocation, lifted }
    }

    pub(super) const fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(super) const fn linked(&self) -> &Linked {
        &self.linked
    }

    /// Tells this module from every other one loaded by this process, the same bytes included.
    pub(super) const fn serial(&self) -> u64 {
        self.serial
    }

    /// Whether an instance can serve again: a command ends with its `main`.
    pub(super) const fn keeps_instances(&self) -> bool {
        matches!(self.linked, Linked::Component { .. })
    }
}

impl Invoker for Module {
    fn invoke<'a>(
        &'a self,
        slot: &'a mut Slot,
        delivery: Delivery<'a>,
    ) -> BoxFuture<'a, Box<Invocation>> {
        match delivery.command() {
            Some(request) => Box::pin(self.execute(slot, delivery, request)),
            None => Box::pin(self.handle(slot, delivery)),
        }
    }

    fn invoke_through<'a>(
        &self,
        slot: &mut Slot,
        delivery: Delivery<'a>,
    ) -> Result<Box<Invocation>, Delivery<'a>> {
        match is_command(delivery.event) {
            true => Err(delivery),
            false => invoke_through(self, slot, delivery),
        }
    }

    fn asks_outside(&self) -> bool {
        self.imports.iter().any(|import| import.starts_with("wasi:http/outgoing-handler"))
    }

    fn upcast<'a>(
        &'a self,
        slot: &'a mut Slot,
        delivery: Delivery<'a>,
        version: u32,
    ) -> BoxFuture<'a, Upcast> {
        Box::pin(self.lift(slot, delivery, version))
    }
}

impl std::fmt::Debug for Module {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Module")
            .field("digest", &self.digest)
            .field("kind", &self.kind)
            .field("exports", &self.exports)
            .finish_non_exhaustive()
    }
}

impl Probed {
    /// Finds the exports that are there; one that is there with another type is refused.
    fn probe(pre: &InstancePre<StoreData>, imports: &[String]) -> Result<Self, Refusal> {
        let mut probed = Self::default();
        if typed::<(Event<'_>,), (Result<(), Failure>,)>(pre, &own("handler"), "handle")? {
            probed.handler = Some(handler::GuestIndices::new(pre).map_err(|error| misfit(&error))?);
            if imports.iter().all(|import| import.starts_with("tidegate:plugin/")) {
                let found = direct_handler::GuestIndices::new(pre);
                probed.direct = Some(found.map_err(|error| misfit(&error))?);
            }
        }
        type Handled = (Result<(), messaging_types::Error>,);
        if typed::<(Resource<Message>,), Handled>(pre, INCOMING_HANDLER, "handle")? {
            let found = incoming_handler::GuestIndices::new(pre);
            probed.messaging = Some(found.map_err(|error| misfit(&error))?);
        }
        type Answered = (Result<Response, Failure>,);
        if typed::<(GuestRequest<'_>,), Answered>(pre, &own("command"), "execute")? {
            probed.command = Some(command::GuestIndices::new(pre).map_err(|error| misfit(&error))?);
        }
        if typed::<(GuestRequest<'_>,), Answered>(pre, &own("query"), "read")? {
            probed.query = Some(query::GuestIndices::new(pre).map_err(|error| misfit(&error))?);
        }
        type Upcasted = (Result<upcaster::Lifted, String>,);
        if typed::<(Event<'_>, u32), Upcasted>(pre, &own("upcaster"), "upcast")? {
            probed.upcaster =
                Some(upcaster::GuestIndices::new(pre).map_err(|error| misfit(&error))?);
        }
        Ok(probed)
    }

    const fn exports(&self) -> Exports {
        Exports {
            handler: self.handler.is_some() || self.messaging.is_some(),
            command: self.command.is_some(),
            query: self.query.is_some(),
            upcaster: self.upcaster.is_some(),
        }
    }
}

fn own(interface: &str) -> String {
    format!("tidegate:plugin/{interface}@0.1.0")
}

/// Whether a component exports a function of an interface; an error where it has another type.
fn typed<Params, Return>(
    pre: &InstancePre<StoreData>,
    name: &str,
    function: &str,
) -> Result<bool, Refusal>
where
    Params: ComponentNamedList + Lower,
    Return: ComponentNamedList + Lift,
{
    let component = pre.component();
    let Some(index) = component.get_export_index(None, name) else { return Ok(false) };
    match component.get_export(Some(&index), function) {
        Some((ComponentItem::ComponentFunc(found), _)) => {
            found.typecheck::<Params, Return>(&pre.instance_type()).map_err(|error| {
                Refusal::Encoding { why: format!("`{name}` `{function}`: {error:#}") }
            })?;
            Ok(true)
        }
        _ => Err(Refusal::Encoding { why: format!("`{name}` has no function `{function}`") }),
    }
}

fn misfit(error: &wasmtime::Error) -> Refusal {
    Refusal::Encoding { why: format!("{error:#}") }
}
