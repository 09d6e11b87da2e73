//! Medians of rounds, as Markdown.

use std::fmt;

use crate::series::median;
use crate::side::Run;

/// What was found, a row for each side. The first is what the others are compared with.
pub struct Table {
    rows: Vec<Row>,
}

struct Row {
    name: String,
    runs: Vec<Run>,
    failed: Option<String>,
}

impl Table {
    /// Nothing yet.
    pub fn new(names: Vec<String>) -> Self {
        let rows = names.into_iter().map(|name| Row { name, runs: Vec::new(), failed: None });
        Self { rows: rows.collect() }
    }

    /// Adds a run of a side.
    pub fn add(&mut self, place: usize, run: Run) {
        self.rows[place].runs.push(run);
    }

    /// Notes why a side could not run.
    pub fn fail(&mut self, place: usize, why: String) {
        self.rows[place].failed = Some(why);
    }
}

impl Row {
    fn median(&self, figure: impl Fn(&Run) -> Option<f64>) -> Option<f64> {
        median(self.runs.iter().filter_map(figure))
    }

    /// How many times as fast the first side was, in the same rounds.
    fn times(&self, first: &Self, figure: impl Fn(&Run) -> Option<f64>) -> Option<f64> {
        let ratios = first.runs.iter().zip(&self.runs);
        median(ratios.filter_map(|(a, b)| Some(figure(a)? / figure(b)?)))
    }
}

fn cell(figure: Option<f64>, digits: usize) -> String {
    figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.digits$}"))
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.rows.first() else { return Ok(()) };
        writeln!(
            f,
            "| | append, events/s | tidegate is | publish and consume, events/s | tidegate is | p50 / p99 at a steady rate, ms |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|")?;
        let brokers =
            self.rows.iter().filter(|row| row.runs.iter().any(|run| run.append.is_some()));
        for row in brokers {
            let ms = |us: Option<f64>| cell(us.map(|us| us / 1000.0), 2);
            writeln!(
                f,
                "| {} | {} | {} x | {} | {} x | {} / {} |",
                row.name,
                cell(row.median(|run| run.append), 0),
                cell(row.times(first, |run| run.append), 1),
                cell(row.median(|run| run.pipeline), 0),
                cell(row.times(first, |run| run.pipeline), 1),
                ms(row.median(|run| run.p50_us)),
                ms(row.median(|run| run.p99_us)),
            )?;
        }
        writeln!(f, "\n| one call of a guest | CPU us |\n|---|---|")?;
        for row in &self.rows {
            if let Some(us) = row.median(|run| run.call_us) {
                writeln!(f, "| {} | {us:.2} |", row.name)?;
            }
        }
        for row in &self.rows {
            if let Some(why) = &row.failed {
                writeln!(f, "\n{} did not run: {why}", row.name)?;
            }
        }
        Ok(())
    }
}
