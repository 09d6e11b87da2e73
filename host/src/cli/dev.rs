//! `tidegate dev`: build the plugins, run the host, rebuild on change, one line for each delivery.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::mpsc;

use super::build::{BuildBar, print};
use super::out::drives;
use super::run::{announce, log_to_stderr, runtime, start, warn};
use super::signals::{ReadAgain, Signals};
use super::{Output, valid};
use crate::build::watch::SourceWatcher;
use crate::build::{BuildError, Outcome, Report, build_all};
use crate::bus::notes::Note;
use crate::config::{Config, Flags, Granting, ListenAddress, environment};
use crate::effects::OutcomeKind;
use crate::event::Position;
use crate::serve::Serving;

/// How long sources have to stand still before they are built.
const SETTLE: Duration = Duration::from_millis(100);

/// Builds plugins from source, runs the host, and rebuilds and reloads what changes
#[derive(Debug, Clone, Default, clap::Args)]
pub struct DevArgs {
    /// The folder of plugins [default: plugins]
    #[arg(value_name = "PLUGINS-DIR")]
    pub folder: Option<PathBuf>,
    /// Configuration file; without it `tidegate.toml` of this folder, if it is there
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where the logs and modules are kept
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Address to listen on; port 0 finds a free one
    #[arg(long, value_name = "ADDR", value_parser = valid::<ListenAddress>)]
    pub listen: Option<String>,
}

/// Runs until Ctrl-C or SIGTERM.
///
/// # Errors
/// The configuration is wrong, the host does not start, or a log failed. A plugin that does not
/// build is told of, and is no error.
pub fn run(args: &DevArgs, output: Output) -> anyhow::Result<ExitCode> {
    let flags = Flags {
        data: args.data.clone(),
        plugins: args.folder.clone(),
        listen: args.listen.clone(),
        granting: Granting::Everything,
        ..Flags::default()
    };
    let config = Config::load(args.config.as_deref(), &environment(), &flags)?;
    // Whether a change is live yet is what one waits for here.
    log_to_stderr("warn,tidegate::wasm::load=info,tidegate::host::plugins::install=info", output);
    warn(&config);
    let plugins = config.plugins.clone();
    std::fs::create_dir_all(&plugins).with_context(|| plugins.display().to_string())?;
    // Sources are watched before they are built: what is saved meanwhile is built again.
    let (_watcher, dirty) =
        SourceWatcher::start(std::slice::from_ref(&plugins), SETTLE).context("cannot watch")?;
    let any = build(std::slice::from_ref(&plugins), output)?;
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let Some(serving) = start(config, &mut signals).await? else {
            return Ok(ExitCode::SUCCESS);
        };
        // Before anybody knows where to publish: no delivery goes by unseen.
        let notes = serving.notes.listen();
        announce(&serving, output)?;
        let modules = tokio::select! {
            modules = serving.host.readied() => modules,
            () = signals.told() => {
                serving.until(std::future::ready(())).await?;
                return Ok(ExitCode::SUCCESS);
            }
        };
        if output == Output::Text {
            greet(&serving, &plugins, any || modules > 0)?;
        }
        let lines = tokio::spawn(print_notes(notes, output));
        let rebuilds = tokio::spawn(rebuild(dirty, output));
        let stop = signals.stop(ReadAgain::of(&serving));
        let ended = serving.until(stop).await;
        lines.abort();
        rebuilds.abort();
        ended?;
        Ok(ExitCode::SUCCESS)
    });
    // Nor does it wait for a line that nobody reads.
    runtime.shutdown_background();
    ended
}

fn say(line: &str) {
    // Nobody reads any more where this fails.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Builds what has sources. Says whether there was anything.
fn build(dirs: &[PathBuf], output: Output) -> anyhow::Result<bool> {
    let bar = BuildBar::new();
    let reports = match build_all(dirs, &mut |progress| bar.show(&progress)) {
        Ok(reports) => reports,
        Err(BuildError::NoSources { .. }) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    bar.finish();
    for report in &reports {
        show(report, output);
    }
    Ok(!reports.is_empty())
}

fn show(report: &Report, output: Output) {
    match &report.outcome {
        // Nobody reads any more where this fails.
        _ if output == Output::Json => drop(print(&mut std::io::stdout().lock(), report, output)),
        // On one line, as at the start: whoever changes one plugin need not have the tools of others.
        Outcome::Failed(error @ BuildError::ToolMissing { .. }) => {
            let error = error.to_string().replace("\n    ", ": ");
            say(&format!("{}  skipped: {error}", report.name));
        }
        Outcome::Built(built) if !built.changed => say(&format!("{}  up to date", report.name)),
        _ => say(&report.to_string()),
    }
}

fn say_failure(error: &anyhow::Error, output: Output) {
    match output {
        Output::Json => say(&serde_json::json!({ "error": error.to_string() }).to_string()),
        Output::Text => say(&format!("build: {error}")),
    }
}

/// A few lines about what to do next.
fn greet(serving: &Serving, folder: &Path, any: bool) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if !any {
        writeln!(
            out,
            "no plugins yet: tidegate new totals --lang rust --dir {}",
            folder.display()
        )?;
    }
    for plugin in serving.host.plugins_now().plugins {
        let state = plugin.state.name();
        let size = plugin.module.as_ref().map_or(0, |module| module.size_bytes.div_ceil(1024));
        let digest = plugin.module.as_ref().map_or("", |module| module.digest.as_str());
        let digest: String = digest.chars().take(4).collect();
        let lag = plugin.lag_events;
        let behind = if lag > 0 { format!("   {lag} events behind") } else { String::new() };
        writeln!(out, "{}  {state}  {digest}  {size} KB{behind}", plugin.name)?;
        if let Some(reason) = plugin.reason {
            writeln!(out, "    {reason}")?;
        }
    }
    writeln!(
        out,
        "every grant is allowed, as this is `dev`; sources are rebuilt when they change"
    )?;
    writeln!(
        out,
        "try:  tidegate publish order.created --key o-1 --data '{{\"sku\":\"lamp\",\"quantity\":1,\"amount\":40}}'"
    )?;
    writeln!(
        out,
        "      tidegate plugins list        tidegate events tail        tidegate status"
    )?;
    out.flush()
}

async fn rebuild(mut dirty: mpsc::Receiver<Vec<PathBuf>>, output: Output) {
    while let Some(dirs) = dirty.recv().await {
        // A folder may have gone since; the next change tells.
        let built = tokio::task::spawn_blocking(move || build(&dirs, output)).await;
        if let Ok(Err(error)) = built {
            say_failure(&error, output);
        }
    }
}

async fn print_notes(mut listen: broadcast::Receiver<Arc<Note>>, output: Output) {
    let colour = std::io::stdout().is_terminal();
    loop {
        match listen.recv().await {
            Ok(note) if output == Output::Json => say(&json(&note)),
            Ok(note) => say(&text(&note, colour)),
            Err(RecvError::Lagged(missed)) if output == Output::Json => {
                say(&serde_json::json!({ "missed": missed }).to_string());
            }
            Err(RecvError::Lagged(missed)) => say(&format!("... {missed} deliveries not shown")),
            Err(RecvError::Closed) => return,
        }
    }
}

/// `totals  #1 o-1 ok  38 us  11 k fuel   sum=40   -> #2 order.totalled`
fn text(note: &Note, colour: bool) -> String {
    let mut line = format!("{}  #{}", note.plugin, note.event.position);
    let mut add = |part: &str| {
        // Writing to a string does not fail.
        let _ = write!(line, "{part}");
    };
    if let Some(key) = &note.event.key {
        add(&format!(" {}", printable(key.as_str())));
    }
    let outcome = note.outcome.name();
    if colour && note.outcome != OutcomeKind::Ok {
        add(&format!(" \x1b[31m{outcome}\x1b[0m"));
    } else {
        add(&format!(" {outcome}"));
    }
    if note.attempt > 1 {
        add(&format!(" x{}", note.attempt));
    }
    add(&format!("  {} us  {} fuel", note.wall.as_micros(), thousands(note.fuel)));
    if !note.reason.is_empty() {
        add(&format!("  {}", printable(&note.reason)));
    }
    for (name, value) in &note.state {
        add(&format!("  {}={}", printable(name), printable(value)));
    }
    for (name, ms) in &note.timers {
        add(&format!("  timer {} in {}", printable(name), super::table::span(*ms)));
    }
    for (index, kind) in note.emitted.iter().enumerate() {
        match note.first_position {
            Some(Position(first)) => add(&format!("  -> #{} {kind}", first + index as u64)),
            None => add(&format!("  -> {kind}")),
        }
    }
    if let Some(ms) = note.again_ms {
        add(&format!("  again in {ms} ms"));
    }
    if note.dead {
        let how = if note.parked { "PARKED, other keys go on" } else { "DEAD LETTER" };
        match note.dead_letter {
            Some(id) => add(&format!("  {how}   -> tidegate dead-letters show {id}")),
            None => add(&format!("  {how}   -> tidegate dead-letters list")),
        }
    }
    line
}

/// Guest text on one line, without what a terminal would obey.
fn printable(text: &str) -> String {
    text.chars().map(|c| if drives(c) { ' ' } else { c }).take(200).collect()
}

fn thousands(number: u64) -> String {
    if number < 1000 { number.to_string() } else { format!("{} k", number / 1000) }
}

fn json(note: &Arc<Note>) -> String {
    serde_json::json!({
        "plugin": &*note.plugin,
        "position": note.event.position,
        "type": &*note.event.kind,
        "key": note.event.key,
        "outcome": note.outcome.name(),
        "reason": note.reason,
        "attempt": note.attempt,
        "us": u64::try_from(note.wall.as_micros()).unwrap_or(u64::MAX),
        "fuel": note.fuel,
        "emitted": note.emitted.iter().map(|kind| &**kind).collect::<Vec<_>>(),
        "timers": note.timers.iter().map(|(name, _)| &**name).collect::<Vec<_>>(),
        "first_position": note.first_position,
        "again_ms": note.again_ms,
        "dead_letter": note.dead,
        "parked": note.parked,
    })
    .to_string()
}
