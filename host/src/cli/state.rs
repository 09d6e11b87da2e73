//! `tidegate state`: what a plugin keeps for a key.

use anyhow::Context;

use super::client::Client;
use super::out::{Out, note};
use super::table::{Table, bytes, shortened};
use super::{Output, valid};
use crate::api::filter::Point;
use crate::api::view::{StateValueView, StateView};

/// Characters of a value that a listing shows.
const VALUE_SHOWN_CHARS_MAX: usize = 80;

/// What to do with state.
#[derive(Debug, clap::Subcommand)]
pub enum StateCommand {
    /// Print one value: UTF-8 as it is, anything else as base64
    Get {
        /// The plugin
        plugin: String,
        /// The key
        key: String,
        /// Name of the value
        name: String,
        /// As it was after the deliveries up to this position, or at this log time (RFC 3339)
        #[arg(long, value_name = "POSITION|TIME", value_parser = valid::<Point>)]
        at: Option<String>,
    },
    /// List the values of a key
    List {
        /// The plugin
        plugin: String,
        /// The key
        key: String,
        /// Names that begin like this
        #[arg(long, default_value = "")]
        prefix: String,
        /// As they were after the deliveries up to this position, or at this log time (RFC 3339)
        #[arg(long, value_name = "POSITION|TIME", value_parser = valid::<Point>)]
        at: Option<String>,
    },
}

/// Runs one of them.
///
/// # Errors
/// The host does not do as asked, or the output cannot be written.
pub fn run(
    client: &Client,
    command: &StateCommand,
    output: Output,
    out: &mut Out,
) -> anyhow::Result<()> {
    match command {
        StateCommand::Get { plugin, key, name, at } => {
            let path = ["v1", "plugins", plugin, "state"];
            let mut query = vec![("key", key.as_str()), ("name", name)];
            query.extend(at.as_deref().map(|at| ("at", at)));
            let value: StateValueView = client.get(&path, &query)?;
            match output {
                Output::Json => out.json(&value)?,
                Output::Text => {
                    let text = value.value.or(value.value_base64);
                    out.line(text.context("the host answered without a value")?)?;
                }
            }
        }
        StateCommand::List { plugin, key, prefix, at } => {
            let values = all(client, plugin, key, prefix, at.as_deref())?;
            match output {
                Output::Json => out.json(&values)?,
                Output::Text if values.values.is_empty() => {
                    let when = if at.is_some() { "kept nothing then" } else { "keeps nothing" };
                    note(format_args!("`{plugin}` {when} for key `{key}`"));
                }
                Output::Text => out.line(table(&values))?,
            }
        }
    }
    Ok(())
}

fn all(
    client: &Client,
    plugin: &str,
    key: &str,
    prefix: &str,
    at: Option<&str>,
) -> anyhow::Result<StateView> {
    let path = ["v1", "plugins", plugin, "state"];
    let mut values = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let mut query = vec![("key", key), ("prefix", prefix), ("limit", "1000")];
        query.extend(after.as_deref().map(|after| ("after", after)));
        query.extend(at.map(|at| ("at", at)));
        let page: StateView = client.get(&path, &query)?;
        values.extend(page.values);
        after = page.next;
        if after.is_none() {
            return Ok(StateView { key: page.key, values, next: None });
        }
    }
}

fn table(state: &StateView) -> Table {
    let mut table = Table::new(&["NAME", ">SIZE", "EXPIRES", "VALUE"]);
    for value in &state.values {
        let shown = value.value.as_ref().or(value.value_base64.as_ref());
        table.row([
            value.name.clone(),
            bytes(value.bytes),
            value.expires.map_or_else(|| "-".to_owned(), |at| at.to_string()),
            shown.map_or_else(
                || "(large: state get)".to_owned(),
                |text| shortened(text, VALUE_SHOWN_CHARS_MAX),
            ),
        ]);
    }
    table
}
