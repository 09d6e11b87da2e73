//! Log lines on their way to standard error, which may be a pipe that nobody reads.
//!
//! Rule: nobody who logs waits for who reads, or a reader that stands still keeps a host from serving, and
//! from stopping. Lines that are not taken in time are left out, and counted.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde_json::json;

use super::Output;

/// How long a reader may take before lines are left out, until it reads again.
const PATIENCE: Duration = Duration::from_secs(1);
/// Bytes that a pipe takes at once where it takes any.
const CHUNK_BYTES: usize = 4096;

/// Writes whole lines, as far as somebody takes them.
#[derive(Debug)]
pub(super) struct Lines<W> {
    to: W,
    output: Output,
    left_out: u64,
}

impl<W: Write + AsFd> Lines<W> {
    pub(super) const fn new(to: W, output: Output) -> Self {
        Self { to, output, left_out: 0 }
    }

    /// Whether all of it was taken.
    fn offer(&mut self, line: &[u8], patience: Duration) -> io::Result<bool> {
        for chunk in line.chunks(CHUNK_BYTES) {
            if !self.takes(patience)? {
                return Ok(false);
            }
            self.to.write_all(chunk)?;
        }
        Ok(true)
    }

    fn takes(&self, patience: Duration) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.to, PollFlags::OUT)];
        let patience = Timespec::try_from(patience).map_err(io::Error::other)?;
        loop {
            match poll(&mut fds, Some(&patience)) {
                Err(Errno::INTR) => {}
                ready => return Ok(ready? > 0),
            }
        }
    }

    fn missed(&self) -> String {
        let missed = format!("{} log lines were left out: nobody took them", self.left_out);
        match self.output {
            Output::Json => {
                format!("{}\n", json!({ "level": "WARN", "fields": { "message": missed } }))
            }
            Output::Text => format!(" WARN {missed}\n"),
        }
    }
}

impl<W: Write + AsFd> Write for Lines<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut taken = true;
        if self.left_out > 0 {
            taken = self.offer(self.missed().as_bytes(), Duration::ZERO)?;
        }
        if taken {
            self.left_out = 0;
            taken = self.offer(line, PATIENCE)?;
        }
        self.left_out += u64::from(!taken);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_pipe_that_nobody_reads_keeps_nobody_waiting_and_what_is_missing_is_told() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut lines = Lines::new(writer, Output::Text);
        let line = [b"x".repeat(9999), b"\n".to_vec()].concat();
        let begun = Instant::now();
        for _ in 0..1000 {
            lines.write_all(&line).unwrap();
        }
        assert!(begun.elapsed() < 10 * PATIENCE, "{:?}", begun.elapsed());
        let read = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).map(|_| text)
        });
        while lines.left_out > 0 {
            lines.write_all(b"the last\n").unwrap();
        }
        drop(lines);
        let text = read.join().unwrap().unwrap();
        assert!(text.ends_with("log lines were left out: nobody took them\nthe last\n"), "{text}");
    }
}
