//! `tidegate test`: deliveries of an author's own events, offline.
//!
//! The module runs in the real sandbox under the limits of its manifest; state and timers are kept in
//! memory from one delivery to the next and forgotten at the end. Emitted events are shown, not
//! delivered; calls are shown, not sent.

mod case;
mod cases;
mod deliver;
mod expect;
mod given;
mod memory;
mod print;
mod project;
mod watch;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};

use super::Output;
use super::check::{Files, read_module};
use super::client::{Client, ConnectArgs};
use super::out::note;
use super::requests::BodyArgs;
use crate::api::view::DeliveryView;
use crate::plugin::Manifest;
use crate::wasm::compile::CompileLimits;
use crate::wasm::engine::HostEngineOptions;
use crate::wasm::load::{Compiler, LoaderOptions};
use crate::wasm::{Module, Sandbox, SandboxOptions};
use cases::Tally;
use project::{Project, Ready};

/// How long to load a module before saying that it is being compiled.
const QUIET_MAX: Duration = Duration::from_secs(1);

/// Tests a plugin offline: the tests in its folder, or events, a command or a query given here
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = "\
A plugin's tests are files `tests/*.toml` in its folder, described in guest-sdk/TESTS.md. Given events, a
command or a query, each delivery is printed: outcome, time, fuel, memory, effects, log.

Exit codes: 0 everything is as expected, or ended `ok`; 1 something is not, or the module was not \
built or is refused; 2 the command line makes no sense.")]
pub struct TestArgs {
    /// The folder of a plugin, built first where its sources are newer; a folder of plugins; or a
    /// module (a manifest beside it, `NAME.toml` or `plugin.toml`, is used)
    #[arg(default_value = ".")]
    pub path: PathBuf,
    /// A file with one event, a CloudEvent in JSON; or `dead-letter:ID`: a delivery that the host at
    /// `--url` gave up, with its attempt and the state it saw
    #[arg(long, value_name = "FILE|dead-letter:ID", conflicts_with = "events")]
    pub event: Option<PathBuf>,
    /// A file with a sequence of events: one CloudEvent a line; state is kept between them, and
    /// timers fire as the events' times pass them
    #[arg(long, value_name = "FILE")]
    pub events: Option<PathBuf>,
    /// A command to carry out, after the events
    #[arg(long, value_name = "NAME", requires = "key")]
    pub command: Option<String>,
    /// A question to ask, after the events and the command
    #[arg(long, value_name = "PATH")]
    pub query: Option<String>,
    /// The key of the command or the question
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    #[command(flatten)]
    pub(super) body: BodyArgs,
    /// Builds and runs again whenever something changes
    #[arg(long)]
    pub watch: bool,
}

/// Tests and prints: exit code 1 where something is not as expected, or a delivery does not end `ok`.
///
/// # Errors
/// A file cannot be read, the module is refused, or the output cannot be written. With `--watch`
/// these are printed, and the next change waited for.
pub fn run(args: &TestArgs, connect: &ConnectArgs, output: Output) -> anyhow::Result<ExitCode> {
    args.check()?;
    let exe = std::env::current_exe().context("cannot find this executable to compile with")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = CodeFolder::for_modules_in(&args.path)?;
    let sandbox = sandbox(code.path(), Compiler::Child(exe))?;
    // Asked for once: with `--watch`, modules change and the delivery stays.
    let dead = args.dead_letter().map(|id| fetch(connect, id)).transpose()?;
    let mut out = std::io::stdout().lock();
    loop {
        let seen = watch::look(args);
        let tested = runtime.block_on(test(args, dead.as_ref(), output, &sandbox, &mut out));
        if !args.watch {
            return tested;
        }
        if let Err(error) = tested {
            note(format_args!("error: {error:#}"));
        }
        note("waiting for a change; Ctrl-C ends");
        watch::until_changed(args, &seen);
    }
}

impl TestArgs {
    fn dead_letter(&self) -> Option<&str> {
        self.event.as_ref()?.to_str()?.strip_prefix("dead-letter:")
    }

    /// Whether it says itself what is delivered; else the tests of the folder are run.
    fn says_what(&self) -> bool {
        self.event.is_some()
            || self.events.is_some()
            || self.command.is_some()
            || self.query.is_some()
    }
}

/// Asks a host for what a delivery that it gave up saw.
fn fetch(connect: &ConnectArgs, id: &str) -> anyhow::Result<DeliveryView> {
    Ok(Client::new(connect)?.get(&["v1", "dead-letters", id, "delivery"], &[])?)
}

/// Where compiled code is kept from one run to the next.
enum CodeFolder {
    Kept(PathBuf),
    /// The usual place cannot be used.
    Passing(tempfile::TempDir),
}

impl CodeFolder {
    fn for_modules_in(path: &Path) -> anyhow::Result<Self> {
        let folder = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
        let kept = folder.canonicalize().ok().and_then(|dir| crate::build::code_folder(&dir));
        match kept {
            Some(kept) => Ok(Self::Kept(kept)),
            None => Ok(Self::Passing(
                tempfile::tempdir().context("cannot make a folder for compiled code")?,
            )),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Passing(folder) => folder.path(),
        }
    }
}

/// A sandbox for one module at a time.
///
/// # Errors
/// The machine does not allow it.
fn sandbox(code: &Path, compiler: Compiler) -> anyhow::Result<Arc<Sandbox>> {
    let engine = HostEngineOptions { workers: 1, plugins_max: 1, ..Default::default() };
    let loader = LoaderOptions::new(code.to_owned(), compiler);
    Ok(Sandbox::new(SandboxOptions { loader, engine })?)
}

/// One run over all there is to test.
async fn test(
    args: &TestArgs,
    dead: Option<&DeliveryView>,
    output: Output,
    sandbox: &Arc<Sandbox>,
    out: &mut dyn Write,
) -> anyhow::Result<ExitCode> {
    if args.says_what() {
        let project = args.project()?;
        if let Ready::Skipped(why) = project.build()? {
            bail!("{}: {why}", project.name);
        }
        let (module, manifest) = load(&project, dead, sandbox).await?;
        let failed = given::run_given(args, dead, (&module, &manifest), output, out).await?;
        return Ok(code_of(failed));
    }
    if args.path.is_file() {
        bail!(
            "`{}` is a module: name an event (`--event FILE`), or the plugin's folder, whose tests \
             are run then",
            args.path.display()
        );
    }
    test_folder(args, output, sandbox, out).await
}

/// Runs the tests of the plugins in a folder.
async fn test_folder(
    args: &TestArgs,
    output: Output,
    sandbox: &Arc<Sandbox>,
    out: &mut dyn Write,
) -> anyhow::Result<ExitCode> {
    let mut all = Tally::default();
    for project in Project::in_folder(&args.path)? {
        if project.cases().is_empty() {
            continue;
        }
        let ready = match project.build() {
            Ok(ready) => load_ready(&project, ready, sandbox).await,
            Err(error) => Err(error),
        };
        let tally = match ready {
            Ok(Ok((module, manifest))) => {
                if output == Output::Text {
                    writeln!(out, "{}", project.name)?;
                }
                cases::run_cases(&project, &module, &manifest, output, out).await?
            }
            Ok(Err(skipped)) => {
                print::skipped(&project.name, &skipped, output, out)?;
                continue;
            }
            Err(error) => {
                print::not_tested(&project.name, &format!("{error:#}"), output, out)?;
                Tally { tests: 1, failed: 1 }
            }
        };
        all.tests += tally.tests;
        all.failed += tally.failed;
    }
    if all.tests == 0 {
        bail!(
            "`{}` has no tests that can be run: put a file into the plugin's folder `tests`, or name \
             an event (`--event FILE`)",
            args.path.display()
        );
    }
    print::tally(all, output, out)?;
    Ok(code_of(all.failed))
}

/// A plugin's module and manifest, or why it is left out.
async fn load_ready(
    project: &Project,
    ready: Ready,
    sandbox: &Arc<Sandbox>,
) -> anyhow::Result<Result<(Arc<Module>, Manifest), String>> {
    match ready {
        Ready::Skipped(why) => Ok(Err(why)),
        Ready::Built => Ok(Ok(load(project, None, sandbox).await?)),
    }
}

/// Loads a module with the manifest that holds for it.
async fn load(
    project: &Project,
    dead: Option<&DeliveryView>,
    sandbox: &Arc<Sandbox>,
) -> anyhow::Result<(Arc<Module>, Manifest)> {
    let wasm = read_module(&project.files.module, CompileLimits::default().module_bytes_max)?;
    let manifest = manifest(&project.files, dead)?;
    let bytes = wasm.len();
    let mut loading = std::pin::pin!(sandbox.load(&project.name, wasm.into()));
    let loaded = match tokio::time::timeout(QUIET_MAX, &mut loading).await {
        Ok(loaded) => loaded,
        Err(_) => {
            let (name, kilobytes) = (project.files.module.display(), bytes.div_ceil(1000));
            note(format_args!("compiling {name}, {kilobytes} KB; once, for its code is kept"));
            loading.await
        }
    };
    let module = loaded
        .with_context(|| format!("module `{}` is refused", project.files.module.display()))?;
    Ok((module, manifest))
}

fn code_of(failed: u64) -> ExitCode {
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The manifest of a plugin, else that of a dead letter's plugin, else the defaults.
fn manifest(files: &Files, dead: Option<&DeliveryView>) -> anyhow::Result<Manifest> {
    if let Some(manifest) = files.read_manifest()? {
        return Ok(manifest);
    }
    let served = dead.and_then(|dead| dead.manifest.as_deref());
    let served = served.map(|text| Manifest::parse("of the host", text)).transpose()?;
    Ok(served.unwrap_or_default())
}

fn read_file(path: &Path, bytes_max: u64) -> anyhow::Result<Vec<u8>> {
    let named = || format!("cannot read `{}`", path.display());
    let bytes = std::fs::metadata(path).with_context(named)?.len();
    if bytes > bytes_max {
        bail!("`{}` has {bytes} bytes, at most {bytes_max} are read", path.display());
    }
    std::fs::read(path).with_context(named)
}

#[cfg(test)]
mod tests;
