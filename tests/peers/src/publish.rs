//! Publishing over HTTP: in batches as fast as they go, from several connections that are kept.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Connections, each with one request at a time.
const CONNECTIONS: usize = 4;
/// Events of a request, at most.
const BATCH: u64 = 500;

/// What events are made of, by their number.
pub struct Events<'a> {
    /// Their type.
    pub kind: &'a (dyn Fn(u64) -> String + Sync),
    /// Their key.
    pub key: &'a (dyn Fn(u64) -> String + Sync),
    /// Bytes of the payload, a JSON string.
    pub size: usize,
}

/// A connection that is kept.
pub struct Connection {
    input: BufReader<TcpStream>,
    output: TcpStream,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Connection {
    /// Connects to a host on loopback.
    pub fn open(port: u16) -> Result<Self> {
        let output = TcpStream::connect(("127.0.0.1", port))?;
        output.set_nodelay(true)?;
        output.set_read_timeout(Some(Duration::from_secs(60)))?;
        let input = BufReader::with_capacity(64 << 10, output.try_clone()?);
        Ok(Self { input, output, request: Vec::new(), answer: Vec::new() })
    }

    /// Sends one request and waits for its answer.
    pub fn post(&mut self, media_type: &str, body: &str) -> Result<()> {
        self.request.clear();
        write!(
            self.request,
            "POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: {media_type}\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )?;
        self.output.write_all(&self.request)?;
        let mut line = String::new();
        self.input.read_line(&mut line)?;
        let status = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut len = 0;
        while line.trim_end() != "" {
            let (name, value) = line.split_once(':').unwrap_or_default();
            if name.eq_ignore_ascii_case("content-length") {
                len = value.trim().parse()?;
            }
            line.clear();
            if self.input.read_line(&mut line)? == 0 {
                bail!("the host has closed the connection");
            }
        }
        self.answer.resize(len, 0);
        self.input.read_exact(&mut self.answer)?;
        if status != "200" {
            bail!("the host answers {status} {}", String::from_utf8_lossy(&self.answer));
        }
        Ok(())
    }
}

impl Events<'_> {
    /// Adds an event in JSON; its payload begins with its number.
    pub fn write(&self, body: &mut String, number: u64) {
        let _ = write!(
            body,
            "{{\"specversion\":\"1.0\",\"id\":\"{number}\",\"source\":\"/growth\",\"type\":\"{}\",\
             \"partitionkey\":\"{}\",\"datacontenttype\":\"application/json\",\"data\":\"#{number}#",
            (self.kind)(number),
            (self.key)(number)
        );
        let said = 4 + number.checked_ilog10().unwrap_or(0) as usize + 1;
        body.extend(std::iter::repeat_n('x', self.size.saturating_sub(said)));
        body.push_str("\"}");
    }

    /// Publishes those of these numbers.
    pub fn publish(&self, port: u16, numbers: Range<u64>) -> Result<()> {
        let next = AtomicU64::new(numbers.start);
        // Batches stay far below the 8 MiB that a body may have.
        let batch = BATCH.min((2 << 20) / self.size.max(1) as u64).max(1);
        std::thread::scope(|scope| {
            let connections: Vec<_> = (0..CONNECTIONS)
                .map(|_| scope.spawn(|| self.publish_some(port, &next, numbers.end, batch)))
                .collect();
            for connection in connections {
                connection.join().map_err(|_| anyhow::anyhow!("a publisher panicked"))??;
            }
            Ok(())
        })
    }

    fn publish_some(&self, port: u16, next: &AtomicU64, end: u64, batch: u64) -> Result<()> {
        let mut connection = Connection::open(port).context("publishing")?;
        let mut body = String::new();
        loop {
            let first = next.fetch_add(batch, Ordering::Relaxed);
            if first >= end {
                return Ok(());
            }
            body.clear();
            for number in first..(first + batch).min(end) {
                body.push(if number == first { '[' } else { ',' });
                self.write(&mut body, number);
            }
            body.push(']');
            connection.post("application/cloudevents-batch+json", &body)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_the_payload_that_was_asked_for() {
        let events = Events { kind: &|_| "t.e".to_owned(), key: &|n| format!("k{n}"), size: 64 };
        for number in [0, 9, 10, 123_456] {
            let mut body = String::new();
            events.write(&mut body, number);
            let event: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(event["data"].to_string().len(), 64, "{event}");
        }
    }
}
