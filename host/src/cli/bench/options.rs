//! What the benches can be told, in groups: each takes those that it uses.
//!
//! Rule: an option that would change nothing is refused.

use std::path::PathBuf;

use anyhow::Context;
use clap::builder::RangedU64ValueParser;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, FromArgMatches};

use super::super::from_one;
use crate::bench::{Settings, Ticker};

/// A running host to publish to, only where the command line itself names it: the environment names the
/// one that is operated, whose log is no place for the events of a bench.
#[derive(Debug, Clone, Default)]
pub struct LiveHost {
    pub(super) url: Option<String>,
}

impl FromArgMatches for LiveHost {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let is_typed = matches.value_source("url") == Some(ValueSource::CommandLine);
        let url = matches.get_one::<String>("url").filter(|_| is_typed);
        Ok(Self { url: url.cloned() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for LiveHost {
    fn augment_args(command: clap::Command) -> clap::Command {
        // In place of the option of the same name that all commands have.
        let help = "A running host, whose log keeps the events; TIDEGATE_URL is not asked for it \
                    [default: a host started for the bench]";
        let url = Arg::new("url").long("url").value_name("URL").help(help).help_heading("Host");
        command.arg(url)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

/// What every bench can be told.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Events (or calls) of one repetition
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    events: Option<u64>,
    /// Bytes of a payload
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    size: usize,
    /// Keys the events are spread over; 0: unkeyed
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    keys: usize,
    /// Type of the events
    #[arg(long = "type", value_name = "TYPE", default_value = "bench.happened")]
    kind: String,
    /// File with the payload of every event, JSON, in place of --size
    #[arg(long, value_name = "F", conflicts_with = "size")]
    data_file: Option<PathBuf>,
    /// How often each side is measured; medians are shown
    #[arg(long, value_name = "N", default_value_t = 3,
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=100))]
    repetitions: usize,
    /// Folder to work in; what is made there is removed [default: the system's for such things]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// What a bench can be told that waits for the disk.
#[derive(Debug, Clone, Args)]
pub struct Awake {
    /// What wakes 10,000 times a second, so that no sync waits for the tick of an idle processor
    #[arg(long, value_enum, default_value = "process")]
    ticker: Ticker,
}

/// Refuses a host that the command line names, and with which the bench would do nothing.
#[derive(Debug, Clone)]
pub struct Alone;

impl FromArgMatches for Alone {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        if matches.value_source("url") != Some(ValueSource::CommandLine) {
            return Ok(Self);
        }
        let why = "this bench measures in its own process; `--url` is for `bench http`\n";
        Err(clap::Error::raw(ErrorKind::ArgumentConflict, why))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Alone {
    fn augment_args(command: clap::Command) -> clap::Command {
        command
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        command
    }
}

/// What a bench can be told that has many events on their way through a log of its own.
#[derive(Debug, Clone, Args)]
pub struct InProcess {
    /// What every bench can be told.
    #[command(flatten)]
    common: Common,
    /// Events on their way at the same time
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = from_one())]
    in_flight: usize,
    /// What keeps the processors awake.
    #[command(flatten)]
    awake: Awake,
    /// It has no use for a host.
    #[command(flatten)]
    _alone: Alone,
}

impl InProcess {
    pub(super) fn settings(&self, events: u64) -> anyhow::Result<Settings> {
        let settings = self.awake.on(self.common.settings(events)?);
        Ok(Settings { in_flight: self.in_flight, ..settings })
    }
}

impl Common {
    pub(super) fn settings(&self, events: u64) -> anyhow::Result<Settings> {
        let data = match &self.data_file {
            Some(path) => {
                let data = std::fs::read(path);
                Some(data.with_context(|| format!("cannot read `{}`", path.display()))?)
            }
            None => None,
        };
        Ok(Settings {
            dir: self.dir.clone(),
            repetitions: self.repetitions,
            events: self.events.unwrap_or(events),
            size: self.size,
            keys: self.keys,
            kind: self.kind.clone(),
            data,
            ..Settings::default()
        })
    }
}

impl Awake {
    pub(super) fn on(&self, settings: Settings) -> Settings {
        Settings { ticker: self.ticker, ..settings }
    }
}
