//! What a bench found, for people and as JSON.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};
use serde_json::Value;

/// Everything one bench found. Figures are medians of the repetitions.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Its name.
    pub bench: &'static str,
    /// What it was told.
    pub parameters: BTreeMap<&'static str, Value>,
    /// Events from one end to the other.
    #[serde(serialize_with = "round", skip_serializing_if = "Option::is_none")]
    pub events_per_second: Option<f64>,
    /// That, against the raw segment file with groups as large as may be in flight; the median of
    /// what the repetitions came to, each against its neighbour.
    #[serde(serialize_with = "round", skip_serializing_if = "Option::is_none")]
    pub ratio_to_raw_segment: Option<f64>,
    /// The same with groups as large as the log made them in that repetition.
    #[serde(serialize_with = "round", skip_serializing_if = "Option::is_none")]
    pub ratio_to_raw_segment_same_group: Option<f64>,
    /// Against a file that was zeroed before the clock starts, with groups as large as may be in
    /// flight: what no log that grows can reach.
    #[serde(serialize_with = "round", skip_serializing_if = "Option::is_none")]
    pub ratio_to_file_zeroed_before: Option<f64>,
    /// Processor time of the process for one event, the bench's own included.
    #[serde(serialize_with = "round", skip_serializing_if = "Option::is_none")]
    pub cpu_us_per_event: Option<f64>,
    /// Latencies by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub latency: BTreeMap<&'static str, Percentiles>,
    /// The limit.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub raw_segment: Vec<RawFigures>,
    /// Where the time goes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<Stage>,
    /// Calls by kind.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<Call>,
    /// What there is no common name for.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub figures: BTreeMap<&'static str, Figure>,
    /// What each repetition came to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<Repetition>,
    /// What is to be known about the figures, or why there is one less.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A number, rounded for printing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure(pub f64);

impl Serialize for Figure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(rounded(self.0))
    }
}

/// What one repetition of a bench hands in.
#[derive(Debug, Clone)]
pub struct Run {
    /// Of the host.
    pub events_per_second: Figure,
    /// Of the limit, measured just before.
    pub raw_events_per_second: Figure,
    /// One by the other.
    pub ratio_to_raw_segment: Figure,
    /// Processor time of the process.
    pub cpu_us_per_event: Figure,
    /// Events in a group of the log, on average; none: another process has the log.
    pub group_events: Option<Figure>,
}

/// One repetition, beside its limits. Fields as in [`Run`] and, for ratios, [`Report`].
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs, reason = "each field is documented on `Run` or `Report`")]
pub struct Repetition {
    pub events_per_second: Figure,
    pub raw_events_per_second: Figure,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio_to_raw_segment: Option<Figure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio_to_raw_segment_same_group: Option<Figure>,
    /// Of the limit with groups of the size of `group_events`, measured just after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw_events_per_second_same_group: Option<Figure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio_to_file_zeroed_before: Option<Figure>,
    pub cpu_us_per_event: Figure,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_events: Option<Figure>,
}

impl From<Run> for Repetition {
    fn from(run: Run) -> Self {
        Self {
            events_per_second: run.events_per_second,
            raw_events_per_second: run.raw_events_per_second,
            ratio_to_raw_segment: Some(run.ratio_to_raw_segment),
            ratio_to_raw_segment_same_group: None,
            raw_events_per_second_same_group: None,
            ratio_to_file_zeroed_before: None,
            cpu_us_per_event: run.cpu_us_per_event,
            group_events: run.group_events,
        }
    }
}

/// How long something took.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Percentiles {
    /// Mean, microseconds.
    #[serde(serialize_with = "round_one")]
    pub mean_us: f64,
    /// Half take no longer, microseconds.
    #[serde(serialize_with = "round_one")]
    pub p50_us: f64,
    /// 99 of 100 take no longer, microseconds.
    #[serde(serialize_with = "round_one")]
    pub p99_us: f64,
    /// 999 of 1000 take no longer, microseconds.
    #[serde(serialize_with = "round_one")]
    pub p999_us: f64,
}

/// The raw segment file at one group size.
#[derive(Debug, Clone, Serialize)]
pub struct RawFigures {
    /// Not a segment that is zeroed as it grows, but a file that was zeroed before.
    pub zeroed_before: bool,
    /// Events of a group.
    pub group_events: u64,
    /// Bytes of an event.
    pub event_bytes: usize,
    /// Median of the repetitions.
    pub events_per_second: Figure,
    /// A group: one write, one fdatasync.
    pub group: Percentiles,
}

/// How a stage was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Processor time of the code of this stage alone, called in a loop before the run.
    CpuAlone,
    /// Processor time of the threads of this name during the run.
    CpuOfThread,
    /// Time that passed in it during the run, shared by the events of a group.
    WallShared,
    /// Time that one event spends in it during the run.
    WallEach,
}

/// One stage of an event's way.
#[derive(Debug, Clone, Serialize)]
pub struct Stage {
    /// Its name.
    pub stage: String,
    /// Microseconds for one event.
    pub us_per_event: Figure,
    /// What they are.
    pub measure: Measure,
}

/// One kind of call.
#[derive(Debug, Clone, Serialize)]
pub struct Call {
    /// What is called, and how.
    pub call: &'static str,
    /// Processor time of one, microseconds; the median of the repetitions.
    pub us: Figure,
    /// Against the bare call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio_to_bare: Option<Figure>,
}

impl Report {
    /// An empty one.
    pub(super) fn new(bench: &'static str) -> Self {
        Self { bench, ..Self::default() }
    }

    /// Notes a parameter.
    pub(super) fn parameter(&mut self, name: &'static str, value: impl Into<Value>) {
        self.parameters.insert(name, value.into());
    }

    /// Takes over the medians of the repetitions.
    pub(super) fn take_runs(&mut self, runs: Vec<Run>) {
        let of = |pick: fn(&Run) -> Figure| median(runs.iter().map(|run| pick(run).0));
        self.events_per_second = of(|run| run.events_per_second);
        self.ratio_to_raw_segment = of(|run| run.ratio_to_raw_segment);
        self.cpu_us_per_event = of(|run| run.cpu_us_per_event);
        self.runs = runs.into_iter().map(Repetition::from).collect();
    }

    /// Takes over what the two other limits came to in each repetition, in their order; none: the size
    /// of the log's own groups is not known.
    pub(super) fn take_limits(&mut self, same_group: Option<&[f64]>, zeroed_before: &[f64]) {
        for (index, run) in self.runs.iter_mut().enumerate() {
            let rate = run.events_per_second.0;
            let against = |limits: &[f64]| limits.get(index).map(|limit| Figure(rate / limit));
            run.ratio_to_raw_segment_same_group = same_group.and_then(against);
            run.raw_events_per_second_same_group =
                same_group.and_then(|limits| limits.get(index).copied()).map(Figure);
            run.ratio_to_file_zeroed_before = against(zeroed_before);
        }
        let of = |pick: fn(&Repetition) -> Option<Figure>| {
            median(self.runs.iter().filter_map(pick).map(|ratio| ratio.0))
        };
        self.ratio_to_raw_segment_same_group = of(|run| run.ratio_to_raw_segment_same_group);
        self.ratio_to_file_zeroed_before = of(|run| run.ratio_to_file_zeroed_before);
    }

    /// Leaves out the ratios, and says why.
    pub(super) fn without_ratios(&mut self, why: &str) {
        self.ratio_to_raw_segment = None;
        self.ratio_to_raw_segment_same_group = None;
        self.ratio_to_file_zeroed_before = None;
        for run in &mut self.runs {
            run.ratio_to_raw_segment = None;
            run.ratio_to_raw_segment_same_group = None;
            run.ratio_to_file_zeroed_before = None;
        }
        self.notes.push(why.to_owned());
    }
}

/// The middle one, of an even number the mean of the two in the middle; none of none.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2)?;
    let lower = values.get(values.len().saturating_sub(1) / 2)?;
    Some(f64::midpoint(*lower, *upper))
}

/// The medians of each percentile.
pub(super) fn median_percentiles(all: &[Percentiles]) -> Percentiles {
    let of = |pick: fn(&Percentiles) -> f64| median(all.iter().map(pick)).unwrap_or_default();
    Percentiles {
        mean_us: of(|p| p.mean_us),
        p50_us: of(|p| p.p50_us),
        p99_us: of(|p| p.p99_us),
        p999_us: of(|p| p.p999_us),
    }
}

fn rounded(value: f64) -> f64 {
    // Four digits that mean something, none of them noise.
    let scale = if value.abs() >= 1000.0 { 1.0 } else { 1000.0 };
    (value * scale).round() / scale
}

#[allow(clippy::ref_option, reason = "the signature is serde's")]
fn round<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    value.map(rounded).serialize(serializer)
}

fn round_one<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((value * 10.0).round() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median([]), None);
    }

    #[test]
    fn a_report_is_one_document_with_the_ratio_in_it() {
        let report = of_runs(&[100.0, 160.0, 120.0]);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["ratio_to_raw_segment"], 0.6);
        assert_eq!(json["cpu_us_per_event"], 1.235);
        assert_eq!(json["runs"][1]["ratio_to_raw_segment"], 0.8);
        assert!(json.get("notes").is_none());
        assert!(json.get("stages").is_none());
    }

    fn of_runs(rates: &[f64]) -> Report {
        let mut report = Report::new("append");
        let run = |rate: &f64| Run {
            events_per_second: Figure(*rate),
            raw_events_per_second: Figure(200.0),
            ratio_to_raw_segment: Figure(rate / 200.0),
            cpu_us_per_event: Figure(1.234_56),
            group_events: Some(Figure(7.0)),
        };
        report.take_runs(rates.iter().map(run).collect());
        report
    }

    #[test]
    fn each_repetition_is_held_against_its_own_limits() {
        let mut report = of_runs(&[100.0, 160.0, 120.0]);
        report.take_limits(Some(&[200.0, 200.0, 480.0]), &[1000.0, 400.0, 400.0]);
        assert_eq!(report.ratio_to_raw_segment_same_group, Some(0.5));
        assert_eq!(report.ratio_to_file_zeroed_before, Some(0.3));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["runs"][2]["ratio_to_raw_segment_same_group"], 0.25);
        assert_eq!(json["runs"][2]["raw_events_per_second_same_group"], 480.0);
        assert_eq!(json["runs"][0]["ratio_to_file_zeroed_before"], 0.1);
    }

    #[test]
    fn a_ratio_that_is_left_out_is_nowhere_and_the_report_says_why() {
        let mut report = of_runs(&[100.0]);
        report.take_limits(Some(&[200.0]), &[400.0]);
        report.without_ratios("because");
        let json = serde_json::to_string(&report).unwrap();
        assert!(!json.contains("ratio") && json.contains("because"), "{json}");
    }
}
