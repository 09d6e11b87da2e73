//! Compiling in a child process, which the system stops where the compiler would not.
//!
//! The child is this executable, run as `EXE compile-child` with an empty environment. It limits
//! itself before it reads the first byte of the module:
//!
//! | what | to |
//! |---|---|
//! | address space (`RLIMIT_AS`), largest file | `compile.memory` |
//! | CPU time | `compile.time`, in whole seconds |
//! | wall time | ten times that |
//! | core file, open files | 0, 16 |
//! | priority | nice 10 |
//! | privileges | none gained by `exec`; killed when its parent dies |
//!
//! stdin is the module; stdout takes the machine code; stderr takes one JSON `Report`. All three
//! come from the parent, so the child opens nothing itself.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, Signal};
use serde::{Deserialize, Serialize};
use wasmtime::Engine;

use super::check;
use super::compile::{CompileError, CompileLimits, Description, generate, prepare};
use super::engine::{code_identity, compile_config};
use super::refusal::Refusal;
use crate::event::Digest;
use crate::limits;

/// The hidden subcommand that `main` hands to [`run_compile_child`].
pub const SUBCOMMAND: &str = "compile-child";
/// Bytes read of what the child reports.
const REPORT_BYTES_MAX: u64 = 1024 * 1024;
/// Files the child may have open: the three it is given, and a few that libraries look at.
const OPEN_FILES_MAX: u64 = 16;
/// How long to wait between looks at a child that has closed its report but still runs.
const EXIT_POLL: Duration = Duration::from_millis(2);

/// What the child says on its standard error.
#[derive(Debug, Serialize, Deserialize)]
struct Report {
    /// What the code was generated for: another executable may stand in the place of this one.
    identity: Digest,
    /// What the module is; none where it was not understood.
    description: Option<Description>,
    /// Why there is no code.
    error: Option<CompileError>,
}

impl Report {
    /// As it is read: no longer than that. Only what the module says of itself takes so much.
    fn to_json(&self) -> std::io::Result<Vec<u8>> {
        let json = serde_json::to_vec(self)?;
        let bytes = u64::try_from(json.len()).unwrap_or(u64::MAX);
        if bytes <= REPORT_BYTES_MAX {
            return Ok(json);
        }
        let why = match &self.error {
            Some(error) => check::cut(&error.to_string(), limits::REASON_BYTES_MAX).to_owned(),
            None => format!(
                "the names of what it imports and exports take {bytes} bytes, at most \
                 {REPORT_BYTES_MAX} are allowed; export less, under shorter names"
            ),
        };
        let error = Some(CompileError::Refused(Refusal::Unsupported { why }));
        Ok(serde_json::to_vec(&Self { identity: self.identity, description: None, error })?)
    }
}

/// What a child found out.
#[derive(Debug)]
pub struct Ended {
    /// What the module is; none where it was not understood, or the child was stopped.
    pub description: Option<Description>,
    /// Why there is no code.
    pub error: Option<ChildError>,
}

impl From<ChildError> for Ended {
    fn from(error: ChildError) -> Self {
        Self { description: None, error: Some(error) }
    }
}

/// Wall time a child may take, in times of its CPU time.
const WALL_FACTOR: u32 = 10;

/// Why a compile in a child gave no code.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// The child says why.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The child was stopped at its limit of wall or CPU time.
    #[error("timed out")]
    TimedOut,
    /// The code outgrew the limit of file size.
    #[error("its code has more than {limit} bytes")]
    CodeTooLarge {
        /// Bytes allowed.
        limit: u64,
    },
    /// The child ended without a word.
    #[error("the compiler ended with {status}: {said}")]
    Crashed {
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote.
        said: String,
    },
    /// The executable is another one than this process runs.
    #[error("the executable was replaced while this host runs; start the host again")]
    OtherExecutable,
    /// The child could not be run.
    #[error("cannot run the compiler: {0}")]
    Io(#[from] std::io::Error),
}

/// Compiles `wasm` in a child; the code is written to `out` from its current place on.
///
/// Blocks, for at most ten times `limits.time` and a little; the child is gone when it returns. The calling
/// thread must not end before: the child is killed with the thread that started it.
#[must_use]
pub fn compile_in_child(
    exe: &Path,
    wasm: &[u8],
    out: &File,
    limits: &CompileLimits,
    identity: Digest,
) -> Ended {
    match run(exe, wasm, out, limits) {
        Ok((status, said)) => judge(status, &said, limits, identity),
        Err(error) => error.into(),
    }
}

/// Runs a child to its end: how it ended, and what it said.
fn run(
    exe: &Path,
    wasm: &[u8],
    out: &File,
    limits: &CompileLimits,
) -> Result<(ExitStatus, Vec<u8>), ChildError> {
    // At low priority on a busy machine, much time passes while the child does nothing.
    let deadline = Instant::now() + limits.time.saturating_mul(WALL_FACTOR);
    let mut child = Command::new(exe)
        .arg(SUBCOMMAND)
        .arg(limits.memory_bytes.to_string())
        .arg(cpu_seconds(limits.time).to_string())
        .arg(limits.module_bytes_max.to_string())
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(out.try_clone()?)
        .stderr(Stdio::piped())
        .spawn()?;
    let input = child.stdin.take();
    std::thread::scope(|scope| {
        // The child may stop reading at any time, and be killed: the write fails then, and ends.
        scope.spawn(move || input.map(|mut input| input.write_all(wasm)));
        let ended = wait(&mut child, deadline);
        if ended.is_err() {
            // Gone already or killed now: either way it must not stay as a zombie.
            let _ = child.kill();
            let _ = child.wait();
        }
        ended
    })
}

/// Waits for the report and the end of the child.
fn wait(child: &mut Child, deadline: Instant) -> Result<(ExitStatus, Vec<u8>), ChildError> {
    let pipe = child.stderr.take().ok_or_else(|| std::io::Error::other("no pipe to the child"))?;
    let (sender, receiver) = sync_channel(1);
    // A read of a pipe has no timeout; this thread ends with the pipe, so with the child.
    std::thread::Builder::new().name("compile-report".to_owned()).spawn(move || {
        let mut said = Vec::new();
        let read = pipe.take(REPORT_BYTES_MAX).read_to_end(&mut said).map(|_| said);
        // The receiver is gone only where the deadline has passed: nobody waits for this.
        let _ = sender.send(read);
    })?;
    let said = match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(said) => said?,
        Err(RecvTimeoutError::Timeout) => return Err(ChildError::TimedOut),
        Err(RecvTimeoutError::Disconnected) => {
            return Err(std::io::Error::other("the reader of the report ended").into());
        }
    };
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((status, said));
        }
        if Instant::now() >= deadline {
            return Err(ChildError::TimedOut);
        }
        std::thread::sleep(EXIT_POLL);
    }
}

/// What the end of the child and its report mean.
fn judge(status: ExitStatus, said: &[u8], limits: &CompileLimits, identity: Digest) -> Ended {
    if status.signal() == Some(Signal::XCPU.as_raw()) {
        return ChildError::TimedOut.into();
    }
    if status.signal() == Some(Signal::XFSZ.as_raw()) {
        return ChildError::CodeTooLarge { limit: limits.memory_bytes }.into();
    }
    if let Ok(report) = serde_json::from_slice::<Report>(said)
        && status.success()
    {
        // A refusal is about the module, whichever executable found it.
        let other = report.error.is_none() && report.identity != identity;
        let error = report.error.map(ChildError::Compile);
        let error = error.or_else(|| other.then_some(ChildError::OtherExecutable));
        return Ended { description: report.description, error };
    }
    if status.success() {
        let nothing = "it reported nothing; is it this host's executable?";
        return ChildError::Io(std::io::Error::other(nothing)).into();
    }
    let said = String::from_utf8_lossy(said);
    if is_out_of_memory(&said) {
        return ChildError::Compile(CompileError::OutOfMemory).into();
    }
    let end: Vec<&str> = said.lines().filter(|line| !line.is_empty()).rev().take(3).collect();
    let said = end.into_iter().rev().collect::<Vec<_>>().join(" / ");
    ChildError::Crashed { status, said }.into()
}

/// Whether the last words of a child were about memory. Text, because a failed allocation has no
/// type: the standard library aborts with the first sentence, Cranelift's collections panic with
/// the second. Only the words for the author depend on it: the module is not loaded either way.
fn is_out_of_memory(said: &str) -> bool {
    said.contains("memory allocation of") || said.contains("out of memory")
}

fn cpu_seconds(time: Duration) -> u64 {
    time.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX).max(1)
}

/// What `tidegate compile-child MEMORY-BYTES CPU-SECONDS MODULE-BYTES` runs. Call it before
/// anything else in `main`: it must be the only thread.
///
/// Exits with 0 once a report is written, whatever it says; with 1 where it cannot be.
#[must_use]
pub fn run_compile_child() -> ExitCode {
    static SAID: Mutex<String> = Mutex::new(String::new());
    std::panic::set_hook(Box::new(|panic| {
        if let Ok(mut said) = SAID.lock() {
            *said = panic.to_string().replace('\n', " ");
        }
    }));
    let (description, error) = std::panic::catch_unwind(child).unwrap_or_else(|_| {
        let said = SAID.lock().map(|said| said.clone()).unwrap_or_default();
        let memory = is_out_of_memory(&said);
        (
            None,
            Some(if memory { CompileError::OutOfMemory } else { CompileError::Panicked { said } }),
        )
    });
    let identity = Engine::new(&compile_config()).map(|engine| code_identity(&engine));
    let Ok(identity) = identity else { return ExitCode::FAILURE };
    let report = Report { identity, description, error };
    let written = report.to_json().and_then(|report| std::io::stderr().write_all(&report));
    if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn child() -> (Option<Description>, Option<CompileError>) {
    let mut description = None;
    let error = compile_stdin(&mut description).err();
    (description, error)
}

fn compile_stdin(description: &mut Option<Description>) -> Result<(), CompileError> {
    let mut args = std::env::args().skip(2).map(|arg| arg.parse::<u64>().ok());
    let mut next = || {
        args.next().flatten().ok_or_else(|| {
            child_error("this subcommand is run by the host itself, with three numbers")
        })
    };
    let (memory_bytes, seconds, module_bytes_max) = (next()?, next()?, next()?);
    limit_self(memory_bytes, seconds)
        .map_err(|error| child_error(&format!("cannot limit itself: {error}")))?;
    let mut wasm = Vec::new();
    std::io::stdin()
        .take(module_bytes_max.saturating_add(1))
        .read_to_end(&mut wasm)
        .map_err(|error| child_error(&format!("cannot read the module: {error}")))?;
    let engine = Engine::new(&compile_config())
        .map_err(|error| child_error(&format!("cannot make an engine: {error:#}")))?;
    let prepared = prepare(&engine, &wasm, module_bytes_max)?;
    *description = Some(prepared.description());
    let code = generate(&engine, &prepared)?;
    let mut out = std::io::stdout().lock();
    out.write_all(&code)
        .and_then(|()| out.flush())
        .map_err(|error| child_error(&format!("cannot write the code: {error}")))
}

fn child_error(why: &str) -> CompileError {
    CompileError::Child { why: why.to_owned() }
}

/// Gives up everything a compiler does not need. Fails closed: without a limit there is no compile.
fn limit_self(memory_bytes: u64, cpu_seconds: u64) -> rustix::io::Result<()> {
    let limit = |resource, maximum: u64| {
        let rlimit = Rlimit { current: Some(maximum), maximum: Some(maximum) };
        rustix::process::setrlimit(resource, rlimit)
    };
    #[cfg(target_os = "linux")]
    {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        rustix::thread::set_no_new_privs(true)?;
    }
    limit(Resource::Core, 0)?;
    limit(Resource::As, memory_bytes)?;
    limit(Resource::Fsize, memory_bytes)?;
    limit(Resource::Nofile, OPEN_FILES_MAX)?;
    // The signal at the soft limit says "timed out"; the hard limit, a second later, says it to
    // code that would ignore the signal.
    let cpu = Rlimit { current: Some(cpu_seconds), maximum: Some(cpu_seconds.saturating_add(1)) };
    rustix::process::setrlimit(Resource::Cpu, cpu)?;
    rustix::process::nice(10).map(drop)
}
