//! A client that does no more than the protocol of NATS asks for: whole rounds in one buffer, answers
//! counted and not told apart. No program that has other work would be written so; none is faster.

use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{CONSUMER, STREAM};
use crate::Plan;
use crate::lines::{Lines, payload};
use crate::side::{Latencies, rate};

/// One message.
struct Message {
    /// Where an answer to it goes; none: it is one.
    reply: Option<String>,
    data: Vec<u8>,
}

pub(super) struct Client {
    lines: Lines,
    inbox: String,
}

impl Client {
    pub(super) fn connect(port: u16) -> Result<Self> {
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

    pub(super) fn ask(&mut self, subject: &str, request: &str) -> Result<()> {
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
        write!(out, "PUB e.key-{key} {inbox} {}\r\n", payload.len())?;
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
        self.send(
            &format!("$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{CONSUMER}"),
            &inbox,
            request.as_bytes(),
        )
    }

    /// Takes what comes next, and says whether that was an event: it is acknowledged with the next flush.
    fn take(&mut self) -> Result<bool> {
        let reply = self.next()?.reply;
        if let Some(reply) = &reply {
            write!(self.lines.pending, "PUB {reply} 4\r\n+ACK\r\n")?;
        }
        // Without it, it is the end of a request.
        Ok(reply.is_some())
    }
}

/// Events a second, published until acknowledged.
pub(super) fn publish(plan: &Plan, port: u16) -> Result<f64> {
    let mut client = Client::connect(port)?;
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

/// Events a second, published until consumed and that acknowledged.
pub(super) fn pipeline(plan: &Plan, port: u16) -> Result<f64> {
    let (events, in_flight) = (plan.events, plan.in_flight);
    let began = Instant::now();
    let consumer = std::thread::spawn(move || consume(port, events, in_flight));
    publish(plan, port)?;
    consumer.join().map_err(|_| anyhow::anyhow!("the consumer panicked"))??;
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
pub(super) fn steady(plan: &Plan, port: u16) -> Result<Latencies> {
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
