//! `tidegate test MODULE --event F`: deliveries of an author's own events, offline.
//!
//! The module runs in the real sandbox under the limits of its manifest; state is kept in memory
//! from one event to the next and forgotten at the end. Emitted events are shown, not delivered.

mod deliver;
mod print;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};

use super::Output;
use super::check::{manifest_path, read_module};
use super::client::{Client, ConnectArgs};
use crate::api::cloudevents;
use crate::api::view::DeliveryView;
use crate::event::NewEvent;
use crate::plugin::Manifest;
use crate::wasm::compile::CompileLimits;
use crate::wasm::engine::HostEngineOptions;
use crate::wasm::load::{Compiler, LoaderOptions};
use crate::wasm::{Sandbox, SandboxOptions};
use deliver::Bench;

/// Bytes of a file of events.
const EVENTS_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Bytes of a manifest.
const MANIFEST_BYTES_MAX: u64 = 1024 * 1024;
/// How often `--watch` looks at the files.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);

/// Delivers events to a module, offline: outcome, effects, fuel, time and logs of each.
#[derive(Debug, Clone, clap::Args)]
pub struct TestArgs {
    /// The module; a manifest beside it (`NAME.toml` or `plugin.toml`) is used
    pub module: PathBuf,
    /// A file with one event, a CloudEvent in JSON; or `dead-letter:ID`: a delivery that the host at
    /// `--url` gave up, with its attempt and the state it saw
    #[arg(
        long,
        value_name = "FILE|dead-letter:ID",
        required_unless_present = "events",
        conflicts_with = "events"
    )]
    pub event: Option<PathBuf>,
    /// A file with a sequence of events: one CloudEvent a line; state is kept between them
    #[arg(long, value_name = "FILE")]
    pub events: Option<PathBuf>,
    /// Runs again whenever the module, its manifest or the events change
    #[arg(long)]
    pub watch: bool,
}

/// Runs the deliveries and prints each: exit code 1 where one does not end `ok`.
///
/// # Errors
/// A file cannot be read, the module is refused, or the output cannot be written. With `--watch`
/// these are printed, and the next change waited for.
pub fn run(args: &TestArgs, connect: &ConnectArgs, output: Output) -> anyhow::Result<ExitCode> {
    let exe = std::env::current_exe().context("cannot find this executable to compile with")?;
    let cache = tempfile::tempdir().context("cannot make a folder for compiled code")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let sandbox = sandbox(cache.path(), Compiler::Child(exe))?;
    // Asked for once: with `--watch`, modules change and the delivery stays.
    let dead = args.dead_letter().map(|id| fetch(connect, id)).transpose()?;
    let mut out = std::io::stdout().lock();
    loop {
        let seen = stamps(args);
        let tested = runtime.block_on(test(args, dead.as_ref(), output, &sandbox, &mut out));
        if !args.watch {
            return tested;
        }
        if let Err(error) = tested {
            writeln!(std::io::stderr(), "error: {error:#}")?;
        }
        while stamps(args) == seen {
            std::thread::sleep(WATCH_INTERVAL);
        }
    }
}

impl TestArgs {
    fn dead_letter(&self) -> Option<&str> {
        self.event.as_ref()?.to_str()?.strip_prefix("dead-letter:")
    }
}

/// Asks a host for what a delivery that it gave up saw.
fn fetch(connect: &ConnectArgs, id: &str) -> anyhow::Result<DeliveryView> {
    Ok(Client::new(connect)?.get(&["v1", "dead-letters", id, "delivery"], &[])?)
}

/// A sandbox for one module at a time.
///
/// # Errors
/// The machine does not allow it.
fn sandbox(cache: &Path, compiler: Compiler) -> anyhow::Result<Arc<Sandbox>> {
    let engine = HostEngineOptions { workers: 1, plugins_max: 1, ..Default::default() };
    let loader = LoaderOptions::new(cache.join("code"), compiler);
    Ok(Sandbox::new(SandboxOptions { loader, engine })?)
}

/// One run over all events.
async fn test(
    args: &TestArgs,
    dead: Option<&DeliveryView>,
    output: Output,
    sandbox: &Arc<Sandbox>,
    out: &mut dyn Write,
) -> anyhow::Result<ExitCode> {
    let limits = CompileLimits::default();
    let wasm = read_module(&args.module, limits.module_bytes_max)?;
    let manifest = manifest(&args.module, dead)?;
    let events = events(args)?;
    let module = sandbox
        .load(wasm.into())
        .await
        .with_context(|| format!("module `{}` is refused", args.module.display()))?;
    if !module.exports.handler && !module.exports.upcaster {
        let module = args.module.display();
        bail!("module `{module}` exports neither `handler` nor `upcaster`: it takes no events");
    }
    let mut bench = Bench::new(module, &manifest);
    let mut failed = 0_u64;
    let mut given = events.into_iter();
    let mut dead = dead;
    loop {
        let delivered = match (dead.take(), given.next()) {
            (Some(dead), _) => bench.redeliver(dead).await?,
            (None, Some(event)) => bench.deliver(event).await,
            (None, None) => break,
        };
        failed += u64::from(!delivered.is_ok());
        match output {
            Output::Text => print::text(&delivered, out)?,
            Output::Json => print::json(&delivered, out)?,
        }
        out.flush()?;
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The manifest beside a module, else that of a dead letter's plugin, else the defaults.
fn manifest(module: &Path, dead: Option<&DeliveryView>) -> anyhow::Result<Manifest> {
    let Some(path) = manifest_path(module) else {
        let served = dead.and_then(|dead| dead.manifest.as_deref());
        let served = served.map(|text| Manifest::parse("of the host", text)).transpose()?;
        return Ok(served.unwrap_or_default());
    };
    let text = String::from_utf8(read_file(&path, MANIFEST_BYTES_MAX)?)
        .with_context(|| format!("manifest `{}` is not UTF-8", path.display()))?;
    Ok(Manifest::parse(&path.display().to_string(), &text)?)
}

/// The events to deliver, checked as they are at ingest.
fn events(args: &TestArgs) -> anyhow::Result<Vec<NewEvent>> {
    if args.dead_letter().is_some() {
        return Ok(Vec::new());
    }
    if let Some(path) = &args.event {
        let text = read_file(path, EVENTS_BYTES_MAX)?;
        let publish = cloudevents::read_line(&text)
            .with_context(|| format!("event file `{}`", path.display()))?;
        return Ok(vec![publish.event]);
    }
    let Some(path) = &args.events else { return Ok(Vec::new()) };
    let text = read_file(path, EVENTS_BYTES_MAX)?;
    let lines = text.split(|byte| *byte == b'\n').enumerate();
    lines
        .filter(|(_, line)| !line.trim_ascii().is_empty())
        .map(|(n, line)| {
            let publish = cloudevents::read_line(line)
                .with_context(|| format!("event file `{}`, line {}", path.display(), n + 1))?;
            Ok(publish.event)
        })
        .collect()
}

fn read_file(path: &Path, bytes_max: u64) -> anyhow::Result<Vec<u8>> {
    let named = || format!("cannot read `{}`", path.display());
    let bytes = std::fs::metadata(path).with_context(named)?.len();
    if bytes > bytes_max {
        bail!("`{}` has {bytes} bytes, at most {bytes_max} are read", path.display());
    }
    std::fs::read(path).with_context(named)
}

/// What `--watch` compares: time and length of every file a run reads.
fn stamps(args: &TestArgs) -> Vec<Option<(SystemTime, u64)>> {
    let manifest = manifest_path(&args.module);
    [Some(&args.module), manifest.as_ref(), args.event.as_ref(), args.events.as_ref()]
        .into_iter()
        .map(|path| {
            let meta = std::fs::metadata(path?).ok()?;
            Some((meta.modified().ok()?, meta.len()))
        })
        .collect()
}

#[cfg(test)]
mod tests;
