//! Where a batch comes from: lines of a file, or of a pipe that pauses now and then.
//!
//! Rule: whoever reads hears of a pause before it is waited out, within a line, too, so that no event
//! stays here until more come.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::{BYTE_ORDER_MARK, BatchError, LINE_BYTES_MAX};

/// How long is waited in all until it is a pause: a producer that is merely slower fills larger requests
/// by it, and an event is not held up for longer.
const PAUSE: Duration = Duration::from_millis(20);
/// Bytes read at a time: more than a pipe holds.
const READ_BYTES: usize = 256 * 1024;

/// A file or a pipe that tells of each pause once, by [`io::ErrorKind::WouldBlock`].
#[derive(Debug)]
pub(super) struct Pausing {
    from: File,
    /// What is left of [`PAUSE`]; none: it was told, and what comes next is waited for.
    patience: Option<Duration>,
}

impl Pausing {
    pub(super) const fn new(from: File) -> Self {
        Self { from, patience: Some(PAUSE) }
    }

    /// Whether there is something to read, or the end. A file always has one of them.
    fn is_ready(&self) -> io::Result<bool> {
        let mut fds = [PollFd::from_borrowed_fd(self.from.as_fd(), PollFlags::IN)];
        let patience =
            self.patience.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        loop {
            match poll(&mut fds, patience.as_ref()) {
                Err(Errno::INTR) => {}
                ready => return Ok(ready? > 0),
            }
        }
    }
}

impl Read for Pausing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let begun = Instant::now();
        if !self.is_ready()? {
            self.patience = None;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let left = self.patience.map(|patience| patience.saturating_sub(begun.elapsed()));
        self.patience = Some(left.unwrap_or(PAUSE));
        self.from.read(buffer)
    }
}

/// What comes next of a source.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<'a> {
    /// A line with its number, from 1, without white space around it.
    Line(u64, &'a [u8]),
    /// Nothing for now.
    Pause,
    /// Nothing any more.
    End,
}

/// The lines of a source.
#[derive(Debug)]
pub(super) struct Lines<R> {
    reader: BufReader<R>,
    number: u64,
    line: Vec<u8>,
    /// It paused within the line, or in front of it.
    paused: bool,
}

impl<R: Read> Lines<R> {
    pub(super) fn new(source: R) -> Self {
        let reader = BufReader::with_capacity(READ_BYTES, source);
        Self { reader, number: 0, line: Vec::new(), paused: false }
    }

    /// The next line, however empty.
    pub(super) fn next(&mut self) -> Result<Next<'_>, BatchError> {
        if !std::mem::take(&mut self.paused) {
            self.line.clear();
            self.number += 1;
        }
        let number = self.number;
        let left = (LINE_BYTES_MAX + 1).saturating_sub(self.line.len() as u64);
        match (&mut self.reader).take(left).read_until(b'\n', &mut self.line) {
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => {
                self.paused = true;
                return Ok(Next::Pause);
            }
            read => read.map_err(|why| BatchError::Read { line: number, why })?,
        };
        if self.line.len() as u64 > LINE_BYTES_MAX {
            return Err(BatchError::TooLong { line: number });
        }
        if self.line.is_empty() {
            return Ok(Next::End);
        }
        let text = self.line.trim_ascii();
        let mark = if number == 1 { BYTE_ORDER_MARK } else { b"" };
        Ok(Next::Line(number, text.strip_prefix(mark).unwrap_or(text)))
    }
}
