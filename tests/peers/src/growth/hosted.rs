//! A running host with more plugins, and with keys that fail: events come by HTTP in batches.

use std::time::Instant;

use anyhow::Result;

use crate::growth::{Found, GUEST, Plan, names, until_done};
use crate::host::{End, Host, Place};
use crate::publish::Events;
use crate::series::{Panel, Scale, Series, Upright};

/// Where the handler begins.
const HANDLER: &str =
    "(func (export \"tidegate:plugin/handler@0.1.0#handle\") (param $event i32) (result i32)\n";
/// Traps where the last letter of the key is an x.
const TRAPS: &str = "    (if (i32.eq (i32.const 120) (i32.load8_u (i32.sub (i32.add
      (i32.load offset=28 (local.get $event)) (i32.load offset=32 (local.get $event))) (i32.const 1))))
      (then unreachable))\n";
/// Bytes of a payload.
const SIZE: usize = 256;
/// Keys of the events, where keys are not what it is about.
const KEYS: u64 = 10_000;

fn panels(deliveries: bool) -> Vec<Panel> {
    let title = if deliveries { "deliveries per second" } else { "events per second" };
    vec![
        Panel { title, lines: &[(0, "")], upright: Upright::Zero },
        Panel { title: "CPU us", lines: &[(1, "")], upright: Upright::Zero },
        Panel { title: "memory at most, MiB", lines: &[(2, "")], upright: Upright::Zero },
    ]
}

/// What one run is about.
struct Load<'a> {
    /// Events published.
    events: u64,
    kind: &'a (dyn Fn(u64) -> String + Sync),
    key: &'a (dyn Fn(u64) -> String + Sync),
    /// Deliveries of each plugin that should go well.
    ok: u64,
    /// Keys of each plugin that should be parked at last.
    parked: u64,
}

/// Publishes, waits for the plugins; gives seconds, processor seconds and memory.
fn run(host: &Host, plugins: &[String], load: &Load<'_>) -> Result<(f64, f64, f64)> {
    let (began, before) = (Instant::now(), host.cpu_s()?);
    let events = Events { kind: load.kind, key: load.key, size: SIZE };
    events.publish(host.port(), 0..load.events)?;
    until_done(host, plugins, load.ok, load.parked)?;
    Ok((began.elapsed().as_secs_f64(), host.cpu_s()? - before, host.memory_mib()?))
}

/// A host with so many plugins that all run `guest`.
fn with_plugins(
    plan: &Plan,
    names: &[String],
    guest: &str,
    types: impl Fn(&str) -> String,
) -> Result<(Place, Host)> {
    let place = Place::new(&plan.tidegate)?;
    for name in names {
        let manifest = format!("[subscribe]\ntypes = [\"{}\"]\n", types(name));
        place.plugin(name, guest.as_bytes(), &manifest)?;
    }
    let host = place.start()?;
    host.until_live(names)?;
    Ok((place, host))
}

/// Plugins of which each event has one that takes it.
pub fn plugins_apart(plan: &Plan) -> Result<Found> {
    let figures = ["events/s", "CPU us/event", "memory MiB"];
    let mut series = Series::new("plugins", Scale::Decades, &figures, panels(false));
    for count in [1_u64, 3, 10, 30, 100] {
        let plugins = names(count);
        let events = plan.events.next_multiple_of(count);
        let mut found = Vec::new();
        for _ in 0..plan.repetitions {
            let (_place, host) = with_plugins(plan, &plugins, GUEST, |name| format!("t.{name}"))?;
            let load = Load {
                events,
                kind: &|number| format!("t.p{}", number % count),
                // Each plugin has all keys.
                key: &|number| format!("k{}", number / count % KEYS),
                ok: events / count,
                parked: 0,
            };
            let (seconds, cpu, memory) = run(&host, &plugins, &load)?;
            found.push(vec![events as f64 / seconds, cpu * 1e6 / events as f64, memory]);
            host.end(End::Stop)?;
        }
        series.add(count as f64, &found);
    }
    Ok(Found::Series(series))
}

/// Plugins that all take every event.
pub fn plugins_alike(plan: &Plan) -> Result<Found> {
    let figures = ["deliveries/s", "CPU us/delivery", "memory MiB"];
    let mut series = Series::new("plugins", Scale::Decades, &figures, panels(true));
    for count in [1_u64, 3, 10, 30, 100] {
        let plugins = names(count);
        let events = plan.events.div_ceil(count);
        let mut found = Vec::new();
        for _ in 0..plan.repetitions {
            let (_place, host) = with_plugins(plan, &plugins, GUEST, |_| "t.e".to_owned())?;
            let load = Load {
                events,
                kind: &|_| "t.e".to_owned(),
                key: &|number| format!("k{}", number % KEYS),
                ok: events,
                parked: 0,
            };
            let (seconds, cpu, memory) = run(&host, &plugins, &load)?;
            let deliveries = (events * count) as f64;
            found.push(vec![deliveries / seconds, cpu * 1e6 / deliveries, memory]);
            host.end(End::Stop)?;
        }
        series.add(count as f64, &found);
    }
    Ok(Found::Series(series))
}

/// Keys whose every event makes the guest trap; three events a key.
pub fn poisoned(plan: &Plan) -> Result<Found> {
    let guest = GUEST.replace(HANDLER, &format!("{HANDLER}{TRAPS}"));
    anyhow::ensure!(guest != GUEST, "the guest has another shape");
    let figures = ["events/s", "CPU us/event", "memory MiB"];
    let mut series = Series::new("keys that fail", Scale::Share, &figures, panels(false));
    let keys = plan.events / 3;
    let plugins = names(1);
    for share in [0.0, 0.1, 1.0, 3.0, 10.0] {
        // A plugin that fails broadly is stopped instead: from every second key on, which none is here.
        let fails = |key: u64| ((key % 1000) as f64) < share * 10.0;
        let failing = (0..keys).filter(|key| fails(*key)).count() as u64;
        let mut found = Vec::new();
        for _ in 0..plan.repetitions {
            let (_place, host) = with_plugins(plan, &plugins, &guest, |_| "t.e".to_owned())?;
            let load = Load {
                events: keys * 3,
                kind: &|_| "t.e".to_owned(),
                key: &|number| {
                    let key = number % keys;
                    format!("k{key}{}", if fails(key) { "x" } else { "o" })
                },
                ok: (keys - failing) * 3,
                parked: failing,
            };
            let (seconds, cpu, memory) = run(&host, &plugins, &load)?;
            let events = load.events as f64;
            found.push(vec![events / seconds, cpu * 1e6 / events, memory]);
            host.end(End::Stop)?;
        }
        series.add(share, &found);
    }
    Ok(Found::Series(series))
}
