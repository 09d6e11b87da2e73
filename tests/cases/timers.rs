//! Timers: each fires once, at its time, whatever happens to the host in between.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Host, HostOptions, Place, Sources, event, fixture, put, seed, wait_until};

const FIRES_MAX: Duration = Duration::from_secs(120);
/// Later than any test runs.
const FAR_MS: u64 = 24 * 60 * 60 * 1000;

fn wanted(id: &str, key: &str, name: &str, after_ms: u64) -> Value {
    event("timer.wanted", id, Some(key), json!({ "name": name, "after_ms": after_ms }))
}

fn unwanted(id: &str, key: &str, name: &str) -> Value {
    event("timer.unwanted", id, Some(key), json!({ "name": name }))
}

fn place() -> Place {
    let place = Place::new();
    std::fs::write(place.plugins().join("timers.wasm"), fixture("timer-guest")).unwrap();
    let manifest = "[subscribe]\ntypes = [\"*.wanted\", \"timer.unwanted\"]\n";
    std::fs::write(place.plugins().join("timers.toml"), manifest).unwrap();
    place
}

fn fired(host: &Host) -> Vec<Value> {
    host.http.events("type=timer.fired")
}

fn wait_fired(host: &Host, count: usize) -> Vec<Value> {
    wait_until("timers have fired", FIRES_MAX, || {
        let fired = fired(host);
        if fired.len() >= count { Ok(fired) } else { Err(fired.len()) }
    })
}

fn pending(host: &Host) -> u64 {
    host.plugin("timers")["timers"].as_u64().unwrap()
}

#[test]
fn timers_across_kills_fire_once_each_never_early_and_in_the_order_of_their_key() {
    const KEYS: usize = 60;
    const TIMERS: usize = 1500;
    const KILLS: usize = 5;
    let mut rng =
        seed("timers_across_kills_fire_once_each_never_early_and_in_the_order_of_their_key");
    let place = place();
    // Name of a timer that must fire -> key; the others are cancelled or replaced before they can.
    let (mut due, mut never) = (BTreeMap::new(), BTreeSet::new());
    for round in 0..KILLS {
        let host = place.start();
        let mut batch = Vec::new();
        for n in 0..TIMERS / KILLS {
            let name = format!("{round}-{n}");
            let (id, key) = (format!("set-{name}"), format!("k-{}", rng.usize(..KEYS)));
            match rng.usize(..10) {
                0 => {
                    batch.push(wanted(&id, &key, &name, FAR_MS));
                    batch.push(unwanted(&format!("cancel-{name}"), &key, &name));
                    never.insert(name);
                }
                1 => {
                    batch.push(wanted(&id, &key, &name, FAR_MS));
                    batch.push(wanted(&format!("again-{name}"), &key, &name, rng.u64(..2000)));
                    due.insert(name, key);
                }
                _ => {
                    batch.push(wanted(&id, &key, &name, rng.u64(..6000)));
                    due.insert(name, key);
                }
            }
        }
        host.http.publish(&batch);
        let enough = rng.usize(..=due.len() / 2);
        wait_fired(&host, enough);
        host.kill();
    }
    let host = place.start();
    let fired = wait_fired(&host, due.len());
    host.wait_rest("timers", 0);
    assert_eq!(pending(&host), 0);
    check(&fired, &due, &never);
    assert_eq!(self::fired(&host).len(), due.len());
    assert!(host.dead_letters("timers").is_empty());
    host.stop();
}

fn check(fired: &[Value], due: &BTreeMap<String, String>, never: &BTreeSet<String>) {
    let mut seen = BTreeSet::new();
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    for event in fired {
        let data = &event["data"];
        let (name, key) = (data["name"].as_str().unwrap(), event["partitionkey"].as_str().unwrap());
        assert!(seen.insert(name), "`{name}` fired twice");
        assert!(!never.contains(name), "`{name}` was cancelled");
        assert_eq!(due.get(name).map(String::as_str), Some(key), "{event}");
        let (at, due) = (data["recorded_ms"].as_u64().unwrap(), data["due_ms"].as_u64().unwrap());
        assert!(at >= due, "`{name}` fired {} ms early", due - at);
        let before = last.insert(key, at).unwrap_or_default();
        assert!(at >= before, "`{name}` was delivered before one that fired earlier");
    }
    let lost: Vec<_> = due.keys().filter(|name| !seen.contains(name.as_str())).collect();
    assert!(lost.is_empty(), "{} timers are lost: {lost:?}", lost.len());
}

#[test]
fn pending_timers_are_listed_counted_and_survive_a_reload() {
    let place = place();
    let host = place.start();
    let batch: Vec<Value> = (0..150)
        .map(|n| wanted(&format!("e-{n}"), &format!("k {}", n % 3), &format!("t{n}"), FAR_MS + n))
        .collect();
    host.http.publish(&batch);
    host.wait_rest("timers", 0);
    assert_eq!(pending(&host), 150);
    assert_eq!(host.metric("tidegate_timers_pending", &[("plugin", "timers")]), 150);

    let page = host.http.get("/v1/plugins/timers/timers?limit=100").expect_ok();
    assert_eq!(page["timers"].as_array().unwrap().len(), 100);
    let next = page["next"].as_str().unwrap();
    let rest = host.http.get(&format!("/v1/plugins/timers/timers?after={next}")).expect_ok();
    assert_eq!((rest["timers"].as_array().unwrap().len(), &rest["next"]), (50, &Value::Null));
    assert_eq!(rest["timers"][0]["name"], "t100");

    let listed = host.cli(&["timers", "list", "timers", "--key", "k 1"]).run();
    let listed = listed.expect_done();
    assert_eq!(listed.lines().filter(|line| line.contains("k 1")).count(), 50, "{listed}");

    // The manifest changes: a reload.
    let manifest = "[subscribe]\ntypes = [\"*.wanted\", \"timer.unwanted\"]\n[run]\nworkers = 1\n";
    std::fs::write(place.plugins().join("timers.toml"), manifest).unwrap();
    host.wait_plugin("timers", "reloaded", |view| view["history"].as_array().unwrap().len() == 2);
    host.http.publish(&[wanted("again", "k 1", "t1", 0)]);
    let fired = wait_fired(&host, 1);
    assert_eq!(fired[0]["data"]["name"], "t1");
    host.wait_rest("timers", 0);
    assert_eq!(pending(&host), 149);
    host.stop();

    let host = place.start();
    assert_eq!(pending(&host), 149);
    host.stop();
}

#[test]
fn a_payment_deadline_holds_across_a_kill() {
    let place = Place::new();
    put(Sources::ORDER_SAGA, &place.plugins());
    let manifest = place.plugins().join("order-saga/plugin.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let text = text.replace("invoice-seconds = \"900\"", "invoice-seconds = \"4\"");
    std::fs::write(&manifest, text).unwrap();
    let host = place.start();
    let orders: Vec<Value> = (0..40)
        .map(|n| {
            let data = json!({ "sku": "lamp", "quantity": 1, "amount": 4000, "pay": "invoice" });
            event("order.created", &format!("o-{n}"), Some(&format!("o-{n}")), data)
        })
        .collect();
    host.http.publish(&orders);
    let story = |host: &Host, n: usize| -> Vec<String> {
        let events = host.http.events(&format!("key=o-{n}"));
        events.iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect()
    };
    wait_until("all are invoiced", FIRES_MAX, || {
        let requested = host.http.events("type=payment.requested").len();
        if requested == orders.len() { Ok(()) } else { Err(requested) }
    });
    let paid: Vec<Value> = (0..40)
        .step_by(2)
        .map(|n| event("payment.received", &format!("p-{n}"), Some(&format!("o-{n}")), json!({})))
        .collect();
    host.http.publish(&paid);
    host.kill();

    let host = place.start();
    wait_until("all are over", FIRES_MAX, || {
        let cancelled = host.http.events("type=order.cancelled").len();
        if cancelled >= 20 { Ok(()) } else { Err(cancelled) }
    });
    host.wait_rest("order-saga", 0);
    for n in 0..40 {
        let expected: &[&str] = if n % 2 == 0 {
            &["payment.received", "payment.processed"]
        } else {
            &["payment.failed", "inventory.released", "order.cancelled"]
        };
        let begun = ["order.created", "inventory.reserved", "payment.requested"];
        assert_eq!(story(&host, n), [&begun, expected].concat(), "o-{n}");
    }
    assert_eq!(host.plugin("order-saga")["timers"], 0);
    assert!(host.dead_letters("order-saga").is_empty());
    host.stop();
}

#[test]
fn a_memory_bus_refuses_timers() {
    let place = place();
    let manifest = "[subscribe]\nbus = \"live\"\n[retry]\non-failure = \"continue\"\n";
    std::fs::write(place.plugins().join("timers.toml"), manifest).unwrap();
    let config = Some("[buses.live]\nkind = \"memory\"\n".to_owned());
    let host = place.start_with(&HostOptions { config, ..HostOptions::default() });
    host.http.try_publish("live", &[&wanted("e", "k", "t", 0)]).unwrap();
    let letters = wait_until("it is given up", FIRES_MAX, || {
        let letters = host.dead_letters("timers");
        if letters.is_empty() { Err(letters) } else { Ok(letters) }
    });
    assert!(letters[0]["reason"].as_str().unwrap().contains("memory bus"), "{letters:?}");
    host.stop();
}

/// Bytes that a process has in memory.
fn resident(host: &Host) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", host.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
fn many_pending_timers_cost_little_and_are_there_soon_after_a_kill() {
    const AT_ONCE: u64 = 1000;
    let count = std::env::var("TIDEGATE_TIMERS").map_or(100_000, |text| text.parse().unwrap());
    let place = place();
    let host = place.start();
    let before = resident(&host);
    let batch: Vec<Value> = (0..count / AT_ONCE)
        .map(|n| {
            let data = json!({ "name": "t", "after_ms": FAR_MS, "count": AT_ONCE });
            event("timers.wanted", &format!("e-{n}"), Some(&format!("k-{n}")), data)
        })
        .collect();
    batch.chunks(100).for_each(|some| drop(host.http.publish(some)));
    wait_until("all are set", FIRES_MAX * 4, || {
        let pending = pending(&host);
        if pending == count { Ok(()) } else { Err(pending) }
    });
    let grown = resident(&host).saturating_sub(before);
    host.kill();
    let begun = std::time::Instant::now();
    let host = place.start();
    let took = begun.elapsed();
    assert_eq!(pending(&host), count);
    let again = resident(&host).saturating_sub(before);
    println!("{count} timers: {grown} bytes grown, {again} after a kill and a start of {took:?}");
    // About 130 bytes each, and what stands in the frames that are kept in memory anyhow.
    assert!(grown < 64 * 1024 * 1024 + count * 400, "{grown} bytes for {count} timers");
    host.http.publish(&[wanted("now", "k-0", "now", 0)]);
    assert_eq!(wait_fired(&host, 1)[0]["data"]["name"], "now");
    host.stop();
}
