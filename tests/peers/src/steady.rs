//! A steady load: one event after the other at a fixed rate, each followed until its effects are seen.
//!
//! Rule: an event counts from the moment it was due, so that one that could not be sent in time counts
//! as late.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::publish::{Connection, Events};

/// Connections that take turns: a publish that takes long holds up one in so many.
const CONNECTIONS: u64 = 16;
/// Keys of the events.
const KEYS: u64 = 1000;

/// Publishes single events and watches what the plugin emits for them.
pub struct Steady {
    stop: Arc<AtomicBool>,
    publishers: Vec<JoinHandle<Result<()>>>,
    watcher: JoinHandle<Result<Vec<Seen>>>,
}

/// One event whose effects were seen.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// When it was due.
    pub due: Instant,
    /// From then until its effects were durable and had reached a client, milliseconds.
    pub ms: f64,
}

/// When events are due.
#[derive(Debug, Clone, Copy)]
struct Pace {
    began: Instant,
    rate: u64,
    /// Number of the first event: none may be there already.
    first: u64,
}

impl Pace {
    fn due(&self, number: u64) -> Instant {
        self.began + Duration::from_nanos((number - self.first) * 1_000_000_000 / self.rate)
    }
}

impl Steady {
    /// Starts it: events of type `kind`, `rate` a second, numbered from `first`; what is emitted for them
    /// has the type `emitted` and their payload.
    pub fn start(
        port: u16,
        kind: &'static str,
        emitted: &str,
        rate: u64,
        first: u64,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stream = Stream::open(port, &format!("/v1/events/stream?type={emitted}"))?;
        let pace = Pace { began: Instant::now() + Duration::from_millis(200), rate, first };
        let stopped = Arc::clone(&stop);
        let watcher = std::thread::spawn(move || watch(stream, pace, &stopped));
        let publisher = |place| {
            let stopped = Arc::clone(&stop);
            std::thread::spawn(move || publish(port, kind, pace, place, &stopped))
        };
        let publishers = (0..CONNECTIONS).map(publisher).collect();
        Ok(Self { stop, publishers, watcher })
    }

    /// Ends it; gives what was seen.
    pub fn end(self) -> Result<Vec<Seen>> {
        self.stop.store(true, Ordering::Relaxed);
        for publisher in self.publishers {
            publisher.join().map_err(|_| anyhow::anyhow!("a publisher panicked"))??;
        }
        self.watcher.join().map_err(|_| anyhow::anyhow!("the watcher panicked"))?
    }
}

/// What so many of 1000 stay below, milliseconds.
pub fn permille(seen: impl Iterator<Item = Seen>, share: usize) -> f64 {
    let mut all: Vec<f64> = seen.map(|seen| seen.ms).collect();
    all.sort_unstable_by(f64::total_cmp);
    let at = (all.len() * share / 1000).min(all.len().saturating_sub(1));
    all.get(at).copied().unwrap_or(f64::NAN)
}

fn publish(port: u16, kind: &str, pace: Pace, place: u64, stop: &AtomicBool) -> Result<()> {
    let mut connection = Connection::open(port)?;
    let events = Events {
        kind: &|_| kind.to_owned(),
        key: &|number| format!("s{}", number % KEYS),
        size: 256,
    };
    let (mut number, mut body) = (pace.first + place, String::new());
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(pace.due(number).saturating_duration_since(Instant::now()));
        body.clear();
        events.write(&mut body, number);
        connection.post("application/cloudevents+json", &body)?;
        number += CONNECTIONS;
    }
    Ok(())
}

fn watch(mut stream: Stream, pace: Pace, stop: &AtomicBool) -> Result<Vec<Seen>> {
    let mut seen = Vec::new();
    loop {
        match stream.number() {
            Ok(number) if number >= pace.first => {
                let due = pace.due(number);
                seen.push(Seen { due, ms: due.elapsed().as_secs_f64() * 1e3 });
            }
            Ok(_) => {}
            // Nothing came for a while: all have been seen.
            Err(_) if stop.load(Ordering::Relaxed) => return Ok(seen),
            Err(error) => return Err(error).context("the stream of events"),
        }
    }
}

/// A stream of events: chunks of lines.
struct Stream {
    input: BufReader<TcpStream>,
    chunk: Vec<u8>,
    lines: Vec<u8>,
}

impl Stream {
    fn open(port: u16, path: &str) -> Result<Self> {
        let mut output = TcpStream::connect(("127.0.0.1", port))?;
        output.set_read_timeout(Some(Duration::from_secs(2)))?;
        write!(output, "GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")?;
        let mut input = BufReader::with_capacity(256 << 10, output);
        let mut line = String::new();
        input.read_line(&mut line)?;
        if !line.contains(" 200 ") {
            bail!("{path}: {line}");
        }
        while line.trim_end() != "" {
            line.clear();
            input.read_line(&mut line)?;
        }
        Ok(Self { input, chunk: Vec::new(), lines: Vec::new() })
    }

    /// The number at the start of the next event's payload.
    fn number(&mut self) -> Result<u64> {
        loop {
            while let Some(end) = self.lines.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.lines.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                let payload = line.split_once("\"data\":\"#").map(|(_, payload)| payload);
                let number = payload.and_then(|payload| payload.split('#').next()?.parse().ok());
                if let Some(number) = number {
                    return Ok(number);
                }
            }
            let mut size = String::new();
            self.input.read_line(&mut size)?;
            let size =
                usize::from_str_radix(size.trim_end(), 16).context("the stream has ended")?;
            self.chunk.resize(size + 2, 0);
            self.input.read_exact(&mut self.chunk)?;
            self.lines.extend_from_slice(&self.chunk[..size]);
        }
    }
}
