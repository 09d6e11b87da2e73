//! What becomes of tidegate as one thing after the other grows.

pub mod benched;
pub mod hosted;
pub mod log;
pub mod reload;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::builder::RangedU64ValueParser;

use crate::host::Host;
use crate::page;
use crate::plot::svg;
use crate::series::Series;

/// Writes one value and emits one event, for each event: what the benches run.
pub const GUEST: &str = include_str!("../../../../host/src/bench/guest.wat");

/// How much of everything.
#[derive(Debug, clap::Args)]
pub struct Plan {
    /// The `tidegate` program.
    #[arg(long, default_value = "tidegate")]
    pub tidegate: PathBuf,
    /// Events of one repetition.
    #[arg(long, default_value_t = 200_000)]
    pub events: u64,
    /// How often each size is measured; medians are shown.
    #[arg(long, default_value_t = 3, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    pub repetitions: usize,
    /// Events in the log at last.
    #[arg(long, default_value_t = 20_000_000)]
    pub log_max: u64,
    /// Seconds that latency is watched for, at each of its points.
    #[arg(long = "watch", value_name = "SECONDS", default_value_t = 5)]
    pub watch_s: u64,
    /// A module to be dropped in, and what the table calls it; made ones where there is none.
    #[arg(long = "module", value_name = "NAME=FILE", value_parser = named_file)]
    pub modules: Vec<(String, PathBuf)>,
    /// Folder with `SPEED.md` and `speed/`, where the tables and plots go.
    #[arg(long, value_name = "DIR")]
    pub docs: Option<PathBuf>,
}

fn named_file(text: &str) -> Result<(String, PathBuf), String> {
    let (name, file) = text.split_once('=').ok_or("there is no `=`")?;
    Ok((name.to_owned(), PathBuf::from(file)))
}

/// Something that grows.
pub struct Axis {
    /// Its name: of its marks in the page, and of its plot.
    pub name: &'static str,
    /// Measures it.
    pub measure: fn(&Plan) -> Result<Found>,
}

/// What was found.
pub enum Found {
    /// Figures by size.
    Series(Series),
    /// A table alone.
    Table(String),
}

/// All of them, in the order of the page.
pub const AXES: [Axis; 8] = [
    Axis { name: "keys", measure: benched::keys },
    Axis { name: "in-flight", measure: benched::in_flight },
    Axis { name: "payload", measure: benched::payload },
    Axis { name: "plugins-apart", measure: hosted::plugins_apart },
    Axis { name: "plugins-alike", measure: hosted::plugins_alike },
    Axis { name: "poisoned", measure: hosted::poisoned },
    Axis { name: "reload", measure: reload::reload },
    Axis { name: "log", measure: log::log },
];

impl Found {
    /// Prints it, and puts it into the documents.
    pub fn report(&self, name: &str, docs: Option<&Path>) -> Result<()> {
        let table = match self {
            Self::Series(series) => series.table(),
            Self::Table(table) => table.clone(),
        };
        println!("{name}\n\n{table}");
        let Some(docs) = docs else { return Ok(()) };
        page::replace(&docs.join("SPEED.md"), name, &table)?;
        if let Self::Series(series) = self {
            std::fs::create_dir_all(docs.join("speed"))?;
            std::fs::write(docs.join(format!("speed/{name}.svg")), svg(series))?;
        }
        Ok(())
    }
}

/// Names of so many plugins.
pub fn names(count: u64) -> Vec<String> {
    (0..count).map(|number| format!("p{number}")).collect()
}

/// Waits until these plugins have done everything that was published, and checks that it went as it
/// should: so many deliveries each that went well, so many keys that are parked.
pub fn until_done(host: &Host, plugins: &[String], ok: u64, parked: u64) -> Result<()> {
    for plugin in plugins {
        let view = host.until(plugin, |view| {
            view["deliveries"]["ok"].as_u64() >= Some(ok)
                && view["parked_keys"].as_u64() >= Some(parked)
        })?;
        anyhow::ensure!(
            view["deliveries"]["ok"] == ok && view["parked_keys"] == parked,
            "`{plugin}` did something else: {view}"
        );
    }
    Ok(())
}
