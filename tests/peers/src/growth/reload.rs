//! Modules dropped into the folder of a host under a steady load: how soon they serve, and what a
//! neighbour feels of it.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::growth::{Found, GUEST, Plan, names};
use crate::host::{End, Host, Place};
use crate::series::{median, number};
use crate::steady::{Seen, Steady, permille};

/// Events a second of the neighbour.
const RATE: u64 = 2000;
/// What a module does to its neighbour is watched for as long as it takes until it serves, and at least
/// for so long.
const AFTER_MIN: Duration = Duration::from_secs(1);
/// Swaps of a module, at most, and until that took so long: small ones are over before much can be seen.
const SWAPS: u64 = 5;
const SWAPS_MAX: Duration = Duration::from_secs(8);

/// The version of a module that is there at first.
const FIRST: u64 = 1000;

/// A module, and others that differ in a few bytes which nothing executes.
struct Module {
    name: String,
    bytes: Vec<u8>,
}

/// What swaps of one module came to.
struct Swaps {
    serving_ms: Vec<f64>,
    again_ms: Vec<f64>,
    bytes: u64,
    before: Vec<Seen>,
    during: Vec<Seen>,
    after: Vec<Seen>,
}

/// A table: each module, how soon it serves, and latencies of the neighbour.
pub fn reload(plan: &Plan) -> Result<Found> {
    let mut table =
        "| module | KB | serving after, ms | the same once more, ms | p50 / p99 of the \
                     neighbour before, ms | while it is compiled | longest | after |\n\
                     |---|---|---|---|---|---|---|---|"
            .to_owned();
    for module in modules(plan)? {
        let found = swaps(plan, &module).with_context(|| module.name.clone())?;
        let middle = |ms: Vec<f64>| number(median(ms.into_iter()).unwrap_or(f64::NAN));
        let both = |seen: &[Seen]| {
            let at = |share| number(permille(seen.iter().copied(), share));
            format!("{} / {}", at(500), at(990))
        };
        let row = format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            module.name,
            number(found.bytes as f64 / 1000.0),
            middle(found.serving_ms),
            middle(found.again_ms),
            both(&found.before),
            both(&found.during),
            number(permille(found.during.iter().copied(), 1000)),
            both(&found.after),
        );
        eprintln!("{row}");
        let _ = write!(table, "\n{row}");
    }
    table.push('\n');
    Ok(Found::Table(table))
}

/// Those that were named; none: made ones.
fn modules(plan: &Plan) -> Result<Vec<Module>> {
    if plan.modules.is_empty() {
        return [0, 1000, 20_000].into_iter().map(made).collect();
    }
    let read = |(name, path): &(String, PathBuf)| -> Result<Module> {
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        Ok(Module { name: name.clone(), bytes })
    };
    plan.modules.iter().map(read).collect()
}

/// The guest of the benches, with so many functions more.
fn made(functions: u64) -> Result<Module> {
    let end = GUEST.trim_end().strip_suffix(')').context("the guest has another shape")?;
    let mut text = end.to_owned();
    for function in 0..functions {
        text.push_str("(func (param i64) (result i64) (local i64) (local.set 1 (local.get 0))");
        for step in 0..20 {
            let _ = write!(
                text,
                "(local.set 1 (i64.rotl (i64.mul (local.get 1) (i64.const {})) (i64.const {})))",
                function * 31 + step,
                step + 1
            );
        }
        text.push_str("(local.get 1))");
    }
    text.push(')');
    Ok(Module { name: format!("{functions} functions and the bench's"), bytes: text.into() })
}

impl Module {
    /// The same code with another digest.
    fn version(&self, number: u64) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let note = format!("{number:08}");
        if bytes.starts_with(b"\0asm") {
            // A custom section of 10 bytes, its name of one byte.
            bytes.extend_from_slice(&[0, 10, 1, b'v']);
            bytes.extend_from_slice(note.as_bytes());
        } else {
            let end = bytes.iter().rposition(|byte| *byte == b')').unwrap_or(0);
            bytes.truncate(end);
            bytes.extend_from_slice(format!("(data (i32.const 900) \"{note}\"))").as_bytes());
        }
        bytes
    }
}

fn swaps(plan: &Plan, module: &Module) -> Result<Swaps> {
    let watch = Duration::from_secs(plan.watch_s);
    let place = Place::new(&plan.tidegate)?;
    place.plugin("p0", GUEST.as_bytes(), "[subscribe]\ntypes = [\"t.steady\"]\n")?;
    place.plugin("p1", &module.version(FIRST), "[subscribe]\ntypes = [\"t.nothing\"]\n")?;
    let host = place.start()?;
    host.until_live(&names(2))?;
    let steady = Steady::start(host.port(), "t.steady", "bench.counted", RATE, 0)?;
    std::thread::sleep(watch);
    let begun = Instant::now();
    let (mut serving_ms, mut during) = (Vec::new(), Vec::new());
    for number in 0..SWAPS {
        let dropped = Instant::now();
        serving_ms.push(swap(&place, &host, &module.version(number))?);
        std::thread::sleep(AFTER_MIN.saturating_sub(dropped.elapsed()));
        during.push((dropped, Instant::now()));
        if begun.elapsed() > SWAPS_MAX {
            break;
        }
        std::thread::sleep(AFTER_MIN);
    }
    // Compiled code is kept: two versions from before, once more.
    let mut again_ms = Vec::new();
    for number in [FIRST, 0, FIRST] {
        again_ms.push(swap(&place, &host, &module.version(number))?);
    }
    let ended = Instant::now();
    std::thread::sleep(watch);
    let bytes = host.json("/v1/plugins/p1")?["module"]["size_bytes"].as_u64().unwrap_or(0);
    let seen = steady.end()?;
    host.end(End::Stop)?;
    let between = |from: Instant, to: Instant| {
        seen.iter().copied().filter(move |seen| seen.due >= from && seen.due < to)
    };
    Ok(Swaps {
        serving_ms,
        again_ms,
        bytes,
        before: seen.iter().copied().filter(|seen| seen.due < begun).collect(),
        during: during.into_iter().flat_map(|(from, to)| between(from, to)).collect(),
        after: seen.iter().copied().filter(|seen| seen.due >= ended).collect(),
    })
}

/// Replaces the module; milliseconds until it serves.
fn swap(place: &Place, host: &Host, module: &[u8]) -> Result<f64> {
    let digest = |view: &serde_json::Value| view["module"]["digest"].clone();
    let before = digest(&host.json("/v1/plugins/p1")?);
    let began = Instant::now();
    place.module("p1", module)?;
    host.until("p1", |view| digest(view) != before && view["state"] == "live")?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_a_module_differ() {
        let text = made(2).unwrap();
        assert_ne!(text.version(1), text.version(2));
        let binary = Module { name: String::new(), bytes: b"\0asm\x01\0\0\0".to_vec() };
        assert_eq!(binary.version(7), b"\0asm\x01\0\0\0\0\x0a\x01v00000007");
    }
}
