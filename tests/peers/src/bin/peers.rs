//! tidegate beside other systems: the same event, the same durability, the same number in flight, in
//! turns on one machine. Prints the table of the README.
//!
//! Rule: every side runs in each round, so that a machine that is slow for a while is slow for all.
//! Ratios are those of one round; the table has their medians.

use anyhow::Result;
use clap::Parser;
use tidegate_peers::{Plan, side};

/// Measures tidegate beside other systems, in turns on this machine
#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    plan: Plan,
    /// Only the sides whose name has this in it, in whatever case, beside tidegate
    #[arg(long, default_value = "")]
    only: String,
}

fn main() -> Result<()> {
    let Cli { plan, only } = Cli::parse();
    let ticker = side::Ticker::start();
    let table = side::measure(&plan, &only)?;
    drop(ticker);
    print!("{table}");
    Ok(())
}
