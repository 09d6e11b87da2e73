//! `tidegate dead-letters`: deliveries that were given up.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::client::Client;
use super::out::{Out, note, plain};
use super::table::{Table, shortened};
use super::{Output, from_one, outcome};
use crate::api::view::{ActedView, DeadLetterView, DeadLettersView};
use crate::limits;

/// What to do with dead letters.
#[derive(Debug, clap::Subcommand)]
pub enum DeadLettersCommand {
    /// List them, oldest first
    List {
        /// Of this plugin
        #[arg(long)]
        plugin: Option<String>,
        /// Of this key
        #[arg(long)]
        key: Option<String>,
        /// With this outcome: trap, fuel, timeout, memory, output, depth, retry, reject
        #[arg(long, value_parser = outcome())]
        outcome: Option<String>,
        /// How many at most
        #[arg(long, default_value_t = 100, value_parser = from_one())]
        limit: usize,
    },
    /// Show everything about one, with its event
    Show {
        /// Its id
        id: String,
    },
    /// Run some again, and then, in order, what waits behind them
    Redrive(Selection),
    /// Give some up for good; their keys go on
    Discard {
        /// Which
        #[command(flatten)]
        which: Selection,
        /// Why: it is recorded
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
}

/// Which dead letters are meant.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
pub struct Selection {
    /// This one
    #[arg(conflicts_with_all = ["plugin", "key", "outcome", "all"])]
    id: Option<String>,
    /// Those of this plugin
    #[arg(long)]
    plugin: Option<String>,
    /// Those of this key
    #[arg(long)]
    key: Option<String>,
    /// Those with this outcome: trap, fuel, timeout, memory, output, depth, retry, reject
    #[arg(long, value_parser = outcome())]
    outcome: Option<String>,
    /// All there are
    #[arg(long, conflicts_with_all = ["plugin", "key", "outcome"])]
    all: bool,
}

impl Selection {
    fn query(&self) -> Vec<(&str, &str)> {
        let named = [
            ("id", &self.id),
            ("plugin", &self.plugin),
            ("key", &self.key),
            ("outcome", &self.outcome),
        ];
        let named = named.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
        named.chain(self.all.then_some(("all", "true"))).collect()
    }
}

/// What the host says of one.
#[derive(Serialize, Deserialize)]
struct Shown {
    #[serde(flatten)]
    letter: DeadLetterView,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    event: Option<serde_json::Value>,
}

/// Runs one of them.
///
/// # Errors
/// The host does not do as asked, or the output cannot be written.
pub fn run(
    client: &Client,
    command: &DeadLettersCommand,
    output: Output,
    out: &mut Out,
) -> anyhow::Result<()> {
    match command {
        DeadLettersCommand::List { plugin, key, outcome, limit } => {
            let mut query = Vec::new();
            for (name, value) in [("plugin", plugin), ("key", key), ("outcome", outcome)] {
                query.extend(value.as_deref().map(|value| (name, value)));
            }
            let found = list(client, &query, *limit)?;
            match output {
                Output::Json => out.json(&found)?,
                Output::Text if found.dead_letters.is_empty() => note("no dead letters"),
                Output::Text => out.line(table(&found.dead_letters))?,
            }
            if found.next.is_some() {
                note("there are more: raise --limit");
            }
        }
        DeadLettersCommand::Show { id } => {
            let page = client.get_page(&["v1", "dead-letters", id], &[])?;
            let json = String::from_utf8(page.body)?;
            match output {
                // As it came, so that the data of the event stays as it was sent.
                Output::Json => out.line(RawValue::from_string(json)?.get())?,
                Output::Text => print(&serde_json::from_str(&json)?, out)?,
            }
        }
        DeadLettersCommand::Redrive(which) => {
            let path = ["v1", "dead-letters", "redrive"];
            let acted = client.post(&path, &which.query(), None, &[])?.answer;
            print_acted("redriving", &acted, output, out)?;
        }
        DeadLettersCommand::Discard { which, reason } => {
            let mut query = which.query();
            query.push(("reason", reason));
            let acted = client.post(&["v1", "dead-letters", "discard"], &query, None, &[])?.answer;
            print_acted("discarded", &acted, output, out)?;
        }
    }
    Ok(())
}

fn print_acted(did: &str, acted: &ActedView, output: Output, out: &mut Out) -> anyhow::Result<()> {
    if output == Output::Json {
        out.json(acted)?;
        return Ok(());
    }
    let s = if acted.count == 1 { "" } else { "s" };
    out.line(format_args!("{did} {} dead letter{s}", acted.count))?;
    for left in &acted.examples {
        note(format_args!("{} left as it is: {}", plain(&left.id), plain(&left.reason)));
    }
    let more = acted.left.saturating_sub(acted.examples.len() as u64);
    if more > 0 {
        note(format_args!("and {more} more left as they are"));
    }
    Ok(())
}

fn list(client: &Client, filter: &[(&str, &str)], limit: usize) -> anyhow::Result<DeadLettersView> {
    let mut found = DeadLettersView { dead_letters: Vec::new(), next: None };
    loop {
        let left = limit.saturating_sub(found.dead_letters.len());
        if left == 0 {
            return Ok(found);
        }
        let page_limit = left.min(limits::LIST_MAX).to_string();
        let mut query = filter.to_vec();
        query.push(("limit", &page_limit));
        query.extend(found.next.as_deref().map(|cursor| ("cursor", cursor)));
        let page: DeadLettersView = client.get(&["v1", "dead-letters"], &query)?;
        found.dead_letters.extend(page.dead_letters);
        found.next = page.next;
        if found.next.is_none() {
            return Ok(found);
        }
    }
}

fn table(letters: &[DeadLetterView]) -> Table {
    let mut table = Table::new(&[
        "ID",
        "PLUGIN",
        "EVENT",
        "TYPE",
        "KEY",
        "OUTCOME",
        ">ATTEMPTS",
        "GIVEN UP",
        "REASON",
    ]);
    for letter in letters {
        let parked = match (letter.parked, letter.redriving) {
            (true, _) => " (parked)",
            (_, true) => " (redriving)",
            _ => "",
        };
        table.row([
            letter.id.clone(),
            letter.plugin.clone(),
            format!("#{}", letter.position),
            letter.kind.clone(),
            format!("{}{parked}", letter.key.as_deref().unwrap_or("-")),
            letter.outcome.clone(),
            letter.attempts.to_string(),
            letter.given_up.to_string(),
            shortened(&letter.reason, 80),
        ]);
    }
    table
}

fn print(shown: &Shown, out: &mut Out) -> anyhow::Result<()> {
    let letter = &shown.letter;
    let event =
        format!("#{} {} of {} on {}", letter.position, letter.kind, letter.source, letter.bus);
    let lines = [
        ("id", letter.id.clone()),
        ("plugin", letter.plugin.clone()),
        ("event", event),
        ("event id", letter.event_id.clone()),
        ("key", letter.key.clone().unwrap_or_default()),
        ("outcome", letter.outcome.clone()),
        ("reason", letter.reason.clone()),
        ("attempts", letter.attempts.to_string()),
        ("first", letter.first_attempt.to_string()),
        ("given up", letter.given_up.to_string()),
        ("module", letter.module.clone()),
    ];
    for (name, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        out.line(format_args!("{name:<9}  {}", plain(value)))?;
    }
    if letter.parked {
        out.line("parked     later events of this key wait behind it")?;
    }
    if letter.redriving {
        out.line("redriving  it runs again")?;
    }
    if !letter.tried.is_empty() {
        out.line("\nattempts")?;
        let earlier = letter.tried.first().map_or(0, |first| first.attempt.saturating_sub(1));
        if earlier > 0 {
            out.line(format_args!("{:<4}  not kept", format!("1-{earlier}")))?;
        }
        for tried in &letter.tried {
            out.line(format_args!("{:<4}  {}  {}", tried.attempt, tried.at, tried.outcome))?;
        }
    }
    if !letter.state.is_empty() {
        out.line("\nstate before")?;
        for value in &letter.state {
            let text = value.value.as_ref().or(value.value_base64.as_ref());
            let text = text.map_or_else(|| format!("{} bytes", value.bytes), |t| shortened(t, 80));
            out.line(format_args!("{}={}", plain(&value.name), plain(&text)))?;
        }
    }
    if !letter.backtrace.is_empty() {
        out.line(format_args!(
            "\nbacktrace, innermost first\n{}",
            plain(letter.backtrace.trim_end())
        ))?;
    }
    if !letter.logs.is_empty() {
        out.line("\nlog of the last attempt")?;
        for line in &letter.logs {
            let message = line.message.replace('\n', "\n           ");
            out.line(format_args!("{:<5}  {}", plain(&line.level), plain(&message)))?;
        }
    }
    if let Some(event) = &shown.event {
        out.line(format_args!("\n{}", plain(&serde_json::to_string_pretty(event)?)))?;
    }
    Ok(())
}
