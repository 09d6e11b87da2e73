//! What a bench found, for people.

use super::super::out::Out;
use super::super::table::Table;
use crate::bench::report::{Figure, Measure, Percentiles, RawFigures, Report};

/// Parameters, tables, notes.
pub(super) fn print(report: &Report, out: &mut Out) -> std::io::Result<()> {
    let parameters = report.parameters.iter().filter(|(_, value)| !value.is_null());
    let parameters = parameters.map(|(name, value)| match value.as_str() {
        Some(text) => format!("{name} {text}"),
        None => format!("{name} {value}"),
    });
    out.line(format_args!("{}: {}", report.bench, parameters.collect::<Vec<_>>().join(", ")))?;
    out.line("")?;
    headline(report, out)?;
    latencies(report, out)?;
    calls(report, out)?;
    stages(report, out)?;
    report.notes.iter().try_for_each(|note| out.line(format_args!("\n{note}")))
}

fn headline(report: &Report, out: &mut Out) -> std::io::Result<()> {
    let mut table = Table::new(&["FIGURE (medians)", ">VALUE"]);
    let mut add = |name: &str, value: Option<f64>| {
        if let Some(value) = value {
            table.row([name.to_owned(), number(value)]);
        }
    };
    add("events a second", report.events_per_second);
    for raw in &report.raw_segment {
        add(&format!("{}: events a second", named(raw)), Some(raw.events_per_second.0));
    }
    add("ratio to raw segment", report.ratio_to_raw_segment);
    add("ratio to raw segment, at the log's own groups", report.ratio_to_raw_segment_same_group);
    add("ratio to a file zeroed before", report.ratio_to_file_zeroed_before);
    add("CPU us an event", report.cpu_us_per_event);
    for (name, Figure(value)) in &report.figures {
        // Among them are counts.
        let value = if value.fract() == 0.0 { format!("{value:.0}") } else { number(*value) };
        table.row([name.replace('_', " "), value]);
    }
    if table.is_empty() { Ok(()) } else { out.line(format_args!("{table}\n")) }
}

fn named(raw: &RawFigures) -> String {
    let file = if raw.zeroed_before { "file zeroed before" } else { "raw segment file" };
    format!("{file}, groups of {}", raw.group_events)
}

fn latencies(report: &Report, out: &mut Out) -> std::io::Result<()> {
    let mut table = Table::new(&["LATENCY us", ">p50", ">p99", ">p99.9"]);
    let mut add = |name: String, found: &Percentiles| {
        table.row([name, number(found.p50_us), number(found.p99_us), number(found.p999_us)]);
    };
    for (name, found) in &report.latency {
        add(name.replace('_', " "), found);
    }
    for raw in &report.raw_segment {
        add(format!("{}: each", named(raw)), &raw.group);
    }
    if table.is_empty() { Ok(()) } else { out.line(format_args!("{table}\n")) }
}

fn calls(report: &Report, out: &mut Out) -> std::io::Result<()> {
    let mut table = Table::new(&["CALL", ">CPU us", ">AGAINST BARE"]);
    for call in &report.calls {
        let ratio = call.ratio_to_bare.map_or_else(String::new, |ratio| number(ratio.0));
        table.row([call.call.to_owned(), number(call.us.0), ratio]);
    }
    if table.is_empty() { Ok(()) } else { out.line(table) }
}

fn stages(report: &Report, out: &mut Out) -> std::io::Result<()> {
    let mut table = Table::new(&["WHERE THE TIME GOES", ">us AN EVENT", "WHAT THAT IS"]);
    for stage in &report.stages {
        let what = match stage.measure {
            Measure::CpuAlone => "CPU, this code alone",
            Measure::CpuOfThread => "CPU of these threads, in the run",
            Measure::WallShared => "passed in the run, shared by a group",
            Measure::WallEach => "passed in the run, for each",
        };
        table.row([stage.stage.clone(), number(stage.us_per_event.0), what.to_owned()]);
    }
    if table.is_empty() { Ok(()) } else { out.line(table) }
}

/// As many digits as mean something.
fn number(value: f64) -> String {
    match value.abs() {
        1000.0.. => format!("{value:.0}"),
        100.0.. => format!("{value:.1}"),
        f64::MIN_POSITIVE..0.01 => format!("{value:.4}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_no_digits_behind_the_point() {
        let name = "deliveries_given_up_in_all_repetitions";
        let mut report = Report::default();
        report.figures.insert(name, Figure(500.0));
        report.figures.insert("events_per_second_and_core", Figure(812.44));
        let said = tempfile::NamedTempFile::new().unwrap();
        print(&report, &mut Out::to(said.reopen().unwrap())).unwrap();
        let text = std::fs::read_to_string(said.path()).unwrap();
        assert!(text.contains(" 500\n") && text.contains(" 812.4\n"), "{text}");
    }
}
