//! A log that grows, with a plugin that has a million keys of state: how fast it takes more, how soon
//! a host serves that begins on it, and in how much memory.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::growth::{Found, GUEST, Plan, names, until_done};
use crate::host::{End, Host, Place};
use crate::publish::Events;
use crate::series::{Panel, Scale, Series, Upright};
use crate::steady::{Steady, permille};

/// Keys of the events, and so of the state.
const KEYS: u64 = 1_000_000;
/// Bytes of a payload: small, for a log of many events on a disk of today.
const SIZE: usize = 64;
/// Events that are published at a time.
const STEP: u64 = 1_000_000;
/// Events a second where latency is watched.
const RATE: u64 = 2000;

/// Events in the log, as published: each has a completion with a write of state beside it.
pub fn log(plan: &Plan) -> Result<Found> {
    let figures = [
        "events/s",
        "p50 ms",
        "p99 ms",
        "memory MiB",
        "ready after `kill -9`, ms",
        "ready after a stop, ms",
        "memory then, MiB",
        "log GiB",
    ];
    let panels = vec![
        Panel { title: "events per second", lines: &[(0, "")], upright: Upright::Zero },
        Panel {
            title: "from start to ready, ms",
            lines: &[(4, "after kill -9"), (5, "after a stop")],
            upright: Upright::Zero,
        },
        Panel {
            title: "memory, MiB",
            lines: &[(3, "at most"), (6, "after a start")],
            upright: Upright::Zero,
        },
    ];
    let mut series = Series::new("events in the log", Scale::Decades, &figures, panels);
    let place = Place::new(&plan.tidegate)?;
    let plugins = names(2);
    let counts = counting()?;
    place.plugin("p0", counts.as_bytes(), "[subscribe]\ntypes = [\"t.e\"]\n")?;
    place.plugin("p1", GUEST.as_bytes(), "[subscribe]\ntypes = [\"t.steady\"]\n")?;
    let mut host = place.start()?;
    host.until_live(&plugins)?;
    let (mut have, mut numbers) = (0, 0);
    for size in sizes(plan.log_max) {
        let rate = fill(&host, &mut numbers, size - have, &plugins)?;
        have = size;
        let (p50, p99, sent) = watch(&host, numbers, plan.watch_s)?;
        numbers += sent;
        let memory = host.memory_mib()?;
        host.end(End::Kill)?;
        host = place.start()?;
        let after_kill = host.ready_ms;
        host.end(End::Stop)?;
        host = place.start()?;
        let (after_stop, then) = (host.ready_ms, host.memory_now_mib()?);
        let gib = place.log_bytes()? as f64 / (1_u64 << 30) as f64;
        series.add(size as f64, &[vec![rate, p50, p99, memory, after_kill, after_stop, then, gib]]);
    }
    host.end(End::Stop)?;
    Ok(Found::Series(series))
}

/// 1, 2, 5, 10 ... million events, up to so many.
fn sizes(max: u64) -> Vec<u64> {
    let mut sizes: Vec<u64> = (0..4)
        .flat_map(|decade| [1, 2, 5].map(|step| step * STEP * 10_u64.pow(decade)))
        .filter(|size| *size < max)
        .collect();
    sizes.push(max);
    sizes
}

/// The guest without its emit: one write of state for each event.
fn counting() -> Result<String> {
    let (before, rest) = GUEST.split_once("    (call $emit\n").context("the guest has no emit")?;
    let (_, after) = rest.split_once("(then unreachable))\n").context("the guest has no end")?;
    Ok(format!("{before}{after}"))
}

/// Publishes so many more and waits until they are handled; gives events a second of the last step.
fn fill(host: &Host, numbers: &mut u64, count: u64, plugins: &[String]) -> Result<f64> {
    let events = Events {
        kind: &|_| "t.e".to_owned(),
        key: &|number| format!("k{}", number % KEYS),
        size: SIZE,
    };
    let (mut missing, mut done) = (count, 0);
    let mut rate = f64::NAN;
    while missing > 0 {
        let step = missing.min(STEP);
        let began = Instant::now();
        events.publish(host.port(), *numbers..*numbers + step)?;
        (*numbers, done, missing) = (*numbers + step, done + step, missing - step);
        // The host was started anew, and counts from there.
        until_done(host, &plugins[..1], done, 0)?;
        rate = step as f64 / began.elapsed().as_secs_f64();
    }
    Ok(rate)
}

/// Latency at a steady rate, and how many events that took.
fn watch(host: &Host, first: u64, seconds: u64) -> Result<(f64, f64, u64)> {
    let steady = Steady::start(host.port(), "t.steady", "bench.counted", RATE, first)?;
    std::thread::sleep(Duration::from_secs(seconds));
    let seen = steady.end()?;
    // None of these numbers is used again.
    let all = || seen.iter().copied();
    Ok((permille(all(), 500), permille(all(), 990), (seconds + 60) * RATE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_grows_in_steps_to_its_end() {
        assert_eq!(sizes(300_000), [300_000]);
        assert_eq!(sizes(5_000_000), [1_000_000, 2_000_000, 5_000_000]);
        assert!(counting().unwrap().contains("(call $set"));
    }
}
