//! `tidegate bench`: parameters in, a table or one JSON document out.

mod options;
mod print;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;
use tokio::signal::unix::{SignalKind, signal};
use uuid::Uuid;

use super::check::{Files, read_module};
use super::client::{self, ConnectArgs};
use super::out::{Out, UsageError};
use super::{Output, from_one};
use crate::bench::guest::Given;
use crate::bench::report::Report;
use crate::bench::{BenchError, alone, append, http, invoke, pipeline, replay, ticker};
use crate::wasm::compile::CompileLimits;

pub use options::{Alone, Awake, Common, InProcess, LiveHost};

/// What to measure. Every figure stands beside the limit of the disk, measured in the same run.
#[derive(Debug, Clone, Subcommand)]
pub enum BenchCommand {
    /// From a publish to its durability, in process
    Append(InProcess),
    /// From a publish through the guest to the durability of its effects
    Pipeline {
        /// What goes through.
        #[command(flatten)]
        events: InProcess,
        /// A module (the manifest beside it, `NAME.toml` or `plugin.toml`, is used), or the folder of a
        /// plugin that is built [default: a built-in one, which reads and writes one value and emits one
        /// event]
        #[arg(long, value_name = "F")]
        module: Option<PathBuf>,
        /// Events a second, for latencies at that load [default: as many as go through]
        #[arg(long, value_name = "N", conflicts_with = "in_flight",
            value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
        rate: Option<u64>,
    },
    /// One call of a guest, by the host and by wasmtime alone
    Invoke {
        /// What every bench can be told.
        #[command(flatten)]
        common: Common,
        /// It has no use for a host.
        #[command(flatten)]
        _alone: Alone,
        /// A module (the manifest beside it, `NAME.toml` or `plugin.toml`, is used), or the folder of a
        /// plugin that is built [default: a built-in one, which reads and writes one value and emits one
        /// event]
        #[arg(long, value_name = "F")]
        module: Option<PathBuf>,
    },
    /// Publishing over HTTP, to the host at --url or to one started for it
    Http {
        /// A running host.
        #[command(flatten)]
        live: LiveHost,
        /// What every bench can be told.
        #[command(flatten)]
        common: Common,
        /// What keeps the processors awake.
        #[command(flatten)]
        awake: Awake,
        /// Events of a request; 1: single events
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = from_one())]
        batch: usize,
        /// Connections, each with one request at a time
        #[arg(long, value_name = "N", default_value_t = 64, value_parser = from_one())]
        connections: usize,
    },
    /// How fast a new plugin catches up with an old log
    Replay {
        /// What goes through.
        #[command(flatten)]
        events: InProcess,
        /// A module (the manifest beside it, `NAME.toml` or `plugin.toml`, is used), or the folder of a
        /// plugin that is built [default: a built-in one, which does nothing]
        #[arg(long, value_name = "F")]
        module: Option<PathBuf>,
    },
    /// The code of one stage alone, so many turns: for who counts instructions
    #[command(hide = true)]
    Stage {
        /// Its name
        name: String,
        /// How often
        #[arg(long, value_name = "N", default_value_t = 1000)]
        turns: u64,
    },
    /// Keeps the processors awake until standard input ends
    #[command(name = ticker::SUBCOMMAND, hide = true)]
    Tick,
}

/// Runs a bench and prints what it found.
///
/// # Errors
/// It makes no sense, or what it measures failed.
pub fn run(
    command: &BenchCommand,
    connect: &ConnectArgs,
    output: Output,
    out: &mut Out,
) -> anyhow::Result<ExitCode> {
    if let BenchCommand::Stage { name, turns } = command {
        alone::run(name, *turns)?;
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = super::run::runtime()?;
    super::run::log_to_stderr("error", output);
    if matches!(command, BenchCommand::Tick) {
        ticker::run_child();
        return Ok(ExitCode::SUCCESS);
    }
    let report = runtime.block_on(async {
        let mut stop = super::signals::Stop::listen()?;
        let hangup = hangup()?;
        // Dropped where it stands, a bench takes its folder and its ticker with it.
        tokio::select! {
            report = measure(command, connect) => report.map_err(usage),
            () = stop.told() => anyhow::bail!("stopped before it was through"),
            () = hangup => anyhow::bail!("the terminal is gone: stopped before it was through"),
        }
    })?;
    match output {
        Output::Json => out.json(&report)?,
        Output::Text => print::print(&report, out)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Resolves at SIGHUP: when the terminal is closed. Never where that is ignored, as `nohup` has it.
fn hangup() -> anyhow::Result<impl Future<Output = ()>> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut hangup = if ignores_hangup(&status) {
        None
    } else {
        Some(signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?)
    };
    Ok(async move {
        match &mut hangup {
            Some(hangup) => drop(hangup.recv().await),
            None => std::future::pending().await,
        }
    })
}

/// Whether a process with this `/proc/PID/status` ignores signal 1.
fn ignores_hangup(status: &str) -> bool {
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & 1 == 1)
}

async fn measure(command: &BenchCommand, connect: &ConnectArgs) -> anyhow::Result<Report> {
    Ok(match command {
        BenchCommand::Append(events) => append::run(&events.settings(100_000)?).await?,
        BenchCommand::Pipeline { events, module, rate } => {
            let (module, rate) = (given(module.as_deref())?, *rate);
            // Three seconds of each repetition, where events come at their own pace.
            let settings = events.settings(rate.map_or(100_000, |rate| rate * 3))?;
            let options = pipeline::PipelineOptions { module, rate };
            pipeline::run(&settings, &options).await?
        }
        BenchCommand::Invoke { common, module, .. } => {
            let options = invoke::InvokeOptions { module: given(module.as_deref())? };
            invoke::run(&common.settings(100_000)?, &options).await?
        }
        BenchCommand::Http { live, common, awake, batch, connections } => {
            let options = http_options(live, connect, *batch, *connections)?;
            let settings = common.settings(if *batch > 1 { 100_000 } else { 30_000 })?;
            http::run(&awake.on(settings), &options).await?
        }
        BenchCommand::Replay { events, module } => {
            let options = replay::ReplayOptions { module: given(module.as_deref())? };
            replay::run(&events.settings(200_000)?, &options).await?
        }
        BenchCommand::Stage { .. } | BenchCommand::Tick => Report::default(),
    })
}

/// What a parameter makes no sense for is wrong use, and ends as such.
fn usage(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref() {
        Some(BenchError::TooMuch { .. } | BenchError::Event { .. }) => {
            UsageError(error.to_string()).into()
        }
        _ => error,
    }
}

/// The module that somebody names, with its manifest, as `tidegate check` finds them.
fn given(path: Option<&Path>) -> anyhow::Result<Option<Given>> {
    let Some(path) = path else { return Ok(None) };
    let files = Files::at(path)?;
    let wasm = read_module(&files.module, CompileLimits::default().module_bytes_max)?;
    let manifest = files.manifest.clone().zip(files.read_manifest()?);
    Ok(Some(Given { file: files.module, wasm, manifest }))
}

fn http_options(
    live: &LiveHost,
    connect: &ConnectArgs,
    batch: usize,
    connections: usize,
) -> anyhow::Result<http::HttpOptions> {
    let url = live.url.as_deref().map(url::Url::parse).transpose();
    let url = url.map_err(|error| UsageError(format!("--url is no URL: {error}")))?;
    let token = client::token(connect)?;
    let run = Uuid::new_v4().as_u64_pair().0;
    Ok(http::HttpOptions { url, token, batch, connections, run })
}

#[cfg(test)]
mod tests {
    use super::super::{Cli, Command};
    use super::*;
    use clap::{CommandFactory, FromArgMatches, Parser};

    fn said(words: &[&str]) -> (String, serde_json::Value) {
        let dir = tempfile::tempdir().unwrap();
        let small = ["--events", "200", "--repetitions", "1", "--ticker", "thread", "--keys", "4"];
        let folder = ["--dir", dir.path().to_str().unwrap()];
        let run = |output: &[&'static str]| {
            let words = [&["tidegate", "bench"], words, &small, &folder, output].concat();
            let said = tempfile::NamedTempFile::new().unwrap();
            let mut out = Out::to(said.reopen().unwrap());
            super::super::run(&Cli::parse_from(words), &mut out).unwrap();
            std::fs::read_to_string(said.path()).unwrap()
        };
        let (text, json) = (run(&[]), run(&["--output", "json"]));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "something was left behind");
        (text, serde_json::from_str(&json).unwrap())
    }

    #[test]
    fn append_shows_the_log_beside_its_limit_and_leaves_nothing_behind() {
        let (text, json) = said(&["append", "--in-flight", "8"]);
        assert!(text.contains("ratio to raw segment"), "{text}");
        assert!(text.contains("publish to durable"), "{text}");
        assert!(json["parameters"]["dir"].is_string() && text.contains("dir /"), "{text}");
        assert!(json["ratio_to_raw_segment"].as_f64().unwrap() > 0.0, "{json}");
        assert_eq!(json["raw_segment"][0]["group_events"], 8);
        for run in [&json, &json["runs"][0]] {
            assert!(run["ratio_to_raw_segment_same_group"].as_f64().unwrap() > 0.0, "{json}");
            assert!(run["ratio_to_file_zeroed_before"].as_f64().unwrap() > 0.0, "{json}");
        }
        assert!(json["latency"]["publish_to_durable"]["p999_us"].as_f64().unwrap() > 0.0);
    }

    #[test]
    fn http_without_a_url_brings_its_own_host() {
        let (text, json) = said(&["http", "--connections", "2", "--batch", "5"]);
        assert!(text.contains("request to durable"), "{text}");
        assert!(json["events_per_second"].as_f64().unwrap() > 0.0, "{json}");
    }

    #[test]
    fn only_the_command_line_names_a_live_host() {
        // Set wherever tests run, and in place of TIDEGATE_URL.
        let command = || Cli::command().mut_arg("url", |url| url.env("PATH"));
        let url = |words: &[&str]| {
            let words = [&["tidegate"], words].concat();
            let matches = command().try_get_matches_from(words).unwrap();
            let cli = Cli::from_arg_matches(&matches).unwrap();
            assert!(cli.connect.url.is_some());
            match cli.command {
                Command::Bench(BenchCommand::Http { live, .. }) => live.url,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(url(&["bench", "http"]), None);
        let typed = Some("http://h:1".to_owned());
        assert_eq!(url(&["bench", "http", "--url", "http://h:1"]), typed);
        assert_eq!(url(&["--url", "http://h:1", "bench", "http"]), typed);
        let help = command().try_get_matches_from(["tidegate", "bench", "http", "--help"]);
        let help = help.unwrap_err().to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(help.contains("a host started for the bench") && !help.contains("7411"), "{help}");
    }

    #[test]
    fn what_a_bench_does_not_use_is_refused() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).map(drop);
        for (line, says) in [
            ("tidegate bench invoke --in-flight 8", "--in-flight"),
            ("tidegate bench invoke --ticker off", "--ticker"),
            ("tidegate bench http --in-flight 8", "--in-flight"),
            ("tidegate bench pipeline --rate 9 --in-flight 8", "--in-flight"),
            ("tidegate bench append --url http://h:1", "`bench http`"),
            ("tidegate bench pipeline --url http://h:1", "`bench http`"),
            ("tidegate bench replay --url http://h:1", "`bench http`"),
            ("tidegate --url http://h:1 bench invoke", "`bench http`"),
        ] {
            let error = parse(line).expect_err(line);
            assert!(error.exit_code() == 2 && error.to_string().contains(says), "{line}: {error}");
        }
        for bench in ["append", "pipeline", "replay"] {
            parse(&format!("tidegate bench {bench} --in-flight 8 --ticker off")).unwrap();
        }
        parse("tidegate bench http --ticker off").unwrap();
    }

    #[test]
    fn a_module_is_found_with_its_manifest_as_a_host_finds_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("orders.wasm");
        std::fs::write(&file, b"any").unwrap();
        let found = |path: &Path| given(Some(path)).unwrap().unwrap();
        assert!(found(&file).manifest.is_none());
        let by_folder = dir.path().join("plugin.toml");
        std::fs::write(&by_folder, "module = \"orders.wasm\"\n[limits]\nfuel = 7000\n").unwrap();
        for path in [&*file, dir.path()] {
            let given = found(path);
            assert_eq!((given.file, given.wasm), (file.clone(), b"any".to_vec()));
            let (path, manifest) = given.manifest.unwrap();
            assert_eq!((path, manifest.limits.fuel), (by_folder.clone(), 7000));
        }
        std::fs::write(file.with_extension("toml"), "[limits]\nfuel = \"much\"\n").unwrap();
        let error = format!("{:#}", given(Some(&file)).unwrap_err());
        assert!(error.contains("limits.fuel"), "{error}");
        assert!(given(Some(&dir.path().join("none.wasm"))).is_err());
    }

    #[test]
    fn who_was_started_with_nohup_ignores_a_hangup() {
        assert!(ignores_hangup("SigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n"));
        assert!(!ignores_hangup("SigIgn:\t0000000000001000\n"));
        assert!(!ignores_hangup(""));
    }

    #[test]
    fn what_would_fill_the_disk_is_refused() {
        let cli = Cli::parse_from(["tidegate", "bench", "append", "--events", "100000000"]);
        let mut out = Out::to(std::io::sink());
        let error = super::super::run(&cli, &mut out).unwrap_err().to_string();
        assert!(error.contains("`--events` is 100000000, at most 10000000"), "{error}");
    }
}
