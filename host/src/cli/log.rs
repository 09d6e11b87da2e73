//! `tidegate log`: looking at a log that no host has open, and repairing it.

use std::fmt::Display;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::Output;
use super::out::UsageError;
use crate::log::disk::{Disk, OsDisk};
use crate::log::tools::{self, DumpRange, RepairError, RepairMode, ToolError};

/// Exit code where damage was found.
const EXIT_DAMAGED: u8 = 1;
/// Exit code where there is nothing to look at.
const EXIT_USAGE: u8 = 2;

/// What to do with the logs of a data directory. No host may run on it.
#[derive(Debug, Clone, Subcommand)]
pub enum LogCommand {
    /// Read everything; name what is damaged by file, byte offset, commits and positions
    Verify(LogTarget),
    /// Count what is in it
    Stat(LogTarget),
    /// Write every record as a JSON object, one a line
    Dump(DumpArgs),
    /// Build all index files anew
    Reindex(LogTarget),
    /// Say what can be kept of a damaged log and what is lost; with --yes, make it open again
    Repair(RepairArgs),
}

/// Which logs.
#[derive(Debug, Clone, Args)]
pub struct LogTarget {
    /// The data directory of a host
    #[arg(value_name = "DATA-DIR")]
    pub data: PathBuf,
    /// Only this bus; otherwise all
    #[arg(long)]
    pub bus: Option<String>,
}

/// Whether to do it.
#[derive(Debug, Clone, Args)]
pub struct RepairArgs {
    /// Which logs.
    #[command(flatten)]
    pub target: LogTarget,
    /// Do it; otherwise only say what would be done. The originals are kept beside
    #[arg(long)]
    pub yes: bool,
}

/// Which records to write out.
#[derive(Debug, Clone, Args)]
pub struct DumpArgs {
    /// Which logs.
    #[command(flatten)]
    pub target: LogTarget,
    /// First commit
    #[arg(long, value_name = "COMMIT", default_value_t = 0)]
    pub from: u64,
    /// Last commit
    #[arg(long, value_name = "COMMIT", default_value_t = u64::MAX, hide_default_value = true)]
    pub to: u64,
}

/// Runs a command and prints what it found to stdout. Exit codes: 0 all is well, 1 damage was found
/// (and not repaired), 2 there is no such log.
///
/// # Errors
/// The range makes no sense, a host has the log open, a file cannot be read, or stdout is gone.
pub fn run(command: &LogCommand, output: Output) -> Result<ExitCode, anyhow::Error> {
    let mut out = BufWriter::new(io::stdout().lock());
    let code = run_on(&OsDisk, command, output, &mut out, &mut io::stderr())?;
    out.flush()?;
    Ok(code)
}

fn run_on(
    disk: &dyn Disk,
    command: &LogCommand,
    output: Output,
    out: &mut dyn Write,
    errors: &mut dyn Write,
) -> Result<ExitCode, anyhow::Error> {
    let done = match command {
        LogCommand::Verify(target) => tools::verify(disk, data(target), bus(target))
            .map(|report| (report.is_sound(), print(&report, output, out))),
        LogCommand::Stat(target) => tools::stat(disk, data(target), bus(target))
            .map(|report| (report.is_sound(), print(&report, output, out))),
        LogCommand::Reindex(target) => tools::reindex(disk, data(target), bus(target))
            .map(|report| (report.is_sound(), print(&report, output, out))),
        LogCommand::Repair(RepairArgs { target, yes }) => {
            let mode = if *yes { RepairMode::Perform } else { RepairMode::DryRun };
            match tools::repair(disk, data(target), bus(target), mode) {
                Ok(report) => Ok((report.is_done(), print(&report, output, out))),
                Err(RepairError::Tool(error)) => Err(error),
                Err(error) => return Err(error.into()),
            }
        }
        LogCommand::Dump(DumpArgs { target, from, to }) => {
            if from > to {
                return Err(UsageError::range(from, to).into());
            }
            let range = DumpRange { first_commit: *from, last_commit: *to };
            // Both kinds of output are the same lines; what is damaged does not mix with them.
            tools::dump(disk, data(target), bus(target), range, out)
                .map(|report| (report.is_sound(), write!(errors, "{report}")))
        }
    };
    match done {
        Ok((is_sound, printed)) => {
            printed?;
            Ok(if is_sound { ExitCode::SUCCESS } else { ExitCode::from(EXIT_DAMAGED) })
        }
        Err(error @ (ToolError::NoLog { .. } | ToolError::NoBus { .. })) => {
            writeln!(errors, "error: {error}")?;
            Ok(ExitCode::from(EXIT_USAGE))
        }
        Err(error) => Err(error.into()),
    }
}

fn data(target: &LogTarget) -> &Path {
    &target.data
}

fn bus(target: &LogTarget) -> Option<&str> {
    target.bus.as_deref()
}

fn print<T: Display + Serialize>(
    report: &T,
    output: Output,
    out: &mut dyn Write,
) -> io::Result<()> {
    match output {
        Output::Text => write!(out, "{report}"),
        Output::Json => {
            serde_json::to_writer_pretty(&mut *out, report)?;
            writeln!(out)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::log::tools::sample::closed_log;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(subcommand)]
        command: LogCommand,
    }

    /// Runs a command line on a data directory; gives exit code, stdout and stderr.
    fn check(data: &Path, arguments: &[&str], output: Output) -> (String, String, String) {
        let words = ["log", arguments[0], data.to_str().unwrap()];
        let words = words.iter().copied().chain(arguments[1..].iter().copied());
        let cli = Cli::try_parse_from(words).unwrap();
        let (mut out, mut errors) = (Vec::new(), Vec::new());
        let code = run_on(&OsDisk, &cli.command, output, &mut out, &mut errors).unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (format!("{code:?}"), text(out), text(errors))
    }

    fn code(code: u8) -> String {
        format!("{:?}", ExitCode::from(code))
    }

    /// A closed log on the real disk.
    fn on_disk() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let (disk, _) = closed_log();
        let log = dir.path().join("buses/main/log");
        OsDisk.create_dir_all(&log).unwrap();
        for number in 1..=3 {
            let name = format!("{number:010}.seg");
            let bytes = disk.bytes(&Path::new("/data/buses/main/log").join(&name)).unwrap();
            std::fs::write(log.join(name), bytes).unwrap();
        }
        dir
    }

    #[test]
    fn a_sound_log_exits_0_and_a_damaged_one_1_naming_file_and_offset() {
        let dir = on_disk();
        let (exit, text, _) = check(dir.path(), &["verify"], Output::Text);
        assert_eq!(exit, code(0), "{text}");
        assert!(text.contains("main: 3 segments") && text.contains("nothing is damaged"), "{text}");

        let path = dir.path().join("buses/main/log/0000000002.seg");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[130] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let (exit, text, _) = check(dir.path(), &["verify", "--bus", "main"], Output::Text);
        assert_eq!(exit, code(1));
        assert!(text.contains(&format!("DAMAGED {} at byte 128", path.display())), "{text}");
        let (_, json, _) = check(dir.path(), &["verify"], Output::Json);
        let report: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(report["buses"][0]["damages"][0]["offset"], 128);
        assert_eq!(report["buses"][0]["damages"][0]["kind"], "checksum");
    }

    #[test]
    fn reindex_stat_and_dump_print_what_they_did() {
        let dir = on_disk();
        let (exit, text, _) = check(dir.path(), &["reindex"], Output::Text);
        assert!(exit == code(0) && text.contains("3 index files written"), "{text}");
        assert!(dir.path().join("buses/main/index/0000000003.idx").is_file());
        let (exit, json, _) = check(dir.path(), &["stat"], Output::Json);
        let report: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((exit, &report["buses"][0]["events"]), (code(0), &15.into()));
        let (exit, lines, _) = check(dir.path(), &["dump", "--from", "2"], Output::Text);
        assert_eq!((exit, lines.lines().count()), (code(0), 26));
    }

    #[test]
    fn a_range_that_ends_before_it_begins_is_a_usage_error() {
        let cli = Cli::try_parse_from(["log", "dump", ".", "--from", "9", "--to", "3"]).unwrap();
        let (mut out, mut errors) = (Vec::new(), Vec::new());
        let ran = run_on(&OsDisk, &cli.command, Output::Text, &mut out, &mut errors);
        let error = ran.unwrap_err().downcast::<UsageError>().unwrap().to_string();
        assert!(error.contains("`--from` is 9") && error.contains("`--to` is 3"), "{error}");
    }

    #[test]
    fn what_is_not_there_exits_2_and_says_what_is() {
        let dir = on_disk();
        let (exit, _, errors) = check(dir.path(), &["stat", "--bus", "mian"], Output::Text);
        assert_eq!(exit, code(2));
        assert_eq!(errors, "error: bus `mian` has no log here; there are: main\n");
        let (exit, _, errors) = check(&dir.path().join("buses"), &["verify"], Output::Text);
        assert!(exit == code(2) && errors.contains("is not a data directory"), "{errors}");
    }
}
