//! What becomes of tidegate as one thing after the other grows. Prints a table for each and writes a
//! plot: how fast, at what cost of processor time, in how much memory; and how soon it serves again.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tidegate_peers::host::{End, Host, Place};
use tidegate_peers::plot::Series;

const USAGE: &str = "usage: growth [--tidegate PROGRAM] [--plots DIR] [--events N] [--log-max N] \
                     [--only keys|in-flight|payload|plugins|poisoned|log|reload]...";

/// Writes one value and emits one event, for each event: what the benches run.
const GUEST: &str = include_str!("../../../../host/src/bench/guest.wat");
/// Where the handler begins.
const HANDLER: &str =
    "(func (export \"tidegate:plugin/handler@0.1.0#handle\") (param $event i32) (result i32)\n";
/// Traps where the last letter of the key is an x.
const TRAPS: &str = "    (if (i32.eq (i32.const 120) (i32.load8_u (i32.sub (i32.add
      (i32.load offset=28 (local.get $event)) (i32.load offset=32 (local.get $event))) (i32.const 1))))
      (then unreachable))\n";

struct Plan {
    tidegate: PathBuf,
    plots: PathBuf,
    events: u64,
    log_max: u64,
    only: Vec<String>,
}

fn plan() -> Result<Plan> {
    let mut plan = Plan {
        tidegate: PathBuf::from("tidegate"),
        plots: PathBuf::from("plots"),
        events: 100_000,
        log_max: 10_000_000,
        only: Vec::new(),
    };
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let value = args.next().with_context(|| format!("`{name}` needs a value; {USAGE}"))?;
        match name.as_str() {
            "--tidegate" => plan.tidegate = PathBuf::from(value),
            "--plots" => plan.plots = PathBuf::from(value),
            "--events" => plan.events = value.parse()?,
            "--log-max" => plan.log_max = value.parse()?,
            "--only" => plan.only.push(value),
            _ => bail!("`{name}` is not an option; {USAGE}"),
        }
    }
    Ok(plan)
}

fn main() -> Result<()> {
    let plan = plan()?;
    let axes: [(&str, fn(&Plan) -> Result<Series>); 7] = [
        ("keys", keys),
        ("in-flight", in_flight),
        ("payload", payload),
        ("plugins", plugins),
        ("poisoned", poisoned),
        ("log", log),
        ("reload", reload),
    ];
    for (name, axis) in axes {
        if plan.only.is_empty() || plan.only.iter().any(|only| only == name) {
            let series = axis(&plan).with_context(|| name.to_owned())?;
            println!("{}", series.table());
            series.save(&plan.plots)?;
        }
    }
    Ok(())
}

/// Figures of `tidegate bench pipeline`: events a second, their ratio to the raw segment file of the
/// same run, processor time, and how long an event takes.
fn bench(plan: &Plan, events: u64, args: &[&str]) -> Result<Vec<f64>> {
    let found = Command::new(&plan.tidegate)
        .args(["bench", "pipeline", "--repetitions", "1", "--output", "json", "--events"])
        .arg(events.to_string())
        .args(args)
        .stderr(Stdio::inherit())
        .output()?;
    let found: Value = serde_json::from_slice(&found.stdout).context("`tidegate bench`")?;
    let figure = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let latency = &found["latency"]["publish_to_effects_durable"];
    Ok(vec![
        figure(&found["events_per_second"]),
        figure(&found["ratio_to_raw_segment"]),
        figure(&found["cpu_us_per_event"]),
        figure(&latency["p50_us"]) / 1000.0,
        figure(&latency["p99_us"]) / 1000.0,
    ])
}

const BENCHED: [&str; 5] = ["events/s", "ratio to raw", "CPU us/event", "p50 ms", "p99 ms"];

fn keys(plan: &Plan) -> Result<Series> {
    let mut series = Series::new("keys", &BENCHED);
    for keys in [1_u64, 10, 100, 1000, 10_000, 100_000, 1_000_000] {
        let figures = bench(plan, plan.events, &["--keys", &keys.to_string()])?;
        series.add(keys as f64, &figures);
    }
    Ok(series)
}

fn in_flight(plan: &Plan) -> Result<Series> {
    let mut series = Series::new("in flight", &BENCHED);
    for count in [1_u64, 16, 256, 1000, 4096, 10_000] {
        // One at a time, each event waits for two syncs.
        let events = if count < 16 { plan.events.min(2000) } else { plan.events };
        series.add(count as f64, &bench(plan, events, &["--in-flight", &count.to_string()])?);
    }
    Ok(series)
}

fn payload(plan: &Plan) -> Result<Series> {
    let mut series = Series::new("payload bytes", &BENCHED);
    for bytes in [64_u64, 256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576 - 4096] {
        let events = plan.events.min((256 << 20) / bytes).max(100);
        series.add(bytes as f64, &bench(plan, events, &["--size", &bytes.to_string()])?);
    }
    Ok(series)
}

/// Writes events as `tidegate publish --batch` takes them.
fn write_events(
    file: &Path,
    numbers: std::ops::Range<u64>,
    kind: impl Fn(u64) -> String,
    key: impl Fn(u64) -> String,
) -> Result<()> {
    let mut out = BufWriter::new(std::fs::File::create(file)?);
    let data = "x".repeat(254);
    for number in numbers {
        writeln!(
            out,
            "{{\"specversion\":\"1.0\",\"id\":\"{number}\",\"source\":\"/growth\",\"type\":\"{}\",\
             \"partitionkey\":\"{}\",\"datacontenttype\":\"application/json\",\"data\":\"{data}\"}}",
            kind(number),
            key(number)
        )?;
    }
    Ok(out.flush()?)
}

/// Publishes, waits for the plugins, and gives events a second, processor time and memory.
fn run(place: &Place, host: &Host, file: &Path, events: u64, last: &[String]) -> Result<Vec<f64>> {
    let (began, before) = (Instant::now(), host.cpu_s()?);
    place.publish(host, file)?;
    for plugin in last {
        host.until_idle(plugin)?;
    }
    let seconds = began.elapsed().as_secs_f64();
    let cpu = (host.cpu_s()? - before) * 1e6 / events as f64;
    Ok(vec![events as f64 / seconds, cpu, host.memory_mib()?])
}

const RUN: [&str; 3] = ["events/s", "CPU us/event", "memory MiB"];

fn plugins(plan: &Plan) -> Result<Series> {
    let mut series = Series::new("plugins", &RUN);
    for count in [1_u64, 10, 100] {
        let place = Place::new(&plan.tidegate)?;
        let names: Vec<String> = (0..count).map(|number| format!("p{number}")).collect();
        for name in &names {
            let manifest = format!("[subscribe]\ntypes = [\"t.{name}\"]\n");
            place.plugin(name, GUEST, &manifest)?;
        }
        let host = place.start()?;
        until_there(&host, &names)?;
        let file = place.file("events");
        let kind = |number: u64| format!("t.p{}", number % count);
        write_events(&file, 0..plan.events, kind, |number| format!("k{}", number % 10_000))?;
        series.add(count as f64, &run(&place, &host, &file, plan.events, &names)?);
        host.end(End::Stop)?;
    }
    Ok(series)
}

fn until_there(host: &Host, names: &[String]) -> Result<()> {
    let began = Instant::now();
    for name in names {
        while !matches!(host.ask(&format!("/v1/plugins/{name}")), Ok((200, _))) {
            if began.elapsed().as_secs() > 300 {
                bail!("`{name}` was not taken");
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
    Ok(())
}

fn poisoned(plan: &Plan) -> Result<Series> {
    let guest = GUEST.replace(HANDLER, &format!("{HANDLER}{TRAPS}"));
    anyhow::ensure!(guest != GUEST, "the guest has another shape");
    let mut series = Series::new("poisoned keys of 1000", &RUN);
    for share in [0_u64, 10, 100] {
        let place = Place::new(&plan.tidegate)?;
        // Without a breaker: this is about the keys that fail, and one in ten is many.
        let manifest = "[subscribe]\nstart = \"earliest\"\n";
        place.plugin("p", &guest, manifest)?;
        let host = place.start()?;
        until_there(&host, &["p".to_owned()])?;
        let file = place.file("events");
        let key = |number: u64| {
            let key = number % (plan.events / 3);
            format!("k{key}{}", if key % 1000 < share { "x" } else { "o" })
        };
        write_events(&file, 0..plan.events, |_| "t.e".to_owned(), key)?;
        series.add(share as f64, &run(&place, &host, &file, plan.events, &["p".to_owned()])?);
        host.end(End::Stop)?;
    }
    Ok(series)
}

fn log(plan: &Plan) -> Result<Series> {
    let figures = [
        "append events/s",
        "memory MiB",
        "ready after a stop, ms",
        "ready after kill -9, ms",
        "memory then, MiB",
    ];
    let mut series = Series::new("events in the log", &figures);
    let place = Place::new(&plan.tidegate)?;
    let file = place.file("events");
    let mut have = 0;
    let mut size = 100_000;
    while size <= plan.log_max {
        let host = place.start()?;
        let began = Instant::now();
        let missing = size - have;
        while have < size {
            let until = (have + 1_000_000).min(size);
            let key = |number: u64| format!("k{}", number % 1_000_000);
            write_events(&file, have..until, |_| "t.e".to_owned(), key)?;
            place.publish(&host, &file)?;
            have = until;
        }
        let rate = missing as f64 / began.elapsed().as_secs_f64();
        let memory = host.memory_mib()?;
        host.end(End::Stop)?;
        let stopped = place.start()?;
        let after_stop = stopped.ready_ms;
        stopped.end(End::Kill)?;
        let killed = place.start()?;
        let (after_kill, memory_then) = (killed.ready_ms, killed.memory_mib()?);
        killed.end(End::Stop)?;
        series.add(size as f64, &[rate, memory, after_stop, after_kill, memory_then]);
        size *= 10;
    }
    Ok(series)
}

fn reload(plan: &Plan) -> Result<Series> {
    let figures = ["serving after ms", "again, known code, ms"];
    let mut series = Series::new("functions added to a module", &figures);
    for functions in [0_u64, 100, 1000, 10_000] {
        let place = Place::new(&plan.tidegate)?;
        place.plugin("p", GUEST, "")?;
        let host = place.start()?;
        until_there(&host, &["p".to_owned()])?;
        let more: String = (0..functions)
            .map(|n| format!("(func (param i64) (result i64) (i64.mul (i64.add (local.get 0) (i64.const {n})) (i64.rotl (local.get 0) (i64.const {}))))", n % 64))
            .collect();
        let end = GUEST.trim_end().strip_suffix(')').context("the guest has another shape")?;
        let larger = format!("{end}{more})\n");
        let first = swap(&place, &host, &larger.replace("bench.counted", "bench.reckond"))?;
        swap(&place, &host, GUEST)?;
        let again = swap(&place, &host, &larger.replace("bench.counted", "bench.reckond"))?;
        series.add(functions as f64, &[first, again]);
        host.end(End::Stop)?;
    }
    Ok(series)
}

/// Replaces a module; milliseconds until the new one serves.
fn swap(place: &Place, host: &Host, module: &str) -> Result<f64> {
    let digest = |host: &Host| -> Result<Value> {
        let view = host.json("/v1/plugins/p")?;
        Ok(view.get("module").or_else(|| view.get("digest")).cloned().unwrap_or_default())
    };
    let before = digest(host)?;
    let began = Instant::now();
    place.plugin("p", module, "")?;
    while digest(host)? == before {
        if began.elapsed().as_secs() > 60 {
            bail!("the module was not taken");
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    Ok(began.elapsed().as_secs_f64() * 1e3)
}
