//! Guests that do harm, or try to, beside one that behaves.

use std::time::Duration;

use serde_json::json;

use crate::harness::{Place, emitter, event, handler, wait_until};

const SETTLED_MAX: Duration = Duration::from_secs(60);
/// Deliveries of the plugin that behaves, while the others misbehave.
const WELL_BEHAVED: usize = 1000;

/// A guest that is a danger: what it does, what its manifest says beyond the subscription, and the
/// outcome that it comes to.
struct Danger {
    name: &'static str,
    body: String,
    more: &'static str,
    manifest: &'static str,
    outcome: &'static str,
}

fn dangers() -> Vec<Danger> {
    let danger = |name, body: &str, outcome| Danger {
        name,
        body: body.to_owned(),
        more: "",
        manifest: "",
        outcome,
    };
    vec![
        danger("loop", "(loop $on (br $on))", "fuel"),
        Danger {
            manifest: "[limits]\nfuel = 1_000_000_000_000\ntimeout = \"200ms\"\n\
                       [retry]\ngive-up-after = \"500ms\"\nbackoff-max = \"100ms\"\n",
            ..danger("spin", "(loop $on (br $on))", "timeout")
        },
        Danger {
            more: "(func $deeper (call $deeper) (call $deeper))",
            ..danger("recurse", "(call $deeper)", "trap")
        },
        danger("grow", "(loop $on (drop (memory.grow (i32.const 16))) (br $on))", "memory"),
        danger("flood", &flood(), "output"),
        Danger {
            // What it emits is what it subscribes to.
            manifest: "own = true\n",
            ..danger("echo", &emitter("evil.done"), "depth")
        },
        danger("fall", "unreachable", "trap"),
    ]
}

/// Emits twice as often as it may, and returns as if nothing were.
fn flood() -> String {
    format!(
        "(local.set $i (i32.const 2000))
         (loop $on {} (br_if $on (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))",
        emitter("evil.flood")
    )
}

fn put(place: &Place, danger: &Danger) {
    let kind = match danger.name {
        "flood" => "evil.flood",
        _ => "evil.done",
    };
    let wasm = handler(kind, &danger.body, danger.more);
    std::fs::write(place.plugins().join(format!("{}.wasm", danger.name)), wasm).unwrap();
    // An echo would reach the others too: everybody has a key of his own, but types are for all.
    let subscribed = match danger.name {
        "echo" => "evil.done".to_owned(),
        name => format!("try.{name}"),
    };
    let manifest = format!(
        "[subscribe]\ntypes = [\"{subscribed}\"]\n{}{}",
        danger.manifest,
        if danger.manifest.contains("[retry]") { "" } else { "[retry]\nbackoff = \"10ms\"\n" },
    );
    std::fs::write(place.plugins().join(format!("{}.toml", danger.name)), manifest).unwrap();
}

#[test]
fn hostile_guests_come_to_typed_outcomes_and_disturb_nobody() {
    let place = Place::new();
    let dangers = dangers();
    for danger in &dangers {
        put(&place, danger);
    }
    // Emits what it was given: one event for each.
    let good = handler("good.done", &emitter("good.done"), "");
    std::fs::write(place.plugins().join("good.wasm"), good).unwrap();
    let manifest = "[subscribe]\ntypes = [\"good.begun\"]\n";
    std::fs::write(place.plugins().join("good.toml"), manifest).unwrap();
    let mut host = place.start();

    let mut events = Vec::new();
    for danger in &dangers {
        let kind = match danger.name {
            "echo" => "evil.done".to_owned(),
            name => format!("try.{name}"),
        };
        events.push(event(&kind, danger.name, Some(danger.name), json!(1)));
    }
    host.http.publish(&events);
    for chunk in 0..WELL_BEHAVED / 100 {
        let batch: Vec<_> = (0..100)
            .map(|n| {
                let id = format!("good-{chunk}-{n}");
                event("good.begun", &id, Some(&format!("g-{n}")), json!(n))
            })
            .collect();
        host.http.publish(&batch);
    }
    host.wait_rest("good", 0);
    assert_eq!(host.http.events("type=good.done").len(), WELL_BEHAVED);

    for Danger { name, outcome, .. } in &dangers {
        let letter = wait_until(&format!("dead letter of `{name}`"), SETTLED_MAX, || {
            let letters = host.dead_letters(name);
            letters.first().cloned().ok_or_else(|| host.plugin(name))
        });
        assert_eq!(letter["outcome"], *outcome, "{letter}");
        let attempts = letter["attempts"].as_u64().unwrap();
        assert!(attempts >= 2, "{letter}");
        let labels = [("plugin", *name), ("outcome", *outcome)];
        assert_eq!(host.metric("tidegate_deliveries_total", &labels), attempts, "{name}");
        let ok = [("plugin", *name), ("outcome", "ok")];
        let worked = if *name == "echo" { 64 } else { 0 };
        assert_eq!(host.metric("tidegate_deliveries_total", &ok), worked, "{name}");
        let shown = host.cli(&["dead-letters", "list", "--plugin", name]).run().expect_done();
        assert!(shown.contains(outcome), "{shown}");
        // Its key is parked, and waits for a person.
        host.wait_rest(name, 1);
    }
    // The effects of what failed are nowhere: the echoes that worked are all there is.
    assert!(host.http.events("type=evil.flood").is_empty());
    assert_eq!(host.http.events("type=evil.done").len(), 1 + 64);
    let trap = &host.dead_letters("recurse")[0];
    let shown = host.cli(&["dead-letters", "show", trap["id"].as_str().unwrap()]).run();
    assert!(shown.expect_done().contains("deeper"), "a backtrace names the function");
    assert!(host.is_alive());
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
