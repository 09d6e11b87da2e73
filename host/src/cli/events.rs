//! `tidegate events`: list, get, tail, tree.

use std::collections::HashMap;
use std::ops::ControlFlow;

use serde_json::value::RawValue;

use super::client::Client;
use super::out::{Out, UsageError, note, plain};
use super::resumed::{self, AtEnd};
use super::table::{Table, shortened};
use super::{Output, from_one, valid};
use crate::api::filter::Point;
use crate::api::view::TreeView;
use crate::limits;
use crate::plugin::{SourcePattern, TypePattern};

/// Characters of data that a listing shows.
const DATA_SHOWN_CHARS_MAX: usize = 60;

/// What to do with events.
#[derive(Debug, clap::Subcommand)]
pub enum EventsCommand {
    /// List events, oldest first
    List {
        /// Which ones
        #[command(flatten)]
        filter: FilterArgs,
        /// How many at most
        #[arg(long, default_value_t = 100, value_parser = from_one())]
        limit: usize,
    },
    /// Show one event
    Get {
        /// Its number in the bus
        position: u64,
        /// The bus [default: the default one]
        #[arg(long)]
        bus: Option<String>,
    },
    /// Show events as they come, until stopped
    Tail {
        /// Which ones
        #[command(flatten)]
        filter: FilterArgs,
        /// Stop after so many
        #[arg(long, value_parser = from_one())]
        limit: Option<usize>,
    },
    /// Show what caused an event, and what it caused
    Tree {
        /// Its number in the bus
        position: u64,
        /// The bus [default: the default one]
        #[arg(long)]
        bus: Option<String>,
    },
}

/// Which events are meant.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct FilterArgs {
    /// Type; `*` is one segment, `**` any number
    #[arg(long = "type", value_name = "TYPE", value_parser = valid::<TypePattern>)]
    kind: Option<String>,
    /// Key
    #[arg(long)]
    key: Option<String>,
    /// Source; `*` is any run of characters
    #[arg(long, value_parser = valid::<SourcePattern>)]
    source: Option<String>,
    /// Id
    #[arg(long)]
    id: Option<String>,
    /// From this position or RFC 3339 time on
    #[arg(long, value_name = "POINT", value_parser = valid::<Point>)]
    from: Option<String>,
    /// Up to this position or RFC 3339 time
    #[arg(long, value_name = "POINT", value_parser = valid::<Point>)]
    to: Option<String>,
    /// The bus [default: the default one]
    #[arg(long)]
    bus: Option<String>,
}

impl FilterArgs {
    /// Refuses a range that ends before it begins, as far as that can be told without the log.
    fn check(&self) -> Result<(), UsageError> {
        let (Some(from), Some(to)) = (&self.from, &self.to) else { return Ok(()) };
        let is_backwards = match (from.parse(), to.parse()) {
            (Ok(Point::Position(from)), Ok(Point::Position(to))) => from > to,
            (Ok(Point::TimeMs(from)), Ok(Point::TimeMs(to))) => from > to,
            _ => false,
        };
        if is_backwards { Err(UsageError::range(from, to)) } else { Ok(()) }
    }

    fn query(&self) -> Vec<(&str, &str)> {
        [
            ("type", &self.kind),
            ("key", &self.key),
            ("source", &self.source),
            ("id", &self.id),
            ("from", &self.from),
            ("to", &self.to),
            ("bus", &self.bus),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.as_deref()?)))
        .collect()
    }
}

/// An event as it came, member by member.
struct Shown(HashMap<String, Box<RawValue>>);

impl Shown {
    fn parse(json: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(json).map(Self)
    }

    fn text(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.0.get(name)?.get()).ok()
    }

    /// Key and sequence, as `o-1/3`; nothing where there is no key.
    fn key(&self) -> String {
        let key = self.text("partitionkey").or_else(|| self.text("subject"));
        match (key, self.text("tidegatesequence")) {
            (Some(key), Some(sequence)) => format!("{key}/{sequence}"),
            (Some(key), None) => key,
            _ => String::new(),
        }
    }

    /// The data on one line.
    fn data(&self) -> String {
        let data = self.0.get("data").or_else(|| self.0.get("data_base64"));
        data.map_or_else(String::new, |data| {
            let words: Vec<_> = data.get().split_whitespace().collect();
            words.join(" ")
        })
    }

    fn position(&self) -> String {
        self.text("tidegateposition").unwrap_or_default()
    }
}

/// Runs one of them.
///
/// # Errors
/// The range makes no sense, the host does not do as asked, or the output cannot be written.
pub fn run(
    client: &Client,
    command: &EventsCommand,
    output: Output,
    out: &mut Out,
) -> anyhow::Result<()> {
    match command {
        EventsCommand::List { filter, limit } => list(client, filter, *limit, output, out),
        EventsCommand::Tail { filter, limit } => tail(client, filter, *limit, output, out),
        EventsCommand::Get { position, bus } => get(client, *position, bus.as_deref(), output, out),
        EventsCommand::Tree { position, bus } => {
            let position = position.to_string();
            let bus = bus.as_deref().map(|bus| ("bus", bus));
            let path = ["v1", "events", &position, "tree"];
            let tree: TreeView = client.get(&path, bus.as_slice())?;
            match output {
                Output::Json => out.json(&tree)?,
                Output::Text => print_tree(&tree, out)?,
            }
            Ok(())
        }
    }
}

fn list(
    client: &Client,
    filter: &FilterArgs,
    limit: usize,
    output: Output,
    out: &mut Out,
) -> anyhow::Result<()> {
    filter.check()?;
    let mut left = limit;
    let mut cursor: Option<String> = None;
    let mut listed = 0;
    let mut table = Table::new(&[">POSITION", "RECORDED", "TYPE", "KEY", "DATA"]);
    while left > 0 {
        let page_limit = left.min(limits::LIST_MAX).to_string();
        let mut query = filter.query();
        query.push(("limit", &page_limit));
        query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
        let page = client.get_page(&["v1", "events"], &query)?;
        let events: Vec<&RawValue> = serde_json::from_slice(&page.body)?;
        for event in &events {
            match output {
                Output::Json => {
                    out.bytes(if listed == 0 { b"[" } else { b",\n " })?;
                    out.bytes(event.get().as_bytes())?;
                }
                Output::Text => {
                    let event = Shown::parse(event.get())?;
                    let recorded = event.text("tidegaterecorded").unwrap_or_default();
                    let kind = event.text("type").unwrap_or_default();
                    let data = shortened(&event.data(), DATA_SHOWN_CHARS_MAX);
                    table.row([event.position(), recorded, kind, event.key(), data]);
                }
            }
            listed += 1;
        }
        left = left.saturating_sub(events.len());
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    match output {
        Output::Json if listed == 0 => out.line("[]")?,
        Output::Json => out.line("]")?,
        Output::Text if table.is_empty() => note("no events"),
        Output::Text => out.line(table)?,
    }
    if cursor.is_some() {
        note("there may be more: raise --limit, or narrow with --from, --type, --key");
    }
    Ok(())
}

fn get(
    client: &Client,
    position: u64,
    bus: Option<&str>,
    output: Output,
    out: &mut Out,
) -> anyhow::Result<()> {
    let position = position.to_string();
    let bus = bus.map(|bus| ("bus", bus));
    let page = client.get_page(&["v1", "events", &position], bus.as_slice())?;
    let json = String::from_utf8(page.body)?;
    if output == Output::Json {
        out.line(json)?;
        return Ok(());
    }
    let event = Shown::parse(&json)?;
    let mut names: Vec<_> = event.0.keys().filter(|name| !name.starts_with("data_")).collect();
    names.retain(|name| *name != "data");
    names.sort_unstable();
    let width = names.iter().map(|name| name.len()).max().unwrap_or_default();
    for name in names {
        let value = event.text(name).unwrap_or_default();
        out.line(format_args!("{name:<width$}  {}", plain(&value)))?;
    }
    if let Some(data) = event.0.get("data") {
        out.line(format_args!("\n{}", plain(data.get())))?;
    } else if let Some(data) = event.text("data_base64") {
        out.line(format_args!("\n{data}"))?;
    }
    Ok(())
}

fn tail(
    client: &Client,
    filter: &FilterArgs,
    limit: Option<usize>,
    output: Output,
    out: &mut Out,
) -> anyhow::Result<()> {
    filter.check()?;
    let mut left = limit.unwrap_or(usize::MAX);
    // Nothing after `to` will ever match.
    let at_end = if filter.to.is_some() { AtEnd::Stop } else { AtEnd::GoOn };
    let path = ["v1", "events", "stream"];
    resumed::follow(client, &path, &filter.query(), at_end, &mut |json| {
        print_event(json, output, out)?;
        left -= 1;
        Ok(if left > 0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })
}

/// Prints an event on one line.
fn print_event(json: &str, output: Output, out: &mut Out) -> anyhow::Result<()> {
    match output {
        // Data may have line breaks, as white space between its tokens only.
        Output::Json => out.line(json.replace('\n', " "))?,
        Output::Text => {
            let event = Shown::parse(json)?;
            let line = format!(
                "#{} {} {}  {}",
                event.position(),
                event.text("type").unwrap_or_default(),
                event.key(),
                shortened(&event.data(), DATA_SHOWN_CHARS_MAX),
            );
            out.line(plain(line.trim_end()))?;
        }
    }
    Ok(())
}

fn print_tree(tree: &TreeView, out: &mut Out) -> anyhow::Result<()> {
    let mut depths: HashMap<u64, usize> = HashMap::new();
    let mut children: HashMap<Option<u64>, Vec<usize>> = HashMap::new();
    for (index, event) in tree.events.iter().enumerate() {
        // A cause that is not listed makes a root.
        let cause = event.cause.filter(|cause| depths.contains_key(cause));
        let depth = cause.and_then(|cause| depths.get(&cause)).map_or(0, |depth| depth + 1);
        depths.insert(event.position, depth);
        children.entry(cause).or_default().push(index);
    }
    let mut open: Vec<usize> = children.remove(&None).unwrap_or_default();
    open.reverse();
    while let Some(index) = open.pop() {
        let Some(event) = tree.events.get(index) else { continue };
        let depth = depths.get(&event.position).copied().unwrap_or_default();
        let here = if event.position == tree.position { "*" } else { " " };
        let key = event.key.as_ref().map(|key| format!(" {key}/{}", event.sequence));
        let by = event.emitter.as_ref().map(|plugin| format!("  by {plugin}"));
        let line = format!(
            "{here} {:indent$}#{} {}{}{}",
            "",
            event.position,
            event.kind,
            key.unwrap_or_default(),
            by.unwrap_or_default(),
            indent = depth * 2,
        );
        out.line(plain(&line))?;
        let caused = children.remove(&Some(event.position)).unwrap_or_default();
        open.extend(caused.into_iter().rev());
    }
    if tree.truncated {
        note("there are more than are listed");
    }
    Ok(())
}
