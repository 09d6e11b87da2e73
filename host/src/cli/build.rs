//! `tidegate build DIR...`: source folders to modules.

use std::fmt;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::Output;
use crate::build::{Built, Outcome, Progress, Report, build_all};

/// Builds plugins from source: the language is told by their files, and each module is put beside
/// its `plugin.toml`
#[derive(Debug, Clone, clap::Args)]
pub struct BuildArgs {
    /// Folders of plugins, or folders that hold such folders
    #[arg(required = true, value_name = "DIR")]
    pub dirs: Vec<PathBuf>,
}

/// Builds, shows progress on standard error, and prints one line for each plugin: exit code 1 where
/// one failed. Text about failures goes to standard error.
///
/// # Errors
/// A folder holds no sources, or the output cannot be written.
pub fn run(args: &BuildArgs, output: Output) -> anyhow::Result<ExitCode> {
    let bar = BuildBar::new();
    let reports = build_all(&args.dirs, &mut |progress| bar.show(&progress));
    bar.finish();
    let mut code = ExitCode::SUCCESS;
    for report in reports? {
        tell(&mut std::io::stdout(), &mut std::io::stderr(), &report, output)?;
        if matches!(report.outcome, Outcome::Failed(_)) {
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

/// One line that says what is being built: on a terminal only, for a log would fill with it. `dev`
/// shows the same.
#[derive(Debug)]
pub struct BuildBar {
    bar: ProgressBar,
    on_terminal: bool,
}

impl Default for BuildBar {
    fn default() -> Self {
        Self::new()
    }
}

impl BuildBar {
    /// A line on standard error.
    #[must_use]
    pub fn new() -> Self {
        let on_terminal = std::io::stderr().is_terminal();
        if !on_terminal {
            return Self { bar: ProgressBar::hidden(), on_terminal };
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix}  {wide_msg} {elapsed}")
        {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { bar, on_terminal }
    }

    /// Shows what happens; off a terminal, only whose turn it is.
    pub fn show(&self, progress: &Progress<'_>) {
        match progress {
            Progress::Started { name, number, total } => {
                self.bar.set_prefix(format!("[{number}/{total}] {name}"));
                self.bar.set_message("building");
                if !self.on_terminal {
                    let _ = writeln!(std::io::stderr(), "building {name} ({number} of {total})");
                }
            }
            Progress::Line { line, .. } => self.bar.set_message((*line).to_owned()),
            Progress::Finished(_) => {}
        }
    }

    /// Clears the line.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// Prints how it went where that belongs: a document to `out`, like what is no failure.
fn tell(
    out: &mut impl Write,
    errors: &mut impl Write,
    report: &Report,
    output: Output,
) -> std::io::Result<()> {
    match (output, &report.outcome) {
        (Output::Text, Outcome::Failed(_)) => print(errors, report, output),
        _ => print(out, report, output),
    }
}

/// One line about how it went. `dev` prints the same in JSON.
pub(super) fn print(out: &mut impl Write, report: &Report, output: Output) -> std::io::Result<()> {
    match (output, &report.outcome) {
        (Output::Json, Outcome::Built(built)) => writeln!(out, "{}", json!(built)),
        (Output::Json, Outcome::Skipped(why)) => {
            writeln!(out, "{}", json!({ "name": report.name, "skipped": why }))
        }
        (Output::Json, Outcome::Failed(error)) => {
            writeln!(out, "{}", json!({ "name": report.name, "error": error.to_string() }))
        }
        (Output::Text, _) => writeln!(out, "{report}"),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Outcome::Built(built) => write!(f, "{built}"),
            Outcome::Skipped(why) => write!(f, "{}  skipped: {why}", self.name),
            Outcome::Failed(error) => write!(f, "{}  failed: {error}", self.name),
        }
    }
}

impl fmt::Display for Built {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, bytes, took, changed, .. } = self;
        let what = if *changed { "built" } else { "unchanged" };
        write!(f, "{name}  {what} {:.1} s  {} KB", took.as_secs_f64(), bytes.div_ceil(1000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::BuildError;

    #[test]
    fn a_failure_in_words_goes_to_standard_error() {
        let said = |outcome: Outcome, output| {
            let report = Report { name: "totals".to_owned(), dir: PathBuf::new(), outcome };
            let (mut out, mut errors) = (Vec::new(), Vec::new());
            tell(&mut out, &mut errors, &report, output).unwrap();
            (String::from_utf8(out).unwrap(), String::from_utf8(errors).unwrap())
        };
        let failed = || Outcome::Failed(BuildError::NoSources { dir: "totals".into() });
        let (out, errors) = said(failed(), Output::Text);
        assert!(out.is_empty() && errors.starts_with("totals  failed: "), "{out}{errors}");
        let (out, errors) = said(failed(), Output::Json);
        assert!(out.starts_with('{') && errors.is_empty(), "{out}{errors}");
        let (out, errors) = said(Outcome::Skipped("no tool".to_owned()), Output::Text);
        assert_eq!((&*out, &*errors), ("totals  skipped: no tool\n", ""));
    }
}
