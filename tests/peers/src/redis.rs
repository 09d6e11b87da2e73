//! Redis streams: `XADD`, and a consumer group with `XREADGROUP` and `XACK`.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::Plan;
use crate::lines::{Lines, Server, free_port, payload};
use crate::side::{Latencies, Run, Side, rate};

/// Both ways to be durable.
pub fn sides() -> Vec<Side> {
    ["everysec", "always"]
        .into_iter()
        .map(|fsync| Side {
            name: format!("Redis stream, `appendfsync {fsync}`, bare protocol"),
            run: Box::new(move |plan| run(plan, fsync)),
        })
        .collect()
}

struct Started {
    port: u16,
    _server: Server,
    _dir: tempfile::TempDir,
}

fn start(fsync: &str) -> Result<Started> {
    let (dir, port) = (tempfile::tempdir()?, free_port()?);
    let child = Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
        .args(["--appendonly", "yes", "--appendfsync", fsync, "--daemonize", "no", "--dir"])
        .arg(dir.path())
        .stdout(Stdio::null())
        .spawn()
        .context("`redis-server` (apt-get install redis-server)")?;
    Ok(Started { port, _server: Server(child), _dir: dir })
}

fn run(plan: &Plan, fsync: &str) -> Result<Run> {
    let append = {
        let started = start(fsync)?;
        publish(plan, started.port, plan.events)?
    };
    let pipeline = {
        let started = start(fsync)?;
        let began = Instant::now();
        let port = started.port;
        group(port)?;
        let (events, in_flight) = (plan.events, plan.in_flight);
        let consumer = std::thread::spawn(move || consume(port, events, in_flight));
        publish(plan, port, events)?;
        consumer.join().map_err(|_| anyhow::anyhow!("the consumer panicked"))??;
        rate(events, began)
    };
    let mut latencies = {
        let started = start(fsync)?;
        group(started.port)?;
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

fn command(out: &mut Vec<u8>, words: &[&[u8]]) -> Result<()> {
    write!(out, "*{}\r\n", words.len())?;
    for word in words {
        write!(out, "${}\r\n", word.len())?;
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
    Ok(())
}

fn add(lines: &mut Lines, event: u64, keys: u64, payload: &[u8]) -> Result<()> {
    let key = format!("key-{}", event % keys);
    let words: [&[u8]; 7] = [b"XADD", b"events", b"*", b"key", key.as_bytes(), b"data", payload];
    command(&mut lines.pending, &words)
}

/// Reads one answer; gives the ids of entries in it.
fn answer(lines: &mut Lines, ids: &mut Vec<String>) -> Result<()> {
    let line = lines.line()?;
    match line.split_at_checked(1) {
        Some(("*", count)) => {
            for _ in 0..count.parse::<i64>()?.max(0) {
                answer(lines, ids)?;
            }
        }
        Some(("$", len)) => {
            if let Ok(len) = len.parse::<usize>() {
                let text = lines.block(len)?;
                let is_id = text.contains(&b'-') && text.first().is_some_and(u8::is_ascii_digit);
                if is_id {
                    ids.push(String::from_utf8_lossy(&text).into_owned());
                }
            }
        }
        Some((":" | "+", _)) => {}
        _ => bail!("redis says `{line}`"),
    }
    Ok(())
}

fn publish(plan: &Plan, port: u16, events: u64) -> Result<f64> {
    let mut lines = Lines::connect(port)?;
    let payload = payload();
    let began = Instant::now();
    let (mut sent, mut acked) = (0, 0);
    let mut ids = Vec::new();
    while acked < events {
        while sent < events && sent - acked < plan.in_flight {
            add(&mut lines, sent, plan.keys, &payload)?;
            sent += 1;
        }
        lines.flush()?;
        loop {
            answer(&mut lines, &mut ids)?;
            acked += 1;
            if !lines.has_more() || acked == sent {
                break;
            }
        }
        ids.clear();
    }
    Ok(rate(events, began))
}

fn group(port: u16) -> Result<()> {
    let mut lines = Lines::connect(port)?;
    let words: [&[u8]; 6] = [b"XGROUP", b"CREATE", b"events", b"g", b"0", b"MKSTREAM"];
    command(&mut lines.pending, &words)?;
    lines.flush()?;
    answer(&mut lines, &mut Vec::new())
}

/// Waits for entries, and acknowledges them.
fn take(lines: &mut Lines, count: u64) -> Result<u64> {
    let count = count.to_string();
    let words: [&[u8]; 11] = [
        b"XREADGROUP",
        b"GROUP",
        b"g",
        b"c",
        b"COUNT",
        count.as_bytes(),
        b"BLOCK",
        b"10000",
        b"STREAMS",
        b"events",
        b">",
    ];
    command(&mut lines.pending, &words)?;
    lines.flush()?;
    let mut ids = Vec::new();
    answer(lines, &mut ids)?;
    if ids.is_empty() {
        bail!("no events for ten seconds");
    }
    let mut words: Vec<&[u8]> = vec![b"XACK", b"events", b"g"];
    words.extend(ids.iter().map(String::as_bytes));
    command(&mut lines.pending, &words)?;
    lines.flush()?;
    answer(lines, &mut Vec::new())?;
    Ok(ids.len() as u64)
}

fn consume(port: u16, events: u64, in_flight: u64) -> Result<()> {
    let mut lines = Lines::connect(port)?;
    let mut taken = 0;
    while taken < events {
        taken += take(&mut lines, in_flight)?;
    }
    Ok(())
}

/// One event at a time, each a little after the one before.
fn steady(plan: &Plan, port: u16) -> Result<Latencies> {
    let events = plan.rate * 2;
    let rate = plan.rate;
    let keys = plan.keys;
    let began = Instant::now() + Duration::from_millis(100);
    let due = move |event: u64| began + Duration::from_nanos(event * 1_000_000_000 / rate);
    let publisher = std::thread::spawn(move || -> Result<()> {
        let mut lines = Lines::connect(port)?;
        let payload = payload();
        let mut ids = Vec::new();
        let (mut sent, mut acked) = (0, 0);
        while acked < events {
            while sent < events && due(sent) <= Instant::now() {
                add(&mut lines, sent, keys, &payload)?;
                sent += 1;
            }
            lines.flush()?;
            while acked < sent {
                answer(&mut lines, &mut ids)?;
                acked += 1;
            }
            std::thread::sleep(due(sent).saturating_duration_since(Instant::now()));
        }
        Ok(())
    });
    let mut lines = Lines::connect(port)?;
    let mut latencies = Latencies::default();
    let mut taken = 0;
    while taken < events {
        for _ in 0..take(&mut lines, 256)? {
            latencies.add(due(taken));
            taken += 1;
        }
    }
    publisher.join().map_err(|_| anyhow::anyhow!("the publisher panicked"))??;
    Ok(latencies)
}
