//! `publish --batch`: a file of events, in order, through one connection.
//!
//! One request at a time is what keeps the order of keys; a chunk is large enough to make up for it.
//! A request that failed on the way may have been appended: it is sent again as it was, and what had
//! been there already comes back as duplicates. Where no more comes for a moment, what is there is sent.
//! A host that takes less at a time gets less.

mod source;

use std::io::{self, IsTerminal, Read};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::api::cloudevents::{BATCH, BadEvent, read_line};
use crate::api::errors::{Code, ErrorDetail};
use crate::api::view::AppendedView;
use crate::cli::client::{Client, ClientError};
use crate::cli::out::{Out, note};
use source::{Lines, Next, Pausing};

/// Events of one request.
const CHUNK_EVENTS_MAX: usize = 500;
/// Bytes of one request, unless a single event has more.
const CHUNK_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of one line: what the host takes as a body by default.
const LINE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// What some editors put in front of UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// The first wait before trying again, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Seconds to wait in all for a host that is away.
pub(super) const RETRY_SECONDS_DEFAULT: u64 = 60;

/// What became of the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
struct Summary {
    acknowledged: u64,
    appended: u64,
    duplicates: u64,
}

/// Events that travel in one request.
#[derive(Debug, Default, PartialEq, Eq)]
struct Chunk {
    /// A JSON array, closed by [`Chunker`].
    body: Vec<u8>,
    /// Line numbers of its events, from 1.
    lines: Vec<u64>,
    /// Where in the body each of them begins.
    starts: Vec<usize>,
}

impl Chunk {
    fn push(&mut self, number: u64, line: &[u8]) {
        self.body.push(if self.lines.is_empty() { b'[' } else { b',' });
        self.starts.push(self.body.len());
        self.body.extend_from_slice(line);
        self.lines.push(number);
    }

    /// Its events in two chunks; none: it has one.
    fn halves(&self) -> Option<[Self; 2]> {
        let middle = self.lines.len() / 2;
        let (mut first, mut second) = (Self::default(), Self::default());
        // Each ends before a comma, or the bracket at the end.
        let ends = self.starts.iter().skip(1).copied().chain([self.body.len()]);
        for (at, ((number, start), end)) in
            self.lines.iter().zip(&self.starts).zip(ends).enumerate()
        {
            let line = self.body.get(*start..end.saturating_sub(1)).unwrap_or_default();
            let half = if at < middle { &mut first } else { &mut second };
            half.push(*number, line);
        }
        first.body.push(b']');
        second.body.push(b']');
        (middle > 0).then_some([first, second])
    }
}

/// Puts lines together to chunks.
#[derive(Debug)]
struct Chunker {
    chunk: Chunk,
    events_max: usize,
    bytes_max: usize,
}

impl Default for Chunker {
    fn default() -> Self {
        let (events_max, bytes_max) = (CHUNK_EVENTS_MAX, CHUNK_BYTES_MAX);
        Self { chunk: Chunk::default(), events_max, bytes_max }
    }
}

impl Chunker {
    /// Adds an event; returns the chunk before it, where it does not fit any more.
    fn push(&mut self, number: u64, line: &[u8]) -> Option<Chunk> {
        let full = self.chunk.lines.len() >= self.events_max
            || self.chunk.body.len() + line.len() + 2 > self.bytes_max;
        let before = if full { self.take() } else { None };
        self.chunk.push(number, line);
        before
    }

    /// Makes smaller ones from now on: the host refused this one as too large.
    fn shrink(&mut self, refused: &Chunk, detail: &ErrorDetail) {
        if detail.actual == Some(refused.lines.len() as u64) {
            self.events_max = refused.lines.len() / 2;
        } else {
            self.bytes_max = refused.body.len() / 2;
        }
    }

    /// What is left; none: nothing.
    fn take(&mut self) -> Option<Chunk> {
        let mut chunk = std::mem::take(&mut self.chunk);
        chunk.body.push(b']');
        (!chunk.lines.is_empty()).then_some(chunk)
    }
}

/// Why a file is not published to its end.
#[derive(Debug, thiserror::Error)]
enum BatchError {
    #[error("line {line}: {}", one_line(.bad))]
    Line { line: u64, bad: BadEvent },
    #[error("line {line} is longer than {LINE_BYTES_MAX} bytes")]
    TooLong { line: u64 },
    #[error("cannot read line {line}: {why}")]
    Read { line: u64, why: io::Error },
    #[error("line {line}: {error}")]
    Refused { line: u64, error: ClientError },
    #[error(
        "lines {first} to {last}: {error}; publish the same file again to go on where it stopped"
    )]
    Gone { first: u64, last: u64, error: ClientError },
    #[error("lines {first} to {last}: {error}")]
    Never { first: u64, last: u64, error: ClientError },
}

/// The line is known already; within it only the column is of use.
fn one_line(bad: &BadEvent) -> String {
    match bad {
        BadEvent::Json { column, why, .. } => format!("not valid JSON at column {column}: {why}"),
        other => other.to_string(),
    }
}

/// Publishes a file and prints the summary, also where it stops in the middle.
pub(super) fn run(
    client: &Client,
    path: &Path,
    bus: Option<&str>,
    retry_seconds: u64,
    out: &mut Out,
) -> anyhow::Result<ExitCode> {
    let bytes = std::fs::metadata(path).ok().filter(|m| m.is_file()).map(|m| m.len());
    let progress = progress_bar(bytes);
    let mut publisher = Publisher {
        send: &mut sender(client, bus),
        wait: &mut std::thread::sleep,
        patience: Duration::from_secs(retry_seconds),
        progress: &progress,
        summary: Summary::default(),
    };
    let result = publisher.publish(Pausing::new(super::open(path)?));
    let summary = publisher.summary;
    progress.finish_and_clear();
    out.json(&summary)?;
    result?;
    Ok(ExitCode::SUCCESS)
}

/// Sends chunks to a host. One that takes less at a time answers before all of it has come, and soon cuts off the
/// rest: over a network, that answer is lost with the connection. Where one broke, the host is asked before a body
/// is sent, until one of that size has gone through.
fn sender(
    client: &Client,
    bus: Option<&str>,
) -> impl FnMut(&Chunk) -> Result<Vec<AppendedView>, ClientError> {
    let bus = bus.map(|bus| ("bus", bus));
    let mut broke_at = None;
    move |chunk| {
        let asking = broke_at.map(|_: usize| ("expect", "100-continue"));
        let headers: Vec<_> = [("content-type", BATCH)].into_iter().chain(asking).collect();
        let bytes = chunk.body.len();
        let posted = client.post_with(&["v1", "events"], bus.as_slice(), &headers, &chunk.body);
        match &posted {
            Ok(_) => broke_at = broke_at.filter(|broke_at| bytes < *broke_at),
            Err(ClientError::Broken { .. }) => broke_at = Some(bytes),
            Err(_) => {}
        }
        Ok(posted?.answer)
    }
}

/// Sends chunks one after the other.
struct Publisher<'a> {
    send: &'a mut dyn FnMut(&Chunk) -> Result<Vec<AppendedView>, ClientError>,
    wait: &'a mut dyn FnMut(Duration),
    /// Waiting time for one chunk.
    patience: Duration,
    progress: &'a ProgressBar,
    summary: Summary,
}

impl Publisher<'_> {
    /// `source` tells of a pause by [`io::ErrorKind::WouldBlock`].
    fn publish(&mut self, source: impl Read) -> Result<(), BatchError> {
        let mut lines = Lines::new(source);
        let mut chunker = Chunker::default();
        let ended = loop {
            let (number, text) = match lines.next() {
                Ok(Next::Line(_, [])) => continue,
                Ok(Next::Line(number, text)) => (number, text),
                Ok(Next::Pause) => {
                    self.deliver_rest(&mut chunker)?;
                    continue;
                }
                Ok(Next::End) => break Ok(()),
                Err(error) => break Err(error),
            };
            if let Err(bad) = read_line(text) {
                break Err(BatchError::Line { line: number, bad });
            }
            if let Some(chunk) = chunker.push(number, text) {
                self.deliver(chunk, &mut chunker)?;
            }
        };
        // What stands before a bad line is good.
        self.deliver_rest(&mut chunker)?;
        ended
    }

    fn deliver_rest(&mut self, chunker: &mut Chunker) -> Result<(), BatchError> {
        chunker.take().map_or(Ok(()), |chunk| self.deliver(chunk, chunker))
    }

    /// Sends a chunk until it is acknowledged, in parts where the host takes no more at a time.
    fn deliver(&mut self, chunk: Chunk, chunker: &mut Chunker) -> Result<(), BatchError> {
        let mut left = vec![chunk];
        while let Some(chunk) = left.pop() {
            let Err(error) = self.send(&chunk) else { continue };
            let too_large = too_large(&error);
            let Some((detail, [first, second])) = too_large.zip(chunk.halves()) else {
                return Err(named(&chunk, error));
            };
            chunker.shrink(&chunk, detail);
            left.extend([second, first]);
        }
        Ok(())
    }

    /// Sends a chunk until it is acknowledged.
    fn send(&mut self, chunk: &Chunk) -> Result<(), ClientError> {
        let mut waited = Duration::ZERO;
        let mut backoff = BACKOFF.0;
        loop {
            let error = match (self.send)(chunk) {
                Ok(appended) => {
                    let duplicates = appended.iter().filter(|view| view.duplicate).count() as u64;
                    self.summary.acknowledged += appended.len() as u64;
                    self.summary.duplicates += duplicates;
                    self.summary.appended += appended.len() as u64 - duplicates;
                    self.progress.inc(chunk.body.len() as u64);
                    self.progress.set_message(format!("{} events", self.summary.acknowledged));
                    return Ok(());
                }
                Err(error) => error,
            };
            if !error.may_pass() || waited >= self.patience {
                return Err(error);
            }
            if waited.is_zero() {
                self.progress.suspend(|| note(format_args!("{error}; trying again")));
            }
            // Many publishers that lost one host should not come back at the same instant.
            let pause = backoff.mul_f64(0.5 + fastrand::f64() / 2.0);
            (self.wait)(pause);
            waited += pause;
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }
}

/// What the host says of a request that is too large as a whole.
fn too_large(error: &ClientError) -> Option<&ErrorDetail> {
    let ClientError::Refused { detail } = error else { return None };
    (detail.code == Code::TooLarge.name() && detail.index.is_none()).then_some(&**detail)
}

fn named(chunk: &Chunk, error: ClientError) -> BatchError {
    let index = match &error {
        ClientError::Refused { detail } => detail.index,
        _ => None,
    };
    if let Some(line) = index.and_then(|index| chunk.lines.get(index)) {
        return BatchError::Refused { line: *line, error };
    }
    let first = chunk.lines.first().copied().unwrap_or_default();
    let last = chunk.lines.last().copied().unwrap_or_default();
    if error.may_pass() || is_mended_elsewhere(&error) {
        BatchError::Gone { first, last, error }
    } else {
        BatchError::Never { first, last, error }
    }
}

/// Whether the same file is taken once something beside it is mended.
fn is_mended_elsewhere(error: &ClientError) -> bool {
    let ClientError::Refused { detail } = error else { return false };
    [Code::StorageFull, Code::Unauthorized, Code::MissingRole]
        .iter()
        .any(|code| code.name() == detail.code)
}

/// On a terminal only: a log would fill with it.
fn progress_bar(bytes: Option<u64>) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match bytes {
        Some(bytes) => {
            (ProgressBar::new(bytes), "{wide_bar} {percent:>3} %  {msg}  {bytes_per_sec}  {eta}")
        }
        None => (ProgressBar::new_spinner(), "{spinner} {msg}  {bytes_per_sec}"),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

#[cfg(test)]
mod tests;
