//! tidegate as what it holds grows: prints a table for each thing that does, and with `--docs` puts the
//! tables into `SPEED.md` of that folder and draws their plots.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use tidegate_peers::growth::{AXES, Plan};
use tidegate_peers::side::Ticker;

const USAGE: &str = "usage: growth [--tidegate PROGRAM] [--docs DIR] [--events N] [--repetitions N] \
                     [--log-max N] [--watch SECONDS] [--module NAME=FILE]... \
                     [--only keys|in-flight|payload|plugins-apart|plugins-alike|poisoned|reload|log]...";

fn plan() -> Result<(Plan, Vec<String>)> {
    let mut plan = Plan {
        tidegate: PathBuf::from("tidegate"),
        events: 200_000,
        repetitions: 3,
        log_max: 20_000_000,
        watch_s: 5,
        modules: Vec::new(),
        docs: None,
    };
    let mut only = Vec::new();
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let value = args.next().with_context(|| format!("`{name}` needs a value; {USAGE}"))?;
        let number = || value.parse::<u64>().with_context(|| format!("`{name} {value}`: {USAGE}"));
        match name.as_str() {
            "--tidegate" => plan.tidegate = PathBuf::from(value),
            "--docs" => plan.docs = Some(PathBuf::from(value)),
            "--events" => plan.events = number()?,
            "--repetitions" => plan.repetitions = usize::try_from(number()?)?.max(1),
            "--log-max" => plan.log_max = number()?,
            "--watch" => plan.watch_s = number()?,
            "--module" => {
                let (name, file) = value.split_once('=').context(USAGE)?;
                plan.modules.push((name.to_owned(), PathBuf::from(file)));
            }
            "--only" if AXES.iter().any(|axis| axis.name == value) => only.push(value),
            "--only" => bail!("`{value}` does not grow; {USAGE}"),
            _ => bail!("`{name}` is not an option; {USAGE}"),
        }
    }
    Ok((plan, only))
}

fn main() -> Result<()> {
    let (plan, only) = plan()?;
    let ticker = Ticker::start();
    let mut failed = false;
    for axis in AXES {
        if only.is_empty() || only.iter().any(|only| only == axis.name) {
            let found = (axis.measure)(&plan);
            let reported = found.and_then(|found| found.report(axis.name, plan.docs.as_deref()));
            if let Err(error) = reported {
                // The others are worth having.
                eprintln!("{}: {error:#}", axis.name);
                failed = true;
            }
        }
    }
    drop(ticker);
    if failed {
        bail!("not everything could be measured");
    }
    Ok(())
}
