//! What `tidegate bench pipeline` measures: the host in one process with those who publish.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::growth::{Found, Plan};
use crate::host::memory_mib;
use crate::series::{Panel, Scale, Series, Upright};

const FIGURES: [&str; 6] =
    ["events/s", "of the raw file's", "CPU us/event", "p50 ms", "p99 ms", "memory MiB"];

fn panels(latency: &'static str) -> Vec<Panel> {
    vec![
        Panel { title: "events per second", lines: &[(0, "")], upright: Upright::Zero },
        Panel { title: latency, lines: &[(3, "p50"), (4, "p99")], upright: Upright::Decades },
        Panel { title: "memory at most, MiB", lines: &[(5, "")], upright: Upright::Zero },
    ]
}

/// Events a second, their ratio to the raw segment file of the same run with groups of the same size,
/// processor time, how long an event takes, and the memory of all that.
fn bench(plan: &Plan, events: u64, args: &[&str]) -> Result<Vec<f64>> {
    // Many events say enough the first time.
    let repetitions = if events > plan.events { 1 } else { plan.repetitions };
    let mut child = Command::new(&plan.tidegate)
        .args(["bench", "pipeline", "--output", "json"])
        .args(["--repetitions", &repetitions.to_string(), "--events", &events.to_string()])
        .args(args)
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("`{}`", plan.tidegate.display()))?;
    let mut memory = 0.0;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        memory = memory_mib(child.id(), "VmHWM").unwrap_or(memory);
        std::thread::sleep(Duration::from_millis(10));
    };
    anyhow::ensure!(status.success(), "`tidegate bench pipeline {args:?}`: {status}");
    let mut found = String::new();
    child.stdout.take().context("no output")?.read_to_string(&mut found)?;
    let found: Value = serde_json::from_str(&found)?;
    let figure = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let latency = &found["latency"]["publish_to_effects_durable"];
    Ok(vec![
        figure(&found["events_per_second"]),
        figure(&found["ratio_to_raw_segment_same_group"]),
        figure(&found["cpu_us_per_event"]),
        figure(&latency["p50_us"]) / 1000.0,
        figure(&latency["p99_us"]) / 1000.0,
        memory,
    ])
}

/// Keys that events are spread over.
pub fn keys(plan: &Plan) -> Result<Found> {
    let panels = panels("publish to durable effects, ms");
    let mut series = Series::new("keys", Scale::Decades, &FIGURES, panels);
    for keys in [1_u64, 10, 100, 1000, 10_000, 100_000, 1_000_000] {
        // Fewer events than keys would not meet them all.
        let found = bench(plan, plan.events.max(keys), &["--keys", &keys.to_string()])?;
        series.add(keys as f64, &[found]);
    }
    Ok(Found::Series(series))
}

/// Events that are under way at once.
pub fn in_flight(plan: &Plan) -> Result<Found> {
    let panels = panels("publish to durable effects, ms");
    let mut series = Series::new("events in flight", Scale::Decades, &FIGURES, panels);
    for count in [1_u64, 4, 16, 64, 256, 1000, 4000, 10_000] {
        // One at a time, each event waits for two syncs.
        let events = plan.events.min(2000 * count);
        let found = bench(plan, events, &["--in-flight", &count.to_string()])?;
        series.add(count as f64, &[found]);
    }
    Ok(Found::Series(series))
}

/// Bytes of a payload, which the guest emits again.
pub fn payload(plan: &Plan) -> Result<Found> {
    let figures = [&["payload MiB/s"], &FIGURES[..]].concat();
    let panels = vec![
        Panel { title: "payload MiB per second", lines: &[(0, "")], upright: Upright::Decades },
        Panel { title: "events per second", lines: &[(1, "")], upright: Upright::Decades },
        Panel { title: "memory at most, MiB", lines: &[(6, "")], upright: Upright::Zero },
    ];
    let mut series = Series::new("payload", Scale::Bytes, &figures, panels);
    for bytes in [64_u64, 256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576] {
        let events = plan.events.min(plan.events * 512 / bytes).max(100);
        let mut found = bench(plan, events, &["--size", &bytes.to_string()])?;
        found.insert(0, found[0] * bytes as f64 / 1_048_576.0);
        series.add(bytes as f64, &[found]);
    }
    Ok(Found::Series(series))
}
