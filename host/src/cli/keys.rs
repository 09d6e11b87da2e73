//! `tidegate keys`: which keys of a plugin wait, and making them.

use super::Output;
use super::client::Client;
use super::out::{Out, plain};
use crate::api::view::{KeyState, KeyView};

/// What to do with a key.
#[derive(Debug, clap::Subcommand)]
pub enum KeysCommand {
    /// Show whether a key waits, why, and what stands behind it
    Show {
        /// The plugin
        plugin: String,
        /// The key
        key: String,
    },
    /// Deliver no more events of a key until it is released
    Hold {
        /// The plugin
        plugin: String,
        /// The key
        key: String,
        /// Why, for people
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Let a key go on that is held or parked; a dead letter that parked it stays one
    Release {
        /// The plugin
        plugin: String,
        /// The key
        key: String,
    },
}

/// Runs one of them.
///
/// # Errors
/// The host does not do as asked, or the output cannot be written.
pub fn run(
    client: &Client,
    command: &KeysCommand,
    output: Output,
    out: &mut Out,
) -> anyhow::Result<()> {
    let view: KeyView = match command {
        KeysCommand::Show { plugin, key } => {
            client.get(&["v1", "plugins", plugin, "keys"], &[("key", key)])?
        }
        KeysCommand::Hold { plugin, key, reason } => {
            let mut query = vec![("key", key.as_str())];
            query.extend(reason.as_deref().map(|reason| ("reason", reason)));
            client.post(&["v1", "plugins", plugin, "keys", "hold"], &query, None, &[])?.answer
        }
        KeysCommand::Release { plugin, key } => {
            let path = ["v1", "plugins", plugin, "keys", "release"];
            client.post(&path, &[("key", key)], None, &[])?.answer
        }
    };
    match output {
        Output::Json => out.json(&view)?,
        Output::Text => print(&view, out)?,
    }
    Ok(())
}

fn print(view: &KeyView, out: &mut Out) -> anyhow::Result<()> {
    out.line(format_args!("{} {} {}", view.plugin, plain(&view.key), view.state.name()))?;
    let more = if view.deferred_more { " or more" } else { "" };
    let lines = [
        ("since", view.since.map(|since| since.to_string())),
        ("by", view.actor.clone()),
        ("reason", view.reason.clone().filter(|reason| !reason.is_empty())),
        ("dead letter", view.dead_letter.clone()),
        ("event", view.position.map(|position| format!("#{position}"))),
        ("next attempt", view.attempt.map(|attempt| format!("number {attempt}"))),
        ("due", view.next_attempt.map(|due| due.to_string())),
        ("behind it", (view.deferred > 0).then(|| format!("{}{more} events", view.deferred))),
        ("running", view.running.then(|| "right now".to_owned())),
    ];
    for (name, value) in lines {
        if let Some(value) = value {
            out.line(format_args!("{name:<12}  {}", plain(&value)))?;
        }
    }
    let (plugin, key) = (&view.plugin, plain(&view.key));
    match (view.state, &view.dead_letter) {
        (KeyState::Parked, Some(id)) => out.line(format_args!(
            "-> tidegate dead-letters redrive {id}, or dead-letters discard {id} --reason TEXT"
        ))?,
        (KeyState::Held, _) => {
            out.line(format_args!("-> tidegate keys release {plugin} {key}"))?;
        }
        _ => {}
    }
    Ok(())
}
