//! Guests that do harm, or try to, beside one that behaves.
//!
//! One table: `hostile/rows.rs` and `hostile/modules.rs` say what each guest does and what it comes
//! to; here every row is given its chance while a neighbour goes on, and what the host holds in memory
//! meanwhile is measured.

mod abi;
mod drafts;
mod guest;
mod modules;
mod rows;
mod servers;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use self::rows::{Ends, Row, Tried};
use crate::harness::{
    Host, HostOptions, Place, Process, echo, emitter, event, handler, wait_until,
};

const SETTLED_MAX: Duration = Duration::from_secs(60);
/// Deliveries of each row, on as many keys: as many as it has workers.
const DELIVERIES: usize = 2;
/// What the host may hold beside the linear memory of the guests that run.
const SLACK_BYTES: u64 = 64 << 20;
/// What a compile may take here; less than the default, so that bombs are stopped soon.
const CONFIG: &str = "[compile]\nmemory = \"512MiB\"\ntime = \"3s\"\n\
                      [plugins.calls-flood]\nallow.http = [\"127.0.0.1:9\"]\n";

/// The plugin that behaves: answers each event with one, and is asked again and again.
struct Neighbour<'a> {
    host: &'a Host,
    asked: u64,
    slowest: Duration,
}

impl<'a> Neighbour<'a> {
    fn put(place: &Place) {
        let good = handler("good.done", &emitter("good.done"), "");
        std::fs::write(place.plugins().join("good.wasm"), good).unwrap();
        let manifest = "[subscribe]\ntypes = [\"good.begun\"]\n";
        std::fs::write(place.plugins().join("good.toml"), manifest).unwrap();
    }

    const fn of(host: &'a Host) -> Self {
        Self { host, asked: 0, slowest: Duration::ZERO }
    }

    /// One event, and its effect: a delivery goes all its way while others misbehave.
    fn round(&mut self) {
        self.asked += 1;
        let id = format!("good-{}", self.asked);
        let key = format!("g-{}", self.asked % 7);
        let start = Instant::now();
        let taken = self.host.http.publish(&[event("good.begun", &id, Some(&key), json!(1))]);
        let from = taken[0]["position"].as_u64().unwrap() + 1;
        wait_until("the neighbour goes on", SETTLED_MAX, || {
            let done = self.host.http.events(&format!("type=good.done&from={from}"));
            done.iter().any(|done| done["data"] == *id).then_some(()).ok_or(done.len())
        });
        self.slowest = self.slowest.max(start.elapsed());
    }

    fn wait<T>(&mut self, what: &str, mut look: impl FnMut() -> Result<T, Value>) -> T {
        let mut rounds = 0;
        wait_until(what, SETTLED_MAX, || {
            self.round();
            rounds += 1;
            look().map_err(|seen| json!({ "rounds": rounds, "seen": seen }))
        })
    }
}

fn put(place: &Place, row: &Row) {
    let Row { name, module, .. } = row;
    let plugins = place.plugins();
    let extension = if module.starts_with(b"(") { "wat" } else { "wasm" };
    std::fs::write(plugins.join(format!("{name}.toml")), row.manifest()).unwrap();
    // In one step, so that no half of it is seen, which would be a version of its own.
    std::fs::write(plugins.join(format!("{name}.part")), module).unwrap();
    std::fs::rename(
        plugins.join(format!("{name}.part")),
        plugins.join(format!("{name}.{extension}")),
    )
    .unwrap();
}

/// Waits until the host has made up its mind about as many plugins. It compiles one after the other: as
/// long as there is another one now and then, it is at work, however slow the machine.
fn wait_judged(neighbour: &mut Neighbour<'_>, plugins: usize) {
    let mut judged = 0;
    while judged < plugins {
        let host = neighbour.host;
        judged = neighbour.wait("another module is judged", || {
            let views = host.http.get("/v1/plugins").expect_ok();
            let views = views["plugins"].as_array().into_iter().flatten();
            let is_judged = |view: &&Value| view["state"] == "live" || view["state"] == "refused";
            let now = views.filter(is_judged).count();
            if now > judged { Ok(now) } else { Err(json!(now)) }
        });
    }
}

/// Waits until the host has made up its mind about a module, and looks whether it is the right one.
fn check_loaded(neighbour: &mut Neighbour<'_>, row: &Row) {
    let (host, name) = (neighbour.host, &row.name);
    let view = neighbour.wait(&format!("`{name}` is judged"), || {
        let view: Value = host.http.get(&format!("/v1/plugins/{name}")).json();
        let judged = view["state"] == "live" || view["state"] == "refused";
        if judged { Ok(view) } else { Err(view) }
    });
    match row.ends {
        Ends::Refused(words) => {
            assert_eq!(view["state"], "refused", "{view}");
            let reason = view["reason"].as_str().unwrap();
            assert!(words.iter().any(|word| reason.contains(word)), "{name}: {reason}");
        }
        _ => assert_eq!(view["state"], "live", "{view}"),
    }
}

fn publish(host: &Host, row: &Row) {
    let lift = row.tried == Tried::Lift;
    let kind = format!("{}.{}", if lift { "lift" } else { "try" }, row.name);
    let events: Vec<Value> = (0..DELIVERIES)
        .map(|n| {
            let id = format!("{}-{n}", row.name);
            let mut event = event(&kind, &id, Some(&id), json!(1));
            if lift {
                event["schemaversion"] = json!(1);
            }
            event
        })
        .collect();
    host.http.publish(&events);
}

/// Gives a row its chance, and looks what it comes to.
fn check_tried(neighbour: &mut Neighbour<'_>, row: &Row) {
    let (host, name) = (neighbour.host, &row.name);
    if let Ends::Answer(status, code) = row.ends {
        let export = if row.tried == Tried::Command { "command" } else { "query" };
        for _ in 0..DELIVERIES {
            let path = format!("/v1/plugins/{name}/{export}/do?key=k");
            let answer = host.http.post(&path, "application/json", b"{}");
            let answered = (answer.status, answer.code());
            assert_eq!(answered, (status, code.to_owned()), "{name}: {answer:?}");
            neighbour.round();
        }
        return;
    }
    publish(host, row);
    let receiver = if row.tried == Tried::Lift { "receiver" } else { name };
    match row.ends {
        Ends::Dead(outcome, words) => {
            let letters = neighbour.wait(&format!("dead letters of `{name}`"), || {
                let mut letters = host.dead_letters(receiver);
                letters.retain(|letter| letter.to_string().contains(&**name));
                let all = letters.len() == DELIVERIES;
                if all { Ok(letters) } else { Err(host.plugin(receiver)) }
            });
            for letter in letters {
                assert_eq!(letter["outcome"], outcome, "{name}: {letter}");
                let reason = letter["reason"].as_str().unwrap_or_default();
                assert!(reason.contains(words), "{name}: {letter}");
            }
        }
        _ => {
            let ok = [("plugin", &**name), ("outcome", "ok")];
            neighbour.wait(&format!("`{name}` is done"), || {
                let done = host.metric("tidegate_deliveries_total", &ok);
                let seen = || json!([host.plugin(name), host.dead_letters(name)]);
                if done == DELIVERIES as u64 { Ok(()) } else { Err(seen()) }
            });
        }
    }
}

/// Rows that failed: one does not keep the others from being looked at.
#[derive(Default)]
struct Failed(Vec<String>);

impl Failed {
    fn note(&mut self, row: &Row, check: impl FnOnce()) {
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(check)).is_err() {
            println!("{}: FAILED", row.name);
            self.0.push(row.name.clone());
        }
    }
}

fn table() -> Vec<Row> {
    let mut table = rows::time();
    table.extend(rows::memory());
    table.extend(rows::floods());
    table.extend(abi::deliveries());
    table.extend(rows::denied());
    table.extend(rows::stdio());
    table.extend(drafts::stores());
    table.extend(drafts::misuse());
    table.extend(drafts::messages());
    table.extend(drafts::uncounted());
    table.extend(drafts::requests());
    table.extend(abi::answers());
    table.extend(modules::truncated());
    table.extend(modules::bombs());
    table
}

#[test]
fn hostile_guests_come_to_their_ends_within_bounds_and_disturb_nobody() {
    let mut table = table();
    if let Ok(only) = std::env::var("TIDEGATE_HOSTILE") {
        table.retain(|row| row.name.contains(&only));
    }

    let place = Place::new();
    Neighbour::put(&place);
    let receiver = handler("got", &echo("got"), "");
    std::fs::write(place.plugins().join("receiver.wasm"), receiver).unwrap();
    let manifest = "[subscribe]\ntypes = [\"lift.*\"]\n[retry]\nattempts-fault = 1\n";
    std::fs::write(place.plugins().join("receiver.toml"), manifest).unwrap();
    let mut host = place
        .start_with(&HostOptions { config: Some(CONFIG.to_owned()), ..HostOptions::default() });
    let process = Process::new(host.pid());
    let mut neighbour = Neighbour::of(&host);
    neighbour.round();

    // Compilers are other processes: what they take is not the host's.
    let before = process.memory_bytes();
    process.reset_peak();
    for row in &table {
        put(&place, row);
    }
    // Beside them the neighbour, and the receiver.
    wait_judged(&mut neighbour, table.len() + 2);
    let mut failed = Failed::default();
    for row in &table {
        failed.note(row, || check_loaded(&mut neighbour, row));
    }
    let held = process.peak_bytes().saturating_sub(before);
    println!("loading {} modules: {} MiB held at most", table.len(), held >> 20);
    let code: usize = table.iter().map(|row| row.module.len()).sum();
    assert!(held <= SLACK_BYTES + 4 * code as u64, "{held} bytes held for {code} bytes of modules");

    let (threads, descriptors) = (process.threads(), process.descriptors().len());
    for row in &table {
        if matches!(row.ends, Ends::Refused(_)) || failed.0.contains(&row.name) {
            continue;
        }
        let before = process.memory_bytes();
        process.reset_peak();
        failed.note(row, || {
            let asked = neighbour.asked;
            check_tried(&mut neighbour, row);
            let held = process.peak_bytes().saturating_sub(before);
            let rounds = neighbour.asked - asked;
            println!("{}: {} MiB held at most, {rounds} rounds beside it", row.name, held >> 20);
            let allowed = DELIVERIES as u64 * (row.memory_mib << 20) + SLACK_BYTES;
            assert!(held <= allowed, "{held} bytes held, {allowed} allowed");
        });
    }
    assert!(failed.0.is_empty(), "see above: {:?}", failed.0);
    // Connections and blocking threads come and go.
    assert!(process.threads() <= threads + 16, "{threads}, now {}", process.threads());
    // A module that has run keeps the image of its memory.
    let mut open = process.descriptors();
    open.retain(|what| !what.contains("wasm-memory-image"));
    assert!(open.len() <= descriptors + 16, "{descriptors}, now {open:?}");
    println!("the slowest of {} rounds took {:?}", neighbour.asked, neighbour.slowest);
    let asked = usize::try_from(neighbour.asked).unwrap();
    assert_eq!(host.http.events("type=good.done").len(), asked);
    assert!(host.dead_letters("good").is_empty());
    // Nothing of what failed, and nothing of what was denied, is anywhere.
    let evil = host.http.events("type=evil.*");
    assert_eq!(evil.len(), if table.iter().any(|row| row.name == "an-echo") { 64 * 2 } else { 0 });
    assert!(host.is_alive());
    let said = host.said();
    assert!(said.len() < 200 * 1024, "{} bytes in the log of the host", said.len());
    host.stop();
}

#[test]
fn modules_that_are_none_or_want_too_much_are_refused_with_the_reason() {
    let place = Place::new();
    let wasm = handler("a.b", "", "");
    let plugins = place.plugins();
    std::fs::write(plugins.join("cut.wasm"), &wasm[..wasm.len() / 2]).unwrap();
    std::fs::write(plugins.join("noise.wasm"), [0xAB; 4096]).unwrap();
    std::fs::write(plugins.join("empty.wasm"), b"").unwrap();
    let wants = r#"(module
        (import "wasi_snapshot_preview1" "launch_missiles" (func))
        (memory (export "memory") 1)
        (func (export "_start")))"#;
    std::fs::write(plugins.join("wants.wat"), wants).unwrap();
    std::fs::write(plugins.join("typo.wasm"), &wasm).unwrap();
    std::fs::write(plugins.join("typo.toml"), "[limits]\nmemry = \"1MiB\"\n").unwrap();
    std::fs::write(plugins.join("Bad Name.wasm"), &wasm).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", plugins.join("link.wasm")).unwrap();
    std::fs::write(plugins.join("fine.wasm"), &wasm).unwrap();
    let host = place.start();

    for (name, why) in [
        ("cut", "offset"),
        ("noise", ""),
        ("empty", ""),
        ("wants", "launch_missiles"),
        ("typo", "did you mean `limits.memory`?"),
    ] {
        let view = host.plugin(name);
        assert_eq!(view["state"], "refused", "{view}");
        let reason = view["reason"].as_str().unwrap_or_default();
        assert!(!reason.is_empty() && reason.contains(why), "{name}: {reason}");
    }
    assert_eq!(host.plugin("fine")["state"], "live");
    let listed = host.cli(&["plugins", "list"]).run().expect_done();
    for skipped in ["Bad Name.wasm", "link.wasm"] {
        let is_told = |line: &str| line.starts_with("skipped ") && line.contains(skipped);
        assert!(listed.lines().any(is_told), "{listed}");
    }
    host.stop();
}
