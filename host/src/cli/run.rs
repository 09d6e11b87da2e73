//! `tidegate run`: the host, until it is told to stop.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;

use anyhow::Context;
use serde_json::json;
use tracing_subscriber::EnvFilter;

use super::lines::Lines;
use super::signals::{ReadAgain, Signals};
use super::{Output, valid};
use crate::config::reader::nearest;
use crate::config::{Config, Flags, ListenAddress, environment};
use crate::log::disk::OsDisk;
use crate::serve::{ServeError, Serving};

/// Says which log lines are shown.
const LOG_VARIABLE: &str = "TIDEGATE_LOG";
/// What it may say of all of them, or of those of a module.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Runs the host
#[derive(Debug, Clone, Default, clap::Args)]
pub struct RunArgs {
    /// Configuration file; without it `tidegate.toml` of this folder, if it is there
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where the logs and modules are kept
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// The folder whose modules are run
    #[arg(long, value_name = "DIR")]
    pub plugins: Option<PathBuf>,
    /// Address to listen on; port 0 finds a free one
    #[arg(long, value_name = "ADDR", value_parser = valid::<ListenAddress>)]
    pub listen: Option<String>,
    /// Lets a listener that other machines can reach do without tokens and TLS
    #[arg(long)]
    pub insecure: bool,
    /// Starts though the clock is far behind the log, whose time goes on from where it was
    #[arg(long)]
    pub accept_clock: bool,
}

/// Runs until SIGTERM or Ctrl-C; then ingest ends, deliveries end, the logs are sealed.
///
/// # Errors
/// The configuration is wrong, the host does not start, or a log failed.
pub fn run(args: &RunArgs, output: Output) -> anyhow::Result<ExitCode> {
    let flags = Flags {
        data: args.data.clone(),
        plugins: args.plugins.clone(),
        listen: args.listen.clone(),
        insecure: args.insecure,
        accept_clock: args.accept_clock,
        ..Flags::default()
    };
    let config = Config::load(args.config.as_deref(), &environment(), &flags)?;
    log_to_stderr("info", output);
    warn(&config);
    runtime()?.block_on(async {
        let mut signals = Signals::listen()?;
        let data = config.data.clone();
        let Some(serving) = start(config, &mut signals).await? else {
            return Ok(ExitCode::SUCCESS);
        };
        let is_durable = serving.buses().iter().any(|bus| bus.log().is_some());
        // Where the system does not say, it is a disk as far as anybody knows.
        if is_durable && OsDisk.is_in_memory(&data).unwrap_or(false) {
            let data = data.display();
            tracing::warn!(%data, "the data folder is in memory: nothing in it outlives this machine");
        }
        announce(&serving, output)?;
        let buses = serving.buses().to_vec();
        let stop = signals.stop(ReadAgain::of(&serving));
        let ended = serving.until(stop).await;
        // Everything is closed, and the system takes all memory back at once: taking the state of a
        // million keys apart first would only make the stop longer.
        std::mem::forget(buses);
        ended?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Starts a host; none: it was told to stop first.
pub(super) async fn start(
    config: Config,
    signals: &mut Signals,
) -> Result<Option<Serving>, ServeError> {
    match Serving::start(config, signals.told()).await {
        Err(ServeError::Stopped) => Ok(None),
        started => started.map(Some),
    }
}

/// Tells of what is wrong with a configuration, and keeps no host from starting.
pub(super) fn warn(config: &Config) {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
}

/// The runtime that everything but guests runs on. It has half of the processors: guests and the writer are
/// busy on the others whenever it is. A thread for each wakes and is woken so often that a request takes a
/// third more processor time.
pub(super) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads((processors / 2).max(1))
        .enable_all()
        .thread_name("io")
        .build()
        .context("cannot start the runtime")
}

/// Sends log lines to standard error: `TIDEGATE_LOG` says which, in the syntax of
/// `tracing_subscriber::EnvFilter`; without it those of level `default` and up.
pub(super) fn log_to_stderr(default: &str, output: Output) {
    // `notify` warns of every folder that goes away with its watch, which is how a plugin is removed,
    // and rustls of what any client may send.
    let default = format!("{default},notify=error,rustls=error");
    // What is sent for plugins carries secrets, and clients tell everything where they are asked. WASI
    // warns of each call that it does not have, which a guest can make a million times.
    let silent = ["ureq=warn", "ureq_proto=warn", "wasmtime_wasi=error"];
    let environment = environment();
    let (filter, wrong) = match environment.get(LOG_VARIABLE).map(|text| filter(text)) {
        Some(Ok(filter)) => (filter, None),
        Some(Err(why)) => (EnvFilter::new(default), Some(why)),
        None => (EnvFilter::new(default), None),
    };
    let silent = silent.into_iter().filter_map(|directive| directive.parse().ok());
    let filter = silent.fold(filter, EnvFilter::add_directive);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Mutex::new(Lines::new(std::io::stderr(), output)))
        // To the same place: where that is gone, saying so would only panic.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal());
    // A second subscriber in one process only happens in tests, and is no reason to fail.
    let _ = match output {
        Output::Json => builder.json().try_init(),
        Output::Text => builder.with_target(false).try_init(),
    };
    if let Some(why) = wrong {
        tracing::warn!("`{LOG_VARIABLE}` is not followed: {why}");
    }
}

/// The lines that [`LOG_VARIABLE`] asks for, or why it makes no sense. A word that stands alone and is no
/// level is the name of a module, of which there would be all lines, and of the others none: nearly always it
/// is a level that is mistyped.
fn filter(text: &str) -> Result<EnvFilter, String> {
    let words = text.split(',').map(str::trim).filter(|word| {
        !word.is_empty() && !LEVELS.iter().any(|level| word.eq_ignore_ascii_case(level))
    });
    for word in words {
        if let Some(level) = nearest(&word.to_ascii_lowercase(), LEVELS.into_iter()) {
            return Err(format!("`{word}` is no level; did you mean `{level}`?"));
        }
    }
    EnvFilter::try_new(text).map_err(|error| format!("`{text}`: {error}"))
}

/// The first line: where it listens and where the data is.
pub(super) fn announce(serving: &Serving, output: Output) -> std::io::Result<()> {
    let about = serving.host.about();
    let mut out = std::io::stdout().lock();
    match output {
        Output::Json => writeln!(
            out,
            "{}",
            json!({
                "version": about.version,
                "listen": serving.addr.to_string(),
                "url": serving.url(),
                "data": about.data,
                "plugins": about.plugins,
                "new_empty_log": serving.new_empty_log,
            })
        ),
        Output::Text => {
            let new = if serving.new_empty_log { "  NEW EMPTY LOG" } else { "" };
            let version = about.version;
            let data = about.data.display();
            writeln!(out, "tidegate {version}   {}   data {data}{new}", serving.url())
        }
    }?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A level that is mistyped once was the name of a module: nothing at all was told, and nothing why.
    #[test]
    fn a_level_that_is_mistyped_is_told_and_not_followed() {
        let near = |text: &str, level: &str| {
            let why = filter(text).unwrap_err();
            assert!(why.contains(&format!("did you mean `{level}`?")), "{text}: {why}");
        };
        near("wran", "warn");
        near("warning", "warn");
        near("tidegate=debug, eror", "error");
        for text in ["tidegate=wran", "a=b=c", "info,=x"] {
            assert!(filter(text).is_err(), "{text}");
        }
        for text in
            ["", "off", "WARN", "3", "tidegate", "info,tidegate::bus=debug", "hyper", "h2,axum"]
        {
            assert!(filter(text).is_ok(), "{text}: {:?}", filter(text));
        }
    }
}
