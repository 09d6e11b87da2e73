//! tidegate, by its own benches: in process, as publishers and consumers of the others are clients on
//! the same machine. `pipeline` runs a guest for each event, which writes state and emits an event.

use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::Plan;
use crate::side::{Run, Side};

/// As the table calls it, in its first row.
pub const NAME: &str = "tidegate";

/// tidegate, and the bare engine under it.
pub fn sides() -> Vec<Side> {
    let bare = |plan: &Plan| {
        let found = bench(plan, &["invoke", "--events", "100000"])?;
        Ok(Run { call_us: call(&found, "bare, fuel on"), ..Run::default() })
    };
    vec![
        Side { name: NAME.to_owned(), run: Box::new(run) },
        Side { name: "wasmtime alone, the same component".to_owned(), run: Box::new(bare) },
    ]
}

fn bench(plan: &Plan, args: &[&str]) -> Result<Value> {
    let found = Command::new(&plan.tidegate)
        .arg("bench")
        .args(args)
        .args(["--repetitions", "1", "--output", "json"])
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("`{}`", plan.tidegate.display()))?;
    serde_json::from_slice(&found.stdout).with_context(|| format!("`tidegate bench {args:?}`"))
}

fn call(found: &Value, name: &str) -> Option<f64> {
    let calls = found.get("calls")?.as_array()?;
    calls.iter().find(|call| call["call"] == name)?["us"].as_f64()
}

fn run(plan: &Plan) -> Result<Run> {
    let (events, in_flight) = (plan.events.to_string(), plan.in_flight.to_string());
    let (rate, keys) = (plan.rate.to_string(), plan.keys.to_string());
    let few = (plan.rate * 2).to_string();
    let load = ["--events", &events, "--in-flight", &in_flight, "--keys", &keys];
    let append = bench(plan, &[&["append"], &load[..]].concat())?;
    let pipeline = bench(plan, &[&["pipeline"], &load[..]].concat())?;
    let steady = bench(plan, &["pipeline", "--events", &few, "--rate", &rate, "--keys", &keys])?;
    let invoke = bench(plan, &["invoke", "--events", "100000"])?;
    let latency = |share: &str| steady["latency"]["publish_to_effects_durable"][share].as_f64();
    Ok(Run {
        append: append["events_per_second"].as_f64(),
        pipeline: pipeline["events_per_second"].as_f64(),
        p50_us: latency("p50_us"),
        p99_us: latency("p99_us"),
        call_us: call(&invoke, "host, reuse"),
    })
}
