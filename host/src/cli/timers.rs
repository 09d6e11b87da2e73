//! `tidegate timers`: what a plugin has set.

use super::client::Client;
use super::out::{Out, note};
use super::table::{Table, bytes, shortened};
use super::{Output, from_one};
use crate::api::view::{TimerView, TimersView};

/// Characters of a key or a name that a listing shows.
const TEXT_SHOWN_CHARS_MAX: usize = 60;
/// Timers that are asked for at a time.
const PAGE: usize = 1000;

/// What to do with timers.
#[derive(Debug, clap::Subcommand)]
pub enum TimersCommand {
    /// List pending timers, the next one due first
    List {
        /// The plugin
        plugin: String,
        /// Of this key alone
        #[arg(long)]
        key: Option<String>,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = from_one())]
        limit: usize,
    },
}

/// Runs one of them.
///
/// # Errors
/// The host does not do as asked, or the output cannot be written.
pub fn run(
    client: &Client,
    command: &TimersCommand,
    output: Output,
    out: &mut Out,
) -> anyhow::Result<()> {
    let TimersCommand::List { plugin, key, limit } = command;
    let found = list(client, plugin, key.as_deref(), *limit)?;
    match output {
        Output::Json => out.json(&found)?,
        Output::Text if found.timers.is_empty() => {
            note(format_args!("no timer of `{plugin}` is pending"))
        }
        Output::Text => {
            out.line(table(&found.timers))?;
            if found.next.is_some() {
                note(format_args!("there are more: --limit"));
            }
        }
    }
    Ok(())
}

/// At most `limit` timers, and where more may be.
fn list(
    client: &Client,
    plugin: &str,
    key: Option<&str>,
    limit: usize,
) -> anyhow::Result<TimersView> {
    let mut found = TimersView::default();
    while found.timers.len() < limit {
        let most = (limit - found.timers.len()).min(PAGE).to_string();
        let mut query = vec![("limit", most.as_str())];
        query.extend(key.map(|key| ("key", key)));
        query.extend(found.next.as_deref().map(|after| ("after", after)));
        let page: TimersView = client.get(&["v1", "plugins", plugin, "timers"], &query)?;
        found.timers.extend(page.timers);
        found.next = page.next;
        if found.next.is_none() {
            break;
        }
    }
    Ok(found)
}

fn table(timers: &[TimerView]) -> Table {
    let mut table = Table::new(&["DUE", "KEY", "NAME", ">DATA", "FIRED"]);
    for timer in timers {
        table.row([
            timer.due.to_string(),
            shortened(&timer.key, TEXT_SHOWN_CHARS_MAX),
            shortened(&timer.name, TEXT_SHOWN_CHARS_MAX),
            bytes(timer.bytes),
            timer.fired.map_or_else(|| "-".to_owned(), |position| format!("#{position}")),
        ]);
    }
    table
}
