//! The commands: arguments in, one call each, text or JSON out.
//!
//! Exit codes: 0 done, 1 failed, 2 the command line makes no sense. What went wrong goes to standard
//! error and says what to do next.

pub mod bench;
pub mod build;
pub mod check;
pub mod client;
pub mod dead_letters;
pub mod dev;
pub mod diff;
pub mod events;
pub mod keys;
mod lines;
pub mod log;
pub mod new;
pub mod out;
pub mod plugins;
pub mod publish;
pub mod requests;
mod resumed;
pub mod run;
mod signals;
mod sse;
pub mod state;
pub mod status;
mod table;
pub mod timers;
mod trust;

use std::process::ExitCode;
use std::str::FromStr;

use clap::{CommandFactory, Parser, Subcommand};

use client::{Client, ConnectArgs};
use out::Out;

use crate::effects::OutcomeKind;
pub mod test;

/// How a command prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// One document, or one object a line for streams.
    Json,
}

/// A count of at least one: who asks for none made a mistake, and the API refuses it, too.
fn from_one() -> clap::builder::RangedU64ValueParser<usize> {
    clap::builder::RangedU64ValueParser::new().range(1..)
}

/// Text that the API would refuse where it is none of these: sent on as it is.
fn valid<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<String, String> {
    text.parse::<T>().map(|_| text.to_owned()).map_err(|why| why.to_string())
}

/// How a delivery ended, by name.
fn outcome() -> clap::builder::PossibleValuesParser {
    OutcomeKind::ALL.map(OutcomeKind::name).into()
}

/// A WebAssembly plugin host for event handlers, with a durable log and order per key.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    /// How to print
    #[arg(long, global = true, value_enum, default_value = "text")]
    pub output: Output,

    #[command(flatten)]
    connect: ConnectArgs,

    #[command(subcommand)]
    command: Command,
}

/// What there is to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the host
    Run(run::RunArgs),
    /// Build the plugins, run the host, rebuild and reload on change
    Dev(dev::DevArgs),
    /// Make a plugin project
    New(new::NewArgs),
    /// Build plugins from source
    Build(build::BuildArgs),
    /// Say what a module is, and what it would be granted
    Check(check::CheckArgs),
    /// Deliver events to a module, offline
    Test(test::TestArgs),
    /// Show buses, plugins, lag, parked keys and disk on one screen
    Status,
    /// Publish one event, or a file of them
    Publish(Box<publish::PublishArgs>),
    /// Read events
    #[command(subcommand)]
    Events(events::EventsCommand),
    /// See which types of event there are
    #[command(subcommand)]
    Types(status::TypesCommand),
    /// See and operate plugins
    #[command(subcommand)]
    Plugins(plugins::PluginsCommand),
    /// Read the state of a plugin
    #[command(subcommand)]
    State(state::StateCommand),
    /// See which timers of a plugin are pending
    #[command(subcommand)]
    Timers(timers::TimersCommand),
    /// See which keys wait, and make them wait
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Have a plugin carry out a command
    Command(Box<requests::CommandArgs>),
    /// Ask a plugin a question
    Query(Box<requests::QueryArgs>),
    /// See deliveries that were given up, run them again, or give them up for good
    #[command(name = "dead-letters", subcommand)]
    DeadLetters(dead_letters::DeadLettersCommand),
    /// Look at and mend the log of a host that does not run
    #[command(subcommand)]
    Log(log::LogCommand),
    /// See buses, and have one follow the clock
    #[command(subcommand)]
    Buses(status::BusesCommand),
    /// Measure how fast the host is on this machine
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Reads the arguments of the process and runs what they say.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli, &mut Out::stdout()) {
        Ok(code) => code,
        Err(error) => out::failed(&error),
    }
}

/// Runs one command.
///
/// # Errors
/// Whatever stops it; [`out::failed`] says it and picks the exit code.
pub fn run(cli: &Cli, out: &mut Out) -> anyhow::Result<ExitCode> {
    let output = cli.output;
    let client = || Client::new(&cli.connect);
    match &cli.command {
        Command::Run(args) => return run::run(args, output),
        Command::Dev(args) => return dev::run(args, output),
        Command::New(args) => return new::run(args, output),
        Command::Build(args) => return build::run(args, output),
        Command::Check(args) => return check::run(args, output),
        Command::Test(args) => return test::run(args, &cli.connect, output),
        Command::Status => status::status(&client()?, output, out)?,
        Command::Publish(args) => return publish::run(&client()?, args, output, out),
        Command::Events(command) => events::run(&client()?, command, output, out)?,
        Command::Types(command) => status::types(&client()?, command, output, out)?,
        Command::Plugins(command) => return plugins::run(&client()?, command, output, out),
        Command::Timers(command) => timers::run(&client()?, command, output, out)?,
        Command::Keys(command) => keys::run(&client()?, command, output, out)?,
        Command::State(command) => state::run(&client()?, command, output, out)?,
        Command::DeadLetters(command) => dead_letters::run(&client()?, command, output, out)?,
        Command::Command(args) => requests::command(&client()?, args, output, out)?,
        Command::Query(args) => requests::query(&client()?, args, output, out)?,
        Command::Buses(command) => status::buses(&client()?, command, output, out)?,
        Command::Log(command) => return log::run(command, output),
        Command::Bench(command) => return bench::run(command, &cli.connect, output, out),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "tidegate", &mut script);
            out.bytes(&script)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests;
