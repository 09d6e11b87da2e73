//! Modules without any SDK: a WASI command that reads a delivery from its standard input and writes
//! what it wants to its standard output, one JSON object a line. Each delivery is one run.

mod protocol;

use wasmtime::{InstancePre, Store};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p2::pipe::MemoryInputPipe;

use super::bindings::tidegate::plugin::types::{Failure, RetryRequest};
use super::invoke::Returned;
use super::session::Session;
use super::store::StoreData;
use super::verdict;
use super::wasi::{Sink, World, log_lines};
use protocol::Said;

/// Bytes of standard output for each byte of `limits.output`: JSON escapes and base64 take room.
const STDOUT_FACTOR: usize = 4;
/// Bytes of standard output beside that: names and braces.
const STDOUT_BYTES_MIN: usize = 64 * 1024;
/// Bytes kept of standard error.
const STDERR_BYTES_MAX: usize = 64 * 1024;

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
        let preview1 = (world.builder())
            .arg("plugin")
            .envs(&session.context.limits.env)
            .stdin(MemoryInputPipe::new(input))
            .stdout(stdout.clone())
            .stderr(stderr.clone())
            .build_p1();
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
) -> wasmtime::Result<Returned> {
    let session = store.data().session()?;
    let input = match protocol::input(session) {
        Ok(input) => input,
        Err(why) => return Ok(Returned::Broken(why)),
    };
    let output_max = session.context.limits.output_bytes_max;
    let stdout = Sink::strict(output_max.saturating_mul(STDOUT_FACTOR) + STDOUT_BYTES_MIN);
    let stdio = Stdio::new(session, input, &stdout);
    store.data_mut().set_stdio(stdio);

    let code = exit_code(start(store, pre).await)?;
    let said = protocol::take(store.data_mut().session_mut()?, &stdout.take());
    Ok(match said {
        Err(why) => Returned::Broken(why),
        Ok(Said::Ok) => Returned::Done,
        Ok(Said::Nothing) if code == 0 => Returned::Done,
        Ok(Said::Nothing) => Returned::Broken(verdict::exited(code)),
        Ok(Said::Retry { reason, after_ms }) => {
            Returned::Failed(Failure::Retry(RetryRequest { reason, after_ms }))
        }
        Ok(Said::Reject { reason }) => Returned::Failed(Failure::Reject(reason)),
    })
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
