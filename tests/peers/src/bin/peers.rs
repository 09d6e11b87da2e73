//! tidegate beside other systems: the same event, the same durability, the same number in flight, in
//! turns on one machine. Prints the table of the README.
//!
//! Rule: every side runs in each round, so that a machine that is slow for a while is slow for all.
//! Ratios are those of one round; the table has their medians.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use tidegate_peers::{Plan, side};

const USAGE: &str = "usage: peers [--tidegate PROGRAM] [--events N] [--rounds N] \
                     [--in-flight N] [--rate N] [--keys N]";

fn plan() -> Result<Plan> {
    let mut plan = Plan {
        tidegate: PathBuf::from("tidegate"),
        events: 100_000,
        in_flight: 256,
        rate: 2000,
        rounds: 3,
        keys: 10_000,
    };
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let value = args.next().with_context(|| format!("`{name}` needs a value; {USAGE}"))?;
        let number = || value.parse::<u64>().with_context(|| format!("`{name} {value}`: {USAGE}"));
        match name.as_str() {
            "--tidegate" => plan.tidegate = PathBuf::from(value),
            "--events" => plan.events = number()?,
            "--rounds" => plan.rounds = usize::try_from(number()?)?,
            "--in-flight" => plan.in_flight = number()?,
            "--rate" => plan.rate = number()?,
            "--keys" => plan.keys = number()?,
            _ => bail!("`{name}` is not an option; {USAGE}"),
        }
    }
    Ok(plan)
}

fn main() -> Result<()> {
    let plan = plan()?;
    let ticker = side::Ticker::start();
    let table = side::measure(&plan)?;
    drop(ticker);
    print!("{table}");
    Ok(())
}
