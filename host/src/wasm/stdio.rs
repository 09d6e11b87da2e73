//! Modules without any SDK: a WASI command that reads a delivery from its standard input and writes
//! what it wants to its standard output, one JSON object a line. Each delivery is one run.
//! `wit/STDIO.md` is the contract; a change of what stands there is a change of it.

#[cfg(test)]
pub(super) mod fuzz;
mod input;
mod output;

use wasmtime::{InstancePre, Store};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p2::pipe::MemoryInputPipe;
use wasmtime_wasi::{I32Exit, WasiCtxBuilder, WasiView};

use super::bindings::tidegate::plugin::types::{Failure, RetryRequest};
use super::delivery::Request;
use super::invoke::{Entry, Returned};
use super::limits::HANDLES_MAX;
use super::session::Session;
use super::store::StoreData;
use super::wasi::{Sink, World, log_lines};
use output::Said;

/// Bytes of standard output for each byte of `limits.output`: JSON escapes and base64 take room.
const STDOUT_FACTOR: usize = 4;
/// Bytes of standard output beside that: names and braces.
const STDOUT_BYTES_MIN: usize = 64 * 1024;
/// Bytes kept of standard error.
const STDERR_BYTES_MAX: usize = 64 * 1024;
/// The media type of what a program writes as plain JSON.
const JSON: &str = "application/json";

/// What a run is for.
enum Asked<'a> {
    /// To take an event.
    Event,
    /// To carry out a command; the event carries it.
    Command(&'a Request),
    /// To answer a question.
    Question(&'a Request),
}

impl Asked<'_> {
    const fn request(&self) -> Option<(&'static str, &Request)> {
        match self {
            Self::Event => None,
            Self::Command(request) => Some(("command", request)),
            Self::Question(request) => Some(("query", request)),
        }
    }
}

/// The standard streams of one run.
pub(super) struct Stdio {
    preview1: WasiP1Ctx,
    stderr: Sink,
}

impl Stdio {
    /// No input, no output: for a store that runs nothing.
    pub(super) fn closed() -> Self {
        Self { preview1: WasiCtxBuilder::new().build_p1(), stderr: Sink::lossy(0) }
    }

    fn new(session: &Session, input: String, stdout: &Sink) -> Self {
        let world = World::default();
        world.begin(&session.context);
        let stderr = Sink::lossy(STDERR_BYTES_MAX);
        let mut preview1 = (world.builder())
            .arg("plugin")
            .envs(&session.context.limits.env)
            .stdin(MemoryInputPipe::new(input))
            .stdout(stdout.clone())
            .stderr(stderr.clone())
            .build_p1();
        // One call of `poll_oneoff` makes a resource of each of its subscriptions.
        preview1.ctx().table.set_max_capacity(HANDLES_MAX);
        Self { preview1, stderr }
    }

    pub(super) const fn preview1(&mut self) -> &mut WasiP1Ctx {
        &mut self.preview1
    }

    /// Moves standard error to the log of the delivery.
    pub(super) fn printed(&self, session: &mut Session) {
        log_lines(session, &self.stderr.take());
    }
}

/// Runs a command from start to end and takes what it printed into the session.
pub(super) async fn run(
    store: &mut Store<StoreData>,
    pre: &InstancePre<StoreData>,
    entry: &Entry,
) -> wasmtime::Result<Returned> {
    let asked = match entry {
        Entry::Handle => Asked::Event,
        Entry::Execute(request) => Asked::Command(request),
        Entry::Read(request) => Asked::Question(request),
        Entry::Upcast(_) => return Ok(Returned::Broken("a stdio module lifts nothing".to_owned())),
    };
    let session = store.data().session()?;
    let input = match input::input(session, &asked) {
        Ok(input) => input,
        Err(why) => return Ok(Returned::Broken(why)),
    };
    let output_max = session.context.limits.output_bytes_max;
    let stdout = Sink::strict(output_max.saturating_mul(STDOUT_FACTOR) + STDOUT_BYTES_MIN);
    let stdio = Stdio::new(session, input, &stdout);
    store.data_mut().set_stdio(stdio);

    let ended = exit_code(start(store, pre).await);
    let session = store.data_mut().session_mut()?;
    let code = match ended {
        Ok(code) => code,
        Err(error) => {
            output::take_logs(session, &stdout.take());
            return Err(error);
        }
    };
    Ok(match output::take(session, &stdout.take(), asked.request().is_some()) {
        Ok(printed) => returned(printed, code, asked.request()),
        Err(why) => Returned::Broken(why),
    })
}

/// Judges a run that came to its end.
fn returned(
    printed: output::Printed,
    code: i32,
    asked: Option<(&'static str, &Request)>,
) -> Returned {
    match (printed.said, asked) {
        (Said::Retry { reason, after_ms }, _) => {
            Returned::Failed(Failure::Retry(RetryRequest { reason, after_ms }))
        }
        (Said::Reject { reason }, _) => Returned::Failed(Failure::Reject(reason)),
        (Said::Nothing, _) if code != 0 => Returned::Exited(code),
        // A program that knows events alone takes this for one: nothing of it may come to pass.
        (Said::Ok | Said::Nothing, Some((kind, request))) if !printed.answered => {
            let operation = &request.operation;
            let why =
                format!("the {kind} `{operation}` was not answered: no `response` was printed");
            Returned::Failed(Failure::Reject(why))
        }
        (Said::Ok | Said::Nothing, _) => Returned::Done,
    }
}

async fn start(store: &mut Store<StoreData>, pre: &InstancePre<StoreData>) -> wasmtime::Result<()> {
    let instance = pre.instantiate_async(&mut *store).await?;
    let main = instance.get_typed_func::<(), ()>(&mut *store, "_start")?;
    main.call_async(store, ()).await
}

/// The code a command ended with; falling off the end of `main` is 0.
fn exit_code(ended: wasmtime::Result<()>) -> wasmtime::Result<i32> {
    match ended {
        Ok(()) => Ok(0),
        Err(error) => match error.downcast_ref::<I32Exit>() {
            Some(I32Exit(code)) => Ok(*code),
            None => Err(error),
        },
    }
}

fn is_json(content_type: &str) -> bool {
    let media = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media == JSON || media.ends_with("/json") || media.ends_with("+json")
}
