//! tidegate as what it holds grows: prints a table for each thing that does, and with `--docs` puts the
//! tables into `SPEED.md` of that folder and draws their plots.

use anyhow::{Result, bail};
use clap::Parser;
use tidegate_peers::growth::{AXES, Plan};
use tidegate_peers::side::Ticker;

/// Measures tidegate as what it holds grows
#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    plan: Plan,
    /// Measures this alone, and what else is named
    #[arg(long, value_parser = AXES.map(|axis| axis.name))]
    only: Vec<String>,
}

fn main() -> Result<()> {
    let Cli { plan, only } = Cli::parse();
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
