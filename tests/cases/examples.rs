//! The example plugins in the real host, against plain programs that see the same events.

mod plain;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Cli, Guest, Host, Place, Sources, event, put, root, seed, wait_until};
use plain::{Exceeded, Fraud, Suspected};

/// Midnight of the day that the generated events happen on.
const DAY_MS: u64 = 1_772_323_200_000;
const DAY: &str = "2026-03-01";
/// Longest wait for a timer that is due in a few seconds.
const TIMER_MAX: Duration = Duration::from_secs(60);

/// An event of a generated stream: when it happened and what it says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Said {
    /// Milliseconds since the Unix epoch.
    pub(crate) time_ms: u64,
    pub(crate) number: u64,
}

/// A stream of one key in the order of its arrival: bursts and pauses, equal times, times out of order,
/// some of them too late to count. `step_ms` is the time between two on average.
fn stream(rng: &mut fastrand::Rng, count: usize, step_ms: u64, most: u64) -> Vec<Said> {
    let mut at_ms = DAY_MS + 3_600_000;
    let mut stream: Vec<Said> = (0..count)
        .map(|_| {
            at_ms += match rng.u32(..20) {
                0 => step_ms * 20,
                1..7 => 0,
                _ => rng.u64(..step_ms * 2),
            };
            let back_ms = match rng.u32(..20) {
                0 => rng.u64(..150_000),
                1..5 => rng.u64(..20_000),
                _ => 0,
            };
            // Whole seconds now and then, so that times of events that have nothing to do with each
            // other are equal.
            let time_ms = at_ms - back_ms;
            let time_ms = if rng.bool() { time_ms / 1000 * 1000 } else { time_ms };
            Said { time_ms, number: rng.u64(..=most) }
        })
        .collect();
    // Whatever is judged once newer events come is judged.
    stream.push(Said { time_ms: at_ms + 3_600_000, number: 0 });
    stream
}

fn happened(kind: &str, key: &str, n: usize, said: Said, data: Value) -> Value {
    let mut event = event(kind, &format!("{key}/{n}"), Some(key), data);
    let ms = said.time_ms - DAY_MS;
    assert!(ms < 86_400_000, "the stream is longer than its day");
    let (hours, minutes, seconds) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    event["time"] = format!("{DAY}T{hours:02}:{minutes:02}:{seconds:02}.{:03}Z", ms % 1000).into();
    event
}

/// All streams as one, in random turns.
fn mixed(rng: &mut fastrand::Rng, streams: Vec<Vec<Value>>) -> Vec<Value> {
    let mut streams: Vec<_> = streams.into_iter().map(Vec::into_iter).collect();
    let mut mixed = Vec::new();
    while !streams.is_empty() {
        let which = rng.usize(..streams.len());
        match streams[which].next() {
            Some(event) => mixed.push(event),
            None => drop(streams.swap_remove(which)),
        }
    }
    mixed
}

/// A plugin, its name, the type of what it emits, and what is changed in its configuration.
type Example<'a> = (Guest, &'a str, &'a str, &'a [(&'a str, &'a str)]);

/// Publishes a stream to a plugin, with a `kill -9` in the middle, and returns what it emitted.
fn alerts(
    place: &Place,
    (guest, plugin, kind, config): Example<'_>,
    events: &[Value],
) -> BTreeMap<String, Vec<Value>> {
    put_with(guest, plugin, place, config);
    let host = place.start();
    let (first, second) = events.split_at(events.len() / 2);
    for batch in first.chunks(500) {
        host.http.publish(batch);
    }
    host.kill();
    let host = place.start();
    for batch in second.chunks(500) {
        host.http.publish(batch);
    }
    host.wait_rest(plugin, 0);
    assert!(host.dead_letters(plugin).is_empty());
    let mut found: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for alert in host.http.events(&format!("type={kind}")) {
        let key = alert["partitionkey"].as_str().unwrap().to_owned();
        found.entry(key).or_default().push(alert["data"].clone());
    }
    host.stop();
    found
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_f64().unwrap_or_else(|| panic!("no `{name}` in {value}")) as u64
}

/// Generates streams, and compares the alerts of every key with those of a plain program.
fn compare<T: PartialEq + std::fmt::Debug>(
    rng: &mut fastrand::Rng,
    example: Example<'_>,
    (step_ms, most): (u64, u64),
    data: impl Fn(Said) -> (&'static str, Value),
    plain: impl Fn(&[Said]) -> Vec<T>,
    read: impl Fn(&Value) -> T,
) {
    let mut expected = BTreeMap::new();
    let mut streams = Vec::new();
    for n in 0..12 {
        let key = format!("k-{n}");
        let said = stream(rng, 250, step_ms, most);
        let events = said.iter().enumerate().map(|(n, said)| {
            let (kind, data) = data(*said);
            happened(kind, &key, n, *said, data)
        });
        streams.push(events.collect());
        expected.insert(key, plain(&said));
    }
    let all: usize = expected.values().map(Vec::len).sum();
    assert!(all > 10, "a test that finds {all} alerts says little");
    let found = alerts(&Place::new(), example, &mixed(rng, streams));
    for (key, expected) in expected {
        let found: Vec<T> = found.get(&key).into_iter().flatten().map(&read).collect();
        assert_eq!(found, expected, "alerts of {} for {key}", example.1);
    }
}

#[test]
fn fraud_alerts_are_those_of_a_plain_program_also_across_a_kill() {
    let rng = &mut seed("fraud");
    let pay = |said: Said| ("payment.made", json!({ "amount": said.number }));
    let read = |alert: &Value| Fraud {
        to_ms: number(alert, "to_ms"),
        payments: number(alert, "payments"),
        sum: number(alert, "sum"),
    };
    let plugin = (Sources::FRAUD_ALERT, "fraud-alert", "fraud.suspected", &[][..]);
    compare(rng, plugin, (30_000, 1500), pay, plain::frauds, read);
}

#[test]
fn temperatures_exceed_where_a_plain_program_says_so() {
    let rng = &mut seed("temperature");
    let measure = |said: Said| ("temperature.measured", json!({ "celsius": said.number }));
    let read = |alert: &Value| {
        let measurements = number(alert, "measurements");
        let sum = alert["average"].as_f64().unwrap() * measurements as f64;
        Exceeded { from_ms: number(alert, "from_ms"), measurements, sum: sum.round() as u64 }
    };
    let plugin = (Sources::TEMPERATURE, "temperature", "temperature.exceeded", &[][..]);
    compare(rng, plugin, (40_000, 60), measure, plain::exceeded, read);
}

#[test]
fn logins_are_suspected_where_a_plain_program_says_so() {
    let rng = &mut seed("logins");
    let login = |said: Said| {
        let kind = if plain::fails(said) { "login.failed" } else { "login.succeeded" };
        (kind, json!({}))
    };
    let read = |alert: &Value| Suspected {
        first_ms: number(alert, "first_failure_ms"),
        last_ms: number(alert, "last_failure_ms"),
        success_ms: number(alert, "success_ms"),
    };
    // Its own 5 s of lateness would have passed while the host was away on a busy machine.
    let config = [("lateness-seconds", "60")];
    let plugin = (Sources::LOGIN_GUARD, "login-guard", "login.suspected", &config[..]);
    compare(rng, plugin, (6_000, 9), login, plain::suspected, read);
}

/// Puts a plugin with other strings of `[config]`.
fn put_with(guest: Guest, name: &str, place: &Place, config: &[(&str, &str)]) {
    put(guest, &place.plugins());
    let file = place.plugins().join(name).join("plugin.toml");
    let mut text = std::fs::read_to_string(&file).unwrap();
    for (name, value) in config {
        let line = text.lines().find(|line| line.starts_with(&format!("{name} =")));
        let line = line.unwrap_or_else(|| panic!("no `{name}` in {text}")).to_owned();
        text = text.replace(&line, &format!("{name} = \"{value}\""));
    }
    std::fs::write(file, text).unwrap();
}

#[test]
fn a_sensor_that_falls_silent_is_judged_by_its_timer_also_after_a_kill() {
    let place = Place::new();
    let config = [("window-seconds", "1"), ("lateness-seconds", "2")];
    put_with(Sources::TEMPERATURE, "temperature", &place, &config);
    let host = place.start();
    let measured = event("temperature.measured", "m", Some("s"), json!({ "celsius": 31 }));
    host.http.publish(&[measured]);
    host.wait_rest("temperature", 0);
    host.kill();
    let host = place.start();
    let exceeded = wait_until("the window is judged", TIMER_MAX, || {
        let found = host.http.events("type=temperature.exceeded");
        if found.is_empty() { Err("no alert") } else { Ok(found) }
    });
    assert_eq!((exceeded.len(), number(&exceeded[0]["data"], "average")), (1, 31));
    host.stop();
}

fn query(host: &Host, path: &str) -> Value {
    host.http.get(&format!("/v1/plugins/{path}")).expect_ok()
}

#[test]
fn questions_across_products_are_answered_from_all_their_events() {
    let rng = &mut seed("analytics");
    let place = Place::new();
    put(Sources::ANALYTICS, &place.plugins());
    let host = place.start();
    let mut sums: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let events: Vec<Value> = (0..1000)
        .map(|n| {
            let product = format!("p-{}", rng.u32(..30));
            let (quantity, amount) = (rng.u64(1..5), rng.u64(1..1_000_000));
            let sum = sums.entry(product.clone()).or_default();
            *sum = (sum.0 + quantity, sum.1 + amount);
            let data = json!({ "quantity": quantity, "amount": amount });
            event("product.sold", &n.to_string(), Some(&product), data)
        })
        .collect();
    host.http.publish(&events);
    host.wait_rest("analytics", 0);
    let mut best: Vec<_> = sums.iter().collect();
    best.sort_by_key(|(product, (_, amount))| (std::cmp::Reverse(*amount), *product));
    let best: Vec<Value> = (best.iter().take(5))
        .map(|(product, (sold, amount))| {
            json!({ "product": product, "views": 0, "sold": sold, "amount": amount })
        })
        .collect();
    assert_eq!(query(&host, "analytics/query/top?limit=5"), Value::Array(best.clone()));
    let (product, (sold, _)) = sums.iter().next().unwrap();
    let one = query(&host, &format!("analytics/query/product?key={product}"));
    assert_eq!(one["all"]["sold"], *sold);
    let none = host.http.get("/v1/plugins/analytics/query/product?key=nothing");
    assert!(none.status >= 400 && none.status < 500, "{}", none.status);
    host.kill();
    let host = place.start();
    assert_eq!(query(&host, "analytics/query/top?limit=5"), Value::Array(best));
    host.stop();
}

#[test]
fn who_did_what_is_found_by_key_and_by_who() {
    let place = Place::new();
    put(Sources::AUDIT_TRAIL, &place.plugins());
    let host = place.start();
    let acts = [("ada", "d-1"), ("bob", "d-1"), ("ada", "d-2"), ("ada", "e-1")];
    let events: Vec<Value> = acts
        .iter()
        .enumerate()
        .map(|(n, (who, key))| {
            let mut event = event("document.opened", &n.to_string(), Some(key), json!({}));
            event["actor"] = (*who).into();
            event
        })
        .collect();
    host.http.publish(&events);
    host.wait_rest("audit-trail", 0);
    let trail = query(&host, "audit-trail/query/trail?key=d-1");
    let who: Vec<_> = trail.as_array().unwrap().iter().map(|entry| &entry["who"]).collect();
    assert_eq!(who, ["ada", "bob"]);
    let touched = query(&host, "audit-trail/query/touched?who=ada&prefix=d-");
    let keys: Vec<_> = touched.as_array().unwrap().iter().map(|touch| &touch["key"]).collect();
    assert_eq!(keys, ["d-1", "d-2"]);
    host.stop();
}

/// Examples in other languages than Rust, with their tests beside them.
#[test]
fn examples_in_other_languages_pass_their_tests_or_say_what_to_install() {
    for name in ["geo-fence", "github-digest"] {
        let folder = root().join("plugins").join(name);
        let built = Cli::new(&["build"]).arg(&folder).run();
        if built.code != 0 {
            assert!(built.stderr.contains("is missing; install it with"), "{}", built.stderr);
            println!("{name}: {}", built.stderr.trim());
            continue;
        }
        let tested = Cli::new(&["test"]).arg(&folder).run().expect_done();
        assert!(tested.contains("1 test, 0 failed"), "{tested}");
        if name == "github-digest" {
            // All of them end as ok, under the limits of its manifest.
            let webhooks = root().join("tests/data/github-webhooks.ndjson");
            Cli::new(&["test"]).arg(&folder).arg("--events").arg(webhooks).run().expect_done();
        }
    }
    let sdk = std::fs::read(root().join("guest-sdk/js/tidegate.js")).unwrap();
    let copy = std::fs::read(root().join("plugins/github-digest/tidegate.js")).unwrap();
    assert!(sdk == copy, "plugins/github-digest/tidegate.js is an old copy of the SDK");
}
