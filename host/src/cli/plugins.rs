//! `tidegate plugins`: see and operate them.

use std::ops::ControlFlow;
use std::process::ExitCode;

use serde::de::IgnoredAny;

use super::Output;
use super::client::Client;
use super::diff::{self, DiffArgs};
use super::out::{Out, note, plain};
use super::resumed::{self, AtEnd};
use super::table::{Table, bytes};
use crate::api::view::{
    LogLineView, PluginView, PluginsView, ReloadResult, ReloadView, RewindView, SkippedView,
    SubscriptionView,
};
use crate::plugin::subscription::InvalidStart;
use crate::plugin::{Manifest, Start};

/// Digits of a digest that people need.
const DIGEST_SHOWN_CHARS: usize = 12;

/// What to do with plugins.
#[derive(Debug, clap::Subcommand)]
pub enum PluginsCommand {
    /// List plugins, and files that are none
    List,
    /// Show everything about one plugin
    Show {
        /// Its name
        name: String,
    },
    /// Show what a plugin logs
    Logs {
        /// Its name
        name: String,
        /// Go on with new lines, until stopped
        #[arg(long, short)]
        follow: bool,
        /// How many of the lines that are kept
        #[arg(long, value_name = "N", default_value_t = 100)]
        recent: usize,
    },
    /// Stop deliveries to a plugin
    Pause {
        /// Its name
        name: String,
        /// Why, for people
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Let deliveries to a plugin go on, or register one that waits as a new one
    Resume {
        /// Its name
        name: String,
    },
    /// Give the state and place of OLD to the plugin NEW
    Rename {
        /// The name so far
        old: String,
        /// The new name: that of the new file
        new: String,
    },
    /// Go back to an earlier module, until the file changes
    Rollback {
        /// Its name
        name: String,
        /// Its digest, or a beginning of it [default: the module before the current one]
        #[arg(long, value_name = "DIGEST")]
        module: Option<String>,
    },
    /// Rebuild the state of a plugin: its events once more, on the module that is there now. What
    /// they emitted and called is not repeated
    Rewind {
        /// Its name
        name: String,
        /// The first event that is delivered again: `earliest`, a position or an RFC 3339 time
        #[arg(long, default_value = "earliest", value_parser = beginning)]
        to: String,
    },
    /// Run past deliveries again, and compare: exit code 1 where one differs
    Diff(DiffArgs),
    /// Remove a plugin whose file is gone, with its state
    Forget {
        /// Its name
        name: String,
    },
}

/// Where a rewind may begin.
fn beginning(text: &str) -> Result<String, String> {
    match text.parse() {
        Ok(Start::Latest) | Err(InvalidStart) => {
            Err("is not `earliest`, a position or an RFC 3339 time".to_owned())
        }
        Ok(_) => Ok(text.to_owned()),
    }
}

/// Runs one of them.
///
/// # Errors
/// The host does not do as asked, or the output cannot be written.
pub fn run(
    client: &Client,
    command: &PluginsCommand,
    output: Output,
    out: &mut Out,
) -> anyhow::Result<ExitCode> {
    match command {
        PluginsCommand::Diff(args) => return diff::run(client, args, output, out),
        PluginsCommand::List => {
            let plugins: PluginsView = client.get(&["v1", "plugins"], &[])?;
            match output {
                Output::Json => out.json(&plugins)?,
                Output::Text => {
                    if plugins.plugins.is_empty() {
                        note(
                            "no plugins yet: put a .wasm file into the plugins folder, or tidegate new NAME",
                        );
                    } else {
                        out.line(table(&plugins.plugins))?;
                    }
                    print_skipped(&plugins.skipped, out)?;
                }
            }
        }
        PluginsCommand::Show { name } => {
            let plugin: PluginView = client.get(&["v1", "plugins", name], &[])?;
            match output {
                Output::Json => out.json(&plugin)?,
                Output::Text => print_plugin(&plugin, out)?,
            }
        }
        PluginsCommand::Logs { name, follow, recent } => {
            logs(client, name, *follow, *recent, output, out)?;
        }
        PluginsCommand::Pause { name, reason } => {
            let reason = reason.as_deref().map(|reason| ("reason", reason));
            act(client, name, "pause", reason.as_slice(), output, out)?;
        }
        PluginsCommand::Resume { name } => act(client, name, "resume", &[], output, out)?,
        PluginsCommand::Rename { old, new } => {
            act(client, old, "rename", &[("to", new)], output, out)?;
        }
        PluginsCommand::Rollback { name, module } => {
            let module = module.as_deref().map(|module| ("module", module));
            act(client, name, "rollback", module.as_slice(), output, out)?;
        }
        PluginsCommand::Rewind { name, to } => {
            let plugin = asked(client, name, "rewind", &[("to", to)])?;
            match output {
                Output::Json => out.json(&plugin)?,
                Output::Text => out.line(format_args!("{}{}", outline(&plugin), begun(&plugin)))?,
            }
        }
        PluginsCommand::Forget { name } => {
            client.delete(&["v1", "plugins", name])?;
            match output {
                Output::Json => out.json(&serde_json::json!({ "forgotten": name }))?,
                Output::Text => out.line(format_args!("{name} forgotten"))?,
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn act(
    client: &Client,
    name: &str,
    action: &str,
    query: &[(&str, &str)],
    output: Output,
    out: &mut Out,
) -> anyhow::Result<()> {
    let plugin = asked(client, name, action, query)?;
    match output {
        Output::Json => out.json(&plugin)?,
        Output::Text => out.line(outline(&plugin))?,
    }
    Ok(())
}

/// Has the host do something with a plugin; gives what it is then.
fn asked(
    client: &Client,
    name: &str,
    action: &str,
    query: &[(&str, &str)],
) -> anyhow::Result<PluginView> {
    let path = ["v1", "plugins", name, action];
    Ok(client.post(&path, query, None, &[])?.answer)
}

/// A plugin on one line: `totals live  3f9a02d4b71c`.
fn outline(plugin: &PluginView) -> String {
    let digest = digest(plugin).map(|digest| format!("  {digest}")).unwrap_or_default();
    let reason = plugin.reason.as_deref().map(|reason| format!("  {}", plain(reason)));
    format!("{} {}{digest}{}", plugin.name, plugin.state.name(), reason.unwrap_or_default())
}

/// What a rewind has begun, and how to follow it.
fn begun(plugin: &PluginView) -> String {
    match &plugin.rewind {
        Some(RewindView { after, until, serves, .. }) if after < until => format!(
            "  events #{} to #{until} once more; generation {serves} is seen until then   \
             -> tidegate plugins show {}",
            after + 1,
            plugin.name
        ),
        // A short one is over before it is looked at.
        _ => format!("  generation {} is rebuilt already", plugin.generation),
    }
}

fn logs(
    client: &Client,
    name: &str,
    follow: bool,
    recent: usize,
    output: Output,
    out: &mut Out,
) -> anyhow::Result<()> {
    let most = recent.to_string();
    let query = [("recent", most.as_str()), ("follow", if follow { "true" } else { "false" })];
    let path = ["v1", "plugins", name, "logs"];
    if follow {
        return resumed::follow(client, &path, &query, AtEnd::GoOn, &mut |json| {
            print_line(json, output, out)?;
            Ok(ControlFlow::Continue(()))
        });
    }
    let mut items = client.stream(&path, &query, None)?;
    let mut any = false;
    while let Some(item) = items.next_item()? {
        any = true;
        if let Some(line) = item.data {
            print_line(&line, output, out)?;
        }
    }
    if !any && recent > 0 && output == Output::Text {
        note("no log lines are kept");
    }
    Ok(())
}

fn print_line(json: &str, output: Output, out: &mut Out) -> anyhow::Result<()> {
    if output == Output::Json {
        // Checked, so that what is printed is one document a line.
        serde_json::from_str::<IgnoredAny>(json)?;
        out.line(json)?;
        return Ok(());
    }
    let line: LogLineView = serde_json::from_str(json)?;
    let event = line.position.map(|position| format!(" #{position}"));
    let key = line.key.as_deref().map(|key| format!(" {key}"));
    let text = format!(
        "{} {:<5}{}{}  {}",
        line.at,
        line.level,
        event.unwrap_or_default(),
        key.unwrap_or_default(),
        line.message.replace('\n', "\n    "),
    );
    out.line(plain(&text))?;
    Ok(())
}

fn digest(plugin: &PluginView) -> Option<String> {
    plugin.module.as_ref().map(|module| module.digest.chars().take(DIGEST_SHOWN_CHARS).collect())
}

/// Plugins, one a row.
pub(super) fn table(plugins: &[PluginView]) -> Table {
    let mut table = Table::new(&[
        "PLUGIN",
        "STATE",
        "MODULE",
        "KIND",
        ">LAG",
        ">IN FLIGHT",
        ">WAITING",
        ">DEFERRED",
        ">PARKED",
        ">HELD",
        ">OK",
        ">FAILED",
        ">DEAD LETTERS",
        "LAST ERROR",
    ]);
    for plugin in plugins {
        let ok = plugin.deliveries.get("ok").copied().unwrap_or_default();
        let all: u64 = plugin.deliveries.values().sum();
        let error =
            plugin.reason.clone().or_else(|| plugin.last_error.as_ref().map(|e| e.message.clone()));
        table.row([
            plugin.name.clone(),
            plugin.state.name().to_owned(),
            digest(plugin).unwrap_or_else(|| "-".to_owned()),
            plugin.module.as_ref().map_or_else(|| "-".to_owned(), |module| module.kind.clone()),
            plugin.lag_events.to_string(),
            plugin.in_flight.to_string(),
            plugin.waiting.to_string(),
            plugin.deferred_events.to_string(),
            plugin.parked_keys.to_string(),
            plugin.held_keys.to_string(),
            ok.to_string(),
            all.saturating_sub(ok).to_string(),
            plugin.dead_letters.to_string(),
            super::table::shortened(&error.unwrap_or_default(), 80),
        ]);
    }
    table
}

/// Files that are no plugins.
pub(super) fn print_skipped(skipped: &[SkippedView], out: &mut Out) -> anyhow::Result<()> {
    for file in skipped {
        out.line(format_args!("skipped {}: {}", plain(&file.path), plain(&file.reason)))?;
    }
    Ok(())
}

/// What waits, and for what.
fn waits(plugin: &PluginView) -> Vec<(&'static str, String)> {
    let backlog = format!("in memory {}, retrying {}", plugin.queued, plugin.retrying);
    let throttled = plugin.throttled.iter().map(|throttle| {
        let of = throttle.prefix.as_ref().map(|prefix| format!(" of {prefix}"));
        let (limit, keys) = (&throttle.limit, throttle.keys);
        ("throttled", format!("{keys} by {limit}{}", of.unwrap_or_default()))
    });
    let timers = (plugin.timers > 0).then(|| ("timers", format!("{} pending", plugin.timers)));
    let state = format!("{} of {} keys", bytes(plugin.state_bytes), plugin.state_keys);
    let first = [("backlog", backlog), ("state kept", state)];
    first.into_iter().chain(throttled).chain(timers).collect()
}

/// Which events it gets; nothing where no manifest says so.
fn subscribed(subscription: &SubscriptionView) -> Vec<(&'static str, String)> {
    if subscription.bus.is_empty() {
        return Vec::new();
    }
    let types = match subscription.types.is_empty() {
        true => "every ingested event".to_owned(),
        false => subscription.types.join(", "),
    };
    let first = format!("{types} on {}, from {}", subscription.bus, subscription.start);
    let conditions = subscription.conditions.iter();
    [("subscribes to", first), ("sources", subscription.sources.join(", "))]
        .into_iter()
        .chain(conditions.map(|(name, value)| ("where", format!("{name} = {value}"))))
        .collect()
}

fn history(tried: &[ReloadView]) -> Table {
    let mut table = Table::new(&["TRIED", "MODULE", "RESULT", "WHY"]);
    for tried in tried {
        let digest = tried.digest.chars().take(DIGEST_SHOWN_CHARS).collect();
        let result = match tried.result {
            ReloadResult::Ok => "ok",
            ReloadResult::Refused => "refused",
        };
        let why = tried.error.as_ref().or(tried.shadow.as_ref());
        let why = why.cloned().unwrap_or_default();
        table.row([tried.at.to_string(), digest, result.to_owned(), why]);
    }
    table
}

/// How far a rewind has come.
fn rebuilt(rewind: &RewindView) -> String {
    let RewindView { after, until, position, serves } = rewind;
    let (done, all) = (position.saturating_sub(*after), until.saturating_sub(*after));
    format!(
        "at {position}: {done} of {all} positions rebuilt; generation {serves} is seen meanwhile"
    )
}

fn print_plugin(plugin: &PluginView, out: &mut Out) -> anyhow::Result<()> {
    let mut lines: Vec<(&str, String)> =
        vec![("name", plugin.name.clone()), ("state", plugin.state.name().to_owned())];
    lines.extend(plugin.reason.clone().map(|reason| ("reason", reason)));
    lines.push(("description", plugin.description.clone()));
    lines.extend(plugin.file.clone().map(|file| ("file", file)));
    if let Some(module) = &plugin.module {
        let pinned = if module.pinned { ", pinned until the file changes" } else { "" };
        let size = bytes(module.size_bytes);
        lines.push(("module", format!("{} {} {size}{pinned}", module.digest, module.kind)));
        lines.push(("exports", module.exports.join(", ")));
    }
    if let Some(instance) = plugin.instance {
        lines.push(("instance", format!("{instance}, generation {}", plugin.generation)));
    }
    lines.extend(plugin.rewind.as_ref().map(|rewind| ("rewind", rebuilt(rewind))));
    lines.extend(subscribed(&plugin.subscription));
    let progress = format!(
        "completed up to #{}, lag {}, in flight {}, waiting {} (parked {}, held {}) with {} events \
         behind them",
        plugin.completed_position,
        plugin.lag_events,
        plugin.in_flight,
        plugin.waiting,
        plugin.parked_keys,
        plugin.held_keys,
        plugin.deferred_events,
    );
    lines.push(("progress", progress));
    lines.extend(waits(plugin));
    let outcomes: Vec<_> = plugin.deliveries.iter().map(|(k, n)| format!("{k} {n}")).collect();
    lines.push(("deliveries", outcomes.join(", ")));
    lines.push(("dead letters", plugin.dead_letters.to_string()));
    lines.push(("open calls", plugin.open_calls.to_string()));
    if let Some(error) = &plugin.last_error {
        lines.push(("last error", format!("{}  {}", error.at, error.message)));
    }
    for (name, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        out.line(format_args!("{name:<13}  {}", plain(value)))?;
    }
    if !plugin.history.is_empty() {
        out.line(format_args!("\n{}", history(&plugin.history)))?;
    }
    if let Some(manifest) = &plugin.manifest {
        // One of a newer host is shown as it came.
        let whole = Manifest::parse("of the host", manifest).map(|whole| whole.to_whole_toml());
        let manifest = whole.as_ref().unwrap_or(manifest);
        out.line(format_args!("\n{}", plain(manifest.trim_end())))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_without_a_manifest_that_can_be_read_subscribes_to_nothing() {
        assert_eq!(subscribed(&SubscriptionView::default()), []);
        let bus = "main".to_owned();
        let bare = SubscriptionView { bus, start: "earliest".to_owned(), ..Default::default() };
        let lines: Vec<_> = subscribed(&bare).into_iter().filter(|(_, l)| !l.is_empty()).collect();
        let line = "every ingested event on main, from earliest".to_owned();
        assert_eq!(lines, [("subscribes to", line)]);
    }
}
