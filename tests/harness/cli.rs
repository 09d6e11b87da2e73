//! The command line, as people type it.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// How a command is run.
pub(crate) struct Cli {
    command: Command,
}

/// How it ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The program under test, without what the caller's environment would tell it.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate-under-test"));
    let set = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in set.filter(|name| name.starts_with("TIDEGATE_")) {
        command.env_remove(name);
    }
    command.env("TIDEGATE_GUEST_TARGET", super::guests::guest_target());
    command.stdin(Stdio::null());
    command
}

impl Cli {
    /// A command of the CLI: `["log", "verify"]`.
    pub(crate) fn new(words: &[&str]) -> Self {
        let mut command = program();
        command.args(words);
        Self { command }
    }

    pub(crate) fn arg(mut self, word: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.arg(word);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn within(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    pub(crate) fn run(mut self) -> Run {
        let Output { status, stdout, stderr } =
            self.command.output().unwrap_or_else(|error| panic!("{:?}: {error}", self.command));
        Run {
            code: status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        }
    }
}

impl Run {
    /// Standard output of a command that did what it should.
    pub(crate) fn expect_done(self) -> String {
        assert_eq!(self.code, 0, "{}\n{}", self.stdout, self.stderr);
        self.stdout
    }

    /// What a command that failed in order says.
    pub(crate) fn expect_failed(self) -> String {
        assert_eq!(self.code, 1, "{}\n{}", self.stdout, self.stderr);
        assert!(!self.stderr.contains("stack backtrace"), "{}", self.stderr);
        self.stderr
    }

    /// What a command says that was typed in a way that makes no sense.
    pub(crate) fn expect_wrong_use(self) -> String {
        assert_eq!(self.code, 2, "{}\n{}", self.stdout, self.stderr);
        assert!(!self.stderr.contains("stack backtrace"), "{}", self.stderr);
        self.stderr
    }

    /// Standard output as one JSON document.
    pub(crate) fn json(self) -> Value {
        let out = self.expect_done();
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    }
}
