//! Running the tools that make modules, and saying what installs those that are not there.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::process::{Command, Stdio};

use super::{BuildError, Found, Progress};

/// What is kept of what a tool says, for the report of a failure.
const SAID_LINES_MAX: usize = 200;

/// One run of a tool: a command that knows what it is called and what installs it.
pub(super) struct Tool {
    command: Command,
    /// What was run, shortened, for people.
    short: String,
    /// The one command that installs the tool.
    install: &'static str,
}

impl Deref for Tool {
    type Target = Command;
    fn deref(&self) -> &Command {
        &self.command
    }
}

impl DerefMut for Tool {
    fn deref_mut(&mut self) -> &mut Command {
        &mut self.command
    }
}

impl Tool {
    /// A tool in the plugin's folder, so that what stands there for it (`rust-toolchain.toml`,
    /// `.npmrc`) counts. `short` says what is run: `cargo build`.
    pub(super) fn new(
        program: impl AsRef<std::ffi::OsStr>,
        dir: &Path,
        short: impl Into<String>,
        install: &'static str,
    ) -> Self {
        let mut command = Command::new(program);
        command.current_dir(dir).stdin(Stdio::null());
        Self { command, short: short.into(), install }
    }

    fn missing_or(&self, error: std::io::Error) -> BuildError {
        let tool = self.get_program().to_string_lossy().into_owned();
        if error.kind() == ErrorKind::NotFound {
            return BuildError::ToolMissing { tool, install: self.install.to_owned() };
        }
        BuildError::Io { path: tool.into(), source: error }
    }

    /// Whether the tool can be run at all: its exit code does not matter.
    pub(super) fn runs(mut self) -> bool {
        self.stdout(Stdio::null()).stderr(Stdio::null());
        self.status().is_ok_and(|status| status.success())
    }

    /// The standard output of a short command.
    pub(super) fn ask(mut self) -> Result<String, BuildError> {
        let output = self.output().map_err(|error| self.missing_or(error))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
            return Err(BuildError::Compiler { command: self.short, said });
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The standard output of a long command; what it says on standard error is progress.
    pub(super) fn run(
        mut self,
        plugin: &Found,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<String, BuildError> {
        self.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.spawn().map_err(|error| self.missing_or(error))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        // Both pipes are read at once, or the tool would wait for whichever is full.
        let (answer, mut said) = std::thread::scope(|scope| {
            let answer = scope.spawn(|| {
                let mut text = String::new();
                stdout.map(|mut pipe| pipe.read_to_string(&mut text)).transpose().map(|_| text)
            });
            let said = stderr.map(|pipe| listen(plugin, BufReader::new(pipe), progress));
            (answer.join(), said.unwrap_or_default())
        });
        let io = |source| BuildError::Io { path: self.short.clone().into(), source };
        let status = child.wait().map_err(io)?;
        let answer = match answer {
            Ok(text) => text.map_err(io)?,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        if !status.success() {
            // Some tools complain on standard output.
            if said.is_empty() {
                said = answer.trim().to_owned();
            }
            return Err(BuildError::Compiler { command: self.short, said });
        }
        Ok(answer)
    }
}

/// A program in a folder `own` of the plugin or of a folder above it (`node_modules/.bin`), else on
/// the path.
pub(super) fn find_tool(
    program: &str,
    dir: &Path,
    own: &str,
    install: &'static str,
) -> Result<Tool, BuildError> {
    let file = if cfg!(windows) { format!("{program}.cmd") } else { program.to_owned() };
    let beside = dir.ancestors().map(|above| above.join(own).join(&file)).find(|p| p.is_file());
    let on_path = || {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|folder| folder.join(&file)).find(|p| p.is_file())
    };
    let found = beside.or_else(on_path).ok_or_else(|| BuildError::ToolMissing {
        tool: program.to_owned(),
        install: install.to_owned(),
    })?;
    Ok(Tool::new(found, dir, program, install))
}

/// Passes every line on, and keeps the last ones but for cargo's own progress.
fn listen(
    plugin: &Found,
    mut pipe: impl BufRead,
    progress: &mut dyn FnMut(Progress<'_>),
) -> String {
    let mut said = VecDeque::new();
    let mut line = Vec::new();
    while pipe.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        if !text.trim().is_empty() {
            progress(Progress::Line { name: &plugin.name, line: text.trim() });
        }
        if !is_progress(text) {
            if said.len() == SAID_LINES_MAX {
                said.pop_front();
            }
            said.push_back(text.to_owned());
        }
        line.clear();
    }
    Vec::from(said).join("\n").trim().to_owned()
}

/// `   Compiling serde v1.0.229`: a word that ends in the twelfth column.
fn is_progress(line: &str) -> bool {
    let word = line.trim_start();
    let indent = line.len() - word.len();
    let first = word.split(' ').next().unwrap_or_default();
    indent > 0 && indent + first.len() == 12 && first.starts_with(|c: char| c.is_uppercase())
}

#[cfg(test)]
mod tests {
    use super::is_progress;

    #[test]
    fn cargo_progress_is_told_from_what_the_compiler_says() {
        assert!(is_progress("   Compiling serde v1.0.229"));
        assert!(is_progress("    Finished `release` profile"));
        assert!(!is_progress("error[E0425]: cannot find value `x`"));
        assert!(!is_progress("   | ^^^^"));
        assert!(!is_progress(""));
    }
}
