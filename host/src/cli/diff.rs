//! `tidegate plugins diff`: what another module would have made of the past.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};

use super::Output;
use super::client::Client;
use super::out::{Out, UsageError, plain};
use crate::api::view::DiffView;

/// Which past, and on which module.
#[derive(Debug, clap::Args)]
pub struct DiffArgs {
    /// The plugin
    name: String,
    /// The first position
    #[arg(long, value_name = "POSITION")]
    from: Option<u64>,
    /// The last position
    #[arg(long, value_name = "POSITION")]
    to: Option<u64>,
    /// The module to run: a file, or the digest of one that served [default: the one that serves]
    #[arg(long, value_name = "FILE|DIGEST")]
    module: Option<PathBuf>,
    /// Run each delivery on the module that served then
    #[arg(long, conflicts_with = "module")]
    recorded: bool,
    /// How many differences to tell in words
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
}

/// Runs past deliveries again: exit code 1 where one differs.
///
/// # Errors
/// The range makes no sense, the host does not do as asked, the replay broke off, or the output cannot be written.
pub fn run(
    client: &Client,
    args: &DiffArgs,
    output: Output,
    out: &mut Out,
) -> anyhow::Result<ExitCode> {
    if let (Some(from), Some(to)) = (args.from, args.to)
        && from > to
    {
        return Err(UsageError::range(from, to).into());
    }
    let mut query = vec![("limit", args.limit.to_string())];
    query.extend(args.from.map(|from| ("from", from.to_string())));
    query.extend(args.to.map(|to| ("to", to.to_string())));
    let mut wasm = Vec::new();
    match &args.module {
        Some(path) if path.exists() => {
            let read = std::fs::read(path);
            wasm = read.with_context(|| format!("cannot read module `{}`", path.display()))?;
        }
        Some(text) => {
            let text = text.display().to_string();
            if !text.bytes().all(|b| b.is_ascii_hexdigit()) {
                bail!("there is no file `{text}`, and it is no digest of a module");
            }
            query.push(("module", text));
        }
        None if args.recorded => query.push(("module", "recorded".to_owned())),
        None => {}
    }
    let query: Vec<_> = query.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let kind = (!wasm.is_empty()).then_some("application/wasm");
    let path = ["v1", "plugins", &args.name, "diff"];
    let diff: DiffView = client.post(&path, &query, kind, &wasm)?.answer;
    match output {
        Output::Json => out.json(&diff)?,
        Output::Text => {
            let before = diff.from.saturating_sub(1);
            if args.from.unwrap_or(1) < diff.from {
                out.line(format_args!(
                    "deliveries up to #{before} were made before a rewind, and are not compared"
                ))?;
            }
            print(&diff, out)?;
        }
    }
    if let Some(why) = &diff.failed {
        bail!("the replay broke off: {why}");
    }
    if diff.equal + diff.different == 0 && diff.not_replayable > 0 {
        bail!("nothing could be compared: none of the deliveries can be run again");
    }
    Ok(if diff.different == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(diff: &DiffView, out: &mut Out) -> anyhow::Result<()> {
    let module = diff
        .module
        .as_deref()
        .map_or("the modules that served", |digest| digest.get(..12).unwrap_or(digest));
    out.line(format_args!("{}  #{} to #{} on {module}", diff.plugin, diff.from, diff.to))?;
    let counts = format!("{} equal, {} different", diff.equal, diff.different);
    let passed = match diff.passed_over {
        0 => String::new(),
        n => format!(", {n} passed over by the host"),
    };
    out.line(format_args!("{counts}, {} not replayable{passed}", diff.not_replayable))?;
    for (why, count) in &diff.obstacles {
        out.line(format_args!("not replayable  {count}  {why}"))?;
    }
    for difference in &diff.differences {
        let key = difference.key.as_deref().map(|key| format!(" {key}")).unwrap_or_default();
        for change in &difference.changes {
            let text = format!(
                "#{}{key}  {}: {} -> {}",
                difference.position, change.what, change.before, change.after
            );
            out.line(plain(&text.replace('\n', " ")))?;
        }
    }
    let more = diff.different.saturating_sub(diff.differences.len() as u64);
    if more > 0 {
        out.line(format_args!("and {more} more (--limit)"))?;
    }
    Ok(())
}
