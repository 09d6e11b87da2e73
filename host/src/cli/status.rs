//! `tidegate status`, `types` and `buses`: how the host is.

use super::Output;
use super::client::Client;
use super::out::{Out, note, plain};
use super::plugins::{print_skipped, table as plugins_table};
use super::table::{Table, bytes, span};
use crate::api::view::{BusKind, BusState, BusView, BusesView, ClockView, StatusView, TypesView};
use crate::clock::{Clock, SystemClock};

/// What to do with types.
#[derive(Debug, clap::Subcommand)]
pub enum TypesCommand {
    /// List types: how many events, when the last one came, who subscribes
    List {
        /// The bus [default: the default one]
        #[arg(long)]
        bus: Option<String>,
    },
}

/// What to do with buses.
#[derive(Debug, clap::Subcommand)]
pub enum BusesCommand {
    /// List buses
    List,
    /// Have the log of a bus follow a clock that was set ahead: timers and delays that end by then do so now
    FollowClock {
        /// The bus
        bus: String,
    },
}

/// Shows the host on one screen.
///
/// # Errors
/// The host does not answer, or the output cannot be written.
pub fn status(client: &Client, output: Output, out: &mut Out) -> anyhow::Result<()> {
    let status: StatusView = client.get(&["v1", "status"], &[])?;
    if output == Output::Json {
        out.json(&status)?;
        return Ok(());
    }
    let now_ms = SystemClock::new().wall_ms();
    let state = match (status.draining, status.ready) {
        (true, _) => "shutting down",
        (_, true) => "ready",
        (_, false) => "starting",
    };
    let up = span(now_ms.saturating_sub(status.started.0));
    out.line(format_args!("tidegate {}   {state}   up {up}", plain(&status.version)))?;
    out.line(format_args!(
        "data {}   plugins {}",
        plain(&status.data),
        plain(&status.plugins_folder)
    ))?;
    if !status.waiting_for.is_empty() {
        out.line(format_args!("waiting for {}", plain(&status.waiting_for.join(", "))))?;
    }
    out.line(format_args!("\n{}", buses_table(&status.buses)))?;
    for bus in &status.buses {
        if let Some(alarm) = bus.log.as_ref().and_then(|log| log.clock_alarm.as_deref()) {
            out.line(format_args!("{}: {}", plain(&bus.name), plain(alarm)))?;
        }
    }
    if status.plugins.is_empty() {
        out.line("\nno plugins yet: put a .wasm file into the plugins folder")?;
    } else {
        out.line(format_args!("\n{}", plugins_table(&status.plugins)))?;
    }
    let calls: Vec<_> = (status.plugins.iter())
        .filter(|plugin| plugin.open_calls > 0)
        .map(|plugin| format!("{} {}", plain(&plugin.name), plugin.open_calls))
        .collect();
    if !calls.is_empty() {
        out.line(format_args!("\nopen calls: {}", calls.join(", ")))?;
    }
    print_skipped(&status.skipped, out)
}

/// Lists types.
///
/// # Errors
/// As [`status`].
pub fn types(
    client: &Client,
    TypesCommand::List { bus }: &TypesCommand,
    output: Output,
    out: &mut Out,
) -> anyhow::Result<()> {
    let bus = bus.as_deref().map(|bus| ("bus", bus));
    let types: TypesView = client.get(&["v1", "types"], bus.as_slice())?;
    if output == Output::Json {
        out.json(&types)?;
        return Ok(());
    }
    if types.types.is_empty() {
        note("no events yet: tidegate publish TYPE --key K --data JSON");
        return Ok(());
    }
    let mut table = Table::new(&["TYPE", ">COUNT", "LAST SEEN", "SUBSCRIBERS"]);
    for kind in &types.types {
        table.row([
            kind.kind.clone(),
            kind.count.to_string(),
            kind.last_seen.map_or_else(|| "-".to_owned(), |at| at.to_string()),
            if kind.subscribers.is_empty() {
                "nobody".to_owned()
            } else {
                kind.subscribers.join(", ")
            },
        ]);
    }
    out.line(table)?;
    Ok(())
}

/// Lists buses, or does something to one.
///
/// # Errors
/// As [`status`].
pub fn buses(
    client: &Client,
    command: &BusesCommand,
    output: Output,
    out: &mut Out,
) -> anyhow::Result<()> {
    let bus = match command {
        BusesCommand::List => {
            let buses: BusesView = client.get(&["v1", "buses"], &[])?;
            match output {
                Output::Json => out.json(&buses)?,
                Output::Text => out.line(buses_table(&buses.buses))?,
            }
            return Ok(());
        }
        BusesCommand::FollowClock { bus } => bus,
    };
    let path = ["v1", "buses", bus, "follow-clock"];
    let clock: ClockView = client.post(&path, &[], None, &[])?.answer;
    match output {
        Output::Json => out.json(&clock)?,
        Output::Text => {
            let ClockView { bus, before, after } = &clock;
            let ahead = span(after.0.saturating_sub(before.0));
            out.line(format_args!("{} goes on from {after}, {ahead} after {before}", plain(bus)))?;
        }
    }
    Ok(())
}

fn buses_table(buses: &[BusView]) -> Table {
    let mut table = Table::new(&[
        "BUS",
        "KIND",
        "STATE",
        ">LAST POSITION",
        ">SEGMENTS",
        ">DISK",
        ">FREE",
        ">LAST APPEND",
        "PLUGINS",
    ]);
    for bus in buses {
        let log = bus.log.as_ref();
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        table.row([
            format!("{}{}", bus.name, if bus.default { " (default)" } else { "" }),
            match bus.kind {
                BusKind::Durable => "durable".to_owned(),
                BusKind::Memory => "memory".to_owned(),
            },
            match bus.state {
                BusState::Open => "open",
                BusState::StorageFull => "storage full",
                BusState::ReadOnly => "read only",
                BusState::Draining => "draining",
            }
            .to_owned(),
            bus.last_position.to_string(),
            or_dash(log.map(|log| log.segments.to_string())),
            or_dash(log.map(|log| bytes(log.bytes))),
            or_dash(log.map(|log| bytes(log.free_bytes))),
            or_dash(log.map(|log| format!("{} us", log.last_append_us))),
            bus.plugins.join(", "),
        ]);
    }
    table
}
