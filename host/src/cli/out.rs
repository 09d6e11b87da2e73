//! Where commands print: the only writer of standard output and standard error.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;

use super::client::ClientError;

/// Standard output, or a test's memory.
pub struct Out(Box<dyn Write + Send>);

/// The command line makes no sense, in a way only the command itself could see: exit code 2, as of what
/// the host alone sees, see [`ClientError::is_usage`].
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

impl UsageError {
    /// Of a range that ends before it begins: nothing is in it, which would look as if nothing were there.
    pub(super) fn range(from: impl Display, to: impl Display) -> Self {
        Self(format!("`--from` is {from} and `--to` is {to}, which comes before it: swap them"))
    }
}

impl Out {
    /// The process's own.
    #[must_use]
    pub fn stdout() -> Self {
        Self(Box::new(io::stdout()))
    }

    /// Anything else that takes bytes.
    #[must_use]
    pub fn to(writer: impl Write + Send + 'static) -> Self {
        Self(Box::new(writer))
    }

    /// One line.
    ///
    /// # Errors
    /// The reader is gone, or the disk is full.
    pub fn line(&mut self, line: impl Display) -> io::Result<()> {
        writeln!(self.0, "{line}").and_then(|()| self.0.flush()).map_err(|error| unwritten(&error))
    }

    /// One document on one line.
    ///
    /// # Errors
    /// As [`Self::line`].
    pub fn json(&mut self, document: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_string(document)?;
        self.line(text)
    }

    /// Bytes as they are.
    ///
    /// # Errors
    /// As [`Self::line`].
    pub fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).and_then(|()| self.0.flush()).map_err(|error| unwritten(&error))
    }
}

/// Says which disk is full: it is not the host's, and what was asked of the host is done.
fn unwritten(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("output cannot be written: {error}"))
}

/// Says what went wrong, and which exit code that is. That the reader of standard output is gone
/// is no failure, whatever stands around it in the chain of causes.
pub fn failed(error: &anyhow::Error) -> ExitCode {
    // `tidegate events list | head`: the reader has what it wanted.
    let mut io_errors = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    if io_errors.any(|cause| cause.kind() == io::ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    note(format_args!("error: {}", sentence(error)));
    let is_usage = error.downcast_ref::<UsageError>().is_some()
        || error.downcast_ref::<ClientError>().is_some_and(ClientError::is_usage);
    if is_usage { ExitCode::from(2) } else { ExitCode::FAILURE }
}

/// An error and its causes. Errors that name their cause in their own text do not say it twice.
fn sentence(error: &anyhow::Error) -> String {
    let mut sentence = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !sentence.ends_with(&cause) {
            let between = if sentence.is_empty() { "" } else { ": " };
            sentence.push_str(between);
            sentence.push_str(&cause);
        }
    }
    sentence
}

/// One line to standard error, for people: what is going on, or is worth knowing.
pub fn note(line: impl Display) {
    // Nobody can be told that standard error is gone.
    let _ = writeln!(io::stderr(), "{line}");
}

/// Whether a terminal does something else with it than to show it: control characters, and those that
/// turn around what follows, so that text reads as what it is not.
#[must_use]
pub fn drives(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}')
        || matches!(c, '\u{2066}'..='\u{2069}');
    c.is_control() || turns || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Text of strangers, for a terminal: without the characters that would drive it.
#[must_use]
pub fn plain(text: &str) -> String {
    let control = |c: char| drives(c) && c != '\n' && c != '\t';
    if !text.contains(control) {
        return text.to_owned();
    }
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if control(c) { plain.extend(c.escape_unicode()) } else { plain.push(c) }
    }
    plain
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;
    use crate::log::tools::ToolError;

    #[test]
    fn a_reader_that_is_gone_is_no_failure() {
        let pipe = || io::Error::from(io::ErrorKind::BrokenPipe);
        let errors = [
            anyhow::Error::from(pipe()),
            Err::<(), _>(pipe()).context("printing").unwrap_err(),
            ToolError::Output(pipe()).into(),
        ];
        for error in errors {
            assert_eq!(format!("{:?}", failed(&error)), format!("{:?}", ExitCode::SUCCESS));
        }
        let full = anyhow::Error::from(ToolError::Output(io::ErrorKind::StorageFull.into()));
        assert_eq!(format!("{:?}", failed(&full)), format!("{:?}", ExitCode::FAILURE));
    }

    #[test]
    fn a_disk_that_is_full_is_said_to_be_that_of_the_output() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let error = Out::to(Full).line("#1 a.b").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(error.to_string().starts_with("output cannot be written: "), "{error}");
    }

    #[test]
    fn what_would_drive_or_turn_around_a_terminal_is_escaped() {
        assert_eq!(plain("a\u{1b}[2Jb\u{202e}c\u{2066}d\n"), "a\\u{1b}[2Jb\\u{202e}c\\u{2066}d\n");
        assert_eq!(plain("\u{5d0}\u{e9}"), "\u{5d0}\u{e9}");
    }

    #[test]
    fn a_cause_is_said_once() {
        let io = || io::Error::other("no such thing");
        let twice = anyhow::Error::from(ToolError::Output(io()));
        assert_eq!(sentence(&twice), "output cannot be written: no such thing");
        let once = Err::<(), _>(io()).context("while trying").unwrap_err();
        assert_eq!(sentence(&once), "while trying: no such thing");
    }
}
